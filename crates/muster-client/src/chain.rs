//! The chain as a consumer uses it, over the settlement client.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use muster_chain::contracts::Contracts;
use muster_chain::keys::Wallet;
use muster_chain::settle::{
    ChainClient, ClientError, LeaseOnChain, OpenLease, OutboxError, SendError, SenderConfig, Settlement,
    SettlementError, SignedAuthorization, TxId, TxSender,
};
use muster_core::ids::{Address, LeaseId};
use muster_core::lease::LeaseTerms;
use muster_core::protocol::EscrowLease;
use muster_core::units::TokenAmount;
use muster_core::voucher::{SignedVoucher, Voucher};
use tokio::sync::{Mutex, Notify, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::ledger::{Ledger, LedgerError};
use crate::network::Network;
use crate::session::SessionKey;

/// How long one operation waits for another process that uses the same wallet.
const WALLET_WITHIN: Duration = Duration::from_secs(30);
/// The wallet's outbox is given free for other processes after so long without use.
const IDLE: Duration = Duration::from_millis(500);
/// A process that never pauses lets others that wait have the wallet this often.
const TURN: Duration = Duration::from_secs(5);
/// Between two tries to have an outbox that another process holds: this, and as much again at random.
const AGAIN_MS: u64 = 100;
/// Between giving the outbox up for somebody who waits and asking for it again: longer than the waiting one pauses.
const YIELD: Duration = Duration::from_millis(300);
/// Held (shared flock) by every process that waits for the outbox beside it.
const WAITING: &str = "waiting";

impl From<crate::network::Contracts> for Contracts {
    fn from(c: crate::network::Contracts) -> Self {
        Self { token: c.token, registry: c.registry, escrow: c.escrow }
    }
}

/// The chain, with or without a wallet. Several processes may use one wallet: its outbox is opened when something is
/// sent and given free soon after.
#[derive(Debug)]
pub struct ChainLedger {
    client: ChainClient,
    wallet: Option<Wallet>,
    outbox: PathBuf,
    desk: Arc<Mutex<Desk>>,
    /// Operations under way. Grows under the desk's lock only.
    users: Arc<AtomicUsize>,
    freed: Arc<Notify>,
}

/// Who sends, while somebody needs it.
#[derive(Debug, Default)]
struct Desk {
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    settlement: Settlement,
    stop: CancellationToken,
    task: JoinHandle<()>,
    since: Instant,
}

/// One use of the desk; dropped when it is over, also when whoever waited for it was stopped.
#[derive(Debug)]
struct Turn {
    settlement: Option<Settlement>,
    users: Arc<AtomicUsize>,
    freed: Arc<Notify>,
    desk: Arc<Mutex<Desk>>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        drop(self.settlement.take());
        if self.users.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        self.freed.notify_waiters();
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (desk, users) = (Arc::clone(&self.desk), Arc::clone(&self.users));
        // Whoever comes within the idle time finds it open; after that other processes do.
        runtime.spawn(async move {
            tokio::time::sleep(IDLE).await;
            let mut desk = desk.lock().await;
            if users.load(Ordering::Acquire) == 0
                && let Some(open) = desk.open.take()
            {
                open.close().await;
            }
        });
    }
}

impl Open {
    async fn close(self) {
        self.stop.cancel();
        drop(self.settlement);
        if let Err(error) = self.task.await {
            tracing::warn!(%error, "the sender of transactions failed");
        }
    }
}

impl ChainLedger {
    /// Connects to the network's chain. `data` is the consumer's folder; the wallet's outbox lies in it.
    ///
    /// # Errors
    /// Nobody answers, or it is another chain.
    pub async fn connect(network: &Network, wallet: Option<Wallet>, data: &Path) -> Result<Self, ClientError> {
        let client = ChainClient::connect(&network.chain.rpc, network.chain.id, network.contracts.into()).await?;
        let owner = wallet.as_ref().map(|w| hex::encode(w.address().0)).unwrap_or_default();
        let outbox = data.join("outbox").join(format!("{}-{owner}", network.fingerprint()));
        Ok(Self { client, wallet, outbox, desk: Arc::default(), users: Arc::default(), freed: Arc::default() })
    }

    /// The settlement client, for reading.
    #[must_use]
    pub const fn client(&self) -> &ChainClient {
        &self.client
    }

