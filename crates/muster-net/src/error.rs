//! What can go wrong between peers, in words.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use iroh::endpoint::{ConnectionError, ReadError, VarInt, WriteError};
use muster_core::ids::NodeId;
use muster_wire::WireError;

/// Why this node cut a peer off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CutReason {
    /// Bytes that are no message, or a message that breaks its protocol.
    Garbage,
    /// A frame or a stream's first byte was begun and not finished in time.
    Stall,
    /// More frames per second than allowed.
    FrameFlood,
    /// More new streams per second than allowed.
    StreamFlood,
    /// More new connections per second than allowed.
    ConnectionFlood,
}

impl CutReason {
    /// All reasons, in the order of [`NetStats::cuts`](crate::NetStats::cuts).
    pub const ALL: [Self; 5] = [Self::Garbage, Self::Stall, Self::FrameFlood, Self::StreamFlood, Self::ConnectionFlood];

    /// The reason as a metric's label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Garbage => "garbage",
            Self::Stall => "stall",
            Self::FrameFlood => "frame_flood",
            Self::StreamFlood => "stream_flood",
            Self::ConnectionFlood => "connection_flood",
        }
    }

    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for CutReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Garbage => "it sent what is no message",
            Self::Stall => "it stalled in the middle of a frame",
            Self::FrameFlood => "it sent too many frames",
            Self::StreamFlood => "it opened too many streams",
            Self::ConnectionFlood => "it opened too many connections",
        })
    }
}

/// The number with which one side closes a connection or a stream, so that the other knows why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
#[non_exhaustive]
pub enum CloseCode {
    /// All is said.
    Done = 0,
    /// The node is going down.
    Shutdown = 1,
    /// The node has as many peers or connections as it takes.
    Busy = 2,
    /// The peer misbehaved just now.
    Cut = 3,
    /// The peer misbehaved a while ago.
    Banned = 4,
    /// The node does not speak the protocol that the stream named.
    UnknownStream = 5,
    /// The stream was dropped before its end.
    Abandoned = 6,
}

impl CloseCode {
    const ALL: [Self; 7] =
        [Self::Done, Self::Shutdown, Self::Busy, Self::Cut, Self::Banned, Self::UnknownStream, Self::Abandoned];

    pub(crate) fn quic(self) -> VarInt {
        VarInt::from_u32(self as u32)
    }

    pub(crate) fn from_quic(code: VarInt) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.quic() == code)
    }
}

/// Why a connection is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloseReason {
    /// This side closed it.
    Here,
    /// The other side closed it.
    There {
        /// Its code, if this build knows it.
        code: Option<CloseCode>,
        /// Its words; whatever a peer likes to say, cut to 256 bytes.
        text: String,
    },
    /// Nothing was heard for longer than the idle timeout.
    Silence,
    /// The other side has lost its state.
    Restarted,
    /// The transport gave up.
    Transport(String),
}

impl CloseReason {
    pub(crate) fn from_quic(error: &ConnectionError) -> Self {
        match error {
            ConnectionError::LocallyClosed => Self::Here,
            ConnectionError::ApplicationClosed(close) => Self::There {
                code: CloseCode::from_quic(close.error_code),
                text: muster_wire::BoundedString::<256>::truncated(&String::from_utf8_lossy(&close.reason))
                    .into_string(),
            },
            ConnectionError::TimedOut => Self::Silence,
            // All paths went silent one by one: the same thing to whoever waits.
            ConnectionError::TransportError(error)
                if error.code == iroh::endpoint::TransportErrorCode::NO_VIABLE_PATH =>
            {
                Self::Silence
            }
            ConnectionError::Reset => Self::Restarted,
            other => Self::Transport(other.to_string()),
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here => f.write_str("closed by this node"),
            Self::There { text, code: Some(CloseCode::Done) } if text.is_empty() => f.write_str("closed by the peer"),
            Self::There { text, .. } => write!(f, "closed by the peer: {text}"),
            Self::Silence => f.write_str("the peer fell silent (it is down, or the path to it is cut)"),
            Self::Restarted => f.write_str("the peer was restarted"),
            Self::Transport(why) => write!(f, "the transport failed: {why}"),
        }
    }
}

