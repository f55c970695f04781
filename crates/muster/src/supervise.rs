//! One process per role: started, watched, started again with backoff, stopped in order.

use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use crate::failure::{Because, Code, Failure};

/// The first pause before a role is started again.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// The longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A role that lived so long had long come up: its end is no failed start, and it is started again without a longer pause.
const STEADY: Duration = Duration::from_secs(3);
/// How long a role may take to end when asked to.
const STOP_WAIT: Duration = Duration::from_secs(12);
/// A log file larger than this is set aside at the next start.
const LOG_BYTES_MAX: u64 = 16 << 20;
/// The end of a log in which a role's last words are looked for.
const LAST_WORDS_BYTES_MAX: u64 = 16 << 10;
/// With these a role says that starting it again changes nothing: a person must mend something first.
const FOR_GOOD: [Code; 5] = [Code::Config, Code::Wallet, Code::Data, Code::Io, Code::Missing];

/// A role to run.
#[derive(Clone, Debug)]
pub(crate) struct Role {
    /// Its name: of the log, in messages.
    pub(crate) name: String,
    /// Arguments of this same binary.
    pub(crate) args: Vec<String>,
    /// Variables beside the supervisor's own.
    pub(crate) env: Vec<(String, String)>,
    /// Where its log goes.
    pub(crate) log: PathBuf,
}

/// A role under supervision.
#[derive(Debug)]
pub(crate) struct Supervised {
    name: String,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    pid: Arc<AtomicU32>,
    log: PathBuf,
    /// How it ended last; 0 while it never did.
    ended: Arc<AtomicI32>,
}

impl Supervised {
    /// Starts a role and keeps it running until it is stopped.
    pub(crate) fn start(role: Role) -> Result<Self, Failure> {
        let stop = CancellationToken::new();
        let pid = Arc::new(AtomicU32::new(0));
        // The first start happens here, so that a role that cannot be started at all is an error now.
        let child = spawn(&role)?;
        pid.store(child.id().unwrap_or(0), Ordering::Relaxed);
        let (name, log) = (role.name.clone(), role.log.clone());
        let ended = Arc::new(AtomicI32::new(0));
        let task = tokio::spawn(watch(role, child, stop.clone(), pid.clone(), Arc::clone(&ended)));
        Ok(Self { name, stop, task, pid, log, ended })
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed)
    }

    /// What it ended with, if starting it again changes nothing.
    pub(crate) fn failed(&self) -> Option<Failure> {
        let ended = self.ended.load(Ordering::Relaxed);
        let code = FOR_GOOD.into_iter().find(|code| i32::from(*code as u8) == ended)?;
        let words = last_words(&self.log).unwrap_or_else(|| format!("it ended with code {ended}"));
        Some(Failure::new(code, format!("{}: {words} (its log: {})", self.name, self.log.display())))
    }

    /// Asks it to end, waits, and kills it if it does not.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        if let Err(e) = self.task.await {
            tracing::warn!(role = self.name, error = %e, "the supervisor of a role failed");
        }
    }
}

fn spawn(role: &Role) -> Result<Child, Failure> {
    let exe = std::env::current_exe().because(Code::Internal, "cannot find this program's own file")?;
    rotate(&role.log);
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&role.log)
        .because(Code::Io, format!("cannot open {}", role.log.display()))?;
    let errors = log.try_clone().because(Code::Io, role.log.display())?;
    Command::new(&exe)
        .args(&role.args)
        .args(["--supervisor", &std::process::id().to_string()])
        // What a person set for commands is not meant for the roles.
        .env_remove("MUSTER_RPC")
        .env_remove("MUSTER_WALLET")
        .envs(role.env.iter().map(|(k, v)| (k, v)))
        .stdin(Stdio::null())
        .stdout(Stdio::from(log))
        .stderr(Stdio::from(errors))
        // Ctrl-C at the terminal reaches the supervisor alone, which stops the roles in order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .because(Code::Internal, format!("cannot start {}", role.name))
}

/// Sets a large log aside as `NAME.log.1`.
fn rotate(log: &Path) {
    if std::fs::metadata(log).is_ok_and(|m| m.len() > LOG_BYTES_MAX)
        && let Err(e) = std::fs::rename(log, log.with_extension("log.1"))
    {
        tracing::warn!(log = %log.display(), error = %e, "a log could not be set aside");
    }
}

