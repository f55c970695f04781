//! What is sent: the paths that were named, looked through before anything moves.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use muster_wire::message::clip_sentence;
use muster_wire::message::files::{ENTRIES_MAX, check_path};

use super::FilesError;

/// How many left-out entries are named.
const LEFT_OUT_NAMED_MAX: usize = 16;

/// Everything that will be sent.
#[derive(Debug, Default)]
pub struct Source {
    pub(crate) items: Vec<Item>,
    /// Bytes of all files.
    pub bytes: u64,
    /// Entries that are not sent (links, devices, names that cannot travel), the first few by name.
    pub left_out: Vec<String>,
}

#[derive(Debug)]
pub(crate) enum Item {
    Folder { name: String },
    File { name: String, from: PathBuf, len: u64, executable: bool },
}

impl Source {
    /// Files and folders.
    #[must_use]
    pub fn entries(&self) -> u64 {
        u64::try_from(self.items.len()).unwrap_or(u64::MAX)
    }

    fn leave_out(&mut self, name: &str) {
        if self.left_out.len() < LEFT_OUT_NAMED_MAX {
            self.left_out.push(clip_sentence(name));
        }
    }
}

/// Looks through the named inputs.
///
/// A file goes to the job's work folder under its own name; so does a folder with all that is in it. A folder named
/// with a slash at its end, or `.`, gives its contents without a folder around them. Links inside folders are left
/// out and named; a link that was itself named is followed.
///
/// # Errors
/// Something named is not there or cannot travel, or two inputs would have one name.
pub fn plan(inputs: &[PathBuf]) -> Result<Source, FilesError> {
    let mut source = Source::default();
    let mut tops: BTreeMap<String, PathBuf> = BTreeMap::new();
    for input in inputs {
        let found = fs::metadata(input).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => FilesError::NoInput(input.clone()),
            _ => FilesError::io(input)(e),
        })?;
        let real = input.canonicalize().map_err(FilesError::io(input))?;
        if found.is_dir() && names_contents(input) {
            for (name, path, meta) in sorted(&real)? {
                add_top(&mut tops, &name, &path)?;
                add(&mut source, &name, &path, &meta, 0)?;
            }
            continue;
        }
        if !found.is_dir() && !found.is_file() {
            return Err(FilesError::NotAFile(input.clone()));
        }
        // The name that was given, not the one behind a link.
        let bad = |what: &str| FilesError::BadName { path: input.clone(), what: what.to_owned() };
        let name = std::path::absolute(input)
            .ok()
            .and_then(|p| p.file_name().map(ToOwned::to_owned))
            .ok_or_else(|| bad("it has no name; name a folder inside it"))?;
        let name = name.to_str().ok_or_else(|| bad("its name is not UTF-8"))?.to_owned();
        check_path(&name).map_err(|why| bad(&why.to_string()))?;
        add_top(&mut tops, &name, input)?;
        add(&mut source, &name, &real, &found, 0)?;
    }
    Ok(source)
}

fn names_contents(input: &Path) -> bool {
    let text = input.as_os_str().as_encoded_bytes();
    text.ends_with(b"/") || text == b"." || text.ends_with(b"/.") || text == b".." || text.ends_with(b"/..")
}

fn add_top(tops: &mut BTreeMap<String, PathBuf>, name: &str, path: &Path) -> Result<(), FilesError> {
    match tops.insert(name.to_owned(), path.to_owned()) {
        None => Ok(()),
        Some(first) => Err(FilesError::SameName { name: name.to_owned(), first, second: path.to_owned() }),
    }
}

/// Adds an entry and what is in it. The depth is bounded by [`check_path`].
fn add(source: &mut Source, name: &str, path: &Path, meta: &Metadata, depth: usize) -> Result<(), FilesError> {
    if check_path(name).is_err() || !(meta.is_dir() || meta.is_file()) {
        source.leave_out(name);
        return Ok(());
    }
    if source.entries() >= ENTRIES_MAX {
        return Err(FilesError::TooMany { max: ENTRIES_MAX });
    }
    if meta.is_file() {
        let executable = meta.permissions().mode() & 0o111 != 0;
        source.bytes = source.bytes.saturating_add(meta.len());
        source.items.push(Item::File { name: name.to_owned(), from: path.to_owned(), len: meta.len(), executable });
        return Ok(());
    }
    source.items.push(Item::Folder { name: name.to_owned() });
    for (child, path, meta) in sorted(path)? {
        add(source, &format!("{name}/{child}"), &path, &meta, depth.saturating_add(1))?;
    }
    Ok(())
}

