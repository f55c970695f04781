//! The engine beside llama.cpp by itself, and a deployment from the request to its first token.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use muster_core::inference::{
    Completion, InferenceEvent, InferenceRequest, InferenceTask, Prompt, ResponseFormat, Sampling,
};
use muster_engine::child::{BareLoad, BareSpeeds};
use muster_engine::embedded::{Embedded, Process};
use muster_engine::protocol::{ChildConfig, Pooling};
use muster_engine::{Engine, tiny};
use serde_json::{Value, json};

use super::own::{OwnNetwork, Scratch};
use super::{Measured, ms, percentile};
use crate::commands::setup::Plan;
use crate::commands::{Context, model};
use crate::engines::{BARE, ENGINE};
use crate::failure::{Because, Code, Failure};

/// Answers drawn side by side, where many are.
const MANY: u32 = 8;
/// Tokens of the model's vocabulary that prompts are made of: its bytes.
const FIRST_TOKEN: u32 = 5;
const TOKENS: u32 = 256;
/// Rounds before the clock runs.
const WARM_UP: u32 = 1;
/// How often the two are measured in turn, so that what else the machine does meets both.
const TURNS: u32 = 4;

/// What is measured.
#[derive(Debug)]
pub(super) struct Choice {
    /// A GGUF file of a model that goes on with texts.
    pub(super) file: Option<PathBuf>,
    pub(super) prompt: u32,
    pub(super) drawn: u32,
    pub(super) threads: u32,
    pub(super) rounds: u32,
    pub(super) deploys: u32,
}

pub(super) async fn run(cx: &Context, choice: Choice) -> Result<Measured, Failure> {
    if choice.prompt < 2 || choice.drawn < 2 || choice.rounds == 0 || choice.threads == 0 {
        return Err(Failure::new(Code::Config, "--prompt and --drawn must be above 1, --rounds and --threads above 0"));
    }
    let scratch = Scratch::new(cx)?;
    let measured = measure(cx, &choice, scratch.path()).await;
    scratch.remove()?;
    let (mut figures, file) = measured?;
    if choice.deploys > 0 {
        let (deploys, first) = deployed(cx, choice.deploys).await?;
        figures.insert("deploy_to_first_token_ms_p50".to_owned(), json!(ms(percentile(&deploys, 50))));
        figures.insert("deploy_to_first_token_ms_p95".to_owned(), json!(ms(percentile(&deploys, 95))));
        figures.insert("first_deploy_to_first_token_ms".to_owned(), json!(ms(first)));
    }
    let Choice { prompt, drawn, threads, rounds, deploys, .. } = choice;
    let parameters = json!({
        "model": file, "prompt": prompt, "drawn": drawn, "threads": threads, "rounds": rounds, "side_by_side": MANY,
        "deploys": deploys,
    });
    Ok(("model", parameters, Value::Object(figures)))
}

type Figures = serde_json::Map<String, Value>;

async fn measure(cx: &Context, choice: &Choice, folder: &Path) -> Result<(Figures, String), Failure> {
    let (file, name) = match &choice.file {
        Some(file) => (file.clone(), file.display().to_string()),
        None => {
            cx.output.note("making a model of random weights …");
            let bytes = tiny::shaped(&tiny::MEASURED).because(Code::Internal, "the model cannot be made")?;
            let file = folder.join("measured.gguf");
            std::fs::write(&file, bytes).because(Code::Io, format!("cannot write {}", file.display()))?;
            (file, "21 million random weights, F32".to_owned())
        }
    };
    let mut own = Speeds { ready: Duration::MAX, prompt: 0.0, drawn: 0.0 };
    let mut bare = BareSpeeds { prompt: 0.0, drawn: 0.0 };
    for turn in 1..=TURNS {
        cx.output.note(&format!("measuring the engine and llama.cpp by itself, {turn} of {TURNS} …"));
        let Speeds { ready, prompt, drawn } = alone(choice, &file).await?;
        own = Speeds { ready: own.ready.min(ready), prompt: own.prompt.max(prompt), drawn: own.drawn.max(drawn) };
        let BareSpeeds { prompt, drawn } = by_itself(choice, &file).await?;
        bare = BareSpeeds { prompt: bare.prompt.max(prompt), drawn: bare.drawn.max(drawn) };
    }
    cx.output.note("measuring answers side by side …");
    let many = side_by_side(choice, &file).await?;
    let mut figures = Figures::new();
    figures.insert("ready_ms".to_owned(), json!(ms(own.ready)));
    figures.insert("prompt_tokens_per_second".to_owned(), json!(own.prompt));
    figures.insert("drawn_tokens_per_second".to_owned(), json!(own.drawn));
    figures.insert("drawn_side_by_side_per_second".to_owned(), json!(many));
    figures.insert("llama_cpp_prompt_tokens_per_second".to_owned(), json!(bare.prompt));
    figures.insert("llama_cpp_drawn_tokens_per_second".to_owned(), json!(bare.drawn));
    figures.insert("prompt_of_llama_cpp".to_owned(), json!(own.prompt / bare.prompt));
    figures.insert("drawn_of_llama_cpp".to_owned(), json!(own.drawn / bare.drawn));
    Ok((figures, name))
}