    /// Brings a transfer of tokens that somebody else has signed; done when it is in a block. Asked again for the same
    /// one, it is brought once.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub async fn bring_authorized(&self, signed: SignedAuthorization) -> Result<TxId, LedgerError> {
        let act = |s: Settlement| async move { s.bring_authorized(&signed).await };
        self.with_wallet("taking a payment", act).await.map(|mined| mined.tx)
    }

    /// Does something with the wallet's sender, waiting for its turn.
    async fn with_wallet<T, F>(&self, what: &'static str, act: impl FnOnce(Settlement) -> F) -> Result<T, LedgerError>
    where
        F: Future<Output = Result<T, SettlementError>>,
    {
        let turn = self.take_turn(what).await?;
        let settlement = turn.settlement.clone().ok_or(LedgerError::NoWallet(what))?;
        let done = act(settlement).await.map_err(refused_or_unknown);
        drop(turn);
        done
    }

    async fn take_turn(&self, what: &'static str) -> Result<Turn, LedgerError> {
        let wallet = self.wallet.clone().ok_or(LedgerError::NoWallet(what))?;
        let until = Instant::now() + WALLET_WITHIN;
        loop {
            let freed = self.freed.notified();
            {
                let mut desk = self.desk.lock().await;
                if let Some(open) = desk.open.as_mut().filter(|open| open.since.elapsed() > TURN)
                    && !self.others_wait()
                {
                    open.since = Instant::now();
                }
                let over = desk.open.as_ref().is_none_or(|open| open.since.elapsed() > TURN);
                if over && self.users.load(Ordering::Acquire) == 0 {
                    if let Some(open) = desk.open.take() {
                        open.close().await;
                        tokio::time::sleep(YIELD).await;
                    }
                    desk.open = Some(self.open_desk(&wallet, until).await?);
                }
                if let Some(open) = desk.open.as_ref().filter(|open| open.since.elapsed() <= TURN) {
                    self.users.fetch_add(1, Ordering::AcqRel);
                    return Ok(Turn {
                        settlement: Some(open.settlement.clone()),
                        users: Arc::clone(&self.users),
                        freed: Arc::clone(&self.freed),
                        desk: Arc::clone(&self.desk),
                    });
                }
            }
            freed.await;
        }
    }

    /// Whether another process waits for the wallet. Where that cannot be seen, it is let have its turn.
    fn others_wait(&self) -> bool {
        match File::options().read(true).write(true).open(self.outbox.join(WAITING)) {
            Ok(file) => file.try_lock().is_err(),
            Err(error) => error.kind() != std::io::ErrorKind::NotFound,
        }
    }

    /// Shows others that this process waits, until it is dropped.
    fn wait_in_line(&self) -> Option<File> {
        let path = self.outbox.join(WAITING);
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path).ok()?;
        // Held alone only for the moment in which somebody looks: then at the next try.
        file.try_lock_shared().ok().map(|()| file)
    }

    async fn open_desk(&self, wallet: &Wallet, until: Instant) -> Result<Open, LedgerError> {
        let mut waiting = None;
        loop {
            let opened =
                TxSender::open(&self.outbox, wallet.clone(), self.client.clone(), SenderConfig::default()).await;
            match opened {
                Ok(sender) => {
                    let stop = CancellationToken::new();
                    let task = tokio::spawn({
                        let (sender, stop) = (sender.clone(), stop.clone());
                        async move {
                            if let Err(error) = sender.run(stop.cancelled_owned()).await {
                                tracing::warn!(%error, "the sender of transactions stopped");
                            }
                        }
                    });
                    return Ok(Open { settlement: Settlement::new(sender), stop, task, since: Instant::now() });
                }
                Err(SendError::Outbox(OutboxError::Busy { .. })) if Instant::now() < until => {
                    waiting = waiting.or_else(|| self.wait_in_line());
                    let pause = AGAIN_MS + rand::random::<u64>() % AGAIN_MS;
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
                Err(SendError::Outbox(busy @ OutboxError::Busy { .. })) => {
                    return Err(LedgerError::Unknown(busy.to_string()));
                }
                Err(error) => return Err(refused_or_unknown(error.into())),
            }
        }
    }
}

