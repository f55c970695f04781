//! From differences to coefficients and back (H.264, 8.5). Many blocks are turned at once: of each place in a block there is
//! an array over the blocks, so that every step is the same for all of them and compilers make wide instructions of it.

/// Of each of the sixteen places in a block, row by row, the values of `N` blocks.
pub(crate) type Blocks<const N: usize> = [[i16; N]; 16];

/// The order in which a block's coefficients are sent.
pub(crate) const ZIGZAG: [usize; 16] = [0, 1, 4, 8, 5, 2, 3, 6, 9, 12, 13, 10, 7, 11, 14, 15];

const MF: [[u16; 3]; 6] = [
    [13107, 5243, 8066],
    [11916, 4660, 7490],
    [10082, 4194, 6554],
    [9362, 3647, 5825],
    [8192, 3355, 5243],
    [7282, 2893, 4559],
];
const V: [[i16; 3]; 6] = [[10, 16, 13], [11, 18, 14], [13, 20, 16], [14, 23, 18], [16, 25, 20], [18, 29, 23]];

/// Places of a block are of three kinds.
#[inline(always)]
const fn kind(place: usize) -> usize {
    match (place / 4 % 2, place % 2) {
        (0, 0) => 0,
        (1, 1) => 1,
        _ => 2,
    }
}

/// How fine: 0 to 51, doubled every six.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quant {
    qp: u8,
    /// What a coefficient is multiplied with, before 16 bits are cut off.
    scale: [u16; 3],
    /// What is added to it before; a third of a step, or a sixth.
    third: [u16; 3],
    sixth: [u16; 3],
    /// What a level is multiplied with to be a coefficient again.
    back: [i16; 3],
}

impl Quant {
    /// From 12 up: below, a level would not fit in what is written of it.
    #[inline(always)]
    pub(crate) fn new(qp: u8) -> Self {
        let qp = qp.clamp(12, 51);
        let (step, octave) = (usize::from(qp % 6), u32::from(qp / 6));
        let scale = MF[step].map(|mf| mf >> (octave - 1));
        let part = |of: u32| MF[step].map(|mf| ((1u32 << (15 + octave)) / of / u32::from(mf)) as u16);
        Self { qp, scale, third: part(3), sixth: part(6), back: V[step].map(|v| v << octave) }
    }

    #[inline(always)]
    pub(crate) const fn qp(&self) -> u8 {
        self.qp
    }
}

/// Coefficients of differences.
#[inline(always)]
pub(crate) fn forward<const N: usize>(d: &mut Blocks<N>) {
    for row in 0..4 {
        butterfly(d, row * 4, 1);
    }
    for column in 0..4 {
        butterfly(d, column, 4);
    }
}

#[inline(always)]
fn butterfly<const N: usize, const P: usize>(d: &mut [[i16; N]; P], first: usize, step: usize) {
    let [a, b, c, e] = [d[first], d[first + step], d[first + 2 * step], d[first + 3 * step]];
    for lane in 0..N {
        let (outer, inner) = (a[lane].wrapping_add(e[lane]), b[lane].wrapping_add(c[lane]));
        let (outer_diff, inner_diff) = (a[lane].wrapping_sub(e[lane]), b[lane].wrapping_sub(c[lane]));
        d[first][lane] = outer.wrapping_add(inner);
        d[first + step][lane] = outer_diff.wrapping_add(outer_diff).wrapping_add(inner_diff);
        d[first + 2 * step][lane] = outer.wrapping_sub(inner);
        d[first + 3 * step][lane] = outer_diff.wrapping_sub(inner_diff.wrapping_add(inner_diff));
    }
}

/// Differences of coefficients, before they are divided by 64.
#[inline(always)]
pub(crate) fn inverse<const N: usize>(d: &mut Blocks<N>) {
    for row in 0..4 {
        unbutterfly(d, row * 4, 1);
    }
    for column in 0..4 {
        unbutterfly(d, column, 4);
    }
    for place in d.iter_mut() {
        for value in place {
            *value = value.wrapping_add(32) >> 6;
        }
    }
}

