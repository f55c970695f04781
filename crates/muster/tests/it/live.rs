//! Live sessions: played in a real browser, refused in sentences, paid to the millisecond.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::network::{Net, clean, code, file, muster, shown};
use crate::world::health;

/// Folder of the Gateway.
const GATEWAY: &str = "gateway-0";
/// Sessions that one account may run at once.
const SESSIONS_MAX: usize = 4;
/// What every answer must tell a browser.
const STRICT: [(&str, &str); 4] = [
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "deny"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
];

/// An answer of the Gateway.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The sentence of a refusal, whose status and code are these.
    fn refusal(&self, status: u16, code: &str) -> String {
        let error = &self.json()["error"];
        assert_eq!((self.status, error["code"].as_str()), (status, Some(code)), "{self:?}");
        let message = error["message"].as_str().unwrap().to_owned();
        assert!(message.len() > 20 && !message.contains("panicked"), "{message}");
        message
    }
}

/// The Gateway of a network, as its customer reaches it.
struct Api<'a> {
    net: &'a Net,
    key: String,
    /// Where it listens, where it is not the network's own.
    listen: Option<String>,
}

impl<'a> Api<'a> {
    fn of(net: &'a Net) -> Self {
        let key = std::fs::read_to_string(net.role("gateway.key")).unwrap().trim().to_owned();
        Self { net, key, listen: None }
    }

    fn authority(&self) -> String {
        if let Some(listen) = &self.listen {
            return listen.clone();
        }
        let origin = std::fs::read_to_string(self.net.role(GATEWAY).join("origin")).unwrap();
        origin.trim().strip_prefix("http://").unwrap().to_owned()
    }

    /// A request by hand: the headers matter, the customer's and the Gateway's.
    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let authority = self.authority();
        let mut request = format!("{method} {path} HTTP/1.0\r\nContent-Length: {}\r\n", body.len());
        if !headers.iter().any(|(name, _)| *name == "Host") {
            request += &format!("Host: {authority}\r\n");
        }
        headers.iter().for_each(|(name, value)| request += &format!("{name}: {value}\r\n"));
        let mut stream = TcpStream::connect(&authority).unwrap();
        // Whoever refuses a body need not read it to its end.
        drop(stream.write_all(format!("{request}\r\n{body}").as_bytes()));
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer));
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{method} {path}: {answer:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let answer = Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() };
        self.strict(&answer);
        answer
    }

    /// No answer lets a browser run what the Gateway did not serve.
    fn strict(&self, answer: &Answer) {
        let header = |name: &str| {
            let line = answer.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            line.unwrap_or_else(|| panic!("no {name}: {answer:?}")).to_owned()
        };
        for (name, value) in STRICT {
            assert_eq!(header(name), value, "{answer:?}");
        }
        let policy = header("content-security-policy");
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
        assert!(!policy.contains("unsafe-inline") && !policy.contains("unsafe-eval"), "{policy}");
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.with(&self.key, method, path, &body)
    }

    fn with(&self, key: &str, method: &str, path: &str, body: &str) -> Answer {
        let bearer = format!("Bearer {key}");
        self.send(method, path, &[("Authorization", &bearer), ("Content-Type", "application/json")], body)
    }

    fn session(&self, id: &str) -> Value {
        self.call("GET", &format!("/api/v1/sessions/{id}"), &Value::Null).json()
    }

    fn ended(&self, id: &str) -> Value {
        self.net.wait_for("the session to end", || {
            let session = self.session(id);
            (session["state"] == "ended").then_some(session)
        })
    }
}

fn start(net: &Net, app: &str) -> Value {
    // Far more than a way on this machine takes, so that the way is measured and nobody is turned down.
    let output = net.run(&["--json", "session", "start", app, "--max-latency", "2000", "--near", "45.508,-73.587"]);
    assert_eq!(code(&output), 0, "{}\n{}", shown(&output), net.logs());
    let session: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(session["state"], "running", "{session}");
    session
}

fn amount(value: &Value) -> u128 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{value} is no amount"))
}

/// Leases of the Gateway, from its own folder.
fn leases(net: &Net) -> Vec<Value> {
    let mut command = muster();
    let output = command.arg("--dir").arg(net.role(GATEWAY)).args(["--json", "lease", "ls", "--all"]).output().unwrap();
    let all: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", shown(&output)));
    all["leases"].as_array().unwrap().clone()
}

