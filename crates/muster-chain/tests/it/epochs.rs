//! Licences, outcomes, rewards, slashes and beacon rounds, through the contracts on the embedded chain.

use std::time::Duration;

use muster_chain::epochs::{
    CommitteeSignatures, EpochClient, EpochParams, EpochSettlement, MerkleTree, Outcome, OutcomeStatus, PostedOutcome,
    RewardKind, RewardLeaf, SlashLeaf, committee_hash, deploy_epochs, fund_rewards,
};
use muster_chain::keys::Wallet;
use muster_chain::settle::{NodeKind, NodeStatus, Registration, SettlementError};
use muster_core::beacon::BeaconSchedule;
use muster_core::ids::{Address, NodeId};
use muster_core::units::TokenAmount;
use muster_wire::beacon::{Beacon, BeaconSecret};

use crate::world::{Network, Running, tokens};

const CONTAINER: NodeId = NodeId([1; 32]);
const CHECKER: NodeId = NodeId([3; 32]);

/// A network with epochs of a second, and committees whose keys the test holds.
struct Epochs {
    network: Network,
    governor: EpochSettlement,
    members: Vec<Wallet>,
    judges: Vec<Wallet>,
    owner: Running,
    tip: PostedOutcome,
}

fn addresses(wallets: &[Wallet]) -> Vec<Address> {
    wallets.iter().map(Wallet::address).collect()
}

fn params() -> EpochParams {
    EpochParams {
        epoch_s: 1,
        dispute_window_s: 1,
        resolve_window_s: 30,
        reset_after_s: 30,
        vesting_s: 1,
        halving_epochs: 10_000_000_000,
        ..EpochParams::development(0)
    }
}

impl Epochs {
    async fn start(beacon: &Beacon) -> Self {
        let network = Network::start().await;
        let bank = &network.faucet.settlement;
        let contracts = network.client.contracts();
        let found = deploy_epochs(bank.sender(), &contracts, &params(), beacon).await.unwrap();
        let again = deploy_epochs(bank.sender(), &contracts, &params(), beacon).await.unwrap();
        assert_eq!(found, again, "deployed once");
        let pots = [tokens(1_000_000), tokens(1_000), tokens(1_000)];
        fund_rewards(bank, &found, "test", pots).await.unwrap();
        let governor = EpochSettlement::new(bank.clone(), found);
        governor.client().check_deployed().await.unwrap();
        let members: Vec<Wallet> = (0..3).map(|_| Wallet::random()).collect();
        let judges: Vec<Wallet> = (0..7).map(|_| Wallet::random()).collect();
        let owner = network.account("owner", tokens(10_000)).await;
        for (kind, node) in [(NodeKind::Container, CONTAINER), (NodeKind::Checker, CHECKER)] {
            let registration =
                Registration { kind, node, endpoint: String::new(), fingerprint: [7; 32], stake: tokens(2_000) };
            owner.settlement.register(&registration).await.unwrap();
        }
        // Epochs before this one are nobody's; a dozen are over already.
        let block = network.client.block_number().await.unwrap();
        let last_epoch = network.client.block_time_s(block).await.unwrap() - 12;
        let (committee, disputers) = (committee_hash(&addresses(&members)), committee_hash(&addresses(&judges)));
        governor.bootstrap(last_epoch, committee, disputers).await.unwrap();
        let tip = governor.client().tip(0).await.unwrap().unwrap();
        assert_eq!((tip.sequence, tip.outcome.last_epoch, tip.parent), (0, last_epoch, [0; 32]));
        Self { network, governor, members, judges, owner, tip }
    }

    fn reads(&self) -> &EpochClient {
        self.governor.client()
    }

    fn following(&self, reward_root: [u8; 32], slash_root: [u8; 32]) -> Outcome {
        let last = &self.tip.outcome;
        Outcome {
            first_epoch: last.last_epoch + 1,
            last_epoch: last.last_epoch + 1,
            reward_root,
            cumulative_total: TokenAmount(last.cumulative_total.0 + tokens(1_000).0),
            slash_root,
            data_hash: [9; 32],
            next_committee: last.next_committee,
            next_dispute_committee: last.next_dispute_committee,
        }
    }

    /// Signatures of the first `count` of a committee over an outcome after `parent`.
    fn signed(&self, by: &[Wallet], count: usize, parent: &PostedOutcome, outcome: &Outcome) -> CommitteeSignatures {
        let domain = self.reads().domain();
        let list: Vec<_> = by
            .iter()
            .enumerate()
            .map(|(i, w)| (w.address(), (i < count).then(|| domain.sign(w, parent.digest(), outcome))))
            .collect();
        CommitteeSignatures::new(&list).unwrap()
    }

    async fn post(&mut self, outcome: Outcome) -> PostedOutcome {
        let signed = self.signed(&self.members, 2, &self.tip, &outcome);
        self.governor.post(&self.tip, &outcome, &signed).await.unwrap();
        let posted = self.reads().tip(0).await.unwrap().unwrap();
        assert_eq!((posted.outcome, posted.parent), (outcome, self.tip.digest()));
        self.tip = posted;
        posted
    }

