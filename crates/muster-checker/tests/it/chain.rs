//! The same with the real contracts on the embedded chain, and a development network's own beacon.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use muster_chain::contracts::{Contracts, DeployParams, deploy_development};
use muster_chain::embedded::{ChainConfig, ServerConfig, open_development, serve};
use muster_chain::epochs::{
    EpochContracts, EpochParams as ContractParams, EpochSettlement, RewardKind, RewardLeaf, committee_hash,
    deploy_epochs, fund_rewards,
};
use muster_chain::keys::Wallet;
use muster_chain::settle::{ChainClient, NodeKind, NodeStatus, Registration, SenderConfig, Settlement, TxSender};
use muster_checker::{Archive, Beacon, BeaconError, ChainLedger, CheckerConfig, CheckerNode, EvidenceLimits, Ledger};
use muster_core::beacon::BeaconSchedule;
use muster_core::brain::checker::Member;
use muster_core::epoch::{EpochNo, Seed};
use muster_core::ids::{Address, NodeId};
use muster_core::params::Params;
use muster_core::reward::{LeafKind, Published, merkle};
use muster_core::units::TokenAmount;
use muster_net::{NodeSecret, Peer, PeerConfig};
use muster_wire::beacon::{Beacon as Rounds, BeaconSecret};
use muster_wire::endpoint::Endpoint;
use tokio_util::sync::CancellationToken;

use crate::container::{Container, Habits};
use crate::town::now;
use crate::world::{PATIENCE, endpoint, loopback, params, table};

const CHAIN_ID: u64 = 31_337;
const ETHER: u128 = 1_000_000_000_000_000_000;

/// A development network's beacon, whose key is here: each round is signed, and verified like anybody's.
#[derive(Debug)]
struct Own {
    secret: BeaconSecret,
    rounds: Rounds,
    params: Params,
}

impl Beacon for Own {
    fn seed(&self, epoch: EpochNo) -> BoxFuture<'_, Result<Seed, BeaconError>> {
        let due_s = self.params.epoch.begin(epoch).0 / 1_000;
        let round = self.rounds.schedule().first_at_or_after(due_s).unwrap();
        let signature = self.secret.sign(round);
        let verified = self.rounds.verify(round, &signature).map_err(|error| BeaconError::Wrong(error.to_string()));
        async move { verified.map(Seed) }.boxed()
    }
}

async fn settlement(dir: &Path, wallet: &Wallet, client: &ChainClient) -> Settlement {
    let sender = TxSender::open(dir, wallet.clone(), client.clone(), SenderConfig::default()).await.unwrap();
    let running = sender.clone();
    tokio::spawn(async move { running.run(std::future::pending()).await });
    Settlement::new(sender)
}

fn free_port() -> SocketAddr {
    std::net::UdpSocket::bind(loopback()).unwrap().local_addr().unwrap()
}

struct Net {
    dir: tempfile::TempDir,
    client: ChainClient,
    bank: Settlement,
    epochs: EpochContracts,
    params: Params,
}

