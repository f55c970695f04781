//! What travels on the two data channels between page and Container: `docs/streaming.md`.

use serde::{Deserialize, Serialize};

/// The longest message on `input` that is read.
pub(crate) const INPUT_BYTES_MAX: usize = 4 * 1024;
/// The longest message on `control`, both ways.
pub(crate) const CONTROL_BYTES_MAX: usize = 64 * 1024;
/// The longest text of a clipboard.
pub(crate) const CLIP_BYTES_MAX: usize = 60 * 1024;

/// What a player does.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "t", rename_all = "lowercase")]
pub(crate) enum InputMessage {
    Key {
        code: String,
        key: String,
        down: bool,
    },
    Move {
        x: f64,
        y: f64,
    },
    Rel {
        dx: f64,
        dy: f64,
    },
    Button {
        b: u8,
        down: bool,
        x: Option<f64>,
        y: Option<f64>,
    },
    Wheel {
        dx: f64,
        dy: f64,
    },
    Touch {
        id: i64,
        phase: Phase,
        x: f64,
        y: f64,
    },
    Pad {
        i: u8,
        #[serde(default)]
        id: String,
        axes: Vec<f64>,
        buttons: Vec<f64>,
    },
    PadGone {
        i: u8,
    },
    Release,
}

/// What a finger does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    Start,
    Move,
    End,
}

/// What a page asks for.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "t", rename_all = "lowercase")]
pub(crate) enum Ask {
    Ping { at: f64 },
    Keyframe,
    Code { n: u32 },
    Clip { text: String },
    ClipWanted { on: bool },
    Limit { bps: u32 },
}

/// What a page is told.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "t", rename_all = "lowercase")]
pub(crate) enum Tell {
    Hello {
        width: u16,
        height: u16,
        fps: u8,
        codec: &'static str,
    },
    Pong {
        at: f64,
        now: f64,
    },
    Frames {
        f: Vec<(u32, f64)>,
    },
    Stats {
        fps: f32,
        bps: u64,
        loss: f32,
        rtt: f32,
        width: u16,
        height: u16,
        encode: f32,
    },
    Cursor {
        #[serde(skip_serializing_if = "Option::is_none")]
        hidden: Option<bool>,
        #[serde(flatten)]
        shape: Option<Shape>,
    },
    Clip {
        text: String,
    },
    Note {
        code: String,
        text: String,
        seconds: Option<u64>,
    },
    End {
        text: String,
    },
}

/// What the program's pointer looks like, and where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Shape {
    pub(crate) x: i16,
    pub(crate) y: i16,
    pub(crate) w: u16,
    pub(crate) h: u16,
    pub(crate) hot: (u16, u16),
    /// In base64.
    pub(crate) png: String,
}

/// A message from `input`, if it is one: strangers write these.
pub(crate) fn input(bytes: &[u8]) -> Option<InputMessage> {
    if bytes.len() > INPUT_BYTES_MAX { None } else { serde_json::from_slice(bytes).ok() }
}

/// A message from `control`, if it is one.
pub(crate) fn ask(bytes: &[u8]) -> Option<Ask> {
    let ask = if bytes.len() > CONTROL_BYTES_MAX { None } else { serde_json::from_slice(bytes).ok() }?;
    match &ask {
        Ask::Clip { text } if text.len() > CLIP_BYTES_MAX => None,
        _ => Some(ask),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_those_of_the_document() {
        let key = input(br#"{"t":"key","code":"KeyA","key":"a","down":true}"#);
        assert_eq!(key, Some(InputMessage::Key { code: "KeyA".into(), key: "a".into(), down: true }));
        assert_eq!(
            input(br#"{"t":"button","b":2,"down":false}"#),
            Some(InputMessage::Button { b: 2, down: false, x: None, y: None })
        );
        let touch = input(br#"{"t":"touch","id":1,"phase":"start","x":0.5,"y":1}"#);
        assert_eq!(touch, Some(InputMessage::Touch { id: 1, phase: Phase::Start, x: 0.5, y: 1.0 }));
        assert_eq!(input(br#"{"t":"padgone","i":3}"#), Some(InputMessage::PadGone { i: 3 }));
        assert_eq!(input(br#"{"t":"release"}"#), Some(InputMessage::Release));
        assert_eq!(ask(br#"{"t":"code","n":2882400001}"#), Some(Ask::Code { n: 2_882_400_001 }));
        assert_eq!(ask(br#"{"t":"clipwanted","on":true}"#), Some(Ask::ClipWanted { on: true }));
        let pong = serde_json::to_string(&Tell::Pong { at: 1.5, now: 2.0 }).unwrap();
        assert_eq!(pong, r#"{"t":"pong","at":1.5,"now":2.0}"#);
        let frames = serde_json::to_string(&Tell::Frames { f: vec![(7, 1.5)] }).unwrap();
        assert_eq!(frames, r#"{"t":"frames","f":[[7,1.5]]}"#);
        let shape = Shape { x: 1, y: 2, w: 24, h: 23, hot: (3, 4), png: "AA==".into() };
        let cursor = serde_json::to_string(&Tell::Cursor { hidden: None, shape: Some(shape) }).unwrap();
        assert_eq!(cursor, r#"{"t":"cursor","x":1,"y":2,"w":24,"h":23,"hot":[3,4],"png":"AA=="}"#);
        let hidden = serde_json::to_string(&Tell::Cursor { hidden: Some(true), shape: None }).unwrap();
        assert_eq!(hidden, r#"{"t":"cursor","hidden":true}"#);
    }

    #[test]
    fn nonsense_is_nothing() {
        for text in
            ["", "{}", "[]", r#"{"t":"key"}"#, r#"{"t":"button","b":-1,"down":true}"#, r#"{"t":"move","x":"a","y":1}"#]
        {
            assert_eq!(input(text.as_bytes()), None, "{text}");
        }
        let long = format!(r#"{{"t":"key","code":"{}","key":"a","down":true}}"#, "x".repeat(INPUT_BYTES_MAX));
        assert_eq!(input(long.as_bytes()), None);
        let long = serde_json::json!({"t": "clip", "text": "x".repeat(CLIP_BYTES_MAX + 1)}).to_string();
        assert_eq!(ask(long.as_bytes()), None);
    }
}
