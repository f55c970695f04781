//! Hosts on one machine: network namespaces joined by a switch, some behind NAT, with cables that can be pulled and
//! links that delay and lose. Everything stays among these namespaces: they have no way out.
//!
//! ```text
//!   host a          host b        host c (behind its own NAT router)
//!   10.77.0.10      10.77.0.11    192.168.102.2 ── router 192.168.102.1 / 10.77.0.12
//!      │               │                             │
//!      └───────────────┴──── switch 10.77.0.0/24 ────┘
//! ```
//!
//! This module stands alone (std and rustix), so that tests of other crates include it with `#[path]` and run real
//! programs in the hosts ([`Host::command`]).
#![allow(dead_code, reason = "each test that includes this module uses its own part of it")]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Tells apart the networks of tests that run in one process.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Runs a command and panics with its words if it fails.
fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
}

/// `ip` with words separated by spaces.
fn ip(words: &str) {
    run("ip", &words.split_whitespace().collect::<Vec<_>>());
}

/// Why this machine cannot make namespaces, if it cannot. A run that must not skip sets `MUSTER_NETNS=required`.
fn obstacle() -> Option<String> {
    let probe = format!("musprobe{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let result = Command::new("ip").args(["netns", "add", &probe]).output();
    let why = match result {
        Ok(output) if output.status.success() => {
            ip(&format!("netns del {probe}"));
            Command::new("iptables").arg("--version").output().err().map(|_| "iptables is not installed".to_owned())
        }
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(_) => Some("iproute2 is not installed".to_owned()),
    };
    if let Some(why) = &why {
        let required = std::env::var_os("MUSTER_NETNS").is_some_and(|value| value == "required");
        assert!(!required, "network namespaces are required here, and cannot be had: {why}");
    }
    why
}

/// A switch and its hosts; all gone when dropped, with whatever still runs in them.
pub(crate) struct Net {
    name: String,
    hosts: u8,
    namespaces: Vec<String>,
    wires: Vec<Arc<AtomicBool>>,
}

impl Net {
    /// `None` (and a line that says why) where the machine does not allow namespaces.
    pub(crate) fn new() -> Option<Self> {
        if let Some(why) = obstacle() {
            eprintln!("SKIPPED, no network namespaces: {why}");
            return None;
        }
        let mut net = Self {
            name: format!("mus{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)),
            hosts: 0,
            namespaces: Vec::new(),
            wires: Vec::new(),
        };
        let switch = net.namespace("switch");
        ip(&format!("-n {switch} link add br0 type bridge"));
        ip(&format!("-n {switch} link set br0 up"));
        Some(net)
    }

    /// A host with an address of its own on the switch.
    pub(crate) fn host(&mut self, name: &str) -> Host {
        let place = self.next_place();
        let addr = Ipv4Addr::new(10, 77, 0, 10 + place);
        let namespace = self.namespace(name);
        let port = self.plug_in(&namespace, place, addr);
        Host { namespace, addr, outside: addr, switch: self.switch(), port }
    }

    /// A host behind a NAT router of its own: it reaches the others, and none of them reaches it first.
    pub(crate) fn host_behind_nat(&mut self, name: &str) -> Host {
        let place = self.next_place();
        let outside = Ipv4Addr::new(10, 77, 0, 10 + place);
        let router = self.namespace(&format!("{name}-nat"));
        let port = self.plug_in(&router, place, outside);
        let namespace = self.namespace(name);
        let addr = Ipv4Addr::new(192, 168, 100 + place, 2);
        let inside = Ipv4Addr::new(192, 168, 100 + place, 1);
        ip(&format!("-n {router} link add lan0 type veth peer name eth0 netns {namespace}"));
        ip(&format!("-n {router} addr add {inside}/24 dev lan0"));
        ip(&format!("-n {router} link set lan0 up"));
        ip(&format!("-n {namespace} addr add {addr}/24 dev eth0"));
        ip(&format!("-n {namespace} link set eth0 up"));
        ip(&format!("-n {namespace} route add default via {inside}"));
        let inside_router = |words: &str| {
            let args = format!("netns exec {router} {words}");
            ip(&args);
        };
        inside_router("sysctl -qw net.ipv4.ip_forward=1");
        inside_router("iptables -t nat -A POSTROUTING -o eth0 -j MASQUERADE");
        // Like a household's router: only answers come in.
        inside_router("iptables -A FORWARD -i eth0 -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT");
        inside_router("iptables -A FORWARD -i eth0 -j DROP");
        Host { namespace, addr, outside, switch: self.switch(), port }
    }

    /// Makes a host's link slow and lossy, both ways: every frame is late by `delay`, and `loss_per_mille` of 1,000
    /// are lost. In user space between two taps, because not every kernel has netem.
    pub(crate) fn shape(&mut self, host: &Host, delay: Duration, loss_per_mille: u32) {
        let (switch, port) = (self.switch(), &host.port);
        let (near, far, bridge) = (format!("{port}n"), format!("{port}f"), format!("{port}b"));
        for tap in [&near, &far] {
            ip(&format!("-n {switch} tuntap add dev {tap} mode tap"));
        }
        ip(&format!("-n {switch} link add {bridge} type bridge"));
        ip(&format!("-n {switch} link set {port} master {bridge}"));
        ip(&format!("-n {switch} link set {near} master {bridge}"));
        ip(&format!("-n {switch} link set {far} master br0"));
        for link in [&bridge, &near, &far] {
            ip(&format!("-n {switch} link set {link} up"));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let (near, far) = in_namespace(&switch, move || (open_tap(&near), open_tap(&far)));
        for (seed, from, to) in [(1, &near, &far), (2, &far, &near)] {
            let (from, to) = (from.try_clone().expect("a tap"), to.try_clone().expect("a tap"));
            carry(from, to, delay, loss_per_mille, seed, Arc::clone(&stop));
        }
        self.wires.push(stop);
    }

    fn next_place(&mut self) -> u8 {
        self.hosts += 1;
        self.hosts - 1
    }

    fn switch(&self) -> String {
        format!("{}-switch", self.name)
    }

    fn namespace(&mut self, name: &str) -> String {
        let namespace = format!("{}-{name}", self.name);
        ip(&format!("netns add {namespace}"));
        self.namespaces.push(namespace.clone());
        ip(&format!("-n {namespace} link set lo up"));
        namespace
    }

    /// A cable from a namespace to the switch; gives the switch's end.
    fn plug_in(&self, namespace: &str, place: u8, addr: Ipv4Addr) -> String {
        let (switch, port) = (self.switch(), format!("p{place}"));
        ip(&format!("-n {switch} link add {port} type veth peer name eth0 netns {namespace}"));
        ip(&format!("-n {switch} link set {port} master br0"));
        ip(&format!("-n {switch} link set {port} up"));
        ip(&format!("-n {namespace} addr add {addr}/24 dev eth0"));
        ip(&format!("-n {namespace} link set eth0 up"));
        port
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for stop in &self.wires {
            stop.store(true, Ordering::Relaxed);
        }
        for namespace in self.namespaces.iter().rev() {
            if let Ok(pids) = Command::new("ip").args(["netns", "pids", namespace]).output() {
                let own = std::process::id().to_string();
                for pid in String::from_utf8_lossy(&pids.stdout).split_whitespace().filter(|pid| **pid != *own) {
                    Command::new("kill").args(["-9", pid]).output().ok();
                }
            }
            Command::new("ip").args(["netns", "del", namespace]).output().ok();
        }
    }
}

/// One host.
#[derive(Clone)]
pub(crate) struct Host {
    namespace: String,
    addr: Ipv4Addr,
    outside: Ipv4Addr,
    switch: String,
    port: String,
}

impl Host {
    /// Its own address.
    pub(crate) fn addr(&self) -> IpAddr {
        self.addr.into()
    }

    /// The address at which others see it: its own, or its NAT router's.
    pub(crate) fn outside(&self) -> IpAddr {
        self.outside.into()
    }

    /// A program to be run in the host. Not by `ip netns exec`, which mounts another /sys and hides the control groups.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args([&format!("--net=/run/netns/{}", self.namespace), "--", program]);
        command
    }

    /// Runs a program in the host and gives what it printed.
    pub(crate) fn output(&self, words: &str) -> String {
        let mut parts = words.split_whitespace();
        let output = self.command(parts.next().expect("a program")).args(parts).output().expect("ip netns exec");
        assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr).trim());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs `work` in a thread whose sockets are the host's.
    pub(crate) fn thread<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
        let namespace = self.namespace.clone();
        thread::spawn(move || {
            enter(&namespace);
            work()
        })
    }

    /// Pulls the cable between the switch and the host (or its NAT router: then the host's own link stays up, and only
    /// silence tells).
    pub(crate) fn unplug(&self) {
        ip(&format!("-n {} link set {} down", self.switch, self.port));
    }

    /// Plugs it in again.
    pub(crate) fn plug(&self) {
        ip(&format!("-n {} link set {} up", self.switch, self.port));
    }
}

