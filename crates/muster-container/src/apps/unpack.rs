//! From package files to a folder that can be laid over the system.
//!
//! Packages are unpacked and not installed: none of their own scripts ever runs. What these do that programs cannot do
//! without is done here in their place: links of alternatives, and caches that must know what is new beside what the
//! machine has (settings, formats of pictures, kinds of files, libraries).

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::SystemTime;

use super::error::AppsError;

/// Folders that a merged system has as links into `/usr`.
const MERGED: [&str; 6] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"];
/// Set-user and set-group: worth nothing in a Sandbox, and nothing that should lie on a host.
const SET_IDS: u32 = 0o6000;

/// Unpacks package files into `root`, in order.
pub(super) fn unpack(files: &[PathBuf], root: &Path) -> Result<(), AppsError> {
    fs::create_dir_all(root).map_err(AppsError::io("create the folder", root))?;
    let mut links = Vec::new();
    for file in files {
        let failed = |why: String| {
            let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            AppsError::Unpack { file: name, why }
        };
        let output = dpkg_deb(&["--extract"], file, Some(root))?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr).split_whitespace().collect::<Vec<_>>().join(" ");
            return Err(failed(why.chars().take(300).collect()));
        }
        // One without such a script has no alternatives.
        let script = dpkg_deb(&["--info"], file, Some(Path::new("postinst")))?;
        links.extend(alternatives(&String::from_utf8_lossy(&script.stdout)));
    }
    merge_usr(root)?;
    for (link, to) in links {
        make_alternative(root, &link, &to)?;
    }
    tidy(root)?;
    Ok(())
}

fn dpkg_deb(options: &[&str], file: &Path, last: Option<&Path>) -> Result<Output, AppsError> {
    let mut command = Command::new("/usr/bin/dpkg-deb");
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
    command.args(options).arg(file).args(last);
    command.output().map_err(|error| AppsError::program("dpkg-deb", error))
}

/// What a script would register with `update-alternatives`: links and what they stand for. Names that the script computes
/// are left out.
fn alternatives(script: &str) -> Vec<(String, String)> {
    let joined = script.replace("\\\n", " ");
    let mut all = Vec::new();
    for line in joined.lines() {
        let Some((_, rest)) = line.split_once("update-alternatives") else { continue };
        let words: Vec<&str> = rest.split_whitespace().map(|word| word.trim_matches(['"', '\''])).collect();
        for (at, word) in words.iter().enumerate() {
            if (*word == "--install" || *word == "--slave")
                && let (Some(link), Some(to)) = (words.get(at + 1), words.get(at + 3))
                && [link, to].iter().all(|path| path.starts_with('/') && !path.contains(['$', '`', '*']))
            {
                all.push(((*link).to_owned(), (*to).to_owned()));
            }
        }
    }
    all
}

/// Makes a link unless the packages or the machine have something of its name.
fn make_alternative(root: &Path, link: &str, to: &str) -> Result<(), AppsError> {
    let inside = Path::new(link.trim_start_matches('/'));
    let plain = inside.components().all(|part| matches!(part, Component::Normal(_)));
    let place = root.join(inside);
    let there = |path: &Path| path.symlink_metadata().is_ok();
    if !plain || there(&place) || there(Path::new(link)) || !there(&root.join(to.trim_start_matches('/'))) {
        return Ok(());
    }
    let failed = AppsError::io("make the link", &place);
    place.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| symlink(to, &place)).map_err(failed)
}

/// Moves what packages have in `/lib` and its like to where a merged system has it.
fn merge_usr(root: &Path) -> Result<(), AppsError> {
    for name in MERGED {
        let from = root.join(name);
        let merged = Path::new("/").join(name).is_symlink();
        if merged && from.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
            merge(&from, &root.join("usr").join(name))?;
        }
    }
    Ok(())
}

