//! Audits with llama.cpp itself: what is committed to, its replay elsewhere, and cheats.

use std::path::{Path, PathBuf};

use futures::StreamExt as _;
use muster_core::inference::audit::{
    Compared, Excess, Limits, Replay, Replayable, Standing, Tally, Transcript, calibrate, compare, judge, question,
};
use muster_core::inference::{
    Chat, Completion, Content, InferenceErrorKind, InferenceRequest, InferenceTask, Prompt, ResponseFormat, Sampling,
};
use muster_engine::Engine as _;
use muster_engine::audit::{AuditError, answered, replayed, reveal};
use muster_engine::embedded::Embedded;
use muster_engine::protocol::ChildConfig;
use muster_engine::tiny::{self, Numbers, Shape};

use crate::asked::{ask, chat, sampling};
use crate::llama::{config, with_file};

/// As sure of its next token as language models are, and with layers that can be left out.
const SHAPE: Shape = Shape { seed: 11, width: 64, layers: 3, left_out: 0, peak: 0.8, numbers: Numbers::F32 };

fn completion(prompt: &str, sampling: Sampling) -> Replayable {
    let (prompts, format) = (vec![Prompt::Text(prompt.to_owned())], ResponseFormat::Text);
    Replayable::Completion(Box::new(Completion { prompts, echo: false, suffix: None, format, sampling }))
}

fn hot(max: u32) -> Sampling {
    Sampling { temperature: 1.0, ignore_eos: true, ..sampling(max) }
}

async fn two<F: Future<Output = ()>>(one: ChildConfig, other: ChildConfig, test: impl FnOnce(Embedded, Embedded) -> F) {
    with_file(one, |first| with_file(other, |second| test(first, second))).await;
}

/// A model's file in this shape.
fn file(folder: &Path, name: &str, shape: Shape) -> PathBuf {
    let path = folder.join(name);
    tiny::write_shaped(&path, &shape).unwrap();
    path
}

#[tokio::test]
async fn an_answer_is_committed_to_and_replayed_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), "model.gguf", SHAPE);
    let other = ChildConfig { parallel: 2, threads: 2, context: 700, ..config(&path) };
    two(config(&path), other, |served, checks| async move {
        let tool_free = Chat { parallel_tool_calls: true, ..chat("Tell me more.", hot(70)) };
        for to in [
            completion("Once upon a time", hot(100)),
            completion("Once upon a time", Sampling { top_p: 0.9, min_p: 0.01, temperature: 0.7, ..hot(90) }),
            completion("Well: ", Sampling { repetition_penalty: 1.3, presence_penalty: 0.4, n: 2, ..hot(80) }),
            completion("Well: ", Sampling { temperature: 0.0, ..hot(90) }),
            Replayable::Chat(Box::new(tool_free)),
        ] {
            let transcript = answered(&served, &to).await.unwrap();
            let max = usize::try_from(to.sampling().max_tokens.unwrap()).unwrap();
            assert_eq!((transcript.tokens.len(), transcript.choice, transcript.seed), (max, 0, 1));
            let replayed = replayed(&checks, &to, &transcript).await.unwrap();
            let compared = compare(&transcript, &replayed).unwrap();
            assert!(compared.differing <= 3 && compared.distance <= compared.tokens * 20, "{compared:?} {to:?}");
            // Whoever replays the first token of another seed's answer says where it parts.
            let mut other = to.clone();
            match &mut other {
                Replayable::Chat(chat) => chat.sampling.seed = Some(9),
                Replayable::Completion(completion) => completion.sampling.seed = Some(9),
            }
            let replayed = muster_engine::audit::replayed(&checks, &other, &transcript).await.unwrap();
            let compared = compare(&transcript, &replayed).unwrap();
            let greedy = to.sampling().temperature <= 0.0;
            assert!(greedy || compared.differing * 5 > compared.tokens, "{compared:?} {to:?}");
        }
        // Each of several answers has its own.
        let both = completion("abc", Sampling { n: 2, ..hot(20) });
        let got = ask(&served, both.request(false)).await;
        assert_eq!((got.commitments.len(), got.counts.output), (2, 40));
        for (choice, commitment) in (0u32..).zip(got.commitments) {
            let transcript = reveal(&served, commitment).await.unwrap();
            assert_eq!(transcript.choice, choice);
            let replayed = replayed(&checks, &both, &transcript).await.unwrap();
            assert!(compare(&transcript, &replayed).unwrap().differing <= 1);
        }
        let unknown = reveal(&served, muster_core::inference::audit::Commitment([0; 32])).await.unwrap_err();
        assert!(unknown.hides() && unknown.to_string().contains("no transcript of this name"), "{unknown}");
    })
    .await;
}

