use std::sync::Arc;
use std::time::Duration;

use axum::http;
use muster_core::inference::{Finish, InferenceErrorKind, InferenceEvent, InferenceRequest, Part, TokenCounts};
use muster_engine::{Answer, Engine, EngineInfo, Later, Load, NotReady, answer};
use muster_gateway::{ModelApiConfig, ReplicaId, Whence};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower::ServiceExt as _;

use crate::rig::{PROMPT, Rig, Scripted, Step, deployment, finished, hello, info, request, text};

fn chat(stream: bool) -> Value {
    json!({ "model": "tiny", "stream": stream, "messages": [{ "role": "user", "content": "hi" }] })
}

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn another_replica_answers_where_one_fails_before_its_answer() {
    for fails in [
        Step::Fail(InferenceErrorKind::EngineLost),
        Step::Vanish,
        Step::Fail(InferenceErrorKind::QueueFull { retry_after_ms: 9 }),
    ] {
        let rig = Rig::new().await;
        let broken = rig.add("tiny", Scripted::new(move |_| vec![fails.clone()]));
        let good = rig.add("tiny", Scripted::new(|_| hello()));
        for stream in [true, false, true, false] {
            let reply = rig.ask(CHAT, &chat(stream)).await;
            assert!(reply.status == 200 && reply.body.contains("Hello"), "{}", reply.body);
        }
        assert!(!broken.asked.lock().unwrap().is_empty(), "the broken one was tried");
        rig.idle().await;
        assert_eq!(rig.billed().await.1, *good.told.lock().unwrap(), "only the answer is billed");
    }
}

#[tokio::test]
async fn a_whole_answer_that_breaks_off_is_asked_for_again() {
    let rig = Rig::new().await;
    rig.add("tiny", Scripted::new(|_| vec![text("Hel"), Step::Fail(InferenceErrorKind::EngineLost)]));
    let good = rig.add("tiny", Scripted::new(|_| hello()));
    for _ in 0..2 {
        let whole = rig.ask(CHAT, &chat(false)).await.json();
        assert!(whole["choices"][0]["message"]["content"].as_str().unwrap().starts_with("Hello"), "{whole}");
    }
    assert_eq!(rig.billed().await.1, *good.told.lock().unwrap());
}

#[tokio::test]
async fn after_the_first_token_the_stream_ends_with_an_error() {
    let rig = Rig::new().await;
    let broken =
        rig.add("tiny", Scripted::new(|_| vec![text("Hel"), text("lo"), Step::Fail(InferenceErrorKind::EngineLost)]));
    let events = rig.ask(CHAT, &chat(true)).await.events();
    let last = events.last().unwrap();
    assert_eq!(last["error"]["code"], "service_unavailable", "{last}");
    assert!(!events.iter().any(|event| event == "[DONE]"));
    let events = rig.ask("/v1/responses", &json!({"model": "tiny", "input": "hi", "stream": true})).await.events();
    let last = events.last().unwrap();
    assert_eq!((&last["type"], &last["response"]["status"]), (&json!("response.failed"), &json!("failed")), "{last}");
    rig.idle().await;
    let told = TokenCounts { input: PROMPT, cached: 2, output: 2 };
    assert_eq!(rig.billed().await.1, told.plus(told), "what was delivered is billed");
    let _ = broken;
}

#[tokio::test]
async fn failures_have_openai_s_codes() {
    for (kind, status, code) in [
        (InferenceErrorKind::ContextOverflow, 400, "context_length_exceeded"),
        (InferenceErrorKind::BadRequest, 400, "invalid_value"),
        (InferenceErrorKind::Unsupported, 400, "unsupported_value"),
        (InferenceErrorKind::QueueFull { retry_after_ms: 2_500 }, 429, "rate_limit_exceeded"),
        (InferenceErrorKind::EngineLost, 503, "service_unavailable"),
        (InferenceErrorKind::TimedOut, 504, "timeout"),
    ] {
        let rig = Rig::new().await;
        rig.add("tiny", Scripted::new(move |_| vec![Step::Fail(kind)]));
        for stream in [false, true] {
            let reply = rig.ask(CHAT, &chat(stream)).await;
            assert!(reply.error(status, code)["message"].as_str().unwrap().contains("script"));
            if status == 429 {
                assert_eq!(reply.header("retry-after"), Some("3"));
            }
        }
        rig.idle().await;
        assert_eq!(rig.billed().await.0, 0, "nothing was answered");
    }
}

