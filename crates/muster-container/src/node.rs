//! A Container as a whole: what it is made of, how it starts, and how it ends.

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use muster_core::brain::container::{Config, Container, Effect, Event, Held, StopBy};
use muster_core::ids::{LeaseId, NodeId};
use muster_core::lease::Phase;
use muster_core::params::Params;
use muster_core::proof::Claim;
use muster_core::protocol::{LeaseReport, NodeAddr, ToConsumer};
use muster_core::step::WatchSteps;
use muster_core::voucher::SignedVoucher;
use muster_engine::upstream::Upstream;
use muster_net::{NodeSecret, Peer, PeerAddr, PeerConfig, RelayConfig, RelayUrl};
use muster_wire::endpoint::Endpoint as OnChain;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::admin;
use crate::apps::Apps;
use crate::audit::{CheatError, Gate, Processor, Provers, may_cheat};
use crate::board::Board;
use crate::brain::{self, Actor, BrainHandle, Counts, Hands, Inbox, Keeper};
use crate::clock::Clock;
use crate::config::{ConfigError, ContainerConfig, EndpointConfig, ModelsOffer};
use crate::control::Control;
use crate::desk::Desk;
use crate::engines::Engines;
use crate::error::ContainerError;
use crate::jobs::{Endpoint, Jobs, Serving, Shop, Stage};
use crate::ledger::{Ledger, LedgerError};
use crate::models::Models;
use crate::presence::{Face, Pending, Presence};
use crate::sandbox::{Sandbox, SandboxConfig, SandboxError};
use crate::sessions::Sessions;
use crate::store::{Intent, Store, StoreError};
use crate::streams::{GIVEN_MAX, House};

/// Between two ticks while leases live, and while none does.
const TICK: Duration = Duration::from_millis(50);
const TICK_IDLE: Duration = Duration::from_millis(500);
/// How long a Container that goes down waits for its jobs to be gone.
const LAST_JOBS_WITHIN: Duration = Duration::from_secs(10);
/// How long the start waits for the chain; a registration that takes longer goes on in the background.
const FIRST_LOOK_WITHIN: Duration = Duration::from_secs(10);
/// How often leases that work are looked up on the chain: several times within any challenge window.
const WATCH_MIN: Duration = Duration::from_secs(5);
const WATCH_MAX: Duration = Duration::from_secs(60);

/// The network that a Container joins.
#[derive(Clone, Debug)]
pub struct Joining {
    /// What all nodes of the network agree on.
    pub params: Params,
    /// Its Indexers: all are told, and only they may make offers.
    pub indexers: Vec<PeerAddr>,
    /// Its relays, for Containers that cannot be reached directly.
    pub relays: Vec<RelayUrl>,
}

/// Said once a Container takes work.
#[derive(Clone, Debug)]
pub struct Ready {
    /// Its key.
    pub id: NodeId,
    /// Where it is dialled.
    pub addr: NodeAddr,
}

/// A Container, before and while it runs.
#[derive(Debug)]
pub struct ContainerNode {
    config: ContainerConfig,
    joining: Joining,
    secret: NodeSecret,
    ledger: Arc<dyn Ledger>,
    init_exe: Option<PathBuf>,
    streaming: Option<Vec<PathBuf>>,
    stale: bool,
    provers: Arc<dyn Provers>,
    engines: Option<Arc<dyn Engines>>,
    ready: Option<oneshot::Sender<Ready>>,
    watcher: Option<Arc<dyn WatchSteps>>,
}

impl ContainerNode {
    /// A Container that does not run yet.
    ///
    /// # Errors
    /// The configuration cannot work.
    pub fn new(
        config: ContainerConfig,
        joining: Joining,
        secret: NodeSecret,
        ledger: Arc<dyn Ledger>,
    ) -> Result<Self, ContainerError> {
        config.check()?;
        Ok(Self {
            config,
            joining,
            secret,
            ledger,
            init_exe: None,
            streaming: None,
            stale: false,
            provers: Arc::new(Processor),
            engines: None,
            ready: None,
            watcher: None,
        })
    }

    /// The program that sets jobs up inside the Sandbox, where it is not this very program.
    #[must_use]
    pub fn with_init_exe(mut self, exe: PathBuf) -> Self {
        self.init_exe = Some(exe);
        self
    }

    /// The program that streams live sessions and its arguments, where it is not this very program.
    #[must_use]
    pub fn with_streaming(mut self, program: Vec<PathBuf>) -> Self {
        self.streaming = Some(program);
        self
    }

