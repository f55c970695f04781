//! The embedded chain: an EVM in this process over one database file, with Ethereum's JSON-RPC.
//!
//! Blocks are made on demand: whatever waits goes into the next block, and each block is one
//! durable commit. A transaction is answered only after its block is on disk, so a receipt that
//! anybody has seen survives a crash. Only the state of the latest block is kept.
//!
//! The header's `stateRoot` is a running hash over all state changes instead of a trie's root
//! (ADR 0003); every other field is what Ethereum puts there.

mod codec;
mod config;
mod error;
mod execute;
mod faucet;
mod mine;
mod pool;
pub(crate) mod rpc;
mod state;
mod store;
mod tx;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use alloy::primitives::B256;
use revm::primitives::KECCAK_EMPTY;
use tokio::task::JoinHandle;

pub use config::{BaseFee, ChainConfig};
pub use error::ChainError;
pub use faucet::{DevelopmentChain, open_development};
pub use rpc::RpcError;
pub use rpc::server::{ServerConfig, serve};
pub use tx::SignedTx;

use codec::AccountRecord;
use mine::{BlockError, Parking, make_block};
use pool::{Pending, Pool, Ticket};
use state::{Changes, HotCache};
use store::{Kind, Snapshot, StoreError, seal};

/// How long an answer is held back for a transaction whose earlier nonces have not come yet.
const PARKED_WAIT: Duration = Duration::from_secs(1);

/// An open embedded chain. Clones share it; the folder is released when the last one is dropped.
#[derive(Clone, Debug)]
pub struct Chain {
    shared: Arc<Shared>,
}

struct Shared {
    config: ChainConfig,
    path: PathBuf,
    db: redb::Database,
    snapshot: RwLock<Arc<Snapshot>>,
    pool: Mutex<Pool>,
    hot: Mutex<HotCache>,
    /// Why no more blocks are made, once writing has failed.
    failed: Mutex<Option<RpcError>>,
    /// Whoever makes blocks now, or did last.
    maker: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chain")
            .field("path", &self.path)
            .field("chain_id", &self.config.chain_id)
            .finish_non_exhaustive()
    }
}

/// A lock whose holder panicked still guards whole values here: each is replaced in one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Chain {
    /// Opens the chain in `dir`, or creates it there with the genesis of `config`.
    ///
    /// # Errors
    /// The folder is in use, unreadable, damaged, newer than this version, or another chain's.
    pub fn open(dir: &Path, config: ChainConfig) -> Result<Self, ChainError> {
        check_config(&config)?;
        let (db, path) = store::open(dir, config.cache_bytes)?;
        match store::read_meta(&db, "chain_id").map_err(|e| e.at(&path))? {
            None => create(&db, &config).map_err(|e| e.at(&path))?,
            Some(bytes) => {
                let found = <[u8; 8]>::try_from(bytes.as_slice()).map(u64::from_be_bytes).map_err(|_| {
                    ChainError::Corrupted { path: path.clone(), what: "its chain id is unreadable".to_owned() }
                })?;
                if found != config.chain_id {
                    return Err(ChainError::OtherChain { path, found, wanted: config.chain_id });
                }
            }
        }
        let snapshot = Snapshot::take(&db, Arc::default()).map_err(|e| e.at(&path))?;
        tracing::info!(path = %path.display(), block = snapshot.head.header.number, "embedded chain opened");
        Ok(Self {
            shared: Arc::new(Shared {
                config,
                path,
                db,
                snapshot: RwLock::new(Arc::new(snapshot)),
                pool: Mutex::new(Pool::default()),
                hot: Mutex::new(HotCache::default()),
                failed: Mutex::new(None),
                maker: Mutex::new(None),
            }),
        })
    }

    /// Waits until everything that was submitted has been decided, and releases this handle. When it
    /// was the last one, the folder is free afterwards.
    pub async fn close(self) {
        loop {
            let maker = lock(&self.shared.maker).take();
            let Some(maker) = maker else { return };
            // A maker that panicked has ended as well; its askers were told.
            let _ = maker.await;
        }
    }

    /// EIP-155 chain id.
    #[must_use]
    pub fn chain_id(&self) -> u64 {
        self.shared.config.chain_id
    }

    /// Number of the latest block; 0 is the genesis block.
    #[must_use]
    pub fn block_number(&self) -> u64 {
        self.snapshot().head.header.number
    }

    pub(crate) fn config(&self) -> &ChainConfig {
        &self.shared.config
    }

    /// The latest durable state.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.shared.snapshot.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// A transaction that waits for earlier nonces of its sender.
    pub(crate) fn parked(&self, hash: B256) -> Option<Arc<SignedTx>> {
        lock(&self.shared.pool).find(hash)
    }

    /// Puts transactions into blocks, in this order, and returns once each is durable or refused.
    ///
    /// A transaction whose nonce is too high waits in memory for the missing ones; after a second
    /// its hash is returned all the same, as other nodes do, and it has no receipt yet.
    ///
    /// Cancelling this future loses the answers, not the transactions.
    pub async fn submit(&self, txs: Vec<SignedTx>) -> Vec<Result<B256, RpcError>> {
        let mut tickets = Vec::with_capacity(txs.len());
        {
            let mut pool = lock(&self.shared.pool);
            for tx in txs {
                let hash = tx.hash;
                tickets.push(pool.push(tx).map(|ticket| (hash, ticket)));
            }
            if !pool.busy && !pool.is_idle() {
                pool.busy = true;
                let shared = Arc::clone(&self.shared);
                let maker = tokio::task::spawn_blocking(move || shared.make_blocks());
                *lock(&self.shared.maker) = Some(maker);
            }
        }
        let mut answers = Vec::with_capacity(tickets.len());
        for ticket in tickets {
            answers.push(match ticket {
                Ok((hash, ticket)) => await_ticket(ticket).await.map(|()| hash),
                Err(error) => Err(error),
            });
        }
        answers
    }
}

