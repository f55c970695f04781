//! A Container's body in the simulator: its disk, its workloads, its lies.

use std::collections::{BTreeMap, BTreeSet};

use muster_core::brain::container::{Config as BrainConfig, Container, Effect, Event, Held, StopBy};
use muster_core::hardware::{Allocation, Capacity};
use muster_core::ids::{Address, LeaseId, NodeId};
use muster_core::lease::{End, LeaseTerms, Phase};
use muster_core::pricing::Ask;
use muster_core::protocol::{
    ContainerReport, Heartbeat, NodeAddr, NodeSignature, Offer, OfferAnswer, ToConsumer, ToContainer,
};
use muster_core::units::{Bytes, TimeMs, UsdMicro};

use crate::chain::Op;
use crate::config::{Config, RoleKind};
use crate::models;
use crate::rng::Rng;
use crate::world::{Happening, OUTBOX_MS, Rpc, Session, Who, World};

/// Of a million workloads, so many cannot be started.
const FAILED_START_PPM: u32 = 50_000;

/// A workload that really runs in this world.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// Honest time at which it was told to begin.
    pub(crate) asked: u64,
    /// Honest time at which it began; `None` while it is being started.
    pub(crate) since: Option<u64>,
    pub(crate) allocation: Allocation,
    /// How long it will run by itself.
    pub(crate) length_ms: u64,
    /// Which run this is, so that an old end does not end a new run.
    pub(crate) run: u64,
    pub(crate) killed: bool,
    /// It cannot be started: no such command, say.
    fails: bool,
}

/// A Container.
#[derive(Debug)]
pub(crate) struct ContainerNode {
    pub(crate) id: NodeId,
    pub(crate) index: usize,
    pub(crate) up: bool,
    /// It will never be up again.
    pub(crate) burnt: bool,
    pub(crate) life: u32,
    pub(crate) skew_ms: u64,
    /// Multiplies the time that it claims: 1 is honest.
    pub(crate) lie: u64,
    config: BrainConfig,
    pub(crate) brain: Container,
    /// What survives a crash.
    disk: BTreeMap<LeaseId, Held>,
    /// What it has deleted, for the invariants.
    forgotten: BTreeMap<LeaseId, Held>,
    pub(crate) outbox: BTreeMap<(LeaseId, u8, u64), Op>,
    pub(crate) jobs: BTreeMap<LeaseId, Job>,
    /// Honest milliseconds that each lease's workload really ran in all, since its deposit was on the chain.
    pub(crate) ran: BTreeMap<LeaseId, u64>,
    /// Leases whose workload was started, ever: none may be started twice.
    pub(crate) started: BTreeSet<LeaseId>,
    beat_at: u64,
    seq: u64,
    indexers: usize,
}

pub(crate) fn container_id(index: usize) -> NodeId {
    let mut bytes = [0xcc; 32];
    bytes[..8].copy_from_slice(&(index as u64).to_be_bytes());
    NodeId(bytes)
}

/// The place of a Container in the world, from its key; a key that nobody has may come from a liar.
pub(crate) fn container_index(id: NodeId) -> Option<usize> {
    let (index, rest) = id.0.split_first_chunk::<8>()?;
    rest.iter().all(|b| *b == 0xcc).then(|| usize::try_from(u64::from_be_bytes(*index)).ok())?
}

/// A signature over terms: the signer's name and a hash of what it signed.
pub(crate) fn acceptance(terms: &LeaseTerms) -> NodeSignature {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for byte in format!("{terms:?} {:?} {:?}", terms.lease.0, terms.session_key.0).bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    let mut s = [0; 32];
    s[..8].copy_from_slice(&hash.to_le_bytes());
    NodeSignature { r: terms.container.0, s }
}

impl ContainerNode {
    pub(crate) fn new(index: usize, config: &Config, rng: &mut Rng) -> Self {
        let cores = 1 + rng.below(8);
        let total = Capacity {
            cpu_millis: u32::try_from(cores * 1_000).unwrap_or(1_000),
            memory: Bytes(cores * Bytes::GIB),
            disk: Bytes(cores * 8 * Bytes::GIB),
            gpus: Vec::new(),
        };
        let ask = Ask { core_hour: UsdMicro(10_000 + rng.below(40_000)), ..Ask::default() };
        let brain_config = BrainConfig {
            id: container_id(index),
            total,
            ask,
            models: models::ask(rng),
            model_idle_ms: models::IDLE_MS,
            egress: true,
            params: config.params.clone(),
        };
        let brain = Container::new(brain_config.clone()).expect("the simulator draws capacities within bounds");
        let liar = rng.below(100) < config.faults.lying_containers;
        Self {
            id: container_id(index),
            index,
            up: true,
            burnt: false,
            life: 0,
            skew_ms: rng.below(config.faults.skew_ms + 1),
            lie: if liar { 2 + rng.below(8) } else { 1 },
            config: brain_config,
            brain,
            disk: BTreeMap::new(),
            forgotten: BTreeMap::new(),
            outbox: BTreeMap::new(),
            jobs: BTreeMap::new(),
            ran: BTreeMap::new(),
            started: BTreeSet::new(),
            beat_at: 0,
            seq: 0,
            indexers: config.indexers,
        }
    }