    /// Somebody is told of every step of a lease that is written down.
    #[must_use]
    pub fn watched_by(mut self, watcher: Option<Arc<dyn WatchSteps>>) -> Self {
        self.watcher = watcher;
        self
    }

    /// What computes its proofs, where that is not the processor.
    #[must_use]
    pub fn with_provers(mut self, provers: Arc<dyn Provers>) -> Self {
        self.provers = provers;
        self
    }

    /// What models run on, where some are served.
    #[must_use]
    pub fn with_engines(mut self, engines: Option<Arc<dyn Engines>>) -> Self {
        self.engines = engines;
        self
    }

    /// Shows players what it has recorded, so to say: their codes are not drawn.
    ///
    /// # Errors
    /// The network is no development network.
    pub fn with_stale_frames(mut self) -> Result<Self, CheatError> {
        may_cheat(&self.joining.params)?;
        self.stale = true;
        Ok(self)
    }

    /// Resolves once the Container takes work; fails when it never does.
    pub fn ready(&mut self) -> oneshot::Receiver<Ready> {
        let (sender, receiver) = oneshot::channel();
        self.ready = Some(sender);
        receiver
    }

    /// Runs until `shutdown` is ready, then ends all jobs (which interrupts their leases) and returns.
    ///
    /// # Errors
    /// The Container cannot start, or its records can no longer be written.
    pub async fn run(mut self, shutdown: impl Future<Output = ()> + Send) -> Result<(), ContainerError> {
        let ready = self.ready.take();
        let ledger = Arc::clone(&self.ledger);
        let outcome = match Box::pin(self.assemble()).await {
            Ok(parts) => Box::pin(parts.run(ready, shutdown)).await,
            Err(error) => Err(error),
        };
        ledger.close().await;
        outcome
    }

    async fn assemble(self) -> Result<Parts, ContainerError> {
        let Self { config, joining, secret, ledger, init_exe, streaming, stale, provers, watcher, engines, .. } = self;
        make_private_dir(&config)?;
        let (clock, node) = (Clock::new(), secret.id());
        let store = Store::open(&config.store_path(), node)?;
        let sandbox = open_sandbox(&config, init_exe)?;
        let capabilities = sandbox.capabilities().clone();
        let records = store.leases()?;
        let intent = store.intent()?;
        let brain_config = Config {
            id: node,
            total: config.capacity(),
            ask: config.ask,
            models: config.models.asked_for_any().filter(|_| engines.is_some() || !config.models.endpoint.is_empty()),
            model_idle_ms: config.models.idle_minutes.saturating_mul(60_000),
            egress: config.egress,
            params: joining.params.clone(),
        };
        let (brain, restored) = Container::restore(brain_config, records.clone(), clock.now())?;
        let relay = (!joining.relays.is_empty()).then(|| RelayConfig { urls: joining.relays.clone() });
        let peer = Peer::bind(PeerConfig { relay, ..PeerConfig::new(secret.clone(), config.listen) }).await?;
        let (keeper, handle, inbox) = brain::queue();
        let (bind, public) = config.sessions(peer.addr().direct.into_iter().map(|addr| addr.ip()));
        let program = streaming.map_or_else(streaming_program, Ok)?;
        let apps = Apps::new(config.apps_dir(), config.apps, sandbox.clone())?;
        let (fetches, warm) = (apps.fetches(), apps.warm());
        let asked = config.models.asked().filter(|_| engines.is_some());
        let weights = asked.map(|_| Models::open(config.models_dir(), config.models.disk)).transpose()?;
        let (hub, silence) = (config.models.hub()?, Duration::from_secs(config.models.hub_silence_s));
        let serving = weights.zip(engines).map(|(weights, engines)| Serving {
            weights,
            engines,
            peer: peer.clone(),
            hub,
            silence,
        });
        let weights = serving.as_ref().map(|serving| serving.weights.warm());
        let jobs = Jobs::new(Shop {
            sandbox,
            apps,
            serving,
            endpoints: endpoints(&config.models)?,
            brain: handle.clone(),
            node,
            leases_dir: config.leases_dir(),
            gpus: config.offer.gpus.clone(),
            bounds: config.job,
            allow_empty: config.allow_empty,
            stage: Stage { program, bind, public, stale },
            // As much again as is offered: what runs and what waits to be fetched never take more than twice the offer.
            keep_bytes_max: config.offer.disk.0,
        });
        recover(&jobs, &records).await?;
        let board = Arc::new(Board::new());
        let stop = CancellationToken::new();
        let face = Face {
            total: config.capacity(),
            ask: config.ask,
            egress: config.egress,
            sessions: capabilities.xvfb.is_some(),
            region: config.region.clone(),
            place: config.place,
            fetches,
            warm,
            weights,
            models: asked,
            endpoints: config.models.offers(),
            announce: config.announce.clone(),
        };
        let every = Duration::from_millis(joining.params.heartbeat_ms);
        let indexers = joining.indexers.iter().map(|addr| addr.id).collect();
        let (presence, lines) = Presence::new(face, Arc::clone(&board), joining.indexers, every, clock.now().0);
        let house = Arc::new(House {
            node,
            secret,
            indexers,
            brain: handle.clone(),
            board: Arc::clone(&board),
            jobs,
            sessions: Sessions::default(),
            gate: Gate::new(Arc::clone(&ledger), joining.params.epoch.clone(), config.claims().len()),
            provers,
            epochs: joining.params.epoch.clone(),
            clock,
            giving: Arc::new(Semaphore::new(GIVEN_MAX)),
            desk: Desk::new(ledger, handle),
            tasks: TaskTracker::new(),
            stop,
        });
        let control =
            Arc::new(Control { config, clock, store, house, presence, peer, intent: watch::Sender::new(intent) });
        Ok(Parts { control, brain, restored, keeper, inbox, lines, watcher, params: joining.params })
    }
}

