//! Usage on disk: one redb file, written behind by one thread. Purses and payments lie in it, too.
//!
//! A value is a version byte, eight bytes of BLAKE3 over what follows, and numbers of eight bytes. A write that fails is
//! made again; what was counted stays counted in memory meanwhile.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use super::{Account, Month, UsageRow, Used, purse};

/// How far what is written lies behind what is counted.
pub(super) const WRITE_EVERY: Duration = Duration::from_millis(80);
/// After a write that failed.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How often this month's usage is written for people's tools.
const SNAPSHOT_EVERY: Duration = Duration::from_secs(1);

const USAGE: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("usage");
const FILE: &str = "usage.redb";
const SNAPSHOT: &str = "usage.json";
const VERSION: u8 = 1;
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// Why usage cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// Another process has the file.
    #[error("{} is in use by another process: a Gateway runs in this folder already", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read or written.
    #[error("cannot {action} {}: {source}; if the disk is full, free some space; if the file is damaged, restore it from a backup or move it away", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: Box<redb::Error>,
    },
    /// A record that cannot be believed.
    #[error("{}: the usage {record:?} is damaged; restore the file from a backup, or move it away to count from nothing", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The record.
        record: String,
    },
    /// The thread that writes cannot be started, or a plain file fails.
    #[error("cannot {action} {}: {source}", path.display())]
    System {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

type Read = (String, Month, String, Used);

#[derive(Debug, Default)]
struct Queue {
    unwritten: Vec<Arc<Account>>,
    stop: bool,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

/// The file. It is closed when the last one lets go of it.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    db: Database,
}

impl Store {
    /// Opens the file of a Gateway's folder.
    pub(super) fn open(dir: &Path) -> Result<Self, UsageError> {
        let path = dir.join(FILE);
        let system = |source| UsageError::System { action: "create the folder of", path: path.clone(), source };
        std::fs::create_dir_all(dir).map_err(system)?;
        let db = redb::Builder::new().set_cache_size(CACHE_BYTES).create(&path).map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => UsageError::InUse { path: path.clone() },
            other => failed("open", &path)(other.into()),
        })?;
        Ok(Self { path, db })
    }

    /// Does something in one commit; durable when this comes back.
    pub(super) fn write<T>(
        &self,
        action: &'static str,
        work: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, UsageError> {
        let done = || -> Result<T, redb::Error> {
            let txn = self.db.begin_write()?;
            let done = work(&txn)?;
            txn.commit()?;
            Ok(done)
        };
        done().map_err(failed(action, &self.path))
    }

    /// Looks at one moment of it.
    pub(super) fn read<T>(
        &self,
        work: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, UsageError> {
        let done = || -> Result<T, redb::Error> { work(&self.db.begin_read()?) };
        done().map_err(failed("read", &self.path))
    }

    /// A record that cannot be believed.
    pub(super) fn damaged(&self, record: &str) -> UsageError {
        UsageError::Damaged { path: self.path.clone(), record: record.to_owned() }
    }
}

/// The thread that writes.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    store: Arc<Store>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self { shared: Arc::default(), store, thread: Mutex::new(None) }
    }

    /// Starts the thread; `known` are the accounts that were read.
    pub(super) fn begin(&self, known: Vec<Arc<Account>>) -> Result<(), UsageError> {
        let path = &self.store.path;
        let writing = Writing {
            shared: Arc::clone(&self.shared),
            store: Arc::clone(&self.store),
            snapshot: path.with_file_name(SNAPSHOT),
            // A process that was killed may not have told what it counted last.
            snapshot_due: (!known.is_empty()).then(Instant::now),
            known,
        };
        let thread = std::thread::Builder::new().name("usage".to_owned()).spawn(move || writing.run());
        let system = |source| UsageError::System { action: "start to write", path: path.clone(), source };
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread.map_err(system)?);
        Ok(())
    }

    /// An account has something to write.
    pub(super) fn note(&self, account: Arc<Account>) {
        let mut queue = self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.unwritten.push(account);
        if queue.unwritten.len() == 1 {
            self.shared.wake.notify_one();
        }
    }

    /// Writes what there is and ends the thread.
    pub(super) fn close(&self) {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner).stop = true;
        self.shared.wake.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A writer that panicked has nothing more to say.
        let _ = thread.map(JoinHandle::join);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}

