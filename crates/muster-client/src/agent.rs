//! The local agent: signs vouchers, fetches outputs and sees leases closed when no command is there to do it.
//!
//! It holds no wallet, only the session keys in the leases' records, each worth one lease's deposit. It is started by
//! whatever command leaves a lease behind or finds one that nobody drives, and ends when nothing is open. What it knows
//! is in the records, so it may be killed at any moment.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Child, Command as Process, Stdio as ProcessStdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use muster_core::ids::LeaseId;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::chain::ChainLedger;
use crate::files::Claims;
use crate::ledger::Ledger;
use crate::network::Network;
use crate::rental::{Command, Rental, RentalEnd, RentalError, RentalEvent};
use crate::renter::{Renter, wall_clock};
use crate::store::{ClientDir, LeaseFile, LeaseRecord, StoreError, take_lock};

/// How often leases that nobody drives are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// With nothing open for so long, the agent ends.
const IDLE: Duration = Duration::from_secs(30);
/// A network whose chain does not answer is tried again after this.
const NETWORK_AGAIN: Duration = Duration::from_secs(2);
/// A starting agent has its lock within this.
const START_WITHIN: Duration = Duration::from_secs(10);
/// The agent's log begins anew beyond this, in bytes.
const LOG_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Leases that are over are forgotten after thirty days, in milliseconds, beyond the newest ones.
const FORGET_AFTER_MS: u64 = 30 * 24 * 3_600_000;
/// So many are kept however old they are.
const LEASES_KEPT: usize = 1_000;
/// Leases that it drives at once.
const LEASES_MAX: usize = 10_000;

/// Why there is no agent.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The data folder cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It cannot be started.
    #[error("the agent {program} cannot be started: {reason}")]
    Start {
        /// The program.
        program: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// It ended at once, or did not begin.
    #[error("the agent did not begin to work; {log} says why")]
    NotRunning {
        /// Its log.
        log: PathBuf,
    },
}

/// How the agent is started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The program.
    pub program: PathBuf,
    /// Its arguments: with them it calls [`run`] on the same folder.
    pub args: Vec<OsString>,
}

/// What [`ensure_running`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ensured {
    /// An agent was there.
    Running,
    /// One was started.
    Started,
    /// Nothing is open, so none is needed.
    NotNeeded,
}

