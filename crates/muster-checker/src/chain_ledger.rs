//! The chain of a real network, through its settlement client.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use futures::FutureExt;
use futures::future::BoxFuture;
use muster_chain::beacon::BeaconClient;
use muster_chain::epochs as chain;
use muster_chain::epochs::history::Census;
use muster_chain::epochs::{
    CommitteeSignatures, EpochClient, EpochSettlement, LeaseLog, MatchedLeaseAt, OutcomeLog, PostedOutcome,
};
use muster_chain::keys::Wallet;
use muster_chain::settle::{ClientError, LeaseOnChain, LeaseStatus, NodeOnChain, SendError, SettlementError};
use muster_core::brain::checker::{Posted, SignedOutcome};
use muster_core::epoch::{EpochNo, EpochParams, Phase, Seed};
use muster_core::ids::{Address, ContentHash, LeaseId, NodeId};
use muster_core::reward::merkle::Hash;
use muster_core::reward::{ChainFacts, FeesPaid, MatchedLease, Outcome, SlashLeaf};
use muster_core::units::{TimeMs, TokenAmount};
use muster_core::voucher::CompactSignature;

use crate::beacon::{Beacon, BeaconError};
use crate::ledger::{Condemned, DisputedOutcome, Ledger, LedgerError, LicenceOnChain, Snapshot};

/// A [`Ledger`] over JSON-RPC: whoever made the settlement runs its sender.
#[derive(Debug)]
pub struct ChainLedger {
    reads: EpochClient,
    /// Absent for those who only read.
    account: Option<(EpochSettlement, Wallet)>,
    epochs: EpochParams,
    genesis: EpochNo,
    from_block: u64,
    /// When blocks were made; a block never changes its time.
    times: Mutex<BTreeMap<u64, u64>>,
    /// What was read of the chain's logs, so that each is read once.
    registers: tokio::sync::Mutex<Registers>,
    leases_now: tokio::sync::Mutex<Followed<LeaseLog>>,
    outcomes: tokio::sync::Mutex<Followed<OutcomeLog>>,
}

/// The newest blocks, whose logs are read anew each time: a chain may take them back.
const UNSURE_BLOCKS: u64 = 32;

/// What logs come to, and the first block that was not read yet.
#[derive(Debug)]
struct Followed<S> {
    state: S,
    next: u64,
}

impl<S: Default> Followed<S> {
    fn new(from_block: u64) -> Self {
        Self { state: S::default(), next: from_block }
    }
}

/// Registry, licences and leases as of the boundary of an epoch.
#[derive(Debug)]
struct Registers {
    census: Followed<Census>,
    leases: Followed<LeaseLog>,
    outcomes: Followed<OutcomeLog>,
}

impl Registers {
    fn new(from_block: u64) -> Self {
        Self {
            census: Followed::new(from_block),
            leases: Followed::new(from_block),
            outcomes: Followed::new(from_block),
        }
    }

    /// Reads on up to a block.
    async fn read_to(&mut self, reads: &EpochClient, block: u64) -> Result<(), LedgerError> {
        if self.census.next <= block {
            reads.extend_census(&mut self.census.state, self.census.next, block).await.map_err(client_error)?;
            self.census.next = block.saturating_add(1);
        }
        if self.leases.next <= block {
            reads.extend_leases(&mut self.leases.state, self.leases.next, block).await.map_err(client_error)?;
            self.leases.next = block.saturating_add(1);
        }
        if self.outcomes.next <= block {
            reads.extend_outcomes(&mut self.outcomes.state, self.outcomes.next, block).await.map_err(client_error)?;
            self.outcomes.next = block.saturating_add(1);
        }
        Ok(())
    }

    /// Whether it has read on beyond a block.
    fn is_past(&self, block: u64) -> bool {
        self.census.next.max(self.leases.next).max(self.outcomes.next) > block.saturating_add(1)
    }
}

