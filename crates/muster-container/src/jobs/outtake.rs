//! What a job left, on its way back.
//!
//! Everything here blocks and runs on a thread for blocking work. Only plain files and folders go back, and only what
//! the inputs did not bring: a file of the same length and hash as an input is left out.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use muster_core::ids::ContentHash;
use muster_wire::BoundedBytes;
use muster_wire::message::clip_sentence;
use muster_wire::message::files::{CHUNK_LEN_MAX, Piece, check_path};

use super::intake::Manifest;
use crate::sandbox::{Output, OutputLimits, WorkDir};

/// Files and folders that go back at most.
const ENTRIES_MAX: usize = 200_000;
/// Folders within folders; a path on the wire has at most 64 parts.
const DEPTH_MAX: usize = 64;
/// Entries that were left out and are named; more are only counted.
const LEFT_OUT_NAMED_MAX: usize = 15;
/// Sparse files may be so many times as long as the disk that was rented.
const HOLES: u64 = 4;

/// One way back: all pieces, one after the other.
pub(crate) struct Outtake<'a, S> {
    pub(crate) work: &'a Arc<WorkDir>,
    pub(crate) inputs: &'a Manifest,
    /// Takes a piece; `false` when nobody wants more.
    pub(crate) sink: S,
}

/// Why the rest is not sent.
enum Stop {
    /// Nobody wants more.
    Unwanted,
    /// The sentence for whoever waits.
    Failed(String),
}

impl<S: FnMut(Piece) -> bool> Outtake<'_, S> {
    /// Sends everything, with `Done` or `Abort` at the end.
    pub(crate) fn run(mut self) {
        if let Err(Stop::Failed(why)) = self.send_all() {
            (self.sink)(Piece::Abort { why: clip_sentence(&why) });
        }
    }

    fn send_all(&mut self) -> Result<(), Stop> {
        let bytes_max = self.work.disk_bytes().saturating_mul(HOLES);
        let limits = OutputLimits { entries_max: ENTRIES_MAX, bytes_max, depth_max: DEPTH_MAX };
        let found = self.work.outputs(&limits).map_err(|error| Stop::Failed(error.to_string()))?;
        let mut left_out: Vec<String> =
            found.skipped.iter().map(|skipped| format!("{}: {}", skipped.path, skipped.why)).collect();
        let mut left_out_count = found.skipped_total;
        let mut sent = BTreeSet::new();
        let mut files = 0u64;
        let mut bytes = 0u64;
        for path in &found.dirs {
            if let Err(why) = check_path(path) {
                left_out.push(why.to_string());
                left_out_count += 1;
            } else if !self.is_brought(path) {
                self.send_folders(path, &mut sent)?;
            }
        }
        for file in &found.files {
            if let Err(why) = check_path(&file.path) {
                left_out.push(why.to_string());
                left_out_count += 1;
            } else if self.is_unchanged(file)? {
                // The consumer has it.
            } else {
                if let Some((folder, _)) = file.path.rsplit_once('/') {
                    self.send_folders(folder, &mut sent)?;
                }
                bytes = bytes.saturating_add(self.send_file(file)?);
                files += 1;
            }
        }
        let entries = files.saturating_add(u64::try_from(sent.len()).unwrap_or(u64::MAX));
        self.put(Piece::Done { entries, bytes, left_out: shorten(left_out, left_out_count) })
    }

    fn put(&mut self, piece: Piece) -> Result<(), Stop> {
        if (self.sink)(piece) { Ok(()) } else { Err(Stop::Unwanted) }
    }

    /// Whether inputs lie in this folder: then it is nothing new by itself.
    fn is_brought(&self, folder: &str) -> bool {
        let inside = format!("{folder}/");
        self.inputs.files.range(inside.clone()..).next().is_some_and(|(name, _)| name.starts_with(&inside))
    }

    /// Sends a folder and those that it lies in, each once.
    fn send_folders(&mut self, folder: &str, sent: &mut BTreeSet<String>) -> Result<(), Stop> {
        let ends = folder.match_indices('/').map(|(at, _)| at).chain([folder.len()]);
        for path in ends.filter_map(|end| folder.get(..end)) {
            if sent.insert(path.to_owned()) {
                self.put(Piece::Folder { path: path.to_owned() })?;
            }
        }
        Ok(())
    }

    fn open(&self, output: &Output) -> Result<File, Stop> {
        self.work.open_output(output).map_err(|error| Stop::Failed(format!("cannot read {:?}: {error}", output.path)))
    }

    /// Whether the inputs brought exactly this. Times lie, contents do not: the file is read.
    fn is_unchanged(&self, output: &Output) -> Result<bool, Stop> {
        let Some((len, hash)) = self.inputs.files.get(&output.path) else { return Ok(false) };
        if *len != output.bytes {
            return Ok(false);
        }
        let mut hasher = blake3::Hasher::new();
        let mut file = self.open(output)?.take(*len);
        io::copy(&mut file, &mut hasher)
            .map_err(|error| Stop::Failed(format!("cannot read {:?}: {error}", output.path)))?;
        Ok(hasher.finalize().as_bytes() == &hash.0)
    }

    fn send_file(&mut self, output: &Output) -> Result<u64, Stop> {
        let mut file = self.open(output)?;
        let cannot = |error: io::Error| Stop::Failed(format!("cannot read {:?}: {error}", output.path));
        // The length now, not when it was listed; the job is over, so it stays.
        let len = file.metadata().map_err(cannot)?.len();
        self.put(Piece::File { path: output.path.clone(), len, executable: output.executable })?;
        let mut hasher = blake3::Hasher::new();
        let mut left = len;
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_LEN_MAX);
            let mut chunk = vec![0; want];
            file.read_exact(&mut chunk).map_err(cannot)?;
            hasher.update(&chunk);
            left -= u64::try_from(want).unwrap_or(u64::MAX);
            let chunk = BoundedBytes::new(chunk).map_err(|error| Stop::Failed(error.to_string()))?;
            self.put(Piece::Chunk(chunk))?;
        }
        self.put(Piece::End { hash: ContentHash(*hasher.finalize().as_bytes()) })?;
        Ok(len)
    }
}

/// As many reasons as travel, and how many more there are.
fn shorten(mut named: Vec<String>, count: usize) -> Vec<String> {
    named.truncate(LEFT_OUT_NAMED_MAX);
    for name in &mut named {
        *name = clip_sentence(name);
    }
    let more = count.saturating_sub(named.len());
    if more > 0 {
        named.push(format!("and {more} more"));
    }
    named
}