impl Net {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let development = open_development(&dir.path().join("chain"), ChainConfig::development(CHAIN_ID)).unwrap();
        let listener = tokio::net::TcpListener::bind(loopback()).await.unwrap();
        let rpc = format!("http://{}", listener.local_addr().unwrap());
        let (chain, faucet) = (development.chain, development.faucet);
        let serving = serve(chain, listener, ServerConfig::default(), std::future::pending());
        tokio::spawn(async move { serving.await.unwrap() });
        let params = params();
        let nowhere = Contracts { token: Address::ZERO, registry: Address::ZERO, escrow: Address::ZERO };
        let bare = ChainClient::connect(&rpc, CHAIN_ID, nowhere).await.unwrap();
        let bank = settlement(&dir.path().join("bank"), &faucet, &bare).await;
        let deploy = DeployParams::development(params.container_stake, params.indexer_stake, params.fee_bps);
        let contracts = deploy_development(bank.sender(), &deploy).await.unwrap();
        let client = bare.with_contracts(contracts);
        let bank = settlement(&dir.path().join("bank-2"), &faucet, &client).await;
        let tokens = |whole: u128| TokenAmount(whole * TokenAmount::ONE.0);
        let own = beacon(&params);
        let of_contracts = ContractParams {
            epoch_s: params.epoch.epoch_ms / 1_000,
            emission_per_epoch: tokens(100_000),
            dispute_window_s: params.epoch.dispute_window_ms / 1_000,
            ..ContractParams::development(params.epoch.at(now()).0)
        };
        let epochs = deploy_epochs(bank.sender(), &contracts, &of_contracts, &own.rounds).await.unwrap();
        let funds = [tokens(100_000_000), tokens(1_000_000), tokens(1_000)];
        fund_rewards(&bank, &epochs, "all of it", funds).await.unwrap();
        Self { dir, client, bank, epochs, params }
    }

    /// An account with ether and tokens.
    async fn account(&self, name: &str) -> (Wallet, Settlement) {
        let wallet = Wallet::random();
        self.bank.send_ether(name, wallet.address(), ETHER).await.unwrap();
        self.bank.send_tokens(name, wallet.address(), TokenAmount(10_000 * TokenAmount::ONE.0)).await.unwrap();
        let settlement = settlement(&self.dir.path().join(name), &wallet, &self.client).await;
        (wallet, settlement)
    }

    async fn register(&self, settlement: &Settlement, kind: NodeKind, node: NodeId, endpoint: String) {
        let stake = self.params.container_stake;
        let registration = Registration { kind, node, endpoint, fingerprint: [0; 32], stake };
        settlement.register(&registration).await.unwrap();
    }

    fn ledger(&self, settlement: &Settlement, wallet: &Wallet, genesis: EpochNo) -> Arc<dyn Ledger> {
        let settlement = EpochSettlement::new(settlement.clone(), self.epochs);
        Arc::new(ChainLedger::new(settlement, wallet.clone(), self.params.epoch.clone(), genesis, 0))
    }
}

fn beacon(params: &Params) -> Own {
    let secret = BeaconSecret::generate(&[7; 32]);
    let schedule = BeaconSchedule { genesis_s: 1, period_s: 1 };
    let rounds = Rounds::new(&secret.public_key(), schedule).unwrap();
    Own { secret, rounds, params: params.clone() }
}

