//! Some rows of macroblocks as they are written: a slice, which needs nothing of the others in its picture.

use super::{Mb, NOTHING, Plan, fineness_there, finer_than};
use crate::bits::BitWriter;
use crate::differ::texture;
use crate::motion::Motion;
use crate::plane::Frame;
use crate::rate::{COARSEST, FINEST, Share};

/// What is written of a band. Nothing of two of them shares a line of the processor's memory, which would go to and fro between
/// the threads that write them.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Slice {
    pub(super) bits: BitWriter,
    pub(super) key: bool,
    pub(super) skipped: u32,
    pub(super) last_qp: u8,
    /// Bits of what is new.
    pub(super) coded: usize,
    /// Macroblocks that were made finer, and bits of that.
    pub(super) finer: usize,
    pub(super) finer_bits: usize,
}

impl Slice {
    pub(super) fn begin(&mut self, key: bool, qp: u8) {
        let mut bits = std::mem::take(&mut self.bits);
        bits.clear();
        *self = Self { bits, key, last_qp: qp, ..Self::default() };
    }
}

/// A band under way. Rows count from its first one, in all that is its own.
pub(super) struct Band<'a> {
    /// The whole picture as it was given, and the one before as a decoder sees it.
    pub(super) now: &'a Frame,
    pub(super) seen: &'a Frame,
    pub(super) fineness_before: &'a [u8],
    pub(super) across: usize,
    /// Rows of macroblocks in the whole picture.
    pub(super) down: usize,
    /// Those above it.
    pub(super) top: usize,
    pub(super) effort: u64,
    pub(super) share: Share,
    /// Whether most of the picture is new.
    pub(super) busy: bool,
    pub(super) made: Frame<&'a mut [u8]>,
    pub(super) mbs: &'a mut [Mb],
    pub(super) plans: &'a [Plan],
    pub(super) motions: &'a mut [Motion],
    pub(super) fineness: &'a mut [u8],
    pub(super) touched: &'a mut [bool],
    pub(super) slice: &'a mut Slice,
}

impl Band<'_> {
    pub(super) fn write(&mut self, qp: u8) {
        let (mut said, mut used) = (0u64, 0usize);
        let mut coarser = 0;
        for my in 0..self.plans.len() / self.across {
            for mx in 0..self.across {
                let at = my * self.across + mx;
                let begin = self.slice.bits.len();
                let here = (qp + coarser).min(COARSEST);
                match self.plans[at] {
                    Plan::Same => {
                        self.stays(mx, my, at);
                        continue;
                    }
                    Plan::Finer(way) => {
                        let luma = self.there(mx, my, way);
                        let better = finer_than(self.fineness_there(mx, my, way));
                        self.inter(mx, my, way, &luma, better);
                        self.fineness[at] = better;
                        self.motions[at] = way;
                        self.slice.finer += 1;
                        self.slice.finer_bits += self.slice.bits.len() - begin;
                        continue;
                    }
                    Plan::Moved(way, colours) => {
                        let before = self.fineness_there(mx, my, way);
                        self.moved(mx, my, way, colours, here);
                        // Colours between pixels blur a little, which is made good once it stands still.
                        self.fineness[at] = if colours { before } else { before.max(FINEST + 1) };
                        self.motions[at] = way;
                    }
                    Plan::New(way, differs) => {
                        self.best(mx, my, way, differs, here);
                        self.fineness[at] = here;
                        self.motions[at] = self.mbs[at].motion;
                        said += u64::from(differs);
                    }
                    Plan::Intra => {
                        let block = self.luma_now(mx, my);
                        self.intra(mx, my, &block, u32::MAX, here);
                        self.fineness[at] = here;
                        self.motions[at] = Motion::default();
                        said += u64::from(texture(&block));
                    }
                }
                used += self.slice.bits.len() - begin;
            }
            coarser = self.share.correct(said.min(self.effort), used);
        }
        if self.slice.skipped > 0 {
            self.slice.bits.ue(self.slice.skipped);
        }
        self.slice.coded = used;
    }

    /// A macroblock that is what it was.
    #[inline(always)]
    fn stays(&mut self, mx: usize, my: usize, at: usize) {
        if self.skip_motion(mx, my).is_zero() {
            self.slice.skipped += 1;
        } else {
            self.begin_inter(mx, my, Motion::default(), 0);
        }
        self.mbs[at] = NOTHING;
        if self.touched[at] {
            self.made.copy(self.seen, mx, my, self.top);
            self.touched[at] = false;
        }
        self.motions[at] = Motion::default();
        self.fineness[at] = self.fineness_before[self.top * self.across + at];
    }

    fn fineness_there(&self, mx: usize, my: usize, way: Motion) -> u8 {
        fineness_there(self.fineness_before, (self.across, self.down), (mx, self.top + my), way)
    }

    #[inline(always)]
    pub(super) fn luma_now(&self, mx: usize, my: usize) -> [[u8; 16]; 16] {
        self.now.y.block(mx * 16, (self.top + my) * 16)
    }

    #[inline(always)]
    pub(super) fn colours_now(&self, mx: usize, my: usize) -> [[[u8; 8]; 8]; 2] {
        let (x, y) = (mx * 8, (self.top + my) * 8);
        [self.now.u.block(x, y), self.now.v.block(x, y)]
    }
}
