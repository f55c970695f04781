//! A small world around one Container: an embedded chain with the real contracts, an Indexer that offers what it is
//! told, and a consumer that speaks the protocol by hand. All of it on loopback, all of it gone at the end.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use muster_chain::contracts::{Contracts, DeployParams, deploy_development};
use muster_chain::embedded::{ChainConfig, ServerConfig, open_development, serve};
use muster_chain::keys::Wallet;
use muster_chain::settle::{ChainClient, OpenLease, SenderConfig, Settlement, TxSender};
use muster_container::sandbox::SandboxError;
use muster_container::{
    AppsOffer, ChainLedger, ChainLedgerConfig, ContainerConfig, ContainerError, ContainerNode, JobBounds, Joining,
    ModelsOffer, OfferConfig, SessionsOffer, StoreError,
};
use muster_core::hardware::{Allocation, GpuSet};
use muster_core::ids::{LeaseId, NodeId, RequestId};
use muster_core::lease::LeaseTerms;
use muster_core::params::Params;
use muster_core::pricing::{Ask, Exchange};
use muster_core::protocol::{Heartbeat, Offer, OfferAnswer};
use muster_core::units::{Bytes, TimeMs, TokenAmount, UsdMicro};
use muster_net::{Connection, NodeSecret, Peer, PeerAddr, PeerConfig, StreamKind};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};

pub(crate) const CHAIN_ID: u64 = 31_337;
/// Generous: the machine may be busy. No test measures with it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const ETHER: u128 = 1_000_000_000_000_000_000;

/// The chain, the Indexer and everybody's purse.
pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) chain: Chain,
    pub(crate) rpc: String,
    pub(crate) contracts: Contracts,
    pub(crate) params: Params,
    pub(crate) client: ChainClient,
    pub(crate) consumer: Settlement,
    pub(crate) owner: Wallet,
    pub(crate) indexer: Indexer,
    /// What computes proofs, where that is not the processor.
    pub(crate) engines: Mutex<Option<Arc<dyn muster_container::Engines>>>,
    pub(crate) provers: Mutex<Option<Arc<dyn muster_container::Provers>>>,
    /// What streams live sessions, where the test needs some.
    pub(crate) streaming: Mutex<Option<Vec<PathBuf>>>,
}

/// A crash that a test plays leaves mounts behind, as a real one does until the next start.
impl Drop for World {
    fn drop(&mut self) {
        let below = self.dir.path().to_string_lossy().into_owned();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        for point in points.filter(|point| point.starts_with(&below)) {
            let unmounted = std::process::Command::new("umount").arg("--lazy").arg(point).status();
            if !unmounted.as_ref().is_ok_and(std::process::ExitStatus::success) {
                eprintln!("{point} stays mounted: {unmounted:?}");
            }
        }
    }
}

/// An Indexer that does what the test says.
pub(crate) struct Indexer {
    pub(crate) peer: Peer,
    /// Connections that Containers dialled.
    connections: tokio::sync::Mutex<mpsc::Receiver<Connection>>,
}

pub(crate) fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

pub(crate) fn ask() -> Ask {
    Ask { core_hour: UsdMicro(20_000), memory_gib_hour: UsdMicro(2_000), ..Ask::default() }
}

/// A chain whose door can be shut and opened again.
pub(crate) struct Chain {
    chain: muster_chain::embedded::Chain,
    addr: SocketAddr,
    server: tokio::sync::Mutex<Option<(oneshot::Sender<()>, tokio::task::JoinHandle<()>)>>,
}

