//! `muster run`: rent, run, pay, fetch.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use muster_client::SeekError;
use muster_client::job::{Job, JobError, JobEvent, JobReport, JobRequest, JobStep, StdioFor, TaskOutcome};
use muster_client::rental::{RentalEvent, Stdio};
use muster_core::demand::Demand;
use muster_core::hardware::GpuModel;
use muster_core::lease::End;
use muster_core::units::{Bytes, Ob};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{Context, agent, stop_on_signals};
use crate::cli::{GpuChoice, RunArgs};
use crate::failure::{Because, Code, Failure};
use crate::output::{length, tokens, warn};
use crate::streams::{Printer, To, Writers};

/// Tries of a task beside the first, when Containers break it off.
const RETRIES: u32 = 3;
/// Steps of the job that wait to be shown.
const EVENTS_MAX: usize = 1_024;
/// How long after the end a job may take to be settled before the agent takes over.
const SETTLE_WAIT: Duration = Duration::from_secs(3);

/// Low-level arguments become a demand, once.
fn demand(args: &RunArgs) -> Demand {
    let (gpu_model, gpu_count): (Option<GpuModel>, u8) = match &args.gpu {
        Some(GpuChoice::Model(model)) => (Some(model.clone()), args.gpus.unwrap_or(1)),
        Some(GpuChoice::Any) => (None, args.gpus.unwrap_or(1)),
        // Asking for a card's properties is asking for a card.
        None if args.vram.is_some() || args.ob.is_some() => (None, 1),
        None => (None, 0),
    };
    Demand {
        gpu_model,
        gpu_count,
        vram: args.vram.unwrap_or(Bytes(0)),
        ob: Ob::points(args.ob.unwrap_or(0)),
        cpu_millis: args.cpus.0,
        memory: args.memory,
        disk: args.disk,
        region: args.region.clone(),
        price_max: args.max_price,
        objective: args.objective,
        egress: args.egress,
        time_limit_s: args.time.0,
        ..Demand::default()
    }
}

fn request(args: &RunArgs) -> JobRequest {
    JobRequest {
        env: args.env.iter().map(|e| (e.name.clone(), e.value.clone())).collect(),
        inputs: args.input.clone(),
        output: args.output.clone(),
        array: args.array.map(|a| a.first..=a.last),
        retries: RETRIES,
        deposit_seconds: args.deposit.map(|d| d.0),
        stdin: args.interactive,
        detach: args.detach,
        ..JobRequest::new(demand(args), args.command.clone())
    }
}

/// A job's streams are this command's own; with --json, standard output carries the result alone. Each line of an array
/// stands behind the number of its task.
fn streams(writers: Writers, json: bool, args: &RunArgs) -> StdioFor {
    let (detach, interactive) = (args.detach, args.interactive);
    let width = args.array.map_or(0, |range| range.last.to_string().len());
    let out = if json { To::Err } else { To::Out };
    Box::new(move |task, attempt| {
        if detach {
            // Detached work has no terminal; `muster lease logs` has what it writes.
            return Stdio { out: None, err: None, input: None };
        }
        let sink = |to: To| -> Box<dyn tokio::io::AsyncWrite + Send + Unpin> {
            match task {
                Some(index) => Box::new(writers.lines(to, format!("{index:>width$} | "))),
                None => Box::new(writers.raw(to)),
            }
        };
        let input: Option<Box<dyn tokio::io::AsyncRead + Send + Unpin>> =
            if interactive && attempt == 1 { Some(Box::new(tokio::io::stdin())) } else { None };
        Stdio { out: Some(sink(out)), err: Some(sink(To::Err)), input }
    })
}

/// The command itself.
pub(super) async fn run(cx: &Context, args: RunArgs) -> Result<u8, Failure> {
    let request = request(&args);
    let wallet = cx.wallet()?;
    let stop = stop_on_signals()?;
    let renter = cx.renter(Some(wallet)).await?;
    let (events, inbox) = mpsc::channel(EVENTS_MAX);
    let bar = bar(cx, &args);
    let printer = Printer::start(bar.clone(), args.array.is_some());
    let stdio = streams(printer.writers(), cx.output.is_json(), &args);
    let job = Job::new(renter.clone(), request, stdio, events).map_err(|e| job_failure(&e))?;
    let control = job.control();
    let shown = tokio::spawn(show(inbox, bar, args.detach));
    let output = cx.output;
    tokio::spawn(async move {
        stop.cancelled().await;
        output.note("stopping: what has run is billed, the rest of the deposit comes back …");
        control.stop();
    });
    let report = Box::pin(job.run()).await;
    printer.finish().await;
    shown.await.because(Code::Internal, "the progress display failed")?;
    settle(cx, &renter, &report).await?;
    renter.close().await;
    let code = exit_code(&report);
    cx.output.result(&report_json(&report, code), || report_text(&report, args.detach));
    Ok(code)
}

