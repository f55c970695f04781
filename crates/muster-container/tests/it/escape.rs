//! Jobs that try to get out: to other processes, to the network, to more privileges, past their own end.

use std::net::TcpListener;
use std::time::Duration;

use muster_container::sandbox::{JobEnd, SandboxError};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::harness::{MIB, finish, host, host_with, perl, script, spec};

#[tokio::test]
async fn other_processes_are_neither_seen_nor_signalled() {
    let Some(host) = host() else { return };
    let outside = std::process::id();
    let ran = host.run(script("cd /proc; ls -d [0-9]* | wc -l; cat 1/comm; cat */cmdline | tr '\\0' ' '")).await;
    let mut lines = ran.stdout.lines();
    let seen: usize = lines.next().and_then(|line| line.trim().parse().ok()).expect("a count");
    // The helper, the shell, ls and wc.
    assert!((2..=5).contains(&seen), "{ran:?}");
    assert!(!ran.stdout.contains("muster-container") && !ran.stdout.contains("bwrap"), "{ran:?}");
    // Signal everything that can be named, the helper first: the job is all that dies.
    let ran =
        host.run(script(&format!("kill -9 1; kill -9 {outside} 2>/dev/null || echo no such; echo still here"))).await;
    assert!(ran.stdout.contains("no such") && ran.stdout.contains("still here"), "{ran:?}");
    let ran = host.run(script("kill -9 -1; echo unreachable")).await;
    assert!(!ran.stdout.contains("unreachable") || ran.end.is_success(), "{ran:?}");
    assert!(host.run(spec(&["true"])).await.end.is_success(), "the Container lives");
}

#[tokio::test]
async fn the_helper_cannot_be_read_or_written() {
    let Some(host) = host() else { return };
    let ran = host
        .run(script(
            "for f in mem environ fd/4 maps cwd/x; do cat /proc/1/$f && echo OPEN; done; ls /proc/1/fd && echo OPEN",
        ))
        .await;
    assert!(!ran.stdout.contains("OPEN"), "{ran:?}");
    assert!(ran.stderr.contains("Permission denied"), "{ran:?}");
}

#[tokio::test]
async fn descriptors_of_the_container_are_not_inherited() {
    let Some(host) = host() else { return };
    let ran = host.run(perl("for (0..255) { print \"$_ \" if open(my $f, '<&=', $_) }")).await;
    assert_eq!(ran.stdout, "0 1 2 ", "{ran:?}");
}

#[tokio::test]
async fn without_egress_no_network_is_reached() {
    let Some(host) = host() else { return };
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    listener.set_nonblocking(true).expect("nonblocking");
    let port = listener.local_addr().expect("address").port();
    let connect = |address: &str, port: u16| {
        perl(&format!(
            "use IO::Socket::INET; my $s = IO::Socket::INET->new(PeerAddr => '{address}:{port}', Timeout => 5);
             print $s ? 'CONNECTED' : \"refused: $!\";"
        ))
    };
    let ran = host.run(connect("127.0.0.1", port)).await;
    assert_eq!(ran.stdout, "refused: Connection refused", "{ran:?}");
    assert!(listener.accept().is_err(), "somebody connected");
    for outside in ["198.51.100.1", "8.8.8.8", "169.254.169.254"] {
        let ran = host.run(connect(outside, 80)).await;
        assert_eq!(ran.stdout, "refused: Network is unreachable", "{ran:?}");
    }
    let interfaces = host.run(script("tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '; cat /etc/resolv.conf")).await;
    assert_eq!(interfaces.stdout, "lo\n", "{interfaces:?}");
}

#[tokio::test]
async fn egress_needs_the_providers_permission() {
    let Some(host) = host_with(|config| config.egress_allowed = false) else { return };
    let mut job = spec(&["true"]);
    job.egress = true;
    let work = host.prepare("job", &job).await;
    let error = host.sandbox.start(&work, job).await.expect_err("not allowed");
    assert!(matches!(error, SandboxError::EgressRefused { .. }), "{error}");
    assert!(error.into_job_end().to_string().contains("does not allow it"));
}

