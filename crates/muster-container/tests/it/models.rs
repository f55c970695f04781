//! Models on leases: weights that are sent and kept, answers that are counted, and what is paid for them.
//!
//! The engine answers from a script, inside this process; the program that the Sandbox runs for it only waits. What real
//! engines do is tested where they live.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use muster_chain::keys::Wallet;
use muster_container::{EngineInput, EngineOutput, EngineSetup, Engines, ModelsOffer};
use muster_core::inference::{
    Chat, Content, InferenceErrorKind, InferenceEvent, InferenceRequest, InferenceTask, Message, ModelKind, ModelSpec,
    Part, Role, TokenCounts, TokenRates, WeightsId,
};
use muster_core::lease::{End, LeaseTerms, TokenTerms};
use muster_core::pricing::Exchange;
use muster_core::protocol::{JobSpec, Offer, OfferAnswer, ToConsumer, ToContainer};
use muster_core::units::{Bytes, TokenAmount};
use muster_engine::{Abilities, Answer, Engine, EngineInfo, Later, Load, NotReady, answer};
use muster_net::{FrameReader, FrameWriter, NodeSecret, StreamKind};
use muster_wire::message::files::Outcome;
use muster_wire::message::inference::{FromInference, InferenceOpen, ToInference};
use sha2::{Digest, Sha256};

use crate::harness::host;
use crate::renter::Renter;
use crate::world::{PATIENCE, Running, World};

const WEIGHTS: &[u8] = b"GGUF, as far as this engine looks";

/// Weights that the program names to everybody.
pub(crate) const KNOWN: &[u8] = b"GGUF, as the catalogue has it";

/// Says each word of the last message again, a token a word, until it is cancelled where that word is `forever`.
#[derive(Debug)]
struct Parrot;

#[derive(Debug)]
pub(crate) struct Parrots;

impl Engines for Parrots {
    fn program(&self) -> PathBuf {
        "/bin/sleep".into()
    }

    fn args(&self) -> Vec<String> {
        vec!["1000".to_owned()]
    }

    fn check(&self, weights: &Path) -> Result<(), String> {
        let bytes = std::fs::read(weights).map_err(|error| error.to_string())?;
        if bytes.starts_with(b"GGUF") { Ok(()) } else { Err("it does not begin with GGUF".to_owned()) }
    }

    fn check_part(&self, part: &Path, number: u16, count: u16) -> Result<(), String> {
        muster_engine::gguf::check_part_file(part, number, count).map(drop)
    }

    fn check_together(&self, parts: &[PathBuf]) -> Result<(), String> {
        muster_engine::gguf::check_files(parts).map(drop)
    }

    fn is_public(&self, weights: WeightsId) -> bool {
        weights == WeightsId(Sha256::digest(KNOWN).into())
    }

    fn over(&self, _input: EngineInput, _output: EngineOutput, setup: EngineSetup) -> Arc<dyn Engine> {
        assert_eq!(setup.context, 512);
        Arc::new(Parrot)
    }
}

impl Engine for Parrot {
    fn ready(&self) -> Later<'_, Result<EngineInfo, NotReady>> {
        let abilities = Abilities { chat: true, completion: true, ..Abilities::default() };
        let engine = "parrot".to_owned();
        Box::pin(
            async move { Ok(EngineInfo { context: 512, parallel: 4, queue: 8, abilities, dimensions: 0, engine }) },
        )
    }

    fn submit(&self, request: InferenceRequest) -> Answer {
        let (mut answering, asked) = answer();
        let InferenceTask::Chat(chat) = request.task else { panic!("only chats are asked here") };
        let text = chat.messages.last().unwrap().content.text();
        tokio::spawn(async move {
            let mut counts = TokenCounts { input: 10, cached: 4, output: 0 };
            answering.send(vec![InferenceEvent::Began { counts }]).await;
            for word in text.split_whitespace() {
                loop {
                    counts.output += 1;
                    let text = word.to_owned();
                    let piece = InferenceEvent::Text { choice: 0, part: Part::Answer, text, logprobs: Vec::new() };
                    answering.send(vec![piece]).await;
                    if word != "forever" || answering.is_cancelled() {
                        break;
                    }
                    tokio::select! {
                        () = answering.cancelled() => {}
                        () = tokio::time::sleep(Duration::from_millis(5)) => {}
                    }
                }
            }
            answering.send(vec![InferenceEvent::Done { counts }]).await;
        });
        asked
    }

    fn load(&self) -> Load {
        Load::default()
    }
}

