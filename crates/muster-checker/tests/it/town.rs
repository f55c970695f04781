//! A chain in memory with the contracts' rules: who posts what, when it is final, what it takes.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use futures::FutureExt;
use futures::future::BoxFuture;
use muster_chain::keys::Wallet;
use muster_chain::message::message_signer;
use muster_chain::settle::{LeaseOnChain, NodeKind, NodeOnChain, NodeStatus};
use muster_checker::ledger::{LicenceOnChain, Snapshot};
use muster_checker::{Beacon, BeaconError, Condemned, DisputedOutcome, Ledger, LedgerError};
use muster_core::brain::checker::{Posted, SignedOutcome};
use muster_core::epoch::{EpochNo, Seed};
use muster_core::ids::{Address, ContentHash, LeaseId, NodeId};
use muster_core::params::Params;
use muster_core::reward::merkle::{self, Hash};
use muster_core::reward::{ChainFacts, Outcome, SlashLeaf, committee_hash};
use muster_core::units::{TimeMs, TokenAmount};
use muster_core::voucher::CompactSignature;

pub(crate) fn now() -> TimeMs {
    TimeMs(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap())
}

#[derive(Debug, Default)]
struct Books {
    nodes: Vec<NodeOnChain>,
    /// Every state of the registry, with the time from which on it held.
    history: Vec<(TimeMs, Vec<NodeOnChain>)>,
    licences: Vec<LicenceOnChain>,
    posted: Vec<(TimeMs, Posted)>,
    slashed: BTreeSet<ContentHash>,
}

#[derive(Debug)]
pub(crate) struct Town {
    pub(crate) params: Params,
    pub(crate) genesis: EpochNo,
    pub(crate) first_committee: Mutex<Vec<Address>>,
    pub(crate) up: AtomicBool,
    books: Mutex<Books>,
}

impl Town {
    pub(crate) fn new(params: Params, genesis: EpochNo) -> Arc<Self> {
        Arc::new(Self {
            params,
            genesis,
            first_committee: Mutex::default(),
            up: AtomicBool::new(true),
            books: Mutex::default(),
        })
    }

    pub(crate) fn register(&self, kind: NodeKind, node: NodeId, owner: Address, endpoint: String) {
        let mut books = self.books.lock().unwrap();
        let count = u64::try_from(books.nodes.len()).unwrap();
        books.nodes.push(NodeOnChain {
            node,
            kind,
            status: NodeStatus::Active,
            owner,
            stake: TokenAmount(2 * self.params.container_stake.0 - 1),
            unbonding: TokenAmount::ZERO,
            unbond_at_s: 0,
            rewards: TokenAmount::ZERO,
            registered_at_s: 1_000 + count,
            fingerprint: [0; 32],
            endpoint,
        });
        let nodes = books.nodes.clone();
        books.history.push((TimeMs(1), nodes));
    }

    pub(crate) fn announce(&self, node: NodeId, endpoint: String) {
        let mut books = self.books.lock().unwrap();
        books.nodes.iter_mut().find(|n| n.node == node).unwrap().endpoint = endpoint;
        let nodes = books.nodes.clone();
        books.history.push((now(), nodes));
    }

    pub(crate) fn licence(&self, owner: Address, delegate: NodeId) {
        let mut books = self.books.lock().unwrap();
        let id = u32::try_from(books.licences.len()).unwrap() + 1;
        books.licences.push(LicenceOnChain { id, owner, delegate: Some(delegate) });
    }

    pub(crate) fn node(&self, node: NodeId) -> NodeOnChain {
        self.books.lock().unwrap().nodes.iter().find(|n| n.node == node).cloned().unwrap()
    }

    pub(crate) fn has(&self, node: NodeId) -> bool {
        self.books.lock().unwrap().nodes.iter().any(|n| n.node == node)
    }

    pub(crate) fn posted(&self) -> Vec<Posted> {
        self.books.lock().unwrap().posted.iter().map(|(_, posted)| *posted).collect()
    }

    fn answer<T>(&self, what: impl FnOnce(&mut Books) -> Result<T, LedgerError>) -> Result<T, LedgerError> {
        if !self.up.load(Ordering::SeqCst) {
            return Err(LedgerError::Unknown("the town is closed".to_owned()));
        }
        what(&mut self.books.lock().unwrap())
    }

