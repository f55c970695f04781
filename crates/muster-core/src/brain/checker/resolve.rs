//! Disputes: what members of the dispute committee say the outcome is, until two thirds of them say the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{CHAIN_RETRY_MS, Checker, Disputed, Effect, Member, Message, SignedOutcome};
use crate::ids::{Address, NodeId};
use crate::reward::Outcome;
use crate::units::TimeMs;
use crate::voucher::CompactSignature;

/// How often an outcome is computed again while that does not succeed.
const REEXAMINE_AGAIN_MS: u64 = 30_000;

/// A dispute that this Checker decides with others.
#[derive(Clone, Debug)]
pub(super) struct Resolving {
    /// What stands on the chain, disputed.
    posted: Outcome,
    /// Who decides, in the order of the draw.
    members: Vec<Member>,
    /// Since when this Checker knows of it.
    since: TimeMs,
    asked_at: Option<TimeMs>,
    /// What this Checker computed instead, or the same.
    right: Option<Outcome>,
    /// What members signed: the last word of each counts.
    signed: BTreeMap<Address, (Outcome, CompactSignature)>,
    sent_at: Option<TimeMs>,
    resolved_at: Option<TimeMs>,
}

impl Resolving {
    fn member(&self, node: NodeId, signer: Address) -> bool {
        self.members.iter().any(|member| member.node == node && member.signer == signer)
    }

    /// Signatures under what this Checker computed, in the committee's order.
    fn agreed(&self) -> Vec<(Address, CompactSignature)> {
        let Some(right) = self.right else { return Vec::new() };
        let of = |member: &Member| {
            let (outcome, signature) = self.signed.get(&member.signer)?;
            (*outcome == right).then_some((member.signer, *signature))
        };
        self.members.iter().filter_map(of).collect()
    }
}

impl Checker {
    /// Whether an outcome is disputed just now: nothing is settled on top of it.
    pub(super) const fn is_disputed(&self) -> bool {
        self.disputed
    }

    pub(super) fn on_disputed(&mut self, disputed: Option<Disputed>, now: TimeMs) {
        self.disputed = disputed.is_some();
        let member = |d: &Disputed| d.members.iter().any(|member| member.node == self.config.id);
        let Some(disputed) = disputed.filter(member) else {
            self.resolving = None;
            return;
        };
        if self.resolving.as_ref().is_some_and(|known| known.posted == disputed.posted) {
            return;
        }
        self.resolving = Some(Resolving {
            posted: disputed.posted,
            members: disputed.members,
            since: now,
            asked_at: None,
            right: None,
            signed: BTreeMap::new(),
            sent_at: None,
            resolved_at: None,
        });
    }

    pub(super) fn on_reexamined(
        &mut self,
        posted: &Outcome,
        right: Outcome,
        published: Arc<Vec<u8>>,
        out: &mut Vec<Effect>,
    ) {
        let Some(resolving) = self.resolving.as_mut().filter(|r| r.posted == *posted && r.right.is_none()) else {
            return;
        };
        resolving.right = Some(right);
        // Whoever takes it over fetches it from those who decided.
        out.push(Effect::Publish(published));
        out.push(Effect::Sign(Box::new(right)));
    }

    /// A member's word, or this Checker's own.
    pub(super) fn on_decision(&mut self, from: NodeId, signed: &SignedOutcome) {
        let Some(resolving) = &mut self.resolving else { return };
        let place = signed.outcome.first_epoch == resolving.posted.first_epoch;
        if place && resolving.member(from, signed.signer) {
            resolving.signed.insert(signed.signer, (signed.outcome, signed.signature));
        }
    }

    pub(super) fn tick_resolving(&mut self, now: TimeMs, out: &mut Vec<Effect>) {
        let (me, turn_ms) = (self.config.id, self.config.params.epoch.proposer_timeout_ms.max(1));
        let signer = self.config.signer;
        let Some(resolving) = &mut self.resolving else { return };
        let Some(right) = resolving.right else {
            if resolving.asked_at.is_none_or(|at| now.since(at) >= REEXAMINE_AGAIN_MS) {
                resolving.asked_at = Some(now);
                out.push(Effect::Reexamine(Box::new(resolving.posted)));
            }
            return;
        };
        let own = resolving.signed.get(&signer).filter(|(outcome, _)| *outcome == right).copied();
        if let Some((outcome, signature)) = own
            && resolving.sent_at.is_none_or(|at| now.since(at) >= CHAIN_RETRY_MS)
        {
            resolving.sent_at = Some(now);
            let message = Box::new(Message::Decide(Box::new(SignedOutcome { outcome, signer, signature })));
            let others = resolving.members.iter().filter(|member| member.node != me);
            out.extend(others.map(|member| Effect::Send { to: member.node, message: message.clone() }));
        }
        let signatures = resolving.agreed();
        if signatures.len() < resolving.members.len().saturating_mul(2).div_ceil(3) {
            return;
        }
        // The members one after the other, so that usually one of them pays for the transaction.
        let rank = resolving.members.iter().position(|member| member.node == me).unwrap_or(0);
        let turn = resolving.since.plus(turn_ms.saturating_mul(u64::try_from(rank).unwrap_or(u64::MAX)));
        if now >= turn && resolving.resolved_at.is_none_or(|at| now.since(at) >= CHAIN_RETRY_MS) {
            resolving.resolved_at = Some(now);
            let members = resolving.members.iter().map(|member| member.signer).collect();
            out.push(Effect::Resolve {
                posted: Box::new(resolving.posted),
                right: Box::new(right),
                members,
                signatures,
            });
        }
    }
}
