//! The durable outbox: every transaction is written here, signed, before it leaves.
//!
//! One record per nonce, and one key per intent that points at its nonce. So a nonce belongs to one
//! intent for good, and an intent that was written once is never signed with a second nonce.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use alloy::primitives::{B256, Bytes};
use muster_core::ids::Address;
use redb::{Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};

use super::transaction::{Attempt, Call, TxId};

const LAYOUT: u32 = 1;
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const INTENTS: TableDefinition<'_, &str, u64> = TableDefinition::new("intents");
const RECORDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("records");

/// Finished records that are kept, so that their intents stay known.
const FINISHED_MAX: u64 = 20_000;
/// Finished records that one commit forgets at most.
const FORGET_AT_ONCE: usize = 64;
/// Longest key of an intent, in bytes.
pub(crate) const KEY_BYTES_MAX: usize = 200;

/// Why the outbox cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OutboxError {
    /// Another process holds it.
    #[error("the outbox {path} is in use by another process of this wallet: stop that process first")]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// Written for another wallet or chain.
    #[error(
        "the outbox {path} belongs to {what}: if the chain's data was removed, remove this file as well; \
         transactions that it still holds are then forgotten"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        what: String,
    },
    /// Written by a newer version.
    #[error("the outbox {path} was written by a newer version (layout {found}, known {LAYOUT}): use that version")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its layout.
        found: u32,
    },
    /// A record cannot be read.
    #[error(
        "the outbox {path} is damaged ({what}): restore it from a backup, or remove it when no payment is under way"
    )]
    Corrupted {
        /// The file.
        path: PathBuf,
        /// Which record.
        what: String,
    },
    /// The disk failed.
    #[error("the outbox {path} cannot be used: {reason}")]
    Storage {
        /// The file.
        path: PathBuf,
        /// What failed.
        reason: String,
    },
}

/// What is known of the outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum State {
    Pending,
    Mined {
        tx: TxId,
        block: u64,
        fee_wei: u128,
        created: Option<Address>,
        revert: Option<String>,
    },
    /// Another transaction took the nonce: this one can never be mined.
    Superseded,
}

/// A nonce's transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) nonce: u64,
    pub(crate) keys: Vec<String>,
    /// Names the call; see [`Call::intent`].
    pub(crate) intent: B256,
    /// The call, while it is not decided.
    pub(crate) call: Option<StoredCall>,
    pub(crate) gas_limit: u64,
    /// Oldest first; all have the same nonce and payload, each pays more than the one before.
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) state: State,
}

/// A [`Call`] as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredCall {
    to: Option<Address>,
    data: Bytes,
    value_wei: u128,
}

impl StoredCall {
    pub(crate) fn of(call: &Call) -> Self {
        Self { to: call.to, data: call.data.clone().into(), value_wei: call.value_wei }
    }

    pub(crate) fn value_wei(&self) -> u128 {
        self.value_wei
    }

    pub(crate) fn to_call(&self) -> Call {
        Call { to: self.to, data: self.data.to_vec(), value_wei: self.value_wei, gas_limit: None }
    }
}

impl Record {
    /// The transaction in its block, or the newest attempt.
    pub(crate) fn tx(&self) -> TxId {
        match &self.state {
            State::Mined { tx, .. } => *tx,
            State::Pending | State::Superseded => self.attempts.last().map_or(TxId([0; 32]), |attempt| attempt.tx),
        }
    }

    /// Marks the record as decided, and lets go of what only sending needs.
    pub(crate) fn finish(&mut self, state: State) {
        self.state = state;
        self.call = None;
        self.attempts.clear();
    }
}

/// Whose outbox it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owner {
    pub(crate) account: Address,
    pub(crate) chain_id: u64,
    pub(crate) genesis: B256,
}

/// The outbox file. Methods commit durably before they return.
#[derive(Debug)]
pub(crate) struct Outbox {
    db: Database,
    path: PathBuf,
}

