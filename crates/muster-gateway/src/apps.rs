//! Applications: what a developer publishes with one command, and anybody may play.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use muster_core::ids::Address;
use muster_core::live::{KeyboardUse, SessionSpec};
use muster_core::packages::{PackageSet, PackagesError};
use muster_core::units::Bytes;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::content::{Content, Contents};
use crate::keys::write_private;

/// Apps that a Gateway holds.
const APPS_MAX: usize = 10_000;
/// Bytes of the longest app file.
pub(crate) const APP_BYTES_MAX: usize = 64 * 1024;
/// Arguments of a command.
const ARGS_MAX: usize = 64;
/// Bytes of the longest name or argument.
const TEXT_LEN_MAX: usize = 1_024;
/// Files and folders that an app names.
const FILES_MAX: usize = 64;
/// Sizes that an app offers.
const RESOLUTIONS_MAX: usize = 16;

/// The apps that come with Muster.
const SHIPPED: [(&str, &str); 4] = [
    ("neverball", include_str!("../apps/neverball.toml")),
    ("supertuxkart", include_str!("../apps/supertuxkart.toml")),
    ("editor", include_str!("../apps/editor.toml")),
    ("latency", include_str!("../apps/latency.toml")),
];

/// Why an app cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The file is no app.
    #[error("{0}")]
    Invalid(String),
    /// There is none of this name.
    #[error("there is no app {name:?}; nearest are: {nearest}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// Names that are like it.
        nearest: String,
    },
    /// Somebody else's.
    #[error("the app {0:?} belongs to another account; choose another name")]
    NotYours(String),
    /// This version is there already, and is another.
    #[error(
        "{name} {version} is published already and differs; a version never changes: raise `version` in the app's file"
    )]
    Changed {
        /// The app.
        name: String,
        /// The version.
        version: String,
    },
    /// The files that go along have not arrived.
    #[error("{have} of {need} bytes of the app's files are here; send the rest first")]
    ContentMissing {
        /// What is here.
        have: u64,
        /// What there must be.
        need: u64,
    },
    /// Too many.
    #[error("this Gateway holds {APPS_MAX} apps already; withdraw some first")]
    Full,
    /// The folder fails.
    #[error("the published apps in {path} cannot be {what}: {source}", path = path.display())]
    Io {
        /// Which folder.
        path: PathBuf,
        /// Read or written.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// An application, as its file (`app.toml`) has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct App {
    /// Its name: lower-case letters, digits and hyphens.
    pub name: String,
    /// Its version, as its developer counts.
    pub version: String,
    /// What people call it.
    pub title: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// The stake that its publisher promises, in whole tokens; the least of the network where none is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stake: Option<u64>,
    /// Debian packages that it needs on the Container.
    #[serde(default)]
    pub packages: Vec<String>,
    /// Files and folders beside the app's file that go along: they are in `app/` of the program's home.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// What is in them, as publishing fills it in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// Variables of its environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Sizes that it offers, the usual one first: `1280x720`.
    pub resolutions: Vec<String>,
    /// Frames a second that it offers, the usual one first.
    pub fps: Vec<u8>,
    /// How keys are meant: games by their place, desktop programs by what they write.
    #[serde(default)]
    pub keyboard: Keyboard,
    /// How the mouse is meant: games that look around want it relative.
    #[serde(default)]
    pub pointer: Pointer,
    /// Whether it makes sound.
    #[serde(default = "yes")]
    pub sound: bool,
    /// Whether it may hear the player's microphone, if the player agrees.
    #[serde(default)]
    pub microphone: bool,
    /// How many gamepads it sees, from its start on: 0 for one that takes none, up to 4. None are not written: hashes of
    /// apps that take none are those of before.
    #[serde(default, skip_serializing_if = "none")]
    pub gamepads: u8,
    /// Whether what it keeps in its home folder returns to the player, and is there the next time.
    #[serde(default = "yes")]
    pub save: bool,
    /// What it needs of a Container.
    #[serde(default)]
    pub needs: Needs,
}

const fn yes() -> bool {
    true
}

/// How keys are meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Keyboard {
    /// By their place.
    #[default]
    Position,
    /// By what they write.
    Text,
}

/// How the mouse is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pointer {
    /// By its place on the picture.
    #[default]
    Absolute,
    /// By its movement, the page captures it.
    Relative,
}

/// What an app needs of a Container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Needs {
    /// Thousandths of a core.
    pub cpu_millis: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Disk in MiB, with what it saves.
    pub disk_mib: u64,
    /// OctaneBench points; 0 where the processor draws.
    pub ob: u32,
    /// Memory of the card in MiB.
    pub vram_mib: u64,
}

impl Default for Needs {
    fn default() -> Self {
        Self { cpu_millis: 500, memory_mib: 512, disk_mib: 256, ob: 0, vram_mib: 0 }
    }
}