/// What can go wrong with a peer, a connection or a stream.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// The address to listen on cannot be had.
    #[error("cannot listen on {addr}: {why}; choose another address or port 0 for any free one")]
    Bind {
        /// The address that was asked for.
        addr: SocketAddr,
        /// The system's words.
        why: String,
    },
    /// The key is no point on the curve.
    #[error("{0} is not a node key")]
    BadKey(NodeId),
    /// There is no way to the peer.
    #[error("no address of node {} is known, and no connection to it is open", .0.short())]
    NoAddress(NodeId),
    /// The peer did not answer, or turned the connection down.
    #[error("node {} cannot be reached at {tried}: {why}", .id.short())]
    Unreachable {
        /// The peer.
        id: NodeId,
        /// Where it was tried.
        tried: String,
        /// What happened.
        why: String,
    },
    /// This node has banned the peer.
    #[error("node {} is banned for another {} s", .id.short(), .left.as_secs())]
    Banned {
        /// The peer.
        id: NodeId,
        /// How long the ban lasts.
        left: Duration,
    },
    /// This node has as many peers as it takes.
    #[error("this node has {max} peers already, its greatest number")]
    TooManyPeers {
        /// The limit.
        max: usize,
    },
    /// The peer has as many connections to this node as it may.
    #[error("node {} has {max} connections already, as many as one peer may", .id.short())]
    TooManyConnections {
        /// The peer.
        id: NodeId,
        /// The limit.
        max: usize,
    },
    /// The connection is over.
    #[error("connection to node {} lost: {reason}", .id.short())]
    Lost {
        /// The peer.
        id: NodeId,
        /// Why.
        reason: CloseReason,
    },
    /// The peer has misbehaved and was cut off.
    #[error("node {} was cut off: {reason} ({detail})", .id.short())]
    Cut {
        /// The peer.
        id: NodeId,
        /// Why.
        reason: CutReason,
        /// What exactly was seen.
        detail: String,
    },
    /// The peer gave the stream up.
    #[error("the peer gave the stream up{}", code.map(|c| format!(" ({c:?})")).unwrap_or_default())]
    StreamReset {
        /// Its code, if this build knows it.
        code: Option<CloseCode>,
    },
    /// The stream was used after its end.
    #[error("the stream is closed")]
    StreamClosed,
    /// The stream ended inside a frame.
    #[error("the stream ended in the middle of a frame")]
    Truncated,
    /// Bytes that are no message, on a stream without a peer to blame.
    #[error("malformed frame")]
    Frame(#[source] WireError),
    /// A frame was begun and not finished in time, on a stream without a peer to blame.
    #[error("a frame was not finished within {} ms", .0.as_millis())]
    Stalled(Duration),
    /// A message of this node's own that cannot be sent. The stream stays usable.
    #[error("message cannot be sent")]
    Encode(#[source] WireError),
    /// Something took too long.
    #[error("{what} took longer than {} ms", .after.as_millis())]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// How long.
        after: Duration,
    },
    /// This node's peer is closed.
    #[error("this node is shutting down")]
    Closed,
    /// Reading or writing failed.
    #[error("reading or writing failed")]
    Io(#[source] io::Error),
}

impl NetError {
    /// Whether this is the end of the whole connection and not of one stream.
    #[must_use]
    pub fn is_connection_lost(&self) -> bool {
        matches!(self, Self::Lost { .. } | Self::Cut { .. } | Self::Closed)
    }

    /// Whether the peer closed the connection because of what this node said on it, now or a while ago.
    #[must_use]
    pub const fn is_cut_off_there(&self) -> bool {
        let Self::Lost { reason: CloseReason::There { code: Some(code), .. }, .. } = self else { return false };
        matches!(code, CloseCode::Cut | CloseCode::Banned)
    }

    pub(crate) fn lost(id: NodeId, error: &ConnectionError) -> Self {
        Self::Lost { id, reason: CloseReason::from_quic(error) }
    }

    pub(crate) fn read(id: NodeId, error: &ReadError) -> Self {
        match error {
            ReadError::Reset(code) => Self::StreamReset { code: CloseCode::from_quic(*code) },
            ReadError::ConnectionLost(error) => Self::lost(id, error),
            ReadError::ClosedStream | ReadError::ZeroRttRejected => Self::StreamClosed,
        }
    }

    pub(crate) fn write(id: NodeId, error: &WriteError) -> Self {
        match error {
            WriteError::Stopped(code) => Self::StreamReset { code: CloseCode::from_quic(*code) },
            WriteError::ConnectionLost(error) => Self::lost(id, error),
            WriteError::ClosedStream | WriteError::ZeroRttRejected => Self::StreamClosed,
        }
    }
}

impl From<NetError> for io::Error {
    fn from(error: NetError) -> Self {
        let kind = match &error {
            NetError::Io(inner) => inner.kind(),
            NetError::Lost { reason: CloseReason::Silence, .. } | NetError::Timeout { .. } => io::ErrorKind::TimedOut,
            NetError::Lost { .. } | NetError::Cut { .. } | NetError::Closed => io::ErrorKind::ConnectionAborted,
            NetError::StreamReset { .. } => io::ErrorKind::ConnectionReset,
            NetError::StreamClosed => io::ErrorKind::BrokenPipe,
            NetError::Truncated => io::ErrorKind::UnexpectedEof,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

impl From<io::Error> for NetError {
    fn from(error: io::Error) -> Self {
        // What passed through `AsyncRead` or `AsyncWrite` comes back as what it was.
        match error.downcast::<NetError>() {
            Ok(inner) => inner,
            Err(error) => Self::Io(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_the_way_through_io() {
        let lost = NetError::Lost { id: NodeId([7; 32]), reason: CloseReason::Silence };
        let text = lost.to_string();
        assert_eq!(
            text,
            "connection to node 07070707 lost: the peer fell silent (it is down, or the path to it is cut)"
        );
        let through: NetError = io::Error::from(lost).into();
        assert_eq!(through.to_string(), text);
        assert!(through.is_connection_lost());
        assert!(matches!(NetError::from(io::Error::other("disk")), NetError::Io(_)));
    }

    #[test]
    fn codes_survive_the_wire() {
        for code in CloseCode::ALL {
            assert_eq!(CloseCode::from_quic(code.quic()), Some(code));
        }
        assert_eq!(CloseCode::from_quic(VarInt::from_u32(999)), None);
        for (place, reason) in CutReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), place);
        }
    }
}
