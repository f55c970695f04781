//! What epochs leave behind for the next ones.

use serde::{Deserialize, Serialize};

use super::SettleError;
use super::bytes::{Reader, Writer};
use super::outcome::{LeafKind, RewardLeaf};
use crate::epoch::{Accusation, AccusedOf, EpochNo, RegistryView};
use crate::ids::{Address, ContentHash, NodeId};
use crate::units::Ob;

/// Quality of a Container that nothing is known of, in ten-thousandths.
pub const QUALITY_NEW_BPS: u16 = 7_000;
/// Days that histories go back, today included.
pub(super) const DAYS: usize = 7;

/// What is known of a Container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Which.
    pub node: NodeId,
    /// The last full test that came to a verdict.
    pub tested: Option<EpochNo>,
    /// Whether that verdict was good: only then capacity is paid.
    pub proved: bool,
    /// The last test came to no verdict.
    pub again: bool,
    /// Until when it is suspect.
    pub suspect_until: EpochNo,
    /// What a larger committee has to decide.
    pub accused: Option<Accusation>,
    /// What Checkers found, in ten-thousandths: what matching ranks by.
    pub quality_bps: u16,
    /// How often it answered in the last epoch of which that is known, in ten-thousandths.
    pub presence_bps: u16,
    /// The day of the first of `ob_days`.
    pub ob_day: u64,
    /// The last proved speed of that day and of the days before; zero: none.
    pub ob_days: [Ob; DAYS],
}

impl ContainerRecord {
    /// A Container that nothing is known of.
    #[must_use]
    pub const fn new(node: NodeId) -> Self {
        Self {
            node,
            tested: None,
            proved: false,
            again: false,
            suspect_until: EpochNo(0),
            accused: None,
            quality_bps: QUALITY_NEW_BPS,
            presence_bps: 0,
            ob_day: 0,
            ob_days: [Ob(0); DAYS],
        }
    }

    /// The median of the days that have a value, the lower of two middle ones; what is paid, before the cap.
    #[must_use]
    pub fn ob_median(&self, day: u64) -> Ob {
        let (days, _) = shifted(self.ob_days, Ob(0), self.ob_day, day);
        let mut known: Vec<Ob> = days.into_iter().filter(|ob| ob.0 > 0).collect();
        known.sort_unstable();
        known.get(known.len().saturating_sub(1) / 2).copied().unwrap_or(Ob(0))
    }

    pub(super) fn note_ob(&mut self, day: u64, ob: Ob) {
        (self.ob_days, self.ob_day) = shifted(self.ob_days, Ob(0), self.ob_day, day);
        let [today, ..] = &mut self.ob_days;
        *today = ob;
    }

    fn write(&self, out: &mut Writer) {
        out.bytes(&self.node.0);
        out.u8(u8::from(self.tested.is_some()));
        out.u64(self.tested.map_or(0, |e| e.0));
        out.u8(u8::from(self.proved));
        out.u8(u8::from(self.again));
        out.u64(self.suspect_until.0);
        let (number, about) = self.accused.map_or((0, ContentHash::ZERO), |accused| accused.of.parts());
        out.u8(number);
        out.bytes(&about.0);
        out.u64(self.accused.map_or(0, |a| a.epoch.0));
        out.u16(self.quality_bps);
        out.u16(self.presence_bps);
        out.u64(self.ob_day);
        self.ob_days.iter().for_each(|ob| out.u32(ob.0));
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, SettleError> {
        let node = NodeId(from.array()?);
        let (was_tested, at) = (from.bool()?, from.u64()?);
        let (proved, again, suspect_until) = (from.bool()?, from.bool()?, EpochNo(from.u64()?));
        let of = match (from.u8()?, ContentHash(from.array()?)) {
            (0, ContentHash::ZERO) => None,
            (number, about) => {
                let of = AccusedOf::of_parts(number, about);
                Some(of.ok_or(SettleError::Malformed("an accusation"))?)
            }
        };
        let epoch = EpochNo(from.u64()?);
        let (quality_bps, presence_bps, ob_day) = (from.u16()?, from.u16()?, from.u64()?);
        let mut ob_days = [Ob(0); DAYS];
        for ob in &mut ob_days {
            *ob = Ob(from.u32()?);
        }
        Ok(Self {
            node,
            tested: was_tested.then_some(EpochNo(at)),
            proved,
            again,
            suspect_until,
            accused: of.map(|of| Accusation { of, epoch }),
            quality_bps,
            presence_bps,
            ob_day,
            ob_days,
        })
    }
}

/// Tasks that were a Checker's to do, and those that it did well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Duty {
    /// To do.
    pub due: u32,
    /// Done.
    pub done: u32,
}

