//! A Checker as a whole: what it is made of, how it starts, and how it ends.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use muster_chain::settle::{NodeKind, NodeStatus};
use muster_core::brain::checker::{Checker, Config, Event, Member};
use muster_core::calibration::Table;
use muster_core::epoch::{Draw, EpochNo};
use muster_core::ids::{Address, ContentHash, NodeId};
use muster_core::params::Params;
use muster_core::proof::Claim;
use muster_net::evidence::fetch;
use muster_net::{Connection, Limits, NetError, NodeSecret, Peer, PeerAddr, PeerConfig, RelayConfig};
use muster_wire::endpoint::Endpoint;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::accounts::{Accounts, AccountsError};
use crate::archive::Archive;
use crate::beacon::Beacon;
use crate::brain;
use crate::clock::Clock;
use crate::disputes;
use crate::epochs;
use crate::evidence::{EvidenceError, EvidenceLimits, EvidenceStore, Kind};
use crate::ledger::{Ledger, LedgerError, Snapshot};
use crate::serve;
use crate::status::{Board, CheckerStatus};
use crate::store::{Store, StoreError};
use crate::tasks::{AnswersConfig, PlayConfig, Visits};
use crate::view;

/// Events that may wait for the brain.
const EVENTS_MAX: usize = 16_384;
/// Messages that may be on their way at once.
const SENDS_MAX: usize = 256;
/// Draws that are kept after their epoch was settled, for proofs that others ask for late.
const KEPT_MAX: usize = 2_048;
/// Checkers that are asked for bytes that nobody in particular has.
const ASKED_MAX: usize = 16;
/// The longest thing that is fetched by its hash, in bytes.
const FETCH_LEN_MAX: u64 = 1 << 29;
/// What the signature is for that an epoch's secret and salt are made of. It never leaves this program.
const CHANCE: &str = "muster/checker-chance/1";

/// What a Checker is made of.
#[derive(Debug)]
pub struct CheckerConfig {
    /// Its folder: records and evidence.
    pub dir: PathBuf,
    /// Its key, as it is registered.
    pub secret: NodeSecret,
    /// Where it listens; port 0 takes any free one.
    pub listen: SocketAddr,
    /// The relays through which it can be reached.
    pub relay: Option<RelayConfig>,
    /// The network's parameters.
    pub params: Params,
    /// The calibration table: the same for all Checkers of a network.
    pub table: Table,
    /// The chain.
    pub ledger: Arc<dyn Ledger>,
    /// The beacon.
    pub beacon: Arc<dyn Beacon>,
    /// Who settles the network's first epoch, in the order in which they propose.
    pub first_committee: Vec<Member>,
    /// How much evidence is kept.
    pub evidence: EvidenceLimits,
    /// How it plays live sessions itself; not at all where there is no wallet for it.
    pub player: Option<PlayConfig>,
    /// How it audits answers of models; not at all where it has no wallet and no model for it.
    pub answers: Option<AnswersConfig>,
}

/// Why a Checker could not begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum CheckerError {
    /// Its folder cannot be made.
    #[error("the folder {} cannot be made", path.display())]
    Dir {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Its records.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its evidence.
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    /// What it knows of answers.
    #[error(transparent)]
    Accounts(#[from] AccountsError),
    /// Its address.
    #[error(transparent)]
    Net(#[from] NetError),
    /// A task of it failed: a bug.
    #[error("a task of the Checker failed: {0}")]
    Task(String),
}

/// A drawn epoch with what its Containers claimed.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    draw: Arc<Draw>,
    endpoints: Arc<BTreeMap<NodeId, String>>,
}

impl Kept {
    pub(crate) fn new(draw: Arc<Draw>, snapshot: &Snapshot) -> Self {
        let containers = snapshot.nodes.iter().filter(|node| node.kind == NodeKind::Container);
        let endpoints = containers.map(|node| (node.node, node.endpoint.clone())).collect();
        Self { draw, endpoints: Arc::new(endpoints) }
    }
}

/// Where a node is, and whether it is a Checker that others listen to.
#[derive(Clone, Debug)]
struct Known {
    addr: PeerAddr,
    checker: bool,
}

/// What all tasks share.
#[derive(Debug)]
pub(crate) struct House {
    pub(crate) id: NodeId,
    pub(crate) secret: NodeSecret,
    pub(crate) params: Params,
    pub(crate) table: Arc<Table>,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) beacon: Arc<dyn Beacon>,
    pub(crate) peer: Peer,
    pub(crate) clock: Clock,
    pub(crate) board: Board,
    pub(crate) evidence: EvidenceStore,
    /// Messages on their way.
    pub(crate) sends: Arc<Semaphore>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    events: mpsc::Sender<Event>,
    /// One core: proofs are verified one after the other.
    core: Semaphore,
    pub(crate) player: Option<PlayConfig>,
    /// Sessions are played one after the other.
    pub(crate) playing: Semaphore,
    pub(crate) answers: Option<AnswersConfig>,
    pub(crate) accounts: Accounts,
    /// Looks at answers that go on.
    pub(crate) visits: Visits,
    nodes: RwLock<BTreeMap<NodeId, Known>>,
    /// The Checker of an account, of several the one that can be drawn.
    signers: RwLock<BTreeMap<Address, NodeId>>,
    first_committee: Vec<Member>,
    epochs: Mutex<BTreeMap<EpochNo, Kept>>,
    runtime: tokio::runtime::Handle,
}

fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl House {
    /// Tells the brain; after the end nobody listens.
    pub(crate) async fn tell(&self, event: Event) {
        if self.events.send(event).await.is_err() {
            tracing::debug!("the brain has stopped");
        }
    }

    /// Runs something beside the rest until it is done or the Checker stops.
    pub(crate) fn spawn(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn_on(
            async move {
                tokio::select! {
                    () = work => {}
                    () = stop.cancelled() => {}
                }
            },
            &self.runtime,
        );
    }

    /// Something that waits for the disk.
    pub(crate) async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        tokio::task::spawn_blocking(work).await.ok()
    }

    /// Something that needs the core for itself: proofs, draws.
    ///
    /// # Errors
    /// It panicked: a bug, told as a sentence.
    pub(crate) async fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        let _turn = self.core.acquire().await.map_err(|error| error.to_string())?;
        tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())
    }

    /// The draw of an epoch.
    pub(crate) fn draw(&self, epoch: EpochNo) -> Option<Arc<Draw>> {
        held(&self.epochs).get(&epoch).map(|kept| Arc::clone(&kept.draw))
    }

    pub(crate) fn keep_epoch(&self, kept: Kept) {
        let mut epochs = held(&self.epochs);
        epochs.insert(kept.draw.epoch(), kept);
        while epochs.len() > KEPT_MAX {
            epochs.pop_first();
        }
    }

    /// An epoch is settled: its draw is kept for one epoch more.
    pub(crate) fn forget(&self, epoch: EpochNo) {
        held(&self.epochs).retain(|known, _| known.next() >= epoch);
    }

    /// What a Container claimed when an epoch was frozen.
    pub(crate) fn claims(&self, epoch: EpochNo, container: NodeId) -> Vec<Claim> {
        let text = held(&self.epochs).get(&epoch).and_then(|kept| kept.endpoints.get(&container).cloned());
        view::claims(&Endpoint::parse(&text.unwrap_or_default()), &self.table)
    }

    /// 64 bytes that nobody else can know and that are the same after a restart: secret and salt of an epoch.
    pub(crate) fn chance(&self, draw: &Draw) -> [u8; 64] {
        let mut bytes = draw.epoch().0.to_be_bytes().to_vec();
        bytes.extend(draw.view_hash().0);
        bytes.extend(draw.seed().0);
        self.secret.sign(CHANCE, &bytes).0
    }

    /// The secret of an epoch: what decides which of the proofs that it sets are bad.
    pub(crate) fn secret_of(&self, draw: &Draw) -> [u8; 32] {
        let mut secret = [0; 32];
        let chance = self.chance(draw);
        secret.copy_from_slice(chance.split_at(32).0);
        secret
    }

    /// Remembers where nodes are.
    pub(crate) fn note_nodes(&self, snapshot: &Snapshot) {
        let mut nodes = BTreeMap::new();
        for node in &snapshot.nodes {
            let addr = PeerAddr::registered(node.node, &Endpoint::parse(&node.endpoint));
            let checker = node.kind == NodeKind::Checker && node.status == NodeStatus::Active;
            nodes.insert(node.node, Known { addr, checker });
        }
        *self.nodes.write().unwrap_or_else(PoisonError::into_inner) = nodes;
        *self.signers.write().unwrap_or_else(PoisonError::into_inner) = view::signers(snapshot);
    }

    /// The Checkers that some accounts sign for, in their order; who is not registered any more is left without a node.
    pub(crate) fn members(&self, accounts: &[Address]) -> Vec<Member> {
        let signers = self.signers.read().unwrap_or_else(PoisonError::into_inner);
        let node = |account: &Address| signers.get(account).copied().unwrap_or(NodeId([0; 32]));
        accounts.iter().map(|account| Member { node: node(account), signer: *account }).collect()
    }

    /// The Checkers that were named with the network.
    pub(crate) fn first_committee(&self) -> &[Member] {
        &self.first_committee
    }

    /// What computes epochs again, with this Checker's own means.
    pub(crate) fn archive(&self) -> Archive {
        Archive {
            peer: self.peer.clone(),
            ledger: Arc::clone(&self.ledger),
            beacon: Arc::clone(&self.beacon),
            params: self.params.clone(),
            table: Arc::clone(&self.table),
        }
    }

    /// Whether somebody is a Checker in good standing, as far as the last freeze knows.
    pub(crate) fn is_checker(&self, node: NodeId) -> bool {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        nodes.get(&node).is_some_and(|known| known.checker)
    }

    /// The connection to a node of the registry.
    pub(crate) async fn connect(self: &Arc<Self>, node: NodeId) -> Result<Connection, NetError> {
        if let Some(open) = self.peer.connection(node) {
            return Ok(open);
        }
        let known = {
            let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
            nodes.get(&node).map(|known| known.addr.clone())
        };
        let connection = self.peer.connect(&known.ok_or(NetError::NoAddress(node))?).await?;
        // Who was dialled may open streams on this connection as well.
        self.spawn(serve::streams(Arc::clone(self), connection.clone()));
        Ok(connection)
    }

    /// Keeps evidence; what cannot be kept is told as a sentence, here and on the board.
    pub(crate) fn keep(&self, kind: Kind, bytes: &[u8]) -> Result<ContentHash, String> {
        self.kept(self.evidence.put(kind, bytes))
    }

    /// The same under a name of its own.
    pub(crate) fn keep_as(&self, kind: Kind, name: ContentHash, bytes: &[u8]) -> Result<ContentHash, String> {
        self.kept(self.evidence.put_as(kind, name, bytes))
    }

    fn kept(&self, kept: Result<ContentHash, EvidenceError>) -> Result<ContentHash, String> {
        match kept {
            Ok(hash) => {
                self.board.problem("disk", None);
                Ok(hash)
            }
            Err(error) => {
                let why = std::error::Error::source(&error)
                    .map_or_else(|| error.to_string(), |source| format!("{error} ({source})"));
                self.board.problem("disk", Some(why.clone()));
                Err(why)
            }
        }
    }

    /// Bytes by their hash: from here, from who should have them, or from any Checker.
    pub(crate) async fn find(&self, hash: ContentHash, owner: Option<NodeId>) -> Option<Vec<u8>> {
        let store = self.evidence.clone();
        if let Some(bytes) = self.blocking(move || store.get(&hash)).await.flatten() {
            return Some(bytes);
        }
        let mut asked: Vec<PeerAddr> = {
            let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
            let first = owner.and_then(|owner| nodes.get(&owner)).into_iter();
            let others = nodes.values().filter(|known| known.checker && Some(known.addr.id) != owner);
            first.chain(others).map(|known| known.addr.clone()).filter(|addr| addr.id != self.id).collect()
        };
        asked.truncate(ASKED_MAX);
        for addr in asked {
            match fetch(&self.peer, &addr, hash, FETCH_LEN_MAX).await {
                Ok(bytes) => return Some(bytes),
                Err(error) => tracing::debug!(from = %addr.id.short(), %hash, %error, "not there"),
            }
        }
        None
    }

    /// The chain is away, or is back.
    pub(crate) fn chain_problem(&self, why: Option<String>) {
        if let Some(why) = &why {
            tracing::debug!(%why, "the chain does not answer");
        }
        self.board.problem("chain", why);
    }

    /// What became of something that was asked of the chain.
    pub(crate) fn said(&self, outcome: Result<(), LedgerError>, what: &str) {
        if let Err(why) = outcome {
            warn!(%why, "{what}");
            self.board.problem(what, Some(why.to_string()));
        } else {
            self.board.problem(what, None);
        }
    }
}

