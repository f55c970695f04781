//! What a hub says of a repository.

use muster_core::inference::{HubFile, HubRef, WEIGHTS_MAX, WeightsId, choose};
use muster_core::units::Bytes;
use serde::Deserialize;

use super::HubError;

/// Files of a repository that are looked at.
const FILES_MAX: usize = 10_000;

/// One file with all that has to be known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Which, at a commit.
    pub file: HubFile,
    /// Its SHA-256.
    pub weights: WeightsId,
    /// Its length.
    pub bytes: Bytes,
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
    let lfs = said.siblings.iter().find(|file| file.rfilename == name).and_then(|file| file.lfs.as_ref());
    let lfs = lfs.ok_or_else(|| HubError::NoHash(file.to_string()))?;
    let weights = lfs.sha256.parse().map_err(|_| HubError::NoHash(file.to_string()))?;
    if lfs.size == 0 || Bytes(lfs.size) > WEIGHTS_MAX {
        return Err(answer(format!("{name} shall have {} bytes, which no model has", lfs.size)));
    }
    Ok(Found { file, weights, bytes: Bytes(lfs.size), private })
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