/// Moves the calling thread: its sockets, and those of threads that it starts, are then the namespace's.
fn enter(namespace: &str) {
    let file = File::open(format!("/run/netns/{namespace}")).expect("the namespace was made");
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may enter a namespace");
}

fn in_namespace<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            enter(namespace);
            work()
        });
        worker.join().expect("the work in the namespace")
    })
}

/// Opens a tap of the current namespace: whole Ethernet frames, nothing in front of them.
fn open_tap(name: &str) -> File {
    use rustix::ioctl::{Setter, ioctl, opcode};
    const TUN_SET_IFF: rustix::ioctl::Opcode = opcode::write::<i32>(b'T', 202);
    const TAP_WITHOUT_HEADER: i16 = 0x0002 | 0x1000;
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        flags: i16,
        rest: [u8; 22],
    }
    let tap = File::options().read(true).write(true).open("/dev/net/tun").expect("/dev/net/tun");
    let mut request = Request { name: [0; 16], flags: TAP_WITHOUT_HEADER, rest: [0; 22] };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    #[allow(unsafe_code, reason = "the kernel's only way to take a tap is this ioctl")]
    // SAFETY: TUNSETIFF reads one `struct ifreq`: 16 bytes of name and 24 of request, of which it uses the flags.
    // `Request` is that layout, and it lives until the call returns.
    unsafe {
        ioctl(&tap, Setter::<TUN_SET_IFF, Request>::new(request)).expect("the tap was made");
    }
    tap
}

/// Carries frames one way until the taps vanish or it is told to stop, each late by `delay`, some not at all.
fn carry(mut from: File, mut to: File, delay: Duration, loss_per_mille: u32, seed: u64, stop: Arc<AtomicBool>) {
    const QUEUE: usize = 4_096;
    let (sender, receiver) = sync_channel::<(Instant, Vec<u8>)>(QUEUE);
    thread::spawn(move || {
        let (mut frame, mut state) = ([0; 65_536], seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        while let Ok(count) = from.read(&mut frame) {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            // xorshift64
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            if state % 1_000 >= u64::from(loss_per_mille) {
                // A full queue loses frames, as a router's does.
                sender.try_send((Instant::now() + delay, frame[..count].to_vec())).ok();
            }
        }
    });
    thread::spawn(move || {
        while let Ok((due, frame)) = receiver.recv() {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            // A frame that cannot be delivered is lost, as on any wire.
            to.write_all(&frame).ok();
        }
    });
}
