//! Programs that the helper starts beside a job's command: its display, its sound.
//!
//! They run as the job's own user under the job's own fences, so a display that is taken over is worth no more than the
//! job that took it over. What they complain about goes to a file in memory: it is shown when one of them ends, and does
//! not mix with what the job writes.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, OFlags, fcntl_getfl, fcntl_setfl, memfd_create};
use serde::{Deserialize, Serialize};

use super::init::become_user;

/// How long all companions together may take until the command can begin.
const READY_WITHIN: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How much of a companion's last words is told.
const WORDS_LEN_MAX: usize = 400;

/// One program that is there before the command is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Companion {
    /// For sentences: `the display (Xvfb)`.
    pub(super) name: String,
    pub(super) command: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) ready: Readiness,
}

/// What says that the next one can begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Readiness {
    /// It writes to its standard output. It then stays for as long as the job runs.
    Speaks,
    /// The next one finds out. It stays for as long as the job runs.
    Stays,
    /// It ends with code 0.
    Ends,
}

/// A companion that stays.
#[derive(Debug)]
pub(super) struct Staying {
    /// As the job's namespace counts.
    pub(super) pid: i32,
    name: String,
    words: File,
}

impl Staying {
    /// Why the job cannot go on without it.
    pub(super) fn farewell(&mut self, how: &str) -> String {
        with_words(format!("{} ended while the job ran ({how})", self.name), &mut self.words)
    }
}

/// Starts all of them in order. Gives those that stay.
///
/// # Errors
/// A sentence that names the one that failed.
pub(super) fn start_all(companions: &[Companion], user: Option<(u32, &[u32])>) -> Result<Vec<Staying>, String> {
    let until = Instant::now() + READY_WITHIN;
    let mut staying = Vec::new();
    for companion in companions {
        staying.extend(start(companion, user, until)?);
    }
    Ok(staying)
}

fn start(companion: &Companion, user: Option<(u32, &[u32])>, until: Instant) -> Result<Option<Staying>, String> {
    let name = &companion.name;
    let failed = |error: &dyn std::fmt::Display| format!("{name} could not be started: {error}");
    let (program, args) = companion.command.split_first().ok_or_else(|| failed(&"no program is named"))?;
    let words = memfd_create("muster-words", MemfdFlags::CLOEXEC).map_err(|error| failed(&error))?;
    let stderr = words.try_clone().map_err(|error| failed(&error))?;
    let stdout = if companion.ready == Readiness::Speaks { Stdio::piped() } else { Stdio::null() };
    let mut command = Command::new(program);
    command.args(args).env_clear().envs(companion.env.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::from(stderr));
    if let Some((id, groups)) = user {
        become_user(&mut command, id, groups);
    }
    let mut child = command.spawn().map_err(|error| failed(&error))?;
    let mut words = File::from(words);
    match wait_until_ready(&mut child, companion.ready, until) {
        Ok(()) if companion.ready == Readiness::Ends => Ok(None),
        Ok(()) => {
            let pid = i32::try_from(child.id()).map_err(|error| failed(&error))?;
            Ok(Some(Staying { pid, name: name.clone(), words }))
        }
        Err(why) => Err(with_words(format!("{name} {why}"), &mut words)),
    }
}

fn wait_until_ready(child: &mut Child, ready: Readiness, until: Instant) -> Result<(), String> {
    let mut pipe = match child.stdout.take() {
        Some(pipe) => Some(not_blocking(pipe.into()).map_err(|error| format!("cannot be listened to: {error}"))?),
        None => None,
    };
    loop {
        let mut said = [0; 64];
        if ready == Readiness::Stays || pipe.as_mut().is_some_and(|pipe| pipe.read(&mut said).is_ok_and(|n| n > 0)) {
            return Ok(());
        }
        match child.try_wait() {
            Ok(None) => {}
            Ok(Some(status)) if ready == Readiness::Ends && status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("did not come up ({status})")),
            Err(error) => return Err(format!("cannot be watched: {error}")),
        }
        if Instant::now() > until {
            return Err(format!("was not ready within {} s", READY_WITHIN.as_secs()));
        }
        sleep(LOOK_EVERY);
    }
}

fn not_blocking(pipe: OwnedFd) -> rustix::io::Result<File> {
    fcntl_setfl(&pipe, fcntl_getfl(&pipe)? | OFlags::NONBLOCK)?;
    Ok(File::from(pipe))
}

/// A sentence, and the last of what the companion complained about.
fn with_words(sentence: String, words: &mut File) -> String {
    let mut bytes = Vec::new();
    let from = words.seek(SeekFrom::End(0)).unwrap_or(0).saturating_sub(4096);
    if words.seek(SeekFrom::Start(from)).is_err() || words.read_to_end(&mut bytes).is_err() {
        return sentence;
    }
    let text = String::from_utf8_lossy(&bytes).split_whitespace().collect::<Vec<_>>().join(" ");
    let skip = text.chars().count().saturating_sub(WORDS_LEN_MAX);
    let text: String = text.chars().skip(skip).collect();
    if text.is_empty() { sentence } else { format!("{sentence}: {text}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn companion(script: &str, ready: Readiness) -> Companion {
        let command = ["/bin/sh", "-c", script].map(str::to_owned).into();
        Companion { name: "the display (sh)".into(), command, env: Vec::new(), ready }
    }

    #[test]
    fn companions_come_up_in_order_and_those_that_fail_are_named() {
        let folder = tempfile::tempdir().expect("folder");
        let mark = folder.path().join("mark").display().to_string();
        let first = companion(&format!("echo 0; touch {mark}; exec sleep 30"), Readiness::Speaks);
        let next = companion(&format!("until test -e {mark}; do sleep 0.01; done"), Readiness::Ends);
        let staying = start_all(&[first, next], None).expect("both come up");
        assert_eq!(staying.len(), 1);
        let pid = rustix::process::Pid::from_raw(staying[0].pid).expect("a process");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
        let bad = start_all(&[companion("echo no such mode >&2; exit 3", Readiness::Speaks)], None).expect_err("fails");
        assert!(bad.starts_with("the display (sh) did not come up") && bad.ends_with("no such mode"), "{bad}");
    }
}
