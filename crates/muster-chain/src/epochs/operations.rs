//! What accounts do with the contracts of epochs, each a method.

use alloy::primitives::U256;
use muster_core::ids::{Address, NodeId};
use muster_core::units::TokenAmount;
use muster_wire::beacon::{RoundSignature, signature_words};

use super::tree::{numbers, words};
use super::{CommitteeSignatures, EpochClient, EpochContracts, Outcome, PostedOutcome, RewardLeaf, SlashLeaf};
use crate::contracts::abi::{CheckerLicence, DrandBeacon, EpochRewards};
use crate::convert::{node_word, to_evm};
use crate::settle::{MinedTx, SendError, Settlement, SettlementError, fresh};

/// Everything an account does with the contracts of epochs. Clones share it.
#[derive(Clone, Debug)]
pub struct EpochSettlement {
    settlement: Settlement,
    reads: EpochClient,
    contracts: EpochContracts,
}

impl EpochSettlement {
    /// Operations of a settlement's account.
    #[must_use]
    pub fn new(settlement: Settlement, contracts: EpochContracts) -> Self {
        let reads = EpochClient::new(settlement.client().clone(), contracts);
        Self { settlement, reads, contracts }
    }

    /// The account.
    #[must_use]
    pub fn address(&self) -> Address {
        self.settlement.address()
    }

    /// The contracts, for reading.
    #[must_use]
    pub fn client(&self) -> &EpochClient {
        &self.reads
    }

    // ---- licences ----

    /// Buys licences, at a price of at most `price_most` each. `intent` names this purchase.
    ///
    /// # Errors
    /// See [`SettlementError`].
    pub async fn buy_licences(
        &self,
        intent: &str,
        count: u32,
        price_most: TokenAmount,
    ) -> Result<MinedTx, SettlementError> {
        let most = TokenAmount(price_most.0.saturating_mul(u128::from(count)));
        self.settlement.approve(self.contracts.licences, most).await?;
        let call = CheckerLicence::buyCall { count: U256::from(count), priceMost: price_most.0 };
        self.settlement.send_once(&format!("licences {intent}"), self.contracts.licences, &call).await
    }

    /// Delegates licences to a Checker.
    ///
    /// # Errors
    /// See [`SettlementError`].
    pub async fn delegate(&self, licences: &[u64], checker: NodeId) -> Result<MinedTx, SettlementError> {
        let key = fresh("delegate");
        if let [id] = licences {
            let call = CheckerLicence::delegateOneCall { id: U256::from(*id), nodeKey: node_word(checker) };
            return self.settlement.send_once(&key, self.contracts.licences, &call).await;
        }
        let call = CheckerLicence::delegateCall { ids: ids(licences), nodeKey: node_word(checker) };
        self.settlement.send_once(&key, self.contracts.licences, &call).await
    }

    /// Takes licences back from their Checkers.
    ///
    /// # Errors
    /// See [`SettlementError`].
    pub async fn undelegate(&self, licences: &[u64]) -> Result<MinedTx, SettlementError> {
        let key = fresh("undelegate");
        if let [id] = licences {
            let call = CheckerLicence::undelegateOneCall { id: U256::from(*id) };
            return self.settlement.send_once(&key, self.contracts.licences, &call).await;
        }
        let call = CheckerLicence::undelegateCall { ids: ids(licences) };
        self.settlement.send_once(&key, self.contracts.licences, &call).await
    }

    // ---- outcomes ----

    /// Names the first committees, of the outcome that begins after `last_epoch`. The account must be the governor.
    ///
    /// # Errors
    /// See [`SettlementError`].
    pub async fn bootstrap(
        &self,
        last_epoch: u64,
        committee: [u8; 32],
        dispute_committee: [u8; 32],
    ) -> Result<MinedTx, SettlementError> {
        let call = EpochRewards::bootstrapCall {
            lastEpoch: last_epoch,
            committee: committee.into(),
            disputeCommittee: dispute_committee.into(),
        };
        self.again("bootstrap epochs".to_owned(), &call).await
    }

