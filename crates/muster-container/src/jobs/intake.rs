//! Inputs on their way into a work folder, before the job runs.
//!
//! Everything here blocks and runs on a thread for blocking work. Until the job has run, nothing in the folder is
//! anybody else's, so no link can lie in the way; names are checked all the same, by the decoder and by [`WorkDir`].

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use muster_core::ids::ContentHash;
use muster_core::units::Bytes;
use muster_wire::message::files::Piece;
use serde::{Deserialize, Serialize};

use crate::sandbox::{SandboxError, WorkDir};

/// Files and folders that inputs may bring into one work folder.
const ENTRIES_MAX: usize = 200_000;
/// Bytes of all their names: they are kept in memory until the outputs are taken.
const NAMES_LEN_MAX: usize = 16 << 20;

/// What inputs have brought: by name, the length and hash of each file.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(super) files: BTreeMap<String, (u64, ContentHash)>,
    names_len: usize,
    bytes: u64,
}

impl Manifest {
    /// Writes what is known beside the job's logs. It matters after a restart only, and only for comfort: without it,
    /// inputs that the job did not change go back with its outputs.
    pub(super) fn save(&self, path: &Path) -> io::Result<()> {
        let bytes = postcard::to_allocvec(self).map_err(io::Error::other)?;
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let fresh = path.with_extension("new");
        std::fs::write(&fresh, bytes)?;
        std::fs::rename(&fresh, path)
    }

    /// What an earlier process has written, or nothing.
    pub(super) fn load(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_default();
        postcard::from_bytes(&bytes).unwrap_or_default()
    }
}

/// Why a transfer was refused, as a sentence for the consumer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IntakeError {
    /// The pieces do not follow on each other.
    #[error("the pieces came out of order: {0}")]
    OutOfOrder(&'static str),
    /// More bytes than the file was said to have, or fewer.
    #[error("{path:?} was announced with {announced} bytes and came with {got}")]
    Length {
        /// The file.
        path: String,
        /// As announced.
        announced: u64,
        /// As it came.
        got: u64,
    },
    /// The content is not what the sender has read.
    #[error("{path:?} arrived damaged: its hash does not fit; send it again")]
    Hash {
        /// The file.
        path: String,
    },
    /// The totals at the end do not fit.
    #[error("the sender counts {told} entries, {got} arrived")]
    Totals {
        /// As the sender counts.
        told: u64,
        /// As they came.
        got: u64,
    },
    /// More than the rented disk.
    #[error("the inputs need more than the {rented} of disk that were rented; ask for more with --disk")]
    DiskFull {
        /// What was rented.
        rented: Bytes,
    },
    /// Too many entries.
    #[error("more than {ENTRIES_MAX} files and folders, or too long names; pack them into an archive")]
    TooMany,
    /// The sender gave up.
    #[error("the sender gave up: {0}")]
    Aborted(String),
    /// The folder does not take it.
    #[error("cannot write {path:?}: {why}")]
    Write {
        /// The file or folder.
        path: String,
        /// Why not.
        why: String,
    },
}

struct Open {
    path: String,
    file: File,
    announced: u64,
    got: u64,
    hasher: blake3::Hasher,
}

/// One transfer. Dropped without [`Intake::keep`], it takes back what it brought.
pub(crate) struct Intake {
    work: Arc<WorkDir>,
    rented: Bytes,
    /// Bytes that may still come.
    left: u64,
    entries_before: usize,
    names_len: usize,
    open: Option<Open>,
    files: BTreeMap<String, (u64, ContentHash)>,
    /// Files and folders that were made, in order.
    made: Vec<(String, bool)>,
    entries: u64,
    bytes: u64,
}

impl Intake {
    /// Into a folder that already holds what `manifest` says.
    pub(crate) fn new(work: Arc<WorkDir>, manifest: &Manifest) -> Self {
        let rented = Bytes(work.disk_bytes());
        Self {
            left: rented.0.saturating_sub(manifest.bytes),
            rented,
            work,
            entries_before: manifest.files.len(),
            names_len: manifest.names_len,
            open: None,
            files: BTreeMap::new(),
            made: Vec::new(),
            entries: 0,
            bytes: 0,
        }
    }