#[tokio::test]
async fn abstract_sockets_and_shared_memory_of_the_host_are_out_of_reach() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener};
    let Some(host) = host() else { return };
    let name = format!("muster-escape-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("address");
    let _listener = UnixListener::bind_addr(&address).expect("listen");
    let ran = host
        .run(perl(&format!(
            "use Socket; socket(my $s, AF_UNIX, SOCK_STREAM, 0) or die;
             print connect($s, pack_sockaddr_un(\"\\0{name}\")) ? 'CONNECTED' : \"refused: $!\";"
        )))
        .await;
    assert!(ran.stdout.starts_with("refused"), "{ran:?}");
    let segments = host.run(script("tail -n +2 /proc/sysvipc/shm | wc -l; ls /dev/shm | wc -l")).await;
    assert_eq!(segments.stdout, "0\n0\n", "{segments:?}");
}

#[tokio::test]
async fn privileges_cannot_be_gained() {
    let Some(host) = host() else { return };
    let ran = host.run(script("cat /proc/self/status")).await;
    let field = |name: &str| {
        let line = ran.stdout.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.expect(name).trim().to_owned()
    };
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!((field("NoNewPrivs").as_str(), field("Seccomp").as_str()), ("1", "2"));
    assert!(!field("Uid").split_whitespace().any(|id| id == "0"), "{ran:?}");
    assert_eq!(field("Groups"), "");
    let ran = host
        .run(script(
            "su -c id root </dev/null && echo ROOT; mount -t tmpfs none /tmp && echo MOUNTED; mount --bind /tmp /usr && echo MOUNTED
             cp /bin/sh sh && chmod 4755 sh && ./sh -p -c 'id -u'; chown 0 sh && echo CHOWNED; mknod disk b 254 0 && echo DEVICE
             perl -e '$< = 0; $> = 0; print \"uid $< $>\\n\"'",
        ))
        .await;
    for word in ["ROOT", "MOUNTED", "CHOWNED", "DEVICE", "uid=0"] {
        assert!(!ran.stdout.contains(word), "{word}: {ran:?}");
    }
    assert!(!ran.stdout.lines().any(|line| line == "0" || line == "uid 0 0"), "{ran:?}");
}

/// Calls that a filter must stop, by number, with arguments that would do harm.
#[cfg(target_arch = "x86_64")]
#[tokio::test]
async fn dangerous_system_calls_are_refused() {
    const EPERM: &str = "Operation not permitted";
    const ENOSYS: &str = "Function not implemented";
    let Some(host) = host() else { return };
    let calls: [(&str, &str, &str); 22] = [
        ("unshare user", "272, 0x10000000", EPERM),
        ("unshare mount", "272, 0x20000", EPERM),
        ("clone new user", "56, 0x10000000 | 17, 0, 0, 0, 0", EPERM),
        ("clone3", "435, 0, 0", ENOSYS),
        ("mount", "165, 0, 0, 0, 0, 0", EPERM),
        ("ptrace traceme", "101, 0, 0, 0, 0", EPERM),
        ("bpf", "321, 0, 0, 0", EPERM),
        ("perf_event_open", "298, 0, 0, 0, 0, 0", EPERM),
        ("keyctl", "250, 0, 0, 0, 0, 0", EPERM),
        ("userfaultfd", "323, 0", EPERM),
        ("io_uring_setup", "425, 1, 0", EPERM),
        ("kexec_load", "246, 0, 0, 0, 0", EPERM),
        ("init_module", "175, 0, 0, 0", EPERM),
        ("reboot", "169, 0, 0, 0, 0", EPERM),
        ("open_by_handle_at", "304, 0, 0, 0", EPERM),
        ("process_vm_readv", "310, 1, 0, 0, 0, 0, 0", EPERM),
        ("setns", "308, 0, 0", EPERM),
        ("personality", "135, 0x0400000", EPERM),
        ("raw socket", "41, 2, 3, 1", EPERM),
        ("packet socket", "41, 17, 3, 0", EPERM),
        ("vsock", "41, 40, 1, 0", EPERM),
        ("a call of the future", "1000", ENOSYS),
    ];
    let mut text = String::from("$| = 1; ");
    for (name, call, _) in calls {
        text.push_str(&format!("my $r = syscall({call}); print '{name}: ', ($r == -1 ? \"$!\" : \"DONE $r\"), \"\\n\"; exit if $r == 0 && '{name}' =~ /clone/;\n"));
    }
    let ran = host.run(perl(&text)).await;
    let expected: Vec<String> = calls.iter().map(|(name, _, answer)| format!("{name}: {answer}")).collect();
    assert_eq!(ran.stdout.lines().collect::<Vec<_>>(), expected, "{ran:?}");
}

#[tokio::test]
async fn the_32_bit_door_is_shut() {
    let Some(host) = host() else { return };
    // int 0x80 reaches the 32-bit table, where the numbers mean something else: mov eax,21 (mount); int 0x80; ret.
    let ran = host
        .run(perl(
            "my $page = syscall(9, 0, 4096, 7, 0x22, -1, 0); my $code = \"\\xb8\\x15\\0\\0\\0\\xcd\\x80\\xc3\";
             require DynaLoader; open(my $m, '+<', '/proc/self/mem') or die \"mem: $!\"; sysseek($m, $page, 0);
             syswrite($m, $code) or die \"write: $!\"; my $f = DynaLoader::dl_install_xsub('x', $page); &$f(); print 'ALIVE';",
        ))
        .await;
    assert!(!ran.stdout.contains("ALIVE"), "{ran:?}");
    assert_eq!(ran.end, JobEnd::Signaled { signal: 31 }, "the filter kills a call of a foreign table: {ran:?}");
}

#[tokio::test]
async fn secrets_of_the_containers_environment_stay_outside() {
    let Some(host) = host() else { return };
    // Cargo sets this in the environment of every test.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some(), "a variable that must not leak");
    let ran = host.run(script("env; cat /proc/*/environ")).await;
    assert!(!ran.stdout.contains("CARGO"), "{ran:?}");
}

#[tokio::test]
async fn nothing_outlives_the_job() {
    let Some(host) = host() else { return };
    // A grandchild in a session of its own that ignores signals and keeps the outputs open.
    let daemon = "setsid sh -c 'trap \"\" TERM HUP INT; exec -a muster-orphan sleep 1000' & ";
    let bash = |text: &str| spec(&["/bin/bash", "-c", text]);
    let ended = host.run(bash(&format!("{daemon} sleep 0.2; echo done"))).await;
    assert_eq!((ended.stdout.as_str(), ended.end.is_success()), ("done\n", true), "{ended:?}");
    let job = bash(&format!("{daemon} sleep 0.2; echo up; sleep 1000"));
    let work = host.prepare("job", &job).await;
    let mut running = host.sandbox.start(&work, job).await.expect("start");
    let stdout = running.stdout.take().expect("stdout");
    let line = BufReader::new(stdout).lines().next_line().await.expect("read").expect("a line");
    assert_eq!(line, "up");
    running.kill("the lease ended");
    assert_eq!(running.wait().await, JobEnd::Killed { reason: "the lease ended".into() });
    // The end is reported only when every process is gone, so that there is nothing to wait for here.
    work.remove().await.expect("remove");
    let names = std::fs::read_dir("/proc").expect("/proc").flatten();
    let alive = names.filter(|entry| {
        std::fs::read(entry.path().join("cmdline")).is_ok_and(|text| text.starts_with(b"muster-orphan"))
    });
    assert_eq!(alive.count(), 0, "an orphan lives");
}

#[tokio::test]
async fn dropping_a_job_ends_it() {
    let Some(host) = host() else { return };
    let job = spec(&["sleep", "1000"]);
    let work = host.prepare("job", &job).await;
    let running = host.sandbox.start(&work, job).await.expect("start");
    let handle = running.handle();
    drop(running);
    let end = tokio::time::timeout(Duration::from_secs(60), handle.wait()).await.expect("the job ends");
    assert!(matches!(end, JobEnd::Killed { .. }), "{end:?}");
    work.remove().await.expect("remove");
}

#[tokio::test]
async fn terminal_forgery_and_ordinary_terminals() {
    let Some(host) = host() else { return };
    let ran = host.run(perl("my $c = 'x'; print ioctl(STDIN, 0x5412, $c) ? 'FORGED' : \"$!\";")).await;
    assert_eq!(ran.stdout, "Operation not permitted", "{ran:?}");
    let mut small = script("echo fine");
    small.limits.memory_bytes = 16 * MIB;
    assert_eq!(host.run(small).await.stdout, "fine\n");
    let work = host.prepare("other", &spec(&["true"])).await;
    let ran = finish(host.sandbox.start(&work, spec(&["true"])).await.expect("start")).await;
    assert!(ran.end.is_success());
}
