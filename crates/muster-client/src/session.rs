//! Session keys: each signs the vouchers of one lease and is worth that lease's deposit.

use muster_chain::keys::Wallet;
use muster_core::ids::{Address, LeaseId, NodeId};
use muster_core::voucher::CompactSignature;
use muster_wire::message::attach_bytes;

use crate::store::SessionSecret;

/// A lease's key. `Debug` shows the address only.
#[derive(Clone, Debug)]
pub struct SessionKey(Wallet);

/// The bytes of a record are no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the session key in the lease's record is not a key")]
pub struct NotASessionKey;

impl SessionKey {
    /// A fresh one.
    #[must_use]
    pub fn random() -> Self {
        Self(Wallet::random())
    }

    /// The one that was written down.
    ///
    /// # Errors
    /// The bytes are no key.
    pub fn from_secret(secret: &SessionSecret) -> Result<Self, NotASessionKey> {
        Wallet::from_secret(secret.0).map(Self).map_err(|_| NotASessionKey)
    }

    /// What is written down.
    #[must_use]
    pub fn secret(&self) -> SessionSecret {
        SessionSecret(self.0.secret())
    }

    /// The account that the escrow knows it by.
    #[must_use]
    pub fn address(&self) -> Address {
        self.0.address()
    }

    /// The key as the chain's library has it.
    #[must_use]
    pub const fn wallet(&self) -> &Wallet {
        &self.0
    }

    /// Proves to a Container that the node `peer` speaks for this lease.
    #[must_use]
    pub fn attach_proof(&self, lease: LeaseId, container: NodeId, peer: NodeId) -> CompactSignature {
        self.0.sign_message(&attach_bytes(lease, container, peer))
    }
}
