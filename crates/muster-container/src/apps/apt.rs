//! What of a set of packages this machine lacks, as apt sees it, and where that is.
//!
//! apt answers from the machine's own sources, keys and state of installation, which are read and never written: its
//! caches lie in a folder of ours, and so do its lists of packages where the machine has none or old ones. It needs no
//! root for this.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use muster_core::packages::PackageSet;

use super::error::AppsError;

/// Where apt keeps the machine's own lists.
const HOST_LISTS: &str = "/var/lib/apt/lists";
/// Package files of one set.
const FILES_MAX: usize = 4_096;
/// Lists younger than this are not asked for again because of a package that they do not name.
const FRESH: Duration = Duration::from_secs(6 * 3_600);
/// Nor because of a file that is gone from its source.
const FRESH_FILES: Duration = Duration::from_secs(600);
/// How much of apt's complaint is told.
const COMPLAINT_LEN_MAX: usize = 300;

/// One package file that is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    /// Its name once it is here.
    pub(super) file: String,
    /// Its size.
    pub(super) bytes: u64,
}

/// What it takes to have a set of packages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// What is missing; nothing where the machine has all of it.
    pub(super) files: Vec<Missing>,
    /// About what it takes once unpacked.
    pub(super) unpacked_bytes: u64,
}

impl Plan {
    pub(super) fn download_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).fold(0, u64::saturating_add)
    }

    /// Names of the files in order: with these the machine has the set.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.files.iter().map(|file| file.file.clone()).collect();
        names.sort_unstable();
        names
    }
}

/// apt, with caches of its own.
#[derive(Debug)]
pub(super) struct Apt {
    dir: PathBuf,
    /// Held while lists are asked for.
    updating: Mutex<()>,
}

impl Apt {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, updating: Mutex::default() }
    }

    fn lists(&self) -> PathBuf {
        self.dir.join("lists")
    }

    /// The lists to ask: the younger ones of the machine's and ours.
    fn best_lists(&self) -> (PathBuf, Option<Duration>) {
        let (host, own) = (PathBuf::from(HOST_LISTS), self.lists());
        match (age(&host), age(&own)) {
            (host_age, Some(own_age)) if host_age.is_none_or(|host| own_age < host) => (own, Some(own_age)),
            (host_age, _) => (host, host_age),
        }
    }

    /// apt-get with what every call needs.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new("/usr/bin/apt-get");
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C.UTF-8");
        command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
        // The owner's ways out count as they do for apt itself.
        let proxies = ["http_proxy", "https_proxy", "no_proxy"];
        command.envs(proxies.iter().filter_map(|name| Some((*name, std::env::var_os(name)?))));
        let option = |name: &str, value: &Path| format!("{name}={}", value.display());
        command.args(["-q", "-o", &option("Dir::Cache", &self.dir.join("cache"))]);
        command.args(["-o", &option("Dir::State::lists", &self.best_lists().0)]);
        // Nothing of the machine's is written, so nothing of it need be locked; and our folder is ours alone.
        command.args(["-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root"]);
        command.args([
            "-o",
            "Acquire::Retries=2",
            "-o",
            "Acquire::http::Timeout=20",
            "-o",
            "Acquire::https::Timeout=20",
        ]);
        command
    }

    /// The arguments that name what is to be had.
    pub(super) fn wanted(command: &mut Command, set: &PackageSet) {
        command.args(["install", "--yes", "--no-install-recommends", "--no-remove", "--"]).args(set.names());
    }

    /// What is missing. Lists that are old are asked for anew when they do not name a package.
    pub(super) fn plan(&self, set: &PackageSet) -> Result<Plan, AppsError> {
        fs::create_dir_all(self.dir.join("cache/archives/partial"))
            .map_err(AppsError::io("create the folder", &self.dir))?;
        let planned = self.plan_once(set);
        if matches!(planned, Err(AppsError::Unknown { .. })) && self.update(FRESH)? {
            return self.plan_once(set);
        }
        planned
    }

    fn plan_once(&self, set: &PackageSet) -> Result<Plan, AppsError> {
        let mut command = self.command();
        command.arg("--print-uris");
        Self::wanted(&mut command, set);
        let output = command.output().map_err(|error| AppsError::program("apt-get", error))?;
        if output.status.success() {
            return parse(&String::from_utf8_lossy(&output.stdout));
        }
        Err(refused(set, &String::from_utf8_lossy(&output.stderr)))
    }

    /// Asks the sources for their lists unless the best ones are young; whether it did.
    pub(super) fn update(&self, fresh: Duration) -> Result<bool, AppsError> {
        let _one = self.updating.lock().unwrap_or_else(PoisonError::into_inner);
        if self.best_lists().1.is_some_and(|age| age < fresh) {
            return Ok(false);
        }
        let lists = self.lists();
        fs::create_dir_all(lists.join("partial")).map_err(AppsError::io("create the folder", &lists))?;
        let mut command = self.command();
        command.arg("-o").arg(format!("Dir::State::lists={}", lists.display())).arg("update");
        let output = command.output().map_err(|error| AppsError::program("apt-get", error))?;
        if !output.status.success() {
            let why = complaint(&String::from_utf8_lossy(&output.stderr));
            let why = format!("the lists of its Debian sources cannot be had: {why}");
            return Err(AppsError::Download { set: PackageSet::default(), why });
        }
        Ok(true)
    }

    /// The same, because a file was not where its list said.
    pub(super) fn update_for_files(&self) -> Result<bool, AppsError> {
        self.update(FRESH_FILES)
    }
}

