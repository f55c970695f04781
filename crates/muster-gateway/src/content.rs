//! Files that go along with an app: sent in parts, kept by their hash, there as `app/` in the program's home.
//!
//! ```text
//! APPS/uploads/ACCOUNT/HASH    what has arrived of a content: all its files, one behind the other
//!      content/HASH/app/…      what sessions are sent, whole by one rename
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::apps::AppError;

/// Bytes of all files of one app.
pub(crate) const CONTENT_BYTES_MAX: u64 = 256 << 20;
/// Files of one app: the list of them travels in one request.
const FILES_MAX: usize = 1_024;
/// Bytes of a file's path.
const PATH_LEN_MAX: usize = 256;
/// Folders within folders.
const DEPTH_MAX: usize = 16;
/// Bytes of one part.
pub const PART_BYTES_MAX: usize = 4 << 20;
/// Contents that an account may be sending; the oldest gives way.
const UPLOADS_MAX: usize = 2;
/// The folder's name in the program's home.
pub(crate) const FOLDER: &str = "app";

/// What goes along with an app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// BLAKE3 of all files' bytes, one file behind the other, as 64 hex digits.
    pub hash: String,
    /// The files, in that order.
    pub files: Vec<ContentFile>,
}

/// One file of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ContentFile {
    /// Its place below `app/`.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Whether it may be run.
    pub executable: bool,
}

fn wrong<T>(what: String) -> Result<T, AppError> {
    Err(AppError::Invalid(what))
}

fn io_error(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> AppError {
    let path = path.to_owned();
    move |source| AppError::Io { path, what, source }
}

impl Content {
    /// Bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).fold(0, u64::saturating_add)
    }

    /// Bounds of every field.
    ///
    /// # Errors
    /// A sentence that names what is wrong.
    pub(crate) fn check(&self) -> Result<(), AppError> {
        check_hash(&self.hash)?;
        if self.files.is_empty() || self.files.len() > FILES_MAX {
            return wrong(format!(
                "files: {} files; an app has 1 to {FILES_MAX}, pack more into an archive",
                self.files.len()
            ));
        }
        if self.bytes() > CONTENT_BYTES_MAX {
            return wrong(format!(
                "files: {} bytes in all; at most {CONTENT_BYTES_MAX} go along with an app",
                self.bytes()
            ));
        }
        for file in &self.files {
            check_path(&file.path)?;
        }
        let mut paths: Vec<&str> = self.files.iter().map(|file| file.path.as_str()).collect();
        paths.sort_unstable();
        let clash = paths.windows(2).find(|pair| {
            let [one, other] = pair else { return false };
            one == other || other.strip_prefix(one).is_some_and(|rest| rest.starts_with('/'))
        });
        match clash {
            Some(pair) => wrong(format!("files: {:?} is there twice, or is a file and a folder", pair.first())),
            None => Ok(()),
        }
    }

    /// What it is kept under: the same files at the same places.
    fn key(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.hash.as_bytes());
        for file in &self.files {
            hasher.update(format!("\n{} {} {}", file.bytes, file.executable, file.path).as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }
}

fn check_hash(hash: &str) -> Result<(), AppError> {
    if hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return Ok(());
    }
    wrong(format!("{hash:?} is no hash of an app's files: send BLAKE3 as 64 lower-case hex digits"))
}

fn check_path(path: &str) -> Result<(), AppError> {
    let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    let depth = path.split('/').count();
    let odd = path.split('/').any(str::is_empty) || path.chars().any(char::is_control);
    if path.is_empty() || path.len() > PATH_LEN_MAX || depth > DEPTH_MAX || !plain || odd {
        return wrong(format!(
            "files: {path:?} cannot go along: write a path below the app's file, of at most {PATH_LEN_MAX} bytes and {DEPTH_MAX} folders, without `..`"
        ));
    }
    Ok(())
}

