//! What a hub says of a repository.

use muster_core::inference::{HubFile, HubRef, HubRefError, WEIGHTS_MAX, WeightsId, WeightsPart, choose};
use muster_core::units::Bytes;
use serde::Deserialize;

use super::HubError;

/// Files of a repository that are looked at.
const FILES_MAX: usize = 10_000;

/// One model with all that has to be known of its file, or its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Which file, at a commit; the first of several.
    pub file: HubFile,
    /// Its SHA-256; of several, what stands for them together.
    pub weights: WeightsId,
    /// Its length, or theirs together.
    pub bytes: Bytes,
    /// Its files, where there are several.
    pub parts: Vec<WeightsPart>,
    /// Whether it takes a token to read it.
    pub private: bool,
}

/// A repository, as far as it is of interest; hubs say more.
#[derive(Deserialize)]
struct Repository {
    sha: Option<String>,
    #[serde(default)]
    private: bool,
    #[serde(default)]
    gated: Gated,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

/// `false`, or a word that says how access is given.
#[derive(Deserialize)]
#[serde(untagged)]
enum Gated {
    No(bool),
    How(String),
}

impl Default for Gated {
    fn default() -> Self {
        Self::No(false)
    }
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

/// The file that is wanted, of what the hub has said.
pub(super) fn found(body: &[u8], wanted: &HubRef, with_token: bool) -> Result<Found, HubError> {
    let answer = |why: String| HubError::Answer(wanted.repo.to_string(), why);
    let mut said: Repository = serde_json::from_slice(body).map_err(|error| answer(error.to_string()))?;
    said.siblings.truncate(FILES_MAX);
    let gated = match &said.gated {
        Gated::No(gated) => *gated,
        Gated::How(how) => !how.is_empty(),
    };
    let private = said.private || gated;
    if private && !with_token {
        return Err(HubError::TokenWanted(wanted.repo.to_string()));
    }
    let names: Vec<&str> = said.siblings.iter().map(|file| file.rfilename.as_str()).collect();
    let name = choose(&names, wanted.file.as_deref())?;
    // A commit stays what it is; a branch does not.
    let repo = match &said.sha {
        Some(commit) => wanted.repo.at(commit)?,
        None => wanted.repo.clone(),
    };
    let file = HubFile::new(repo, name)?;
    let count = file.part().map_or(1, |part| part.count);
    if count == 1 {
        let WeightsPart { weights, bytes } = said.file(&file)?;
        return Ok(Found { file, weights, bytes, parts: Vec::new(), private });
    }
    let nth = |number| file.nth(number).ok_or_else(|| HubRefError::PartMissing(file.file().to_owned()).into());
    let parts = (1..=count).map(|number| nth(number).and_then(|file| said.file(&file)));
    let parts = parts.collect::<Result<Vec<_>, HubError>>()?;
    let bytes = parts.iter().fold(0, |sum: u64, part| sum.saturating_add(part.bytes.0));
    if Bytes(bytes) > WEIGHTS_MAX {
        return Err(answer(format!("the parts of {name} shall have {bytes} bytes together, which no model has")));
    }
    Ok(Found { weights: WeightsId::of_parts(&parts), file, bytes: Bytes(bytes), parts, private })
}

impl Repository {
    /// Hash and length of one file.
    fn file(&self, file: &HubFile) -> Result<WeightsPart, HubError> {
        let name = file.file();
        let found = self.siblings.iter().find(|sibling| sibling.rfilename == name);
        let found = found.ok_or_else(|| HubRefError::PartMissing(name.to_owned()))?;
        let lfs = found.lfs.as_ref().ok_or_else(|| HubError::NoHash(file.to_string()))?;
        let weights = lfs.sha256.parse().map_err(|_| HubError::NoHash(file.to_string()))?;
        if lfs.size == 0 || Bytes(lfs.size) > WEIGHTS_MAX {
            let why = format!("{name} shall have {} bytes, which no model has", lfs.size);
            return Err(HubError::Answer(file.repo.to_string(), why));
        }
        Ok(WeightsPart { weights, bytes: Bytes(lfs.size) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::unwrap_in_result, reason = "a reference that is none is a failed test")]
    fn look(body: &str, wanted: &str, token: bool) -> Result<Found, HubError> {
        found(body.as_bytes(), &wanted.parse().unwrap(), token)
    }

    #[test]
    fn what_a_hub_says_names_one_file_at_a_commit() {
        let hash = "ab".repeat(32);
        let body = format!(
            r#"{{"id":"a/b","sha":"0123abc","private":false,"gated":false,"downloads":7,"siblings":[
            {{"rfilename":"README.md","size":12,"blobId":"x"}},{{"rfilename":"small.Q8_0.gguf","size":9}},
            {{"rfilename":"m.Q4_K_M.gguf","size":99,"lfs":{{"sha256":"{hash}","size":99,"pointerSize":13}}}}]}}"#
        );
        let found = look(&body, "hf:a/b", false).unwrap();
        assert_eq!(found.file.to_string(), "hf:a/b@0123abc:m.Q4_K_M.gguf");
        assert_eq!((found.bytes, found.private, found.weights.to_string()), (Bytes(99), false, hash));
        assert!(matches!(look(&body, "hf:a/b:small.Q8_0.gguf", false), Err(HubError::NoHash(_))));
        let gated = body.replace("\"gated\":false", "\"gated\":\"auto\"");
        assert!(matches!(look(&gated, "hf:a/b", false), Err(HubError::TokenWanted(_))));
        assert!(look(&gated, "hf:a/b", true).unwrap().private);
        for broken in
            ["", "[]", "{\"siblings\":7}", &body.replace("0123abc", "../x"), &body.replace("\"size\":99", "\"size\":0")]
        {
            assert!(look(broken, "hf:a/b", false).is_err(), "{broken}");
        }
    }

