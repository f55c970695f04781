//! Keys of accounts: drawn at random, imported from hex, kept as standard encrypted keystores.
//!
//! A keystore is web3 secret storage version 3 (scrypt with n = 2¹³, AES-128-CTR), which other
//! wallets import. Raw keys are only ever written for machines' own use (the faucet of a
//! development chain, a lease's session key), in files of mode 0600.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use alloy::primitives::{Address as EvmAddress, B256, Signature};
use alloy::signers::k256::elliptic_curve::rand_core::OsRng;
use alloy::signers::local::PrivateKeySigner;
use muster_core::ids::Address;
use secp256k1::ecdsa::RecoveryId;
use secp256k1::{Message, PublicKey, SECP256K1, SecretKey};

use crate::convert::from_evm;

/// Largest keystore file that is read, in bytes.
const KEYSTORE_BYTES_MAX: u64 = 64 * 1024;

/// Why a key cannot be made, read or kept.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The passphrase does not open the keystore.
    #[error("wrong passphrase for {path}")]
    WrongPassphrase {
        /// The keystore.
        path: PathBuf,
    },
    /// No passphrase, or an empty one.
    #[error("the passphrase is empty: a keystore needs one")]
    EmptyPassphrase,
    /// The file is no keystore of version 3.
    #[error("{path} is not a keystore that can be read (web3 secret storage version 3): {what}")]
    NotAKeystore {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Text or bytes that are no private key.
    #[error("this is not a private key: expected 64 hex digits, not zero and below the curve's order")]
    NotAKey,
    /// A key is already there, and would be overwritten.
    #[error("{path} exists already: choose another name, or move it away first")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("cannot use {path}: {reason}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        reason: std::io::Error,
    },
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> KeyError + '_ {
    move |reason| KeyError::Io { path: path.to_owned(), reason }
}

/// A secp256k1 key of an account (a wallet, or a lease's session key). `Debug` shows the address only.
///
/// It signs by libsecp256k1, which the EVM links anyway: a lease takes a key of its own, and a pure Rust implementation
/// takes several times as long for it and for each signature.
#[derive(Clone)]
pub struct Wallet {
    secret: SecretKey,
    address: Address,
}

impl std::fmt::Debug for Wallet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Wallet").field(&self.address()).finish()
    }
}

impl Drop for Wallet {
    fn drop(&mut self) {
        // As far as a compiler lets it be erased: copies that it has made stay.
        self.secret.non_secure_erase();
    }
}

impl Wallet {
    /// A fresh random key.
    #[must_use]
    pub fn random() -> Self {
        loop {
            // All but one in 2^128 are keys.
            if let Ok(wallet) = Self::from_secret(rand::random()) {
                return wallet;
            }
        }
    }

    /// A key from 64 hex digits, with or without `0x`.
    ///
    /// # Errors
    /// It is not a private key. The text is not repeated in the error.
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        let trimmed = text.trim();
        let mut bytes = [0u8; 32];
        hex::decode_to_slice(trimmed.strip_prefix("0x").unwrap_or(trimmed), &mut bytes)
            .map_err(|_| KeyError::NotAKey)?;
        Self::from_secret(bytes)
    }

    /// A key from its 32 bytes, big-endian.
    ///
    /// # Errors
    /// Zero, or not below the curve's order.
    pub fn from_secret(secret: [u8; 32]) -> Result<Self, KeyError> {
        let secret = SecretKey::from_byte_array(secret).map_err(|_| KeyError::NotAKey)?;
        let public = PublicKey::from_secret_key(SECP256K1, &secret).serialize_uncompressed();
        // The first byte only says that the point is not compressed.
        let address = from_evm(EvmAddress::from_raw_public_key(&public[1..]));
        Ok(Self { secret, address })
    }

    /// The secret, for a file of mode 0600 that nobody else reads.
    #[must_use]
    pub fn secret(&self) -> [u8; 32] {
        self.secret.secret_bytes()
    }

    /// The account's address.
    #[must_use]
    pub fn address(&self) -> Address {
        self.address
    }

    /// Signs a 32-byte digest.
    pub(crate) fn sign(&self, digest: B256) -> Signature {
        let signed = SECP256K1.sign_ecdsa_recoverable(Message::from_digest(digest.0), &self.secret);
        let (recovery, bytes) = signed.serialize_compact();
        let odd = matches!(recovery, RecoveryId::One | RecoveryId::Three);
        Signature::from_bytes_and_parity(&bytes, odd)
    }

    /// Writes the key as an encrypted keystore of mode 0600; an existing file is never overwritten.
    ///
    /// # Errors
    /// The passphrase is empty, the file exists, or it cannot be written.
    pub fn save_keystore(&self, path: &Path, passphrase: &str) -> Result<(), KeyError> {
        if passphrase.is_empty() {
            return Err(KeyError::EmptyPassphrase);
        }
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        fs::create_dir_all(parent).map_err(io(parent))?;
        // Written in a private folder beside, so that the file never exists with a wider mode or half written.
        let scratch = parent.join(format!(".keystore-{:016x}", rand::random::<u64>()));
        fs::DirBuilder::new().mode(0o700).create(&scratch).map_err(io(&scratch))?;
        let written = self.write_into(&scratch, path, passphrase);
        let cleaned = fs::remove_dir_all(&scratch).map_err(io(&scratch));
        written.and(cleaned)
    }

    fn write_into(&self, scratch: &Path, path: &Path, passphrase: &str) -> Result<(), KeyError> {
        let file = scratch.join("key");
        PrivateKeySigner::encrypt_keystore(scratch, &mut OsRng, self.secret(), passphrase, Some("key"))
            .map_err(|error| KeyError::Io { path: file.clone(), reason: std::io::Error::other(error) })?;
        // The address in clear, as geth writes it: lists and balances then need no passphrase.
        let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&file).map_err(io(&file))?)
            .map_err(|error| KeyError::Io { path: file.clone(), reason: error.into() })?;
        json["address"] = hex::encode(self.address().0).into();
        fs::write(&file, json.to_string()).map_err(io(&file))?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).map_err(io(&file))?;
        File::open(&file).and_then(|f| f.sync_all()).map_err(io(&file))?;
        // A hard link fails when the name is taken, which a rename would not.
        fs::hard_link(&file, path).map_err(|reason| match reason.kind() {
            std::io::ErrorKind::AlreadyExists => KeyError::Exists { path: path.to_owned() },
            _ => KeyError::Io { path: path.to_owned(), reason },
        })
    }

    /// Opens an encrypted keystore.
    ///
    /// # Errors
    /// The passphrase is wrong, or the file is no keystore.
    pub fn open_keystore(path: &Path, passphrase: &str) -> Result<Self, KeyError> {
        check_keystore(path)?;
        let secret = PrivateKeySigner::decrypt_keystore(path, passphrase).map_err(|error| {
            let text = error.to_string();
            if text.to_ascii_lowercase().contains("mac mismatch") {
                KeyError::WrongPassphrase { path: path.to_owned() }
            } else {
                KeyError::NotAKeystore { path: path.to_owned(), what: text }
            }
        })?;
        Self::from_secret(secret.to_bytes().0)
    }
}