/// Looks at the files and folders that an app names, below the folder of its own file. Gives what goes along, and where
/// each file lies.
///
/// # Errors
/// A sentence that names the file.
pub fn gather(base: &Path, names: &[String]) -> Result<(Content, Vec<PathBuf>), AppError> {
    let mut found: Vec<(ContentFile, PathBuf)> = Vec::new();
    for name in names {
        let name = name.trim_end_matches('/');
        check_path(name)?;
        walk(&base.join(name), name, &mut found)?;
    }
    found.sort_by(|a, b| a.0.path.cmp(&b.0.path));
    found.dedup_by(|a, b| a.0.path == b.0.path);
    let (files, paths): (Vec<ContentFile>, Vec<PathBuf>) = found.into_iter().unzip();
    let mut hasher = blake3::Hasher::new();
    for (file, path) in files.iter().zip(&paths) {
        let copied = File::open(path).and_then(|mut open| io::copy(&mut open, &mut hasher));
        if copied.map_err(io_error(path, "read"))? != file.bytes {
            return wrong(format!("{} changed while it was read; try again", path.display()));
        }
    }
    let content = Content { hash: hasher.finalize().to_hex().to_string(), files };
    content.check()?;
    Ok((content, paths))
}

fn walk(path: &Path, name: &str, found: &mut Vec<(ContentFile, PathBuf)>) -> Result<(), AppError> {
    let meta = fs::symlink_metadata(path).map_err(io_error(path, "read"))?;
    if meta.is_dir() {
        for entry in fs::read_dir(path).map_err(io_error(path, "read"))? {
            let entry = entry.map_err(io_error(path, "read"))?;
            let Some(one) = entry.file_name().to_str().map(|one| format!("{name}/{one}")) else {
                return wrong(format!("{} has a name that is not UTF-8", entry.path().display()));
            };
            check_path(&one)?;
            walk(&entry.path(), &one, found)?;
        }
        return Ok(());
    }
    if !meta.is_file() {
        return wrong(format!("{} is neither a file nor a folder; links do not go along", path.display()));
    }
    if found.len() >= FILES_MAX {
        return wrong(format!("files: more than {FILES_MAX}; pack them into an archive"));
    }
    let executable = std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o100 != 0;
    found.push((ContentFile { path: name.to_owned(), bytes: meta.len(), executable }, path.to_owned()));
    Ok(())
}

/// Contents of a Gateway's apps.
#[derive(Debug)]
pub(crate) struct Contents {
    dir: PathBuf,
}

impl Contents {
    /// Opens them, and throws away what no app has any more.
    pub(crate) fn open(dir: &Path, used: &[&Content]) -> Result<Self, AppError> {
        let keys: Vec<String> = used.iter().map(|content| content.key()).collect();
        let contents = Self { dir: dir.to_owned() };
        for entry in fs::read_dir(dir.join("content")).into_iter().flatten().flatten() {
            if !keys.iter().any(|key| entry.file_name() == key.as_str()) {
                fs::remove_dir_all(entry.path()).map_err(io_error(&entry.path(), "written"))?;
            }
        }
        Ok(contents)
    }

    fn upload(&self, account: &str, hash: &str) -> Result<PathBuf, AppError> {
        check_hash(hash)?;
        Ok(self.dir.join("uploads").join(account).join(hash))
    }

