//! Running a job: as many tasks at once as fit, each with its tries.

use std::collections::VecDeque;
use std::sync::Arc;

use muster_core::brain::consumer::Rented;
use muster_core::ids::{LeaseId, NodeId};
use muster_core::inference::{ModelSource, SOURCES_MAX};
use muster_core::lease::{End, Phase};
use muster_core::protocol::Matched;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::request::{AttemptReport, JobError, JobEvent, JobReport, JobRequest, JobStep, TaskOutcome, TaskReport};
use super::slots::{Alive, Slots, Wanted};
use crate::files::{self, Claims, Placed};
use crate::rental::{Command, LeaseLine, Rental, RentalEnd, RentalError, RentalEvent, Stdio};
use crate::renter::Renter;
use crate::seek::SeekError;
use crate::session::SessionKey;
use crate::store::{LeasePlan, LeaseRecord, LeaseState, TaskPlace};

/// Events of one lease that wait for its task.
const EVENTS_MAX: usize = 256;

/// Gives the standard streams for a try of a task (`None`: a job that is no array; the second number counts tries
/// from 1).
pub type StdioFor = Box<dyn Fn(Option<u32>, u32) -> Stdio + Send + Sync>;

/// How a running job is told to stop or to be let go.
#[derive(Clone, Debug, Default)]
pub struct JobControl {
    stop: CancellationToken,
    detach: CancellationToken,
}

impl JobControl {
    /// Stops every lease of the job. [`Job::run`] returns when they are settled.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Lets go of every lease that runs, now or as soon as it does; the agent goes on with them.
    pub fn detach(&self) {
        self.detach.cancel();
    }
}

/// A job that was checked and can run.
pub struct Job {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("name", &self.inner.name).field("request", &self.inner.request).finish()
    }
}

struct Inner {
    name: String,
    renter: Renter,
    request: JobRequest,
    stdio: StdioFor,
    events: mpsc::Sender<JobEvent>,
    control: JobControl,
    claims: Claims,
    slots: Slots,
    shown_line: Option<watch::Sender<Option<LeaseLine>>>,
}

impl Job {
    /// Checks the request and its inputs, so that what is wrong is said before anything is rented.
    ///
    /// # Errors
    /// What is wrong, and what to do.
    pub fn new(
        renter: Renter,
        mut request: JobRequest,
        stdio: StdioFor,
        events: mpsc::Sender<JobEvent>,
    ) -> Result<Self, JobError> {
        request.check()?;
        for path in request.inputs.iter_mut().chain(&mut request.output) {
            *path = absolute(path)?;
        }
        files::plan(&request.inputs)?;
        if let Some(output) = &request.output {
            files::prepare_output(output)?;
        }
        let control = JobControl::default();
        if request.detach {
            control.detach();
        }
        let name = format!("{:016x}", rand::random::<u64>());
        let claims = match (&request.array, &request.output) {
            (Some(_), Some(_)) => Claims::shared(&renter.dir().claims_path(&name))?,
            _ => Claims::alone(),
        };
        let inner =
            Inner { name, renter, request, stdio, events, control, claims, slots: Slots::default(), shown_line: None };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The job's name, as the records of its leases have it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Shows the connection to the Container while it stands; of a job of one task.
    #[must_use]
    pub fn with_shown_line(mut self, shown: watch::Sender<Option<LeaseLine>>) -> Self {
        // Nobody else has it before it runs.
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.shown_line = Some(shown);
        }
        self
    }

    /// For stopping it, or letting it go.
    #[must_use]
    pub fn control(&self) -> JobControl {
        self.inner.control.clone()
    }

    /// Runs every task to its end. What fails is in the report of the task it failed for.
    pub async fn run(self) -> JobReport {
        let count = u32::try_from(self.inner.request.tasks()).unwrap_or(u32::MAX);
        let mut waiting: VecDeque<Option<TaskPlace>> = match self.inner.request.array.clone() {
            Some(range) => range.map(|index| Some(TaskPlace { index, count })).collect(),
            None => VecDeque::from([None]),
        };
        let most = usize::try_from(self.inner.request.parallel_max).unwrap_or(usize::MAX);
        let mut running = JoinSet::new();
        let (mut tasks, mut settling) = (Vec::new(), Vec::new());
        loop {
            while running.len() < most
                && let Some(place) = waiting.pop_front()
            {
                running.spawn(Task { job: Arc::clone(&self.inner), place, settling: Vec::new() }.run());
            }
            match running.join_next().await {
                Some(Ok((report, left))) => {
                    tasks.push(report);
                    settling.extend(left);
                }
                Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Some(Err(_)) => {}
                None => break,
            }
        }
        self.settle(settling, &mut tasks).await;
        tasks.sort_by_key(|t: &TaskReport| t.index);
        JobReport { job: self.inner.name.clone(), tasks }
    }

