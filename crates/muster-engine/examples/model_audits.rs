//! Measures how well audits of answers tell cheats from honest Containers, with llama.cpp itself, and makes a line of
//! `calibration/models.toml`.
//!
//! ```text
//! cargo run -p muster-engine --features llama --example model_audits -- [ANSWERS] [MODEL.gguf NAME QUANTISATION [CHEAPER.gguf]]
//! cargo run -p muster-engine --features llama --example model_audits -- honest ANSWERS [MODEL.gguf NAME QUANTISATION]
//! cargo run -p muster-engine --features llama --example model_audits -- quantise FROM.gguf TO.gguf TYPE
//! ```
//!
//! Without a model's file it makes one, with its cheaper brothers; with one, `CHEAPER.gguf` is what a cheat serves
//! instead, as `quantise` makes it (`TYPE` by llama.cpp's number: 2 for Q4_0, 10 for Q2_K). ANSWERS (100) are drawn for
//! each case. `honest` draws honest answers alone, makes limits from a tenth of them, and judges the others by those as they came,
//! in runs that share no answer. Beside it must lie the program `muster-engine`, which `cargo build -p muster-engine --features llama` makes.
#![allow(clippy::print_stdout, reason = "it prints what it measured")]

use std::path::{Path, PathBuf};

use futures::StreamExt as _;
use muster_core::inference::audit::{
    Claimed, Compared, Entry, LIKELY, Likely, Limits, Replayable, Tally, calibrate, compare, judge_one, question,
};
use muster_core::inference::{Content, Prompt, Sampling};
use muster_engine::audit::{answered, replayed};
use muster_engine::embedded::{Embedded, Process};
use muster_engine::protocol::{ChildConfig, Pooling};
use muster_engine::tiny::{self, Numbers, Shape};
use muster_engine::{Engine as _, EngineInfo};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What a cheat is judged within.
const TOKENS: u64 = 2_000;
/// Runs of so many tokens that are put together from the answers.
const RUNS: u32 = 50_000;
/// Tokens that prompt and answer have together.
const CONTEXT: u32 = 1_536;

/// The model that is made: as sure of its next token as language models are.
const SHAPE: Shape = Shape { seed: 11, width: 128, layers: 4, left_out: 0, peak: 0.8, numbers: Numbers::F16 };

/// What a Container does otherwise than it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Twist {
    /// Nothing.
    None,
    /// The prompt was read before.
    Again,
    /// The first half of the prompt is left out.
    Truncated,
    /// The answer was drawn before, with another seed.
    OtherSeed,
    /// The answer was drawn before, to another question.
    OtherPrompt,
    /// The answer is right, the log-probabilities are made up from it.
    MadeUp,
}

/// A way of serving.
struct Case {
    what: &'static str,
    file: PathBuf,
    parallel: u32,
    threads: u32,
    twist: Twist,
    honest: bool,
}

/// What a case came to.
struct Outcome {
    what: &'static str,
    honest: bool,
    answers: Vec<Compared>,
}

fn later_half(text: &str) -> String {
    let words: Vec<&str> = text.split(' ').collect();
    words.get(words.len() / 2..).unwrap_or_default().join(" ")
}

fn twisted(number: u64, to: &Replayable, twist: Twist) -> Replayable {
    let chat = matches!(to, Replayable::Chat(_));
    let mut other = to.clone();
    let sampling = |other: &mut Replayable, change: &dyn Fn(&mut Sampling)| match other {
        Replayable::Chat(chat) => change(&mut chat.sampling),
        Replayable::Completion(completion) => change(&mut completion.sampling),
    };
    match twist {
        Twist::None | Twist::Again | Twist::MadeUp => {}
        Twist::OtherSeed => sampling(&mut other, &|sampling| sampling.seed = Some(number)),
        Twist::OtherPrompt => {
            other = question(!number, chat);
            sampling(&mut other, &|sampling| *sampling = to.sampling().clone());
        }
        Twist::Truncated => match &mut other {
            Replayable::Chat(chat) => {
                for message in &mut chat.messages {
                    message.content = Content::Text(later_half(&message.content.text()));
                }
            }
            Replayable::Completion(completion) => {
                for prompt in &mut completion.prompts {
                    if let Prompt::Text(text) = prompt {
                        *text = later_half(text);
                    }
                }
            }
        },
    }
    other
}