    fn parent(books: &Books, outcome: &Outcome) -> Vec<u8> {
        let before = books.posted.iter().rev().find(|(_, p)| p.outcome.last_epoch.next() == outcome.first_epoch);
        format!("{:?} after {:?}", outcome, before.map(|(_, p)| p.outcome)).into_bytes()
    }
}

fn refused<T>(why: &str) -> Result<T, LedgerError> {
    Err(LedgerError::Refused(why.to_owned()))
}

/// The town as one Checker sees it.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) town: Arc<Town>,
    pub(crate) wallet: Wallet,
}

impl Desk {
    fn try_post(
        &self,
        books: &mut Books,
        outcome: Outcome,
        committee: &[Address],
        signatures: &[(Address, CompactSignature)],
    ) -> Result<(), LedgerError> {
        let last = books.posted.last().map(|(_, posted)| posted.outcome);
        if last.is_some_and(|last| last == outcome) {
            return Ok(());
        }
        let (expected, hash) = match last {
            None => (self.town.genesis, committee_hash(&self.town.first_committee.lock().unwrap())),
            Some(last) => (last.last_epoch.next(), last.next_committee),
        };
        if outcome.first_epoch != expected || committee_hash(committee) != hash {
            return refused("another epoch is next, or another committee");
        }
        let digest = Town::parent(books, &outcome);
        let good = signatures
            .iter()
            .filter(|(signer, s)| committee.contains(signer) && message_signer(&digest, s) == Some(*signer))
            .count();
        if good * 3 < committee.len() * 2 {
            return refused("fewer than two thirds signed");
        }
        let final_at = now().plus(self.town.params.epoch.dispute_window_ms);
        books.posted.push((now(), Posted { outcome, final_at, finalized: false }));
        Ok(())
    }

    fn try_slash(&self, books: &mut Books, leaf: &SlashLeaf, proof: &[Hash]) -> Result<(), LedgerError> {
        let posted = books.posted.iter().find(|(_, p)| p.outcome.last_epoch == leaf.last_epoch && p.finalized);
        let Some((_, posted)) = posted else { return refused("no final outcome of that epoch") };
        if !merkle::verify(leaf.hash(), proof, posted.outcome.slash_root) {
            return refused("the leaf is not under the root");
        }
        if !books.slashed.insert(leaf.evidence) {
            return Ok(());
        }
        let least = self.town.params.container_stake;
        let node = books.nodes.iter_mut().find(|node| node.node == leaf.node).unwrap();
        node.stake = node.stake.saturating_sub(leaf.amount);
        if node.stake < least {
            node.status = NodeStatus::Jailed;
        }
        let nodes = books.nodes.clone();
        books.history.push((now(), nodes));
        Ok(())
    }
}

impl Ledger for Desk {
    fn signer(&self) -> Address {
        self.wallet.address()
    }

    fn genesis(&self) -> EpochNo {
        self.town.genesis
    }