    pub(crate) fn die(&mut self) {
        self.up = false;
        self.life += 1;
    }

    /// All leases that this Container has ever written down.
    pub(crate) fn records(&self) -> impl Iterator<Item = &Held> {
        self.disk.values().chain(self.forgotten.values())
    }

    fn heartbeat(&mut self) -> Heartbeat {
        self.seq += 1;
        Heartbeat {
            seq: self.seq,
            addr: NodeAddr { id: self.id, direct: Vec::new(), relay: None },
            total: self.config.total.clone(),
            free: self.brain.free(),
            ask: self.config.ask,
            draining: self.brain.draining(),
            egress: true,
            sessions: false,
            region: None,
            place: None,
            leases: u32::try_from(self.brain.busy()).unwrap_or(u32::MAX),
            fetches: false,
            warm: Vec::new(),
            models: self.config.models,
            endpoints: Vec::new(),
        }
    }
}

impl World {
    pub(crate) fn tick_container(&mut self, i: usize) -> bool {
        let every = self.config.params.heartbeat_ms;
        if self.containers[i].beat_at + every <= self.now {
            self.beat(i);
        }
        // Now and then an owner stops a job of somebody's.
        if !self.calm
            && self.config.faults.crash_ppm > 0
            && self.rng.chance(200)
            && let Some(lease) = self.containers[i].jobs.keys().next().copied()
        {
            self.feed_container(i, Event::Stop { lease, by: StopBy::Provider });
        }
        self.feed_container(i, Event::Tick);
        self.containers[i].brain.all().any(|h| !h.lease.phase.is_final())
    }

    fn beat(&mut self, i: usize) {
        let node = &mut self.containers[i];
        node.beat_at = self.now;
        let beat = Box::new(ContainerReport::Heartbeat(Box::new(node.heartbeat())));
        for indexer in 0..node.indexers {
            self.send(Who::Container(i), Who::Indexer(indexer), Rpc::Report(beat.clone()));
        }
    }

    pub(crate) fn feed_container(&mut self, i: usize, event: Event) {
        if !self.containers[i].up {
            return;
        }
        let now = self.clock(Who::Container(i));
        let effects = self.containers[i].brain.handle(event, now);
        self.container_does(i, effects);
    }

    fn container_does(&mut self, i: usize, effects: Vec<Effect>) {
        for effect in effects {
            if self.dies(RoleKind::Container) {
                self.kill_container(i);
                return;
            }
            self.container_does_one(i, effect);
        }
    }

    fn kill_container(&mut self, i: usize) {
        let leases: Vec<LeaseId> = self.containers[i].jobs.keys().copied().collect();
        for lease in leases {
            self.job_stops(i, lease);
        }
        self.crash(Who::Container(i));
    }

    /// A workload is gone: counts how long it really ran.
    fn job_stops(&mut self, i: usize, lease: LeaseId) {
        if let Some(job) = self.containers[i].jobs.remove(&lease) {
            let ran = self.ran_paid(lease, &job);
            *self.containers[i].ran.entry(lease).or_default() += ran;
        }
    }

    /// How long a workload has really run with its deposit on the chain.
    pub(crate) fn ran_paid(&self, lease: LeaseId, job: &Job) -> u64 {
        match (job.since, self.chain.opened_at(lease)) {
            (Some(since), Some(opened)) => self.now - since.max(opened.0),
            _ => 0,
        }
    }