#[tokio::test]
async fn what_ends_is_part_of_it_and_forms_are_held_in_replays() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), "model.gguf", SHAPE);
    two(config(&path), config(&path), |served, checks| async move {
        let ends = Sampling { logit_bias: vec![(tiny::END, 100.0)], ignore_eos: false, ..hot(9) };
        let to = completion("abc", ends);
        let transcript = answered(&served, &to).await.unwrap();
        assert_eq!(transcript.tokens.iter().map(|token| token.id).collect::<Vec<_>>(), [tiny::END]);
        let again = replayed(&checks, &to, &transcript).await.unwrap();
        assert_eq!(compare(&transcript, &again).unwrap(), Compared { tokens: 1, ..Compared::default() });
        let grammar = ResponseFormat::Grammar("root ::= (\"yes\" | \"no\" | \"never\") \"!\"".to_owned());
        let (prompts, sampling) = (vec![Prompt::Text("Well? ".to_owned())], Sampling { ignore_eos: false, ..hot(30) });
        let held = Completion { prompts, echo: true, suffix: None, format: grammar, sampling };
        let held = Replayable::Completion(Box::new(held));
        let transcript = answered(&served, &held).await.unwrap();
        let again = replayed(&checks, &held, &transcript).await.unwrap();
        assert_eq!(compare(&transcript, &again).unwrap().differing, 0);
        let bent = Transcript { tokens: transcript.tokens.iter().rev().copied().collect(), ..transcript };
        let again = replayed(&checks, &held, &bent).await.unwrap();
        assert!(compare(&bent, &again).unwrap().differing > 0);
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_replayed_is_refused_and_counts_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), "model.gguf", SHAPE);
    with_file(config(&path), |engine| async move {
        let replay = |max: u32, tokens: Vec<u32>| {
            let replay = Replay { to: completion("abc", hot(max)), choice: 0, tokens };
            InferenceRequest { task: InferenceTask::Replay(Box::new(replay)), stream: false }
        };
        let got = ask(&engine, replay(90, vec![300; 80])).await;
        let rows = got.replayed.unwrap().rows;
        assert_eq!((rows.len(), got.counts.input, got.counts.output), (80, 4 + 79, 0));
        for (request, param) in [
            (replay(3, vec![300; 4]), "tokens"),
            (replay(9, vec![99_999]), "tokens"),
            (replay(9, Vec::new()), "tokens"),
        ] {
            let error = ask(&engine, request).await.error.unwrap();
            assert_eq!((error.kind, error.param.as_deref()), (InferenceErrorKind::BadRequest, Some(param)));
        }
        // Others are answered meanwhile, and a replay takes nothing from them.
        let long = ask(&engine, replay(400, vec![300; 400]));
        let short = ask(&engine, completion("abc", hot(5)).request(true));
        let (long, short) = tokio::join!(long, short);
        assert_eq!((long.replayed.unwrap().rows.len(), short.counts.output), (400, 5));
        let embedder = answered(&engine, &completion(&"x".repeat(600), hot(5))).await.unwrap_err();
        assert!(matches!(embedder, AuditError::Failed(_)) && !embedder.hides(), "{embedder}");
    })
    .await;
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Twist {
    None,
    Truncated,
    OtherSeed,
    OtherPrompt,
}

