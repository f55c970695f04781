//! Models from a hub, with everything real but the hub, which is a few lines of HTTP in this process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use muster_engine::tiny::Shape;
use serde_json::{Value, json};

use crate::network::{Net, code, shown};

const TOKEN: &str = "hf_only-the-hub-sees-this";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What was asked of the hub: path, range, token.
type Asked = Arc<Mutex<Vec<(String, String, String)>>>;

/// What the hub does with the first file that is asked for.
#[derive(Clone, Copy, PartialEq)]
enum First {
    /// Sends half of it and breaks off.
    Breaks,
    /// Sends half of it and nothing more, until the reader is gone.
    Stalls,
}

/// A file of the repositories: its name, its bytes, its SHA-256.
type Files = Arc<Vec<(String, Vec<u8>, String)>>;

struct Hub {
    addr: SocketAddr,
    asked: Asked,
    /// Bytes of files that were sent.
    sent: Arc<AtomicUsize>,
}

impl Hub {
    /// Serves these files in two repositories: `lab/tiny-GGUF` for everybody, `lab/secret-GGUF` for who has the token.
    fn start(files: &[(&str, PathBuf)], first: First) -> Self {
        let read = |(name, path): &(&str, PathBuf)| {
            let (id, _) = muster_client::weights::hash(path).unwrap();
            ((*name).to_owned(), std::fs::read(path).unwrap(), id.to_string())
        };
        let files: Files = Arc::new(files.iter().map(read).collect());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (addr, asked, sent) = (listener.local_addr().unwrap(), Asked::default(), Arc::default());
        let (noted, counted) = (Arc::clone(&asked), Arc::clone(&sent));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (files, noted, counted) = (Arc::clone(&files), Arc::clone(&noted), Arc::clone(&counted));
                // Somebody who goes in the middle is no failure of the hub's.
                std::thread::spawn(move || drop(serve(stream.unwrap(), &files, first, &noted, &counted)));
            }
        });
        Self { addr, asked, sent }
    }

    fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    fn taken(&self) -> Vec<(String, String, String)> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    /// What was asked of files: path, range, token.
    fn files_taken(&self) -> Vec<(String, String, String)> {
        self.taken().into_iter().filter(|(path, ..)| path.contains("/resolve/")).collect()
    }
}

/// The first lines of a request: path, range, token.
fn read_request(stream: &TcpStream) -> std::io::Result<(String, String, String)> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap()?;
    let path = first.split(' ').nth(1).unwrap().to_owned();
    let (mut range, mut token) = (String::new(), String::new());
    for line in lines {
        let line = line?;
        let (name, value) = line.split_once(": ").unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "range" => value.clone_into(&mut range),
            "authorization" => value.clone_into(&mut token),
            _ => {}
        }
        if line.is_empty() {
            break;
        }
    }
    Ok((path, range, token))
}

#[allow(clippy::unwrap_in_result, reason = "a lock that is poisoned is a failed test")]
fn serve(mut stream: TcpStream, files: &Files, first: First, asked: &Asked, sent: &AtomicUsize) -> std::io::Result<()> {
    let (path, range, token) = read_request(&stream)?;
    let private = path.contains("secret");
    let known = path.contains("lab/tiny-GGUF") || private;
    let is_first = {
        let mut asked = asked.lock().unwrap();
        asked.push((path.clone(), range.clone(), token.clone()));
        asked.iter().filter(|(path, ..)| path.contains("/resolve/")).count() == 1
    };
    let mut say = |status: &str, head: &str, body: &[u8], len: usize| {
        write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {len}\r\n{head}\r\n")?;
        stream.write_all(body)
    };
    if !known {
        return say("404 Not Found", "", b"", 0);
    }
    if private && token != format!("Bearer {TOKEN}") {
        return say("401 Unauthorized", "", b"", 0);
    }
    if path.starts_with("/api/models/") {
        let sibling = |(name, content, sha256): &(String, Vec<u8>, String)| json!({ "rfilename": name, "lfs": { "sha256": sha256, "size": content.len() } });
        let siblings: Vec<Value> =
            std::iter::once(json!({ "rfilename": "README.md" })).chain(files.iter().map(sibling)).collect();
        let body = json!({ "sha": COMMIT, "private": private, "gated": false, "siblings": siblings }).to_string();
        return say("200 OK", "Content-Type: application/json\r\n", body.as_bytes(), body.len());
    }
    let Some((_, content, _)) = files.iter().find(|(name, ..)| path.ends_with(&format!("/{name}"))) else {
        return say("404 Not Found", "", b"", 0);
    };
    let len = content.len();
    let from: usize = range.strip_prefix("bytes=").map_or(0, |range| range.trim_end_matches('-').parse().unwrap());
    let upto = if is_first { len / 2 } else { len };
    sent.fetch_add(upto.saturating_sub(from), Ordering::Relaxed);
    let body = &content[from..upto.max(from)];
    if from == 0 {
        say("200 OK", "", body, len)?;
    } else {
        let head = format!("Content-Range: bytes {from}-{}/{len}\r\n", len - 1);
        say("206 Partial Content", &head, body, len - from)?;
    }
    if is_first && first == First::Stalls {
        // Nothing comes, and nothing is said, until the reader is gone.
        stream.read_exact(&mut [0])?;
    }
    Ok(())
}

