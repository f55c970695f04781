//! The best first, without looking at the rest.

use core::cmp::Ordering;
use std::collections::BinaryHeap;

use super::query::{Fit, Paid, Query};
use super::tree::{Body, Node};
use super::view::Roots;
use super::why::Reason;
use super::{SAMPLE_MAX, View};

/// Numbers that look random and follow from a seed (SplitMix64, Steele and others, 2014).
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) const fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`; 0 when `bound` is. The bias is below `bound / 2^64`.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        let product = u128::from(self.draw()).saturating_mul(u128::from(bound)) >> 64;
        u64::try_from(product).unwrap_or(0)
    }
}

/// Spreads every bit of a number over all of them.
pub(super) const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A Container that fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) slot: u32,
    pub(super) fit: Fit,
}

/// Who was turned down on the way.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) turned_down: [u64; Reason::COUNT],
    pub(super) fit: u64,
    /// Slots that were turned down one by one.
    pub(super) sample: Vec<u32>,
}

impl Tally {
    fn note(&mut self, reason: Reason, count: u32) {
        if let Some(sum) = self.turned_down.get_mut(reason.index()) {
            *sum = sum.saturating_add(u64::from(count));
        }
    }
}

#[derive(Debug)]
enum Target<'v> {
    Branch(&'v Node),
    Container(Found),
}

/// What waits to be looked at. The least badness comes first; then Containers before branches, so that no branch
/// is opened in vain; then what the seed puts first.
#[derive(Debug)]
struct Waiting<'v> {
    badness: u64,
    tie: u64,
    target: Target<'v>,
}

impl Waiting<'_> {
    const fn order(&self) -> (u64, bool, u64) {
        (self.badness, matches!(self.target, Target::Branch(_)), self.tie)
    }
}

impl PartialEq for Waiting<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl Eq for Waiting<'_> {}

impl PartialOrd for Waiting<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting<'_> {
    /// The heap gives the greatest first, so the order is turned around.
    fn cmp(&self, other: &Self) -> Ordering {
        other.order().cmp(&self.order())
    }
}

/// A search through trees that gives Containers from the best to the worst.
#[derive(Debug)]
pub(super) struct Search<'v, 'q> {
    view: &'v View,
    query: &'q Query,
    heap: BinaryHeap<Waiting<'v>>,
    seed: u64,
    /// What is worse than this is no longer wanted.
    pub(super) worst: u64,
    /// Branches that may still be opened.
    pub(super) branches_left: u64,
    pub(super) tally: Tally,
}

impl<'v, 'q> Search<'v, 'q> {
    pub(super) fn new(view: &'v View, query: &'q Query, roots: &Roots<'v>, seed: u64) -> Self {
        let mut search = Self {
            view,
            query,
            heap: BinaryHeap::with_capacity(128),
            seed,
            worst: u64::MAX,
            branches_left: u64::MAX,
            tally: Tally::default(),
        };
        roots.turned_down.iter().for_each(|(reason, count)| search.tally.note(*reason, *count));
        roots.nodes.iter().for_each(|root| search.consider(root));
        search
    }

    /// By what the demand pays.
    pub(super) const fn paid(&self) -> Paid {
        self.query.paid
    }

    /// The next best Container that fits.
    pub(super) fn next(&mut self) -> Option<Found> {
        loop {
            let Waiting { badness, target, .. } = self.heap.pop()?;
            if badness > self.worst {
                return None;
            }
            match target {
                Target::Container(found) => return Some(found),
                // Once no more may be opened, Containers that were met already still count.
                Target::Branch(_) if self.branches_left == 0 => {}
                Target::Branch(node) => {
                    self.branches_left = self.branches_left.saturating_sub(1);
                    self.open(node);
                }
            }
        }
    }

    fn open(&mut self, node: &'v Node) {
        match &node.body {
            Body::Inner(children) => children.iter().for_each(|child| self.consider(child)),
            Body::Leaf(items) => {
                for item in items {
                    let Some(record) = self.view.record(item.slot) else { continue };
                    match self.query.check(item.slot, record, &self.view.latencies) {
                        Ok(fit) => {
                            self.tally.fit = self.tally.fit.saturating_add(1);
                            let target = Target::Container(Found { slot: item.slot, fit });
                            self.wait(fit.badness, item.key.hash[0], target);
                        }
                        Err(reason) => {
                            self.tally.note(reason, 1);
                            if self.tally.sample.len() < SAMPLE_MAX {
                                self.tally.sample.push(item.slot);
                            }
                        }
                    }
                }
            }
        }
    }

    fn consider(&mut self, node: &'v Node) {
        match self.query.bound(&node.summary) {
            Ok(badness) => self.wait(badness, node.first.hash[0], Target::Branch(node)),
            Err(reason) => self.tally.note(reason, node.summary.count),
        }
    }

    fn wait(&mut self, badness: u64, hash: u64, target: Target<'v>) {
        if badness <= self.worst {
            self.heap.push(Waiting { badness, tie: mix(self.seed ^ hash), target });
        }
    }
}
