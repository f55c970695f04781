//! Gamepads from end to end: a player's message, the streaming program, the kernel's virtual device, and real programs in
//! real Sandboxes that read it. Few machines of tests have `/dev/uinput`; `scripts/uinput.sh` boots a kernel that has.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use muster_container::sandbox::{Display, JobSpec, RunningJob, WorkDir};
use muster_stream::control::{FromStream, Gamepads, Keyboard, StreamConfig, ToStream};
use muster_stream::guest::{Guest, Plan};
use tokio::io::AsyncReadExt;

use crate::harness::{Host, MIB, finish, host, spec};

const NAME: &str = "Microsoft X-Box 360 pad";

/// Says what it sees below `/dev/input`, and what of its pad, and then reads what happens to it.
const EVDEV: &str = r#"
use strict; $| = 1;
print "sees ", join(' ', map { s{.*/}{}r } sort glob '/dev/input/*'), "\n";
print "uinput\n" if -e '/dev/uinput';
open(my $pad, '+<:raw', '/dev/input/event0') or die "no pad: $!";
my $name = "\0" x 256; ioctl($pad, 0x81004506, $name) or die "no name: $!"; $name =~ s/\0.*//s;
print "name $name\n";
my $axis = "\0" x 24; ioctl($pad, 0x80184540, $axis) or die "no axis: $!";
print 'axis ', join(' ', unpack('l6', $axis)), "\n";
while (sysread($pad, my $event, 24) == 24) {
  my ($kind, $code, $value) = unpack('x16SSl', $event);
  printf "button %x %d\n", $code, $value if $kind == 1;
}
"#;

/// Draws something: nobody is shown a program that has not. Through SDL, as games do it.
const DRAW: &str = r#"
import ctypes
sdl = ctypes.CDLL('libSDL2-2.0.so.0')
for name in ('SDL_CreateWindow', 'SDL_GetWindowSurface', 'SDL_GameControllerOpen'):
    getattr(sdl, name).restype = ctypes.c_void_p
sdl.SDL_GameControllerName.restype = ctypes.c_char_p
for name in ('SDL_GetWindowSurface', 'SDL_UpdateWindowSurface', 'SDL_GameControllerName'):
    getattr(sdl, name).argtypes = [ctypes.c_void_p]
sdl.SDL_FillRect.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32]
sdl.SDL_SetHint(b'SDL_JOYSTICK_ALLOW_BACKGROUND_EVENTS', b'1')
assert sdl.SDL_Init(0x2020) == 0
window = sdl.SDL_CreateWindow(b'test', 0, 0, 320, 200, 4)
surface = sdl.SDL_GetWindowSurface(window)
sdl.SDL_FillRect(surface, (ctypes.c_int * 4)(8, 8, 40, 40), 0xffffff)
sdl.SDL_UpdateWindowSurface(window)
event = (ctypes.c_uint8 * 64)()
"#;

/// And finds its pads, and reads their buttons.
const SDL: &str = r#"
print('sees', sdl.SDL_NumJoysticks(), flush=True)
pad = sdl.SDL_GameControllerOpen(0)
print('name', sdl.SDL_GameControllerName(pad).decode(), flush=True)
while sdl.SDL_WaitEvent(event):
    sdl.SDL_UpdateWindowSurface(window)
    if int.from_bytes(bytes(event[0:4]), 'little') in (0x651, 0x652):
        print('button', event[12], event[13], flush=True)
"#;

/// A Sandbox where there are gamepads to be had, or `None` (said aloud).
fn machine() -> Option<Host> {
    let host = host()?;
    if host.sandbox.capabilities().xvfb.is_none() || !host.sandbox.capabilities().gamepads {
        let findings = host.sandbox.capabilities().findings.iter();
        let why: Vec<String> = findings.filter(|f| f.layer == "gamepads").map(ToString::to_string).collect();
        eprintln!("skipped, scripts/uinput.sh boots a kernel for it: {}", why.join(""));
        return None;
    }
    Some(host)
}

fn with_gamepads(command: &[&str], gamepads: u8) -> JobSpec {
    let mut spec = spec(command);
    let (layout, sound, microphone) = ("us".to_owned(), false, false);
    spec.display = Some(Display { width: 320, height: 200, layout, sound, microphone, gamepads });
    spec.limits.memory_bytes = 512 * MIB;
    spec
}

