//! What the commands about leases need: lists, logs, stopping, adding to a deposit, bringing deposits back.

mod reclaim;

use std::io::SeekFrom;
use std::path::Path;
use std::time::{Duration, Instant};

use muster_core::ids::{Address, LeaseId};
use muster_core::lease::Phase;
use muster_core::protocol::EscrowStatus;
use muster_core::units::{TimeMs, TokenAmount};
use serde::Serialize;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use self::reclaim::close_stray;
pub use self::reclaim::{Reclaimed, reclaim};
use crate::job::AttemptReport;
use crate::ledger::LedgerError;
use crate::rental::{Command, Rental, RentalEnd, RentalError, RentalEvent};
use crate::renter::Renter;
use crate::store::{ClientDir, LeaseRecord, LeaseState, StoreError, TaskPlace, Wish, WishKind};

/// Pause between two looks at growing logs.
const LOOK_EVERY: Duration = Duration::from_millis(150);
/// Pause between two looks whether a challenge window is over.
const RECLAIM_EVERY: Duration = Duration::from_millis(500);
/// Bytes that are copied at a time.
const COPY_BYTES: usize = 64 * 1024;

/// Why something about a lease cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Its record cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It cannot be driven.
    #[error(transparent)]
    Rental(#[from] RentalError),
    /// The chain failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// It is over.
    #[error("lease {} is over already: {how}", .lease.short())]
    Over {
        /// Which.
        lease: LeaseId,
        /// How it ended.
        how: String,
    },
    /// Another wallet pays for it.
    #[error("lease {} was paid by the wallet {owner}: name that one with --wallet; nothing was done", .lease.short())]
    OtherWallet {
        /// Which.
        lease: LeaseId,
        /// Who paid.
        owner: Address,
    },
    /// The wallet holds too little.
    #[error("the wallet holds {have} tokens, the top-up is {need}")]
    TooLittle {
        /// What it holds.
        have: TokenAmount,
        /// What is wanted.
        need: TokenAmount,
    },
    /// Logs cannot be read or shown.
    #[error("the logs cannot be read or shown: {0}")]
    Logs(std::io::Error),
}

/// A lease as `muster lease ls` and `show` tell of it.
#[derive(Clone, Debug, Serialize)]
pub struct LeaseSummary {
    /// What became of it so far.
    pub lease: AttemptReport,
    /// What runs.
    pub command: Vec<String>,
    /// The job that it belongs to.
    pub job: String,
    /// Its place in an array.
    pub task: Option<TaskPlace>,
    /// Which try of the task.
    pub attempt: u32,
    /// When it was made.
    pub created_at: TimeMs,
    /// Where its outputs go.
    pub output: Option<std::path::PathBuf>,
    /// Whether nothing is left to be done.
    pub over: bool,
    /// Whether a process drives it just now.
    pub driven: bool,
    /// What a person must do for it to go on, if anything.
    pub needs: Option<String>,
    /// A stop was asked for.
    pub stopping: bool,
    /// The network that it belongs to.
    pub network: String,
}

/// Leases, newest first, and those whose record cannot be read, with the reason.
pub type Listing = (Vec<LeaseSummary>, Vec<(LeaseId, StoreError)>);

/// All leases of a folder.
///
/// # Errors
/// The folder cannot be read.
pub fn list(dir: &ClientDir) -> Result<Listing, StoreError> {
    let (mut found, mut damaged) = (Vec::new(), Vec::new());
    for id in dir.leases()? {
        match show(dir, id) {
            Ok(summary) => found.push(summary),
            Err(error) => damaged.push((id, error)),
        }
    }
    found.sort_by_key(|s| std::cmp::Reverse((s.created_at, s.lease.lease)));
    Ok((found, damaged))
}

/// One lease.
///
/// # Errors
/// Its record cannot be read.
pub fn show(dir: &ClientDir, lease: LeaseId) -> Result<LeaseSummary, StoreError> {
    let record = dir.read(lease)?;
    let wished = dir.has_wish(Wish { lease, kind: WishKind::Stop });
    Ok(LeaseSummary {
        lease: AttemptReport::from(&record),
        over: record.is_over(),
        driven: dir.is_driven(lease)?,
        stopping: wished || record.state.rented.stop_asked,
        command: record.plan.spec.command,
        job: record.plan.job,
        task: record.plan.task,
        attempt: record.plan.attempt,
        created_at: record.plan.created_at,
        output: record.plan.output,
        needs: record.state.needs,
        network: record.plan.network,
    })
}

/// Asks whoever drives the lease, now or later, to stop it. Make sure that somebody does
/// ([`ensure_running`](crate::agent::ensure_running)).
///
/// # Errors
/// It is over, or the wish cannot be written.
pub fn stop(dir: &ClientDir, lease: LeaseId) -> Result<(), LeaseError> {
    let record = dir.read(lease)?;
    refuse_if_ended(&record)?;
    Ok(dir.wish(Wish { lease, kind: WishKind::Stop })?)
}

