//! Differences as levels, how they are written, and what a decoder makes of them.

use super::band::Band;
use super::{qp_step, raster};
use crate::cavlc::{Part, residual};
use crate::differ::sad;
use crate::transform::{self, Blocks, Quant, ZIGZAG};

/// Differences of a macroblock as levels, ready to be written.
pub(super) struct Levels {
    pub(super) luma: Blocks<16>,
    /// Which blocks have any, and where.
    pub(super) luma_any: [i16; 16],
    pub(super) luma_masks: [u16; 16],
    pub(super) chroma: Chroma,
}

pub(super) struct Chroma {
    pub(super) ac: Blocks<8>,
    pub(super) any: [i16; 8],
    pub(super) dc: [[i16; 4]; 2],
    /// Nothing, DCs only, or all.
    pub(super) pattern: u32,
}

impl Band<'_> {
    pub(super) fn chroma_levels(
        &self,
        mx: usize,
        my: usize,
        u: &[[u8; 8]; 8],
        v: &[[u8; 8]; 8],
        qp: u8,
        intra: bool,
    ) -> Chroma {
        let quant = Quant::new(transform::chroma_qp(qp));
        let now = self.colours_now(mx, my);
        // So little makes no DC, and ACs only where they are too few to be said.
        if !intra && sad(&now[0], u) + sad(&now[1], v) < 6 * u32::from(qp_step(quant.qp())) {
            return Chroma::none();
        }
        let mut ac = apart8(&now, &[*u, *v]);
        transform::forward(&mut ac);
        let [a, b, c, d, e, f, g, h] = ac[0];
        let (u_levels, u_back) = transform::chroma_dc([a, b, c, d], &quant, intra);
        let (v_levels, v_back) = transform::chroma_dc([e, f, g, h], &quant, intra);
        ac[0] = [0; 8];
        let mut any = transform::quantise(&mut ac, &quant, intra);
        let few = || transform::masks(&ac).into_iter().map(worth).sum::<u32>() < 7;
        if any != [0; 8] && any.iter().all(|any| *any <= 1) && few() {
            any = [0; 8];
        }
        let dc = [u_levels, v_levels];
        let pattern =
            if any.iter().any(|any| *any != 0) { 2 } else { u32::from(dc.iter().flatten().any(|level| *level != 0)) };
        let mut chroma = Chroma { ac, any, dc, pattern };
        // What a decoder makes of the DCs rides along in the place that levels leave free.
        chroma.keep_dc(&u_back, &v_back);
        chroma
    }

    pub(super) fn write_chroma(&mut self, mx: usize, my: usize, chroma: &Chroma) {
        if chroma.pattern == 0 {
            return;
        }
        for dc in &chroma.dc {
            let mask = (0..4).fold(0, |mask, at| mask | u32::from(dc[at] != 0) << at);
            residual(&mut self.slice.bits, mask, |at| dc[at & 3], Part::ChromaDc, 0);
        }
        if chroma.pattern < 2 {
            return;
        }
        let at = my * self.across + mx;
        let masks = transform::masks(&chroma.ac);
        for (lane, mask) in masks.into_iter().enumerate() {
            let near = self.near_chroma(mx, my, lane);
            let mask = if chroma.any[lane] == 0 { 0 } else { u32::from(mask >> 1) };
            let level = |at: usize| chroma.ac[ZIGZAG[(at + 1) & 15]][lane];
            self.mbs[at].counts[16 + lane] = residual(&mut self.slice.bits, mask, level, Part::Ac, near);
        }
    }

    pub(super) fn put_chroma(
        &mut self,
        mx: usize,
        my: usize,
        u: &[[u8; 8]; 8],
        v: &[[u8; 8]; 8],
        chroma: &Chroma,
        qp: u8,
    ) {
        let (x, y) = (mx * 8, my * 8);
        if chroma.pattern == 0 {
            self.made.u.put(x, y, u);
            self.made.v.put(x, y, v);
            return;
        }
        let back = chroma.back(&Quant::new(transform::chroma_qp(qp)));
        let [u, v] = unwords8(&transform::together(&words8(&[*u, *v]), &back));
        self.made.u.put(x, y, &u);
        self.made.v.put(x, y, &v);
    }

    /// The blocks of the quarters that a pattern names; `masks` says which places hold levels, in the order of the zigzag,
    /// and `level` gives that of a block and place.
    pub(super) fn write_luma(
        &mut self,
        mx: usize,
        my: usize,
        masks: &[u16; 16],
        level: impl Fn(usize, usize) -> i16,
        pattern: u32,
        part: Part,
    ) {
        let at = my * self.across + mx;
        let skip = usize::from(part == Part::Ac);
        for index in 0..16 {
            if pattern >> (index / 4) & 1 == 0 {
                continue;
            }
            let cell = raster(index);
            let near = self.near_luma(mx, my, cell);
            let mask = u32::from(masks[cell] >> skip);
            let count = residual(&mut self.slice.bits, mask, |at| level(cell, (at + skip) & 15), part, near);
            self.mbs[at].counts[cell] = count;
        }
    }

    #[inline(always)]
    pub(super) fn near_luma(&self, mx: usize, my: usize, cell: usize) -> u8 {
        let at = my * self.across + mx;
        let left = match cell % 4 {
            0 => (mx > 0).then(|| self.mbs[at - 1].counts[cell + 3]),
            _ => Some(self.mbs[at].counts[cell - 1]),
        };
        let above = match cell / 4 {
            0 => (my > 0).then(|| self.mbs[at - self.across].counts[cell + 12]),
            _ => Some(self.mbs[at].counts[cell - 4]),
        };
        both(left, above)
    }

    #[inline(always)]
    pub(super) fn near_chroma(&self, mx: usize, my: usize, lane: usize) -> u8 {
        let at = my * self.across + mx;
        let (first, cell) = (16 + lane / 4 * 4, lane % 4);
        let left = match cell % 2 {
            0 => (mx > 0).then(|| self.mbs[at - 1].counts[first + cell + 1]),
            _ => Some(self.mbs[at].counts[first + cell - 1]),
        };
        let above = match cell / 2 {
            0 => (my > 0).then(|| self.mbs[at - self.across].counts[first + cell + 2]),
            _ => Some(self.mbs[at].counts[first + cell - 2]),
        };
        both(left, above)
    }
}

