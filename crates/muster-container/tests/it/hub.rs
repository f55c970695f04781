//! Weights that a Container fetches: from a hub that is played over real HTTP, with a second server for the content, as
//! hubs have. It breaks off, hangs, lies, and asks for tokens.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use futures::StreamExt as _;
use muster_core::inference::{ModelSource, ModelSpec, TOKEN_CONTEXT, WeightsId, WeightsPart};
use muster_core::lease::End;
use muster_core::protocol::ToConsumer;
use muster_core::units::{Bytes as Size, TokenAmount};
use muster_engine::tiny::Shape;
use muster_net::{FrameReader, NodeSecret, seal};
use muster_wire::message::inference::{FromInference, InferenceOpen};
use sha2::{Digest, Sha256};

use crate::harness::host;
use crate::models::{KNOWN, Parrots, inference, job, model_terms, spec};
use crate::renter::Renter;
use crate::world::{PATIENCE, Running, World};

/// Large enough to arrive in many pieces.
const LEN: usize = 3 << 20;
const PIECE: usize = 64 << 10;
const FILE: &str = "hf:lab/model-GGUF@0123abc:sub/model Q8_0.gguf";
const FIRST: &str = "hf:lab/model-GGUF@0123abc:tiny-00001-of-00003.gguf";
const TOKEN: &str = "hf_a-secret-that-nobody-else-sees";

/// What the server with the content does next; at the end of the list it sends all.
#[derive(Clone, Copy, Debug)]
enum Deed {
    /// Sends so many bytes and breaks off.
    Break(usize),
    /// Sends so many bytes and nothing more.
    Hang(usize),
    /// Sends so many bytes as if they were all.
    Short(usize),
    /// Sends all from the beginning, whatever was asked for.
    NoRanges,
    /// Answers with a status.
    Status(u16),
}

#[derive(Debug, Default)]
struct Played {
    content: Vec<u8>,
    /// The files of a model in parts.
    parts: Vec<Vec<u8>>,
    deeds: VecDeque<Deed>,
    /// The token that it asks for.
    token: Option<String>,
    /// Where readers are sent for the content.
    elsewhere: String,
    /// Ranges that the server with the content was asked for.
    ranges: Vec<String>,
    /// Tokens that each of the two was shown.
    hub_saw: Vec<String>,
    content_saw: Vec<String>,
}

type Shared = Arc<Mutex<Played>>;

struct Hub {
    played: Shared,
    addr: SocketAddr,
}

fn header(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
}

