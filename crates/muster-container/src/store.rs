//! What a Container must not forget: its leases, what it did and earned, and whether it was told to drain.
//!
//! One redb file. Every value is a version byte, eight bytes of BLAKE3 over what follows, and a postcard body, so that
//! a damaged record is told from a good one before it is believed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use muster_core::brain::container::Held;
use muster_core::ids::{Address, LeaseId, NodeId};
use muster_core::lease::{End, Phase};
use muster_core::units::{TimeMs, TokenAmount};
use redb::{
    Builder, Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The layout that this build reads and writes.
const FORMAT: u32 = 1;
/// The version of each record's body.
const RECORD_VERSION: u8 = 1;
const SUM_LEN: usize = 8;
/// Finished leases that are kept for the owner to look at; the oldest give way.
const HISTORY_MAX: u64 = 100_000;
/// Pages kept in memory.
const CACHE_BYTES: usize = 4 << 20;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const LEASES: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("leases");
const HISTORY: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("history");
/// (when it closed in milliseconds, lease), oldest first.
const ORDER: TableDefinition<'_, (u64, &[u8; 32]), ()> = TableDefinition::new("history-order");

/// What can be wrong with the records.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has them open.
    #[error("{} is in use by another process: one Container has one data folder; stop the other one, or give this one a folder of its own", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// Written by a newer build.
    #[error("{} was written by a newer version of muster (layout {found}, this one reads {FORMAT}): install that version again", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its layout.
        found: u32,
    },
    /// Written for another node.
    #[error("{} belongs to the node {found}, and this node's key is {ours}: give each key a data folder of its own", path.display())]
    OtherNode {
        /// The file.
        path: PathBuf,
        /// The node that it was written for.
        found: NodeId,
        /// This node.
        ours: NodeId,
    },
    /// A record that cannot be believed.
    #[error("{}: the record {record} is damaged ({why}): restore the file from a backup, or move it away to begin anew; deposits of open leases go back to their consumers then", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The record.
        record: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The file as a whole cannot be read or written.
    #[error("cannot {action} {}: {source}; if the disk is full, free some space; if the file is damaged, restore it from a backup or move it away", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: Box<redb::Error>,
    },
    /// The folder cannot be made.
    #[error("cannot create the folder {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Whether the owner wants work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Intent {
    /// Take work.
    #[default]
    Serving,
    /// Finish what runs, take nothing new.
    Draining,
    /// As draining, and unbond the stake once idle.
    Leaving,
}

/// What became of a lease that was paid for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryRow {
    /// Which.
    pub lease: LeaseId,
    /// Who paid.
    pub consumer: Address,
    /// Who proposed it.
    pub indexer: NodeId,
    /// When the workload began, if it did.
    pub started_at: Option<TimeMs>,
    /// When it was over.
    pub ended_at: TimeMs,
    /// How long it ran.
    pub ran_ms: u64,
    /// How it ended.
    pub end: End,
    /// The price of a second.
    pub rate_per_second: TokenAmount,
    /// Paid out by the escrow, the network's fee included.
    pub redeemed: TokenAmount,
    /// Vouchers taken.
    pub vouchers: u32,
    /// The transaction that closed the lease, if it was this Container's.
    pub settle_tx: Option<[u8; 32]>,
}

/// Sums over all finished leases, also over those that the history no longer names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Leases that were closed on the chain.
    pub leases: u64,
    /// Of them, those that this Container interrupted.
    pub interrupted: u64,
    /// Milliseconds that workloads ran.
    pub ran_ms: u64,
    /// Paid out by the escrow, the network's fee included.
    pub redeemed: TokenAmount,
}

/// What one durable commit writes.
#[derive(Debug, Default)]
pub(crate) struct Writes<'a> {
    pub(crate) save: Vec<&'a Held>,
    pub(crate) forget: Vec<LeaseId>,
    pub(crate) intent: Option<Intent>,
}

impl Writes<'_> {
    pub(crate) fn is_empty(&self) -> bool {
        self.save.is_empty() && self.forget.is_empty() && self.intent.is_none()
    }
}

/// The records. Clones share the file.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    db: Arc<Database>,
    path: PathBuf,
}

