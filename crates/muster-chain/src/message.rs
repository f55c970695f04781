//! Personal messages (EIP-191): what a key signs that is no transaction and no voucher.

use alloy::primitives::eip191_hash_message;
use muster_core::ids::Address;
use muster_core::voucher::CompactSignature;

use crate::convert::from_evm;
use crate::ecdsa;
use crate::keys::Wallet;

impl Wallet {
    /// Signs bytes as a personal message.
    #[must_use]
    pub fn sign_message(&self, bytes: &[u8]) -> CompactSignature {
        ecdsa::compact(self.sign(eip191_hash_message(bytes)))
    }
}

/// Who signed bytes as a personal message; `None` when nobody can have.
#[must_use]
pub fn message_signer(bytes: &[u8], signature: &CompactSignature) -> Option<Address> {
    ecdsa::recover(&ecdsa::expand(signature), eip191_hash_message(bytes)).map(from_evm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signer_is_found_and_no_other_message_passes() {
        let wallet = Wallet::random();
        let signature = wallet.sign_message(b"attach");
        assert_eq!(message_signer(b"attach", &signature), Some(wallet.address()));
        assert_ne!(message_signer(b"detach", &signature), Some(wallet.address()));
        assert_eq!(message_signer(b"attach", &CompactSignature { r: [0; 32], vs: [0; 32] }), None);
    }
}