    /// Waits until the leases that were broken off are closed, so that the report says what each has cost in the end.
    async fn settle(&self, settling: Vec<Settling>, tasks: &mut [TaskReport]) {
        if settling.is_empty() {
            return;
        }
        let step = JobStep::Settling { leases: settling.len() };
        // Nobody has to take it: it tells why the end is not yet.
        drop(self.inner.events.try_send(JobEvent { task: None, attempt: 0, step }));
        for old in settling {
            let lease = old.lease;
            let Some(record) = old.over(&self.inner.control).await else { continue };
            let attempts = tasks.iter_mut().flat_map(|t| &mut t.attempts);
            for attempt in attempts.filter(|a| a.lease == lease) {
                *attempt = AttemptReport::from(&record);
            }
        }
    }
}

fn absolute(path: &std::path::Path) -> Result<std::path::PathBuf, JobError> {
    let whole = std::path::absolute(path).map_err(|e| JobError::Request(format!("{}: {e}", path.display())))?;
    // A slash at the end says that a folder's contents are meant; making the path absolute drops it.
    let text = path.as_os_str().as_encoded_bytes();
    let contents =
        text.ends_with(b"/") || text == b"." || text.ends_with(b"/.") || text == b".." || text.ends_with(b"/..");
    Ok(if contents { whole.join("") } else { whole })
}

struct Task {
    job: Arc<Inner>,
    place: Option<TaskPlace>,
    /// Earlier tries whose work is over and whose money is not.
    settling: Vec<Settling>,
}

/// The driver of a lease, in a task of its own.
type Driving = AbortOnDropHandle<Result<(RentalEnd, LeaseRecord), RentalError>>;

/// A lease whose work another Container has taken over, until the chain closes it.
struct Settling {
    lease: LeaseId,
    driving: Driving,
    commands: mpsc::Sender<Command>,
    /// The rest of its deposit is still to come back.
    _alive: Alive,
}

impl Settling {
    /// The lease as it ended, or as it is let go.
    async fn over(mut self, control: &JobControl) -> Option<LeaseRecord> {
        let mut detached = false;
        let done = loop {
            tokio::select! {
                done = &mut self.driving => break done,
                () = control.detach.cancelled(), if !detached => {
                    detached = true;
                    // One that has ended meanwhile needs no letting go.
                    self.commands.try_send(Command::Detach).ok();
                }
            }
        };
        match done {
            Ok(Ok((_, record))) => Some(record),
            Ok(Err(error)) => {
                tracing::warn!(lease = %self.lease.short(), %error, "a lease that was broken off could not be settled");
                None
            }
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => None,
        }
    }
}

/// How one try of a task came out.
enum Tried {
    /// The task is over.
    Over(TaskOutcome),
    /// Its Container failed it; another may do better.
    Failed { why: String },
}

impl Task {
    async fn run(mut self) -> (TaskReport, Vec<Settling>) {
        let mut report = TaskReport {
            index: self.place.map(|p| p.index),
            attempts: Vec::new(),
            outputs: Vec::new(),
            outcome: TaskOutcome::Stopped,
        };
        let mut excluded: Vec<NodeId> = self.job.request.demand.exclude.clone();
        let mut broken: Option<String> = None;
        for attempt in 1..=self.job.request.retries.saturating_add(1) {
            let tried = match self.attempt(attempt, &mut excluded, &mut report).await {
                Ok(tried) => tried,
                Err(JobError::Stopped) => Tried::Over(TaskOutcome::Stopped),
                Err(error) => Tried::Over(unmet(error, broken.as_deref())),
            };
            match tried {
                Tried::Over(outcome) => {
                    report.outcome = outcome;
                    break;
                }
                Tried::Failed { why } => {
                    report.outcome = TaskOutcome::Ended(End::Interrupted(why.clone()));
                    if !self.may_retry(attempt) {
                        break;
                    }
                    broken = Some(why.clone());
                    self.tell(attempt, JobStep::Retrying { why });
                }
            }
        }
        let last = u32::try_from(report.attempts.len()).unwrap_or(u32::MAX);
        self.tell(last, JobStep::Over { how: report.outcome.to_string() });
        (report, self.settling)
    }

    fn may_retry(&self, attempt: u32) -> bool {
        let last = attempt > self.job.request.retries;
        !last && !self.job.control.stop.is_cancelled()
    }

    fn tell(&self, attempt: u32, step: JobStep) {
        let event = JobEvent { task: self.place.map(|p| p.index), attempt, step };
        if let Err(mpsc::error::TrySendError::Full(event)) = self.job.events.try_send(event) {
            tracing::debug!(?event, "nobody took this event in time");
        }
    }

