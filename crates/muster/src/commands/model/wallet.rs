//! `muster model chat --wallet`: a conversation straight from a wallet, without a Gateway.
//!
//! A Container is rented for this conversation alone, as `muster run` rents one, and paid by the token as answers come.
//! The lease ends with the conversation, also where it is broken off.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use muster_client::job::{JobReport, JobRequest, TaskOutcome};
use muster_client::live::{LiveState, LiveStep};
use muster_client::model::{self, ModelLine, ModelStanding, Replica};
use muster_client::rental::TopUp;
use muster_client::weights;
use muster_core::inference::{
    Chat, Content, InferenceEvent, InferenceRequest, InferenceTask, Message, ModelKind, ModelSpec, Part, Role,
    Sampling, TokenAsk, TokenCounts, WeightsId, WeightsPart,
};
use muster_core::lease::{End, Phase};
use muster_core::pricing::Exchange;
use muster_core::units::{Bytes, TokenAmount, UsdMicro};
use muster_engine::Engine;
use muster_gateway::model_needs;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::super::{Context, agent, run, stop_on_signals};
use super::{Plan, Weights, plan};
use crate::cli::model::{ModelChatArgs, ModelDeployArgs, Prices};
use crate::dirs::make_private;
use crate::failure::{Because, Code, Failure};
use crate::output::{length, tokens};

/// A context when nothing is said, in tokens.
const CONTEXT: u32 = 4_096;
/// So many tokens of each kind may be on their way to being paid, beside what the context holds twice.
const CREDIT_TOKENS: u64 = 16_384;
/// A Container that fails before the first answer is replaced so often.
const RETRIES: u32 = 2;
/// How long a Container that fits may be busy: somebody waits at a terminal.
const BUSY_PATIENCE: Duration = Duration::from_secs(15);
/// How long an answer that was broken off may take to tell its count.
const COUNT_WITHIN: Duration = Duration::from_secs(15);
/// How long after the end the lease may take to be settled before the agent takes over.
const SETTLE_WITHIN: Duration = Duration::from_secs(20);

/// The conversation, from the choice of a Container to what it cost.
pub(super) async fn chat(cx: &Context, args: &ModelChatArgs) -> Result<u8, Failure> {
    let plan = plan(cx, &ModelDeployArgs::usual(&args.name)).await?;
    if plan.kind == "embedding" {
        let why = format!("{} gives embeddings and holds no conversations; choose another model", plan.name);
        return Err(Failure::new(Code::Config, why));
    }
    // The weights are there to be sent until this command ends.
    let (request, _sent) = request(cx, args, plan).await?;
    let wallet = cx.wallet()?;
    let stop = stop_on_signals()?;
    let renter = cx.renter(Some(wallet)).await?;
    let replica = model::start(renter.clone(), request, None).map_err(|error| run::job_failure(&error))?;
    let (line, control) = (replica.line(), replica.control());
    let mut talk = Talk { cx, args, line, stop: stop.clone(), messages: Vec::new(), said: Vec::new() };
    let talked = match up(cx, &replica, &stop).await {
        Up::Ready => talk.hold().await,
        Up::Never | Up::Stopped => Ok(()),
    };
    control.stop();
    cx.output.note("ending the lease: what was counted is paid, the rest of the deposit comes back …");
    // The agent drives on what this process lets go of.
    let report = tokio::time::timeout(SETTLE_WITHIN, replica.over()).await.unwrap_or_default();
    let leaves_work = report.as_ref().is_none_or(JobReport::leaves_work);
    renter.close().await;
    if leaves_work {
        agent::ensure(cx, renter.dir()).await?;
    }
    talked?;
    let Some(report) = report else {
        cx.output.note("the lease is being settled in the background; `muster lease ls` tells how it stands");
        return Ok(if stop.is_cancelled() { Code::Stopped as u8 } else { 0 });
    };
    ended(&report, &stop)?;
    let cost = Cost::of(&report, Exchange { token_price: renter.params().token_price });
    let value = cost.json(&talk.said);
    cx.output.result(&value, String::new);
    cx.output.note(&cost.text());
    Ok(if stop.is_cancelled() { Code::Stopped as u8 } else { 0 })
}