    #[test]
    fn a_model_in_parts_is_all_of_them() {
        let sibling = |number: u16, of: u16, size: u64| {
            let hash = format!("{number:02x}").repeat(32);
            format!(r#"{{"rfilename":"m.Q4_0-{number:05}-of-{of:05}.gguf","lfs":{{"sha256":"{hash}","size":{size}}}}}"#)
        };
        let body = |files: &[String]| format!(r#"{{"sha":"0123abc","siblings":[{}]}}"#, files.join(","));
        let all = [sibling(2, 3, 20), sibling(1, 3, 10), sibling(3, 3, 30)];
        let found = look(&body(&all), "hf:a/b", false).unwrap();
        assert_eq!(found.file.to_string(), "hf:a/b@0123abc:m.Q4_0-00001-of-00003.gguf");
        let part = |byte, bytes| WeightsPart { weights: WeightsId([byte; 32]), bytes: Bytes(bytes) };
        assert_eq!(found.parts, [part(1, 10), part(2, 20), part(3, 30)]);
        assert_eq!((found.bytes, found.weights), (Bytes(60), WeightsId::of_parts(&found.parts)));
        let named = look(&body(&all), "hf:a/b:m.Q4_0-00003-of-00003.gguf", false).unwrap();
        assert_eq!(named, found);
        let missing = look(&body(&all[..2]), "hf:a/b", false).unwrap_err().to_string();
        assert!(missing.contains("m.Q4_0-00003-of-00003.gguf is missing"), "{missing}");
        let many = look(&body(&[sibling(1, 65, 1)]), "hf:a/b", false).unwrap_err().to_string();
        assert!(many.contains("one part of more than 64"), "{many}");
        let large: Vec<String> = (1..=3).map(|number| sibling(number, 3, WEIGHTS_MAX.0)).collect();
        assert!(look(&body(&large), "hf:a/b", false).unwrap_err().to_string().contains("together"));
        let alone = look(&body(&[sibling(1, 1, 7)]), "hf:a/b", false).unwrap();
        assert_eq!((alone.bytes, alone.parts), (Bytes(7), Vec::new()));
    }
}