    fn container_does_one(&mut self, i: usize, effect: Effect) {
        match effect {
            Effect::Save(lease) => {
                let node = &mut self.containers[i];
                if let Some(held) = node.brain.held(lease) {
                    node.disk.insert(lease, held.clone());
                }
            }
            Effect::Forget(lease) => {
                let node = &mut self.containers[i];
                if let Some(held) = node.disk.remove(&lease) {
                    node.forgotten.insert(lease, held);
                }
            }
            Effect::Answer { reply, result } => {
                let answer = match result {
                    Ok(terms) => OfferAnswer::Accepted { signature: acceptance(&terms) },
                    Err(why) => OfferAnswer::Rejected(why),
                };
                let to = Who::Indexer(usize::try_from(reply >> 48).unwrap_or(0));
                let reply = reply & 0xffff_ffff_ffff;
                self.send(Who::Container(i), to, Rpc::OfferAnswer { reply, answer: Box::new(answer) });
            }
            Effect::AskChain(lease) => self.send(Who::Container(i), Who::Chain, Rpc::Read { lease }),
            Effect::Start(lease) => self.start_job(i, lease),
            Effect::Kill(lease) => {
                let delay = self.rng.between(1, 50);
                let node = &mut self.containers[i];
                let life = node.life;
                if let Some(job) = node.jobs.get_mut(&lease) {
                    job.killed = true;
                    let run = job.run;
                    self.after(delay, Happening::JobEnds { container: i, life, lease, run });
                }
            }
            Effect::Tell { session, message } => {
                let message = self.perhaps_lie(i, message);
                self.say_down(session, message);
            }
            Effect::Settle { lease, voucher } => {
                let op = Op::Settle(voucher);
                let node = &mut self.containers[i];
                let first = node.outbox.is_empty();
                node.outbox.entry((lease, op.kind(), 0)).or_insert_with(|| op.clone());
                let life = node.life;
                self.send(Who::Container(i), Who::Chain, Rpc::Execute { lease, op: Box::new(op), attempt: 0 });
                if first {
                    self.after(OUTBOX_MS, Happening::Outbox(Who::Container(i), life));
                }
            }
            Effect::Report { indexer, report } => {
                if let Some(to) = self.indexers.iter().position(|n| n.id == indexer) {
                    let report = Box::new(ContainerReport::Lease(report));
                    self.send(Who::Container(i), Who::Indexer(to), Rpc::Report(report));
                }
            }
            Effect::Beat => self.beat(i),
            Effect::Prepare(_) | Effect::CleanUp(_) => {}
        }
    }

    fn perhaps_lie(&self, i: usize, message: ToConsumer) -> ToConsumer {
        let lie = self.containers[i].lie;
        match message {
            ToConsumer::Usage { ran_ms } => ToConsumer::Usage { ran_ms: ran_ms.saturating_mul(lie) },
            ToConsumer::Counted { tokens } => ToConsumer::Counted { tokens: models::multiplied(tokens, lie) },
            ToConsumer::Ended { end, ran_ms } => ToConsumer::Ended { end, ran_ms: ran_ms.saturating_mul(lie) },
            other => other,
        }
    }

    fn start_job(&mut self, i: usize, lease: LeaseId) {
        let (delay, length_ms, run) = (self.rng.between(5, 300), self.rng.between(0, 20_000), self.rng.draw());
        let fails = self.rng.chance(FAILED_START_PPM);
        let model = self.containers[i].brain.held(lease).is_some_and(|held| held.lease.terms.tokens.is_some());
        // A model answers until it is told to stop.
        let length_ms = if model { u64::MAX / 4 } else { length_ms };
        let node = &mut self.containers[i];
        let Some(held) = node.brain.held(lease) else { return };
        let allocation = held.lease.terms.allocation;
        let (life, early, asked) = (node.life, held.lease.is_early(), self.now);
        let twice = !node.started.insert(lease);
        node.jobs.insert(lease, Job { asked, since: None, allocation, length_ms, run, killed: false, fails });
        if twice {
            self.violated(format!("the workload of {lease:?} was started twice"));
        }
        self.outcome.early_starts += u64::from(early);
        self.after(delay, Happening::JobStarts { container: i, life, lease });
    }

    pub(crate) fn job_starts(&mut self, i: usize, life: u32, lease: LeaseId) {
        let now = self.now;
        let node = &mut self.containers[i];
        if !node.up || node.life != life {
            return;
        }
        let Some(job) = node.jobs.get_mut(&lease) else { return };
        if job.killed {
            return;
        }
        if job.fails {
            node.jobs.remove(&lease);
            let end = End::FailedToStart("command not found".to_owned());
            self.feed_container(i, Event::JobEnded { lease, end });
            return;
        }
        job.since = Some(now);
        let (length, run) = (job.length_ms, job.run);
        self.after(length, Happening::JobEnds { container: i, life, lease, run });
        self.feed_container(i, Event::JobStarted { lease });
    }

    pub(crate) fn job_ends(&mut self, i: usize, life: u32, lease: LeaseId, run: u64) {
        let node = &self.containers[i];
        let same = node.up && node.life == life;
        let Some(job) = node.jobs.get(&lease).filter(|j| same && j.run == run) else { return };
        let end = if job.killed { End::Signaled(9) } else { End::Exited(0) };
        self.job_stops(i, lease);
        self.feed_container(i, Event::JobEnded { lease, end });
    }

