//! How much there is to give in an epoch.

use super::{RewardParams, SettleError};
use crate::epoch::EpochNo;

/// What one epoch gives at most, in smallest units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pools {
    /// For capacity.
    pub capacity: u128,
    /// For delivery.
    pub delivery: u128,
    /// For Indexers.
    pub indexers: u128,
    /// For Checkers that do their tasks.
    pub checker_base: u128,
    /// For Checkers that are nearly always there.
    pub checker_bonus: u128,
}

/// The pools of an epoch: the difference of what is emitted in all up to its end and up to its beginning, so that the
/// sum over all epochs is exactly the share of the supply. Nothing before `genesis` and after the emission's end.
///
/// # Errors
/// [`SettleError::Overflow`] for a supply or a time beyond all proportion.
pub fn pools(params: &RewardParams, epoch_ms: u64, genesis: EpochNo, epoch: EpochNo) -> Result<Pools, SettleError> {
    if epoch < genesis {
        return Ok(Pools::default());
    }
    let from = epoch.since(genesis).saturating_mul(epoch_ms).min(params.emission_ms);
    let to = epoch.since(genesis).saturating_add(1).saturating_mul(epoch_ms).min(params.emission_ms);
    let pool = |bps: u16| {
        let share = mul_div(params.supply.0, u128::from(bps), 10_000)?;
        let upto = |ms: u64| mul_div(share, u128::from(ms), u128::from(params.emission_ms));
        Some(upto(to)?.saturating_sub(upto(from)?))
    };
    let pool = |bps| pool(bps).ok_or(SettleError::Overflow("the emission of an epoch"));
    Ok(Pools {
        capacity: pool(params.capacity_bps)?,
        delivery: pool(params.delivery_bps)?,
        indexers: pool(params.indexer_bps)?,
        checker_base: pool(params.checker_base_bps)?,
        checker_bonus: pool(params.checker_bonus_bps)?,
    })
}

/// `a * b / c`, rounded down, with a product of up to 256 bits; `None` where the result is past 128 bits or `c` is 0.
pub(super) fn mul_div(a: u128, b: u128, c: u128) -> Option<u128> {
    if let Some(product) = a.checked_mul(b) {
        return product.checked_div(c);
    }
    let (high, low) = wide_mul(a, b);
    if c == 0 || high >= c {
        return None;
    }
    // Long division bit by bit: `rest` stays below `c`, so only its doubling can pass 128 bits.
    let (mut rest, mut quotient) = (high, 0u128);
    for bit in (0..128).rev() {
        let carried = rest >> 127 == 1;
        rest = (rest << 1) | ((low >> bit) & 1);
        quotient <<= 1;
        if carried || rest >= c {
            rest = rest.wrapping_sub(c);
            quotient |= 1;
        }
    }
    Some(quotient)
}

/// The 256 bits of a product, high half first.
fn wide_mul(a: u128, b: u128) -> (u128, u128) {
    const LOW: u128 = (1 << 64) - 1;
    let (a1, a0, b1, b0) = (a >> 64, a & LOW, b >> 64, b & LOW);
    let (low, mid1, mid2, high) = (a0.wrapping_mul(b0), a0.wrapping_mul(b1), a1.wrapping_mul(b0), a1.wrapping_mul(b1));
    // None of these sums passes 128 bits: each term is below 2^64.
    let carry = (low >> 64).wrapping_add(mid1 & LOW).wrapping_add(mid2 & LOW);
    let high = high.wrapping_add(mid1 >> 64).wrapping_add(mid2 >> 64).wrapping_add(carry >> 64);
    (high, (carry << 64) | (low & LOW))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn all_epochs_together_emit_the_whole_share() {
        let params = RewardParams { emission_ms: 100_000, ..RewardParams::production() };
        let genesis = EpochNo(77);
        let sum: u128 = (0..77).map(|e| pools(&params, 1_777, genesis, EpochNo(e)).unwrap().checker_base).sum();
        assert_eq!(sum, 0);
        let sum: u128 = (0..60).map(|e| pools(&params, 1_777, genesis, genesis.plus(e)).unwrap().checker_base).sum();
        assert_eq!(sum, params.supply.0 / 10);
    }

    #[test]
    fn a_quarter_of_the_supply_over_four_years_is_as_much_an_epoch() {
        let params = RewardParams::production();
        let epochs = u128::from(params.emission_ms / 900_000);
        let pools = pools(&params, 900_000, EpochNo(0), EpochNo(5)).unwrap();
        let apart = pools.checker_base.abs_diff(params.supply.0 / 10 / epochs);
        assert!(apart <= 1, "{pools:?}");
    }

    proptest! {
        #[test]
        fn wide_division_is_exact(a in any::<u128>(), b in any::<u128>(), c in 1u128..) {
            if let Some(q) = mul_div(a, b, c) {
                // q * c <= a * b < (q + 1) * c
                prop_assert!(wide_mul(q, c) <= wide_mul(a, b));
                if let Some(next) = q.checked_add(1) {
                    prop_assert!(wide_mul(next, c) > wide_mul(a, b));
                }
            } else {
                prop_assert!(wide_mul(a, b).0 >= c);
            }
        }

        #[test]
        fn wide_products_are_right(a in any::<u64>(), b in any::<u128>()) {
            let (high, low) = wide_mul(u128::from(a), b);
            let parts = u128::from(a) * (b >> 64);
            let lower = u128::from(a) * (b & u128::from(u64::MAX));
            prop_assert_eq!(low & u128::from(u64::MAX), lower & u128::from(u64::MAX));
            prop_assert_eq!(high, (parts + (lower >> 64)) >> 64);
        }
    }
}
