//! Auditing an engine by another one: an answer, what was committed to with it, and its replay.
//!
//! Works over any [`Engine`]: the one may be a Container's, the other another's.

use muster_core::inference::audit::{Commitment, Replay, Replayable, Replayed, Transcript};
use muster_core::inference::{InferenceError, InferenceEvent, InferenceRequest, InferenceTask, TokenCounts};

use crate::Engine;

/// Why an answer cannot be audited.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// The request failed: that says nothing of what an answer would have been.
    #[error("it was not answered: {0}")]
    Failed(#[source] InferenceError),
    /// The answer was complete, and nothing was committed to.
    #[error("it commits to nothing that it answers")]
    Uncommitted,
    /// What was committed to is not told.
    #[error("it does not tell what it committed to: {0}")]
    Untold(#[source] InferenceError),
    /// Something else is told than was committed to.
    #[error("it tells something else than it committed to")]
    Untrue,
    /// A replay ended without a result.
    #[error("it was asked to replay an answer and gave no result")]
    NotReplayed,
}

impl AuditError {
    /// Whether the answer came and its transcript did not: what a Container does that hides it.
    #[must_use]
    pub const fn hides(&self) -> bool {
        matches!(self, Self::Uncommitted | Self::Untold(_) | Self::Untrue)
    }
}

/// What of a request is asked about here.
#[derive(Default)]
struct Heard {
    commitment: Option<Commitment>,
    transcript: Option<Transcript>,
    replayed: Option<Replayed>,
    counts: TokenCounts,
}

async fn hear(engine: &dyn Engine, request: InferenceRequest) -> Result<Heard, InferenceError> {
    let (mut answer, mut heard) = (engine.submit(request), Heard::default());
    while let Some(events) = answer.next().await {
        for event in events {
            match event {
                InferenceEvent::Committed { choice: 0, commitment } => heard.commitment = Some(commitment),
                InferenceEvent::Transcript(transcript) => heard.transcript = Some(*transcript),
                InferenceEvent::Replayed(replayed) => heard.replayed = Some(*replayed),
                InferenceEvent::Done { counts } => {
                    heard.counts = counts;
                    return Ok(heard);
                }
                InferenceEvent::Failed { error, .. } => return Err(error),
                InferenceEvent::Committed { .. }
                | InferenceEvent::Began { .. }
                | InferenceEvent::Text { .. }
                | InferenceEvent::ToolCall { .. }
                | InferenceEvent::Finished { .. }
                | InferenceEvent::Embedding { .. } => {}
            }
        }
    }
    let kind = muster_core::inference::InferenceErrorKind::EngineLost;
    Err(InferenceError::new(kind, "the engine went away while this was being answered"))
}

/// What an engine committed to, told afterwards and held against its commitment.
///
/// # Errors
/// It is not told, or is something else.
pub async fn reveal(engine: &dyn Engine, commitment: Commitment) -> Result<Transcript, AuditError> {
    let request = InferenceRequest { task: InferenceTask::Reveal(commitment), stream: false };
    let transcript = hear(engine, request).await.map_err(AuditError::Untold)?.transcript.ok_or(AuditError::Untrue)?;
    if transcript.commitment() == commitment { Ok(transcript) } else { Err(AuditError::Untrue) }
}

/// An answer that was given, and what was committed to with it. It is asked for when nothing more is asked: until then
/// nobody can know that this was an audit.
#[derive(Clone, Debug, PartialEq)]
pub struct Pending {
    to: Replayable,
    commitment: Commitment,
    counts: TokenCounts,
}

/// Asks.
///
/// # Errors
/// There is no answer, or nothing was committed to.
pub async fn asked(engine: &dyn Engine, to: Replayable) -> Result<Pending, AuditError> {
    let heard = hear(engine, to.request(true)).await.map_err(AuditError::Failed)?;
    let commitment = heard.commitment.ok_or(AuditError::Uncommitted)?;
    Ok(Pending { to, commitment, counts: heard.counts })
}

impl Pending {
    /// What was asked.
    #[must_use]
    pub const fn to(&self) -> &Replayable {
        &self.to
    }

    /// What was committed to with the first answer. It must have the seed of the request, no more tokens
    /// than that allows, and as many as were counted.
    ///
    /// # Errors
    /// It is not told, or is something else.
    pub async fn reveal(&self, engine: &dyn Engine) -> Result<Transcript, AuditError> {
        let transcript = reveal(engine, self.commitment).await?;
        let tokens = u64::try_from(transcript.tokens.len()).unwrap_or(u64::MAX);
        let paid = self.counts.output == tokens && self.counts.input == u64::from(transcript.prompt_tokens);
        let sampling = self.to.sampling();
        let allowed = sampling.max_tokens.is_none_or(|max| tokens <= max.into());
        if sampling.seed == Some(transcript.seed) && allowed && (sampling.n > 1 || paid) {
            Ok(transcript)
        } else {
            Err(AuditError::Untrue)
        }
    }
}

/// Asks, and then for what was committed to.
///
/// # Errors
/// There is no answer, or no true transcript of it.
pub async fn answered(engine: &dyn Engine, to: &Replayable) -> Result<Transcript, AuditError> {
    asked(engine, to.clone()).await?.reveal(engine).await
}

/// Has an answer drawn again.
///
/// # Errors
/// It is not.
pub async fn replayed(engine: &dyn Engine, to: &Replayable, claimed: &Transcript) -> Result<Replayed, AuditError> {
    let tokens = claimed.tokens.iter().map(|token| token.id).collect();
    let replay = Replay { to: to.clone(), choice: claimed.choice, tokens };
    let request = InferenceRequest { task: InferenceTask::Replay(Box::new(replay)), stream: false };
    hear(engine, request).await.map_err(AuditError::Failed)?.replayed.ok_or(AuditError::NotReplayed)
}
