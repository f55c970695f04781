//! A consumer's body in the simulator: tasks, their leases, and its lies.

use std::collections::{BTreeMap, BTreeSet};

use muster_core::brain::consumer::{Effect, Event, Rented, Renting, Seek, SeekStep};
use muster_core::demand::Demand;
use muster_core::ids::{Address, LeaseId, NodeId, RequestId};
use muster_core::lease::Phase;
use muster_core::live::SessionSpec;
use muster_core::protocol::{
    EscrowLease, EscrowStatus, JobSpec, MatchFailure, MatchReply, MatchRequest, Matched, ToConsumer, ToContainer,
};
use muster_core::units::{Bytes, TimeMs, TokenAmount};
use muster_core::voucher::{CompactSignature, SignedVoucher, Voucher};

use crate::chain::{OPEN_KIND, Op};
use crate::config::{Config, RoleKind};
use crate::container::{acceptance, container_index};
use crate::models;
use crate::rng::Rng;
use crate::world::{Happening, OUTBOX_MS, Rpc, Session, Who, World, account};

/// A deposit that is not on the chain so long after its slot has lapsed will not come, in milliseconds.
const OPEN_GRACE_MS: u64 = 10_000;

/// One lease that this consumer drives.
#[derive(Debug)]
struct Driven {
    brain: Renting,
    session: Option<u64>,
}

/// A consumer.
#[derive(Debug)]
pub(crate) struct ConsumerNode {
    pub(crate) up: bool,
    pub(crate) life: u32,
    pub(crate) skew_ms: u64,
    /// Signs nothing.
    pub(crate) lies: bool,
    /// What survives a crash.
    disk: BTreeMap<LeaseId, Rented>,
    /// Tasks left to be done; survives a crash.
    pub(crate) tasks_left: u32,
    /// The lease that does the present task; survives a crash.
    pub(crate) current: Option<LeaseId>,
    pub(crate) outbox: BTreeMap<(LeaseId, u8, u64), Op>,
    seek: Option<Seek>,
    seek_again_at: u64,
    driven: BTreeMap<LeaseId, Driven>,
    excluded: BTreeSet<NodeId>,
    /// Leases whose deposit was low and was not added to.
    pub(crate) let_run_out: BTreeSet<LeaseId>,
    pub(crate) misses: u32,
}

impl ConsumerNode {
    pub(crate) fn new(_index: usize, config: &Config, rng: &mut Rng) -> Self {
        Self {
            up: true,
            life: 0,
            skew_ms: rng.below(config.faults.skew_ms + 1),
            lies: rng.below(100) < config.faults.lying_consumers,
            disk: BTreeMap::new(),
            tasks_left: config.tasks_each,
            current: None,
            outbox: BTreeMap::new(),
            seek: None,
            seek_again_at: 0,
            driven: BTreeMap::new(),
            excluded: BTreeSet::new(),
            let_run_out: BTreeSet::new(),
            misses: 0,
        }
    }

    pub(crate) fn die(&mut self) {
        self.up = false;
        self.life += 1;
    }

    /// A lease as it was last written down.
    pub(crate) fn record(&self, lease: LeaseId) -> Option<&Rented> {
        self.disk.get(&lease)
    }

    /// The control stream of a lease that runs; `None` where it drives none such.
    pub(crate) fn session_of(&self, lease: LeaseId) -> Option<Option<u64>> {
        let runs = |driven: &&Driven| driven.brain.lease().phase == Phase::Running;
        self.driven.get(&lease).filter(runs).map(|driven| driven.session)
    }

    /// All leases that this consumer has ever written down.
    pub(crate) fn records(&self) -> impl Iterator<Item = &Rented> {
        self.disk.values()
    }
}

/// A session key's address: in this world a signature is the signer's name.
fn session_key(lease: LeaseId) -> Address {
    let mut bytes = [0; 20];
    bytes.copy_from_slice(&lease.0[..20]);
    Address(bytes)
}

/// Whether a lease is for a live session: a matter of its name, so that a restart changes nothing.
fn is_session(lease: LeaseId, config: &Config) -> bool {
    u64::from(lease.0[20]) * 100 / 256 < config.sessions_percent
}

