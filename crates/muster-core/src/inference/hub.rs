//! Models on a hub: how people name them, and which file of a repository is meant.
//!
//! No address ever comes from a peer: only an owner, a name, a revision and a file, checked here. Which hub that is, each
//! Container's owner says.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{PARTS_MAX, PartName};
use crate::ids::LeaseId;
use crate::protocol::NodeAddr;

/// The hub that is asked where nobody says otherwise.
pub const PUBLIC_HUB: &str = "https://huggingface.co";
/// How a source on a hub begins.
pub const HUB_PREFIX: &str = "hf:";
/// Bytes of an owner's or a repository's name.
pub const HUB_NAME_LEN_MAX: usize = 96;
/// Bytes of a revision.
pub const HUB_REVISION_LEN_MAX: usize = 128;
/// Bytes of a file's path.
pub const HUB_FILE_LEN_MAX: usize = 512;
/// For what a token is sealed to a Container.
pub const TOKEN_CONTEXT: &str = "muster hub token v1";
/// The revision that is meant where none is named.
const REVISION: &str = "main";
/// What is taken where a repository has several files, the best first: small enough for most machines, and hardly worse.
const QUANTISATIONS: [&str; 14] = [
    "Q4_K_M", "Q8_0", "Q5_K_M", "Q6_K", "Q4_K_S", "Q4_0", "Q4_K_L", "Q5_K_S", "Q4_1", "IQ4_XS", "MXFP4", "Q3_K_M",
    "F16", "BF16",
];
/// Files that are named where none can be chosen.
const SHOWN_MAX: usize = 8;

/// Why a text names no model on a hub, or no file of one can be chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HubRefError {
    /// Not of the form.
    #[error(
        "{0:?} names no model on a hub; write hf:OWNER/NAME, hf:OWNER/NAME:FILE.gguf or hf:OWNER/NAME@REVISION:FILE.gguf"
    )]
    Form(String),
    /// A part of it is none.
    #[error(
        "{what} {text:?} cannot be on a hub: use letters, digits and . _ - (in files also + ( ) = , and spaces), no empty part, and no part that begins with a dot or hyphen"
    )]
    Part {
        /// Which part.
        what: &'static str,
        /// What was written.
        text: String,
    },
    /// Another format.
    #[error("{0} is no GGUF file; only GGUF is served, which holds no code")]
    NoGguf(String),
    /// Too many parts.
    #[error(
        "{0} is one part of more than {PARTS_MAX}; join the parts with `llama-gguf-split --merge` and deploy the result with file:PATH, or choose another file"
    )]
    Parts(String),
    /// A part that is not there.
    #[error("the repository has not all parts of that model: {0} is missing")]
    PartMissing(String),
    /// None there.
    #[error("the repository has no GGUF file{of}{has}; look for a repository of this model whose name ends in GGUF", has = shown(.has))]
    None {
        /// What was asked for, in words.
        of: String,
        /// What it has instead.
        has: Vec<String>,
    },
    /// Several, and none of a usual quantisation.
    #[error("the repository has several GGUF files; name one behind a colon{}", shown(.0))]
    Several(Vec<String>),
}

fn shown(files: &[String]) -> String {
    let mut text = String::new();
    for (at, file) in files.iter().take(SHOWN_MAX).enumerate() {
        text.push_str(if at == 0 { " " } else { ", " });
        text.push_str(file);
    }
    if files.len() > SHOWN_MAX {
        text.push_str(" and others");
    }
    if text.is_empty() { text } else { format!(" (there are:{text})") }
}

/// A repository on a hub, at a revision.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HubRepo {
    owner: String,
    name: String,
    revision: String,
}

impl HubRepo {
    /// Whose it is.
    #[must_use]
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A branch, a tag or a commit.
    #[must_use]
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// What a sealed token is bound to: one lease and this repository, so that nobody can use it for another.
    #[must_use]
    pub fn token_bound(&self, lease: LeaseId) -> Vec<u8> {
        let mut bound = lease.0.to_vec();
        bound.extend_from_slice(self.owner.as_bytes());
        bound.push(b'/');
        bound.extend_from_slice(self.name.as_bytes());
        bound
    }

