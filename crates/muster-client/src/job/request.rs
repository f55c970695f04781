//! What is asked for, and what became of it.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use muster_core::demand::{COUNT_MAX, Demand, DemandError, Grouping, WorkloadKind};
use muster_core::hardware::Allocation;
use muster_core::ids::{Address, LeaseId, NodeId};
use muster_core::inference::{ModelSpec, TokenCounts, TokenRates};
use muster_core::lease::{End, Phase};
use muster_core::live::SessionSpec;
use muster_core::protocol::JobSpec;
use muster_core::units::{TimeMs, TokenAmount};
use muster_wire::message::check_job;
use serde::Serialize;

use crate::files::{FilesError, Placed};
use crate::ledger::LedgerError;
use crate::rental::{RentalError, RentalEvent, TopUp};
use crate::seek::SeekError;
use crate::store::LeaseRecord;

/// Retries of a task at most.
const RETRIES_MAX: u32 = 100;
/// Tasks of one array that run at once at most.
const PARALLEL_MAX: u32 = 1_000;

/// A job: one command, or an array of tasks that differ in `MUSTER_TASK_INDEX`.
#[derive(Clone, Debug, PartialEq)]
pub struct JobRequest {
    /// What each task needs.
    pub demand: Demand,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Variables beside the ones that every job gets.
    pub env: Vec<(String, String)>,
    /// Files and folders that are sent to each task.
    pub inputs: Vec<PathBuf>,
    /// Where outputs go; nothing is fetched if none is named.
    pub output: Option<PathBuf>,
    /// The tasks of an array, both ends included.
    pub array: Option<RangeInclusive<u32>>,
    /// How often a task that was interrupted is tried on another Container.
    pub retries: u32,
    /// How many tasks run at once at most.
    pub parallel_max: u32,
    /// For how long the deposit of a task shall last; the whole time limit if not said.
    pub deposit_seconds: Option<u64>,
    /// Whether this process adds to a deposit that runs low.
    pub top_up: Option<TopUp>,
    /// Whether standard input is passed on (of a single task only).
    pub stdin: bool,
    /// Whether standard output and error are read and kept.
    pub keep_logs: bool,
    /// Whether the round trips to a few that fit are measured before the choice. A live session always does.
    pub nearest: bool,
    /// How long to wait for a free Container while nothing of this job runs.
    pub busy_patience: Duration,
    /// Let go as soon as it runs: the agent goes on.
    pub detach: bool,
    /// A private display that is streamed; none for a job that only computes.
    pub session: Option<SessionSpec>,
    /// A model that answers requests; the command is then empty.
    pub model: Option<ModelSpec>,
}

impl JobRequest {
    /// One command under this demand, with everything else as usual.
    #[must_use]
    pub fn new(demand: Demand, command: Vec<String>) -> Self {
        Self {
            demand,
            command,
            env: Vec::new(),
            inputs: Vec::new(),
            output: None,
            array: None,
            retries: 0,
            parallel_max: 64,
            deposit_seconds: None,
            top_up: None,
            stdin: false,
            keep_logs: true,
            nearest: false,
            busy_patience: Duration::from_secs(60),
            detach: false,
            session: None,
            model: None,
        }
    }

    /// The same with a display that is streamed, by a Container that can do so.
    #[must_use]
    pub fn with_session(mut self, session: SessionSpec) -> Self {
        self.demand.kind = WorkloadKind::Session;
        self.nearest = true;
        self.session = Some(session);
        self
    }

    /// A model that answers requests, by a Container that can serve it. `demand` names what it needs of a machine and its
    /// [`ModelDemand`](muster_core::inference::ModelDemand).
    #[must_use]
    pub fn for_model(demand: Demand, model: ModelSpec) -> Self {
        let kind = if model.endpoint.is_some() { WorkloadKind::Endpoint } else { WorkloadKind::Model };
        let demand = Demand { kind, ..demand };
        Self { model: Some(model), keep_logs: true, ..Self::new(demand, Vec::new()) }
    }