/// The owner's own engines, by the names that consumers know.
fn endpoints(models: &ModelsOffer) -> Result<BTreeMap<String, Endpoint>, ContainerError> {
    let one = |config: &EndpointConfig| {
        let wrong = |why: String| ConfigError { field: "models.endpoint", why };
        let read = |path: &PathBuf| {
            let text = std::fs::read_to_string(path);
            text.map(|key| key.trim().to_owned()).map_err(|e| wrong(format!("cannot read {}: {e}", path.display())))
        };
        let key = config.key_file.as_ref().map(read).transpose()?;
        let engine = Upstream::new(config.upstream(key)).map_err(|error| wrong(error.to_string()))?;
        Ok((config.name().to_owned(), Endpoint { engine: Arc::new(engine), weights: config.weights }))
    };
    models.endpoint.iter().map(one).collect()
}

/// A Container that is put together and does not run yet.
struct Parts {
    control: Arc<Control>,
    brain: Container,
    restored: Vec<Effect>,
    keeper: Keeper,
    inbox: Inbox,
    lines: Pending,
    params: Params,
    watcher: Option<Arc<dyn WatchSteps>>,
}

impl Parts {
    async fn run(
        self,
        ready: Option<oneshot::Sender<Ready>>,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), ContainerError> {
        let Self { control, mut brain, restored, keeper: _keeper, inbox, lines, params, watcher } = self;
        let (house, peer) = (Arc::clone(&control.house), control.peer.clone());
        let stop = house.stop.clone();
        let intent = *control.intent.borrow();
        let listener = admin::listen(&control.config.socket_path())
            .map_err(|source| ContainerError::Socket { path: control.config.socket_path(), source })?;
        // Until the registry has spoken, no work is taken.
        let unknown = "the chain has not told its standing yet".to_owned();
        brain.handle(Event::Standing { problem: Some(unknown.clone()) }, control.clock.now());
        let actor = Actor {
            brain,
            store: control.store.clone(),
            board: Arc::clone(&house.board),
            clock: control.clock,
            hands: Performer {
                jobs: house.jobs.clone(),
                desk: house.desk.clone(),
                sessions: house.sessions.clone(),
                presence: Arc::clone(&control.presence),
            },
            inbox,
            counts: Counts::with_problem(unknown),
            watcher,
        };
        let mut thinking = think(actor, restored, intent)?;
        let tasks = &house.tasks;
        tasks.spawn(house.desk.clone().run_asks(stop.clone()));
        tasks.spawn(house.desk.clone().run_settles(stop.clone()));
        if intent == Intent::Serving {
            house.desk.allow_registration();
        }
        let addr = control.presence.addr(&peer);
        let endpoint = endpoint_text(&addr, control.config.claims());
        let mut outcome = match tokio::time::timeout(FIRST_LOOK_WITHIN, house.desk.look(&endpoint)).await {
            // No retry mends a wrong chain, a missing contract or an empty wallet: the owner must.
            Ok(Err(LedgerError::Refused(why))) => Some(Err(ContainerError::Chain(why))),
            Ok(Ok(()) | Err(LedgerError::Unknown(_))) | Err(_) => None,
        };
        if outcome.is_none() {
            spawn_all(&control, lines, &params, endpoint, listener);
            info!(id = %house.node, name = %control.config.name, listen = %peer.listen_addr(), "Container runs");
            if let Some(ready) = ready {
                // Whoever waited may have gone.
                drop(ready.send(Ready { id: house.node, addr }));
            }
            outcome = tokio::select! {
                () = shutdown => None,
                thought = &mut thinking => Some(thought.unwrap_or(Err(ContainerError::Panicked))),
            };
        }
        wind_down(&control, outcome.is_none()).await;
        let thought = match outcome {
            Some(outcome) if outcome.is_ok() || thinking.is_terminated() => outcome,
            Some(outcome) => {
                drop(thinking.await);
                outcome
            }
            None => thinking.await.unwrap_or(Err(ContainerError::Panicked)),
        };
        info!(id = %house.node.short(), "Container stopped");
        thought
    }
}

