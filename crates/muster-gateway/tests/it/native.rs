//! The form that nodes have among themselves, and answers held against what was committed to with them, through a Gateway.

use std::sync::Arc;

use muster_core::ids::NodeId;
use muster_core::inference::audit::{Claimed, LIKELY, Likely, PromptHash, Replayable, Transcript, question};
use muster_core::inference::{InferenceEvent, InferenceRequest, InferenceTask, TokenCounts, WeightsId};
use muster_core::protocol::NodeSignature;
use muster_engine::audit;
use muster_engine::upstream::Through;
use muster_gateway::Whence;
use serde_json::{Value, json};

use crate::rig::{PROMPT, Reply, Rig, Scripted, Seen, Step, hello, request};

const NATIVE: &str = "/v1/native";
const HERE: NodeId = NodeId([1; 32]);
const THERE: NodeId = NodeId([2; 32]);
const WEIGHTS: WeightsId = WeightsId([9; 32]);

/// What [`answers`] answers a request with this seed from: three tokens.
fn transcript(seed: u64) -> Transcript {
    let claimed = |id| Claimed { id, likely: [Likely::new(id, -0.5); LIKELY] };
    let (prompt, tokens) = (PromptHash::of(&[1, 2]), [5, 6, 7].map(claimed).to_vec());
    Transcript { seed, choice: 0, prompt, prompt_tokens: u32::try_from(PROMPT).unwrap(), tokens }
}

/// Stands for an ed25519 key: who signed, and what.
fn signed(by: NodeId, bytes: &[u8]) -> NodeSignature {
    NodeSignature { r: by.0, s: *blake3::hash(bytes).as_bytes() }
}

fn verify(by: NodeId, bytes: &[u8], signature: &NodeSignature) -> bool {
    *signature == signed(by, bytes)
}

/// Commits to what it answers, signed by somebody, and tells it when it is asked for.
fn answers(request: &InferenceRequest, by: Option<NodeId>) -> Vec<Step> {
    let seed = |to: &InferenceRequest| to.sampling().and_then(|sampling| sampling.seed).unwrap_or_default();
    match &request.task {
        // It knows the one that the question of number 3 has.
        InferenceTask::Reveal(asked) => {
            let known = transcript(seed(&question(3, true).request(true)));
            assert_eq!(*asked, known.commitment());
            vec![Step::Say(InferenceEvent::Transcript(Box::new(known)))]
        }
        _ => {
            let commitment = transcript(seed(request)).commitment();
            let signature = by.map(|by| signed(by, &commitment.signed(WEIGHTS, "a script")));
            [hello(), vec![Step::Say(InferenceEvent::Committed { choice: 0, commitment, signature })]].concat()
        }
    }
}

async fn two() -> (Rig, Arc<Seen>, Arc<Seen>) {
    let rig = Rig::new().await;
    let at = |container| Whence { container: Some(container), weights: Some(WEIGHTS) };
    let here = rig.add_at("a/tiny", Scripted::new(|asked| answers(asked, Some(HERE))), at(HERE));
    let there = rig.add_at("a/tiny", Scripted::new(|asked| answers(asked, Some(THERE))), at(THERE));
    rig.add("other", Scripted::new(|_| hello()));
    (rig, here, there)
}

fn body(to: &Replayable) -> Value {
    json!({ "model": "a/tiny", "request": to.request(false) })
}

async fn ask(rig: &Rig, path: &str, body: &Value, container: &str) -> Reply {
    let (key, body) = (format!("Bearer {}", rig.key), body.to_string());
    let headers = [("authorization", key.as_str()), ("x-muster-container", container)];
    rig.raw(&request(rig.at, "POST", path, &headers, body.as_bytes())).await
}

#[tokio::test]
async fn an_answer_comes_as_its_events_and_from_whom_it_is_wanted() {
    let (rig, here, there) = two().await;
    for _ in 0..4 {
        let reply = ask(&rig, NATIVE, &body(&question(3, true)), &THERE.to_string()).await;
        assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/x-ndjson")));
        assert_eq!(reply.header("x-muster-container"), Some(THERE.to_string().as_str()));
        let events: Vec<InferenceEvent> = reply.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let last = InferenceEvent::Done { counts: TokenCounts { input: PROMPT, cached: 2, output: 3 } };
        assert_eq!(events.last(), Some(&last));
        let committed = |event: &InferenceEvent| matches!(event, InferenceEvent::Committed { choice: 0, .. });
        assert!(events.iter().any(committed), "{events:?}");
    }
    assert_eq!((here.asked.lock().unwrap().len(), there.asked.lock().unwrap().len()), (0, 4));
    // As OpenAI has it, and whoever answers.
    let chat = json!({ "model": "a/tiny", "messages": [{ "role": "user", "content": "hi" }] });
    let reply = ask(&rig, "/v1/chat/completions", &chat, &HERE.to_string()).await;
    assert_eq!((reply.status, reply.header("x-muster-container")), (200, Some(HERE.to_string().as_str())));
    let reply = rig.ask("/v1/chat/completions", &chat).await;
    assert!(reply.header("x-muster-container").is_some());
    rig.idle().await;
    let mut told = *here.told.lock().unwrap();
    told += *there.told.lock().unwrap();
    assert_eq!(rig.billed().await.1, told, "billed like any other");
}