impl Store {
    /// Opens or creates the records of this node.
    pub(crate) fn open(path: &Path, node: NodeId) -> Result<Self, StoreError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)
                .map_err(|source| StoreError::Folder { path: folder.to_path_buf(), source })?;
        }
        let opened = Builder::new().set_cache_size(CACHE_BYTES).create(path);
        let db = opened.map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path: path.to_path_buf() },
            DatabaseError::UpgradeRequired(found) => {
                StoreError::Newer { path: path.to_path_buf(), found: u32::from(found) }
            }
            other => StoreError::Io { action: "open", path: path.to_path_buf(), source: Box::new(other.into()) },
        })?;
        let store = Self { db: Arc::new(db), path: path.to_path_buf() };
        store.check_owner(node)?;
        Ok(store)
    }

    fn io<E: Into<redb::Error>>(&self, action: &'static str) -> impl Fn(E) -> StoreError + '_ {
        move |error| StoreError::Io { action, path: self.path.clone(), source: Box::new(error.into()) }
    }

    fn damaged(&self, record: impl ToString, why: &'static str) -> StoreError {
        StoreError::Damaged { path: self.path.clone(), record: record.to_string(), why }
    }

    /// Stamps a new file with layout and node, and refuses one with others.
    fn check_owner(&self, node: NodeId) -> Result<(), StoreError> {
        let txn = self.db.begin_write().map_err(self.io("write"))?;
        {
            let mut meta = txn.open_table(META).map_err(self.io("write"))?;
            txn.open_table(LEASES).map_err(self.io("write"))?;
            txn.open_table(HISTORY).map_err(self.io("write"))?;
            txn.open_table(ORDER).map_err(self.io("write"))?;
            let format = meta.get("format").map_err(self.io("read"))?.map(|v| v.value().to_vec());
            match format {
                None => {
                    meta.insert("format", FORMAT.to_le_bytes().as_slice()).map_err(self.io("write"))?;
                    meta.insert("node", seal(&node).as_slice()).map_err(self.io("write"))?;
                }
                Some(bytes) => {
                    let found = <[u8; 4]>::try_from(bytes.as_slice())
                        .map(u32::from_le_bytes)
                        .map_err(|_| self.damaged("format", "it is not a number"))?;
                    if found > FORMAT {
                        return Err(StoreError::Newer { path: self.path.clone(), found });
                    }
                }
            }
            let owner = meta.get("node").map_err(self.io("read"))?.map(|v| v.value().to_vec());
            let owner = owner.ok_or_else(|| self.damaged("node", "it is missing"))?;
            let found: NodeId = self.unseal("node", &owner)?;
            if found != node {
                return Err(StoreError::OtherNode { path: self.path.clone(), found, ours: node });
            }
        }
        txn.commit().map_err(self.io("write"))
    }

    /// All leases that are not forgotten.
    pub(crate) fn leases(&self) -> Result<Vec<Held>, StoreError> {
        let txn = self.db.begin_read().map_err(self.io("read"))?;
        let table = txn.open_table(LEASES).map_err(self.io("read"))?;
        let mut found = Vec::new();
        for entry in table.iter().map_err(self.io("read"))? {
            let (key, value) = entry.map_err(self.io("read"))?;
            let lease = LeaseId(*key.value());
            let held: Held = self.unseal(format!("of lease {lease}"), value.value())?;
            if held.lease.id() != lease {
                return Err(self.damaged(format!("of lease {lease}"), "it names another lease"));
            }
            found.push(held);
        }
        Ok(found)
    }

    /// Whether the owner wanted work when the Container was last told.
    pub(crate) fn intent(&self) -> Result<Intent, StoreError> {
        Ok(self.meta("intent")?.unwrap_or_default())
    }

    /// Sums over all finished leases.
    pub(crate) fn totals(&self) -> Result<Totals, StoreError> {
        Ok(self.meta("totals")?.unwrap_or_default())
    }

    fn meta<T: DeserializeOwned>(&self, name: &'static str) -> Result<Option<T>, StoreError> {
        let txn = self.db.begin_read().map_err(self.io("read"))?;
        let table = txn.open_table(META).map_err(self.io("read"))?;
        let bytes = table.get(name).map_err(self.io("read"))?.map(|v| v.value().to_vec());
        bytes.map(|bytes| self.unseal(name, &bytes)).transpose()
    }

    /// The last finished leases, newest first.
    pub(crate) fn history(&self, count: usize) -> Result<Vec<HistoryRow>, StoreError> {
        let txn = self.db.begin_read().map_err(self.io("read"))?;
        let order = txn.open_table(ORDER).map_err(self.io("read"))?;
        let rows = txn.open_table(HISTORY).map_err(self.io("read"))?;
        let mut found = Vec::new();
        for entry in order.iter().map_err(self.io("read"))?.rev().take(count) {
            let (key, _) = entry.map_err(self.io("read"))?;
            let id = *key.value().1;
            let name = || format!("of the finished lease {}", LeaseId(id));
            let row = rows.get(&id).map_err(self.io("read"))?.ok_or_else(|| self.damaged(name(), "it is missing"))?;
            found.push(self.unseal(name(), row.value())?);
        }
        Ok(found)
    }

    /// Writes everything at once and durably.
    pub(crate) fn commit(&self, writes: &Writes<'_>) -> Result<(), StoreError> {
        let mut txn = self.db.begin_write().map_err(self.io("write"))?;
        txn.set_durability(Durability::Immediate).map_err(self.io("write"))?;
        {
            let mut leases = txn.open_table(LEASES).map_err(self.io("write"))?;
            for held in &writes.save {
                leases.insert(&held.lease.id().0, seal(held).as_slice()).map_err(self.io("write"))?;
            }
            for lease in &writes.forget {
                leases.remove(&lease.0).map_err(self.io("write"))?;
            }
            if let Some(intent) = writes.intent {
                let mut meta = txn.open_table(META).map_err(self.io("write"))?;
                meta.insert("intent", seal(&intent).as_slice()).map_err(self.io("write"))?;
            }
        }
        let closed = writes.save.iter().filter(|held| held.lease.phase == Phase::Closed);
        self.remember(&txn, closed.copied())?;
        txn.commit().map_err(self.io("write"))
    }

    /// Adds finished leases to the history, each once.
    fn remember<'a>(&self, txn: &WriteTransaction, closed: impl Iterator<Item = &'a Held>) -> Result<(), StoreError> {
        let mut closed = closed.peekable();
        if closed.peek().is_none() {
            return Ok(());
        }
        let mut rows = txn.open_table(HISTORY).map_err(self.io("write"))?;
        let mut order = txn.open_table(ORDER).map_err(self.io("write"))?;
        let mut meta = txn.open_table(META).map_err(self.io("write"))?;
        let bytes = meta.get("totals").map_err(self.io("read"))?.map(|v| v.value().to_vec());
        let mut totals: Totals = bytes.map(|b| self.unseal("totals", &b)).transpose()?.unwrap_or_default();
        let before = totals;
        for held in closed {
            let row = HistoryRow::of(held);
            if rows.get(&row.lease.0).map_err(self.io("read"))?.is_some() {
                continue;
            }
            totals.leases = totals.leases.saturating_add(1);
            totals.interrupted = totals.interrupted.saturating_add(u64::from(row.end.is_interruption()));
            totals.ran_ms = totals.ran_ms.saturating_add(row.ran_ms);
            totals.redeemed = totals.redeemed.saturating_add(row.redeemed);
            rows.insert(&row.lease.0, seal(&row).as_slice()).map_err(self.io("write"))?;
            order.insert((row.ended_at.0, &row.lease.0), ()).map_err(self.io("write"))?;
        }
        if totals != before {
            meta.insert("totals", seal(&totals).as_slice()).map_err(self.io("write"))?;
        }
        while redb::ReadableTableMetadata::len(&order).map_err(self.io("read"))? > HISTORY_MAX {
            let oldest = order.pop_first().map_err(self.io("write"))?.map(|(key, _)| *key.value().1);
            let Some(oldest) = oldest else { break };
            rows.remove(&oldest).map_err(self.io("write"))?;
        }
        Ok(())
    }

    fn unseal<T: DeserializeOwned>(&self, record: impl ToString, bytes: &[u8]) -> Result<T, StoreError> {
        let Some((&version, rest)) = bytes.split_first() else { return Err(self.damaged(record, "it is empty")) };
        if version > RECORD_VERSION {
            return Err(StoreError::Newer { path: self.path.clone(), found: u32::from(version) });
        }
        if rest.len() < SUM_LEN {
            return Err(self.damaged(record, "it is too short"));
        }
        let (sum, body) = rest.split_at(SUM_LEN);
        if blake3::hash(body).as_bytes().get(..SUM_LEN) != Some(sum) {
            return Err(self.damaged(record, "its checksum does not fit"));
        }
        match postcard::take_from_bytes::<T>(body) {
            Ok((value, [])) => Ok(value),
            Ok(_) | Err(_) => Err(self.damaged(record, "it is not what it should be")),
        }
    }
}

