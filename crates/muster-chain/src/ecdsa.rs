//! Signatures of secp256k1: the compact form, and who signed.

use alloy::primitives::{Address, B256, Signature, U256, uint};
use muster_core::voucher::CompactSignature;

/// Half the order of the curve: a signature whose `s` is above it is the malleable twin of another (EIP-2).
const HALF_ORDER: U256 = uint!(0x7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0_U256);

/// The address whose key signed `digest`; `None` for a signature that a chain would not accept.
///
/// By libsecp256k1, which the EVM links anyway: several times faster than a pure Rust recovery.
pub(crate) fn recover(signature: &Signature, digest: B256) -> Option<Address> {
    let (r, s) = (signature.r(), signature.s());
    if s > HALF_ORDER || r.is_zero() || s.is_zero() {
        return None;
    }
    let mut rs = [0u8; 64];
    rs[..32].copy_from_slice(&r.to_be_bytes::<32>());
    rs[32..].copy_from_slice(&s.to_be_bytes::<32>());
    let word = revm::precompile::crypto().secp256k1_ecrecover(&rs, u8::from(signature.v()), &digest.0).ok()?;
    Some(Address::from_slice(&word[12..]))
}

/// The compact form (EIP-2098), with a low `s`.
pub(crate) fn compact(signature: Signature) -> CompactSignature {
    let bytes = signature.normalized_s().as_erc2098();
    let (mut r, mut vs) = ([0; 32], [0; 32]);
    r.copy_from_slice(&bytes[..32]);
    vs.copy_from_slice(&bytes[32..]);
    CompactSignature { r, vs }
}

/// From the compact form.
pub(crate) fn expand(signature: &CompactSignature) -> Signature {
    let mut bytes = [0; 64];
    bytes[..32].copy_from_slice(&signature.r);
    bytes[32..].copy_from_slice(&signature.vs);
    Signature::from_erc2098(&bytes)
}
