//! Personal messages (EIP-191): what a key signs that is no transaction and no voucher.

use alloy::primitives::{Signature, eip191_hash_message};
use muster_core::ids::Address;
use muster_core::voucher::CompactSignature;

use crate::convert::from_evm;
use crate::keys::Wallet;

impl Wallet {
    /// Signs bytes as a personal message.
    #[must_use]
    pub fn sign_message(&self, bytes: &[u8]) -> CompactSignature {
        let compact = self.sign(eip191_hash_message(bytes)).normalized_s().as_erc2098();
        let (r, vs) = compact.split_at(32);
        let part = |half: &[u8]| <[u8; 32]>::try_from(half).expect("a compact signature has two halves of 32 bytes");
        CompactSignature { r: part(r), vs: part(vs) }
    }
}

/// Who signed bytes as a personal message; `None` when nobody can have.
#[must_use]
pub fn message_signer(bytes: &[u8], signature: &CompactSignature) -> Option<Address> {
    let mut compact = [0; 64];
    let (r, vs) = compact.split_at_mut(32);
    r.copy_from_slice(&signature.r);
    vs.copy_from_slice(&signature.vs);
    let signature = Signature::from_erc2098(&compact);
    signature.recover_address_from_prehash(&eip191_hash_message(bytes)).ok().map(from_evm)
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
