//! Making a block: execute what waits, build the header, commit everything in one durable transaction.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use alloy::consensus::constants::{EMPTY_OMMER_ROOT_HASH, EMPTY_WITHDRAWALS};
use alloy::consensus::{Header, ReceiptEnvelope, Transaction as _};
use alloy::eips::eip1559::{BaseFeeParams, calc_next_block_base_fee};
use alloy::primitives::{B256, Bloom, Bytes, U256, b256};
use redb::Database as Redb;
use revm::context::result::{EVMError, ExecutionResult, InvalidTransaction};
use revm::context::{BlockEnv, CfgEnv, Context};
use revm::context_interface::ContextTr;
use revm::primitives::hardfork::SpecId;
use revm::{Database, ExecuteCommitEvm, MainBuilder, MainContext};

use super::codec::{OUTPUT_KEPT_MAX, TxRecord};
use super::config::{BaseFee, ChainConfig};
use super::pool::Pending;
use super::rpc::RpcError;
use super::rpc::error::invalid_transaction;
use super::state::{Changes, HotCache, WorkingState};
use super::store::{self, Head, Kind, Snapshot, StoreError, seal, slot_key, tx_key};
use super::tx::SignedTx;

/// The rules of execution, the same as the differential test asks of its peer.
pub(crate) const SPEC: SpecId = SpecId::PRAGUE;

/// Hash of no EIP-7685 requests: SHA-256 of nothing.
const NO_REQUESTS: B256 = b256!("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");

/// `PREVRANDAO` of every block: a constant, as on Arbitrum, so that nothing comes to rely on it.
pub(crate) const PREVRANDAO: B256 = b256!("0000000000000000000000000000000000000000000000000000000000000001");

/// What became of the transactions that a block was made from.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// In the block: to be answered once it is durable.
    pub(crate) mined: Vec<Pending>,
    /// Can never be mined.
    pub(crate) refused: Vec<(Pending, RpcError)>,
    /// Did not fit; first in the next block.
    pub(crate) left: VecDeque<Pending>,
}

/// Takes a transaction whose nonce is too high, and gives the one whose turn has come.
pub(crate) trait Parking {
    fn park(&mut self, pending: Pending);
    fn unpark(&mut self, tx: &SignedTx) -> Option<Pending>;
}

/// A block that has been executed but not yet written.
struct Draft {
    header: Header,
    records: Vec<(B256, TxRecord)>,
    changes: Changes,
}

/// Seconds since 1970 of this machine; never before `parent`.
pub(crate) fn block_time(parent: u64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    now.max(parent)
}

/// The base fee of the block after `parent`.
pub(crate) fn next_base_fee(policy: BaseFee, parent: &Header) -> u64 {
    match policy {
        BaseFee::Fixed(fee) => fee,
        BaseFee::Eip1559 { initial } if parent.number == 0 => initial,
        BaseFee::Eip1559 { initial } => calc_next_block_base_fee(
            parent.gas_used,
            parent.gas_limit,
            parent.base_fee_per_gas.unwrap_or(initial),
            BaseFeeParams::ethereum(),
        ),
    }
}

/// The EVM's settings.
pub(crate) fn cfg_env(chain_id: u64) -> CfgEnv {
    CfgEnv::new_with_spec(SPEC).with_chain_id(chain_id)
}

/// The environment of the block after `parent`.
pub(crate) fn block_env(config: &ChainConfig, parent: &Header) -> BlockEnv {
    BlockEnv {
        number: U256::from(parent.number + 1),
        beneficiary: config.fee_recipient,
        timestamp: U256::from(block_time(parent.timestamp)),
        gas_limit: config.block_gas_limit,
        basefee: next_base_fee(config.base_fee, parent),
        prevrandao: Some(PREVRANDAO),
        ..BlockEnv::default()
    }
}

/// Executes `queue` into one block and commits it durably. Without any valid transaction there is no block.
///
/// Returns the outcome, and the snapshot after the block if there is one.
///
/// # Errors
/// Only of the database; then nothing of the outcome may be answered as mined.
pub(crate) fn make_block(
    config: &ChainConfig,
    db: &Redb,
    parent: &Arc<Snapshot>,
    hot: &mut HotCache,
    queue: VecDeque<Pending>,
    parking: &mut impl Parking,
) -> (Outcome, Result<Option<Snapshot>, BlockError>) {
    hot.trim();
    let mut outcome = Outcome::default();
    let drafted = execute(config, parent, hot, queue, parking, &mut outcome);
    let committed = drafted
        .map_err(BlockError::Unwritten)
        .and_then(|draft| draft.map(|draft| commit(db, parent, &draft).map_err(BlockError::Undecided)).transpose());
    if committed.is_err() {
        // What the cache holds may never have reached the disk.
        *hot = HotCache::default();
    }
    (outcome, committed)
}

