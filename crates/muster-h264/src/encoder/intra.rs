//! Macroblocks by their neighbours in the same picture.

use super::band::Band;
use super::levels::{apart16, together, together16};
use super::{Care, Mb, NOTHING, poor, price, qp_step, raster};
use crate::cavlc::{Part, residual};
use crate::differ::sad;
use crate::predict::{Around, Flow, Near, SLANTED, WAY_MEAN, WAYS, rows};
use crate::tables::CBP_INTRA;
use crate::transform::{self, Quant, ZIGZAG, one};

impl Band<'_> {
    /// A macroblock by its neighbours, if that costs less than `limit`; whether it did.
    pub(super) fn intra(&mut self, mx: usize, my: usize, block: &[[u8; 16]; 16], limit: u32, qp: u8) -> bool {
        let price = price(qp);
        let around = Around::<16>::of(&self.made.y, mx * 16, my * 16);
        let (mut flow, mut least, mut guess) = (Flow::Mean, u32::MAX, [[0; 16]; 16]);
        for way in [Flow::Mean, Flow::Down, Flow::Across, Flow::Slope] {
            if way.possible(around.left.is_some(), around.above.is_some()) {
                let this = around.flow(way);
                let cost = sad(block, &this);
                if cost < least {
                    (flow, least, guess) = (way, cost, this);
                }
            }
        }
        let least = least + price * if self.slice.key { 4 } else { 8 };
        let quant = Quant::new(qp);
        let care = Care::of(self.busy);
        let fine = (least > poor(qp) * care.poor && least < (limit / 2).saturating_mul(care.whole))
            .then(|| self.one_by_one(mx, my, block, least.min(limit), &quant))
            .flatten();
        if fine.is_none() && least >= limit {
            return false;
        }
        let (flow_chroma, u, v) = self.chroma_guess(mx, my);
        let chroma = self.chroma_levels(mx, my, &u, &v, qp, true);
        self.end_run();
        let kind_base = if self.slice.key { 0 } else { 5 };
        let at = my * self.across + mx;
        match fine {
            Some(fine) => {
                let pattern = fine.pattern() | chroma.pattern << 4;
                self.slice.bits.ue(kind_base);
                for index in 0..16 {
                    let cell = raster(index);
                    let likely = self.likely_way(mx, my, &fine.ways, cell);
                    let way = fine.ways[cell];
                    self.slice.bits.flag(way == likely);
                    if way != likely {
                        self.slice.bits.put(3, u32::from(way) - u32::from(way > likely));
                    }
                }
                self.slice.bits.ue(flow_chroma.chroma());
                self.slice.bits.ue(u32::from(CBP_INTRA[pattern as usize]));
                self.mbs[at] = Mb { intra: true, ways: fine.ways, ..NOTHING };
                if pattern != 0 {
                    self.change_qp(qp);
                    let level = |cell: usize, at: usize| fine.levels[cell][one::ORDER[at]];
                    self.write_luma(mx, my, &fine.masks, level, pattern, Part::Whole);
                    self.write_chroma(mx, my, &chroma);
                }
                self.made.y.put(mx * 16, my * 16, &fine.made);
            }
            None => {
                let mut luma = apart16(block, &guess);
                transform::forward(&mut luma);
                let (dc, back) = transform::luma_dc(&luma[0], &quant);
                luma[0] = [0; 16];
                let any = transform::quantise(&mut luma, &quant, true);
                let all = any.iter().any(|any| *any != 0);
                let pattern = if all { 15 } else { 0 };
                self.slice.bits.ue(kind_base + 1 + flow.luma() + 4 * chroma.pattern + if all { 12 } else { 0 });
                self.slice.bits.ue(flow_chroma.chroma());
                self.change_qp(qp);
                self.mbs[at] = Mb { intra: true, ..NOTHING };
                let near = self.near_luma(mx, my, 0);
                let level = |at: usize| dc[ZIGZAG[at]];
                let mask = (0..16).fold(0, |mask, at| mask | u32::from(level(at) != 0) << at);
                residual(&mut self.slice.bits, mask, level, Part::Whole, near);
                let level = |cell: usize, at: usize| luma[ZIGZAG[at]][cell];
                self.write_luma(mx, my, &transform::masks(&luma), level, pattern, Part::Ac);
                self.write_chroma(mx, my, &chroma);
                transform::restore(&mut luma, &quant);
                luma[0] = back;
                transform::inverse(&mut luma);
                self.made.y.put(mx * 16, my * 16, &together16(&guess, &luma));
            }
        }
        self.put_chroma(mx, my, &u, &v, &chroma, qp);
        self.touched[at] = true;
        true
    }

    /// How a block of four by four likely continues its neighbours (8.3.1.1).
    #[inline(always)]
    pub(super) fn likely_way(&self, mx: usize, my: usize, ways: &[u8; 16], cell: usize) -> u8 {
        let (row, column) = (cell / 4, cell % 4);
        // Blocks that do not go one by one count as the mean; where there is no block, everything is the mean.
        let left = if column > 0 {
            Some(ways[cell - 1])
        } else {
            self.neighbour(mx.checked_sub(1), Some(my)).map(|mb| mb.ways[row * 4 + 3])
        };
        let above = if row > 0 {
            Some(ways[cell - 4])
        } else {
            self.neighbour(Some(mx), my.checked_sub(1)).map(|mb| mb.ways[12 + column])
        };
        match (left, above) {
            (Some(left), Some(above)) => left.min(above),
            _ => WAY_MEAN,
        }
    }

    /// The sixteen blocks of a macroblock one by one, each by those before it, if all cost less than `limit`.
    pub(super) fn one_by_one(
        &self,
        mx: usize,
        my: usize,
        block: &[[u8; 16]; 16],
        limit: u32,
        quant: &Quant,
    ) -> Option<Fine> {
        let (x, y) = (mx * 16, my * 16);
        let plane = &self.made.y;
        // The macroblock with the row above it (and what is right of that) and the column left of it.
        let mut field = [[0u8; 21]; 17];
        if my > 0 {
            field[0][1..17].copy_from_slice(plane.run::<16>(x, y - 1));
            if mx + 1 < self.across {
                field[0][17..21].copy_from_slice(plane.run::<4>(x + 16, y - 1));
            }
            if mx > 0 {
                field[0][0] = plane.run::<1>(x - 1, y - 1)[0];
            }
        }
        if mx > 0 {
            for (row, line) in field.iter_mut().skip(1).enumerate() {
                line[0] = plane.run::<1>(x - 1, y + row)[0];
            }
        }
        let (price, scales) = (price(quant.qp()), one::Scales::new(quant));
        let enough = price * 4 + Care::of(self.busy).steps * u32::from(qp_step(quant.qp()));
        let mut cost = price * 2;
        let mut fine = Fine { ways: [WAY_MEAN; 16], levels: [[0; 16]; 16], masks: [0; 16], made: [[0; 16]; 16] };
        for index in 0..16 {
            let cell = raster(index);
            let (bx, by) = (cell % 4 * 4, cell / 4 * 4);
            let near = near(&field, cell, mx, my, self.across);
            let source = cell_of(block, cell);
            let likely = self.likely_way(mx, my, &fine.ways, cell);
            let (mut best, mut least, mut guess) = (WAY_MEAN, u32::MAX, [0; 16]);
            for way in 0..WAYS {
                // What the straight ways leave over is hardly said.
                if way == SLANTED && least < enough {
                    break;
                }
                let Some(this) = near.way(way) else { continue };
                let cost = sad(&[source], &[this]) + price * if way == likely { 1 } else { 4 };
                if cost < least {
                    (best, least, guess) = (way, cost, this);
                }
            }
            cost += least;
            if cost >= limit {
                return None;
            }
            fine.ways[cell] = best;
            let differences = std::array::from_fn(|place| i16::from(source[place]) - i16::from(guess[place]));
            let (levels, any) = one::levels(&differences, &scales);
            let mut made = guess;
            if any != 0 {
                fine.masks[cell] = one::mask(&levels);
                fine.levels[cell] = levels;
                let back = one::differences(&levels, &scales);
                made = std::array::from_fn(|place| together(guess[place], back[place]));
            }
            for (row, line) in made.as_chunks::<4>().0.iter().enumerate() {
                field[1 + by + row][1 + bx..5 + bx].copy_from_slice(line);
                fine.made[by + row][bx..bx + 4].copy_from_slice(line);
            }
        }
        Some(fine)
    }

    pub(super) fn chroma_guess(&self, mx: usize, my: usize) -> (Flow, [[u8; 8]; 8], [[u8; 8]; 8]) {
        let (x, y) = (mx * 8, my * 8);
        let [u, v] = self.colours_now(mx, my);
        let around = (Around::<8>::of(&self.made.u, x, y), Around::<8>::of(&self.made.v, x, y));
        let (mut flow, mut least) = (Flow::Mean, u32::MAX);
        let mut guess = ([[0; 8]; 8], [[0; 8]; 8]);
        for way in [Flow::Mean, Flow::Across, Flow::Down, Flow::Slope] {
            if way.possible(mx > 0, my > 0) {
                let this = (around.0.flow(way), around.1.flow(way));
                let cost = sad(&u, &this.0) + sad(&v, &this.1);
                if cost < least {
                    (flow, least, guess) = (way, cost, this);
                }
            }
        }
        (flow, guess.0, guess.1)
    }
}

