//! Fetching outputs: into a folder of their own first, and in place only when every hash is right.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use muster_core::ids::{ContentHash, LeaseId};
use muster_net::{FramedStream, NetError};
use muster_wire::message::clip_sentence;
use muster_wire::message::files::{ENTRIES_MAX, Outcome, Piece};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::gather::place_all;
use super::{Claims, FilesError, Meter, Placed};

/// Pieces that wait for the disk.
const WRITE_BEHIND: usize = 8;
/// Beyond so many files, one sync of the whole file system is cheaper than one for each.
const SYNC_EACH_MAX: usize = 64;

/// What was fetched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Files, where they are now.
    pub placed: Vec<Placed>,
    /// Files and folders.
    pub entries: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// What the Container left out (links, devices, names that cannot travel), the first few by name.
    pub left_out: Vec<String>,
}

/// Why outputs were not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// They cannot be written here; the Container keeps them for a while.
    #[error(transparent)]
    Here(#[from] FilesError),
    /// The Container cannot send them.
    #[error("the Container could not send the outputs: {0}")]
    Refused(String),
    /// What it sent cannot be right.
    #[error("the Container sent outputs that cannot be right: {0}")]
    Wrong(String),
    /// The line broke; try again.
    #[error("the outputs could not be fetched")]
    Line(#[source] NetError),
}

/// Fetches everything into `output`. The first frame ([`Transfer`](muster_wire::message::files::Transfer)) has been
/// sent before. Links are never followed, and nothing is in place before all of it is here.
///
/// # Errors
/// As [`FetchError`]; what had come is removed.
pub async fn fetch<R, W>(
    mut line: FramedStream<R, W>,
    lease: LeaseId,
    output: &Path,
    claims: &Claims,
    meter: Arc<Meter>,
) -> Result<Fetched, FetchError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    meter.restart();
    let (to_disk, pieces) = mpsc::channel(WRITE_BEHIND);
    let writer = tokio::task::spawn_blocking({
        let (output, claims) = (output.to_owned(), claims.clone());
        move || write_all(&output, lease, &claims, pieces)
    });
    let told = loop {
        let piece = match line.recv::<Piece>().await {
            Ok(Some(piece)) => piece,
            Ok(None) => break Err(FetchError::Line(NetError::Truncated)),
            Err(error) => break Err(FetchError::Line(error)),
        };
        if let Piece::Chunk(bytes) = &piece {
            meter.add(bytes.len());
        }
        match piece {
            Piece::Abort { why } => break Err(FetchError::Refused(why)),
            done @ Piece::Done { .. } => {
                // A writer that has given up says why below.
                drop(to_disk.send(done).await);
                break Ok(());
            }
            piece => {
                if to_disk.send(piece).await.is_err() {
                    break Ok(());
                }
            }
        }
    };
    drop(to_disk);
    let written = writer
        .await
        .map_err(|e| FilesError::Io { path: output.to_owned(), reason: io::Error::other(e.to_string()) })?;
    let fetched = told.and(written).map_err(|why| match why {
        // Where it was being written does not matter to anybody; which disk does.
        FetchError::Here(FilesError::Full { .. }) => FilesError::Full { path: output.to_owned() }.into(),
        other => other,
    });
    let answer = match &fetched {
        Ok(f) => Outcome::Received { entries: f.entries, bytes: f.bytes },
        Err(why) => Outcome::Refused { why: clip_sentence(&why.to_string()) },
    };
    if let Err(error) = line.send(&answer).await {
        tracing::debug!(%lease, %error, "the Container could not be told how the outputs arrived");
    }
    fetched
}

/// Makes the output folder if it is not there, and makes sure that something can be written in it.
///
/// # Errors
/// Something else is in the way, or nothing can be written.
pub fn prepare_output(output: &Path) -> Result<(), FilesError> {
    fs::create_dir_all(output).map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
            FilesError::InTheWay { path: output.to_owned(), what: "it is not a folder" }
        }
        _ => FilesError::io(output)(e),
    })?;
    let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    rustix::fs::access(output, access).map_err(|e| FilesError::io(output)(e.into()))
}

/// Writes all pieces beside their place, then puts them there.
fn write_all(
    output: &Path,
    lease: LeaseId,
    claims: &Claims,
    mut pieces: mpsc::Receiver<Piece>,
) -> Result<Fetched, FetchError> {
    prepare_output(output)?;
    let mut staging = Staging::new(output, lease)?;
    let mut tree = Tree::new(staging.path.clone());
    while let Some(piece) = pieces.blocking_recv() {
        if let Some((entries, bytes, left_out)) = tree.take(piece)? {
            let seen = tree.entries();
            if entries != seen || bytes != tree.bytes {
                return Err(FetchError::Wrong("their number or size is not what was announced".to_owned()));
            }
            tree.sync()?;
            let placed = place_all(&staging.path, output, &tree.files, &tree.folders, claims)?;
            staging.remove().map_err(FilesError::io(output))?;
            return Ok(Fetched { placed, entries, bytes, left_out });
        }
    }
    // The line broke: the receiving side says how.
    Err(FetchError::Line(NetError::Truncated))
}

/// The folder in which outputs wait until they are complete; removed with what is in it when dropped.
struct Staging {
    path: PathBuf,
    removed: bool,
}