struct Writing {
    shared: Arc<Shared>,
    store: Arc<Store>,
    snapshot: PathBuf,
    known: Vec<Arc<Account>>,
    snapshot_due: Option<Instant>,
}

impl Writing {
    fn run(mut self) {
        loop {
            let (accounts, stop) = self.wait();
            for account in &accounts {
                if !self.known.iter().any(|known| Arc::ptr_eq(known, account)) {
                    self.known.push(Arc::clone(account));
                }
            }
            let owned = |account: &Arc<Account>| {
                let owner = account.purse.get().map(|(owner, _)| Arc::clone(owner));
                account.take_unwritten().into_iter().map(move |row| (row, owner.clone()))
            };
            let rows: Vec<Owned> = accounts.iter().flat_map(owned).collect();
            let nothing = rows.is_empty();
            let written = if nothing { Ok(()) } else { self.store.write("write", |txn| write(txn, &rows)) };
            if let Err(error) = written {
                tracing::warn!(%error, rows = rows.len(), "usage is not written; it is tried again");
                for account in &accounts {
                    account.give_back();
                }
                if stop {
                    return;
                }
                std::thread::sleep(RETRY_AFTER);
                self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner).unwritten.extend(accounts);
                continue;
            }
            if !nothing {
                self.snapshot_due.get_or_insert_with(|| Instant::now() + SNAPSHOT_EVERY);
            }
            if self.snapshot_due.is_some_and(|due| stop || due <= Instant::now()) {
                self.snapshot_due = None;
                self.write_snapshot();
            }
            if stop {
                return;
            }
        }
    }

    /// Waits until there is something to write, gathers for a moment, and takes it.
    fn wait(&self) -> (Vec<Arc<Account>>, bool) {
        let mut queue = self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
        while queue.unwritten.is_empty() && !queue.stop {
            queue = match self.snapshot_due {
                Some(due) => {
                    let left = due.saturating_duration_since(Instant::now());
                    let (queue, out) =
                        self.shared.wake.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner);
                    if out.timed_out() {
                        return (Vec::new(), queue.stop);
                    }
                    queue
                }
                None => self.shared.wake.wait(queue).unwrap_or_else(PoisonError::into_inner),
            };
        }
        let gathered = |queue: &mut Queue| !queue.stop;
        let (mut queue, _) =
            self.shared.wake.wait_timeout_while(queue, WRITE_EVERY, gathered).unwrap_or_else(PoisonError::into_inner);
        (std::mem::take(&mut queue.unwritten), queue.stop)
    }

    fn write_snapshot(&self) {
        let now_s = crate::keys::now_s();
        let rows: Vec<UsageRow> = self.known.iter().flat_map(|account| account.rows(now_s)).collect();
        let written = serde_json::to_vec(&rows)
            .map_err(std::io::Error::from)
            .and_then(|text| crate::keys::write_private(&self.snapshot, &text));
        if let Err(error) = written {
            tracing::warn!(%error, "this month's usage is not written for `muster api-key usage`");
        }
    }
}

/// This month's usage of all keys, as the Gateway of this folder last told it, at most a second late.
///
/// # Errors
/// The file cannot be read.
pub fn read_snapshot(dir: &Path) -> Result<Vec<UsageRow>, UsageError> {
    let path = dir.join(SNAPSHOT);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(UsageError::System { action: "read", path, source }),
    };
    serde_json::from_slice(&bytes).map_err(|_| UsageError::Damaged { path, record: "of this month".to_owned() })
}

