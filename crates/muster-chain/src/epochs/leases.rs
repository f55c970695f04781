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
    /// Leases that are not closed, and whose they are.
    pub open: BTreeMap<LeaseId, NodeId>,
    /// The network's part of all payments, by block and Container.
    pub fees: BTreeMap<(u64, NodeId), TokenAmount>,
}

impl LeaseLog {
    /// Containers with leases that are not closed.
    #[must_use]
    pub fn serving(&self) -> BTreeSet<NodeId> {
        self.open.values().copied().collect()
    }

    /// Fees of the blocks after `after` up to `last`, by Container.
    #[must_use]
    pub fn fees_between(&self, after: Option<u64>, last: u64) -> BTreeMap<NodeId, TokenAmount> {
        let mut sums: BTreeMap<NodeId, TokenAmount> = BTreeMap::new();
        let first = after.map_or(0, |after| after.saturating_add(1));
        if first > last {
            return sums;
        }
        for ((_, container), fee) in self.fees.range((first, NodeId([0; 32]))..=(last, NodeId([u8::MAX; 32]))) {
            let sum = sums.entry(*container).or_default();
            *sum = sum.saturating_add(*fee);
        }
        sums
    }

    fn note(&mut self, event: &LeaseEscrowEvents, block: u64) {
        match event {
            LeaseEscrowEvents::LeaseOpened(e) => {
                self.open.insert(LeaseId(e.lease.0), NodeId(e.container.0));
            }
            LeaseEscrowEvents::LeaseClosed(e) => {
                self.open.remove(&LeaseId(e.lease.0));
            }
            // Nothing is paid of a lease that is closed.
            LeaseEscrowEvents::VoucherRedeemed(e) => {
                if let Some(container) = self.open.get(&LeaseId(e.lease.0)) {
                    let sum = self.fees.entry((block, *container)).or_default();
                    *sum = sum.saturating_add(TokenAmount(e.fee));
                }
            }
            _ => {}
        }
    }
}

impl EpochClient {
    /// The escrow's leases after a block. `from` is a block at or before its deployment.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn leases_after(&self, block: u64, from: u64) -> Result<LeaseLog, ClientError> {
        let mut read = LeaseLog::default();
        self.extend_leases(&mut read, from, block).await?;
        Ok(read)
    }

    /// Brings a log of leases from before block `from` to after block `to`. It is left as it was where the chain does not
    /// answer.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn extend_leases(&self, read: &mut LeaseLog, from: u64, to: u64) -> Result<(), ClientError> {
        let escrow = self.client().contracts().escrow;
        for log in self.client().logs(&[escrow], from, to).await? {
            if let Ok(event) = LeaseEscrowEvents::decode_log(&log.inner) {
                read.note(&event.data, log.block_number.unwrap_or(to));
            }
        }
        Ok(())
    }
}
