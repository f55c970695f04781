//! A pad that fills a card's memory, and walks through it.
//!
//! The pad is many **chains** of 16 KiB. A chain is written twice, word by word: each word needs the one before it and an
//! earlier one that the word before names, and the second pass overwrites the first. So no word of a finished chain can be
//! had without writing the chain from its beginning: 8,192 steps, one after the other. A **walk** reads the pad word by
//! word, each place named by the word before. Who holds the pad answers at the speed of memory; who left a part out writes
//! a chain for every read that falls there. The Checker does that for the few reads of the segments that it draws, in
//! 16 KiB.

use super::challenge::{CHAIN_WORDS, CHUNK_CHAINS};
use super::multiply::words;

/// Words of a chain as a length.
const LENGTH: usize = CHAIN_WORDS as usize;

const fn pcg(word: u32) -> u32 {
    let state = word.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
    let word = ((state >> ((state >> 28) + 4)) ^ state).wrapping_mul(277_803_737);
    (word >> 22) ^ word
}

/// What a pad and its walks are made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pad {
    /// Keys of the chains.
    pub keys: [u32; 2],
    /// How many chains.
    pub chains: u32,
}

/// Keys of the walks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkKeys(pub [u32; 2]);

impl WalkKeys {
    /// The keys of a walk seed.
    #[must_use]
    pub fn new(seed: &[u8; 32]) -> Self {
        let words = words("muster 2026 proof: walks", seed);
        Self([words[0], words[1]])
    }

    /// Where a walk begins.
    #[must_use]
    pub const fn start(self, walk: u32) -> u32 {
        pcg(pcg(walk ^ self.0[0]) ^ self.0[1])
    }
}

impl Pad {
    /// The pad of a challenge's seed.
    #[must_use]
    pub fn new(seed: &[u8; 32], chunks: u32) -> Self {
        let words = words("muster 2026 proof: pad", seed);
        Self { keys: [words[0], words[1]], chains: chunks.saturating_mul(CHUNK_CHAINS) }
    }

    /// Writes a chain.
    pub fn write(&self, chain: u32, words: &mut [u32; LENGTH]) {
        let mut state = pcg(pcg(chain ^ self.keys[0]) ^ self.keys[1]);
        words[0] = state;
        for i in 1..CHAIN_WORDS {
            let back = words[(state % i) as usize % LENGTH];
            state = pcg((state ^ back).wrapping_add(i));
            words[i as usize % LENGTH] = state;
        }
        for i in 0..LENGTH {
            let back = words[state as usize % LENGTH];
            state = pcg(state.wrapping_add(words[i] ^ back.rotate_left(7)));
            words[i] = state;
        }
    }

    /// The leaf of a chunk: the last four words of each of its chains.
    #[must_use]
    pub fn chunk_leaf(&self, chunk: u32) -> Vec<u8> {
        let mut words = [0; LENGTH];
        let mut leaf = Vec::with_capacity(CHUNK_CHAINS as usize * 16);
        for lane in 0..CHUNK_CHAINS {
            self.write(chunk.wrapping_mul(CHUNK_CHAINS).wrapping_add(lane), &mut words);
            leaf.extend(words[LENGTH - 4..].iter().flat_map(|word| word.to_le_bytes()));
        }
        leaf
    }

    /// Which chain, and which word of it, a walk reads in a state.
    #[must_use]
    pub fn place(&self, state: u32) -> (u32, u32) {
        (state % self.chains.max(1), state.wrapping_mul(2_654_435_769) >> 20)
    }

    /// A walk's next state, after reading a word in its `step`-th step.
    #[must_use]
    pub const fn next(keys: WalkKeys, walk: u32, step: u32, state: u32, word: u32) -> u32 {
        // Walk and step take part, so that walks that meet do not stay together.
        pcg((state ^ word).wrapping_add(pcg(walk ^ keys.0[1])).wrapping_add(step))
    }

    /// Computes a segment of a walk again without the pad: a chain for every read.
    #[must_use]
    pub fn segment(&self, keys: WalkKeys, walk: u32, segment: u32, steps: u32, start: u32) -> u32 {
        let mut words = [0; LENGTH];
        let first = segment.wrapping_mul(steps);
        (0..steps).fold(start, |state, step| {
            let (chain, word) = self.place(state);
            self.write(chain, &mut words);
            Self::next(keys, walk, first.wrapping_add(step), state, words[word as usize % LENGTH])
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn chains_differ_and_depend_on_all_that_came_before() {
        let pad = Pad::new(&[1; 32], 4);
        let (mut a, mut b) = ([0; LENGTH], [0; LENGTH]);
        pad.write(0, &mut a);
        pad.write(1, &mut b);
        assert!(a.iter().zip(&b).filter(|(a, b)| a == b).count() < 4);
        Pad::new(&[2; 32], 4).write(0, &mut b);
        assert!(a.iter().zip(&b).filter(|(a, b)| a == b).count() < 4);
        let different: BTreeSet<u32> = a.iter().copied().collect();
        assert!(different.len() > LENGTH - 8, "no short cycles");
    }

    #[test]
    fn walks_go_everywhere() {
        let pad = Pad::new(&[1; 32], 4);
        let keys = WalkKeys::new(&[3; 32]);
        let mut state = keys.start(0);
        let mut chains = BTreeSet::new();
        let mut words = [0; LENGTH];
        for step in 0..2_000 {
            let (chain, word) = pad.place(state);
            assert!(chain < pad.chains && word < CHAIN_WORDS);
            chains.insert(chain);
            pad.write(chain % 2, &mut words);
            state = Pad::next(keys, 0, step, state, words[word as usize]);
        }
        assert_eq!(chains.len(), pad.chains as usize);
    }
}
