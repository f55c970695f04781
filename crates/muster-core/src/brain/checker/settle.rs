//! From what a committee holds to an outcome that two thirds of it signed.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{
    Answer, CANDIDATES_MAX, CHAIN_RETRY_MS, Checker, Effect, Message, Proposal, Proposed, RETRY_MS, Settling,
    SignedOutcome, Span,
};
use crate::epoch::{EpochNo, Phase};
use crate::ids::NodeId;
use crate::reward::{Bundle, Doubt, Entry, Outcome, Reexecution, SettleError, Settled, doubts, settle, settle_silence};
use crate::units::TimeMs;
use crate::voucher::CompactSignature;

/// Doubts that are looked into at once.
const REEXECUTIONS_MAX: usize = 256;
/// How often something that has no answer is run again.
const REEXECUTE_AGAIN_MS: u64 = 30_000;

/// What became of looking at a proposal.
enum Look {
    /// Something is still awaited.
    Waits,
    /// It is what this Checker computes as well.
    Same(Box<Settled>),
    /// Entries that this Checker holds are missing in it.
    Missing(Vec<Entry>),
    /// It is not.
    Differs(String),
}

impl Checker {
    /// What is settled next, where its reveals are over by this clock: the next epoch; or, where nobody was there in
    /// it, everything up to the first epoch that anybody was there. That one is silent too: nobody could know who
    /// settles it.
    fn span(&self, now: TimeMs) -> Option<Span> {
        let first = self.next()?;
        let last = if self.open.contains_key(&first) {
            first
        } else {
            *self.open.range(first..).next().map(|(epoch, _)| epoch)?
        };
        (now >= self.epochs().begin_of(last, Phase::Settle)).then_some(Span { first, last })
    }

    pub(super) fn tick_settling(&mut self, now: TimeMs, out: &mut Vec<Effect>) {
        let Some(span) = self.span(now).filter(|_| !self.is_disputed()) else { return };
        if !self.is_member(span.first) {
            return;
        }
        let settling = self.settling.get_or_insert_with(|| Settling {
            since: now,
            candidates: Vec::new(),
            heard: None,
            answering: None,
            proposed: None,
            doubts: None,
        });
        let turn = now.since(settling.since) / self.config.params.epoch.proposer_timeout_ms.max(1);
        let seats = u64::try_from(self.committee(span.first).len()).unwrap_or(u64::MAX);
        let rank = turn.checked_rem(seats).and_then(|rank| usize::try_from(rank).ok()).unwrap_or(0);
        let mine = self.committee(span.first).get(rank).is_some_and(|member| member.node == self.config.id);
        if mine {
            self.propose(span, now, out);
        }
        self.answer(span, now, out);
        self.post(span, now, out);
    }

    /// How many entries of an epoch there are, and how many of them are revealed.
    fn holds(&self, epoch: EpochNo) -> (usize, usize) {
        let Some(open) = self.open.get(&epoch) else { return (0, 0) };
        let revealed = open.held.entries.values().filter(|entry| entry.reveal.is_some()).count();
        (open.held.entries.len(), revealed)
    }

    fn propose(&mut self, span: Span, now: TimeMs, out: &mut Vec<Effect>) {
        let of = self.holds(span.last);
        let others = self.others(span.first);
        if let Some(proposed) = self.settling.as_mut().and_then(|s| s.proposed.as_mut())
            && proposed.of == of
        {
            if now.since(proposed.sent_at) >= RETRY_MS {
                proposed.sent_at = now;
                let message = Box::new(Message::Propose(Box::new(proposed.proposal.clone())));
                out.extend(others.into_iter().map(|to| Effect::Send { to, message: message.clone() }));
            }
            return;
        }
        let settled = if span.first == span.last && of.1 > 0 {
            let Some(bundle) = self.bundle(span.first, of, now, out) else { return };
            let Some(settled) = self.compute(span, Some(&bundle), now, out) else { return };
            settled.map(|settled| (Some(bundle), settled))
        } else {
            let Some(settled) = self.compute(span, None, now, out) else { return };
            settled.map(|settled| (None, settled))
        };
        // What this Checker put together itself is within bounds; where amounts are not, nobody can settle it.
        let Ok((bundle, settled)) = settled else { return };
        let outcome = settled.outcome;
        let proposal = Proposal { span, bundle, outcome };
        self.keep_candidate(settled);
        if let Some(settling) = &mut self.settling {
            let signatures = BTreeMap::new();
            let proposed = Proposed { proposal: proposal.clone(), of, signatures, sent_at: now, posted_at: None };
            settling.proposed = Some(proposed);
        }
        out.push(Effect::Sign(Box::new(outcome)));
        let message = Box::new(Message::Propose(Box::new(proposal)));
        out.extend(others.into_iter().map(|to| Effect::Send { to, message: message.clone() }));
    }