/// Starts an agent for the folder if leases are open and none runs. Leases that this process drives must have been let
/// go before.
///
/// # Errors
/// It cannot be started, or does not begin to work.
pub async fn ensure_running(dir: &ClientDir, launch: &Launch) -> Result<Ensured, AgentError> {
    // An agent cannot do for a lease what needs the wallet, so none is started for those alone.
    if open_leases(dir, &mut BTreeSet::new(), Need::NoWallet, |_| false)?.is_empty() {
        return Ok(Ensured::NotNeeded);
    }
    if is_running(dir)? {
        return Ok(Ensured::Running);
    }
    let log = dir.root().join("agent.log");
    let mut child = spawn(dir, launch, &log)?;
    let until = Instant::now() + START_WITHIN;
    while Instant::now() < until {
        if is_running(dir)? {
            return Ok(Ensured::Started);
        }
        let ended = child.try_wait().map_err(|reason| AgentError::Start { program: launch.program.clone(), reason })?;
        if let Some(status) = ended {
            // Success: it found nothing to do any more, or another one was quicker.
            return if status.success() { Ok(Ensured::Started) } else { Err(AgentError::NotRunning { log }) };
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err(AgentError::NotRunning { log })
}

/// Whether an agent holds the folder.
///
/// # Errors
/// The lock cannot be looked at.
pub fn is_running(dir: &ClientDir) -> Result<bool, StoreError> {
    let path = dir.root().join("agent.lock");
    match File::open(&path) {
        Ok(file) => match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(reason)) => Err(StoreError::Io { path, reason }),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(reason) => Err(StoreError::Io { path, reason }),
    }
}

fn spawn(dir: &ClientDir, launch: &Launch, log: &PathBuf) -> Result<Child, AgentError> {
    let fresh = std::fs::metadata(log).is_ok_and(|m| m.len() > LOG_BYTES_MAX);
    let mut options = OpenOptions::new();
    options.create(true).mode(0o600);
    let options = if fresh { options.write(true).truncate(true) } else { options.append(true) };
    let out = options.open(log).map_err(StoreError::io(log))?;
    let err = out.try_clone().map_err(StoreError::io(log))?;
    Process::new(&launch.program)
        .args(&launch.args)
        .current_dir(dir.root())
        .stdin(ProcessStdio::null())
        .stdout(out)
        .stderr(err)
        .spawn()
        .map_err(|reason| AgentError::Start { program: launch.program.clone(), reason })
}

/// How the agent reaches the chain of a network; the error is a sentence.
pub type Connect = Box<dyn Fn(Network) -> BoxFuture<'static, Result<Arc<dyn Ledger>, String>> + Send + Sync>;

/// Drives all leases of the folder that nobody else drives. Returns when nothing has been open for half a minute, when
/// another agent holds the folder, or when `shutdown` is ready (leases are then let go as they are).
///
/// # Errors
/// The folder cannot be read.
pub async fn run(dir: &ClientDir, shutdown: impl Future<Output = ()>) -> Result<(), AgentError> {
    // A session of its own: closing the terminal, or Ctrl-C in it, is not meant for the agent. A leader of a process
    // group (started by hand, from a shell) has one already, and gets an error that changes nothing.
    if let Err(error) = rustix::process::setsid() {
        tracing::debug!(%error, "the agent stays in its session");
    }
    let data = dir.root().to_owned();
    let connect: Connect = Box::new(move |network| {
        let data = data.clone();
        async move {
            let ledger = ChainLedger::connect(&network, None, &data).await.map_err(|e| e.to_string())?;
            Ok(Arc::new(ledger) as Arc<dyn Ledger>)
        }
        .boxed()
    });
    run_with(dir, connect, IDLE, shutdown).await
}

/// As [`run`], with another way to the chain and another patience when nothing is open.
///
/// # Errors
/// The folder cannot be read.
pub async fn run_with(
    dir: &ClientDir,
    connect: Connect,
    idle: Duration,
    shutdown: impl Future<Output = ()>,
) -> Result<(), AgentError> {
    let path = dir.root().join("agent.lock");
    let mut shutdown = std::pin::pin!(shutdown);
    let mut over = BTreeSet::new();
    loop {
        let Ok(lock) = take_lock(&path).map_err(StoreError::io(&path))? else {
            tracing::info!("another agent drives the leases of this folder");
            return Ok(());
        };
        tracing::info!(dir = %dir.root().display(), "agent started");
        let agent = Agent::new(dir.clone(), &connect, idle);
        let told = Box::pin(agent.drive(&mut over, shutdown.as_mut())).await?;
        drop(lock);
        // A lease that was left behind after the last look, by somebody who saw the lock held, is seen now.
        if told || open_leases(dir, &mut over, Need::NoWallet, |_| false)?.is_empty() {
            match dir.prune(wall_clock(), FORGET_AFTER_MS, LEASES_KEPT) {
                Ok(0) => {}
                Ok(removed) => tracing::info!(removed, "old leases removed"),
                Err(error) => tracing::warn!(%error, "old leases could not be removed"),
            }
            tracing::info!("agent ended");
            return Ok(());
        }
    }
}

/// Which leases are asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Also those for which nothing can be done without the wallet.
    Any,
    /// Without those.
    NoWallet,
}

