//! Records of leases in SQLite.

use std::path::Path;
use std::time::Duration;

use muster_core::brain::indexer::Record;
use muster_core::ids::{LeaseId, NodeId, RequestId};
use muster_core::lease::{End, Phase};
use muster_core::units::{TimeMs, TokenAmount};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{QueryBuilder, Row, Sqlite, Transaction};

/// The schema that this build writes and reads.
const SCHEMA_VERSION: i64 = 1;
/// Leases that are read back after a restart: enough to know who broke off work lately.
const REMEMBER_MAX: i64 = 100_000;
/// Rows of one statement; the last size is one.
const ROWS_AT_ONCE: [usize; 3] = [32, 8, 1];

/// Why records could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// From a newer build.
    #[error(
        "{path} was written by a newer Muster (schema {found}; this one knows {SCHEMA_VERSION}): update Muster, or move the file away to begin anew"
    )]
    Newer {
        /// The file.
        path: String,
        /// Its schema.
        found: i64,
    },
    /// A record that cannot be true.
    #[error(
        "{path} is damaged: {what}; restore it from a backup, or move it away to begin anew (an Indexer loses only its memory of past leases)"
    )]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong.
        what: String,
    },
    /// The database itself.
    #[error("the records at {path} cannot be used: {reason}")]
    Database {
        /// The file.
        path: String,
        /// What SQLite said.
        reason: sqlx::Error,
    },
}

/// The records.
#[derive(Debug)]
pub(crate) struct Store {
    pool: SqlitePool,
    path: String,
}