#[inline(always)]
fn unbutterfly<const N: usize, const P: usize>(d: &mut [[i16; N]; P], first: usize, step: usize) {
    let [a, b, c, e] = [d[first], d[first + step], d[first + 2 * step], d[first + 3 * step]];
    for lane in 0..N {
        let (sum, diff) = (a[lane].wrapping_add(c[lane]), a[lane].wrapping_sub(c[lane]));
        let low = (b[lane] >> 1).wrapping_sub(e[lane]);
        let high = b[lane].wrapping_add(e[lane] >> 1);
        d[first][lane] = sum.wrapping_add(high);
        d[first + step][lane] = diff.wrapping_add(low);
        d[first + 2 * step][lane] = diff.wrapping_sub(low);
        d[first + 3 * step][lane] = sum.wrapping_sub(high);
    }
}

/// One block alone, whose rows are what is done at once. Coefficients and levels stand column by column.
pub(crate) mod one {
    use super::{Quant, ZIGZAG, kind};

    /// The place of the n-th level of the zigzag.
    pub(crate) const ORDER: [usize; 16] = {
        let mut order = [0; 16];
        let mut index = 0;
        while index < 16 {
            order[index] = ZIGZAG[index] % 4 * 4 + ZIGZAG[index] / 4;
            index += 1;
        }
        order
    };

    /// The bit of each place in a mask that goes by the zigzag.
    const BITS: [u16; 16] = {
        let mut bits = [0; 16];
        let mut index = 0;
        while index < 16 {
            bits[ORDER[index]] = 1 << index;
            index += 1;
        }
        bits
    };

    /// Which places hold a level, in the order of the zigzag.
    #[inline(always)]
    pub(crate) fn mask(levels: &[i16; 16]) -> u16 {
        levels.iter().zip(&BITS).fold(0, |mask, (level, bit)| mask | if *level == 0 { 0 } else { *bit })
    }

    /// What each place is multiplied with, to be a level and to be a coefficient again.
    pub(crate) struct Scales {
        scale: [u16; 16],
        third: [u16; 16],
        back: [i16; 16],
    }

    impl Scales {
        pub(crate) fn new(quant: &Quant) -> Self {
            Self {
                scale: std::array::from_fn(|place| quant.scale[kind(place)]),
                third: std::array::from_fn(|place| quant.third[kind(place)]),
                back: std::array::from_fn(|place| quant.back[kind(place)]),
            }
        }
    }

    #[inline(always)]
    fn rows(d: &[i16; 16]) -> [[i16; 4]; 4] {
        std::array::from_fn(|row| std::array::from_fn(|column| d[row * 4 + column]))
    }

    #[inline(always)]
    fn columns([a, b, c, e]: [[i16; 4]; 4]) -> [[i16; 4]; 4] {
        std::array::from_fn(|column| [a[column], b[column], c[column], e[column]])
    }

    #[inline(always)]
    fn flat([a, b, c, e]: [[i16; 4]; 4]) -> [i16; 16] {
        let mut all = [0; 16];
        all[..4].copy_from_slice(&a);
        all[4..8].copy_from_slice(&b);
        all[8..12].copy_from_slice(&c);
        all[12..].copy_from_slice(&e);
        all
    }

    /// Differences, row by row, to levels, and whether there are any.
    #[inline(always)]
    pub(crate) fn levels(differences: &[i16; 16], scales: &Scales) -> ([i16; 16], i16) {
        let mut d = rows(differences);
        super::butterfly(&mut d, 0, 1);
        d = columns(d);
        super::butterfly(&mut d, 0, 1);
        let (mut levels, mut any) = (flat(d), 0);
        for (place, value) in levels.iter_mut().enumerate() {
            let sign = *value >> 15;
            let size = ((*value ^ sign).wrapping_sub(sign)).cast_unsigned().wrapping_add(scales.third[place]);
            let level = ((u32::from(size) * u32::from(scales.scale[place])) >> 16) as u16;
            any |= level.cast_signed();
            *value = (level.cast_signed() ^ sign).wrapping_sub(sign);
        }
        (levels, any)
    }

    /// Levels to differences, row by row.
    #[inline(always)]
    pub(crate) fn differences(levels: &[i16; 16], scales: &Scales) -> [i16; 16] {
        let mut d = *levels;
        for (value, back) in d.iter_mut().zip(&scales.back) {
            *value = value.wrapping_mul(*back);
        }
        let mut d = rows(&d);
        super::unbutterfly(&mut d, 0, 1);
        d = columns(d);
        super::unbutterfly(&mut d, 0, 1);
        flat(d).map(|value| value.wrapping_add(32) >> 6)
    }
}

