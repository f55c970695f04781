//! Transcripts of answers, for those who ask for them afterwards.

use std::collections::{BTreeMap, VecDeque};

use muster_core::inference::audit::{Commitment, Transcript};

/// Tokens of all transcripts that are kept: about 12 MB.
pub const KEPT_TOKENS_MAX: usize = 1 << 18;
/// How many transcripts are kept.
const KEPT_MAX: usize = 1 << 14;

/// The last transcripts; the oldest go first.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    transcripts: BTreeMap<Commitment, Transcript>,
    order: VecDeque<Commitment>,
    tokens: usize,
}

impl Kept {
    /// Keeps one more, and says by what it is known.
    pub fn keep(&mut self, transcript: Transcript) -> Commitment {
        let commitment = transcript.commitment();
        self.tokens += transcript.tokens.len();
        if let Some(same) = self.transcripts.insert(commitment, transcript) {
            self.tokens -= same.tokens.len();
        } else {
            self.order.push_back(commitment);
        }
        while (self.tokens > KEPT_TOKENS_MAX || self.order.len() > KEPT_MAX) && self.order.len() > 1 {
            let oldest = self.order.pop_front().and_then(|oldest| self.transcripts.remove(&oldest));
            self.tokens -= oldest.map_or(0, |oldest| oldest.tokens.len());
        }
        commitment
    }

    /// One that is kept.
    #[must_use]
    pub fn get(&self, commitment: &Commitment) -> Option<&Transcript> {
        self.transcripts.get(commitment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_core::inference::audit::{Claimed, LIKELY, Likely, PromptHash};

    fn transcript(seed: u64, tokens: usize) -> Transcript {
        let tokens = vec![Claimed { id: 1, likely: [Likely::NONE; LIKELY] }; tokens];
        Transcript { seed, choice: 0, prompt: PromptHash([0; 32]), prompt_tokens: 1, tokens }
    }

    #[test]
    fn the_oldest_go_first() {
        let mut kept = Kept::default();
        let first = kept.keep(transcript(1, KEPT_TOKENS_MAX / 2));
        assert_eq!(kept.keep(transcript(1, KEPT_TOKENS_MAX / 2)), first, "the same twice is one");
        let second = kept.keep(transcript(2, KEPT_TOKENS_MAX / 2));
        assert!(kept.get(&first).is_some() && kept.get(&second).is_some());
        let third = kept.keep(transcript(3, 1));
        assert!(kept.get(&first).is_none() && kept.get(&second).is_some());
        assert_eq!(kept.get(&third).map(|t| t.seed), Some(3));
        let long = kept.keep(transcript(4, 2 * KEPT_TOKENS_MAX));
        assert!(kept.get(&long).is_some() && kept.get(&third).is_none(), "the last is kept, however long");
        for seed in 0..u64::try_from(KEPT_MAX).unwrap() + 9 {
            kept.keep(transcript(seed, 0));
        }
        assert_eq!((kept.order.len(), kept.transcripts.len(), kept.tokens), (KEPT_MAX, KEPT_MAX, 0));
    }
}