impl ChainLedger {
    /// A Checker's ledger. `wallet` owns the Checker in the registry and sends through `settlement`; `genesis` is the first
    /// epoch that is settled, and `from_block` a block at or before the contracts' deployment.
    #[must_use]
    pub fn new(
        settlement: EpochSettlement,
        wallet: Wallet,
        epochs: EpochParams,
        genesis: EpochNo,
        from_block: u64,
    ) -> Self {
        let reads = settlement.client().clone();
        Self { account: Some((settlement, wallet)), ..Self::reading(reads, epochs, genesis, from_block) }
    }

    /// The ledger of somebody who only reads: whatever would change the chain is refused.
    #[must_use]
    pub fn reading(reads: EpochClient, epochs: EpochParams, genesis: EpochNo, from_block: u64) -> Self {
        Self {
            reads,
            account: None,
            epochs,
            genesis,
            from_block,
            times: Mutex::default(),
            registers: tokio::sync::Mutex::new(Registers::new(from_block)),
            leases_now: tokio::sync::Mutex::new(Followed::new(from_block)),
            outcomes: tokio::sync::Mutex::new(Followed::new(from_block)),
        }
    }

    /// Registry, licences and leases after a block. An earlier one than asked before is read from the beginning.
    async fn with_registers<T: Send>(
        &self,
        block: u64,
        read: impl FnOnce(&Registers) -> T + Send,
    ) -> Result<T, LedgerError> {
        let mut registers = self.registers.lock().await;
        if registers.is_past(block) {
            drop(registers);
            let mut earlier = Registers::new(self.from_block);
            earlier.read_to(&self.reads, block).await?;
            return Ok(read(&earlier));
        }
        registers.read_to(&self.reads, block).await?;
        Ok(read(&registers))
    }

