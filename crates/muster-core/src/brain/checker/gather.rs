//! What a member of a committee collects.

use super::{Answer, Checker, Effect, Message, Saved};
use crate::epoch::{EpochNo, Phase};
use crate::ids::{ContentHash, NodeId};
use crate::reward::{Commitment, Doubt, Entry, Reexecution};
use crate::units::TimeMs;

impl Checker {
    pub(super) fn on_heard(&mut self, from: NodeId, message: Message, now: TimeMs, out: &mut Vec<Effect>) {
        match message {
            Message::Commit(commitment) => {
                if commitment.checker == from {
                    self.take_commitment(&commitment, now, out);
                }
            }
            Message::Receipt { epoch, hash, receipt } => self.on_receipt(from, epoch, hash, receipt, out),
            Message::Reveal(entry) => {
                let (epoch, own) = (entry.commitment.epoch, entry.commitment.checker == from);
                // A member may send on what another member lacks.
                let member = self.committee(epoch).iter().any(|member| member.node == from);
                if own || member {
                    let kept = self.take_entry(*entry, out);
                    if kept && own {
                        out.push(Effect::Send { to: from, message: Box::new(Message::Taken { epoch }) });
                    }
                }
            }
            Message::Taken { epoch } => self.on_taken(from, epoch),
            Message::Propose(proposal) => self.on_proposed(from, *proposal, now),
            Message::Decide(signed) => self.on_decision(from, &signed),
            Message::Answer(answer) => match *answer {
                Answer::Signed(signed) => self.on_signature(from, &signed, now, out),
                // The entries come by themselves; what differs is for the log of the body.
                Answer::Missing { .. } | Answer::Differs { .. } => {}
            },
        }
    }

    /// Keeps a commitment that came in time from somebody who can be drawn, and gives a receipt. One that contradicts
    /// the first gets none.
    pub(super) fn take_commitment(&mut self, commitment: &Commitment, now: TimeMs, out: &mut Vec<Effect>) {
        let epoch = commitment.epoch;
        let in_time = now < self.epochs().begin_of(epoch, Phase::Reveal);
        if !self.is_member(epoch) {
            return;
        }
        let Some(open) = self.open.get_mut(&epoch) else { return };
        let drawable = open.draw.view().checker(&commitment.checker).is_some_and(|place| open.draw.can_be_drawn(place));
        if !drawable {
            return;
        }
        match open.held.commitments.get(&commitment.checker) {
            Some(have) if have.hash != commitment.hash => return,
            // The receipt was lost: what was in time stays so.
            Some(_) => {}
            None if !in_time => return,
            None => {
                open.held.commitments.insert(commitment.checker, *commitment);
                out.push(Effect::Save(Box::new(Saved::Commitment(*commitment))));
            }
        }
        out.push(Effect::Acknowledge(*commitment));
    }

    /// Keeps an entry that may be part of a bundle. True where it is kept, or was before.
    pub(super) fn take_entry(&mut self, entry: Entry, out: &mut Vec<Effect>) -> bool {
        let epoch = entry.commitment.epoch;
        if !self.is_member(epoch) || !self.is_good(&entry) {
            return false;
        }
        let Some(open) = self.open.get_mut(&epoch) else { return false };
        let name = (entry.commitment.checker, entry.commitment.hash);
        if open.held.entries.get(&name).is_some_and(|have| have.reveal.is_some() || entry.reveal.is_none()) {
            return true;
        }
        // Two different commitments void each other; a third one adds nothing.
        let others = open.held.entries.range((name.0, ContentHash::ZERO)..=(name.0, ContentHash([0xff; 32])));
        if others.filter(|(have, _)| **have != name).count() >= 2 {
            return true;
        }
        open.held.entries.insert(name, entry.clone());
        out.push(Effect::Save(Box::new(Saved::Entry(Box::new(entry)))));
        true
    }

    /// Whether an entry may be part of a bundle: what was revealed is what was committed to, and that was in time by the
    /// word of more than a third of the committee. What this member saw itself does not count for more: the others
    /// could not see it, and would never agree. A commitment alone may always be part: it only shows that its Checker
    /// promised something else as well.
    pub(super) fn is_good(&self, entry: &Entry) -> bool {
        let commitment = &entry.commitment;
        let epoch = commitment.epoch;
        let Some(open) = self.open.get(&epoch) else { return false };
        let Some(place) = open.draw.view().checker(&commitment.checker) else { return false };
        let good = entry.reveal.as_ref().is_none_or(|reveal| {
            reveal.report.checker == commitment.checker
                && reveal.report.epoch == epoch
                && reveal.commitment_hash() == commitment.hash
                && self.was_in_time(entry)
        });
        open.draw.can_be_drawn(place) && good
    }

    fn was_in_time(&self, entry: &Entry) -> bool {
        let epoch = entry.commitment.epoch;
        let mut members: Vec<NodeId> = entry.receipts.iter().map(|receipt| receipt.member).collect();
        members.sort_unstable();
        members.dedup();
        members.retain(|node| self.committee(epoch).iter().any(|member| member.node == *node));
        members.len() >= self.receipts_needed(epoch)
    }

    pub(super) fn on_reexecuted(&mut self, epoch: EpochNo, doubt: Doubt, result: Reexecution) {
        if let Some(open) = self.open.get_mut(&epoch) {
            // Only what was asked for is kept, so that answers are as many as doubts.
            if open.held.asked_at.contains_key(&doubt) {
                open.held.answers.insert(doubt, result);
            }
        }
    }
}