/// Takes two macroblocks' rows apart into the differences of their blocks. A word holds four values of a block's row, so
/// that each place of sixteen blocks is a shift away.
#[inline(always)]
pub(crate) fn apart<const N: usize>(a: &[[u32; N]; 4], b: &[[u32; N]; 4]) -> Blocks<N> {
    let mut blocks = [[0; N]; 16];
    for (row, (a, b)) in a.iter().zip(b).enumerate() {
        for column in 0..4 {
            let place = &mut blocks[row * 4 + column];
            for lane in 0..N {
                let value = |words: &[u32; N]| (words[lane] >> (8 * column) & 0xff) as i16;
                place[lane] = value(a) - value(b);
            }
        }
    }
    blocks
}

/// What a prediction and differences make together, as words.
#[inline(always)]
pub(crate) fn together<const N: usize>(guess: &[[u32; N]; 4], apart: &Blocks<N>) -> [[u32; N]; 4] {
    let mut words = [[0; N]; 4];
    for (row, (words, guess)) in words.iter_mut().zip(guess).enumerate() {
        for column in 0..4 {
            let place = &apart[row * 4 + column];
            for lane in 0..N {
                let value = (guess[lane] >> (8 * column) & 0xff) as i16 + place[lane];
                words[lane] |= (value.clamp(0, 255) as u32) << (8 * column);
            }
        }
    }
    words
}

/// Coefficients to levels, in place. Which blocks have any is told by an array that is not zero there.
#[inline(always)]
pub(crate) fn quantise<const N: usize>(d: &mut Blocks<N>, quant: &Quant, intra: bool) -> [i16; N] {
    let mut any = [0i16; N];
    let round = if intra { quant.third } else { quant.sixth };
    for (place, values) in d.iter_mut().enumerate() {
        let (scale, round) = (quant.scale[kind(place)], round[kind(place)]);
        for (value, any) in values.iter_mut().zip(&mut any) {
            let sign = *value >> 15;
            let size = ((*value ^ sign).wrapping_sub(sign)).cast_unsigned().wrapping_add(round);
            let level = ((u32::from(size) * u32::from(scale)) >> 16) as u16;
            *any |= level.cast_signed();
            *value = (level.cast_signed() ^ sign).wrapping_sub(sign);
        }
    }
    any
}

/// Which places of each block hold a level: a bit for each, in the order of the zigzag.
#[inline(always)]
pub(crate) fn masks<const N: usize>(levels: &Blocks<N>) -> [u16; N] {
    let mut masks = [0; N];
    for (index, place) in ZIGZAG.iter().enumerate() {
        for (mask, level) in masks.iter_mut().zip(&levels[*place]) {
            *mask |= if *level == 0 { 0 } else { 1 << index };
        }
    }
    masks
}

/// Levels to coefficients, in place.
#[inline(always)]
pub(crate) fn restore<const N: usize>(d: &mut Blocks<N>, quant: &Quant) {
    for (place, values) in d.iter_mut().enumerate() {
        let back = quant.back[kind(place)];
        for value in values {
            *value = value.wrapping_mul(back);
        }
    }
}

#[inline(always)]
fn hadamard(v: &mut [i32; 16]) {
    for (first, step) in [(0, 1), (4, 1), (8, 1), (12, 1), (0, 4), (1, 4), (2, 4), (3, 4)] {
        let at = [first, first + step, first + 2 * step, first + 3 * step];
        let [a, b, c, e] = at.map(|place| v[place]);
        let (s, t, u, w) = (a + e, b + c, b - c, a - e);
        v[at[0]] = s + t;
        v[at[1]] = w + u;
        v[at[2]] = s - t;
        v[at[3]] = w - u;
    }
}

#[inline(always)]
fn level(value: i32, scale: u32, shift: u32, round: u32) -> i16 {
    let size = (value.unsigned_abs() * scale + round) >> shift;
    let size = size.min(2063) as i16;
    if value < 0 { -size } else { size }
}