/// Pads of this machine's kernel.
fn plugged() -> usize {
    std::fs::read_to_string("/proc/bus/input/devices").unwrap().matches(NAME).count()
}

/// What lies in `/dev` of ours.
fn left() -> Vec<String> {
    let names = std::fs::read_dir("/dev").unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("muster")).collect()
}

/// The streaming program, as a Container starts it.
struct Streaming {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Streaming {
    fn start(job: &mut RunningJob) -> Self {
        let ends = job.display.take().unwrap();
        let inherited: Vec<OwnedFd> = std::iter::once(ends.socket).chain(ends.gamepads).collect();
        let numbers: Vec<i32> = inherited.iter().map(AsRawFd::as_raw_fd).collect();
        let config = StreamConfig {
            display_socket: format!("/proc/self/fd/{}", numbers[0]).into(),
            sound_pipe: None,
            microphone_pipe: None,
            gamepads: Gamepads::Lent(numbers[1..].to_vec()),
            width: 320,
            height: 200,
            fps: 10,
            layout: "us".to_owned(),
            keyboard: Keyboard::Position,
            bind: "127.0.0.1:0".parse().unwrap(),
            public: None,
            draw_within_ms: 600_000,
            idle_after_ms: 600_000,
            stale: false,
        };
        for fd in &inherited {
            rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).unwrap();
        }
        let mut child = Command::new(env!("CARGO_BIN_EXE_muster-sandbox-init"))
            .arg(muster_stream::STREAM)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // From here on only the child has them open.
        drop(inherited);
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut streaming = Self { child, lines };
        streaming.say(&config);
        // A player sees nothing of a program that has not drawn.
        streaming.hear(|said| matches!(said, FromStream::Drawing).then_some(()));
        streaming
    }

    fn say(&mut self, what: &impl serde::Serialize) {
        let line = serde_json::to_string(what).unwrap() + "\n";
        self.child.stdin.as_mut().unwrap().write_all(line.as_bytes()).unwrap();
    }

    fn hear<T>(&mut self, wanted: impl Fn(&FromStream) -> Option<T>) -> T {
        loop {
            let said = self.lines.next().expect("the streaming program goes on").unwrap();
            if let Some(found) = wanted(&serde_json::from_str(&said).unwrap()) {
                return found;
            }
        }
    }

