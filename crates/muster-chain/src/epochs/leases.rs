//! Leases as epochs need them: which Containers served at a block, and which fees were paid between two.

use std::collections::{BTreeMap, BTreeSet};

use alloy::sol_types::SolEventInterface;
use muster_core::ids::{LeaseId, NodeId};
use muster_core::units::TokenAmount;

use super::EpochClient;
use crate::contracts::abi::LeaseEscrow::LeaseEscrowEvents;
use crate::settle::ClientError;

/// Leases as the escrow's logs up to a block have them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseLog {
    /// Whose each lease is.
    pub containers: BTreeMap<LeaseId, NodeId>,
    /// Leases that are not closed.
    pub open: BTreeSet<LeaseId>,
    /// The network's part of every payment: block, lease, amount; in the chain's order.
    pub fees: Vec<(u64, LeaseId, TokenAmount)>,
}

impl LeaseLog {
    /// Containers with leases that are not closed.
    #[must_use]
    pub fn serving(&self) -> BTreeSet<NodeId> {
        self.open.iter().filter_map(|lease| self.containers.get(lease)).copied().collect()
    }

    /// Fees of the blocks after `after`, by Container.
    #[must_use]
    pub fn fees_after(&self, after: Option<u64>) -> BTreeMap<NodeId, TokenAmount> {
        let mut sums: BTreeMap<NodeId, TokenAmount> = BTreeMap::new();
        let new = self.fees.iter().filter(|(block, ..)| after.is_none_or(|after| *block > after));
        for (_, lease, fee) in new {
            if let Some(container) = self.containers.get(lease) {
                let sum = sums.entry(*container).or_default();
                *sum = sum.saturating_add(*fee);
            }
        }
        sums
    }
}

impl EpochClient {
    /// The escrow's leases after a block. `from` is a block at or before its deployment.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn leases_after(&self, block: u64, from: u64) -> Result<LeaseLog, ClientError> {
        let escrow = self.client().contracts().escrow;
        let mut read = LeaseLog::default();
        for log in self.client().logs(&[escrow], from, block).await? {
            let Ok(event) = LeaseEscrowEvents::decode_log(&log.inner) else { continue };
            match event.data {
                LeaseEscrowEvents::LeaseOpened(e) => {
                    read.containers.insert(LeaseId(e.lease.0), NodeId(e.container.0));
                    read.open.insert(LeaseId(e.lease.0));
                }
                LeaseEscrowEvents::LeaseClosed(e) => {
                    read.open.remove(&LeaseId(e.lease.0));
                }
                LeaseEscrowEvents::VoucherRedeemed(e) => {
                    let at = log.block_number.unwrap_or(block);
                    read.fees.push((at, LeaseId(e.lease.0), TokenAmount(e.fee)));
                }
                _ => {}
            }
        }
        Ok(read)
    }
}
