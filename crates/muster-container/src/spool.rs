//! What a job has written to one of its standard streams, as far as it is still kept: a ring on disk.
//!
//! A ring holds the last 16 MiB. While somebody watches, nothing that they have not read is given up: the writer waits,
//! and with it the job. While nobody watches, the oldest bytes give way, and a later watcher is told how many it missed.
//! Positions count bytes since the stream began.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use muster_wire::message::stdio::STDIO_LEN_MAX;
use tokio::sync::Notify;
use tracing::warn;

/// Bytes that a ring holds.
pub(crate) const RING_BYTES: u64 = 16 << 20;
const MAGIC: [u8; 8] = *b"musterS1";
/// Magic, start, end, finished, checksum.
const HEADER_LEN: usize = 8 + 8 + 8 + 1 + 8;
/// Where the ring begins in the file.
const RING_AT: u64 = 64;

#[derive(Debug, Default)]
struct State {
    /// Position of the oldest byte that is kept.
    start: u64,
    /// Position behind the newest byte.
    end: u64,
    finished: bool,
    /// Made with the first byte: most jobs write little, many nothing.
    file: Option<Arc<File>>,
    /// Where each watcher reads next.
    watchers: BTreeMap<u64, u64>,
    next_watcher: u64,
    complained: bool,
}

/// One stream of one job. One task writes, any number watch.
#[derive(Debug)]
pub(crate) struct Spool {
    path: PathBuf,
    ring: u64,
    state: Mutex<State>,
    /// Something was written, read or finished, or a watcher left.
    changed: Notify,
}

/// What a watcher gets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The next bytes.
    Data(Vec<u8>),
    /// So many bytes are no longer there.
    Missed(u64),
    /// All that is there has been read, and more may come.
    UpToDate,
    /// All has been read, and no more will come.
    End,
}

impl Spool {
    /// A stream that has not begun.
    pub(crate) fn new(path: PathBuf) -> Arc<Self> {
        Self::sized(path, RING_BYTES)
    }

    fn sized(path: PathBuf, ring: u64) -> Arc<Self> {
        Arc::new(Self { path, ring, state: Mutex::default(), changed: Notify::new() })
    }

    /// What an earlier process has left of a stream; nothing more will come.
    pub(crate) fn left_over(path: PathBuf) -> Arc<Self> {
        let spool = Self::new(path);
        let found = read_header(&spool.path, spool.ring);
        {
            let mut state = spool.lock();
            state.finished = true;
            if let Some((file, start, end)) = found {
                (state.start, state.end, state.file) = (start, end, Some(Arc::new(file)));
            }
        }
        spool
    }

    /// Changes to the state are complete before the lock is released, so one that panicked left it right.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends bytes, waiting for watchers that are behind by a whole ring.
    pub(crate) async fn write(self: &Arc<Self>, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let Some((at, count)) = self.make_room(bytes.len()) else {
                changed.await;
                continue;
            };
            let (now, rest) = bytes.split_at(count);
            self.put(at, now.to_vec()).await;
            bytes = rest;
        }
    }

    /// Gives up what must go so that some of `len` bytes fit; `None` while a watcher still needs it.
    fn make_room(&self, len: usize) -> Option<(u64, usize)> {
        let mut state = self.lock();
        let behind = state.watchers.values().min().map_or(0, |slowest| state.end.saturating_sub(*slowest));
        let room = if state.watchers.is_empty() { self.ring } else { self.ring.saturating_sub(behind) };
        let count = len.min(usize::try_from(room).unwrap_or(usize::MAX));
        if count == 0 {
            return None;
        }
        let end = state.end.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        state.start = state.start.max(end.saturating_sub(self.ring));
        Some((state.end, count))
    }

    async fn put(self: &Arc<Self>, at: u64, bytes: Vec<u8>) {
        let this = Arc::clone(self);
        let end = at.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        let written = tokio::task::spawn_blocking(move || this.write_ring(at, &bytes)).await;
        let failed = match written {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        let header = {
            let mut state = self.lock();
            state.end = end;
            if let Some(error) = failed {
                // The bytes are lost (a full disk, most likely); the job goes on, and watchers learn what they miss.
                state.start = end;
                if !std::mem::replace(&mut state.complained, true) {
                    warn!(path = %self.path.display(), %error, "output of a job cannot be kept");
                }
            }
            state.file.clone().map(|file| (file, header(state.start, state.end, state.finished)))
        };
        if let Some((file, header)) = header {
            // Lost with the bytes when the disk fails; a damaged header reads as an empty stream.
            file.write_all_at(&header, 0).ok();
        }
        self.changed.notify_waiters();
    }

    fn write_ring(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let known = self.lock().file.clone();
        let file = match known {
            Some(file) => file,
            None => {
                if let Some(folder) = self.path.parent() {
                    std::fs::create_dir_all(folder)?;
                }
                let made = OpenOptions::new()
                    .create(true)
                    .truncate(true)
                    .read(true)
                    .write(true)
                    .mode(0o600)
                    .open(&self.path)?;
                let made = Arc::new(made);
                self.lock().file = Some(Arc::clone(&made));
                made
            }
        };
        for (place, part) in parts(at, bytes.len(), self.ring) {
            file.write_all_at(bytes.get(part).unwrap_or_default(), place)?;
        }
        Ok(())
    }

    /// Nothing more will come.
    pub(crate) fn finish(&self) {
        let header = {
            let mut state = self.lock();
            state.finished = true;
            state.file.clone().map(|file| (file, header(state.start, state.end, true)))
        };
        if let Some((file, header)) = header {
            file.write_all_at(&header, 0).ok();
        }
        self.changed.notify_waiters();
    }

    /// Bytes that are kept.
    pub(crate) fn kept_bytes(&self) -> u64 {
        let state = self.lock();
        state.end - state.start
    }

    /// Begins to read at a position.
    pub(crate) fn watch(self: &Arc<Self>, from: u64) -> Watcher {
        let mut state = self.lock();
        let id = state.next_watcher;
        state.next_watcher += 1;
        let at = from.max(state.start);
        let missed = at - from;
        state.watchers.insert(id, at);
        drop(state);
        Watcher { spool: Arc::clone(self), id, missed }
    }
}