impl App {
    /// Reads an app's file.
    ///
    /// # Errors
    /// A sentence that says what is wrong and where.
    pub fn parse(text: &str) -> Result<Self, AppError> {
        if text.len() > APP_BYTES_MAX {
            return Err(AppError::Invalid(format!("the app's file is longer than {APP_BYTES_MAX} bytes")));
        }
        let app: Self = toml::from_str(text).map_err(|e| AppError::Invalid(format!("the app's file: {e}")))?;
        app.check()?;
        Ok(app)
    }

    /// Bounds of every field, for whoever writes or reads one.
    ///
    /// # Errors
    /// A sentence that names the field.
    pub fn check(&self) -> Result<(), AppError> {
        let wrong = |what: String| Err(AppError::Invalid(what));
        let name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if self.name.is_empty() || self.name.len() > 64 || !self.name.chars().all(name) {
            return wrong(format!("name {:?}: use 1 to 64 lower-case letters, digits and hyphens", self.name));
        }
        let version = |c: char| c.is_ascii_alphanumeric() || ".-+~".contains(c);
        if self.version.is_empty() || self.version.len() > 64 || !self.version.chars().all(version) {
            return wrong(format!("version {:?}: use 1 to 64 letters, digits, dots, hyphens, + and ~", self.version));
        }
        if self.title.is_empty() || self.title.len() > 128 {
            return wrong("title: use 1 to 128 bytes".to_owned());
        }
        if self.command.is_empty() || self.command.len() > ARGS_MAX || self.command.first().is_none_or(String::is_empty)
        {
            return wrong(format!("command: write the program and at most {ARGS_MAX} arguments"));
        }
        let text = self.command.iter().chain(self.env.keys()).chain(self.env.values());
        if text.into_iter().any(|t| t.len() > TEXT_LEN_MAX || t.contains('\0')) || self.env.len() > ARGS_MAX {
            return wrong(format!(
                "command or env: an entry is longer than {TEXT_LEN_MAX} bytes, or there are too many"
            ));
        }
        self.package_set().map_err(|why| AppError::Invalid(format!("packages: {why}")))?;
        if self.files.len() > FILES_MAX || self.files.iter().any(|file| file.len() > TEXT_LEN_MAX) {
            return wrong(format!("files: name at most {FILES_MAX} files and folders, each in {TEXT_LEN_MAX} bytes"));
        }
        if let Some(content) = &self.content {
            content.check()?;
        }
        if self.resolutions.is_empty() || self.resolutions.len() > RESOLUTIONS_MAX {
            return wrong(format!("resolutions: name 1 to {RESOLUTIONS_MAX}, for example \"1280x720\""));
        }
        if self.fps.is_empty() || self.fps.len() > RESOLUTIONS_MAX {
            return wrong("fps: name at least one, for example 60".to_owned());
        }
        for resolution in &self.resolutions {
            for fps in &self.fps {
                let (width, height) = size(resolution)?;
                self.spec(width, height, *fps, "us").check().map_err(|e| AppError::Invalid(e.to_string()))?;
            }
        }
        Ok(())
    }

    /// The session that a player asks for; sizes and rates that the app does not offer are refused with those it does.
    pub(crate) fn session(
        &self,
        wanted: Option<(u16, u16)>,
        fps: Option<u8>,
        layout: &str,
    ) -> Result<SessionSpec, AppError> {
        let sizes: Vec<(u16, u16)> = self.resolutions.iter().filter_map(|text| size(text).ok()).collect();
        let usual = sizes.first().copied().unwrap_or((1280, 720));
        let (width, height) = wanted.unwrap_or(usual);
        if !sizes.contains(&(width, height)) {
            let why = format!("{} offers no {width}x{height}; it offers {}", self.name, self.resolutions.join(", "));
            return Err(AppError::Invalid(why));
        }
        let fps = fps.or_else(|| self.fps.first().copied()).unwrap_or(60);
        if !self.fps.contains(&fps) {
            let offered: Vec<String> = self.fps.iter().map(ToString::to_string).collect();
            let why = format!("{} offers no {fps} frames a second; it offers {}", self.name, offered.join(", "));
            return Err(AppError::Invalid(why));
        }
        let spec = self.spec(width, height, fps, layout);
        spec.check().map_err(|e| AppError::Invalid(e.to_string()))?;
        Ok(spec)
    }

    fn spec(&self, width: u16, height: u16, fps: u8, layout: &str) -> SessionSpec {
        SessionSpec {
            width,
            height,
            fps,
            layout: layout.to_owned(),
            keyboard: match self.keyboard {
                Keyboard::Position => KeyboardUse::Position,
                Keyboard::Text => KeyboardUse::Text,
            },
            sound: self.sound,
            microphone: self.microphone,
            gamepads: self.gamepads,
            packages: self.package_set().unwrap_or_default(),
        }
    }

