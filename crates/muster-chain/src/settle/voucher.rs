//! Vouchers as the escrow checks them: EIP-712 digests, compact signatures (EIP-2098).

use alloy::primitives::B256;
use alloy::sol_types::{Eip712Domain, SolStruct, eip712_domain};
use muster_core::ids::Address;
use muster_core::voucher::{SignedVoucher, Voucher};

use crate::convert::{from_evm, lease_word, to_evm};
use crate::ecdsa;
use crate::keys::Wallet;

mod typed {
    alloy::sol! {
        /// The struct that is signed; name and order of the fields are part of the digest.
        struct Voucher {
            bytes32 lease;
            uint128 amount;
            uint64 asOf;
        }
    }
}

/// Why a voucher's signature does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VoucherError {
    /// The bytes are no signature that the escrow would accept.
    #[error("the voucher's signature is malformed")]
    Malformed,
    /// Signed by another key.
    #[error("the voucher is signed by {found}, not by the lease's session key {expected}")]
    OtherSigner {
        /// Who signed.
        found: Address,
        /// Who should have.
        expected: Address,
    },
}

/// Where vouchers count: one escrow on one chain. A voucher of one domain is worth nothing in another.
#[derive(Clone, Debug)]
pub struct VoucherDomain {
    domain: Eip712Domain,
}

impl VoucherDomain {
    /// The domain of an escrow.
    #[must_use]
    pub fn new(chain_id: u64, escrow: Address) -> Self {
        let domain = eip712_domain! {
            name: "Muster LeaseEscrow",
            version: "1",
            chain_id: chain_id,
            verifying_contract: to_evm(escrow),
        };
        Self { domain }
    }

    /// The digest that is signed.
    #[must_use]
    pub fn digest(&self, voucher: &Voucher) -> [u8; 32] {
        let typed =
            typed::Voucher { lease: lease_word(voucher.lease), amount: voucher.amount.0, asOf: voucher.as_of_s };
        typed.eip712_signing_hash(&self.domain).0
    }

    /// Signs with the lease's session key.
    #[must_use]
    pub fn sign(&self, session_key: &Wallet, voucher: Voucher) -> SignedVoucher {
        let signature = ecdsa::compact(session_key.sign(B256::from(self.digest(&voucher))));
        SignedVoucher { voucher, signature }
    }

    /// Who signed.
    ///
    /// # Errors
    /// No signature that the escrow would accept.
    pub fn signer(&self, signed: &SignedVoucher) -> Result<Address, VoucherError> {
        let digest = B256::from(self.digest(&signed.voucher));
        ecdsa::recover(&ecdsa::expand(&signed.signature), digest).map(from_evm).ok_or(VoucherError::Malformed)
    }

    /// Checks that the session key signed.
    ///
    /// # Errors
    /// Malformed, or signed by another key.
    pub fn verify(&self, signed: &SignedVoucher, session_key: Address) -> Result<(), VoucherError> {
        let found = self.signer(signed)?;
        if found == session_key { Ok(()) } else { Err(VoucherError::OtherSigner { found, expected: session_key }) }
    }
}