/// The DCs of a macroblock's sixteen blocks: to levels, and what a decoder makes of these.
#[inline(always)]
pub(crate) fn luma_dc(dc: &[i16; 16], quant: &Quant) -> ([i16; 16], [i16; 16]) {
    let mut v = dc.map(i32::from);
    hadamard(&mut v);
    let octave = u32::from(quant.qp / 6);
    let scale = u32::from(MF[usize::from(quant.qp % 6)][0]);
    let shift = 16 + octave;
    let levels = v.map(|v| level((v + i32::from(v > 0)) >> 1, scale, shift, (1 << shift) / 3));
    let mut back = levels.map(i32::from);
    hadamard(&mut back);
    let times = i32::from(V[usize::from(quant.qp % 6)][0]) * 16;
    let restored = back.map(|f| {
        if octave >= 6 { (f * times) << (octave - 6) } else { (f * times + (1 << (5 - octave))) >> (6 - octave) }
    });
    (levels, restored.map(|value| value as i16))
}

/// The DCs of a colour's four blocks, likewise.
#[inline(always)]
pub(crate) fn chroma_dc(dc: [i16; 4], quant: &Quant, intra: bool) -> ([i16; 4], [i16; 4]) {
    let turn = |[a, b, c, d]: [i32; 4]| [a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d];
    let octave = u32::from(quant.qp / 6);
    let scale = u32::from(MF[usize::from(quant.qp % 6)][0]);
    let shift = 16 + octave;
    let round = (1 << shift) / if intra { 3 } else { 6 };
    let levels = turn(dc.map(i32::from)).map(|v| level(v, scale, shift, round));
    let times = i32::from(V[usize::from(quant.qp % 6)][0]) * 16;
    let restored = turn(levels.map(i32::from)).map(|f| ((f * times) << octave) >> 5);
    (levels, restored.map(|value| value as i16))
}

/// How fine colours are where brightness is so fine (table 8-15).
#[inline(always)]
pub(crate) const fn chroma_qp(qp: u8) -> u8 {
    const ABOVE: [u8; 22] = [29, 30, 31, 32, 32, 33, 34, 34, 35, 35, 36, 36, 37, 37, 37, 38, 38, 38, 39, 39, 39, 39];
    if qp < 30 { qp } else { ABOVE[qp as usize - 30] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_turned_and_turned_back_is_near() {
        for qp in [12u8, 18, 24, 30, 36, 45] {
            let quant = Quant::new(qp);
            let step = 0.625 * 2f64.powf(f64::from(qp) / 6.0);
            let mut seed = 7u32;
            let mut original = [[0i16; 16]; 16];
            for value in original.iter_mut().flatten() {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *value = (seed >> 23) as i16 - 256;
            }
            let mut blocks = original;
            forward(&mut blocks);
            quantise(&mut blocks, &quant, true);
            restore(&mut blocks, &quant);
            inverse(&mut blocks);
            let worst = blocks.iter().flatten().zip(original.iter().flatten()).map(|(a, b)| (a - b).abs()).max();
            assert!(f64::from(worst.unwrap()) <= 2.0f64.mul_add(step, 1.0), "{qp}: {worst:?}");
        }
    }

    #[test]
    fn a_block_alone_is_what_it_is_among_others() {
        let mut seed = 11u32;
        for qp in [12u8, 19, 26, 33, 40, 48] {
            let quant = Quant::new(qp);
            let scales = one::Scales::new(&quant);
            let differences: [i16; 16] = std::array::from_fn(|_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (seed >> 23) as i16 - 256
            });
            let mut blocks: Blocks<1> = differences.map(|value| [value]);
            forward(&mut blocks);
            let [any] = quantise(&mut blocks, &quant, true);
            let (levels, any_alone) = one::levels(&differences, &scales);
            assert_eq!(any, any_alone);
            for index in 0..16 {
                assert_eq!(blocks[ZIGZAG[index]][0], levels[one::ORDER[index]]);
            }
            assert_eq!(masks(&blocks), [one::mask(&levels)]);
            restore(&mut blocks, &quant);
            inverse(&mut blocks);
            assert_eq!(blocks.map(|[value]| value), one::differences(&levels, &scales));
        }
    }

    #[test]
    fn nothing_becomes_nothing() {
        let quant = Quant::new(26);
        let mut blocks = [[0i16; 4]; 16];
        forward(&mut blocks);
        assert_eq!(quantise(&mut blocks, &quant, false), [0; 4]);
        assert_eq!(luma_dc(&[0; 16], &quant), ([0; 16], [0; 16]));
        assert_eq!(chroma_dc([0; 4], &quant, true), ([0; 4], [0; 4]));
    }
}