    /// Names new committees after a long silence; `last` is the last final outcome. The account must be the governor.
    ///
    /// # Errors
    /// See [`SettlementError`].
    pub async fn reset_committees(
        &self,
        last: &PostedOutcome,
        committee: [u8; 32],
        dispute_committee: [u8; 32],
    ) -> Result<MinedTx, SettlementError> {
        let call = EpochRewards::resetCommitteesCall {
            p: last.to_abi(),
            committee: committee.into(),
            disputeCommittee: dispute_committee.into(),
        };
        self.settlement.send_once(&fresh("reset committees"), self.contracts.rewards, &call).await
    }

    /// Posts the outcome that follows `previous`. Several members may try: an error says so where another was first.
    ///
    /// # Errors
    /// See [`SettlementError`].
    pub async fn post(
        &self,
        previous: &PostedOutcome,
        next: &Outcome,
        signed: &CommitteeSignatures,
    ) -> Result<MinedTx, SettlementError> {
        let packed = previous.pack(next, signed);
        let key = format!("post {}", hex::encode(alloy::primitives::keccak256(&packed)));
        self.again(key, &EpochRewards::postCall { packed: packed.into() }).await
    }

    /// Makes the next pending outcome count, once its window has passed.
    ///
    /// # Errors
    /// See [`SettlementError`].
    pub async fn finalize(&self, posted: &PostedOutcome) -> Result<MinedTx, SettlementError> {
        self.again(key("finalize", posted), &EpochRewards::finalizeCall { p: posted.to_abi() }).await
    }

    /// Names a pending outcome wrong, with a bond.
    ///
    /// # Errors
    /// See [`SettlementError`].
    pub async fn dispute(&self, posted: &PostedOutcome) -> Result<MinedTx, SettlementError> {
        let bond = self.bond().await?;
        self.settlement.approve(self.contracts.rewards, bond).await?;
        self.again(key("dispute", posted), &EpochRewards::disputeCall { p: posted.to_abi() }).await
    }

    /// Brings what the dispute committee signed for the place of a disputed outcome.
    ///
    /// # Errors
    /// See [`SettlementError`].
    pub async fn resolve(
        &self,
        parent: &PostedOutcome,
        disputed: &PostedOutcome,
        right: &Outcome,
        signed: &CommitteeSignatures,
    ) -> Result<MinedTx, SettlementError> {
        let call = EpochRewards::resolveCall {
            parent: parent.to_abi(),
            disputed: disputed.to_abi(),
            right: right.to_abi(),
            signers: signed.signers,
            signatures: signed.packed.clone().into(),
        };
        self.again(key("resolve", disputed), &call).await
    }

    /// Ends a dispute whose committee stayed silent.
    ///
    /// # Errors
    /// See [`SettlementError`].
    pub async fn lapse(&self, sequence: u64) -> Result<MinedTx, SettlementError> {
        let call = EpochRewards::lapseCall { sequence };
        self.settlement.send_once(&fresh("lapse"), self.contracts.rewards, &call).await
    }

    /// Pays out bonds and bounties, to the account that they belong to.
    ///
    /// # Errors
    /// See [`SettlementError`].
    pub async fn withdraw_credit(&self, account: Address) -> Result<MinedTx, SettlementError> {
        let call = EpochRewards::withdrawCreditCall { account: to_evm(account) };
        self.settlement.send_once(&fresh("credit"), self.contracts.rewards, &call).await
    }

    // ---- rewards and slashes ----

    /// Claims what a leaf adds to what was claimed under it; the tokens go to the account that it names.
    ///
    /// # Errors
    /// See [`SettlementError`].
    pub async fn claim(&self, leaf: &RewardLeaf, proof: &[[u8; 32]]) -> Result<MinedTx, SettlementError> {
        let call = EpochRewards::claimCall { leaf: leaf.to_abi(), proof: words(proof) };
        self.settlement.send_once(&fresh("claim reward"), self.contracts.rewards, &call).await
    }

    /// Pays out what has vested of a reward.
    ///
    /// # Errors
    /// See [`SettlementError`].
    pub async fn release(&self, leaf: &RewardLeaf) -> Result<MinedTx, SettlementError> {
        let call =
            EpochRewards::releaseCall { kind: leaf.kind.code(), key: leaf.key.into(), account: to_evm(leaf.account) };
        self.settlement.send_once(&fresh("release reward"), self.contracts.rewards, &call).await
    }