    fn package_set(&self) -> Result<PackageSet, PackagesError> {
        PackageSet::new(self.packages.iter().cloned())
    }

    pub(crate) fn memory(&self) -> Bytes {
        Bytes(self.needs.memory_mib.saturating_mul(Bytes::MIB))
    }

    pub(crate) fn disk(&self) -> Bytes {
        let content = self.content.as_ref().map_or(0, Content::bytes);
        Bytes(self.needs.disk_mib.saturating_mul(Bytes::MIB).saturating_add(content))
    }
}

/// `1280x720` as two numbers.
///
/// # Errors
/// It is not written like that.
pub fn size(text: &str) -> Result<(u16, u16), AppError> {
    let parsed = text.split_once('x').and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
    parsed.ok_or_else(|| AppError::Invalid(format!("{text:?} is no resolution; write for example 1280x720")))
}

/// An app with who published it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Published {
    /// The app.
    pub(crate) app: App,
    /// The account that published it; none for those that come with Muster.
    pub(crate) account: Option<String>,
    /// The wallet that staked for it, where the Gateway asks for a stake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub(crate) publisher: Option<Address>,
}

/// All apps of a Gateway: its own folder's, and those that come with Muster.
#[derive(Debug)]
pub(crate) struct Apps {
    dir: PathBuf,
    /// What goes along with them.
    pub(crate) contents: Contents,
    all: Mutex<BTreeMap<String, Published>>,
}

impl Apps {
    pub(crate) fn open(dir: &Path) -> Result<Self, AppError> {
        let failed = |source| AppError::Io { path: dir.to_owned(), what: "read", source };
        let mut all = BTreeMap::new();
        for (name, text) in SHIPPED {
            all.insert(name.to_owned(), Published { app: App::parse(text)?, account: None, publisher: None });
        }
        fs::create_dir_all(dir).map_err(failed)?;
        for entry in fs::read_dir(dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            let bytes = fs::read(&path).map_err(failed)?;
            let published: Published = serde_json::from_slice(&bytes).map_err(|e| failed(e.into()))?;
            published.app.check()?;
            all.insert(published.app.name.clone(), published);
        }
        let used: Vec<&Content> = all.values().filter_map(|published| published.app.content.as_ref()).collect();
        let contents = Contents::open(dir, &used)?;
        Ok(Self { dir: dir.to_owned(), contents, all: Mutex::new(all) })
    }

    pub(crate) fn get(&self, name: &str) -> Result<Published, AppError> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(name).cloned().ok_or_else(|| AppError::Unknown { name: name.to_owned(), nearest: nearest(&all, name) })
    }

    pub(crate) fn list(&self) -> Vec<Published> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Whether an account may publish this, as far as the Gateway itself knows: nobody stakes for what is then refused.
    pub(crate) fn may_publish(&self, app: &App, account: &str) -> Result<(), AppError> {
        app.check()?;
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        place(&all, app, account)
    }

    /// Publishes an app or a new version of it; `false` when exactly this is published already.
    pub(crate) fn publish(&self, app: App, account: &str, publisher: Option<Address>) -> Result<bool, AppError> {
        self.may_publish(&app, account)?;
        match (&app.content, app.files.is_empty()) {
            (Some(content), false) => self.contents.keep(account, content)?,
            (None, true) => {}
            (Some(_), true) | (None, false) => {
                let why = "files: an app that names files is sent with them; `muster app publish` does so";
                return Err(AppError::Invalid(why.to_owned()));
            }
        }
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        place(&all, &app, account)?;
        let known = all.get(&app.name);
        let new = known.is_none_or(|known| known.app != app);
        if !new && known.is_some_and(|known| known.publisher == publisher) {
            return Ok(false);
        }
        let published = Published { app, account: Some(account.to_owned()), publisher };
        let path = self.dir.join(format!("{}.json", published.app.name));
        let failed = |source| AppError::Io { path: self.dir.clone(), what: "written", source };
        let text = serde_json::to_vec_pretty(&published).map_err(|e| failed(e.into()))?;
        write_private(&path, &text).map_err(failed)?;
        all.insert(published.app.name.clone(), published);
        Ok(new)
    }

    pub(crate) fn withdraw(&self, name: &str, account: &str) -> Result<(), AppError> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = all.get(name) else {
            return Err(AppError::Unknown { name: name.to_owned(), nearest: nearest(&all, name) });
        };
        if known.account.as_deref() != Some(account) {
            return Err(AppError::NotYours(name.to_owned()));
        }
        let path = self.dir.join(format!("{name}.json"));
        fs::remove_file(&path).map_err(|source| AppError::Io { path, what: "written", source })?;
        all.remove(name);
        Ok(())
    }
}