    /// Leases as of the newest block.
    async fn leases_to(&self, head: u64) -> Result<tokio::sync::MutexGuard<'_, Followed<LeaseLog>>, LedgerError> {
        let mut known = self.leases_now.lock().await;
        let next = known.next;
        if next <= head {
            self.reads.extend_leases(&mut known.state, next, head).await.map_err(client_error)?;
            known.next = head.saturating_add(1);
        }
        Ok(known)
    }

    /// All outcomes now.
    async fn all_outcomes(&self) -> Result<BTreeMap<u64, PostedOutcome>, LedgerError> {
        Ok(self.outcome_log().await?.standing)
    }

    /// All that the chain says of outcomes now.
    async fn outcome_log(&self) -> Result<OutcomeLog, LedgerError> {
        let head = self.reads.client().block_number().await.map_err(client_error)?;
        let mut known = self.outcomes.lock().await;
        let sure = head.saturating_sub(UNSURE_BLOCKS);
        let next = known.next;
        if next <= sure {
            self.reads.extend_outcomes(&mut known.state, next, sure).await.map_err(client_error)?;
            known.next = sure.saturating_add(1);
        }
        let mut now = known.state.clone();
        self.reads.extend_outcomes(&mut now, known.next, head).await.map_err(client_error)?;
        Ok(now)
    }

    const fn reads(&self) -> &EpochClient {
        &self.reads
    }

    fn account(&self) -> Result<&(EpochSettlement, Wallet), LedgerError> {
        let why = || LedgerError::Refused("this needs a wallet, and none was opened".to_owned());
        self.account.as_ref().ok_or_else(why)
    }

    async fn time_of(&self, block: u64) -> Result<u64, LedgerError> {
        let known = self.times.lock().unwrap_or_else(PoisonError::into_inner).get(&block).copied();
        if let Some(time) = known {
            return Ok(time);
        }
        let time = self.reads().client().block_time_s(block).await.map_err(client_error)?;
        self.times.lock().unwrap_or_else(PoisonError::into_inner).insert(block, time);
        Ok(time)
    }

    /// The last block made before an instant.
    async fn block_before(&self, instant: TimeMs) -> Result<Option<u64>, LedgerError> {
        // A block's time is whole seconds: made before the instant is made at or before the second that ends before it.
        let Some(last_s) = instant.0.div_ceil(1_000).checked_sub(1) else { return Ok(None) };
        self.reads().client().block_at(last_s).await.map_err(client_error)
    }

    async fn try_snapshot(&self, before: TimeMs) -> Result<Snapshot, LedgerError> {
        let Some(block) = self.block_before(before).await? else { return Ok(Snapshot::default()) };
        // The last outcome that stood then, whatever has become of it since: everybody has to freeze the same.
        let outcome = |log: &OutcomeLog| {
            let last = log.standing.values().rfind(|posted| posted.outcome.data_hash != [0; 32]);
            last.map(outcome_of)
        };
        let (census, serving, outcome) = self
            .with_registers(block, |at| {
                (at.census.state.clone(), at.leases.state.serving(), outcome(&at.outcomes.state))
            })
            .await?;
        let mut nodes = Vec::with_capacity(census.nodes.len());
        for node in census.nodes.into_values() {
            let registered_at_s = self.time_of(node.registered_block).await?;
            nodes.push(NodeOnChain {
                node: node.node,
                kind: node.kind,
                status: node.status,
                owner: node.owner,
                stake: node.stake,
                unbonding: TokenAmount::ZERO,
                unbond_at_s: 0,
                rewards: TokenAmount::ZERO,
                registered_at_s,
                fingerprint: node.fingerprint,
                endpoint: node.endpoint,
            });
        }
        let licence = |licence: chain::history::LicenceAt| {
            let id = u32::try_from(licence.id).ok()?;
            Some(LicenceOnChain { id, owner: licence.owner, delegate: licence.delegate })
        };
        let licences = census.licences.into_values().filter_map(licence).collect();
        Ok(Snapshot { block, nodes, licences, serving, outcome })
    }

    async fn try_facts(&self, from: TimeMs, to: TimeMs) -> Result<ChainFacts, LedgerError> {
        let Some(last) = self.block_before(to).await? else { return Ok(ChainFacts::default()) };
        let before = self.block_before(from).await?;
        let (fees, matched) = self
            .with_registers(last, |at| {
                let leases = &at.leases.state;
                let matched: Vec<MatchedLeaseAt> = leases.matched_between(before, last).copied().collect();
                (leases.fees_between(before, last), matched)
            })
            .await?;
        let fees = fees.into_iter().map(|(container, fee)| FeesPaid { container, fee }).collect();
        let matched = matched
            .into_iter()
            .map(|MatchedLeaseAt { lease, indexer, fee, .. }| MatchedLease { lease, indexer, fee })
            .collect();
        Ok(ChainFacts { fees, matched })
    }

    /// All outcomes that stand, without the first entry, which only names the first committees.
    async fn standing(&self) -> Result<BTreeMap<u64, PostedOutcome>, LedgerError> {
        let mut all = self.all_outcomes().await?;
        all.retain(|_, posted| posted.outcome.data_hash != [0; 32]);
        Ok(all)
    }

    /// The outcome that one follows.
    async fn parent(&self, outcome: &Outcome) -> Result<PostedOutcome, LedgerError> {
        let all = self.all_outcomes().await?;
        let before = all
            .into_values()
            .rev()
            .find(|posted| posted.outcome.last_epoch.checked_add(1) == Some(outcome.first_epoch.0));
        before.ok_or_else(|| {
            let why = format!("no outcome stands on the chain that epoch {} follows", outcome.first_epoch);
            LedgerError::Unknown(why)
        })
    }

    async fn try_outcomes(&self) -> Result<Vec<Posted>, LedgerError> {
        let (last, _) = self.reads().last_final().await.map_err(client_error)?;
        let standing = self.standing().await?;
        let posted = |posted: &PostedOutcome| Posted {
            outcome: outcome_of(posted),
            final_at: TimeMs(posted.posted_at_s.saturating_mul(1_000)).plus(self.epochs.dispute_window_ms),
            finalized: posted.sequence <= last,
        };
        let skip = standing.keys().filter(|sequence| **sequence < last).count();
        Ok(standing.values().skip(skip).map(posted).collect())
    }

    /// The place of an outcome on the chain.
    async fn place(&self, outcome: &Outcome) -> Result<PostedOutcome, LedgerError> {
        let found = self.standing().await?.into_values().find(|posted| outcome_of(posted) == *outcome);
        found.ok_or_else(|| LedgerError::Unknown("the outcome does not stand on the chain any more".to_owned()))
    }

    async fn try_post(
        &self,
        outcome: Outcome,
        committee: Vec<Address>,
        signatures: Vec<(Address, CompactSignature)>,
    ) -> Result<(), LedgerError> {
        if self.place(&outcome).await.is_ok() {
            return Ok(());
        }
        let signed = signed_by(&committee, signatures)?;
        let parent = self.parent(&outcome).await?;
        match self.account()?.0.post(&parent, &chain_outcome(&outcome), &signed).await {
            Ok(_) => Ok(()),
            // Another member was first.
            Err(_) if self.place(&outcome).await.is_ok() => Ok(()),
            Err(error) => Err(settlement_error(error)),
        }
    }

    async fn try_finalize(&self, posted: Posted) -> Result<(), LedgerError> {
        let place = self.place(&posted.outcome).await?;
        let sequence = place.sequence;
        match self.account()?.0.finalize(&place).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let (last, _) = self.reads().last_final().await.map_err(client_error)?;
                if sequence <= last { Ok(()) } else { Err(settlement_error(error)) }
            }
        }
    }
}

