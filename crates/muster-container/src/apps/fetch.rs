//! One fetch: room, package files, unpacking, and into place.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use std::{fs, io};

use muster_core::packages::{PackageSet, PackageSetId};
use muster_core::units::Bytes;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use std::sync::Arc;

use super::apt::{Apt, Plan, complaint};
use super::error::AppsError;
use super::shelf::{Marker, Reserved, reserve, seal, sweep};
use super::{Fetch, Inner, Opened, blocking, guard, name, remove, unpack};
use crate::sandbox::over;

/// This much of the file system's free room is left to others.
const FREE_MIN: u64 = 1 << 30;
/// How often the one who waits is told how far it is.
const TELL_EVERY: Duration = Duration::from_millis(300);
/// A fetch of which nothing arrives for so long is given up.
const STALLED_AFTER: Duration = Duration::from_secs(90);
/// How much of apt's complaints is read.
const COMPLAINT_BYTES_MAX: u64 = 64 * 1024;
/// Room for what packages only make when they are unpacked: folders, caches, blocks that are not full.
const SLACK: u64 = 16 << 20;

impl Inner {
    /// Fetches what a plan says is missing. The caller has a place.
    pub(super) async fn fetch(
        self: &Arc<Self>,
        id: PackageSetId,
        set: &PackageSet,
        host: String,
        plan: Plan,
        teller: &watch::Sender<Fetch>,
    ) -> Result<Opened, AppsError> {
        let tell = |how: String| drop(teller.send_replace(Fetch::Going(how)));
        let need = room(&plan);
        let (inner, wanted) = (Arc::clone(self), set.clone());
        let _reserved = blocking(move || inner.reserve(&wanted, need)).await?;
        info!(%id, packages = %set, files = plan.files.len(), bytes = plan.download_bytes(), "packages are fetched");
        let began = Instant::now();
        let files = self.dir.join("fetch").join(id.to_string());
        self.download(set, &plan, &files, &tell).await?;
        tell(format!("unpacking {}", name(set)));
        let (inner, new) = (Arc::clone(self), self.dir.join("new").join(id.to_string()));
        let (root, from) = (new.join(over::ROOT), files.clone());
        let names: Vec<PathBuf> = plan.files.iter().map(|file| from.join(&file.file)).collect();
        let (place, at) = (new.clone(), root.clone());
        blocking(move || {
            remove(&place);
            let unpacked = unpack::unpack(&names, &at);
            if unpacked.is_err() {
                // Whatever is wrong with them: the next try begins with new ones.
                remove(&from);
            }
            unpacked?;
            over::make_places(&place).map_err(AppsError::io("create the folder", &place))
        })
        .await?;
        self.make_caches(&new, &root).await?;
        let marker = Marker { packages: set.clone(), host, files: plan.names(), bytes: 0 };
        let opened = blocking(move || {
            let bytes = unpack::size(&new);
            let marker = Marker { bytes, ..marker };
            let (packages, host) = (marker.packages.clone(), marker.host.clone());
            seal(&new, &marker)?;
            guard(&inner.shelf).put(&inner.dir, id, &new, marker)?;
            remove(&files);
            sweep(&inner.shelf);
            let mut shelf = guard(&inner.shelf);
            let opened = shelf.take(id, |known| known.packages == packages && known.host == host);
            opened.ok_or_else(|| AppsError::program("muster", "the packages are gone as soon as they are there"))
        })
        .await?;
        info!(%id, packages = %set, ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX), "packages are here");
        Ok(opened)
    }

    /// Whether a fetch fits beside everything that is there.
    pub(super) fn fits(&self, plan: &Plan) -> bool {
        let need = room(plan);
        let free = free_bytes(&self.dir).unwrap_or(0);
        guard(&self.shelf).bytes().saturating_add(need) <= self.offer.disk.0 && free >= need.saturating_add(FREE_MIN)
    }

    fn reserve(&self, set: &PackageSet, need: u64) -> Result<Reserved, AppsError> {
        let no_room = |why| AppsError::NoRoom { set: set.clone(), need: Bytes(need), why };
        let reserved = reserve(&self.shelf, need, self.offer.disk.0).map_err(|taken| {
            let (all, taken) = (self.offer.disk, Bytes(taken));
            no_room(format!("the Container's owner gives {all} for them, of which {taken} are in use"))
        })?;
        let free = free_bytes(&self.dir).map_err(AppsError::io("look at the file system of", &self.dir))?;
        if free < need.saturating_add(FREE_MIN) {
            let (free, left) = (Bytes(free), Bytes(FREE_MIN));
            return Err(no_room(format!("the Container's disk has {free} free, of which it keeps {left}")));
        }
        Ok(reserved)
    }

    /// Package files into their folder, with those that an earlier try has left. Lists that name files which are gone
    /// are asked for anew.
    async fn download(
        &self,
        set: &PackageSet,
        plan: &Plan,
        files: &Path,
        tell: &impl Fn(String),
    ) -> Result<(), AppsError> {
        fs::create_dir_all(files.join("partial")).map_err(AppsError::io("create the folder", files))?;
        let sum = plan.download_bytes();
        let first = self.apt_get(set, files, sum, tell).await;
        if let Err(AppsError::Download { why, .. }) = &first
            && why.contains("404")
            && self.apt.update_for_files()?
        {
            return Err(AppsError::Stale { set: set.clone(), why: why.clone() });
        }
        first?;
        match plan.files.iter().find(|file| !files.join(&file.file).is_file()) {
            None => Ok(()),
            Some(absent) => {
                let why = format!("apt-get says it has everything, but {} is not there", absent.file);
                Err(AppsError::Download { set: set.clone(), why })
            }
        }
    }

    async fn apt_get(&self, set: &PackageSet, files: &Path, sum: u64, tell: &impl Fn(String)) -> Result<(), AppsError> {
        let failed = |why: String| AppsError::Download { set: set.clone(), why };
        let mut apt = self.apt.command();
        apt.arg("--download-only").arg("-o").arg(format!("Dir::Cache::archives={}", files.display()));
        Apt::wanted(&mut apt, set);
        // It ends with this process, as jobs do.
        let mut command = Command::new("/usr/bin/setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(apt.get_program()).args(apt.get_args()).env_clear();
        command.envs(apt.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let started = self.sandbox.start_beside(command, Vec::new()).await;
        let mut child = started.map_err(|error| AppsError::program("apt-get", error))?;
        let stderr = child.stderr.take();
        let words = tokio::spawn(async move {
            let mut words = Vec::new();
            if let Some(stderr) = stderr {
                // What cannot be read is not told.
                drop(stderr.take(COMPLAINT_BYTES_MAX).read_to_end(&mut words).await);
            }
            String::from_utf8_lossy(&words).into_owned()
        });
        let (mut seen, mut since) = (0, Instant::now());
        let status = loop {
            tokio::select! {
                status = child.wait() => break status.map_err(|error| AppsError::program("apt-get", error))?,
                () = tokio::time::sleep(TELL_EVERY) => {
                    let have = arrived(files);
                    if have != seen {
                        (seen, since) = (have, Instant::now());
                    }
                    tell(progress(set, have, sum));
                    if since.elapsed() > STALLED_AFTER {
                        let seconds = STALLED_AFTER.as_secs();
                        return Err(failed(format!("nothing arrived from its Debian sources for {seconds} s")));
                    }
                }
            }
        };
        if status.success() {
            return Ok(());
        }
        let words = words.await.unwrap_or_default();
        Err(failed(complaint(&words)))
    }

    /// Makes the caches that must know of the new files. Programs may do without, so a failure is only told.
    async fn make_caches(&self, new: &Path, root: &Path) -> Result<(), AppsError> {
        let (out, script) = (new.join("out"), unpack::cache_script(root));
        fs::create_dir_all(&out).map_err(AppsError::io("create the folder", &out))?;
        match self.sandbox.run_over(new.to_owned(), out.clone(), script).await {
            Ok(said) if said.trim().is_empty() => {}
            Ok(said) => warn!(said = %said.trim(), "caches of packages are not made"),
            Err(error) => warn!(%error, "caches of packages are not made"),
        }
        let root = root.to_owned();
        blocking(move || {
            unpack::place_caches(&root, &out)?;
            fs::remove_dir_all(&out).map_err(AppsError::io("remove the folder", &out))
        })
        .await
    }
}

/// Bytes that a fetch needs at its peak: the files, and what is in them.
fn room(plan: &Plan) -> u64 {
    let unpacked = plan.unpacked_bytes.saturating_add(plan.unpacked_bytes / 10);
    plan.download_bytes().saturating_add(unpacked).saturating_add(SLACK)
}

/// Bytes of package files that are here, whole or in part.
fn arrived(files: &Path) -> u64 {
    let sizes = |dir: &Path| -> u64 {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.metadata().ok()).filter(fs::Metadata::is_file).map(|meta| meta.len()).sum()
    };
    sizes(files).saturating_add(sizes(&files.join("partial")))
}