impl Levels {
    #[inline(always)]
    pub(super) const fn none() -> Self {
        Self { luma: [[0; 16]; 16], luma_any: [0; 16], luma_masks: [0; 16], chroma: Chroma::none() }
    }

    /// Which quarters are worth their bits; a few ones scattered about are not.
    pub(super) fn luma_pattern(&mut self) -> u32 {
        let (mut pattern, mut all) = (0, 0);
        for quarter in 0..4 {
            let mut sum = 0;
            for index in quarter * 4..quarter * 4 + 4 {
                let cell = raster(index);
                sum += match self.luma_any[cell] {
                    0 => 0,
                    1 => worth(self.luma_masks[cell]),
                    _ => 9,
                };
            }
            if sum >= 4 {
                pattern |= 1 << quarter;
            }
            all += sum;
        }
        if all < 6 { 0 } else { pattern }
    }

    pub(super) fn luma_back(&mut self, guess: &[[u8; 16]; 16], pattern: u32, quant: &Quant) -> [[u8; 16]; 16] {
        for index in 0..16 {
            if pattern >> (index / 4) & 1 == 0 && self.luma_any[raster(index)] != 0 {
                for place in &mut self.luma {
                    place[raster(index)] = 0;
                }
            }
        }
        transform::restore(&mut self.luma, quant);
        transform::inverse(&mut self.luma);
        together16(guess, &self.luma)
    }
}

impl Chroma {
    #[inline(always)]
    const fn none() -> Self {
        Self { ac: [[0; 8]; 16], any: [0; 8], dc: [[0; 4]; 2], pattern: 0 }
    }

    /// Keeps the restored DCs in the first place of each block.
    #[inline(always)]
    pub(super) fn keep_dc(&mut self, u: &[i16; 4], v: &[i16; 4]) {
        for (lane, value) in self.ac[0].iter_mut().zip(u.iter().chain(v)) {
            *lane = *value;
        }
    }