async fn front(State(played): State<Shared>, uri: Uri, headers: HeaderMap) -> Response {
    let mut played = played.lock().unwrap();
    played.hub_saw.push(header(&headers, "authorization"));
    let part = uri.path().strip_prefix("/lab/model-GGUF/resolve/0123abc/tiny-0000");
    let part = part.and_then(|rest| rest.strip_suffix("-of-00003.gguf"));
    if part.is_none() && uri.path() != "/lab/model-GGUF/resolve/0123abc/sub/model%20Q8_0.gguf" {
        return StatusCode::NOT_FOUND.into_response();
    }
    if let Some(token) = &played.token
        && header(&headers, "authorization") != format!("Bearer {token}")
    {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let part = part.map(|number| format!("&part={number}")).unwrap_or_default();
    (StatusCode::FOUND, [("location", format!("{}{part}", played.elsewhere))]).into_response()
}

async fn content(State(played): State<Shared>, uri: Uri, headers: HeaderMap) -> Response {
    let (body, from, deed) = {
        let mut played = played.lock().unwrap();
        played.content_saw.push(header(&headers, "authorization"));
        let range = header(&headers, "range");
        let from = range.strip_prefix("bytes=").map_or(0, |range| range.trim_end_matches('-').parse().unwrap());
        let part =
            uri.query().and_then(|query| query.split_once("part=")).map(|(_, part)| part.parse::<usize>().unwrap());
        played.ranges.push(part.map_or_else(|| range.clone(), |part| format!("{part}: {range}")));
        let body = part.map_or(&played.content, |part| &played.parts[part - 1]).clone();
        (body, from, played.deeds.pop_front())
    };
    let len = body.len();
    let (from, upto, then) = match deed {
        Some(Deed::Status(status)) => return StatusCode::from_u16(status).unwrap().into_response(),
        Some(Deed::NoRanges) => (0, len, None),
        Some(Deed::Short(upto)) => (from, upto.max(from), None),
        Some(Deed::Break(upto)) => (from, upto.max(from), Some(false)),
        Some(Deed::Hang(upto)) => (from, upto.max(from), Some(true)),
        None => (from, len, None),
    };
    let pieces: Vec<Bytes> = body[from..upto].chunks(PIECE).map(Bytes::copy_from_slice).collect();
    let stream = futures::stream::iter(pieces).map(Ok).chain(futures::stream::once(async move {
        match then {
            Some(true) => std::future::pending().await,
            Some(false) => Err(std::io::Error::other("broken off")),
            None => Ok(Bytes::new()),
        }
    }));
    let mut response = Response::builder();
    if from > 0 {
        response = response.status(206).header("content-range", format!("bytes {from}-{}/{len}", len - 1));
    }
    if !matches!(deed, Some(Deed::Short(_))) {
        response = response.header("content-length", len - from);
    }
    response.body(Body::from_stream(stream)).unwrap()
}

async fn listen(router: axum::Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    addr
}

impl Hub {
    async fn new(content_of: Vec<u8>) -> Self {
        let played = Shared::default();
        let behind = axum::Router::new().fallback(content).with_state(Arc::clone(&played));
        let behind = listen(behind).await;
        let addr = listen(axum::Router::new().fallback(front).with_state(Arc::clone(&played))).await;
        {
            let mut played = played.lock().unwrap();
            (played.content, played.elsewhere) = (content_of, format!("http://{behind}/blob?signed=yes"));
        }
        Self { played, addr }
    }

    fn will(&self, deeds: impl IntoIterator<Item = Deed>) {
        self.played.lock().unwrap().deeds = deeds.into_iter().collect();
    }

    fn change(&self, change: impl FnOnce(&mut Played)) {
        change(&mut self.played.lock().unwrap());
    }

    fn ranges(&self) -> Vec<String> {
        std::mem::take(&mut self.played.lock().unwrap().ranges)
    }
}

fn weights(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_le_bytes()[7]
    };
    let mut content: Vec<u8> = b"GGUF".to_vec();
    content.extend(std::iter::repeat_with(&mut next).take(LEN - 4));
    content
}

fn of_hub(content: &[u8], private: bool) -> ModelSpec {
    ModelSpec {
        weights: WeightsId(Sha256::digest(content).into()),
        bytes: Size(content.len() as u64),
        sources: vec![ModelSource::Hub { file: FILE.parse().unwrap(), private }],
        ..spec()
    }
}

/// A small model in three files, of a seed of its own.
fn parts(seed: u64) -> Vec<Vec<u8>> {
    muster_engine::tiny::in_parts(&Shape { seed, ..Shape::default() }, 3).unwrap()
}

fn in_parts(files: &[Vec<u8>]) -> ModelSpec {
    let part = |file: &Vec<u8>| WeightsPart {
        weights: WeightsId(Sha256::digest(file).into()),
        bytes: Size(file.len() as u64),
    };
    let parts: Vec<WeightsPart> = files.iter().map(part).collect();
    ModelSpec {
        weights: WeightsId::of_parts(&parts),
        bytes: Size(parts.iter().map(|part| part.bytes.0).sum()),
        parts,
        sources: vec![ModelSource::Hub { file: FIRST.parse().unwrap(), private: false }],
        ..spec()
    }
}

struct Served {
    world: World,
    secret: NodeSecret,
    hub: Hub,
}

impl Served {
    async fn new(content: &[u8]) -> Option<Self> {
        host()?;
        let (world, hub) = (World::new().await, Hub::new(content.to_vec()).await);
        *world.engines.lock().unwrap() = Some(Arc::new(Parrots));
        Some(Self { world, secret: NodeSecret::generate(), hub })
    }

    async fn start(&self) -> Running {
        self.start_named("served", &self.secret).await
    }

    async fn start_named(&self, name: &str, secret: &NodeSecret) -> Running {
        let mut config = self.world.config(name);
        config.models.disk = Size(16 << 20);
        config.models.hub = format!("http://{}", self.hub.addr);
        config.models.hub_silence_s = 1;
        self.world.start(config, secret).await
    }

