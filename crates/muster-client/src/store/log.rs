//! An append-only file of checked lines: the last whole line of a kind counts.
//!
//! Each line is sixteen hex digits of a BLAKE3 hash, a space and a JSON value. A write is one line and one
//! `fdatasync`. A torn last line was never acted upon and is dropped; damage anywhere else is an error.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::StoreError;
use crate::durable;

/// The version of the format that this build reads and writes.
pub(crate) const RECORD_VERSION: u32 = 1;
/// A file is written anew when it has grown beyond this, in bytes.
const REWRITE_BYTES: u64 = 512 * 1024;
/// The longest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

#[derive(Debug, Serialize, Deserialize)]
enum Line<P, S> {
    Version(u32),
    Plan(P),
    State(S),
}

/// Only as much of a line as tells its version.
#[derive(Deserialize)]
enum FirstLine {
    Version(u32),
}

/// The open file of one lease.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    len: u64,
    /// The lines that a rewritten file begins with.
    head: Vec<u8>,
}

impl Log {
    /// A new file with its plan and first state, durable when this returns.
    pub(crate) fn create<P: Serialize, S: Serialize>(path: &Path, plan: &P, state: &S) -> Result<Self, StoreError> {
        let mut head = Vec::new();
        push_line(&mut head, &Line::<P, S>::Version(RECORD_VERSION));
        push_line(&mut head, &Line::<&P, S>::Plan(plan));
        let mut whole = head.clone();
        push_line(&mut whole, &Line::<P, &S>::State(state));
        durable::replace(path, &whole, 0o600).map_err(StoreError::io(path))?;
        let file = append_to(path)?;
        Ok(Self { path: path.to_owned(), file, len: len_of(&whole), head })
    }

    /// Opens a file for writing on, dropping a torn last line.
    pub(crate) fn open<P, S>(path: &Path) -> Result<(Self, P, S), StoreError>
    where
        P: Serialize + DeserializeOwned,
        S: Serialize + DeserializeOwned,
    {
        let Parsed { plan, state, good } = read_all::<P, S>(path)?;
        let mut head = Vec::new();
        push_line(&mut head, &Line::<P, S>::Version(RECORD_VERSION));
        push_line(&mut head, &Line::<&P, S>::Plan(&plan));
        let mut file = append_to(path)?;
        file.set_len(good).and_then(|()| file.seek(SeekFrom::End(0))).map_err(StoreError::io(path))?;
        Ok((Self { path: path.to_owned(), file, len: good, head }, plan, state))
    }

    /// Adds a state; it is on the disk when this returns, or, where it is not to be waited for, some time later: it
    /// outlives this process, and not a machine that fails meanwhile.
    pub(crate) fn append<S: Serialize>(&mut self, state: &S, wait: bool) -> Result<(), StoreError> {
        let mut line = Vec::new();
        push_line(&mut line, &Line::<(), &S>::State(state));
        if self.len.saturating_add(len_of(&line)) > REWRITE_BYTES {
            let mut whole = self.head.clone();
            whole.extend_from_slice(&line);
            durable::replace(&self.path, &whole, 0o600).map_err(StoreError::io(&self.path))?;
            self.file = append_to(&self.path)?;
            self.len = len_of(&whole);
            return Ok(());
        }
        let sync = |file: &File| if wait { file.sync_data() } else { Ok(()) };
        let written = self.file.write_all(&line).and_then(|()| sync(&self.file));
        if let Err(reason) = written {
            // Half a line must not stand in front of the next one.
            let cut = self.file.set_len(self.len).and_then(|()| self.file.seek(SeekFrom::End(0)));
            if let Err(second) = cut {
                tracing::warn!(path = %self.path.display(), error = %second, "a torn line could not be cut off");
            }
            return Err(StoreError::io(&self.path)(reason));
        }
        self.len = self.len.saturating_add(len_of(&line));
        Ok(())
    }
}

/// Reads plan and last state without opening for writing.
pub(crate) fn read<P: DeserializeOwned, S: DeserializeOwned>(path: &Path) -> Result<(P, S), StoreError> {
    read_all(path).map(|parsed| (parsed.plan, parsed.state))
}

struct Parsed<P, S> {
    plan: P,
    state: S,
    /// Bytes up to the end of the last whole line.
    good: u64,
}