    /// Differences, as a decoder has them.
    pub(super) fn back(&self, quant: &Quant) -> Blocks<8> {
        let mut blocks = self.ac;
        if self.pattern < 2 {
            for place in blocks.iter_mut().skip(1) {
                *place = [0; 8];
            }
        }
        let dc = blocks[0];
        transform::restore(&mut blocks, quant);
        blocks[0] = dc;
        transform::inverse(&mut blocks);
        blocks
    }
}

/// How much the few ones of a block are worth: less, the farther apart they are.
#[inline(always)]
pub(super) fn worth(mask: u16) -> u32 {
    let (mut sum, mut rest) = (0, u32::from(mask));
    while rest != 0 {
        let zeros = rest.trailing_zeros();
        rest = rest >> zeros >> 1;
        sum += match zeros {
            0 => 3,
            1..=2 => 2,
            3..=5 => 1,
            _ => 0,
        };
    }
    sum
}

#[inline(always)]
pub(super) fn both(left: Option<u8>, above: Option<u8>) -> u8 {
    match (left, above) {
        (Some(left), Some(above)) => (left + above + 1) >> 1,
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => 0,
    }
}

/// A macroblock's brightness as words of four values: of each row of its blocks, the sixteen blocks.
#[inline(always)]
pub(super) fn words16(block: &[[u8; 16]; 16]) -> [[u32; 16]; 4] {
    let mut words = [[0; 16]; 4];
    for (y, row) in block.iter().enumerate() {
        for (x, four) in row.as_chunks::<4>().0.iter().enumerate() {
            words[y % 4][y / 4 * 4 + x] = u32::from_le_bytes(*four);
        }
    }
    words
}

#[inline(always)]
pub(super) fn unwords16(words: &[[u32; 16]; 4]) -> [[u8; 16]; 16] {
    let mut block = [[0; 16]; 16];
    for (y, row) in block.iter_mut().enumerate() {
        for (x, four) in row.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            *four = words[y % 4][y / 4 * 4 + x].to_le_bytes();
        }
    }
    block
}

/// The same of two colours.
#[inline(always)]
pub(super) fn words8(blocks: &[[[u8; 8]; 8]; 2]) -> [[u32; 8]; 4] {
    let mut words = [[0; 8]; 4];
    for (plane, block) in blocks.iter().enumerate() {
        for (y, row) in block.iter().enumerate() {
            for (x, four) in row.as_chunks::<4>().0.iter().enumerate() {
                words[y % 4][plane * 4 + y / 4 * 2 + x] = u32::from_le_bytes(*four);
            }
        }
    }
    words
}

#[inline(always)]
pub(super) fn unwords8(words: &[[u32; 8]; 4]) -> [[[u8; 8]; 8]; 2] {
    let mut blocks = [[[0; 8]; 8]; 2];
    for (plane, block) in blocks.iter_mut().enumerate() {
        for (y, row) in block.iter_mut().enumerate() {
            for (x, four) in row.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                *four = words[y % 4][plane * 4 + y / 4 * 2 + x].to_le_bytes();
            }
        }
    }
    blocks
}

#[inline(always)]
pub(super) fn apart16(a: &[[u8; 16]; 16], b: &[[u8; 16]; 16]) -> Blocks<16> {
    transform::apart(&words16(a), &words16(b))
}

#[inline(always)]
pub(super) fn apart8(a: &[[[u8; 8]; 8]; 2], b: &[[[u8; 8]; 8]; 2]) -> Blocks<8> {
    transform::apart(&words8(a), &words8(b))
}

#[inline(always)]
pub(super) fn together(guess: u8, apart: i16) -> u8 {
    (i16::from(guess) + apart).clamp(0, 255) as u8
}

#[inline(always)]
pub(super) fn together16(guess: &[[u8; 16]; 16], apart: &Blocks<16>) -> [[u8; 16]; 16] {
    unwords16(&transform::together(&words16(guess), apart))
}
