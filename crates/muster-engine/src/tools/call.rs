//! One call, read byte by byte: name and arguments out of a JSON object that is not there yet as a whole.

use std::mem;

/// Bytes that may come before a call has its name.
const UNNAMED_MAX: usize = 64 * 1024;

/// How far a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// More must come.
    More,
    /// It is complete.
    Done,
    /// It is no call.
    None,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum At {
    /// Before the object; in Mistral's ways a bracket or a name may stand there.
    Before,
    /// Before a key, or the end.
    Key,
    InKey,
    Colon,
    /// Before a value.
    Value,
    InValue,
    /// After a value.
    Next,
    /// The object itself is the arguments (Mistral's newer way).
    Bare,
}

/// One call.
#[derive(Clone, Debug)]
pub(super) struct Call {
    list: bool,
    at: At,
    read: usize,
    depth: u32,
    in_string: bool,
    escaped: bool,
    key: String,
    value: Vec<u8>,
    name: Option<String>,
    id: Option<String>,
    named: bool,
    /// Arguments that were read and not passed on.
    arguments: Vec<u8>,
    some_arguments: bool,
    out: Vec<(Option<String>, Option<String>, String)>,
}

impl Call {
    pub(super) fn new(list: bool) -> Self {
        Self {
            list,
            at: At::Before,
            read: 0,
            depth: 0,
            in_string: false,
            escaped: false,
            key: String::new(),
            value: Vec::new(),
            name: None,
            id: None,
            named: false,
            arguments: Vec::new(),
            some_arguments: false,
            out: Vec::new(),
        }
    }

    /// Whether the name was passed on: there is no way back.
    pub(super) fn is_named(&self) -> bool {
        self.named
    }

    /// What was found: name and id with the first, arguments.
    pub(super) fn take(&mut self) -> Vec<(Option<String>, Option<String>, String)> {
        mem::take(&mut self.out)
    }

    /// More text; how far the call is, and how many bytes of the text it took.
    pub(super) fn push(&mut self, text: &str) -> (Step, usize) {
        for (at, byte) in text.bytes().enumerate() {
            match self.byte(byte) {
                Step::More => {}
                Step::Done => {
                    self.flush(true);
                    return (Step::Done, at + 1);
                }
                Step::None => return (Step::None, text.len()),
            }
            self.read += 1;
            if !self.named && self.read > UNNAMED_MAX {
                return (Step::None, text.len());
            }
        }
        self.flush(false);
        (Step::More, text.len())
    }

    fn flush(&mut self, done: bool) {
        let Some(name) = self.name.clone() else { return };
        // An id that comes after the name is too late: who asked has another by then.
        if !self.named {
            self.named = true;
            self.out.push((Some(name), self.id.take(), String::new()));
        }
        if done && !self.some_arguments {
            self.arguments = b"{}".to_vec();
        }
        let whole = match std::str::from_utf8(&self.arguments) {
            Ok(all) => all.len(),
            Err(error) => error.valid_up_to(),
        };
        let rest = self.arguments.split_off(whole);
        let arguments = String::from_utf8(mem::replace(&mut self.arguments, rest)).unwrap_or_default();
        if arguments.is_empty() {
            return;
        }
        match self.out.last_mut() {
            Some((_, _, last)) => last.push_str(&arguments),
            None => self.out.push((None, None, arguments)),
        }
    }

    fn byte(&mut self, byte: u8) -> Step {
        match self.at {
            At::Before => self.before(byte),
            At::Key => match byte {
                b'"' => {
                    self.key.clear();
                    self.value.clear();
                    self.at = At::InKey;
                    Step::More
                }
                b'}' => self.end(),
                b',' | b' ' | b'\n' | b'\r' | b'\t' => Step::More,
                _ => Step::None,
            },
            At::InKey => {
                if byte == b'"' && !self.escaped {
                    self.key = String::from_utf8_lossy(&self.value).into_owned();
                    self.at = At::Colon;
                } else {
                    self.escaped = byte == b'\\' && !self.escaped;
                    self.value.push(byte);
                }
                Step::More
            }
            At::Colon => match byte {
                b':' => {
                    self.at = At::Value;
                    Step::More
                }
                b' ' | b'\n' | b'\r' | b'\t' => Step::More,
                _ => Step::None,
            },
            At::Value if byte.is_ascii_whitespace() => Step::More,
            At::Value => {
                self.value.clear();
                (self.depth, self.in_string, self.escaped) = (0, false, false);
                self.at = At::InValue;
                self.value_byte(byte)
            }
            At::InValue => self.value_byte(byte),
            At::Next => match byte {
                b',' => {
                    self.at = At::Key;
                    Step::More
                }
                b'}' => self.end(),
                b' ' | b'\n' | b'\r' | b'\t' => Step::More,
                _ => Step::None,
            },
            At::Bare => {
                self.arguments.push(byte);
                if self.nested(byte) { Step::Done } else { Step::More }
            }
        }
    }

    fn before(&mut self, byte: u8) -> Step {
        match byte {
            b'{' if self.list && !self.value.is_empty() => {
                let name = String::from_utf8_lossy(&self.value).into_owned();
                let name = name.split_once("[ARGS]").map_or(name.as_str(), |(name, _)| name);
                let (name, id) = name.split_once("[CALL_ID]").map_or((name, None), |(n, id)| (n, Some(id)));
                (self.name, self.id) = (Some(name.trim().to_owned()), id.map(|id| id.trim().to_owned()));
                self.some_arguments = true;
                self.at = At::Bare;
                self.byte(byte)
            }
            b'{' => {
                self.at = At::Key;
                Step::More
            }
            _ if byte.is_ascii_whitespace() => Step::More,
            b'[' if self.list && self.value.is_empty() => Step::More,
            _ if self.list && self.value.len() < 256 => {
                self.value.push(byte);
                Step::More
            }
            _ => Step::None,
        }
    }

    /// Follows brackets and strings; whether the outermost bracket closed.
    fn nested(&mut self, byte: u8) -> bool {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => {
                    self.in_string = false;
                    return self.depth == 0;
                }
                _ => {}
            }
            return false;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }

    fn is_arguments(&self) -> bool {
        self.key == "arguments" || self.key == "parameters"
    }

    fn value_byte(&mut self, byte: u8) -> Step {
        let scalar = self.depth == 0 && !self.in_string;
        if scalar && matches!(byte, b',' | b'}' | b' ' | b'\n') {
            // A number, `true`, `null`: it ends with what comes after it.
            self.value_end();
            self.at = At::Next;
            return self.byte(byte);
        }
        // Arguments that are an object are passed on as they come.
        if self.is_arguments() && !self.is_text() && (byte == b'{' || self.depth > 0) {
            self.arguments.push(byte);
            self.some_arguments = true;
        } else {
            self.value.push(byte);
        }
        if self.nested(byte) {
            self.value_end();
            self.at = At::Next;
        }
        Step::More
    }

    fn is_text(&self) -> bool {
        self.value.first() == Some(&b'"')
    }

    fn value_end(&mut self) {
        let text = serde_json::from_slice::<String>(&self.value).ok();
        match self.key.as_str() {
            "name" => self.name = text.filter(|name| !name.is_empty() && !self.named).or(self.name.take()),
            "id" => self.id = text,
            _ if self.is_arguments() && self.is_text() => {
                self.arguments = text.unwrap_or_default().into_bytes();
                self.some_arguments = !self.arguments.is_empty();
            }
            _ => {}
        }
        self.value.clear();
    }

    fn end(&mut self) -> Step {
        if self.name.is_some() { Step::Done } else { Step::None }
    }
}
