//! The parent's side, with a child that is played.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use muster_core::inference::{Finish, InferenceErrorKind, InferenceEvent, InferenceTask, Part, TokenCounts};
use muster_engine::embedded::{Child, Embedded, Phase, Spawn};
use muster_engine::protocol::{self, ChildConfig, FromEngine, Pooling, ToEngine};
use muster_engine::{Abilities, Engine, EngineInfo, Later};

use crate::asked::{Got, ask, completion, sampling};

/// Children that answer every request with three words, wait for ever at `wait`, and end at `crash`.
#[derive(Clone, Default)]
struct Played {
    started: Arc<AtomicU32>,
}

fn word(text: &str) -> InferenceEvent {
    InferenceEvent::Text { choice: 0, part: Part::Answer, text: text.to_owned(), logprobs: Vec::new() }
}

async fn play(mut stdin: tokio::io::DuplexStream, mut stdout: tokio::io::DuplexStream) -> Option<()> {
    let load = protocol::read(&mut stdin).await.ok()??;
    let ToEngine::Load(config) = load else { panic!("{load:?} comes first") };
    if config.path == "/broken" {
        let why = "no such file".to_owned();
        return protocol::write(&mut stdout, &FromEngine::Failed { why }).await.ok();
    }
    protocol::write(&mut stdout, &FromEngine::Loading { permille: 500 }).await.ok()?;
    let abilities = Abilities { completion: true, ..Abilities::default() };
    let engine = "played".to_owned();
    let info = EngineInfo { context: 99, parallel: 1, queue: 0, abilities, dimensions: 0, engine };
    protocol::write(&mut stdout, &FromEngine::Ready(info)).await.ok()?;
    loop {
        let (id, events, counts) = match protocol::read(&mut stdin).await.ok()?? {
            ToEngine::Ask { id, request } => {
                let InferenceTask::Completion(asked) = &request.task else { panic!("{request:?}") };
                let counts = TokenCounts { input: 2, cached: 0, output: 3 };
                let began = InferenceEvent::Began { counts: TokenCounts { output: 0, ..counts } };
                match &asked.prompts[0] {
                    muster_core::inference::Prompt::Text(text) if text == "crash" => {
                        let events = vec![began, word("a")];
                        protocol::write(&mut stdout, &FromEngine::Events { id, events, counts }).await.ok()?;
                        return None;
                    }
                    muster_core::inference::Prompt::Text(text) if text == "wait" => {
                        (id, vec![began, word("a")], counts)
                    }
                    _ => {
                        let finished = InferenceEvent::Finished { choice: 0, finish: Finish::Stop };
                        let done = InferenceEvent::Done { counts };
                        (id, vec![began, word("a "), word("b "), word("c"), finished, done], counts)
                    }
                }
            }
            ToEngine::Cancel { id } => {
                let counts = TokenCounts { input: 2, cached: 0, output: 7 };
                (id, vec![InferenceEvent::Done { counts }], counts)
            }
            ToEngine::Load(_) | ToEngine::Stop => return Some(()),
        };
        protocol::write(&mut stdout, &FromEngine::Events { id, events, counts }).await.ok()?;
    }
}

impl Spawn for Played {
    fn spawn(&self) -> Later<'_, Result<Child, String>> {
        Box::pin(async move {
            self.started.fetch_add(1, Ordering::SeqCst);
            let (stdin, theirs_in) = tokio::io::duplex(4_096);
            let (theirs_out, stdout) = tokio::io::duplex(4_096);
            let playing = tokio::spawn(play(theirs_in, theirs_out));
            let exit = Box::pin(async move {
                let _ = playing.await;
                "the engine's process ended: signal 9".to_owned()
            });
            Ok(Child { stdin: Box::new(stdin), stdout: Box::new(stdout), exit })
        })
    }
}

fn engine(path: &str, queue: u32) -> Embedded {
    let (path, pooling) = (path.to_owned(), Pooling::Model);
    let config = ChildConfig { path, context: 0, parallel: 1, threads: 1, gpu_layers: 0, embedding: false, pooling };
    Embedded::new(config, queue)
}

#[tokio::test]
async fn a_crash_fails_what_was_asked_and_the_engine_comes_again() {
    let (engine, played) = (engine("/model", 4), Played::default());
    tokio::select! {
        () = engine.run(&played, std::future::pending()) => {}
        () = async {
            let error = ask(&engine, completion("x", sampling(3))).await.error.unwrap();
            assert!(error.why.contains("is being loaded"), "{error}");
            engine.ready().await.unwrap();
            assert_eq!(ask(&engine, completion("x", sampling(3))).await.text(), "a b c");
            let got = ask(&engine, completion("crash", sampling(3))).await;
            let error = got.error.as_ref().unwrap();
            assert_eq!((error.kind, got.text(), got.counts.output), (InferenceErrorKind::EngineLost, "a", 3));
            assert!(error.why.contains("signal 9"), "{error}");
            engine.ready().await.unwrap();
            assert_eq!(played.started.load(Ordering::SeqCst), 2);
            assert_eq!(ask(&engine, completion("x", sampling(3))).await.text(), "a b c");
        } => {}
    }
}

#[tokio::test]
async fn who_waits_is_counted_and_too_many_are_turned_away() {
    let (engine, played) = (engine("/model", 1), Played::default());
    tokio::select! {
        () = engine.run(&played, std::future::pending()) => {}
        () = async {
            engine.ready().await.unwrap();
            let mut first = engine.submit(completion("wait", sampling(3)));
            first.next().await.unwrap();
            assert_eq!((engine.load().busy, engine.load().waiting), (1, 0));
            let second = engine.submit(completion("wait", sampling(3)));
            let error = ask(&engine, completion("x", sampling(3))).await.error.unwrap();
            assert!(matches!(error.kind, InferenceErrorKind::QueueFull { .. }), "{error}");
            first.cancel();
            let mut got = Got::default();
            while let Some(events) = first.next().await {
                events.into_iter().for_each(|event| got.take(event));
            }
            assert_eq!((got.over, got.counts.output), (true, 7));
            drop(second);
            while engine.load() != muster_engine::Load::default() {
                tokio::task::yield_now().await;
            }
            assert_eq!(ask(&engine, completion("x", sampling(3))).await.text(), "a b c");
        } => {}
    }
}

#[tokio::test]
async fn one_that_does_not_load_says_why_and_one_that_is_stopped_too() {
    let (broken, played) = (engine("/broken", 1), Played::default());
    tokio::select! {
        () = broken.run(&played, std::future::pending()) => {}
        ready = broken.ready() => assert_eq!(ready.unwrap_err().to_string(), "no such file"),
    }
    let error = ask(&broken, completion("x", sampling(3))).await.error.unwrap();
    assert!(error.why.contains("does not come up: no such file"), "{error}");
    let good = engine("/model", 1);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let both = async {
        good.ready().await.unwrap();
        let mut open = good.submit(completion("wait", sampling(3)));
        open.next().await.unwrap();
        stop.send(()).unwrap();
        let events = open.next().await.unwrap();
        assert!(
            matches!(&events[..], [InferenceEvent::Failed { error, .. }] if error.kind == InferenceErrorKind::Unavailable)
        );
    };
    tokio::join!(good.run(&played, async { drop(stopped.await) }), both);
    assert_eq!(*good.phase().borrow(), Phase::Stopped);
    assert_eq!(ask(&good, completion("x", sampling(3))).await.error.unwrap().kind, InferenceErrorKind::Unavailable);
}
