//! Joining from other machines: the real binary on hosts of their own. The network runs on one, a Container joins from
//! behind NAT over a slow and lossy line, a consumer rents from a third, and a cable is pulled in the middle of a job.

#[path = "../../../muster-net/tests/it/netns/net.rs"]
mod hosts;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::network::{clean, code, file, shown};
use hosts::{Host, Net};

/// How long anything may take before the test gives up and shows the logs: generous, for shared machines.
const PATIENCE: Duration = Duration::from_secs(180);
/// The Container's line: each way, every frame is late by this, and so many of 1,000 are lost.
const DELAY: Duration = Duration::from_millis(20);
const LOSS_PER_MILLE: u32 = 10;
/// How the far Container's owner names its place.
const REGION: &str = "hill";

#[test]
fn a_second_machine_joins_from_behind_nat_and_a_third_rents_from_it() {
    let Some(mut net) = Net::new() else { return };
    let (near, far, consumer) = (net.host("near"), net.host_behind_nat("far"), net.host("consumer"));
    net.shape(&far, DELAY, LOSS_PER_MILLE);
    let world = World::start(net, near, far, consumer);
    files_and_words_cross_the_line(&world);
    let billed = the_cable_is_pulled(&world);
    let left_alone = billed + nobody_else_takes_it(&world);
    assert!(left_alone > 0, "what was delivered is paid");
    the_container_works_again(&world);
}

/// Every bill adds up: what the job reports is what the wallet lost, and no lease cost more than it ran by its vouchers.
fn rent(world: &World, args: &[&str]) -> (Output, Value) {
    let before = world.balance();
    let output = world.rent(args).output().unwrap();
    let report = told(&output);
    check_bill(world, &report, before);
    (output, report)
}

fn check_bill(world: &World, report: &Value, before: u128) {
    assert_eq!(before - world.balance(), amount(&report["billed"]), "{report}");
    let mut sum = 0;
    for lease in leases(report) {
        let billed = amount(&lease["billed"]);
        let vouched = amount(&lease["rate_per_second"]) * u128::from(lease["ran_ms"].as_u64().unwrap()) / 1_000;
        // Rounded up to the token's smallest unit.
        assert!(billed <= vouched + 1, "billed more than was vouched for: {lease}");
        assert!(billed == 0 || lease["vouchers"].as_u64().unwrap() > 0, "billed without a voucher: {lease}");
        assert_eq!(lease["phase"], "closed", "{lease}");
        sum += billed;
    }
    assert_eq!(sum, amount(&report["billed"]), "{report}");
}

