//! Auditing an engine by another one: an answer, what was committed to with it, and its replay.
//!
//! Works over any [`Engine`]: the one may be a Container's, the other another's.

use muster_core::ids::NodeId;
use muster_core::inference::audit::{
    ANSWERS_MIN, Account, Commitment, Replay, Replayable, Replayed, TOKENS_MIN, Transcript, compare, question,
};
use muster_core::inference::{InferenceError, InferenceEvent, InferenceRequest, InferenceTask, TokenCounts};

use crate::Engine;

/// Answers that are enough for an aggregate, if they are long enough.
const ENOUGH: usize = ANSWERS_MIN as usize;

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
                InferenceEvent::Committed { choice: 0, commitment, .. } => heard.commitment = Some(commitment),
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

/// What a visit came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Visit {
    /// Answers that came.
    pub answered: u32,
    /// Replays that were held against them.
    pub compared: u32,
    /// Answers whose transcript did not come.
    pub hidden: u32,
}

/// Asks the questions of these numbers, until the answers are enough for an aggregate; then for what was committed to with
/// them, and has each replayed by all witnesses. What that comes to is added to the account; answers whose transcript does not
/// come only where that is the Container's own doing (`is_close`), and not of whoever passes things on.
pub async fn visit(
    subject: &dyn Engine,
    witnesses: &[(NodeId, &dyn Engine)],
    account: &mut Account,
    numbers: &[u64],
    chat: bool,
    is_close: bool,
) -> Visit {
    let (mut visit, mut pending) = (Visit::default(), Vec::new());
    let hides = |error: &AuditError, visit: &mut Visit, account: &mut Account| {
        tracing::debug!(%error, "an answer cannot be audited");
        if error.hides() {
            visit.hidden += 1;
            if is_close {
                account.unrevealed();
            }
        }
    };
    let mut tokens = 0u64;
    for number in numbers {
        if tokens >= TOKENS_MIN && pending.len() >= ENOUGH {
            break;
        }
        match asked(subject, question(*number, chat)).await {
            Ok(answer) => {
                tokens = tokens.saturating_add(answer.counts.output);
                pending.push(answer);
            }
            Err(error) => hides(&error, &mut visit, account),
        }
    }
    for answer in pending {
        visit.answered += 1;
        let claimed = match answer.reveal(subject).await {
            Ok(claimed) => claimed,
            Err(error) => {
                hides(&error, &mut visit, account);
                continue;
            }
        };
        for (witness, other) in witnesses {
            let again = replayed(*other, answer.to(), &claimed).await.map_err(|error| error.to_string());
            match again.and_then(|again| compare(&claimed, &again).map_err(|error| error.to_string())) {
                Ok(compared) => {
                    visit.compared += 1;
                    account.compared(*witness, compared);
                }
                Err(why) => tracing::debug!(why, witness = %witness.short(), "an answer was not replayed"),
            }
        }
    }
    visit
}

#[cfg(test)]
mod tests;