/// The entries of a folder by name, links not followed. Names that are not UTF-8 come with a replacement character,
/// under which they are then left out or sent as somebody else's name never is: see `check_path`.
fn sorted(folder: &Path) -> Result<Vec<(String, PathBuf, Metadata)>, FilesError> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).map_err(FilesError::io(folder))? {
        let entry = entry.map_err(FilesError::io(folder))?;
        let path = entry.path();
        let meta = match fs::symlink_metadata(&path) {
            Ok(meta) => meta,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(FilesError::Vanished(path)),
            Err(e) => return Err(FilesError::io(&path)(e)),
        };
        let name = match entry.file_name().into_string() {
            Ok(name) => name,
            // A control character makes `check_path` refuse it, so that it is left out and named.
            Err(raw) => format!("{}\u{1}", raw.to_string_lossy()),
        };
        entries.push((name, path, meta));
    }
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    fn names(source: &Source) -> Vec<&str> {
        source
            .items
            .iter()
            .map(|i| match i {
                Item::Folder { name } | Item::File { name, .. } => name.as_str(),
            })
            .collect()
    }

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let p = dir.path();
        fs::create_dir_all(p.join("scene/sub")).unwrap();
        fs::write(p.join("scene/b.pov"), "12345").unwrap();
        fs::write(p.join("scene/sub/a.inc"), "1").unwrap();
        fs::write(p.join("run.sh"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(p.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
        dir
    }

    #[test]
    fn files_and_folders_keep_their_names_and_a_slash_gives_the_contents() {
        let dir = tree();
        let p = dir.path();
        let source = plan(&[p.join("scene"), p.join("run.sh")]).unwrap();
        assert_eq!(names(&source), ["scene", "scene/b.pov", "scene/sub", "scene/sub/a.inc", "run.sh"]);
        assert_eq!((source.bytes, source.entries()), (16, 5));
        assert!(matches!(source.items.last(), Some(Item::File { executable: true, .. })));
        let contents = plan(&[PathBuf::from(format!("{}/", p.join("scene").display()))]).unwrap();
        assert_eq!(names(&contents), ["b.pov", "sub", "sub/a.inc"]);
    }

    #[test]
    fn links_and_odd_names_inside_are_left_out_and_named() {
        let dir = tree();
        let p = dir.path();
        std::os::unix::fs::symlink("/etc/passwd", p.join("scene/link")).unwrap();
        std::os::unix::fs::symlink("..", p.join("scene/up")).unwrap();
        fs::write(p.join("scene").join(OsStr::from_bytes(b"bad\xff")), "x").unwrap();
        fs::write(p.join("scene/line\nbreak"), "x").unwrap();
        let source = plan(&[p.join("scene")]).unwrap();
        assert_eq!(names(&source), ["scene", "scene/b.pov", "scene/sub", "scene/sub/a.inc"]);
        assert_eq!(source.left_out.len(), 4, "{:?}", source.left_out);
        assert!(source.left_out.iter().any(|n| n == "scene/link"));
    }

    #[test]
    fn what_is_wrong_is_said_before_anything_is_sent() {
        let dir = tree();
        let p = dir.path();
        let missing = plan(&[p.join("nothing")]).unwrap_err().to_string();
        assert!(missing.contains("nothing does not exist"), "{missing}");
        fs::create_dir(p.join("other")).unwrap();
        fs::write(p.join("other/run.sh"), "").unwrap();
        assert!(matches!(plan(&[p.join("run.sh"), p.join("other/run.sh")]), Err(FilesError::SameName { .. })));
        assert!(matches!(plan(&[PathBuf::from("/dev/null")]), Err(FilesError::NotAFile(_))));
    }

    #[test]
    fn a_link_that_was_named_is_followed_and_keeps_its_own_name() {
        let dir = tree();
        let p = dir.path();
        std::os::unix::fs::symlink(p.join("run.sh"), p.join("start")).unwrap();
        assert_eq!(names(&plan(&[p.join("start")]).unwrap()), ["start"]);
    }
}