/// Refuses a keystore whose parameters would make the decryption fail badly or take a machine's memory.
fn check_keystore(path: &Path) -> Result<(), KeyError> {
    let wrong = |what: &str| KeyError::NotAKeystore { path: path.to_owned(), what: what.to_owned() };
    let text = read_bounded(path)?;
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|error| wrong(&error.to_string()))?;
    if json["version"] != 3 {
        return Err(wrong("its version is not 3"));
    }
    let crypto = json.get("crypto").or_else(|| json.get("Crypto")).ok_or_else(|| wrong("it has no \"crypto\" part"))?;
    if crypto["cipherparams"]["iv"].as_str().is_none_or(|iv| iv.trim_start_matches("0x").len() != 32) {
        return Err(wrong("its initialisation vector is not 16 bytes"));
    }
    let params = &crypto["kdfparams"];
    if params["dklen"] != 32 {
        return Err(wrong("its derived key is not 32 bytes"));
    }
    if crypto["kdf"] == "scrypt" {
        let number = |key: &str| params[key].as_u64().unwrap_or(u64::MAX);
        let (n, r, p) = (number("n"), number("r"), number("p"));
        if !n.is_power_of_two() || n > 1 << 20 || r == 0 || r > 32 || p == 0 || p > 16 {
            return Err(wrong(
                "its scrypt parameters are out of bounds (n a power of two up to 2^20, r <= 32, p <= 16)",
            ));
        }
    } else if params["c"].as_u64().is_none_or(|c| c > 10_000_000) {
        return Err(wrong("its PBKDF2 parameters are out of bounds (c <= 10,000,000)"));
    }
    Ok(())
}

fn read_bounded(path: &Path) -> Result<String, KeyError> {
    let mut text = String::new();
    let file = File::open(path).map_err(io(path))?;
    file.take(KEYSTORE_BYTES_MAX).read_to_string(&mut text).map_err(|reason| match reason.kind() {
        std::io::ErrorKind::InvalidData => {
            KeyError::NotAKeystore { path: path.to_owned(), what: "it is not text".to_owned() }
        }
        _ => KeyError::Io { path: path.to_owned(), reason },
    })?;
    Ok(text)
}

/// Reads a raw key from a file, or draws one and writes it there with mode 0600.
///
/// # Errors
/// The file cannot be read or written, is readable by others, or holds no key.
pub fn read_or_create_raw(path: &Path) -> Result<Wallet, KeyError> {
    match fs::metadata(path) {
        Ok(meta) => {
            if meta.permissions().mode() & 0o077 != 0 {
                let reason = std::io::Error::new(
                    std::io::ErrorKind::PermissionDenied,
                    "the file is open to other users: run `chmod 600` on it",
                );
                return Err(KeyError::Io { path: path.to_owned(), reason });
            }
            Wallet::from_hex(&read_bounded(path)?)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let wallet = Wallet::random();
            write_private(path, format!("{}\n", hex::encode(wallet.secret())).as_bytes())?;
            Ok(wallet)
        }
        Err(reason) => Err(KeyError::Io { path: path.to_owned(), reason }),
    }
}

fn write_private(path: &Path, bytes: &[u8]) -> Result<(), KeyError> {
    let temporary = path.with_extension(format!("new-{:016x}", rand::random::<u64>()));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, path));
    written.map_err(io(path))
}
