//! Server-sent events (WHATWG HTML, 9.2), as far as servers of models use them: lines that begin with `data:`.

/// Bytes of one line.
pub(super) const LINE_MAX: usize = 4 * 1024 * 1024;

/// Puts lines together from bytes that come in any pieces.
#[derive(Debug, Default)]
pub(super) struct Lines(Vec<u8>);

impl Lines {
    /// More bytes: what the lines that are whole hold.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Vec<String>, String> {
        self.0.extend_from_slice(bytes);
        let mut out = Vec::new();
        let mut begin = 0;
        while let Some(len) = self.0.get(begin..).and_then(|rest| rest.iter().position(|byte| *byte == b'\n')) {
            let line = String::from_utf8_lossy(self.0.get(begin..begin + len).unwrap_or_default());
            if let Some(data) = line.strip_prefix("data:") {
                out.push(data.trim().to_owned());
            }
            begin += len + 1;
        }
        self.0.drain(..begin);
        if self.0.len() > LINE_MAX {
            return Err(format!("a line of the server's answer is longer than {LINE_MAX} bytes"));
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_and_bounded() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(b": hello\r\ndata: {\"a\"").unwrap(), Vec::<String>::new());
        assert_eq!(lines.push(b":1}\r\n\r\ndata:[DONE]\n").unwrap(), ["{\"a\":1}", "[DONE]"]);
        assert!(lines.push(&vec![b'x'; LINE_MAX + 1]).is_err());
    }
}
