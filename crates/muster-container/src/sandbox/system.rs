//! Small dealings with the operating system that several parts of the Sandbox share.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::FlockOperation;

use super::error::SandboxError;

/// Longest piece of a helper program's complaint that is kept.
const COMPLAINT_LEN_MAX: usize = 2000;

/// Makes the state folder if needed, locks it and returns its canonical path.
pub(super) fn open_state_dir(path: &Path) -> Result<(PathBuf, File), SandboxError> {
    make_private_dir(path)?;
    let path = path.canonicalize().map_err(SandboxError::io("resolve", path))?;
    make_private_dir(&path.join("jobs"))?;
    let lock_path = path.join("sandbox.lock");
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&lock_path)
        .map_err(SandboxError::io("open", &lock_path))?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok((path, lock)),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(SandboxError::InUse { path }),
        Err(error) => Err(SandboxError::io("lock", &lock_path)(error)),
    }
}

/// Creates a folder, with parents, that only its owner can enter.
pub(super) fn make_private_dir(path: &Path) -> Result<(), SandboxError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(SandboxError::io("create the folder", path))
}

/// A short name for a state folder: two Containers on one machine never meet in a control group or a user id.
pub(super) fn instance_of(state_dir: &Path) -> String {
    let hash = blake3::hash(state_dir.as_os_str().as_encoded_bytes());
    hex::encode(&hash.as_bytes()[..6])
}

/// The host user a job runs as when the Container is root: outside every range that distributions and systemd hand out.
pub(super) fn job_uid(instance: &str, job: &str) -> u32 {
    let hash = blake3::hash(format!("{instance}/{job}").as_bytes());
    let bytes = hash.as_bytes();
    0x7000_0000 | u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0])
}

/// The files of a job's `/etc` that are not the host's. Its users: root (who is nobody here), its own, and nobody.
pub(super) fn etc_files(uid: u32, egress: bool) -> Vec<(&'static str, String)> {
    let nowhere = "/nonexistent:/usr/sbin/nologin";
    let passwd = format!(
        "root:x:0:0:root:{nowhere}\njob:x:{uid}:{uid}:job:/work:/bin/sh\nnobody:x:65534:65534:nobody:{nowhere}\n"
    );
    let mut files = vec![
        ("/etc/passwd", passwd),
        ("/etc/group", format!("root:x:0:\njob:x:{uid}:\nnogroup:x:65534:\n")),
        ("/etc/hosts", "127.0.0.1 localhost sandbox\n::1 localhost\n".into()),
        ("/etc/hostname", "sandbox\n".into()),
        (
            "/etc/nsswitch.conf",
            "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n".into(),
        ),
    ];
    if egress {
        files.push(("/etc/resolv.conf", "nameserver 10.0.2.3\noptions timeout:3 attempts:2\n".into()));
    }
    files
}

/// Finds a program in the usual folders, whatever the environment's `PATH` says.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    ["/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin"]
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.is_file())
}

/// Runs a helper program to its end with a clean environment; its complaint becomes the error.
pub(super) fn run_program(step: &'static str, command: &mut Command) -> Result<String, SandboxError> {
    let output = command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| SandboxError::setup(step, error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = tail(&String::from_utf8_lossy(&output.stderr));
    Err(SandboxError::setup(step, format!("{complaint} ({})", output.status)))
}

/// The end of a text, on one line.
pub(super) fn tail(text: &str) -> String {
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let skip = flat.chars().count().saturating_sub(COMPLAINT_LEN_MAX);
    flat.chars().skip(skip).collect()
}

/// Runs file system work where it may block.
pub(super) async fn blocking<T, F>(work: F) -> Result<T, SandboxError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, SandboxError> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(SandboxError::setup("run in the background", error)),
    }
}

/// Whether this process is root on the host.
pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
