//! From pictures to frames: what is said of each macroblock, and how.

mod band;
mod inter;
mod intra;
mod levels;
mod plan;

use std::time::Duration;

use rayon::iter::{IndexedParallelIterator as _, IntoParallelRefMutIterator as _, ParallelIterator as _};

use self::band::{Band, Slice};
use crate::bits::nal;
use crate::headers;
use crate::motion::{Motion, Scrolls};
use crate::plane::Frame;
use crate::predict::WAY_MEAN;
use crate::rate::{COARSEST, FINEST, Rate};

/// The longest side of a picture in pixels.
const SIDE_MAX: usize = 8_192;
/// From so many changed macroblocks on it is looked whether the picture scrolls, and several threads work on it.
const MANY: usize = 200;
/// A thread has at least so many rows of macroblocks to itself.
const BAND_ROWS: usize = 8;
/// A difference of so much in a macroblock is worth looking for something better.
const POOR: u32 = 512;
/// Macroblocks that are made finer in a picture that shows something new, and bits of each before it is known.
const FINER_MAX: usize = 240;
/// By how much a macroblock becomes finer at once.
const FINER_STEP: u8 = 9;
/// What moves is made finer only where it is so much coarser than the finest.
const MOVED_FINE: u8 = 6;
/// No search for where a block was goes on for more steps.
const SEARCH_MAX: usize = 24;

/// A picture in I420: whole rows without gaps, colours at half the size.
#[derive(Clone, Copy, Debug)]
pub struct Planes<'a> {
    /// Pixels across; even.
    pub width: usize,
    /// Pixels down; even.
    pub height: usize,
    /// Brightness, `width * height`.
    pub y: &'a [u8],
    /// Blue, a quarter of that.
    pub u: &'a [u8],
    /// Red, likewise.
    pub v: &'a [u8],
}

/// A picture that cannot be encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a picture of {width}×{height} with {bytes} bytes of brightness: sides are even, 2 to {SIDE_MAX} pixels, and planes complete"
)]
pub struct SizeError {
    width: usize,
    height: usize,
    bytes: usize,
}

/// A picture as it is sent.
#[derive(Clone, Debug)]
pub struct Coded {
    /// NAL units with start codes.
    pub bytes: Vec<u8>,
    /// Whether it needs none before it.
    pub key: bool,
    /// Whether everything that stands still has been sent as finely as it ever will be.
    pub settled: bool,
}

/// What is remembered of a macroblock for those after it.
#[derive(Clone, Copy, Debug)]
struct Mb {
    intra: bool,
    motion: Motion,
    /// Coefficients of each block: sixteen of brightness row by row, four of each colour.
    counts: [u8; 24],
    /// How blocks continue their neighbours, for those that do one by one; else the mean, as far as others are concerned.
    ways: [u8; 16],
}

const NOTHING: Mb = Mb { intra: false, motion: Motion::new(0, 0), counts: [0; 24], ways: [WAY_MEAN; 16] };

/// What was found out about a macroblock before anything is written.
#[derive(Clone, Copy, Debug)]
enum Plan {
    /// It is what it was.
    Same,
    /// Its brightness is what it was elsewhere, and if so told its colours too.
    Moved(Motion, bool),
    /// It is what it was, here or elsewhere, and is made finer.
    Finer(Motion),
    /// It differs by so much from what was there.
    New(Motion, u32),
    /// Only its neighbours are to be gone by.
    Intra,
}

/// Encodes one picture after the other.
#[derive(Debug)]
pub struct Encoder {
    width: usize,
    height: usize,
    across: usize,
    down: usize,
    /// In how many bands a picture is encoded of which much changed, each on a thread.
    bands: usize,
    /// The picture under way (where it differs from the one before) and the one before, as they were given.
    now: Frame,
    before: Frame,
    /// The same as a decoder sees them.
    made: Frame,
    seen: Frame,
    mbs: Vec<Mb>,
    plans: Vec<Plan>,
    motions: Vec<Motion>,
    /// How finely each macroblock was sent.
    fineness: Vec<u8>,
    fineness_before: Vec<u8>,
    /// Whether a macroblock of the picture before was sent anew, so that `made` is older there.
    touched: Vec<bool>,
    /// Which rows of macroblocks were taken over whole.
    taken: Vec<bool>,
    /// How many macroblocks are not what they were.
    changed: usize,
    /// Whether a quarter of them or more was nowhere before: then each is looked at less.
    busy: bool,
    scrolls: Scrolls,
    /// Where it goes on to make finer what stands still.
    finer_at: usize,
    finer_bits: f64,
    rate: Rate,
    number: u32,
    key_id: u32,
    started: bool,
    /// Whether the next key picture is for somebody who sees none yet.
    hasty: bool,
    slices: Vec<Slice>,
}