/// How old lists are; `None` where there are none.
fn age(lists: &Path) -> Option<Duration> {
    let names = fs::read_dir(lists).ok()?.flatten();
    let packages = names.filter(|entry| entry.file_name().to_string_lossy().contains("_Packages"));
    // apt keeps the time of the source's own file on a list; when it was looked at last, the folders tell.
    packages.map(drop).next()?;
    let looked = [lists.to_owned(), lists.join("partial")]
        .iter()
        .filter_map(|dir| fs::metadata(dir).ok()?.modified().ok())
        .max()?;
    Some(SystemTime::now().duration_since(looked).unwrap_or_default())
}

/// What apt prints: a line for each file, and what all of it takes.
fn parse(text: &str) -> Result<Plan, AppsError> {
    let mut plan = Plan::default();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix('\'') {
            let missing = parse_file(rest).ok_or_else(|| {
                AppsError::program("apt-get", format!("it names a file in a way that is not understood: {line}"))
            })?;
            plan.files.push(missing);
        } else if let Some(rest) = line.strip_prefix("After this operation, ")
            && rest.contains("will be used")
        {
            plan.unpacked_bytes = amount(rest).unwrap_or(0);
        }
    }
    if plan.files.len() > FILES_MAX {
        let why = format!("{} package files are missing; at most {FILES_MAX} are fetched", plan.files.len());
        return Err(AppsError::program("apt-get", why));
    }
    Ok(plan)
}

/// `URI' FILE SIZE HASH`, after the first quotation mark.
fn parse_file(rest: &str) -> Option<Missing> {
    let (_uri, rest) = rest.split_once("' ")?;
    let mut words = rest.split_whitespace();
    let (file, bytes) = (words.next()?, words.next()?.parse().ok()?);
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"+-._~%:".contains(&b);
    let fits = file.ends_with(".deb") && !file.starts_with('.') && file.bytes().all(plain);
    fits.then(|| Missing { file: file.to_owned(), bytes })
}

/// `13.0 MB …` as bytes: apt counts in thousands.
fn amount(text: &str) -> Option<u64> {
    let mut words = text.split_whitespace();
    let (number, unit) = (words.next()?.replace(',', ""), words.next()?);
    let (whole, tenths) = number.split_once('.').unwrap_or((&number, "0"));
    let tenths: u64 = tenths.get(..1)?.parse().ok()?;
    let unit: u64 = match unit {
        "B" => 1,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return None,
    };
    let whole: u64 = whole.parse().ok()?;
    whole.checked_mul(unit)?.checked_add(tenths.checked_mul(unit / 10)?)
}