    /// The same at another revision.
    ///
    /// # Errors
    /// That is none.
    pub fn at(&self, revision: &str) -> Result<Self, HubRefError> {
        check("the revision", revision, HUB_REVISION_LEN_MAX, true, b"._-")?;
        Ok(Self { revision: revision.to_owned(), ..self.clone() })
    }

    fn new(owner: &str, name: &str, revision: &str) -> Result<Self, HubRefError> {
        check("the owner", owner, HUB_NAME_LEN_MAX, false, b"._-")?;
        check("the name", name, HUB_NAME_LEN_MAX, false, b"._-")?;
        check("the revision", revision, HUB_REVISION_LEN_MAX, true, b"._-")?;
        Ok(Self { owner: owner.to_owned(), name: name.to_owned(), revision: revision.to_owned() })
    }
}

impl fmt::Display for HubRepo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{HUB_PREFIX}{}/{}", self.owner, self.name)?;
        if self.revision == REVISION { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

fn check(what: &'static str, text: &str, max: usize, slashes: bool, also: &[u8]) -> Result<(), HubRefError> {
    let wrong = || Err(HubRefError::Part { what, text: text.chars().take(max).collect() });
    let part = |part: &str| {
        let first = part.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
        first && !part.contains("..") && part.bytes().all(|b| b.is_ascii_alphanumeric() || also.contains(&b))
    };
    if text.len() > max || !text.split('/').all(part) || (!slashes && text.contains('/')) {
        return wrong();
    }
    Ok(())
}

/// A model on a hub, as people name it: `hf:OWNER/NAME[@REVISION][:FILE]`.
///
/// What stands for the file is a path that ends in `.gguf`, or a quantisation such as `Q8_0`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HubRef {
    /// Where.
    pub repo: HubRepo,
    /// Which of its files.
    pub file: Option<String>,
}

impl FromStr for HubRef {
    type Err = HubRefError;
    fn from_str(text: &str) -> Result<Self, HubRefError> {
        let form = || HubRefError::Form(text.chars().take(HUB_FILE_LEN_MAX).collect());
        let rest = text.strip_prefix(HUB_PREFIX).ok_or_else(form)?;
        let (repo, file) = rest.split_once(':').map_or((rest, None), |(repo, file)| (repo, Some(file)));
        let (path, revision) = repo.split_once('@').unwrap_or((repo, REVISION));
        let (owner, name) = path.split_once('/').ok_or_else(form)?;
        let repo = HubRepo::new(owner, name, revision)?;
        if let Some(file) = file {
            check("the file", file, HUB_FILE_LEN_MAX, true, FILE_BYTES)?;
        }
        Ok(Self { repo, file: file.map(str::to_owned) })
    }
}

impl fmt::Display for HubRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.repo)?;
        self.file.as_ref().map_or(Ok(()), |file| write!(f, ":{file}"))
    }
}

/// Characters of a file's path beside letters, digits and slashes.
const FILE_BYTES: &[u8] = b"._-+()=, ";

/// One GGUF file on a hub: `hf:OWNER/NAME@REVISION:FILE`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HubFile {
    /// Where.
    pub repo: HubRepo,
    file: String,
}

impl HubFile {
    /// A file of a repository.
    ///
    /// # Errors
    /// It cannot be on a hub, or is no GGUF file.
    pub fn new(repo: HubRepo, file: &str) -> Result<Self, HubRefError> {
        check("the file", file, HUB_FILE_LEN_MAX, true, FILE_BYTES)?;
        if !is_gguf(file) {
            return Err(HubRefError::NoGguf(file.to_owned()));
        }
        if PartName::of(file).is_some_and(|part| usize::from(part.count) > PARTS_MAX) {
            return Err(HubRefError::Parts(file.to_owned()));
        }
        Ok(Self { repo, file: file.to_owned() })
    }

    /// What its name says, where it is one file of several.
    #[must_use]
    pub fn part(&self) -> Option<PartName<'_>> {
        PartName::of(&self.file)
    }

    /// Another file of the same model; `None` where there is none of this number.
    #[must_use]
    pub fn nth(&self, number: u16) -> Option<Self> {
        let part = self.part().filter(|part| (1..=part.count).contains(&number))?;
        Some(Self { repo: self.repo.clone(), file: part.nth(number) })
    }

    /// Its path in the repository.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }
}