    async fn opened(&self, container: &Running, bytes: Size) -> Renter {
        let world = &self.world;
        Renter::open_with(world, container, |terms| model_terms(world, terms, bytes)).await
    }

    /// Rents for a model; gives its lease and what is told of it.
    async fn rent(&self, container: &Running, spec: ModelSpec) -> (Renter, FrameReader) {
        let mut renter = Box::pin(self.opened(container, spec.bytes)).await;
        let (watch, _to) = inference(&renter, &InferenceOpen::Watch { lease: renter.terms.lease }).await;
        renter.say(job(spec)).await;
        (renter, watch)
    }

    /// How a model that cannot be had fails, that all said so far names it, and that it costs nothing.
    async fn fails(&self, container: &Running, spec: ModelSpec) -> (bool, String) {
        let (mut renter, _watch) = self.rent(container, spec).await;
        let ended = renter.hear(|m| matches!(m, ToConsumer::Ended { .. } | ToConsumer::Started)).await;
        let ToConsumer::Ended { end, .. } = ended else { panic!("{ended:?}") };
        let (redeemed, ..) = renter.settled().await;
        assert_eq!(redeemed, TokenAmount::ZERO);
        match end {
            End::FailedToStart(why) => (false, why),
            End::Interrupted(why) => (true, why),
            other => panic!("{other:?}"),
        }
    }
}