    async fn attempt(
        &mut self,
        attempt: u32,
        excluded: &mut Vec<NodeId>,
        report: &mut TaskReport,
    ) -> Result<Tried, JobError> {
        let request = &self.job.request;
        let mut demand = request.demand.clone();
        demand.count = 1;
        demand.exclude.clone_from(excluded);
        let wanted = Wanted {
            renter: &self.job.renter,
            deposit_seconds: request.deposit_seconds.unwrap_or(demand.time_limit_s),
            demand,
            nearest: request.nearest,
            patience: request.busy_patience,
            stop: &self.job.control.stop,
        };
        let (matched, key, alive) = self.job.slots.find(wanted, |step| self.tell(attempt, step)).await?;
        let container = matched.terms.container;
        self.tell(attempt, matched_step(&matched));
        let record = self.record(attempt, matched, &key);
        let dir = self.job.renter.dir().clone();
        let created = tokio::task::spawn_blocking(move || dir.create(&record)).await;
        let file = created.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))?;
        let lease = file.record().id();
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let (commands, received) = mpsc::channel(4);
        let (told, work_over) = watch::channel(None);
        let rental = Rental::new(self.job.renter.clone(), file, sender, received)
            .with_stdio((self.job.stdio)(self.place.map(|p| p.index), attempt))
            .with_claims(self.job.claims.clone())
            .with_top_up(request.top_up)
            .with_work_over(told)
            .with_shown_line(self.job.shown_line.clone());
        let driving = AbortOnDropHandle::new(tokio::spawn(rental.run()));
        let mut watch = Watch {
            task: self,
            lease,
            attempt,
            commands,
            outputs: Vec::new(),
            stuck: None,
            unsent: None,
            running: false,
        };
        let watched = watch.over(driving, events, work_over).await;
        let Watch { outputs, stuck, unsent, commands, .. } = watch;
        report.outputs.extend(outputs);
        let tried = match watched {
            Watched::Over(over) => match *over {
                Ok((end, record)) => {
                    report.attempts.push(AttemptReport::from(&record));
                    match unsent {
                        Some(why) => Tried::Over(TaskOutcome::InputsFailed { why }),
                        None => judge(end, &record, stuck, self.job.control.stop.is_cancelled()),
                    }
                }
                Err(error) => {
                    // The lease lives on in its record: whoever reads the report must know of it.
                    if let Ok(record) = self.job.renter.dir().read(lease) {
                        report.attempts.push(AttemptReport::from(&record));
                    }
                    return Err(error.into());
                }
            },
            Watched::BrokenOff { driving, why } => {
                report.attempts.push(AttemptReport::from(&self.job.renter.dir().read(lease)?));
                self.settling.push(Settling { lease, driving, commands, _alive: alive });
                Tried::Failed { why }
            }
        };
        if matches!(tried, Tried::Failed { .. }) {
            excluded.push(container);
        }
        Ok(tried)
    }

    fn record(&self, attempt: u32, matched: Matched, key: &SessionKey) -> LeaseRecord {
        let (request, renter) = (&self.job.request, &self.job.renter);
        let now = renter.now();
        let mut spec = request.spec(self.place.map(|p| (p.index, p.count)));
        if let Some(model) = &mut spec.model {
            // Another Container is nearer than any hub, as a rule.
            let near = matched.holders.iter().cloned().map(ModelSource::Container);
            model.sources = near.chain(model.sources.drain(..)).take(SOURCES_MAX).collect();
        }
        let plan = LeasePlan {
            created_at: now,
            network: renter.network().fingerprint(),
            session_key: key.secret(),
            spec,
            inputs: request.inputs.clone(),
            output: request.output.clone(),
            keep_logs: request.keep_logs,
            job: self.job.name.clone(),
            task: self.place,
            attempt,
        };
        let rented = Rented::new(matched.terms, matched.container, now);
        LeaseRecord { plan, state: LeaseState::new(rented) }
    }
}

/// That nobody takes over what a Container broke off ends a task as an interruption, not as a demand that never fitted.
fn unmet(error: JobError, broken: Option<&str>) -> TaskOutcome {
    match (broken, &error) {
        (Some(why), JobError::Seek(SeekError::NothingFits(_)) | JobError::StayedBusy { .. }) => {
            TaskOutcome::Ended(End::Interrupted(format!("{why}, and nobody takes the work over ({error})")))
        }
        _ => TaskOutcome::Failed(error),
    }
}