/// Leases that are not closed on the chain yet are left to the agent.
async fn settle(cx: &Context, renter: &muster_client::Renter, report: &JobReport) -> Result<(), Failure> {
    if report.leaves_work() {
        tokio::time::timeout(SETTLE_WAIT, agent::ensure(cx, renter.dir()))
            .await
            .because(Code::Unreachable, "the agent that settles the rest does not start")??;
    }
    Ok(())
}

fn bar(cx: &Context, args: &RunArgs) -> ProgressBar {
    if !cx.output.shows_progress() || (args.array.is_none() && args.interactive) {
        return ProgressBar::hidden();
    }
    match args.array {
        Some(range) => {
            let bar = ProgressBar::new(u64::from(range.last - range.first) + 1);
            if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len} tasks  {msg}") {
                bar.set_style(style);
            }
            bar
        }
        None => {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        }
    }
}

/// Shows the steps of a job until it is over.
async fn show(mut inbox: mpsc::Receiver<JobEvent>, bar: ProgressBar, detach: bool) {
    while let Some(event) = inbox.recv().await {
        let task = event.task.map(|t| format!("task {t}: ")).unwrap_or_default();
        match step_text(&event.step, detach) {
            Shown::Message(text) => bar.set_message(format!("{task}{text}")),
            Shown::Warning(text) => bar.suspend(|| warn(&format!("muster: {task}{text}"))),
            // From here on the terminal belongs to the job.
            Shown::Clear if event.task.is_none() => bar.finish_and_clear(),
            Shown::Over => bar.inc(1),
            Shown::Clear | Shown::Nothing => {}
        }
    }
    bar.finish_and_clear();
}

enum Shown {
    Message(String),
    Warning(String),
    Clear,
    Over,
    Nothing,
}

fn step_text(step: &JobStep, detach: bool) -> Shown {
    match step {
        JobStep::Matching => Shown::Message("looking for a Container".to_owned()),
        JobStep::Waiting { why } => Shown::Message(format!("waiting: {why}")),
        JobStep::Matched { container, rate_per_second, .. } => {
            let hour = rate_per_second.per_second_for_ms(3_600_000);
            Shown::Message(format!("Container {} at {} an hour", container.short(), tokens(hour)))
        }
        JobStep::Retrying { why } => Shown::Warning(format!("trying another Container: {why}")),
        JobStep::Over { .. } => Shown::Over,
        JobStep::Settling { leases } => {
            Shown::Message(format!("waiting until the chain has settled {leases} leases that were broken off"))
        }
        JobStep::Lease { event, .. } => match event {
            RentalEvent::Opening { deposit } => Shown::Message(format!("paying a deposit of {}", tokens(*deposit))),
            RentalEvent::Opened => Shown::Message("deposit paid".to_owned()),
            RentalEvent::Connected { .. } => Shown::Message("connected".to_owned()),
            RentalEvent::Lost { why } => {
                Shown::Warning(format!("the line to the Container broke, dialling again: {why}"))
            }
            RentalEvent::Uploading { bytes, total } => {
                Shown::Message(format!("sending inputs: {} of {}", Bytes(*bytes), Bytes(*total)))
            }
            RentalEvent::LeftOut { names } => {
                Shown::Warning(format!("not sent (links, devices or odd names): {}", names.join(", ")))
            }
            RentalEvent::Starting => Shown::Message("starting".to_owned()),
            RentalEvent::Running if detach => Shown::Message("running".to_owned()),
            RentalEvent::Running => Shown::Clear,
            RentalEvent::DepositLow { left_ms } => Shown::Warning(format!(
                "the deposit lasts {} more; add to it with `muster lease top-up`",
                length(*left_ms)
            )),
            RentalEvent::Missed { count, .. } => {
                Shown::Warning(format!("{count} bytes of output were lost: nobody was reading"))
            }
            RentalEvent::Downloading { bytes } => Shown::Message(format!("fetching outputs: {}", Bytes(*bytes))),
            RentalEvent::OutputsFailed { why, .. } | RentalEvent::Complaint(why) | RentalEvent::NeedsWallet(why) => {
                Shown::Warning(why.clone())
            }
            // The complaint about it is shown.
            RentalEvent::TokensLow { .. }
            | RentalEvent::InputsFailed { .. }
            | RentalEvent::Paid { .. }
            | RentalEvent::ToppedUp { .. }
            | RentalEvent::Ended { .. }
            | RentalEvent::Outputs(_)
            | RentalEvent::Settled { .. } => Shown::Nothing,
        },
    }
}

