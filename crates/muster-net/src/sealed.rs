//! Words for one node alone: sealed to its key, so that whoever carries them can neither read nor change them.
//!
//! HPKE (RFC 9180) in base mode, of one message: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20Poly1305. A node's
//! X25519 key is its Ed25519 key by the birational map (RFC 7748, section 4.1), as `ed25519-dalek` gives it: so a node
//! publishes nothing more than its name. Who sealed something is not told by it.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use muster_core::ids::NodeId;

use crate::key::NodeSecret;

/// Bytes that sealing adds: the sender's key and the tag.
pub const SEALED_MORE: usize = KEY + TAG;
const KEY: usize = 32;
const TAG: usize = 16;
const HASH: usize = 32;

/// The key encapsulation, and the whole suite, as the RFC writes them.
const KEM: &[u8] = b"KEM\x00\x20";
const SUITE: &[u8] = b"HPKE\x00\x20\x00\x01\x00\x03";
/// An empty salt, as HMAC pads it.
const NO_SALT: &[u8] = &[0; HASH];

/// Why something is not sealed, or cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// A name that is no key.
    #[error("nothing can be sealed to node {}: its name is no key", .0.short())]
    NoKey(NodeId),
    /// Somebody else's, or changed on the way.
    #[error("this was not sealed to this node for this purpose, or it was changed on the way")]
    NotMine,
}

/// Seals words to a node. `context` and `bound` are not in it, and who opens it must say the same.
///
/// # Errors
/// The node's name is no key.
pub fn seal(to: NodeId, context: &'static str, bound: &[u8], words: &[u8]) -> Result<Vec<u8>, SealError> {
    let public = x25519_of(to)?;
    let own = PrivateKey::generate(&X25519).map_err(|_| SealError::NoKey(to))?;
    seal_with(&own, &public, context.as_bytes(), bound, words).ok_or(SealError::NoKey(to))
}

fn seal_with(own: &PrivateKey, to: &[u8; KEY], info: &[u8], bound: &[u8], words: &[u8]) -> Option<Vec<u8>> {
    let mut sealed = own.compute_public_key().ok()?.as_ref().to_vec();
    let (key, nonce) = schedule(own, to, &sealed, to, info)?;
    let mut text = words.to_vec();
    key.seal_in_place_append_tag(nonce, Aad::from(bound), &mut text).ok()?;
    sealed.append(&mut text);
    Some(sealed)
}

impl NodeSecret {
    /// Opens what was sealed to this node for this purpose.
    ///
    /// # Errors
    /// It was not, or it was changed.
    pub fn open(&self, context: &'static str, bound: &[u8], sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let own = PrivateKey::from_private_key(&X25519, &self.quic().as_signing_key().to_scalar_bytes());
        let own = own.map_err(|_| SealError::NotMine)?;
        let public = x25519_of(self.id())?;
        open_with(&own, &public, context.as_bytes(), bound, sealed).ok_or(SealError::NotMine)
    }
}

fn open_with(own: &PrivateKey, public: &[u8; KEY], info: &[u8], bound: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (sender, text) = sealed.split_at_checked(KEY)?;
    let (key, nonce) = schedule(own, sender.try_into().ok()?, sender, public, info)?;
    let mut text = text.to_vec();
    let words = key.open_in_place(nonce, Aad::from(bound), &mut text).ok()?;
    Some(words.to_vec())
}

