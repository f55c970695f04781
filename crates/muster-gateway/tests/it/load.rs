use std::sync::Arc;
use std::time::Duration;

use muster_core::units::UsdMicro;
use muster_gateway::KeyTerms;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::rig::{Rig, Scripted, Step, finished, request, text};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_do_not_overspend() {
    let rig = Arc::new(Rig::new().await);
    let seen = rig.add(
        "tiny",
        Scripted::new(|_| {
            vec![
                text("a"),
                Step::Wait(Duration::from_millis(5)),
                text("b"),
                finished(0, muster_core::inference::Finish::Stop),
            ]
        }),
    );
    let budget = 2_000;
    let key = rig.key_of("poor", KeyTerms { budget_month_usd_micro: Some(UsdMicro(budget)), ..KeyTerms::default() });
    let mut asks = tokio::task::JoinSet::new();
    for turn in 0..1_000 {
        let (rig, key) = (Arc::clone(&rig), key.clone());
        asks.spawn(async move {
            let body = json!({"model": "tiny", "max_tokens": 2, "stream": turn % 2 == 0, "prompt": "hi"});
            let reply = rig.ask_as(&key, "/v1/completions", &body).await;
            match reply.status {
                200 => true,
                _ => {
                    reply.error(429, "insufficient_quota");
                    false
                }
            }
        });
    }
    let met = asks.join_all().await.into_iter().filter(|met| *met).count();
    rig.idle().await;
    let rows = rig.raw_get(&key, "/v1/usage").await.json();
    let spent = rows["data"][0]["usd_micro"].as_u64().unwrap();
    assert_eq!(rows["data"][0]["requests"], met);
    assert_eq!(u64::try_from(met).unwrap(), seen.answers.load(std::sync::atomic::Ordering::Relaxed));
    assert!(met > 50 && spent > budget / 2, "{met} met, {spent} spent");
    assert!(spent <= budget, "{met} met, {spent} spent");
}

/// Numbers that are the same in each run.
fn drawn(turn: u64) -> u64 {
    let mixed = (turn + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 33
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_that_hang_up_are_billed_what_was_counted() {
    let rig = Arc::new(Rig::new().await);
    let script = |_: &_| {
        let mut steps: Vec<Step> = Vec::new();
        for _ in 0..20 {
            steps.push(text("word "));
            steps.push(Step::Wait(Duration::from_millis(1)));
        }
        steps.push(finished(0, muster_core::inference::Finish::Stop));
        steps
    };
    let one = rig.add("tiny", Scripted::new(script).counting_after(Duration::from_millis(3)));
    let two = rig.add("tiny", Scripted::new(script));
    let mut clients = tokio::task::JoinSet::new();
    for turn in 0..1_000_u64 {
        let rig = Arc::clone(&rig);
        clients.spawn(async move {
            let body = json!({"model": "tiny", "stream": turn % 4 != 0, "messages": [{"role": "user", "content": format!("hi {turn}")}]});
            let headers = format!("Bearer {}", rig.key);
            let mut connection = TcpStream::connect(rig.at).await.unwrap();
            let bytes = request(rig.at, "POST", CHAT, &[("authorization", &headers)], body.to_string().as_bytes());
            connection.write_all(&bytes).await.unwrap();
            let mut left = usize::try_from(drawn(turn) % 6_000).unwrap();
            let mut buffer = [0; 512];
            while left > 0 {
                let most = left.min(buffer.len());
                match connection.read(&mut buffer[..most]).await {
                    Ok(read) if read > 0 => left -= read,
                    _ => break,
                }
            }
        });
    }
    clients.join_all().await;
    let answers = |seen: &crate::rig::Seen| seen.answers.load(std::sync::atomic::Ordering::Relaxed);
    // Requests of clients that are gone may still be on their way in.
    let mut quiet = 0;
    let mut before = 0;
    while quiet < 20 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let now = answers(&one) + answers(&two);
        quiet = if now == before && rig.api.in_hand() == 0 { quiet + 1 } else { 0 };
        before = now;
    }
    let (requests, billed, _) = rig.billed().await;
    let told = one.told.lock().unwrap().plus(*two.told.lock().unwrap());
    assert_eq!(billed, told, "what was billed is what the engines counted");
    assert_eq!(requests, answers(&one) + answers(&two));
    assert!(requests <= 1_000 && requests > 500, "{requests}");
    let cancelled = |seen: &crate::rig::Seen| seen.cancelled.load(std::sync::atomic::Ordering::Relaxed);
    assert!(cancelled(&one) + cancelled(&two) > 100);
}
