//! Whole-number helpers of the scene's maker: hashes, smooth noise, sine, root.

/// PCG's output function as a hash: the generator of the kernel, too.
pub(super) const fn pcg(word: u32) -> u32 {
    let state = word.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
    let word = ((state >> ((state >> 28) + 4)) ^ state).wrapping_mul(277_803_737);
    (word >> 22) ^ word
}

/// Numbers for the scene's maker.
#[derive(Clone, Debug)]
pub(super) struct Dice(blake3::OutputReader);

impl Dice {
    pub(super) fn new(seed: &[u8; 32], what: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("muster 2026 render: scene");
        hasher.update(seed);
        hasher.update(what.as_bytes());
        Self(hasher.finalize_xof())
    }

    pub(super) fn word(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// From `low` to `high`, both included. The bias of a 32-bit remainder does not matter to a picture.
    pub(super) fn range(&mut self, low: i32, high: i32) -> i32 {
        let span = u32::try_from(high.saturating_sub(low)).unwrap_or(0).saturating_add(1);
        low.saturating_add(i32::try_from(self.word() % span).unwrap_or(0))
    }

    /// True `percent` times of a hundred.
    pub(super) fn chance(&mut self, percent: u32) -> bool {
        self.word() % 100 < percent
    }
}

/// The root, rounded down.
pub(super) const fn root(value: u32) -> u32 {
    let mut rest = value;
    let mut root = 0_u32;
    let mut bit = 1_u32 << 30;
    while bit != 0 {
        if rest >= root + bit {
            rest -= root + bit;
            root = (root >> 1) + bit;
        } else {
            root >>= 1;
        }
        bit >>= 2;
    }
    root
}

/// Sine of `turn`/4096 of a full turn, 16,384 for one; Bhāskara's approximation, off by at most 0.2 %.
pub(super) const fn sine(turn: i32) -> i32 {
    let turn = turn & 4095;
    let (half, sign) = if turn < 2048 { (turn, 1) } else { (turn - 2048, -1) };
    let p = half * (2048 - half);
    // The quotient is a number of 14 bits for 16 p, so both are brought to 16 bits first.
    sign * (p / 64 * 4 * 16_384 / ((5 * 2048 * 2048 - 4 * p) / 256))
}

/// Cosine of `turn`/4096 of a full turn, 16,384 for one.
pub(super) const fn cosine(turn: i32) -> i32 {
    sine(turn + 1024)
}

/// Smooth noise from 0 to 255 on a lattice of `1 << cell_log2`.
pub(super) fn noise(x: i32, y: i32, cell_log2: u32, salt: u32) -> i32 {
    let size = 1_i32 << cell_log2;
    let corner = |dx: i32, dy: i32| {
        let (cx, cy) = ((x >> cell_log2) + dx, (y >> cell_log2) + dy);
        let hash = pcg(cx.cast_unsigned() ^ pcg(cy.cast_unsigned() ^ salt));
        i32::try_from(hash & 255).unwrap_or(0)
    };
    // 3t² − 2t³ in 256ths.
    let ease = |t: i32| {
        let t = (t & (size - 1)) * 256 / size;
        t * t * (768 - 2 * t) / 65_536
    };
    let (ex, ey) = (ease(x), ease(y));
    let low = corner(0, 0) * (256 - ex) + corner(1, 0) * ex;
    let high = corner(0, 1) * (256 - ex) + corner(1, 1) * ex;
    (low / 256 * (256 - ey) + high / 256 * ey) / 256
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_and_sines_are_near_the_real_ones() {
        for value in [0u32, 1, 2, 3, 4, 99, 100, 65_535, 1 << 30, u32::MAX] {
            assert_eq!(root(value), value.isqrt());
        }
        for turn in 0..4096 {
            let real = (f64::from(turn) / 4096.0 * core::f64::consts::TAU).sin() * 16_384.0;
            assert!((f64::from(sine(turn)) - real).abs() < 40.0, "{turn}: {} and {real}", sine(turn));
        }
    }
}