/// Moves everything of one folder into another; where both have a file, the moved one counts.
fn merge(from: &Path, to: &Path) -> Result<(), AppsError> {
    let is_dir = |path: &Path| path.symlink_metadata().is_ok_and(|meta| meta.is_dir());
    if !is_dir(to) {
        let parent = to.parent().map_or(Ok(()), fs::create_dir_all);
        return parent.and_then(|()| fs::rename(from, to)).map_err(AppsError::io("move", from));
    }
    for entry in fs::read_dir(from).map_err(AppsError::io("read the folder", from))? {
        let entry = entry.map_err(AppsError::io("read the folder", from))?;
        let (one, other) = (entry.path(), to.join(entry.file_name()));
        if is_dir(&one) && is_dir(&other) {
            merge(&one, &other)?;
        } else {
            fs::rename(&one, &other).map_err(AppsError::io("move", &one))?;
        }
    }
    fs::remove_dir(from).map_err(AppsError::io("remove the folder", from))
}

/// Takes away rights that nobody needs, and makes caches of icons that do not know the new ones look old.
fn tidy(root: &Path) -> Result<(), AppsError> {
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).map_err(AppsError::io("read the folder", &dir))? {
            let path = entry.map_err(AppsError::io("read the folder", &dir))?.path();
            let meta = path.symlink_metadata().map_err(AppsError::io("look at", &path))?;
            if meta.is_symlink() {
                continue;
            }
            if meta.mode() & SET_IDS != 0 {
                let mode = Permissions::from_mode(meta.mode() & 0o1777);
                fs::set_permissions(&path, mode).map_err(AppsError::io("change the rights of", &path))?;
            }
            if meta.is_dir() {
                open.push(path);
            }
        }
    }
    for theme in fs::read_dir(root.join("usr/share/icons")).into_iter().flatten().flatten() {
        let touched = File::open(theme.path()).and_then(|dir| dir.set_modified(SystemTime::now()));
        touched.map_err(AppsError::io("touch", &theme.path()))?;
    }
    Ok(())
}

/// Bytes on disk below a folder.
pub(super) fn size(dir: &Path) -> u64 {
    let mut sum: u64 = 0;
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            sum = sum.saturating_add(meta.blocks().saturating_mul(512));
            if meta.is_dir() {
                open.push(entry.path());
            }
        }
    }
    sum
}

/// A cache that must know of new files: made over both layers, then laid into the packages' own.
struct Cache {
    /// What packages have when they add to it; `*` stands for the name of one folder.
    of: &'static str,
    /// Makes it, in the folder that is the script's own.
    script: &'static str,
    /// What the script makes, and where it belongs, below the folder that `of` is in.
    made: &'static str,
    to: &'static str,
}

const CACHES: [Cache; 4] = [
    Cache {
        of: "usr/share/glib-2.0/schemas",
        script: "tool glib-compile-schemas glib-2.0 --targetdir=/out /usr/share/glib-2.0/schemas",
        made: "gschemas.compiled",
        to: "usr/share/glib-2.0/schemas/gschemas.compiled",
    },
    Cache {
        of: "usr/lib/*/gdk-pixbuf-2.0/2.10.0/loaders",
        script: "tool gdk-pixbuf-query-loaders gdk-pixbuf-2.0 > loaders.cache",
        made: "loaders.cache",
        to: "usr/lib/*/gdk-pixbuf-2.0/2.10.0/loaders.cache",
    },
    Cache {
        of: "usr/share/mime/packages",
        script: "mkdir mime && cp -r /usr/share/mime/packages mime/ && update-mime-database mime && rm -r mime/packages",
        made: "mime",
        to: "usr/share/mime",
    },
    Cache { of: "usr/lib", script: "ldconfig -X -C /out/ld.so.cache", made: "ld.so.cache", to: "etc/ld.so.cache" },
];

