//! Jobs with a private display: the real X server in the real Sandbox.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use muster_container::sandbox::{Display, JobEnd, JobSpec};

use crate::harness::{Host, MIB, finish, host, script};

fn display(change: impl FnOnce(&mut Display)) -> Display {
    let (layout, sound, microphone) = ("us".to_owned(), false, false);
    let mut display = Display { width: 640, height: 480, layout, sound, microphone, gamepads: 0 };
    change(&mut display);
    display
}

fn with_display(text: &str, display: Display) -> JobSpec {
    let mut spec = script(text);
    spec.display = Some(display);
    spec.limits.memory_bytes = 512 * MIB;
    spec
}

/// The real thing, or `None` (said aloud) where the machine has no X server.
fn machine() -> Option<Host> {
    let host = host()?;
    if host.sandbox.capabilities().xvfb.is_none() {
        eprintln!("skipped: the X server is not installed (apt-get install xvfb)");
        return None;
    }
    Some(host)
}

fn path_of(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Connects as an X client does, and reads how large the screen is.
fn screen_size(socket: &OwnedFd) -> (u16, u16) {
    let mut line = UnixStream::connect(path_of(socket)).unwrap();
    line.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    line.write_all(&[b'l', 0, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    let mut head = [0; 8];
    line.read_exact(&mut head).unwrap();
    assert_eq!(head[0], 1, "the X server lets us in");
    let number = |bytes: &[u8], at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let mut rest = vec![0; usize::from(number(&head, 6)) * 4];
    line.read_exact(&mut rest).unwrap();
    let screen = 32 + usize::from(number(&rest, 16)).next_multiple_of(4) + 8 * usize::from(rest[21]);
    (number(&rest, screen + 20), number(&rest, screen + 22))
}

#[tokio::test]
async fn a_display_is_up_before_the_command_and_reached_by_the_container_alone() {
    let Some(host) = machine() else { return };
    let spec = with_display("echo $DISPLAY; test -S /tmp/.X11-unix/X0 && sleep 2", display(|d| d.layout = "de".into()));
    let work = host.prepare("display", &spec).await;
    let mut job = host.sandbox.start(&work, spec).await.unwrap();
    let ends = job.display.take().unwrap();
    assert!(ends.sound.is_none() && ends.microphone.is_none());
    assert_eq!(screen_size(&ends.socket), (640, 480));
    let data = work.path().with_file_name("tmp").join(".X11-unix/X0");
    assert!(data.exists(), "the socket lies below the folder of all jobs, which only the Container can enter");
    let folder = work.path().join("../../..");
    let mode = std::os::unix::fs::PermissionsExt::mode(&folder.metadata().unwrap().permissions());
    assert_eq!(mode & 0o077, 0, "{mode:o}");
    let ran = finish(job).await;
    assert_eq!((ran.end, ran.stdout.as_str(), ran.stderr.as_str()), (JobEnd::Exited { code: 0 }, ":0\n", ""));
    work.remove().await.unwrap();
}

#[tokio::test]
async fn sound_flows_through_the_jobs_own_pipe() {
    let Some(host) = machine() else { return };
    if host.sandbox.capabilities().pulseaudio.is_none() {
        eprintln!("skipped: PulseAudio is not installed (apt-get install pulseaudio)");
        return;
    }
    let spec = with_display("echo $PULSE_SERVER; sleep 3", display(|d| (d.sound, d.microphone) = (true, true)));
    let work = host.prepare("sound", &spec).await;
    let mut job = host.sandbox.start(&work, spec).await.unwrap();
    let ends = job.display.take().unwrap();
    assert!(ends.microphone.is_some());
    let mut sound = File::open(path_of(&ends.sound.unwrap())).unwrap();
    let heard = tokio::task::spawn_blocking(move || {
        let mut second = vec![0; 48_000 * 4];
        sound.read_exact(&mut second).unwrap();
        second
    });
    let heard = tokio::time::timeout(Duration::from_secs(3), heard).await.expect("a second of sound").unwrap();
    assert!(heard.iter().all(|b| *b == 0), "nobody plays");
    let ran = finish(job).await;
    assert_eq!((ran.end, ran.stdout.as_str()), (JobEnd::Exited { code: 0 }, "unix:/tmp/.X11-unix/pulse\n"));
    assert_eq!(std::fs::read_dir(work.path()).unwrap().count(), 0, "no leftovers in the work folder");
    work.remove().await.unwrap();
}

#[tokio::test]
async fn without_its_display_a_job_ends_and_says_so() {
    let Some(host) = machine() else { return };
    let killer = "for p in /proc/[0-9]*; do if grep -q Xvfb $p/comm; then kill -9 ${p#/proc/}; fi; done; sleep 30";
    let ran = host.run(with_display(killer, display(|_| {}))).await;
    let JobEnd::CompanionEnded { reason } = &ran.end else { panic!("{ran:?}") };
    assert!(reason.starts_with("the display (Xvfb) ended while the job ran (signal 9)"), "{reason}");
    let ran = host.run(with_display("true", display(|d| d.layout = "klingon".into()))).await;
    let JobEnd::SetupFailed { reason } = &ran.end else { panic!("{ran:?}") };
    assert!(reason.contains("the keyboard's layout"), "{reason}");
}
