//! Server-sent events (WHATWG HTML, 9.2), as far as servers of models use them: lines that begin with `data:`.

use std::borrow::Cow;

use muster_core::inference::InferenceError;

use super::lost;

/// Bytes of one line.
pub(super) const LINE_MAX: usize = 4 * 1024 * 1024;

/// Puts lines together from bytes that come in any pieces.
#[derive(Debug)]
pub(super) struct Lines {
    held: Vec<u8>,
    /// What lines begin with that are told; others are left aside.
    begin: &'static [u8],
}

impl Default for Lines {
    fn default() -> Self {
        Self { held: Vec::new(), begin: b"data:" }
    }
}

impl Lines {
    /// Each line, whatever it begins with.
    pub(super) const fn whole() -> Self {
        Self { held: Vec::new(), begin: b"" }
    }

    /// More bytes: `each` is told what the lines that are whole hold, and says whether to go on.
    pub(super) fn push(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(&str) -> Result<bool, InferenceError>,
    ) -> Result<(), InferenceError> {
        let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n') else {
            self.held.extend_from_slice(bytes);
            return self.is_bounded();
        };
        let (whole, rest) = bytes.split_at(end);
        let before = std::mem::take(&mut self.held);
        let joined;
        let whole = if before.is_empty() {
            whole
        } else {
            joined = [before.as_slice(), whole].concat();
            &joined
        };
        for line in whole.split(|byte| *byte == b'\n') {
            let Some(data) = line.strip_prefix(self.begin) else { continue };
            // What is no text is made one; nearly everything is one.
            let text = std::str::from_utf8(data).map_or_else(|_| String::from_utf8_lossy(data), Cow::Borrowed);
            if !each(text.trim())? {
                return Ok(());
            }
        }
        self.held.extend_from_slice(rest.get(1..).unwrap_or_default());
        self.is_bounded()
    }

    fn is_bounded(&self) -> Result<(), InferenceError> {
        if self.held.len() > LINE_MAX {
            return Err(lost(format!("a line of the server's answer is longer than {LINE_MAX} bytes")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pushed(lines: &mut Lines, bytes: &[u8]) -> Result<Vec<String>, InferenceError> {
        let mut all = Vec::new();
        lines.push(bytes, |data| {
            all.push(data.to_owned());
            Ok(data != "[DONE]")
        })?;
        Ok(all)
    }

    #[test]
    fn lines_come_whole_and_bounded() {
        let mut lines = Lines::default();
        assert_eq!(pushed(&mut lines, b": hello\r\ndata: {\"a\"").unwrap(), Vec::<String>::new());
        assert_eq!(pushed(&mut lines, b":1}\r\n\r\ndata:[DONE]\ndata: x\n").unwrap(), ["{\"a\":1}", "[DONE]"]);
        assert!(pushed(&mut lines, &vec![b'x'; LINE_MAX + 1]).is_err());
    }

    #[test]
    fn cuts_change_nothing() {
        let text = "data: one\n\nid: 7\ndata:  zw\u{f6}lf \n: data: no\n\ndata: three\n";
        for size in 1..text.len() {
            let mut lines = Lines::default();
            let all = text.as_bytes().chunks(size).flat_map(|piece| pushed(&mut lines, piece).unwrap());
            assert_eq!(all.collect::<Vec<_>>(), ["one", "zw\u{f6}lf", "three"], "pieces of {size}");
        }
    }
}
