//! Who was registered, and who owned and delegated which licence, at a time: rebuilt from the chain's logs alone, so
//! that everybody who reads them draws the same.

use std::collections::BTreeMap;

use alloy::sol_types::SolEventInterface;
use muster_core::ids::{Address, NodeId};
use muster_core::units::TokenAmount;
use serde::{Deserialize, Serialize};

use super::EpochClient;
use crate::contracts::abi::CheckerLicence::CheckerLicenceEvents;
use crate::contracts::abi::Registry::RegistryEvents;
use crate::convert::from_evm;
use crate::settle::{ClientError, NodeKind, NodeStatus};

/// A node as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAt {
    /// Its key.
    pub node: NodeId,
    /// What it is.
    pub kind: NodeKind,
    /// Who owns it.
    pub owner: Address,
    /// Whether it might serve.
    pub status: NodeStatus,
    /// Stake that counted.
    pub stake: TokenAmount,
    /// Commitment to its hardware.
    pub fingerprint: [u8; 32],
    /// Where it could be reached, in its own words.
    pub endpoint: String,
    /// The block of its last registration.
    pub registered_block: u64,
}

/// A licence as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LicenceAt {
    /// Its number.
    pub id: u64,
    /// Who owned it.
    pub owner: Address,
    /// The Checker that it was delegated to.
    pub delegate: Option<NodeId>,
}

/// Registry and licences at the end of a block.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Census {
    /// The block.
    pub block: u64,
    /// All nodes ever registered, by their key.
    pub nodes: BTreeMap<NodeId, NodeAt>,
    /// All licences, by their number.
    pub licences: BTreeMap<u64, LicenceAt>,
}

impl EpochClient {
    /// Registry and licences as of a time in Unix seconds: after the last block made at or before it. `from` is a block
    /// at or before the contracts' deployment. `None` where the chain had not begun.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn census_at(&self, time_s: u64, from: u64) -> Result<Option<Census>, ClientError> {
        match self.client().block_at(time_s).await? {
            Some(block) => self.census_after(block, from).await.map(Some),
            None => Ok(None),
        }
    }

    /// Registry and licences after a block.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn census_after(&self, block: u64, from: u64) -> Result<Census, ClientError> {
        let mut census = Census::default();
        self.extend_census(&mut census, from, block).await?;
        Ok(census)
    }

    /// Brings a census from before block `from` to after block `to`. It is left as it was where the chain does not answer.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn extend_census(&self, census: &mut Census, from: u64, to: u64) -> Result<(), ClientError> {
        let (registry, licences) = (self.client().contracts().registry, self.contracts().licences);
        let logs = self.client().logs(&[registry, licences], from, to).await?;
        census.block = to;
        for log in &logs {
            // Both contracts have events of access control in common: the address tells whose it is.
            if from_evm(log.inner.address) == registry {
                if let Ok(event) = RegistryEvents::decode_log(&log.inner) {
                    census.node_event(event.data, log.block_number.unwrap_or(to));
                }
            } else if let Ok(event) = CheckerLicenceEvents::decode_log(&log.inner) {
                census.licence_event(&event.data);
            }
        }
        Ok(())
    }
}

impl Census {
    fn node_event(&mut self, event: RegistryEvents, block: u64) {
        if let RegistryEvents::NodeRegistered(e) = event {
            let Some(kind) = NodeKind::from_code(e.kind) else { return };
            // An app serves nobody, and is drawn for nothing.
            if kind == NodeKind::App {
                return;
            }
            let node = NodeAt {
                node: NodeId(e.nodeKey.0),
                kind,
                owner: from_evm(e.owner),
                status: NodeStatus::Active,
                stake: TokenAmount(e.stake),
                fingerprint: e.fingerprint.0,
                endpoint: e.endpoint,
                registered_block: block,
            };
            self.nodes.insert(node.node, node);
            return;
        }
        let key = match &event {
            RegistryEvents::NodeUpdated(e) => e.nodeKey,
            RegistryEvents::StakeAdded(e) => e.nodeKey,
            RegistryEvents::UnbondRequested(e) => e.nodeKey,
            RegistryEvents::UnbondCancelled(e) => e.nodeKey,
            RegistryEvents::NodeSlashed(e) => e.nodeKey,
            RegistryEvents::NodeJailed(e) => e.nodeKey,
            RegistryEvents::NodeReinstated(e) => e.nodeKey,
            RegistryEvents::NodeLeft(e) => e.nodeKey,
            _ => return,
        };
        let Some(node) = self.nodes.get_mut(&NodeId(key.0)) else { return };
        match event {
            RegistryEvents::NodeUpdated(e) => {
                node.endpoint = e.endpoint;
                node.fingerprint = e.fingerprint.0;
            }
            RegistryEvents::StakeAdded(e) => node.stake = TokenAmount(e.stake),
            RegistryEvents::UnbondRequested(e) => node.stake = node.stake.saturating_sub(TokenAmount(e.amount)),
            RegistryEvents::UnbondCancelled(e) => node.stake = TokenAmount(e.stake),
            RegistryEvents::NodeSlashed(e) => node.stake = node.stake.saturating_sub(TokenAmount(e.fromStake)),
            RegistryEvents::NodeJailed(_) => node.status = NodeStatus::Jailed,
            RegistryEvents::NodeReinstated(_) => node.status = NodeStatus::Active,
            RegistryEvents::NodeLeft(_) => {
                node.status = NodeStatus::Left;
                node.stake = TokenAmount::ZERO;
            }
            _ => {}
        }
    }

    fn licence_event(&mut self, event: &CheckerLicenceEvents) {
        match event {
            CheckerLicenceEvents::Transfer(e) => {
                let id = e.tokenId.saturating_to();
                let owner = from_evm(e.to);
                self.licences.entry(id).or_insert(LicenceAt { id, owner, delegate: None }).owner = owner;
            }
            CheckerLicenceEvents::LicenceDelegated(e) => {
                self.delegated(e.id.saturating_to(), Some(NodeId(e.nodeKey.0)))
            }
            CheckerLicenceEvents::LicenceUndelegated(e) => self.delegated(e.id.saturating_to(), None),
            _ => {}
        }
    }

    fn delegated(&mut self, id: u64, delegate: Option<NodeId>) {
        if let Some(licence) = self.licences.get_mut(&id) {
            licence.delegate = delegate;
        }
    }
}