/// The key and the nonce of the only message.
fn schedule(
    own: &PrivateKey,
    peer: &[u8; KEY],
    sender: &[u8],
    receiver: &[u8],
    info: &[u8],
) -> Option<(LessSafeKey, Nonce)> {
    let peer = UnparsedPublicKey::new(&X25519, peer.as_slice());
    // A key of small order gives nothing and is refused there.
    let secret = agree(own, peer, (), |secret| Ok(extract(KEM, NO_SALT, b"eae_prk", secret))).ok()?;
    let shared: [u8; HASH] = expand(KEM, &secret, b"shared_secret", &[sender, receiver].concat())?;
    let (no_id, info) = (extract(SUITE, NO_SALT, b"psk_id_hash", b""), extract(SUITE, NO_SALT, b"info_hash", info));
    let context = [&[0], no_id.as_slice(), &info].concat();
    let secret = extract(SUITE, &shared, b"secret", b"");
    let key: [u8; KEY] = expand(SUITE, &secret, b"key", &context)?;
    let nonce: [u8; 12] = expand(SUITE, &secret, b"base_nonce", &context)?;
    let key = UnboundKey::new(&CHACHA20_POLY1305, &key).ok()?;
    Some((LessSafeKey::new(key), Nonce::assume_unique_for_key(nonce)))
}

fn extract(suite: &[u8], salt: &[u8], label: &[u8], ikm: &[u8]) -> [u8; HASH] {
    let mut out = [0; HASH];
    let tag = hmac::sign(&hmac::Key::new(HMAC_SHA256, salt), &[b"HPKE-v1", suite, label, ikm].concat());
    out.copy_from_slice(tag.as_ref());
    out
}

/// Of at most one block.
fn expand<const N: usize>(suite: &[u8], prk: &[u8], label: &[u8], info: &[u8]) -> Option<[u8; N]> {
    let len = u16::try_from(N).ok()?.to_be_bytes();
    let block = [len.as_slice(), b"HPKE-v1", suite, label, info, &[1]].concat();
    let tag = hmac::sign(&hmac::Key::new(HMAC_SHA256, prk), &block);
    tag.as_ref().get(..N)?.try_into().ok()
}

fn x25519_of(node: NodeId) -> Result<[u8; KEY], SealError> {
    let key = iroh::PublicKey::from_bytes(&node.0).map_err(|_| SealError::NoKey(node))?;
    Ok(key.as_verifying_key().to_montgomery().to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
        let bytes: Vec<u8> = (0..text.len()).step_by(2).map(digit).collect();
        bytes.try_into().unwrap()
    }

    /// RFC 9180, appendix A.2.1.
    #[test]
    fn it_is_hpke() {
        let own = hex::<32>("8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb");
        let public = hex::<32>("4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c59662a");
        let sender = hex::<32>("1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a");
        let text =
            hex::<45>("1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28");
        let own = PrivateKey::from_private_key(&X25519, &own).unwrap();
        let sealed = [sender.as_slice(), &text].concat();
        let words = open_with(&own, &public, b"Ode on a Grecian Urn", b"Count-0", &sealed).unwrap();
        assert_eq!(words, b"Beauty is truth, truth beauty");
    }

    #[test]
    fn only_the_node_opens_it_and_only_for_its_purpose() {
        let (node, other) = (NodeSecret::generate(), NodeSecret::generate());
        let sealed = seal(node.id(), "token", b"lease", b"secret").unwrap();
        assert_eq!(sealed.len(), b"secret".len() + SEALED_MORE);
        assert_eq!(node.open("token", b"lease", &sealed).unwrap(), b"secret");
        assert_ne!(seal(node.id(), "token", b"lease", b"secret").unwrap(), sealed, "each has a key of its own");
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        assert_eq!(other.open("token", b"lease", &sealed), Err(SealError::NotMine));
        assert_eq!(node.open("other", b"lease", &sealed), Err(SealError::NotMine));
        assert_eq!(node.open("token", b"leash", &sealed), Err(SealError::NotMine));
        for at in [0, 31, 32, sealed.len() - 1] {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(node.open("token", b"lease", &changed).is_err(), "{at}");
        }
        for short in [0, 31, 32, 47] {
            assert!(node.open("token", b"lease", &sealed[..short]).is_err(), "{short}");
        }
        // Keys of small order are no names of nodes that anything is sealed to.
        let low =
            NodeId([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert!(seal(low, "token", b"", b"secret").is_err());
    }
}
