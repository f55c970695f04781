//! What the embedded chain keeps on disk: one redb file, every record with a checksum.
//!
//! redb checks its own pages only when it repairs after a crash; the checksum of each record (the
//! first eight bytes of BLAKE3 over table, key and value) notices the rest before the value is used.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use alloy::consensus::Header;
use alloy::primitives::{Address, B256, U256};
use alloy::rlp::{Decodable, Encodable};
use redb::{Database, DatabaseError, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition};
use revm::bytecode::Bytecode;

use super::codec::{AccountRecord, TxRecord};
use super::error::ChainError;

/// The newest layout of the file that this version writes and reads.
pub(crate) const LAYOUT: u32 = 1;

pub(crate) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
pub(crate) const ACCOUNTS: TableDefinition<'_, &[u8; 20], &[u8]> = TableDefinition::new("accounts");
pub(crate) const STORAGE: TableDefinition<'_, &[u8; 52], &[u8]> = TableDefinition::new("storage");
pub(crate) const CODE: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("code");
pub(crate) const HEADERS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("headers");
pub(crate) const NUMBERS: TableDefinition<'_, &[u8; 32], u64> = TableDefinition::new("numbers");
/// Keyed by block number and index in the block, both big-endian.
pub(crate) const TXS: TableDefinition<'_, &[u8; 12], &[u8]> = TableDefinition::new("transactions");
pub(crate) const TX_INDEX: TableDefinition<'_, &[u8; 32], &[u8; 12]> = TableDefinition::new("transaction_index");

const SUM_LEN: usize = 8;

/// Contracts whose code is kept at hand; past that the cache begins anew.
const CODES_MAX: usize = 256;

/// Which table a checksum belongs to, so that a record moved elsewhere is noticed.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(crate) enum Kind {
    Account = 1,
    Storage = 2,
    Code = 3,
    Header = 4,
    Transaction = 5,
    Meta = 6,
}

fn checksum(kind: Kind, key: &[u8], value: &[u8]) -> [u8; SUM_LEN] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[kind as u8]);
    hasher.update(key);
    hasher.update(value);
    let mut sum = [0; SUM_LEN];
    sum.copy_from_slice(&hasher.finalize().as_bytes()[..SUM_LEN]);
    sum
}

/// Appends the checksum to a record.
pub(crate) fn seal(kind: Kind, key: &[u8], mut value: Vec<u8>) -> Vec<u8> {
    let sum = checksum(kind, key, &value);
    value.extend_from_slice(&sum);
    value
}

/// Why a record could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("{0}")]
    Corrupted(String),
    #[error("{0}")]
    Database(String),
}

impl StoreError {
    pub(crate) fn at(self, path: &Path) -> ChainError {
        match self {
            Self::Corrupted(what) => ChainError::Corrupted { path: path.to_owned(), what },
            Self::Database(reason) => ChainError::Storage { path: path.to_owned(), reason },
        }
    }
}

impl revm::database_interface::DBErrorMarker for StoreError {}

macro_rules! from_redb {
    ($($error:ty),*) => {$(
        impl From<$error> for StoreError {
            fn from(error: $error) -> Self {
                match redb::Error::from(error) {
                    redb::Error::Corrupted(what) => Self::Corrupted(what),
                    other => Self::Database(other.to_string()),
                }
            }
        }
    )*};
}
from_redb!(redb::StorageError, redb::TableError, redb::TransactionError, redb::CommitError, DatabaseError);

/// Checks a record's checksum and returns the value without it.
fn unseal<'a>(kind: Kind, key: &[u8], record: &'a [u8]) -> Result<&'a [u8], StoreError> {
    let split = record.len().checked_sub(SUM_LEN);
    let (value, sum) = split.and_then(|at| record.split_at_checked(at)).ok_or_else(|| damaged(kind, key))?;
    if checksum(kind, key, value) == *sum { Ok(value) } else { Err(damaged(kind, key)) }
}

fn damaged(kind: Kind, key: &[u8]) -> StoreError {
    let name = match kind {
        Kind::Account => "account",
        Kind::Storage => "storage slot",
        Kind::Code => "contract code",
        Kind::Header => "block header",
        Kind::Transaction => "transaction",
        Kind::Meta => "setting",
    };
    StoreError::Corrupted(format!("the record of {name} 0x{} does not match its checksum", hex::encode(key)))
}