pub(crate) fn spec() -> ModelSpec {
    ModelSpec {
        name: "parrot".to_owned(),
        kind: ModelKind::Chat,
        weights: WeightsId(Sha256::digest(WEIGHTS).into()),
        bytes: Bytes(WEIGHTS.len() as u64),
        parts: Vec::new(),
        sources: Vec::new(),
        context: 512,
        parallel: 4,
        endpoint: None,
    }
}

fn rates(world: &World, bytes: Bytes) -> TokenRates {
    let ask = ModelsOffer::default().ask.for_weights(bytes);
    TokenRates::freeze(&ask, &Exchange { token_price: world.params.token_price }).unwrap()
}

/// Prices high enough to be told apart: `for_weights` of a few bytes asks for next to nothing.
pub(crate) fn model_terms(world: &World, terms: &mut LeaseTerms, bytes: Bytes) {
    let asked = rates(world, bytes);
    let rates = TokenRates {
        input: TokenAmount(asked.input.0 + 1_000_000),
        cached: TokenAmount(asked.cached.0),
        output: TokenAmount(asked.output.0 + 3_000_000),
    };
    let credit = rates.cost(TokenCounts { input: 5_000, cached: 0, output: 5_000 });
    terms.tokens = Some(TokenTerms { weights: bytes, rates, credit });
    terms.rate_per_second = TokenAmount::ZERO;
    terms.deposit = TokenAmount(credit.0 * 4);
}

async fn served() -> Option<(World, Running)> {
    host()?;
    let world = World::new().await;
    *world.engines.lock().unwrap() = Some(Arc::new(Parrots));
    let mut config = world.config("served");
    config.models.disk = Bytes(1 << 20);
    let container = world.start(config, &NodeSecret::generate()).await;
    Some((world, container))
}

async fn opened(world: &World, container: &Running) -> Renter {
    Renter::open_with(world, container, |terms| model_terms(world, terms, spec().bytes)).await
}

pub(crate) fn job(spec: ModelSpec) -> ToContainer {
    let (command, env) = (Vec::new(), Vec::new());
    ToContainer::Go(JobSpec { command, env, stdin: false, session: None, model: Some(spec) })
}

pub(crate) async fn inference(renter: &Renter, open: &InferenceOpen) -> (FrameReader, FrameWriter) {
    let (reader, mut writer) = renter.connection.open_bi(StreamKind::Inference).await.unwrap().framed().split();
    writer.send(open).await.unwrap();
    (reader, writer)
}

async fn has(renter: &Renter) -> bool {
    let lease = renter.terms.lease;
    let (mut from, _to) = inference(renter, &InferenceOpen::Has { lease, weights: spec().weights }).await;
    from.recv_within::<FromInference>(PATIENCE).await.unwrap() == FromInference::Has(true)
}

pub(crate) async fn ask(renter: &Renter, text: &str) -> (FrameReader, FrameWriter) {
    let content = Content::Text(text.to_owned());
    let message = Message { role: Role::User, content, tool_calls: Vec::new(), tool_call_id: None, name: None };
    let chat = Chat { messages: vec![message], ..Chat::default() };
    let request = Box::new(InferenceRequest { task: InferenceTask::Chat(Box::new(chat)), stream: true });
    inference(renter, &InferenceOpen::Ask { lease: renter.terms.lease, request }).await
}

/// All events until the last.
pub(crate) async fn all(from: &mut FrameReader) -> Vec<InferenceEvent> {
    let mut heard = Vec::new();
    loop {
        match from.recv_within::<FromInference>(PATIENCE).await.unwrap() {
            FromInference::Events(events) => heard.extend(events),
            other => panic!("{other:?}"),
        }
        if matches!(heard.last(), Some(InferenceEvent::Done { .. } | InferenceEvent::Failed { .. })) {
            return heard;
        }
    }
}