impl Ledger for ChainLedger {
    fn signer(&self) -> Address {
        self.account.as_ref().map_or(Address::ZERO, |(_, wallet)| wallet.address())
    }

    fn genesis(&self) -> EpochNo {
        self.genesis
    }

    fn snapshot(&self, before: TimeMs) -> BoxFuture<'_, Result<Snapshot, LedgerError>> {
        self.try_snapshot(before).boxed()
    }

    fn facts(&self, from: TimeMs, to: TimeMs) -> BoxFuture<'_, Result<ChainFacts, LedgerError>> {
        self.try_facts(from, to).boxed()
    }

    fn outcomes(&self) -> BoxFuture<'_, Result<Vec<Posted>, LedgerError>> {
        self.try_outcomes().boxed()
    }

    fn history(&self) -> BoxFuture<'_, Result<Vec<Outcome>, LedgerError>> {
        async move { Ok(self.standing().await?.values().map(outcome_of).collect()) }.boxed()
    }

    fn leases(&self, container: NodeId) -> BoxFuture<'_, Result<Vec<LeaseOnChain>, LedgerError>> {
        async move {
            let client = self.reads().client();
            let head = client.block_number().await.map_err(client_error)?;
            let open: Vec<_> = {
                let known = self.leases_to(head).await?;
                let open = known.state.open.iter().filter(|(_, lease)| lease.container == container);
                open.map(|(lease, _)| *lease).collect()
            };
            let found = client.leases(&open).await.map_err(client_error)?;
            Ok(found.into_iter().flatten().filter(|lease| lease.status != LeaseStatus::Closed).collect())
        }
        .boxed()
    }

    fn given_up(&self, container: NodeId, after: TimeMs) -> BoxFuture<'_, Result<Vec<LeaseId>, LedgerError>> {
        async move {
            let before = self.block_before(after).await?;
            let head = self.reads().client().block_number().await.map_err(client_error)?;
            let known = self.leases_to(head).await?;
            let of = known
                .state
                .given_up
                .iter()
                .filter(|(block, whose, _)| *whose == container && before.is_none_or(|before| *block > before));
            Ok(of.map(|(_, _, lease)| *lease).collect())
        }
        .boxed()
    }

    fn sign(&self, outcome: Outcome) -> BoxFuture<'_, Result<SignedOutcome, LedgerError>> {
        async move {
            let parent = self.parent(&outcome).await?.digest();
            let (_, wallet) = self.account()?;
            let signature = self.reads().domain().sign(wallet, parent, &chain_outcome(&outcome));
            Ok(SignedOutcome { outcome, signer: wallet.address(), signature })
        }
        .boxed()
    }

    fn is_signed(&self, signed: SignedOutcome) -> BoxFuture<'_, Result<bool, LedgerError>> {
        async move {
            let parent = self.parent(&signed.outcome).await?.digest();
            let outcome = chain_outcome(&signed.outcome);
            Ok(self.reads().domain().signer(parent, &outcome, &signed.signature) == Some(signed.signer))
        }
        .boxed()
    }

    fn post(
        &self,
        outcome: Outcome,
        committee: Vec<Address>,
        signatures: Vec<(Address, CompactSignature)>,
    ) -> BoxFuture<'_, Result<(), LedgerError>> {
        self.try_post(outcome, committee, signatures).boxed()
    }

    fn finalize(&self, posted: Posted) -> BoxFuture<'_, Result<(), LedgerError>> {
        self.try_finalize(posted).boxed()
    }

    fn slash(&self, leaf: SlashLeaf, proof: Vec<Hash>) -> BoxFuture<'_, Result<(), LedgerError>> {
        async move {
            let leaf = chain::SlashLeaf {
                last_epoch: leaf.last_epoch.0,
                node: leaf.node,
                amount: leaf.amount,
                evidence: leaf.evidence.0,
            };
            self.account()?.0.slash(&leaf, &proof, None).await.map(drop).map_err(settlement_error)
        }
        .boxed()
    }

    fn dispute(&self, posted: Outcome) -> BoxFuture<'_, Result<(), LedgerError>> {
        async move {
            let place = self.place(&posted).await?;
            self.account()?.0.dispute(&place).await.map(drop).map_err(settlement_error)
        }
        .boxed()
    }

    fn disputed(&self) -> BoxFuture<'_, Result<Option<DisputedOutcome>, LedgerError>> {
        async move {
            let log = self.outcome_log().await?;
            let Some(posted) = log.disputed.first().and_then(|sequence| log.standing.get(sequence)) else {
                return Ok(None);
            };
            Ok(Some(DisputedOutcome { posted: outcome_of(posted), before: before(&log, posted.sequence) }))
        }
        .boxed()
    }

    fn resolve(
        &self,
        posted: Outcome,
        right: Outcome,
        committee: Vec<Address>,
        signatures: Vec<(Address, CompactSignature)>,
    ) -> BoxFuture<'_, Result<(), LedgerError>> {
        async move {
            let place = self.place(&posted).await?;
            let signed = signed_by(&committee, signatures)?;
            let parent = self.parent(&posted).await?;
            let done = self.account()?.0.resolve(&parent, &place, &chain_outcome(&right), &signed).await;
            match done {
                Ok(_) => Ok(()),
                // Another member was first.
                Err(_) if !self.outcome_log().await?.disputed.contains(&place.sequence) => Ok(()),
                Err(error) => Err(settlement_error(error)),
            }
        }
        .boxed()
    }

    fn condemned(&self) -> BoxFuture<'_, Result<Vec<Condemned>, LedgerError>> {
        async move {
            let log = self.outcome_log().await?;
            let (last, _) = self.reads().last_final().await.map_err(client_error)?;
            let wrong = log.replaced.values().filter(|wrong| wrong.sequence <= last);
            let condemned = |wrong: &PostedOutcome| Condemned {
                sequence: wrong.sequence,
                before: before(&log, wrong.sequence),
                signers: wrong.signers,
            };
            Ok(wrong.map(condemned).collect())
        }
        .boxed()
    }

    fn slash_signer(
        &self,
        sequence: u64,
        committee: Vec<Address>,
        position: u8,
        checker: NodeId,
    ) -> BoxFuture<'_, Result<(), LedgerError>> {
        async move {
            let done = self.account()?.0.slash_signer(sequence, &committee, position, checker).await;
            done.map(drop).map_err(settlement_error)
        }
        .boxed()
    }
}