    /// Everything that this Checker holds of an epoch, once all that is in doubt was run again.
    fn bundle(&mut self, epoch: EpochNo, of: (usize, usize), now: TimeMs, out: &mut Vec<Effect>) -> Option<Bundle> {
        let open = self.open.get(&epoch)?;
        let mut entries: Vec<Entry> = open.held.entries.values().cloned().collect();
        let promised = open.held.commitments.values();
        let alone = promised.filter(|c| !open.held.entries.contains_key(&(c.checker, c.hash)));
        entries.extend(alone.map(|c| Entry { commitment: *c, receipts: Vec::new(), reveal: None }));
        let bundle = Bundle { entries, reexecuted: Vec::new() };
        let known = self.settling.as_ref().and_then(|s| s.doubts.clone()).filter(|(have, _)| *have == of);
        let list = match known {
            Some((_, list)) => list,
            None => doubts(&open.draw, &bundle).ok()?,
        };
        if let Some(settling) = &mut self.settling {
            settling.doubts = Some((of, list.clone()));
        }
        let reexecuted = self.answers(epoch, &list, now, out)?;
        Some(Bundle { reexecuted, ..bundle })
    }

    /// The answers to some doubts; `None` while one is awaited, which is asked for.
    fn answers(
        &mut self,
        epoch: EpochNo,
        list: &[Doubt],
        now: TimeMs,
        out: &mut Vec<Effect>,
    ) -> Option<Vec<(Doubt, Reexecution)>> {
        let held = &mut self.open.get_mut(&epoch)?.held;
        let mut awaited = 0usize;
        for doubt in list.iter().filter(|doubt| !held.answers.contains_key(doubt)) {
            awaited = awaited.saturating_add(1);
            if awaited > REEXECUTIONS_MAX {
                break;
            }
            if held.asked_at.get(doubt).is_none_or(|at| now.since(*at) >= REEXECUTE_AGAIN_MS) {
                held.asked_at.insert(*doubt, now);
                out.push(Effect::Reexecute { epoch, doubt: *doubt });
            }
        }
        if awaited > 0 {
            return None;
        }
        list.iter().map(|doubt| Some((*doubt, *held.answers.get(doubt)?))).collect()
    }

    /// The outcome of a span; `None` while what the chain says of it is awaited.
    fn compute(
        &mut self,
        span: Span,
        bundle: Option<&Bundle>,
        now: TimeMs,
        out: &mut Vec<Effect>,
    ) -> Option<Result<Settled, SettleError>> {
        let open = self.open.get_mut(&span.last)?;
        let Some(bundle) = bundle else { return Some(settle_silence(&self.state, &open.draw)) };
        let Some(facts) = &open.held.facts else {
            if open.held.facts_asked_at.is_none_or(|at| now.since(at) >= CHAIN_RETRY_MS) {
                open.held.facts_asked_at = Some(now);
                out.push(Effect::AskFacts(span.last));
            }
            return None;
        };
        Some(settle(&self.state, &open.draw, bundle, facts, &self.config.params.reward))
    }

    fn keep_candidate(&mut self, settled: Settled) {
        let Some(settling) = &mut self.settling else { return };
        if settling.candidates.iter().all(|have| have.outcome != settled.outcome) {
            if settling.candidates.len() >= CANDIDATES_MAX {
                settling.candidates.remove(0);
            }
            settling.candidates.push(settled);
        }
    }