async fn await_ticket(mut ticket: Ticket) -> Result<(), RpcError> {
    loop {
        match tokio::time::timeout(PARKED_WAIT, &mut ticket.outcome).await {
            Ok(Ok(outcome)) => return outcome,
            Ok(Err(_)) => return Err(RpcError::internal("the chain stopped before it answered")),
            Err(_) if ticket.is_parked() => return Ok(()),
            Err(_) => {}
        }
    }
}

impl Shared {
    /// Makes blocks until nothing waits. Only one runs at a time (`Pool::busy`).
    fn make_blocks(&self) {
        let _busy = BusyGuard(&self.pool);
        loop {
            let queue = {
                let mut pool = lock(&self.pool);
                let queue = pool.take(self.config.block_transactions_max);
                if queue.is_empty() {
                    pool.busy = false;
                    return;
                }
                queue
            };
            self.one_block(queue);
        }
    }

    fn one_block(&self, queue: VecDeque<Pending>) {
        if let Some(reason) = lock(&self.failed).clone() {
            return queue.into_iter().for_each(|pending| pending.answer(Err(reason.clone())));
        }
        let parent = Arc::clone(&self.snapshot.read().unwrap_or_else(PoisonError::into_inner));
        // Taken out, and put back only when the block is whole: a panic in between leaves an empty cache.
        let mut hot = std::mem::take(&mut *lock(&self.hot));
        let (outcome, result) =
            make_block(&self.config, &self.db, &parent, &mut hot, queue, &mut PoolParking(&self.pool));
        match result {
            Ok(next) => {
                if let Some(next) = next {
                    *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
                }
                *lock(&self.hot) = hot;
                lock(&self.pool).put_back(outcome.left);
                outcome.mined.into_iter().for_each(|pending| pending.answer(Ok(())));
            }
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "a block could not be written");
                let answer = RpcError::internal(format!("the chain's database failed: {error}; restart the chain"));
                if matches!(error, BlockError::Undecided(_)) {
                    *lock(&self.failed) = Some(answer.clone());
                }
                outcome.mined.into_iter().chain(outcome.left).for_each(|p| p.answer(Err(answer.clone())));
            }
        }
        outcome.refused.into_iter().for_each(|(pending, error)| pending.answer(Err(error)));
    }
}

/// Lets the next submit start a new maker of blocks if this one panics.
struct BusyGuard<'a>(&'a Mutex<Pool>);

impl Drop for BusyGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            lock(self.0).busy = false;
        }
    }
}

struct PoolParking<'a>(&'a Mutex<Pool>);

impl Parking for PoolParking<'_> {
    fn park(&mut self, pending: Pending) {
        lock(self.0).park(pending);
    }

    fn unpark(&mut self, tx: &SignedTx) -> Option<Pending> {
        lock(self.0).unpark(tx.sender, tx.nonce().saturating_add(1))
    }
}

fn check_config(config: &ChainConfig) -> Result<(), ChainError> {
    if config.chain_id == 0 {
        return Err(ChainError::Config("the chain id must not be 0".to_owned()));
    }
    if config.block_gas_limit < 1_000_000 || config.block_transactions_max == 0 {
        return Err(ChainError::Config("a block must hold at least 1,000,000 gas and one transaction".to_owned()));
    }
    Ok(())
}

/// Writes the genesis block, and then that the chain exists: a crash in between begins anew.
fn create(db: &redb::Database, config: &ChainConfig) -> Result<(), StoreError> {
    let mut changes = Changes::default();
    for (address, balance) in &config.genesis {
        let record = AccountRecord { nonce: 0, balance: *balance, code_hash: KECCAK_EMPTY };
        changes.accounts.insert(*address, Some(record));
    }
    mine::write_genesis(db, config, changes)?;
    let txn = db.begin_write()?;
    {
        let mut meta = txn.open_table(store::META)?;
        for (key, value) in
            [("layout", store::LAYOUT.to_be_bytes().to_vec()), ("chain_id", config.chain_id.to_be_bytes().to_vec())]
        {
            meta.insert(key, seal(Kind::Meta, key.as_bytes(), value).as_slice())?;
        }
    }
    txn.commit()?;
    Ok(())
}