impl Outbox {
    pub(crate) fn open(dir: &Path, owner: &Owner) -> Result<Self, OutboxError> {
        let path = dir.join("outbox.redb");
        let failed = |reason: String| OutboxError::Storage { path: path.clone(), reason };
        std::fs::create_dir_all(dir).map_err(|error| failed(error.to_string()))?;
        let db = Database::builder().set_cache_size(2 << 20).create(&path).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => OutboxError::Busy { path: path.clone() },
            other => failed(other.to_string()),
        })?;
        let outbox = Self { db, path };
        outbox.check_owner(owner)?;
        Ok(outbox)
    }

    fn failed(&self, error: impl Into<redb::Error>) -> OutboxError {
        match error.into() {
            redb::Error::Corrupted(what) => OutboxError::Corrupted { path: self.path.clone(), what },
            other => OutboxError::Storage { path: self.path.clone(), reason: other.to_string() },
        }
    }

    fn check_owner(&self, owner: &Owner) -> Result<(), OutboxError> {
        let txn = self.db.begin_write().map_err(|e| self.failed(e))?;
        {
            let mut meta = txn.open_table(META).map_err(|e| self.failed(e))?;
            let layout = meta.get("layout").map_err(|e| self.failed(e))?.map(|v| v.value().to_vec());
            if let Some(layout) = layout {
                let found = <[u8; 4]>::try_from(layout.as_slice()).map_or(u32::MAX, u32::from_be_bytes);
                if found > LAYOUT {
                    return Err(OutboxError::Newer { path: self.path.clone(), found });
                }
                let known = meta.get("owner").map_err(|e| self.failed(e))?.map(|v| v.value().to_vec());
                let known: Owner = self.parse("its owner", known.as_deref().unwrap_or_default())?;
                if known != *owner {
                    return Err(self.foreign(&known, owner));
                }
            } else {
                let text = to_json(owner);
                meta.insert("layout", LAYOUT.to_be_bytes().as_slice()).map_err(|e| self.failed(e))?;
                meta.insert("owner", text.as_slice()).map_err(|e| self.failed(e))?;
            }
            txn.open_table(INTENTS).map_err(|e| self.failed(e))?;
            txn.open_table(RECORDS).map_err(|e| self.failed(e))?;
        }
        txn.commit().map_err(|e| self.failed(e))
    }

    fn foreign(&self, known: &Owner, wanted: &Owner) -> OutboxError {
        let what = if known.account != wanted.account {
            format!("account {}, not {}", known.account, wanted.account)
        } else if known.chain_id != wanted.chain_id {
            format!("chain {}, not {}", known.chain_id, wanted.chain_id)
        } else {
            "a chain with the same id that began elsewhere".to_owned()
        };
        OutboxError::Foreign { path: self.path.clone(), what }
    }

    fn parse<T: for<'de> Deserialize<'de>>(&self, what: &str, bytes: &[u8]) -> Result<T, OutboxError> {
        serde_json::from_slice(bytes)
            .map_err(|error| OutboxError::Corrupted { path: self.path.clone(), what: format!("{what}: {error}") })
    }

    fn unseal(&self, nonce: u64, bytes: &[u8]) -> Result<Record, OutboxError> {
        let what = format!("the record of nonce {nonce}");
        let (sum, text) = bytes.split_at_checked(8).unwrap_or((&[], &[]));
        if sum != checksum(nonce, text) {
            let what = format!("{what} does not match its checksum");
            return Err(OutboxError::Corrupted { path: self.path.clone(), what });
        }
        self.parse(&what, text)
    }

    /// The record of an intent.
    pub(crate) fn find(&self, key: &str) -> Result<Option<Record>, OutboxError> {
        Ok(self.find_first(std::iter::once(key))?.map(|(_, record)| record))
    }

    /// The place of the first of these intents that has a record, and the record: one look for all of them.
    pub(crate) fn find_first<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a str>,
    ) -> Result<Option<(usize, Record)>, OutboxError> {
        let txn = self.db.begin_read().map_err(|e| self.failed(e))?;
        let intents = txn.open_table(INTENTS).map_err(|e| self.failed(e))?;
        for (place, key) in keys.into_iter().enumerate() {
            let Some(nonce) = intents.get(key).map_err(|e| self.failed(e))?.map(|v| v.value()) else { continue };
            let records = txn.open_table(RECORDS).map_err(|e| self.failed(e))?;
            return match records.get(nonce).map_err(|e| self.failed(e))? {
                Some(bytes) => self.unseal(nonce, bytes.value()).map(|record| Some((place, record))),
                None => {
                    Err(OutboxError::Corrupted { path: self.path.clone(), what: format!("nonce {nonce} is missing") })
                }
            };
        }
        Ok(None)
    }

    /// Everything that is not decided, by nonce, and the first nonce that was never used here.
    pub(crate) fn pending(&self) -> Result<(BTreeMap<u64, Record>, u64), OutboxError> {
        let txn = self.db.begin_read().map_err(|e| self.failed(e))?;
        let records = txn.open_table(RECORDS).map_err(|e| self.failed(e))?;
        let mut pending = BTreeMap::new();
        let mut next = 0;
        for entry in records.iter().map_err(|e| self.failed(e))? {
            let (nonce, bytes) = entry.map_err(|e| self.failed(e))?;
            let record = self.unseal(nonce.value(), bytes.value())?;
            next = nonce.value() + 1;
            if record.state == State::Pending {
                pending.insert(nonce.value(), record);
            }
        }
        Ok((pending, next))
    }

    /// Writes records, new or changed, in one durable commit.
    pub(crate) fn put<'a>(&self, records: impl IntoIterator<Item = &'a Record>) -> Result<(), OutboxError> {
        self.write(records, Durability::Immediate)
    }

    /// Writes outcomes. They reach the disk with the next durable commit: one that is lost is asked for again.
    pub(crate) fn put_finished<'a>(&self, records: impl IntoIterator<Item = &'a Record>) -> Result<(), OutboxError> {
        self.write(records, Durability::None)
    }

    fn write<'a>(
        &self,
        records: impl IntoIterator<Item = &'a Record>,
        durability: Durability,
    ) -> Result<(), OutboxError> {
        let mut txn = self.db.begin_write().map_err(|e| self.failed(e))?;
        txn.set_durability(durability)
            .map_err(|error| OutboxError::Storage { path: self.path.clone(), reason: error.to_string() })?;
        {
            let mut table = txn.open_table(RECORDS).map_err(|e| self.failed(e))?;
            let mut intents = txn.open_table(INTENTS).map_err(|e| self.failed(e))?;
            let mut newest = 0;
            for record in records {
                let text = to_json(record);
                let mut sealed = checksum(record.nonce, &text).to_vec();
                sealed.extend(text);
                table.insert(record.nonce, sealed.as_slice()).map_err(|e| self.failed(e))?;
                for key in &record.keys {
                    intents.insert(key.as_str(), record.nonce).map_err(|e| self.failed(e))?;
                }
                newest = newest.max(record.nonce);
            }
            self.forget_old(&mut table, &mut intents, newest.saturating_sub(FINISHED_MAX))?;
        }
        txn.commit().map_err(|e| self.failed(e))
    }

    /// Removes some finished records below a nonce.
    fn forget_old(
        &self,
        table: &mut redb::Table<'_, u64, &'static [u8]>,
        intents: &mut redb::Table<'_, &'static str, u64>,
        below: u64,
    ) -> Result<(), OutboxError> {
        let mut old = Vec::new();
        for entry in table.range(..below).map_err(|e| self.failed(e))?.take(FORGET_AT_ONCE) {
            let (nonce, bytes) = entry.map_err(|e| self.failed(e))?;
            old.push(self.unseal(nonce.value(), bytes.value())?);
        }
        for record in old.iter().filter(|record| record.state != State::Pending) {
            table.remove(record.nonce).map_err(|e| self.failed(e))?;
            for key in &record.keys {
                intents.remove(key.as_str()).map_err(|e| self.failed(e))?;
            }
        }
        Ok(())
    }
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data is JSON")
}

fn checksum(nonce: u64, text: &[u8]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&nonce.to_be_bytes());
    hasher.update(text);
    let mut sum = [0; 8];
    sum.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    sum
}