/// Key of a storage slot.
pub(crate) fn slot_key(address: Address, slot: U256) -> [u8; 52] {
    let mut key = [0; 52];
    key[..20].copy_from_slice(address.as_slice());
    key[20..].copy_from_slice(&slot.to_be_bytes::<32>());
    key
}

/// Key of a transaction.
pub(crate) fn tx_key(block: u64, index: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&block.to_be_bytes());
    key[8..].copy_from_slice(&index.to_be_bytes());
    key
}

/// A block header with its hash.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) header: Header,
    pub(crate) hash: B256,
}

/// Code of contracts, checked and analysed once. What a hash names never changes, so all snapshots share it.
#[derive(Debug, Default)]
pub(crate) struct CodeCache(RwLock<HashMap<B256, Bytecode>>);

impl CodeCache {
    fn get(&self, hash: B256) -> Option<Bytecode> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&hash).cloned()
    }

    fn put(&self, hash: B256, code: Bytecode) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= CODES_MAX {
            known.clear();
        }
        known.insert(hash, code);
    }
}

/// A consistent view of the chain as of one block. Cheap to share, never blocks the writer.
pub(crate) struct Snapshot {
    pub(crate) head: Head,
    accounts: ReadOnlyTable<&'static [u8; 20], &'static [u8]>,
    storage: ReadOnlyTable<&'static [u8; 52], &'static [u8]>,
    code: ReadOnlyTable<&'static [u8; 32], &'static [u8]>,
    headers: ReadOnlyTable<u64, &'static [u8]>,
    numbers: ReadOnlyTable<&'static [u8; 32], u64>,
    txs: ReadOnlyTable<&'static [u8; 12], &'static [u8]>,
    tx_index: ReadOnlyTable<&'static [u8; 32], &'static [u8; 12]>,
    codes: Arc<CodeCache>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("block", &self.head.header.number).finish_non_exhaustive()
    }
}

impl Snapshot {
    /// A view of the last commit.
    pub(crate) fn take(db: &Database, codes: Arc<CodeCache>) -> Result<Self, StoreError> {
        let txn = db.begin_read()?;
        let headers = txn.open_table(HEADERS)?;
        let number = headers
            .last()?
            .map(|(key, _)| key.value())
            .ok_or_else(|| StoreError::Corrupted("there is no block, not even a genesis".to_owned()))?;
        let head = read_header(&headers, number)?.ok_or_else(|| damaged(Kind::Header, &number.to_be_bytes()))?;
        Ok(Self {
            head,
            accounts: txn.open_table(ACCOUNTS)?,
            storage: txn.open_table(STORAGE)?,
            code: txn.open_table(CODE)?,
            numbers: txn.open_table(NUMBERS)?,
            txs: txn.open_table(TXS)?,
            tx_index: txn.open_table(TX_INDEX)?,
            headers,
            codes,
        })
    }

    /// The view of the commit after this one.
    pub(crate) fn next(&self, db: &Database) -> Result<Self, StoreError> {
        Self::take(db, Arc::clone(&self.codes))
    }

    pub(crate) fn account(&self, address: Address) -> Result<Option<AccountRecord>, StoreError> {
        let Some(guard) = self.accounts.get(&address.into_array())? else { return Ok(None) };
        let value = unseal(Kind::Account, address.as_slice(), guard.value())?;
        AccountRecord::decode(value).map(Some).ok_or_else(|| damaged(Kind::Account, address.as_slice()))
    }

    pub(crate) fn slot(&self, address: Address, slot: U256) -> Result<U256, StoreError> {
        let key = slot_key(address, slot);
        let Some(guard) = self.storage.get(&key)? else { return Ok(U256::ZERO) };
        let value = unseal(Kind::Storage, &key, guard.value())?;
        U256::try_from_be_slice(value).ok_or_else(|| damaged(Kind::Storage, &key))
    }

    pub(crate) fn code(&self, hash: B256) -> Result<Bytecode, StoreError> {
        if let Some(code) = self.codes.get(hash) {
            return Ok(code);
        }
        let Some(guard) = self.code.get(&hash.0)? else {
            return Err(StoreError::Corrupted(format!("the code {hash} is missing")));
        };
        let value = unseal(Kind::Code, hash.as_slice(), guard.value())?;
        let code = Bytecode::new_raw(value.to_vec().into());
        self.codes.put(hash, code.clone());
        Ok(code)
    }

    pub(crate) fn header(&self, number: u64) -> Result<Option<Head>, StoreError> {
        if number == self.head.header.number {
            return Ok(Some(self.head.clone()));
        }
        read_header(&self.headers, number)
    }