/// The last sentence that a role ended with, as its log has it.
fn last_words(log: &Path) -> Option<String> {
    let mut file = std::fs::File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LAST_WORDS_BYTES_MAX))).ok()?;
    let mut end = Vec::new();
    file.take(LAST_WORDS_BYTES_MAX).read_to_end(&mut end).ok()?;
    let text = String::from_utf8_lossy(&end);
    let at = text.rfind("\nmuster: ").map(|at| at.saturating_add(1));
    let at = at.or_else(|| text.starts_with("muster: ").then_some(0))?;
    // A sentence may have several lines; one of the next start begins with its time, or is JSON.
    let stamped =
        |line: &str| line.get(..5).is_some_and(|y| y.ends_with('-') && y.starts_with(|c: char| c.is_ascii_digit()));
    let own = |line: &&str| !stamped(line) && !line.starts_with('{');
    let lines: Vec<&str> = text.get(at..)?.lines().take_while(own).collect();
    Some(lines.join("\n").trim_start_matches("muster: ").trim_end().to_owned())
}

async fn watch(role: Role, first: Child, stop: CancellationToken, pid: Arc<AtomicU32>, ended: Arc<AtomicI32>) {
    let mut child = first;
    let mut backoff = BACKOFF_MIN;
    loop {
        let born = Instant::now();
        tokio::select! {
            status = child.wait() => match status {
                Ok(status) => {
                    ended.store(status.code().unwrap_or(0), Ordering::Relaxed);
                    tracing::warn!(role = role.name, %status, log = %role.log.display(), "a role ended; starting it again");
                }
                Err(e) => tracing::warn!(role = role.name, error = %e, "a role cannot be watched; starting it again"),
            },
            () = stop.cancelled() => {
                end(&role.name, &mut child).await;
                return;
            }
        }
        pid.store(0, Ordering::Relaxed);
        backoff = if born.elapsed() >= STEADY { BACKOFF_MIN } else { (backoff * 2).min(BACKOFF_MAX) };
        child = loop {
            tokio::select! {
                () = tokio::time::sleep(backoff) => {}
                () = stop.cancelled() => return,
            }
            match spawn(&role) {
                Ok(child) => break child,
                Err(e) => {
                    tracing::warn!(role = role.name, error = %e, "a role cannot be started again yet");
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
            }
        };
        pid.store(child.id().unwrap_or(0), Ordering::Relaxed);
    }
}

/// SIGTERM, a wait, SIGKILL.
async fn end(name: &str, child: &mut Child) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid
        && let Err(e) = rustix::process::kill_process(pid, rustix::process::Signal::TERM)
    {
        tracing::debug!(role = name, error = %e, "a role was gone before it was asked to end");
    }
    if tokio::time::timeout(STOP_WAIT, child.wait()).await.is_err() {
        tracing::warn!(role = name, "a role did not end in time and is killed");
        if let Err(e) = child.kill().await {
            tracing::warn!(role = name, error = %e, "a role could not be killed");
        }
    }
}

/// Ends this process when its supervisor does, even if that one was killed.
pub(crate) fn follow(supervisor: Option<i32>) -> Result<(), Failure> {
    let Some(supervisor) = supervisor else { return Ok(()) };
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
        .because(Code::Internal, "cannot follow the supervisor")?;
    // It may have died before the line above.
    let parent = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    if parent != supervisor {
        return Err(Failure::new(Code::Internal, "the supervisor is gone"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_sentence_of_a_log_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("x.log");
        let of = |text: &str| {
            std::fs::write(&log, text).unwrap();
            last_words(&log)
        };
        assert_eq!(of(""), None);
        assert_eq!(of("INFO all is well\n"), None);
        assert_eq!(of("muster: first\n").as_deref(), Some("first"));
        assert_eq!(of("muster: first\n2026-11-25 INFO again\n").as_deref(), Some("first"));
        assert_eq!(of("INFO x\nmuster: first\nINFO y\nmuster: second\n1 | x\n").as_deref(), Some("second\n1 | x"));
        assert_eq!(of(&format!("{}\nmuster: late\n", "x".repeat(100_000))).as_deref(), Some("late"));
    }
}