/// Runs the brain on a thread of its own: its commits wait for the disk.
fn think(
    actor: Actor<Performer>,
    restored: Vec<Effect>,
    intent: Intent,
) -> Result<oneshot::Receiver<Result<(), ContainerError>>, ContainerError> {
    let (done, thinking) = oneshot::channel();
    let runtime = Handle::current();
    std::thread::Builder::new()
        .name("container-brain".to_owned())
        .spawn(move || {
            let _inside = runtime.enter();
            let outcome = actor.run(restored, intent).map_err(|error: StoreError| {
                warn!(%error, "the records cannot be written; the Container stops");
                ContainerError::from(error)
            });
            drop(done.send(outcome));
        })
        .map_err(ContainerError::Thread)?;
    Ok(thinking)
}

/// Starts everything that runs beside the brain.
fn spawn_all(
    control: &Arc<Control>,
    lines: Pending,
    params: &Params,
    endpoint: String,
    listener: tokio::net::UnixListener,
) {
    let (house, peer) = (&control.house, &control.peer);
    let (tasks, stop) = (&house.tasks, &house.stop);
    tasks.spawn(Arc::clone(house).accept(peer.clone()));
    for (id, reports) in lines {
        let presence = Arc::clone(&control.presence);
        tasks.spawn(presence.run(id, reports, peer.clone(), Arc::clone(house), stop.clone()));
    }
    let watch = Duration::from_millis(params.voucher_interval_ms.saturating_mul(4)).clamp(WATCH_MIN, WATCH_MAX);
    tasks.spawn(house.desk.clone().run_watch(Arc::clone(&house.board), watch, stop.clone()));
    let look = Duration::from_millis(params.heartbeat_ms.saturating_mul(3)).clamp(WATCH_MIN, WATCH_MAX);
    tasks.spawn(house.desk.clone().run_standing(endpoint, look, stop.clone()));
    tasks.spawn(Arc::clone(control).run_leave(stop.clone()));
    tasks.spawn(Arc::clone(control).listen(listener, stop.clone()));
    tasks.spawn(tick(house.brain.clone(), stop.clone()));
}

async fn tick(brain: BrainHandle, stop: CancellationToken) {
    loop {
        let pause = if brain.is_live() { TICK } else { TICK_IDLE };
        tokio::select! {
            () = tokio::time::sleep(pause) => brain.tick(),
            () = stop.cancelled() => return,
        }
    }
}

/// Ends jobs, tells their consumers, and lets go of everything. `politely`: the brain still lives.
async fn wind_down(control: &Arc<Control>, politely: bool) {
    let house = &control.house;
    if politely {
        let working = |held: &&Arc<Held>| matches!(held.lease.phase, Phase::Starting | Phase::Running);
        let leases: Vec<LeaseId> = house.board.leases().iter().filter(working).map(|held| held.lease.id()).collect();
        for lease in &leases {
            house.brain.note(Event::Stop { lease: *lease, by: StopBy::Provider }).await;
        }
        let mut changes = house.board.watch();
        let gone = async {
            while house.board.leases().iter().any(|held| working(&held)) {
                tokio::select! {
                    _ = changes.changed() => {}
                    () = tokio::time::sleep(TICK) => {}
                }
            }
            // A moment for the consumers to be told.
            if !leases.is_empty() {
                tokio::time::sleep(TICK * 4).await;
            }
        };
        if tokio::time::timeout(LAST_JOBS_WITHIN, gone).await.is_err() {
            warn!("some jobs do not end; the next start ends them");
        }
    }
    house.stop.cancel();
    house.brain.stop().await;
    house.jobs.shut_down().await;
    house.tasks.close();
    house.tasks.wait().await;
    control.peer.close().await;
    if let Err(error) = std::fs::remove_file(control.config.socket_path()) {
        tracing::debug!(%error, "the admin socket was gone already");
    }
}