/// Opens a stream, reads its beginning, and gives the connection.
async fn begun(rig: &Rig, body: &Value) -> TcpStream {
    let headers = format!("Bearer {}", rig.key);
    let mut connection = TcpStream::connect(rig.at).await.unwrap();
    let bytes = request(rig.at, "POST", CHAT, &[("authorization", &headers)], body.to_string().as_bytes());
    connection.write_all(&bytes).await.unwrap();
    let mut head = [0; 600];
    let mut read = 0;
    while !String::from_utf8_lossy(&head[..read]).contains("data: ") {
        read += connection.read(&mut head[read..]).await.unwrap();
    }
    connection
}

#[tokio::test]
async fn whoever_hangs_up_pays_for_what_was_drawn() {
    let rig = Rig::new().await;
    let engine = Scripted::new(|_| vec![text("a"), Step::Wait(Duration::from_secs(600))]);
    let engine = engine.counting_after(Duration::from_millis(30));
    let seen = rig.add("tiny", engine);
    drop(begun(&rig, &chat(true)).await);
    rig.idle().await;
    assert_eq!(seen.cancelled.load(std::sync::atomic::Ordering::Relaxed), 1);
    let told = TokenCounts { input: PROMPT, cached: 2, output: 1 };
    assert_eq!(rig.billed().await.1, told);
    // The same where nothing was streamed yet.
    let headers = format!("Bearer {}", rig.key);
    let mut connection = TcpStream::connect(rig.at).await.unwrap();
    let bytes = request(rig.at, "POST", CHAT, &[("authorization", &headers)], chat(false).to_string().as_bytes());
    connection.write_all(&bytes).await.unwrap();
    while seen.asked.lock().unwrap().len() < 2 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    drop(connection);
    rig.idle().await;
    assert_eq!(rig.billed().await.1, *seen.told.lock().unwrap());
}

/// Gives a whole answer at once.
struct AtOnce(TokenCounts);

impl Engine for AtOnce {
    fn ready(&self) -> Later<'_, Result<EngineInfo, NotReady>> {
        Box::pin(async { Ok(info()) })
    }

    fn submit(&self, _: InferenceRequest) -> Answer {
        let (answering, answer) = answer();
        let (began, text) = (TokenCounts { output: 0, ..self.0 }, "all of it".to_owned());
        let events = vec![
            InferenceEvent::Began { counts: began },
            InferenceEvent::Text { choice: 0, part: Part::Answer, text, logprobs: Vec::new() },
            InferenceEvent::Finished { choice: 0, finish: Finish::Stop },
            InferenceEvent::Done { counts: self.0 },
        ];
        answering.try_send(events).unwrap();
        answer
    }

    fn load(&self) -> Load {
        Load::default()
    }
}

#[tokio::test]
async fn whoever_hangs_up_before_reading_an_answer_that_is_there_pays_for_it() {
    let rig = Rig::new().await;
    let counts = TokenCounts { input: 5, cached: 1, output: 9 };
    rig.api.models().deploy(deployment("tiny")).unwrap();
    let id = ReplicaId("at once".to_owned());
    rig.api.models().add("tiny", id, Arc::new(AtOnce(counts)), &info(), Whence::default()).unwrap();
    let request = http::Request::post(CHAT)
        .header("host", rig.at.to_string())
        .header("authorization", format!("Bearer {}", rig.key))
        .body(axum::body::Body::from(chat(true).to_string()))
        .unwrap();
    // The head of the answer is ready, and with it all that there will be: nobody asks for the rest.
    let response = rig.api.router().oneshot(request).await.unwrap();
    assert_eq!(response.status(), 200);
    drop(response);
    rig.idle().await;
    assert_eq!(rig.billed().await.1, counts);
}