    pub(super) fn on_proposed(&mut self, from: NodeId, proposal: Proposal, now: TimeMs) {
        let Some(span) = self.span(now) else { return };
        let member = self.committee(span.first).iter().any(|member| member.node == from);
        if proposal.span.first != span.first || !member || !self.is_member(span.first) || from == self.config.id {
            return;
        }
        let settling = self.settling.get_or_insert_with(|| Settling {
            since: now,
            candidates: Vec::new(),
            heard: None,
            answering: None,
            proposed: None,
            doubts: None,
        });
        settling.heard = Some((from, proposal));
    }

    /// Looks at the last proposal that was heard, and answers it once it can.
    fn answer(&mut self, span: Span, now: TimeMs, out: &mut Vec<Effect>) {
        let Some((from, proposal)) = self.settling.as_mut().and_then(|s| s.heard.take()) else { return };
        let mut reply = |answer: Answer| {
            let message = Box::new(Message::Answer(Box::new(answer)));
            out.push(Effect::Send { to: from, message });
        };
        if proposal.span != span {
            let why = format!(
                "epochs {} to {} are next by what I know, not to {}",
                span.first, span.last, proposal.span.last
            );
            reply(Answer::Differs { span: proposal.span, why });
            return;
        }
        match self.look(&proposal, now, out) {
            Look::Waits => {
                if let Some(settling) = &mut self.settling {
                    settling.heard = Some((from, proposal));
                }
            }
            Look::Same(settled) => {
                let outcome = settled.outcome;
                self.keep_candidate(*settled);
                // The answer goes out once the key has signed.
                if let Some(settling) = &mut self.settling {
                    settling.answering = Some((from, outcome));
                }
                out.push(Effect::Sign(Box::new(outcome)));
            }
            Look::Missing(entries) => {
                let checkers = entries.iter().map(|entry| entry.commitment.checker).collect();
                let answer = Answer::Missing { epoch: span.last, checkers };
                for entry in entries {
                    out.push(Effect::Send { to: from, message: Box::new(Message::Reveal(Box::new(entry))) });
                }
                out.push(Effect::Send { to: from, message: Box::new(Message::Answer(Box::new(answer))) });
            }
            Look::Differs(why) => {
                let answer = Answer::Differs { span, why };
                out.push(Effect::Send { to: from, message: Box::new(Message::Answer(Box::new(answer))) });
            }
        }
    }

    fn look(&mut self, proposal: &Proposal, now: TimeMs, out: &mut Vec<Effect>) -> Look {
        let span = proposal.span;
        let Some(bundle) = &proposal.bundle else {
            let held = self.open.get(&span.last).map(|open| open.held.entries.values());
            let revealed: Vec<Entry> =
                held.into_iter().flatten().filter(|entry| entry.reveal.is_some()).cloned().collect();
            if !revealed.is_empty() {
                return Look::Missing(revealed);
            }
            return self.compare(proposal, None, now, out);
        };
        if span.first != span.last {
            return Look::Differs("several epochs have no reports".to_owned());
        }
        if let Some(bad) = bundle.entries.iter().find(|entry| !self.is_good(entry)) {
            let checker = bad.commitment.checker.short();
            return Look::Differs(format!("the entry of the Checker {checker} is late, or not what it committed to"));
        }
        let missing = self.missing(span.first, bundle);
        if !missing.is_empty() {
            return Look::Missing(missing);
        }
        let Some(open) = self.open.get(&span.first) else { return Look::Waits };
        let list = match doubts(&open.draw, bundle) {
            Ok(list) => list,
            Err(why) => return Look::Differs(why.to_string()),
        };
        let Some(mine) = self.answers(span.first, &list, now, out) else { return Look::Waits };
        let mut theirs = bundle.reexecuted.clone();
        theirs.sort_unstable();
        if theirs != mine {
            let differ = mine.iter().find(|answer| !theirs.contains(answer));
            return Look::Differs(match differ {
                Some((doubt, result)) => {
                    format!("a {} of seat {} comes to {result:?} here", doubt.task.kind, doubt.checker)
                }
                None => "things were run again that nobody doubts".to_owned(),
            });
        }
        self.compare(proposal, Some(bundle), now, out)
    }