impl Encoder {
    /// For pictures of this size, at so many bits a second.
    ///
    /// # Errors
    /// A side is odd, zero or too long.
    pub fn new(width: usize, height: usize, bps: u32) -> Result<Self, SizeError> {
        let good = |side: usize| (2..=SIDE_MAX).contains(&side) && side.is_multiple_of(2);
        if !good(width) || !good(height) {
            return Err(SizeError { width, height, bytes: 0 });
        }
        let (across, down) = (width.div_ceil(16), height.div_ceil(16));
        let frame = Frame::new(across, down);
        let count = across * down;
        Ok(Self {
            width,
            height,
            across,
            down,
            bands: 1,
            now: frame.clone(),
            before: frame.clone(),
            made: frame.clone(),
            seen: frame,
            mbs: vec![NOTHING; count],
            plans: vec![Plan::Intra; count],
            motions: vec![Motion::default(); count],
            fineness: vec![COARSEST; count],
            fineness_before: vec![COARSEST; count],
            touched: vec![true; count],
            taken: vec![false; down],
            changed: 0,
            busy: false,
            scrolls: Scrolls::default(),
            finer_at: 0,
            finer_bits: 160.0,
            rate: Rate::new(bps),
            number: 0,
            key_id: 0,
            started: false,
            hasty: false,
            slices: Vec::new(),
        })
    }