    /// Takes the next piece; `true` when it was the last.
    pub(crate) fn take(&mut self, piece: Piece) -> Result<bool, IntakeError> {
        match piece {
            Piece::Folder { path } => self.folder(path).map(|()| false),
            Piece::File { path, len, executable } => self.begin(path, len, executable).map(|()| false),
            Piece::Chunk(bytes) => self.chunk(&bytes).map(|()| false),
            Piece::End { hash } => self.end(hash).map(|()| false),
            Piece::Done { entries, .. } => {
                if self.open.is_some() {
                    return Err(IntakeError::OutOfOrder("the last file has no end"));
                }
                if entries != self.entries {
                    return Err(IntakeError::Totals { told: entries, got: self.entries });
                }
                Ok(true)
            }
            Piece::Abort { why } => Err(IntakeError::Aborted(why)),
        }
    }

    fn count(&mut self, path: &str) -> Result<(), IntakeError> {
        if self.open.is_some() {
            return Err(IntakeError::OutOfOrder("an entry began inside a file"));
        }
        self.entries += 1;
        self.names_len = self.names_len.saturating_add(path.len());
        let entries = self.entries_before.saturating_add(usize::try_from(self.entries).unwrap_or(usize::MAX));
        if entries > ENTRIES_MAX || self.names_len > NAMES_LEN_MAX { Err(IntakeError::TooMany) } else { Ok(()) }
    }

    fn folder(&mut self, path: String) -> Result<(), IntakeError> {
        self.count(&path)?;
        self.work.create_dir(&path).map_err(|error| self.cannot(&path, &error))?;
        self.made.push((path, true));
        Ok(())
    }

    fn begin(&mut self, path: String, announced: u64, executable: bool) -> Result<(), IntakeError> {
        self.count(&path)?;
        if announced > self.left {
            return Err(IntakeError::DiskFull { rented: self.rented });
        }
        if self.files.contains_key(&path) {
            return Err(IntakeError::Write { path, why: "it comes twice".to_owned() });
        }
        let mode = if executable { 0o755 } else { 0o644 };
        let file = self.work.create_file(&path, mode).map_err(|error| self.cannot(&path, &error))?;
        self.made.push((path.clone(), false));
        self.open = Some(Open { path, file, announced, got: 0, hasher: blake3::Hasher::new() });
        Ok(())
    }

    fn chunk(&mut self, bytes: &[u8]) -> Result<(), IntakeError> {
        let open = self.open.as_mut().ok_or(IntakeError::OutOfOrder("bytes without a file"))?;
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        open.got = open.got.saturating_add(len);
        if open.got > open.announced {
            let (path, announced, got) = (open.path.clone(), open.announced, open.got);
            return Err(IntakeError::Length { path, announced, got });
        }
        open.hasher.update(bytes);
        open.file.write_all(bytes).map_err(|error| written(&open.path, &error, self.rented))?;
        self.left = self.left.saturating_sub(len);
        self.bytes = self.bytes.saturating_add(len);
        Ok(())
    }

    fn end(&mut self, hash: ContentHash) -> Result<(), IntakeError> {
        let open = self.open.take().ok_or(IntakeError::OutOfOrder("the end of no file"))?;
        let Open { path, announced, got, hasher, .. } = open;
        if got != announced {
            return Err(IntakeError::Length { path, announced, got });
        }
        let found = ContentHash(*hasher.finalize().as_bytes());
        if found != hash {
            return Err(IntakeError::Hash { path });
        }
        self.files.insert(path, (got, found));
        Ok(())
    }

    fn cannot(&self, path: &str, error: &SandboxError) -> IntakeError {
        match error {
            SandboxError::Io { source, .. } => written(path, source, self.rented),
            other => IntakeError::Write { path: path.to_owned(), why: other.to_string() },
        }
    }

    /// All is there: it stays. Gives the number of entries and bytes.
    pub(crate) fn keep(mut self, manifest: &mut Manifest) -> (u64, u64) {
        self.made.clear();
        manifest.names_len = self.names_len;
        manifest.bytes = manifest.bytes.saturating_add(self.bytes);
        manifest.files.append(&mut self.files);
        (self.entries, self.bytes)
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.open = None;
        // Nothing has run in the folder yet, so these paths are what we made, and no link.
        let root = self.work.path();
        for (path, folder) in self.made.drain(..).rev() {
            let path = root.join(path);
            let removed = if folder { std::fs::remove_dir(&path) } else { std::fs::remove_file(&path) };
            if let Err(error) = removed
                && !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty)
            {
                tracing::warn!(path = %path.display(), %error, "a part of a broken transfer stays");
            }
        }
    }
}

fn written(path: &str, error: &io::Error, rented: Bytes) -> IntakeError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => IntakeError::DiskFull { rented },
        _ => IntakeError::Write { path: path.to_owned(), why: error.to_string() },
    }
}
