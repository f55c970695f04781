//! The product of two matrices modulo the prime 2³¹ − 1, and Freivalds' check of some of its rows.
//!
//! The matrices follow from the seed. The rows are committed by a root before any is drawn. For a vector `x` that the
//! Checker keeps secret, a row `c` of `C = A·B` is right if `c·x = a·(B·x)`: a wrong row passes once in 2³¹ − 1 times, and
//! `B·x` is computed once for all rows (Freivalds, 1977). Modulo 2³² an error in a top bit would pass half the time.

/// The prime.
pub const PRIME: u32 = 0x7fff_ffff;

/// What both matrices are made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrices {
    /// Keys of A and of B.
    pub keys: [u32; 2],
    /// Rows and columns.
    pub side: u32,
}

const fn pcg(word: u32) -> u32 {
    let state = word.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
    let word = ((state >> ((state >> 28) + 4)) ^ state).wrapping_mul(277_803_737);
    (word >> 22) ^ word
}

/// An entry below the prime; the same on the card.
const fn entry(key: u32, row: u32, column: u32) -> u32 {
    let word = pcg(pcg(row ^ key).wrapping_add(column.wrapping_mul(2_654_435_769))) & PRIME;
    if word == PRIME { 0 } else { word }
}

const fn reduce(value: u64) -> u64 {
    let folded = (value & PRIME as u64) + (value >> 31);
    let folded = (folded & PRIME as u64) + (folded >> 31);
    if folded >= PRIME as u64 { folded - PRIME as u64 } else { folded }
}

impl Matrices {
    /// The matrices of a challenge's seed.
    #[must_use]
    pub fn new(seed: &[u8; 32], side: u32) -> Self {
        let words = words("muster 2026 proof: matrices", seed);
        Self { keys: [words[0], words[1]], side }
    }

    /// A row of the product, computed the long way.
    #[must_use]
    pub fn row(&self, row: u32) -> Vec<u32> {
        let mut sums = vec![0_u64; usize::try_from(self.side).unwrap_or(0)];
        for k in 0..self.side {
            let a = u64::from(entry(self.keys[0], row, k));
            for (sum, column) in sums.iter_mut().zip(0_u32..) {
                *sum = reduce(*sum + a * u64::from(entry(self.keys[1], k, column)));
            }
        }
        sums.into_iter().map(|sum| u32::try_from(sum).unwrap_or(0)).collect()
    }

    /// `B·x`, of which every row's check makes use.
    #[must_use]
    pub fn shadow(&self, vector: &[u32]) -> Vec<u32> {
        let line = |k: u32| {
            let sum = vector.iter().zip(0_u32..).fold(0_u64, |sum, (x, column)| {
                reduce(sum + u64::from(*x) * u64::from(entry(self.keys[1], k, column)))
            });
            u32::try_from(sum).unwrap_or(0)
        };
        (0..self.side).map(line).collect()
    }

    /// Whether a row is one of the product, as far as the vector shows. Entries at or above the prime are wrong.
    #[must_use]
    pub fn is_row(&self, row: u32, entries: &[u32], vector: &[u32], shadow: &[u32]) -> bool {
        let side = usize::try_from(self.side).unwrap_or(usize::MAX);
        if entries.len() != side || vector.len() != side || shadow.len() != side || entries.iter().any(|e| *e >= PRIME)
        {
            return false;
        }
        let dot = |sum: u64, a: u32, b: u32| reduce(sum + u64::from(a) * u64::from(b));
        let claimed = entries.iter().zip(vector).fold(0, |sum, (c, x)| dot(sum, *c, *x));
        let right = shadow.iter().zip(0_u32..).fold(0, |sum, (y, k)| dot(sum, entry(self.keys[0], row, k), *y));
        claimed == right
    }
}

/// The secret vector, from the Checker's secret and the challenge's seed.
#[must_use]
pub fn vector(secret: &[u8; 32], seed: &[u8; 32], side: u32) -> Vec<u32> {
    let mut hasher = blake3::Hasher::new_derive_key("muster 2026 proof: vector of Freivalds' check");
    hasher.update(secret);
    hasher.update(seed);
    let mut reader = hasher.finalize_xof();
    let mut drawn = Vec::new();
    while drawn.len() < usize::try_from(side).unwrap_or(0) {
        let mut bytes = [0; 4];
        reader.fill(&mut bytes);
        let word = u32::from_le_bytes(bytes) & PRIME;
        if word != PRIME {
            drawn.push(word);
        }
    }
    drawn
}

/// Eight words from a seed, for one purpose.
pub(super) fn words(purpose: &str, seed: &[u8; 32]) -> [u32; 8] {
    let mut hasher = blake3::Hasher::new_derive_key(purpose);
    hasher.update(seed);
    let mut out = [0; 8];
    let hash = hasher.finalize();
    for (word, bytes) in out.iter_mut().zip(hash.as_bytes().chunks_exact(4)) {
        *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn only_true_rows_pass(seed in any::<[u8; 32]>(), row in 0u32..32, at in 0usize..32, by in 1u32..PRIME) {
            let matrices = Matrices::new(&seed, 32);
            let x = vector(&[7; 32], &seed, 32);
            let shadow = matrices.shadow(&x);
            let right = matrices.row(row);
            prop_assert!(matrices.is_row(row, &right, &x, &shadow));
            prop_assert!(!matrices.is_row(row ^ 1, &right, &x, &shadow), "another row");
            let mut wrong = right.clone();
            wrong[at] = u32::try_from((u64::from(wrong[at]) + u64::from(by)) % u64::from(PRIME)).unwrap();
            prop_assert!(!matrices.is_row(row, &wrong, &x, &shadow));
            wrong[at] = right[at].wrapping_add(PRIME);
            prop_assert!(!matrices.is_row(row, &wrong, &x, &shadow), "one form a number");
            prop_assert!(!matrices.is_row(row, &right[1..], &x, &shadow));
            prop_assert!(!matrices.is_row(row, &[], &x, &shadow));
        }

        #[test]
        fn reduction_is_the_remainder(value in 0u64..1 << 63) {
            prop_assert_eq!(reduce(value), value % u64::from(PRIME));
        }
    }
}