    /// Encodes pictures of which much changed in so many slices, each on a thread of the rayon pool that this is called in;
    /// small pictures in fewer. What comes out depends on how many there are, and not on who is ready first.
    #[must_use]
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.bands = threads.min(self.down / BAND_ROWS).max(1);
        self
    }

    /// The size that it was made for.
    #[must_use]
    pub const fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    /// So many bits a second from now on.
    pub fn set_bitrate(&mut self, bps: u32) {
        self.rate.set(bps);
    }

    /// The next key picture is for somebody who sees none yet: it is coarser than others and arrives sooner, and the
    /// pictures after it make it fine.
    pub fn hasten(&mut self) {
        self.hasty = true;
    }

    /// Encodes a picture that was taken so long after the last one; with `key` into a frame that needs none before it. The
    /// first one always is.
    ///
    /// # Errors
    /// The picture is not of the size that this was made for, or not complete.
    pub fn encode(&mut self, picture: Planes<'_>, passed: Duration, key: bool) -> Result<Coded, SizeError> {
        let (pixels, quarter) = (self.width * self.height, self.width / 2 * (self.height / 2));
        let complete = picture.y.len() == pixels && picture.u.len() == quarter && picture.v.len() == quarter;
        if (picture.width, picture.height) != self.size() || !complete {
            return Err(SizeError { width: picture.width, height: picture.height, bytes: picture.y.len() });
        }
        let key = key || !self.started;
        self.started = true;
        std::mem::swap(&mut self.made, &mut self.seen);
        let efforts = self.plan(&picture, key);
        let effort = efforts.iter().sum();
        let hasty = key && std::mem::take(&mut self.hasty);
        let qp = self.rate.begin(passed, key, hasty, effort);
        let mut bytes = Vec::new();
        if key {
            headers::sequence(self.width, self.height, &mut bytes);
            (self.number, self.key_id) = (0, (self.key_id + 1) & 1);
        } else {
            self.number = self.number.wrapping_add(1);
        }
        std::mem::swap(&mut self.fineness, &mut self.fineness_before);
        let finer = if key { 0 } else { self.choose_finer(effort) };
        // A picture that shows nothing new is one band, or as many as what is made finer is worth.
        let efforts = if effort == 0 { vec![0; self.bands(finer)] } else { efforts };
        let (mut used, mut coded) = (0, 0);
        for slice in self.write(key, qp, &efforts) {
            used += slice.bits.len();
            coded += slice.coded;
            nal(if key { headers::KEY } else { headers::PICTURE }, slice.bits.finish(), &mut bytes);
        }
        self.keep();
        self.rate.end(used, coded);
        let settled = self.fineness.iter().all(|fineness| *fineness <= FINEST);
        Ok(Coded { bytes, key, settled })
    }

    /// What a decoder shows after the last picture: brightness and colours, in whole macroblocks, for tests.
    #[doc(hidden)]
    #[must_use]
    pub fn shown(&self) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let copy = |plane: &crate::plane::Plane, width: usize, height: usize| -> Vec<u8> {
            (0..height).flat_map(|row| plane.row(row)[..width].iter().copied()).collect()
        };
        let (width, height) = (self.width, self.height);
        (
            copy(&self.made.y, width, height),
            copy(&self.made.u, width / 2, height / 2),
            copy(&self.made.v, width / 2, height / 2),
        )
    }

    /// In how many bands so many macroblocks are worked on.
    const fn bands(&self, work: usize) -> usize {
        if work >= MANY { self.bands } else { 1 }
    }

    /// How many rows of macroblocks each of so many bands has.
    fn rows(&self, bands: usize) -> Vec<usize> {
        (0..bands).map(|band| self.down * (band + 1) / bands - self.down * band / bands).collect()
    }

    /// Chooses what is made finer with the bits that what is new leaves; how many macroblocks that are.
    fn choose_finer(&mut self, effort: u64) -> usize {
        let count = self.plans.len();
        let most = if effort == 0 { count } else { FINER_MAX };
        let room = ((self.rate.spare() / self.finer_bits).max(0.0) as usize).min(most);
        let from = if self.finer_at >= count { 0 } else { self.finer_at };
        let size = (self.across, self.down);
        let (mut chosen, mut at) = (0, 0);
        while chosen < room && at < count {
            let (mx, my) = (at % self.across, at / self.across);
            match self.plans[at] {
                Plan::Same if at >= from && self.fineness_before[at] > FINEST => {
                    self.now.copy(&self.before, mx, my, 0);
                    self.plans[at] = Plan::Finer(Motion::default());
                    self.finer_at = at + 1;
                    chosen += 1;
                }
                Plan::Moved(way, _)
                    if fineness_there(&self.fineness_before, size, (mx, my), way) > FINEST + MOVED_FINE =>
                {
                    self.plans[at] = Plan::Finer(way);
                    chosen += 1;
                }
                _ => {}
            }
            at += 1;
        }
        if chosen < room {
            self.finer_at = 0;
        }
        chosen
    }

    /// Writes the picture, a slice for each band.
    fn write(&mut self, key: bool, qp: u8, efforts: &[u64]) -> &mut [Slice] {
        let bands = efforts.len();
        let rows = self.rows(bands);
        let share = self.rate.share(bands);
        self.slices.resize_with(bands.max(self.slices.len()), Slice::default);
        let (across, down) = (self.across, self.down);
        let mut mbs = split(&mut self.mbs, &rows, across);
        let mut plans = split(&mut self.plans, &rows, across);
        let mut motions = split(&mut self.motions, &rows, across);
        let mut fineness = split(&mut self.fineness, &rows, across);
        let mut touched = split(&mut self.touched, &rows, across);
        let mut made = self.made.bands(&rows).into_iter();
        let mut top = 0;
        let mut work = Vec::with_capacity(bands);
        for ((rows, effort), slice) in rows.iter().zip(efforts).zip(&mut self.slices) {
            let (Some(mbs), Some(plans), Some(motions)) = (mbs.next(), plans.next(), motions.next()) else { break };
            let (Some(fineness), Some(touched), Some(made)) = (fineness.next(), touched.next(), made.next()) else {
                break;
            };
            slice.begin(key, qp);
            headers::slice(&mut slice.bits, top * across, key.then_some(self.key_id), self.number, qp);
            work.push(Band {
                now: &self.now,
                seen: &self.seen,
                fineness_before: &self.fineness_before,
                across,
                down,
                top,
                effort: *effort,
                share,
                busy: self.busy,
                made,
                mbs,
                plans,
                motions,
                fineness,
                touched,
                slice,
            });
            top += rows;
        }
        each(&mut work, |band| band.write(qp));
        drop(work);
        let slices = &mut self.slices[..bands];
        let (done, used) = slices.iter().fold((0, 0), |(done, used), s| (done + s.finer, used + s.finer_bits));
        if let Some(each) = used.checked_div(done) {
            self.finer_bits = self.finer_bits.mul_add(0.5, 0.5 * each as f64).max(8.0);
        }
        slices
    }
}