/// The outcome before a place; `None` where that only names the first committees.
fn before(log: &OutcomeLog, sequence: u64) -> Option<Outcome> {
    let before = log.standing.get(&sequence.checked_sub(1)?)?;
    (before.outcome.data_hash != [0; 32]).then(|| outcome_of(before))
}

/// A committee's signatures as the contract takes them.
fn signed_by(
    committee: &[Address],
    signatures: Vec<(Address, CompactSignature)>,
) -> Result<CommitteeSignatures, LedgerError> {
    let given: BTreeMap<Address, CompactSignature> = signatures.into_iter().collect();
    let members: Vec<_> = committee.iter().map(|member| (*member, given.get(member).copied())).collect();
    let why = || LedgerError::Refused("a committee has more members than the contract takes".to_owned());
    CommitteeSignatures::new(&members).ok_or_else(why)
}

fn outcome_of(posted: &PostedOutcome) -> Outcome {
    let o = &posted.outcome;
    Outcome {
        first_epoch: EpochNo(o.first_epoch),
        last_epoch: EpochNo(o.last_epoch),
        reward_root: o.reward_root,
        cumulative_total: o.cumulative_total,
        slash_root: o.slash_root,
        data_hash: ContentHash(o.data_hash),
        next_committee: o.next_committee,
        next_dispute_committee: o.next_dispute_committee,
    }
}