/// Why there is no block.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BlockError {
    /// The state could not be read: nothing was written.
    #[error(transparent)]
    Unwritten(StoreError),
    /// Writing failed: whether the block is on disk shows only when the chain is opened again.
    #[error(transparent)]
    Undecided(StoreError),
}

fn commit(db: &Redb, parent: &Snapshot, draft: &Draft) -> Result<Snapshot, StoreError> {
    let started = Instant::now();
    write(db, draft)?;
    metrics::histogram!("muster_chain_commit_seconds").record(started.elapsed().as_secs_f64());
    metrics::counter!("muster_chain_blocks_total").increment(1);
    parent.next(db)
}

fn execute(
    config: &ChainConfig,
    parent: &Arc<Snapshot>,
    hot: &mut HotCache,
    mut queue: VecDeque<Pending>,
    parking: &mut impl Parking,
    outcome: &mut Outcome,
) -> Result<Option<Draft>, StoreError> {
    let block = block_env(config, &parent.head.header);
    let mut working = WorkingState::new(Arc::clone(parent), hot);
    let mut progress = Progress { base_fee: block.basefee, ..Progress::default() };
    {
        let context =
            Context::mainnet().with_db(&mut working).with_cfg(cfg_env(config.chain_id)).with_block(block.clone());
        let mut evm = context.build_mainnet();
        while let Some(pending) = queue.pop_front() {
            let full = progress.records.len() >= config.block_transactions_max;
            let gas_left = config.block_gas_limit.saturating_sub(progress.gas_used);
            let gas = pending.tx.envelope.gas_limit();
            if full || (gas > gas_left && gas <= config.block_gas_limit) {
                queue.push_front(pending);
                break;
            }
            match evm.transact_commit(pending.tx.to_env()) {
                Ok(result) => {
                    progress.add(&pending.tx, result);
                    if let Some(next) = parking.unpark(&pending.tx) {
                        queue.push_front(next);
                    }
                    outcome.mined.push(pending);
                }
                Err(EVMError::Transaction(InvalidTransaction::NonceTooHigh { .. })) => {
                    match affordable(evm.ctx.db_mut(), &pending.tx)? {
                        Ok(()) => parking.park(pending),
                        Err(answer) => outcome.refused.push((pending, answer)),
                    }
                }
                Err(EVMError::Transaction(error)) => {
                    let answer = invalid_transaction(&error, &pending.tx, block.basefee);
                    outcome.refused.push((pending, answer));
                }
                Err(EVMError::Database(error @ StoreError::Corrupted(_))) => {
                    outcome.refused.push((pending, error.into()));
                }
                Err(EVMError::Database(error)) => {
                    outcome.left = queue;
                    outcome.left.push_front(pending);
                    return Err(error);
                }
                Err(other) => {
                    outcome.refused.push((pending, RpcError::internal(other.to_string())));
                }
            }
        }
    }
    outcome.left = queue;
    if progress.records.is_empty() {
        return Ok(None);
    }
    let changes = std::mem::take(&mut working.changes);
    let header = progress.header(config, &parent.head, &block, &changes);
    Ok(Some(Draft { header, records: progress.records, changes }))
}

/// Whether the sender could pay for a transaction whose turn has not come: those who cannot fill no pool.
fn affordable(state: &mut WorkingState<'_>, tx: &SignedTx) -> Result<Result<(), RpcError>, StoreError> {
    let balance = state.basic(tx.sender)?.map_or(U256::ZERO, |account| account.balance);
    let gas = U256::from(tx.envelope.gas_limit()).saturating_mul(U256::from(tx.envelope.max_fee_per_gas()));
    let cost = gas.saturating_add(tx.envelope.value());
    Ok(if cost <= balance { Ok(()) } else { Err(RpcError::insufficient_funds(balance, cost)) })
}

/// What has been executed into the block so far.
#[derive(Default)]
struct Progress {
    base_fee: u64,
    gas_used: u64,
    logs: u32,
    records: Vec<(B256, TxRecord)>,
}

impl Progress {
    fn add(&mut self, tx: &SignedTx, result: ExecutionResult) {
        let gas_used = result.tx_gas_used();
        self.gas_used += gas_used;
        let success = result.is_success();
        let (logs, revert) = match result {
            ExecutionResult::Success { logs, .. } => (logs, Bytes::new()),
            ExecutionResult::Revert { output, .. } => (Vec::new(), output.slice(..output.len().min(OUTPUT_KEPT_MAX))),
            ExecutionResult::Halt { .. } => (Vec::new(), Bytes::new()),
        };
        let first_log = self.logs;
        self.logs = self.logs.saturating_add(u32::try_from(logs.len()).unwrap_or(u32::MAX));
        let record = TxRecord {
            envelope: tx.envelope.clone(),
            sender: tx.sender,
            success,
            gas_used,
            cumulative_gas: self.gas_used,
            effective_gas_price: tx.effective_gas_price(self.base_fee),
            first_log,
            // Also where the creation failed, as other nodes have it.
            contract: tx.envelope.is_create().then(|| tx.sender.create(tx.nonce())),
            logs,
            revert,
        };
        metrics::counter!("muster_chain_transactions_total", "status" => if success { "success" } else { "failure" })
            .increment(1);
        self.records.push((tx.hash, record));
    }

