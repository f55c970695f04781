//! A node's key: in a file that only its owner reads, and what is signed with it.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use muster_core::ids::NodeId;
use muster_wire::Signature64;

use crate::addr::node_id;

/// The secret half of a node's key (ed25519).
#[derive(Clone)]
pub struct NodeSecret(iroh::SecretKey);

/// What can be wrong with a key file.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Reading failed.
    #[error("cannot read the node key {}", .path.display())]
    Read {
        /// The key file.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// Writing failed.
    #[error("cannot write the node key {}", .path.display())]
    Write {
        /// The key file.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// Others than the owner may read or write the file.
    #[error(
        "the node key {path} is open to other users (mode {mode:04o}); close it with `chmod 600 {path}`, \
         and make a new key if anybody may have read it",
        path = .path.display()
    )]
    Open {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not a key.
    #[error(
        "{} is not a node key: it should hold 64 hex digits; restore it from a backup, or move it away to make a new one",
        .path.display()
    )]
    Malformed {
        /// The key file.
        path: PathBuf,
    },
}

/// A signature that does not belong to the key, the context and the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature is not by node {} over this {context}", .by.short())]
pub struct BadSignature {
    /// The node that should have signed.
    pub by: NodeId,
    /// What was signed.
    pub context: &'static str,
}

impl NodeSecret {
    /// A new key from the system's randomness.
    #[must_use]
    pub fn generate() -> Self {
        Self(iroh::SecretKey::generate())
    }

    /// A key from its 32 secret bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(iroh::SecretKey::from_bytes(bytes))
    }

    /// The public half: the node's name.
    #[must_use]
    pub fn id(&self) -> NodeId {
        node_id(self.0.public())
    }

    /// Reads the key, or makes one if the file is not there (mode 0600, written completely before it appears).
    ///
    /// # Errors
    /// The file cannot be read or written, is open to other users, or holds no key.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        match Self::load(path) {
            Err(KeyError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        match Self::create(path) {
            // Another process was faster: its key is the node's.
            Err(KeyError::Write { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => Self::load(path),
            other => other,
        }
    }

    /// Reads the key.
    ///
    /// # Errors
    /// The file cannot be read, is open to other users, or holds no key.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let read = |source| KeyError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(read)?;
        // The opened file is asked, not the path: nobody can swap it in between.
        let mode = file.metadata().map_err(read)?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Open { path: path.to_owned(), mode });
        }
        let mut text = String::new();
        // A key is 65 bytes; a longer file is none, and is not read to its end.
        file.take(128).read_to_string(&mut text).map_err(|source| match source.kind() {
            io::ErrorKind::InvalidData => KeyError::Malformed { path: path.to_owned() },
            _ => read(source),
        })?;
        let bytes = text.trim_end().parse::<NodeId>().ok().filter(|_| !text.starts_with("0x"));
        let bytes = bytes.ok_or_else(|| KeyError::Malformed { path: path.to_owned() })?;
        Ok(Self::from_bytes(&bytes.0))
    }

    fn create(path: &Path) -> Result<Self, KeyError> {
        let secret = Self::generate();
        write_new(path, &secret).map_err(|source| KeyError::Write { path: path.to_owned(), source })?;
        Ok(secret)
    }

    /// Signs `bytes` as a `context`: a signature over one kind of thing is worth nothing for another.
    #[must_use]
    pub fn sign(&self, context: &'static str, bytes: &[u8]) -> Signature64 {
        Signature64(self.0.sign(&signed_bytes(context, bytes)).to_bytes())
    }

    pub(crate) fn quic(&self) -> iroh::SecretKey {
        self.0.clone()
    }
}

impl fmt::Debug for NodeSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeSecret(of {})", self.id().short())
    }
}

/// Checks that node `by` signed `bytes` as a `context`. Strict: no second signature for the same bytes passes.
///
/// # Errors
/// It did not, or its name is no key.
pub fn verify(by: NodeId, context: &'static str, bytes: &[u8], signature: &Signature64) -> Result<(), BadSignature> {
    let bad = BadSignature { by, context };
    let key = iroh::PublicKey::from_bytes(&by.0).map_err(|_| bad)?;
    key.verify(&signed_bytes(context, bytes), &iroh::Signature::from_bytes(&signature.0)).map_err(|_| bad)
}

/// Prefix, length of the context, context, bytes: no two (context, bytes) give the same.
fn signed_bytes(context: &str, bytes: &[u8]) -> Vec<u8> {
    const PREFIX: &[u8] = b"muster/signed/1\0";
    let mut signed = Vec::with_capacity(PREFIX.len() + 8 + context.len() + bytes.len());
    signed.extend_from_slice(PREFIX);
    signed.extend_from_slice(&u64::try_from(context.len()).unwrap_or(u64::MAX).to_le_bytes());
    signed.extend_from_slice(context.as_bytes());
    signed.extend_from_slice(bytes);
    signed
}

/// Writes the key beside its place, then links it there: a crash leaves no half key, and an existing key is not
/// overwritten.
fn write_new(path: &Path, secret: &NodeSecret) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = dir.join(format!(".node-key.{}.{}", std::process::id(), NodeSecret::generate().id().short()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let written = (|| {
        writeln!(file, "{}", NodeId(secret.0.to_bytes()))?;
        file.sync_all()?;
        fs::hard_link(&temporary, path)
    })();
    fs::remove_file(&temporary)?;
    written?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        let made = NodeSecret::load_or_create(&path).unwrap();
        assert_eq!(NodeSecret::load_or_create(&path).unwrap().id(), made.id());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        NodeSecret::load_or_create(&path).unwrap();
        for mode in [0o640, 0o604, 0o660, 0o666] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = NodeSecret::load_or_create(&path).unwrap_err().to_string();
            assert!(error.contains(&format!("mode {mode:04o}")) && error.contains("chmod 600"), "{error}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        assert!(NodeSecret::load_or_create(&path).is_ok());
    }

    #[test]
    fn what_is_no_key_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        let zeros = "0".repeat(64);
        for text in ["", "hello", &zeros[1..], &format!("{zeros}00"), &format!("0x{zeros}"), &"0".repeat(4096)] {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            assert!(matches!(NodeSecret::load_or_create(&path), Err(KeyError::Malformed { .. })), "{text:?}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        let missing = dir.path().join("missing").join("node.key");
        assert!(matches!(NodeSecret::load_or_create(&missing), Err(KeyError::Write { .. })));
    }

    #[test]
    fn a_signature_is_bound_to_signer_context_and_bytes() {
        let (secret, other) = (NodeSecret::from_bytes(&[1; 32]), NodeSecret::from_bytes(&[2; 32]));
        let signature = secret.sign("acceptance", b"lease 7");
        assert_eq!(verify(secret.id(), "acceptance", b"lease 7", &signature), Ok(()));
        assert!(verify(other.id(), "acceptance", b"lease 7", &signature).is_err());
        assert!(verify(secret.id(), "rejection", b"lease 7", &signature).is_err());
        assert!(verify(secret.id(), "acceptance", b"lease 8", &signature).is_err());
        assert!(verify(secret.id(), "acceptancelease", b" 7", &signature).is_err());
        assert!(verify(NodeId([0xff; 32]), "acceptance", b"lease 7", &signature).is_err());
        assert!(!format!("{secret:?}").contains(&NodeId([1; 32]).to_string()));
    }
}