impl World {
    pub(crate) fn tick_consumer(&mut self, i: usize) -> bool {
        self.pursue(i);
        let leases: Vec<LeaseId> = self.consumers[i].driven.keys().copied().collect();
        for lease in leases {
            self.feed_consumer(i, lease, Event::Tick);
            if !self.consumers[i].up {
                return false;
            }
        }
        !self.consumers[i].driven.is_empty() || self.consumers[i].seek.is_some()
    }

    /// Looks for a Container when a task waits.
    fn pursue(&mut self, i: usize) {
        let now = self.clock(Who::Consumer(i));
        let node = &mut self.consumers[i];
        if let Some(seek) = node.seek.as_mut() {
            let step = seek.tick(now);
            self.seek_step(i, step);
            return;
        }
        if node.current.is_some() || node.tasks_left == 0 || self.now < node.seek_again_at {
            return;
        }
        let request = self.new_request(i);
        let seed = self.rng.draw();
        let indexers: Vec<NodeId> = self.indexers.iter().map(|n| n.id).collect();
        let mut seek = Seek::new(request, &indexers, seed, &self.config.params);
        let step = seek.begin(now);
        self.consumers[i].seek = Some(seek);
        self.seek_step(i, step);
    }

    fn new_request(&mut self, i: usize) -> MatchRequest {
        let lease = LeaseId(self.rng.bytes());
        let demand = Demand {
            cpu_millis: u32::try_from(self.rng.between(1, 4) * 500).unwrap_or(500),
            memory: Bytes(256 * Bytes::MIB),
            disk: Bytes(Bytes::GIB),
            // Workloads run for up to 20 s: some limits are reached.
            time_limit_s: if self.rng.chance(300_000) { self.rng.between(1, 8) } else { self.rng.between(5, 120) },
            exclude: self.consumers[i].excluded.iter().copied().collect(),
            ..Demand::default()
        };
        let model = self.rng.below(100) < self.config.models_percent;
        let demand = if model { models::demand(&mut self.rng, demand) } else { demand };
        let deposit_seconds = if self.rng.chance(300_000) { self.rng.between(2, 10) } else { demand.time_limit_s };
        MatchRequest {
            request: RequestId(u128::from(self.rng.draw())),
            lease,
            salt: lease.0,
            consumer: account(i),
            session_key: session_key(lease),
            deposit_seconds,
            demand,
        }
    }

    fn seek_step(&mut self, i: usize, step: SeekStep) {
        match step {
            SeekStep::Wait => {}
            SeekStep::Ask(indexer) => {
                let Some(to) = self.indexers.iter().position(|n| n.id == indexer) else { return };
                if let Some(request) = self.consumers[i].seek.as_ref().map(|s| s.request().clone()) {
                    self.send(Who::Consumer(i), Who::Indexer(to), Rpc::Match(Box::new(request)));
                }
            }
            SeekStep::Matched(matched) => self.matched(i, *matched),
            SeekStep::Failed { answer, .. } => {
                let never = answer.is_some_and(|a| a.kind == MatchFailure::NothingFits);
                let wait = self.rng.between(500, 3_000);
                let node = &mut self.consumers[i];
                node.seek = None;
                node.excluded.clear();
                node.seek_again_at = self.now + wait;
                node.misses += 1;
                // In calm weather a task that nobody can do is given up in the end.
                if self.calm && (never || node.misses > 8) {
                    node.tasks_left -= 1;
                    node.misses = 0;
                    self.outcome.unmatched += 1;
                }
            }
        }
    }

    fn matched(&mut self, i: usize, matched: Matched) {
        let now = self.clock(Who::Consumer(i));
        let lease = matched.terms.lease;
        let session = matched.terms.tokens.is_none() && is_session(lease, &self.config);
        let brain = Renting::new(matched, self.config.params.clone(), now).with_early_start(session);
        let node = &mut self.consumers[i];
        node.seek = None;
        node.misses = 0;
        node.current = Some(lease);
        node.driven.insert(lease, Driven { brain, session: None });
        self.feed_consumer(i, lease, Event::Begin);
    }