fn seal<T: Serialize>(value: &T) -> Vec<u8> {
    let body = postcard::to_allocvec(value).expect("records of plain fields serialise");
    let mut bytes = Vec::with_capacity(1 + SUM_LEN + body.len());
    bytes.push(RECORD_VERSION);
    bytes.extend(blake3::hash(&body).as_bytes().iter().take(SUM_LEN));
    bytes.extend(body);
    bytes
}

impl HistoryRow {
    fn of(held: &Held) -> Self {
        let lease = &held.lease;
        Self {
            lease: lease.id(),
            consumer: lease.terms.consumer,
            indexer: lease.terms.indexer,
            started_at: lease.started_at,
            ended_at: lease.ended_at.unwrap_or(lease.accepted_at),
            ran_ms: lease.ran_ms,
            end: lease.end.clone().unwrap_or(End::NeverStarted),
            rate_per_second: lease.terms.rate_per_second,
            redeemed: lease.redeemed,
            vouchers: lease.vouchers,
            settle_tx: held.settle_tx,
        }
    }
}

#[cfg(test)]
mod tests {
    use muster_core::hardware::{Allocation, GpuSet};
    use muster_core::ids::RequestId;
    use muster_core::lease::{Lease, LeaseTerms};
    use muster_core::units::Bytes;

