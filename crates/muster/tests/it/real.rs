//! Models that say something, with everything real: SmolLM2 in our own engine, and behind a server that its provider runs.
//!
//! Both tests go without where the model could not be fetched (scripts/weights.sh), and say so.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::models::{Api, closed, cost, number, unpacked};
use crate::network::{Net, code, shown};

const SMOLLM2: &str = "smollm2-135m-instruct";

fn question(model: &str, text: &str, more: &Value) -> Value {
    let mut body = json!({
        "model": model, "messages": [{ "role": "user", "content": text }], "max_tokens": 32, "temperature": 0,
    });
    body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    body
}

fn said(answer: &Value) -> String {
    answer.pointer("/choices/0/message/content").and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Asks the same twice, whole and streamed: the same is said and counted. Gives the text.
fn asked_both_ways(api: &Api, model: &str, text: &str) -> String {
    let (status, whole) = api.call("POST", "/v1/chat/completions", &question(model, text, &json!({})));
    assert_eq!(status, 200, "{whole}");
    let stream = json!({ "stream": true, "stream_options": { "include_usage": true } });
    let (streamed, usage) = api.streamed("/v1/chat/completions", &question(model, text, &stream));
    assert_eq!(streamed, said(&whole));
    for field in ["prompt_tokens", "completion_tokens"] {
        assert_eq!(usage[field], whole["usage"][field], "{usage} beside {whole}");
    }
    streamed
}

/// Removes a model, and gives its lease once it is settled: what was billed is what was counted.
fn settled(net: &Net, api: &Api, model: &str) -> Value {
    let (_, state) = api.call("GET", &format!("/api/v1/models/{model}"), &Value::Null);
    let lease = state.pointer("/running/0/lease").and_then(Value::as_str).unwrap().to_owned();
    assert_eq!(code(&net.run(&["model", "rm", model])), 0);
    let closed = closed(net, &lease);
    assert_eq!(closed["billed"].as_str(), Some(cost(&closed).to_string().as_str()), "{closed}");
    closed
}

#[test]
fn a_small_model_that_people_use_knows_where_paris_is() {
    let Some(weights) = unpacked(&format!("{SMOLLM2}.gguf")) else { return };
    let net = Net::start(1);
    let mut deploy = net.command(&["--json", "model", "deploy", SMOLLM2]);
    let deployed = deploy.env("MUSTER_MODELS", weights.parent().unwrap()).output().unwrap();
    assert_eq!(code(&deployed), 0, "{}\n{}", shown(&deployed), net.logs());
    let api = Api::of(&net);
    let about = asked_both_ways(&api, SMOLLM2, "Hi, what is the capital of France?");
    assert!(about.contains("Paris"), "{about}");
    // A form is kept, whatever the model would rather say.
    let schema = json!({
        "type": "object", "additionalProperties": false, "required": ["city", "country"],
        "properties": { "city": { "type": "string", "maxLength": 20 }, "country": { "type": "string", "maxLength": 20 } },
    });
    let format = json!({
        "response_format": { "type": "json_schema", "json_schema": { "name": "place", "schema": schema, "strict": true } },
        "max_tokens": 80,
    });
    let (status, formed) =
        api.call("POST", "/v1/chat/completions", &question(SMOLLM2, "Where is the Eiffel tower?", &format));
    assert_eq!(status, 200, "{formed}");
    let place: Value = serde_json::from_str(&said(&formed)).unwrap();
    assert!(place["city"].is_string() && place["country"].is_string(), "{place}");
    let chatted = net.run(&["model", "chat", SMOLLM2, "Hi, what is the capital of France?", "--temperature", "0"]);
    assert!(shown(&chatted).contains("Paris"), "{}", shown(&chatted));
    settled(&net, &api, SMOLLM2);
}

/// A server that its provider runs, until it is dropped.
struct Server {
    process: Child,
    url: String,
}

impl Server {
    fn start(model: &Path) -> Self {
        // Asked for at run time: a binary kept from another checkout must not look there.
        let here = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo names the folder to tests"));
        let folder = here.join("tests/llama-server");
        let mut install = Command::new(here.join("../../scripts/venv.sh"));
        let install = install.arg("llama-server").arg(folder.join("requirements.txt")).output().unwrap();
        assert_eq!(code(&install), 0, "{}", shown(&install));
        let python = PathBuf::from(String::from_utf8(install.stdout).unwrap().trim()).join("bin/python");
        let mut command = Command::new(python);
        command.arg(folder.join("serve.py")).arg(model).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.stderr(Stdio::null()).spawn().unwrap();
        let mut url = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut url).unwrap();
        assert!(url.starts_with("http://"), "the server did not come up: {url:?}");
        Self { process, url: url.trim().to_owned() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop((self.process.kill(), self.process.wait()));
    }
}

/// Tells a Container of a server that its owner runs, and waits until it is back.
fn offer(net: &Net, url: &str) {
    let path = net.role("container-0").join("container.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let endpoint = format!(
        "\n[[models.endpoint]]\nurl = \"{url}/v1\"\nmodel = \"served\"\nname = \"theirs\"\nweights = \"100M\"\n\
         context = 2048\nparallel = 2\n"
    );
    std::fs::write(&path, text + &endpoint).unwrap();
    net.restart("container-0");
}

#[test]
fn an_engine_that_a_provider_runs_already_is_rented_like_any_model() {
    let Some(weights) = unpacked(&format!("{SMOLLM2}.gguf")) else { return };
    let server = Server::start(&weights);
    let net = Net::start(1);
    offer(&net, &server.url);
    let nobody = net.run(&["model", "deploy", "endpoint:nobodys", "--no-wait"]);
    assert_eq!(code(&nobody), 0, "{}", shown(&nobody));
    let deployed = net.run(&["--json", "model", "deploy", "endpoint:theirs"]);
    assert_eq!(code(&deployed), 0, "{}\n{}", shown(&deployed), net.logs());
    let api = Api::of(&net);
    let about = asked_both_ways(&api, "theirs", "Hi, what is the capital of France?");
    assert!(about.contains("Paris"), "{about}");
    // One who hangs up is counted to where he left: the server is told, and draws no more.
    let (_, before) = api.call("GET", "/api/v1/models/theirs", &Value::Null);
    let long = json!({ "stream": true, "max_tokens": 1500, "temperature": 1, "ignore_eos": true });
    let mut left = api.begin("POST", "/v1/chat/completions", &question("theirs", "Tell me everything.", &long));
    let mut some = [0; 2048];
    left.read_exact(&mut some).unwrap();
    drop(left);
    let output = |state: &Value| number(state, "/running/0/output_tokens");
    let drawn = net.wait_for("what was drawn for who hung up", || {
        let (_, now) = api.call("GET", "/api/v1/models/theirs", &Value::Null);
        let drawn = output(&now) - output(&before);
        (drawn > 0).then_some(drawn)
    });
    assert!(drawn < 1500, "it was drawn to the end");
    // What the server does not have, it refuses in words, and nothing is billed.
    let (status, long) =
        api.call("POST", "/v1/chat/completions", &question("theirs", &"one two three ".repeat(2_000), &json!({})));
    assert_eq!(
        (status, long.pointer("/error/code").and_then(Value::as_str)),
        (400, Some("context_length_exceeded")),
        "{long}"
    );
    let closed = settled(&net, &api, "theirs");
    assert!(number(&closed["tokens"], "/output") >= drawn, "{closed}");
    // Where nobody offers such an engine, that is what is said.
    let why = net.wait_for("why nobody serves it", || {
        let (_, state) = api.call("GET", "/api/v1/models/nobodys", &Value::Null);
        state["why"].as_str().map(str::to_owned)
    });
    assert!(why.contains("nobodys") || why.contains("serves"), "{why}");
}