impl Chain {
    async fn new(dir: &Path) -> (Self, Wallet) {
        let listener = tokio::net::TcpListener::bind(loopback()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        drop(listener);
        let development = open_development(dir, ChainConfig::development(CHAIN_ID)).unwrap();
        let this = Self { chain: development.chain, addr, server: tokio::sync::Mutex::new(None) };
        this.up().await;
        (this, development.faucet)
    }

    pub(crate) async fn up(&self) {
        let listener = tokio::net::TcpListener::bind(self.addr).await.unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async {
            // Letting go of the sender means the same.
            drop(stopped.await);
        };
        let serving = serve(self.chain.clone(), listener, ServerConfig::default(), shutdown);
        let task = tokio::spawn(async move { serving.await.unwrap() });
        *self.server.lock().await = Some((stop, task));
    }

    pub(crate) async fn down(&self) {
        let (stop, task) = self.server.lock().await.take().unwrap();
        drop(stop);
        task.await.unwrap();
    }
}

async fn settlement(dir: &Path, wallet: Wallet, client: ChainClient) -> Settlement {
    let sender = TxSender::open(dir, wallet, client, SenderConfig::default()).await.unwrap();
    let running = sender.clone();
    tokio::spawn(async move { running.run(std::future::pending()).await });
    Settlement::new(sender)
}

impl World {
    /// A chain with contracts, a consumer and an owner with tokens, and an Indexer.
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (chain, faucet) = Chain::new(&dir.path().join("chain")).await;
        let rpc = format!("http://{}", chain.addr);
        let params = Params { heartbeat_ms: 500, ..Params::development() };
        let zero = muster_core::ids::Address::ZERO;
        let nowhere = Contracts { token: zero, registry: zero, escrow: zero };
        let bare = ChainClient::connect(&rpc, CHAIN_ID, nowhere).await.unwrap();
        let bank = settlement(&dir.path().join("bank"), faucet, bare.clone()).await;
        let deploy = DeployParams::development(params.container_stake, params.indexer_stake, params.fee_bps);
        let contracts = deploy_development(bank.sender(), &deploy).await.unwrap();
        let client = bare.with_contracts(contracts);
        drop(bank);
        let bank = Self::bank(&dir, &client).await;
        let (consumer, owner) = (Wallet::random(), Wallet::random());
        for (name, wallet) in [("consumer", &consumer), ("owner", &owner)] {
            bank.send_ether(name, wallet.address(), ETHER).await.unwrap();
            bank.send_tokens(name, wallet.address(), TokenAmount(10_000 * TokenAmount::ONE.0)).await.unwrap();
        }
        let consumer = settlement(&dir.path().join("consumer"), consumer, client.clone()).await;
        let indexer = Indexer::new().await;
        let (provers, streaming, engines) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { dir, chain, rpc, contracts, params, client, consumer, owner, indexer, engines, provers, streaming }
    }

    /// The faucet's wallet with the contracts known.
    async fn bank(dir: &TempDir, client: &ChainClient) -> Settlement {
        let faucet = muster_chain::keys::read_or_create_raw(&dir.path().join("chain/faucet.key")).unwrap();
        settlement(&dir.path().join("bank-2"), faucet, client.clone()).await
    }

    pub(crate) fn config(&self, name: &str) -> ContainerConfig {
        ContainerConfig {
            name: name.to_owned(),
            listen: loopback(),
            announce: Vec::new(),
            data_dir: self.dir.path().join(name),
            egress: false,
            region: None,
            place: None,
            allow_empty: false,
            offer: OfferConfig {
                cpu_millis: 2_000,
                memory: Bytes(512 << 20),
                disk: Bytes(256 << 20),
                gpus: Vec::new(),
            },
            ask: ask(),
            job: JobBounds::default(),
            sessions: SessionsOffer::default(),
            apps: AppsOffer::default(),
            models: ModelsOffer::default(),
        }
    }

    fn node(&self, config: ContainerConfig, secret: &NodeSecret) -> ContainerNode {
        let ledger = ChainLedgerConfig {
            rpc_url: self.rpc.clone(),
            chain_id: CHAIN_ID,
            contracts: self.contracts,
            outbox_dir: config.data_dir.join("outbox"),
            node: secret.id(),
            stake: self.params.container_stake,
            fingerprint: [7; 32],
        };
        let ledger = Arc::new(ChainLedger::new(ledger, self.owner.clone()));
        let joining = Joining {
            params: self.params.clone(),
            indexers: vec![PeerAddr::new(self.indexer.peer.id()).with_direct(self.indexer.peer.listen_addr())],
            relays: Vec::new(),
        };
        let node = ContainerNode::new(config, joining, secret.clone(), ledger)
            .unwrap()
            .with_init_exe(PathBuf::from(env!("CARGO_BIN_EXE_muster-sandbox-init")));
        let node = match self.streaming.lock().unwrap().clone() {
            Some(program) => node.with_streaming(program),
            None => node,
        };
        let node = node.with_engines(self.engines.lock().unwrap().clone());
        match self.provers.lock().unwrap().clone() {
            Some(provers) => node.with_provers(provers),
            None => node,
        }
    }

