//! Files of a model, before they are sent.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use muster_core::inference::WeightsId;
use sha2::{Digest as _, Sha256};

/// Bytes that are read at a time.
const CHUNK: usize = 1 << 20;

/// The SHA-256 of a file, and how many bytes it has. Blocks.
///
/// # Errors
/// It cannot be read.
pub fn hash(path: &Path) -> io::Result<(WeightsId, u64)> {
    let mut file = File::open(path)?;
    let (mut hasher, mut bytes, mut chunk) = (Sha256::new(), 0u64, vec![0; CHUNK]);
    loop {
        let count = file.read(&mut chunk)?;
        if count == 0 {
            return Ok((WeightsId(hasher.finalize().into()), bytes));
        }
        hasher.update(chunk.get(..count).unwrap_or_default());
        bytes = bytes.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
    }
}

/// Has a file at a place where nothing is, under the name by which it shall be sent: another name of the same file, or a copy
/// where the disk is another one. A link is followed, as links are not sent. Blocks.
///
/// # Errors
/// It cannot be read, or something is there.
pub fn name_again(file: &Path, place: &Path) -> io::Result<()> {
    let real = file.canonicalize()?;
    match fs::hard_link(&real, place) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
        Err(_) => fs::copy(&real, place).map(drop),
        Ok(()) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_hashed_and_named_again() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        assert_eq!(hash(&at("abc")).unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::write(at("abc"), "abc").unwrap();
        let (id, bytes) = hash(&at("abc")).unwrap();
        assert!(id.to_string().starts_with("ba7816bf8f01cfea") && bytes == 3, "{id}");
        std::os::unix::fs::symlink("abc", at("link")).unwrap();
        name_again(&at("link"), &at("sent")).unwrap();
        assert!(fs::symlink_metadata(at("sent")).unwrap().is_file());
        assert_eq!(fs::read(at("sent")).unwrap(), b"abc");
        assert_eq!(name_again(&at("abc"), &at("sent")).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(name_again(&at("none"), &at("other")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