    fn snapshot(&self, before: TimeMs) -> BoxFuture<'_, Result<Snapshot, LedgerError>> {
        let made = self.town.answer(|books| {
            let nodes = books.history.iter().rev().find(|(at, _)| *at < before).map(|(_, nodes)| nodes.clone());
            let outcome = books.posted.iter().rev().find(|(at, _)| *at < before).map(|(_, p)| p.outcome);
            Ok(Snapshot {
                block: 1,
                nodes: nodes.unwrap_or_default(),
                licences: books.licences.clone(),
                serving: BTreeSet::new(),
                outcome,
            })
        });
        async move { made }.boxed()
    }

    fn facts(&self, _: TimeMs, _: TimeMs) -> BoxFuture<'_, Result<ChainFacts, LedgerError>> {
        let made = self.town.answer(|_| Ok(ChainFacts::default()));
        async move { made }.boxed()
    }

    fn outcomes(&self) -> BoxFuture<'_, Result<Vec<Posted>, LedgerError>> {
        let made = self.town.answer(|books| {
            let last_final = books.posted.iter().rposition(|(_, p)| p.finalized).unwrap_or(0);
            Ok(books.posted.iter().skip(last_final).map(|(_, p)| *p).collect())
        });
        async move { made }.boxed()
    }

    fn history(&self) -> BoxFuture<'_, Result<Vec<Outcome>, LedgerError>> {
        let made = self.town.answer(|books| Ok(books.posted.iter().map(|(_, p)| p.outcome).collect()));
        async move { made }.boxed()
    }

    fn leases(&self, _: NodeId) -> BoxFuture<'_, Result<Vec<LeaseOnChain>, LedgerError>> {
        async move { Ok(Vec::new()) }.boxed()
    }

    fn sign(&self, outcome: Outcome) -> BoxFuture<'_, Result<SignedOutcome, LedgerError>> {
        let made = self.town.answer(|books| {
            let signature = self.wallet.sign_message(&Town::parent(books, &outcome));
            Ok(SignedOutcome { outcome, signer: self.wallet.address(), signature })
        });
        async move { made }.boxed()
    }

    fn is_signed(&self, signed: SignedOutcome) -> BoxFuture<'_, Result<bool, LedgerError>> {
        let made = self.town.answer(|books| {
            let digest = Town::parent(books, &signed.outcome);
            Ok(message_signer(&digest, &signed.signature) == Some(signed.signer))
        });
        async move { made }.boxed()
    }

    fn post(
        &self,
        outcome: Outcome,
        committee: Vec<Address>,
        signatures: Vec<(Address, CompactSignature)>,
    ) -> BoxFuture<'_, Result<(), LedgerError>> {
        let made = self.town.answer(|books| self.try_post(books, outcome, &committee, &signatures));
        async move { made }.boxed()
    }

    fn finalize(&self, posted: Posted) -> BoxFuture<'_, Result<(), LedgerError>> {
        let made = self.town.answer(|books| {
            let found = books.posted.iter_mut().find(|(_, p)| p.outcome == posted.outcome);
            match found {
                Some((_, p)) if now() >= p.final_at => {
                    p.finalized = true;
                    Ok(())
                }
                Some(_) => refused("its window is open"),
                None => refused("it was never posted"),
            }
        });
        async move { made }.boxed()
    }

    fn slash(&self, leaf: SlashLeaf, proof: Vec<Hash>) -> BoxFuture<'_, Result<(), LedgerError>> {
        let made = self.town.answer(|books| self.try_slash(books, &leaf, &proof));
        async move { made }.boxed()
    }

    fn given_up(&self, _: NodeId, _: TimeMs) -> BoxFuture<'_, Result<Vec<LeaseId>, LedgerError>> {
        async { Ok(Vec::new()) }.boxed()
    }

    fn disputed(&self) -> BoxFuture<'_, Result<Option<DisputedOutcome>, LedgerError>> {
        async { Ok(None) }.boxed()
    }

    fn resolve(
        &self,
        _: Outcome,
        _: Outcome,
        _: Vec<Address>,
        _: Vec<(Address, CompactSignature)>,
    ) -> BoxFuture<'_, Result<(), LedgerError>> {
        async { refused("nothing is disputed in town") }.boxed()
    }

    fn condemned(&self) -> BoxFuture<'_, Result<Vec<Condemned>, LedgerError>> {
        async { Ok(Vec::new()) }.boxed()
    }

    fn slash_signer(&self, _: u64, _: Vec<Address>, _: u8, _: NodeId) -> BoxFuture<'_, Result<(), LedgerError>> {
        async { refused("nobody is condemned in town") }.boxed()
    }

    fn dispute(&self, _: Outcome) -> BoxFuture<'_, Result<(), LedgerError>> {
        panic!("nobody disputes anything here");
    }
}

/// A beacon that everybody could foresee, which does no harm in a test.
#[derive(Debug)]
pub(crate) struct Bell;

impl Beacon for Bell {
    fn seed(&self, epoch: EpochNo) -> BoxFuture<'_, Result<Seed, BeaconError>> {
        async move { Ok(Seed(*blake3::hash(&epoch.0.to_be_bytes()).as_bytes())) }.boxed()
    }
}
