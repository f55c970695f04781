//! The world: virtual time, the events in it, and the network between the nodes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use muster_core::ids::{Address, LeaseId, NodeId};
use muster_core::inference::TokenCounts;
use muster_core::protocol::{ContainerReport, MatchReply, MatchRequest, Offer, OfferAnswer, ToConsumer, ToContainer};
use muster_core::units::TimeMs;

use crate::chain::{Chain, Op};
use crate::config::{Config, CrashAt, RoleKind};
use crate::consumer::ConsumerNode;
use crate::container::ContainerNode;
use crate::indexer::IndexerNode;
use crate::models::Tokens;
use crate::rng::Rng;

/// When the world begins, by an honest clock.
pub(crate) const GENESIS_MS: u64 = 1_800_000_000_000;
/// How often a node with work is woken.
const TICK_MS: u64 = 100;
/// How often a node without work is woken.
const IDLE_TICK_MS: u64 = 1_000;
/// How often an outbox tries again.
pub(crate) const OUTBOX_MS: u64 = 1_000;

/// A node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Who {
    /// The chain's node.
    Chain,
    /// An Indexer.
    Indexer(usize),
    /// A Container.
    Container(usize),
    /// A consumer.
    Consumer(usize),
}

/// A message outside control streams.
#[derive(Clone, Debug)]
pub(crate) enum Rpc {
    Match(Box<MatchRequest>),
    MatchReply { from: NodeId, request: u128, reply: Box<MatchReply> },
    Report(Box<ContainerReport>),
    Offer { reply: u64, from: NodeId, offer: Box<Offer> },
    OfferAnswer { reply: u64, answer: Box<OfferAnswer> },
    Read { lease: LeaseId },
    Seen { lease: LeaseId, view: muster_core::protocol::EscrowLease },
    Execute { lease: LeaseId, op: Box<Op>, attempt: u64 },
    Executed { lease: LeaseId, kind: u8, attempt: u64, ok: bool },
}

/// Something that will happen.
#[derive(Clone, Debug)]
pub(crate) enum Happening {
    /// A node is woken; only if it has not died since.
    Tick(Who, u32),
    /// A node's outbox tries again; only if it has not died since.
    Outbox(Who, u32),
    /// A message arrives.
    Arrive { from: Who, to: Who, rpc: Rpc },
    /// A transaction gets into its block.
    Mined { from: Who, lease: LeaseId, op: Box<Op>, attempt: u64 },
    /// A control stream stands.
    Stands { session: u64 },
    /// A message on a control stream, to its Container.
    Up { session: u64, message: Box<ToContainer> },
    /// A message on a control stream, to its consumer.
    Down { session: u64, message: Box<ToConsumer> },
    /// A control stream is noticed to be broken.
    Broken { session: u64 },
    /// A workload reports running.
    JobStarts { container: usize, life: u32, lease: LeaseId },
    /// A workload ends by itself, or the kill has worked.
    JobEnds { container: usize, life: u32, lease: LeaseId, run: u64 },
    /// The consumer's inputs have arrived.
    InputsArrived { consumer: usize, life: u32, lease: LeaseId, session: u64 },
    /// The consumer has the outputs.
    OutputsArrived { consumer: usize, life: u32, lease: LeaseId, session: u64 },
    /// A consumer asks its model.
    Asks { consumer: usize, life: u32, lease: LeaseId },
    /// A model's answer is at its end.
    Drawn { consumer: usize, life: u32, container: usize, container_life: u32, lease: LeaseId },
    /// Its consumer hears of it, or that it is lost.
    Answered { consumer: usize, life: u32, lease: LeaseId, counts: TokenCounts, lost: bool },
    /// A node is started again.
    Restart(Who),
    /// The network splits.
    Split,
    /// The network heals.
    Heal,
}

struct Due {
    at: u64,
    order: u64,
    what: Happening,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// A control stream between a consumer's lease and a Container.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) consumer: usize,
    pub(crate) consumer_life: u32,
    pub(crate) container: usize,
    pub(crate) container_life: u32,
    pub(crate) lease: LeaseId,
    pub(crate) broken: bool,
    /// In-order delivery: nothing arrives before what was sent earlier.
    up_after: u64,
    down_after: u64,
}

