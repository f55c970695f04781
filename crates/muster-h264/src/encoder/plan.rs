//! What is to be said of a picture: of each macroblock, what happened to it since the one before.

use super::{Encoder, MANY, POOR, Plan, SEARCH_MAX, each, poor, price, split};
use crate::Planes;
use crate::differ::{sad, texture};
use crate::motion::{self, Motion, sad_at};
use crate::plane::Frame;

impl Encoder {
    /// Finds out what happened to each macroblock; gives how much has to be said in each band.
    pub(super) fn plan(&mut self, picture: &Planes<'_>, key: bool) -> Vec<u64> {
        // Where much changed, much likely changes again.
        let bands = if key { self.bands } else { self.bands(self.changed) };
        let (changed, efforts) = self.look(picture, key, bands);
        self.changed = changed;
        if key {
            self.busy = false;
            self.scrolls.forget();
            return efforts;
        }
        let scrolls = if self.many() {
            // Then the pictures change places afterwards, so this one has to be whole.
            for at in 0..self.plans.len() {
                if matches!(self.plans[at], Plan::Same) && !self.taken[at / self.across] {
                    self.now.copy(&self.before, at % self.across, at / self.across, 0);
                }
            }
            self.scrolls.look(&self.now.y, &self.before.y)
        } else {
            self.scrolls.forget();
            Vec::new()
        };
        let rows = self.rows(self.bands(changed));
        let mut top = 0;
        let (across, many, qp) = (self.across, self.many(), self.rate.qp());
        let mut work = Vec::with_capacity(rows.len());
        for (rows, plans) in rows.iter().zip(split(&mut self.plans, &rows, across)) {
            let motions = self.motions.get(top * across..(top + rows) * across).unwrap_or_default();
            let (now, before, seen) = (&self.now, &self.before, &self.seen);
            let scrolls = scrolls.as_slice();
            let (price, poor) = (price(qp) / 2, poor(qp));
            work.push(Search { now, before, seen, scrolls, motions, plans, across, top, many, price, poor, effort: 0 });
            top += rows;
        }
        each(&mut work, Search::run);
        let efforts = work.iter().map(|band| band.effort).collect();
        drop(work);
        self.busy =
            many && self.plans.iter().filter(|plan| matches!(plan, Plan::New(..))).count() * 4 >= self.plans.len();
        efforts
    }

    /// Takes over what has changed; how many macroblocks that are, and how much there is in each band of a key picture.
    fn look(&mut self, picture: &Planes<'_>, key: bool, bands: usize) -> (usize, Vec<u64>) {
        let rows = self.rows(bands);
        let mut plans = split(&mut self.plans, &rows, self.across);
        let mut taken = split(&mut self.taken, &rows, 1);
        let mut top = 0;
        let mut work = Vec::with_capacity(bands);
        for (rows, now) in rows.iter().zip(self.now.bands(&rows)) {
            let (Some(plans), Some(taken)) = (plans.next(), taken.next()) else { break };
            let (before, across) = (&self.before, self.across);
            work.push(Look { picture, before, now, plans, taken, across, top, changed: 0, effort: 0 });
            top += rows;
        }
        each(&mut work, |band| if key { band.key() } else { band.changes() });
        (work.iter().map(|band| band.changed).sum(), work.iter().map(|band| band.effort).collect())
    }

    /// Whether so much has changed that it may have moved as a whole.
    pub(super) const fn many(&self) -> bool {
        self.changed >= MANY
    }

    /// Keeps the picture that was given for the next one.
    pub(super) fn keep(&mut self) {
        if self.many() || self.changed == self.plans.len() {
            std::mem::swap(&mut self.now, &mut self.before);
            return;
        }
        for at in 0..self.plans.len() {
            if !matches!(self.plans[at], Plan::Same) {
                self.before.copy(&self.now, at % self.across, at / self.across, 0);
            }
        }
    }
}

/// Some rows of a picture that was given, held against the one before.
struct Look<'a> {
    picture: &'a Planes<'a>,
    before: &'a Frame,
    now: Frame<&'a mut [u8]>,
    plans: &'a mut [Plan],
    taken: &'a mut [bool],
    across: usize,
    top: usize,
    changed: usize,
    effort: u64,
}

impl Look<'_> {
    fn key(&mut self) {
        self.plans.fill(Plan::Intra);
        self.changed = self.plans.len();
        let mut effort = 0;
        for my in 0..self.taken.len() {
            self.now.take_row(self.picture, my, self.top);
            for mx in 0..self.across {
                effort += u64::from(texture(&self.now.y.block(mx * 16, my * 16)));
            }
        }
        self.effort = effort;
    }

    fn changes(&mut self) {
        let mut differs = vec![false; self.across];
        for (my, plans) in self.plans.chunks_mut(self.across).enumerate() {
            self.before.differs(self.picture, self.top + my, &mut differs);
            let count = differs.iter().filter(|differs| **differs).count();
            self.changed += count;
            // Whole lines are copied faster than many pieces of them.
            let whole = count > self.across / 4;
            self.taken[my] = whole;
            if whole {
                self.now.take_row(self.picture, my, self.top);
            }
            for (mx, (plan, differs)) in plans.iter_mut().zip(&differs).enumerate() {
                if *differs && !whole {
                    self.now.take(self.picture, mx, my, self.top);
                }
                *plan = if *differs { Plan::Intra } else { Plan::Same };
            }
        }
    }
}

/// Some rows of a picture, of which is looked for where they were. Rows count from its first one in `plans` and `motions`.
struct Search<'a> {
    now: &'a Frame,
    before: &'a Frame,
    seen: &'a Frame,
    scrolls: &'a [Option<i16>],
    motions: &'a [Motion],
    plans: &'a mut [Plan],
    across: usize,
    top: usize,
    many: bool,
    price: u32,
    poor: u32,
    effort: u64,
}

