//! The upstream engine, against a server that is played over real HTTP.

use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use muster_core::inference::{Finish, InferenceErrorKind, ResponseFormat, Sampling, Tool, ToolChoice};
use muster_engine::upstream::{Upstream, UpstreamConfig};
use muster_engine::{Abilities, Engine};
use serde_json::{Value, json};

use crate::asked::{Got, ask, chat, chatting, completion, embedding, formed, sampling};

/// What was asked last, and what is answered.
#[derive(Clone, Default)]
struct Played {
    asked: Arc<Mutex<Option<Value>>>,
    answer: Arc<Mutex<(u16, String)>>,
}

async fn answer(State(played): State<Played>, headers: axum::http::HeaderMap, body: Bytes) -> Response {
    assert_eq!(headers["authorization"], "Bearer secret");
    *played.asked.lock().unwrap() = Some(serde_json::from_slice(&body).unwrap());
    let (status, text) = played.answer.lock().unwrap().clone();
    let status = StatusCode::from_u16(status).unwrap();
    if let Some(begun) = text.strip_suffix("[HANG]") {
        // An answer that goes on for ever: what was begun comes, and nothing after it.
        let (to, from) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(1);
        to.send(Ok(Bytes::from(begun.to_owned()))).await.unwrap();
        let stream =
            futures::stream::unfold((from, to), |(mut from, to)| async move { Some((from.recv().await?, (from, to))) });
        return (status, Body::from_stream(stream)).into_response();
    }
    (status, [("retry-after", "7")], text).into_response()
}

async fn server() -> (Played, Upstream) {
    let played = Played::default();
    let router = axum::Router::new()
        .route("/v1/chat/completions", post(answer))
        .route("/v1/completions", post(answer))
        .route("/v1/embeddings", post(answer))
        .with_state(played.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}/v1/", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let abilities = Abilities { chat: true, completion: true, embedding: true, tools: true, vision: false };
    let (key, model) = (Some("secret".to_owned()), "m".to_owned());
    let config = UpstreamConfig { base_url, key, model, context: 64, parallel: 2, queue: 1, abilities, dimensions: 2 };
    (played, Upstream::new(config).unwrap())
}

impl Played {
    fn says(&self, status: u16, text: impl Into<String>) {
        *self.answer.lock().unwrap() = (status, text.into());
    }

    fn streams(&self, pieces: &[Value]) {
        let lines: String = pieces.iter().map(|piece| format!("data: {piece}\n\n")).collect();
        self.says(200, lines + "data: [DONE]\n\n");
    }

    fn asked(&self) -> Value {
        self.asked.lock().unwrap().take().unwrap()
    }
}

fn delta(delta: Value) -> Value {
    json!({ "choices": [{ "index": 0, "delta": delta }] })
}

fn end(why: &str) -> Value {
    json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": why }] })
}

fn usage(input: u64, cached: u64, output: u64) -> Value {
    json!({ "choices": [], "usage": { "prompt_tokens": input, "completion_tokens": output,
        "prompt_tokens_details": { "cached_tokens": cached } } })
}

#[tokio::test]
async fn a_conversation_is_asked_and_answered() {
    let (played, engine) = server().await;
    let logprobs = json!({ "content": [{ "token": "b", "bytes": [98], "logprob": -0.5,
        "top_logprobs": [{ "token": "b", "bytes": [98], "logprob": -0.5 }] }] });
    played.streams(&[
        delta(json!({ "role": "assistant", "reasoning_content": "hm" })),
        delta(json!({ "content": "a" })),
        json!({ "choices": [{ "index": 0, "delta": { "content": "b" }, "logprobs": logprobs }] }),
        end("stop"),
        usage(9, 4, 3),
    ]);
    let options = Sampling {
        top_k: 5,
        min_p: 0.1,
        repetition_penalty: 1.5,
        stop: vec!["x".to_owned()],
        logprobs: Some(1),
        ..sampling(7)
    };
    let mut asked = chat("Hi", options);
    asked.format = ResponseFormat::JsonSchema { name: "s".to_owned(), schema: "{\"type\":\"object\"}".to_owned() };
    asked.tools =
        vec![Tool { name: "f".to_owned(), description: String::new(), parameters: String::new(), strict: false }];
    asked.tool_choice = ToolChoice::Named("f".to_owned());
    let got = ask(&engine, chatting(asked)).await;
    assert_eq!(
        (got.text(), got.thoughts.as_str(), got.finish(), got.error.as_ref()),
        ("ab", "hm", Some(Finish::Stop), None)
    );
    assert_eq!((got.counts.input, got.counts.cached, got.counts.output), (9, 4, 3));
    assert_eq!(
        (got.logprobs.len(), got.logprobs[0].top.len(), got.logprobs[0].bytes.as_slice()),
        (1, 1, b"b".as_slice())
    );
    let body = played.asked();
    assert_eq!((&body["model"], &body["top_k"], &body["stop"]), (&json!("m"), &json!(5), &json!(["x"])));
    assert_eq!(body["stream_options"]["include_usage"], true);
    assert_eq!(body["response_format"]["json_schema"]["schema"]["type"], "object");
    assert_eq!(body["tool_choice"]["function"]["name"], "f");
    assert_eq!(body["messages"][0], json!({ "role": "user", "content": "Hi" }));
}