    use super::*;

    const NODE: NodeId = NodeId([7; 32]);

    fn held(name: u8, phase: Phase) -> Held {
        let terms = LeaseTerms {
            lease: LeaseId([name; 32]),
            salt: [0; 32],
            request: RequestId(1),
            consumer: Address([1; 20]),
            session_key: Address([2; 20]),
            container: NODE,
            indexer: NodeId([9; 32]),
            rate_per_second: TokenAmount(10),
            deposit: TokenAmount(1_000),
            max_seconds: 60,
            interval_ms: 1_000,
            open_within_ms: 15_000,
            allocation: Allocation { cpu_millis: 1, memory: Bytes(1), disk: Bytes(1), gpus: GpuSet::NONE },
            egress: false,
            tokens: None,
        };
        let mut lease = Lease::accepted(terms, TimeMs(u64::from(name)));
        lease.phase = phase;
        lease.redeemed = TokenAmount(5);
        lease.ran_ms = 100;
        lease.end = Some(End::Exited(0));
        Held { lease, taken: false, settle_tx: None }
    }

    fn save(store: &Store, records: &[&Held]) {
        store.commit(&Writes { save: records.to_vec(), ..Writes::default() }).unwrap();
    }

    #[test]
    fn what_was_committed_is_there_after_opening_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/container.redb");
        let (one, two) = (held(1, Phase::Running), held(2, Phase::Accepted));
        {
            let store = Store::open(&path, NODE).unwrap();
            save(&store, &[&one, &two]);
            let writes = Writes { forget: vec![two.lease.id()], intent: Some(Intent::Leaving), ..Writes::default() };
            store.commit(&writes).unwrap();
        }
        let store = Store::open(&path, NODE).unwrap();
        assert_eq!(store.leases().unwrap(), [one]);
        assert_eq!(store.intent().unwrap(), Intent::Leaving);
    }

    #[test]
    fn a_finished_lease_counts_once_however_often_it_is_saved() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("c.redb"), NODE).unwrap();
        let mut one = held(1, Phase::Closed);
        save(&store, &[&one, &held(2, Phase::Void)]);
        one.taken = true;
        save(&store, &[&one]);
        save(&store, &[&held(3, Phase::Closed)]);
        let totals = store.totals().unwrap();
        assert_eq!((totals.leases, totals.redeemed, totals.ran_ms), (2, TokenAmount(10), 200));
        let names: Vec<LeaseId> = store.history(10).unwrap().iter().map(|row| row.lease).collect();
        assert_eq!(names, [LeaseId([3; 32]), LeaseId([1; 32])]);
        assert_eq!(store.history(1).unwrap().len(), 1);
    }

    #[test]
    fn a_second_user_another_node_and_a_newer_layout_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.redb");
        let store = Store::open(&path, NODE).unwrap();
        assert!(matches!(Store::open(&path, NODE), Err(StoreError::InUse { .. })));
        drop(store);
        assert!(matches!(Store::open(&path, NodeId([8; 32])), Err(StoreError::OtherNode { .. })));
        let store = Store::open(&path, NODE).unwrap();
        let txn = store.db.begin_write().unwrap();
        txn.open_table(META).unwrap().insert("format", 9u32.to_le_bytes().as_slice()).unwrap();
        txn.commit().unwrap();
        drop(store);
        let error = Store::open(&path, NODE).unwrap_err();
        assert!(matches!(error, StoreError::Newer { found: 9, .. }));
        assert!(error.to_string().contains("newer version"), "{error}");
    }

    #[test]
    fn a_damaged_record_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.redb");
        let store = Store::open(&path, NODE).unwrap();
        let record = held(1, Phase::Running);
        save(&store, &[&record]);
        let mut bytes = seal(&record);
        *bytes.last_mut().unwrap() ^= 1;
        let txn = store.db.begin_write().unwrap();
        txn.open_table(LEASES).unwrap().insert(&record.lease.id().0, bytes.as_slice()).unwrap();
        txn.commit().unwrap();
        let error = store.leases().unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }));
        let text = error.to_string();
        assert!(text.contains("c.redb") && text.contains("0101") && text.contains("checksum"), "{text}");
    }

    #[test]
    fn a_file_of_something_else_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.redb");
        std::fs::write(&path, b"this is no database at all, but it is long enough to look at".repeat(100)).unwrap();
        let error = Store::open(&path, NODE).unwrap_err();
        assert!(error.to_string().contains("c.redb"), "{error}");
    }
}
