//! What an engine and its child say to each other: frames over the child's standard input and output.
//!
//! A frame is a `u32` length (little-endian) and a postcard body. Each side refuses a longer frame before it takes memory
//! for it. The first frame to the child is [`ToEngine::Load`], and nothing but frames is written to its standard output.

use std::io::{Read, Write};

use muster_core::inference::{InferenceEvent, InferenceRequest, TokenCounts};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::EngineInfo;

/// Bytes of a frame's body. A request holds 2 MiB of text at most.
pub const FRAME_LEN_MAX: usize = 16 * 1024 * 1024;
/// Requests that are answered side by side, at most.
pub const PARALLEL_MAX: u32 = 64;

/// What a child is to load and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildConfig {
    /// The GGUF file.
    pub path: String,
    /// Tokens that prompt and answer have together, for each request; 0: as many as the model was trained for.
    pub context: u32,
    /// Answers that are drawn side by side, from 1 to [`PARALLEL_MAX`]. Memory grows with this times `context`.
    pub parallel: u32,
    /// Threads that compute; 0: one for each processor.
    pub threads: u32,
    /// Layers that lie on the card; 0: none.
    pub gpu_layers: u32,
    /// Whether it places texts in the space of meanings, instead of writing.
    pub embedding: bool,
    /// How the numbers of a text's tokens become one, where it does.
    pub pooling: Pooling,
}

/// How the numbers of a text's tokens become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pooling {
    /// As the model's file says.
    #[default]
    Model,
    /// Their mean.
    Mean,
    /// The first token's.
    First,
    /// The last token's.
    Last,
}

/// To the child.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToEngine {
    /// Load this. Comes first, and once.
    Load(ChildConfig),
    /// Answer this.
    Ask {
        /// What it is called here; none comes twice.
        id: u64,
        /// It.
        request: Box<InferenceRequest>,
    },
    /// No more of this is wanted; its `Done` still comes.
    Cancel {
        /// Which.
        id: u64,
    },
    /// End. The end of the child's input says the same.
    Stop,
}

/// From the child.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromEngine {
    /// So much of the model is loaded.
    Loading {
        /// In thousandths.
        permille: u16,
    },
    /// It is loaded.
    Ready(EngineInfo),
    /// Pieces of an answer.
    Events {
        /// Of which request.
        id: u64,
        /// They; never none.
        events: Vec<InferenceEvent>,
        /// What was done for the request until now: should the child break, this is what counts.
        counts: TokenCounts,
    },
    /// It does not load, or cannot go on.
    Failed {
        /// A sentence.
        why: String,
    },
}

/// What is wrong with a frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The pipe.
    #[error("the pipe between the engine and its child broke")]
    Pipe(#[from] std::io::Error),
    /// The frame is too long.
    #[error("a frame of {len} bytes, {FRAME_LEN_MAX} are allowed")]
    TooLong {
        /// Its bytes.
        len: usize,
    },
    /// The body is no message.
    #[error("a frame that is no message")]
    Malformed(#[source] postcard::Error),
    /// The message cannot be written.
    #[error("a message that cannot be written")]
    Encode(#[source] postcard::Error),
}

/// A message as a frame.
///
/// # Errors
/// It is too long.
pub fn encode<M: Serialize>(message: &M) -> Result<Vec<u8>, FrameError> {
    let body = postcard::to_stdvec(message).map_err(FrameError::Encode)?;
    let len = u32::try_from(body.len()).ok().filter(|_| body.len() <= FRAME_LEN_MAX);
    let len = len.ok_or(FrameError::TooLong { len: body.len() })?;
    let mut frame = Vec::with_capacity(body.len() + 4);
    frame.extend_from_slice(&len.to_le_bytes());
    frame.extend_from_slice(&body);
    Ok(frame)
}

fn length(header: [u8; 4]) -> Result<usize, FrameError> {
    let len = usize::try_from(u32::from_le_bytes(header)).unwrap_or(usize::MAX);
    if len > FRAME_LEN_MAX { Err(FrameError::TooLong { len }) } else { Ok(len) }
}

fn decode<M: DeserializeOwned>(body: &[u8]) -> Result<M, FrameError> {
    postcard::from_bytes(body).map_err(FrameError::Malformed)
}

/// Reads a message; `None` where the pipe ends between two.
///
/// # Errors
/// The pipe broke, or what came is no message.
pub async fn read<M: DeserializeOwned>(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<M>, FrameError> {
    let mut header = [0; 4];
    let first = from.read(&mut header).await?;
    if first == 0 {
        return Ok(None);
    }
    let (_, rest) = header.split_at_mut(first);
    from.read_exact(rest).await?;
    let mut body = vec![0; length(header)?];
    from.read_exact(&mut body).await?;
    decode(&body).map(Some)
}

/// Writes a message and sees to it that it is on its way.
///
/// # Errors
/// The pipe broke, or the message is too long.
pub async fn write<M: Serialize>(to: &mut (impl AsyncWrite + Unpin), message: &M) -> Result<(), FrameError> {
    to.write_all(&encode(message)?).await?;
    Ok(to.flush().await?)
}

/// [`read`] for a thread of its own.
///
/// # Errors
/// As there.
pub fn read_blocking<M: DeserializeOwned>(from: &mut impl Read) -> Result<Option<M>, FrameError> {
    let mut header = [0; 4];
    let first = from.read(&mut header)?;
    if first == 0 {
        return Ok(None);
    }
    let (_, rest) = header.split_at_mut(first);
    from.read_exact(rest)?;
    let mut body = vec![0; length(header)?];
    from.read_exact(&mut body)?;
    decode(&body).map(Some)
}

/// [`write`] for a thread of its own.
///
/// # Errors
/// As there.
pub fn write_blocking<M: Serialize>(to: &mut impl Write, message: &M) -> Result<(), FrameError> {
    to.write_all(&encode(message)?)?;
    Ok(to.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_pass_both_ways_of_reading() {
        let message = FromEngine::Failed { why: "no such file".to_owned() };
        let frame = encode(&message).unwrap();
        let mut bytes = frame.as_slice();
        assert_eq!(read_blocking::<FromEngine>(&mut bytes).unwrap(), Some(message.clone()));
        assert_eq!(read_blocking::<FromEngine>(&mut bytes).unwrap(), None);
        let mut bytes = frame.as_slice();
        assert_eq!(read::<FromEngine>(&mut bytes).await.unwrap(), Some(message));
        assert!(read::<FromEngine>(&mut frame.get(..5).unwrap()).await.is_err());
    }

    #[test]
    fn a_long_frame_is_refused_by_its_length() {
        let mut bytes = [0xff; 8].as_slice();
        let error = read_blocking::<ToEngine>(&mut bytes).unwrap_err();
        assert!(matches!(error, FrameError::TooLong { .. }), "{error}");
    }
}