/// What is rented, and the folder of what is sent.
async fn request(cx: &Context, args: &ModelChatArgs, plan: Plan) -> Result<(JobRequest, TempDir), Failure> {
    let Plan { name, weights, context, cpu_millis, .. } = plan;
    let Weights::File(file) = weights else {
        let why = format!(
            "{name} is not on this machine, and a conversation from a wallet sends its weights; fetch the file and name it with file:PATH, or deploy {name} and chat through a Gateway"
        );
        return Err(Failure::new(Code::Config, why));
    };
    let files = super::files_of(&file)?;
    let mut parts = Vec::new();
    for file in &files {
        let shown = file.display().to_string();
        cx.output.note(&format!("hashing {shown} …"));
        let place = file.clone();
        let hashed =
            tokio::task::spawn_blocking(move || muster_client::weights::hash(&place)).await.code(Code::Internal)?;
        let (weights, bytes) = hashed.because(Code::Config, format!("the weights {shown} cannot be read"))?;
        parts.push(WeightsPart { weights, bytes: Bytes(bytes) });
    }
    let (weights, bytes) = match parts.as_slice() {
        [whole] => (whole.weights, whole.bytes),
        parts => (WeightsId::of_parts(parts), Bytes(parts.iter().map(|part| part.bytes.0).sum())),
    };
    parts.truncate(if parts.len() == 1 { 0 } else { parts.len() });
    let context = args.context.or(context).unwrap_or(CONTEXT);
    // One conversation takes one place.
    let model = ModelSpec {
        name,
        kind: ModelKind::Chat,
        weights,
        bytes,
        parts,
        sources: Vec::new(),
        context,
        parallel: 1,
        endpoint: None,
    };
    model.check().code(Code::Config)?;
    let mut demand = model_needs(&model, true, CREDIT_TOKENS, 0);
    demand.cpu_millis = cpu_millis.unwrap_or(demand.cpu_millis);
    if let (Some(tokens), Some(prices)) = (&mut demand.model, args.price_max) {
        tokens.price_max = Some(ask(prices)?);
    }
    let sent = sendable(cx, &files, &model)?;
    let inputs = model.files().iter().map(|file| sent.path().join(&file.name)).collect();
    let mut request = JobRequest::for_model(demand, model);
    request.inputs = inputs;
    request.top_up = Some(TopUp { seconds: 0 });
    request.deposit_seconds = Some(1);
    request.retries = RETRIES;
    request.busy_patience = BUSY_PATIENCE;
    Ok((request, sent))
}

/// The weights under the names by which Containers look for them: other names of the same files, or copies of them where
/// they are on another disk. Links would not be sent.
fn sendable(cx: &Context, files: &[PathBuf], model: &ModelSpec) -> Result<TempDir, Failure> {
    let models = cx.dirs.at("models");
    make_private(&models)?;
    let failed = |what: &Path| format!("the weights {} cannot be put into {}", what.display(), models.display());
    let sent = tempfile::Builder::new().prefix("sent-").tempdir_in(&models).because(Code::Io, failed(&models))?;
    for (file, sent_as) in files.iter().zip(model.files()) {
        let place = sent.path().join(&sent_as.name);
        weights::name_again(file, &place).because(Code::Io, failed(file))?;
    }
    Ok(sent)
}

fn ask(prices: Prices) -> Result<TokenAsk, Failure> {
    let micro = |usd: f64| format!("{usd:.6}").parse::<UsdMicro>().because(Code::Config, format!("{usd} is no price"));
    Ok(TokenAsk { input: micro(prices.input)?, cached: micro(prices.cached)?, output: micro(prices.output)? })
}

/// Whether the model came up.
enum Up {
    Ready,
    /// The report says why.
    Never,
    Stopped,
}