/// Finds a tool that libraries bring along in a folder of their own.
const TOOL: &str = r#"tool() {
  name=$1; place=$2; shift 2
  for one in "$(command -v "$name")" /usr/lib/*/"$place/$name"; do
    if [ -x "$one" ]; then "$one" "$@"; return; fi
  done
  echo "$name is not there" >&2; return 1
}
"#;

/// What makes the caches that these packages add to. A cache that cannot be made is said and left out: many programs do
/// without.
pub(super) fn cache_script(root: &Path) -> String {
    let mut script = TOOL.to_owned();
    for cache in CACHES.iter().filter(|cache| found(root, cache.of).is_some()) {
        script.push_str(&format!("( {} ) || echo 'no {}'\n", cache.script, cache.made));
    }
    script
}

/// Lays the caches that were made where they belong.
pub(super) fn place_caches(root: &Path, out: &Path) -> Result<(), AppsError> {
    for cache in &CACHES {
        let made = out.join(cache.made);
        let Some(star) = found(root, cache.of).filter(|_| made.exists()) else { continue };
        let to = root.join(cache.to.replace('*', &star));
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(AppsError::io("create the folder", parent))?;
        }
        merge_or_move(&made, &to)?;
    }
    Ok(())
}

fn merge_or_move(from: &Path, to: &Path) -> Result<(), AppsError> {
    if from.is_dir() { merge(from, to) } else { fs::rename(from, to).map_err(AppsError::io("move", from)) }
}

/// Whether the packages have such a folder; what `*` stands for in it.
fn found(root: &Path, pattern: &str) -> Option<String> {
    let Some((before, after)) = pattern.split_once("*/") else {
        return root.join(pattern).is_dir().then(String::new);
    };
    let names = fs::read_dir(root.join(before)).into_iter().flatten().flatten();
    names.filter(|entry| entry.path().join(after).is_dir()).find_map(|entry| entry.file_name().into_string().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_alternatives_are_found() {
        let script = "set -e\nif true; then\n  update-alternatives --install /usr/lib/x/libblas.so.3 libblas.so.3-x \\\n    \
                      \"/usr/lib/x/blas/libblas.so.3\" 10 \\\n    --slave /usr/a b /usr/c\n\
                      update-alternatives --install /usr/bin/$name n /usr/bin/z 5\n";
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        let found = alternatives(script);
        assert_eq!(found, [pair("/usr/lib/x/libblas.so.3", "/usr/lib/x/blas/libblas.so.3"), pair("/usr/a", "/usr/c")]);
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("usr/lib/x/blas")).unwrap();
        fs::write(dir.path().join("usr/lib/x/blas/libblas.so.3"), "").unwrap();
        for (link, to) in [&found[0], &pair("/usr/../../escape", "/usr/lib/x/blas/libblas.so.3"), &found[1]] {
            make_alternative(dir.path(), link, to).unwrap();
        }
        assert!(dir.path().join("usr/lib/x/libblas.so.3").is_symlink());
        assert!(!dir.path().join("usr/a").is_symlink(), "what it stands for is not there");
        assert!(!dir.path().join("../escape").exists());
    }

    #[test]
    fn rights_over_others_are_taken_away_and_folders_merged() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for (path, text) in [("lib/x/new.so", "new"), ("usr/lib/x/old.so", "old"), ("lib/x/both.so", "from lib")] {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), text).unwrap();
        }
        fs::write(root.join("usr/lib/x/both.so"), "from usr").unwrap();
        merge(&root.join("lib"), &root.join("usr/lib")).unwrap();
        assert!(!root.join("lib").exists());
        let read = |name: &str| fs::read_to_string(root.join("usr/lib/x").join(name)).unwrap();
        assert_eq!([read("new.so"), read("old.so"), read("both.so")], ["new", "old", "from lib"]);
        let file = root.join("usr/lib/x/old.so");
        fs::set_permissions(&file, Permissions::from_mode(0o4755)).unwrap();
        tidy(root).unwrap();
        assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o755);
    }

    #[test]
    fn only_caches_that_packages_add_to_are_made() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(cache_script(dir.path()), TOOL);
        fs::create_dir_all(dir.path().join("usr/lib/x86/gdk-pixbuf-2.0/2.10.0/loaders")).unwrap();
        let script = cache_script(dir.path());
        assert!(
            script.contains("gdk-pixbuf-query-loaders") && !script.contains("glib-compile-schemas --target"),
            "{script}"
        );
        let out = dir.path().join("out");
        fs::create_dir(&out).unwrap();
        fs::write(out.join("loaders.cache"), "x").unwrap();
        place_caches(dir.path(), &out).unwrap();
        assert!(dir.path().join("usr/lib/x86/gdk-pixbuf-2.0/2.10.0/loaders.cache").is_file());
    }
}