#[tokio::test]
async fn calls_of_tools_come_in_pieces() {
    let (played, engine) = server().await;
    let call = |call: Value| delta(json!({ "tool_calls": [call] }));
    played.streams(&[
        call(json!({ "index": 0, "id": "c1", "function": { "name": "f", "arguments": "" } })),
        call(json!({ "index": 0, "function": { "arguments": "{\"a\":" } })),
        call(json!({ "index": 0, "function": { "arguments": "1}" } })),
        end("tool_calls"),
        usage(5, 0, 4),
    ]);
    let got = ask(&engine, chatting(chat("Hi", sampling(9)))).await;
    assert_eq!((got.finish(), got.calls), (Some(Finish::ToolCalls), vec![("f".to_owned(), "{\"a\":1}".to_owned())]));
}

#[tokio::test]
async fn who_cancels_learns_what_the_server_counted() {
    let (played, engine) = server().await;
    let piece = |usage: Value| json!({ "choices": [{ "index": 0, "text": "a" }], "usage": usage }).to_string();
    for (usage, counts) in [(json!({ "prompt_tokens": 3, "completion_tokens": 2 }), (3, 2)), (Value::Null, (0, 1))] {
        played.says(200, format!("data: {}\n\n[HANG]", piece(usage)));
        let mut answer = engine.submit(completion("x", sampling(9)));
        let mut got = Got::default();
        while got.pieces == 0 {
            answer.next().await.unwrap().into_iter().for_each(|event| got.take(event));
        }
        assert_eq!(engine.load().busy, 1);
        answer.cancel();
        while let Some(events) = answer.next().await {
            events.into_iter().for_each(|event| got.take(event));
        }
        assert_eq!((got.error, (got.counts.input, got.counts.output)), (None, counts));
    }
}

#[tokio::test]
async fn what_goes_wrong_is_told_by_its_kind() {
    let (played, engine) = server().await;
    let error =
        |code: &str| json!({ "error": { "message": "too long", "code": code, "param": "messages" } }).to_string();
    for (status, text, kind) in [
        (400, error("context_length_exceeded"), InferenceErrorKind::ContextOverflow),
        (400, error("x"), InferenceErrorKind::BadRequest),
        (429, String::new(), InferenceErrorKind::QueueFull { retry_after_ms: 7_000 }),
        (503, "not JSON".to_owned(), InferenceErrorKind::EngineLost),
        (404, String::new(), InferenceErrorKind::Unavailable),
        (200, "data: {\"choices\":[]}\n\n".to_owned(), InferenceErrorKind::EngineLost),
        (200, "data: nonsense\n\n".to_owned(), InferenceErrorKind::EngineLost),
    ] {
        played.says(status, text);
        let got = ask(&engine, chatting(chat("Hi", sampling(9)))).await;
        assert_eq!(got.error.unwrap().kind, kind, "{status}");
        assert!(engine.ready().await.is_err());
    }
    played.streams(&[delta(json!({ "content": "a" })), end("length"), usage(1, 0, 1)]);
    assert_eq!(engine.ready().await.unwrap().parallel, 2);
    let bad = UpstreamConfig { base_url: "file:///x".to_owned(), ..config() };
    assert!(Upstream::new(bad).unwrap_err().to_string().contains("http://host:port/v1"));
    let nobody = Upstream::new(config()).unwrap();
    assert_eq!(
        ask(&nobody, formed("x", ResponseFormat::Text, sampling(1))).await.error.unwrap().kind,
        InferenceErrorKind::EngineLost
    );
}

fn config() -> UpstreamConfig {
    let abilities = Abilities { completion: true, ..Abilities::default() };
    let (base_url, model) = ("http://127.0.0.1:1/v1".to_owned(), "m".to_owned());
    UpstreamConfig { base_url, key: None, model, context: 64, parallel: 2, queue: 1, abilities, dimensions: 0 }
}

#[tokio::test]
async fn texts_are_placed() {
    let (played, engine) = server().await;
    let data = json!({ "data": [{ "index": 0, "embedding": [0.5, -0.25] }], "usage": { "prompt_tokens": 4 } });
    played.says(200, data.to_string());
    let got = ask(&engine, embedding(&["x"], Some(2))).await;
    assert_eq!((got.vectors, got.counts.input), (vec![vec![0.5, -0.25]], 4));
    assert_eq!(played.asked()["dimensions"], 2);
}
