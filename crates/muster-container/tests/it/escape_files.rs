//! Jobs that try to read or write files that are not theirs.

use std::fs;
use std::os::unix::fs::symlink;

use muster_container::sandbox::{DiskLimit, OutputLimits};

use crate::harness::{host, script};

#[tokio::test]
async fn the_hosts_files_do_not_exist_inside() {
    let Some(host) = host() else { return };
    let secret = host.state.path().join("node.key");
    fs::write(&secret, "SECRET").expect("key");
    let record = host.state.path().join("state/jobs/job/job.json");
    let text = format!(
        "cat {} {} /etc/shadow /root/.bashrc /home/*/.bashrc /etc/ssh/* /etc/hostname /var/log/* /boot/* /sys/kernel/* 2>&1
         ls -A / | tr '\\n' ' '; ls /root /home /var /run /mnt /opt /srv /boot",
        secret.display(),
        record.display()
    );
    let ran = host.run(script(&text)).await;
    assert!(!ran.stdout.contains("SECRET") && !ran.stdout.contains("root:"), "{ran:?}");
    assert!(ran.stdout.contains("No such file or directory"), "{ran:?}");
    let top = ran.stdout.lines().find(|line| line.contains(".muster ")).expect("the listing of /");
    for name in top.split_whitespace() {
        let known =
            ["bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "sbin", "tmp", "usr", "work", ".muster"];
        assert!(known.contains(&name), "{name} is visible: {top}");
    }
    let own_file_system = host.sandbox.capabilities().disk_limit == DiskLimit::Image;
    let mounts = host.run(script("cat /proc/self/mountinfo")).await.stdout;
    let state = host.state.path().display().to_string();
    assert!(
        mounts.contains("/work") && (!own_file_system || !mounts.contains(&state)),
        "the provider's folders are told: {mounts}"
    );
    let users = host.run(script("cut -d: -f1 /etc/passwd | tr '\\n' ' '; ls /etc/ssl | tr '\\n' ' '")).await;
    assert!(users.stdout.starts_with("root job nobody "), "{users:?}");
    assert!(!users.stdout.contains("private"), "{users:?}");
}

#[tokio::test]
async fn nothing_outside_the_work_folder_can_be_written() {
    let Some(host) = host() else { return };
    let places = "/ /usr /usr/bin /bin /lib /etc /etc/ssl /dev /dev/pts /proc /proc/sys/kernel /.muster";
    let ran = host.run(script(&format!("for d in {places}; do touch $d/x 2>/dev/null && echo WROTE $d; done; touch /work/x /tmp/x /dev/shm/x && echo fine"))).await;
    assert_eq!(ran.stdout, "fine\n", "{ran:?}");
    let ran = host
        .run(script(
            "echo x > /etc/passwd; echo x > /.muster/init; rm -f /.muster/init; echo 1 > /proc/sys/kernel/core_pattern
             echo b > /proc/sysrq-trigger; rm -rf /usr/bin/true; ls /usr/bin/true /.muster/init",
        ))
        .await;
    assert_eq!(ran.stdout, "/.muster/init\n/usr/bin/true\n", "{ran:?}");
    for line in ran.stderr.lines() {
        assert!(
            ["Read-only", "Permission denied", "busy", "nonexistent"].iter().any(|word| line.contains(word)),
            "{line}"
        );
    }
}

#[tokio::test]
async fn links_do_not_lead_out_when_outputs_are_taken() {
    let Some(host) = host() else { return };
    let secret = host.state.path().join("node.key");
    fs::write(&secret, "SECRET").expect("key");
    let job = script(&format!(
        "mkdir real; echo mine > real/file; ln -s {} stolen; ln -s / top; ln -s ../../../.. up; ln real/file hard
         ln /etc/passwd linked 2>/dev/null && echo LINKED; ln /usr/bin/su linked 2>/dev/null && echo LINKED
         ln /tmp/x x 2>/dev/null && echo LINKED; mkfifo pipe; perl -e 'use Socket; socket(S, AF_UNIX, SOCK_STREAM, 0);
         bind(S, pack_sockaddr_un(\"sock\"))'; truncate -s 40G hole; printf 'a' > \"$(printf 'bad\\377name')\"",
        secret.display()
    ));
    let work = host.prepare("job", &job).await;
    let ran = host.run_in(&work, job).await;
    assert!(!ran.stdout.contains("LINKED"), "{ran:?}");
    let limits = OutputLimits { entries_max: 100, bytes_max: 1 << 50, depth_max: 8 };
    let outputs = work.outputs(&limits).expect("outputs");
    let paths: Vec<&str> = outputs.files.iter().map(|file| file.path.as_str()).collect();
    assert!(paths == ["hard", "hole", "real/file"] || paths == ["hard", "real/file"], "{outputs:?}");
    assert_eq!(outputs.skipped_total, 6, "{outputs:?}");
    // A file of 40 GiB without content costs nothing to make; where the folder is measured it cannot be made at all.
    let own_file_system = host.sandbox.capabilities().disk_limit == DiskLimit::Image;
    assert_eq!(work.outputs(&OutputLimits { bytes_max: 1 << 30, ..limits }).is_err(), own_file_system);
    // A folder swapped for a link after the listing.
    fs::remove_dir_all(work.path().join("real")).expect("remove");
    symlink(host.state.path(), work.path().join("real")).expect("link");
    let swapped = outputs.files.iter().find(|file| file.path == "real/file").expect("listed");
    assert!(work.open_output(swapped).is_err());
    work.remove().await.expect("remove");
    assert_eq!(fs::read_to_string(&secret).expect("key"), "SECRET");
}

#[tokio::test]
async fn one_job_sees_nothing_of_another() {
    let Some(host) = host() else { return };
    let first = host.prepare("first", &script("true")).await;
    let ran = host
        .run_in(&first, script("echo SECRET > /work/mine; echo SECRET > /tmp/mine; echo SECRET > /dev/shm/mine"))
        .await;
    assert!(ran.end.is_success(), "{ran:?}");
    let second = host.prepare("second", &script("true")).await;
    let text = format!(
        "cat /work/* /tmp/* /dev/shm/* {}/* {}/../*/data/work/*",
        first.path().display(),
        second.path().display()
    );
    let ran = host.run_in(&second, script(&text)).await;
    assert!(!ran.stdout.contains("SECRET"), "{ran:?}");
    first.remove().await.expect("remove");
    second.remove().await.expect("remove");
}