impl Search<'_> {
    fn run(&mut self) {
        let mut effort = 0;
        for my in 0..self.plans.len() / self.across {
            for mx in 0..self.across {
                let scroll = self.scrolls.get(mx * 16 / motion::STRIPE).copied().flatten();
                effort += u64::from(self.plan_one(mx, my, scroll));
            }
        }
        self.effort = effort;
    }

    /// Whether a macroblock's brightness is what it was a way of whole pixels off, and whether its colours are.
    #[inline(always)]
    fn is_moved(&self, mx: usize, my: usize, way: Motion) -> Option<bool> {
        let my = self.top + my;
        let from = motion::origin(&self.before.y, mx * 16, my * 16, way)?;
        if !self.now.y.same::<16>((mx * 16, my * 16), &self.before.y, from) {
            return None;
        }
        let colours = way.x & 7 == 0 && way.y & 7 == 0 && {
            let (half, from) = ((mx * 8, my * 8), (from.0 / 2, from.1 / 2));
            self.now.u.same::<8>(half, &self.before.u, from) && self.now.v.same::<8>(half, &self.before.v, from)
        };
        Some(colours)
    }

    #[inline(always)]
    fn planned(&self, mx: Option<usize>, my: Option<usize>) -> Motion {
        let (Some(mx), Some(my)) = (mx, my) else { return Motion::default() };
        match self.plans.get(my * self.across + mx) {
            Some(Plan::Moved(way, _) | Plan::New(way, _)) if mx < self.across => *way,
            _ => Motion::default(),
        }
    }

    fn plan_one(&mut self, mx: usize, my: usize, scroll: Option<i16>) -> u32 {
        let at = my * self.across + mx;
        let same = matches!(self.plans[at], Plan::Same);
        let left = self.planned(mx.checked_sub(1), Some(my));
        if same && left.is_zero() {
            return 0;
        }
        let above = self.planned(Some(mx), my.checked_sub(1));
        let scroll = scroll.map_or(left, |rows| Motion::new(0, rows.saturating_mul(4)));
        if same {
            // Where all around it moves, a block that looks the same in both places is said in fewer bits to move as well.
            if self.many
                && left == above
                && left.is_whole()
                && let Some(true) = self.is_moved(mx, my, left)
            {
                self.plans[at] = Plan::Moved(left, true);
            }
            return 0;
        }
        let right = self.planned(Some(mx + 1), my.checked_sub(1));
        for way in [scroll, left, above] {
            if way.is_whole()
                && !way.is_zero()
                && let Some(colours) = self.is_moved(mx, my, way)
            {
                self.plans[at] = Plan::Moved(way, colours);
                return 0;
            }
        }
        let block = self.now.y.block::<16, 16>(mx * 16, (self.top + my) * 16);
        let ways = [scroll, left, above, self.motions[at], Motion::default(), right];
        let texture = texture(&block);
        let (way, differs) = self.search(&block, texture, mx, my, &ways, Motion::middle(left, above, right));
        self.plans[at] = Plan::New(way, differs);
        if differs > POOR { differs.min(texture) } else { differs }
    }

    /// Where a block was before, starting from guesses in whole pixels, and how much it differs from that; ways that are
    /// unlike the likely one have to be worth the bits they take.
    fn search(
        &self,
        block: &[[u8; 16]; 16],
        texture: u32,
        mx: usize,
        my: usize,
        guesses: &[Motion],
        likely: Motion,
    ) -> (Motion, u32) {
        let (x, y) = (mx * 16, (self.top + my) * 16);
        let plane = &self.seen.y;
        let (price, poor) = (self.price, self.poor);
        let mut best = Found { way: Motion::default(), cost: u32::MAX, differs: u32::MAX };
        let whole = |way: Motion, best: &mut Found| {
            if let Some((left, top)) = motion::origin(plane, x, y, way) {
                let said = price * way.len_from(likely);
                let differs = sad_at(block, plane, left, top, best.cost.saturating_sub(said));
                best.take(way, differs, said);
            }
        };
        for (index, guess) in guesses.iter().enumerate() {
            if !guesses[..index].contains(guess) {
                whole(guess.rounded(), &mut best);
            }
        }
        let mut last = best.way;
        for _ in 0..SEARCH_MAX {
            let from = best.way;
            if best.differs < POOR / 2 {
                break;
            }
            for (dx, dy) in [(0, -4), (-4, 0), (4, 0), (0, 4)] {
                // Where it came from it does not look again.
                let way = from.plus(dx, dy);
                if way != last {
                    whole(way, &mut best);
                }
            }
            if best.way == from {
                break;
            }
            last = from;
        }
        // A block in which there is hardly more than it differs by will go by its neighbours: parts of a pixel do not help.
        if best.differs >= poor
            && best.differs < texture / 4 * 3
            && let Some((step, differs)) = motion::between(block, plane, x, y, best.way, price, likely)
        {
            let way = best.way.plus(step.x, step.y);
            best.take(way, differs, price * way.len_from(likely));
            // Where its neighbours went exactly is where it likely went.
            if !likely.is_whole()
                && likely != best.way
                && let Some(place) = motion::origin(plane, x, y, likely)
            {
                best.take(likely, sad(block, &motion::luma(plane, place, likely)), price * likely.len_from(likely));
            }
        }
        (best.way, best.differs)
    }
}

/// The best of the ways that were tried.
struct Found {
    way: Motion,
    cost: u32,
    differs: u32,
}

impl Found {
    #[inline(always)]
    fn take(&mut self, way: Motion, differs: u32, said: u32) {
        let cost = differs.saturating_add(said);
        if cost < self.cost {
            *self = Self { way, cost, differs };
        }
    }
}