impl FromStr for HubFile {
    type Err = HubRefError;
    fn from_str(text: &str) -> Result<Self, HubRefError> {
        let HubRef { repo, file } = text.parse()?;
        let file = file.ok_or_else(|| HubRefError::Form(text.chars().take(HUB_FILE_LEN_MAX).collect()))?;
        Self::new(repo, &file)
    }
}

impl fmt::Display for HubFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.repo, self.file)
    }
}

impl TryFrom<String> for HubFile {
    type Error = HubRefError;
    fn try_from(text: String) -> Result<Self, HubRefError> {
        text.parse()
    }
}

impl From<HubFile> for String {
    fn from(file: HubFile) -> Self {
        file.to_string()
    }
}

/// Where weights can be had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelSource {
    /// From the hub that the Container's owner has named.
    Hub {
        /// Which file.
        file: HubFile,
        /// Whether the hub wants a token, which the consumer gives sealed to the Container.
        private: bool,
    },
    /// From another Container that is said to have them.
    Container(NodeAddr),
}

fn is_gguf(file: &str) -> bool {
    file.len() > 5 && file.get(file.len() - 5..).is_some_and(|end| end.eq_ignore_ascii_case(".gguf"))
}

/// Whether a file's name names this quantisation, as a word of its own.
fn has_word(file: &str, word: &str) -> bool {
    let (file, word) = (file.to_ascii_uppercase(), word.to_ascii_uppercase());
    let inside = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    file.match_indices(&word).any(|(at, found)| {
        let bytes = file.as_bytes();
        let before = at.checked_sub(1).and_then(|at| bytes.get(at)).is_some_and(|b| inside(*b));
        let behind = bytes.get(at.saturating_add(found.len())).is_some_and(|b| inside(*b));
        !before && !behind
    })
}