/// What the Containers have written down of leases that are settled.
fn history(net: &Net) -> Vec<Value> {
    let status = net.json(&["container", "status"]);
    let rows = |one: &Value| one["status"]["history"].as_array().cloned().unwrap_or_default();
    status["containers"].as_array().unwrap().iter().flat_map(rows).collect()
}

/// The lease once it is closed, and its Container's row on it; both say the same.
fn settled(net: &Net, lease: &Value) -> (Value, Value) {
    let row = net.wait_for("the Container to have settled", || history(net).into_iter().find(|r| r["lease"] == *lease));
    let closed = net.wait_for("the lease to be closed", || {
        leases(net).into_iter().find(|l| l["id"] == *lease && l["phase"] == "closed" && l["needs"].is_null())
    });
    assert_eq!(amount(&closed["billed"]), amount(&row["redeemed"]), "{closed} {row}");
    (closed, row)
}

/// What so many milliseconds cost.
fn cost(lease: &Value, ran_ms: &Value) -> u128 {
    amount(&lease["rate_per_second"]) * u128::from(ran_ms.as_u64().unwrap()) / 1_000
}

/// The program that streams for one of this network's Containers.
fn streamer(net: &Net) -> u32 {
    let parent = |pid: u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    let container = net.pid("container-0");
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let streams = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).nth(1) == Some(b"__stream")
    };
    let ours = |pid: &u32| std::iter::successors(Some(*pid), |pid| parent(*pid)).any(|pid| pid == container);
    let found: Vec<u32> = pids.filter(streams).filter(ours).collect();
    assert_eq!(found.len(), 1, "one program streams: {found:?}");
    found[0]
}

/// The console's folder, with what its tests need. Asked for at run time: a binary kept from another checkout must not look
/// there.
pub(crate) fn console() -> PathBuf {
    let here = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo names the folder to tests"));
    let console = here.join("../../console");
    let installed = console.join("node_modules/playwright-core").is_dir();
    assert!(
        installed,
        "console/node_modules is missing, which drives the browser: run scripts/console.sh, then this again"
    );
    console
}

#[test]
fn a_session_is_played_in_a_browser_and_paid_to_the_millisecond() {
    let console = console();
    let net = Net::start(1);
    let api = Api::of(&net);
    let session = start(&net, "latency");
    let shots = std::env::var_os("MUSTER_TEST_SHOTS").map_or_else(|| net.role("shots"), PathBuf::from);
    let mut browser = Command::new("node");
    clean(&mut browser).arg(console.join("test/live.mjs")).args(["--link", session["link"].as_str().unwrap()]);
    browser.arg("--key-file").arg(net.role("gateway.key")).args(["--freeze", &streamer(&net).to_string()]);
    let played = browser.arg("--shots").arg(shots).output().unwrap();
    assert_eq!(code(&played), 0, "{}\n{}", shown(&played), net.logs());
    println!("{}", String::from_utf8_lossy(&played.stdout));

    let over = api.ended(session["id"].as_str().unwrap());
    assert!(over["why"].as_str().unwrap().contains("stopped"), "{over}");
    let (lease, row) = settled(&net, &over["lease"]);
    // The player's silence of four seconds is part of what ran.
    assert!(row["ran_ms"].as_u64().unwrap() > 4_000, "{row}");
    assert_eq!(amount(&lease["billed"]), cost(&lease, &row["ran_ms"]), "{lease} {row}");
    assert_eq!(over["ran_ms"], row["ran_ms"], "{over} {row}");
    assert_eq!(amount(&lease["billed"]) + amount(&lease["refunded"]), amount(&lease["deposit"]), "{lease}");
}

/// A way to the chain on which transactions wait while it is shut.
struct Gate {
    url: String,
    shut: Arc<AtomicBool>,
    waits: Arc<AtomicBool>,
}

