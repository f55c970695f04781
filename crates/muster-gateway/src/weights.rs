//! Weights that accounts bring: taken in parts, so that an upload that broke goes on where it stopped, and kept under
//! their SHA-256 once that was counted.
//!
//! ```text
//! DIR/NAME/part       on its way in; NAME is the SHA-256 that it is said to have, in hex
//! DIR/NAME/weights    whole
//! DIR/NAME/weights-00001-of-00003.gguf and so on: the files of a model in parts, each of which is kept alone as well; NAME
//!                     stands for all of them
//! ```

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use muster_client::weights::hash;
use muster_core::inference::{ModelSpec, WEIGHTS_MAX, WEIGHTS_NAME, WeightsId};
use muster_core::units::Bytes;

/// Bytes of one part.
pub const WEIGHTS_PART_MAX: usize = 8 << 20;
/// Files that are kept.
const FILES_MAX: usize = 1_024;

/// Why weights are not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WeightsError {
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{arrived} bytes of these weights are here; go on from there")]
    Elsewhere { arrived: u64 },
    #[error("weights have from 1 byte to {WEIGHTS_MAX}, and no part reaches beyond their end")]
    Size,
    #[error("the weights that came are not what they were said to be: their SHA-256 is {got}; send them again")]
    Hash { got: WeightsId },
    #[error("the weights are no model that can be served: {0}")]
    Form(String),
    #[error("somebody sends these very weights just now; wait until they are here")]
    Busy,
    #[error("this Gateway keeps {FILES_MAX} models already; ask its operator to remove some")]
    Full,
}

/// All weights of a Gateway. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Weights {
    dir: Arc<PathBuf>,
    busy: Arc<Mutex<BTreeSet<WeightsId>>>,
}

/// Somebody writes to a file of weights.
struct Turn<'a>(&'a Weights, WeightsId);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> WeightsError {
    let path = path.to_owned();
    move |source| WeightsError::Io { what, path, source }
}