    pub(crate) fn container_gets(&mut self, i: usize, from: Who, rpc: Rpc) {
        match rpc {
            Rpc::Offer { reply, from: indexer, offer } => match *offer {
                Offer::Take(terms) => {
                    let Who::Indexer(n) = from else { return };
                    let reply = reply | ((n as u64) << 48);
                    self.feed_container(i, Event::Offered { reply, terms });
                }
                Offer::Withdraw(lease) => self.feed_container(i, Event::Withdrawn { lease, from: indexer }),
                // Nobody in here says that it fetches packages.
                Offer::Fetch(_) => {}
            },
            Rpc::Seen { lease, view } => self.feed_container(i, Event::ChainSeen { lease, view }),
            Rpc::Executed { lease, kind, attempt, .. } => {
                self.containers[i].outbox.remove(&(lease, kind, attempt));
                // Whatever came of the intent, the chain knows.
                self.send(Who::Container(i), Who::Chain, Rpc::Read { lease });
            }
            _ => {}
        }
    }

    pub(crate) fn container_hears(&mut self, session: u64, message: ToContainer) {
        let Some(s) = self.sessions.get(&session) else { return };
        let (i, lease) = (s.container, s.lease);
        match message {
            ToContainer::Go(job) => {
                self.feed_container(i, Event::Go { lease, early: job.session.is_some() });
            }
            ToContainer::Paid(voucher) => {
                let mut signer = [0; 20];
                signer.copy_from_slice(&voucher.signature.r[..20]);
                self.feed_container(i, Event::Paid { voucher, signer: Address(signer) });
            }
            ToContainer::ToppedUp => self.feed_container(i, Event::ToppedUp { lease }),
            ToContainer::Stop => self.feed_container(i, Event::Stop { lease, by: StopBy::Consumer }),
            ToContainer::Taken => self.feed_container(i, Event::Taken { lease }),
            ToContainer::Attach { .. } | ToContainer::Ping => {}
        }
    }

    pub(crate) fn container_loses(&mut self, s: &Session, session: u64) {
        if self.life(Who::Container(s.container)) == s.container_life {
            self.feed_container(s.container, Event::Detached { lease: s.lease, session });
        }
    }

    pub(crate) fn restart_container(&mut self, i: usize) {
        let now: TimeMs = self.clock(Who::Container(i));
        let node = &mut self.containers[i];
        let records: Vec<Held> = node.disk.values().cloned().collect();
        let (brain, effects) =
            Container::restore(node.config.clone(), records, now).expect("the capacity was within bounds before");
        node.brain = brain;
        node.up = true;
        // The wall clock: a heartbeat of a former life never counts as newer.
        node.seq = now.0;
        node.jobs.clear();
        self.container_does(i, effects);
    }

    /// What must hold of a Container at each step.
    pub(crate) fn check_container(&mut self, i: usize) {
        let node = &self.containers[i];
        if !node.up {
            return;
        }
        let total = &node.config.total;
        let mut running = 0u64;
        for job in node.jobs.values() {
            running += u64::from(job.allocation.cpu_millis);
        }
        if running > u64::from(total.cpu_millis) {
            let index = node.index;
            self.violated(format!(
                "Container {index} runs {running} thousandths of a core and has {}",
                total.cpu_millis
            ));
            return;
        }
        let held: u64 = node
            .brain
            .all()
            .filter(|h| h.lease.phase.holds_capacity())
            .map(|h| u64::from(h.lease.terms.allocation.cpu_millis))
            .sum();
        if held + u64::from(node.brain.free().cpu_millis) != u64::from(total.cpu_millis) {
            let free = node.brain.free().cpu_millis;
            let (index, total) = (node.index, total.cpu_millis);
            self.violated(format!("Container {index}: {held} held and {free} free do not make {total}"));
            return;
        }
        // A workload that runs unpaid: one interval, and what a kill takes.
        let slack = 500;
        let (mut found, mut early) = (None, 0);
        let early_ms = self.config.params.early_start_ms;
        for (lease, job) in &node.jobs {
            let Some(held) = node.brain.held(*lease) else { continue };
            if held.lease.is_early() {
                early += 1;
                let began = self.now - job.asked;
                if began > early_ms + slack {
                    found = Some(format!("{lease:?} has taken its slot for {began} ms without a deposit"));
                }
            }
            let counts = held.lease.started_at.map_or(0, |at| at.0 - node.skew_ms);
            let Some(since) = job.since.map(|since| since.max(counts)) else { continue };
            let paid_ms = held.lease.paid().ms_at_rate(held.lease.terms.rate_per_second).unwrap_or(u64::MAX);
            let unpaid = (self.now - since).saturating_sub(paid_ms);
            if held.lease.phase == Phase::Running && unpaid > held.lease.terms.interval_ms + slack {
                found = Some(format!("{lease:?} ran {unpaid} ms unpaid"));
            }
        }
        for held in node.brain.all() {
            found = found.or_else(|| self.unpaid_tokens(&held.lease));
        }
        if early > 1 {
            found = Some(format!("{early} workloads run without their deposit at a time"));
        }
        if let Some(what) = found {
            self.violated(what);
        }
    }
}