/// One of the sixteen blocks, row by row.
#[inline(always)]
fn cell_of(block: &[[u8; 16]; 16], cell: usize) -> [u8; 16] {
    let mut one = [[0; 4]; 4];
    for (one, row) in one.iter_mut().zip(&block[cell / 4 * 4..][..4]) {
        *one = row.as_chunks::<4>().0[cell % 4];
    }
    rows(one)
}

/// A macroblock whose blocks go one by one.
pub(super) struct Fine {
    pub(super) ways: [u8; 16],
    /// Of each block, as a block alone is kept.
    pub(super) levels: [[i16; 16]; 16],
    /// Which places of each hold any, in the order of the zigzag.
    pub(super) masks: [u16; 16],
    pub(super) made: [[u8; 16]; 16],
}

impl Fine {
    /// Which quarters have anything.
    #[inline(always)]
    pub(super) fn pattern(&self) -> u32 {
        (0..16).fold(0, |pattern, index| pattern | u32::from(self.masks[raster(index)] != 0) << (index / 4))
    }
}

/// What surrounds one of sixteen blocks, where it has been sent already.
#[inline(always)]
pub(super) fn near(field: &[[u8; 21]; 17], cell: usize, mx: usize, my: usize, across: usize) -> Near {
    let (row, column) = (cell / 4, cell % 4);
    let (x, y) = (1 + column * 4, 1 + row * 4);
    let above = (row > 0 || my > 0).then(|| {
        let right = match (row, column) {
            (0, 3) => mx + 1 < across,
            (0, _) => true,
            (_, 3) => false,
            // Blocks are sent in quarters.
            (2, _) => true,
            (_, 1) => false,
            _ => true,
        };
        let line = &field[y - 1];
        std::array::from_fn(|at| if at < 4 || right { line[x + at] } else { line[x + 3] })
    });
    let left = (column > 0 || mx > 0).then(|| std::array::from_fn(|at| field[y + at][x - 1]));
    Near::new(above, left, field[y - 1][x - 1])
}