/// Leases that are not over, without those that `driven` names. `over` remembers those that never have to be read
/// again.
fn open_leases(
    dir: &ClientDir,
    over: &mut BTreeSet<LeaseId>,
    need: Need,
    driven: impl Fn(&LeaseId) -> bool,
) -> Result<Vec<LeaseRecord>, StoreError> {
    let mut open = Vec::new();
    for id in dir.leases()? {
        if over.contains(&id) || driven(&id) {
            continue;
        }
        match dir.read(id) {
            Ok(record) if record.is_over() => {
                over.insert(id);
            }
            Ok(record) if need == Need::NoWallet && record.state.needs.is_some() => {}
            Ok(record) => open.push(record),
            Err(error) => {
                tracing::warn!(lease = %id.short(), %error, "a record is passed over");
                over.insert(id);
            }
        }
    }
    Ok(open)
}

struct Agent<'a> {
    dir: ClientDir,
    connect: &'a Connect,
    idle: Duration,
    /// By fingerprint; `Err`: not before then.
    networks: BTreeMap<String, Result<Renter, Instant>>,
    claims: BTreeMap<String, Claims>,
    driven: BTreeMap<LeaseId, mpsc::Sender<Command>>,
    running: JoinSet<(LeaseId, Result<RentalEnd, RentalError>)>,
}

impl<'a> Agent<'a> {
    fn new(dir: ClientDir, connect: &'a Connect, idle: Duration) -> Self {
        Self {
            dir,
            connect,
            idle,
            networks: BTreeMap::new(),
            claims: BTreeMap::new(),
            driven: BTreeMap::new(),
            running: JoinSet::new(),
        }
    }

