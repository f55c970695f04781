//! Engines that a Container's owner runs already, offered under a name: a server that is played over real HTTP.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use muster_container::EndpointConfig;
use muster_core::inference::{InferenceEvent, ModelKind, ModelSpec, TokenCounts, WeightsId};
use muster_core::lease::End;
use muster_core::protocol::ToConsumer;
use muster_core::units::Bytes;
use muster_net::NodeSecret;

use crate::harness::host;
use crate::models::{all, ask, job, model_terms, spec};
use crate::renter::Renter;
use crate::world::{Running, World};

const SIZE: Bytes = Bytes(16 * Bytes::GIB);

async fn answer(State(broken): State<Arc<AtomicBool>>, headers: HeaderMap) -> Response {
    assert_eq!(headers["authorization"], "Bearer opens-it");
    if broken.load(Ordering::Relaxed) {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let piece = r#"{"choices":[{"index":0,"delta":{"content":"from elsewhere"},"finish_reason":null}]}"#;
    let last = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
    let usage = r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}"#;
    format!("data: {piece}\n\ndata: {last}\n\ndata: {usage}\n\ndata: [DONE]\n\n").into_response()
}

async fn offered(name: &str) -> Option<(World, Running, Arc<AtomicBool>)> {
    host()?;
    let broken = Arc::<AtomicBool>::default();
    let router = axum::Router::new().route("/v1/chat/completions", post(answer)).with_state(Arc::clone(&broken));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let world = World::new().await;
    let key_file = world.dir.path().join("endpoint.key");
    std::fs::write(&key_file, "opens-it\n").unwrap();
    let mut config = world.config("offers");
    config.models.endpoint = vec![EndpointConfig {
        url,
        model: "vendor/its own name".to_owned(),
        name: Some(name.to_owned()),
        key_file: Some(key_file),
        weights: SIZE,
        context: 4_096,
        parallel: 3,
        kinds: vec![ModelKind::Chat],
        tools: false,
        dimensions: 0,
    }];
    let container = world.start(config, &NodeSecret::generate()).await;
    Some((world, container, broken))
}

fn wanted(name: &str) -> ModelSpec {
    ModelSpec { weights: WeightsId::of_endpoint(name), bytes: Bytes(1), endpoint: Some(name.to_owned()), ..spec() }
}

async fn opened(world: &World, container: &Running, bytes: Bytes) -> Renter {
    Renter::open_with(world, container, |terms| model_terms(world, terms, bytes)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owners_engine_answers_on_a_lease_and_is_counted() {
    let Some((world, container, broken)) = Box::pin(offered("big")).await else { return };
    let beat = container.line.heartbeat(|_| true).await;
    // No weights are kept here: only the endpoint is offered.
    assert_eq!(beat.models, None);
    let [offer] = beat.endpoints.as_slice() else { panic!("{beat:?}") };
    assert_eq!((offer.id, offer.bytes), (WeightsId::of_endpoint("big").warm_id(), SIZE));
    let mut renter = opened(&world, &container, SIZE).await;
    renter.say(job(wanted("big"))).await;
    renter.hear(|m| matches!(m, ToConsumer::Started)).await;
    let (mut from, _to) = ask(&renter, "Who are you?").await;
    let events = all(&mut from).await;
    assert!(
        events.iter().any(|e| matches!(e, InferenceEvent::Text { text, .. } if text == "from elsewhere")),
        "{events:?}"
    );
    let tokens = TokenCounts { input: 7, cached: 0, output: 2 };
    assert!(matches!(events.last(), Some(InferenceEvent::Done { counts }) if *counts == tokens), "{events:?}");
    renter.hear(|m| matches!(m, ToConsumer::Counted { tokens: told } if *told == tokens)).await;
    // A server that is broken, a name that is not offered, a size that was not agreed: each in words, before it costs.
    broken.store(true, Ordering::Relaxed);
    for (spec, size, words) in [
        (wanted("big"), SIZE, "the provider's engine does not answer"),
        (wanted("small"), SIZE, "has no endpoint \"small\""),
        (wanted("big"), Bytes(1), "was not agreed for a model of 16 GiB"),
    ] {
        let mut renter = opened(&world, &container, size).await;
        renter.say(job(spec)).await;
        let ended = renter.hear(|m| matches!(m, ToConsumer::Ended { .. })).await;
        let ToConsumer::Ended { end: End::FailedToStart(why) | End::Interrupted(why), .. } = ended else {
            panic!("{ended:?}")
        };
        assert!(why.contains(words), "{why}");
    }
    container.stop().await;
}