    fn header(&self, config: &ChainConfig, parent: &Head, block: &BlockEnv, changes: &Changes) -> Header {
        let envelopes: Vec<_> = self.records.iter().map(|(_, record)| &record.envelope).collect();
        let receipts: Vec<ReceiptEnvelope> = self.records.iter().map(|(_, record)| record.receipt()).collect();
        let bloom = receipts.iter().fold(Bloom::ZERO, |bloom, receipt| bloom | *receipt.logs_bloom());
        Header {
            parent_hash: parent.hash,
            number: parent.header.number + 1,
            timestamp: block.timestamp.saturating_to(),
            beneficiary: block.beneficiary,
            base_fee_per_gas: Some(block.basefee),
            state_root: changes.commitment(parent.header.state_root),
            transactions_root: alloy::consensus::proofs::calculate_transaction_root(&envelopes),
            receipts_root: alloy::consensus::proofs::calculate_receipt_root(&receipts),
            logs_bloom: bloom,
            gas_used: self.gas_used,
            ..empty_header(config)
        }
    }
}

/// The fields that every block shares.
fn empty_header(config: &ChainConfig) -> Header {
    Header {
        ommers_hash: EMPTY_OMMER_ROOT_HASH,
        gas_limit: config.block_gas_limit,
        mix_hash: PREVRANDAO,
        withdrawals_root: Some(EMPTY_WITHDRAWALS),
        blob_gas_used: Some(0),
        excess_blob_gas: Some(0),
        parent_beacon_block_root: Some(B256::ZERO),
        requests_hash: Some(NO_REQUESTS),
        ..Header::default()
    }
}

/// The genesis block's header for these allocations.
pub(crate) fn genesis_header(config: &ChainConfig, changes: &Changes) -> Header {
    let initial = match config.base_fee {
        BaseFee::Fixed(fee) | BaseFee::Eip1559 { initial: fee } => fee,
    };
    Header {
        timestamp: block_time(0),
        base_fee_per_gas: Some(initial),
        state_root: changes.commitment(B256::from(U256::from(config.chain_id))),
        ..empty_header(config)
    }
}

/// Writes the genesis block into an empty database.
pub(crate) fn write_genesis(db: &Redb, config: &ChainConfig, changes: Changes) -> Result<(), StoreError> {
    let header = genesis_header(config, &changes);
    write(db, &Draft { header, records: Vec::new(), changes })
}

/// One durable commit with everything of the block.
fn write(db: &Redb, draft: &Draft) -> Result<(), StoreError> {
    let txn = db.begin_write()?;
    let number = draft.header.number;
    {
        txn.open_table(store::HEADERS)?.insert(number, store::header_record(&draft.header).as_slice())?;
        txn.open_table(store::NUMBERS)?.insert(&draft.header.hash_slow().0, number)?;
        write_transactions(&txn, number, &draft.records)?;
        write_state(&txn, &draft.changes)?;
    }
    txn.commit()?;
    Ok(())
}

fn write_transactions(
    txn: &redb::WriteTransaction,
    number: u64,
    records: &[(B256, TxRecord)],
) -> Result<(), StoreError> {
    let mut txs = txn.open_table(store::TXS)?;
    let mut index = txn.open_table(store::TX_INDEX)?;
    for (at, (hash, record)) in (0u32..).zip(records) {
        let key = tx_key(number, at);
        txs.insert(&key, seal(Kind::Transaction, &key, record.encode()).as_slice())?;
        index.insert(&hash.0, &key)?;
    }
    Ok(())
}

fn write_state(txn: &redb::WriteTransaction, changes: &Changes) -> Result<(), StoreError> {
    let mut accounts = txn.open_table(store::ACCOUNTS)?;
    for (address, record) in &changes.accounts {
        match record {
            Some(record) => {
                let sealed = seal(Kind::Account, address.as_slice(), record.encode());
                accounts.insert(&address.into_array(), sealed.as_slice())?;
            }
            None => {
                accounts.remove(&address.into_array())?;
            }
        }
    }
    let mut storage = txn.open_table(store::STORAGE)?;
    for ((address, slot), value) in &changes.slots {
        let key = slot_key(*address, *slot);
        if value.is_zero() {
            storage.remove(&key)?;
        } else {
            let sealed = seal(Kind::Storage, &key, value.to_be_bytes::<32>().to_vec());
            storage.insert(&key, sealed.as_slice())?;
        }
    }
    let mut code = txn.open_table(store::CODE)?;
    for (hash, bytecode) in &changes.code {
        let sealed = seal(Kind::Code, hash.as_slice(), bytecode.original_bytes().to_vec());
        code.insert(&hash.0, sealed.as_slice())?;
    }
    Ok(())
}
