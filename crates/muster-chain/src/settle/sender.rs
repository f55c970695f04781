//! Sending transactions with care.
//!
//! [`TxSender`] is the handle that others hold; [`TxSender::run`] is the one task that owns nonces.
//! An intent goes through: asked (its gas estimated, fees known; not asked again for what is known) → written, signed, to the outbox with
//! its nonce → sent → in a block. What was written is sent until the chain has decided, across
//! restarts; what the chain refuses before that was never written, and cost no nonce.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use muster_core::ids::Address;
use tokio::sync::{Notify, mpsc, oneshot};

use super::client::ChainClient;
use super::outbox::{KEY_BYTES_MAX, Outbox, OutboxError, Owner, Record, State, StoredCall};
use super::rpc::ClientError;
use super::transaction::{Call, TxOutcome};
use crate::keys::Wallet;
use driver::Driver;

mod driver;
mod receipt;
mod stages;

/// Intents that wait to be looked at, at most.
const COMMANDS_MAX: usize = 1_024;

/// Patience of a sender.
#[derive(Clone, Debug)]
pub struct SenderConfig {
    /// After this long without an outcome, `submit` answers `Unknown`; the sending goes on.
    pub answer_within: Duration,
    /// First and longest pause between two looks at what is pending.
    pub poll: (Duration, Duration),
    /// What is not in a block after this long is sent again, unchanged.
    pub resend_after: Duration,
    /// The oldest transaction is replaced by one that pays more when it has been stuck for this long.
    pub stuck_after: Duration,
    /// A transaction without a receipt whose nonce has been used for this long counts as displaced.
    pub displaced_after: Duration,
    /// Never pay more than this, in wei per gas.
    pub fee_max: u128,
}

impl Default for SenderConfig {
    fn default() -> Self {
        Self {
            answer_within: Duration::from_secs(20),
            poll: (Duration::from_millis(100), Duration::from_secs(2)),
            resend_after: Duration::from_secs(3),
            stuck_after: Duration::from_secs(45),
            displaced_after: Duration::from_secs(60),
            fee_max: 1_000_000_000_000,
        }
    }
}

/// Where the gas limits of groups come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GasLimits {
    /// From what they hold: on the embedded chain, whose gas is execution and nothing else.
    Computed,
    /// From the node: elsewhere gas may also pay for the data on another chain (Arbitrum), or be counted by other rules.
    Estimated,
}

impl GasLimits {
    /// The limit of a call whose worst case is known; `None` has the node asked.
    pub(crate) const fn computed(self, limit: u64) -> Option<u64> {
        match self {
            Self::Computed => Some(limit),
            Self::Estimated => None,
        }
    }
}

/// Why an intent was not carried out.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SendError {
    /// The chain says beforehand that it would fail. Nothing was sent or paid.
    #[error("{0}")]
    WouldFail(String),
    /// The account cannot pay for it. Nothing was sent or paid.
    #[error("account {account} has {have_wei} wei of ether, sending this needs up to {need_wei} wei")]
    InsufficientFunds {
        /// The account.
        account: Address,
        /// What it has, in wei.
        have_wei: u128,
        /// What is needed, in wei.
        need_wei: u128,
    },
    /// The chain does not answer. Nothing was sent or paid.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The outbox failed.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// The key names another call already.
    #[error("the intent {key:?} was used for another call already")]
    KeyReused {
        /// The key.
        key: String,
    },
    /// The key is empty or too long.
    #[error("an intent's key has 1 to {KEY_BYTES_MAX} bytes, this one {len}")]
    BadKey {
        /// Its length.
        len: usize,
    },
    /// Another transaction took its nonce: it was never carried out, and never will be.
    #[error(
        "transaction {nonce} of account {account} was displaced by another one: is the wallet used elsewhere? It had no effect"
    )]
    Superseded {
        /// The account.
        account: Address,
        /// The nonce.
        nonce: u64,
    },
    /// The sender is not running (any more). What was written goes on at the next start.
    #[error("the sender of transactions has stopped; what it had written is sent at the next start")]
    Stopped,
}

/// What a submit was answered.
pub(crate) type Answer = Result<TxOutcome, SendError>;

/// An intent on its way to the driver.
#[derive(Debug)]
pub(crate) struct Command {
    /// All names of the intent. The first one alone may be known already, and then the command waits for its outcome.
    pub(crate) keys: Vec<String>,
    pub(crate) call: Call,
    pub(crate) reply: oneshot::Sender<Answer>,
}

impl Command {
    pub(crate) fn answer(self, answer: Answer) {
        // The asker may have gone away; the outbox keeps the outcome.
        let _ = self.reply.send(answer);
    }
}