/// Reads a stream; while it lives, nothing that it has not read is given up.
#[derive(Debug)]
pub(crate) struct Watcher {
    spool: Arc<Spool>,
    id: u64,
    missed: u64,
}

impl Watcher {
    /// What comes next, without waiting for the job to write.
    ///
    /// # Errors
    /// The ring cannot be read.
    pub(crate) async fn read(&mut self) -> io::Result<Next> {
        if self.missed > 0 {
            return Ok(Next::Missed(std::mem::take(&mut self.missed)));
        }
        let (at, count, file) = {
            let mut state = self.spool.lock();
            let at = state.watchers.get(&self.id).copied().unwrap_or(state.end);
            // Bytes that were lost because they could not be written.
            if at < state.start {
                let start = state.start;
                state.watchers.insert(self.id, start);
                return Ok(Next::Missed(start - at));
            }
            let count = usize::try_from(state.end.saturating_sub(at)).unwrap_or(usize::MAX).min(STDIO_LEN_MAX);
            if count == 0 {
                return Ok(if state.finished { Next::End } else { Next::UpToDate });
            }
            (at, count, state.file.clone())
        };
        let Some(file) = file else { return Ok(Next::UpToDate) };
        let ring = self.spool.ring;
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; count];
            for (place, part) in parts(at, count, ring) {
                file.read_exact_at(bytes.get_mut(part).unwrap_or_default(), place)?;
            }
            io::Result::Ok(bytes)
        });
        Ok(Next::Data(read.await.map_err(io::Error::other)??))
    }

    /// So many bytes have reached whoever watches: they may give way.
    pub(crate) fn taken(&self, count: usize) {
        let mut state = self.spool.lock();
        if let Some(at) = state.watchers.get_mut(&self.id) {
            *at = at.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        }
        drop(state);
        self.spool.changed.notify_waiters();
    }

    /// Waits until there may be more than [`Next::UpToDate`].
    pub(crate) async fn wait(&self) {
        loop {
            let mut changed = std::pin::pin!(self.spool.changed.notified());
            changed.as_mut().enable();
            {
                let state = self.spool.lock();
                let at = state.watchers.get(&self.id).copied().unwrap_or(0);
                if state.finished || at < state.end {
                    return;
                }
            }
            changed.await;
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.spool.lock().watchers.remove(&self.id);
        self.spool.changed.notify_waiters();
    }
}

/// Where in the file the bytes at a position lie: one part, or two around the ring's end.
fn parts(at: u64, len: usize, ring: u64) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let place = at % ring;
    let first = len.min(usize::try_from(ring - place).unwrap_or(usize::MAX));
    [(RING_AT + place, 0..first), (RING_AT, first..len)].into_iter().filter(|(_, part)| !part.is_empty())
}

fn header(start: u64, end: u64, finished: bool) -> [u8; HEADER_LEN] {
    let mut bytes = [0; HEADER_LEN];
    let fields = MAGIC.into_iter().chain(start.to_le_bytes()).chain(end.to_le_bytes()).chain([u8::from(finished)]);
    bytes.iter_mut().zip(fields).for_each(|(slot, byte)| *slot = byte);
    let sum = checksum(&bytes);
    bytes.iter_mut().skip(HEADER_LEN - sum.len()).zip(sum).for_each(|(slot, byte)| *slot = byte);
    bytes
}

fn checksum(header: &[u8; HEADER_LEN]) -> [u8; 8] {
    let hash = blake3::hash(header.get(..HEADER_LEN - 8).unwrap_or_default());
    let mut sum = [0; 8];
    sum.iter_mut().zip(hash.as_bytes()).for_each(|(slot, byte)| *slot = *byte);
    sum
}