    /// How much of a content has arrived.
    pub(crate) fn arrived(&self, account: &str, hash: &str) -> Result<u64, AppError> {
        let path = self.upload(account, hash)?;
        match fs::metadata(&path) {
            Ok(meta) => Ok(meta.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(io_error(&path, "read")(error)),
        }
    }

    /// Takes a part that begins where the last one ended; gives how much is there.
    pub(crate) fn take(&self, account: &str, hash: &str, at: u64, part: &[u8]) -> Result<u64, AppError> {
        let path = self.upload(account, hash)?;
        let have = self.arrived(account, hash)?;
        if at != have {
            return wrong(format!("{have} bytes of these files are here: go on from there"));
        }
        let sum = have.saturating_add(u64::try_from(part.len()).unwrap_or(u64::MAX));
        if sum > CONTENT_BYTES_MAX {
            return wrong(format!("files: at most {CONTENT_BYTES_MAX} bytes go along with an app"));
        }
        let folder = path.parent().unwrap_or(&self.dir);
        fs::create_dir_all(folder).map_err(io_error(folder, "written"))?;
        if have == 0 {
            make_place(folder, hash)?;
        }
        let mut file =
            OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(io_error(&path, "written"))?;
        file.write_all(part).map_err(io_error(&path, "written"))?;
        Ok(sum)
    }

    /// Makes what sessions are sent from what has arrived, unless it is there.
    pub(crate) fn keep(&self, account: &str, content: &Content) -> Result<(), AppError> {
        content.check()?;
        let (place, upload) = (self.place(content), self.upload(account, &content.hash)?);
        if place.is_dir() {
            // Sent once more, as whoever publishes again does.
            return match fs::remove_file(&upload) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(&upload, "written")(error)),
                _ => Ok(()),
            };
        }
        let have = self.arrived(account, &content.hash)?;
        if have != content.bytes() {
            return Err(AppError::ContentMissing { have, need: content.bytes() });
        }
        let mut hasher = blake3::Hasher::new();
        let mut file = File::open(&upload).map_err(io_error(&upload, "read"))?;
        io::copy(&mut file, &mut hasher).map_err(io_error(&upload, "read"))?;
        if hasher.finalize().to_hex().as_str() != content.hash {
            fs::remove_file(&upload).map_err(io_error(&upload, "written"))?;
            return wrong("the files that arrived are not those of this hash; publish again".to_owned());
        }
        let new = place.with_extension("new");
        if new.exists() {
            fs::remove_dir_all(&new).map_err(io_error(&new, "written"))?;
        }
        split(&upload, &new.join(FOLDER), content).map_err(io_error(&new, "written"))?;
        fs::rename(&new, &place).map_err(io_error(&place, "written"))?;
        fs::remove_file(&upload).map_err(io_error(&upload, "written"))
    }

    fn place(&self, content: &Content) -> PathBuf {
        self.dir.join("content").join(content.key())
    }

    /// The folder that sessions are sent.
    pub(crate) fn folder(&self, content: &Content) -> PathBuf {
        self.place(content).join(FOLDER)
    }
}

/// Removes the oldest uploads of an account until one more fits.
fn make_place(folder: &Path, but: &str) -> Result<(), AppError> {
    let entries = fs::read_dir(folder).map_err(io_error(folder, "read"))?.flatten();
    let mut all: Vec<(SystemTime, PathBuf)> = entries
        .filter(|entry| entry.file_name() != but)
        .map(|entry| {
            (entry.metadata().and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH), entry.path())
        })
        .collect();
    all.sort();
    let surplus = all.len().saturating_sub(UPLOADS_MAX - 1);
    all.into_iter().take(surplus).try_for_each(|(_, path)| fs::remove_file(&path).map_err(io_error(&path, "written")))
}