    /// A player who presses this button of its pad again and again, until it is told to stop. One that gives up, because
    /// an emulated machine is slow to show the first picture, comes again.
    fn play(mut self, button: u8, stop: &Arc<AtomicBool>) -> std::thread::JoinHandle<Self> {
        let pads = (0..2_000).map(|at| (at * 500, button)).collect();
        let (plan, stop) = (Plan { watch_ms: 1_000_000, pads, ..Plan::default() }, Arc::clone(stop));
        std::thread::spawn(move || {
            for request in 1.. {
                let (guest, sdp) = Guest::offer().unwrap();
                self.say(&ToStream::Offer { request, player: 1, sdp });
                let answer = self.hear(|said| match said {
                    FromStream::Answer { request: of, sdp } if *of == request => Some(sdp.clone()),
                    _ => None,
                });
                guest.play(&answer, &plan, &stop).unwrap();
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
            self
        })
    }

    /// As if it had crashed.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

async fn start(host: &Host, name: &str, spec: JobSpec) -> (WorkDir, RunningJob) {
    let work = host.prepare(name, &spec).await;
    let job = host.sandbox.start(&work, spec).await.unwrap();
    (work, job)
}

/// What the job has written once it has written this.
async fn written(job: &mut RunningJob, wanted: &str) -> String {
    let out = job.stdout.as_mut().unwrap();
    let (mut text, mut bytes) = (String::new(), [0; 4096]);
    let all = async {
        while !text.contains(wanted) {
            let length = out.read(&mut bytes).await.unwrap();
            assert_ne!(length, 0, "the job ended before {wanted:?}: {text}");
            text.push_str(&String::from_utf8_lossy(&bytes[..length]));
        }
    };
    // Far beyond what anything takes; it ends a test that would hang.
    let done = tokio::time::timeout(Duration::from_secs(300), all).await;
    assert!(done.is_ok(), "no {wanted:?} in {text}");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_reads_its_own_players_buttons_and_nobody_elses() {
    let Some(host) = machine() else { return };
    let both = r#"python3 -c "$0
while sdl.SDL_WaitEvent(event): sdl.SDL_UpdateWindowSurface(window)" & exec perl -e "$1""#;
    let (one_work, mut one) = start(&host, "one", with_gamepads(&["/bin/sh", "-c", both, DRAW, EVDEV], 1)).await;
    let game = format!("{DRAW}{SDL}");
    let (two_work, mut two) = start(&host, "two", with_gamepads(&["/usr/bin/python3", "-c", &game], 2)).await;
    assert_eq!(plugged(), 3, "they are there before anybody plays");
    assert_eq!(left(), [""; 0], "the nodes are bound, and gone from the host");
    let stop = Arc::new(AtomicBool::new(false));
    // A and B, that is BTN_SOUTH and BTN_EAST.
    let players = [Streaming::start(&mut one).play(0, &stop), Streaming::start(&mut two).play(1, &stop)];
    let one_said = written(&mut one, "button 130 0\nbutton 130 1\nbutton 130 0\n").await;
    let two_said = written(&mut two, "button 1 1\nbutton 1 0\nbutton 1 1\n").await;
    stop.store(true, Ordering::Relaxed);
    let [first, second] = players.map(|player| player.join().unwrap());
    eprintln!("the first said: {one_said:?}\nthe second said: {two_said:?}");

    let mut lines = one_said.lines();
    let sees = lines.next().unwrap();
    assert!(sees == "sees event0 js0" || sees == "sees event0", "only its own: {sees}");
    assert_eq!(lines.next(), Some(format!("name {NAME}").as_str()), "no way to make devices, and the pad's name");
    assert_eq!(lines.next(), Some("axis 0 -32768 32767 16 128 0"), "neutral, and as its driver has it");
    assert!(lines.all(|line| line.starts_with("button 130 ")), "{one_said}");
    let mut lines = two_said.lines();
    assert_eq!(lines.next(), Some("sees 2"));
    assert!(lines.next().is_some_and(|name| name.starts_with("name ") && name.contains("360")), "{two_said}");
    assert!(lines.all(|line| line.starts_with("button 1 ")), "{two_said}");

    // The program that streams is killed: its pads are gone at once, and the other's stay.
    second.kill();
    assert_eq!(plugged(), 1);
    first.kill();
    assert_eq!(plugged(), 0);
    for (job, work) in [(one, one_work), (two, two_work)] {
        job.kill("the test is over");
        finish(job).await;
        work.remove().await.unwrap();
    }
}

#[tokio::test]
async fn a_session_that_never_streams_leaves_no_gamepad() {
    let Some(host) = machine() else { return };
    let (work, mut job) = start(&host, "job", with_gamepads(&["/bin/sleep", "1000"], 4)).await;
    assert_eq!((plugged(), job.display.as_ref().unwrap().gamepads.len()), (4, 4));
    drop(job.display.take());
    assert_eq!(plugged(), 0);
    job.kill("the test is over");
    finish(job).await;
    work.remove().await.unwrap();
    let broken = host.run(with_gamepads(&["/nonexistent"], 1)).await;
    assert!(!broken.end.is_success(), "{broken:?}");
    assert_eq!((plugged(), left()), (0, Vec::new()));
}

#[tokio::test]
async fn where_there_are_none_a_session_starts_without() {
    let Some(host) = host() else { return };
    if host.sandbox.capabilities().xvfb.is_none() || host.sandbox.capabilities().gamepads {
        eprintln!("skipped: there is no X server, or there are gamepads to be had");
        return;
    }
    let text = "ls -d /dev/input /dev/uinput 2>/dev/null; echo pads: $SDL_JOYSTICK_DEVICE; sleep 1";
    let (work, mut job) = start(&host, "job", with_gamepads(&["/bin/sh", "-c", text], 1)).await;
    assert!(job.display.take().unwrap().gamepads.is_empty());
    assert_eq!(finish(job).await.stdout, "pads:\n");
    work.remove().await.unwrap();
    let finding = host.sandbox.capabilities().findings.iter().find(|finding| finding.layer == "gamepads").unwrap();
    assert!(finding.found.starts_with("live sessions run without gamepads: cannot "), "{finding}");
    assert!(!finding.mend.is_empty());
}