impl Store {
    /// Opens the file, makes the tables when it is new.
    pub(crate) async fn open(path: &Path) -> Result<Self, StoreError> {
        let shown = path.display().to_string();
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(5));
        let damaged_or = |reason: sqlx::Error| match &reason {
            // SQLITE_NOTADB and SQLITE_CORRUPT.
            sqlx::Error::Database(e) if matches!(e.code().as_deref(), Some("26" | "11")) => {
                StoreError::Damaged { path: shown.clone(), what: e.message().to_owned() }
            }
            _ => StoreError::Database { path: shown.clone(), reason },
        };
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.map_err(damaged_or)?;
        let found: i64 = sqlx::query("PRAGMA user_version")
            .fetch_one(&pool)
            .await
            .and_then(|row| row.try_get(0))
            .map_err(damaged_or)?;
        if found > SCHEMA_VERSION {
            return Err(StoreError::Newer { path: shown, found });
        }
        if found == 0 {
            sqlx::raw_sql(
                "BEGIN;
                 CREATE TABLE leases (
                     lease BLOB PRIMARY KEY, request BLOB NOT NULL, container BLOB NOT NULL,
                     rate_per_second TEXT NOT NULL, at_ms INTEGER NOT NULL, phase TEXT NOT NULL,
                     end TEXT, ran_ms INTEGER NOT NULL) WITHOUT ROWID;
                 CREATE INDEX leases_by_time ON leases (at_ms);
                 PRAGMA user_version = 1;
                 COMMIT;",
            )
            .execute(&pool)
            .await
            .map_err(damaged_or)?;
        }
        Ok(Self { pool, path: shown.clone() })
    }

    fn failed(&self, reason: sqlx::Error) -> StoreError {
        StoreError::Database { path: self.path.clone(), reason }
    }

    /// The newest records, oldest first.
    pub(crate) async fn recent(&self) -> Result<Vec<Record>, StoreError> {
        let rows = sqlx::query("SELECT * FROM (SELECT * FROM leases ORDER BY at_ms DESC LIMIT ?) ORDER BY at_ms")
            .bind(REMEMBER_MAX)
            .fetch_all(&self.pool)
            .await
            .map_err(|e| self.failed(e))?;
        rows.iter().map(|row| self.record(row)).collect()
    }

    fn record(&self, row: &sqlx::sqlite::SqliteRow) -> Result<Record, StoreError> {
        let damaged =
            |what: &str| StoreError::Damaged { path: self.path.clone(), what: format!("a lease has a bad {what}") };
        let lease: Vec<u8> = row.try_get("lease").map_err(|e| self.failed(e))?;
        let request: Vec<u8> = row.try_get("request").map_err(|e| self.failed(e))?;
        let container: Vec<u8> = row.try_get("container").map_err(|e| self.failed(e))?;
        let rate: String = row.try_get("rate_per_second").map_err(|e| self.failed(e))?;
        let phase: String = row.try_get("phase").map_err(|e| self.failed(e))?;
        let end: Option<String> = row.try_get("end").map_err(|e| self.failed(e))?;
        let at_ms: i64 = row.try_get("at_ms").map_err(|e| self.failed(e))?;
        let ran_ms: i64 = row.try_get("ran_ms").map_err(|e| self.failed(e))?;
        Ok(Record {
            lease: LeaseId(lease.try_into().map_err(|_| damaged("name"))?),
            request: RequestId(u128::from_be_bytes(request.try_into().map_err(|_| damaged("request"))?)),
            container: NodeId(container.try_into().map_err(|_| damaged("Container"))?),
            rate_per_second: TokenAmount(rate.parse().map_err(|_| damaged("rate"))?),
            at: TimeMs(u64::try_from(at_ms).map_err(|_| damaged("time"))?),
            phase: serde_json::from_str::<Phase>(&phase).map_err(|_| damaged("phase"))?,
            end: end.map(|e| serde_json::from_str::<End>(&e)).transpose().map_err(|_| damaged("end"))?,
            ran_ms: u64::try_from(ran_ms).map_err(|_| damaged("length"))?,
        })
    }

    /// Writes all these records in one durable transaction; of each lease, one.
    pub(crate) async fn save(&self, records: &[Record]) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await.map_err(|e| self.failed(e))?;
        let mut rest = records;
        // Few sizes, so that the prepared statements are few.
        for rows in ROWS_AT_ONCE {
            while let Some((some, others)) = rest.split_at_checked(rows) {
                self.save_some(&mut tx, some).await?;
                rest = others;
            }
        }
        tx.commit().await.map_err(|e| self.failed(e))
    }

    async fn save_some(&self, tx: &mut Transaction<'_, Sqlite>, records: &[Record]) -> Result<(), StoreError> {
        let text = |what: Result<String, serde_json::Error>| {
            what.map_err(|e| StoreError::Damaged { path: self.path.clone(), what: e.to_string() })
        };
        let mut rows = Vec::with_capacity(records.len());
        for r in records {
            let phase = text(serde_json::to_string(&r.phase))?;
            rows.push((r, phase, r.end.as_ref().map(serde_json::to_string).map(text).transpose()?));
        }
        let mut insert = QueryBuilder::<Sqlite>::new(
            "INSERT INTO leases (lease, request, container, rate_per_second, at_ms, phase, end, ran_ms) ",
        );
        insert.push_values(rows, |mut row, (r, phase, end)| {
            row.push_bind(r.lease.0.to_vec())
                .push_bind(r.request.0.to_be_bytes().to_vec())
                .push_bind(r.container.0.to_vec())
                .push_bind(r.rate_per_second.0.to_string())
                .push_bind(i64::try_from(r.at.0).unwrap_or(i64::MAX))
                .push_bind(phase)
                .push_bind(end)
                .push_bind(i64::try_from(r.ran_ms).unwrap_or(i64::MAX));
        });
        insert.push(
            " ON CONFLICT (lease) DO UPDATE SET phase = excluded.phase, end = excluded.end, ran_ms = excluded.ran_ms",
        );
        insert.build().execute(&mut **tx).await.map(|_| ()).map_err(|e| self.failed(e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(n: u8) -> Record {
        Record {
            lease: LeaseId([n; 32]),
            request: RequestId(u128::from(n)),
            container: NodeId([n; 32]),
            rate_per_second: TokenAmount(u128::MAX),
            at: TimeMs(u64::from(n)),
            phase: Phase::Accepted,
            end: None,
            ran_ms: 0,
        }
    }

    #[tokio::test]
    async fn records_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("records.sqlite");
        let store = Store::open(&path).await.unwrap();
        store.save(&[record(1), record(2)]).await.unwrap();
        let ended = Record { phase: Phase::Closed, end: Some(End::Exited(3)), ran_ms: 77, ..record(1) };
        store.save(std::slice::from_ref(&ended)).await.unwrap();
        drop(store);
        let again = Store::open(&path).await.unwrap();
        assert_eq!(again.recent().await.unwrap(), vec![ended, record(2)]);
    }

    #[tokio::test]
    async fn many_at_once_come_back_each_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("records.sqlite")).await.unwrap();
        let all: Vec<Record> = (1..=75).map(record).collect();
        store.save(&all).await.unwrap();
        let over: Vec<Record> = all.iter().map(|r| Record { phase: Phase::Closed, ran_ms: 5, ..r.clone() }).collect();
        store.save(&over[..42]).await.unwrap();
        assert_eq!(store.recent().await.unwrap(), [&over[..42], &all[42..]].concat());
    }

    #[tokio::test]
    async fn newer_and_damaged_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("records.sqlite");
        let store = Store::open(&path).await.unwrap();
        sqlx::query("PRAGMA user_version = 9").execute(&store.pool).await.unwrap();
        store.pool.close().await;
        assert!(matches!(Store::open(&path).await, Err(StoreError::Newer { found: 9, .. })));
        let garbage = dir.path().join("garbage.sqlite");
        std::fs::write(&garbage, "this is no database, however long one looks at it".repeat(100)).unwrap();
        let error = Store::open(&garbage).await.unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    }
}