fn files_and_words_cross_the_line(world: &World) {
    // It has registered, but the Indexer reads the registry and hears heartbeats at its own pace.
    wait_for(world, "the far Container to be offered", || {
        let (output, _) = rent(world, &["--region", REGION, "--", "true"]);
        (code(&output) == 0).then_some(())
    });
    let bytes: Vec<u8> = (0..200_000u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
    let input = file(world.dir.path(), "input.bin", &bytes);
    let out = world.dir.path().join("out");
    let script = "cp input.bin back.bin; echo carried; exit 7";
    let io = ["--input", input.to_str().unwrap(), "--output", out.to_str().unwrap()];
    let (output, report) = rent(world, &[&["--region", REGION], &io[..], &["--", "sh", "-c", script]].concat());
    assert_eq!(code(&output), 7, "{}", shown(&output));
    // With --json, the job's words go to standard error.
    assert!(String::from_utf8_lossy(&output.stderr).contains("carried"), "{}", shown(&output));
    assert!(std::fs::read(out.join("back.bin")).unwrap() == bytes, "the file came back changed");
    let last = leases(&report).last().unwrap();
    assert_eq!(last["container"], world.far_id, "{report}");
    assert_ne!(last["billed"], "0", "{report}");
}

/// The job goes on elsewhere. Gives what was billed.
fn the_cable_is_pulled(world: &World) -> u128 {
    let before = world.balance();
    // The far Container is by far the cheapest.
    let script = "echo begun; sleep 5; echo ended";
    let words = world.dir.path().join("words");
    let job = world
        .rent(&["--objective", "cheapest", "--", "sh", "-c", script])
        .stdout(Stdio::piped())
        .stderr(File::create(&words).unwrap())
        .spawn()
        .unwrap();
    let mut job = Running { child: job, log: words.clone() };
    wait_for(world, "the job to begin", || read(&words).contains("begun").then_some(()));
    let held = world.status();
    assert_eq!(held["leases"].as_array().unwrap().len(), 1, "it began elsewhere: {held}\n{}", read(&words));
    world.far.unplug();
    let mut text = String::new();
    job.child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    let status = job.child.wait().unwrap();
    let said = read(&words);
    assert_eq!(status.code(), Some(0), "{text}\n{said}");
    let report: Value = serde_json::from_str(&text).unwrap();
    check_bill(world, &report, before);
    let all = leases(&report);
    let (first, last) = (&all[0], all.last().unwrap());
    assert_eq!(first["container"], world.far_id, "{report}");
    assert!(first["end"].as_str().unwrap().contains("interrupted"), "{report}");
    assert_ne!(last["container"], world.far_id, "{report}");
    assert!(said.contains("the line to the Container broke"), "the consumer was not told: {said}");
    assert!(said.contains("trying another Container"), "the consumer was not told: {said}");
    assert!(said.contains("ended"), "{said}");
    amount(&report["billed"])
}

/// While the cable hangs, a job that fits nowhere else is refused with the documented code, and costs nothing.
fn nobody_else_takes_it(world: &World) -> u128 {
    let before = world.balance();
    let output = world.rent(&["--region", REGION, "--", "true"]).output().unwrap();
    assert_eq!(code(&output), 104, "{}", shown(&output));
    assert_eq!(before, world.balance());
    amount(&told(&output)["billed"])
}

/// Plugged in again, the Container has ended and settled what it held, offers all of itself, and serves.
fn the_container_works_again(world: &World) {
    world.far.plug();
    let idle = wait_for(world, "the Container to be free and connected again", || {
        let status = world.status();
        let connected = status["indexers"].as_array().unwrap().iter().all(|i| i["connected"] == true);
        (connected && status["leases"].as_array().unwrap().is_empty()).then_some(status)
    });
    assert_eq!(idle["free"]["cpu_millis"], 1_000, "a ghost holds capacity: {idle}");
    // All of it: a reservation that only the Indexer still believed in would show.
    let whole = ["--cpus", "1", "--memory", "1G", "--disk", "2G", "--region", REGION, "--", "echo", "back again"];
    let report = wait_for(world, "the Container to be rented as a whole", || {
        let (output, report) = rent(world, &whole);
        (code(&output) == 0).then_some(report)
    });
    let last = leases(&report).last().unwrap();
    assert_eq!(last["container"], world.far_id, "{report}");
    assert_eq!(last["vouchers"].as_u64().map(|n| n > 0), Some(true), "{report}");
}

/// The three machines. Fields are dropped in this order: programs first, then the network they run in.
struct World {
    container: Running,
    up: Running,
    dir: tempfile::TempDir,
    near: Host,
    far: Host,
    consumer: Host,
    /// The node key of the Container behind NAT.
    far_id: String,
    wallet: String,
    _net: Net,
}

impl World {
    /// The network, a Container that joined with two commands, and a consumer with a wallet.
    fn start(net: Net, near: Host, far: Host, consumer: Host) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let mut up = on(&near, &at("near"));
        up.args(["up", "--no-rental", "--checkers", "0", "--containers", "1", "--rpc-port", "8545", "--listen"]);
        let up = Running::start(up.arg(near.addr().to_string()), at("up.log"));
        until(&up, "the network to be ready", || read(&up.log).contains("Ctrl-C"));
        // The one thing that a person carries from machine to machine.
        let network = at("network.toml");
        std::fs::copy(at("near").join("network.toml"), &network).unwrap();

        let mut init = on(&far, &at("far"));
        init.arg("--network").arg(&network).args(["--json", "container", "init", "--region", REGION]);
        let made = answer(init.args(["--cpus", "1", "--memory", "1G", "--disk", "2G"]));
        let owner = made["wallet"].as_str().unwrap().to_owned();
        ask_a_tenth(&at("far").join("container/container.toml"));
        fund(&near, &at("near"), &owner);
        let container = Running::start(on(&far, &at("far")).args(["container", "run"]), at("container.log"));

        let mut new = on(&consumer, &at("consumer"));
        let wallet = answer(new.args(["--json", "wallet", "new"]))["address"].as_str().unwrap().to_owned();
        fund(&near, &at("near"), &wallet);
        let far_id = made["id"].as_str().unwrap().to_owned();
        let world = Self { container, up, dir, near, far, consumer, far_id, wallet, _net: net };
        until(&world.container, "the Container to join", || {
            read(&world.container.log).contains("connected to an Indexer")
        });
        world
    }

    /// `muster --json run` with these arguments, on the consumer's machine.
    fn rent(&self, args: &[&str]) -> Command {
        let mut command = on(&self.consumer, &self.dir.path().join("consumer"));
        command.arg("--network").arg(self.dir.path().join("network.toml")).args(["--json", "run"]);
        if !args.contains(&"--cpus") {
            command.args(["--cpus", "0.2", "--memory", "64M", "--disk", "64M"]);
        }
        command.args(args);
        command
    }

    /// What the Container behind NAT says of itself, also while no cable is in.
    fn status(&self) -> Value {
        let mut command = on(&self.far, &self.dir.path().join("far"));
        answer(command.args(["--json", "container", "status"]))["containers"][0]["status"].take()
    }

    /// The consumer's tokens, in the smallest unit.
    fn balance(&self) -> u128 {
        let mut command = on(&self.near, &self.dir.path().join("near"));
        amount(&answer(command.args(["--json", "wallet", "balance", &self.wallet]))["tokens"])
    }

    fn logs(&self) -> String {
        let mut text = String::new();
        let folder = self.dir.path().join("near/logs");
        let roles = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        for log in [self.up.log.clone(), self.container.log.clone()].into_iter().chain(roles) {
            let all = read(&log);
            let skip = all.lines().count().saturating_sub(25);
            let tail: Vec<&str> = all.lines().skip(skip).collect();
            text += &format!("--- {}\n{}\n", log.display(), tail.join("\n"));
        }
        text
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
    }
}

