//! What renting needs of the chain.

use std::fmt;

use futures::future::BoxFuture;
use muster_core::ids::{Address, LeaseId};
use muster_core::lease::LeaseTerms;
use muster_core::protocol::EscrowLease;
use muster_core::units::TokenAmount;
use muster_core::voucher::{SignedVoucher, Voucher};
use tokio::sync::oneshot;

use crate::session::SessionKey;

/// Why the chain did not do or say what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// Unknown for now: it may have happened, or may still. Never to be read as "no"; ask again.
    #[error("{0}")]
    Unknown(String),
    /// The chain, or this side before it was sent, has said no for good; nothing was paid.
    #[error("{0}")]
    Refused(String),
    /// This process holds no wallet: only who does can ask for that.
    #[error("this needs the wallet: {0}")]
    NoWallet(&'static str),
}

/// The escrow and the token, as a consumer uses them. Clones of what implements it share one connection.
pub trait Ledger: fmt::Debug + Send + Sync + 'static {
    /// The wallet that pays; `None` in a process that holds none (the agent).
    fn consumer(&self) -> Option<Address>;

    /// The name that the escrow will give to a lease of `consumer` with this salt.
    fn lease_id(&self, consumer: Address, salt: [u8; 32]) -> LeaseId;

    /// A lease as the escrow has it; of status `None` where it was never opened.
    fn lease(&self, lease: LeaseId) -> BoxFuture<'_, Result<EscrowLease, LedgerError>>;

    /// Opens a lease with its agreed deposit; done when it is in a block. Asked again for the same lease, it pays
    /// once. `sent` hears when the transaction is written down and on its way: from then on it is sent until the chain
    /// has decided. It is dropped where that is never known.
    fn open(&self, terms: LeaseTerms, sent: oneshot::Sender<()>) -> BoxFuture<'_, Result<(), LedgerError>>;

    /// Adds to a deposit. `intent` names this wish: asked again with the same, it pays once.
    fn top_up(&self, lease: LeaseId, amount: TokenAmount, intent: String) -> BoxFuture<'_, Result<(), LedgerError>>;

    /// Hands a lease's last voucher to the escrow, as anybody may; done when it is in a block. Refused where nothing is
    /// left to be paid: its Container has redeemed it, or the lease is closed.
    fn redeem(&self, voucher: SignedVoucher) -> BoxFuture<'_, Result<(), LedgerError>>;

    /// Closes a lease as its consumer; the challenge window begins.
    fn close(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), LedgerError>>;

    /// Ends a lease whose challenge window is over.
    fn finalize(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), LedgerError>>;

    /// Tokens in the wallet.
    fn balance(&self) -> BoxFuture<'_, Result<TokenAmount, LedgerError>>;

    /// Signs a voucher with a lease's session key.
    fn sign_voucher(&self, key: &SessionKey, voucher: Voucher) -> SignedVoucher;
}
