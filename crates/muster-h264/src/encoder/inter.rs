//! Macroblocks by what was there in the picture before.

use super::band::Band;
use super::levels::{Levels, apart16};
use super::{Care, Mb, NOTHING, POOR, price, qp_step};
use crate::cavlc::Part;
use crate::differ::{sad, texture};
use crate::motion::{self, Motion};
use crate::tables::CBP_INTER;
use crate::transform::{self, Quant, ZIGZAG};

impl Band<'_> {
    #[inline(always)]
    pub(super) fn neighbour(&self, mx: Option<usize>, my: Option<usize>) -> Option<&Mb> {
        let (mx, my) = (mx?, my?);
        (mx < self.across).then(|| self.mbs.get(my * self.across + mx))?
    }

    /// The way that a macroblock's neighbours suggest (8.4.1.3).
    pub(super) fn likely_motion(&self, mx: usize, my: usize) -> Motion {
        let (left, up) = (mx.checked_sub(1), my.checked_sub(1));
        let a = self.neighbour(left, Some(my));
        let b = self.neighbour(Some(mx), up);
        let c = self.neighbour(Some(mx + 1), up).or_else(|| self.neighbour(left, up));
        let of = |mb: Option<&Mb>| mb.filter(|mb| !mb.intra).map(|mb| mb.motion);
        if b.is_none() && c.is_none() {
            return of(a).unwrap_or_default();
        }
        match (of(a), of(b), of(c)) {
            (Some(only), None, None) | (None, Some(only), None) | (None, None, Some(only)) => only,
            (a, b, c) => {
                let (a, b, c) = (a.unwrap_or_default(), b.unwrap_or_default(), c.unwrap_or_default());
                Motion::middle(a, b, c)
            }
        }
    }

    /// The way that a macroblock goes of which nothing is said (8.4.1.1).
    #[inline(always)]
    pub(super) fn skip_motion(&self, mx: usize, my: usize) -> Motion {
        let still = |mb: Option<&Mb>| mb.is_none_or(|mb| !mb.intra && mb.motion.is_zero());
        if still(self.neighbour(mx.checked_sub(1), Some(my))) || still(self.neighbour(Some(mx), my.checked_sub(1))) {
            return Motion::default();
        }
        self.likely_motion(mx, my)
    }

    /// Ends a run of macroblocks of which nothing is said.
    #[inline(always)]
    pub(super) fn end_run(&mut self) {
        if !self.slice.key {
            self.slice.bits.ue(self.slice.skipped);
            self.slice.skipped = 0;
        }
    }

    /// A macroblock that was elsewhere, up to its differences.
    #[inline(always)]
    pub(super) fn begin_inter(&mut self, mx: usize, my: usize, way: Motion, pattern: u32) {
        let likely = self.likely_motion(mx, my);
        self.end_run();
        let bits = &mut self.slice.bits;
        bits.ue(0);
        bits.se(i32::from(way.x) - i32::from(likely.x));
        bits.se(i32::from(way.y) - i32::from(likely.y));
        bits.ue(u32::from(CBP_INTER[pattern as usize]));
    }

    /// A macroblock by what was elsewhere and how it differs.
    pub(super) fn inter(&mut self, mx: usize, my: usize, way: Motion, luma: &[[u8; 16]; 16], qp: u8) {
        let (u, v) = self.colours_there(mx, my, way);
        let quant = Quant::new(qp);
        let mut levels = Levels::none();
        levels.luma = apart16(&self.luma_now(mx, my), luma);
        transform::forward(&mut levels.luma);
        levels.luma_any = transform::quantise(&mut levels.luma, &quant, false);
        levels.luma_masks = transform::masks(&levels.luma);
        let mut pattern = levels.luma_pattern();
        levels.chroma = self.chroma_levels(mx, my, &u, &v, qp, false);
        pattern |= levels.chroma.pattern << 4;
        self.say_inter(mx, my, way, &levels, pattern, qp);
        if pattern & 15 == 0 {
            self.made.y.put(mx * 16, my * 16, luma);
        } else {
            self.made.y.put(mx * 16, my * 16, &levels.luma_back(luma, pattern, &quant));
        }
        self.put_chroma(mx, my, &u, &v, &levels.chroma, qp);
    }

    /// A macroblock whose brightness is what was elsewhere, a way of whole pixels off; if so told its colours too.
    pub(super) fn moved(&mut self, mx: usize, my: usize, way: Motion, colours: bool, qp: u8) {
        let (luma, chroma) = ((mx * 16, my * 16), (mx * 8, my * 8));
        let from = self.place(mx, my, way);
        self.made.y.copy::<16>(luma, &self.seen.y, from);
        let mut levels = Levels::none();
        if colours {
            let from = (from.0 / 2, from.1 / 2);
            self.made.u.copy::<8>(chroma, &self.seen.u, from);
            self.made.v.copy::<8>(chroma, &self.seen.v, from);
            self.say_inter(mx, my, way, &levels, 0, qp);
            return;
        }
        let (u, v) = self.colours_there(mx, my, way);
        if self.colours_differ(mx, my, &u, &v, qp) {
            levels.chroma = self.chroma_levels(mx, my, &u, &v, qp, false);
        }
        self.say_inter(mx, my, way, &levels, levels.chroma.pattern << 4, qp);
        self.put_chroma(mx, my, &u, &v, &levels.chroma, qp);
    }

    #[inline(always)]
    fn colours_there(&self, mx: usize, my: usize, way: Motion) -> ([[u8; 8]; 8], [[u8; 8]; 8]) {
        let (x, y) = (mx * 8, (self.top + my) * 8);
        (motion::chroma(&self.seen.u, x, y, way), motion::chroma(&self.seen.v, x, y, way))
    }

    #[inline(always)]
    fn say_inter(&mut self, mx: usize, my: usize, way: Motion, levels: &Levels, pattern: u32, qp: u8) {
        let at = my * self.across + mx;
        self.touched[at] = true;
        let silent = pattern == 0 && way == self.skip_motion(mx, my);
        if !silent {
            self.begin_inter(mx, my, way, pattern);
        }
        self.mbs[at] = Mb { motion: way, ..NOTHING };
        if silent {
            self.slice.skipped += 1;
        } else if pattern != 0 {
            self.change_qp(qp);
            let level = |cell: usize, at: usize| levels.luma[ZIGZAG[at]][cell];
            self.write_luma(mx, my, &levels.luma_masks, level, pattern, Part::Whole);
            self.write_chroma(mx, my, &levels.chroma);
        }
    }

    #[inline(always)]
    pub(super) fn change_qp(&mut self, qp: u8) {
        // Told modulo 52, from -26 to 25 (7.4.5).
        let step = i32::from(qp) - i32::from(self.slice.last_qp);
        self.slice.bits.se((step + 26).rem_euclid(52) - 26);
        self.slice.last_qp = qp;
    }

    /// Whether a moved macroblock's colours are off by more than a quarter of a step, in the mean.
    fn colours_differ(&self, mx: usize, my: usize, u: &[[u8; 8]; 8], v: &[[u8; 8]; 8], qp: u8) -> bool {
        let [u_now, v_now] = self.colours_now(mx, my);
        let differs = sad(&u_now, u) + sad(&v_now, v);
        differs > u32::from(qp_step(transform::chroma_qp(qp))) * 32
    }

    /// A macroblock in whichever way takes the fewest bits.
    pub(super) fn best(&mut self, mx: usize, my: usize, way: Motion, differs: u32, qp: u8) {
        let price = price(qp);
        let (likely, silent) = (self.likely_motion(mx, my), self.skip_motion(mx, my));
        let block = self.luma_now(mx, my);
        let (mut way, mut cost) = (way, differs + price * (way.len_from(likely) + 2));
        let mut luma = self.there(mx, my, way);
        if silent != way && motion::origin(&self.seen.y, mx * 16, (self.top + my) * 16, silent).is_some() {
            // The way of which nothing need be said may differ a little more.
            let guess = self.there(mx, my, silent);
            let differs = sad(&block, &guess);
            if differs <= cost {
                (way, cost, luma) = (silent, differs, guess);
            }
        }
        if differs > POOR
            && texture(&block) < cost / 4 * Care::of(self.busy).texture
            && self.intra(mx, my, &block, cost, qp)
        {
            return;
        }
        self.inter(mx, my, way, &luma, qp);
    }

    /// A macroblock's brightness as it was, some way off.
    pub(super) fn there(&self, mx: usize, my: usize, way: Motion) -> [[u8; 16]; 16] {
        motion::luma(&self.seen.y, self.place(mx, my, way), way)
    }

    /// Where a macroblock was.
    #[inline(always)]
    fn place(&self, mx: usize, my: usize, way: Motion) -> (usize, usize) {
        let here = (mx * 16, (self.top + my) * 16);
        // Only ways that stay in the picture are ever taken.
        motion::origin(&self.seen.y, here.0, here.1, way).unwrap_or(here)
    }
}