/// What one engine does, in tokens a second: the best round, as whatever else the machine does only takes away.
struct Speeds {
    ready: Duration,
    prompt: f64,
    drawn: f64,
}

/// The engine's process, and how it is told about a file.
fn process() -> Result<Process, Failure> {
    let program = std::env::current_exe().because(Code::Internal, "this program cannot be found")?;
    Ok(Process { program, arguments: vec![ENGINE.into()] })
}

fn config(choice: &Choice, file: &Path, parallel: u32) -> ChildConfig {
    ChildConfig {
        path: file.display().to_string(),
        context: choice.prompt + choice.drawn + 64,
        parallel,
        threads: choice.threads,
        gpu_layers: 0,
        embedding: false,
        pooling: Pooling::Model,
    }
}

/// An engine while somebody works with it.
async fn with_engine<T>(engine: &Embedded, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let process = process()?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let working = async {
        let done = work.await;
        drop(stop);
        done
    };
    let (done, ()) = tokio::join!(working, engine.run(&process, async { drop(stopped.await) }));
    done
}

/// One answer at a time.
async fn alone(choice: &Choice, file: &Path) -> Result<Speeds, Failure> {
    let begun = Instant::now();
    let engine = Embedded::new(config(choice, file, 1), 1);
    let work = async {
        engine.ready().await.map_err(not_ready)?;
        let mut best = Speeds { ready: begun.elapsed(), prompt: 0.0, drawn: 0.0 };
        for round in 0..choice.rounds + WARM_UP {
            let read = ask(&engine, tokens(round, choice.prompt), 1).await?;
            let said = ask(&engine, tokens(round, 1), choice.drawn).await?;
            if round >= WARM_UP {
                best.prompt = best.prompt.max(f64::from(choice.prompt) / read.first.as_secs_f64());
                let after_first = said.all.saturating_sub(said.first);
                best.drawn = best.drawn.max(f64::from(choice.drawn - 1) / after_first.as_secs_f64());
            }
        }
        Ok(best)
    };
    with_engine(&engine, work).await
}

/// Several answers at once: tokens a second of all together.
async fn side_by_side(choice: &Choice, file: &Path) -> Result<f64, Failure> {
    let engine = Embedded::new(config(choice, file, MANY), MANY);
    let work = async {
        engine.ready().await.map_err(not_ready)?;
        let mut many = 0f64;
        for round in 0..choice.rounds + WARM_UP {
            let begun = Instant::now();
            let asks = (0..MANY).map(|place| ask(&engine, tokens(round * MANY + place, 2), choice.drawn));
            futures::future::try_join_all(asks).await?;
            if round >= WARM_UP {
                many = many.max(f64::from(MANY * choice.drawn) / begun.elapsed().as_secs_f64());
            }
        }
        Ok(many)
    };
    with_engine(&engine, work).await
}

#[expect(clippy::needless_pass_by_value, reason = "as map_err wants it")]
fn not_ready(why: muster_engine::NotReady) -> Failure {
    Failure::new(Code::Internal, format!("the engine does not come up: {}", why.0))
}