fn failed(action: &'static str, path: &Path) -> impl Fn(redb::Error) -> UsageError {
    let path = path.to_owned();
    move |source| UsageError::Io { action, path: path.clone(), source: Box::new(source) }
}

/// All that earlier processes counted.
pub(super) fn read(store: &Store) -> Result<Vec<Read>, UsageError> {
    let raw = store.read(|txn| {
        let table = match txn.open_table(USAGE) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let rows =
            table.iter()?.map(|entry| entry.map(|(key, value)| (key.value().to_owned(), value.value().to_vec())));
        Ok(rows.collect::<Result<Vec<_>, _>>()?)
    })?;
    let row = |(name, value): (String, Vec<u8>)| -> Result<Read, UsageError> {
        let known = unseal_used(&value).zip(split(&name));
        let (used, (key, month, model)) = known.ok_or_else(|| store.damaged(&name))?;
        Ok((key.to_owned(), month, model.to_owned(), used))
    };
    raw.into_iter().map(row).collect()
}

/// `KEY/2026-11/MODEL`.
fn split(name: &str) -> Option<(&str, Month, &str)> {
    let (key, rest) = name.split_once('/')?;
    let (month, model) = rest.split_once('/')?;
    let (year, month) = month.split_once('-')?;
    let (year, month): (u32, u32) = (year.parse().ok()?, month.parse().ok()?);
    (1..=12).contains(&month).then(|| (key, Month(year.saturating_mul(12).saturating_add(month - 1)), model))
}

/// A row, and whose purse pays for it.
type Owned = (UsageRow, Option<Arc<str>>);

fn write(txn: &WriteTransaction, rows: &[Owned]) -> Result<(), redb::Error> {
    for (row, owner) in rows {
        let name = format!("{}/{}/{}", row.key, row.month, row.model);
        let before = {
            let mut table = txn.open_table(USAGE)?;
            let before = table.insert(name.as_str(), seal_used(&row.used).as_slice())?;
            before.and_then(|before| unseal_used(before.value()))
        };
        if let Some(owner) = owner {
            let new = row.used.usd_micro.saturating_sub(before.map_or(0, |before| before.usd_micro));
            purse::take_off(txn, owner, new)?;
        }
    }
    Ok(())
}

fn seal_used(used: &Used) -> Vec<u8> {
    seal(&[used.requests, used.input, used.cached, used.output, used.usd_micro])
}

fn unseal_used(bytes: &[u8]) -> Option<Used> {
    let [requests, input, cached, output, usd_micro] = unseal(bytes)?;
    Some(Used { requests, input, cached, output, usd_micro })
}

/// Numbers, sealed.
pub(super) fn seal(numbers: &[u64]) -> Vec<u8> {
    let body: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    seal_bytes(&body)
}

/// So many numbers; `None` where they are not what was sealed.
pub(super) fn unseal<const N: usize>(bytes: &[u8]) -> Option<[u64; N]> {
    let body = unseal_bytes(bytes)?;
    if body.len() != N * 8 {
        return None;
    }
    let mut numbers = [0; N];
    for (number, chunk) in numbers.iter_mut().zip(body.chunks_exact(8)) {
        *number = u64::from_le_bytes(chunk.try_into().ok()?);
    }
    Some(numbers)
}

/// A version byte, eight bytes of BLAKE3, and what is sealed.
pub(super) fn seal_bytes(body: &[u8]) -> Vec<u8> {
    let mut sealed = vec![VERSION];
    sealed.extend_from_slice(blake3::hash(body).as_bytes().get(..8).unwrap_or_default());
    sealed.extend_from_slice(body);
    sealed
}

/// What was sealed; `None` where it was changed since.
pub(super) fn unseal_bytes(bytes: &[u8]) -> Option<&[u8]> {
    let (version, rest) = bytes.split_first()?;
    let (sum, body) = rest.split_at_checked(8)?;
    (*version == VERSION && blake3::hash(body).as_bytes().get(..8)? == sum).then_some(body)
}
