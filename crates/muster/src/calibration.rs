//! The calibration table in use: the one in the folder when there is one, else the one that this build was made with.

use std::io::Read as _;
use std::path::Path;

use muster_core::calibration::Table;
use muster_wire::calibration;

use crate::dirs::Dirs;
use crate::failure::{Because, Code, Failure};

/// Name of the table in the folder; its signature ends in `.sig` instead of `.toml`.
const FILE: &str = "calibration.toml";

/// The table of a folder, or the built-in one, whichever was issued later. A file that is there and wrong is an error, not
/// a reason to take the other.
pub(crate) fn table(dirs: &Dirs) -> Result<Table, Failure> {
    let own = calibration::built_in().because(Code::Internal, "the built-in calibration")?;
    let path = dirs.at(FILE);
    if !path.exists() {
        return Ok(own);
    }
    let (text, signature) = (read(&path)?, read(&path.with_extension("sig"))?);
    let given = calibration::verify(&text, &signature, &calibration::ISSUER).because(Code::Config, path.display())?;
    Ok(if given.serial > own.serial { given } else { own })
}

/// Reads a file that is no longer than a table may be.
pub(crate) fn read(path: &Path) -> Result<String, Failure> {
    let file = std::fs::File::open(path).because(Code::Config, path.display())?;
    let mut text = String::new();
    let most = u64::try_from(calibration::TABLE_LEN_MAX).unwrap_or(u64::MAX).saturating_add(1);
    file.take(most).read_to_string(&mut text).because(Code::Config, path.display())?;
    Ok(text)
}