    pub(crate) fn feed_consumer(&mut self, i: usize, lease: LeaseId, event: Event) {
        let now = self.clock(Who::Consumer(i));
        let node = &mut self.consumers[i];
        if !node.up {
            return;
        }
        let Some(driven) = node.driven.get_mut(&lease) else { return };
        let effects = driven.brain.handle(event, now);
        for effect in effects {
            if self.dies(RoleKind::Consumer) {
                self.crash(Who::Consumer(i));
                return;
            }
            self.consumer_does(i, lease, effect, now);
        }
    }

    fn consumer_does(&mut self, i: usize, lease: LeaseId, effect: Effect, now: TimeMs) {
        let Some(driven) = self.consumers[i].driven.get(&lease) else { return };
        let session = driven.session;
        let rented = driven.brain.rented().clone();
        match effect {
            Effect::Save => {
                self.consumers[i].disk.insert(lease, rented);
            }
            Effect::OpenOnChain => {
                let t = &rented.lease.terms;
                let op = Op::Open(EscrowLease {
                    status: EscrowStatus::Open,
                    consumer: t.consumer,
                    session_key: t.session_key,
                    container: t.container,
                    deposit: t.deposit,
                    redeemed: TokenAmount::ZERO,
                    rate_per_second: t.rate_per_second,
                    max_seconds: t.max_seconds,
                });
                // Every other deposit of a liar's never comes, until the weather is calm.
                if self.calm || !self.consumers[i].lies || lease.0[21] & 1 == 0 {
                    self.consumer_sends(i, lease, op, 0);
                }
                self.feed_consumer(i, lease, Event::OpenSent);
            }
            Effect::Connect => {
                if let Some(container) = container_index(rented.container.id) {
                    let session = self.connect(i, container, lease);
                    if let Some(d) = self.consumers[i].driven.get_mut(&lease) {
                        d.session = Some(session);
                    }
                }
            }
            Effect::SendInputs => {
                let longest = if is_session(lease, &self.config) { 1 } else { 2_000 };
                let (delay, life) = (self.rng.between(1, longest), self.consumers[i].life);
                if let Some(session) = session {
                    self.after(delay, Happening::InputsArrived { consumer: i, life, lease, session });
                }
            }
            Effect::Go => {
                let model = rented.lease.terms.tokens.map(|_| models::spec());
                let display = (model.is_none() && is_session(lease, &self.config)).then(SessionSpec::default);
                let command = if model.is_none() { vec!["true".to_owned()] } else { Vec::new() };
                let job = JobSpec { command, env: Vec::new(), stdin: false, session: display, model };
                self.up_if(session, ToContainer::Go(job));
            }
            Effect::Sign(amount) => self.sign(i, lease, amount, now),
            Effect::Pay(voucher) => self.up_if(session, ToContainer::Paid(voucher)),
            Effect::SayStop => self.up_if(session, ToContainer::Stop),
            Effect::SayTaken => self.up_if(session, ToContainer::Taken),
            Effect::SayToppedUp => self.up_if(session, ToContainer::ToppedUp),
            Effect::TakeOutputs => {
                let (delay, life) = (self.rng.between(1, 1_000), self.consumers[i].life);
                if let Some(session) = session {
                    self.after(delay, Happening::OutputsArrived { consumer: i, life, lease, session });
                }
            }
            Effect::AskChain => self.send(Who::Consumer(i), Who::Chain, Rpc::Read { lease }),
            // What was vouched first; the closing follows when the chain has answered.
            Effect::CloseOnChain => match rented.lease.voucher {
                Some(voucher) => {
                    let attempt = u64::try_from(voucher.voucher.amount.0).unwrap_or(u64::MAX);
                    self.consumer_sends(i, lease, Op::Redeem(voucher), attempt);
                }
                None => self.consumer_sends(i, lease, Op::Close, 0),
            },
            Effect::Finalize => {
                // One try a second: each answer makes the brain look again.
                let attempt = self.now / 1_000;
                self.consumer_sends(i, lease, Op::Finalize, attempt);
            }
            Effect::TokensLow { .. } => {
                if self.rng.chance(500_000) {
                    let more = rented.lease.terms.deposit;
                    self.consumer_sends(i, lease, Op::TopUp(more), rented.lease.deposit.0 as u64);
                } else {
                    self.consumers[i].let_run_out.insert(lease);
                }
            }
            Effect::NowRunning if rented.lease.terms.tokens.is_some() => self.model_runs(i, lease),
            Effect::DepositLow { .. } => {
                if self.rng.chance(500_000) {
                    let more = rented.lease.terms.rate_per_second.per_second_for_ms(20_000);
                    self.consumer_sends(i, lease, Op::TopUp(more), rented.lease.deposit.0 as u64);
                } else {
                    self.consumers[i].let_run_out.insert(lease);
                }
            }
            Effect::NowEnded => self.task_ended(i, &rented),
            Effect::Finished => {
                self.consumers[i].driven.remove(&lease);
            }
            Effect::NowRunning | Effect::Complaint(_) => {}
        }
    }

