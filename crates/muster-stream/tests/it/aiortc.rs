//! A player that is not ours: aiortc, which shares no line with what is tested. Installed from PyPI by `tests/aiortc`.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use muster_stream::METER;
use muster_stream::control::FromStream;
use serde_json::{Value, json};

use crate::rig::{HEIGHT, Stream, WIDTH, Xvfb, config};

/// Says to this very program that it is the latency meter.
pub(crate) const CHILD: &str = "MUSTER_STREAM_TEST_METER";

/// A running process that ends with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn meter(display: &Xvfb) -> Running {
    let number = display.socket.file_name().unwrap().to_str().unwrap().trim_start_matches('X').to_owned();
    let command = Command::new(std::env::current_exe().unwrap())
        .args(["meters_for_the_other_tests", "--exact", "--nocapture"])
        .env(CHILD, METER)
        .env("DISPLAY", format!(":{number}"))
        .stdout(Stdio::null())
        .spawn();
    Running(command.unwrap())
}

struct Aiortc {
    process: Running,
    stdin: ChildStdin,
    lines: Receiver<Value>,
}

/// This crate's folder, asked for at run time: a binary kept from another checkout must not look there.
fn here() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo names the folder to tests"))
}

impl Aiortc {
    /// Started, and with its offer.
    fn start(codec: &str, relay: &[&str]) -> (Self, String) {
        let folder = here().join("tests/aiortc");
        let installed = Command::new(folder.join("install.sh")).stderr(Stdio::inherit()).output().unwrap();
        assert!(installed.status.success(), "aiortc is not installed");
        let python = PathBuf::from(String::from_utf8(installed.stdout).unwrap().trim());
        let mut process = Command::new(python)
            .arg(folder.join("player.py"))
            .arg(codec)
            .args(relay)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (send, lines) = channel();
        let out = BufReader::new(process.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if send.send(serde_json::from_str(&line).unwrap()).is_err() {
                    return;
                }
            }
        });
        let stdin = process.stdin.take().unwrap();
        let mut aiortc = Self { process: Running(process), stdin, lines };
        let offer = aiortc.says("offer", |said| said["sdp"].as_str().map(ToOwned::to_owned));
        (aiortc, offer)
    }

    #[expect(clippy::needless_pass_by_value, reason = "messages are written where they are sent")]
    fn tell(&mut self, what: Value) {
        writeln!(self.stdin, "{what}").unwrap();
    }

    fn says<T>(&mut self, what: &str, mut wanted: impl FnMut(&Value) -> Option<T>) -> T {
        let end = Instant::now() + Duration::from_secs(60);
        let mut last = Value::Null;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let said = self.lines.recv_timeout(left);
            let said = said.unwrap_or_else(|_| panic!("no {what} from {}; the last was {last}", self.process.0.id()));
            if let Some(found) = wanted(&said) {
                return found;
            }
            last = said;
        }
    }
}

/// Plays the latency meter in one form of pictures.
fn plays(codec: &str, name: &str, relay: &[&str]) {
    let display = Xvfb::start();
    let _meter = meter(&display);
    let mut stream = Stream::start(&config(&display.socket));
    stream.ready();
    stream.hear("drawing", |said| (*said == FromStream::Drawing).then_some(()));
    let (mut aiortc, offer) = Aiortc::start(codec, relay);
    if !relay.is_empty() {
        let ways: Vec<&str> = offer.lines().filter(|line| line.starts_with("a=candidate:")).collect();
        assert!(!ways.is_empty() && ways.iter().all(|way| way.contains("typ relay")), "{offer}");
    }
    let answer = stream.offer(1, offer).unwrap();
    aiortc.tell(json!({"sdp": answer}));
    stream.connected(1, true);
    let hello = aiortc.says("hello", |said| Some(said["told"].clone()).filter(|told| told["t"] == "hello"));
    assert_eq!((&hello["codec"], &hello["width"]), (&json!(name), &json!(WIDTH)));
    // It decodes what comes, and what comes moves.
    let mut moved = 0;
    aiortc.says("moving pictures", |said| {
        assert!(said["video"].is_null() || said["video"] == json!([WIDTH, HEIGHT]), "{said}");
        moved += u32::from(said["moved"] == true);
        (moved >= 10).then_some(())
    });
    // A key turns the program's square from black to white, and the next one back.
    let square = |aiortc: &mut Aiortc, white: bool| {
        aiortc.says("square", |said| (said["square"].as_u64()? > 125).eq(&white).then_some(()));
    };
    square(&mut aiortc, false);
    for white in [true, false] {
        aiortc.tell(json!({"t": "key", "code": "Space", "key": " ", "down": true}));
        aiortc.tell(json!({"t": "key", "code": "Space", "key": " ", "down": false}));
        square(&mut aiortc, white);
    }
    // The code that it asks for is in a picture, bit for bit.
    let code = 0x1234_abcd_u32;
    aiortc.tell(json!({"control": {"t": "code", "n": code}}));
    aiortc.says("code", |said| (said["code"] == code).then_some(()));
    aiortc.tell(json!({"control": {"t": "ping", "at": 1.5}}));
    aiortc.says("pong", |said| (said["told"]["at"] == 1.5).then_some(()));
    aiortc.tell(json!({"t": "bye"}));
    // Leaving is noticed without a word on any channel of ours.
    stream.connected(1, false);
}

#[test]
fn a_client_that_is_not_ours_plays_h264() {
    plays("H264", "h264", &[]);
}

#[test]
fn a_client_that_is_not_ours_plays_vp8() {
    plays("VP8", "vp8", &[]);
}

/// A TURN server of coturn's on this machine, for one user.
fn turn_server(folder: &Path) -> (Running, String) {
    // Free just now; whoever takes it in between makes the server end, which the test then says.
    let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let command = Command::new("turnserver")
        .args(["-n", "-L", "127.0.0.1", "-E", "127.0.0.1", "-p", &port.to_string(), "--allow-loopback-peers"])
        .args(["-a", "-r", "muster", "-u", "player:of-a-test", "--no-tls", "--no-dtls", "--no-cli"])
        .args(["--userdb", &file("users"), "--pidfile", &file("pid"), "--log-file", "stdout"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let server = Running(command.expect("coturn is needed: apt-get install coturn"));
    let end = Instant::now() + Duration::from_secs(20);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < end, "the TURN server does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    (server, format!("turn:127.0.0.1:{port}?transport=udp"))
}

#[test]
fn a_player_behind_a_turn_server_plays() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, url) = turn_server(folder.path());
    plays("H264", "h264", &[&url, "player", "of-a-test"]);
}
