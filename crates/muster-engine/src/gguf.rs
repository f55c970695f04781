//! GGUF files: what a model comes in. A file is data of strangers, and llama.cpp maps it into memory: it is read here first,
//! and nothing in it is believed that was not compared with the file.
//!
//! The layout is that of ggml's `docs/gguf.md`: `GGUF`, a version, counts, keys with values, tensors with their places, and
//! the tensors' numbers. [`check`] reads all but the numbers. [`Builder`] writes files.
//!
//! A model may come in several files: the first one has the keys, each has some of the tensors and says which of how many it
//! is. [`check_part`] reads one of them, [`check_files`] all together.

mod build;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use muster_core::inference::PartName;

pub use build::{Builder, Tensor};

/// Keys of a file.
pub const KEYS_MAX: u64 = 65_536;
/// Tensors of a file.
pub const TENSORS_MAX: u64 = 65_536;
/// Bytes of a key.
pub const KEY_LEN_MAX: u64 = 65_535;
/// Bytes of a text.
pub const TEXT_LEN_MAX: u64 = 4 * 1024 * 1024;
/// Elements of an array.
pub const ARRAY_LEN_MAX: u64 = 4 * 1024 * 1024;
/// Bytes of a tensor's name; llama.cpp holds 63.
pub const NAME_LEN_MAX: u64 = 63;
/// Bytes of everything before the tensors' numbers.
pub const HEADER_LEN_MAX: u64 = 256 * 1024 * 1024;

/// What is wrong with a file, and where.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// It cannot be read.
    #[error("the file cannot be read at byte {at}")]
    Read {
        /// Where.
        at: u64,
        /// Why.
        source: std::io::Error,
    },
    /// It is shorter than it says.
    #[error("the file ends at byte {at}, in the middle of {what}")]
    Ends {
        /// Where.
        at: u64,
        /// In what.
        what: String,
    },
    /// Something in it is wrong.
    #[error("at byte {at}: {what}")]
    Wrong {
        /// Where.
        at: u64,
        /// What.
        what: String,
    },
}

/// What a file says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Version of the layout.
    pub version: u32,
    /// `llama`, `qwen3`, `bert`.
    pub architecture: String,
    /// The model's name, where it has one.
    pub name: Option<String>,
    /// Tokens that it was trained for, where it says.
    pub context: Option<u64>,
    /// Its chat template.
    pub template: Option<String>,
    /// Tokens of its vocabulary.
    pub vocabulary: u64,
    /// Tensors.
    pub tensors: u64,
    /// Numbers in them.
    pub parameters: u64,
    /// Bytes of them.
    pub tensor_bytes: u64,
    /// Which of several files it is, where it says so.
    pub split: Option<Split>,
}

/// One of the files of a model, as it says itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// Which, from 0 on.
    pub number: u64,
    /// How many there are.
    pub count: u64,
    /// Tensors of all of them.
    pub tensors: u64,
}

/// Elements and bytes of a block, by ggml's number of the type; `None`: no such type.
const fn block(kind: u32) -> Option<(u64, u64)> {
    Some(match kind {
        0 | 26 => (1, 4),
        1 | 25 | 30 => (1, 2),
        2 | 20 => (32, 18),
        3 => (32, 20),
        6 => (32, 22),
        7 => (32, 24),
        8 => (32, 34),
        9 => (32, 36),
        10 => (256, 84),
        11 | 21 => (256, 110),
        12 => (256, 144),
        13 => (256, 176),
        14 => (256, 210),
        15 => (256, 292),
        16 | 35 => (256, 66),
        17 => (256, 74),
        18 => (256, 98),
        19 => (256, 50),
        22 => (256, 82),
        23 => (256, 136),
        24 => (1, 1),
        27 | 28 => (1, 8),
        29 => (256, 56),
        34 => (256, 54),
        39 => (32, 17),
        40 => (64, 36),
        41 => (128, 18),
        42 => (64, 18),
        _ => return None,
    })
}

struct Reader<R> {
    from: R,
    at: u64,
    len: u64,
}

impl<R: Read> Reader<R> {
    fn wrong<T>(&self, what: impl Into<String>) -> Result<T, GgufError> {
        Err(GgufError::Wrong { at: self.at, what: what.into() })
    }