/// One answer, as a Container claims it, against a replay.
async fn audit(served: &Embedded, checks: &Embedded, number: u64, twist: Twist) -> Compared {
    let to = question(number, true);
    let mut asked = to.clone();
    match (&mut asked, twist) {
        (_, Twist::None) => {}
        (Replayable::Chat(chat), Twist::Truncated) => {
            for message in &mut chat.messages {
                let text = message.content.text();
                let words: Vec<&str> = text.split(' ').collect();
                message.content = Content::Text(words[words.len() / 2..].join(" "));
            }
        }
        (Replayable::Chat(chat), Twist::OtherSeed) => chat.sampling.seed = Some(number),
        (Replayable::Chat(chat), Twist::OtherPrompt) => {
            let Replayable::Chat(other) = question(!number, true) else { panic!("a chat") };
            **chat = Chat { sampling: to.sampling().clone(), ..*other };
        }
        (Replayable::Completion(_), _) => panic!("only chats are asked"),
    }
    let mut claimed = answered(served, &asked).await.unwrap();
    let replayed = replayed(checks, &to, &claimed).await.unwrap();
    (claimed.prompt, claimed.prompt_tokens) = (replayed.prompt, replayed.prompt_tokens);
    compare(&claimed, &replayed).unwrap()
}

async fn audits(config: ChildConfig, checks: &Embedded, first: u64, count: u64, twist: Twist) -> Vec<Compared> {
    let mut all = Vec::new();
    let answers = &mut all;
    with_file(config, |served| async move {
        let at_once = usize::try_from(served.ready().await.unwrap().parallel).unwrap();
        let audits = (first..first + count).map(|number| {
            let served = served.clone();
            async move { audit(&served, checks, number << 20, twist).await }
        });
        *answers = futures::stream::iter(audits).buffered(at_once).collect().await;
    })
    .await;
    all
}

fn standing(answers: &[Compared], limits: &Limits) -> Standing {
    let mut tally = Tally::default();
    answers.iter().for_each(|answer| {
        tally.add(*answer);
    });
    judge([&tally, &tally], limits)
}

/// Each way of cheating, within two thousand tokens; and honest Containers of several kinds, none of which is accused.
/// `examples/model_audits.rs` measures the same over many more answers.
#[tokio::test]
async fn cheats_are_told_from_honest_containers() {
    let folder = tempfile::tempdir().unwrap();
    let make = |name: &str, shape: Shape| ChildConfig {
        context: 1_536,
        parallel: 4,
        ..config(&file(folder.path(), name, shape))
    };
    let own = make("model.gguf", SHAPE);
    with_file(ChildConfig { parallel: 3, ..own.clone() }, |checks| async move {
        let alone = audits(ChildConfig { parallel: 1, ..own.clone() }, &checks, 0, 15, Twist::None).await;
        let many = audits(ChildConfig { parallel: 8, threads: 2, ..own.clone() }, &checks, 100, 30, Twist::None).await;
        let (first, second) = many.split_at(15);
        let honest: Vec<Compared> = alone.iter().chain(first).copied().collect();
        let limits = calibrate(&honest).unwrap();
        for honest in [&alone[..], first, second] {
            assert_eq!(standing(honest, &limits), Standing::Faithful, "{limits:?}");
        }
        let cheats = [
            ("a harsher quantisation", make("q4.gguf", Shape { numbers: Numbers::Q4_0, ..SHAPE }), Twist::None),
            ("a smaller model", make("less.gguf", Shape { left_out: 1, ..SHAPE }), Twist::None),
            ("an answer from elsewhere", make("other.gguf", Shape { seed: 12, ..SHAPE }), Twist::None),
            ("half of the context", own.clone(), Twist::Truncated),
            ("a cached answer, of another seed", own.clone(), Twist::OtherSeed),
            ("a cached answer, to another prompt", own.clone(), Twist::OtherPrompt),
        ];
        for (what, config, twist) in cheats {
            let answers = audits(config, &checks, 200, 14, twist).await;
            assert!(answers.iter().map(|answer| answer.tokens).sum::<u64>() <= 2_000);
            let standing = standing(&answers, &limits);
            let Standing::Deviates(deviation) = standing else { panic!("{what}: {standing:?} {answers:?}") };
            let wrong_tokens = matches!(deviation.excess, Excess::Tokens);
            assert!(wrong_tokens || twist == Twist::None, "{what}: {deviation}");
        }
    })
    .await;
}