#[tokio::test]
async fn who_takes_nothing_is_cut() {
    let rig = Rig::with(ModelApiConfig::default(), Duration::from_millis(200)).await;
    let seen = rig.add("tiny", Scripted::new(|_| vec![Step::Forever("x".repeat(4_096))]));
    let connection = begun(&rig, &chat(true)).await;
    rig.idle().await;
    assert_eq!(seen.cancelled.load(std::sync::atomic::Ordering::Relaxed), 1);
    assert_eq!(rig.billed().await.1, *seen.told.lock().unwrap());
    drop(connection);
}

#[tokio::test]
async fn an_answer_that_takes_too_long_is_ended() {
    let config = ModelApiConfig { answer_within: Duration::from_millis(100), ..ModelApiConfig::default() };
    let rig = Rig::with(config, Duration::from_secs(30)).await;
    rig.add("tiny", Scripted::new(|_| vec![text("a"), Step::Wait(Duration::from_secs(600))]));
    rig.ask(CHAT, &chat(false)).await.error(504, "timeout");
    let events = rig.ask(CHAT, &chat(true)).await.events();
    assert_eq!(events.last().unwrap()["error"]["code"], "timeout");
    rig.idle().await;
    assert_eq!(rig.billed().await.0, 2);
}

#[tokio::test]
async fn a_gigabyte_is_refused_by_its_head() {
    let (rig, _) = Rig::hello().await;
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\ncontent-length: 1073741824\r\n\r\n{{",
        rig.at, rig.key
    );
    let reply = rig.raw(head.as_bytes()).await;
    reply.error(413, "request_too_large");
    // Where no length is said, it is read as far as it may go.
    let config = ModelApiConfig { body_bytes_max: 1_000, ..ModelApiConfig::default() };
    let rig = Rig::with(config, Duration::from_secs(30)).await;
    let chunk = format!("400\r\n{}\r\n", "x".repeat(0x400));
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\ntransfer-encoding: chunked\r\n\r\n{chunk}{chunk}",
        rig.at, rig.key
    );
    rig.raw(head.as_bytes()).await.error(413, "request_too_large");
}

#[tokio::test]
async fn a_body_that_trickles_is_not_waited_for() {
    let config = ModelApiConfig { body_within: Duration::from_millis(100), ..ModelApiConfig::default() };
    let rig = Rig::with(config, Duration::from_secs(30)).await;
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\ncontent-length: 100\r\n\r\n{{",
        rig.at, rig.key
    );
    rig.raw(head.as_bytes()).await.error(408, "request_timeout");
}

#[tokio::test]
async fn replicas_are_drained_and_removed_while_requests_run() {
    let rig = Rig::new().await;
    let first = rig.add(
        "tiny",
        Scripted::new(|_| {
            vec![
                text("a"),
                Step::Wait(Duration::from_millis(100)),
                text("b"),
                finished(0, muster_core::inference::Finish::Stop),
            ]
        }),
    );
    let mut running = begun(&rig, &chat(true)).await;
    let (models, id) = (rig.api.models(), ReplicaId("0".into()));
    assert_eq!(models.held("tiny", &id), Some(1));
    assert!(models.drain("tiny", &id));
    // Who comes now waits for one that takes requests.
    let another = async {
        assert!(models.remove("tiny", &id) && !models.remove("tiny", &id));
        rig.add("tiny", Scripted::new(|_| hello()));
    };
    let question = chat(false);
    let (waited, ()) = tokio::join!(rig.ask(CHAT, &question), another);
    assert_eq!(waited.status, 200);
    let mut rest = String::new();
    running.read_to_string(&mut rest).await.unwrap();
    assert!(rest.contains("[DONE]"), "what ran before goes on: {rest}");
    assert_eq!(first.answers.load(std::sync::atomic::Ordering::Relaxed), 1);
}