/// Which file of a repository is meant, of all that it has. Of one in parts it is the first.
///
/// # Errors
/// There is none, or it is not clear which.
pub fn choose<'a>(files: &[&'a str], wanted: Option<&str>) -> Result<&'a str, HubRefError> {
    let leads = |file: &str| is_gguf(file) && PartName::of(file).is_none_or(|part| part.number == 1);
    let names = |files: &[&str]| files.iter().map(|file| (*file).to_owned()).collect::<Vec<_>>();
    if let Some(wanted) = wanted.filter(|wanted| is_gguf(wanted)) {
        // Whoever names any part means them all.
        let first = PartName::of(wanted).map_or_else(|| wanted.to_owned(), |part| part.nth(1));
        let all = files.iter().filter(|file| leads(file)).map(|file| (*file).to_owned()).collect();
        let of = format!(" {first}");
        return files.iter().find(|file| **file == first).copied().ok_or(HubRefError::None { of, has: all });
    }
    // What looks at pictures is beside the model, and is no model itself.
    let models: Vec<&str> =
        files.iter().filter(|file| leads(file) && !file.to_ascii_lowercase().contains("mmproj")).copied().collect();
    let shortest = |word: &str| {
        let named = models.iter().filter(|file| has_word(file, word));
        named.min_by_key(|file| (file.matches('/').count(), file.len(), **file)).copied()
    };
    if let Some(word) = wanted {
        return shortest(word).ok_or_else(|| HubRefError::None { of: format!(" of {word}"), has: names(&models) });
    }
    match models.as_slice() {
        [] => Err(HubRefError::None { of: String::new(), has: Vec::new() }),
        [one] => Ok(one),
        _ => QUANTISATIONS.iter().find_map(|word| shortest(word)).ok_or_else(|| HubRefError::Several(names(&models))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_named_as_people_do() {
        let full: HubRef = "hf:Qwen/Qwen3-0.6B-GGUF@main:Qwen3-0.6B-Q8_0.gguf".parse().unwrap();
        assert_eq!((full.repo.owner(), full.repo.name()), ("Qwen", "Qwen3-0.6B-GGUF"));
        assert_eq!(full.to_string(), "hf:Qwen/Qwen3-0.6B-GGUF:Qwen3-0.6B-Q8_0.gguf");
        let bare: HubRef = "hf:a/b".parse().unwrap();
        assert_eq!((bare.repo.revision(), bare.file), ("main", None));
        let deep: HubFile = "hf:a/b@refs/pr/1:BF16/x (1).gguf".parse().unwrap();
        assert_eq!(deep.file(), "BF16/x (1).gguf");
        assert_eq!(HubFile::try_from(String::from(deep.clone())), Ok(deep));
        for wrong in [
            "a/b",
            "hf:",
            "hf:a",
            "hf:/b",
            "hf:a/",
            "hf:a/b/c",
            "hf:../b",
            "hf:a/..",
            "hf:a/.b",
            "hf:a/b@",
            "hf:a/b@../x",
            "hf:a/b:",
            "hf:a/b:/x.gguf",
            "hf:a/b:../x.gguf",
            "hf:a/b:x//y.gguf",
            "hf:a/b:x?y.gguf",
            "hf:a/b:x#.gguf",
            "hf:a/b:%2e%2e/x.gguf",
            "hf:a/b:x\\y.gguf",
            "hf:a/b:x\n.gguf",
            "hf:a b/c",
            "hf:a@evil/b",
            "hf:é/b",
            "hf:http://x/y",
            "hf:a/b:x..gguf",
        ] {
            assert!(wrong.parse::<HubRef>().is_err(), "{wrong:?}");
        }
        for (file, words) in [
            ("hf:a/b", "names no model"),
            ("hf:a/b:model.safetensors", "only GGUF"),
            ("hf:a/b:Q8_0", "only GGUF"),
            ("hf:a/b:x-00001-of-00065.gguf", "one part of more than 64"),
        ] {
            assert!(file.parse::<HubFile>().unwrap_err().to_string().contains(words), "{file}");
        }
    }

    #[test]
    fn one_file_is_chosen_or_the_choice_is_named() {
        let files = ["README.md", "m-Q2_K.gguf", "m-Q4_K_M.gguf", "m-IQ4_K_M.gguf", "mmproj-F16.gguf", "m-Q8_0.gguf"];
        assert_eq!(choose(&files, None), Ok("m-Q4_K_M.gguf"));
        assert_eq!(choose(&files, Some("q8_0")), Ok("m-Q8_0.gguf"));
        assert_eq!(choose(&files, Some("m-Q2_K.gguf")), Ok("m-Q2_K.gguf"));
        assert_eq!(choose(&["m-Q8_0.gguf", "m-bf16.gguf"], None), Ok("m-Q8_0.gguf"));
        assert_eq!(choose(&["odd.gguf"], None), Ok("odd.gguf"));
        let why = |files: &[&str], wanted| choose(files, wanted).unwrap_err().to_string();
        assert!(why(&["a.gguf", "b.gguf"], None).contains("name one behind a colon (there are: a.gguf, b.gguf)"));
        assert!(why(&["model.safetensors"], None).contains("no GGUF file;"));
        assert!(why(&files, Some("Q5_0")).contains("no GGUF file of Q5_0"));
        assert!(why(&files, Some("n.gguf")).contains("there are: m-Q2_K.gguf"));
        let parts = ["m-Q4_K_M-00002-of-00002.gguf", "m-Q4_K_M-00001-of-00002.gguf", "n/m-Q8_0-00001-of-00001.gguf"];
        assert_eq!(choose(&parts, None), Ok(parts[1]));
        assert_eq!(choose(&parts, Some("Q4_K_M")), Ok(parts[1]));
        assert_eq!(choose(&parts, Some(parts[0])), Ok(parts[1]));
        assert_eq!(choose(&parts, Some("q8_0")), Ok(parts[2]));
        // A whole file comes first.
        assert_eq!(choose(&[parts[1], "m-Q4_K_M.gguf"], None), Ok("m-Q4_K_M.gguf"));
        assert!(why(&parts[..1], None).contains("no GGUF file;"));
        let file: HubFile = "hf:a/b:m-Q4_K_M-00001-of-00002.gguf".parse().unwrap();
        assert_eq!(file.nth(2).unwrap().file(), parts[0]);
        assert_eq!((file.nth(3), file.nth(0)), (None, None));
    }
}
