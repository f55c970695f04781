//! What must never happen, checked at each step and at the end of a run.

use muster_core::ids::{Address, LeaseId};
use muster_core::lease::{End, Lease, Phase};
use muster_core::protocol::EscrowStatus;
use muster_core::units::TokenAmount;

use crate::container::container_index;
use crate::world::{World, account};

impl World {
    pub(crate) fn check_step(&mut self) {
        // Checking every Container at each step of a large world would be most of the work: take turns.
        let count = self.containers.len();
        if count > 0 {
            let turn = usize::try_from(self.outcome.steps).unwrap_or(0) % count;
            self.check_container(turn);
        }
        if self.outcome.steps.is_multiple_of(256) {
            if let Err(why) = self.chain.audit() {
                self.violated(why);
            }
            self.check_payments();
        }
    }

    /// Nobody pays for time in which nothing ran.
    fn check_payments(&mut self) {
        let mut found = None;
        for (lease, on_chain) in self.chain.leases() {
            let Some(container) = container_index(on_chain.container).and_then(|i| self.containers.get(i)) else {
                continue;
            };
            let mut ran = container.ran.get(&lease).copied().unwrap_or(0);
            if let Some(job) = container.jobs.get(&lease) {
                ran += self.ran_paid(lease, job);
            }
            if on_chain.redeemed > on_chain.deposit {
                found = Some(format!("{lease:?} paid {} of a deposit of {}", on_chain.redeemed.0, on_chain.deposit.0));
            }
            if let Some(most) = self.tokens_cost_most(lease, container.lie == 1) {
                if on_chain.redeemed > most {
                    let (paid, lie) = (on_chain.redeemed.0, container.lie);
                    found = Some(format!(
                        "{lease:?} paid {paid} for tokens that cost {} at most (counts are multiplied by {lie})",
                        most.0
                    ));
                }
                continue;
            }
            let limit_ms = on_chain.max_seconds.saturating_mul(1_000);
            if on_chain.redeemed > on_chain.rate_per_second.per_second_for_ms(limit_ms) {
                found = Some(format!("{lease:?} paid {} for more than its {limit_ms} ms", on_chain.redeemed.0));
            }
            let honest = container.lie == 1;
            // A liar is believed at most for the time since the go: it gains nothing by claiming more than the clock of its
            // consumer shows.
            let believed = if honest { ran + 1 } else { self.since_go(lease, on_chain.consumer) + 1 };
            let most = on_chain.rate_per_second.per_second_for_ms(believed + believed / 5_000);
            if on_chain.redeemed > most {
                found = Some(format!(
                    "{lease:?} paid {} for {ran} ms, which cost {} at most (claims are multiplied by {})",
                    on_chain.redeemed.0, most.0, container.lie
                ));
            }
        }
        if let Some(what) = found {
            self.violated(what);
        }
    }

    /// How long ago a consumer said go, by an honest clock.
    fn since_go(&self, lease: LeaseId, consumer: Address) -> u64 {
        let mut consumers = self.consumers.iter().enumerate();
        let node = consumers.find(|(i, _)| account(*i) == consumer).map(|(_, node)| node);
        let go_at = node.and_then(|node| Some(node.record(lease)?.go_at?.0 - node.skew_ms));
        go_at.map_or(0, |at| self.now - at)
    }

    /// After a calm time nothing hangs: every lease is settled, every slot free, every task answered.
    pub(crate) fn check_end(&mut self) {
        let mut found = Vec::new();
        if let Err(why) = self.chain.audit() {
            found.push(why);
        }
        for (lease, l) in self.chain.leases() {
            if l.status != EscrowStatus::Closed {
                found.push(format!("{lease:?} is {:?} on the chain for ever", l.status));
            }
        }
        for (i, node) in self.containers.iter().enumerate().filter(|(_, node)| !node.burnt) {
            if node.brain.busy() > 0 {
                let ghosts: Vec<String> = node
                    .brain
                    .all()
                    .filter(|h| h.lease.phase.holds_capacity())
                    .map(|h| format!("{:?} {}", h.lease.id(), h.lease.phase))
                    .collect();
                found.push(format!("Container {i} holds ghosts: {}", ghosts.join(", ")));
            }
            if !node.jobs.is_empty() {
                found.push(format!("Container {i} still runs something"));
            }
            for held in node.brain.all() {
                let on_chain = self.chain.read(held.lease.id());
                if held.lease.phase == Phase::Closed && on_chain.redeemed < held.lease.paid() {
                    found.push(format!(
                        "Container {i} held a voucher of {} for {:?} and was paid {}",
                        held.lease.paid().0,
                        held.lease.id(),
                        on_chain.redeemed.0
                    ));
                }
            }
        }
        for (i, node) in self.consumers.iter().enumerate() {
            if node.tasks_left > 0 {
                found.push(format!(
                    "consumer {i} waits for {} tasks (present lease {:?}, {} misses)",
                    node.tasks_left, node.current, node.misses
                ));
            }
            for rented in node.records() {
                if !rented.lease.phase.is_final() && self.chain.read(rented.lease.id()).status != EscrowStatus::None {
                    found.push(format!("consumer {i} left {:?} at {}", rented.lease.id(), rented.lease.phase));
                }
            }
        }
        found.extend(self.check_vouched());
        found.extend(self.check_ends());
        for what in found {
            self.violated(what);
        }
    }

