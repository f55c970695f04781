//! The same with the real contracts on the embedded chain, and a development network's own beacon.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use muster_chain::contracts::{Contracts, DeployParams, deploy_development};
use muster_chain::embedded::{ChainConfig, ServerConfig, open_development, serve};
use muster_chain::epochs::{
    CommitteeSignatures, EpochContracts, EpochParams as ContractParams, EpochSettlement, RewardKind, RewardLeaf,
    committee_hash, deploy_epochs, fund_rewards,
};
use muster_chain::keys::Wallet;
use muster_chain::settle::{
    ChainClient, LeaseOnChain, NodeKind, NodeStatus, OpenLease, Registration, SenderConfig, Settlement, TxSender,
};
use muster_checker::ledger::Snapshot;
use muster_checker::{
    Archive, Beacon, BeaconError, ChainLedger, CheckerConfig, CheckerNode, CheckerStatus, Condemned, DisputedOutcome,
    EvidenceLimits, Ledger, LedgerError,
};
use muster_core::beacon::BeaconSchedule;
use muster_core::brain::checker::{Member, Posted, SignedOutcome};
use muster_core::epoch::{EpochNo, Seed};
use muster_core::ids::{Address, LeaseId, NodeId};
use muster_core::params::Params;
use muster_core::reward::{ChainFacts, LeafKind, Outcome, Published, SlashLeaf, merkle};
use muster_core::units::{TimeMs, TokenAmount};
use muster_core::voucher::CompactSignature;
use muster_net::{NodeSecret, Peer, PeerAddr, PeerConfig};
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

/// Three Checkers with a licence each, and whoever owns the licences.
struct Trio {
    secrets: Vec<NodeSecret>,
    ports: Vec<SocketAddr>,
    accounts: Vec<(Wallet, Settlement)>,
    owner: Wallet,
    members: Vec<Member>,
    genesis: EpochNo,
    governor: EpochSettlement,
    statuses: Vec<tokio::sync::watch::Receiver<CheckerStatus>>,
    addrs: Vec<PeerAddr>,
    stop: CancellationToken,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    deadline: tokio::time::Instant,
}

impl Trio {
    async fn register(net: &Net) -> Self {
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
        let member = |(secret, (wallet, _)): (&NodeSecret, &(Wallet, Settlement))| Member {
            node: secret.id(),
            signer: wallet.address(),
        };
        Self {
            members: secrets.iter().zip(&accounts).map(member).collect(),
            secrets,
            ports,
            accounts,
            owner,
            genesis: EpochNo(0),
            governor: EpochSettlement::new(net.bank.clone(), net.epochs),
            statuses: Vec::new(),
            addrs: Vec::new(),
            stop: CancellationToken::new(),
            tasks: Vec::new(),
            deadline: tokio::time::Instant::now() + PATIENCE,
        }
    }

    /// Names the committee and starts the Checkers, each with what `wrap` makes of its ledger.
    async fn start(&mut self, net: &Net, wrap: impl Fn(Arc<dyn Ledger>, EpochSettlement) -> Arc<dyn Ledger>) {
        let committee = committee_hash(&self.members.iter().map(|member| member.signer).collect::<Vec<_>>());
        self.genesis = net.params.epoch.at(now()).plus(2);
        self.governor.bootstrap(self.genesis.0 - 1, committee, committee).await.unwrap();
        let keys = self.secrets.iter().zip(&self.ports);
        for (at, ((secret, port), (wallet, settlement))) in keys.zip(&self.accounts).enumerate() {
            let honest = net.ledger(settlement, wallet, self.genesis);
            let node = CheckerNode::new(CheckerConfig {
                dir: net.dir.path().join(format!("node-{at}")),
                secret: secret.clone(),
                listen: *port,
                relay: None,
                params: net.params.clone(),
                table: table(),
                ledger: wrap(honest, EpochSettlement::new(settlement.clone(), net.epochs)),
                beacon: Arc::new(beacon(&net.params)),
                first_committee: self.members.clone(),
                evidence: EvidenceLimits::default(),
                player: None,
                answers: None,
            })
            .await
            .unwrap();
            self.addrs.push(node.addr());
            self.statuses.push(node.status());
            let stopped = self.stop.clone();
            self.tasks.push(tokio::spawn(async move { node.run(stopped).await.unwrap() }));
        }
        self.deadline = tokio::time::Instant::now() + PATIENCE;
    }