impl Duty {
    pub(super) const fn plus(self, other: Self) -> Self {
        Self { due: self.due.saturating_add(other.due), done: self.done.saturating_add(other.done) }
    }

    /// The share that was done, in ten-thousandths, rounded down; of nothing: none.
    #[must_use]
    pub fn share_bps(self) -> u16 {
        let share = u64::from(self.done).saturating_mul(10_000) / u64::from(self.due.max(1));
        u16::try_from(share.min(10_000)).unwrap_or(10_000)
    }
}

/// What is known of a Checker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckerRecord {
    /// Which.
    pub node: NodeId,
    /// The day of the first of `days`.
    pub day: u64,
    /// Its duties on that day and the days before.
    pub days: [Duty; DAYS],
    /// Epochs of its wrong results that still count, an entry for each result; the latest ones, at most 8.
    pub wrong: Vec<EpochNo>,
    /// Until when it is barred.
    pub barred_until: EpochNo,
}

impl CheckerRecord {
    /// The most wrong results that are remembered.
    pub(super) const WRONG_MAX: usize = 8;

    /// A Checker that nothing is known of.
    #[must_use]
    pub const fn new(node: NodeId) -> Self {
        Self { node, day: 0, days: [Duty { due: 0, done: 0 }; DAYS], wrong: Vec::new(), barred_until: EpochNo(0) }
    }

    /// Its duties of the last seven days.
    #[must_use]
    pub fn week(&self, day: u64) -> Duty {
        let (days, _) = shifted(self.days, Duty::default(), self.day, day);
        days.into_iter().fold(Duty::default(), Duty::plus)
    }

    pub(super) fn note(&mut self, day: u64, duty: Duty) {
        (self.days, self.day) = shifted(self.days, Duty::default(), self.day, day);
        let [today, ..] = &mut self.days;
        *today = today.plus(duty);
    }

    fn write(&self, out: &mut Writer) {
        out.bytes(&self.node.0);
        out.u64(self.day);
        for duty in self.days {
            out.u32(duty.due);
            out.u32(duty.done);
        }
        out.length(self.wrong.len());
        self.wrong.iter().for_each(|epoch| out.u64(epoch.0));
        out.u64(self.barred_until.0);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, SettleError> {
        let (node, day) = (NodeId(from.array()?), from.u64()?);
        let mut days = [Duty::default(); DAYS];
        for duty in &mut days {
            *duty = Duty { due: from.u32()?, done: from.u32()? };
        }
        let length = from.length(8)?;
        if length > Self::WRONG_MAX {
            return Err(SettleError::Malformed("a list of wrong results"));
        }
        let wrong = (0..length).map(|_| from.u64().map(EpochNo)).collect::<Result<_, _>>()?;
        Ok(Self { node, day, days, wrong, barred_until: EpochNo(from.u64()?) })
    }
}

/// Moves a history of days so that its first is `to`; days in between are empty. A day that is past stays first.
fn shifted<T: Copy>(days: [T; DAYS], empty: T, from: u64, to: u64) -> ([T; DAYS], u64) {
    if to <= from {
        return (days, from);
    }
    let by = usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX);
    let mut out = [empty; DAYS];
    for (slot, old) in out.iter_mut().skip(by).zip(days) {
        *slot = old;
    }
    (out, to)
}

/// What all epochs up to one left behind: everything that the next outcome and the next draw need, and every account's
/// rewards. Two nodes that settled the same have the same, byte for byte.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The last epoch that is settled; `None` before the first.
    pub settled: Option<EpochNo>,
    /// By key.
    pub containers: Vec<ContainerRecord>,
    /// By key.
    pub checkers: Vec<CheckerRecord>,
    /// By kind and key: every account that was ever rewarded.
    pub leaves: Vec<RewardLeaf>,
}

impl State {
    /// What is known of a Container.
    #[must_use]
    pub fn container(&self, node: &NodeId) -> Option<&ContainerRecord> {
        self.containers.get(self.containers.binary_search_by_key(node, |c| c.node).ok()?)
    }

