//! A Checker's own tasks, from the draw to the reveal.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Checker, EPOCHS_MAX, Effect, Held, Member, Message, Mine, Open, RETRY_MS, Saved};
use crate::epoch::{Draw, EpochNo, Phase, Seats, Task};
use crate::ids::NodeId;
use crate::protocol::NodeSignature;
use crate::reward::{Commitment, Entry, Finding, Receipt, Report, Reveal, TaskResult};
use crate::units::TimeMs;

impl Checker {
    pub(super) fn on_epoch(&mut self, draw: Arc<Draw>, chance: [u8; 64], out: &mut Vec<Effect>) {
        let epoch = draw.epoch();
        let over = self.state.settled.is_some_and(|last| epoch <= last);
        if over || self.open.contains_key(&epoch) || self.open.len() >= EPOCHS_MAX {
            if over {
                // Its draw still tells who settles the next one.
                self.note_committee(&draw);
            }
            return;
        }
        if epoch == draw.view().genesis() && !self.config.first_committee.is_empty() {
            self.committees.insert(epoch, self.config.first_committee.clone());
        }
        self.note_committee(&draw);
        let mut mine = self.mine(&draw, &chance);
        let mut held = Held::default();
        for saved in self.restored.remove(&epoch).unwrap_or_default() {
            match saved {
                Saved::Mine { entry, .. } => {
                    if let Some(mine) = &mut mine {
                        // What was promised stands: nothing is tested again.
                        mine.vouched =
                            entry.commitment.signature.r != [0; 32] || entry.commitment.signature.s != [0; 32];
                        mine.waiting.clear();
                        mine.told = entry.receipts.iter().map(|receipt| receipt.member).collect();
                        mine.entry = Some(*entry);
                    }
                }
                Saved::Commitment(commitment) => {
                    held.commitments.insert(commitment.checker, commitment);
                }
                Saved::Entry(entry) => {
                    held.entries.insert((entry.commitment.checker, entry.commitment.hash), *entry);
                }
                Saved::Settled(_) => {}
            }
        }
        if let Some(mine) = &mine
            && let Some(entry) = &mine.entry
            && !mine.vouched
        {
            out.push(Effect::Vouch(entry.commitment));
        }
        self.open.insert(epoch, Open { draw, mine, held });
    }

    fn note_committee(&mut self, draw: &Draw) {
        let members = members(draw, &draw.next_committee());
        self.committees.insert(draw.epoch().next(), members);
        while self.committees.len() > EPOCHS_MAX.saturating_add(2) {
            self.committees.pop_first();
        }
    }

    /// Its tasks, where it has any.
    fn mine(&self, draw: &Draw, chance: &[u8; 64]) -> Option<Mine> {
        let place = draw.view().checker(&self.config.id)?;
        if !draw.can_be_drawn(place) {
            return None;
        }
        let mut waiting = draw.tasks_of(place);
        // The last one is begun first: it is taken from the end.
        waiting.sort_by_key(|assignment| core::cmp::Reverse((assignment.begin, assignment.task)));
        let (mut secret, mut salt) = ([0; 32], [0; 32]);
        let (first, second) = chance.split_at(32);
        secret.copy_from_slice(first);
        salt.copy_from_slice(second);
        Some(Mine {
            salt,
            secret,
            waiting,
            found: BTreeMap::new(),
            entry: None,
            vouched: false,
            told: Vec::new(),
            revealed_to: Vec::new(),
            sent_at: TimeMs(0),
        })
    }

    pub(super) fn on_found(&mut self, epoch: EpochNo, task: Task, finding: Finding) {
        let Some(mine) = self.open.get_mut(&epoch).and_then(|open| open.mine.as_mut()) else { return };
        if mine.entry.is_none() && finding.fits(task.kind) {
            mine.found.insert(task, finding);
        }
    }

    pub(super) fn tick_mine(&mut self, epoch: EpochNo, now: TimeMs, out: &mut Vec<Effect>) {
        let params = self.epochs().clone();
        let at = |phase| params.begin_of(epoch, phase);
        if now < at(Phase::Tests) || self.open.get(&epoch).is_none_or(|open| open.mine.is_none()) {
            return;
        }
        if now < at(Phase::Commit) {
            self.begin_tasks(epoch, now, out);
        } else if now < at(Phase::Reveal) {
            self.commit(epoch, now, out);
        } else {
            self.reveal(epoch, now, out);
        }
    }

    fn begin_tasks(&mut self, epoch: EpochNo, now: TimeMs, out: &mut Vec<Effect>) {
        let Some(mine) = self.open.get_mut(&epoch).and_then(|open| open.mine.as_mut()) else { return };
        while let Some(assignment) = mine.waiting.pop_if(|next| next.begin <= now) {
            // What was begun before a restart and has no result is begun again: a second test harms nobody.
            if !mine.found.contains_key(&assignment.task) {
                out.push(Effect::Perform { epoch, assignment });
            }
        }
    }