fn said(events: &[InferenceEvent]) -> String {
    let words = events.iter().filter_map(|event| match event {
        InferenceEvent::Text { text, .. } => Some(text.as_str()),
        _ => None,
    });
    words.collect::<Vec<_>>().join(" ")
}

fn counts(events: &[InferenceEvent]) -> TokenCounts {
    match events.last() {
        Some(InferenceEvent::Done { counts } | InferenceEvent::Failed { counts, .. }) => *counts,
        other => panic!("{other:?}"),
    }
}

async fn pay(renter: &mut Renter, world: &World, tokens: TokenCounts) {
    renter.paid = renter.terms.tokens.unwrap().rates.cost(tokens);
    let voucher = renter.voucher(world, renter.paid);
    renter.say(ToContainer::Paid(voucher)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_counted_once_also_of_those_who_hang_up_and_paid_to_the_token() {
    let Some((world, container)) = Box::pin(served()).await else { return };
    let mut renter = opened(&world, &container).await;
    assert!(!has(&renter).await);
    let sent = renter.upload(&[("weights", WEIGHTS)]).await;
    assert!(matches!(sent, Outcome::Received { .. }), "{sent:?}");
    let (mut watch, _to) = inference(&renter, &InferenceOpen::Watch { lease: renter.terms.lease }).await;
    renter.say(job(spec())).await;
    renter.hear(|m| matches!(m, ToConsumer::Started)).await;
    loop {
        match watch.recv_within::<FromInference>(PATIENCE).await.unwrap() {
            FromInference::Preparing { .. } => {}
            FromInference::Ready(ready) => {
                assert_eq!((ready.context, ready.chat, ready.engine.as_str()), (512, true, "parrot"));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    let (mut from, _to) = ask(&renter, "good morning to you").await;
    let whole = all(&mut from).await;
    assert_eq!(said(&whole), "good morning to you");
    assert_eq!(counts(&whole), TokenCounts { input: 10, cached: 4, output: 4 });
    // One who wants no more is told the count; one who goes is counted all the same.
    let (mut from, mut to) = ask(&renter, "forever").await;
    from.recv_within::<FromInference>(PATIENCE).await.unwrap();
    to.send(&ToInference::Cancel).await.unwrap();
    let cancelled = counts(&all(&mut from).await);
    let (mut from, to) = ask(&renter, "forever").await;
    from.recv_within::<FromInference>(PATIENCE).await.unwrap();
    drop((from, to));
    let known = counts(&whole).plus(cancelled);
    let grown = |tokens: &TokenCounts| tokens.input == 30 && tokens.output > known.output;
    let heard = renter.hear(|m| matches!(m, ToConsumer::Counted { tokens } if grown(tokens))).await;
    let ToConsumer::Counted { tokens } = heard else { unreachable!() };
    assert_eq!((tokens.input, tokens.cached), (30, 12));
    pay(&mut renter, &world, tokens).await;
    renter.say(ToContainer::Stop).await;
    let ended = renter.hear(|m| matches!(m, ToConsumer::Ended { .. })).await;
    assert!(matches!(ended, ToConsumer::Ended { end: End::StoppedByConsumer, .. }), "{ended:?}");
    let (redeemed, refunded, _) = renter.settled().await;
    let rates = renter.terms.tokens.unwrap().rates;
    assert_eq!(redeemed, rates.cost(tokens));
    assert_eq!(redeemed.saturating_add(refunded), renter.terms.deposit);
    // The next lease finds the weights there.
    let mut next = opened(&world, &container).await;
    assert!(has(&next).await);
    next.say(job(spec())).await;
    next.hear(|m| matches!(m, ToConsumer::Started)).await;
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_not_paid_takes_no_more_requests_and_then_ends() {
    let Some((world, container)) = Box::pin(served()).await else { return };
    let mut renter = opened(&world, &container).await;
    renter.upload(&[("weights", WEIGHTS)]).await;
    renter.say(job(spec())).await;
    renter.hear(|m| matches!(m, ToConsumer::Started)).await;
    let words = vec!["word"; 5_500].join(" ");
    let (mut from, _to) = ask(&renter, &words).await;
    assert_eq!(counts(&all(&mut from).await).output, 5_500);
    renter.hear(|m| matches!(m, ToConsumer::Counted { tokens } if tokens.output == 5_500)).await;
    let (mut from, _to) = ask(&renter, "more").await;
    let refused = all(&mut from).await;
    let [InferenceEvent::Failed { error, counts }] = refused.as_slice() else { panic!("{refused:?}") };
    assert_eq!((error.kind, *counts), (InferenceErrorKind::Unavailable, TokenCounts::ZERO));
    assert!(error.why.contains("not paid"), "{error}");
    let tokens = TokenCounts { input: 10, cached: 4, output: 5_500 };
    pay(&mut renter, &world, tokens).await;
    // The voucher comes on another stream than the request.
    let served = async {
        loop {
            let (mut from, _to) = ask(&renter, &vec!["word"; 11_000].join(" ")).await;
            let events = all(&mut from).await;
            if said(&events).len() > 10 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, served).await.unwrap();
    let ended = renter.hear(|m| matches!(m, ToConsumer::Ended { .. })).await;
    assert!(matches!(ended, ToConsumer::Ended { end: End::Unpaid, .. }), "{ended:?}");
    let (redeemed, ..) = renter.settled().await;
    assert_eq!(redeemed, renter.paid);
    container.stop().await;
}

/// How a model that cannot be served fails, and that it costs nothing.
async fn fails(served: (&World, &Running), files: &[(&str, &[u8])], spec: ModelSpec) -> String {
    let (world, container) = served;
    let mut renter = opened(world, container).await;
    if !files.is_empty() {
        renter.upload(files).await;
    }
    renter.say(job(spec)).await;
    let (mut from, _to) = ask(&renter, "too early").await;
    let early = all(&mut from).await;
    assert!(matches!(early.as_slice(), [InferenceEvent::Failed { .. }]), "{early:?}");
    let ended = renter.hear(|m| matches!(m, ToConsumer::Ended { .. } | ToConsumer::Started)).await;
    let ToConsumer::Ended { end: End::FailedToStart(why), .. } = ended else { panic!("{ended:?}") };
    let (redeemed, ..) = renter.settled().await;
    assert_eq!(redeemed, TokenAmount::ZERO);
    why
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_served_is_said_in_words_and_costs_nothing() {
    let Some((world, container)) = Box::pin(served()).await else { return };
    let fails = |files, spec| Box::pin(fails((&world, &container), files, spec));
    assert!(fails(&[], spec()).await.contains("were not sent"));
    let other: [(&str, &[u8]); 1] = [("weights", &WEIGHTS[1..])];
    assert!(fails(&other, spec()).await.contains("cut off"));
    let mut wrong = WEIGHTS.to_vec();
    wrong[0] = b'X';
    let sent: [(&str, &[u8]); 1] = [("weights", &wrong)];
    assert!(fails(&sent, spec()).await.contains("SHA-256"));
    let weights = WeightsId(Sha256::digest(&wrong).into());
    assert!(fails(&sent, ModelSpec { weights, ..spec() }).await.contains("GGUF"));
    let good: [(&str, &[u8]); 1] = [("weights", WEIGHTS)];
    let larger = ModelSpec { bytes: Bytes(spec().bytes.0 + 1), ..spec() };
    assert!(fails(&good, larger).await.contains("of this size"));
    let embedding = ModelSpec { kind: ModelKind::Embedding, ..spec() };
    assert!(fails(&good, embedding).await.contains("no embeddings"));
    // Whoever asks less than is asked gets no slot.
    let session = Wallet::random();
    let mut cheap = world.terms(container.id, &session);
    model_terms(&world, &mut cheap, spec().bytes);
    if let Some(tokens) = &mut cheap.tokens {
        tokens.rates = TokenRates::default();
        tokens.credit = TokenAmount::ZERO;
    }
    let answer = container.line.offer(Offer::Take(Box::new(cheap))).await;
    let OfferAnswer::Rejected(why) = answer else { panic!("{answer:?}") };
    assert!(why.to_string().contains("asks more"), "{why}");
    container.stop().await;
}