/// What a run came to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Tasks that came to their own end.
    pub finished: u64,
    /// Tasks for which no Container was found.
    pub unmatched: u64,
    /// Leases that ended otherwise and were tried again.
    pub retried: u64,
    /// Leases that the chain has seen.
    pub leases: u64,
    /// Processes that died.
    pub crashes: u64,
    /// Containers that died for good.
    pub burnt: u64,
    /// Workloads that could not be started.
    pub failed_starts: u64,
    /// Workloads that ran for as long as was agreed.
    pub time_limits: u64,
    /// Leases whose deposit grew.
    pub top_ups: u64,
    /// Workloads that used their deposit up.
    pub used_up: u64,
    /// Workloads that began before their deposit was seen.
    pub early_starts: u64,
    /// Of those, the ones whose deposit never came.
    pub early_unpaid: u64,
    /// Leases that their consumer closed because the Container did not.
    pub closed_by_consumer: u64,
    /// Tokens that models drew.
    pub tokens: u64,
    /// Events that were handled.
    pub steps: u64,
    /// Effects that the nodes of each role performed, in the order of [`RoleKind::ALL`](crate::RoleKind::ALL).
    pub effects: [u64; 4],
    /// The chain of hashes over everything that happened: equal runs have equal fingerprints.
    pub fingerprint: u64,
    /// Broken invariants, the first ones.
    pub violations: Vec<String>,
}

impl Outcome {
    /// Adds another run's figures; violations, effects and fingerprints belong to one run and stay.
    pub fn add(&mut self, other: &Self) {
        self.finished += other.finished;
        self.unmatched += other.unmatched;
        self.retried += other.retried;
        self.leases += other.leases;
        self.crashes += other.crashes;
        self.burnt += other.burnt;
        self.failed_starts += other.failed_starts;
        self.time_limits += other.time_limits;
        self.top_ups += other.top_ups;
        self.used_up += other.used_up;
        self.early_starts += other.early_starts;
        self.early_unpaid += other.early_unpaid;
        self.closed_by_consumer += other.closed_by_consumer;
        self.tokens += other.tokens;
        self.steps += other.steps;
    }
}

/// A whole network under virtual time.
pub struct World {
    pub(crate) config: Config,
    pub(crate) rng: Rng,
    pub(crate) now: u64,
    heap: BinaryHeap<Reverse<Due>>,
    order: u64,
    pub(crate) calm: bool,
    /// Which side of a split each node is on.
    split: Option<u64>,
    pub(crate) chain: Chain,
    pub(crate) indexers: Vec<IndexerNode>,
    pub(crate) containers: Vec<ContainerNode>,
    pub(crate) consumers: Vec<ConsumerNode>,
    pub(crate) sessions: BTreeMap<u64, Session>,
    /// What each lease of a model really did.
    pub(crate) tokens: BTreeMap<LeaseId, Tokens>,
    pub(crate) next_session: u64,
    pub(crate) next_reply: u64,
    pub(crate) outcome: Outcome,
    /// Until when the chain's node is down.
    chain_down_until: u64,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("seed", &self.config.seed).field("now", &self.now).finish_non_exhaustive()
    }
}

/// The account of a consumer.
pub(crate) fn account(consumer: usize) -> Address {
    let mut bytes = [0xc0; 20];
    bytes[..8].copy_from_slice(&(consumer as u64).to_be_bytes());
    Address(bytes)
}

