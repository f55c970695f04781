//! What a Container and the child process that streams a session say to each other: one JSON object a line.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The longest line either side reads.
pub const LINE_BYTES_MAX: usize = 256 * 1024;

/// The first line: what the child streams, and how. Everything else may change while it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamConfig {
    /// The socket of the private display; the child waits until it is there.
    pub display_socket: PathBuf,
    /// A pipe that brings the session's sound: 48 kHz, two channels, 16 bits little-endian.
    pub sound_pipe: Option<PathBuf>,
    /// A pipe that takes the player's microphone in the same form.
    pub microphone_pipe: Option<PathBuf>,
    /// The program's gamepads.
    #[serde(default)]
    pub gamepads: Gamepads,
    /// Width of the picture.
    pub width: u16,
    /// Height of the picture.
    pub height: u16,
    /// Frames a second, at most.
    pub fps: u8,
    /// The keyboard's layout, as XKB names it.
    pub layout: String,
    /// How keys are meant.
    pub keyboard: Keyboard,
    /// Where it listens; port 0 takes any.
    pub bind: SocketAddr,
    /// An address under which players reach it, where that is not the one it listens on.
    pub public: Option<IpAddr>,
    /// How long nothing may be drawn until the program is given up.
    pub draw_within_ms: u64,
    /// How long no input may come until the player is warned, and then for how long until the session ends.
    pub idle_after_ms: u64,
    /// Told to lie: codes that players ask for are not drawn, as by who shows a recording. For seeing it found out.
    #[serde(default)]
    pub stale: bool,
}

/// The virtual gamepads that a program sees.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gamepads {
    /// The program takes none.
    #[default]
    Unasked,
    /// It takes some, and this machine has none to give.
    Refused,
    /// The numbers of the descriptors that steer them ([`crate::Gamepad`]), inherited by the child.
    Lent(Vec<i32>),
}

/// How keys are meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keyboard {
    /// By their place on the keyboard: games.
    #[default]
    Position,
    /// By what they write: desktop programs.
    Text,
}

/// Parent to child.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub enum ToStream {
    /// A player wants in; a player that is known already replaces its earlier connection.
    Offer {
        /// Repeated in the answer.
        request: u64,
        /// Which player.
        player: u64,
        /// Its offer.
        sdp: String,
    },
    /// A player has gone for good.
    Drop {
        /// Which.
        player: u64,
    },
    /// Tell all players something.
    Note {
        /// For programs.
        code: String,
        /// For people.
        text: String,
        /// When it happens, where it is something to come.
        seconds: Option<u64>,
    },
    /// Tell all players that it is over, and end.
    End {
        /// Why.
        text: String,
    },
}

/// Child to parent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub enum FromStream {
    /// The display is there and is captured; the child takes offers.
    Ready {
        /// Where it listens.
        listens: SocketAddr,
    },
    /// The program has drawn something.
    Drawing,
    /// The answer to an offer.
    Answer {
        /// Of which offer.
        request: u64,
        /// To be given to the player.
        sdp: String,
    },
    /// An offer that cannot be met.
    Refused {
        /// Of which offer.
        request: u64,
        /// For programs: `no_codec`, `bad_offer`, `too_many_players`.
        code: String,
        /// Why.
        why: String,
    },
    /// A player is connected, or no longer.
    Player {
        /// Which.
        player: u64,
        /// Whether it is.
        connected: bool,
    },
    /// Nobody has used the session for long: it should end.
    Idle {
        /// How long.
        ms: u64,
    },
    /// Each second, while somebody looks on.
    Stats(StreamStats),
    /// It cannot go on.
    Failed {
        /// Why.
        why: String,
    },
}

/// How the stream does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StreamStats {
    /// Frames sent in the last second.
    pub fps: f32,
    /// Bits sent in the last second.
    pub bps: u64,
    /// Share of packets lost, as the player reports.
    pub loss: f32,
    /// Round trip in milliseconds, as the player's reports show.
    pub rtt_ms: f32,
    /// Milliseconds that a frame took to encode, at the median.
    pub encode_ms: f32,
    /// Width that is sent.
    pub width: u16,
    /// Height that is sent.
    pub height: u16,
}
