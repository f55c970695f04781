//! Reading the contracts of epochs.

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::U256;
use alloy::sol_types::SolEventInterface;
use muster_core::ids::{Address, NodeId};
use muster_core::units::TokenAmount;
use muster_wire::beacon::{Randomness, RoundSignature, signature_words};

use super::tree::numbers;
use super::{EpochContracts, Outcome, OutcomeDomain, PostedOutcome, RewardLeaf};
use crate::contracts::abi::EpochRewards::{EpochRewardsEvents, OutcomePosted};
use crate::contracts::abi::{CheckerLicence, DrandBeacon, EpochRewards};
use crate::convert::{from_evm, to_evm};
use crate::settle::{ChainClient, ClientError};

/// How far whatever stands at a place in the chain of outcomes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutcomeStatus {
    /// Nothing stands there, or no longer.
    None,
    /// Its window runs, or has passed and nobody has finalized it.
    Pending,
    /// Named wrong; the dispute committee's window runs.
    Disputed,
    /// The dispute committee stayed silent: only its signatures can fill the place.
    Lapsed,
    /// The dispute committee signed the same.
    Upheld,
    /// The dispute committee signed another one.
    Replaced,
    /// Counts.
    Final,
    /// A state of a newer contract.
    Other(u8),
}

impl OutcomeStatus {
    const fn from_code(code: u8) -> Self {
        match code {
            0 => Self::None,
            1 => Self::Pending,
            2 => Self::Disputed,
            3 => Self::Lapsed,
            4 => Self::Upheld,
            5 => Self::Replaced,
            6 => Self::Final,
            other => Self::Other(other),
        }
    }
}

/// What became of a reward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RewardState {
    /// Claimed so far, what was seized before it was claimed included.
    pub claimed: TokenAmount,
    /// What of that vests in all.
    pub vesting: TokenAmount,
    /// What of that was released, or seized.
    pub released: TokenAmount,
    /// What could be released now.
    pub releasable: TokenAmount,
}

/// The contracts of epochs, for reading. Clones share the connection.
#[derive(Clone, Debug)]
pub struct EpochClient {
    client: ChainClient,
    contracts: EpochContracts,
    domain: OutcomeDomain,
}

impl EpochClient {
    /// These contracts of a chain.
    #[must_use]
    pub fn new(client: ChainClient, contracts: EpochContracts) -> Self {
        let domain = OutcomeDomain::new(client.chain_id(), contracts.rewards);
        Self { client, contracts, domain }
    }

    /// The chain below.
    #[must_use]
    pub fn client(&self) -> &ChainClient {
        &self.client
    }

    /// Where the contracts are.
    #[must_use]
    pub fn contracts(&self) -> EpochContracts {
        self.contracts
    }

    /// Signs and checks outcomes of this network.
    #[must_use]
    pub fn domain(&self) -> &OutcomeDomain {
        &self.domain
    }

    /// Checks that there is code where the contracts should be.
    ///
    /// # Errors
    /// The chain does not answer, or has no code there.
    pub async fn check_deployed(&self) -> Result<(), ClientError> {
        let c = self.contracts;
        for (name, address) in [("licences", c.licences), ("rewards", c.rewards), ("beacon", c.beacon)] {
            if !self.client.has_code(address).await? {
                return Err(ClientError::NoContract { name, address });
            }
        }
        Ok(())
    }

    // ---- outcomes ----

