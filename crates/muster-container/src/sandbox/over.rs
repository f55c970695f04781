//! A folder of unpacked packages, laid over the system as one job sees it.
//!
//! Bubblewrap binds the host's `/usr` into the Sandbox. A job with packages starts it in a mount namespace of its own, in
//! which there is another one beside it: the packages above, the host below, both read-only; that one is bound. Programs
//! outside the Sandbox go on seeing the host's own, so nothing of the packages ever runs there. Nobody else sees the
//! mounts, and they are gone with the namespace. Layers are named relative to the folder, so that what a job reads of its
//! mounts does not tell the provider's folders.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::SandboxError;
use super::{Inner, bwrap, system};

/// Below the folder: what the packages bring.
pub(crate) const ROOT: &str = "root";
/// Below the folder: nothing, for a second layer where the host's own is not to be seen.
const EMPTY: &str = "empty";
/// Below the folder: places to mount at.
const MOUNTS: &str = "mnt";
/// Parts of the system that are the packages' alone: the host's never show.
const ALONE: [&str; 2] = ["opt", "var"];
/// Of these, the host's part shows below the packages'.
const SHARED: [&str; 2] = ["usr", "etc"];

/// Mounts the pairs of layers and place that follow the folders, lets go of other jobs' work folders (whose file systems
/// would stay busy for as long as this job runs), and becomes the command behind `--`.
const SCRIPT: &str = r#"set -e
PATH=/usr/sbin:/usr/bin:/sbin:/bin
cd "$1"; jobs=$2; own=$3; shift 3
while [ "$1" != -- ]; do
  mount -n -t overlay -o "ro,lowerdir=$1" packages "$2"
  shift 2
done
shift
if [ -n "$jobs" ]; then
  while read -r _ _ _ _ place _; do
    case $place in "$own" | "$own"/*) ;; "$jobs"/*) umount -n -l "$place" || true ;; esac
  done < /proc/self/mountinfo
fi
cd /
exec "$@"
"#;

/// The folders that a layer needs beside [`ROOT`].
pub(crate) fn make_places(folder: &Path) -> std::io::Result<()> {
    fs::create_dir_all(folder.join(EMPTY))?;
    let parts = SHARED.iter().chain(&ALONE);
    parts.into_iter().try_for_each(|part| fs::create_dir_all(folder.join(MOUNTS).join(part)))
}

/// Where a part of the system is mounted with what the packages have of it; `None` when they have nothing.
pub(super) fn place(folder: &Path, part: &str) -> Option<PathBuf> {
    folder.join(ROOT).join(part).is_dir().then(|| folder.join(MOUNTS).join(part))
}

/// The same for each part that is the packages' alone.
pub(super) fn alone(folder: &Path) -> impl Iterator<Item = (PathBuf, &'static str)> {
    ALONE.into_iter().filter_map(|part| Some((place(folder, part)?, part)))
}

/// The beginning of a command that runs the rest of it with the layers in place. `jobs` is the folder of all jobs' work
/// folders, `own` that of this job.
pub(super) fn prefix(folder: &Path, jobs: &Path, own: &Path, root: bool) -> Vec<OsString> {
    let mut args: Vec<OsString> = ["/usr/bin/unshare", "--mount", "--propagation", "slave"].map(Into::into).into();
    if !root {
        // Capabilities over a namespace of one's own; bubblewrap makes the job's inside it.
        args.extend(["--user", "--map-root-user"].map(Into::into));
    }
    args.extend(["--", "/bin/sh", "-c", SCRIPT, "muster-over"].map(Into::into));
    args.extend([folder.into(), jobs.into(), own.into()]);
    for part in SHARED {
        if let Some(place) = place(folder, part) {
            args.extend([format!("{ROOT}/{part}:/{part}").into(), place.into()]);
        }
    }
    for (place, part) in alone(folder) {
        args.extend([format!("{ROOT}/{part}:{EMPTY}").into(), place.into()]);
    }
    args.push("--".into());
    args
}

/// Runs a script of the system's own tools over the layers, as a user without power, without a network; it writes to
/// `out`, which it sees as `/out`. Gives what it wrote to standard output.
pub(super) fn run(inner: &Inner, folder: &Path, out: &Path, script: &str) -> Result<String, SandboxError> {
    let mut args = prefix(folder, Path::new(""), Path::new(""), inner.capabilities.root);
    args.push(inner.capabilities.bwrap.clone().unwrap_or_else(|| "bwrap".into()).into());
    args.extend(bwrap::tools(folder, out));
    args.extend(["--", "/bin/sh", "-c", script].map(Into::into));
    let (program, rest) = args.split_first().ok_or_else(|| SandboxError::setup("run tools", "no program"))?;
    system::run_program("run the packages' tools", Command::new(program).args(rest))
}

/// Lays an empty folder over the system, to see whether this machine lets us.
pub(super) fn try_layers(state_dir: &Path, root: bool) -> Result<(), SandboxError> {
    let folder = state_dir.join(format!("try-layers-{}", std::process::id()));
    let made = fs::create_dir_all(folder.join(ROOT).join("usr")).and_then(|()| make_places(&folder));
    made.map_err(SandboxError::io("create the folder", &folder))?;
    let mut args = prefix(&folder, Path::new(""), Path::new(""), root);
    args.push("/bin/true".into());
    let (program, rest) =
        args.split_first().ok_or_else(|| SandboxError::setup("lay folders over /usr", "no program"))?;
    let tried = system::run_program("lay folders over /usr", Command::new(program).args(rest));
    fs::remove_dir_all(&folder).map_err(SandboxError::io("remove the folder", &folder))?;
    tried.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_packages_have_is_mounted() {
        let dir = tempfile::tempdir().unwrap();
        let text = |args: Vec<OsString>| args.into_iter().map(|a| a.into_string().unwrap()).collect::<Vec<_>>();
        make_places(dir.path()).unwrap();
        fs::create_dir_all(dir.path().join("root/usr")).unwrap();
        let place = |part: &str| dir.path().join("mnt").join(part).to_str().unwrap().to_owned();
        let args = text(prefix(dir.path(), Path::new("/jobs"), Path::new("/jobs/1"), true));
        assert_eq!(args[args.len() - 3..], ["root/usr:/usr", &place("usr"), "--"]);
        fs::create_dir_all(dir.path().join("root/opt")).unwrap();
        let args = text(prefix(dir.path(), Path::new("/jobs"), Path::new("/jobs/1"), false));
        assert_eq!(args[args.len() - 5..], ["root/usr:/usr", &place("usr"), "root/opt:empty", &place("opt"), "--"]);
        assert!(args.contains(&"--map-root-user".to_owned()));
    }
}