    fn up_if(&mut self, session: Option<u64>, message: ToContainer) {
        if let Some(session) = session {
            self.say_up(session, message);
        }
    }

    fn consumer_sends(&mut self, i: usize, lease: LeaseId, op: Op, attempt: u64) {
        let node = &mut self.consumers[i];
        let (kind, first) = (op.kind(), node.outbox.is_empty());
        if node.outbox.contains_key(&(lease, kind, attempt)) {
            return;
        }
        node.outbox.insert((lease, kind, attempt), op.clone());
        let life = node.life;
        self.send(Who::Consumer(i), Who::Chain, Rpc::Execute { lease, op: Box::new(op), attempt });
        // One timer sends again whatever waits: a timer for each would multiply.
        if first {
            self.after(OUTBOX_MS, Happening::Outbox(Who::Consumer(i), life));
        }
    }

    fn sign(&mut self, i: usize, lease: LeaseId, amount: TokenAmount, now: TimeMs) {
        if self.consumers[i].lies {
            return;
        }
        let mut r = [0; 32];
        r[..20].copy_from_slice(&session_key(lease).0);
        let voucher = Voucher { lease, amount, as_of_s: now.secs() };
        let signed = SignedVoucher { voucher, signature: CompactSignature { r, vs: [0; 32] } };
        self.feed_consumer(i, lease, Event::Signed(signed));
    }

    /// The present task is done, or is tried again elsewhere.
    fn task_ended(&mut self, i: usize, rented: &Rented) {
        let node = &mut self.consumers[i];
        if node.current != Some(rented.lease.id()) {
            return;
        }
        node.current = None;
        let own = rented.lease.end.as_ref().is_some_and(|e| !e.is_interruption());
        if own {
            node.tasks_left = node.tasks_left.saturating_sub(1);
            self.outcome.finished += 1;
        } else {
            node.excluded.insert(rented.container.id);
            self.outcome.retried += 1;
        }
    }

    pub(crate) fn consumer_gets(&mut self, i: usize, _from: Who, rpc: Rpc) {
        match rpc {
            Rpc::MatchReply { from, request, reply } => {
                let now = self.clock(Who::Consumer(i));
                let Some(seek) = self.consumers[i].seek.as_mut() else { return };
                if seek.request().request.0 != request {
                    return;
                }
                let reply: MatchReply = *reply;
                // The body checks the Container's signature over the terms before its brain hears of them.
                let forged = match &reply {
                    MatchReply::Matched(m) => m.acceptance != acceptance(&m.terms),
                    MatchReply::Failed(_) => false,
                };
                if forged {
                    let step = seek.unreachable(from, now);
                    self.seek_step(i, step);
                    return;
                }
                let step = seek.answered(from, reply, now);
                self.seek_step(i, step);
            }
            Rpc::Seen { lease, view } => {
                let lapsed = view.status == EscrowStatus::None && self.open_lapsed(i, lease);
                self.feed_consumer(i, lease, Event::ChainSeen(view));
                if lapsed {
                    let why = "the deposit did not get onto the chain while the slot was held".to_owned();
                    self.feed_consumer(i, lease, Event::OpenFailed { why });
                }
            }
            Rpc::Executed { lease, kind, attempt, ok } => {
                let op = self.consumers[i].outbox.remove(&(lease, kind, attempt));
                match op {
                    // Refused: the Container has redeemed or closed meanwhile, which is as good.
                    Some(Op::Redeem(_)) => self.consumer_sends(i, lease, Op::Close, 0),
                    Some(Op::TopUp(_)) if ok => self.outcome.top_ups += 1,
                    _ => {}
                }
                // The receipt says it: a read that is still on its way may be older.
                if let Some(Op::Open(opened)) = &op
                    && ok
                {
                    self.feed_consumer(i, lease, Event::ChainSeen(opened.clone()));
                }
                if !ok && matches!(op, Some(Op::Open(_))) {
                    self.feed_consumer(i, lease, Event::OpenFailed { why: "the escrow refused".to_owned() });
                }
                if ok {
                    self.send(Who::Consumer(i), Who::Chain, Rpc::Read { lease });
                }
            }
            _ => {}
        }
    }

