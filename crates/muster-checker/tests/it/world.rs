//! Some Checkers, some Containers and a town.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use muster_chain::keys::Wallet;
use muster_chain::settle::NodeKind;
use muster_checker::{CheckerConfig, CheckerNode, CheckerStatus, EvidenceLimits};
use muster_core::brain::checker::Member;
use muster_core::calibration::{Fallback, Table};
use muster_core::epoch::{EpochNo, EpochParams};
use muster_core::hardware::GpuModel;
use muster_core::ids::Address;
use muster_core::params::Params;
use muster_core::proof::{Claim, Scale};
use muster_core::reward::{Published, State};
use muster_core::units::{Bytes, Ob};
use muster_net::{NodeSecret, Peer, PeerAddr, PeerConfig};
use muster_wire::endpoint::Endpoint;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::container::{Container, Habits};
use crate::town::{Bell, Desk, Town, now};

/// Generous: the machine may be busy. No test measures with it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);

pub(crate) fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

pub(crate) fn params() -> Params {
    let epoch = EpochParams {
        epoch_ms: 16_000,
        draw_until_bps: 1_000,
        tests_until_bps: 6_000,
        commit_until_bps: 7_500,
        reveal_until_bps: 8_500,
        liveness_every_ms: 1_000,
        quality_every_ms: 1_000,
        liveness_seats: 3,
        committee_seats: 3,
        dispute_window_ms: 3_000,
        full_test_within_ms: 16_000,
        ..EpochParams::development()
    };
    Params { epoch, proof: scale(), ..Params::development() }
}

/// A table in which a processor is worth little.
pub(crate) fn table() -> Table {
    let fallback = Fallback {
        ob: 100,
        steps_per_ob: 1_000_000,
        products_per_ob: 1_000_000,
        reads_per_ob: 100_000,
        source: String::new(),
    };
    Table {
        serial: 1,
        issued: "2026-11-25".to_owned(),
        version: "2020".to_owned(),
        fallback,
        architecture: Vec::new(),
        card: Vec::new(),
    }
}

fn scale() -> Scale {
    Scale {
        picture_side: 256,
        spp_max: 1,
        bounces: 1,
        product_side_max: 64,
        pad_bytes_max: Bytes(1 << 20),
        walks: 64,
        walk_segments: 2,
        walk_steps: 8,
        chunks_opened: 1,
        segments_opened: 2,
        slack_ms: 60_000,
        opening_ms: 60_000,
        ..Scale::development()
    }
}

/// What a Container says of itself.
pub(crate) fn endpoint(peer: &Peer, cards: usize) -> String {
    let claim = Claim { model: GpuModel::new("processor").unwrap(), ob: Ob(1), vram: Bytes(1 << 20) };
    Endpoint { direct: vec![peer.listen_addr()], relay: None, cards: vec![claim; cards] }.text()
}

pub(crate) struct Running {
    pub(crate) addr: PeerAddr,
    pub(crate) status: watch::Receiver<CheckerStatus>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }

    /// Waits until the status is as wanted.
    pub(crate) async fn until(&self, what: &str, mut wanted: impl FnMut(&CheckerStatus) -> bool) {
        let mut status = self.status.clone();
        let met = tokio::time::timeout(PATIENCE, status.wait_for(|status| wanted(status))).await;
        assert!(matches!(met, Ok(Ok(_))), "{what}: {:#?}", self.status.borrow());
    }
}

pub(crate) struct World {
    dir: TempDir,
    pub(crate) town: Arc<Town>,
    pub(crate) secrets: Vec<NodeSecret>,
    wallets: Vec<Wallet>,
    members: Vec<Member>,
    pub(crate) peer: Peer,
}

impl World {
    /// A town with three Checkers to be, whose first epoch begins soon.
    pub(crate) async fn new() -> Self {
        let params = params();
        // Far enough away for everybody to be registered by then.
        let genesis = params.epoch.at(now().plus(10_000)).next();
        let town = Town::new(params, genesis);
        let secrets: Vec<NodeSecret> = (0..3).map(|_| NodeSecret::generate()).collect();
        let wallets: Vec<Wallet> = (0..3).map(|_| Wallet::random()).collect();
        let members: Vec<Member> = secrets
            .iter()
            .zip(&wallets)
            .map(|(secret, wallet)| Member { node: secret.id(), signer: wallet.address() })
            .collect();
        *town.first_committee.lock().unwrap() = members.iter().map(|member| member.signer).collect();
        let peer = Peer::bind(PeerConfig::new(NodeSecret::generate(), loopback())).await.unwrap();
        Self { dir: tempfile::tempdir().unwrap(), town, secrets, wallets, members, peer }
    }

    pub(crate) async fn container(&self, habits: Habits, owner: u8) -> Container {
        let container = Container::new(habits).await;
        self.town.register(NodeKind::Container, container.id, Address([owner; 20]), endpoint(&container.peer, 1));
        container
    }

    /// Starts a Checker; it registers with a licence the first time.
    pub(crate) async fn checker(&self, at: usize) -> Running {
        let secret = self.secrets[at].clone();
        let desk = Desk { town: Arc::clone(&self.town), wallet: self.wallets[at].clone() };
        let node = CheckerNode::new(CheckerConfig {
            dir: self.dir.path().join(format!("checker-{at}")),
            secret,
            listen: loopback(),
            relay: None,
            params: self.town.params.clone(),
            table: table(),
            ledger: Arc::new(desk),
            beacon: Arc::new(Bell),
            first_committee: self.members.clone(),
            evidence: EvidenceLimits::default(),
            player: None,
            answers: None,
        })
        .await
        .unwrap();
        let addr = node.addr();
        self.join(at, *addr.direct.first().unwrap());
        let (status, stop) = (node.status(), CancellationToken::new());
        let stopped = stop.clone();
        let task = tokio::spawn(async move { node.run(stopped).await.unwrap() });
        Running { addr, status, stop, task }
    }

    /// Registers a Checker with a licence, or tells where it is now.
    pub(crate) fn join(&self, at: usize, listens: SocketAddr) {
        let id = self.secrets[at].id();
        let said = Endpoint { direct: vec![listens], ..Endpoint::default() }.text();
        if self.town.has(id) {
            self.town.announce(id, said);
        } else {
            self.town.register(NodeKind::Checker, id, self.wallets[at].address(), said);
            self.town.licence(Address([0xee; 20]), id);
        }
    }

    /// What the last posted outcome left.
    pub(crate) async fn state(&self, of: &Running) -> State {
        let posted = self.town.posted();
        let hash = posted.last().unwrap().outcome.data_hash;
        // What one Checker posts the others fetch a moment later.
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            match muster_checker::fetch(&self.peer, &of.addr, hash, 1 << 24).await {
                Ok(bytes) => return Published::decode(&bytes).unwrap().state,
                Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until something holds.
    pub(crate) async fn until(&self, what: &str, mut wanted: impl FnMut(&Town) -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !wanted(&self.town) {
            assert!(tokio::time::Instant::now() < deadline, "{what} never came");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) fn genesis(&self) -> EpochNo {
        self.town.genesis
    }
}