    /// What this Checker holds and a bundle lacks: entries, and commitments that it gave a receipt for.
    fn missing(&self, epoch: EpochNo, bundle: &Bundle) -> Vec<Entry> {
        let Some(open) = self.open.get(&epoch) else { return Vec::new() };
        let there: BTreeMap<_, bool> = bundle
            .entries
            .iter()
            .map(|entry| ((entry.commitment.checker, entry.commitment.hash), entry.reveal.is_some()))
            .collect();
        let lacks = |entry: &&Entry| {
            let revealed = there.get(&(entry.commitment.checker, entry.commitment.hash));
            revealed.is_none_or(|revealed| !revealed && entry.reveal.is_some())
        };
        let mut missing: Vec<Entry> = open.held.entries.values().filter(lacks).cloned().collect();
        let promised = open.held.commitments.values().filter(|commitment| {
            let name = (commitment.checker, commitment.hash);
            !there.contains_key(&name) && !open.held.entries.contains_key(&name)
        });
        missing.extend(promised.map(|c| Entry { commitment: *c, receipts: Vec::new(), reveal: None }));
        missing
    }

    fn compare(&mut self, proposal: &Proposal, bundle: Option<&Bundle>, now: TimeMs, out: &mut Vec<Effect>) -> Look {
        match self.compute(proposal.span, bundle, now, out) {
            None => Look::Waits,
            Some(Err(why)) => Look::Differs(why.to_string()),
            Some(Ok(settled)) if settled.outcome == proposal.outcome => Look::Same(Box::new(settled)),
            Some(Ok(_)) => Look::Differs("the reports come to another outcome here".to_owned()),
        }
    }

    pub(super) fn on_signed(&mut self, signed: SignedOutcome, now: TimeMs, out: &mut Vec<Effect>) {
        if signed.signer != self.config.signer {
            return;
        }
        self.on_decision(self.config.id, &signed);
        self.on_signature(self.config.id, &signed, now, out);
        if let Some((to, outcome)) = self.settling.as_mut().and_then(|s| s.answering.take()) {
            if outcome == signed.outcome {
                let message = Box::new(Message::Answer(Box::new(Answer::Signed(Box::new(signed)))));
                out.push(Effect::Send { to, message });
            } else if let Some(settling) = &mut self.settling {
                settling.answering = Some((to, outcome));
            }
        }
    }

    pub(super) fn on_signature(&mut self, from: NodeId, signed: &SignedOutcome, now: TimeMs, out: &mut Vec<Effect>) {
        let first = signed.outcome.first_epoch;
        let member = self.committee(first).iter().any(|m| m.node == from && m.signer == signed.signer);
        let proposed = self.settling.as_mut().and_then(|s| s.proposed.as_mut());
        if let Some(proposed) = proposed.filter(|p| member && p.proposal.outcome == signed.outcome) {
            proposed.signatures.insert(signed.signer, signed.signature);
            let span = proposed.proposal.span;
            self.post(span, now, out);
        }
    }

    fn post(&mut self, span: Span, now: TimeMs, out: &mut Vec<Effect>) {
        let need = self.signatures_needed(span.first);
        let committee = self.committee(span.first).to_vec();
        let Some(settling) = &mut self.settling else { return };
        let Some(proposed) = &mut settling.proposed else { return };
        let due = proposed.posted_at.is_none_or(|at| now.since(at) >= CHAIN_RETRY_MS);
        if proposed.proposal.span != span || proposed.signatures.len() < need || !due {
            return;
        }
        proposed.posted_at = Some(now);
        let outcome: Outcome = proposed.proposal.outcome;
        let signatures: Vec<_> = committee
            .iter()
            .filter_map(|member| Some((member.signer, *proposed.signatures.get(&member.signer)?)))
            .collect::<Vec<(_, CompactSignature)>>();
        let Some(settled) = settling.candidates.iter().find(|settled| settled.outcome == outcome) else { return };
        let published = Arc::new(settled.published.clone());
        out.push(Effect::Post { outcome: Box::new(outcome), signatures, published });
    }
}
