//! How fine a picture may be: what it is worth in bits, by what those before it were.

use std::time::Duration;

/// The finest and the coarsest.
pub(crate) const FINEST: u8 = 18;
pub(crate) const COARSEST: u8 = 48;
/// A picture may fill the way for so long beyond what it has already; more than that is felt.
/// Two pictures of sixty a second: a program that comes less often is not spread over more of the way for it.
const ROOM: Duration = Duration::from_millis(33);
/// What is only made finer fills it for so long: whatever the program draws next must not wait behind it, nor be coarse for it.
const ROOM_FINER: Duration = Duration::from_millis(20);
/// The first picture of somebody who sees none yet.
const ROOM_HASTY: Duration = Duration::from_millis(50);
/// A picture that needs none before it is much larger, and worth waiting for.
const ROOM_KEY: Duration = Duration::from_millis(160);
/// What no picture goes below, in the time of its share: a way that is full is waited for before a picture is encoded.
const LEAST: Duration = Duration::from_millis(8);
/// A picture may become finer than the one before only by so much, so that moving ones do not pulse.
const FINER_BY: u8 = 3;
/// Parts of the picture for which it is looked at whether they cost what was foreseen.
const SLACK: f64 = 1.25;

/// Bits against time.
#[derive(Clone, Debug)]
pub(crate) struct Rate {
    bps: f64,
    /// Bits that are under way.
    filled: f64,
    /// Bits for each unit of effort where a step is one, of pictures and of key pictures.
    worth: [f64; 2],
    qp: u8,
    /// Of the picture under way.
    key: bool,
    target: f64,
    /// What of that may go to what need not be said now.
    target_finer: f64,
    effort: f64,
}

impl Rate {
    pub(crate) fn new(bps: u32) -> Self {
        let bps = f64::from(bps.max(1));
        Self { bps, filled: 0.0, worth: [2.0, 1.6], qp: 26, key: false, target: 0.0, target_finer: 0.0, effort: 0.0 }
    }

    pub(crate) fn set(&mut self, bps: u32) {
        self.bps = f64::from(bps.max(1));
    }

    /// What the last picture was encoded at.
    pub(crate) const fn qp(&self) -> u8 {
        self.qp
    }

    /// A picture begins, so long after the one before, of which so much has to be said. A hasty one is for somebody who has
    /// no picture yet, and on whose way nothing is: a coarse one now is better than a fine one later.
    pub(crate) fn begin(&mut self, passed: Duration, key: bool, hasty: bool, effort: u64) -> u8 {
        self.filled = (self.filled - self.bps * passed.as_secs_f64()).max(0.0);
        let (room, filled) = match (hasty, key) {
            (true, _) => (ROOM_HASTY, 0.0),
            (false, true) => (ROOM_KEY, self.filled),
            (false, false) => (ROOM, self.filled),
        };
        self.target = self.bps.mul_add(room.as_secs_f64(), -filled).max(self.bps * LEAST.as_secs_f64());
        self.target_finer = self.bps.mul_add(ROOM_FINER.as_secs_f64(), -filled).clamp(0.0, self.target);
        (self.key, self.effort) = (key, effort as f64);
        if effort == 0 {
            return self.qp;
        }
        let wanted = 6.0 * (self.worth[usize::from(key)] * self.effort / self.target).max(1e-6).log2();
        let wanted = wanted.ceil().clamp(f64::from(FINEST), f64::from(COARSEST)) as u8;
        self.qp = if key { wanted } else { wanted.max(self.qp.saturating_sub(FINER_BY)) };
        self.qp
    }

    /// What is likely left of the picture's bits for what need not be said now.
    pub(crate) fn spare(&self) -> f64 {
        self.target_finer - self.foreseen(self.effort)
    }

    fn foreseen(&self, effort: f64) -> f64 {
        self.worth[usize::from(self.key)] * effort / steps(self.qp)
    }

    /// What one of so many bands of the picture may take.
    pub(crate) fn share(&self, bands: usize) -> Share {
        let bands = bands.max(1) as f64;
        let (most, slack) = (self.target * SLACK, self.target * 0.1 / bands);
        if self.effort > 0.0 {
            Share { each: most / self.effort, fixed: slack }
        } else {
            Share { each: 0.0, fixed: most / bands + slack }
        }
    }

    /// So many bits it became.
    pub(crate) fn end(&mut self, bits: usize, coded: usize) {
        self.filled += bits as f64;
        // A few blocks say little about how many bits effort is worth.
        if coded >= 12 && self.effort > 0.0 {
            let seen = coded as f64 * steps(self.qp) / self.effort;
            let worth = &mut self.worth[usize::from(self.key)];
            *worth = (*worth * 0.6 + seen * 0.4).clamp(0.02, 60.0);
        }
    }
}

/// What a band may take: bits for each unit of effort, and those that are there anyway.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    each: f64,
    fixed: f64,
}

impl Share {
    /// How much coarser the rest of the band has to be, with so much said and so many bits used for it.
    pub(crate) fn correct(&self, effort: u64, bits: usize) -> u8 {
        let over = bits as f64 / self.each.mul_add(effort as f64, self.fixed);
        if over <= 1.0 { 0 } else { (over.log2() * 6.0).ceil().min(9.0) as u8 }
    }
}

fn steps(qp: u8) -> f64 {
    2f64.powf(f64::from(qp) / 6.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BPS: u32 = 6_000_000;

    #[test]
    fn what_is_made_finer_leaves_the_way_to_what_comes_next() {
        let mut rate = Rate::new(BPS);
        let most = f64::from(BPS) * ROOM_FINER.as_secs_f64();
        rate.begin(Duration::ZERO, false, false, 0);
        assert!((rate.spare() - most).abs() < 1.0);
        // A picture that fills the way leaves nothing to make finer until it is through.
        rate.end(most as usize, 0);
        rate.begin(Duration::ZERO, false, false, 0);
        assert!(rate.spare() < 1.0);
        rate.begin(ROOM_FINER, false, false, 0);
        assert!((rate.spare() - most).abs() < 1.0);
    }

    #[test]
    fn pictures_of_sixty_a_second_build_up_no_queue() {
        let mut rate = Rate::new(BPS);
        for _ in 0..200 {
            let qp = rate.begin(Duration::from_micros(16_667), false, false, 400_000);
            let bits = (3.0 * 400_000.0 / steps(qp)) as usize;
            rate.end(bits, bits);
        }
        // What is under way never fills more than a picture may, with some slack for what was not foreseen.
        assert!(rate.filled < f64::from(BPS) * ROOM.as_secs_f64() * SLACK, "{}", rate.filled);
    }
}
