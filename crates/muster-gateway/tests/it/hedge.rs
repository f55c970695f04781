use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use muster_core::inference::{InferenceErrorKind, InferenceEvent, TokenCounts};
use muster_gateway::Deployment;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::rig::{PROMPT, Rig, Scripted, Seen, Step, deployment, hello, request, text};

const CHAT: &str = "/v1/chat/completions";
/// Longer than any test.
const FOREVER: Duration = Duration::from_secs(600);

fn chat(stream: bool) -> Value {
    json!({ "model": "tiny", "stream": stream, "messages": [{ "role": "user", "content": "hi" }] })
}

/// A model that goes to a second replica after a millisecond. The first replica that is added is asked first.
async fn rig() -> Rig {
    let rig = Rig::new().await;
    rig.api.models().deploy(Deployment { hedge_after_ms: Some(1), ..deployment("tiny") }).unwrap();
    rig
}

fn waits_forever() -> Scripted {
    Scripted::new(|_| vec![Step::Wait(FOREVER)])
}

async fn until_cancelled(seen: &Seen) {
    while seen.cancelled.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn asked(seen: &Arc<Seen>) -> usize {
    seen.asked.lock().unwrap().len()
}

#[tokio::test]
async fn a_second_replica_answers_where_the_first_is_late() {
    let embedding = || Step::Say(InferenceEvent::Embedding { index: 0, vector: vec![0.5; 4] });
    let tasks = [
        (CHAT, chat(false)),
        (CHAT, chat(true)),
        ("/v1/completions", json!({ "model": "tiny", "prompt": "hi" })),
        ("/v1/completions", json!({ "model": "tiny", "prompt": "hi", "stream": true })),
        ("/v1/responses", json!({ "model": "tiny", "input": "hi" })),
        ("/v1/responses", json!({ "model": "tiny", "input": "hi", "stream": true })),
        ("/v1/embeddings", json!({ "model": "tiny", "input": "hi" })),
    ];
    for (path, body) in tasks {
        let rig = rig().await;
        let slow = rig.add("tiny", waits_forever());
        let embeds = path.ends_with("embeddings");
        let fast = rig.add("tiny", Scripted::new(move |_| if embeds { vec![embedding()] } else { hello() }));
        let reply = rig.ask(path, &body).await;
        let said = if embeds { "0.5" } else { "Hello" };
        assert!(reply.status == 200 && reply.body.contains(said), "{path}: {}", reply.body);
        until_cancelled(&slow).await;
        rig.idle().await;
        let told = *fast.told.lock().unwrap();
        assert_eq!((asked(&slow), asked(&fast)), (1, 1), "{path}");
        assert_eq!(rig.billed().await, (1, told, crate::rig::PRICE.cost(told).0), "{path}: one answer is billed");
    }
}

#[tokio::test]
async fn nothing_is_sent_twice_where_nobody_said_so_or_several_answers_are_asked_for() {
    let late = || Scripted::new(|_| [vec![Step::Wait(Duration::from_millis(60))], hello()].concat());
    for stream in [false, true] {
        let plain = Rig::new().await;
        let (first, second) = (plain.add("tiny", late()), plain.add("tiny", Scripted::new(|_| hello())));
        assert_eq!(plain.ask(CHAT, &chat(stream)).await.status, 200);
        assert_eq!((asked(&first), asked(&second)), (1, 0));
        let rig = rig().await;
        let (first, second) = (rig.add("tiny", late()), rig.add("tiny", Scripted::new(|_| hello())));
        let several =
            json!({ "model": "tiny", "stream": stream, "n": 2, "messages": [{ "role": "user", "content": "hi" }] });
        assert_eq!(rig.ask(CHAT, &several).await.status, 200);
        assert_eq!((asked(&first), asked(&second)), (1, 0));
        // Alone it has to do.
        let alone = self::rig().await;
        let only = alone.add("tiny", late());
        assert_eq!(alone.ask(CHAT, &chat(stream)).await.status, 200);
        assert_eq!(asked(&only), 1);
    }
}

#[tokio::test]
async fn where_one_of_two_fails_the_other_answers() {
    for stream in [false, true] {
        // The first fails while the second is on its way.
        let rig = rig().await;
        let fails = vec![Step::Wait(Duration::from_millis(60)), Step::Fail(InferenceErrorKind::EngineLost)];
        let broken = rig.add("tiny", Scripted::new(move |_| fails.clone()));
        let answers = [vec![Step::Wait(Duration::from_millis(200))], hello()].concat();
        let good = rig.add("tiny", Scripted::new(move |_| answers.clone()));
        let reply = rig.ask(CHAT, &chat(stream)).await;
        assert!(reply.status == 200 && reply.body.contains("Hello"), "{}", reply.body);
        assert_eq!((asked(&broken), asked(&good)), (1, 1));
        rig.idle().await;
        assert_eq!(rig.billed().await.1, *good.told.lock().unwrap());
        // The second fails while the first is still at it.
        let rig = self::rig().await;
        let answers = [vec![Step::Wait(Duration::from_millis(60))], hello()].concat();
        let good = rig.add("tiny", Scripted::new(move |_| answers.clone()));
        let broken = rig.add("tiny", Scripted::new(|_| vec![Step::Fail(InferenceErrorKind::EngineLost)]));
        let reply = rig.ask(CHAT, &chat(stream)).await;
        assert!(reply.status == 200 && reply.body.contains("Hello"), "{}", reply.body);
        assert_eq!((asked(&good), asked(&broken)), (1, 1), "it is sent a second time once");
        rig.idle().await;
        assert_eq!(rig.billed().await.1, *good.told.lock().unwrap());
    }
}

#[tokio::test]
async fn where_both_fail_the_last_says_why_and_a_third_is_asked_where_there_is_one() {
    let fails = |after_ms: u64, kind: InferenceErrorKind| {
        Scripted::new(move |_| vec![Step::Wait(Duration::from_millis(after_ms)), Step::Fail(kind)])
    };
    for stream in [false, true] {
        let rig = rig().await;
        rig.add("tiny", fails(60, InferenceErrorKind::QueueFull { retry_after_ms: 5 }));
        rig.add("tiny", fails(200, InferenceErrorKind::EngineLost));
        rig.ask(CHAT, &chat(stream)).await.error(503, "service_unavailable");
        rig.idle().await;
        assert_eq!(rig.billed().await.0, 0, "nothing was answered");
        rig.add("tiny", Scripted::new(|_| hello()));
        let reply = rig.ask(CHAT, &chat(stream)).await;
        assert!(reply.status == 200 && reply.body.contains("Hello"), "{}", reply.body);
    }
}

#[tokio::test]
async fn a_winner_that_breaks_off_ends_the_stream_with_an_error() {
    let rig = rig().await;
    let slow = rig.add("tiny", waits_forever());
    rig.add("tiny", Scripted::new(|_| vec![text("Hel"), Step::Fail(InferenceErrorKind::EngineLost)]));
    let events = rig.ask(CHAT, &chat(true)).await.events();
    assert_eq!(events.last().unwrap()["error"]["code"], "service_unavailable");
    assert!(!events.iter().any(|event| event == "[DONE]"));
    until_cancelled(&slow).await;
    rig.idle().await;
    assert_eq!(
        rig.billed().await.1,
        TokenCounts { input: PROMPT, cached: 2, output: 1 },
        "what was delivered is billed"
    );
}

#[tokio::test]
async fn who_hangs_up_while_two_are_at_it_ends_both_and_pays_one() {
    let rig = rig().await;
    let (first, second) = (rig.add("tiny", waits_forever()), rig.add("tiny", waits_forever()));
    let headers = format!("Bearer {}", rig.key);
    let mut connection = TcpStream::connect(rig.at).await.unwrap();
    let body = chat(true).to_string();
    let bytes = request(rig.at, "POST", CHAT, &[("authorization", &headers)], body.as_bytes());
    connection.write_all(&bytes).await.unwrap();
    while asked(&second) == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    drop(connection);
    until_cancelled(&first).await;
    until_cancelled(&second).await;
    rig.idle().await;
    assert_eq!(rig.billed().await.1, TokenCounts { input: PROMPT, cached: 2, output: 0 });
}