    /// Sequence and last epoch of the last final outcome.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn last_final(&self) -> Result<(u64, u64), ClientError> {
        let sequence = self.client.call(self.contracts.rewards, &EpochRewards::finalSequenceCall {}).await?;
        let epoch = self.client.call(self.contracts.rewards, &EpochRewards::finalEpochCall {}).await?;
        Ok((sequence, epoch))
    }

    /// The root that claims are proven against.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn reward_root(&self) -> Result<[u8; 32], ClientError> {
        Ok(self.client.call(self.contracts.rewards, &EpochRewards::rewardRootCall {}).await?.0)
    }

    /// What final outcomes grant in all.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn cumulative_total(&self) -> Result<TokenAmount, ClientError> {
        self.client.call(self.contracts.rewards, &EpochRewards::cumulativeTotalCall {}).await.map(TokenAmount)
    }

    /// How far whatever stands at a sequence is.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn status_at(&self, sequence: u64) -> Result<OutcomeStatus, ClientError> {
        let code = self.client.call(self.contracts.rewards, &EpochRewards::statusAtCall { sequence }).await?;
        Ok(OutcomeStatus::from_code(code))
    }

    /// All outcomes that stand or have lapsed, by their sequence, rebuilt from the events of the chain from block `from` on, which
    /// must be the one in which the contract was deployed, or earlier.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn outcomes(&self, from: u64) -> Result<BTreeMap<u64, PostedOutcome>, ClientError> {
        let head = self.client.block_number().await?;
        let mut log = OutcomeLog::default();
        self.extend_outcomes(&mut log, from, head).await?;
        Ok(log.standing)
    }

    /// Brings a log of outcomes from before block `from` to after block `to`. It is left as it was where the chain does not
    /// answer.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn extend_outcomes(&self, log: &mut OutcomeLog, from: u64, to: u64) -> Result<(), ClientError> {
        let logs = self.client.logs(&[self.contracts.rewards], from, to).await?;
        for event in logs.iter().filter_map(|log| EpochRewardsEvents::decode_log(&log.inner).ok()) {
            log.note(&event.data);
        }
        Ok(())
    }

    /// The first epoch that is settled: the one after the entry that named the first committees. `None` while nobody has.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn first_epoch(&self, from: u64) -> Result<Option<u64>, ClientError> {
        let first = self.outcomes(from).await?.into_values().next();
        Ok(first.map(|entry| entry.outcome.last_epoch.saturating_add(1)))
    }

    /// The last outcome of the chain of outcomes: the one that the next follows. Where its place has lapsed, the one
    /// before: only the dispute committee's signatures fill that place.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn tip(&self, from: u64) -> Result<Option<PostedOutcome>, ClientError> {
        let mut outcomes = self.outcomes(from).await?;
        let Some((sequence, last)) = outcomes.pop_last() else { return Ok(None) };
        if self.status_at(sequence).await? == OutcomeStatus::Lapsed {
            return Ok(outcomes.pop_last().map(|(_, before)| before));
        }
        Ok(Some(last))
    }

    // ---- rewards ----

    /// What became of a reward; its cumulative amount does not matter.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn reward(&self, leaf: &RewardLeaf) -> Result<RewardState, ClientError> {
        let call =
            EpochRewards::rewardOfCall { kind: leaf.kind.code(), key: leaf.key.into(), account: to_evm(leaf.account) };
        let found = self.client.call(self.contracts.rewards, &call).await?;
        Ok(RewardState {
            claimed: TokenAmount(found.claimed),
            vesting: TokenAmount(found.vesting),
            released: TokenAmount(found.released),
            releasable: TokenAmount(found.releasable),
        })
    }

    /// Bonds and bounties of disputes that wait to be withdrawn.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn credit(&self, account: Address) -> Result<TokenAmount, ClientError> {
        let call = EpochRewards::creditsCall { account: to_evm(account) };
        Ok(crate::convert::amount(self.client.call(self.contracts.rewards, &call).await?))
    }

    // ---- licences ----

    /// How many licences were sold.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn licences_sold(&self) -> Result<u64, ClientError> {
        let sold = self.client.call(self.contracts.licences, &CheckerLicence::totalSupplyCall {}).await?;
        Ok(sold.saturating_to())
    }

    /// Price of a licence.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn licence_price(&self) -> Result<TokenAmount, ClientError> {
        self.client.call(self.contracts.licences, &CheckerLicence::priceCall {}).await.map(TokenAmount)
    }

    /// How many licences are delegated to a Checker.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn delegated_count(&self, checker: NodeId) -> Result<u64, ClientError> {
        let call = CheckerLicence::delegatedCountCall { nodeKey: checker.0.into() };
        Ok(self.client.call(self.contracts.licences, &call).await?.saturating_to())
    }

    /// All licences now: number, owner, and the Checker that each is delegated to.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn licences(&self) -> Result<Vec<super::history::LicenceAt>, ClientError> {
        const PAGE: u64 = 500;
        let sold = self.licences_sold().await?;
        let mut all = Vec::new();
        let mut from = 1;
        while from <= sold {
            let call = CheckerLicence::pageCall { from: U256::from(from), count: U256::from(PAGE) };
            let page = self.client.call(self.contracts.licences, &call).await?;
            for (id, (owner, delegate)) in (from..).zip(page.owners.into_iter().zip(page.delegates)) {
                let delegate = (!delegate.is_zero()).then_some(NodeId(delegate.0));
                all.push(super::history::LicenceAt { id, owner: from_evm(owner), delegate });
            }
            from = from.saturating_add(PAGE);
        }
        Ok(all)
    }

    // ---- the beacon ----

    /// The randomness of a round, as the contract finds it; an error where the signature is not the beacon's.
    ///
    /// # Errors
    /// It is not, or the chain does not answer.
    pub async fn verify_round(&self, round: u64, signature: &RoundSignature) -> Result<Randomness, ClientError> {
        let words = signature_words(round, signature).map_err(|error| ClientError::Reverted(error.to_string()))?;
        let call = DrandBeacon::verifyCall { round, signature: numbers(words) };
        Ok(self.client.call(self.contracts.beacon, &call).await?.0)
    }

    /// Whether a round was submitted with this randomness, and not forgotten since.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn round_known(&self, round: u64, randomness: Randomness) -> Result<bool, ClientError> {
        let call = DrandBeacon::knownCall { round, randomness: randomness.into() };
        self.client.call(self.contracts.beacon, &call).await
    }
}

