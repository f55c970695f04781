//! Models from a hub, with everything real but the hub, which is a few lines of HTTP in this process.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::network::{Net, code, shown};

const TOKEN: &str = "hf_only-the-hub-sees-this";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What was asked of the hub: path, range, token.
type Asked = Arc<Mutex<Vec<(String, String, String)>>>;

struct Hub {
    addr: SocketAddr,
    asked: Asked,
}

impl Hub {
    /// Serves one file in two repositories: `lab/tiny-GGUF` for everybody, `lab/secret-GGUF` for who has the token. The
    /// first time the file breaks off in the middle.
    fn start(content: Vec<u8>, sha256: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (addr, asked) = (listener.local_addr().unwrap(), Asked::default());
        let noted = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (content, sha256, noted) = (content.clone(), sha256.clone(), Arc::clone(&noted));
                // Somebody who goes in the middle is no failure of the hub's.
                std::thread::spawn(move || drop(serve(stream.unwrap(), &content, &sha256, &noted)));
            }
        });
        Self { addr, asked }
    }

    fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    fn taken(&self) -> Vec<(String, String, String)> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

fn serve(mut stream: TcpStream, content: &[u8], sha256: &str, asked: &Asked) -> std::io::Result<()> {
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
        let lfs = json!({ "sha256": sha256, "size": content.len() });
        let body = json!({ "sha": COMMIT, "private": private, "gated": false, "siblings": [
            { "rfilename": "README.md" }, { "rfilename": "tiny.Q8_0.gguf", "lfs": lfs } ] });
        let body = body.to_string();
        return say("200 OK", "Content-Type: application/json\r\n", body.as_bytes(), body.len());
    }
    if is_first {
        return say("200 OK", "", &content[..content.len() / 2], content.len());
    }
    let from: usize = range.strip_prefix("bytes=").map_or(0, |range| range.trim_end_matches('-').parse().unwrap());
    let len = content.len();
    let head = format!("Content-Range: bytes {from}-{}/{len}\r\n", len - 1);
    if from == 0 {
        say("200 OK", "", content, len)
    } else {
        say("206 Partial Content", &head, &content[from..], len - from)
    }
}

/// Lets the network's Containers fetch from this hub.
fn point_to(net: &Net, hub: &Hub) {
    let path = net.role("container-0").join("container.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let line = text.lines().find(|line| line.starts_with("hub = ")).unwrap().to_owned();
    std::fs::write(&path, text.replace(&line, &format!("hub = \"{}\"", hub.url()))).unwrap();
    let before = net.pid("container-0");
    net.kill("container-0");
    net.wait_for("the Container to be back", || {
        let back = std::fs::read_to_string(net.role("container-0").join("lock")).ok()?;
        (back.trim().parse::<u32>().ok()? != before).then_some(())
    });
}

#[test]
fn models_come_from_a_hub_in_one_step_and_private_ones_with_a_sealed_token() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tiny.gguf");
    muster_engine::tiny::write(&file).unwrap();
    let (id, _) = muster_gateway::hash(&file).unwrap();
    let hub = Hub::start(std::fs::read(&file).unwrap(), id.to_string());
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
    let files = |asked: Vec<(String, String, String)>| {
        asked.into_iter().filter(|(path, ..)| path.contains("/resolve/")).collect::<Vec<_>>()
    };
    let asked = files(hub.taken());
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
    assert_eq!(files(hub.taken()), Vec::new());
}
