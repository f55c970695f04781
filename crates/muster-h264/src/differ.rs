//! How different blocks are: the sum of the distances of their values.

/// A sum over many bytes. The processor has an instruction for sixteen at once that no compiler finds by itself.
#[derive(Clone, Copy)]
pub(crate) struct Sum(wide::Sum);

impl Sum {
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Self(wide::zero())
    }

    #[inline(always)]
    pub(crate) fn add(&mut self, a: &[u8; 16], b: &[u8; 16]) {
        self.0 = wide::add(self.0, a, b);
    }

    /// Of the first eight of each sixteen, and of the others.
    #[inline(always)]
    pub(crate) fn halves(self) -> [u32; 2] {
        wide::halves(self.0)
    }

    #[inline(always)]
    pub(crate) fn total(self) -> u32 {
        let [first, second] = self.halves();
        first + second
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "instructions are called in no other way; each says why it may be")]
mod wide {
    use core::arch::x86_64::{
        __m128i, _mm_add_epi64, _mm_cvtsi128_si64, _mm_sad_epu8, _mm_set_epi64x, _mm_setzero_si128, _mm_unpackhi_epi64,
    };

    pub(super) type Sum = __m128i;

    #[inline(always)]
    pub(super) fn zero() -> Sum {
        // SAFETY: SSE2, which this needs, is part of every x86-64 processor; it touches no memory.
        unsafe { _mm_setzero_si128() }
    }

    #[inline(always)]
    fn load(bytes: &[u8; 16]) -> __m128i {
        let [low, high] = halves_of(bytes);
        // SAFETY: SSE2 is part of every x86-64 processor; this touches no memory.
        unsafe { _mm_set_epi64x(high, low) }
    }

    #[inline(always)]
    fn halves_of(bytes: &[u8; 16]) -> [i64; 2] {
        let whole = u128::from_le_bytes(*bytes);
        [whole as i64, (whole >> 64) as i64]
    }

    #[inline(always)]
    pub(super) fn add(sum: Sum, a: &[u8; 16], b: &[u8; 16]) -> Sum {
        // SAFETY: SSE2 is part of every x86-64 processor; these touch no memory.
        unsafe { _mm_add_epi64(sum, _mm_sad_epu8(load(a), load(b))) }
    }

    #[inline(always)]
    pub(super) fn halves(sum: Sum) -> [u32; 2] {
        // SAFETY: SSE2 is part of every x86-64 processor; these touch no memory.
        let halves = unsafe { [_mm_cvtsi128_si64(sum), _mm_cvtsi128_si64(_mm_unpackhi_epi64(sum, sum))] };
        halves.map(|half| half as u32)
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod wide {
    pub(super) type Sum = [u32; 2];
    #[inline(always)]
    pub(super) fn zero() -> Sum {
        [0; 2]
    }

    #[inline(always)]
    pub(super) fn add(mut sum: Sum, a: &[u8; 16], b: &[u8; 16]) -> Sum {
        for (half, sum) in sum.iter_mut().enumerate() {
            for at in half * 8..half * 8 + 8 {
                *sum += u32::from(a[at].abs_diff(b[at]));
            }
        }
        sum
    }

    #[inline(always)]
    pub(super) fn halves(sum: Sum) -> [u32; 2] {
        sum
    }
}

/// How different two blocks are, of a multiple of sixteen values.
#[inline(always)]
pub(crate) fn sad<const W: usize, const H: usize>(a: &[[u8; W]; H], b: &[[u8; W]; H]) -> u32 {
    let mut sum = Sum::new();
    let (a, _) = a.as_flattened().as_chunks::<16>();
    let (b, _) = b.as_flattened().as_chunks::<16>();
    for (a, b) in a.iter().zip(b) {
        sum.add(a, b);
    }
    sum.total()
}

/// How much there is in a block: its distance from the mean of each of its quarters.
#[inline(always)]
pub(crate) fn texture(block: &[[u8; 16]; 16]) -> u32 {
    let mut total = 0;
    for rows in block.as_chunks::<8>().0 {
        let mut sum = Sum::new();
        for row in rows {
            sum.add(row, &[0; 16]);
        }
        let [left, right] = sum.halves().map(|sum| (sum / 64) as u8);
        let mut mean = [left; 16];
        mean[8..].fill(right);
        let mut sum = Sum::new();
        for row in rows {
            sum.add(row, &mean);
        }
        total += sum.total();
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_every_value() {
        let block = |seed: u32| -> [[u8; 16]; 16] {
            std::array::from_fn(|y| {
                std::array::from_fn(|x| ((y as u32 * 16 + x as u32 + seed).wrapping_mul(2_654_435_761) >> 24) as u8)
            })
        };
        let (a, b) = (block(3), block(900));
        let plain: u32 = a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
        assert_eq!(sad(&a, &b), plain);
        assert_eq!(texture(&[[77; 16]; 16]), 0);
        let mut quarters = [[10; 16]; 16];
        for row in &mut quarters[..8] {
            row[8..].fill(200);
        }
        assert_eq!(texture(&quarters), 0);
        quarters[0][0] = 74;
        assert_eq!(texture(&quarters), 63 + 63);
    }
}