impl Weights {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir: Arc::new(dir), busy: Arc::default() }
    }

    fn folder(&self, id: WeightsId) -> PathBuf {
        self.dir.join(id.to_string())
    }

    /// Where they are, if they are whole.
    pub(crate) fn path(&self, id: WeightsId) -> Option<PathBuf> {
        let path = self.folder(id).join(WEIGHTS_NAME);
        path.is_file().then_some(path)
    }

    /// The files of a model under the names by which they are sent; `None` where one is not whole. Blocks.
    pub(crate) fn files(&self, model: &ModelSpec) -> Result<Option<Vec<PathBuf>>, WeightsError> {
        if model.parts.is_empty() {
            return Ok(self.path(model.weights).map(|path| vec![path]));
        }
        let folder = self.folder(model.weights);
        let mut files = Vec::new();
        for file in model.files() {
            let (Some(whole), named) = (self.path(file.part.weights), folder.join(&file.name)) else { return Ok(None) };
            if !named.is_file() {
                fs::create_dir_all(&folder).map_err(failed("make", &folder))?;
                match fs::hard_link(&whole, &named) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                        return Err(failed("name", &whole)(error));
                    }
                    _ => {}
                }
            }
            files.push(named);
        }
        Ok(Some(files))
    }

    /// How much of them has arrived, and whether they are whole.
    pub(crate) fn arrived(&self, id: WeightsId) -> (u64, bool) {
        let len = |name: &str| fs::metadata(self.folder(id).join(name)).map(|meta| meta.len()).ok();
        len(WEIGHTS_NAME).map_or_else(|| (len("part").unwrap_or(0), false), |whole| (whole, true))
    }

    /// Takes a part. Blocks; the last one is answered when all was hashed and looked at.
    pub(crate) fn take(&self, id: WeightsId, at: u64, part: &[u8], total: u64) -> Result<(u64, bool), WeightsError> {
        let len = u64::try_from(part.len()).unwrap_or(u64::MAX);
        if total == 0 || Bytes(total) > WEIGHTS_MAX || at.saturating_add(len) > total {
            return Err(WeightsError::Size);
        }
        let first = self.busy.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        if !first {
            return Err(WeightsError::Busy);
        }
        let _turn = Turn(self, id);
        let (arrived, whole) = self.arrived(id);
        if whole {
            return Ok((arrived, true));
        }
        if at != arrived {
            return Err(WeightsError::Elsewhere { arrived });
        }
        let folder = self.folder(id);
        if arrived == 0 && fs::read_dir(&*self.dir).map_or(0, Iterator::count) >= FILES_MAX {
            return Err(WeightsError::Full);
        }
        fs::create_dir_all(&folder).map_err(failed("make", &folder))?;
        let place = folder.join("part");
        let mut file = OpenOptions::new().append(true).create(true).open(&place).map_err(failed("open", &place))?;
        file.write_all(part).map_err(failed("write", &place))?;
        if at.saturating_add(len) < total {
            return Ok((at.saturating_add(len), false));
        }
        file.sync_all().map_err(failed("write", &place))?;
        let looked_at = hash(&place).map_err(failed("read", &place)).and_then(|(got, _)| {
            if got != id {
                return Err(WeightsError::Hash { got });
            }
            muster_engine::gguf::look_at_file(&place).map(drop).map_err(WeightsError::Form)
        });
        if let Err(error) = looked_at {
            fs::remove_file(&place).map_err(failed("remove", &place))?;
            return Err(error);
        }
        self.keep(&place, id)?;
        Ok((total, true))
    }

    /// Moves a whole file to its place.
    fn keep(&self, place: &Path, id: WeightsId) -> Result<(), WeightsError> {
        let folder = self.folder(id);
        fs::create_dir_all(&folder).map_err(failed("make", &folder))?;
        fs::rename(place, folder.join(WEIGHTS_NAME)).map_err(failed("name", place))?;
        File::open(&folder).and_then(|dir| dir.sync_all()).map_err(failed("write", &folder))
    }

    /// Keeps weights that this program makes, and says which they are. Blocks.
    pub(crate) fn make(&self, make: impl FnOnce(&Path) -> io::Result<()>) -> Result<(WeightsId, u64), WeightsError> {
        fs::create_dir_all(&*self.dir).map_err(failed("make", &self.dir))?;
        let fresh = self.dir.join(format!("made-{:016x}", rand::random::<u64>()));
        let made = make(&fresh).map_err(failed("write", &fresh));
        let kept = made.and_then(|()| hash(&fresh).map_err(failed("read", &fresh))).and_then(|(id, bytes)| {
            self.keep(&fresh, id)?;
            Ok((id, bytes))
        });
        if kept.is_err()
            && let Err(error) = fs::remove_file(&fresh)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %fresh.display(), "a file that is not whole stays");
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use muster_core::inference::{ModelKind, WeightsPart};
    use muster_engine::tiny::{Shape, in_parts};

    use sha2::{Digest as _, Sha256};

    use super::*;

    #[test]
    fn a_model_in_parts_is_sent_under_the_names_that_belong_together() {
        let dir = tempfile::tempdir().unwrap();
        let weights = Weights::new(dir.path().join("weights"));
        let files = in_parts(&Shape::default(), 2).unwrap();
        let part = |file: &Vec<u8>| WeightsPart {
            weights: WeightsId(Sha256::digest(file).into()),
            bytes: Bytes(file.len() as u64),
        };
        let parts: Vec<WeightsPart> = files.iter().map(part).collect();
        let model = ModelSpec {
            name: "m".to_owned(),
            kind: ModelKind::Chat,
            weights: WeightsId::of_parts(&parts),
            bytes: Bytes(parts.iter().map(|part| part.bytes.0).sum()),
            parts: parts.clone(),
            sources: Vec::new(),
            context: 64,
            parallel: 1,
            endpoint: None,
        };
        model.check().unwrap();
        // A part is taken by itself; what is none is not.
        let take = |at: usize| weights.take(parts[at].weights, 0, &files[at], parts[at].bytes.0);
        assert_eq!(take(1).unwrap(), (parts[1].bytes.0, true));
        assert_eq!(weights.files(&model).unwrap(), None);
        take(0).unwrap();
        let none = b"GGUF and nothing more";
        let wrong = weights.take(WeightsId(Sha256::digest(none).into()), 0, none, none.len() as u64);
        assert!(matches!(wrong, Err(WeightsError::Form(_))), "{wrong:?}");
        for _ in 0..2 {
            let sent = weights.files(&model).unwrap().unwrap();
            assert!(sent[1].ends_with("weights-00002-of-00002.gguf"), "{sent:?}");
            assert_eq!(muster_engine::gguf::check_files(&sent).unwrap().split.unwrap().count, 2);
            assert_eq!(muster_engine::gguf::files_of(&sent[0]), sent);
        }
        let alone = ModelSpec { weights: parts[0].weights, bytes: parts[0].bytes, parts: Vec::new(), ..model };
        let sent = weights.files(&alone).unwrap().unwrap();
        assert!(muster_engine::gguf::check_files(&sent).unwrap_err().contains("file 1 of 2"), "{sent:?}");
    }
}