/// A prompt that no other round begins with, so that nothing of it is remembered.
fn tokens(round: u32, count: u32) -> Vec<u32> {
    (0..count).map(|at| FIRST_TOKEN + (round * 31 + at * (round + 7)) % TOKENS).collect()
}

/// When the first token came, and the last.
struct Took {
    first: Duration,
    all: Duration,
}

async fn ask(engine: &Embedded, prompt: Vec<u32>, max_tokens: u32) -> Result<Took, Failure> {
    let sampling = Sampling { max_tokens: Some(max_tokens), temperature: 0.0, ignore_eos: true, ..Sampling::default() };
    let completion = Completion {
        prompts: vec![Prompt::Tokens(prompt)],
        echo: false,
        suffix: None,
        format: ResponseFormat::Text,
        sampling,
    };
    let request = InferenceRequest { task: InferenceTask::Completion(Box::new(completion)), stream: true };
    let begun = Instant::now();
    let mut answer = engine.submit(request);
    let mut first = None;
    while let Some(events) = answer.next().await {
        for event in events {
            match event {
                // A token need not be a whole character, so that the first text may come later: the prompt is read.
                InferenceEvent::Began { .. } => {
                    first.get_or_insert_with(|| begun.elapsed());
                }
                InferenceEvent::Done { counts } if counts.output == u64::from(max_tokens) => {
                    let all = begun.elapsed();
                    return Ok(Took { first: first.unwrap_or(all), all });
                }
                InferenceEvent::Done { counts } => {
                    let why = format!("the engine drew {} tokens where {max_tokens} were asked for", counts.output);
                    return Err(Failure::new(Code::Internal, why));
                }
                InferenceEvent::Failed { error, .. } => return Err(Failure::new(Code::Internal, error.to_string())),
                InferenceEvent::Text { .. }
                | InferenceEvent::ToolCall { .. }
                | InferenceEvent::Finished { .. }
                | InferenceEvent::Embedding { .. }
                | InferenceEvent::Committed { .. }
                | InferenceEvent::Transcript(_)
                | InferenceEvent::Replayed(_) => {}
            }
        }
    }
    Err(Failure::new(Code::Internal, "the engine's answer broke off"))
}

/// What llama.cpp does without an engine around it, in a process of its own.
async fn by_itself(choice: &Choice, file: &Path) -> Result<BareSpeeds, Failure> {
    let failed = |why: String| Failure::new(Code::Internal, format!("llama.cpp by itself is not measured: {why}"));
    let program = std::env::current_exe().because(Code::Internal, "this program cannot be found")?;
    let Choice { prompt, drawn, threads, rounds, .. } = *choice;
    let load =
        serde_json::to_string(&BareLoad { prompt, drawn, threads, rounds }).map_err(|e| failed(e.to_string()))?;
    let mut command = tokio::process::Command::new(program);
    let output = command.arg(BARE).arg(file).arg(load).kill_on_drop(true).output().await;
    let output = output.map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| failed(error.to_string()))
}

/// Times from the request to deploy a model whose weights are there to its first token, and that of the first deployment,
/// whose weights are not.
async fn deployed(cx: &Context, deploys: u32) -> Result<(Vec<Duration>, Duration), Failure> {
    let plan = Plan {
        containers: 1,
        checkers: 0,
        cheat: None,
        listen: None,
        allow_empty: false,
        cpu_millis_each: None,
        gateway_port: 0,
    };
    let network = Box::pin(OwnNetwork::start(cx, &plan)).await?;
    cx.output.note(&format!("deploying {deploys} times …"));
    let own = network.context();
    let measured = async {
        let mut times = Vec::new();
        for number in 0..=deploys {
            times.push(model::deploy_once(&own, &format!("tiny-{number}")).await?);
        }
        Ok::<_, Failure>(times)
    };
    let measured = measured.await;
    network.stop().await?;
    let mut times = measured?;
    let first = times.remove(0);
    times.sort_unstable();
    Ok((times, first))
}