/// One long file into many.
fn split(from: &Path, to: &Path, content: &Content) -> io::Result<()> {
    let mut from = File::open(from)?;
    for one in &content.files {
        let path = to.join(&one.path);
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        let mode = if one.executable { 0o700 } else { 0o600 };
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?;
        io::copy(&mut Read::by_ref(&mut from).take(one.bytes), &mut file)?;
        file.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str, text: &str) {
        fs::create_dir_all(dir.join(name).parent().unwrap()).unwrap();
        fs::write(dir.join(name), text).unwrap();
    }

    #[test]
    fn files_travel_in_parts_and_come_out_as_they_were() {
        let (source, gateway) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(source.path(), "game.zip", "zip");
        write(source.path(), "data/b/c", "deep");
        write(source.path(), "data/a", "");
        write(source.path(), "not-named", "secret");
        let run: fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(source.path().join("game.zip"), run).unwrap();
        let (content, paths) = gather(source.path(), &["game.zip".into(), "data/".into(), "data/a".into()]).unwrap();
        let names: Vec<_> = content.files.iter().map(|f| (f.path.as_str(), f.bytes, f.executable)).collect();
        assert_eq!(names, [("data/a", 0, false), ("data/b/c", 4, false), ("game.zip", 3, true)]);
        let all: Vec<u8> = paths.iter().flat_map(|path| fs::read(path).unwrap()).collect();
        let contents = Contents::open(gateway.path(), &[]).unwrap();
        assert!(matches!(contents.keep("me", &content), Err(AppError::ContentMissing { have: 0, need: 7 })));
        assert_eq!(contents.take("me", &content.hash, 0, &all[..5]).unwrap(), 5);
        let again = contents.take("me", &content.hash, 0, &all).unwrap_err().to_string();
        assert!(again.contains("5 bytes"), "{again}");
        // Another account's are its own.
        assert_eq!(contents.arrived("you", &content.hash).unwrap(), 0);
        assert_eq!(contents.take("me", &content.hash, 5, &all[5..]).unwrap(), 7);
        contents.keep("me", &content).unwrap();
        contents.keep("me", &content).unwrap();
        let folder = contents.folder(&content);
        assert!(folder.ends_with("app"));
        assert_eq!(fs::read_to_string(folder.join("data/b/c")).unwrap(), "deep");
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(folder.join("game.zip")).unwrap().permissions());
        assert_eq!(mode & 0o700, 0o700);
        // What an app has stays, what none has goes.
        Contents::open(gateway.path(), &[&content]).unwrap();
        assert!(folder.exists());
        Contents::open(gateway.path(), &[]).unwrap();
        assert!(!folder.exists());
    }

    #[test]
    fn what_arrives_must_be_what_was_said() {
        let gateway = tempfile::tempdir().unwrap();
        let contents = Contents::open(gateway.path(), &[]).unwrap();
        let file = |path: &str, bytes| ContentFile { path: path.into(), bytes, executable: false };
        let content = |files| Content { hash: blake3::hash(b"true").to_hex().to_string(), files };
        let good = content(vec![file("a", 1), file("b", 3)]);
        contents.take("me", &good.hash, 0, b"lies").unwrap();
        assert!(contents.keep("me", &good).unwrap_err().to_string().contains("not those of this hash"));
        assert_eq!(contents.arrived("me", &good.hash).unwrap(), 0, "they are thrown away");
        for path in ["", "/etc/x", "../x", "a/../../x", "a//b", "a/", "./a", "a\nb", &"x/".repeat(20), &"x".repeat(300)]
        {
            assert!(content(vec![file(path, 1)]).check().is_err(), "{path:?}");
        }
        assert!(content(vec![file("a", 1), file("a/b", 1)]).check().is_err());
        assert!(content(vec![file("a", 1), file("a", 1)]).check().is_err());
        assert!(content(vec![file("a", CONTENT_BYTES_MAX + 1)]).check().is_err());
        assert!(content(Vec::new()).check().is_err());
        assert!(contents.arrived("me", "../../x").is_err());
        // The third upload takes the place of the first.
        for text in ["1", "2", "3"] {
            let hash = blake3::hash(text.as_bytes()).to_hex().to_string();
            contents.take("me", &hash, 0, text.as_bytes()).unwrap();
        }
        let uploads = fs::read_dir(gateway.path().join("uploads/me")).unwrap().count();
        assert_eq!(uploads, UPLOADS_MAX);
    }

    #[test]
    fn links_do_not_go_along() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        let why = gather(dir.path(), &["link".into()]).unwrap_err().to_string();
        assert!(why.contains("links do not go along"), "{why}");
        assert!(gather(dir.path(), &["none".into()]).is_err());
        assert!(gather(dir.path(), &["../x".into()]).is_err());
    }
}