    pub(crate) fn number_of(&self, hash: B256) -> Result<Option<u64>, StoreError> {
        Ok(self.numbers.get(&hash.0)?.map(|guard| guard.value()))
    }

    /// Where a transaction is: block number and index in the block.
    pub(crate) fn locate(&self, hash: B256) -> Result<Option<(u64, u32)>, StoreError> {
        let Some(guard) = self.tx_index.get(&hash.0)? else { return Ok(None) };
        let &[a, b, c, d, e, f, g, h, i, j, k, l] = guard.value();
        let block = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        let index = u32::from_be_bytes([i, j, k, l]);
        Ok(Some((block, index)))
    }

    pub(crate) fn transaction(&self, block: u64, index: u32) -> Result<Option<TxRecord>, StoreError> {
        let key = tx_key(block, index);
        let Some(guard) = self.txs.get(&key)? else { return Ok(None) };
        let value = unseal(Kind::Transaction, &key, guard.value())?;
        TxRecord::decode(value).map(Some).ok_or_else(|| damaged(Kind::Transaction, &key))
    }

    /// All transactions of a block, in order.
    pub(crate) fn transactions(&self, block: u64) -> Result<Vec<TxRecord>, StoreError> {
        let mut all = Vec::new();
        for entry in self.txs.range::<&[u8; 12]>(&tx_key(block, 0)..=&tx_key(block, u32::MAX))? {
            let (key, record) = entry?;
            let value = unseal(Kind::Transaction, key.value(), record.value())?;
            all.push(TxRecord::decode(value).ok_or_else(|| damaged(Kind::Transaction, key.value()))?);
        }
        Ok(all)
    }
}

fn read_header(table: &ReadOnlyTable<u64, &'static [u8]>, number: u64) -> Result<Option<Head>, StoreError> {
    let Some(guard) = table.get(number)? else { return Ok(None) };
    let key = number.to_be_bytes();
    let mut value = unseal(Kind::Header, &key, guard.value())?;
    let header = Header::decode(&mut value).map_err(|_| damaged(Kind::Header, &key))?;
    let hash = header.hash_slow();
    Ok(Some(Head { header, hash }))
}

/// RLP of a header, sealed for its place.
pub(crate) fn header_record(header: &Header) -> Vec<u8> {
    let mut value = Vec::with_capacity(700);
    header.encode(&mut value);
    seal(Kind::Header, &header.number.to_be_bytes(), value)
}

/// Opens or creates the file, and checks that nobody else uses it and that this version reads it.
pub(crate) fn open(dir: &Path, cache_bytes: usize) -> Result<(Database, PathBuf), ChainError> {
    std::fs::create_dir_all(dir).map_err(|reason| ChainError::Io { path: dir.to_owned(), reason })?;
    let path = dir.join("chain.redb");
    let mut builder = Database::builder();
    builder.set_cache_size(cache_bytes);
    let db = builder.create(&path).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => ChainError::Busy { path: path.clone() },
        DatabaseError::UpgradeRequired(found) => ChainError::Corrupted {
            path: path.clone(),
            what: format!("its file format {found} is not one that this version reads"),
        },
        DatabaseError::Storage(redb::StorageError::Io(error)) if error.kind() == std::io::ErrorKind::InvalidData => {
            ChainError::Corrupted { path: path.clone(), what: "it is not a chain's database".to_owned() }
        }
        other => StoreError::from(other).at(&path),
    })?;
    check_layout(&db, &path)?;
    Ok((db, path))
}

fn check_layout(db: &Database, path: &Path) -> Result<(), ChainError> {
    let found = read_meta(db, "layout").map_err(|e| e.at(path))?;
    match found {
        None => Ok(()),
        Some(bytes) => {
            let found = <[u8; 4]>::try_from(bytes.as_slice())
                .map(u32::from_be_bytes)
                .map_err(|_| damaged(Kind::Meta, b"layout").at(path))?;
            if found > LAYOUT {
                return Err(ChainError::Newer { path: path.to_owned(), found, known: LAYOUT });
            }
            Ok(())
        }
    }
}

/// A setting of the file; `None` where it was never written.
pub(crate) fn read_meta(db: &Database, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
    let txn = db.begin_read()?;
    let table = match txn.open_table(META) {
        Ok(table) => table,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(other) => return Err(other.into()),
    };
    let Some(guard) = table.get(key)? else { return Ok(None) };
    unseal(Kind::Meta, key.as_bytes(), guard.value()).map(|value| Some(value.to_vec()))
}
