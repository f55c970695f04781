//! The calibration table as a signed file: a TOML text, and beside it the signature of whoever issues tables.

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use muster_core::calibration::{Table, TableError};

use crate::signature::Signature64;

/// Whose tables this build takes.
pub const ISSUER: [u8; 32] = [
    200, 135, 71, 39, 96, 56, 211, 85, 88, 155, 7, 5, 43, 142, 245, 77, 38, 75, 111, 143, 183, 89, 89, 2, 43, 62, 151,
    85, 26, 83, 64, 122,
];
/// The table that this build was made with.
const BUILT_IN: &str = include_str!("../../../calibration/calibration.toml");
/// Its signature, 128 hex digits.
const BUILT_IN_SIGNATURE: &str = include_str!("../../../calibration/calibration.sig");
/// The longest table.
pub const TABLE_LEN_MAX: usize = 1 << 20;

/// Why a file is no table.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CalibrationError {
    /// Longer than any table.
    #[error("the table is longer than {TABLE_LEN_MAX} bytes")]
    TooLong,
    /// The signature file holds none.
    #[error("the signature is not 128 hex digits")]
    SignatureText,
    /// Signed by somebody else, or changed after it was signed.
    #[error("the table is not signed by the issuer that this program trusts: take both files from one release")]
    Signature,
    /// Not a table.
    #[error("the table cannot be read: {why}")]
    Malformed {
        /// Where and why.
        why: String,
    },
    /// It contradicts itself.
    #[error(transparent)]
    Table(#[from] TableError),
}

/// What is signed: no signature over anything else passes for one over a table.
fn signed(text: &str) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("muster 2026 calibration table");
    hasher.update(text.as_bytes());
    *hasher.finalize().as_bytes()
}

/// Reads a table without asking who signed it: for whoever is about to sign it.
///
/// # Errors
/// [`CalibrationError`].
pub fn parse(text: &str) -> Result<Table, CalibrationError> {
    if text.len() > TABLE_LEN_MAX {
        return Err(CalibrationError::TooLong);
    }
    let table: Table = toml::from_str(text).map_err(|e| CalibrationError::Malformed { why: e.to_string() })?;
    table.check()?;
    Ok(table)
}

/// Signs a table that [`parse`] takes; gives the signature file's text and the issuer's key.
///
/// # Errors
/// [`CalibrationError`] when it is no table.
pub fn sign(text: &str, secret: &[u8; 32]) -> Result<(String, [u8; 32]), CalibrationError> {
    parse(text)?;
    let key = SigningKey::from_bytes(secret);
    let signature = Signature64(key.sign(&signed(text)).to_bytes());
    Ok((format!("{signature}\n"), key.verifying_key().to_bytes()))
}

/// Reads a table that `issuer` signed.
///
/// # Errors
/// [`CalibrationError`].
pub fn verify(text: &str, signature: &str, issuer: &[u8; 32]) -> Result<Table, CalibrationError> {
    if text.len() > TABLE_LEN_MAX {
        return Err(CalibrationError::TooLong);
    }
    let bytes = digits(signature.trim()).ok_or(CalibrationError::SignatureText)?;
    let key = VerifyingKey::from_bytes(issuer).map_err(|_| CalibrationError::Signature)?;
    key.verify_strict(&signed(text), &Signature::from_bytes(&bytes)).map_err(|_| CalibrationError::Signature)?;
    parse(text)
}

/// The table that this build was made with.
///
/// # Errors
/// [`CalibrationError`]: the build is broken.
pub fn built_in() -> Result<Table, CalibrationError> {
    verify(BUILT_IN, BUILT_IN_SIGNATURE, &ISSUER)
}

fn digits(text: &str) -> Option<[u8; 64]> {
    let mut out = [0; 64];
    if text.len() != 128 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (at, slot) in out.iter_mut().enumerate() {
        *slot = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use muster_core::calibration::Grade;
    use muster_core::hardware::GpuModel;
    use muster_core::units::Ob;

    use super::*;

    #[test]
    fn the_built_in_table_is_whole_and_signed() {
        let table = built_in().unwrap();
        let found = |name: &str| table.find(&GpuModel::new(name).unwrap());
        let known = found("NVIDIA GeForce RTX 4090");
        assert_eq!(known.rates.table_ob, Ob::points(1_270));
        assert_eq!(known.card.unwrap().grade, Grade::Recalled);
        assert_eq!(found("NVIDIA GeForce RTX 4090 Laptop GPU").rates.table_ob, Ob::points(715));
        assert_eq!(found("NVIDIA RTX A6000").rates.table_ob, Ob::points(630));
        assert_eq!(found("NVIDIA A100-SXM4-80GB").card.unwrap().version, "4");
        assert_eq!(found("NVIDIA GeForce RTX 2080 Ti").rates.table_ob, Ob::points(355), "not OctaneBench 4's");
        assert!(found("llvmpipe (LLVM 15.0.6, 256 bits)").card.is_none());
        for card in &table.card {
            assert!(!card.source.is_empty(), "{card:?}");
        }
    }

    #[test]
    fn only_the_issuer_s_own_words_pass() {
        let (signature, issuer) = sign(BUILT_IN, &[7; 32]).unwrap();
        assert!(verify(BUILT_IN, &signature, &issuer).is_ok());
        let changed = BUILT_IN.replacen("ob = 1270", "ob = 1271", 1);
        assert_ne!(changed, BUILT_IN);
        assert!(matches!(verify(&changed, &signature, &issuer), Err(CalibrationError::Signature)));
        assert!(matches!(verify(BUILT_IN, &signature, &ISSUER), Err(CalibrationError::Signature)));
        assert!(matches!(verify(BUILT_IN, "00", &issuer), Err(CalibrationError::SignatureText)));
        let long = "#".repeat(TABLE_LEN_MAX + 1);
        assert!(matches!(verify(&long, &signature, &issuer), Err(CalibrationError::TooLong)));
        assert!(matches!(sign("serial = 1", &[7; 32]), Err(CalibrationError::Malformed { .. })));
        let unknown = format!("surprise = 1\n{BUILT_IN}");
        assert!(matches!(parse(&unknown), Err(CalibrationError::Malformed { .. })));
    }
}