    /// Waits a moment, unless it took too long already.
    async fn wait(&self, what: &str) {
        let told: Vec<_> = self.statuses.iter().map(|status| status.borrow().problems.clone()).collect();
        assert!(tokio::time::Instant::now() < self.deadline, "waited in vain for {what}: {told:?}");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }

    async fn stop(self) {
        self.stop.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

/// A ledger whose first post is another outcome than the committee agreed on, signed by two thirds of it: what a colluding
/// committee does.
#[derive(Debug)]
struct Forging {
    honest: Arc<dyn Ledger>,
    settlement: EpochSettlement,
    /// Wallets of those who collude.
    wallets: Vec<Wallet>,
    /// What was forged; one for all Checkers.
    forged: Arc<Mutex<Option<Outcome>>>,
}

impl Forging {
    async fn forge(&self, outcome: Outcome, committee: &[Address]) {
        let posted = self.settlement.client().outcomes(0).await.unwrap();
        let parent = posted.values().find(|p| p.outcome.last_epoch + 1 == outcome.first_epoch.0).unwrap();
        let wrong = muster_chain::epochs::Outcome {
            first_epoch: outcome.first_epoch.0,
            last_epoch: outcome.last_epoch.0,
            // To somebody who did nothing.
            reward_root: [0xee; 32],
            cumulative_total: outcome.cumulative_total.saturating_add(TokenAmount(1)),
            slash_root: [0; 32],
            data_hash: outcome.data_hash.0,
            next_committee: outcome.next_committee,
            next_dispute_committee: outcome.next_dispute_committee,
        };
        let domain = self.settlement.client().domain();
        let sign = |member: &Address| {
            let wallet = self.wallets.iter().find(|wallet| wallet.address() == *member)?;
            Some(domain.sign(wallet, parent.digest(), &wrong))
        };
        let signed: Vec<_> = committee.iter().map(|member| (*member, sign(member))).collect();
        let signatures = CommitteeSignatures::new(&signed).unwrap();
        self.settlement.post(parent, &wrong, &signatures).await.unwrap();
    }
}

impl Ledger for Forging {
    fn post(
        &self,
        outcome: Outcome,
        committee: Vec<Address>,
        signatures: Vec<(Address, CompactSignature)>,
    ) -> BoxFuture<'_, Result<(), LedgerError>> {
        async move {
            let first = self.forged.lock().unwrap().replace(outcome).is_none();
            if !first {
                return self.honest.post(outcome, committee, signatures).await;
            }
            self.forge(outcome, &committee).await;
            Ok(())
        }
        .boxed()
    }

    fn signer(&self) -> Address {
        self.honest.signer()
    }
    fn genesis(&self) -> EpochNo {
        self.honest.genesis()
    }
    fn snapshot(&self, before: TimeMs) -> BoxFuture<'_, Result<Snapshot, LedgerError>> {
        self.honest.snapshot(before)
    }
    fn facts(&self, from: TimeMs, to: TimeMs) -> BoxFuture<'_, Result<ChainFacts, LedgerError>> {
        self.honest.facts(from, to)
    }
    fn outcomes(&self) -> BoxFuture<'_, Result<Vec<Posted>, LedgerError>> {
        self.honest.outcomes()
    }
    fn history(&self) -> BoxFuture<'_, Result<Vec<Outcome>, LedgerError>> {
        self.honest.history()
    }
    fn leases(&self, container: NodeId) -> BoxFuture<'_, Result<Vec<LeaseOnChain>, LedgerError>> {
        self.honest.leases(container)
    }
    fn given_up(&self, container: NodeId, after: TimeMs) -> BoxFuture<'_, Result<Vec<LeaseId>, LedgerError>> {
        self.honest.given_up(container, after)
    }
    fn sign(&self, outcome: Outcome) -> BoxFuture<'_, Result<SignedOutcome, LedgerError>> {
        self.honest.sign(outcome)
    }
    fn is_signed(&self, signed: SignedOutcome) -> BoxFuture<'_, Result<bool, LedgerError>> {
        self.honest.is_signed(signed)
    }
    fn finalize(&self, posted: Posted) -> BoxFuture<'_, Result<(), LedgerError>> {
        self.honest.finalize(posted)
    }
    fn slash(&self, leaf: SlashLeaf, proof: Vec<merkle::Hash>) -> BoxFuture<'_, Result<(), LedgerError>> {
        self.honest.slash(leaf, proof)
    }
    fn dispute(&self, posted: Outcome) -> BoxFuture<'_, Result<(), LedgerError>> {
        self.honest.dispute(posted)
    }
    fn disputed(&self) -> BoxFuture<'_, Result<Option<DisputedOutcome>, LedgerError>> {
        self.honest.disputed()
    }
    fn resolve(
        &self,
        posted: Outcome,
        right: Outcome,
        committee: Vec<Address>,
        signatures: Vec<(Address, CompactSignature)>,
    ) -> BoxFuture<'_, Result<(), LedgerError>> {
        self.honest.resolve(posted, right, committee, signatures)
    }
    fn condemned(&self) -> BoxFuture<'_, Result<Vec<Condemned>, LedgerError>> {
        self.honest.condemned()
    }
    fn slash_signer(
        &self,
        sequence: u64,
        committee: Vec<Address>,
        position: u8,
        checker: NodeId,
    ) -> BoxFuture<'_, Result<(), LedgerError>> {
        self.honest.slash_signer(sequence, committee, position, checker)
    }
}

