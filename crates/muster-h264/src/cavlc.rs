//! Coefficients as bits: CAVLC (H.264, 9.2).

use crate::bits::BitWriter;
use crate::tables::{COEFF_TOKEN, Code, RUN_BEFORE, TOTAL_ZEROS, TOTAL_ZEROS_CHROMA};

/// Which coefficients a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// All sixteen, or the sixteen DCs of a macroblock.
    Whole,
    /// All but the first.
    Ac,
    /// The four DCs of a colour.
    ChromaDc,
}

impl Part {
    #[inline(always)]
    const fn most(self) -> usize {
        match self {
            Self::Whole => 16,
            Self::Ac => 15,
            Self::ChromaDc => 4,
        }
    }
}

#[inline(always)]
fn code(bits: &mut BitWriter, (value, count): Code) {
    bits.put(u32::from(count), u32::from(value));
}

/// Writes the coefficients of a block, in the order of the zigzag: `mask` has a one for each place that holds any, `level`
/// gives it; `near` is how many the block's neighbours have. Gives how many there are.
#[inline(always)]
pub(crate) fn residual(bits: &mut BitWriter, mask: u32, level: impl Fn(usize) -> i16, part: Part, near: u8) -> u8 {
    let most = part.most();
    let table = match (part, near) {
        (Part::ChromaDc, _) => 4,
        (_, 0..=1) => 0,
        (_, 2..=3) => 1,
        (_, 4..=7) => 2,
        _ => 3,
    };
    if mask == 0 {
        code(bits, COEFF_TOKEN[table][0][0]);
        return 0;
    }
    // From the last to the first: what they are, and how many zeros stand before each.
    let (mut found, mut runs) = ([0i16; 16], [0u8; 16]);
    let total = mask.count_ones() as usize;
    let last = 31 - mask.leading_zeros();
    let zeros = last as usize + 1 - total;
    let (mut rest, mut ones, mut signs) = (mask, 0u32, 0u32);
    let mut only_ones = true;
    for (found, run) in found.iter_mut().zip(&mut runs).take(total) {
        let at = 31 - rest.leading_zeros();
        rest &= !(1 << at);
        *found = level(at as usize & 15);
        *run = if rest == 0 { at as u8 } else { (at - 1 - (31 - rest.leading_zeros())) as u8 };
        only_ones &= found.unsigned_abs() == 1 && ones < 3;
        if only_ones {
            ones += 1;
            signs = signs << 1 | u32::from(*found < 0);
        }
    }
    code(bits, COEFF_TOKEN[table][total][ones as usize]);
    if ones > 0 {
        bits.put(ones, signs);
    }
    let mut suffix = u32::from(total > 10 && ones < 3);
    for (index, level) in found.iter().take(total).enumerate().skip(ones as usize) {
        let level = i32::from(*level);
        let mut code = if level > 0 { level.unsigned_abs() * 2 - 2 } else { level.unsigned_abs() * 2 - 1 };
        if index == ones as usize && ones < 3 {
            code -= 2;
        }
        let prefix = code >> suffix;
        if suffix == 0 && (14..30).contains(&code) {
            bits.put(15, 1);
            bits.put(4, code - 14);
        } else if prefix >= 15 {
            // Twelve bits hold what is left: the lowest fineness keeps levels below that.
            let left = code - (15 << suffix) - if suffix == 0 { 15 } else { 0 };
            bits.put(16, 1);
            bits.put(12, left & 0xfff);
        } else {
            bits.put(prefix + 1, 1);
            if suffix > 0 {
                bits.put(suffix, code & ((1 << suffix) - 1));
            }
        }
        if suffix == 0 {
            suffix = 1;
        }
        if level.unsigned_abs() > 3 << (suffix - 1) && suffix < 6 {
            suffix += 1;
        }
    }
    if total < most {
        code(
            bits,
            if part == Part::ChromaDc { TOTAL_ZEROS_CHROMA[total & 3][zeros & 3] } else { TOTAL_ZEROS[total][zeros] },
        );
    }
    let mut left = zeros;
    for run in runs.iter().take(total - 1) {
        if left == 0 {
            break;
        }
        code(bits, RUN_BEFORE[left.min(7)][usize::from(*run)]);
        left -= usize::from(*run);
    }
    total as u8
}