/// Three Checkers, two Containers, one of which lies: an epoch is drawn, tested, settled and paid, by the contracts; the
/// liar is slashed and jailed; whoever computes the epoch again comes to the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_contracts_pay_the_honest_and_jail_the_cheat() {
    let net = Net::new().await;
    let secrets: Vec<NodeSecret> = (0..3).map(|_| NodeSecret::generate()).collect();
    let ports: Vec<SocketAddr> = (0..3).map(|_| free_port()).collect();
    let mut accounts = Vec::new();
    for (at, (secret, port)) in secrets.iter().zip(&ports).enumerate() {
        let (wallet, settlement) = net.account(&format!("checker-{at}")).await;
        let said = Endpoint { direct: vec![*port], ..Endpoint::default() }.text();
        net.register(&settlement, NodeKind::Checker, secret.id(), said).await;
        accounts.push((wallet, settlement));
    }
    let (owner, licensee) = net.account("licensee").await;
    let licensee = EpochSettlement::new(licensee, net.epochs);
    let price = licensee.client().licence_price().await.unwrap();
    licensee.buy_licences("three", 3, price).await.unwrap();
    for (licence, secret) in (1u64..).zip(&secrets) {
        licensee.delegate(&[licence], secret.id()).await.unwrap();
    }
    let honest = Container::new(Habits::default()).await;
    let cheat = Container::new(Habits { skips: true, ..Habits::default() }).await;
    let (provider, of_honest) = net.account("honest").await;
    net.register(&of_honest, NodeKind::Container, honest.id, endpoint(&honest.peer, 1)).await;
    let (_, of_cheat) = net.account("cheat").await;
    net.register(&of_cheat, NodeKind::Container, cheat.id, endpoint(&cheat.peer, 1)).await;

    let members: Vec<Member> = secrets
        .iter()
        .zip(&accounts)
        .map(|(secret, (wallet, _))| Member { node: secret.id(), signer: wallet.address() })
        .collect();
    let committee = committee_hash(&members.iter().map(|member| member.signer).collect::<Vec<_>>());
    let genesis = net.params.epoch.at(now()).plus(2);
    let governor = EpochSettlement::new(net.bank.clone(), net.epochs);
    governor.bootstrap(genesis.0 - 1, committee, committee).await.unwrap();

    let stop = CancellationToken::new();
    let mut tasks = Vec::new();
    let mut addrs = Vec::new();
    let mut statuses = Vec::new();
    for (at, ((secret, port), (wallet, settlement))) in secrets.iter().zip(&ports).zip(&accounts).enumerate() {
        let node = CheckerNode::new(CheckerConfig {
            dir: net.dir.path().join(format!("node-{at}")),
            secret: secret.clone(),
            listen: *port,
            relay: None,
            params: net.params.clone(),
            table: table(),
            ledger: net.ledger(settlement, wallet, genesis),
            beacon: Arc::new(beacon(&net.params)),
            first_committee: members.clone(),
            evidence: EvidenceLimits::default(),
        })
        .await
        .unwrap();
        addrs.push(node.addr());
        statuses.push(node.status());
        let stopped = stop.clone();
        tasks.push(tokio::spawn(async move { node.run(stopped).await.unwrap() }));
    }

    // Slashed and jailed, and the honest one is not.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while net.client.node(cheat.id).await.unwrap().unwrap().status != NodeStatus::Jailed {
        let told = || statuses.iter().map(|status| status.borrow().problems.clone()).collect::<Vec<_>>();
        assert!(tokio::time::Instant::now() < deadline, "the cheat is never jailed: {:?}", told());
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    assert_eq!(net.client.node(honest.id).await.unwrap().unwrap().status, NodeStatus::Active);

    // What a final outcome grants can be claimed with what any Checker publishes. Another outcome may become final in
    // between: then its data is fetched.
    let peer = Peer::bind(PeerConfig::new(NodeSecret::generate(), loopback())).await.unwrap();
    let before = net.client.token_balance(provider.address()).await.unwrap();
    let claimed = loop {
        assert!(tokio::time::Instant::now() < deadline, "the honest Container's reward can never be claimed");
        let (last, _) = governor.client().last_final().await.unwrap();
        let posted = governor.client().outcomes(0).await.unwrap()[&last];
        let hash = muster_core::ids::ContentHash(posted.outcome.data_hash);
        let bytes = muster_checker::fetch(&peer, &addrs[0], hash, 1 << 24).await.unwrap();
        let state = Published::decode(&bytes).unwrap().state;
        assert!(state.leaves.iter().any(|leaf| leaf.account == owner.address()), "the licences' owner is rewarded");
        let (place, leaf) = state.leaf(LeafKind::Container, &honest.id.0).expect("the honest Container is rewarded");
        assert!(state.leaf(LeafKind::Container, &cheat.id.0).is_none(), "the cheat is not");
        let leaves: Vec<_> = state.leaves.iter().map(muster_core::reward::RewardLeaf::hash).collect();
        let proof = merkle::proof(&leaves, place).unwrap();
        let claim =
            RewardLeaf::node(RewardKind::Container, honest.id, provider.address(), TokenAmount(leaf.cumulative));
        if governor.claim(&claim, &proof).await.is_ok() {
            break claim;
        }
    };
    let paid = net.client.token_balance(provider.address()).await.unwrap().saturating_sub(before);
    assert!(paid > TokenAmount::ZERO && paid < claimed.cumulative, "{paid} of {claimed:?} at once, the rest vests");
    assert_eq!(governor.client().reward(&claimed).await.unwrap().claimed, claimed.cumulative);

    // Anybody computes the first epoch again, and comes to the same.
    let archive = Archive {
        peer,
        ledger: net.ledger(&accounts[0].1, &accounts[0].0, genesis),
        beacon: Arc::new(beacon(&net.params)),
        params: net.params.clone(),
        table: Arc::new(table()),
    };
    let verification = archive.verify(genesis, |_, _| {}).await.unwrap();
    assert!(verification.is_right(), "{:#?} on the chain, {:#?} here", verification.posted, verification.ours.outcome);
    assert!(verification.ran.iter().any(|(_, result)| *result == muster_core::reward::Reexecution::Bad));
    stop.cancel();
    for task in tasks {
        task.await.unwrap();
    }
}
