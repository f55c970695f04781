//! What a Container needs of the chain.

use std::fmt;

use futures::future::BoxFuture;
use muster_core::ids::{Address, LeaseId, NodeId};
use muster_core::protocol::EscrowLease;
use muster_core::units::TokenAmount;
use muster_core::voucher::{CompactSignature, SignedVoucher};

/// The chain did not answer, or not so that the answer can be believed. Never to be read as "no".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// Unknown for now: ask again.
    #[error("{0}")]
    Unknown(String),
    /// The chain has said no, for good; the sentence says why and what to do.
    #[error("{0}")]
    Refused(String),
}

/// Whether the registry lets this Container work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Registered, with enough stake.
    Active {
        /// The stake that counts.
        stake: TokenAmount,
    },
    /// Slashed below the least stake.
    Jailed {
        /// The stake that is left.
        stake: TokenAmount,
    },
    /// Its owner has taken it out.
    Left,
    /// Not registered.
    Absent,
    /// Registered by another wallet, or as another kind of node.
    NotOurs {
        /// What is wrong, as a sentence.
        why: String,
    },
}

impl Standing {
    /// Why no work may be taken; `None` in good standing.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        match self {
            Self::Active { .. } => None,
            Self::Jailed { stake } => {
                Some(format!("its stake was slashed to {stake}; it is jailed until the owner tops it up"))
            }
            Self::Left => Some("its owner has taken it out of the registry".to_owned()),
            Self::Absent => Some("it is not registered".to_owned()),
            Self::NotOurs { why } => Some(why.clone()),
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Active { .. } => "active",
            Self::Jailed { .. } => "jailed",
            Self::Left => "left",
            Self::Absent => "not registered",
            Self::NotOurs { .. } => "not ours",
        })
    }
}

/// What became of a settlement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// The lease is closed.
    Closed {
        /// Paid out in all.
        redeemed: TokenAmount,
        /// Given back.
        refunded: TokenAmount,
        /// The transaction.
        tx: Option<[u8; 32]>,
    },
    /// The escrow will never take this voucher. What is left to do is to close without it.
    Worthless {
        /// Why, as a sentence.
        why: String,
    },
    /// The escrow skipped the lease: it is closed already, or not there.
    Skipped,
}

/// What the owner has earned and can claim.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Earnings {
    /// Can be claimed now.
    pub claimable: TokenAmount,
    /// Can be claimed after its delay.
    pub pending: TokenAmount,
}

/// The chain as a Container sees it.
pub trait Ledger: fmt::Debug + Send + Sync + 'static {
    /// Many leases as the escrow has them, in the order of `leases`.
    fn leases(&self, leases: Vec<LeaseId>) -> BoxFuture<'_, Result<Vec<EscrowLease>, LedgerError>>;

    /// Hands in the last voucher, if any, and closes the lease. Asked again for the same lease, it pays once.
    fn settle(&self, lease: LeaseId, voucher: Option<SignedVoucher>) -> BoxFuture<'_, Result<Settled, LedgerError>>;

    /// Where this Container stands in the registry.
    fn standing(&self) -> BoxFuture<'_, Result<Standing, LedgerError>>;

    /// Registers this Container with its stake from the owner's wallet.
    fn register(&self, endpoint: String) -> BoxFuture<'_, Result<(), LedgerError>>;

    /// Tells the registry where this Container is reached and what its cards are, where that has changed.
    fn announce(&self, endpoint: String) -> BoxFuture<'_, Result<(), LedgerError>>;

    /// The Checkers in good standing.
    fn checkers(&self) -> BoxFuture<'_, Result<Vec<NodeId>, LedgerError>>;

    /// Takes this Container out of the registry; the stake comes back after the unbonding time.
    fn leave(&self) -> BoxFuture<'_, Result<(), LedgerError>>;

    /// What the owner has earned.
    fn earnings(&self) -> BoxFuture<'_, Result<Earnings, LedgerError>>;

    /// Who gets paid.
    fn owner(&self) -> Address;

    /// Who signed a voucher; `None` when nobody can have.
    fn voucher_signer(&self, voucher: &SignedVoucher) -> Option<Address>;

    /// Who signed bytes as a personal message (EIP-191); `None` when nobody can have.
    fn message_signer(&self, bytes: &[u8], signature: CompactSignature) -> Option<Address>;

    /// The Container goes down: let go of everything that another process may need.
    fn close(&self) -> BoxFuture<'_, ()>;
}
