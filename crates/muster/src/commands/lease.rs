//! `muster lease`: what was rented, what it wrote, how to stop it or keep it going.

pub(crate) mod tell;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use muster_client::agent::Ensured;
use muster_client::leases::{self, LeaseError, LeaseSummary};
use muster_client::ledger::LedgerError;
use muster_client::store::LeaseRecord;
use muster_client::{ClientDir, StoreError};
use muster_core::ids::LeaseId;
use muster_core::units::TokenAmount;
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::tell::LeaseObject;
use super::{Context, agent};
use crate::cli::LeaseCommand;
use crate::failure::{Code, Failure};
use crate::output::{length, tokens};

/// How long `stop` waits for the lease to be settled before it leaves the rest to the agent.
const STOPPED_WITHIN: Duration = Duration::from_secs(60);
/// Pause between two looks at a lease.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Runs one of the commands.
pub(super) async fn run(cx: &Context, command: LeaseCommand) -> Result<u8, Failure> {
    let dir = cx.client_dir()?;
    match command {
        LeaseCommand::Ls { all } => ls(cx, &dir, all).await?,
        LeaseCommand::Show { lease } => show(cx, &dir, &lease).await?,
        LeaseCommand::Logs { lease, follow } => logs(cx, &dir, &lease, follow).await?,
        LeaseCommand::Stop { lease } => stop(cx, &dir, &lease).await?,
        LeaseCommand::TopUp { lease, amount } => Box::pin(top_up(cx, &dir, &lease, amount)).await?,
        LeaseCommand::Reclaim => Box::pin(reclaim(cx)).await?,
    }
    Ok(0)
}

