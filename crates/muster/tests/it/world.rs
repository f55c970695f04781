//! Folders and processes for tests of the binary.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// The passphrase of wallets that tests make.
pub(crate) const PASSPHRASE: &str = "correct horse";
/// How long anything may take to come up.
const PATIENCE: Duration = Duration::from_secs(90);

/// A folder of a user, and the program in it.
pub(crate) struct User {
    home: TempDir,
    /// Given in the variable; none where the folder's own wallets are used.
    passphrase: Option<&'static str>,
}

impl User {
    pub(crate) fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap(), passphrase: Some(PASSPHRASE) }
    }

    /// A user of the wallets that `muster up` makes.
    pub(crate) fn of_network() -> Self {
        Self { passphrase: None, ..Self::new() }
    }

    /// Muster's folder, which may not exist yet.
    pub(crate) fn dir(&self) -> PathBuf {
        self.home.path().join("muster")
    }

    /// A file beside it.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.home.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// The program with this folder, no terminal, and none of the caller's variables.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("MUSTER_") {
                command.env_remove(name);
            }
        }
        command.env("HOME", self.home.path()).env_remove("XDG_DATA_HOME").env_remove("RUST_LOG");
        command.env("MUSTER_DIR", self.dir()).args(args).stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// With the user's passphrase; must succeed.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.command(args).envs(self.passphrase.map(|p| ("MUSTER_PASSPHRASE", p))).output().unwrap();
        let (out, err) = texts(&output);
        assert!(output.status.success(), "muster {args:?} ended with {}:\n{out}{err}", output.status);
        out
    }

    /// As [`User::ok`], with `--json`: the one object.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let out = self.ok(&[args, &["--json"]].concat());
        assert_eq!(out.lines().count(), 1, "one object on one line: {out}");
        serde_json::from_str(&out).unwrap()
    }

    /// Must be refused with this exit code and a sentence that holds all of these words; gives the sentence.
    pub(crate) fn refused(&self, args: &[&str], code: i32, words: &[&str]) -> String {
        refused(self.command(args), code, words)
    }
}

/// Runs a command that must be refused: nothing on standard output, one sentence on standard error.
pub(crate) fn refused(mut command: Command, code: i32, words: &[&str]) -> String {
    let output = command.output().unwrap();
    let (out, err) = texts(&output);
    assert_eq!(output.status.code(), Some(code), "{command:?}:\n{out}{err}");
    assert_eq!(out, "", "nothing on standard output: {command:?}");
    for word in words {
        assert!(err.contains(word), "{command:?} says {word:?}:\n{err}");
    }
    assert!(!err.contains("panicked"), "{err}");
    err
}

pub(crate) fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// Every file below a folder with its content; sockets and the like by name alone.
pub(crate) fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path.clone());
                all.insert(path, Vec::new());
            } else {
                let bytes = fs::read(&path).unwrap_or_default();
                all.insert(path, bytes);
            }
        }
    }
    all
}

/// A process that is ended with the test.
pub(crate) struct Running {
    child: Child,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        Self { child }
    }

    /// Reads standard error until a line begins like this; the rest is read and dropped by a thread.
    pub(crate) fn wait_for_line(&mut self, beginning: &str) {
        let mut lines = BufReader::new(self.child.stderr.take().unwrap()).lines();
        let mut seen = String::new();
        loop {
            match lines.next() {
                Some(Ok(line)) if line.starts_with(beginning) => break,
                Some(Ok(line)) => seen.push_str(&format!("{line}\n")),
                _ => panic!("it never said {beginning:?}:\n{seen}"),
            }
        }
        std::thread::spawn(move || lines.for_each(drop));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // `muster up` ends its roles when it is asked to; a kill is for what does not listen.
        let pid = self.child.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &pid]).status();
        let until = Instant::now() + Duration::from_secs(30);
        while asked.is_ok() && Instant::now() < until {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks again and again until it is there.
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(Instant::now() < until, "{what} did not come");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The health of the role with this folder, once it answers.
pub(crate) fn health(dir: &Path) -> Value {
    eventually("the health page", || {
        let addr = fs::read_to_string(dir.join("health")).ok()?;
        let mut stream = TcpStream::connect(addr.trim()).ok()?;
        stream.write_all(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let health: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1)?).ok()?;
        (health["ready"] == true).then_some(health)
    })
}

/// A network file that is right, on a chain at this address.
pub(crate) fn network(chain_id: u64, rpc: &str) -> String {
    format!(
        "version = 1\nname = \"test\"\n\n[chain]\nid = {chain_id}\nrpc = \"{rpc}\"\n\n[contracts]\n\
         token = \"0x{}\"\nregistry = \"0x{}\"\nescrow = \"0x{}\"\n",
        "11".repeat(20),
        "22".repeat(20),
        "33".repeat(20)
    )
}