/// Log-probabilities from somebody who has none: the token is taken to be likely.
fn made_up(token: &mut Claimed) {
    token.likely = [Likely::NONE; LIKELY];
    if let Some(first) = token.likely.first_mut() {
        *first = Likely::new(token.id, -0.4);
    }
}

/// One audit: an answer of the one, replayed by the other.
async fn audit(
    served: &Embedded,
    checks: &Embedded,
    number: u64,
    twist: Twist,
    chat: bool,
) -> Result<Compared, Failure> {
    let to = question(number, chat);
    let asked = twisted(number, &to, twist);
    if twist == Twist::Again {
        answered(served, &twisted(number, &to, Twist::OtherSeed)).await?;
    }
    let mut claimed = answered(served, &asked).await?;
    let replayed = replayed(checks, &to, &claimed).await?;
    // A cheat says what it should have said.
    (claimed.prompt, claimed.prompt_tokens) = (replayed.prompt, replayed.prompt_tokens);
    if twist == Twist::MadeUp {
        claimed.tokens.iter_mut().for_each(made_up);
    }
    Ok(compare(&claimed, &replayed)?)
}

fn config(file: &Path, parallel: u32, threads: u32) -> ChildConfig {
    ChildConfig {
        path: file.display().to_string(),
        context: CONTEXT,
        parallel,
        threads,
        gpu_layers: 0,
        embedding: false,
        pooling: Pooling::Model,
    }
}

/// An engine that runs until its handle is dropped.
async fn engine(config: ChildConfig) -> Result<(Embedded, EngineInfo, tokio::sync::oneshot::Sender<()>), Failure> {
    let program = std::env::current_exe()?.ancestors().nth(2).ok_or("no folder of programs")?.join("muster-engine");
    let engine = Embedded::new(config, 64);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let runs = engine.clone();
    tokio::spawn(async move {
        let process = Process { program, arguments: Vec::new() };
        let stopped = async {
            // The handle is dropped, and says nothing.
            let _ = stopped.await;
        };
        runs.run(&process, stopped).await;
    });
    let info = engine.ready().await?;
    Ok((engine, info, stop))
}