impl Gate {
    fn before(net: &Net) -> Self {
        let file = std::fs::read_to_string(net.file()).unwrap();
        let rpc = file.lines().find_map(|line| line.trim().strip_prefix("rpc = \"http://")).unwrap();
        let chain = rpc.trim_end_matches('"').trim_end_matches('/').to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (shut, waits) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let gate = Self { url, shut: Arc::clone(&shut), waits: Arc::clone(&waits) };
        std::thread::spawn(move || {
            for from in listener.incoming().flatten() {
                let Ok(to) = TcpStream::connect(&chain) else { continue };
                let (mut answers, mut back) = (to.try_clone().unwrap(), from.try_clone().unwrap());
                std::thread::spawn(move || {
                    drop(std::io::copy(&mut answers, &mut back));
                    drop(back.shutdown(Shutdown::Both));
                });
                let (shut, waits) = (Arc::clone(&shut), Arc::clone(&waits));
                std::thread::spawn(move || pass(from, to, &shut, &waits));
            }
        });
        gate
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, shut: &AtomicBool, waits: &AtomicBool) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let asked = &buffer[..count];
        let sends = asked.windows(22).any(|part| part == b"eth_sendRawTransaction");
        while sends && shut.load(Ordering::SeqCst) {
            waits.store(true, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(20));
        }
        if to.write_all(asked).is_err() {
            break;
        }
    }
    drop(to.shutdown(Shutdown::Write));
}

/// A command of a second Gateway on this network, which reaches the chain at `rpc`.
fn second(net: &Net, dir: &Path, rpc: &str) -> Command {
    let mut command = muster();
    command.arg("--dir").arg(dir).arg("--network").arg(net.file()).args(["--rpc", rpc, "--json", "--wallet"]);
    command.arg(net.role("wallets/consumer.json")).arg("--passphrase-file").arg(net.role("wallets/passphrase"));
    command
}

#[test]
fn a_session_begins_while_its_deposit_is_on_its_way_and_is_billed_from_it_on() {
    let net = Net::start(1);
    let (gate, dir) = (Gate::before(&net), net.role("second-gateway"));
    std::fs::create_dir_all(&dir).unwrap();
    let made = second(&net, &dir, &gate.url).args(["api-key", "new", "me"]).output().unwrap();
    assert_eq!(code(&made), 0, "{}", shown(&made));
    let key = serde_json::from_slice::<Value>(&made.stdout).unwrap()["key"].as_str().unwrap().to_owned();
    let mut gateway =
        second(&net, &dir, &gate.url).args(["gateway", "run", "--listen", "127.0.0.1:0"]).spawn().unwrap();
    let api = Api { net: &net, key, listen: Some(health(&dir)["listen"].as_str().unwrap().to_owned()) };
    let begin = || {
        let begun = api.call("POST", "/api/v1/sessions", &json!({ "app": "latency" }));
        assert_eq!(begun.status, 201, "{begun:?}");
        begun.json()["id"].as_str().unwrap().to_owned()
    };
    let stopped = |id: &str| {
        net.wait_for("the session to run", || (api.session(id)["state"] == "running").then_some(()));
        assert_eq!(api.call("POST", &format!("/api/v1/sessions/{id}/stop"), &Value::Null).status, 202);
        api.ended(id)
    };
    // The first deposit of a wallet takes a transaction before it, which lets the escrow have its tokens.
    stopped(&begin());

    gate.shut.store(true, Ordering::SeqCst);
    let id = begin();
    let early = net.wait_for("the program to run without its deposit", || {
        let status = net.json(&["container", "status"]);
        let leases = status["containers"][0]["status"]["leases"].as_array().unwrap();
        leases.iter().find(|lease| lease["phase"] == "starting" && !lease["started_at_ms"].is_null()).cloned()
    });
    assert!(gate.waits.load(Ordering::SeqCst), "the opening waits at the gate");
    assert_eq!((&early["deposit"], &early["paid"]), (&json!("0"), &json!("0")), "{early}");
    assert_eq!(api.session(&id)["state"], "starting");
    // Time in which it runs for nothing.
    std::thread::sleep(Duration::from_secs(1));
    let paying = Instant::now();
    gate.shut.store(false, Ordering::SeqCst);
    let over = stopped(&id);
    let most = paying.elapsed().as_millis();
    let row = net.wait_for("the Container to have settled", || {
        history(&net).into_iter().find(|row| row["lease"] == over["lease"])
    });
    let ran_ms = u128::from(row["ran_ms"].as_u64().unwrap());
    assert!(
        ran_ms > 0 && ran_ms <= most,
        "{ran_ms} ms are billed, and the deposit came {most} ms before the end: {row}"
    );
    assert_eq!(early["lease"], row["lease"]);
    let rate = amount(&early["rate_per_second"]);
    assert_eq!(amount(&row["redeemed"]), rate * ran_ms / 1_000, "{row}");
    gateway.kill().unwrap();
    gateway.wait().unwrap();
}