/// Sends one account's transactions. Clones share it; one process per account and chain.
#[derive(Clone, Debug)]
pub struct TxSender {
    inner: Arc<Inner>,
    commands: mpsc::Sender<Command>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) wallet: Wallet,
    pub(crate) client: ChainClient,
    pub(crate) outbox: Outbox,
    pub(crate) config: SenderConfig,
    limits: GasLimits,
    /// Something was written to the outbox.
    written: Notify,
    receiver: Mutex<Option<mpsc::Receiver<Command>>>,
}

impl TxSender {
    /// Opens the outbox in `dir`. Nothing is sent until [`TxSender::run`] runs.
    ///
    /// # Errors
    /// The chain does not answer, or the outbox cannot be used.
    pub async fn open(
        dir: &Path,
        wallet: Wallet,
        client: ChainClient,
        config: SenderConfig,
    ) -> Result<Self, SendError> {
        let (genesis, is_embedded) = client.genesis().await?;
        let limits = if is_embedded { GasLimits::Computed } else { GasLimits::Estimated };
        let owner = Owner { account: wallet.address(), chain_id: client.chain_id(), genesis };
        let outbox = Outbox::open(dir, &owner)?;
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let receiver = Mutex::new(Some(receiver));
        let written = Notify::new();
        Ok(Self { inner: Arc::new(Inner { wallet, client, outbox, config, limits, written, receiver }), commands })
    }

    /// The account.
    #[must_use]
    pub fn address(&self) -> Address {
        self.inner.wallet.address()
    }

    /// The account's key.
    #[must_use]
    pub fn wallet(&self) -> &Wallet {
        &self.inner.wallet
    }

    /// The chain it sends to.
    #[must_use]
    pub fn client(&self) -> &ChainClient {
        &self.inner.client
    }

    /// Where the gas limits of groups come from on this chain.
    pub(crate) fn limits(&self) -> GasLimits {
        self.inner.limits
    }

    /// Carries out what is submitted, beginning with what an earlier run left, until `shutdown` is
    /// ready. May be called once; everything else of the sender waits for it.
    ///
    /// # Errors
    /// The outbox failed (a full disk): everybody who waits is told, and nothing more is sent.
    pub async fn run(&self, shutdown: impl Future<Output = ()> + Send) -> Result<(), SendError> {
        let receiver = self.inner.receiver.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(receiver) = receiver else { return Err(SendError::Stopped) };
        let mut driver = Driver::start(Arc::clone(&self.inner)).await?;
        let result = driver.run(receiver, shutdown).await;
        driver.stop();
        result
    }

    /// Carries out `call` once, whatever happens: the same key never leads to a second transaction.
    ///
    /// Returns when it is in a block, or `Unknown` after `answer_within`; then the sending goes on, and
    /// the same submit again waits for it. Submits do not wait for one another.
    ///
    /// # Errors
    /// See [`SendError`]: apart from `Superseded` and `Stopped`, nothing was sent or paid.
    pub async fn submit(&self, key: &str, call: Call) -> Answer {
        self.submit_many(vec![key.to_owned()], call).await
    }

    /// As [`TxSender::submit`], for one call that carries out several intents.
    pub(crate) async fn submit_many(&self, keys: Vec<String>, call: Call) -> Answer {
        if let Some(bad) = keys.iter().find(|key| key.is_empty() || key.len() > KEY_BYTES_MAX) {
            return Err(SendError::BadKey { len: bad.len() });
        }
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command { keys, call, reply }).await.map_err(|_| SendError::Stopped)?;
        answer.await.unwrap_or(Err(SendError::Stopped))
    }

    /// Waits until an intent is written down and not known to have failed. Never comes back where that does not happen.
    pub(crate) async fn written(&self, key: &str) {
        loop {
            let mut news = std::pin::pin!(self.inner.written.notified());
            // What is written between the look and the wait is news as well.
            news.as_mut().enable();
            let found = self.inner.outbox.find(key).ok().flatten();
            if found.is_some_and(|r| matches!(r.state, State::Pending | State::Mined { revert: None, .. })) {
                return;
            }
            news.await;
        }
    }

    /// What the outbox knows of an intent.
    pub(crate) fn find(&self, key: &str) -> Result<Option<Record>, SendError> {
        Ok(self.inner.outbox.find(key)?)
    }

    /// Waits for the outcome of an intent that was written earlier; `None` if it never was.
    ///
    /// # Errors
    /// As [`TxSender::submit`].
    pub async fn outcome(&self, key: &str) -> Result<Option<TxOutcome>, SendError> {
        let Some(record) = self.inner.outbox.find(key)? else { return Ok(None) };
        match &record.state {
            State::Pending => {
                let call = record.call.as_ref().map_or_else(|| Call::create(Vec::new()), StoredCall::to_call);
                self.submit(key, call).await.map(Some)
            }
            State::Mined { .. } | State::Superseded => {
                receipt::remembered(self.inner.wallet.address(), &record).map(Some)
            }
        }
    }
}
