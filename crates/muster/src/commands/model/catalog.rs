//! The models that can be deployed by name.

use std::path::PathBuf;

use muster_core::inference::{HubRef, HubRefError, WeightsId};
use muster_core::units::Bytes;
use muster_engine::hub::Found;
use serde::{Deserialize, Serialize};

use super::super::Context;
use crate::cli::model::Kind;
use crate::dirs::make_private;
use crate::failure::{Because, Code, Failure};
use crate::output::table;

const CATALOG: &str = include_str!("../../../../../models/catalog.toml");
/// Names that are told where there is none of the name that was asked for.
const NEAREST: usize = 3;

/// Where weights come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Source {
    /// This program makes them.
    Made,
    /// A script converts them from a package.
    Converted,
    /// They are a file on a hub.
    Hub(Hub),
}

/// A file on a hub, at a commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Hub {
    /// `OWNER/NAME`.
    repository: String,
    revision: String,
    file: String,
    /// Its SHA-256; asked of the hub where it is not known.
    sha256: Option<String>,
    /// Its length; asked of the hub where it is not known.
    bytes: Option<u64>,
}

/// What runs a model, and what it takes there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Recipe {
    engine: Runs,
    /// How the model's numbers are written.
    quantisation: String,
    /// Memory of a card, where it runs on one.
    vram: Option<String>,
    /// OB of a card, where it runs on one.
    ob: Option<u32>,
    /// The image of an engine that is one: `NAME@sha256:…`.
    image: Option<String>,
}

/// What a recipe runs a model on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Runs {
    /// The engine of this program.
    Embedded,
    /// An image of vLLM.
    Vllm,
    /// An image of SGLang.
    Sglang,
}

/// Weights of the catalogue that are on a hub.
pub(super) enum OnHub {
    /// All is known of them.
    Known(Found),
    /// The hub has to be asked; what it says must agree with the hash that is known.
    Ask(HubRef, Option<WeightsId>),
}

/// A model of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) about: String,
    pub(super) kind: Word,
    pub(super) licence: String,
    pub(super) parameters: u64,
    pub(super) context: Option<u32>,
    pub(super) source: Source,
    #[serde(default)]
    recipe: Vec<Recipe>,
}

/// What a model is for, as the file writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Word {
    Chat,
    Completion,
    Embedding,
}

