//! The models that can be deployed by name.

use std::path::PathBuf;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Source {
    /// This program makes them.
    Made,
    /// A script converts them from a package.
    Converted,
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
    if name.starts_with("hf:") {
        let why = "this version fetches nothing from a hub; download the GGUF file and deploy it with `muster model deploy file:PATH`";
        return Err(Failure::new(Code::Config, why));
    }
    let mut near: Vec<(usize, &str)> =
        entries.iter().map(|e| (muster_gateway::distance(name, &e.name), e.name.as_str())).collect();
    near.sort_unstable();
    let names: Vec<&str> = near.into_iter().take(NEAREST).map(|(_, name)| name).collect();
    let why = format!(
        "the catalogue has no model {name:?}; the nearest are {}. `muster model catalog` lists all; file:PATH deploys a GGUF file",
        names.join(", ")
    );
    Err(Failure::new(Code::NotFound, why))
}

/// The file of a model's weights, made where that can be done.
pub(super) fn weights(cx: &Context, entry: &Entry) -> Result<PathBuf, Failure> {
    let dir = cx.dirs.at("models");
    let file = dir.join(format!("{}.gguf", entry.name));
    if file.exists() {
        return Ok(file);
    }
    match entry.source {
        Source::Made => {
            make_private(&dir)?;
            let fresh = dir.join(format!("{}.new", entry.name));
            muster_engine::tiny::write(&fresh).because(Code::Io, format!("cannot write {}", fresh.display()))?;
            std::fs::rename(&fresh, &file).because(Code::Io, format!("cannot write {}", file.display()))?;
            Ok(file)
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
        assert!(find("hf:a/b").unwrap_err().to_string().contains("file:PATH"));
        assert_eq!(parameters(1_500_000_000), "1.5 B");
    }
}