/// Two thirds of a committee sign an outcome that its reports do not come to: it is disputed, the right one takes its place
/// by the dispute committee's word, the next epochs go on from that, and the signers are slashed.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_forged_outcome_is_replaced_and_its_signers_are_slashed() {
    let net = Net::new().await;
    let mut trio = Trio::register(&net).await;
    let honest = Container::new(Habits::default()).await;
    let (_, of_honest) = net.account("honest").await;
    net.register(&of_honest, NodeKind::Container, honest.id, endpoint(&honest.peer, 1)).await;
    let forged = Arc::new(Mutex::new(None));
    let colluding: Vec<Wallet> = trio.accounts.iter().take(2).map(|(wallet, _)| wallet.clone()).collect();
    let wrap = |honest, settlement| -> Arc<dyn Ledger> {
        Arc::new(Forging { honest, settlement, wallets: colluding.clone(), forged: Arc::clone(&forged) })
    };
    trio.start(&net, wrap).await;

    let staked = async |at: usize| net.client.node(trio.secrets[at].id()).await.unwrap().unwrap().stake;
    let full = net.params.container_stake;
    while staked(0).await == full || staked(1).await == full {
        trio.wait("the signers to be slashed").await;
    }
    assert_eq!(staked(2).await, full, "who did not sign keeps its stake");
    let right = forged.lock().unwrap().unwrap();
    let standing = trio.governor.client().outcomes(0).await.unwrap();
    let first = standing.values().find(|posted| posted.outcome.last_epoch == right.last_epoch.0).unwrap();
    assert_eq!(first.outcome.reward_root, right.reward_root, "the right one took its place");
    assert_eq!(first.outcome.cumulative_total, right.cumulative_total);
    // The network goes on, from the right one.
    while trio.governor.client().last_final().await.unwrap().1 <= right.last_epoch.0 {
        trio.wait("a further epoch to become final").await;
    }
    trio.stop().await;
}

