//! A whole network of real processes in a folder of its own, for one test.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take before the test gives up and shows the logs: generous, for shared machines.
const PATIENCE: Duration = Duration::from_secs(180);

/// The binary under test.
pub(crate) fn muster() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
    clean(&mut command);
    command
}

/// Nothing of the machine's own settings reaches the command.
pub(crate) fn clean(command: &mut Command) -> &mut Command {
    for name in [
        "MUSTER_DIR",
        "MUSTER_NETWORK",
        "MUSTER_RPC",
        "MUSTER_WALLET",
        "MUSTER_PASSPHRASE",
        "MUSTER_PASSPHRASE_FILE",
        "MUSTER_CRASH_AT",
        "RUST_LOG",
    ] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null())
}

/// A network that runs until it is dropped.
pub(crate) struct Net {
    dir: tempfile::TempDir,
    up: Child,
    /// Where crashes are planned.
    plans: Option<tempfile::TempDir>,
}

impl Net {
    /// Starts one with so many Containers and waits until it is ready.
    pub(crate) fn start(containers: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let up = spawn_up(dir.path(), containers, None);
        Self { dir, up, plans: None }
    }

    /// As [`Net::start`]; its processes and those of its commands die where it is planned.
    pub(crate) fn start_with_plans(containers: u16) -> Self {
        let (dir, plans) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let up = spawn_up(dir.path(), containers, Some(plans.path()));
        Self { dir, up, plans: Some(plans) }
    }

    /// A file in the folder of plans.
    pub(crate) fn plan(&self, name: &str) -> PathBuf {
        self.plans.as_ref().unwrap().path().join(name)
    }

    /// Folder of a role.
    pub(crate) fn role(&self, role: &str) -> PathBuf {
        self.dir.path().join(role)
    }

    /// The network's file.
    pub(crate) fn file(&self) -> PathBuf {
        self.dir.path().join("network.toml")
    }

    /// A command on this network.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = muster();
        command.arg("--dir").arg(self.dir.path()).args(args);
        command.envs(self.plans.as_ref().map(|plans| ("MUSTER_CRASH_AT", plans.path())));
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs a command with --json and reads what it says.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let mut all = vec!["--json"];
        all.extend(args);
        let output = self.run(&all);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", shown(&output)))
    }

    /// The process of a role.
    pub(crate) fn pid(&self, role: &str) -> u32 {
        let note = std::fs::read_to_string(self.dir.path().join(role).join("lock")).unwrap();
        note.trim().parse().unwrap()
    }

    /// Kills a role with -9; its supervisor starts it again.
    pub(crate) fn kill(&self, role: &str) {
        let pid = self.pid(role);
        assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    }

    /// Kills a role and waits until it is back, with what its folder says by now.
    pub(crate) fn restart(&self, role: &str) {
        let before = self.pid(role);
        self.kill(role);
        self.wait_for("the role to be back", || {
            let back = std::fs::read_to_string(self.role(role).join("lock")).ok()?;
            (back.trim().parse::<u32>().ok()? != before).then_some(())
        });
    }

    /// Waits until something is true.
    pub(crate) fn wait_for<T>(&self, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = ask() {
                return found;
            }
            assert!(Instant::now() < until, "waited in vain for {what}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The last lines of all logs.
    pub(crate) fn logs(&self) -> String {
        let mut text = String::new();
        for entry in std::fs::read_dir(self.dir.path().join("logs")).into_iter().flatten().flatten() {
            let log = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(25).collect();
            text += &format!("--- {}\n", entry.path().display());
            tail.iter().rev().for_each(|line| text += &format!("{line}\n"));
        }
        text
    }
}

fn spawn_up(dir: &Path, containers: u16, plans: Option<&Path>) -> Child {
    let mut up = muster()
        .arg("--dir")
        .arg(dir)
        .args(["up", "--no-rental", "--rpc-port", "0", "--gateway-port", "0", "--checkers", "0", "--containers"])
        .arg(containers.to_string())
        .envs(plans.map(|plans| ("MUSTER_CRASH_AT", plans)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    for line in BufReader::new(up.stderr.take().unwrap()).lines() {
        let line = line.unwrap();
        said += &format!("{line}\n");
        if line.starts_with("Ctrl-C") {
            return up;
        }
    }
    panic!("the network did not start: {:?}\n{said}", up.wait());
}

/// Starts the network of a folder with one Container, does something on it, and stops it in order.
pub(crate) fn start_and_stop<T>(dir: &Path, work: impl FnOnce(&Path) -> T) -> T {
    let mut up = spawn_up(dir, 1, None);
    let done = work(dir);
    let (asked, ended) = stop(&mut up);
    assert!(asked.unwrap().success() && ended.unwrap().success(), "the network did not end in order");
    done
}

fn stop(up: &mut Child) -> (std::io::Result<std::process::ExitStatus>, std::io::Result<std::process::ExitStatus>) {
    let asked = Command::new("kill").args(["-TERM", &up.id().to_string()]).status();
    (asked, up.wait())
}

impl Drop for Net {
    fn drop(&mut self) {
        let (asked, ended) = stop(&mut self.up);
        if std::thread::panicking() {
            eprintln!("{asked:?} {ended:?}\n{}", self.logs());
        }
    }
}

/// What a command said, for a failing assertion.
pub(crate) fn shown(output: &Output) -> String {
    format!(
        "{}\n--- stdout\n{}\n--- stderr\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The exit code, with what was said when there is none.
pub(crate) fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("{}", shown(output)))
}

/// A file with this content.
pub(crate) fn file(dir: &Path, name: &str, content: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, content).unwrap();
    path
}