#[test]
fn the_gateway_refuses_in_sentences_and_bills_nothing_that_never_drew() {
    let net = Net::start(2);
    let api = Api::of(&net);
    strangers_get_nothing(&api);
    what_is_wrong_is_named(&api);
    the_description_is_whole(&api);
    one_session_too_many_is_refused(&api);
    programs_that_do_not_draw_cost_nothing(&api);
}

fn strangers_get_nothing(api: &Api<'_>) {
    let start = json!({ "app": "latency" }).to_string();
    for (method, path) in [
        ("POST", "/api/v1/sessions"),
        ("GET", "/api/v1/sessions"),
        ("GET", "/api/v1/sessions/0123456789abcdef0123"),
        ("POST", "/api/v1/sessions/0123456789abcdef0123/stop"),
        ("POST", "/api/v1/sessions/0123456789abcdef0123/link"),
        ("GET", "/api/v1/sessions/0123456789abcdef0123/receipts"),
        ("DELETE", "/api/v1/apps/latency"),
        ("GET", "/api/v1/models"),
        ("GET", "/api/v1/models/tiny"),
        ("GET", "/api/v1/models/tiny/logs"),
        ("GET", "/api/v1/catalog"),
        ("GET", "/api/v1/account"),
        ("DELETE", "/api/v1/models/tiny"),
        ("POST", "/api/v1/keys"),
        ("GET", "/api/v1/weights/0000000000000000000000000000000000000000000000000000000000000000"),
        ("PUT", "/api/v1/weights/0000000000000000000000000000000000000000000000000000000000000000/9/0"),
    ] {
        let body = match (method, path) {
            ("POST", "/api/v1/sessions") => start.as_str(),
            ("POST", "/api/v1/keys") => "{\"models\":[]}",
            _ => "",
        };
        let none = api.send(method, path, &[("Content-Type", "application/json")], body);
        assert!(none.refusal(401, "no_key").contains("muster api-key new"), "{method} {path}");
        let wrong = api.with(&format!("mk_{}", "0".repeat(64)), method, path, body);
        assert!(matches!(wrong.status, 401 | 404), "{method} {path}: {wrong:?}");
    }
    api.with("mk_wrong", "POST", "/api/v1/sessions", &start).refusal(401, "no_key");
    // A name of somebody else's for this machine is how a page elsewhere would reach it.
    for host in ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.0.0.1"] {
        let bearer = format!("Bearer {}", api.key);
        for path in ["/", "/api/v1/sessions", "/api/openapi.json"] {
            let answer = api.send("GET", path, &[("Host", host), ("Authorization", &bearer)], "");
            assert!(answer.refusal(403, "wrong_host").contains("127.0.0.1"), "{answer:?}");
        }
    }
}

fn what_is_wrong_is_named(api: &Api<'_>) {
    let start = |body: Value| api.call("POST", "/api/v1/sessions", &body);
    let unknown = start(json!({ "app": "neverbal" })).refusal(404, "unknown_app");
    assert!(unknown.contains("nearest are: neverball"), "{unknown}");
    let size = start(json!({ "app": "latency", "width": 123, "height": 45 })).refusal(400, "bad_app");
    assert!(size.contains("123x45") && size.contains("1280x720"), "{size}");
    let rate = start(json!({ "app": "latency", "fps": 61 })).refusal(400, "bad_app");
    assert!(rate.contains("61") && rate.contains("60, 30"), "{rate}");
    start(json!({ "app": "latency", "width": 1280 })).refusal(400, "bad_request");
    start(json!({ "app": "latency", "region": "-" })).refusal(400, "bad_request");
    start(json!({ "app": "latency", "layout": "../../etc" })).refusal(400, "bad_app");
    let place = start(json!({ "app": "latency", "near": "north" })).refusal(400, "bad_request");
    assert!(place.contains("45.508,-73.587"), "{place}");
    for bad in [
        "",
        "{",
        "[]",
        "null",
        "{\"app\": 1}",
        "{\"app\": \"latency\", \"colour\": 1}",
        "{\"app\": \"latency\", \"fps\": 99999}",
    ] {
        api.with(&api.key, "POST", "/api/v1/sessions", bad).refusal(400, "bad_request");
    }
    let long = json!({ "app": "x".repeat(200_000) });
    start(long).refusal(413, "too_large");
    let id = "0123456789abcdef0123";
    api.call("GET", &format!("/api/v1/sessions/{id}"), &Value::Null).refusal(404, "unknown_session");
    api.call("GET", "/api/v1/nothing", &Value::Null).refusal(404, "not_found");
    api.call("PUT", "/api/v1/sessions", &Value::Null).refusal(405, "wrong_method");
    assert_eq!(api.call("GET", "/assets/../api-keys.json", &Value::Null).status, 404);
    assert_eq!(api.call("GET", "/assets/..%2Fapi-keys.json", &Value::Null).status, 404);
    let pages = [("/", "<!doctype html>"), ("/s/0123456789abcdef0123", "id=\"video\"")];
    for (path, words) in pages {
        let page = api.send("GET", path, &[], "");
        assert!(page.status == 200 && page.body.contains(words), "{page:?}");
    }
}