#[tokio::test]
async fn an_answer_is_held_against_its_commitment_through_the_gateway() {
    let (rig, here, there) = two().await;
    let through = Through::new(&format!("http://{}", rig.at), &rig.key).unwrap();
    assert!(through.find(WEIGHTS, NodeId([3; 32]), verify).await.unwrap().is_none());
    assert!(through.find(WeightsId([8; 32]), HERE, verify).await.unwrap().is_none());
    let line = through.find(WEIGHTS, HERE, verify).await.unwrap().unwrap();
    let info = muster_engine::Engine::ready(&line).await.unwrap();
    assert_eq!((info.engine.as_str(), info.context, info.abilities.chat), ("a script", 4_096, true));
    let to = question(3, true);
    assert_eq!(audit::answered(&line, &to).await.unwrap(), transcript(to.sampling().seed.unwrap()));
    // It saw a request of a consumer, and afterwards one for what it had committed to.
    let asked = here.asked.lock().unwrap().clone();
    assert!(asked[0].task == to.request(true).task && matches!(asked[1].task, InferenceTask::Reveal(_)), "{asked:?}");
    assert_eq!((asked.len(), there.asked.lock().unwrap().len()), (2, 0));
    // A Gateway that turns the key away says so.
    let stranger = Through::new(&format!("http://{}/v1", rig.at), "mk_nobody").unwrap();
    let error = stranger.find(WEIGHTS, HERE, verify).await.unwrap_err().to_string();
    assert!(error.contains(&rig.at.to_string()) && error.contains("key"), "{error}");
    assert!(!error.contains("mk_nobody"), "{error}");
}

#[tokio::test]
async fn what_another_container_signed_is_nobody_s_word() {
    // A Gateway that says that an answer is another Container's than the one that gave it, or has it from nobody.
    for by in [Some(THERE), None] {
        let rig = Rig::new().await;
        let whence = Whence { container: Some(HERE), weights: Some(WEIGHTS) };
        rig.add_at("a/tiny", Scripted::new(move |asked| answers(asked, by)), whence);
        let through = Through::new(&format!("http://{}", rig.at), &rig.key).unwrap();
        let line = through.find(WEIGHTS, HERE, verify).await.unwrap().unwrap();
        let error = audit::asked(&line, question(3, true)).await.unwrap_err();
        assert!(!error.hides() && error.to_string().contains("signature"), "{error}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_it_is_said() {
    let (rig, here, _) = two().await;
    let good = body(&question(3, true));
    let error = ask(&rig, NATIVE, &good, &NodeId([3; 32]).to_string()).await.error(404, "container_not_here");
    assert!(error["message"].as_str().unwrap().contains("/v1/models/a/tiny"), "{error}");
    assert_eq!(ask(&rig, NATIVE, &good, "xyz").await.error(400, "invalid_value")["param"], "x-muster-container");
    for (wrong, code) in [
        (json!({ "model": "a/tiny" }), "invalid_json"),
        (json!({ "model": "a/tiny", "request": { "task": { "Chat": {} }, "stream": true } }), "invalid_json"),
        (json!({ "model": "a/tiny", "request": good["request"], "more": 1 }), "invalid_json"),
    ] {
        assert!(
            rig.ask(NATIVE, &wrong).await.error(400, code)["message"].as_str().unwrap().contains("docs/gateway.md")
        );
    }
    let replay = muster_core::inference::audit::Replay { to: question(3, true), choice: 0, tokens: vec![1] };
    let replay = InferenceRequest { task: InferenceTask::Replay(Box::new(replay)), stream: false };
    let replay = json!({ "model": "a/tiny", "request": replay });
    assert_eq!(rig.ask(NATIVE, &replay).await.error(400, "unsupported_value")["param"], "model");
    let none = request(rig.at, "POST", NATIVE, &[], good.to_string().as_bytes());
    rig.raw(&none).await.error(401, "invalid_api_key");
    assert!(here.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn models_are_found_by_their_weights_and_containers() {
    let (rig, ..) = two().await;
    let names = |reply: Reply| -> Vec<String> {
        let data = reply.json()["data"].as_array().unwrap().clone();
        data.iter().map(|model| model["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(rig.get("/v1/models?limit=1").await), ["a/tiny", "other"]);
    assert_eq!(names(rig.get(&format!("/v1/models?weights={WEIGHTS}")).await), ["a/tiny"]);
    assert_eq!(names(rig.get(&format!("/v1/models?container={HERE}&weights={WEIGHTS}")).await), ["a/tiny"]);
    assert!(names(rig.get(&format!("/v1/models?container={}", NodeId([3; 32]))).await).is_empty());
    assert_eq!(rig.get("/v1/models?weights=1").await.error(400, "invalid_value")["param"], "weights");
    let one = rig.get("/v1/models/a/tiny").await.json();
    assert_eq!(one["abilities"], json!(["chat", "completion", "embedding", "tools", "vision"]));
    let replica =
        json!({ "engine": "a script", "context_length": 4_096, "container": HERE, "weights": WEIGHTS.to_string() });
    assert_eq!(one["replicas"][0], replica, "{one}");
    assert_eq!(
        rig.get("/v1/models/other").await.json()["replicas"][0],
        json!({ "engine": "a script", "context_length": 4_096 })
    );
}

#[tokio::test]
async fn what_the_docs_show_is_taken_and_given() {
    let docs = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/gateway.md")).unwrap();
    let shown = docs.split("## The nodes' own form").nth(1).unwrap().split("```").nth(1).unwrap();
    let (request, events) = shown.split_once("\n\n").unwrap();
    let request: Value = serde_json::from_str(request).unwrap();
    let (rig, _) = Rig::hello().await;
    let reply = rig.ask(NATIVE, &request).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    for line in events.trim().lines() {
        let line = line.replace("[61,…]", &json!(vec![61; 32]).to_string());
        serde_json::from_str::<InferenceEvent>(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
}