/// What was not sent, or failed, is refused; everything else is unknown, and never "no".
fn refused_or_unknown(error: SettlementError) -> LedgerError {
    let text = error.to_string();
    match error {
        SettlementError::Failed { .. } => LedgerError::Refused(text),
        SettlementError::Unknown { .. } => LedgerError::Unknown(text),
        SettlementError::Client(client) => by_client(&client, text),
        SettlementError::Send(send) => match send {
            SendError::Client(client) => by_client(&client, text),
            SendError::Stopped | SendError::Outbox(OutboxError::Busy { .. }) => LedgerError::Unknown(text),
            SendError::WouldFail(_)
            | SendError::InsufficientFunds { .. }
            | SendError::Outbox(_)
            | SendError::KeyReused { .. }
            | SendError::BadKey { .. }
            | SendError::Superseded { .. } => LedgerError::Refused(text),
        },
    }
}

fn by_client(error: &ClientError, text: String) -> LedgerError {
    match error {
        ClientError::BadUrl { .. }
        | ClientError::WrongChain { .. }
        | ClientError::NoContract { .. }
        | ClientError::Reverted(_) => LedgerError::Refused(text),
        ClientError::Unreachable { .. } | ClientError::Refused { .. } | ClientError::BadAnswer { .. } => {
            LedgerError::Unknown(text)
        }
    }
}

/// Opens a lease, and tells when the transaction is on its way.
async fn open_telling(
    settlement: Settlement,
    open: OpenLease,
    sent: oneshot::Sender<()>,
) -> Result<(LeaseId, TxId), SettlementError> {
    let teller = settlement.clone();
    let mut opening = std::pin::pin!(settlement.open_lease(open));
    tokio::select! {
        biased;
        opened = &mut opening => return opened,
        () = teller.open_lease_sent(&open) => {}
    }
    // Whoever asked may have gone.
    sent.send(()).ok();
    opening.await
}

impl Ledger for ChainLedger {
    fn consumer(&self) -> Option<Address> {
        self.wallet.as_ref().map(Wallet::address)
    }

    fn lease_id(&self, consumer: Address, salt: [u8; 32]) -> LeaseId {
        self.client.lease_id(consumer, salt)
    }

    fn lease(&self, lease: LeaseId) -> BoxFuture<'_, Result<EscrowLease, LedgerError>> {
        async move {
            let found = self.client.lease(lease).await;
            found.map(LeaseOnChain::escrow_view).map_err(|e| LedgerError::Unknown(e.to_string()))
        }
        .boxed()
    }

    fn open(&self, terms: LeaseTerms, sent: oneshot::Sender<()>) -> BoxFuture<'_, Result<(), LedgerError>> {
        async move {
            let open = OpenLease {
                salt: terms.salt,
                container: terms.container,
                indexer: terms.indexer,
                session_key: terms.session_key,
                deposit: terms.deposit,
                rate_per_second: terms.rate_per_second,
                max_seconds: terms.max_seconds,
            };
            let opened = self.with_wallet("opening a lease", |s| open_telling(s, open, sent)).await;
            opened.map(|_| ())
        }
        .boxed()
    }

    fn top_up(&self, lease: LeaseId, amount: TokenAmount, intent: String) -> BoxFuture<'_, Result<(), LedgerError>> {
        async move {
            let act = |s: Settlement| async move { s.top_up(&intent, lease, amount).await };
            self.with_wallet("adding to a deposit", act).await.map(|_| ())
        }
        .boxed()
    }

    fn redeem(&self, voucher: SignedVoucher) -> BoxFuture<'_, Result<(), LedgerError>> {
        async move {
            let act = |s: Settlement| async move { s.redeem(&voucher).await };
            self.with_wallet("paying what was vouched", act).await.map(|_| ())
        }
        .boxed()
    }

    fn close(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), LedgerError>> {
        async move {
            let act = |s: Settlement| async move { s.close_by_consumer(lease).await };
            self.with_wallet("closing a lease", act).await.map(|_| ())
        }
        .boxed()
    }

    fn finalize(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), LedgerError>> {
        async move {
            let act = |s: Settlement| async move { s.finalize(lease).await };
            self.with_wallet("closing a lease", act).await.map(|_| ())
        }
        .boxed()
    }

    fn balance(&self) -> BoxFuture<'_, Result<TokenAmount, LedgerError>> {
        async move {
            let wallet = self.consumer().ok_or(LedgerError::NoWallet("looking at its balance"))?;
            self.client.token_balance(wallet).await.map_err(|e| LedgerError::Unknown(e.to_string()))
        }
        .boxed()
    }

    fn sign_voucher(&self, key: &SessionKey, voucher: Voucher) -> SignedVoucher {
        self.client.vouchers().sign(key.wallet(), voucher)
    }
}