    /// A running Container, and the connection on which the Indexer talks to it.
    pub(crate) async fn start(&self, config: ContainerConfig, secret: &NodeSecret) -> Running {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            match self.try_start(config.clone(), secret).await {
                Ok(running) => return running,
                // One that was dropped in the middle lets go of its folder a moment later.
                Err(
                    ContainerError::Store(StoreError::InUse { .. })
                    | ContainerError::Sandbox(SandboxError::InUse { .. }),
                ) if tokio::time::Instant::now() < until => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("the Container did not start: {error}"),
            }
        }
    }

    async fn try_start(&self, config: ContainerConfig, secret: &NodeSecret) -> Result<Running, ContainerError> {
        let data_dir = config.data_dir.clone();
        let mut node = self.node(config, secret);
        let ready = node.ready();
        let (stop, stopped) = oneshot::channel::<()>();
        // A runtime of its own, so that a test can drop it with everything in it.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let task = runtime.spawn(async move {
            Box::pin(node.run(async {
                // A test that lets go of the sender wants the same.
                drop(stopped.await);
            }))
            .await
        });
        let ready = tokio::select! {
            ready = tokio::time::timeout(PATIENCE, ready) => ready.expect("a Container starts").ok(),
            () = tokio::time::sleep(PATIENCE) => None,
        };
        let Some(ready) = ready else {
            let outcome = task.await.unwrap();
            runtime.shutdown_background();
            return Err(outcome.expect_err("one that was never ready has a reason"));
        };
        let line = self.indexer.line(secret.id()).await;
        Ok(Running {
            id: ready.id,
            addr: PeerAddr { id: ready.id, direct: ready.addr.direct.iter().copied().collect(), relay: None },
            line,
            data_dir,
            stop: Some(stop),
            task: Some(task),
            runtime: Some(runtime),
        })
    }

    /// Starts a Container that is expected not to come up.
    pub(crate) async fn start_in_vain(&self, config: ContainerConfig, secret: &NodeSecret) -> ContainerError {
        let node = self.node(config, secret);
        let run = Box::pin(node.run(std::future::pending()));
        tokio::time::timeout(PATIENCE, run).await.expect("it gives up by itself").expect_err("it does not start")
    }

    /// Terms for a job of half a core that may run a minute.
    pub(crate) fn terms(&self, container: NodeId, session: &Wallet) -> LeaseTerms {
        let salt: [u8; 32] = rand::random();
        let consumer = self.consumer.address();
        let allocation =
            Allocation { cpu_millis: 500, memory: Bytes(128 << 20), disk: Bytes(32 << 20), gpus: GpuSet::NONE };
        let hour = ask().allocation_hour(&allocation, &[]).unwrap();
        let rate = Exchange { token_price: self.params.token_price }.rate_per_second(hour).unwrap();
        LeaseTerms {
            lease: self.client.lease_id(consumer, salt),
            salt,
            request: RequestId(rand::random()),
            consumer,
            session_key: session.address(),
            container,
            indexer: self.indexer.peer.id(),
            rate_per_second: rate,
            deposit: rate.per_second_for_ms(120_000),
            max_seconds: 60,
            interval_ms: self.params.voucher_interval_ms,
            open_within_ms: self.params.open_timeout_ms,
            allocation,
            egress: false,
            tokens: None,
        }
    }

    /// Pays the deposit.
    pub(crate) async fn deposit(&self, terms: &LeaseTerms) {
        let open = OpenLease {
            salt: terms.salt,
            container: terms.container,
            indexer: terms.indexer,
            session_key: terms.session_key,
            deposit: terms.deposit,
            rate_per_second: terms.rate_per_second,
            max_seconds: terms.max_seconds,
        };
        let (lease, _) = self.consumer.open_lease(open).await.unwrap();
        assert_eq!(lease, terms.lease);
    }
}

