//! Checkers of a whole network: the receipt says when its Containers were audited and what they were rewarded; a Container
//! that lies is caught, slashed and jailed; anybody computes the epoch again; owners of licences claim.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::network::{code, muster, shown};

/// Some epochs, on a shared machine.
const PATIENCE: Duration = Duration::from_secs(240);

fn amount(value: &Value) -> u128 {
    value.as_str().unwrap_or_else(|| panic!("{value} is no amount")).parse().unwrap()
}

pub(crate) fn run(dir: &Path, args: &[&str]) -> Output {
    muster().arg("--dir").arg(dir).args(args).output().unwrap()
}

pub(crate) fn json(dir: &Path, args: &[&str]) -> Value {
    let output = run(dir, &[&["--json"], args].concat());
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", shown(&output)))
}

fn refused(dir: &Path, args: &[&str], expected: i32, words: &[&str]) {
    let output = run(dir, args);
    assert_eq!(code(&output), expected, "{args:?}: {}", shown(&output));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(words.iter().all(|word| said.contains(word)), "{args:?} said: {said}");
}

/// The network of a folder, until it is dropped.
pub(crate) struct Up(Child);

impl Up {
    fn start(dir: &Path) -> Self {
        Self::start_with(dir, &["--containers", "2"])
    }

    pub(crate) fn start_with(dir: &Path, args: &[&str]) -> Self {
        let mut command = muster();
        command.arg("--dir").arg(dir).args(["up", "--no-rental"]).args(args);
        if !args.contains(&"--gateway-port") {
            command.args(["--gateway-port", "0"]);
        }
        // A new network takes any port; one that is there has its own.
        if !dir.join("network.toml").exists() {
            command.args(["--rpc-port", "0"]);
        }
        let mut up = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        for line in BufReader::new(up.stderr.take().unwrap()).lines() {
            let line = line.unwrap();
            said += &format!("{line}\n");
            if line.starts_with("Ctrl-C") {
                return Self(up);
            }
        }
        panic!("the network did not start: {:?}\n{said}", up.wait());
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let asked = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        drop((asked, self.0.wait()));
    }
}

pub(crate) fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(250));
    }
}

/// A request to the page of the first Checker.
fn page(dir: &Path, path: &str, host: Option<&str>) -> (String, String) {
    page_of(&dir.join("checker-0"), path, host)
}

/// A request to the page of a Checker with this folder, by hand: the headers matter.
pub(crate) fn page_of(checker: &Path, path: &str, host: Option<&str>) -> (String, String) {
    use std::io::{Read, Write};
    let addr = std::fs::read_to_string(checker.join("health")).unwrap();
    let addr = addr.trim();
    let mut stream = std::net::TcpStream::connect(addr).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", host.unwrap_or(addr)).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_ascii_lowercase(), body.to_owned())
}