    /// What was vouched is paid even if the Container never comes back: its consumer sees to it.
    fn check_vouched(&self) -> Vec<String> {
        let burnt = self.containers.iter().filter(|node| node.burnt).flat_map(|node| node.records());
        let left_behind = burnt.map(|held| (&held.lease, "its Container is gone for good"));
        let consumers = self.consumers.iter().flat_map(|node| node.records());
        let closed_alone = consumers
            .filter(|rented| self.chain.finalized.contains(&rented.lease.id()))
            .map(|rented| (&rented.lease, "its consumer closed it"));
        let paid = |lease: &Lease| self.chain.read(lease.id()).redeemed;
        left_behind
            .chain(closed_alone)
            .filter(|(lease, _)| paid(lease) < lease.paid())
            .map(|(l, why)| format!("{:?}: {why}, {} were vouched and {} paid", l.id(), l.paid().0, paid(l).0))
            .collect()
    }

    /// Limits, used-up deposits and failed starts are billed for what they are.
    fn check_ends(&mut self) -> Vec<String> {
        let mut found = Vec::new();
        for node in self.containers.iter().filter(|node| node.lie == 1) {
            for lease in node.records().map(|held| &held.lease) {
                let on_chain = self.chain.read(lease.id());
                let redeemed = on_chain.redeemed;
                // It was told to begin, and is void all the same.
                self.outcome.early_unpaid += u64::from(lease.phase == Phase::Void && lease.end.is_some());
                if lease.phase == Phase::Closed && on_chain.container != node.id {
                    found.push(format!(
                        "{:?} is another Container's, and {:?} counts it as its own",
                        lease.id(),
                        node.id
                    ));
                }
                let limit_ms = lease.terms.max_seconds.saturating_mul(1_000);
                match &lease.end {
                    Some(End::FailedToStart(_)) => {
                        self.outcome.failed_starts += 1;
                        if redeemed > TokenAmount::ZERO || lease.ran_ms > 0 {
                            found.push(format!("{:?} never started and was paid {}", lease.id(), redeemed.0));
                        }
                    }
                    Some(End::TimeLimit) => {
                        self.outcome.time_limits += 1;
                        if lease.ran_ms != limit_ms {
                            found.push(format!("{:?} ran {} ms of {limit_ms}", lease.id(), lease.ran_ms));
                        }
                    }
                    Some(End::DepositUsedUp) => {
                        self.outcome.used_up += 1;
                        // What was added while it was being killed came too late.
                        if lease.cost_of(lease.ran_ms) < lease.terms.deposit {
                            let (cost, of) = (lease.cost_of(lease.ran_ms).0, lease.terms.deposit.0);
                            found.push(format!("{:?} ended with {cost} of a deposit of {of} used", lease.id()));
                        }
                    }
                    _ => {}
                }
                // A Container that is killed may lose a voucher that its consumer then redeems.
                if self.config.faults.is_none() && self.config.crash.is_none() {
                    found.extend(self.check_exact(lease, redeemed));
                }
            }
        }
        found
    }

    /// Where nothing goes wrong, bills are exact.
    fn check_exact(&self, lease: &Lease, redeemed: TokenAmount) -> Option<String> {
        let limit_ms = lease.terms.max_seconds.saturating_mul(1_000);
        let wanted = match &lease.end {
            Some(End::TimeLimit) => lease.cost_of(limit_ms),
            Some(End::DepositUsedUp) => lease.cost_of(lease.ran_ms),
            _ => lease.due(),
        };
        if redeemed != wanted {
            let end = &lease.end;
            return Some(format!("{:?} ended with {end:?}, was paid {} and not {}", lease.id(), redeemed.0, wanted.0));
        }
        let topped_up_always = !self.consumers.iter().any(|c| c.let_run_out.contains(&lease.id()));
        (lease.end == Some(End::DepositUsedUp) && topped_up_always)
            .then(|| format!("{:?} used its deposit up although it was topped up each time it was low", lease.id()))
    }
}