fn progress(set: &PackageSet, have: u64, sum: u64) -> String {
    let tenths = |bytes: u64| bytes / 100_000;
    if sum < 10_000_000 {
        let (have, sum) = (tenths(have.min(sum)), tenths(sum));
        return format!("fetching {}: {}.{} of {}.{} MB", name(set), have / 10, have % 10, sum / 10, sum % 10);
    }
    format!("fetching {}: {} of {} MB", name(set), have.min(sum) / 1_000_000, sum / 1_000_000)
}

fn free_bytes(dir: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apps::apt::Missing;

    #[test]
    fn progress_is_told_in_megabytes() {
        let set = |names: &[&str]| PackageSet::new(names.iter().map(ToString::to_string)).unwrap();
        assert_eq!(progress(&set(&["neverball"]), 34_400_000, 67_900_000), "fetching neverball: 34 of 67 MB");
        assert_eq!(progress(&set(&["oneko"]), 90_000_000, 1_230_000), "fetching oneko: 1.2 of 1.2 MB");
        let many = set(&["aa", "bb", "cc", "dd", "ee"]);
        assert_eq!(progress(&many, 0, 2_000_000), "fetching aa, bb, cc and 2 more: 0.0 of 2.0 MB");
    }

    #[test]
    fn room_is_for_files_and_what_is_in_them() {
        let files = vec![Missing { file: "x_1_all.deb".into(), bytes: 1_000 }];
        assert_eq!(room(&Plan { files, unpacked_bytes: 10_000 }), 1_000 + 11_000 + SLACK);
        assert_eq!(room(&Plan { files: Vec::new(), unpacked_bytes: u64::MAX }), u64::MAX);
    }

    #[test]
    fn what_has_arrived_is_counted_whole_or_in_part() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("partial")).unwrap();
        fs::write(dir.path().join("a.deb"), [0; 10]).unwrap();
        fs::write(dir.path().join("partial/b.deb"), [0; 5]).unwrap();
        assert_eq!(arrived(dir.path()), 15);
        assert_eq!(arrived(&dir.path().join("none")), 0);
    }
}
