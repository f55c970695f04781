//! Jobs with egress: the internet, and neither the host nor its neighbours.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use crate::harness::{Host, Ran, host, perl, script};

/// Two ends of a cable: an address on this host, and one of a "stranger on the internet" in a namespace of its own.
struct Stranger {
    name: String,
    server: Option<Child>,
}

const HOST_SIDE: &str = "44.255.255.1";
const STRANGER: &str = "44.255.255.2";
const PORT: u16 = 8080;

impl Stranger {
    /// `None`, said aloud, where this machine makes no network namespaces.
    fn new() -> Option<Self> {
        let name = format!("muster{}", std::process::id());
        let (near, far) = (format!("mn{}", std::process::id()), format!("mf{}", std::process::id()));
        let stranger = Self { name: name.clone(), server: None };
        let steps = [
            format!("netns add {name}"),
            format!("link add {near} type veth peer name {far} netns {name}"),
            format!("addr add {HOST_SIDE}/30 dev {near}"),
            format!("link set {near} up"),
            format!("-n {name} addr add {STRANGER}/30 dev {far}"),
            format!("-n {name} link set {far} up"),
        ];
        for step in &steps {
            let done = Command::new("ip").args(step.split(' ')).stderr(Stdio::null()).status();
            if !done.is_ok_and(|status| status.success()) {
                eprintln!("skipped: no network namespace with an address of its own can be made here (ip {step})");
                return None;
            }
        }
        Some(stranger.serve())
    }

    fn serve(mut self) -> Self {
        let program = format!(
            "use IO::Socket::INET; my $l = IO::Socket::INET->new(LocalAddr => '0.0.0.0:{PORT}', Listen => 5) or die;
             $| = 1; print \"ready\\n\"; while (my $c = $l->accept) {{ print $c 'hello from ' . $c->peerhost; close $c }}"
        );
        let mut server = Command::new("ip")
            .args(["netns", "exec", &self.name, "perl", "-e", &program])
            .stdout(Stdio::piped())
            .spawn()
            .expect("server");
        let mut ready = [0_u8; 6];
        std::io::Read::read_exact(server.stdout.as_mut().expect("stdout"), &mut ready).expect("the server is ready");
        self.server = Some(server);
        self
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
        // Takes the cable with it.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).stderr(Stdio::null()).status();
    }
}

async fn connect(host: &Host, address: &str, port: u16) -> Ran {
    let mut job = perl(&format!(
        "use IO::Socket::INET; my $s = IO::Socket::INET->new(PeerAddr => '{address}:{port}', Timeout => 20);
         if ($s) {{ local $/; print 'CONNECTED ', <$s> }} else {{ print \"refused: $!\" }}"
    ));
    job.egress = true;
    host.run(job).await
}

fn able(host: &Host) -> bool {
    if host.sandbox.capabilities().slirp4netns.is_none() {
        let findings = &host.sandbox.capabilities().findings;
        eprintln!("skipped: {}", findings.iter().find(|finding| finding.layer == "egress").expect("a finding"));
        return false;
    }
    true
}

#[tokio::test]
async fn with_egress_the_internet_is_reached_and_the_host_is_not() {
    let Some(host) = host() else { return };
    if !able(&host) {
        return;
    }
    let listener = TcpListener::bind("0.0.0.0:0").expect("listen");
    listener.set_nonblocking(true).expect("nonblocking");
    let port = listener.local_addr().expect("address").port();
    let stranger = if rustix::process::geteuid().is_root() { Stranger::new() } else { None };
    if stranger.is_some() {
        let ran = connect(&host, STRANGER, PORT).await;
        assert_eq!(ran.stdout, format!("CONNECTED hello from {HOST_SIDE}"), "{ran:?}");
        // The very same cable does not lead to the host's own end of it.
        let ran = connect(&host, HOST_SIDE, port).await;
        assert_eq!(ran.stdout, "refused: Permission denied", "{ran:?}");
    }
    for address in ["127.0.0.1", "10.0.2.2", "10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", "100.64.0.1"] {
        let ran = connect(&host, address, port).await;
        assert!(ran.stdout.starts_with("refused: "), "{address}: {ran:?}");
    }
    assert!(listener.accept().is_err(), "somebody connected to the host");
    drop(stranger);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_are_connected_at_the_same_time_all_begin() {
    let Some(host) = host() else { return };
    if !able(&host) {
        return;
    }
    // So many that bubblewrap is paused again and again while it makes a network that slirp4netns joins.
    let run = |number: u32| {
        let host = &host;
        async move {
            let mut job = script("grep -c tap0 /proc/net/dev");
            job.egress = true;
            let work = host.prepare(&format!("job-{number}"), &job).await;
            let ran = host.run_in(&work, job).await;
            work.remove().await.expect("remove");
            ran
        }
    };
    for ran in futures::future::join_all((0..24).map(run)).await {
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("1\n", ""), "{ran:?}");
    }
}

#[tokio::test]
async fn the_routes_of_egress_cannot_be_opened_and_its_helper_ends_with_the_job() {
    let Some(host) = host() else { return };
    if !able(&host) {
        return;
    }
    let mut job = script("ip route del prohibit 10.0.0.0/8; ip route flush table main; ip link; cat /etc/resolv.conf");
    job.egress = true;
    let ran = host.run(job).await;
    assert!(ran.stdout.contains("tap0") && ran.stdout.contains("nameserver 10.0.2.3"), "{ran:?}");
    assert!(ran.stderr.contains("Operation not permitted"), "{ran:?}");
    // It is killed with the job, and is gone when the kernel has done with it.
    for _ in 0..200 {
        if helpers() == 0 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("a helper outlives its job");
}

/// Helpers of this process that live.
fn helpers() -> usize {
    let mine = std::process::id().to_string();
    let helpers = std::fs::read_dir("/proc").expect("/proc").flatten().filter(|entry| {
        let text = |file: &str| std::fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        // Name in brackets, state, parent: a helper that was killed but not yet reaped does no harm.
        let stat = text("stat");
        let after = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect::<Vec<_>>();
        stat.contains("(slirp4netns)") && after.first() != Some(&"Z") && after.get(1) == Some(&mine.as_str())
    });
    helpers.count()
}
