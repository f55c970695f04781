//! Bytes by their hash, as Checkers give them to anybody: transcripts, and what was published with outcomes.

use std::time::Duration;

use muster_core::ids::ContentHash;
use muster_wire::StreamKind;
use muster_wire::message::audit::{Evidence, Wanted};

use crate::{Connection, NetError, Peer, PeerAddr};

/// How long a piece may be awaited.
const PIECE_WITHIN: Duration = Duration::from_secs(10);
/// How much room is made before bytes are there.
const RESERVE_MAX: u64 = 1 << 20;

/// Why bytes could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Nobody there, or the connection was lost.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The Checker does not have them.
    #[error("the Checker does not have it")]
    Absent,
    /// Longer than they may be.
    #[error("it has {len} bytes; at most {max} are taken")]
    TooLong {
        /// How long.
        len: u64,
        /// The most.
        max: u64,
    },
    /// Other bytes than were asked for.
    #[error("the Checker sent other bytes than those with this hash")]
    Other,
}

/// Fetches the bytes with a hash from one Checker: what `muster epoch verify` reads transcripts and states with.
///
/// # Errors
/// See [`FetchError`].
pub async fn fetch(peer: &Peer, from: &PeerAddr, hash: ContentHash, len_max: u64) -> Result<Vec<u8>, FetchError> {
    let connection = peer.connect(from).await?;
    fetch_on(&connection, hash, len_max).await
}

/// The same on a connection that is open.
///
/// # Errors
/// See [`FetchError`].
pub async fn fetch_on(connection: &Connection, hash: ContentHash, len_max: u64) -> Result<Vec<u8>, FetchError> {
    let bytes = want(connection, Wanted::Bytes { hash }, len_max).await?;
    if blake3::hash(&bytes).as_bytes() == &hash.0 { Ok(bytes) } else { Err(FetchError::Other) }
}

/// Asks for something, and takes it, whatever it is.
///
/// # Errors
/// See [`FetchError`].
pub async fn want(connection: &Connection, wanted: Wanted, len_max: u64) -> Result<Vec<u8>, FetchError> {
    let mut stream = connection.open_bi(StreamKind::Evidence).await?.framed();
    let len = match stream.ask::<Wanted, Evidence>(&wanted, PIECE_WITHIN).await? {
        Evidence::Here { len } => len,
        Evidence::Absent => return Err(FetchError::Absent),
        Evidence::Piece(_) => return Err(FetchError::Other),
    };
    if len > len_max {
        return Err(FetchError::TooLong { len, max: len_max });
    }
    let whole = usize::try_from(len).unwrap_or(usize::MAX);
    let mut bytes = Vec::with_capacity(usize::try_from(len.min(RESERVE_MAX)).unwrap_or(0));
    while bytes.len() < whole {
        match stream.recv_within::<Evidence>(PIECE_WITHIN).await? {
            Evidence::Piece(piece) if bytes.len().saturating_add(piece.len()) <= whole => bytes.extend(&*piece),
            Evidence::Piece(_) | Evidence::Here { .. } | Evidence::Absent => return Err(FetchError::Other),
        }
    }
    Ok(bytes)
}