/// What is told until the model is ready.
async fn until_ready(watch: &mut FrameReader) -> Vec<String> {
    let mut told = Vec::new();
    loop {
        match watch.recv_within::<FromInference>(PATIENCE).await.unwrap() {
            FromInference::Preparing { what } => told.push(what.into_string()),
            FromInference::Ready(_) => return told,
            other => panic!("{other:?} after {told:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_come_from_a_hub_whatever_breaks_and_are_fetched_once() {
    let content = weights(1);
    let Some(served) = Box::pin(Served::new(&content)).await else { return };
    let container = served.start().await;
    let mib = 1 << 20;
    served.hub.will([Deed::Status(503), Deed::Break(mib), Deed::Hang(2 * mib), Deed::NoRanges]);
    let (mut renter, mut watch) = served.rent(&container, of_hub(&content, false)).await;
    // A second lease that needs the same waits for the first one's fetch.
    let mut other = served.opened(&container, Size(content.len() as u64)).await;
    other.say(job(of_hub(&content, false))).await;
    let told = until_ready(&mut watch).await;
    renter.hear(|m| matches!(m, ToConsumer::Started)).await;
    other.hear(|m| matches!(m, ToConsumer::Started)).await;
    let fetching = told.iter().filter(|what| what.contains("fetching sub/model Q8_0.gguf from the hub")).count();
    assert!(fetching >= 2 && told.iter().any(|what| what.contains("answers 503; trying again (1 of")), "{told:?}");
    assert!(told.iter().any(|what| what.contains("sent nothing for 1 s")), "{told:?}");
    let ranges = served.hub.ranges();
    assert_eq!(ranges.len(), 4, "{ranges:?}");
    assert_eq!((ranges[0].as_str(), ranges[1].as_str()), ("", ""));
    let from = |at: usize| ranges[at].strip_prefix("bytes=").unwrap().trim_end_matches('-').parse::<usize>().unwrap();
    assert!(from(2) > 0 && from(2) <= mib && from(3) > from(2) && from(3) <= 2 * mib, "{ranges:?}");
    let heartbeat = container.line.heartbeat(|beat| !beat.warm.is_empty()).await;
    assert_eq!(heartbeat.warm, [of_hub(&content, false).weights.warm_id()]);
    // What is here already is not asked for again.
    let (mut third, mut watch) = served.rent(&container, of_hub(&content, false)).await;
    until_ready(&mut watch).await;
    third.hear(|m| matches!(m, ToConsumer::Started)).await;
    assert_eq!(served.hub.ranges(), Vec::<String>::new());
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_was_killed_goes_on_where_its_download_stopped() {
    let content = weights(2);
    let Some(served) = Box::pin(Served::new(&content)).await else { return };
    let container = served.start().await;
    served.hub.will(std::iter::repeat_n(Deed::Hang(2 << 20), 100));
    let (renter, mut watch) = served.rent(&container, of_hub(&content, false)).await;
    let part =
        served.world.config("served").data_dir.join("models").join(format!("part-{}", of_hub(&content, false).weights));
    while !std::fs::metadata(&part).is_ok_and(|meta| meta.len() >= 1 << 20) {
        watch.recv_within::<FromInference>(PATIENCE).await.unwrap();
    }
    drop((renter, watch));
    container.crash();
    let arrived = std::fs::metadata(&part).unwrap().len();
    served.hub.ranges();
    let container = served.start().await;
    served.hub.will([]);
    let (mut renter, mut watch) = served.rent(&container, of_hub(&content, false)).await;
    until_ready(&mut watch).await;
    renter.hear(|m| matches!(m, ToConsumer::Started)).await;
    let ranges = served.hub.ranges();
    let from: u64 = ranges[0].strip_prefix("bytes=").unwrap().trim_end_matches('-').parse().unwrap();
    assert!(ranges.len() == 1 && from >= arrived, "{ranges:?}, {arrived} were there");
    assert!(!part.exists());
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_hub_does_wrong_is_said_in_words_and_costs_nothing() {
    let content = weights(3);
    let Some(served) = Box::pin(Served::new(&content)).await else { return };
    let container = served.start().await;
    let good = of_hub(&content, false);
    let fails = |spec: ModelSpec| Box::pin(served.fails(&container, spec));
    let file = |file: &str| vec![ModelSource::Hub { file: file.parse().unwrap(), private: false }];
    let (ours, why) = fails(ModelSpec { sources: file("hf:lab/other:x.gguf"), ..good.clone() }).await;
    assert!(!ours && why.contains("the hub has no hf:lab/other"), "{why}");
    served.hub.change(|played| played.token = Some("other".to_owned()));
    let (ours, why) = fails(good.clone()).await;
    assert!(!ours && why.contains("private or gated") && why.contains("muster model token set"), "{why}");
    served.hub.change(|played| played.token = None);
    // Another length, another content, and no model at all.
    let (ours, why) = fails(ModelSpec { bytes: Size(good.bytes.0 - 1), ..good.clone() }).await;
    assert!(!ours && why.contains("the hub's file has"), "{why}");
    let (ours, why) = fails(ModelSpec { weights: WeightsId([7; 32]), ..good.clone() }).await;
    assert!(!ours && why.contains("SHA-256"), "{why}");
    let mut other = content.clone();
    other[0] = b'X';
    served.hub.change(|played| played.content.clone_from(&other));
    let (ours, why) = fails(of_hub(&other, false)).await;
    assert!(!ours && why.contains("GGUF"), "{why}");
    served.hub.change(|played| played.content.clone_from(&content));
    // One that breaks again and again; what came is kept.
    served.hub.will(std::iter::repeat_n(Deed::Short(1 << 20), 20));
    let (ours, why) = fails(good.clone()).await;
    assert!(
        ours && why.contains("broke off in the middle, 5 times in a row") && why.contains("1.0 of 3.1 MB are here"),
        "{why}"
    );
    served.hub.will(std::iter::repeat_n(Deed::Hang(0), 20));
    let (ours, why) = fails(good.clone()).await;
    assert!(ours && why.contains("sent nothing for 1 s, 5 times in a row"), "{why}");
    // Nobody is led into a private network, or away from https.
    served.hub.will([]);
    for (to, words) in [
        ("https://10.0.0.1/blob", "private network"),
        ("https://169.254.169.254/latest/meta-data", "private network"),
        ("http://example.org/blob", "only https"),
        ("file:///etc/passwd", "only https"),
    ] {
        served.hub.change(|played| to.clone_into(&mut played.elsewhere));
        let (ours, why) = fails(good.clone()).await;
        assert!(!ours && why.contains(words), "{to}: {why}");
    }
    let larger = ModelSpec { bytes: Size(17 << 20), ..good };
    let (ours, why) = fails(larger).await;
    assert!(ours && why.contains("of the 16 MiB that this Container keeps for models"), "{why}");
    container.stop().await;
}

async fn give(renter: &Renter, sealed: Vec<u8>) -> Option<String> {
    let open = InferenceOpen::Token { lease: renter.terms.lease, sealed: sealed.try_into().unwrap() };
    let (mut from, _to) = inference(renter, &open).await;
    match from.recv_within::<FromInference>(PATIENCE).await.unwrap() {
        FromInference::TokenTaken { why_not } => why_not.map(muster_wire::BoundedString::into_string),
        other => panic!("{other:?}"),
    }
}

/// Whether any file below a folder holds these bytes.
fn holds(dir: &std::path::Path, bytes: &[u8]) -> bool {
    std::fs::read_dir(dir).unwrap().flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return holds(&path, bytes);
        }
        std::fs::read(&path).is_ok_and(|content| content.windows(bytes.len()).any(|window| window == bytes))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_goes_sealed_to_the_container_and_from_there_to_the_hub_alone() {
    let content = weights(4);
    let Some(served) = Box::pin(Served::new(&content)).await else { return };
    let container = served.start().await;
    served.hub.change(|played| played.token = Some(TOKEN.to_owned()));
    let spec = of_hub(&content, true);
    let (mut renter, mut watch) = served.rent(&container, spec.clone()).await;
    let wanted = watch.recv_within::<FromInference>(PATIENCE).await.unwrap();
    let FromInference::TokenWanted { what } = wanted else { panic!("{wanted:?}") };
    assert!(what.as_str().contains(FILE), "{}", what.as_str());
    let (file, _) = spec.hub().unwrap();
    let bound = file.repo.token_bound(renter.terms.lease);
    let sealed = |to, bound: &[u8], token: &str| seal(to, TOKEN_CONTEXT, bound, token.as_bytes()).unwrap();
    // Sealed to somebody else, for another lease, or no token at all: it is not taken, and the right one still is.
    let why = give(&renter, sealed(NodeSecret::generate().id(), &bound, TOKEN)).await.unwrap();
    assert!(why.contains("not sealed to this node"), "{why}");
    assert!(give(&renter, sealed(container.id, b"other", TOKEN)).await.is_some());
    assert!(give(&renter, sealed(container.id, &bound, "two words")).await.unwrap().contains("no spaces"));
    assert_eq!(give(&renter, sealed(container.id, &bound, TOKEN)).await, None);
    until_ready(&mut watch).await;
    renter.hear(|m| matches!(m, ToConsumer::Started)).await;
    assert!(give(&renter, sealed(container.id, &bound, TOKEN)).await.unwrap().contains("waits for no token"));
    served.hub.change(|played| {
        assert_eq!(played.hub_saw, [format!("Bearer {TOKEN}")]);
        assert_eq!(played.content_saw, [String::new()], "who has the content never sees the token");
    });
    assert!(!holds(&served.world.config("served").data_dir, TOKEN.as_bytes()), "it is written nowhere");
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_the_hub_refuses_ends_the_lease_in_words() {
    let content = weights(5);
    let Some(served) = Box::pin(Served::new(&content)).await else { return };
    let container = served.start().await;
    served.hub.change(|played| played.token = Some("another".to_owned()));
    let spec = of_hub(&content, true);
    let (mut renter, mut watch) = served.rent(&container, spec.clone()).await;
    watch.recv_within::<FromInference>(PATIENCE).await.unwrap();
    let (file, _) = spec.hub().unwrap();
    let bound = file.repo.token_bound(renter.terms.lease);
    assert_eq!(give(&renter, seal(container.id, TOKEN_CONTEXT, &bound, TOKEN.as_bytes()).unwrap()).await, None);
    let ended = renter.hear(|m| matches!(m, ToConsumer::Ended { .. })).await;
    let ToConsumer::Ended { end: End::FailedToStart(why), .. } = ended else { panic!("{ended:?}") };
    assert!(why.contains("refuses the token") && !why.contains(TOKEN), "{why}");
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_give_each_other_what_anybody_may_have_and_nothing_else() {
    let content = weights(6);
    let Some(served) = Box::pin(Served::new(&content)).await else { return };
    let first = served.start().await;
    let (mut renter, mut watch) = served.rent(&first, of_hub(&content, false)).await;
    until_ready(&mut watch).await;
    renter.hear(|m| matches!(m, ToConsumer::Started)).await;
    assert_eq!(served.hub.ranges().len(), 1);
    // The second one is told who has them, and asks no hub.
    let second = served.start_named("second", &NodeSecret::generate()).await;
    let addr = first.line.heartbeat(|beat| !beat.warm.is_empty()).await.addr;
    let with_neighbour = |spec: ModelSpec| {
        let mut sources = vec![ModelSource::Container(addr.clone())];
        sources.extend(spec.sources.clone());
        ModelSpec { sources, ..spec }
    };
    let (mut next, mut watch) = served.rent(&second, with_neighbour(of_hub(&content, false))).await;
    let told = until_ready(&mut watch).await;
    next.hear(|m| matches!(m, ToConsumer::Started)).await;
    assert!(told.iter().any(|what| what.contains("fetching the weights from Container")), "{told:?}");
    assert_eq!(served.hub.ranges(), Vec::<String>::new());
    // What a consumer brought is its own: the other Container is not given it, and takes the hub's.
    let own = weights(7);
    let mut bringing = served.opened(&first, Size(own.len() as u64)).await;
    bringing.upload(&[("weights", &own)]).await;
    bringing.say(job(ModelSpec { sources: Vec::new(), ..of_hub(&own, false) })).await;
    bringing.hear(|m| matches!(m, ToConsumer::Started)).await;
    served.hub.change(|played| played.content.clone_from(&own));
    let (mut last, mut watch) = served.rent(&second, with_neighbour(of_hub(&own, false))).await;
    until_ready(&mut watch).await;
    last.hear(|m| matches!(m, ToConsumer::Started)).await;
    assert_eq!(served.hub.ranges().len(), 1);
    // Unless the program itself names it to everybody.
    let known = ModelSpec { sources: Vec::new(), ..of_hub(KNOWN, false) };
    let mut bringing = Box::pin(served.opened(&first, known.bytes)).await;
    bringing.upload(&[("weights", KNOWN)]).await;
    bringing.say(job(known.clone())).await;
    bringing.hear(|m| matches!(m, ToConsumer::Started)).await;
    let (mut last, mut watch) = served.rent(&second, with_neighbour(known)).await;
    until_ready(&mut watch).await;
    last.hear(|m| matches!(m, ToConsumer::Started)).await;
    second.stop().await;
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_in_parts_is_fetched_part_by_part_kept_whole_and_passed_on() {
    let files = parts(5);
    let spec = in_parts(&files);
    let Some(served) = Box::pin(Served::new(b"")).await else { return };
    served.hub.change(|played| played.parts.clone_from(&files));
    let container = served.start().await;
    // The first one comes, the second one hangs, and the Container is killed.
    let len = files.iter().map(Vec::len).max().unwrap();
    assert!(len > 2 * PIECE, "{len}");
    served.hub.will([Deed::Short(files[0].len()), Deed::Hang(2 * PIECE), Deed::Hang(0), Deed::Hang(0)]);
    let (renter, mut watch) = served.rent(&container, spec.clone()).await;
    let place =
        |of: usize| served.world.config("served").data_dir.join("models").join(spec.parts[of].weights.to_string());
    loop {
        match watch.recv_within::<FromInference>(PATIENCE).await.unwrap() {
            // What came is written down when the hub was silent for too long.
            FromInference::Preparing { what } if what.as_str().contains("trying again") => break,
            _ => {}
        }
    }
    assert!(place(0).exists() && !place(1).exists());
    drop((renter, watch));
    container.crash();
    served.hub.ranges();
    served.hub.will([]);
    let container = served.start().await;
    let (mut renter, mut watch) = served.rent(&container, spec.clone()).await;
    let mut other = served.opened(&container, spec.bytes).await;
    other.say(job(spec.clone())).await;
    let told = until_ready(&mut watch).await;
    renter.hear(|m| matches!(m, ToConsumer::Started)).await;
    other.hear(|m| matches!(m, ToConsumer::Started)).await;
    assert!(told.iter().any(|what| what.contains("fetching tiny-00003-of-00003.gguf from the hub")), "{told:?}");
    assert_eq!(served.hub.ranges(), [format!("2: bytes={}-", 2 * PIECE), "3: ".to_owned()]);
    // It is one model.
    container.line.heartbeat(|beat| beat.warm == [spec.weights.warm_id()]).await;
    // After a start it is here still, and another Container is given it, part by part.
    drop((renter, other, watch));
    container.crash();
    let container = served.start().await;
    let (mut third, mut watch) = served.rent(&container, spec.clone()).await;
    until_ready(&mut watch).await;
    third.hear(|m| matches!(m, ToConsumer::Started)).await;
    let second = served.start_named("second", &NodeSecret::generate()).await;
    let addr = container.line.heartbeat(|beat| !beat.warm.is_empty()).await.addr;
    let near = ModelSpec { sources: vec![ModelSource::Container(addr), spec.sources[0].clone()], ..spec.clone() };
    let (mut next, mut watch) = served.rent(&second, near).await;
    until_ready(&mut watch).await;
    next.hear(|m| matches!(m, ToConsumer::Started)).await;
    assert_eq!(served.hub.ranges(), Vec::<String>::new());
    second.stop().await;
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_are_wrong_or_of_another_model_are_refused_and_sent_ones_are_taken() {
    let files = parts(6);
    let Some(served) = Box::pin(Served::new(b"")).await else { return };
    served.hub.change(|played| played.parts.clone_from(&files));
    let container = served.start().await;
    let fails = |spec: ModelSpec| Box::pin(served.fails(&container, spec));
    let good = in_parts(&files);
    // One with another hash than was said.
    let mut wrong = files.clone();
    *wrong[1].last_mut().unwrap() ^= 1;
    let (ours, why) = fails(in_parts(&wrong)).await;
    assert!(!ours && why.contains("SHA-256"), "{why}");
    // The third one of another model, one that comes too early, and one that is none.
    let mut stranger = muster_engine::gguf::Builder::new("llama");
    for name in ["a", "b", "c"] {
        stranger.tensor(muster_engine::gguf::Tensor::f32(name, &[1], &[1.0]));
    }
    let stranger = stranger.split(3).unwrap().pop().unwrap();
    for (third, words) in [
        (stranger, "tensors together, and shall have"),
        (parts(7)[1].clone(), "says that it is file 2 of 3, and shall be file 3 of 3"),
        (b"GGUF".to_vec(), "ends at byte 4"),
    ] {
        let other = [files[0].clone(), files[1].clone(), third];
        served.hub.change(|played| played.parts = other.to_vec());
        let (ours, why) = fails(in_parts(&other)).await;
        assert!(!ours && why.contains(words), "{words}: {why}");
    }
    // There must be room for all of them.
    let mut large = good.parts.clone();
    large.iter_mut().for_each(|part| (part.weights.0[0], part.bytes) = (!part.weights.0[0], Size(6 << 20)));
    let large = ModelSpec { weights: WeightsId::of_parts(&large), bytes: Size(18 << 20), parts: large, ..good.clone() };
    let (ours, why) = fails(large).await;
    assert!(ours && why.contains("the weights need 18 MiB"), "{why}");
    // What a consumer sends is looked at in the same way.
    let files = parts(8);
    let sent = ModelSpec { sources: Vec::new(), ..in_parts(&files) };
    let names: Vec<String> = sent.files().into_iter().map(|file| file.name).collect();
    let mut renter = served.opened(&container, sent.bytes).await;
    let upload: Vec<(&str, &[u8])> = names.iter().map(String::as_str).zip(files.iter().map(Vec::as_slice)).collect();
    renter.upload(&upload[..2]).await;
    renter.say(job(sent.clone())).await;
    let ended = renter.hear(|m| matches!(m, ToConsumer::Ended { .. } | ToConsumer::Started)).await;
    let ToConsumer::Ended { end: End::FailedToStart(why), .. } = ended else { panic!("{ended:?}") };
    assert!(why.contains("were not sent"), "{why}");
    renter.settled().await;
    let mut renter = served.opened(&container, sent.bytes).await;
    renter.upload(&upload).await;
    renter.say(job(sent)).await;
    renter.hear(|m| matches!(m, ToConsumer::Started)).await;
    container.stop().await;
}
