//! The internet for jobs that ask for it, without the host's own network.
//!
//! The job keeps its own network namespace. Bubblewrap brings its loopback up, and fails where somebody else has done so
//! before: it is waited for. Then slirp4netns carries its connections in user space, refuses the host's
//! loopback, and answers name lookups; before the job begins, routes are closed towards everything that is not the public
//! internet: private, shared and link-local networks (the provider's neighbours, a cloud's metadata service) and the
//! host's own addresses. The job has no privilege to open them again.

use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::error::SandboxError;
use super::{Inner, system};

const READY_WAIT: Duration = Duration::from_secs(10);
const STEP: &str = "connect the job to the internet";
/// How long bubblewrap may take for the loopback, and how often it is looked at.
const LOOPBACK_WAIT: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Networks that are nobody's public address (RFC 6890), except the one slirp4netns itself uses, which is more specific.
const CLOSED: [&str; 16] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "255.255.255.255/32",
    "10.0.2.2/32",
];

/// The running connection of one job; ends when dropped, and with this process however that ends.
#[derive(Debug)]
pub(super) struct Uplink {
    _child: Child,
    /// slirp4netns ends when this end is closed, which the kernel does even after `kill -9`.
    _alive: OwnedFd,
}

/// Refuses where no job can have the internet; else says where slirp4netns is.
pub(super) fn check(inner: &Inner) -> Result<&Path, SandboxError> {
    inner.capabilities.slirp4netns.as_deref().ok_or_else(|| {
        let why = "the Container cannot give it (its provider sees the reason with `muster doctor`)".into();
        SandboxError::EgressRefused { why }
    })
}

/// Connects the network namespace of the job's first process, which waits meanwhile.
pub(super) async fn connect(inner: &Inner, pid: u32) -> Result<Uplink, SandboxError> {
    let slirp = check(inner)?;
    loopback(pid).await?;
    let connected = join(inner, slirp, pid).await;
    // Where it ended because the sandbox cannot be made, its own words say why, and nobody else's.
    connected.map_err(|error| if lives(pid) { error } else { ended() })
}

/// Waits until bubblewrap has brought the loopback up: slirp4netns does so, too, and bubblewrap takes an address that is
/// there already for a failure and ends.
async fn loopback(pid: u32) -> Result<(), SandboxError> {
    let routes = format!("/proc/{pid}/net/fib_trie");
    let up = async {
        loop {
            // Of a process that ends nothing can be read.
            if fs::read_to_string(&routes).is_ok_and(|text| has_loopback(&text)) {
                return Ok(());
            }
            if !lives(pid) {
                return Err(ended());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    timeout(LOOPBACK_WAIT, up).await.map_err(|_| SandboxError::setup(STEP, "the loopback does not come up"))?
}

fn lives(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn ended() -> SandboxError {
    SandboxError::setup("make namespaces", "bubblewrap ended before the job began")
}

async fn join(inner: &Inner, slirp: &Path, pid: u32) -> Result<Uplink, SandboxError> {
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|error| SandboxError::setup(STEP, error));
    let ((exit_read, exit_write), (ready_read, ready_write)) = (pipe()?, pipe()?);
    let mut command = Command::new(slirp);
    command
        .args(["--configure", "--mtu=65520", "--disable-host-loopback", "--enable-seccomp", "--enable-sandbox"])
        .arg(format!("--exit-fd={}", exit_read.as_raw_fd()))
        .arg(format!("--ready-fd={}", ready_write.as_raw_fd()))
        .args([&pid.to_string(), "tap0"])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = inner.launcher.start(command, vec![exit_read, ready_write]).await?;
    let mut ready = Receiver::from_owned_fd(ready_read).map_err(|error| SandboxError::setup(STEP, error))?;
    let mut byte = [0_u8; 1];
    let answered = timeout(READY_WAIT, ready.read(&mut byte)).await;
    if !matches!(answered, Ok(Ok(1))) {
        let complaint = complaint(&mut child).await;
        return Err(SandboxError::setup(STEP, format!("slirp4netns did not become ready: {complaint}")));
    }
    close_routes(pid).await?;
    Ok(Uplink { _child: child, _alive: exit_write })
}

async fn complaint(child: &mut Child) -> String {
    // It may hang rather than have ended: then its last words are all there will be.
    let _ = child.start_kill();
    let mut text = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        let _ = timeout(READY_WAIT, stderr.take(4096).read_to_end(&mut text)).await;
    }
    system::tail(&String::from_utf8_lossy(&text))
}

/// Closes the routes inside the job's network namespace.
async fn close_routes(pid: u32) -> Result<(), SandboxError> {
    let mut lines = String::new();
    for network in CLOSED.iter().map(ToString::to_string).chain(host_addresses().iter().map(|a| format!("{a}/32"))) {
        lines.extend(["route replace prohibit ", &network, "\n"]);
    }
    let program = |name: &str| system::find_program(name).unwrap_or_else(|| name.into());
    let mut command = Command::new(program("nsenter"));
    let mut child = command
        .arg("--target")
        .arg(pid.to_string())
        .args(["--net", "--"])
        .arg(program("ip"))
        .args(["-batch", "-"])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| SandboxError::setup(STEP, error))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(lines.as_bytes()).await.map_err(|error| SandboxError::setup(STEP, error))?;
    }
    let output = timeout(READY_WAIT, child.wait_with_output())
        .await
        .map_err(|_| SandboxError::setup(STEP, "closing the private routes took too long"))?
        .map_err(|error| SandboxError::setup(STEP, error))?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = system::tail(&String::from_utf8_lossy(&output.stderr));
    Err(SandboxError::setup(STEP, format!("the private routes could not be closed: {complaint}")))
}