    /// Executes a slash; against the node's reward first, where its leaf and proof are given. `Ok(None)` where it was
    /// executed already.
    ///
    /// # Errors
    /// See [`SettlementError`].
    pub async fn slash(
        &self,
        leaf: &SlashLeaf,
        proof: &[[u8; 32]],
        reward: Option<(&RewardLeaf, &[[u8; 32]])>,
    ) -> Result<Option<MinedTx>, SettlementError> {
        let intent = fresh("slash");
        let sent = match reward {
            None => {
                let call = EpochRewards::slashCall { leaf: leaf.to_abi(), proof: words(proof) };
                self.settlement.send_once(&intent, self.contracts.rewards, &call).await
            }
            Some((reward, reward_proof)) => {
                let call = EpochRewards::slashWithRewardCall {
                    leaf: leaf.to_abi(),
                    proof: words(proof),
                    reward: reward.to_abi(),
                    rewardProof: words(reward_proof),
                };
                self.settlement.send_once(&intent, self.contracts.rewards, &call).await
            }
        };
        match sent {
            Ok(mined) => Ok(Some(mined)),
            Err(error) => {
                let refused =
                    matches!(error, SettlementError::Failed { .. } | SettlementError::Send(SendError::WouldFail(_)));
                if refused && self.slashed(leaf).await? { Ok(None) } else { Err(error) }
            }
        }
    }

    /// Slashes a member of a committee that signed an outcome which another one replaced for good.
    ///
    /// # Errors
    /// See [`SettlementError`].
    pub async fn slash_signer(
        &self,
        sequence: u64,
        committee: &[Address],
        position: u8,
        checker: NodeId,
    ) -> Result<MinedTx, SettlementError> {
        let call = EpochRewards::slashSignerCall {
            sequence,
            committee: committee.iter().copied().map(to_evm).collect(),
            position: U256::from(position),
            nodeKey: node_word(checker),
        };
        self.settlement.send_once(&fresh("slash signer"), self.contracts.rewards, &call).await
    }

    /// Has the contract check a round of the beacon and remember it.
    ///
    /// # Errors
    /// See [`SettlementError`].
    pub async fn submit_round(&self, round: u64, signature: &RoundSignature) -> Result<MinedTx, SettlementError> {
        let words = signature_words(round, signature)
            .map_err(|error| SettlementError::Send(SendError::WouldFail(error.to_string())))?;
        let call = DrandBeacon::submitCall { round, signature: numbers(words) };
        self.settlement.send_once(&fresh("round"), self.contracts.beacon, &call).await
    }

    async fn again(&self, key: String, call: &impl alloy::sol_types::SolCall) -> Result<MinedTx, SettlementError> {
        self.settlement.send_again(&key, self.contracts.rewards, call).await
    }

    async fn bond(&self) -> Result<TokenAmount, SettlementError> {
        let chain = self.reads.client();
        Ok(chain.call(self.contracts.rewards, &EpochRewards::disputeBondCall {}).await.map(TokenAmount)?)
    }

    /// Whether a slash was executed.
    async fn slashed(&self, leaf: &SlashLeaf) -> Result<bool, SettlementError> {
        use crate::contracts::abi::Registry::evidenceUsedCall;
        let chain = self.reads.client();
        let (node, evidence) = (node_word(leaf.node), leaf.evidence.into());
        let call = evidenceUsedCall { nodeKey: node, evidence };
        if chain.call(chain.contracts().registry, &call).await? {
            return Ok(true);
        }
        let call = EpochRewards::slashRestCall { slash: slash_id(leaf) };
        Ok(!chain.call(self.contracts.rewards, &call).await?.is_zero())
    }
}

/// What the contract remembers a slash by.
fn slash_id(leaf: &SlashLeaf) -> alloy::primitives::B256 {
    let mut bytes = [0; 64];
    bytes[..32].copy_from_slice(&leaf.node.0);
    bytes[32..].copy_from_slice(&leaf.evidence);
    alloy::primitives::keccak256(bytes)
}

/// The key of an operation on an outcome: it may be tried again where it failed.
fn key(what: &str, posted: &PostedOutcome) -> String {
    format!("{what} {} {} {}", posted.sequence, hex::encode(posted.digest()), posted.posted_at_s)
}

fn ids(licences: &[u64]) -> Vec<U256> {
    licences.iter().copied().map(U256::from).collect()
}