/// Every route is told, and what is told is there.
fn the_description_is_whole(api: &Api<'_>) {
    let description = api.send("GET", "/api/openapi.json", &[], "");
    assert!(description.head.contains("content-type: application/json"), "{}", description.head);
    let paths = description.json()["paths"].clone();
    let told: Vec<(String, String)> = paths
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, calls)| calls.as_object().unwrap().keys().map(|m| (m.clone(), path.clone())))
        .collect();
    let mut expected: Vec<(String, String)> = [
        ("get", "/api/v1/apps"),
        ("post", "/api/v1/apps"),
        ("get", "/api/v1/apps/{name}"),
        ("delete", "/api/v1/apps/{name}"),
        ("get", "/api/v1/app-content/{hash}"),
        ("put", "/api/v1/app-content/{hash}/{at}"),
        ("get", "/api/v1/sessions"),
        ("post", "/api/v1/sessions"),
        ("get", "/api/v1/sessions/{id}"),
        ("post", "/api/v1/sessions/{id}/join"),
        ("post", "/api/v1/sessions/{id}/link"),
        ("get", "/api/v1/sessions/{id}/receipts"),
        ("post", "/api/v1/sessions/{id}/receipts"),
        ("post", "/api/v1/sessions/{id}/stop"),
        ("get", "/api/v1/models"),
        ("post", "/api/v1/models"),
        ("get", "/api/v1/models/{id}"),
        ("delete", "/api/v1/models/{id}"),
        ("post", "/api/v1/models/{id}/scale"),
        ("post", "/api/v1/keys"),
        ("get", "/api/v1/models/{id}/logs"),
        ("get", "/api/v1/catalog"),
        ("get", "/api/v1/account"),
        ("post", "/api/v1/account/credits"),
        ("post", "/api/v1/models/{id}/token"),
        ("get", "/api/v1/weights/{sha256}"),
        ("put", "/api/v1/weights/{sha256}/{total}/{at}"),
        ("get", "/v1/models"),
        ("get", "/v1/models/{id}"),
        ("get", "/v1/usage"),
        ("post", "/v1/chat/completions"),
        ("post", "/v1/completions"),
        ("post", "/v1/embeddings"),
        ("post", "/v1/responses"),
        ("post", "/v1/native"),
    ]
    .map(|(method, path)| (method.to_owned(), path.to_owned()))
    .to_vec();
    let mut told = told;
    told.sort();
    expected.sort();
    assert_eq!(told, expected);
}

fn one_session_too_many_is_refused(api: &Api<'_>) {
    let begin = || api.call("POST", "/api/v1/sessions", &json!({ "app": "latency" }));
    let all: Vec<Value> =
        (0..SESSIONS_MAX).map(|_| begin()).map(|a| (a.status == 201).then(|| a.json()).unwrap()).collect();
    let more = begin();
    let told = more.refusal(429, "too_many_sessions");
    assert!(told.contains("4 sessions") && told.contains("muster session stop"), "{told}");
    assert!(more.head.contains("retry-after: "), "{}", more.head);
    for session in &all {
        let path = format!("/api/v1/sessions/{}/stop", session["id"].as_str().unwrap());
        assert_eq!(api.call("POST", &path, &Value::Null).status, 202);
    }
    all.iter().for_each(|session| drop(api.ended(session["id"].as_str().unwrap())));
}