    fn commit(&mut self, epoch: EpochNo, now: TimeMs, out: &mut Vec<Effect>) {
        let members = self.committee(epoch).to_vec();
        let me = self.config.id;
        let Some(open) = self.open.get_mut(&epoch) else { return };
        let Some(mine) = open.mine.as_mut() else { return };
        let Some(entry) = &mine.entry else {
            let results = mine.found.iter().map(|(task, finding)| TaskResult { task: *task, finding: *finding });
            let report = Report {
                epoch,
                checker: me,
                view: open.draw.view_hash(),
                secret: mine.secret,
                results: results.collect(),
            };
            let reveal = Reveal { report, salt: mine.salt };
            let hash = reveal.commitment_hash();
            let signature = NodeSignature { r: [0; 32], s: [0; 32] };
            let commitment = Commitment { epoch, checker: me, hash, signature };
            let entry = Entry { commitment, receipts: Vec::new(), reveal: Some(reveal) };
            mine.waiting.clear();
            mine.entry = Some(entry.clone());
            out.push(Effect::Save(Box::new(Saved::Mine { epoch, entry: Box::new(entry) })));
            out.push(Effect::Vouch(commitment));
            return;
        };
        if !mine.vouched || now.since(mine.sent_at) < RETRY_MS {
            return;
        }
        mine.sent_at = now;
        let commitment = entry.commitment;
        let untold: Vec<NodeId> =
            members.iter().map(|member| member.node).filter(|node| !mine.told.contains(node)).collect();
        for to in untold {
            if to == me {
                self.take_commitment(&commitment, now, out);
            } else {
                out.push(Effect::Send { to, message: Box::new(Message::Commit(commitment)) });
            }
        }
    }

    pub(super) fn on_vouched(&mut self, commitment: &Commitment, now: TimeMs, out: &mut Vec<Effect>) {
        let epoch = commitment.epoch;
        let Some(mine) = self.open.get_mut(&epoch).and_then(|open| open.mine.as_mut()) else { return };
        let Some(entry) = mine.entry.as_mut() else { return };
        if mine.vouched || entry.commitment.hash != commitment.hash || commitment.checker != self.config.id {
            return;
        }
        mine.vouched = true;
        entry.commitment = *commitment;
        let saved = Saved::Mine { epoch, entry: Box::new(entry.clone()) };
        out.push(Effect::Save(Box::new(saved)));
        if self.is_member(epoch) {
            self.take_commitment(commitment, now, out);
        }
    }

    pub(super) fn on_receipt(
        &mut self,
        from: NodeId,
        epoch: EpochNo,
        hash: crate::ids::ContentHash,
        receipt: Receipt,
        out: &mut Vec<Effect>,
    ) {
        let member = self.committee(epoch).iter().any(|member| member.node == from);
        let Some(mine) = self.open.get_mut(&epoch).and_then(|open| open.mine.as_mut()) else { return };
        let Some(entry) = mine.entry.as_mut() else { return };
        let known = entry.receipts.iter().any(|have| have.member == from);
        if !member || receipt.member != from || entry.commitment.hash != hash || known {
            return;
        }
        entry.receipts.push(receipt);
        mine.told.push(from);
        let saved = Saved::Mine { epoch, entry: Box::new(entry.clone()) };
        out.push(Effect::Save(Box::new(saved)));
    }

    fn reveal(&mut self, epoch: EpochNo, now: TimeMs, out: &mut Vec<Effect>) {
        let members = self.committee(epoch).to_vec();
        let me = self.config.id;
        let Some(mine) = self.open.get_mut(&epoch).and_then(|open| open.mine.as_mut()) else { return };
        let Some(entry) = mine.entry.clone() else { return };
        if !mine.vouched || now.since(mine.sent_at) < RETRY_MS {
            return;
        }
        mine.sent_at = now;
        let without = |have: &[NodeId]| -> Vec<NodeId> {
            members.iter().map(|member| member.node).filter(|node| !have.contains(node)).collect()
        };
        let (untold, missing) = (without(&mine.told), without(&mine.revealed_to));
        // A receipt may have been lost: who had the commitment in time gives another one.
        for to in untold.into_iter().filter(|to| *to != me) {
            out.push(Effect::Send { to, message: Box::new(Message::Commit(entry.commitment)) });
        }
        for to in missing {
            if to != me {
                out.push(Effect::Send { to, message: Box::new(Message::Reveal(Box::new(entry.clone()))) });
            } else if self.take_entry(entry.clone(), out)
                && let Some(mine) = self.open.get_mut(&epoch).and_then(|open| open.mine.as_mut())
            {
                mine.revealed_to.push(me);
            }
        }
    }

    pub(super) fn on_taken(&mut self, from: NodeId, epoch: EpochNo) {
        if let Some(mine) = self.open.get_mut(&epoch).and_then(|open| open.mine.as_mut())
            && self.committees.get(&epoch).is_some_and(|all| all.iter().any(|member| member.node == from))
            && !mine.revealed_to.contains(&from)
        {
            mine.revealed_to.push(from);
        }
    }
}

/// The Checkers of some seats as members of a committee.
fn members(draw: &Draw, seats: &Seats) -> Vec<Member> {
    let of = |place: &u32| {
        let entry = draw.view().checkers().get(usize::try_from(*place).ok()?)?;
        Some(Member { node: entry.node, signer: entry.signer })
    };
    seats.as_slice().iter().filter_map(of).collect()
}