/// Shows what is being done until the model answers.
async fn up(cx: &Context, replica: &Replica, stop: &CancellationToken) -> Up {
    let (mut state, mut standing) = (replica.state(), replica.line().standing());
    let mut told = String::new();
    loop {
        let now = state.borrow_and_update().clone();
        let (words, up) = match (&*standing.borrow_and_update(), now.step) {
            (ModelStanding::Over(why), _) => (why.clone(), Some(Up::Never)),
            (ModelStanding::Ready(info), LiveStep::Running) => {
                (format!("Container {} answers, by {}", container(&now), info.engine), Some(Up::Ready))
            }
            // Requests are taken once the lease runs: its deposit has been seen.
            (ModelStanding::Ready(_), _) => ("the deposit is on its way".to_owned(), None),
            (ModelStanding::Preparing(what) | ModelStanding::TokenWanted(what), _) => {
                (now.why.clone().unwrap_or_else(|| what.clone()), None)
            }
        };
        if words != told {
            cx.output.note(&format!("{words} …"));
            told = words;
        }
        if let Some(up) = up {
            return up;
        }
        tokio::select! {
            () = stop.cancelled() => return Up::Stopped,
            changed = standing.changed() => if changed.is_err() { return Up::Never },
            changed = state.changed() => if changed.is_err() { return Up::Never },
        }
    }
}

fn container(state: &LiveState) -> String {
    state.container.map(|container| container.short()).unwrap_or_default()
}

/// What a job that came to nothing is told as. A lease that was stopped on request is as it should be.
fn ended(report: &JobReport, stop: &CancellationToken) -> Result<(), Failure> {
    let Some(task) = report.tasks.first() else { return Ok(()) };
    if let TaskOutcome::Failed(error) = &task.outcome {
        return Err(run::job_failure(error));
    }
    let on_request = matches!(task.outcome, TaskOutcome::Ended(End::StoppedByConsumer) | TaskOutcome::Stopped);
    if on_request || stop.is_cancelled() {
        return Ok(());
    }
    let why = format!("the model's Container ended the lease: {}", task.outcome);
    Err(Failure::new(Code::Interrupted, why))
}

/// The conversation.
struct Talk<'a> {
    cx: &'a Context,
    args: &'a ModelChatArgs,
    line: ModelLine,
    stop: CancellationToken,
    messages: Vec<Message>,
    /// Each answer with its count, for programs.
    said: Vec<Value>,
}

impl Talk<'_> {
    async fn hold(&mut self) -> Result<(), Failure> {
        if let Some(system) = &self.args.system {
            self.messages.push(message(Role::System, system.clone()));
        }
        if let Some(prompt) = &self.args.prompt {
            return self.turn(prompt.clone()).await;
        }
        self.cx.output.note("Write a line; an empty one, or the end of the input, ends the conversation.");
        while !self.stop.is_cancelled() {
            let read = tokio::task::spawn_blocking(|| {
                let mut line = String::new();
                std::io::stdin().read_line(&mut line).map(|_| line)
            });
            let line = tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                line = read => line.code(Code::Internal)?.because(Code::Io, "standard input cannot be read")?,
            };
            if line.trim().is_empty() {
                break;
            }
            self.turn(line.trim_end_matches(['\n', '\r']).to_owned()).await?;
        }
        Ok(())
    }

    /// One question and its answer.
    async fn turn(&mut self, text: String) -> Result<(), Failure> {
        self.messages.push(message(Role::User, text));
        let sampling = Sampling {
            max_tokens: self.args.max_tokens,
            temperature: self.args.temperature.unwrap_or(1.0),
            ..Sampling::default()
        };
        sampling.check().code(Code::Config)?;
        let chat = Chat { messages: self.messages.clone(), sampling, ..Chat::default() };
        let request = InferenceRequest { task: InferenceTask::Chat(Box::new(chat)), stream: true };
        let begun = Instant::now();
        let mut answer = self.line.submit(request);
        let (mut said, mut first, mut counts) = (String::new(), None, None);
        let mut until = None;
        while counts.is_none() {
            let events = tokio::select! {
                events = answer.next() => events,
                () = self.stop.cancelled(), if until.is_none() => {
                    // What was drawn is counted still, and paid.
                    answer.cancel();
                    until = Some(tokio::time::Instant::now() + COUNT_WITHIN);
                    continue;
                }
                () = late(until) => return Ok(()),
            };
            let gone = || Failure::new(Code::Unreachable, "the line to the model's Container ended in mid-answer");
            for event in events.ok_or_else(gone)? {
                match event {
                    InferenceEvent::Text { part, text, .. } => {
                        first.get_or_insert_with(|| begun.elapsed());
                        self.show(&text);
                        if part == Part::Answer {
                            said.push_str(&text);
                        }
                    }
                    InferenceEvent::Done { counts: done } => counts = Some(done),
                    InferenceEvent::Failed { error, .. } => {
                        self.show("\n");
                        return Err(Failure::new(Code::Interrupted, error.why));
                    }
                    InferenceEvent::Began { .. }
                    | InferenceEvent::ToolCall { .. }
                    | InferenceEvent::Finished { .. }
                    | InferenceEvent::Embedding { .. }
                    | InferenceEvent::Committed { .. }
                    | InferenceEvent::Transcript(_)
                    | InferenceEvent::Replayed(_) => {}
                }
            }
        }
        self.show("\n");
        let counts = counts.unwrap_or_default();
        self.cx.output.note(&speed(counts, begun.elapsed(), first.unwrap_or_default()));
        self.said.push(json!({ "content": said, "usage": usage(counts) }));
        self.messages.push(message(Role::Assistant, said));
        Ok(())
    }

    fn show(&self, text: &str) {
        if !self.cx.output.is_json() {
            self.cx.output.piece(text);
        }
    }
}

