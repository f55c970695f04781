//! Vouchers: signed, cumulative promises of the consumer.
//!
//! A voucher says "this lease has cost `amount` so far, as of `as_of_s`". Amounts only grow, so the
//! last one counts. The signature is checked by the body (it needs the curve of the chain); this
//! module decides whether a voucher whose signer is known is worth taking.

use serde::{Deserialize, Serialize};

use crate::ids::LeaseId;
use crate::units::TokenAmount;

/// What the consumer promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Voucher {
    /// The lease that it pays for.
    pub lease: LeaseId,
    /// All that the lease has cost since it began, in the token's smallest unit.
    pub amount: TokenAmount,
    /// When it was signed, in Unix seconds.
    pub as_of_s: u64,
}

/// A compact signature (EIP-2098): `r`, then `s` with the parity of `y` in its top bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CompactSignature {
    /// The x coordinate of the nonce point.
    pub r: [u8; 32],
    /// `s`, at most half the curve order, and the parity bit.
    pub vs: [u8; 32],
}

/// A voucher and the session key's signature over its EIP-712 digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SignedVoucher {
    /// The promise.
    pub voucher: Voucher,
    /// The signature.
    pub signature: CompactSignature,
}

/// Why a voucher was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VoucherRefused {
    /// It names another lease.
    #[error("the voucher is for lease {0}")]
    OtherLease(LeaseId),
    /// It promises more than the deposit can pay.
    #[error("the voucher promises {amount}, the deposit is {deposit}")]
    AboveDeposit {
        /// Promised.
        amount: TokenAmount,
        /// Deposited.
        deposit: TokenAmount,
    },
    /// It promises less than an earlier one.
    #[error("the voucher promises {amount}, an earlier one promised {earlier}")]
    BelowEarlier {
        /// Promised.
        amount: TokenAmount,
        /// Promised before.
        earlier: TokenAmount,
    },
}

impl Voucher {
    /// Whether this voucher may follow `earlier` on a lease with this deposit.
    ///
    /// # Errors
    /// The reason why not.
    pub fn check(&self, lease: LeaseId, deposit: TokenAmount, earlier: Option<&Self>) -> Result<(), VoucherRefused> {
        if self.lease != lease {
            return Err(VoucherRefused::OtherLease(self.lease));
        }
        if self.amount > deposit {
            return Err(VoucherRefused::AboveDeposit { amount: self.amount, deposit });
        }
        match earlier {
            Some(e) if e.amount > self.amount => {
                Err(VoucherRefused::BelowEarlier { amount: self.amount, earlier: e.amount })
            }
            _ => Ok(()),
        }
    }
}