#[test]
fn the_honest_are_rewarded_and_the_cheat_is_jailed_before_ones_eyes() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let args = ["--json", "up", "--once", "--with-cheat", "--containers", "2", "--picture-width", "96"];
    let first = run(dir, &[&args[..], &["--rpc-port", "0", "--gateway-port", "0"]].concat());
    assert_eq!(code(&first), 0, "{}", shown(&first));
    let receipt: Value = serde_json::from_slice(&first.stdout).unwrap();

    let cheat = &receipt["cheat"];
    assert_eq!(cheat["status"], "jailed", "{cheat}");
    assert_eq!(amount(&cheat["slashed"]), 1_000 * 10u128.pow(18));
    assert_eq!(cheat["evidence"].as_str().unwrap().len(), 64);
    let audits = receipt["audits"].as_array().unwrap();
    assert!(!audits.is_empty());
    for audit in audits {
        let lied = audit["container"] == cheat["container"];
        assert!(audit["epoch"].as_u64().is_some(), "{audit}");
        assert_eq!(audit["verdict"], if lied { "fraud" } else { "proved" }, "{audit}");
        assert_eq!(amount(&audit["capacity_reward"]) > 0, !lied, "{audit}");
        assert_eq!(audit["checkers"], 3);
    }
    let epoch = cheat["epoch"].as_u64().unwrap();
    let caught = epoch.to_string();

    let _up = Up::start(dir);
    // The first rental may have been over before the first epoch began; this lease is not.
    let ran = run(dir, &["run", "--cpus", "0.1", "--memory", "64M", "--disk", "64M", "--", "sleep", "2"]);
    assert_eq!(code(&ran), 0, "{}", shown(&ran));
    // Anybody computes that epoch again, runs its transcripts, and comes to the same.
    let verified = json(dir, &["epoch", "verify", &caught]);
    assert_eq!(verified["right"], true, "{verified}");
    assert!(verified["bad"].as_u64().unwrap() > 0 && verified["missing"] == 0, "{verified}");
    assert_eq!(verified["posted"], verified["computed"]);
    let explained = json(dir, &["epoch", "explain", &caught, "--container", cheat["container"].as_str().unwrap()]);
    let told = explained["containers"][0]["reasons"].to_string();
    assert!(told.contains("has not been proved yet"), "{explained}");
    assert_eq!(explained["containers"][0]["checkers"]["capacity"].as_array().unwrap().len(), 3, "{explained}");
    let outcomes = json(dir, &["epoch", "ls", "-n", "1000"]);
    let outcomes = outcomes["outcomes"].as_array().unwrap();
    assert!(outcomes.iter().any(|o| o["last_epoch"] == epoch && o["slashes"] == true), "{outcomes:?}");

    // A Checker that is killed goes on where it was, also while an epoch runs.
    let pid = || std::fs::read_to_string(dir.join("checker-0").join("lock")).unwrap().trim().to_owned();
    let before = pid();
    assert!(Command::new("kill").args(["-9", &before]).status().unwrap().success());
    wait_for("the Checker to come back", || (pid() != before).then_some(()));
    let done = wait_for("a test after that", || {
        let status = json(dir, &["checker", "status"]);
        let checker = status["checkers"][0]["checker"].clone();
        (checker["counted"]["tasks"].as_u64().unwrap_or(0) > 0 && checker["licences"] == 1).then_some(checker)
    });
    assert_eq!(done["drawable"], true, "{done}");

    // Licences: whose they are, what they earned, and claiming it.
    let licences = json(dir, &["licence", "list"]);
    let licences = licences["licences"].as_array().unwrap().clone();
    assert_eq!(licences.len(), 3, "{licences:?}");
    let rewards = json(dir, &["licence", "rewards"]);
    assert!(amount(&rewards["claimable"]) > 0, "{rewards}");
    let balance = |dir: &Path| amount(&json(dir, &["wallet", "balance"])["tokens"]);
    let had = balance(dir);
    let claimed = json(dir, &["licence", "claim"]);
    let brought = amount(&claimed["brought"]["claimed"]);
    assert!(brought >= amount(&rewards["claimable"]), "{claimed}");
    assert_eq!(balance(dir) - had, brought * 3 / 10, "30 % at once, the rest vests");
    let containers = json(dir, &["container", "claim"]);
    let honest: Vec<&Value> =
        containers["containers"].as_array().unwrap().iter().filter(|c| c["id"] != cheat["container"]).collect();
    assert!(honest.iter().all(|c| amount(&c["brought"]["claimed"]) > 0), "{containers}");

    // Once an outcome with the lease from above in it is final, the Indexer that matched it is rewarded.
    let indexer = wait_for("the Indexer's reward", || {
        let claimed = json(dir, &["indexer", "claim"]);
        (amount(&claimed["brought"]["claimed"]) > 0).then_some(claimed)
    });
    assert!(!indexer["brought"]["transactions"].as_array().unwrap().is_empty(), "{indexer}");

    // Delegating: in a batch, and back.
    let bought = json(dir, &["licence", "buy", "2"]);
    let new: Vec<String> = bought["licences"].as_array().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(new.len(), 2, "{bought}");
    let checker = licences[0]["checker"].as_str().unwrap();
    json(dir, &["licence", "delegate", &new[0], &new[1], "--to", checker]);
    let delegated = json(dir, &["licence", "list"]);
    let served = delegated["licences"].as_array().unwrap().iter().filter(|l| l["checker"] == checker).count();
    assert_eq!(served, 3, "{delegated}");
    json(dir, &["licence", "undelegate", &new[0], &new[1]]);

    // The page and its API.
    let (head, body) = page(dir, "/", None);
    assert!(
        head.contains("200 ok") && head.contains("content-security-policy") && body.contains("checker.js"),
        "{head}"
    );
    let (head, _) = page(dir, "/api/v1/status", Some("example.org"));
    assert!(head.contains("403"), "{head}");
    let (_, body) = page(dir, &format!("/api/v1/licences/{}/rewards", licences[0]["id"]), None);
    let told: Value = serde_json::from_str(&body).unwrap();
    assert!(amount(&told["owner"]["rewards"]["claimed"]) >= brought, "{told}");
    let (_, body) = page(dir, &format!("/api/v1/clients/{checker}"), None);
    let told: Value = serde_json::from_str(&body).unwrap();
    assert!(told["status"] == "active" && told["week"]["done"].as_u64().unwrap() > 0, "{told}");
    let (head, body) = page(dir, "/api/v1/clients/nobody", None);
    assert!(head.contains("400") && body.contains("not the key of a Checker"), "{head}\n{body}");

    // Bad input: a sentence and nothing sent.
    refused(dir, &["licence", "delegate", "999", "--to", checker], 112, &["no licence 999", "nothing was sent"]);
    refused(dir, &["licence", "delegate", &new[0], "--to", &"00".repeat(32)], 112, &["not registered as a Checker"]);
    refused(dir, &["licence", "undelegate", &new[0]], 112, &["delegated to nobody"]);
    refused(dir, &["licence", "buy", "--max-price", "1"], 105, &["costs 100", "nothing was bought"]);
    refused(dir, &["epoch", "explain", "99999999999"], 112, &["begins in", "nobody can know"]);
    refused(dir, &["epoch", "explain", "1"], 112, &["before the network's first"]);
    refused(dir, &["epoch", "verify", "now"], 112, &["no outcome of epoch"]);
    refused(dir, &["epoch", "explain", "soon"], 2, &["write its number"]);
    refused(dir, &["checker", "top-up"], 101, &["several Checkers"]);
    refused(&dir.join("checker-1"), &["checker", "top-up"], 112, &["is whole", "nothing was sent"]);
}