    /// Whether so many bytes more are there, in the file and in the part that is read.
    fn has(&self, bytes: u64, what: &str) -> Result<(), GgufError> {
        let end = self.at.saturating_add(bytes);
        if end > self.len {
            return Err(GgufError::Ends { at: self.len, what: what.to_owned() });
        }
        if end > HEADER_LEN_MAX {
            return self
                .wrong(format!("{what} goes beyond the first {HEADER_LEN_MAX} bytes, which keys and names may fill"));
        }
        Ok(())
    }

    fn bytes<const N: usize>(&mut self, what: &str) -> Result<[u8; N], GgufError> {
        let mut bytes = [0; N];
        self.has(u64::try_from(N).unwrap_or(u64::MAX), what)?;
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), GgufError> {
        self.from.read_exact(bytes).map_err(|source| GgufError::Read { at: self.at, source })?;
        self.at += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    fn u32(&mut self, what: &str) -> Result<u32, GgufError> {
        self.bytes(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, GgufError> {
        self.bytes(what).map(u64::from_le_bytes)
    }

    fn text(&mut self, max: u64, what: &str) -> Result<Vec<u8>, GgufError> {
        let len = self.u64(what)?;
        if len > max {
            return self.wrong(format!("{what} has {len} bytes, {max} are allowed"));
        }
        self.has(len, what)?;
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn name(&mut self, max: u64, what: &str) -> Result<String, GgufError> {
        let bytes = self.text(max, what)?;
        match String::from_utf8(bytes) {
            Ok(name) if !name.is_empty() && !name.contains('\0') => Ok(name),
            _ => self.wrong(format!("{what} is empty or no text")),
        }
    }

    fn skip(&mut self, bytes: u64, what: &str) -> Result<(), GgufError> {
        self.has(bytes, what)?;
        let read = std::io::copy(&mut self.from.by_ref().take(bytes), &mut std::io::sink());
        let read = read.map_err(|source| GgufError::Read { at: self.at, source })?;
        self.at += read;
        if read < bytes { Err(GgufError::Ends { at: self.at, what: what.to_owned() }) } else { Ok(()) }
    }
}

/// A value that somebody asks for; others are passed over.
enum Value {
    Number(u64),
    Text(Vec<u8>),
    Array { kind: u32, len: u64 },
    Other,
}

/// Bytes of a value by its type's number, where they are fixed.
const fn width(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

impl<R: Read> Reader<R> {
    fn value(&mut self, key: &str) -> Result<Value, GgufError> {
        let what = format!("the value of {key}");
        let kind = self.u32(&what)?;
        match kind {
            0 => self.bytes::<1>(&what).map(|b| Value::Number(b.into_iter().map(u64::from).sum())),
            2 => self.bytes(&what).map(|b| Value::Number(u16::from_le_bytes(b).into())),
            4 => self.u32(&what).map(|n| Value::Number(n.into())),
            5 => self.bytes(&what).map(|b| u64::try_from(i32::from_le_bytes(b)).map_or(Value::Other, Value::Number)),
            10 => self.u64(&what).map(Value::Number),
            7 => match self.bytes(&what)? {
                [0 | 1] => Ok(Value::Other),
                [byte] => self.wrong(format!("{what} is {byte}, where only 0 and 1 mean something")),
            },
            8 => self.text(TEXT_LEN_MAX, &what).map(Value::Text),
            9 => self.array(&what),
            _ => match width(kind) {
                Some(bytes) => self.skip(bytes, &what).map(|()| Value::Other),
                None => self.wrong(format!("{what} has type {kind}, which does not exist")),
            },
        }
    }

    fn array(&mut self, what: &str) -> Result<Value, GgufError> {
        let kind = self.u32(what)?;
        let len = self.u64(what)?;
        if len > ARRAY_LEN_MAX {
            return self.wrong(format!("{what} has {len} elements, {ARRAY_LEN_MAX} are allowed"));
        }
        match (kind, width(kind)) {
            (8, _) => {
                for _ in 0..len {
                    let bytes = self.u64(what)?;
                    if bytes > TEXT_LEN_MAX {
                        return self.wrong(format!("a text in {what} has {bytes} bytes, {TEXT_LEN_MAX} are allowed"));
                    }
                    self.skip(bytes, what)?;
                }
            }
            (_, Some(bytes)) => self.skip(len * bytes, what)?,
            (9, _) => return self.wrong(format!("{what} holds arrays in an array, which no model needs")),
            _ => return self.wrong(format!("{what} holds elements of type {kind}, which does not exist")),
        }
        Ok(Value::Array { kind, len })
    }
}

/// [`check`] of a file by its path.
///
/// # Errors
/// What is wrong with it, or why it cannot be read, as a sentence.
pub fn check_file(path: &Path) -> Result<Summary, String> {
    at_path(path, check)
}

/// [`check_part`] of a file by its path.
///
/// # Errors
/// As [`check_file`].
pub fn check_part_file(path: &Path, number: u16, count: u16) -> Result<Summary, String> {
    at_path(path, |from, len| check_part(from, len, (number, count)))
}

/// Reads a file by its path that is a model, or any part of one.
///
/// # Errors
/// As [`check_file`].
pub fn look_at_file(path: &Path) -> Result<Summary, String> {
    at_path(path, |from, len| {
        let file = &mut Reader { from, at: 0, len };
        let summary = read(file, &mut BTreeSet::new())?;
        check_keys(file, &summary, summary.split.is_none_or(|split| split.number == 0))?;
        Ok(summary)
    })
}

/// The files of a model, by the first one's name: those beside it that its name counts, or itself alone.
#[must_use]
pub fn files_of(first: &Path) -> Vec<PathBuf> {
    let part = first.file_name().and_then(|name| name.to_str()).and_then(PartName::of);
    match part {
        Some(part) if part.number == 1 => (1..=part.count).map(|n| first.with_file_name(part.nth(n))).collect(),
        _ => vec![first.to_owned()],
    }
}

/// Reads all files of a model, in their order, and looks whether they are one: numbered through, with no tensor twice and
/// none missing. A single file is [`check_file`]'s.
///
/// # Errors
/// As [`check_file`].
pub fn check_files(paths: &[PathBuf]) -> Result<Summary, String> {
    let [first, rest @ ..] = paths else { return Err("there is no file".to_owned()) };
    if rest.is_empty() {
        return check_file(first);
    }
    let count = u16::try_from(paths.len()).map_err(|_| "there are too many files".to_owned())?;
    let (mut names, mut all) = (BTreeSet::new(), Summary::default());
    for (path, number) in paths.iter().zip(1..=count) {
        let one = at_path(path, |from, len| read_part(from, len, (number, count), &mut names));
        let one = one.map_err(|why| format!("file {number} of {count}: {why}"))?;
        all = if number == 1 {
            one
        } else {
            Summary {
                tensors: all.tensors.saturating_add(one.tensors),
                parameters: all.parameters.saturating_add(one.parameters),
                tensor_bytes: all.tensor_bytes.saturating_add(one.tensor_bytes),
                ..all
            }
        };
    }
    match all.split {
        Some(split) if split.tensors == all.tensors => Ok(all),
        split => Err(format!(
            "the files have {} tensors together, and shall have {}",
            all.tensors,
            split.unwrap_or_default().tensors
        )),
    }
}

fn at_path(
    path: &Path,
    look: impl FnOnce(BufReader<File>, u64) -> Result<Summary, GgufError>,
) -> Result<Summary, String> {
    let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
    let (len, file) = opened.map_err(|error| error.to_string())?;
    look(BufReader::new(file), len).map_err(|error| error.to_string())
}

/// Reads a file of `len` bytes up to its tensors' numbers. It must be a whole model.
///
/// # Errors
/// What is wrong, and at which byte.
pub fn check(from: impl Read, len: u64) -> Result<Summary, GgufError> {
    let file = &mut Reader { from, at: 0, len };
    let summary = read(file, &mut BTreeSet::new())?;
    if let Some(split) = summary.split.filter(|split| split.count > 1) {
        return file.wrong(format!(
            "it is file {} of {} of a model; all of them are needed",
            split.number.saturating_add(1),
            split.count
        ));
    }
    check_keys(file, &summary, true)?;
    Ok(summary)
}

/// As [`check`], of one file of several: its number, from 1 on, and how many there are.
///
/// # Errors
/// As [`check`]; or it says that it is another one.
pub fn check_part(from: impl Read, len: u64, place: (u16, u16)) -> Result<Summary, GgufError> {
    read_part(from, len, place, &mut BTreeSet::new())
}

fn read_part(
    from: impl Read,
    len: u64,
    (number, count): (u16, u16),
    names: &mut BTreeSet<String>,
) -> Result<Summary, GgufError> {
    let file = &mut Reader { from, at: 0, len };
    let summary = read(file, names)?;
    let Some(split) = summary.split else {
        return file.wrong(format!("it says not that it is file {number} of {count} of a model"));
    };
    if split.number.saturating_add(1) != u64::from(number) || split.count != u64::from(count) {
        let (own, of) = (split.number.saturating_add(1), split.count);
        return file.wrong(format!("it says that it is file {own} of {of}, and shall be file {number} of {count}"));
    }
    check_keys(file, &summary, number == 1)?;
    Ok(summary)
}

/// Looks at what a model says of itself, once; of several files the first one says it.
fn check_keys<R: Read>(file: &Reader<R>, summary: &Summary, first: bool) -> Result<(), GgufError> {
    if first && summary.architecture.is_empty() {
        return file.wrong("general.architecture is missing: nothing says what kind of model this is");
    }
    Ok(())
}

/// Reads a file; its tensors' names may not be among those that are known, and come to them.
fn read<R: Read>(file: &mut Reader<R>, names: &mut BTreeSet<String>) -> Result<Summary, GgufError> {
    if file.bytes("the mark")? != *b"GGUF" {
        return Err(GgufError::Wrong {
            at: 0,
            what: "the file does not begin with GGUF: it is no model file".to_owned(),
        });
    }
    let version = file.u32("the version")?;
    if version.swap_bytes() <= 3 && version > 3 {
        return file.wrong("the file was written for machines of the other byte order");
    }
    if !(2..=3).contains(&version) {
        return file.wrong(format!("version {version} of the layout; 2 and 3 are read"));
    }
    let (tensors, keys) = (file.u64("the count of tensors")?, file.u64("the count of keys")?);
    for (count, max, what) in [(tensors, TENSORS_MAX, "tensors"), (keys, KEYS_MAX, "keys")] {
        if count > max {
            return file.wrong(format!("{count} {what}, {max} are allowed"));
        }
    }
    let mut summary = Summary { version, tensors, ..Summary::default() };
    let alignment = read_keys(file, keys, &mut summary)?;
    read_tensors(file, alignment, &mut summary, names)?;
    Ok(summary)
}

fn read_keys<R: Read>(file: &mut Reader<R>, keys: u64, summary: &mut Summary) -> Result<u64, GgufError> {
    let (mut seen, mut alignment) = (BTreeSet::new(), 32);
    for _ in 0..keys {
        let key = file.name(KEY_LEN_MAX, "a key")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match (key.as_str(), file.value(&key)?) {
            ("general.alignment", Value::Number(number)) => {
                if !number.is_power_of_two() || number > 65_536 {
                    return file.wrong(format!("general.alignment is {number}, no power of two up to 65,536"));
                }
                alignment = number;
            }
            ("general.alignment", _) => return file.wrong("general.alignment is no number"),
            ("general.architecture", Value::Text(bytes)) => summary.architecture = text(&bytes),
            ("general.architecture", _) => return file.wrong("general.architecture is no text"),
            ("general.name", Value::Text(bytes)) => summary.name = Some(text(&bytes)),
            ("tokenizer.chat_template", Value::Text(bytes)) => summary.template = Some(text(&bytes)),
            ("tokenizer.ggml.tokens", Value::Array { kind: 8, len }) => summary.vocabulary = len,
            ("tokenizer.ggml.tokens", _) => return file.wrong("tokenizer.ggml.tokens is no array of texts"),
            (key, Value::Number(number)) if key.ends_with(".context_length") => summary.context = Some(number),
            ("split.no", Value::Number(number)) => summary.split.get_or_insert_default().number = number,
            ("split.count", Value::Number(count)) => summary.split.get_or_insert_default().count = count,
            ("split.tensors.count", Value::Number(tensors)) => summary.split.get_or_insert_default().tensors = tensors,
            ("split.no" | "split.count" | "split.tensors.count", _) => {
                return file.wrong(format!("{key} is no number, or below 0"));
            }
            _ => {}
        }
        if !seen.insert(key) {
            return file.wrong("a key comes twice");
        }
    }
    Ok(alignment)
}

fn read_tensors<R: Read>(
    file: &mut Reader<R>,
    alignment: u64,
    summary: &mut Summary,
    seen: &mut BTreeSet<String>,
) -> Result<(), GgufError> {
    let (mut next, mut end) = (0u64, 0u64);
    for _ in 0..summary.tensors {
        let name = file.name(NAME_LEN_MAX, "a tensor's name")?;
        let dimensions = file.u32("a tensor's dimensions")?;
        if !(1..=4).contains(&dimensions) {
            return file.wrong(format!("tensor {name} has {dimensions} dimensions; it must have from 1 to 4"));
        }
        let (mut elements, mut row) = (1u64, 0);
        for nth in 0..dimensions {
            let size = file.u64("a tensor's dimensions")?;
            row = if nth == 0 { size } else { row };
            elements = match elements.checked_mul(size).filter(|all| (1..=i64::MAX.unsigned_abs()).contains(all)) {
                Some(elements) => elements,
                None => return file.wrong(format!("tensor {name} has no elements, or more than can be counted")),
            };
        }
        let kind = file.u32("a tensor's type")?;
        let Some((of_block, bytes)) = block(kind) else {
            return file.wrong(format!("tensor {name} has type {kind}, which is not known"));
        };
        if row % of_block != 0 {
            return file
                .wrong(format!("tensor {name} has rows of {row}, which type {kind} cannot divide by {of_block}"));
        }
        let Some(size) = (elements / of_block).checked_mul(bytes) else {
            return file.wrong(format!("tensor {name} has more bytes than can be counted"));
        };
        let offset = file.u64("a tensor's place")?;
        if offset != next {
            return file.wrong(format!(
                "tensor {name} lies at {offset} of the numbers; it must follow the one before, at {next}"
            ));
        }
        if !seen.insert(name) {
            return file.wrong("a tensor's name comes twice");
        }
        let after =
            offset.checked_add(size).and_then(|after| Some((after, after.checked_next_multiple_of(alignment)?)));
        let Some((after, padded)) = after else {
            return file.wrong("the tensors have more bytes than can be counted");
        };
        (end, next) = (after, padded);
        summary.parameters = summary.parameters.saturating_add(elements);
    }
    summary.tensor_bytes = end;
    let begin = file.at.next_multiple_of(alignment);
    if summary.tensors > 0 && begin.checked_add(end).is_none_or(|end| end > file.len) {
        let what = format!("the tensors: they take {end} bytes from byte {begin} on");
        return Err(GgufError::Ends { at: file.len, what });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file() -> Vec<u8> {
        let mut builder = Builder::new("llama");
        builder.text("general.name", "a model").u32("llama.context_length", 64);
        builder.texts("tokenizer.ggml.tokens", ["a", "b"].iter().map(|t| t.as_bytes()));
        builder.tensor(Tensor::f32("w", &[2, 3], &[0.5; 6])).tensor(Tensor::f32("v", &[1], &[1.0]));
        builder.finish().unwrap()
    }

    fn read(bytes: &[u8]) -> Result<Summary, String> {
        check(bytes, bytes.len() as u64).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_written_is_read() {
        let summary = read(&file()).unwrap();
        assert_eq!((summary.version, summary.architecture.as_str(), summary.tensors), (3, "llama", 2));
        assert_eq!((summary.context, summary.vocabulary, summary.parameters), (Some(64), 2, 7));
    }

    #[test]
    fn whatever_is_cut_off_is_missed() {
        let whole = file();
        // The padding behind the last tensor is nobody's.
        for len in 0..whole.len() - 28 {
            assert!(read(&whole[..len]).is_err(), "{len} of {}", whole.len());
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        assert!(read(b"GGML").unwrap_err().contains("no model file"));
        assert_eq!(read(b"GGUF\x09\0\0\0").unwrap_err(), "at byte 8: version 9 of the layout; 2 and 3 are read");
        let mut swapped = file();
        swapped[4..8].copy_from_slice(&[0, 0, 0, 3]);
        assert!(read(&swapped).unwrap_err().contains("byte order"));
        let mut many = file();
        many[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(read(&many).unwrap_err().starts_with("at byte 24: 18446744073709551615 tensors"));
    }

    fn parts() -> Vec<Vec<u8>> {
        let mut builder = Builder::new("llama");
        builder.tensor(Tensor::f32("w", &[2, 3], &[0.5; 6])).tensor(Tensor::f32("v", &[1], &[1.0]));
        builder.tensor(Tensor::f32("u", &[1], &[2.0]));
        builder.split(2).unwrap()
    }

    /// What is said of these files together.
    fn together(parts: &[&[u8]]) -> Result<Summary, String> {
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let place = |(at, bytes): (usize, &&[u8])| {
            let path = dir.path().join(at.to_string());
            std::fs::write(&path, bytes).map(|()| path).map_err(|error| error.to_string())
        };
        check_files(&parts.iter().enumerate().map(place).collect::<Result<Vec<_>, String>>()?)
    }

    #[test]
    fn files_of_a_model_belong_together_or_not() {
        let parts = parts();
        let [first, second] = parts.as_slice() else { panic!("{}", parts.len()) };
        let whole = together(&[first, second]).unwrap();
        assert_eq!((whole.architecture.as_str(), whole.tensors, whole.parameters), ("llama", 3, 8));
        let part = |bytes: &[u8], place| check_part(bytes, bytes.len() as u64, place).map_err(|e| e.to_string());
        let summary = part(second, (2, 2)).unwrap();
        assert_eq!(summary.split, Some(Split { number: 1, count: 2, tensors: 3 }));
        assert!(part(second, (1, 2)).unwrap_err().contains("says that it is file 2 of 2, and shall be file 1 of 2"));
        assert!(part(&file(), (1, 2)).unwrap_err().contains("says not that it is file 1 of 2"));
        assert!(part(&second[..second.len() - 64], (2, 2)).unwrap_err().contains("ends at byte"));
        assert!(read(first).unwrap_err().contains("it is file 1 of 2 of a model; all of them are needed"));
        // One that is missing, comes twice, or is another model's.
        assert!(together(&[first]).unwrap_err().contains("all of them are needed"));
        assert!(together(&[second, first]).unwrap_err().starts_with("file 1 of 2: "));
        assert!(together(&[first, first]).unwrap_err().contains("file 2 of 2: at byte"));
        let mut other = Builder::new("llama");
        other.tensor(Tensor::f32("a", &[1], &[0.5])).tensor(Tensor::f32("w", &[1], &[1.0]));
        let same_name = other.split(2).unwrap();
        assert!(together(&[first, &same_name[1]]).unwrap_err().contains("a tensor's name comes twice"));
        other.tensor(Tensor::f32("b", &[1], &[1.0])).tensor(Tensor::f32("c", &[1], &[1.0]));
        other.tensor(Tensor::f32("d", &[1], &[1.0])).tensor(Tensor::f32("e", &[1], &[1.0]));
        let more = other.split(2).unwrap();
        assert!(together(&[first, &more[1]]).unwrap_err().contains("have 5 tensors together, and shall have 3"));
        // One that is alone says so, and is whole.
        let alone = other.split(1).unwrap();
        assert_eq!(read(&alone[0]).unwrap().split, Some(Split { number: 0, count: 1, tensors: 6 }));
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(at in 0usize..400, byte: u8, more in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut bytes = file();
            if let Some(place) = bytes.get_mut(at) { *place = byte; }
            let _ = read(&bytes);
            let _ = read(&more);
            let mut part = parts().swap_remove(1);
            if let Some(place) = part.get_mut(at) { *place = byte; }
            let _ = check_part(part.as_slice(), u64::MAX, (2, 2));
            let mut begun = b"GGUF\x03\0\0\0".to_vec();
            begun.extend(&more);
            let _ = read(&begun);
        }
    }
}