/// What the brain's effects are performed with.
#[derive(Debug)]
struct Performer {
    jobs: Jobs,
    desk: Desk,
    sessions: Sessions,
    presence: Arc<Presence>,
}

impl Hands for Performer {
    fn prepare(&self, held: &Arc<Held>) {
        self.jobs.prepare(held);
    }
    fn start(&self, lease: LeaseId) {
        self.jobs.start(lease);
    }
    fn kill(&self, lease: LeaseId) {
        self.jobs.kill(lease);
    }
    fn over(&self, lease: LeaseId) {
        self.jobs.over(lease);
    }
    fn clean_up(&self, lease: LeaseId) {
        self.jobs.clean_up(lease);
    }
    fn ask_chain(&self, lease: LeaseId) {
        self.desk.ask(lease);
    }
    fn settle(&self, lease: LeaseId, voucher: Option<SignedVoucher>) {
        self.desk.settle(lease, voucher);
    }
    fn tell(&self, session: u64, message: ToConsumer) {
        self.sessions.tell(session, message);
    }
    fn report(&self, indexer: NodeId, report: LeaseReport) {
        self.presence.report(indexer, report);
    }
    fn beat(&self) {
        self.presence.beat();
    }
    fn forget(&self, lease: LeaseId) {
        self.sessions.cut(lease);
    }
}

/// Takes over what leases that are over have left, and removes what no lease owns.
async fn recover(jobs: &Jobs, records: &[Held]) -> Result<(), ContainerError> {
    use Phase::{Closed, Ended, Running, Settling, Starting};
    for held in records {
        if matches!(held.lease.phase, Starting | Running | Ended | Settling | Closed) && !held.taken {
            jobs.reopen(held).await;
        }
    }
    for job in jobs.recover().await? {
        match job.remains {
            Some(why) => warn!(job = %job.id, %why, "a job of an earlier run was ended; something of it remains"),
            None => info!(job = %job.id, "a job of an earlier run was ended and removed"),
        }
    }
    let known: std::collections::BTreeSet<LeaseId> = records.iter().map(|held| held.lease.id()).collect();
    jobs.sweep_folders(|lease| known.contains(&lease));
    Ok(())
}

fn make_private_dir(config: &ContainerConfig) -> Result<(), ContainerError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&config.data_dir)
        .map_err(|source| ContainerError::DataDir { path: config.data_dir.clone(), source })
}

/// This very program streams, unless another one is named.
fn streaming_program() -> Result<Vec<PathBuf>, ContainerError> {
    let failed = SandboxError::Setup { step: "find the running program", detail: "it has no path".to_owned() };
    let exe = std::env::current_exe().map_err(|_| failed)?;
    Ok(vec![exe, muster_stream::STREAM.into()])
}

fn open_sandbox(config: &ContainerConfig, init_exe: Option<PathBuf>) -> Result<Sandbox, ContainerError> {
    let mut sandbox = SandboxConfig::new(config.sandbox_dir())?;
    sandbox.egress_allowed = config.egress;
    if let Some(exe) = init_exe {
        sandbox.init_exe = exe;
    }
    Ok(Sandbox::new(sandbox)?)
}

/// What a Container says of itself in the registry: its cards, and where it can be reached.
fn endpoint_text(addr: &NodeAddr, cards: Vec<Claim>) -> String {
    OnChain { direct: addr.direct.clone(), relay: addr.relay.clone(), cards }.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_fits_the_registry() {
        let direct = (1..=60).map(|port| std::net::SocketAddr::from(([192, 0, 2, 1], port))).collect();
        let addr = NodeAddr { id: NodeId([1; 32]), direct, relay: Some("http://192.0.2.2:80".to_owned()) };
        let text = endpoint_text(&addr, Vec::new());
        assert!(text.starts_with("192.0.2.1:1 192.0.2.1:2") && text.len() <= 256, "{text}");
    }
}
