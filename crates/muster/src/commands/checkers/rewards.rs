//! Rewards of epochs: what final outcomes grant, what was claimed of it, and claiming the rest.

use muster_chain::epochs::{EpochSettlement, RewardKind, RewardLeaf, RewardState};
use muster_checker::Archive;
use muster_core::epoch::EpochNo;
use muster_core::ids::{Address, NodeId};
use muster_core::reward::{LeafKind, Outcome, Published, merkle, owner_key};
use muster_core::units::TokenAmount;
use serde::Serialize;

use super::Epochs;
use crate::commands::wallet::paying;
use crate::commands::{Context, chain_failure};
use crate::failure::{Code, Failure};

/// Whose rewards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// A Container's.
    Container(NodeId),
    /// An Indexer's.
    Indexer(NodeId),
    /// A licence owner's.
    Owner(Address),
}

impl Whose {
    const fn kinds(self) -> (LeafKind, RewardKind) {
        match self {
            Self::Container(_) => (LeafKind::Container, RewardKind::Container),
            Self::Indexer(_) => (LeafKind::Indexer, RewardKind::Indexer),
            Self::Owner(_) => (LeafKind::LicenceOwner, RewardKind::Licences),
        }
    }

    fn key(self) -> [u8; 32] {
        match self {
            Self::Container(node) | Self::Indexer(node) => node.0,
            Self::Owner(owner) => owner_key(&owner),
        }
    }
}

/// Rewards as they stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Rewards {
    /// Granted in all by outcomes that are final.
    pub(crate) granted: TokenAmount,
    /// Granted beyond that by outcomes whose dispute window still runs.
    pub(crate) pending: TokenAmount,
    /// Of what is granted: claimed so far.
    pub(crate) claimed: TokenAmount,
    /// Of what was claimed: vests, and is not released yet.
    pub(crate) vesting: TokenAmount,
    /// Of what vests: can be released now.
    pub(crate) releasable: TokenAmount,
}

impl Rewards {
    /// Can be claimed now: granted and not claimed.
    pub(crate) fn claimable(&self) -> TokenAmount {
        self.granted.saturating_sub(self.claimed)
    }
}

/// An outcome and what was published with it.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    /// The outcome.
    pub(crate) outcome: Outcome,
    /// What was published.
    pub(crate) published: Published,
}

impl Told {
    fn cumulative(&self, whose: Whose) -> TokenAmount {
        let leaf = self.published.state.leaf(whose.kinds().0, &whose.key());
        leaf.map_or(TokenAmount::ZERO, |(_, leaf)| TokenAmount(leaf.cumulative))
    }

    /// The leaf as the contract takes it, and the proof that it is in the tree.
    fn leaf(&self, whose: Whose) -> Option<(RewardLeaf, Vec<merkle::Hash>)> {
        let state = &self.published.state;
        let (place, leaf) = state.leaf(whose.kinds().0, &whose.key())?;
        let hashes: Vec<_> = state.leaves.iter().map(muster_core::reward::RewardLeaf::hash).collect();
        let proof = merkle::proof(&hashes, place)?;
        let kind = whose.kinds().1;
        let leaf = RewardLeaf { kind, key: leaf.key, account: leaf.account, cumulative: TokenAmount(leaf.cumulative) };
        Some((leaf, proof))
    }
}

/// The last outcome, and the last one that is final.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing {
    /// The last.
    pub(crate) last: Option<Told>,
    /// The last final one.
    pub(crate) last_final: Option<Told>,
}

impl Standing {
    /// Asks the chain for the outcomes and the Checkers for their data.
    pub(crate) async fn of(archive: &Archive) -> Result<Self, Failure> {
        let posted = archive.ledger.outcomes().await.map_err(|e| Failure::new(Code::Chain, e))?;
        let told = |outcome: Option<Outcome>| async move {
            let Some(outcome) = outcome else { return Ok::<_, Failure>(None) };
            let published = archive.published_with(&outcome).await.map_err(|e| super::epoch::archive_failure(&e))?;
            Ok(Some(Told { outcome, published }))
        };
        let last = told(posted.last().map(|one| one.outcome)).await?;
        let finalized = posted.iter().rev().find(|one| one.finalized).map(|one| one.outcome);
        let last_final = match &last {
            Some(last) if Some(last.outcome) == finalized => Some(last.clone()),
            _ => told(finalized).await?,
        };
        Ok(Self { last, last_final })
    }

    /// The last epoch that is settled, final or not.
    pub(crate) fn settled(&self) -> Option<EpochNo> {
        self.last.as_ref().map(|told| told.outcome.last_epoch)
    }

    /// Rewards of somebody.
    pub(crate) async fn rewards(&self, epochs: &Epochs, whose: Whose) -> Result<Rewards, Failure> {
        let granted = self.last_final.as_ref().map_or(TokenAmount::ZERO, |told| told.cumulative(whose));
        let all = self.last.as_ref().map_or(TokenAmount::ZERO, |told| told.cumulative(whose));
        let leaf = self.last.as_ref().and_then(|told| told.leaf(whose));
        let state = match leaf {
            Some((leaf, _)) => epochs.reads.reward(&leaf).await.map_err(|e| chain_failure(&e))?,
            None => RewardState::default(),
        };
        Ok(Rewards {
            granted,
            pending: all.saturating_sub(granted),
            claimed: state.claimed,
            vesting: state.vesting.saturating_sub(state.released),
            releasable: state.releasable,
        })
    }
}

/// What a claim brought.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Brought {
    /// Newly claimed; a part of it was paid at once, the rest vests.
    pub(crate) claimed: TokenAmount,
    /// Of what vested before: released.
    pub(crate) released: TokenAmount,
    /// The transactions.
    pub(crate) transactions: Vec<String>,
}

/// Claims what final outcomes grant, and releases what has vested.
pub(crate) async fn claim(
    cx: &Context,
    settlement: &EpochSettlement,
    standing: &Standing,
    (whose, rewards): (Whose, Rewards),
) -> Result<Brought, Failure> {
    let mut brought = Brought::default();
    let Some((leaf, proof)) = standing.last_final.as_ref().and_then(|told| told.leaf(whose)) else {
        return Ok(brought);
    };
    if rewards.releasable > TokenAmount::ZERO {
        let mined = paying::decided(cx, || settlement.release(&leaf)).await?;
        brought.transactions.push(mined.tx.to_string());
        brought.released = rewards.releasable;
    }
    if rewards.claimable() > TokenAmount::ZERO {
        let mined = paying::decided(cx, || settlement.claim(&leaf, &proof)).await?;
        brought.transactions.push(mined.tx.to_string());
        brought.claimed = rewards.claimable();
    }
    Ok(brought)
}