/// The outcomes that stand as of some block, each with its parent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutcomeLog {
    /// By their sequence.
    pub standing: BTreeMap<u64, PostedOutcome>,
    /// Sequences of those that are disputed, or whose dispute committee stayed silent.
    pub disputed: BTreeSet<u64>,
    /// Outcomes that another one replaced, by their sequence: their signers can be slashed once that one is final.
    pub replaced: BTreeMap<u64, PostedOutcome>,
    named: Option<u64>,
}

impl OutcomeLog {
    fn note(&mut self, event: &EpochRewardsEvents) {
        let standing = &mut self.standing;
        match event {
            EpochRewardsEvents::CommitteesReset(e) => self.named = Some(e.sequence),
            EpochRewardsEvents::OutcomeFell(e) => {
                standing.remove(&e.sequence);
                self.disputed.remove(&e.sequence);
                self.replaced.remove(&e.sequence);
            }
            EpochRewardsEvents::OutcomeDisputed(e) => {
                self.disputed.insert(e.sequence);
            }
            EpochRewardsEvents::DisputeResolved(e) => {
                self.disputed.remove(&e.sequence);
                if let Some(wrong) = standing.get(&e.sequence).filter(|_| e.posted != e.right) {
                    self.replaced.insert(e.sequence, *wrong);
                }
            }
            EpochRewardsEvents::OutcomePosted(e) => {
                // New committees say nothing new about epochs; an outcome goes on where the one before ended.
                let renamed = self.named.take() == Some(e.sequence);
                let before = if renamed { Some(e.sequence) } else { e.sequence.checked_sub(1) };
                let before = before.and_then(|at| standing.get(&at));
                let parent = before.map_or([0; 32], PostedOutcome::digest);
                let first_epoch = before.map_or(0, |parent| {
                    if renamed { parent.outcome.first_epoch } else { parent.outcome.last_epoch.saturating_add(1) }
                });
                standing.insert(e.sequence, posted(e, parent, first_epoch));
            }
            _ => {}
        }
    }
}

fn posted(event: &OutcomePosted, parent: [u8; 32], first_epoch: u64) -> PostedOutcome {
    // Last epoch (64 bits), signers (32), time of posting (32), total (128).
    let low = |value: U256| value.wrapping_to::<u32>();
    let outcome = Outcome {
        first_epoch,
        last_epoch: (event.numbers >> 192usize).wrapping_to::<u64>(),
        reward_root: event.rewardRoot.0,
        cumulative_total: TokenAmount(event.numbers.wrapping_to::<u128>()),
        slash_root: event.slashRoot.0,
        data_hash: event.dataHash.0,
        next_committee: event.nextCommittee.0,
        next_dispute_committee: event.nextDisputeCommittee.0,
    };
    PostedOutcome {
        sequence: event.sequence,
        parent,
        outcome,
        posted_at_s: u64::from(low(event.numbers >> 128usize)),
        signers: low(event.numbers >> 160usize),
    }
}
