//! The brain's records: what it promised, what it took, and what settled epochs left.

use std::path::{Path, PathBuf};

use muster_core::brain::checker::Saved;
use muster_core::epoch::EpochNo;
use muster_core::ids::NodeId;
use muster_core::reward::State;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

const OWNER: TableDefinition<'_, (), [u8; 32]> = TableDefinition::new("owner");
const SETTLED: TableDefinition<'_, (), &[u8]> = TableDefinition::new("settled");
const OPEN: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("open");

/// Why records cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody else has the file open.
    #[error("{} is in use: another Checker runs in this folder", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The records are of another Checker.
    #[error("the records in {} are those of Checker {other}: each Checker needs a folder of its own", path.display())]
    Other {
        /// The file.
        path: PathBuf,
        /// Whose they are.
        other: NodeId,
    },
    /// The disk is full, or the file is damaged.
    #[error("the records in {} cannot be used: free some disk, or give the Checker a new folder", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: Box<redb::Error>,
    },
    /// A record of a version that this build does not read.
    #[error("a record in {} cannot be read: it was written by another version", path.display())]
    Record {
        /// The file.
        path: PathBuf,
    },
}

/// The records in one file.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    database: Database,
    /// Where the next record of an open epoch goes.
    next: u64,
}

impl Store {
    pub(crate) fn open(path: &Path, owner: NodeId) -> Result<Self, StoreError> {
        let database = match Database::create(path) {
            Ok(database) => database,
            Err(redb::DatabaseError::DatabaseAlreadyOpen) => {
                return Err(StoreError::InUse { path: path.to_owned() });
            }
            Err(error) => return Err(broken(path, error)),
        };
        let mut store = Self { path: path.to_owned(), database, next: 0 };
        store.begin(owner)?;
        Ok(store)
    }

    fn begin(&mut self, owner: NodeId) -> Result<(), StoreError> {
        let path = self.path.clone();
        let write = self.database.begin_write().map_err(|e| broken(&path, e))?;
        {
            let mut table = write.open_table(OWNER).map_err(|e| broken(&path, e))?;
            let known = table.get(()).map_err(|e| broken(&path, e))?.map(|guard| guard.value());
            match known {
                Some(other) if other != owner.0 => {
                    return Err(StoreError::Other { path, other: NodeId(other) });
                }
                Some(_) => {}
                None => drop(table.insert((), owner.0).map_err(|e| broken(&path, e))?),
            }
            let open = write.open_table(OPEN).map_err(|e| broken(&path, e))?;
            for row in open.iter().map_err(|e| broken(&path, e))? {
                let (key, _) = row.map_err(|e| broken(&path, e))?;
                self.next = self.next.max(key.value().1.saturating_add(1));
            }
            write.open_table(SETTLED).map_err(|e| broken(&path, e))?;
        }
        write.commit().map_err(|e| broken(&path, e))
    }

    /// Everything that was saved, in the order in which it was.
    pub(crate) fn restore(&self) -> Result<Vec<Saved>, StoreError> {
        let path = &self.path;
        let read = self.database.begin_read().map_err(|e| broken(path, e))?;
        let mut all = Vec::new();
        let settled = read.open_table(SETTLED).map_err(|e| broken(path, e))?;
        if let Some(bytes) = settled.get(()).map_err(|e| broken(path, e))? {
            let state = State::decode(bytes.value()).map_err(|_| StoreError::Record { path: path.clone() })?;
            all.push(Saved::Settled(Box::new(state)));
        }
        let open = read.open_table(OPEN).map_err(|e| broken(path, e))?;
        let mut rows: Vec<(u64, Saved)> = Vec::new();
        for row in open.iter().map_err(|e| broken(path, e))? {
            let (key, value) = row.map_err(|e| broken(path, e))?;
            let saved = postcard::from_bytes(value.value()).map_err(|_| StoreError::Record { path: path.clone() })?;
            rows.push((key.value().1, saved));
        }
        rows.sort_by_key(|(at, _)| *at);
        all.extend(rows.into_iter().map(|(_, saved)| saved));
        Ok(all)
    }

    /// Makes records durable, all or none.
    pub(crate) fn save(&mut self, records: &[&Saved]) -> Result<(), StoreError> {
        let path = self.path.clone();
        let write = self.database.begin_write().map_err(|e| broken(&path, e))?;
        {
            let mut settled = write.open_table(SETTLED).map_err(|e| broken(&path, e))?;
            let mut open = write.open_table(OPEN).map_err(|e| broken(&path, e))?;
            for saved in records {
                let epoch = match saved {
                    Saved::Settled(state) => {
                        settled.insert((), state.encode().as_slice()).map_err(|e| broken(&path, e))?;
                        let last = state.settled.map_or(0, |epoch| epoch.next().0);
                        open.retain_in(..(last, 0), |_, _| false).map_err(|e| broken(&path, e))?;
                        continue;
                    }
                    Saved::Mine { epoch, .. } => *epoch,
                    Saved::Commitment(commitment) => commitment.epoch,
                    Saved::Entry(entry) => entry.commitment.epoch,
                };
                let EpochNo(epoch) = epoch;
                let bytes = postcard::to_allocvec(saved).map_err(|_| StoreError::Record { path: path.clone() })?;
                open.insert((epoch, self.next), bytes.as_slice()).map_err(|e| broken(&path, e))?;
                self.next = self.next.saturating_add(1);
            }
        }
        write.commit().map_err(|e| broken(&path, e))
    }
}

fn broken(path: &Path, error: impl Into<redb::Error>) -> StoreError {
    StoreError::Broken { path: path.to_owned(), source: Box::new(error.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_core::ids::ContentHash;
    use muster_core::protocol::NodeSignature;
    use muster_core::reward::Commitment;

    fn commitment(epoch: u64, by: u8) -> Saved {
        Saved::Commitment(Commitment {
            epoch: EpochNo(epoch),
            checker: NodeId([by; 32]),
            hash: ContentHash([by; 32]),
            signature: NodeSignature { r: [by; 32], s: [by; 32] },
        })
    }

    #[test]
    fn what_was_saved_comes_back_in_order_and_settled_epochs_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checker.redb");
        let me = NodeId([1; 32]);
        let mut store = Store::open(&path, me).unwrap();
        assert!(matches!(Store::open(&path, me), Err(StoreError::InUse { .. })));
        store.save(&[&commitment(8, 1), &commitment(7, 2)]).unwrap();
        store.save(&[&commitment(9, 3)]).unwrap();
        drop(store);
        let mut store = Store::open(&path, me).unwrap();
        assert_eq!(store.restore().unwrap(), [commitment(8, 1), commitment(7, 2), commitment(9, 3)]);
        let state = State { settled: Some(EpochNo(8)), ..State::default() };
        let settled = Saved::Settled(Box::new(state));
        store.save(&[&settled, &commitment(9, 4)]).unwrap();
        assert_eq!(store.restore().unwrap(), [settled, commitment(9, 3), commitment(9, 4)]);
        drop(store);
        assert!(matches!(Store::open(&path, NodeId([2; 32])), Err(StoreError::Other { .. })));
    }
}
