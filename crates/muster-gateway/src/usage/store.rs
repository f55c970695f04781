//! Usage on disk: one redb file, written behind by one thread.
//!
//! A value is a version byte, eight bytes of BLAKE3 over what follows, and five numbers of eight bytes. A write that
//! fails is made again; what was counted stays counted in memory meanwhile.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::{Account, Month, UsageRow, Used};

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
const NUMBERS: usize = 5;
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

/// The thread that writes.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    path: PathBuf,
    db: Mutex<Option<Database>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    /// Opens the file, and gives what is in it.
    pub(super) fn open(dir: &Path) -> Result<(Self, Vec<Read>), UsageError> {
        let path = dir.join(FILE);
        let system = |source| UsageError::System { action: "create the folder of", path: path.clone(), source };
        std::fs::create_dir_all(dir).map_err(system)?;
        let db = redb::Builder::new().set_cache_size(CACHE_BYTES).create(&path).map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => UsageError::InUse { path: path.clone() },
            other => failed("open", &path)(other.into()),
        })?;
        let rows = read(&db, &path)?;
        let (db, thread) = (Mutex::new(Some(db)), Mutex::new(None));
        Ok((Self { shared: Arc::default(), path, db, thread }, rows))
    }

    /// Starts the thread; `known` are the accounts that were read.
    pub(super) fn begin(&self, known: Vec<Arc<Account>>) -> Result<(), UsageError> {
        let Some(db) = self.db.lock().unwrap_or_else(PoisonError::into_inner).take() else { return Ok(()) };
        let writing = Writing {
            shared: Arc::clone(&self.shared),
            db,
            snapshot: self.path.with_file_name(SNAPSHOT),
            known,
            snapshot_due: None,
        };
        let thread = std::thread::Builder::new().name("usage".to_owned()).spawn(move || writing.run());
        let system = |source| UsageError::System { action: "start to write", path: self.path.clone(), source };
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
    db: Database,
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
            let rows: Vec<UsageRow> = accounts.iter().flat_map(|account| account.take_unwritten()).collect();
            if let Err(error) = write(&self.db, &rows) {
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
            if !rows.is_empty() {
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

fn read(db: &Database, path: &Path) -> Result<Vec<Read>, UsageError> {
    let io = failed("read", path);
    let txn = db.begin_read().map_err(|e| io(e.into()))?;
    let table = match txn.open_table(USAGE) {
        Ok(table) => table,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(error) => return Err(io(error.into())),
    };
    let mut rows = Vec::new();
    for entry in table.iter().map_err(|e| io(e.into()))? {
        let (key, value) = entry.map_err(|e| io(e.into()))?;
        let name = key.value();
        let damaged = || UsageError::Damaged { path: path.to_owned(), record: name.to_owned() };
        let used = unseal(value.value()).ok_or_else(damaged)?;
        let (key, month, model) = split(name).ok_or_else(damaged)?;
        rows.push((key.to_owned(), month, model.to_owned(), used));
    }
    Ok(rows)
}

/// `KEY/2026-11/MODEL`.
fn split(name: &str) -> Option<(&str, Month, &str)> {
    let (key, rest) = name.split_once('/')?;
    let (month, model) = rest.split_once('/')?;
    let (year, month) = month.split_once('-')?;
    let (year, month): (u32, u32) = (year.parse().ok()?, month.parse().ok()?);
    (1..=12).contains(&month).then(|| (key, Month(year.saturating_mul(12).saturating_add(month - 1)), model))
}

fn write(db: &Database, rows: &[UsageRow]) -> Result<(), redb::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    let txn = db.begin_write()?;
    {
        let mut table = txn.open_table(USAGE)?;
        for row in rows {
            let name = format!("{}/{}/{}", row.key, row.month, row.model);
            table.insert(name.as_str(), seal(&row.used).as_slice())?;
        }
    }
    txn.commit()?;
    Ok(())
}

fn seal(used: &Used) -> Vec<u8> {
    let numbers = [used.requests, used.input, used.cached, used.output, used.usd_micro];
    let body: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    let mut sealed = vec![VERSION];
    sealed.extend_from_slice(blake3::hash(&body).as_bytes().get(..8).unwrap_or_default());
    sealed.extend_from_slice(&body);
    sealed
}

fn unseal(bytes: &[u8]) -> Option<Used> {
    let (version, rest) = bytes.split_first()?;
    let (sum, body) = rest.split_at_checked(8)?;
    if *version != VERSION || body.len() != NUMBERS * 8 || blake3::hash(body).as_bytes().get(..8)? != sum {
        return None;
    }
    let mut numbers = body.chunks_exact(8).filter_map(|chunk| Some(u64::from_le_bytes(chunk.try_into().ok()?)));
    let mut next = || numbers.next();
    Some(Used { requests: next()?, input: next()?, cached: next()?, output: next()?, usd_micro: next()? })
}