impl Staging {
    fn new(output: &Path, lease: LeaseId) -> Result<Self, FilesError> {
        let path = output.join(format!(".muster-{}.partial", lease.short()));
        match fs::remove_dir_all(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(FilesError::io(&path)(e)),
            _ => {}
        }
        DirBuilder::new().mode(0o700).create(&path).map_err(FilesError::io(&path))?;
        Ok(Self { path, removed: false })
    }

    fn remove(&mut self) -> io::Result<()> {
        self.removed = true;
        fs::remove_dir_all(&self.path)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.removed
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "half-fetched outputs could not be removed");
        }
    }
}

/// A file that is complete in the staging folder.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) name: String,
    pub(super) len: u64,
    pub(super) hash: ContentHash,
}

/// What has come so far. Every name has passed the decoder's check; the staging folder was empty and is ours alone, so
/// no link can be in it.
struct Tree {
    root: PathBuf,
    folders: BTreeSet<String>,
    names: BTreeSet<String>,
    files: Vec<Staged>,
    open: Option<Open>,
    bytes: u64,
}

struct Open {
    name: String,
    file: File,
    len: u64,
    got: u64,
    hasher: blake3::Hasher,
}

impl Tree {
    const fn new(root: PathBuf) -> Self {
        Self { root, folders: BTreeSet::new(), names: BTreeSet::new(), files: Vec::new(), open: None, bytes: 0 }
    }

    fn entries(&self) -> u64 {
        u64::try_from(self.names.len()).unwrap_or(u64::MAX)
    }

    /// Takes one piece; at the end the announced totals come back.
    fn take(&mut self, piece: Piece) -> Result<Option<(u64, u64, Vec<String>)>, FetchError> {
        let wrong = |what: String| Err(FetchError::Wrong(what));
        match (piece, self.open.take()) {
            (Piece::Folder { path }, None) => self.folder(path)?,
            (Piece::File { path, len, executable }, None) => self.begin(path, len, executable)?,
            (Piece::Chunk(bytes), Some(mut open)) => {
                open.got = open.got.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
                if open.got > open.len {
                    return wrong(format!("{:?} is longer than announced", open.name));
                }
                open.hasher.update(&bytes);
                open.file.write_all(&bytes).map_err(FilesError::io(&self.root.join(&open.name)))?;
                self.open = Some(open);
            }
            (Piece::End { hash }, Some(open)) => self.end(open, hash)?,
            (Piece::Done { entries, bytes, left_out }, None) => return Ok(Some((entries, bytes, left_out))),
            (Piece::Abort { why }, _) => return Err(FetchError::Refused(why)),
            (_, _) => return wrong("pieces out of their order".to_owned()),
        }
        Ok(None)
    }

    fn new_name(&mut self, path: &str) -> Result<(), FetchError> {
        if self.entries() >= ENTRIES_MAX {
            return Err(FetchError::Wrong(format!("more than {ENTRIES_MAX} entries")));
        }
        if !self.names.insert(path.to_owned()) {
            return Err(FetchError::Wrong(format!("{path:?} twice")));
        }
        Ok(())
    }

    fn folder(&mut self, path: String) -> Result<(), FetchError> {
        self.new_name(&path)?;
        let full = self.root.join(&path);
        fs::create_dir_all(&full).map_err(|e| self.local(&full, &path, e))?;
        self.folders.insert(path);
        Ok(())
    }

    fn begin(&mut self, path: String, len: u64, executable: bool) -> Result<(), FetchError> {
        self.new_name(&path)?;
        let full = self.root.join(&path);
        if let Some(folder) = full.parent() {
            fs::create_dir_all(folder).map_err(|e| self.local(folder, &path, e))?;
        }
        let mode = if executable { 0o777 } else { 0o666 };
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&full)
            .map_err(|e| self.local(&full, &path, e))?;
        self.open = Some(Open { name: path, file, len, got: 0, hasher: blake3::Hasher::new() });
        Ok(())
    }

    fn end(&mut self, open: Open, hash: ContentHash) -> Result<(), FetchError> {
        if open.got != open.len {
            return Err(FetchError::Wrong(format!("{:?} is shorter than announced", open.name)));
        }
        if open.hasher.finalize().as_bytes() != &hash.0 {
            return Err(FetchError::Wrong(format!("the hash of {:?} does not match", open.name)));
        }
        if self.files.len() < SYNC_EACH_MAX {
            open.file.sync_data().map_err(FilesError::io(&self.root.join(&open.name)))?;
        }
        self.bytes = self.bytes.saturating_add(open.len);
        self.files.push(Staged { name: open.name, len: open.len, hash });
        Ok(())
    }

    /// The Container deletes its copies when it is told that they are here: so they must be.
    fn sync(&self) -> Result<(), FilesError> {
        if self.files.len() > SYNC_EACH_MAX {
            let root = File::open(&self.root).map_err(FilesError::io(&self.root))?;
            rustix::fs::syncfs(&root).map_err(|e| FilesError::io(&self.root)(e.into()))?;
        }
        Ok(())
    }

    /// A name that is a file and a folder at once is the sender's fault; everything else is this machine's.
    fn local(&self, full: &Path, name: &str, error: io::Error) -> FetchError {
        match error.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => {
                FetchError::Wrong(format!("{name:?} is both a file and a folder"))
            }
            _ => FetchError::Here(FilesError::io(full)(error)),
        }
    }
}