/// Whether there is a place for an app: its name is free or its account's, and its version is new or the same.
fn place(all: &BTreeMap<String, Published>, app: &App, account: &str) -> Result<(), AppError> {
    let Some(known) = all.get(&app.name) else {
        return if all.len() >= APPS_MAX { Err(AppError::Full) } else { Ok(()) };
    };
    if known.account.as_deref() != Some(account) {
        return Err(AppError::NotYours(app.name.clone()));
    }
    if known.app != *app && known.app.version == app.version {
        return Err(AppError::Changed { name: app.name.clone(), version: app.version.clone() });
    }
    Ok(())
}

/// Three names that are most like one that is none.
fn nearest(all: &BTreeMap<String, Published>, name: &str) -> String {
    let mut names: Vec<(usize, &str)> = all.keys().map(|known| (distance(known, name), known.as_str())).collect();
    names.sort_unstable();
    names.iter().take(3).map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
}

/// Letters to change, add or take away to make one word of the other; of each word the first 64 count.
#[must_use]
pub fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().take(64).enumerate() {
        let mut corner = i;
        let mut left = i + 1;
        for (cell, to) in row.iter_mut().skip(1).zip(&b) {
            let above = *cell;
            left = (corner + usize::from(from != *to)).min(above + 1).min(left + 1);
            corner = std::mem::replace(cell, left);
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

/// Whether a number says the same as nothing.
const fn none(count: &u8) -> bool {
    *count == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(version: &str) -> App {
        App { name: "mine".into(), version: version.into(), ..App::parse(SHIPPED[0].1).unwrap() }
    }

    #[test]
    fn shipped_apps_are_good_and_names_agree() {
        for (name, text) in SHIPPED {
            assert_eq!(App::parse(text).unwrap().name, name);
        }
    }

    #[test]
    fn a_version_never_changes_and_belongs_to_who_published_it() {
        let dir = tempfile::tempdir().unwrap();
        let apps = Apps::open(dir.path()).unwrap();
        assert!(apps.publish(app("1"), "a", None).unwrap());
        assert!(!apps.publish(app("1"), "a", None).unwrap());
        // Who staked for it is kept, and is nothing new.
        assert!(!apps.publish(app("1"), "a", Some(Address([1; 20]))).unwrap());
        assert_eq!(Apps::open(dir.path()).unwrap().get("mine").unwrap().publisher, Some(Address([1; 20])));
        assert!(matches!(apps.may_publish(&app("1"), "b"), Err(AppError::NotYours(_))));
        apps.may_publish(&app("2"), "a").unwrap();
        let changed = App { title: "other".into(), ..app("1") };
        assert!(matches!(apps.publish(changed, "a", None), Err(AppError::Changed { .. })));
        assert!(matches!(apps.publish(app("2"), "b", None), Err(AppError::NotYours(_))));
        assert!(apps.publish(app("2"), "a", None).unwrap());
        assert_eq!(Apps::open(dir.path()).unwrap().get("mine").unwrap().app.version, "2");
        assert!(matches!(apps.withdraw("mine", "b"), Err(AppError::NotYours(_))));
        assert!(matches!(apps.withdraw("neverball", "a"), Err(AppError::NotYours(_))));
        apps.withdraw("mine", "a").unwrap();
        assert!(matches!(Apps::open(dir.path()).unwrap().get("mine"), Err(AppError::Unknown { .. })));
    }

    #[test]
    fn what_is_not_offered_is_refused_with_what_is() {
        let app = app("1");
        assert!(app.session(Some((1280, 720)), Some(60), "us").is_ok());
        let text = app.session(Some((123, 45)), None, "us").unwrap_err().to_string();
        assert!(text.contains("1280x720"), "{text}");
        assert!(app.session(None, Some(61), "us").is_err());
        assert!(app.session(None, None, "../etc").is_err());
    }

    #[test]
    fn nonsense_is_named() {
        for (from, to) in [
            ("name = \"neverball\"", "name = \"Never Ball\""),
            ("resolutions = [\"1280x720\"", "resolutions = [\"huge\""),
            ("fps = [", "fps = [0, "),
            ("packages = [\"neverball\"]", "packages = [\"never ball\"]"),
            ("title", "tilte"),
        ] {
            let text = SHIPPED[0].1.replace(from, to);
            assert_ne!(text, SHIPPED[0].1, "{from}");
            assert!(App::parse(&text).is_err(), "{to}");
        }
    }

    #[test]
    fn the_nearest_names_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let text = Apps::open(dir.path()).unwrap().get("neverbal").unwrap_err().to_string();
        assert!(text.contains("nearest are: neverball,"), "{text}");
        assert_eq!((distance("kitten", "sitting"), distance("", "ab"), distance("ab", "ab")), (3, 2, 0));
    }
}
