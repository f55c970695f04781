//! The catalogue: models that can be deployed by name.

use muster_core::inference::ModelKind;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::apps::distance;

const CATALOG: &str = include_str!("../../../models/catalog.toml");
/// Names that are told where there is none of the name that was asked for.
const NEAREST: usize = 3;

/// Where weights come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ModelSource {
    /// This program makes them.
    Made,
    /// A script converts them from a package.
    Converted,
}

/// What runs a model, and what that needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// `llama.cpp`.
    pub engine: String,
    /// How the weights are rounded, as GGUF names it.
    pub quantisation: String,
    /// Thousandths of a core for each replica.
    pub cpu_millis: Option<u32>,
}

/// A model of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CatalogEntry {
    /// What it is deployed by.
    pub name: String,
    /// A line for people.
    pub about: String,
    /// `chat`, `completion` or `embedding`.
    #[schema(value_type = String)]
    pub kind: ModelKind,
    /// Under which licence its weights are, as SPDX names it.
    pub licence: String,
    /// How many numbers it is made of.
    pub parameters: u64,
    /// Tokens that a deployment gives prompt and answer together, unless told otherwise.
    pub context: Option<u32>,
    /// Where the weights come from.
    pub source: ModelSource,
    /// Their SHA-256 in hex, where they are always the same.
    pub sha256: Option<String>,
    /// How large they are.
    pub bytes: Option<u64>,
    /// What runs it.
    pub recipe: Recipe,
}

/// Why the catalogue has no such model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// It cannot be read: this program was built from a wrong file.
    #[error("the catalogue cannot be read: {0}")]
    Damaged(String),
    /// No model of that name.
    #[error(
        "the catalogue has no model {name:?}; the nearest are {near}. `muster model catalog` lists all; file:PATH deploys a GGUF file"
    )]
    Unknown {
        /// Which was asked for.
        name: String,
        /// The nearest names.
        near: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Catalog {
    model: Vec<CatalogEntry>,
}

/// All models that can be deployed by name.
///
/// # Errors
/// This program was built from a catalogue that cannot be read.
pub fn catalog() -> Result<Vec<CatalogEntry>, CatalogError> {
    let catalog: Catalog = toml::from_str(CATALOG).map_err(|error| CatalogError::Damaged(error.to_string()))?;
    Ok(catalog.model)
}

/// A model by its name.
///
/// # Errors
/// There is none of that name.
pub fn in_catalog(name: &str) -> Result<CatalogEntry, CatalogError> {
    let entries = catalog()?;
    if let Some(entry) = entries.iter().find(|entry| entry.name == name) {
        return Ok(entry.clone());
    }
    let mut near: Vec<(usize, &str)> =
        entries.iter().map(|entry| (distance(name, &entry.name), entry.name.as_str())).collect();
    near.sort_unstable();
    let near: Vec<&str> = near.into_iter().take(NEAREST).map(|(_, name)| name).collect();
    Err(CatalogError::Unknown { name: name.to_owned(), near: near.join(", ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_can_be_read_and_names_are_found() {
        let entries = catalog().unwrap();
        assert!(entries.len() >= 2);
        for entry in &entries {
            muster_core::inference::check_model_name(&entry.name).unwrap();
            assert_eq!(in_catalog(&entry.name).unwrap(), *entry);
            let hash = entry.sha256.as_ref().map(|hash| hash.parse::<muster_core::inference::WeightsId>());
            assert!(!matches!(hash, Some(Err(_))), "{}", entry.name);
        }
        assert_eq!(in_catalog("tiny").unwrap().source, ModelSource::Made);
        let unknown = in_catalog("tyni").unwrap_err().to_string();
        assert!(unknown.contains("nearest are tiny"), "{unknown}");
    }
}