/// The coarsest of the macroblocks that one was copied from.
fn fineness_there(before: &[u8], (across, down): (usize, usize), (mx, my): (usize, usize), way: Motion) -> u8 {
    let (left, top) = (
        (mx as i32 * 16 + i32::from(way.x >> 2)).max(0) as usize,
        (my as i32 * 16 + i32::from(way.y >> 2)).max(0) as usize,
    );
    let (right, low) = (left.div_ceil(16).min(across - 1), top.div_ceil(16).min(down - 1));
    let cells = (top / 16..=low).flat_map(|y| (left / 16..=right).map(move |x| (x, y)));
    cells.filter_map(|(x, y)| before.get(y * across + x)).copied().max().unwrap_or(COARSEST)
}

/// Parts of what there is for each macroblock, so many rows of them one after the other.
fn split<'a, T>(all: &'a mut [T], rows: &[usize], across: usize) -> impl Iterator<Item = &'a mut [T]> {
    let mut rest = all;
    rows.iter().map(move |rows| {
        let (part, beyond) = std::mem::take(&mut rest).split_at_mut(rows * across);
        rest = beyond;
        part
    })
}

/// Does the same to each of a few, on as many threads as take them; whoever asks takes what nobody else has begun.
fn each<T: Send>(all: &mut [T], work: impl Fn(&mut T) + Sync + Send) {
    match all {
        [one] => work(one),
        some => some.par_iter_mut().with_max_len(1).for_each(work),
    }
}

/// How long something better is looked for where a macroblock is new.
#[derive(Clone, Copy, Debug)]
struct Care {
    /// It is tried by its neighbours where there is less in it than so many quarters of what it costs by what was before.
    texture: u32,
    /// Its blocks are tried one by one where it differs by more than so many times what is poor,
    poor: u32,
    /// and as a whole costs less than so many halves of the other way.
    whole: u32,
    /// They go no way aslant where a straight one leaves less than so many steps.
    steps: u32,
}

impl Care {
    /// Of a page, of which little is new, every bit is looked for; of a game, most of which is, only what is soon found.
    const fn of(busy: bool) -> Self {
        if busy {
            Self { texture: 5, poor: 2, whole: 3, steps: 6 }
        } else {
            Self { texture: 8, poor: 1, whole: u32::MAX, steps: 4 }
        }
    }
}

/// What a bit is worth in differences.
fn price(qp: u8) -> u32 {
    const PRICES: [u8; 40] = [
        1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 6, 6, 7, 8, 9, 10, 11, 13, 14, 16, 18, 20, 23, 25, 29, 32, 36, 40,
        45, 51, 57, 64, 72, 81, 91,
    ];
    PRICES.get(usize::from(qp).saturating_sub(12)).copied().map_or(91, u32::from)
}

/// What a macroblock that is so fine becomes next: much at once for few of them serves less than a little for many.
#[inline(always)]
fn finer_than(qp: u8) -> u8 {
    FINEST.max(qp.saturating_sub(FINER_STEP))
}

/// A difference of so much in a macroblock is worth looking for something better: about a tenth of a step in each place.
#[inline(always)]
fn poor(qp: u8) -> u32 {
    POOR.max(u32::from(qp_step(qp)) * 256 / 10)
}

/// A step of coefficients where blocks are so fine.
#[inline(always)]
fn qp_step(qp: u8) -> u16 {
    const STEPS: [u16; 6] = [10, 11, 13, 14, 16, 18];
    STEPS[usize::from(qp % 6)] * (1 << (qp / 6)) / 16
}

/// The place of the n-th block that is sent, row by row.
#[inline(always)]
const fn raster(index: usize) -> usize {
    (index / 8 * 2 + index % 4 / 2) * 4 + index / 4 % 2 * 2 + index % 2
}
