//! The catalogue: models that can be deployed by name.

use std::fmt;

use muster_core::inference::{ModelKind, WeightsId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::apps::distance;

const CATALOG: &str = include_str!("../../../models/catalog.toml");
/// Names that are told where there is none of the name that was asked for.
const NEAREST: usize = 3;

/// Where weights come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum CatalogSource {
    /// This program makes them.
    Made,
    /// They come in a package.
    Packaged,
    /// A script converts them from a package.
    Converted,
    /// They are a file on a hub.
    Hub(HubSource),
}

/// A file on a hub, at a commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HubSource {
    /// `OWNER/NAME`.
    pub repository: String,
    /// The commit.
    pub revision: String,
    /// The file's path in it.
    pub file: String,
    /// Its SHA-256; asked of the hub where it is not known.
    pub sha256: Option<String>,
    /// Its length; asked of the hub where it is not known.
    pub bytes: Option<u64>,
}

impl fmt::Display for HubSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hf:{}@{}:{}", self.repository, self.revision, self.file)
    }
}

/// What a recipe runs a model on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Runs {
    /// The engine of this program.
    Embedded,
    /// An image of vLLM.
    Vllm,
    /// An image of SGLang.
    Sglang,
}

/// What runs a model, and what it takes there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// `embedded`, or an image: `vllm`, `sglang`.
    pub engine: Runs,
    /// How the model's numbers are written.
    pub quantisation: String,
    /// Memory of a card, where it runs on one.
    pub vram: Option<String>,
    /// OB of a card, where it runs on one.
    pub ob: Option<u32>,
    /// The image of an engine that is one: `NAME@sha256:…`.
    pub image: Option<String>,
    /// Thousandths of a core for each replica, where that is not the usual.
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
    pub source: CatalogSource,
    /// Their SHA-256 in hex, where they are always the same.
    pub sha256: Option<String>,
    /// How large they are.
    pub bytes: Option<u64>,
    /// What runs it; the first is taken.
    pub recipe: Vec<Recipe>,
}

impl CatalogEntry {
    /// Its SHA-256 and length, where both are known beforehand.
    #[must_use]
    pub fn known(&self) -> Option<(WeightsId, u64)> {
        let (hash, bytes) = match &self.source {
            CatalogSource::Hub(hub) => (&hub.sha256, hub.bytes),
            CatalogSource::Made | CatalogSource::Packaged | CatalogSource::Converted => (&self.sha256, self.bytes),
        };
        hash.as_ref().and_then(|hash| hash.parse().ok()).zip(bytes)
    }

    /// Why it runs nowhere in this version, if so.
    #[must_use]
    pub fn needs_image(&self) -> Option<String> {
        let recipe = self.recipe.first().filter(|recipe| recipe.engine != Runs::Embedded)?;
        let image = recipe.image.as_deref().unwrap_or("an image");
        Some(format!(
            "{} runs on {image}, and Containers of this version run no images; choose a model whose recipe is embedded, or one that a provider's own engine serves (endpoint:NAME)",
            self.name
        ))
    }

    /// Thousandths of a core for each replica, where that is not the usual.
    #[must_use]
    pub fn cpu_millis(&self) -> Option<u32> {
        self.recipe.first().and_then(|recipe| recipe.cpu_millis)
    }

    /// How its numbers are written.
    #[must_use]
    pub fn quantisation(&self) -> &str {
        self.recipe.first().map_or("", |recipe| recipe.quantisation.as_str())
    }
}

/// Why the catalogue has no such model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// It cannot be read: this program was built from a wrong file.
    #[error("the catalogue cannot be read: {0}")]
    Damaged(String),
    /// No model of that name.
    #[error(
        "the catalogue has no model {name:?}; the nearest are {near}. `muster model catalog` lists all; hf:OWNER/NAME deploys a model from a hub, file:PATH a GGUF file"
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
            let hash = entry.sha256.as_ref().map(|hash| hash.parse::<WeightsId>());
            assert!(!matches!(hash, Some(Err(_))), "{}", entry.name);
            let size = |vram: &String| vram.parse::<muster_core::units::Bytes>().is_ok();
            assert!(
                !entry.recipe.is_empty() && entry.recipe.iter().all(|r| r.vram.as_ref().is_none_or(size)),
                "{entry:?}"
            );
        }
        let of_hubs =
            entries.iter().filter(|entry| matches!(entry.source, CatalogSource::Hub(_)) && entry.known().is_some());
        assert!(of_hubs.count() >= 14, "models of hubs are known by hash and length");
        let mut image = in_catalog("qwen3-0.6b").unwrap();
        assert_eq!(image.needs_image(), None);
        image.recipe[0].engine = Runs::Vllm;
        assert!(image.needs_image().is_some_and(|why| why.contains("run no images")));
        assert_eq!(in_catalog("tiny").unwrap().source, CatalogSource::Made);
        let unknown = in_catalog("tyni").unwrap_err().to_string();
        assert!(unknown.contains("nearest are tiny"), "{unknown}");
    }
}