    /// Refuses what cannot work before anything is asked of anybody.
    ///
    /// # Errors
    /// What is wrong, and what to do.
    pub fn check(&self) -> Result<(), JobError> {
        self.demand.check()?;
        let wrong = |what: &str| Err(JobError::Request(what.to_owned()));
        if self.model.is_some() != self.demand.kind.is_model() {
            return wrong("a model needs a demand of the kind model, and only a model does");
        }
        if self.model.is_none() && self.command.first().is_none_or(String::is_empty) {
            return wrong("there is no command: write it after --, for example `-- echo hello`");
        }
        check_job(&self.spec(None)).map_err(|why| JobError::Request(why.to_string()))?;
        if self.demand.grouping != Grouping::Array {
            return wrong("gangs are not rented by this version; leave the grouping at `array`");
        }
        if let Some(range) = &self.array {
            if range.is_empty() {
                return wrong("the array is empty: write the smaller number first, for example --array 0-23");
            }
            if self.tasks() > u64::from(COUNT_MAX) {
                return Err(JobError::Request(format!("the array has more than {COUNT_MAX} tasks")));
            }
            if self.stdin {
                return wrong("the tasks of an array cannot share standard input; use --input for a file");
            }
        }
        if self.session.is_some() != (self.demand.kind == WorkloadKind::Session) {
            return wrong("a session needs a demand of the kind session, and only a session does");
        }
        if self.stdin && self.detach {
            return wrong("a detached job has nobody to read standard input from; use --input for a file");
        }
        if self.retries > RETRIES_MAX {
            return Err(JobError::Request(format!("more than {RETRIES_MAX} retries")));
        }
        if self.parallel_max == 0 || self.parallel_max > PARALLEL_MAX {
            return Err(JobError::Request(format!("tasks at once must be from 1 to {PARALLEL_MAX}")));
        }
        let paths = self.inputs.iter().chain(&self.output);
        if let Some(odd) = paths.into_iter().find(|p| p.to_str().is_none()) {
            return Err(JobError::Request(format!("the path {} is not UTF-8", odd.display())));
        }
        Ok(())
    }

    /// How many tasks there are.
    #[must_use]
    pub fn tasks(&self) -> u64 {
        self.array.as_ref().map_or(1, |r| u64::from(*r.end()).saturating_sub(u64::from(*r.start())).saturating_add(1))
    }

    /// What a Container is told to run.
    pub(crate) fn spec(&self, task: Option<(u32, u32)>) -> JobSpec {
        let mut env = self.env.clone();
        if let Some((index, count)) = task {
            env.retain(|(name, _)| name != "MUSTER_TASK_INDEX" && name != "MUSTER_TASK_COUNT");
            env.push(("MUSTER_TASK_INDEX".to_owned(), index.to_string()));
            env.push(("MUSTER_TASK_COUNT".to_owned(), count.to_string()));
        }
        JobSpec {
            command: self.command.clone(),
            env,
            stdin: self.stdin,
            session: self.session.clone(),
            model: self.model.clone(),
        }
    }
}

/// Where tokens come from.
const GET_MORE: &str = "`muster wallet faucet` on a development network, `muster wallet send` from another wallet";

/// Why a job, or a task of it, came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The demand is out of bounds.
    #[error(transparent)]
    Demand(#[from] DemandError),
    /// The request is wrong.
    #[error("{0}")]
    Request(String),
    /// An input or the output folder is wrong.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// No Container was found.
    #[error(transparent)]
    Seek(#[from] SeekError),
    /// Every Container that fits stayed busy.
    #[error("every Container that fits stayed busy for {} s: {why}; try again later, or ask for less", .after.as_secs())]
    StayedBusy {
        /// How long was waited.
        after: Duration,
        /// What the Indexer said.
        why: String,
    },
    /// The wallet holds too little.
    #[error(
        "the wallet {wallet} holds {have} tokens, this needs a deposit of {need}; get more ({GET_MORE}), or ask for less: a smaller deposit with --deposit, less time with --time"
    )]
    TooLittle {
        /// The wallet.
        wallet: Address,
        /// What it holds.
        have: TokenAmount,
        /// The deposit that was asked for.
        need: TokenAmount,
    },
    /// The wallet holds nothing, so nobody was asked.
    #[error("the wallet {wallet} holds no tokens; get some ({GET_MORE})")]
    Nothing {
        /// The wallet.
        wallet: Address,
    },
    /// The chain failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A record cannot be kept.
    #[error(transparent)]
    Rental(#[from] RentalError),
    /// Stopped before it began.
    #[error("stopped before it began; nothing was rented")]
    Stopped,
}