fn matched_step(matched: &Matched) -> JobStep {
    JobStep::Matched {
        lease: matched.terms.lease,
        container: matched.terms.container,
        indexer: matched.terms.indexer,
        rate_per_second: matched.terms.rate_per_second,
        tokens: matched.terms.tokens.map(|tokens| tokens.rates),
        deposit: matched.terms.deposit,
        considered: matched.considered,
        turned_down: matched.turned_down.clone(),
    }
}

/// Watches one lease: passes events on, and commands to it.
struct Watch<'a> {
    task: &'a Task,
    lease: LeaseId,
    attempt: u32,
    commands: mpsc::Sender<Command>,
    outputs: Vec<Placed>,
    /// Outputs cannot be written here just now.
    stuck: Option<String>,
    /// Inputs could not be sent.
    unsent: Option<String>,
    running: bool,
}

/// How watching a lease came to an end.
enum Watched {
    /// The lease is over, or was let go.
    Over(Box<Result<(RentalEnd, LeaseRecord), RentalError>>),
    /// Its Container has failed it and only the settlement is left, which another try need not wait for.
    BrokenOff { driving: Driving, why: String },
}

impl Watch<'_> {
    async fn over(
        &mut self,
        mut driving: Driving,
        mut events: mpsc::Receiver<RentalEvent>,
        mut work_over: watch::Receiver<Option<End>>,
    ) -> Watched {
        let control = self.task.job.control.clone();
        let (mut stopped, mut detached, mut open, mut working) = (false, false, true, true);
        loop {
            tokio::select! {
                over = &mut driving => {
                    while let Ok(event) = events.try_recv() {
                        self.take(event);
                    }
                    let over = over.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()));
                    return Watched::Over(Box::new(over));
                }
                told = work_over.changed(), if working => {
                    working = false;
                    let why = told.ok().and_then(|()| broken_off(work_over.borrow().as_ref()));
                    if let Some(why) = why.filter(|_| self.task.may_retry(self.attempt)) {
                        while let Ok(event) = events.try_recv() {
                            self.take(event);
                        }
                        return Watched::BrokenOff { driving, why };
                    }
                }
                event = events.recv(), if open => match event {
                    Some(event) => self.take(event),
                    None => open = false,
                },
                () = control.stop.cancelled(), if !stopped => {
                    stopped = true;
                    self.command(Command::Stop);
                }
                () = control.detach.cancelled(), if self.running && !detached => {
                    detached = true;
                    self.command(Command::Detach);
                }
            }
        }
    }

    fn command(&self, command: Command) {
        // Four commands fit and at most four are ever sent, so only a driver that is over takes none.
        if self.commands.try_send(command).is_err() {
            tracing::debug!(?command, "the lease is over already");
        }
    }

    fn take(&mut self, event: RentalEvent) {
        match &event {
            RentalEvent::Running | RentalEvent::Ended { .. } => self.running = true,
            RentalEvent::InputsFailed { why } => self.unsent = Some(why.clone()),
            RentalEvent::Outputs(fetched) => {
                self.stuck = None;
                self.outputs.clone_from(&fetched.placed);
            }
            RentalEvent::OutputsFailed { why, again } => {
                let first = self.stuck.replace(why.clone()).is_none();
                if *again && first {
                    // The person can free some space meanwhile; the agent goes on trying.
                    self.command(Command::Detach);
                }
            }
            _ => {}
        }
        self.task.tell(self.attempt, JobStep::Lease { lease: self.lease, event });
    }
}

/// Why a task should be tried elsewhere, if its workload ended like that.
fn broken_off(end: Option<&End>) -> Option<String> {
    match end {
        Some(End::Interrupted(why)) => Some(why.clone()),
        Some(end @ End::NeverStarted) => Some(end.to_string()),
        _ => None,
    }
}

fn judge(end: RentalEnd, record: &LeaseRecord, stuck: Option<String>, stopping: bool) -> Tried {
    let rented = &record.state.rented;
    let ended = rented.lease.end.clone();
    if let (Some(why), Some(end)) = (stuck.or_else(|| record.state.outputs_note.clone()), ended.clone()) {
        return Tried::Over(TaskOutcome::OutputsMissing { end, why });
    }
    if end == RentalEnd::Detached {
        return Tried::Over(TaskOutcome::Detached);
    }
    if let Some(why) = broken_off(ended.as_ref()) {
        return Tried::Failed { why };
    }
    match ended {
        Some(End::StoppedByConsumer) if stopping => Tried::Over(TaskOutcome::Stopped),
        Some(end) => Tried::Over(TaskOutcome::Ended(end)),
        None if stopping => Tried::Over(TaskOutcome::Stopped),
        None => {
            let why = rented.gone.clone().unwrap_or_else(|| "the lease never opened".to_owned());
            debug_assert!(rented.lease.phase == Phase::Void, "a lease that opened has an end");
            Tried::Failed { why }
        }
    }
}