fn chain_outcome(o: &Outcome) -> chain::Outcome {
    chain::Outcome {
        first_epoch: o.first_epoch.0,
        last_epoch: o.last_epoch.0,
        reward_root: o.reward_root,
        cumulative_total: o.cumulative_total,
        slash_root: o.slash_root,
        data_hash: o.data_hash.0,
        next_committee: o.next_committee,
        next_dispute_committee: o.next_dispute_committee,
    }
}

fn client_error(error: ClientError) -> LedgerError {
    let text = error.to_string();
    match error {
        ClientError::BadUrl { .. } | ClientError::WrongChain { .. } | ClientError::NoContract { .. } => {
            LedgerError::Refused(text)
        }
        _ => LedgerError::Unknown(text),
    }
}

fn settlement_error(error: SettlementError) -> LedgerError {
    let text = error.to_string();
    match error {
        SettlementError::Client(error) => client_error(error),
        SettlementError::Failed { .. }
        | SettlementError::Send(SendError::WouldFail(_) | SendError::InsufficientFunds { .. }) => {
            LedgerError::Refused(text)
        }
        SettlementError::Send(_) | SettlementError::Unknown { .. } => LedgerError::Unknown(text),
    }
}

/// A [`Beacon`] over drand's HTTP API; every round is verified.
#[derive(Clone, Debug)]
pub struct DrandBeacon {
    client: BeaconClient,
    epochs: EpochParams,
}

impl DrandBeacon {
    /// The beacon of a network.
    #[must_use]
    pub const fn new(client: BeaconClient, epochs: EpochParams) -> Self {
        Self { client, epochs }
    }

    /// The round that an epoch is drawn by: the first that comes a quarter of the draw's time after the epoch began, when
    /// the last block before it is made.
    ///
    /// # Errors
    /// No round comes then.
    pub fn round_of(&self, epoch: EpochNo) -> Result<u64, BeaconError> {
        let begin = self.epochs.begin(epoch);
        let wait = self.epochs.begin_of(epoch, Phase::Tests).since(begin) / 4;
        let due_s = begin.plus(wait).0.div_ceil(1_000);
        let round = self.client.beacon().schedule().first_at_or_after(due_s);
        round.ok_or_else(|| BeaconError::Wrong(format!("the beacon has no round for epoch {epoch}")))
    }
}

impl Beacon for DrandBeacon {
    fn seed(&self, epoch: EpochNo) -> BoxFuture<'_, Result<Seed, BeaconError>> {
        async move {
            let round = self.round_of(epoch)?;
            let now = crate::clock::Clock.now();
            let found = self.client.round(round, now.0 / 1_000).await;
            found.map(|round| Seed(round.randomness)).map_err(|error| BeaconError::NotYet(error.to_string()))
        }
        .boxed()
    }
}