impl From<crate::StoreError> for JobError {
    fn from(error: crate::StoreError) -> Self {
        Self::Rental(error.into())
    }
}

/// A step of a job, for people who watch. Steps are dropped when nobody takes them; the report is what counts.
#[derive(Clone, Debug, PartialEq)]
pub struct JobEvent {
    /// Of which task; `None` for a job that is no array.
    pub task: Option<u32>,
    /// Which try of the task, from 1.
    pub attempt: u32,
    /// What happened.
    pub step: JobStep,
}

/// What happened in a job.
#[derive(Clone, Debug, PartialEq)]
pub enum JobStep {
    /// A Container is looked for.
    Matching,
    /// Every one that fits is busy; it is tried again.
    Waiting {
        /// What the Indexer said.
        why: String,
    },
    /// A Container holds a slot.
    Matched {
        /// The lease that will come of it.
        lease: LeaseId,
        /// Which Container.
        container: NodeId,
        /// Which Indexer found it.
        indexer: NodeId,
        /// Price of a second of running.
        rate_per_second: TokenAmount,
        /// Price of a model's tokens.
        tokens: Option<TokenRates>,
        /// What will be paid into the escrow.
        deposit: TokenAmount,
        /// How many Containers were looked at.
        considered: u64,
        /// Why others were turned down, and how many.
        turned_down: Vec<(String, u64)>,
    },
    /// Something about the lease.
    Lease {
        /// Which.
        lease: LeaseId,
        /// What.
        event: RentalEvent,
    },
    /// The task is tried again on another Container.
    Retrying {
        /// Why.
        why: String,
    },
    /// The task is over.
    Over {
        /// How, as a sentence.
        how: String,
    },
    /// All tasks are over; leases that their Containers broke off are still being closed on the chain.
    Settling {
        /// How many.
        leases: usize,
    },
}

/// One try of a task: one lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AttemptReport {
    /// The lease.
    pub lease: LeaseId,
    /// Who ran it.
    pub container: NodeId,
    /// Who found it.
    pub indexer: NodeId,
    /// Where the lease stands.
    pub phase: Phase,
    /// How the workload ended, once it has.
    pub end: Option<End>,
    /// When the slot was taken, by this machine's clock.
    pub accepted_at: TimeMs,
    /// When the workload began, by this machine's clock.
    pub started_at: Option<TimeMs>,
    /// When it was over, by this machine's clock.
    pub ended_at: Option<TimeMs>,
    /// Milliseconds that it ran.
    pub ran_ms: u64,
    /// What it costs: paid out by the escrow once closed, else what is owed.
    pub billed: TokenAmount,
    /// What the escrow gave back.
    pub refunded: TokenAmount,
    /// What the escrow held.
    pub deposit: TokenAmount,
    /// Price of a second of running.
    pub rate_per_second: TokenAmount,
    /// Price of a model's tokens, and how many there were.
    pub tokens: Option<(TokenRates, TokenCounts)>,
    /// What was set aside.
    pub allocation: Allocation,
    /// How many vouchers were signed.
    pub vouchers: u32,
    /// The transaction in which the Container redeemed the last voucher, as it says, in hex.
    pub redeem_tx: Option<String>,
    /// Why the outputs are not (all) here, if so.
    pub outputs_note: Option<String>,
    /// Why the lease was given up, if so.
    pub gone: Option<String>,
}