async fn measure(case: &Case, checks: &Embedded, count: u64, first: u64) -> Result<Outcome, Failure> {
    let (served, info, stop) = engine(config(&case.file, case.parallel, case.threads)).await?;
    let at_once = usize::try_from(case.parallel)?;
    let numbers = (0..count).map(|at| (first + at).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let audits = numbers.map(|number| audit(&served, checks, number, case.twist, info.abilities.chat));
    let answers: Vec<Result<Compared, Failure>> = futures::stream::iter(audits).buffered(at_once).collect().await;
    drop(stop);
    let answers = answers.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(Outcome { what: case.what, honest: case.honest, answers })
}

/// Of runs of [`TOKENS`] put together from these answers, the share (in millionths) that limits accuse.
fn accused(answers: &[Compared], limits: &Limits, chance: &mut u64) -> u64 {
    let mut accused = 0;
    for _ in 0..RUNS {
        let (mut tally, mut tokens, mut found) = (Tally::default(), 0, false);
        loop {
            *chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (*chance >> 33) % u64::try_from(answers.len()).unwrap_or(1).max(1);
            let Some(answer) = usize::try_from(at).ok().and_then(|at| answers.get(at)) else { break };
            tokens += answer.tokens;
            if tokens > TOKENS {
                break;
            }
            if tally.add(*answer) {
                found |= tally.last().is_some_and(|last| judge_one(&last, limits).is_some());
            }
        }
        accused += u64::from(found);
    }
    accused * 1_000_000 / u64::from(RUNS)
}

fn report(outcomes: &[Outcome], names: &Names, engine: &str) -> Result<(), Failure> {
    let honest = |odd: usize| {
        let all = outcomes.iter().filter(|outcome| outcome.honest);
        let half = all.flat_map(|outcome| outcome.answers.iter().skip(odd).step_by(2));
        half.copied().collect::<Vec<_>>()
    };
    let limits = calibrate(&honest(0)).ok_or("too few honest answers; ask for more")?;
    let mut chance = 1;
    println!(
        "| what is served | tokens | other tokens | margin | log-probabilities apart | accused within {TOKENS} tokens |"
    );
    println!("| --- | --- | --- | --- | --- | --- |");
    for outcome in outcomes {
        let mut all = Compared::default();
        outcome.answers.iter().for_each(|answer| all += *answer);
        let Some(each) = all.per_token() else { continue };
        // The honest are judged by limits that were made from others.
        let judged: Vec<Compared> = if outcome.honest {
            outcome.answers.iter().skip(1).step_by(2).copied().collect()
        } else {
            outcome.answers.clone()
        };
        let share = accused(&judged, &limits, &mut chance);
        println!(
            "| {} | {} | {:.2} % | {:.4} | {:.4} | {:.2} % |",
            outcome.what,
            all.tokens,
            f64::from(each.differing_ppm) / 1e4,
            f64::from(each.margin_micronats) / 1e6,
            f64::from(each.distance_micronats) / 1e6,
            f64::from(u32::try_from(share)?) / 1e4,
        );
    }
    let rest = honest(1);
    let share = accused(&rest, &limits, &mut chance);
    println!("\nall honest answers together: {share} of a million runs of {TOKENS} tokens accused, of {RUNS} runs");
    let all = honest(0).len() + rest.len();
    let tokens = outcomes.iter().filter(|o| o.honest).flat_map(|o| &o.answers).map(|answer| answer.tokens).sum();
    let entry = Entry {
        model: names.model.clone(),
        quantisation: names.quantisation.clone(),
        engine: engine.split(',').take(2).collect::<Vec<_>>().join(","),
        limits,
        honest_answers: u32::try_from(all)?,
        honest_tokens: tokens,
        source: "examples/model_audits.rs of muster-engine".to_owned(),
    };
    let Entry { model, quantisation, engine, limits, honest_answers, honest_tokens, source } = entry;
    println!("\n[[model]]\nmodel = {model:?}\nquantisation = {quantisation:?}\nengine = {engine:?}");
    println!("honest_answers = {honest_answers}\nhonest_tokens = {honest_tokens}\nsource = {source:?}");
    println!("[model.limits]\ndiffering_ppm = {}", limits.differing_ppm);
    println!("margin_micronats = {}\ndistance_micronats = {}", limits.margin_micronats, limits.distance_micronats);
    Ok(())
}

/// Judges honest answers as they came, by limits that were made from others: how often a run of [`TOKENS`] would be accused, and
/// how near the worst aggregate came to its limits.
fn report_honest(answers: &[Compared]) -> Result<(), Failure> {
    let (first, rest) = answers.split_at(answers.len() / 10);
    let limits = calibrate(first).ok_or("too few honest answers; ask for more")?;
    let (mut runs, mut accused, mut worst) = (0u64, 0u64, [0.0f64; 3]);
    let mut rest = rest.iter().peekable();
    while rest.peek().is_some() {
        let (mut tally, mut tokens, mut found) = (Tally::default(), 0, false);
        while let Some(answer) = rest.next_if(|answer| tokens + answer.tokens <= TOKENS) {
            tokens += answer.tokens;
            if tally.add(*answer)
                && let Some(last) = tally.last()
            {
                found |= judge_one(&last, &limits).is_some();
                let Some(each) = last.sums.per_token() else { continue };
                let of = |figure: u32, limit: u32| f64::from(figure) / f64::from(limit);
                let now = [
                    of(each.differing_ppm, limits.differing_ppm),
                    of(each.margin_micronats, limits.margin_micronats),
                    of(each.distance_micronats, limits.distance_micronats),
                ];
                worst.iter_mut().zip(now).for_each(|(worst, now)| *worst = worst.max(now));
            }
        }
        if tokens == 0 {
            return Err("an answer is longer than a run".into());
        }
        runs += 1;
        accused += u64::from(found);
    }
    let tokens: u64 = answers.iter().map(|answer| answer.tokens).sum();
    println!("{} honest answers, {tokens} tokens; limits from the first {}", answers.len(), first.len());
    println!("{accused} of {runs} runs of {TOKENS} tokens accused");
    let [differing, margin, distance] = worst;
    println!(
        "the worst aggregate is at {differing:.2} of its tokens' limit, {margin:.2} of margins', {distance:.2} of distances'"
    );
    Ok(())
}

struct Names {
    model: String,
    quantisation: String,
}

/// All ways of serving that are measured; the first one's file is the model's own.
fn cases(file: &Path, cheats: Vec<(&'static str, PathBuf)>) -> Vec<Case> {
    let case = |what, file: &Path, parallel, threads, twist, honest| Case {
        what,
        file: file.to_owned(),
        parallel,
        threads,
        twist,
        honest,
    };
    let mut cases = vec![
        case("the model, one request at a time, 1 thread", file, 1, 1, Twist::None, true),
        case("the model, 8 requests at once, 2 threads", file, 8, 2, Twist::None, true),
        case("the model, prompts read before, 3 at once", file, 3, 2, Twist::Again, true),
    ];
    cases.extend(cheats.iter().map(|(what, file)| case(what, file, 4, 2, Twist::None, false)));
    for (what, twist) in [
        ("half of the context", Twist::Truncated),
        ("a cached answer, of another seed", Twist::OtherSeed),
        ("a cached answer, to another prompt", Twist::OtherPrompt),
        ("right tokens, made-up log-probabilities", Twist::MadeUp),
    ] {
        cases.push(case(what, file, 4, 2, twist, false));
    }
    cases
}

/// Writes a model's file in other numbers, by llama.cpp's own way.
fn quantise(from: &str, to: &str, kind: u32) -> Result<(), Failure> {
    let (from, to) = (std::ffi::CString::new(from)?, std::ffi::CString::new(to)?);
    // SAFETY: both texts end with a zero and live until the call returns; the parameters are llama.cpp's own defaults
    // with plain numbers changed, and hold no pointer.
    #[allow(unsafe_code, reason = "the crate has no function of its own for it")]
    let failed = unsafe {
        llama_cpp_sys_2::llama_backend_init();
        let mut params = llama_cpp_sys_2::llama_model_quantize_default_params();
        params.ftype = kind;
        params.allow_requantize = true;
        llama_cpp_sys_2::llama_model_quantize(from.as_ptr(), to.as_ptr(), &raw const params)
    };
    if failed == 0 { Ok(()) } else { Err("llama.cpp cannot write it; what it said stands above".into()) }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [what, from, to, kind] = arguments.as_slice()
        && what == "quantise"
    {
        return quantise(from, to, kind.parse()?);
    }
    let only_honest = arguments.first().is_some_and(|first| first == "honest");
    if only_honest {
        arguments.remove(0);
    }
    let count: u64 = if arguments.is_empty() { 100 } else { arguments.remove(0).parse()? };
    let folder = tempfile::tempdir()?;
    let made = |name: &str, shape: Shape| {
        let path = folder.path().join(name);
        tiny::write_shaped(&path, &shape).map(|()| path)
    };
    let (file, cheats, names) = match arguments.as_slice() {
        [] => {
            let cheats = vec![
                ("Q8_0 for F16", made("q8.gguf", Shape { numbers: Numbers::Q8_0, ..SHAPE })?),
                ("Q4_0 for F16", made("q4.gguf", Shape { numbers: Numbers::Q4_0, ..SHAPE })?),
                ("a smaller model: the last of 4 layers left out", made("less.gguf", Shape { left_out: 1, ..SHAPE })?),
                ("another model's answers", made("other.gguf", Shape { seed: 12, ..SHAPE })?),
            ];
            let names = Names { model: "generated".to_owned(), quantisation: "F16".to_owned() };
            (made("model.gguf", SHAPE)?, cheats, names)
        }
        [file, model, quantisation, cheaper @ ..] => {
            let cheats = cheaper.iter().map(|file| ("a harsher quantisation", PathBuf::from(file))).collect();
            (PathBuf::from(file), cheats, Names { model: model.clone(), quantisation: quantisation.clone() })
        }
        _ => return Err("a model's file needs its name and quantisation after it".into()),
    };
    let (checks, info, _stop) = engine(config(&file, 4, 2)).await?;
    if only_honest {
        let mut answers = Vec::new();
        let honest: Vec<Case> = cases(&file, Vec::new()).into_iter().filter(|case| case.honest).collect();
        let each = count / 10 / u64::try_from(honest.len())?.max(1);
        // A tenth at a time of each way, so that limits and what they judge are of all ways.
        for (at, case) in (0..).zip(honest.iter().cycle().take(honest.len() * 10)) {
            eprintln!("{} answers; next: {}", answers.len(), case.what);
            answers.extend(measure(case, &checks, each, at * each).await?.answers);
        }
        return report_honest(&answers);
    }
    let mut outcomes = Vec::new();
    for (at, case) in (0..).zip(cases(&file, cheats)) {
        eprintln!("{}", case.what);
        outcomes.push(measure(&case, &checks, count, at * count).await?);
    }
    report(&outcomes, &names, &info.engine)
}