/// Lets the network's Containers fetch from this hub.
fn point_to(net: &Net, hub: &Hub) {
    let path = net.role("container-0").join("container.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let line = text.lines().find(|line| line.starts_with("hub = ")).unwrap().to_owned();
    std::fs::write(&path, text.replace(&line, &format!("hub = \"{}\"", hub.url()))).unwrap();
    net.restart("container-0");
}

#[test]
fn models_come_from_a_hub_in_one_step_and_private_ones_with_a_sealed_token() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tiny.gguf");
    muster_engine::tiny::write(&file).unwrap();
    let hub = Hub::start(&[("tiny.Q8_0.gguf", file)], First::Breaks);
    let net = Net::start(1);
    point_to(&net, &hub);
    let deploy = |more: &[&str]| {
        let url = hub.url();
        let mut all = vec!["--json", "model", "deploy", "--hub", &url];
        all.extend(more);
        net.run(&all)
    };
    for (name, words) in [
        ("hf:lab/none", "has no hf:lab/none"),
        ("hf:lab", "names no model on a hub"),
        ("hf:lab/tiny-GGUF:Q4_0", "no GGUF file of Q4_0"),
        ("hf:lab/secret-GGUF", "muster model token set"),
    ] {
        let refused = deploy(&[name]);
        assert!(code(&refused) != 0 && shown(&refused).contains(words), "{name}: {}", shown(&refused));
    }
    let mut set = net.command(&["model", "token", "set"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    set.stdin.take().unwrap().write_all(TOKEN.as_bytes()).unwrap();
    assert!(set.wait().unwrap().success());
    hub.taken();
    // A private one, of which the first half comes, and then the rest.
    let deployed = deploy(&["hf:lab/secret-GGUF", "--name", "tiny"]);
    assert_eq!(code(&deployed), 0, "{}\n{}", shown(&deployed), net.logs());
    let state: Value = serde_json::from_slice(&deployed.stdout).unwrap();
    assert_eq!((state["name"].as_str(), state["ready"].as_u64()), (Some("tiny"), Some(1)), "{state}");
    assert_eq!(state["hub"].as_str(), Some(format!("hf:lab/secret-GGUF@{COMMIT}:tiny.Q8_0.gguf").as_str()));
    let asked = hub.files_taken();
    assert!(asked.iter().all(|(_, _, token)| *token == format!("Bearer {TOKEN}")), "{asked:?}");
    let ranges: Vec<&str> = asked.iter().map(|(_, range, _)| range.as_str()).collect();
    assert!(ranges.len() == 2 && ranges[0].is_empty() && ranges[1].starts_with("bytes="), "{asked:?}");
    // The token is in no file of any role, and in no log.
    let everywhere = std::process::Command::new("grep").args(["-rlF", TOKEN]).arg(net.role("")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&everywhere.stdout), "");
    assert_eq!(code(&net.run(&["model", "token", "rm"])), 0);
    assert_ne!(code(&net.run(&["model", "token", "rm"])), 0, "there is none any more");
    assert_eq!(code(&net.run(&["model", "rm", "tiny"])), 0);
    // One that anybody may have, whose weights are there already: the hub is only asked which.
    let deployed = deploy(&["hf:lab/tiny-GGUF"]);
    assert_eq!(code(&deployed), 0, "{}\n{}", shown(&deployed), net.logs());
    assert_eq!(hub.files_taken(), Vec::new());
}

#[test]
fn a_model_in_parts_comes_from_a_hub_and_from_a_file_and_answers() {
    let dir = tempfile::tempdir().unwrap();
    let parts = muster_engine::tiny::write_parts(dir.path(), "tiny", &Shape::default(), 3).unwrap();
    let names = [1, 2, 3].map(|number| format!("q/tiny-{number:05}-of-00003.gguf"));
    let files: Vec<(&str, PathBuf)> = names.iter().map(String::as_str).zip(parts.clone()).collect();
    let hub = Hub::start(&files, First::Breaks);
    let net = Net::start(1);
    point_to(&net, &hub);
    let deploy = |args: &[&str]| {
        let deployed = net.run(&[&["--json", "model", "deploy"], args].concat());
        // It is asked for its first token before the command ends.
        assert_eq!(code(&deployed), 0, "{}\n{}", shown(&deployed), net.logs());
        serde_json::from_slice::<Value>(&deployed.stdout).unwrap()
    };
    let state = deploy(&["--hub", &hub.url(), "hf:lab/tiny-GGUF", "--name", "parts"]);
    assert_eq!((state["ready"].as_u64(), state["files"].as_u64()), (Some(1), Some(3)), "{state}");
    let first = format!("hf:lab/tiny-GGUF@{COMMIT}:{}", names[0]);
    assert_eq!(state["hub"].as_str(), Some(first.as_str()), "{state}");
    // Each part once, the first of them in two halves.
    let asked = hub.files_taken();
    let of = |name: &str| asked.iter().filter(|(path, ..)| path.ends_with(name)).count();
    assert_eq!((of(&names[0]), of(&names[1]), of(&names[2])), (2, 1, 1), "{asked:?}");
    assert!(asked[1].1.starts_with("bytes="), "{asked:?}");
    let chat = net.run(&["--json", "model", "chat", "parts", "Good morning", "--max-tokens", "4"]);
    assert_eq!(code(&chat), 0, "{}\n{}", shown(&chat), net.logs());
    assert_eq!(code(&net.run(&["model", "rm", "parts"])), 0);
    // The same, sent as files: the Container has it, and takes nothing.
    let state = deploy(&[&format!("file:{}", parts[0].display()), "--name", "again"]);
    assert_eq!((state["files"].as_u64(), &state["hub"]), (Some(3), &Value::Null), "{state}");
    assert_eq!(code(&net.run(&["model", "rm", "again"])), 0);
    // Another one, which nobody has: named by its second part, it is sent whole.
    let other = Shape { seed: 6, ..Shape::default() };
    let parts = muster_engine::tiny::write_parts(dir.path(), "other", &other, 2).unwrap();
    let state = deploy(&[&format!("file:{}", parts[1].display())]);
    assert_eq!((state["name"].as_str(), state["files"].as_u64()), (Some("other"), Some(2)), "{state}");
    // A part that is missing is missed before anything is sent.
    std::fs::remove_file(&parts[1]).unwrap();
    let refused = net.run(&["model", "deploy", &format!("file:{}", parts[0].display())]);
    assert!(code(&refused) != 0 && shown(&refused).contains("not all parts"), "{}", shown(&refused));
    assert_eq!(hub.files_taken(), Vec::new());
}

#[test]
fn a_container_killed_in_the_middle_of_a_download_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("middle.gguf");
    // Large enough to be on the disk in part, small enough to be sent twice.
    muster_engine::tiny::write_shaped(&file, &Shape { width: 256, layers: 3, ..Shape::default() }).unwrap();
    let (id, bytes) = muster_client::weights::hash(&file).unwrap();
    assert!(bytes > 6 << 20, "{bytes}");
    let hub = Hub::start(&[("middle.Q8_0.gguf", file)], First::Stalls);
    let net = Net::start(1);
    point_to(&net, &hub);
    hub.taken();
    let mut deploy =
        net.command(&["--json", "model", "deploy", "--hub", &hub.url(), "hf:lab/tiny-GGUF", "--name", "middle"]);
    let deploying = deploy.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let part = net.role("container-0").join("models").join(format!("part-{id}"));
    let arrived = net.wait_for("some of the weights to arrive", || {
        let len = std::fs::metadata(&part).ok()?.len();
        (len >= 1 << 20).then_some(len)
    });
    net.kill("container-0");
    // Its supervisor starts it again, and the deployment begins anew on it: there is no other.
    let deployed = deploying.wait_with_output().unwrap();
    assert_eq!(code(&deployed), 0, "{}\n{}", shown(&deployed), net.logs());
    let state: Value = serde_json::from_slice(&deployed.stdout).unwrap();
    assert_eq!(state["ready"].as_u64(), Some(1), "{state}");
    let asked = hub.files_taken();
    let from =
        |range: &str| range.strip_prefix("bytes=").map_or(0, |range| range.trim_end_matches('-').parse().unwrap());
    let from: Vec<u64> = asked.iter().map(|(_, range, _)| from(range)).collect();
    assert!(
        from.len() >= 2 && from[0] == 0 && from[1..].iter().all(|at| *at >= arrived),
        "{arrived} arrived: {asked:?}"
    );
    let sent = u64::try_from(hub.sent.load(Ordering::Relaxed)).unwrap();
    assert!(sent >= bytes && sent < 2 * bytes, "{sent} of {bytes} bytes were sent");
    let logs = shown(&net.run(&["model", "logs", "middle"]));
    assert!(logs.contains("replica 2 "), "{logs}");
    let chat = net.run(&["--json", "model", "chat", "middle", "Good morning", "--max-tokens", "4"]);
    assert_eq!(code(&chat), 0, "{}\n{}", shown(&chat), net.logs());
}
