//! Planned crashes: for tests that kill a process at one exact place in the life of a lease, and for nothing else.
//!
//! "Written, then done" cannot be tested by killing processes at random moments: the moments that matter last
//! microseconds. So a process whose environment names a folder of plans in `MUSTER_CRASH_AT` looks, whenever a step of a
//! lease is about to be written down or has just been, for a file there that bears the name of that place, as in
//! `container-running-before`. The file names whose process dies: a path of a file that begins with its process id, or
//! nothing for the process itself. A plan is carried out once: whoever finds it takes it away first.
//!
//! Nobody gets here by accident: the variable is in no documentation for users, has no default, is read once at the
//! start, and does nothing without a file of the right name in the folder that it names; a process that reads it says so
//! in its log. It gives nobody power that they lack: who can set a process's environment can also kill it. The same
//! binary is tested as is shipped (docs/adr/0016-planned-crashes.md).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use muster_core::ids::LeaseId;
use muster_core::step::{Step, WatchSteps, When};
use rustix::process::{Pid, Signal, getpid, kill_process, test_kill_process};

/// The variable that names the folder of plans.
const VARIABLE: &str = "MUSTER_CRASH_AT";
/// How long the victim's process id may take to be written, and the victim to be gone.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// The folder of plans, if this process was started with one.
pub(crate) fn plans() -> Option<PathBuf> {
    let plans = PathBuf::from(std::env::var_os(VARIABLE)?);
    tracing::warn!(plans = %plans.display(), "this process dies where a test has planned it");
    Some(plans)
}

/// What carries out the plans for one side of leases.
pub(crate) fn watcher(plans: Option<&Path>, side: &'static str) -> Option<Arc<dyn WatchSteps>> {
    plans.map(|plans| Arc::new(Planned { plans: plans.to_owned(), side }) as Arc<dyn WatchSteps>)
}

#[derive(Debug)]
struct Planned {
    plans: PathBuf,
    side: &'static str,
}

impl WatchSteps for Planned {
    fn on_step(&self, lease: LeaseId, step: Step, when: When) {
        if let Some(victim) = planned(&self.plans, &format!("{}-{step}-{when}", self.side)) {
            tracing::warn!(%lease, %step, %when, victim, "a planned crash");
            carry_out(&victim);
        }
    }
}

/// A place that is no step of a lease.
pub(crate) fn here(plans: Option<&Path>, place: &str) {
    if let Some(victim) = plans.and_then(|plans| planned(plans, place)) {
        tracing::warn!(place, victim, "a planned crash");
        carry_out(&victim);
    }
}

/// What the plan for a place says, where there is one; it is taken away.
fn planned(plans: &Path, place: &str) -> Option<String> {
    let plan = plans.join(place);
    let taken = plan.with_extension("taken");
    // No file of that name: no crash is planned here.
    std::fs::rename(&plan, &taken).ok()?;
    std::fs::read_to_string(&taken).ok()
}

fn carry_out(victim: &str) {
    match victim.trim() {
        "" => kill(getpid()),
        file => {
            if let Some(pid) = await_pid(Path::new(file)) {
                kill(pid);
            }
        }
    }
}

/// The process id in a file, as soon as it is there.
fn await_pid(file: &Path) -> Option<Pid> {
    let until = Instant::now() + PATIENCE;
    loop {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        if let Some(pid) = text.trim().parse().ok().and_then(Pid::from_raw) {
            return Some(pid);
        }
        if Instant::now() > until {
            tracing::error!(file = %file.display(), "a planned crash has no victim");
            return None;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Kills a process and waits until it does nothing more: what follows happens without it.
fn kill(pid: Pid) {
    if let Err(error) = kill_process(pid, Signal::KILL) {
        tracing::error!(%error, "a planned crash did not happen");
        return;
    }
    let until = Instant::now() + PATIENCE;
    // A zombie waits for its parent to notice, and does nothing more.
    let stat = format!("/proc/{}/stat", pid.as_raw_nonzero());
    let lives = || {
        let state =
            std::fs::read_to_string(&stat).ok().and_then(|s| s.rsplit_once(") ").map(|(_, rest)| rest.to_owned()));
        test_kill_process(pid).is_ok() && state.is_some_and(|s| !s.starts_with(['Z', 'X']))
    };
    while lives() && Instant::now() < until {
        std::thread::sleep(LOOK_EVERY);
    }
}