async fn late(until: Option<tokio::time::Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

fn message(role: Role, text: String) -> Message {
    Message { role, content: Content::Text(text), tool_calls: Vec::new(), tool_call_id: None, name: None }
}

fn usage(counts: TokenCounts) -> Value {
    json!({ "input": counts.input, "cached": counts.cached, "output": counts.output })
}

fn speed(counts: TokenCounts, took: Duration, first: Duration) -> String {
    let TokenCounts { input, cached, output } = counts;
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let rate = output as f64 / took.as_secs_f64().max(0.001);
    format!(
        "{input} tokens read ({cached} remembered), {output} drawn, {rate:.1} tokens/s, first after {} ms",
        first.as_millis()
    )
}

/// What the conversation cost, over all its leases.
struct Cost {
    counts: TokenCounts,
    billed: TokenAmount,
    usd: UsdMicro,
    ran_ms: u64,
    leases: Vec<Value>,
    is_settled: bool,
}

impl Cost {
    fn of(report: &JobReport, exchange: Exchange) -> Self {
        let mut counts = TokenCounts::ZERO;
        let mut leases = Vec::new();
        for attempt in report.leases() {
            let (rates, counted) = attempt.tokens.unzip();
            counts += counted.unwrap_or_default();
            leases.push(json!({
                "id": attempt.lease.to_string(), "container": attempt.container.to_string(),
                "phase": attempt.phase.to_string(), "billed": attempt.billed.0.to_string(),
                "refunded": attempt.refunded.0.to_string(), "deposit": attempt.deposit.0.to_string(),
                "vouchers": attempt.vouchers, "redeem_tx": attempt.redeem_tx,
                "tokens": usage(counted.unwrap_or_default()),
                "input_rate": rates.map(|rates| rates.input.0.to_string()),
                "cached_rate": rates.map(|rates| rates.cached.0.to_string()),
                "output_rate": rates.map(|rates| rates.output.0.to_string()),
            }));
        }
        let billed = report.billed();
        // A network whose token has no price is refused when it is loaded.
        let usd = exchange.worth(billed).unwrap_or_default();
        let is_settled = report.leases().all(|attempt| matches!(attempt.phase, Phase::Closed | Phase::Void));
        Self { counts, billed, usd, ran_ms: report.ran_ms(), leases, is_settled }
    }

    fn json(&self, said: &[Value]) -> Value {
        json!({
            "answers": said, "usage": usage(self.counts), "billed": self.billed.0.to_string(),
            "billed_usd_micro": self.usd.0, "leases": self.leases,
        })
    }

    fn text(&self) -> String {
        let TokenCounts { input, cached, output } = self.counts;
        let how = if self.is_settled { "and the rest of the deposit is back" } else { "and the rest is being settled" };
        format!(
            "{input} tokens read ({cached} remembered) and {output} drawn cost {} ({}) in {}, {how}",
            tokens(self.billed),
            self.usd,
            length(self.ran_ms),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_taken_to_the_micro_dollar() {
        let ask = ask(Prices { input: 0.1, cached: 0.000_001, output: 12.5 }).unwrap();
        assert_eq!((ask.input, ask.cached, ask.output), (UsdMicro(100_000), UsdMicro(1), UsdMicro(12_500_000)));
    }
}