fn refuse_if_ended(record: &LeaseRecord) -> Result<(), LeaseError> {
    let rented = &record.state.rented;
    match &rented.lease.end {
        Some(end) => Err(LeaseError::Over { lease: record.id(), how: end.to_string() }),
        None if rented.lease.phase.is_final() => {
            let how = rented.gone.clone().unwrap_or_else(|| rented.lease.phase.to_string());
            Err(LeaseError::Over { lease: record.id(), how })
        }
        None => Ok(()),
    }
}

/// Adds to a lease's deposit from the wallet, and tells whoever drives it. Gives the deposit as the chain then has it.
/// Asked again while the first try is undecided, it pays once.
///
/// # Errors
/// It is over, the wallet holds too little, or the chain says no.
pub async fn top_up(renter: &Renter, lease: LeaseId, amount: TokenAmount) -> Result<TokenAmount, LeaseError> {
    let record = renter.dir().read(lease)?;
    refuse_if_ended(&record)?;
    let ledger = renter.ledger();
    let have = ledger.balance().await?;
    if have < amount {
        return Err(LeaseError::TooLittle { have, need: amount });
    }
    let before = ledger.lease(lease).await?;
    if before.status != EscrowStatus::Open {
        let how = "the chain does not have it open".to_owned();
        return Err(LeaseError::Over { lease, how });
    }
    let intent = format!("by hand {lease} {} {}", before.deposit.0, amount.0);
    ledger.top_up(lease, amount, intent).await?;
    renter.dir().wish(Wish { lease, kind: WishKind::Look })?;
    Ok(ledger.lease(lease).await?.deposit)
}

/// Drives a lease that nobody drives with this process's wallet: what the agent cannot do. Goes on until the lease is
/// over, for `within` at most; a challenge window may be longer than anybody wants to wait, and the lease can be driven
/// on later.
///
/// # Errors
/// Another process drives it, another wallet paid for it, or its record cannot be used.
pub async fn finish(
    renter: &Renter,
    lease: LeaseId,
    within: Duration,
    events: mpsc::Sender<RentalEvent>,
) -> Result<(RentalEnd, LeaseRecord), LeaseError> {
    let mut file = renter.dir().drive(lease)?;
    let owner = file.record().state.rented.lease.terms.consumer;
    if renter.ledger().consumer().is_some_and(|wallet| wallet != owner) {
        return Err(LeaseError::OtherWallet { lease, owner });
    }
    if file.record().state.rented.lease.phase == Phase::Void {
        let until = Instant::now() + within;
        while close_stray(renter, lease).await? && Instant::now() < until {
            tokio::time::sleep(RECLAIM_EVERY).await;
        }
        let still = renter.ledger().lease(lease).await?.status;
        if matches!(still, EscrowStatus::None | EscrowStatus::Closed) {
            let state = LeaseState { needs: None, ..file.record().state.clone() };
            file.save(state)?;
        }
        return Ok((RentalEnd::Finished, file.record().clone()));
    }
    let (commands, received) = mpsc::channel(1);
    let mut driving = std::pin::pin!(Rental::new(renter.clone(), file, events, received).run());
    if let Ok(over) = tokio::time::timeout(within, &mut driving).await {
        return Ok(over?);
    }
    if commands.send(Command::Detach).await.is_err() {
        tracing::debug!(lease = %lease.short(), "the lease came to its end at the last moment");
    }
    Ok(driving.await?)
}

/// Copies what was saved of a job's standard streams; with `follow`, goes on until the job is over and all of it is
/// here.
///
/// # Errors
/// The record or the logs cannot be read, or the writers take no more.
pub async fn logs(
    dir: &ClientDir,
    lease: LeaseId,
    follow: bool,
    out: &mut (impl AsyncWrite + Unpin),
    err: &mut (impl AsyncWrite + Unpin),
) -> Result<(), LeaseError> {
    let folder = dir.lease_folder(lease);
    let (mut out_at, mut err_at) = (0, 0);
    loop {
        // Looked at before the copy: what came until then is copied.
        let record = dir.read(lease)?;
        let rented = &record.state.rented;
        let complete = rented.lease.phase.is_final() || rented.outputs_taken || rented.gone.is_some();
        out_at = copy_from(&folder.join("stdout"), out_at, out).await.map_err(LeaseError::Logs)?;
        err_at = copy_from(&folder.join("stderr"), err_at, err).await.map_err(LeaseError::Logs)?;
        if complete || !follow {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Copies a file from a place to its end; gives the new place. A file that is not there is empty.
async fn copy_from(path: &Path, from: u64, to: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<u64> {
    let mut file = match File::open(path).await {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(from),
        Err(e) => return Err(e),
    };
    file.seek(SeekFrom::Start(from)).await?;
    let mut at = from;
    let mut bytes = vec![0; COPY_BYTES];
    loop {
        let count = file.read(&mut bytes).await?;
        if count == 0 {
            to.flush().await?;
            return Ok(at);
        }
        to.write_all(bytes.get(..count).unwrap_or_default()).await?;
        at = at.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
    }
}