fn read_all<P: DeserializeOwned, S: DeserializeOwned>(path: &Path) -> Result<Parsed<P, S>, StoreError> {
    let bytes = durable::read_bounded(path, FILE_BYTES_MAX).map_err(StoreError::io(path))?;
    let corrupt =
        |line: usize, what: &str| StoreError::Corrupt { path: path.to_owned(), what: format!("line {line}: {what}") };
    let (mut plan, mut state, mut good) = (None, None, 0usize);
    let mut at = 0usize;
    for (number, line) in bytes.split_inclusive(|b| *b == b'\n').enumerate() {
        let number = number.saturating_add(1);
        at = at.saturating_add(line.len());
        let last = at == bytes.len();
        let Some(json) = checked(line) else {
            if last && number > 2 {
                break;
            }
            return Err(corrupt(number, "its checksum does not match"));
        };
        if number == 1 {
            match serde_json::from_slice::<FirstLine>(json) {
                Ok(FirstLine::Version(RECORD_VERSION)) => {}
                Ok(FirstLine::Version(found)) => return Err(StoreError::Newer { path: path.to_owned(), found }),
                Err(_) => return Err(corrupt(number, "it does not say its version")),
            }
        } else {
            match serde_json::from_slice::<Line<P, S>>(json) {
                Ok(Line::Plan(p)) => plan = Some(p),
                Ok(Line::State(s)) => state = Some(s),
                Ok(Line::Version(_)) => return Err(corrupt(number, "a version where none belongs")),
                Err(why) => return Err(corrupt(number, &why.to_string())),
            }
        }
        good = at;
    }
    match (plan, state) {
        (Some(plan), Some(state)) => Ok(Parsed { plan, state, good: u64::try_from(good).unwrap_or(u64::MAX) }),
        _ => Err(StoreError::Corrupt { path: path.to_owned(), what: "it is not complete".to_owned() }),
    }
}

/// The JSON of a whole line whose checksum is right.
fn checked(line: &[u8]) -> Option<&[u8]> {
    let line = line.strip_suffix(b"\n")?;
    let (sum, rest) = line.split_at_checked(16)?;
    let json = rest.strip_prefix(b" ")?;
    (checksum(json).as_bytes() == sum).then_some(json)
}

fn checksum(json: &[u8]) -> String {
    blake3::hash(json).to_hex().chars().take(16).collect()
}

fn push_line<T: Serialize>(out: &mut Vec<u8>, value: &T) {
    let json = serde_json::to_vec(value).expect("records have string keys only, so they have a form in JSON");
    out.extend_from_slice(checksum(&json).as_bytes());
    out.push(b' ');
    out.extend_from_slice(&json);
    out.push(b'\n');
}

fn append_to(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new().append(true).mode(0o600).open(path).map_err(StoreError::io(path))
}

fn len_of(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

impl StoreError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |reason| Self::Io { path: path.to_owned(), reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn filled(path: &Path) {
        let mut log = Log::create(path, &"plan", &0u64).unwrap();
        for n in 1..=3u64 {
            log.append(&n, true).unwrap();
        }
    }

    #[test]
    fn the_last_state_counts_also_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        filled(&path);
        let (mut log, plan, state) = Log::open::<String, u64>(&path).unwrap();
        assert_eq!((plan.as_str(), state), ("plan", 3));
        log.append(&4u64, true).unwrap();
        assert_eq!(read::<String, u64>(&path).unwrap(), ("plan".to_owned(), 4));
    }

    #[test]
    fn a_state_that_nobody_waits_for_is_there_for_others_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        let mut log = Log::create(&path, &"plan", &0u64).unwrap();
        log.append(&1u64, false).unwrap();
        assert_eq!(read::<String, u64>(&path).unwrap().1, 1);
        log.append(&2u64, true).unwrap();
        assert_eq!(read::<String, u64>(&path).unwrap().1, 2);
    }

    #[test]
    fn a_torn_last_line_is_dropped_at_every_length() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        filled(&path);
        let whole = fs::read(&path).unwrap();
        let before = whole[..whole.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;
        for cut in before..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let (mut log, _, state) = Log::open::<String, u64>(&path).unwrap();
            assert_eq!(state, 2, "cut at {cut}");
            log.append(&9u64, true).unwrap();
            assert_eq!(read::<String, u64>(&path).unwrap().1, 9);
        }
    }

    #[test]
    fn damage_in_the_middle_is_an_error_that_names_the_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        filled(&path);
        let mut bytes = fs::read(&path).unwrap();
        let third = bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').nth(1).unwrap().0 + 20;
        bytes[third] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let said = Log::open::<String, u64>(&path).unwrap_err().to_string();
        assert!(said.contains("line 3") && said.contains("record"), "{said}");
    }

    #[test]
    fn a_newer_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        let mut bytes = Vec::new();
        push_line(&mut bytes, &Line::<(), ()>::Version(2));
        push_line(&mut bytes, &Line::<(), ()>::Plan(()));
        fs::write(&path, &bytes).unwrap();
        assert!(matches!(read::<(), ()>(&path), Err(StoreError::Newer { found: 2, .. })));
    }

    #[test]
    fn a_long_life_keeps_the_file_short() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        let state = "x".repeat(100 * 1024);
        let mut log = Log::create(&path, &"plan", &state).unwrap();
        for n in 0..20u32 {
            log.append(&format!("{state}{n}"), true).unwrap();
        }
        assert!(fs::metadata(&path).unwrap().len() <= REWRITE_BYTES);
        assert!(read::<String, String>(&path).unwrap().1.ends_with("x19"));
    }
}