/// The exit code of a job's own end.
fn end_code(end: &End) -> u8 {
    let clip = |code: i32| u8::try_from(code & 0xff).unwrap_or(u8::MAX);
    match end {
        End::Exited(code) => clip(*code),
        End::Signaled(signal) => clip(signal.saturating_add(128)),
        End::OutOfMemory => Code::OutOfMemory as u8,
        End::DiskFull => Code::DiskFull as u8,
        End::FailedToStart(why) if why.contains("command not found") => Code::CommandNotFound as u8,
        End::FailedToStart(_) => Code::NotExecutable as u8,
        End::StoppedByConsumer => Code::Stopped as u8,
        End::TimeLimit => Code::TimeLimit as u8,
        End::DepositUsedUp | End::Unpaid => Code::Unpaid as u8,
        // Nobody was there: that is no failure of anybody.
        End::Idle => 0,
        End::Interrupted(_) | End::NeverStarted => Code::Interrupted as u8,
    }
}

/// A job's error as a failure of a command.
pub(crate) fn job_failure(error: &JobError) -> Failure {
    let code = match error {
        JobError::Demand(_) | JobError::Request(_) => Code::Config,
        JobError::Files(_) => Code::Io,
        JobError::Seek(seek) => match seek {
            SeekError::NothingFits(_) => Code::NothingFits,
            SeekError::Busy(_) | SeekError::Overloaded(_) => Code::Busy,
            SeekError::Refused(_) => Code::Internal,
            SeekError::Unreachable { .. } => Code::Unreachable,
            SeekError::NoIndexers => Code::Config,
            SeekError::NoWallet => Code::Wallet,
        },
        JobError::StayedBusy { .. } => Code::Busy,
        JobError::TooLittle { .. } | JobError::Nothing { .. } => Code::Balance,
        JobError::Ledger(_) => Code::Chain,
        JobError::Rental(_) => Code::Data,
        JobError::Stopped => Code::Stopped,
    };
    Failure::new(code, error)
}

fn outcome_code(outcome: &TaskOutcome) -> u8 {
    match outcome {
        TaskOutcome::Ended(end) => end_code(end),
        TaskOutcome::OutputsMissing { .. } | TaskOutcome::InputsFailed { .. } => Code::Io as u8,
        TaskOutcome::Detached => 0,
        TaskOutcome::Stopped => Code::Stopped as u8,
        TaskOutcome::Failed(error) => job_failure(error).code as u8,
    }
}

/// The first task that failed decides.
pub(crate) fn exit_code(report: &JobReport) -> u8 {
    report.tasks.iter().map(|t| outcome_code(&t.outcome)).find(|code| *code != 0).unwrap_or(0)
}

fn outcome_text(outcome: &TaskOutcome) -> String {
    match outcome {
        TaskOutcome::Ended(end) => end.to_string(),
        TaskOutcome::OutputsMissing { end, why } => format!("{end}, but its outputs are not here: {why}"),
        TaskOutcome::InputsFailed { why } => format!("its inputs could not be sent: {why}"),
        TaskOutcome::Detached => "goes on without this command".to_owned(),
        TaskOutcome::Stopped => "stopped on request".to_owned(),
        TaskOutcome::Failed(error) => error.to_string(),
    }
}

/// What a job came to, for programs; docs/json.md explains each field.
pub(crate) fn report_json(report: &JobReport, code: u8) -> Value {
    let tasks: Vec<Value> = report
        .tasks
        .iter()
        .map(|t| {
            json!({
                "index": t.index,
                "outcome": outcome_text(&t.outcome),
                "exit_code": outcome_code(&t.outcome),
                "leases": t.attempts.iter().map(|a| json!({
                    "id": a.lease.to_string(),
                    "container": a.container.to_string(),
                    "phase": a.phase.to_string(),
                    "end": a.end.as_ref().map(ToString::to_string),
                    "ran_ms": a.ran_ms,
                    "billed": a.billed.0.to_string(),
                    "refunded": a.refunded.0.to_string(),
                    "deposit": a.deposit.0.to_string(),
                    "rate_per_second": a.rate_per_second.0.to_string(),
                    "vouchers": a.vouchers,
                    "redeem_tx": a.redeem_tx,
                })).collect::<Vec<_>>(),
                "outputs": t.outputs.iter().map(|o| json!({ "path": o.path.display().to_string(), "bytes": o.len })).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({
        "job": report.job,
        "exit_code": code,
        "billed": report.billed().0.to_string(),
        "ran_ms": report.ran_ms(),
        "tasks": tasks,
    })
}

fn report_text(report: &JobReport, detach: bool) -> String {
    let mut lines = Vec::new();
    for task in &report.tasks {
        let quiet = task.succeeded() && report.tasks.len() > 1;
        if matches!(task.outcome, TaskOutcome::Detached) && detach {
            lines.extend(task.attempts.iter().map(|a| a.lease.to_string()));
        } else if !quiet && !task.succeeded() {
            let name = task.index.map(|i| format!("task {i}: ")).unwrap_or_default();
            warn(&format!("muster: {name}{}", outcome_text(&task.outcome)));
        }
    }
    if !detach && report.leases().next().is_some() {
        warn(&format!("muster: billed {} for {} of running", tokens(report.billed()), length(report.ran_ms())));
    }
    lines.join("\n")
}
