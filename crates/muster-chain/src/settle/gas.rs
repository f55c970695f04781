//! Gas limits that follow from what a group of leases holds, so that nobody executes it beforehand to find out.
//!
//! An estimate costs a node more than the transaction itself: it is executed twice for it, and once in the block. What
//! follows from the contracts' code needs no question. The figures are upper bounds of the worst case, not of the usual
//! one: `contracts/snapshots` holds what the usual one takes.
//!
//! They count execution only. On a rollup gas also pays for the data on the chain below, by a price that changes: there
//! the node is asked (`GasLimits`).

/// What a transaction costs before its first lease, with both checkpoints of votes that a movement of tokens may write.
const OPEN_BASE: u64 = 250_000;
/// Five new slots, an event, a Container that no other lease of the group names, and its part of the data.
const OPEN_EACH: u64 = 160_000;

const SETTLE_BASE: u64 = 250_000;
/// A voucher, a new place in the queue of a payee, and a refund to a consumer that no neighbour shares, who has had no
/// tokens and has delegated its votes.
const SETTLE_EACH: u64 = 220_000;

/// For opening so many leases in one transaction.
pub(super) const fn open_batch(leases: usize) -> u64 {
    OPEN_BASE.saturating_add(OPEN_EACH.saturating_mul(leases as u64))
}

/// For settling so many leases in one transaction.
pub(super) const fn settle_batch(leases: usize) -> u64 {
    SETTLE_BASE.saturating_add(SETTLE_EACH.saturating_mul(leases as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What forge has measured.
    fn measured(name: &str) -> u64 {
        let text = include_str!("../../../../contracts/snapshots/GasTest.json");
        let all: serde_json::Value = serde_json::from_str(text).unwrap();
        all[name].as_str().unwrap().parse().unwrap()
    }

    #[test]
    fn limits_are_a_quarter_above_what_the_contracts_took() {
        let (open, settle) = (measured("escrow openBatch of 100"), measured("escrow settleBatch of 100"));
        assert!(open_batch(100) > open / 4 * 5, "{open}");
        assert!(settle_batch(100) > settle / 4 * 5, "{settle}");
        assert!(open_batch(1) > measured("escrow open") / 4 * 5);
        assert!(settle_batch(1) > (measured("escrow redeem first") + measured("escrow closeByContainer")) / 4 * 5);
    }

    #[test]
    fn a_full_group_fits_into_a_block_with_others() {
        let block = crate::embedded::ChainConfig::development(1).block_gas_limit;
        assert!(open_batch(super::super::operations::OPEN_GROUP_MAX) < block / 4);
        assert!(settle_batch(super::super::operations::SETTLE_GROUP_MAX) < block / 4);
    }
}