/// The file and what it holds; `None` when there is none, or when it cannot be believed.
fn read_header(path: &Path, ring: u64) -> Option<(File, u64, u64)> {
    let file = File::open(path).ok()?;
    let mut bytes = [0; HEADER_LEN];
    file.read_exact_at(&mut bytes, 0).ok()?;
    let good = bytes.get(..8) == Some(&MAGIC[..]) && bytes.get(HEADER_LEN - 8..) == Some(&checksum(&bytes)[..]);
    let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let (start, end) = (number(8)?, number(16)?);
    (good && start <= end && end - start <= ring).then_some((file, start, end))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const RING: u64 = 1_000;

    fn spool(dir: &tempfile::TempDir) -> Arc<Spool> {
        Spool::sized(dir.path().join("lease/out"), RING)
    }

    fn bytes(from: usize, count: usize) -> Vec<u8> {
        (from..from + count).map(|n| u8::try_from(n % 251).unwrap()).collect()
    }

    async fn drain(watcher: &mut Watcher) -> (Vec<u8>, u64, Next) {
        let (mut all, mut missed) = (Vec::new(), 0);
        loop {
            match watcher.read().await.unwrap() {
                Next::Data(data) => {
                    watcher.taken(data.len());
                    all.extend(data);
                }
                Next::Missed(count) => missed += count,
                end @ (Next::UpToDate | Next::End) => return (all, missed, end),
            }
        }
    }

    #[tokio::test]
    async fn silent_streams_cost_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let spool = spool(&dir);
        let mut watcher = spool.watch(0);
        assert_eq!(watcher.read().await.unwrap(), Next::UpToDate);
        spool.finish();
        watcher.wait().await;
        assert_eq!(watcher.read().await.unwrap(), Next::End);
        assert!(!dir.path().join("lease").exists());
    }

    #[tokio::test]
    async fn unwatched_the_oldest_bytes_give_way() {
        let dir = tempfile::tempdir().unwrap();
        let spool = spool(&dir);
        for round in 0..35 {
            spool.write(&bytes(round * 100, 100)).await;
        }
        let (all, missed, end) = drain(&mut spool.watch(0)).await;
        assert_eq!((missed, end), (2_500, Next::UpToDate));
        assert_eq!(all, bytes(2_500, 1_000));
        let (all, missed, _) = drain(&mut spool.watch(3_400)).await;
        assert_eq!((all, missed), (bytes(3_400, 100), 0));
    }

    #[tokio::test]
    async fn a_slow_watcher_holds_the_writer_back_and_misses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let spool = spool(&dir);
        let mut watcher = spool.watch(0);
        let writer = Arc::clone(&spool);
        let writing = tokio::spawn(async move {
            writer.write(&bytes(0, 5_000)).await;
            writer.finish();
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!writing.is_finished(), "the writer passed a watcher that reads nothing");
        let mut all = Vec::new();
        loop {
            let (more, missed, end) = drain(&mut watcher).await;
            assert_eq!(missed, 0);
            all.extend(more);
            if end == Next::End {
                break;
            }
            watcher.wait().await;
        }
        assert_eq!(all, bytes(0, 5_000));
        writing.await.unwrap();
    }

    #[tokio::test]
    async fn a_watcher_that_leaves_frees_the_writer() {
        let dir = tempfile::tempdir().unwrap();
        let spool = spool(&dir);
        let watcher = spool.watch(0);
        let writer = Arc::clone(&spool);
        let writing = tokio::spawn(async move { writer.write(&bytes(0, 3_000)).await });
        tokio::task::yield_now().await;
        drop(watcher);
        writing.await.unwrap();
        assert_eq!(drain(&mut spool.watch(0)).await.1, 2_000);
    }

    #[tokio::test]
    async fn what_was_written_survives_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let spool = Spool::new(path.clone());
        spool.write(&bytes(0, 300)).await;
        drop(spool);
        let (all, missed, end) = drain(&mut Spool::left_over(path.clone()).watch(100)).await;
        assert_eq!((all, missed, end), (bytes(100, 200), 0, Next::End));
        // A damaged header reads as nothing, not as garbage.
        let mut file = std::fs::read(&path).unwrap();
        file[16] ^= 1;
        std::fs::write(&path, file).unwrap();
        assert_eq!(drain(&mut Spool::left_over(path).watch(0)).await, (Vec::new(), 0, Next::End));
        assert_eq!(drain(&mut Spool::left_over(dir.path().join("no")).watch(5)).await.2, Next::End);
    }

    #[tokio::test]
    async fn bytes_that_cannot_be_kept_are_missed_and_hold_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::sized(PathBuf::from("/proc/nowhere/out"), RING);
        spool.write(&bytes(0, 10)).await;
        spool.finish();
        assert_eq!(drain(&mut spool.watch(0)).await, (Vec::new(), 10, Next::End));
        drop(dir);
    }
}