/// A Container takes a lease and is gone; its consumer gives the lease up. Checkers saw its silence, a committee looks at the
/// chain, and a third of its stake is taken. One whose consumer closes a lease while it answers loses nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_breaks_work_off_loses_a_third() {
    let net = Net::new().await;
    let mut trio = Trio::register(&net).await;
    let (gone, slandered) = (Container::new(Habits::default()).await, Container::new(Habits::default()).await);
    let (_, of_gone) = net.account("gone").await;
    net.register(&of_gone, NodeKind::Container, gone.id, endpoint(&gone.peer, 1)).await;
    let (_, of_slandered) = net.account("slandered").await;
    net.register(&of_slandered, NodeKind::Container, slandered.id, endpoint(&slandered.peer, 1)).await;
    let (consumer, renting) = net.account("consumer").await;
    let mut leases = Vec::new();
    for (at, container) in [(1, gone.id), (2, slandered.id)] {
        let open = OpenLease {
            salt: [at; 32],
            container,
            indexer: NodeId([9; 32]),
            session_key: consumer.address(),
            deposit: TokenAmount::ONE,
            rate_per_second: TokenAmount(1_000),
            max_seconds: 3_600,
        };
        leases.push(renting.open_lease(open).await.unwrap().0);
    }
    trio.start(&net, |honest, _| honest).await;
    gone.peer.close().await;
    while now() < net.params.epoch.begin(trio.genesis) {
        trio.wait("the first epoch").await;
    }
    for lease in leases {
        renting.close_by_consumer(lease).await.unwrap();
    }
    let staked = async |id: NodeId| net.client.node(id).await.unwrap().unwrap();
    while staked(gone.id).await.status != NodeStatus::Jailed {
        trio.wait("the one that is gone to be jailed").await;
    }
    let full = net.params.container_stake;
    assert_eq!(staked(gone.id).await.stake, TokenAmount(full.0 - full.0 / 3));
    assert_eq!(staked(slandered.id).await.stake, full);
    trio.stop().await;
}

/// Three Checkers, two Containers, one of which lies: an epoch is drawn, tested, settled and paid, by the contracts; the
/// liar is slashed and jailed; whoever computes the epoch again comes to the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_contracts_pay_the_honest_and_jail_the_cheat() {
    let net = Net::new().await;
    let mut trio = Trio::register(&net).await;
    let honest = Container::new(Habits::default()).await;
    let cheat = Container::new(Habits { skips: true, ..Habits::default() }).await;
    let (provider, of_honest) = net.account("honest").await;
    net.register(&of_honest, NodeKind::Container, honest.id, endpoint(&honest.peer, 1)).await;
    let (_, of_cheat) = net.account("cheat").await;
    net.register(&of_cheat, NodeKind::Container, cheat.id, endpoint(&cheat.peer, 1)).await;
    trio.start(&net, |honest, _| honest).await;

    // Slashed and jailed, and the honest one is not.
    while net.client.node(cheat.id).await.unwrap().unwrap().status != NodeStatus::Jailed {
        trio.wait("the cheat to be jailed").await;
    }
    let governor = &trio.governor;
    assert_eq!(net.client.node(honest.id).await.unwrap().unwrap().status, NodeStatus::Active);

    // What a final outcome grants can be claimed with what any Checker publishes. Another outcome may become final in
    // between: then its data is fetched.
    let peer = Peer::bind(PeerConfig::new(NodeSecret::generate(), loopback())).await.unwrap();
    let before = net.client.token_balance(provider.address()).await.unwrap();
    let claimed = loop {
        trio.wait("the honest Container's reward").await;
        let (last, _) = governor.client().last_final().await.unwrap();
        let posted = governor.client().outcomes(0).await.unwrap()[&last];
        let hash = muster_core::ids::ContentHash(posted.outcome.data_hash);
        let bytes = muster_checker::fetch(&peer, &trio.addrs[0], hash, 1 << 24).await.unwrap();
        let state = Published::decode(&bytes).unwrap().state;
        assert!(
            state.leaves.iter().any(|leaf| leaf.account == trio.owner.address()),
            "the licences' owner is rewarded"
        );
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
        ledger: net.ledger(&trio.accounts[0].1, &trio.accounts[0].0, trio.genesis),
        beacon: Arc::new(beacon(&net.params)),
        params: net.params.clone(),
        table: Arc::new(table()),
    };
    let verification = archive.verify(trio.genesis, |_, _| {}).await.unwrap();
    assert!(verification.is_right(), "{:#?} on the chain, {:#?} here", verification.posted, verification.ours.outcome);
    assert!(verification.ran.iter().any(|(_, result)| *result == muster_core::reward::Reexecution::Bad));
    trio.stop().await;
}
