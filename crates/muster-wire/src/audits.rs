//! The table of what honest answers come to, as a file: a TOML text.

use muster_core::inference::audit::{LimitsError, LimitsTable};

/// The table that this build was made with.
const BUILT_IN: &str = include_str!("../../../calibration/models.toml");
/// The longest table.
pub const TABLE_LEN_MAX: usize = 1 << 20;

/// Why a file is no table.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditsError {
    /// Longer than any table.
    #[error("the table of honest answers is longer than {TABLE_LEN_MAX} bytes")]
    TooLong,
    /// Not a table.
    #[error("the table of honest answers cannot be read: {why}")]
    Malformed {
        /// Where and why.
        why: String,
    },
    /// It contradicts itself.
    #[error(transparent)]
    Limits(#[from] LimitsError),
}

/// Reads a table.
///
/// # Errors
/// [`AuditsError`].
pub fn parse(text: &str) -> Result<LimitsTable, AuditsError> {
    if text.len() > TABLE_LEN_MAX {
        return Err(AuditsError::TooLong);
    }
    let table: LimitsTable = toml::from_str(text).map_err(|e| AuditsError::Malformed { why: e.to_string() })?;
    table.check()?;
    Ok(table)
}

/// The table that this build was made with.
///
/// # Errors
/// [`AuditsError`]: the build is broken.
pub fn built_in() -> Result<LimitsTable, AuditsError> {
    parse(BUILT_IN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_table_is_whole() {
        let table = built_in().unwrap();
        let found = table.find("generated", "F16", "llama.cpp, CPU, 2 threads").unwrap();
        assert!(found.honest_answers >= 100 && found.limits.differing_ppm < 50_000, "{found:?}");
    }

    #[test]
    fn what_is_no_table_is_refused() {
        assert!(matches!(parse(&" ".repeat(TABLE_LEN_MAX + 1)), Err(AuditsError::TooLong)));
        assert!(parse("serial = 1").unwrap_err().to_string().contains("issued"));
        let line = "[[model]]\nmodel = \"m\"\nquantisation = \"F16\"\nengine = \"e\"\nhonest_answers = 1\nhonest_tokens = 1\n\
                    source = \"\"\n[model.limits]\ndiffering_ppm = 0\nmargin_micronats = 1\ndistance_micronats = 1\n";
        let text = format!("serial = 1\nissued = \"2026-11-27\"\n{line}");
        assert!(matches!(parse(&text), Err(AuditsError::Limits(LimitsError::Range { .. }))));
        let unknown = text.replace("differing_ppm = 0", "differing_ppm = 1\nother = 1");
        assert!(parse(&unknown).unwrap_err().to_string().contains("other"));
        assert_eq!(parse(&text.replace("= 0", "= 9")).unwrap().model.len(), 1);
    }
}
