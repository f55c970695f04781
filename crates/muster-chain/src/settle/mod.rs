//! The settlement client: reads the contracts, sends transactions with care, signs vouchers.
//!
//! It speaks plain JSON-RPC, so the embedded chain and Arbitrum are the same to it.
//!
//! - [`ChainClient`] reads.
//! - [`TxSender`] sends: every intent has a key, is written to a durable outbox before it leaves, and
//!   is sent until the chain has decided; asking again with the same key never pays twice.
//! - [`Settlement`] is what nodes and consumers use: typed operations over both, where opening and
//!   settling many leases at once shares transactions.
//! - [`TokenDomain`] signs and checks transfers of tokens that somebody else brings.
//! - [`VoucherDomain`] signs and checks vouchers.

mod authorized;
mod batcher;
mod client;
mod gas;
mod groups;
mod operations;
mod outbox;
mod reverts;
mod rpc;
mod sender;
mod transaction;
mod types;
mod voucher;

pub use authorized::{Authorization, Moved, SignedAuthorization, TokenDomain, compact_signature, long_signature};
pub use client::{ChainClient, Claimable, EventPage};
pub use groups::SettlementError;
pub(crate) use groups::fresh;
pub use operations::Settlement;
pub use outbox::OutboxError;
pub use rpc::ClientError;
pub(crate) use rpc::{Rpc, install_crypto_provider};
pub use sender::{SendError, SenderConfig, TxSender};
pub use transaction::{Call, MinedTx, TxId, TxOutcome};
pub(crate) use transaction::{Fees, sign};
pub use types::{
    ChainEvent, LeaseOnChain, LeaseStatus, NodeKind, NodeOnChain, NodeStatus, OpenLease, Registration, SettleEntry,
    SettleResult, SkipReason,
};
pub use voucher::{VoucherDomain, VoucherError};