impl From<&LeaseRecord> for AttemptReport {
    fn from(record: &LeaseRecord) -> Self {
        let rented = &record.state.rented;
        let l = &rented.lease;
        let billed = match l.phase {
            Phase::Closed => l.redeemed,
            Phase::Void => TokenAmount::ZERO,
            _ if l.end.is_some() => l.due(),
            _ => l.paid(),
        };
        Self {
            lease: l.terms.lease,
            container: l.terms.container,
            indexer: l.terms.indexer,
            phase: l.phase,
            end: l.end.clone(),
            accepted_at: l.accepted_at,
            started_at: l.started_at,
            ended_at: l.ended_at,
            ran_ms: l.ran_ms,
            billed,
            refunded: l.refunded,
            deposit: l.deposit,
            rate_per_second: l.terms.rate_per_second,
            tokens: l.terms.tokens.map(|terms| (terms.rates, l.tokens)),
            allocation: l.terms.allocation,
            vouchers: l.vouchers,
            redeem_tx: rented.settle_tx.map(|tx| format!("0x{}", hex::encode(tx))),
            outputs_note: record.state.outputs_note.clone(),
            gone: rented.gone.clone(),
        }
    }
}

/// How a task came out.
#[derive(Debug)]
pub enum TaskOutcome {
    /// The workload of the last try ended like this.
    Ended(End),
    /// It ended like this, but its outputs are not (all) here; while the Container keeps them, the agent goes on
    /// trying.
    OutputsMissing {
        /// How the workload ended.
        end: End,
        /// Why they are not here.
        why: String,
    },
    /// Its inputs could not be sent: nothing ran, nothing was billed.
    InputsFailed {
        /// Why.
        why: String,
    },
    /// It goes on without this process.
    Detached,
    /// It was stopped on request; what had run is billed.
    Stopped,
    /// It could not be done.
    Failed(JobError),
}

impl fmt::Display for TaskOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended(end) => end.fmt(f),
            Self::OutputsMissing { end, why } => write!(f, "{end}, but its outputs are not all here: {why}"),
            Self::InputsFailed { why } => write!(f, "its inputs could not be sent: {why}"),
            Self::Detached => f.write_str("it goes on without this process"),
            Self::Stopped => f.write_str("stopped on request"),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

/// What became of one task.
#[derive(Debug)]
pub struct TaskReport {
    /// Its number; `None` for a job that is no array.
    pub index: Option<u32>,
    /// All tries, the last one last.
    pub attempts: Vec<AttemptReport>,
    /// Files that it brought.
    pub outputs: Vec<Placed>,
    /// How it came out.
    pub outcome: TaskOutcome,
}

impl TaskReport {
    /// Whether the workload finished with code 0 and everything is here.
    #[must_use]
    pub const fn succeeded(&self) -> bool {
        matches!(self.outcome, TaskOutcome::Ended(End::Exited(0)))
    }
}

/// What became of a job.
#[derive(Debug)]
pub struct JobReport {
    /// The job's name.
    pub job: String,
    /// Its tasks, by number.
    pub tasks: Vec<TaskReport>,
}

impl JobReport {
    /// All leases of all tasks.
    pub fn leases(&self) -> impl Iterator<Item = &AttemptReport> {
        self.tasks.iter().flat_map(|t| &t.attempts)
    }

    /// What all leases cost.
    #[must_use]
    pub fn billed(&self) -> TokenAmount {
        self.leases().fold(TokenAmount::ZERO, |sum, a| sum.saturating_add(a.billed))
    }

    /// Milliseconds that all leases ran.
    #[must_use]
    pub fn ran_ms(&self) -> u64 {
        self.leases().fold(0, |sum, a| sum.saturating_add(a.ran_ms))
    }

    /// Whether every task succeeded.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.tasks.iter().all(TaskReport::succeeded)
    }

    /// Whether something is left for the agent: detached leases, outputs, settlements.
    #[must_use]
    pub fn leaves_work(&self) -> bool {
        self.leases().any(|a| !a.phase.is_final())
            || self
                .tasks
                .iter()
                .any(|t| matches!(t.outcome, TaskOutcome::OutputsMissing { .. } | TaskOutcome::Detached))
    }
}