/// A Checker that has its address and its records, and does not run yet.
#[derive(Debug)]
pub struct CheckerNode {
    house: Arc<House>,
    store: Store,
    brain: Checker,
    inbox: mpsc::Receiver<Event>,
}

impl CheckerNode {
    /// Opens the records and takes the address.
    ///
    /// # Errors
    /// The folder cannot be used, or the address cannot be had.
    pub async fn new(config: CheckerConfig) -> Result<Self, CheckerError> {
        let dir = config.dir;
        std::fs::create_dir_all(&dir).map_err(|source| CheckerError::Dir { path: dir.clone(), source })?;
        let id = config.secret.id();
        let store = Store::open(&dir.join("checker.redb"), id)?;
        let evidence = EvidenceStore::open(&dir.join("evidence"), config.evidence)?;
        let accounts = Accounts::open(&dir.join("answers.bin"))?;
        let peer = Peer::bind(PeerConfig {
            relay: config.relay,
            limits: Limits::control(),
            ..PeerConfig::new(config.secret.clone(), config.listen)
        })
        .await?;
        let signer = config.ledger.signer();
        let first_committee = config.first_committee;
        let mut brain = Checker::new(Config {
            id,
            signer,
            params: config.params.clone(),
            first_committee: first_committee.clone(),
        });
        brain.restore(store.restore()?);
        let (events, inbox) = mpsc::channel(EVENTS_MAX);
        let board = Board::new(id, signer);
        let listens = vec![peer.listen_addr()];
        board.note(|status| status.listens = listens);
        let house = House {
            id,
            secret: config.secret,
            params: config.params,
            table: Arc::new(config.table),
            ledger: config.ledger,
            beacon: config.beacon,
            peer,
            clock: Clock,
            board,
            evidence,
            sends: Arc::new(Semaphore::new(SENDS_MAX)),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            events,
            core: Semaphore::new(1),
            player: config.player,
            playing: Semaphore::new(1),
            answers: config.answers,
            accounts,
            visits: Visits::default(),
            nodes: RwLock::default(),
            signers: RwLock::default(),
            first_committee: first_committee.clone(),
            epochs: Mutex::default(),
            runtime: tokio::runtime::Handle::current(),
        };
        Ok(Self { house: Arc::new(house), store, brain, inbox })
    }