impl Word {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Chat => Kind::Chat.word(),
            Self::Completion => Kind::Completion.word(),
            Self::Embedding => Kind::Embedding.word(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Catalog {
    model: Vec<Entry>,
}

fn all() -> Result<Vec<Entry>, Failure> {
    let catalog: Catalog = toml::from_str(CATALOG).because(Code::Internal, "the catalogue cannot be read")?;
    Ok(catalog.model)
}

/// `muster model catalog`.
pub(super) fn show(cx: &Context) -> Result<(), Failure> {
    let entries = all()?;
    cx.output.result(&entries, || {
        let row = |e: &Entry| {
            vec![e.name.clone(), e.kind.word().to_owned(), parameters(e.parameters), e.licence.clone(), e.about.clone()]
        };
        table(&["model", "kind", "parameters", "licence", "about"], entries.iter().map(row).collect())
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
pub(super) fn find(name: &str) -> Result<Entry, Failure> {
    let entries = all()?;
    if let Some(entry) = entries.iter().find(|entry| entry.name == name) {
        return Ok(entry.clone());
    }
    let mut near: Vec<(usize, &str)> =
        entries.iter().map(|e| (muster_gateway::distance(name, &e.name), e.name.as_str())).collect();
    near.sort_unstable();
    let names: Vec<&str> = near.into_iter().take(NEAREST).map(|(_, name)| name).collect();
    let why = format!(
        "the catalogue has no model {name:?}; the nearest are {}. `muster model catalog` lists all; hf:OWNER/NAME deploys a model from a hub, file:PATH a GGUF file",
        names.join(", ")
    );
    Err(Failure::new(Code::NotFound, why))
}

/// Where on a hub a model's weights are; `None` where they come from elsewhere.
pub(super) fn on_hub(entry: &Entry) -> Result<Option<OnHub>, Failure> {
    let Source::Hub(hub) = &entry.source else { return Ok(None) };
    if let Some(recipe) = entry.recipe.first()
        && recipe.engine != Runs::Embedded
    {
        let image = recipe.image.as_deref().unwrap_or("an image");
        let why = format!(
            "{} runs on {image}, and Containers of this version run no images; choose a model whose recipe is embedded, or one that a provider's own engine serves (endpoint:NAME)",
            entry.name
        );
        return Err(Failure::new(Code::Config, why));
    }
    let wrong = |why: String| Failure::new(Code::Internal, format!("the catalogue's {}: {why}", entry.name));
    let named = format!("hf:{}@{}:{}", hub.repository, hub.revision, hub.file);
    let hash = hub.sha256.as_deref().map(str::parse::<WeightsId>).transpose().map_err(|e| wrong(e.to_string()))?;
    Ok(Some(match (hash, hub.bytes) {
        (Some(weights), Some(bytes)) => {
            let file = named.parse().map_err(|e: HubRefError| wrong(e.to_string()))?;
            OnHub::Known(Found { file, weights, bytes: Bytes(bytes), private: false })
        }
        (hash, _) => OnHub::Ask(named.parse().map_err(|e: HubRefError| wrong(e.to_string()))?, hash),
    }))
}

/// Whether the hub has what the catalogue names.
pub(super) fn same(entry: &Entry, found: &Found, known: Option<WeightsId>) -> Result<(), Failure> {
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
pub(super) fn weights(cx: &Context, entry: &Entry) -> Result<PathBuf, Failure> {
    let dir = cx.dirs.at("models");
    let file = dir.join(format!("{}.gguf", entry.name));
    if file.exists() {
        return Ok(file);
    }
    match &entry.source {
        Source::Made => {
            make_private(&dir)?;
            let fresh = dir.join(format!("{}.new", entry.name));
            muster_engine::tiny::write(&fresh).because(Code::Io, format!("cannot write {}", fresh.display()))?;
            std::fs::rename(&fresh, &file).because(Code::Io, format!("cannot write {}", file.display()))?;
            Ok(file)
        }
        Source::Hub(hub) => {
            let why = format!(
                "the weights of {} are on a hub: hf:{}@{}:{}",
                entry.name, hub.repository, hub.revision, hub.file
            );
            Err(Failure::new(Code::Config, why))
        }
        Source::Converted => {
            let why = format!(
                "the weights of {} are not here: `scripts/minilm.sh` of the sources makes a file of them; copy it to {}, or deploy it with `file:PATH --kind embedding`",
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
    fn the_catalogue_can_be_read_and_names_are_found() {
        let entries = all().unwrap();
        assert!(entries.len() >= 2);
        for entry in &entries {
            muster_core::inference::check_model_name(&entry.name).unwrap();
        }
        assert_eq!(find("tiny").unwrap().source, Source::Made);
        let unknown = find("tyni").unwrap_err().to_string();
        assert!(unknown.contains("nearest are tiny"), "{unknown}");
        let known = |entry: &Entry| matches!(on_hub(entry).unwrap(), Some(OnHub::Known(_)));
        assert!(
            entries.iter().filter(|entry| known(entry)).count() >= 14,
            "models of hubs are known by hash and length"
        );
        for entry in &entries {
            let recipes = &entry.recipe;
            assert!(
                recipes.iter().all(|r| r.vram.as_ref().is_none_or(|vram| vram.parse::<Bytes>().is_ok())),
                "{entry:?}"
            );
            assert_eq!(matches!(entry.source, Source::Hub(_)), !recipes.is_empty(), "{entry:?}");
        }
        assert_eq!(parameters(1_500_000_000), "1.5 B");
    }

    #[test]
    fn what_needs_an_image_or_is_another_file_by_now_is_said_in_words() {
        let entry = find("qwen3-0.6b").unwrap();
        let Some(OnHub::Known(found)) = on_hub(&entry).unwrap() else { panic!("{entry:?}") };
        assert!(same(&entry, &found, Some(found.weights)).is_ok() && same(&entry, &found, None).is_ok());
        let other = same(&entry, &found, Some(WeightsId([7; 32]))).unwrap_err().to_string();
        assert!(other.contains("not what the catalogue names"), "{other}");
        let mut image = entry.clone();
        image.recipe[0].engine = Runs::Vllm;
        image.recipe[0].image = Some(format!("vllm@sha256:{}", "0".repeat(64)));
        let Err(why) = on_hub(&image) else { panic!("images do not run") };
        assert!(why.to_string().contains("run no images"), "{why}");
        // Where the catalogue does not know all, the hub is asked.
        let mut short = entry;
        let Source::Hub(hub) = &mut short.source else { panic!() };
        hub.bytes = None;
        assert!(matches!(on_hub(&short).unwrap(), Some(OnHub::Ask(_, Some(_)))));
    }
}
