//! The workspace as the rules see it: manifests and source files, read once.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::Context as _;

use crate::source::{self, Split};

/// No folder of a sane checkout lies deeper; past it there is a loop of links or a build folder we should not be in.
const DEPTH_MAX: usize = 16;
/// A source file longer than this is no source file.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// Folders that hold what was built or fetched, not what was written.
const SKIPPED: [&str; 8] = ["target", "node_modules", "out", "cache", "artifacts", "corpus", "data", "lib"];

/// Everything the rules look at.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    /// The members: everything under `crates/`, and `xtask`.
    pub(crate) crates: Vec<Crate>,
    /// Rust and Solidity files.
    pub(crate) files: Vec<File>,
}

/// A member's manifest.
#[derive(Debug, Default)]
pub(crate) struct Crate {
    /// The package's name.
    pub(crate) name: String,
    /// Its folder, relative to the root.
    pub(crate) folder: String,
    /// Names of the packages it needs to build (with its build script).
    pub(crate) dependencies: BTreeSet<String>,
    /// Names of the packages only its tests need.
    pub(crate) dev_dependencies: BTreeSet<String>,
    /// Whether it takes the workspace's lints.
    pub(crate) workspace_lints: bool,
}

/// A source file.
#[derive(Debug, Default)]
pub(crate) struct File {
    /// Its path, relative to the root, with forward slashes.
    pub(crate) path: String,
    /// How many lines it has.
    pub(crate) lines: usize,
    /// Its code and its comments.
    pub(crate) split: Split,
}

impl Workspace {
    /// Reads the workspace under `root`.
    ///
    /// # Errors
    /// When a manifest or a source file cannot be read or understood.
    pub(crate) fn read(root: &Path) -> anyhow::Result<Self> {
        let mut workspace = Self::default();
        let mut folders = vec!["xtask".to_owned()];
        for entry in fs::read_dir(root.join("crates")).context("crates/ cannot be listed")? {
            let name = entry?.file_name();
            let folder = format!("crates/{}", name.to_string_lossy());
            if root.join(&folder).join("Cargo.toml").is_file() {
                folders.push(folder);
            }
        }
        folders.sort();
        for folder in folders {
            let path = root.join(&folder).join("Cargo.toml");
            let text = fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
            workspace.crates.push(Crate::parse(&folder, &text)?);
        }
        walk(root, "", 0, &mut workspace.files)?;
        workspace.files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(workspace)
    }

    /// The crate that a file belongs to, if any.
    pub(crate) fn owner(&self, file: &File) -> Option<&Crate> {
        self.crates.iter().find(|c| file.path.strip_prefix(&c.folder).is_some_and(|rest| rest.starts_with('/')))
    }
}

impl Crate {
    /// Reads a manifest.
    ///
    /// # Errors
    /// When it is no TOML or has no package name.
    pub(crate) fn parse(folder: &str, text: &str) -> anyhow::Result<Self> {
        let manifest: toml::Table = text.parse().with_context(|| format!("{folder}/Cargo.toml is no TOML"))?;
        let name = manifest
            .get("package")
            .and_then(|package| package.get("name"))
            .and_then(toml::Value::as_str)
            .with_context(|| format!("{folder}/Cargo.toml names no package"))?;
        let workspace_lints = manifest
            .get("lints")
            .and_then(|lints| lints.get("workspace"))
            .and_then(toml::Value::as_bool)
            .unwrap_or(false);
        let mut read = Self { name: name.to_owned(), folder: folder.to_owned(), workspace_lints, ..Self::default() };
        read.take_dependencies(&manifest);
        if let Some(targets) = manifest.get("target").and_then(toml::Value::as_table) {
            targets.values().filter_map(toml::Value::as_table).for_each(|table| read.take_dependencies(table));
        }
        Ok(read)
    }

    fn take_dependencies(&mut self, table: &toml::Table) {
        self.dependencies.extend(names(table, "dependencies"));
        self.dependencies.extend(names(table, "build-dependencies"));
        self.dev_dependencies.extend(names(table, "dev-dependencies"));
    }
}

/// The packages a section names: the entry's `package` where it renames one, else its key.
fn names(table: &toml::Table, section: &str) -> Vec<String> {
    let Some(entries) = table.get(section).and_then(toml::Value::as_table) else { return Vec::new() };
    let package = |(key, value): (&String, &toml::Value)| {
        value.get("package").and_then(toml::Value::as_str).map_or_else(|| key.clone(), str::to_owned)
    };
    entries.iter().map(package).collect()
}

impl File {
    /// Takes a file apart.
    pub(crate) fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), lines: text.lines().count(), split: source::split(text) }
    }
}

/// Adds every Rust and Solidity file below `root/folder`.
fn walk(root: &Path, folder: &str, depth: usize, files: &mut Vec<File>) -> anyhow::Result<()> {
    anyhow::ensure!(depth <= DEPTH_MAX, "{folder} lies more than {DEPTH_MAX} folders deep");
    let path = root.join(folder);
    for entry in fs::read_dir(&path).with_context(|| format!("{} cannot be listed", path.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let inner = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
        let kind = entry.file_type()?;
        if kind.is_dir() {
            if !name.starts_with('.') && !SKIPPED.contains(&name.as_str()) {
                walk(root, &inner, depth + 1, files)?;
            }
        } else if kind.is_file() && (name.ends_with(".rs") || name.ends_with(".sol")) {
            let bytes = entry.metadata()?.len();
            anyhow::ensure!(bytes <= FILE_BYTES_MAX, "{inner} has {bytes} bytes, that is no source file");
            let text = fs::read_to_string(entry.path()).with_context(|| format!("{inner} cannot be read"))?;
            files.push(File::new(&inner, &text));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_gives_its_arrows() {
        let text = r#"
            [package]
            name = "muster-x"
            [lints]
            workspace = true
            [dependencies]
            muster-core.workspace = true
            other = { package = "iroh", version = "1" }
            [build-dependencies]
            cc = "1"
            [dev-dependencies]
            tempfile.workspace = true
            [target.'cfg(unix)'.dependencies]
            rustix = "1"
        "#;
        let read = Crate::parse("crates/muster-x", text).unwrap();
        let all: Vec<&str> = read.dependencies.iter().map(String::as_str).collect();
        assert_eq!(all, ["cc", "iroh", "muster-core", "rustix"]);
        assert_eq!(read.dev_dependencies.iter().collect::<Vec<_>>(), ["tempfile"]);
        assert!(read.workspace_lints);
    }

    #[test]
    fn a_manifest_without_a_package_is_named() {
        let error = Crate::parse("crates/muster-x", "[dependencies]").unwrap_err();
        assert!(error.to_string().contains("crates/muster-x/Cargo.toml names no package"), "{error}");
    }
}