    /// Its key and where it can be dialled: what it registers with ([`Endpoint`]).
    #[must_use]
    pub fn addr(&self) -> PeerAddr {
        self.house.peer.addr()
    }

    /// Its state as it changes, for a page or a command; goes on while it runs.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<CheckerStatus> {
        self.house.board.watch()
    }

    /// Works until told to stop.
    ///
    /// # Errors
    /// The records cannot be written any more, or a task failed.
    pub async fn run(self, stop: CancellationToken) -> Result<(), CheckerError> {
        let Self { house, store, brain, inbox } = self;
        let (done, mut thinking) = tokio::sync::oneshot::channel();
        let thought = Arc::clone(&house);
        std::thread::Builder::new()
            .name("checker-brain".to_owned())
            .spawn(move || {
                let outcome = brain::run(brain, store, inbox, &thought);
                if let Err(error) = &outcome {
                    brain::fallen(error);
                }
                // Whoever waits may have gone.
                drop(done.send(outcome));
            })
            .map_err(|error| CheckerError::Task(error.to_string()))?;
        house.tasks.spawn(serve::accept(Arc::clone(&house)));
        house.tasks.spawn(epochs::run(Arc::clone(&house)));
        house.tasks.spawn(epochs::watch(Arc::clone(&house)));
        house.tasks.spawn(epochs::tick(Arc::clone(&house)));
        house.tasks.spawn(disputes::watch(Arc::clone(&house)));
        info!(id = %house.id, listen = %house.peer.listen_addr(), "Checker runs");
        let early = tokio::select! {
            () = stop.cancelled() => None,
            outcome = &mut thinking => Some(outcome),
        };
        house.stop.cancel();
        // Wakes the brain, which then sees that it is over.
        house.tell(Event::Tick).await;
        let outcome = match early {
            Some(outcome) => outcome,
            None => thinking.await,
        };
        house.tasks.close();
        house.tasks.wait().await;
        house.peer.close().await;
        info!(id = %house.id.short(), "Checker stopped");
        outcome.map_err(|_| CheckerError::Task("the brain's thread ended early".to_owned()))?.map_err(Into::into)
    }
}