/// Sees to it that somebody drives what is open, also after a reboot. Looking at leases works without, so a failure is
/// told and not returned.
async fn see_to_agent(cx: &Context, dir: &ClientDir) {
    match agent::ensure(cx, dir).await {
        Ok(Ensured::Started) => tracing::info!("the agent was started for leases that nobody drove"),
        Ok(Ensured::Running | Ensured::NotNeeded) => {}
        Err(failure) => cx.output.note(&format!("muster: open leases are not driven: {failure}")),
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

async fn ls(cx: &Context, dir: &ClientDir, all: bool) -> Result<(), Failure> {
    see_to_agent(cx, dir).await;
    let (mut found, damaged) = leases::list(dir).map_err(|e| store_failure(&e))?;
    let known = found.len();
    found.retain(|s| all || !s.over || s.needs.is_some());
    for (lease, error) in &damaged {
        cx.output.note(&format!("muster: lease {} cannot be shown: {error}", lease.short()));
    }
    let objects: Vec<LeaseObject> = found.iter().map(LeaseObject::from).collect();
    let bad: Vec<_> =
        damaged.iter().map(|(id, error)| serde_json::json!({ "id": id, "problem": error.to_string() })).collect();
    cx.output.result(&serde_json::json!({ "leases": objects, "damaged": bad }), || match (found.is_empty(), known) {
        (true, 0) => "no leases; `muster run -- echo hello` makes one".to_owned(),
        (true, known) => format!("no open leases; {known} are over (`muster lease ls --all`)"),
        (false, _) => tell::list(&found, now_ms()),
    });
    Ok(())
}

fn find(dir: &ClientDir, name: &str) -> Result<LeaseId, Failure> {
    dir.find(name).map_err(|e| store_failure(&e))
}

fn read(dir: &ClientDir, lease: LeaseId) -> Result<LeaseSummary, Failure> {
    leases::show(dir, lease).map_err(|e| store_failure(&e))
}

async fn show(cx: &Context, dir: &ClientDir, name: &str) -> Result<(), Failure> {
    let lease = find(dir, name)?;
    see_to_agent(cx, dir).await;
    let summary = read(dir, lease)?;
    cx.output.result(&LeaseObject::from(&summary), || tell::show(&summary, now_ms()));
    Ok(())
}

async fn logs(cx: &Context, dir: &ClientDir, name: &str, follow: bool) -> Result<(), Failure> {
    let lease = find(dir, name)?;
    see_to_agent(cx, dir).await;
    if !dir.read(lease).map_err(|e| store_failure(&e))?.plan.keep_logs {
        cx.output.note("muster: the logs of this lease were not kept");
    }
    if cx.output.is_json() {
        // Each stream is kept up to 64 MiB, so that is what this holds at most.
        let (mut out, mut err) = (Vec::new(), Vec::new());
        leases::logs(dir, lease, follow, &mut out, &mut err).await.map_err(|e| lease_failure(&e))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let value = serde_json::json!({ "id": lease, "stdout": text(&out), "stderr": text(&err) });
        cx.output.result(&value, String::new);
        return Ok(());
    }
    let (mut out, mut err) = (tokio::io::stdout(), tokio::io::stderr());
    match leases::logs(dir, lease, follow, &mut out, &mut err).await {
        // Whoever reads has enough.
        Err(LeaseError::Logs(e)) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        done => done.map_err(|e| lease_failure(&e)),
    }
}

async fn stop(cx: &Context, dir: &ClientDir, name: &str) -> Result<(), Failure> {
    let lease = find(dir, name)?;
    if read(dir, lease)?.needs.is_some() {
        return Box::pin(finish(cx, dir, lease)).await;
    }
    leases::stop(dir, lease).map_err(|e| lease_failure(&e))?;
    agent::ensure(cx, dir).await?;
    let until = Instant::now() + STOPPED_WITHIN;
    let summary = loop {
        let summary = read(dir, lease)?;
        if summary.lease.phase.is_final() || summary.needs.is_some() || Instant::now() >= until {
            break summary;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    cx.output.result(&LeaseObject::from(&summary), || stopped(&summary));
    Ok(())
}

/// Does for a lease what the agent cannot, because it holds no wallet: closes it on the chain.
async fn finish(cx: &Context, dir: &ClientDir, lease: LeaseId) -> Result<(), Failure> {
    same_network(cx, &dir.read(lease).map_err(|e| store_failure(&e))?)?;
    let renter = cx.renter(Some(cx.wallet()?)).await?;
    let (events, _nobody_watches) = mpsc::channel(1);
    let finished = leases::finish(&renter, lease, STOPPED_WITHIN, events).await.map_err(|e| lease_failure(&e));
    renter.close().await;
    finished?;
    let summary = read(dir, lease)?;
    cx.output.result(&LeaseObject::from(&summary), || stopped(&summary));
    Ok(())
}

fn stopped(s: &LeaseSummary) -> String {
    let l = &s.lease;
    let name = l.lease.short();
    if l.phase.is_final() {
        let how = l.end.as_ref().map_or_else(|| "it had not begun".to_owned(), ToString::to_string);
        return format!(
            "lease {name} is over ({how}): ran {}, billed {}, {} came back",
            length(l.ran_ms),
            tokens(l.billed),
            tokens(l.refunded)
        );
    }
    match &s.needs {
        Some(needs) => format!("lease {name} is to be stopped, and needs you: {needs}"),
        None => format!(
            "lease {name} is to be stopped ({}); the agent goes on with it, `muster lease show {name}` tells how far it is",
            l.phase
        ),
    }
}

async fn top_up(cx: &Context, dir: &ClientDir, name: &str, amount: TokenAmount) -> Result<(), Failure> {
    if amount == TokenAmount::ZERO {
        return Err(Failure::new(Code::Balance, "a top-up of 0 adds nothing; nothing was paid"));
    }
    let lease = find(dir, name)?;
    let record = dir.read(lease).map_err(|e| store_failure(&e))?;
    same_network(cx, &record)?;
    let renter = cx.renter(Some(cx.wallet()?)).await?;
    let topped = leases::top_up(&renter, lease, amount).await.map_err(|e| lease_failure(&e));
    renter.close().await;
    let deposit = topped?;
    see_to_agent(cx, dir).await;
    let value = serde_json::json!({ "id": lease, "added": amount, "deposit": deposit });
    cx.output.result(&value, || {
        let lasts = deposit.ms_at_rate(record.state.rented.lease.terms.rate_per_second);
        let lasts = lasts.map_or_else(String::new, |ms| format!(", enough for {} in all", length(ms)));
        format!("added {amount} tokens to lease {}; its deposit is {} now{lasts}", lease.short(), tokens(deposit))
    });
    Ok(())
}

/// Brings back what the agent cannot, because it holds no wallet, and what it does not look at any more.
async fn reclaim(cx: &Context) -> Result<(), Failure> {
    let renter = cx.renter(Some(cx.wallet()?)).await?;
    let reclaimed = leases::reclaim(&renter, STOPPED_WITHIN).await.map_err(|e| lease_failure(&e));
    renter.close().await;
    let reclaimed = reclaimed?;
    let sum = reclaimed.iter().fold(TokenAmount::ZERO, |sum, r| sum.saturating_add(r.refunded));
    cx.output.result(&serde_json::json!({ "leases": reclaimed, "refunded": sum }), || tell::reclaimed(&reclaimed));
    Ok(())
}

/// Refuses to do something on one network's chain for a lease of another.
fn same_network(cx: &Context, record: &LeaseRecord) -> Result<(), Failure> {
    let network = cx.network()?;
    if record.plan.network == network.fingerprint() {
        return Ok(());
    }
    let why = format!(
        "lease {} belongs to another network than {:?}: name its file with --network. Nothing was paid",
        record.id().short(),
        network.name
    );
    Err(Failure::new(Code::Config, why))
}

/// A record's error as a failure of a command.
pub(crate) fn store_failure(error: &StoreError) -> Failure {
    let code = match error {
        StoreError::Io { .. } => Code::Io,
        StoreError::Corrupt { .. } | StoreError::Newer { .. } => Code::Data,
        StoreError::Driven { .. } => Code::InUse,
        StoreError::Unknown(_) | StoreError::Ambiguous { .. } => Code::NotFound,
        StoreError::Network(source) => return Failure::new(Code::Config, format!("{error}: {source}")),
    };
    Failure::new(code, error)
}

/// A lease's error as a failure of a command.
pub(crate) fn lease_failure(error: &LeaseError) -> Failure {
    let code = match error {
        LeaseError::Store(error) => return store_failure(error),
        LeaseError::Rental(_) => Code::Internal,
        LeaseError::Ledger(LedgerError::Unknown(_)) => Code::Chain,
        LeaseError::Ledger(LedgerError::Refused(_)) => Code::Reverted,
        LeaseError::Ledger(LedgerError::NoWallet(_)) => Code::Wallet,
        LeaseError::Over { .. } => Code::NotFound,
        LeaseError::TooLittle { .. } => Code::Balance,
        LeaseError::OtherWallet { .. } => Code::Wallet,
        LeaseError::Logs(_) => Code::Io,
    };
    Failure::new(code, error)
}