/// The host's own IPv4 addresses. slirp4netns gives jobs no IPv6, so there is nothing to close there.
fn host_addresses() -> Vec<Ipv4Addr> {
    local_addresses(&fs::read_to_string("/proc/net/fib_trie").unwrap_or_default())
}

/// Whether the kernel's routing tree has the loopback's address.
fn has_loopback(fib_trie: &str) -> bool {
    fib_trie.lines().any(|line| line.split_once("|-- ").is_some_and(|(_, address)| address.trim() == "127.0.0.1"))
}

/// Picks the addresses marked `/32 host LOCAL` from the kernel's routing tree.
fn local_addresses(fib_trie: &str) -> Vec<Ipv4Addr> {
    let mut addresses = Vec::new();
    let mut last = None;
    for line in fib_trie.lines() {
        if let Some((_, address)) = line.split_once("|-- ") {
            last = address.trim().parse::<Ipv4Addr>().ok();
        } else if line.contains("/32 host LOCAL")
            && let Some(address) = last.filter(|address| !address.is_loopback() && !addresses.contains(address))
        {
            addresses.push(address);
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_addresses_are_read_from_the_routing_tree() {
        let text = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     +-- 198.51.100.0/24 2 0 2\n        \
                    |-- 198.51.100.7\n           /32 host LOCAL\n        |-- 198.51.100.255\n           /32 link BROADCAST\n     \
                    |-- 127.0.0.1\n           /32 host LOCAL\nLocal:\n        |-- 198.51.100.7\n           /32 host LOCAL\n";
        assert_eq!(local_addresses(text), ["198.51.100.7".parse::<Ipv4Addr>().expect("address")]);
        assert!(has_loopback(text) && !has_loopback("") && !has_loopback("     |-- 127.0.0.11\n"));
    }

    #[tokio::test]
    async fn a_sandbox_that_ends_while_it_is_made_is_said_to_have_ended() {
        let mut child = std::process::Command::new("true").spawn().expect("true");
        let pid = child.id();
        child.wait().expect("it ends");
        let why = loopback(pid).await.expect_err("nobody is there").to_string();
        assert!(why.contains("bubblewrap ended before the job began"), "{why}");
    }
}