    /// `true` when it was told to end.
    async fn drive(
        mut self,
        over: &mut BTreeSet<LeaseId>,
        mut shutdown: std::pin::Pin<&mut impl Future<Output = ()>>,
    ) -> Result<bool, AgentError> {
        let mut idle_since = Instant::now();
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                () = shutdown.as_mut() => {
                    self.let_go().await;
                    return Ok(true);
                }
                Some(done) = self.running.join_next(), if !self.running.is_empty() => self.on_done(done, over),
                _ = look.tick() => {
                    let open = open_leases(&self.dir, over, Need::Any, |id| self.driven.contains_key(id))?;
                    if !open.is_empty() || !self.driven.is_empty() {
                        idle_since = Instant::now();
                    }
                    for record in open {
                        Box::pin(self.take_up(&record)).await;
                    }
                    if idle_since.elapsed() > self.idle {
                        return Ok(false);
                    }
                }
            }
        }
    }

    async fn take_up(&mut self, record: &LeaseRecord) {
        let lease = record.id();
        if self.driven.contains_key(&lease) || self.driven.len() >= LEASES_MAX {
            return;
        }
        let file = match self.dir.drive(lease) {
            Ok(file) => file,
            Err(StoreError::Driven { .. }) => return,
            Err(error) => {
                tracing::warn!(lease = %lease.short(), %error, "a lease cannot be driven");
                return;
            }
        };
        let Some(renter) = self.renter(&record.plan.network).await else { return };
        let claims = self.claims(record);
        self.start(renter, file, claims);
    }

    fn start(&mut self, renter: Renter, file: LeaseFile, claims: Claims) {
        let lease = file.record().id();
        let (events, mut told) = mpsc::channel(64);
        let (commands, received) = mpsc::channel(4);
        self.driven.insert(lease, commands);
        tracing::info!(lease = %lease.short(), phase = %file.record().state.rented.lease.phase, "driving a lease");
        self.running.spawn(async move {
            let rental = Rental::new(renter, file, events, received).with_claims(claims);
            let log = async {
                while let Some(event) = told.recv().await {
                    log(lease, &event);
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                end = rental.run() => (lease, end.map(|(end, _)| end)),
                () = log => unreachable!("the log never ends by itself"),
            }
        });
    }

    /// The network that a lease belongs to, connected at its first use.
    async fn renter(&mut self, fingerprint: &str) -> Option<Renter> {
        match self.networks.get(fingerprint) {
            Some(Ok(renter)) => return Some(renter.clone()),
            Some(Err(not_before)) if Instant::now() < *not_before => return None,
            Some(Err(_)) | None => {}
        }
        let made = self.connect(fingerprint).await;
        let kept = made.map_err(|why| {
            tracing::warn!(network = fingerprint, %why, "a network cannot be used just now");
            Instant::now() + NETWORK_AGAIN
        });
        let renter = kept.as_ref().ok().cloned();
        self.networks.insert(fingerprint.to_owned(), kept);
        renter
    }

    async fn connect(&self, fingerprint: &str) -> Result<Renter, String> {
        let network = self.dir.network(fingerprint).map_err(|e| e.to_string())?;
        let ledger = (self.connect)(network.clone()).await?;
        Renter::new(network, ledger, self.dir.clone()).await.map_err(|e| e.to_string())
    }

    fn claims(&mut self, record: &LeaseRecord) -> Claims {
        if record.plan.task.is_none() || record.plan.output.is_none() {
            return Claims::alone();
        }
        let job = &record.plan.job;
        if let Some(claims) = self.claims.get(job) {
            return claims.clone();
        }
        match Claims::shared(&self.dir.claims_path(job)) {
            Ok(claims) => {
                self.claims.insert(job.clone(), claims.clone());
                claims
            }
            Err(error) => {
                // Each task to itself is worse than sharing, and better than losing outputs.
                tracing::warn!(job, %error, "the list of outputs of an array cannot be kept");
                Claims::alone()
            }
        }
    }

    fn on_done(
        &mut self,
        done: Result<(LeaseId, Result<RentalEnd, RentalError>), tokio::task::JoinError>,
        over: &mut BTreeSet<LeaseId>,
    ) {
        match done {
            Ok((lease, end)) => {
                self.driven.remove(&lease);
                match end {
                    Ok(RentalEnd::NeedsWallet) => {
                        // Nothing more can be done for it in this life of the agent.
                        over.insert(lease);
                    }
                    Ok(end) => tracing::info!(lease = %lease.short(), ?end, "a lease is let go"),
                    Err(error) => {
                        tracing::warn!(lease = %lease.short(), %error, "a lease cannot be driven on");
                        if !matches!(error, RentalError::Store(StoreError::Io { .. })) {
                            over.insert(lease);
                        }
                    }
                }
            }
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(error) => tracing::debug!(%error, "a lease's task was stopped"),
        }
    }

    async fn let_go(&mut self) {
        for commands in self.driven.values() {
            if commands.try_send(Command::Detach).is_err() {
                tracing::debug!("a lease that is over needs no letting go");
            }
        }
        let all = async {
            while let Some(done) = self.running.join_next().await {
                if let Ok((lease, _)) = done {
                    self.driven.remove(&lease);
                }
            }
        };
        if tokio::time::timeout(Duration::from_secs(5), all).await.is_err() {
            tracing::warn!("some leases were not let go in time; their records are as last written");
        }
    }
}

fn log(lease: LeaseId, event: &RentalEvent) {
    let lease = lease.short();
    match event {
        RentalEvent::Paid { ran_ms, amount, .. } => tracing::debug!(%lease, ran_ms, %amount, "paid"),
        RentalEvent::Uploading { .. } | RentalEvent::Downloading { .. } => tracing::trace!(%lease, ?event, "transfer"),
        RentalEvent::Lost { why } => tracing::info!(%lease, why, "the line broke"),
        RentalEvent::Complaint(why) | RentalEvent::NeedsWallet(why) | RentalEvent::OutputsFailed { why, .. } => {
            tracing::warn!(%lease, why, "trouble");
        }
        RentalEvent::DepositLow { left_ms } => {
            tracing::warn!(%lease, left_ms, "the deposit is nearly used up; add to it with `muster lease top-up`");
        }
        other => tracing::info!(%lease, event = ?other, "step"),
    }
}