fn programs_that_do_not_draw_cost_nothing(api: &Api<'_>) {
    let net = api.net;
    for (name, command, packages, words) in [
        ("gone", r#"["false"]"#, "", "exit code 1"),
        ("still", r#"["sleep", "60"]"#, "", "drawn nothing within"),
        ("talks", r#"["sh", "-c", "echo no screen for me >&2; exit 3"]"#, "", "no screen for me"),
        ("lacks", r#"["sleep", "61"]"#, "no-such-package-anywhere", "is not known to the Container's Debian sources"),
    ] {
        publish(net, name, command, packages);
        let before = leases(net).len();
        let started = net.run(&["session", "start", name]);
        assert_ne!(code(&started), 0, "{}", shown(&started));
        let told = String::from_utf8_lossy(&started.stderr).into_owned();
        assert!(told.contains(words), "{name}: {told}");
        let closed = net.wait_for("its leases to be closed", || {
            let all: Vec<Value> = leases(net)
                .into_iter()
                .filter(|l| l["command"].to_string().contains(&command.replace(", ", ",")))
                .collect();
            let over = |l: &Value| (l["phase"] == "closed" || l["phase"] == "void") && l["needs"].is_null();
            (!all.is_empty() && all.iter().all(over)).then_some(all)
        });
        // Another Container would do no better.
        assert_eq!(closed.len(), 1, "{closed:?}");
        assert_eq!(leases(net).len(), before + 1);
        for lease in closed {
            assert_eq!(lease["billed"], "0", "{lease}");
            assert_eq!(lease["refunded"], lease["deposit"], "{lease}");
        }
    }
}

/// Publishes a small app that needs one package, or none.
fn publish(net: &Net, name: &str, command: &str, package: &str) {
    let packages = if package.is_empty() { String::new() } else { format!("packages = [\"{package}\"]\n") };
    let text = format!(
        "name = \"{name}\"\nversion = \"1\"\ntitle = \"{name}\"\ncommand = {command}\n{packages}\
         resolutions = [\"640x360\"]\nfps = [30]\n\n[needs]\ncpu_millis = 100\nmemory_mib = 128\ndisk_mib = 16\n"
    );
    let path = file(&net.role(""), &format!("{name}.toml"), text.as_bytes());
    let published = net.run(&["app", "publish", path.to_str().unwrap()]);
    assert_eq!(code(&published), 0, "{}", shown(&published));
}

/// A small program with a window that this machine lacks and its Debian sources have; `None` (said aloud) without one.
fn lacking(net: &Net) -> Option<&'static str> {
    let absent = |package: &&&str| {
        let known = Command::new("dpkg-query").args(["-W", "-f", "${Status}", **package]).output().unwrap();
        !String::from_utf8_lossy(&known.stdout).contains("ok installed")
    };
    let Some(package) = ["xdemineur", "xdaliclock", "oneko"].iter().find(|one| absent(one)) else {
        eprintln!("skipped: this machine has every program that could be missing");
        return None;
    };
    let asked = Command::new("apt-get").args(["-qq", "download", package]).current_dir(net.role("")).output().unwrap();
    if asked.status.success() {
        return Some(package);
    }
    eprintln!("skipped: this machine's Debian sources do not give {package}: {}", shown(&asked));
    None
}

#[test]
fn files_go_along_with_an_app_and_are_not_part_of_what_it_saves() {
    let net = Net::start(1);
    let api = Api::of(&net);
    let run =
        "#!/bin/sh\nset -e\ngrep -q steep app/levels/one\necho 7 > score\necho x >> app/levels/one\nexec \"$@\"\n";
    let dir = net.role("game");
    std::fs::create_dir_all(dir.join("levels")).unwrap();
    std::fs::write(dir.join("levels/one"), "steep").unwrap();
    std::fs::write(dir.join("run"), run).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir.join("run"), mode).unwrap();
    let text = |version: &str| {
        format!(
            "name = \"own\"\nversion = \"{version}\"\ntitle = \"Own\"\ncommand = [\"app/run\", \"/.muster/init\", \"__latency\"]\n\
             files = [\"levels/\", \"run\"]\nresolutions = [\"640x360\"]\nfps = [30]\n\n\
             [needs]\ncpu_millis = 100\nmemory_mib = 256\ndisk_mib = 16\n"
        )
    };
    let path = file(&dir, "app.toml", text("1").as_bytes());
    let publish = || net.run(&["app", "publish", path.to_str().unwrap()]);
    for _ in 0..2 {
        let published = publish();
        assert_eq!(code(&published), 0, "{}", shown(&published));
    }
    let mut kept = Vec::new();
    for _ in 0..2 {
        // The second time the level is as it was published, whatever the first has made of it.
        let session = start(&net, "own");
        let stop = net.run(&["session", "stop", session["id"].as_str().unwrap()]);
        assert_eq!(code(&stop), 0, "{}", shown(&stop));
        let over = api.ended(session["id"].as_str().unwrap());
        settled(&net, &over["lease"]);
        let saves = net.role(GATEWAY).join("saves");
        let of_app = |account: std::fs::DirEntry| std::fs::read_dir(account.path().join("own/current")).ok();
        let accounts = || std::fs::read_dir(&saves).ok().into_iter().flatten().flatten();
        let names = || accounts().filter_map(of_app).flatten().flatten().map(|e| e.file_name()).collect::<Vec<_>>();
        kept = net.wait_for("what it saved", || Some(names()).filter(|names| !names.is_empty()));
    }
    assert_eq!(kept, ["score"]);
    // A version never changes, its files no more than the rest.
    std::fs::write(dir.join("levels/one"), "very steep").unwrap();
    let changed = publish();
    assert_ne!(code(&changed), 0);
    assert!(String::from_utf8_lossy(&changed.stderr).contains("a version never changes"), "{}", shown(&changed));
    std::fs::write(&path, text("2")).unwrap();
    let newer = publish();
    assert_eq!(code(&newer), 0, "{}", shown(&newer));
}

#[test]
fn an_app_that_no_container_has_is_fetched_once_and_its_players_come_back_to_where_it_is() {
    let net = Net::start(2);
    let api = Api::of(&net);
    let Some(package) = lacking(&net) else { return };
    publish(&net, "rare", &format!("[\"{package}\"]"), package);
    let mut places = Vec::new();
    let fetched = || {
        let sets = |n: usize| std::fs::read_dir(net.role(&format!("container-{n}")).join("apps/sets")).unwrap();
        [0, 1].map(|n| sets(n).filter(|set| set.as_ref().unwrap().path().join("root/usr").is_dir()).count())
    };
    for _ in 0..3 {
        let session = start(&net, "rare");
        places.push(session["container"].as_str().unwrap().to_owned());
        if places.len() < 3 {
            assert_eq!(fetched().iter().sum::<usize>(), 1, "the other one has fetched nothing");
        }
        let stop = net.run(&["session", "stop", session["id"].as_str().unwrap()]);
        assert_eq!(code(&stop), 0, "{}", shown(&stop));
        let over = api.ended(session["id"].as_str().unwrap());
        let (lease, row) = settled(&net, &over["lease"]);
        assert_eq!(amount(&lease["billed"]), cost(&lease, &row["ran_ms"]), "{lease} {row}");
    }
    places.dedup();
    assert_eq!(places.len(), 1, "{places:?}");
    // Asked for three times: now the idle one is told, and has it before anybody waits for it there.
    net.wait_for("the other Container to have fetched it too", || (fetched() == [1, 1]).then_some(()));
}

#[test]
fn a_session_whose_gateway_is_killed_is_settled_and_not_billed_beyond_its_time() {
    let net = Net::start(1);
    let session = start(&net, "latency");
    let running = net.wait_for("some seconds of it", || {
        let now = Api::of(&net).session(session["id"].as_str().unwrap());
        (now["ran_ms"].as_u64() > Some(2_500)).then_some(now)
    });
    let killed = net.pid(GATEWAY);
    net.kill(GATEWAY);
    net.wait_for("the Gateway to be started again", || (net.pid(GATEWAY) != killed).then_some(()));
    health(&net.role(GATEWAY));
    // Nobody but the new Gateway has touched it when its Container is done.
    let (lease, row) = settled(&net, &running["lease"]);
    assert!(amount(&lease["billed"]) > 0, "{lease}");
    assert!(amount(&lease["billed"]) <= cost(&lease, &row["ran_ms"]), "{lease} {row}");
    assert_eq!(amount(&lease["billed"]) + amount(&lease["refunded"]), amount(&lease["deposit"]), "{lease}");
    // And it serves: the key is as good as before, the session is told as gone, a new one runs.
    let api = Api::of(&net);
    let path = format!("/api/v1/sessions/{}", session["id"].as_str().unwrap());
    api.call("GET", &path, &Value::Null).refusal(404, "unknown_session");
    let next = start(&net, "latency");
    let stop = net.run(&["session", "stop", next["id"].as_str().unwrap()]);
    assert_eq!(code(&stop), 0, "{}", shown(&stop));
    api.ended(next["id"].as_str().unwrap());
}