/// Sets a key of every Checker's configuration; they take it at their next start.
pub(crate) fn configure(dir: &Path, key: &str, value: &str) {
    for index in 0..3 {
        let path = dir.join(format!("checker-{index}")).join("checker.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with(key)).collect();
        std::fs::write(&path, format!("{}\n{key} = {value}\n", kept.join("\n"))).unwrap();
    }
}

/// What Checkers found who came as players.
fn played(dir: &Path) -> Vec<(String, String, String)> {
    told(dir, "as a player")
}

/// What Checkers found, of what they explain by words that begin so: the Container, the finding, and why.
pub(crate) fn told(dir: &Path, beginning: &str) -> Vec<(String, String, String)> {
    let status = json(dir, &["checker", "status"]);
    let tasks = |checker: &Value| checker["checker"]["tasks"].as_array().cloned().unwrap_or_default();
    let all = status["checkers"].as_array().unwrap().iter().flat_map(tasks);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    all.filter(|task| text(&task["why"]).starts_with(beginning))
        .map(|task| (text(&task["subject"]), task["finding"].to_string(), text(&task["why"])))
        .collect()
}

#[test]
fn checkers_come_as_players_and_a_picture_that_is_not_made_for_them_costs_quality() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let args = ["--containers", "1", "--with-cheat", "frames", "--checkers", "3"];
    // Made, and stopped, so that every look is played from the next start on.
    drop(Up::start_with(dir, &args));
    configure(dir, "play_every", "1");
    let _up = Up::start_with(dir, &args);
    let nodes = json(dir, &["container", "status"]);
    let lies = |node: &&Value| node["dir"].as_str().unwrap().ends_with("/cheat");
    let cheat =
        nodes["containers"].as_array().unwrap().iter().find(lies).unwrap_or_else(|| panic!("no cheat: {nodes}"));
    let cheat = cheat["status"]["id"].as_str().unwrap().to_owned();
    // Work is looked at where there is work: at the cheat and at the honest one. Which of them a session goes to is the
    // Indexer's choice, up to where one is full; and one that is full is not looked at, so none keeps two.
    let (mut at_work, mut more) = (std::collections::BTreeMap::new(), Vec::new());
    while at_work.len() < 2 {
        let started = run(dir, &["--json", "session", "start", "latency", "--resolution", "640x360", "--fps", "30"]);
        assert_eq!(code(&started), 0, "with {at_work:?} at work: {}", shown(&started));
        let session: Value = serde_json::from_slice(&started.stdout).unwrap();
        let id = session["id"].as_str().unwrap().to_owned();
        let container = wait_for("a session's Container", || {
            let sessions = json(dir, &["session", "ls"]);
            let this = sessions.as_array()?.iter().find(|one| one["id"] == *id)?;
            this["container"].as_str().map(str::to_owned)
        });
        more.extend(at_work.insert(container, id));
    }
    for session in more {
        assert_eq!(code(&run(dir, &["session", "stop", &session])), 0);
    }
    let (_, finding, why) = wait_for("a Checker that was shown a stale picture", || {
        played(dir).into_iter().find(|(subject, ..)| *subject == cheat)
    });
    assert!(finding.contains("poor") && why.contains("not made now"), "{finding}: {why}");
    let honest =
        wait_for("a Checker that played elsewhere", || played(dir).into_iter().find(|(subject, ..)| *subject != cheat));
    assert!(honest.1.contains("good") && honest.2.contains("codes seen within"), "{honest:?}");
    // The verdict of the committee, in an epoch's outcome.
    wait_for("its quality to fall", || {
        let outcomes = json(dir, &["epoch", "ls", "-n", "1"]);
        let last = outcomes["outcomes"][0]["last_epoch"].as_u64()?;
        let explained = json(dir, &["epoch", "explain", &last.to_string()]);
        let all = explained["containers"].as_array()?.clone();
        let of = |who: &str| all.iter().find(|c| c["id"] == who)?["outcome"]["quality_bps"].as_u64();
        (of(&cheat)? < of(&honest.0)?).then_some(())
    });
}
