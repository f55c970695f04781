//! Whether an answer is the model's own: what a Container commits to, what a replay of it comes to, and what many of them
//! prove.
//!
//! Consumer and Container share the seed of a request. A token is drawn by the Gumbel-max trick with [`Noise`] of seed,
//! answer, position and token: the one whose score plus noise is the greatest. Whoever has the same weights reads prompt
//! and answer in one go, draws at each position with the same noise, and nearly always draws the same token, although its
//! figures differ in the last bits: only where two scores are as near to each other as that, another one wins. With other
//! weights, another prompt or another seed it often draws another (Karvonen et al., "DiFR: Inference Verification Despite
//! Nondeterminism", 2025).
//!
//! With each answer comes a [`Commitment`]; what it stands for, a [`Transcript`], is asked for afterwards, so that nobody
//! knows while it draws which answers are looked at. [`compare`] holds one against a replay; [`Tally`] adds up. Only many
//! answers together say something ([`judge`]), by [`Limits`] that honest Containers have made ([`calibrate`]).

mod account;
mod compare;
mod limits;
mod noise;
mod question;
mod tally;
mod transcript;

pub use self::account::{Account, UNREVEALED_MAX};
pub use self::compare::{Compared, DISTANCE_MAX, MARGIN_MAX, NotComparable, Row, compare};
pub use self::limits::{ENTRIES_MAX, Entry, Limits, LimitsError, LimitsTable, NAME_LEN_MAX, calibrate};
pub use self::noise::Noise;
pub use self::question::{ANSWER_TOKENS, question};
pub use self::tally::{
    ANSWERS_MIN, Aggregate, Deviation, Excess, Standing, TOKENS_MIN, Tally, WITNESSES_MIN, judge, judge_one,
};
pub use self::transcript::{
    COMMITMENT_CONTEXT, Claimed, Commitment, LIKELY, Likely, PromptHash, Replay, Replayable, Replayed,
    TRANSCRIPT_TOKENS_MAX, Transcript,
};