    /// Finalizes as soon as the window allows.
    async fn finalize(&self, posted: &PostedOutcome) {
        for _ in 0..100 {
            match self.governor.finalize(posted).await {
                Ok(_) => return,
                Err(SettlementError::Send(_) | SettlementError::Failed { .. }) => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(other) => panic!("{other}"),
            }
        }
        panic!("the outcome never became final");
    }
}

fn development() -> (BeaconSecret, Beacon) {
    let secret = BeaconSecret::generate(&[3; 32]);
    let beacon = Beacon::new(&secret.public_key(), BeaconSchedule { genesis_s: 100, period_s: 3 }).unwrap();
    (secret, beacon)
}

#[tokio::test(flavor = "multi_thread")]
async fn licences_are_bought_delegated_and_rebuilt_from_logs() {
    let epochs = Epochs::start(&development().1).await;
    let buyer = EpochSettlement::new(epochs.owner.settlement.clone(), epochs.reads().contracts());
    buyer.buy_licences("first", 3, tokens(100)).await.unwrap();
    buyer.buy_licences("first", 3, tokens(100)).await.unwrap();
    assert_eq!(epochs.reads().licences_sold().await.unwrap(), 3, "one intent, one purchase");
    let refused = buyer.delegate(&[1], CONTAINER).await.unwrap_err().to_string();
    assert!(refused.contains("Checker") && refused.contains("not registered"), "{refused}");
    buyer.delegate(&[1], CHECKER).await.unwrap();
    let before = epochs.network.client.block_number().await.unwrap();
    buyer.delegate(&[2, 3], CHECKER).await.unwrap();
    buyer.undelegate(&[1]).await.unwrap();
    assert_eq!(epochs.reads().delegated_count(CHECKER).await.unwrap(), 2);

    let head = epochs.network.client.block_number().await.unwrap();
    let now = epochs.reads().census_after(head, 0).await.unwrap();
    let listed: Vec<_> = now.licences.values().copied().collect();
    assert_eq!(listed, epochs.reads().licences().await.unwrap(), "logs and state agree");
    for node in epochs.network.client.nodes(NodeKind::Container).await.unwrap() {
        let found = &now.nodes[&node.node];
        assert_eq!((found.owner, found.stake, found.status), (node.owner, node.stake, node.status));
    }
    let then = epochs.reads().census_after(before, 0).await.unwrap();
    let delegates: Vec<_> = then.licences.values().map(|l| l.delegate).collect();
    assert_eq!(delegates, [Some(CHECKER), None, None], "as it was");
    let time = epochs.network.client.block_time_s(head).await.unwrap();
    assert_eq!(epochs.reads().census_at(time, 0).await.unwrap().unwrap().licences, now.licences);
    assert_eq!(epochs.reads().census_at(0, 0).await.unwrap(), None, "before the chain began");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_pays_rewards_and_slashes() {
    let mut epochs = Epochs::start(&development().1).await;
    let owner = epochs.owner.settlement.address();
    let rewards = [
        RewardLeaf::node(RewardKind::Container, CONTAINER, owner, tokens(600)),
        RewardLeaf::node(RewardKind::Indexer, NodeId([8; 32]), owner, tokens(100)),
        RewardLeaf::owner(owner, tokens(300)),
    ];
    let tree = MerkleTree::new(rewards.iter().map(RewardLeaf::hash).collect());
    let last_epoch = epochs.tip.outcome.last_epoch + 1;
    let slash = SlashLeaf { last_epoch, node: CONTAINER, amount: tokens(1_500), evidence: [5; 32] };
    let slashes = MerkleTree::new(vec![slash.hash()]);
    let outcome = epochs.following(tree.root(), slashes.root());
    let posted = epochs.post(outcome).await;
    let pending = epochs.governor.claim(&rewards[0], &tree.proof(0).unwrap()).await.unwrap_err().to_string();
    assert!(pending.contains("not under the root"), "{pending}");
    epochs.finalize(&posted).await;
    assert_eq!(epochs.reads().reward_root().await.unwrap(), tree.root());
    assert_eq!(epochs.reads().last_final().await.unwrap(), (1, last_epoch));
    assert_eq!(epochs.reads().status_at(1).await.unwrap(), OutcomeStatus::Final);

    let balance = async || epochs.network.client.token_balance(owner).await.unwrap().0;
    let before = balance().await;
    for (index, leaf) in rewards.iter().enumerate().skip(1) {
        epochs.governor.claim(leaf, &tree.proof(index).unwrap()).await.unwrap();
        assert_eq!(epochs.reads().reward(leaf).await.unwrap().claimed, leaf.cumulative);
    }
    assert_eq!(balance().await - before, tokens(120).0, "30 % at once");
    for _ in 0..100 {
        if epochs.reads().reward(&rewards[2]).await.unwrap().releasable == tokens(210) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        // The embedded chain's clock goes on with its blocks.
        epochs.network.faucet.settlement.send_ether(&format!("tick {}", rand_key()), owner, 1).await.unwrap();
    }
    epochs.governor.release(&rewards[2]).await.unwrap();
    assert_eq!(balance().await - before, tokens(330).0, "and what has vested");

    // The Container's reward of 600 goes first, then 900 of its stake of 2,000.
    let reward = (&rewards[0], &tree.proof(0).unwrap()[..]);
    let proof = slashes.proof(0).unwrap();
    assert!(epochs.governor.slash(&slash, &proof, Some(reward)).await.unwrap().is_some());
    assert!(epochs.governor.slash(&slash, &proof, Some(reward)).await.unwrap().is_none(), "executed already");
    assert!(epochs.governor.slash(&slash, &proof, None).await.unwrap().is_none(), "executed already");
    let node = epochs.network.client.node(CONTAINER).await.unwrap().unwrap();
    assert_eq!(node.stake, tokens(1_100));
    assert_eq!(node.status, NodeStatus::Active, "above the least stake of 1,000");
    assert!(epochs.governor.claim(&rewards[0], reward.1).await.is_err(), "nothing is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_outcome_is_disputed_and_replaced() {
    let mut epochs = Epochs::start(&development().1).await;
    let parent = epochs.tip;
    let outcome = epochs.following([1; 32], [0; 32]);
    let few = epochs.signed(&epochs.members, 1, &parent, &outcome);
    let refused = epochs.governor.post(&parent, &outcome, &few).await.unwrap_err().to_string();
    assert!(refused.contains("1 of 3 members signed"), "{refused}");
    let wrong = epochs.post(outcome).await;
    let later = epochs.post(epochs.following([2; 32], [0; 32])).await;
    let watcher = EpochSettlement::new(epochs.owner.settlement.clone(), epochs.reads().contracts());
    watcher.dispute(&wrong).await.unwrap();
    assert_eq!(epochs.reads().status_at(1).await.unwrap(), OutcomeStatus::Disputed);

    let right = Outcome { reward_root: [4; 32], ..wrong.outcome };
    let signed = epochs.signed(&epochs.judges, 5, &parent, &right);
    watcher.resolve(&parent, &wrong, &right, &signed).await.unwrap();
    assert_eq!(epochs.reads().status_at(1).await.unwrap(), OutcomeStatus::Replaced);
    assert_eq!(epochs.reads().status_at(later.sequence).await.unwrap(), OutcomeStatus::None);
    assert_eq!(epochs.reads().credit(watcher.address()).await.unwrap(), tokens(200), "bond and bounty");
    watcher.withdraw_credit(watcher.address()).await.unwrap();
    let replaced = epochs.reads().tip(0).await.unwrap().unwrap();
    assert_eq!((replaced.sequence, replaced.outcome, replaced.parent), (1, right, parent.digest()));
    epochs.finalize(&replaced).await;
    assert_eq!(epochs.reads().reward_root().await.unwrap(), [4; 32]);

    // A signer of the wrong one who owns a Checker loses stake.
    let signer = addresses(&epochs.members);
    let stranger = epochs.governor.slash_signer(1, &signer, 0, CHECKER).await.unwrap_err().to_string();
    assert!(stranger.contains("did not sign, or owns no such Checker"), "{stranger}");
    epochs.tip = replaced;
    epochs.post(epochs.following([6; 32], [0; 32])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rounds_of_the_beacon_are_verified_on_the_chain() {
    let quicknet = Beacon::quicknet();
    let epochs = Epochs::start(&quicknet).await;
    let file = include_str!("../../../../contracts/test/data/drand-quicknet.json");
    let file: serde_json::Value = serde_json::from_str(file).unwrap();
    for round in file["rounds"].as_array().unwrap() {
        let number = round["round"].as_u64().unwrap();
        let mut signature = [0; 48];
        hex::decode_to_slice(round["signature"].as_str().unwrap(), &mut signature).unwrap();
        let randomness = quicknet.verify(number, &signature).unwrap();
        assert_eq!(hex::encode(randomness), round["randomness"].as_str().unwrap());
        assert_eq!(epochs.reads().verify_round(number, &signature).await.unwrap(), randomness);
        assert!(epochs.reads().verify_round(number + 1, &signature).await.is_err());
        assert!(!epochs.reads().round_known(number, randomness).await.unwrap());
        epochs.governor.submit_round(number, &signature).await.unwrap();
        assert!(epochs.reads().round_known(number, randomness).await.unwrap());
        assert!(epochs.governor.submit_round(number + 1, &signature).await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_development_key_serves_as_well() {
    let (secret, beacon) = development();
    let epochs = Epochs::start(&beacon).await;
    let signature = secret.sign(17);
    let randomness = beacon.verify(17, &signature).unwrap();
    assert_eq!(epochs.reads().verify_round(17, &signature).await.unwrap(), randomness);
    assert!(epochs.reads().verify_round(18, &signature).await.is_err());
}

fn rand_key() -> u64 {
    rand::random()
}
