//! Leases as epochs need them: which Containers served at a block, and which fees were paid between two.

use std::collections::{BTreeMap, BTreeSet};

use alloy::sol_types::SolEventInterface;
use muster_core::ids::{LeaseId, NodeId};
use muster_core::units::TokenAmount;

use super::EpochClient;
use crate::contracts::abi::LeaseEscrow::LeaseEscrowEvents;
use crate::settle::ClientError;

/// A lease that is not closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenLeaseAt {
    /// Where it runs.
    pub container: NodeId,
    /// Who matched it.
    pub indexer: NodeId,
    /// The network's part of what was paid so far.
    pub fee: TokenAmount,
    /// Its consumer closes it: it does not run to its end.
    pub closing: bool,
}

/// A lease that ran to its end and was paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatchedLeaseAt {
    /// The block in which it was closed.
    pub block: u64,
    /// Which.
    pub lease: LeaseId,
    /// Who matched it.
    pub indexer: NodeId,
    /// The network's part of all that was paid for it.
    pub fee: TokenAmount,
}

/// Leases as the escrow's logs up to a block have them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseLog {
    /// Leases that are not closed.
    pub open: BTreeMap<LeaseId, OpenLeaseAt>,
    /// The network's part of all payments, by block and Container.
    pub fees: BTreeMap<(u64, NodeId), TokenAmount>,
    /// Leases that ran to their end and were paid, in the order in which they were closed.
    pub matched: Vec<MatchedLeaseAt>,
    /// Leases that their consumers gave up, with block and Container, in their order.
    pub given_up: Vec<(u64, NodeId, LeaseId)>,
}

impl LeaseLog {
    /// Containers with leases that are not closed.
    #[must_use]
    pub fn serving(&self) -> BTreeSet<NodeId> {
        self.open.values().map(|lease| lease.container).collect()
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

    /// Leases that were closed in the blocks after `after` up to `last`, after they ran to their end and were paid.
    pub fn matched_between(&self, after: Option<u64>, last: u64) -> impl Iterator<Item = &MatchedLeaseAt> {
        let from = after.map_or(0, |after| self.matched.partition_point(|lease| lease.block <= after));
        self.matched.iter().skip(from).take_while(move |lease| lease.block <= last)
    }

    fn note(&mut self, event: &LeaseEscrowEvents, block: u64) {
        match event {
            LeaseEscrowEvents::LeaseOpened(e) => {
                let (container, indexer) = (NodeId(e.container.0), NodeId(e.indexer.0));
                let lease = OpenLeaseAt { container, indexer, fee: TokenAmount::ZERO, closing: false };
                self.open.insert(LeaseId(e.lease.0), lease);
            }
            LeaseEscrowEvents::LeaseClosing(e) => {
                if let Some(lease) = self.open.get_mut(&LeaseId(e.lease.0)) {
                    lease.closing = true;
                    self.given_up.push((block, lease.container, LeaseId(e.lease.0)));
                }
            }
            LeaseEscrowEvents::LeaseClosed(e) => {
                let lease = LeaseId(e.lease.0);
                let Some(OpenLeaseAt { indexer, fee, closing, .. }) = self.open.remove(&lease) else { return };
                if !closing && fee > TokenAmount::ZERO {
                    self.matched.push(MatchedLeaseAt { block, lease, indexer, fee });
                }
            }
            // Nothing is paid of a lease that is closed.
            LeaseEscrowEvents::VoucherRedeemed(e) => {
                if let Some(lease) = self.open.get_mut(&LeaseId(e.lease.0)) {
                    lease.fee = lease.fee.saturating_add(TokenAmount(e.fee));
                    let sum = self.fees.entry((block, lease.container)).or_default();
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