    /// Whether a deposit that is not on the chain will not come: nothing of it is on its way.
    fn open_lapsed(&self, i: usize, lease: LeaseId) -> bool {
        let node = &self.consumers[i];
        let Some(driven) = node.driven.get(&lease) else { return false };
        let open_by = driven.brain.lease().open_by().plus(OPEN_GRACE_MS);
        let on_its_way = node.outbox.keys().any(|(of, kind, _)| *of == lease && *kind == OPEN_KIND);
        driven.brain.lease().phase == Phase::Accepted && !on_its_way && self.clock(Who::Consumer(i)) > open_by
    }

    pub(crate) fn session_stands(&mut self, session: u64) {
        let Some(s) = self.sessions.get(&session).cloned() else { return };
        let newest = self.consumers[s.consumer].driven.get(&s.lease).is_some_and(|d| d.session == Some(session));
        if !newest {
            self.break_session(session);
            return;
        }
        self.feed_consumer(s.consumer, s.lease, Event::Connected);
        self.feed_container(s.container, muster_core::brain::container::Event::Attached { lease: s.lease, session });
    }

    pub(crate) fn consumer_hears(&mut self, session: u64, message: ToConsumer) {
        let Some(s) = self.sessions.get(&session) else { return };
        let (i, lease) = (s.consumer, s.lease);
        if self.consumers[i].driven.get(&lease).is_some_and(|d| d.session == Some(session)) {
            self.feed_consumer(i, lease, Event::Heard(message));
        }
    }

    pub(crate) fn consumer_loses(&mut self, s: &Session, session: u64) {
        if self.life(Who::Consumer(s.consumer)) != s.consumer_life {
            return;
        }
        if let Some(d) = self.consumers[s.consumer].driven.get_mut(&s.lease)
            && d.session == Some(session)
        {
            d.session = None;
            self.feed_consumer(s.consumer, s.lease, Event::Lost { why: "the line broke".to_owned(), cut_off: false });
        }
    }

    pub(crate) fn inputs_arrived(&mut self, i: usize, life: u32, lease: LeaseId, session: u64) {
        if self.life(Who::Consumer(i)) == life && self.alive(session) {
            self.feed_consumer(i, lease, Event::InputsSent);
        }
    }

    pub(crate) fn outputs_arrived(&mut self, i: usize, life: u32, lease: LeaseId, session: u64) {
        if self.life(Who::Consumer(i)) == life && self.alive(session) {
            self.feed_consumer(i, lease, Event::OutputsTaken);
        }
    }

    pub(crate) fn restart_consumer(&mut self, i: usize) {
        let now = self.clock(Who::Consumer(i));
        let params = self.config.params.clone();
        let node = &mut self.consumers[i];
        node.up = true;
        node.seek = None;
        node.driven.clear();
        let records: Vec<Rented> = node.disk.values().filter(|r| !r.lease.phase.is_final()).cloned().collect();
        // A task whose lease was never written down is sought again; one that ended while it was being written down counts.
        if let Some(current) = node.current {
            match node.disk.get(&current).cloned() {
                None => node.current = None,
                Some(r) if r.lease.end.is_some() || r.lease.phase.is_final() => self.task_ended(i, &r),
                Some(_) => {}
            }
        }
        for rented in records {
            let lease = rented.lease.id();
            let session = is_session(lease, &self.config);
            let brain = Renting::restore(rented, params.clone(), now).with_early_start(session);
            self.consumers[i].driven.insert(lease, Driven { brain, session: None });
            self.feed_consumer(i, lease, Event::Begin);
            if !self.consumers[i].up {
                return;
            }
        }
    }
}