impl World {
    /// The world of a configuration, at its beginning.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let mut rng = Rng::new(config.seed.wrapping_mul(31).wrapping_add(7));
        let accounts: Vec<Address> = (0..config.consumers).map(account).collect();
        let chain = Chain::new(&accounts, 1 << 100, 8_000, config.params.fee_bps);
        let indexers = (0..config.indexers).map(|i| IndexerNode::new(i, &config, &mut rng)).collect();
        let containers = (0..config.containers).map(|i| ContainerNode::new(i, &config, &mut rng)).collect();
        let consumers = (0..config.consumers).map(|i| ConsumerNode::new(i, &config, &mut rng)).collect();
        let mut world = Self {
            config,
            rng,
            now: GENESIS_MS,
            heap: BinaryHeap::new(),
            order: 0,
            calm: false,
            split: None,
            chain,
            indexers,
            containers,
            consumers,
            sessions: BTreeMap::new(),
            tokens: BTreeMap::new(),
            next_session: 1,
            next_reply: 1,
            outcome: Outcome::default(),
            chain_down_until: 0,
        };
        for who in world.everybody() {
            let first = world.rng.below(1_000);
            world.after(first, Happening::Tick(who, 0));
        }
        if world.config.faults.partition_every_ms > 0 {
            world.after(world.config.faults.partition_every_ms, Happening::Split);
        }
        world
    }

    fn everybody(&self) -> Vec<Who> {
        let indexers = (0..self.indexers.len()).map(Who::Indexer);
        let containers = (0..self.containers.len()).map(Who::Container);
        indexers.chain(containers).chain((0..self.consumers.len()).map(Who::Consumer)).collect()
    }

    /// Lets the world run: first with faults, then without, and checks the invariants at each step and at the end.
    pub fn run(mut self) -> Outcome {
        let calm_at = GENESIS_MS + self.config.busy_ms;
        let end_at = calm_at + self.config.calm_ms;
        while let Some(Reverse(due)) = self.heap.pop() {
            if due.at > end_at || !self.outcome.violations.is_empty() {
                break;
            }
            self.now = due.at;
            if due.at >= calm_at && !self.calm {
                self.calm = true;
                self.split = None;
            }
            self.note(&due.what);
            self.happen(due.what);
            self.check_step();
        }
        if self.outcome.violations.is_empty() {
            self.check_end();
        }
        self.outcome.leases = self.chain.leases().count() as u64;
        self.outcome.closed_by_consumer = self.chain.finalized.len() as u64;
        self.outcome.tokens = self.tokens_counted();
        self.outcome
    }

    /// Mixes an event into the fingerprint.
    fn note(&mut self, what: &Happening) {
        self.outcome.steps += 1;
        let tag = match what {
            Happening::Tick(..) => 1u64,
            Happening::Outbox(..) => 2,
            Happening::Arrive { .. } => 3,
            Happening::Stands { .. } => 4,
            Happening::Up { .. } => 5,
            Happening::Down { .. } => 6,
            Happening::Broken { .. } => 7,
            Happening::JobStarts { .. } => 8,
            Happening::JobEnds { .. } => 9,
            Happening::InputsArrived { .. } => 10,
            Happening::OutputsArrived { .. } => 11,
            Happening::Restart(..) => 12,
            Happening::Split => 13,
            Happening::Heal => 14,
            Happening::Mined { .. } => 15,
            Happening::Asks { .. } => 16,
            Happening::Drawn { .. } => 17,
            Happening::Answered { .. } => 18,
        };
        let mixed = (self.outcome.fingerprint ^ self.now ^ (tag << 56)).wrapping_mul(0x0000_0100_0000_01b3);
        self.outcome.fingerprint = mixed.rotate_left(17);
    }

    pub(crate) fn after(&mut self, delay_ms: u64, what: Happening) {
        self.order += 1;
        self.heap.push(Reverse(Due { at: self.now + delay_ms, order: self.order, what }));
    }

    /// A node's own clock: honest time plus its skew.
    pub(crate) fn clock(&self, who: Who) -> TimeMs {
        let skew = match who {
            Who::Chain => 0,
            Who::Indexer(i) => self.indexers.get(i).map_or(0, |n| n.skew_ms),
            Who::Container(i) => self.containers.get(i).map_or(0, |n| n.skew_ms),
            Who::Consumer(i) => self.consumers.get(i).map_or(0, |n| n.skew_ms),
        };
        TimeMs(self.now + skew)
    }

    pub(crate) fn life(&self, who: Who) -> u32 {
        match who {
            Who::Chain => 0,
            Who::Indexer(i) => self.indexers.get(i).map_or(0, |n| n.life),
            Who::Container(i) => self.containers.get(i).map_or(0, |n| n.life),
            Who::Consumer(i) => self.consumers.get(i).map_or(0, |n| n.life),
        }
    }

    pub(crate) fn up(&self, who: Who) -> bool {
        match who {
            Who::Chain => self.now >= self.chain_down_until,
            Who::Indexer(i) => self.indexers.get(i).is_some_and(|n| n.up),
            Who::Container(i) => self.containers.get(i).is_some_and(|n| n.up),
            Who::Consumer(i) => self.consumers.get(i).is_some_and(|n| n.up),
        }
    }

    /// Whether a split stands between two nodes.
    pub(crate) fn cut_off(&self, a: Who, b: Who) -> bool {
        let Some(salt) = self.split else { return false };
        let side = |who: Who| {
            let n = match who {
                Who::Chain => 0,
                Who::Indexer(i) => 1_000_003 * (i as u64 + 1),
                Who::Container(i) => 2_000_003 * (i as u64 + 1),
                Who::Consumer(i) => 3_000_017 * (i as u64 + 1),
            };
            (n ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 63
        };
        side(a) != side(b)
    }

    pub(crate) fn delay(&mut self) -> u64 {
        let (low, high) = self.config.faults.delay_ms;
        self.rng.between(low, high)
    }

    fn chance(&mut self, ppm: u32) -> bool {
        !self.calm && self.rng.chance(ppm)
    }

    /// Sends a message that may be lost, doubled, delayed and overtaken.
    pub(crate) fn send(&mut self, from: Who, to: Who, rpc: Rpc) {
        let faults = self.config.faults;
        let copies = if self.chance(faults.duplicate_ppm) { 2 } else { 1 };
        for _ in 0..copies {
            if self.cut_off(from, to) || self.chance(faults.loss_ppm) {
                continue;
            }
            let delay = self.delay();
            self.after(delay, Happening::Arrive { from, to, rpc: rpc.clone() });
        }
    }

    /// Opens a control stream; `Lost` comes back if it cannot be made.
    pub(crate) fn connect(&mut self, consumer: usize, container: usize, lease: LeaseId) -> u64 {
        let session = self.next_session;
        self.next_session += 1;
        let s = Session {
            consumer,
            consumer_life: self.life(Who::Consumer(consumer)),
            container,
            container_life: self.life(Who::Container(container)),
            lease,
            broken: false,
            up_after: 0,
            down_after: 0,
        };
        self.sessions.insert(session, s);
        let reachable =
            self.up(Who::Container(container)) && !self.cut_off(Who::Consumer(consumer), Who::Container(container));
        let delay = self.delay();
        if reachable {
            self.after(delay * 2, Happening::Stands { session });
        } else {
            self.after(1_000, Happening::Broken { session });
        }
        session
    }

    /// Whether a control stream still carries messages.
    pub(crate) fn alive(&self, session: u64) -> bool {
        self.sessions.get(&session).is_some_and(|s| {
            !s.broken
                && self.up(Who::Consumer(s.consumer))
                && self.up(Who::Container(s.container))
                && self.life(Who::Consumer(s.consumer)) == s.consumer_life
                && self.life(Who::Container(s.container)) == s.container_life
        })
    }

    pub(crate) fn say_up(&mut self, session: u64, message: ToContainer) {
        if let Some(at) = self.carry(session, true) {
            self.after(at, Happening::Up { session, message: Box::new(message) });
        }
    }

    pub(crate) fn say_down(&mut self, session: u64, message: ToConsumer) {
        if let Some(at) = self.carry(session, false) {
            self.after(at, Happening::Down { session, message: Box::new(message) });
        }
    }

    /// The delay of the next message on a control stream; breaks the stream instead when chance says so.
    fn carry(&mut self, session: u64, up: bool) -> Option<u64> {
        if !self.alive(session) {
            return None;
        }
        let s = self.sessions.get(&session)?.clone();
        let cut = self.cut_off(Who::Consumer(s.consumer), Who::Container(s.container));
        if cut || self.chance(self.config.faults.break_ppm) {
            self.break_session(session);
            return None;
        }
        let wanted = self.now + self.delay();
        let s = self.sessions.get_mut(&session)?;
        let after = if up { &mut s.up_after } else { &mut s.down_after };
        *after = wanted.max(*after + 1);
        Some(*after - self.now)
    }

    /// Breaks a control stream: both sides notice a while later.
    pub(crate) fn break_session(&mut self, session: u64) {
        if let Some(s) = self.sessions.get_mut(&session)
            && !s.broken
        {
            s.broken = true;
            let noticed = self.rng.between(10, 3_000);
            self.after(noticed, Happening::Broken { session });
        }
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Tick(who, life) => self.on_tick(who, life),
            Happening::Outbox(who, life) => self.on_outbox(who, life),
            Happening::Arrive { from, to, rpc } => self.on_arrive(from, to, rpc),
            Happening::Mined { from, lease, op, attempt } => self.on_mined(from, lease, &op, attempt),
            Happening::Stands { session } => self.on_stands(session),
            Happening::Up { session, message } => {
                if self.alive(session) {
                    self.container_hears(session, *message);
                }
            }
            Happening::Down { session, message } => {
                if self.alive(session) {
                    self.consumer_hears(session, *message);
                }
            }
            Happening::Broken { session } => self.on_broken(session),
            Happening::JobStarts { container, life, lease } => self.job_starts(container, life, lease),
            Happening::JobEnds { container, life, lease, run } => self.job_ends(container, life, lease, run),
            Happening::InputsArrived { consumer, life, lease, session } => {
                self.inputs_arrived(consumer, life, lease, session);
            }
            Happening::OutputsArrived { consumer, life, lease, session } => {
                self.outputs_arrived(consumer, life, lease, session);
            }
            Happening::Asks { consumer, life, lease } => self.asks(consumer, life, lease),
            Happening::Drawn { consumer, life, container, container_life, lease } => {
                self.drawn((consumer, life), (container, container_life), lease);
            }
            Happening::Answered { consumer, life, lease, counts, lost } => {
                self.answered(consumer, life, lease, counts, lost);
            }
            Happening::Restart(who) => self.on_restart(who),
            Happening::Split => {
                if !self.calm {
                    self.split = Some(self.rng.draw());
                    let (length, next) = (self.rng.between(500, 15_000), self.config.faults.partition_every_ms);
                    self.after(length, Happening::Heal);
                    self.after(length + next, Happening::Split);
                }
            }
            Happening::Heal => self.split = None,
        }
    }

    fn on_tick(&mut self, who: Who, life: u32) {
        if !self.up(who) || self.life(who) != life {
            return;
        }
        let busy = match who {
            Who::Chain => false,
            Who::Indexer(i) => self.tick_indexer(i),
            Who::Container(i) => self.tick_container(i),
            Who::Consumer(i) => self.tick_consumer(i),
        };
        // It may have died of its own effects.
        if self.up(who) && self.life(who) == life {
            self.after(if busy { TICK_MS } else { IDLE_TICK_MS }, Happening::Tick(who, life));
        }
    }

    fn on_outbox(&mut self, who: Who, life: u32) {
        if !self.up(who) || self.life(who) != life {
            return;
        }
        let waiting = match who {
            Who::Container(i) => self.containers.get(i).map(|n| n.outbox.clone()),
            Who::Consumer(i) => self.consumers.get(i).map(|n| n.outbox.clone()),
            Who::Chain | Who::Indexer(_) => None,
        }
        .unwrap_or_default();
        if waiting.is_empty() {
            return;
        }
        for ((lease, _, attempt), op) in waiting {
            self.send(who, Who::Chain, Rpc::Execute { lease, op: Box::new(op), attempt });
        }
        self.after(OUTBOX_MS, Happening::Outbox(who, life));
    }

    fn on_arrive(&mut self, from: Who, to: Who, rpc: Rpc) {
        if !self.up(to) {
            return;
        }
        match to {
            Who::Chain => self.chain_gets(from, rpc),
            Who::Indexer(i) => self.indexer_gets(i, from, rpc),
            Who::Container(i) => self.container_gets(i, from, rpc),
            Who::Consumer(i) => self.consumer_gets(i, from, rpc),
        }
    }

    fn chain_gets(&mut self, from: Who, rpc: Rpc) {
        if self.dies(RoleKind::Chain) {
            self.crash(Who::Chain);
            return;
        }
        match rpc {
            Rpc::Read { lease } => {
                let view = self.chain.read(lease);
                self.send(Who::Chain, from, Rpc::Seen { lease, view });
            }
            Rpc::Execute { lease, op, attempt } => {
                let Some(sender) = sender(from) else { return };
                let intent = (sender, lease, op.kind(), attempt);
                let (low, high) = if matches!(*op, Op::Open(_)) { self.config.faults.chain_ms } else { (0, 0) };
                if high == 0 || self.chain.is_done(intent) {
                    self.on_mined(from, lease, &op, attempt);
                } else if self.chain.wait(intent) {
                    let wait = self.rng.between(low, high);
                    self.after(wait, Happening::Mined { from, lease, op, attempt });
                }
            }
            _ => {}
        }
    }

    fn on_mined(&mut self, from: Who, lease: LeaseId, op: &Op, attempt: u64) {
        let Some(sender) = sender(from) else { return };
        let intent = (sender, lease, op.kind(), attempt);
        self.chain.wait_no_more(intent);
        if !self.up(Who::Chain) {
            // Lost with the node that had taken it; its sender sends it again.
            return;
        }
        let refused = matches!(op, Op::Open(_)) && self.chance(self.config.faults.refused_ppm);
        let ok = self.chain.execute(intent, op, refused, TimeMs(self.now));
        if self.dies(RoleKind::Chain) {
            self.crash(Who::Chain);
            return;
        }
        self.send(Who::Chain, from, Rpc::Executed { lease, kind: op.kind(), attempt, ok });
    }

    fn on_stands(&mut self, session: u64) {
        if !self.alive(session) {
            self.on_broken(session);
            return;
        }
        self.session_stands(session);
    }

    fn on_broken(&mut self, session: u64) {
        let Some(s) = self.sessions.remove(&session) else { return };
        self.container_loses(&s, session);
        self.consumer_loses(&s, session);
    }

    /// Kills a process where it stands.
    pub(crate) fn crash(&mut self, who: Who) {
        self.outcome.crashes += 1;
        match who {
            Who::Chain => {
                self.chain_down_until = self.now + self.rng.between(50, 8_000);
                return;
            }
            Who::Indexer(i) => {
                if let Some(n) = self.indexers.get_mut(i) {
                    n.die();
                }
            }
            Who::Container(i) => {
                if let Some(n) = self.containers.get_mut(i) {
                    n.die();
                }
            }
            Who::Consumer(i) => {
                if let Some(n) = self.consumers.get_mut(i) {
                    n.die();
                }
            }
        }
        let broken: Vec<u64> = self
            .sessions
            .iter()
            .filter(|(_, s)| Who::Consumer(s.consumer) == who || Who::Container(s.container) == who)
            .map(|(id, _)| *id)
            .collect();
        for session in broken {
            self.break_session(session);
        }
        if let Who::Container(i) = who
            && self.chance(self.config.faults.burn_ppm)
        {
            self.containers[i].burnt = true;
            self.outcome.burnt += 1;
            return;
        }
        let down = self.rng.between(50, 8_000);
        self.after(down, Happening::Restart(who));
    }

    /// Whether a process of this role dies now, between two effects.
    pub(crate) fn dies(&mut self, role: RoleKind) -> bool {
        let seen = &mut self.outcome.effects[role as usize];
        let effect = *seen;
        *seen += 1;
        if self.config.crash == Some(CrashAt { role, effect }) {
            return true;
        }
        let ppm = self.config.faults.crash_ppm;
        self.chance(ppm)
    }

    fn on_restart(&mut self, who: Who) {
        match who {
            Who::Chain => {}
            Who::Indexer(i) => self.restart_indexer(i),
            Who::Container(i) => self.restart_container(i),
            Who::Consumer(i) => self.restart_consumer(i),
        }
        if self.up(who) {
            let life = self.life(who);
            self.after(1, Happening::Tick(who, life));
            self.after(2, Happening::Outbox(who, life));
        }
    }

    pub(crate) fn violated(&mut self, what: String) {
        let at = self.now - GENESIS_MS;
        self.outcome.violations.push(format!("at {at} ms: {what}"));
    }
}

/// The account with which a node sends.
fn sender(who: Who) -> Option<Address> {
    match who {
        Who::Consumer(i) => Some(account(i)),
        Who::Container(i) => Some(container_account(i)),
        Who::Chain | Who::Indexer(_) => None,
    }
}

/// The account of a Container's owner.
pub(crate) fn container_account(container: usize) -> Address {
    let mut bytes = [0xa0; 20];
    bytes[..8].copy_from_slice(&(container as u64).to_be_bytes());
    Address(bytes)
}