/// A program that is asked to end when dropped.
struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    fn start(command: &mut Command, log: PathBuf) -> Self {
        let file = File::create(&log).unwrap();
        let child = command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        Self { child, log }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let asked = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
            let until = Instant::now() + Duration::from_secs(30);
            while matches!(self.child.try_wait(), Ok(None)) {
                if Instant::now() > until {
                    eprintln!("{asked:?}, but it does not end: {}", self.log.display());
                    self.child.kill().ok();
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

/// The binary on a host, with a folder of its own.
fn on(host: &Host, dir: &Path) -> Command {
    let mut command = host.command(env!("CARGO_BIN_EXE_muster"));
    clean(&mut command).arg("--dir").arg(dir);
    // The wallets that `up` makes have a passphrase of the folder's own.
    if !dir.ends_with("near") {
        command.env("MUSTER_PASSPHRASE", "three machines");
    }
    command
}

/// The owner asks a tenth of what the others do.
fn ask_a_tenth(config: &Path) {
    let text = read(config);
    let cheap = text
        .replace("core_hour = 20000", "core_hour = 2000")
        .replace("memory_gib_hour = 2000", "memory_gib_hour = 200");
    assert_ne!(text, cheap, "the configuration has other prices than this test knows");
    std::fs::write(config, cheap).unwrap();
}

/// Tokens and ether from the faucet of the network's own machine.
fn fund(near: &Host, dir: &Path, address: &str) {
    answer(on(near, dir).args(["--json", "wallet", "faucet", address]));
}

/// What a command that must succeed says.
fn answer(command: &mut Command) -> Value {
    let output = command.output().unwrap();
    assert_eq!(code(&output), 0, "{}", shown(&output));
    told(&output)
}

fn told(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", shown(output)))
}

/// The leases of a job's only task, in order.
fn leases(report: &Value) -> &Vec<Value> {
    report["tasks"][0]["leases"].as_array().unwrap()
}

fn amount(value: &Value) -> u128 {
    value.as_str().unwrap_or_else(|| panic!("{value} is no amount")).parse().unwrap()
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

fn wait_for<T>(world: &World, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain for {what}\n{}", world.status());
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Waits for a program that is starting.
fn until(running: &Running, what: &str, ask: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !ask() {
        assert!(Instant::now() < end, "waited in vain for {what}\n{}", read(&running.log));
        std::thread::sleep(Duration::from_millis(100));
    }
}
