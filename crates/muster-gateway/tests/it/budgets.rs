use std::time::Duration;

use muster_core::inference::{TokenAsk, TokenCounts};
use muster_core::units::UsdMicro;
use muster_gateway::{Deployment, KeyTerms};
use serde_json::{Value, json};

use crate::rig::{PRICE, Rig, Scripted, Step, deployment, hello, info};

const CHAT: &str = "/v1/chat/completions";

fn poor(rig: &Rig, name: &str, budget: u64) -> String {
    rig.key_of(name, KeyTerms { budget_usd_micro: Some(UsdMicro(budget)), ..KeyTerms::default() })
}

#[tokio::test]
async fn a_prompt_whose_tokens_are_bytes_is_refused_before_the_work() {
    let (rig, seen) = Rig::hello().await;
    // 2,400 bytes each: 800 tokens by the usual count, and three times as many where each byte is one.
    let key = poor(&rig, "poor", 2_000);
    for text in ["7".repeat(2_400), "😀".repeat(600), "\u{fffd}".repeat(800)] {
        let message = json!([{ "role": "user", "content": text }]);
        let parts = json!([{ "role": "user", "content": [{ "type": "text", "text": text }] }]);
        for (path, body) in [
            (CHAT, json!({ "model": "tiny", "max_tokens": 1, "messages": message })),
            (CHAT, json!({ "model": "tiny", "max_tokens": 1, "messages": parts })),
            ("/v1/completions", json!({ "model": "tiny", "max_tokens": 1, "prompt": text })),
            ("/v1/responses", json!({ "model": "tiny", "max_output_tokens": 1, "input": text })),
            ("/v1/embeddings", json!({ "model": "tiny", "input": text })),
        ] {
            let error = rig.ask_as(&key, path, &body).await.error(429, "insufficient_quota");
            assert!(error["message"].as_str().unwrap().contains("budget of this key"), "{path}: {error}");
        }
    }
    assert!(seen.asked.lock().unwrap().is_empty(), "nothing was done for it");
    // A budget for all of it lets it in, and what it did cost is what is spent.
    let key = poor(&rig, "rich", 4_000);
    let body =
        json!({ "model": "tiny", "max_tokens": 1, "messages": [{ "role": "user", "content": "7".repeat(2_400) }] });
    assert_eq!(rig.ask_as(&key, CHAT, &body).await.status, 200);
}

#[tokio::test]
async fn a_model_that_has_to_come_up_reserves_its_whole_context() {
    let rig = Rig::new().await;
    let context = info().context;
    rig.api.models().deploy(Deployment { context, ..deployment("tiny") }).unwrap();
    let body = json!({ "model": "tiny", "messages": [{ "role": "user", "content": "hi" }] });
    let whole = PRICE.cost(TokenCounts { input: 0, cached: 0, output: context.into() }).0;
    let key = poor(&rig, "poor", whole - 1);
    rig.ask_as(&key, CHAT, &body).await.error(429, "insufficient_quota");
}

#[tokio::test]
async fn a_price_that_is_only_known_once_a_replica_is_up_is_held_against_the_budget() {
    let rig = Rig::new().await;
    let free = TokenAsk::default();
    rig.api.models().deploy(Deployment { price: free, ..deployment("tiny") }).unwrap();
    let key = poor(&rig, "poor", 1_000);
    let called = rig.api.models().calls("tiny").unwrap();
    let comes = async {
        called.notified().await;
        rig.api.models().deploy(deployment("tiny")).unwrap();
        rig.add("tiny", Scripted::new(|_| hello()))
    };
    let body = chat(false);
    let (reply, seen) = tokio::join!(rig.ask_as(&key, CHAT, &body), comes);
    reply.error(429, "insufficient_quota");
    assert!(seen.asked.lock().unwrap().is_empty(), "nothing was done for it");
}

fn chat(stream: bool) -> Value {
    json!({ "model": "tiny", "stream": stream, "messages": [{ "role": "user", "content": "hi" }] })
}

#[tokio::test]
async fn who_waited_for_a_replica_is_told_how_long() {
    for stream in [false, true] {
        let rig = Rig::new().await;
        rig.api.models().deploy(deployment("tiny")).unwrap();
        let called = rig.api.models().calls("tiny").unwrap();
        let comes = async {
            // Somebody waits by now.
            called.notified().await;
            rig.add("tiny", Scripted::new(|_| hello()))
        };
        let body = chat(stream);
        let (cold, _) = tokio::join!(rig.ask(CHAT, &body), comes);
        assert!(cold.status == 200 && cold.body.contains("Hello"), "{}", cold.body);
        let waited = cold.header("x-muster-cold-start-ms").unwrap();
        assert!(waited.parse::<u64>().is_ok(), "{waited}");
        let warm = rig.ask(CHAT, &body).await;
        assert_eq!((warm.status, warm.header("x-muster-cold-start-ms")), (200, None));
    }
    // Nor is one told of it who waited for tokens alone.
    let rig = Rig::new().await;
    rig.add("tiny", Scripted::new(|_| [vec![Step::Wait(Duration::from_millis(20))], hello()].concat()));
    assert_eq!(rig.ask(CHAT, &chat(false)).await.header("x-muster-cold-start-ms"), None);
}