pub(crate) fn now() -> TimeMs {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    TimeMs(u64::try_from(since.as_millis()).unwrap())
}

/// A peer that only dials, as a consumer does.
pub(crate) async fn dialler() -> Peer {
    Peer::bind(PeerConfig { accept: false, ..PeerConfig::new(NodeSecret::generate(), loopback()) }).await.unwrap()
}

impl Indexer {
    async fn new() -> Self {
        let peer = Peer::bind(PeerConfig::new(NodeSecret::generate(), loopback())).await.unwrap();
        let (found, connections) = mpsc::channel(16);
        let accepting = peer.clone();
        tokio::spawn(async move {
            while let Ok(connection) = accepting.accept().await {
                if found.send(connection).await.is_err() {
                    return;
                }
            }
        });
        Self { peer, connections: tokio::sync::Mutex::new(connections) }
    }

    /// The connection of a Container, once it has dialled.
    async fn line(&self, container: NodeId) -> Line {
        let mut connections = self.connections.lock().await;
        loop {
            let next = tokio::time::timeout(PATIENCE, connections.recv()).await.expect("the Container dials");
            let connection = next.expect("the Indexer lives");
            if connection.remote_id() == container {
                let presence = tokio::time::timeout(PATIENCE, connection.accept_bi()).await.unwrap().unwrap();
                assert_eq!(presence.kind(), StreamKind::Presence);
                return Line { connection, reports: tokio::sync::Mutex::new(presence.framed().split().0) };
            }
        }
    }
}

/// What an Indexer has of one Container.
pub(crate) struct Line {
    pub(crate) connection: Connection,
    reports: tokio::sync::Mutex<muster_net::FrameReader>,
}

impl Line {
    pub(crate) async fn offer(&self, offer: Offer) -> OfferAnswer {
        let mut stream = self.connection.open_bi(StreamKind::Offer).await.unwrap().framed();
        stream.ask(&offer, PATIENCE).await.unwrap()
    }

    /// Offers until the terms are accepted, and checks the signature.
    pub(crate) async fn accept(&self, terms: &LeaseTerms) {
        match self.offer(Offer::Take(Box::new(terms.clone()))).await {
            OfferAnswer::Accepted { signature } => {
                let bytes = muster_wire::message::terms_bytes(terms).unwrap();
                muster_net::verify(terms.container, "muster/acceptance/1", &bytes, &signature.into()).unwrap();
            }
            other => panic!("not accepted: {other:?}"),
        }
    }

    /// The next heartbeat for which `fits` holds.
    pub(crate) async fn heartbeat(&self, fits: impl Fn(&Heartbeat) -> bool) -> Heartbeat {
        use muster_core::protocol::ContainerReport;
        let mut reports = self.reports.lock().await;
        let found = async {
            loop {
                match reports.recv::<ContainerReport>().await.unwrap().expect("the line stands") {
                    ContainerReport::Heartbeat(beat) if fits(&beat) => return *beat,
                    ContainerReport::Heartbeat(_) | ContainerReport::Lease(_) => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, found).await.expect("such a heartbeat comes")
    }
}

/// A Container that runs.
pub(crate) struct Running {
    pub(crate) id: NodeId,
    pub(crate) addr: PeerAddr,
    pub(crate) line: Line,
    pub(crate) data_dir: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    task: Option<tokio::task::JoinHandle<Result<(), ContainerError>>>,
    runtime: Option<Runtime>,
}

impl Running {
    /// Ends it as its owner would.
    pub(crate) async fn stop(mut self) {
        drop(self.stop.take());
        let task = self.task.take().unwrap();
        tokio::time::timeout(PATIENCE, task).await.expect("it stops").unwrap().expect("it stops well");
    }

    /// Ends it in the middle of whatever it does.
    pub(crate) fn crash(mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    pub(crate) async fn ask(
        &self,
        request: muster_container::AdminRequest,
    ) -> Result<muster_container::ContainerStatus, muster_container::AdminError> {
        muster_container::ask(&self.data_dir, &request).await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The name that a lease has in tables of files and of the status.
pub(crate) fn name(lease: LeaseId) -> String {
    lease.to_string()
}