    /// What is known of a Checker.
    #[must_use]
    pub fn checker(&self, node: &NodeId) -> Option<&CheckerRecord> {
        self.checkers.get(self.checkers.binary_search_by_key(node, |c| c.node).ok()?)
    }

    /// A leaf, and its place among the leaves.
    #[must_use]
    pub fn leaf(&self, kind: LeafKind, key: &[u8; 32]) -> Option<(usize, &RewardLeaf)> {
        let at = self.leaves.binary_search_by(|leaf| (leaf.kind, leaf.key).cmp(&(kind, *key))).ok()?;
        Some((at, self.leaves.get(at)?))
    }

    /// Writes what this state knows of each node into a view, in place of whatever stood there. A view that is drawn
    /// from must have been through this with the state of the last outcome that was posted before the epoch began.
    #[must_use]
    pub fn freeze(&self, mut view: RegistryView) -> RegistryView {
        let (containers, checkers) = view.entries_mut();
        let mut known = self.containers.iter().peekable();
        for entry in containers {
            while known.next_if(|record| record.node < entry.node).is_some() {}
            let record = known.peek().filter(|record| record.node == entry.node);
            entry.tested = record.and_then(|r| r.tested);
            entry.suspect_until = record.map_or(EpochNo(0), |r| r.suspect_until);
            entry.again = record.is_some_and(|r| r.again);
            entry.accused = record.and_then(|r| r.accused);
        }
        let mut known = self.checkers.iter().peekable();
        for entry in checkers {
            while known.next_if(|record| record.node < entry.node).is_some() {}
            let record = known.peek().filter(|record| record.node == entry.node);
            entry.barred_until = record.map_or(EpochNo(0), |r| r.barred_until);
        }
        view
    }

    /// The state in its fixed form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let sizes = [self.containers.len(), self.checkers.len(), self.leaves.len()];
        let mut out = Writer::with_capacity(sizes.into_iter().sum::<usize>().saturating_mul(112).saturating_add(64));
        self.write(&mut out);
        out.done()
    }

    /// Reads what [`State::encode`] wrote.
    ///
    /// # Errors
    /// Bytes that are not a state in its fixed form.
    pub fn decode(bytes: &[u8]) -> Result<Self, SettleError> {
        let mut from = Reader::new(bytes);
        let state = Self::read(&mut from)?;
        from.end()?;
        Ok(state)
    }

    pub(super) fn write(&self, out: &mut Writer) {
        out.u8(u8::from(self.settled.is_some()));
        out.u64(self.settled.map_or(0, |e| e.0));
        out.length(self.containers.len());
        self.containers.iter().for_each(|record| record.write(out));
        out.length(self.checkers.len());
        self.checkers.iter().for_each(|record| record.write(out));
        out.length(self.leaves.len());
        for leaf in &self.leaves {
            out.u8(leaf.kind as u8);
            out.bytes(&leaf.key);
            out.bytes(&leaf.account.0);
            out.u128(leaf.cumulative);
        }
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Result<Self, SettleError> {
        let (any, last) = (from.bool()?, from.u64()?);
        let count = from.length(80)?;
        let containers = (0..count).map(|_| ContainerRecord::read(from)).collect::<Result<Vec<_>, _>>()?;
        let count = from.length(80)?;
        let checkers = (0..count).map(|_| CheckerRecord::read(from)).collect::<Result<Vec<_>, _>>()?;
        let count = from.length(69)?;
        let leaves = (0..count).map(|_| read_leaf(from)).collect::<Result<Vec<_>, _>>()?;
        let ordered = containers.is_sorted_by(|a, b| a.node < b.node)
            && checkers.is_sorted_by(|a, b| a.node < b.node)
            && leaves.is_sorted_by(|a, b| (a.kind, a.key) < (b.kind, b.key));
        if !ordered {
            return Err(SettleError::Malformed("the order of a list"));
        }
        Ok(Self { settled: any.then_some(EpochNo(last)), containers, checkers, leaves })
    }
}

fn read_leaf(from: &mut Reader<'_>) -> Result<RewardLeaf, SettleError> {
    let kind = match from.u8()? {
        1 => LeafKind::Container,
        2 => LeafKind::Indexer,
        4 => LeafKind::LicenceOwner,
        _ => return Err(SettleError::Malformed("a kind of leaf")),
    };
    let (key, account) = (from.array()?, Address(from.array()?));
    Ok(RewardLeaf { kind, key, account, cumulative: from.u128()? })
}