/// apt's complaint as an error.
fn refused(set: &PackageSet, stderr: &str) -> AppsError {
    let names = stderr.lines().filter_map(|line| line.strip_prefix("E: ")).find_map(|line| {
        let named = line
            .strip_prefix("Unable to locate package ")
            .or_else(|| line.strip_prefix("Package '")?.strip_suffix("' has no installation candidate"));
        named.map(|name| name.trim().to_owned())
    });
    match names {
        Some(name) => AppsError::Unknown { name },
        None => AppsError::Unsolvable { set: set.clone(), why: complaint(stderr) },
    }
}

/// The lines that say what was wrong, on one.
pub(super) fn complaint(stderr: &str) -> String {
    let errors: Vec<&str> = stderr.lines().filter_map(|line| line.strip_prefix("E: ")).collect();
    let text = if errors.is_empty() { stderr.trim().replace('\n', "; ") } else { errors.join("; ") };
    if text.is_empty() { "apt-get does not say why".to_owned() } else { text.chars().take(COMPLAINT_LEN_MAX).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "Reading package lists...\n\
        The following NEW packages will be installed:\n  hunspell-en-us mousepad\n\
        0 upgraded, 2 newly installed, 0 to remove and 116 not upgraded.\nNeed to get 2739 kB of archives.\n\
        After this operation, 13.4 MB of additional disk space will be used.\n\
        'http://deb.debian.org/debian/pool/main/s/scowl/hunspell-en-us_2020.12.07-2_all.deb' hunspell-en-us_1%3a2020.12.07-2_all.deb 268780 MD5Sum:26e90be14516f7413e06ad6523db2999\n\
        'http://deb.debian.org/debian/pool/main/m/mousepad/mousepad_0.5.10-2_amd64.deb' mousepad_0.5.10-2_amd64.deb 520460 MD5Sum:128bda6c010993fe79065ffbaeacb7ab\n";

    #[test]
    fn what_apt_prints_is_understood() {
        let plan = parse(PRINTED).unwrap();
        assert_eq!(plan.names(), ["hunspell-en-us_1%3a2020.12.07-2_all.deb", "mousepad_0.5.10-2_amd64.deb"]);
        assert_eq!((plan.download_bytes(), plan.unpacked_bytes), (268_780 + 520_460, 13_400_000));
        let none = parse("mousepad is already the newest version (0.5.10-2).\n").unwrap();
        assert_eq!(none, Plan::default());
        let freed = parse("After this operation, 5 MB disk space will be freed.\n").unwrap();
        assert_eq!(freed.unpacked_bytes, 0);
    }

    #[test]
    fn names_of_files_leave_no_folder() {
        for file in ["../x.deb", "a/b.deb", ".deb", "x.tar", "a b.deb"] {
            let line = format!("'http://x/y' {file} 5 MD5Sum:0\n");
            assert!(parse(&line).is_err(), "{file}");
        }
        assert!(parse("'http://x/y' x_1~rc2+b1_all.deb 5 SHA256:0\n").is_ok());
        assert!(parse("'http://x/y' x_1_all.deb much\n").is_err());
    }

    #[test]
    fn amounts_are_in_thousands() {
        for (text, bytes) in
            [("0 B of", 0), ("742 kB of", 742_000), ("1,031 MB of", 1_031_000_000), ("1.5 GB", 1_500_000_000)]
        {
            assert_eq!(amount(text), Some(bytes), "{text}");
        }
        assert_eq!(amount("some MB"), None);
    }

    #[test]
    fn complaints_become_sentences() {
        let set = PackageSet::new(["nosuch".to_owned()]).unwrap();
        let unknown = refused(&set, "W: old\nE: Unable to locate package nosuch\n");
        assert_eq!(unknown.to_string(), "package \"nosuch\" is not known to the Container's Debian sources");
        assert!(!unknown.is_ours());
        let none = refused(&set, "E: Package 'nosuch' has no installation candidate\n");
        assert_eq!(none, AppsError::Unknown { name: "nosuch".into() });
        let broken = refused(&set, "E: Unable to correct problems, you have held broken packages.\n");
        assert!(broken.is_ours() && broken.to_string().contains("held broken packages"), "{broken}");
    }
}
