//! Live sessions: a job of one task with a display that is streamed.
//!
//! [`start`] rents, opens and begins like any job, with the same durable records, and gives a handle at once: its state
//! to watch, its [`SessionLine`] for players' offers, and the way to stop it. When this process is gone, the agent settles
//! what it left.

mod line;

use std::sync::Arc;

use muster_core::delivery::Receipts;
use muster_core::ids::{LeaseId, NodeId};
use muster_core::inference::{TokenCounts, TokenRates};
use muster_core::lease::End;
use muster_core::protocol::{DeliveryNoted, DeliveryReport};
use muster_core::units::{TimeMs, TokenAmount};
use muster_net::StreamKind;
use muster_wire::message::delivery_bytes;
use tokio::io::AsyncWrite;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinHandle;

pub use line::{SessionLine, SessionNews, SessionRefusal};

use crate::job::{Job, JobControl, JobError, JobEvent, JobReport, JobRequest, JobStep};
use crate::rental::{LeaseLine, RentalEvent, Stdio};
use crate::renter::Renter;
use crate::session::SessionKey;

/// Steps that wait to be shown.
const EVENTS_MAX: usize = 1_024;
/// How long telling an Indexer what was delivered may take.
const REPORT_WITHIN: std::time::Duration = std::time::Duration::from_secs(5);

/// Where a session is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LiveStep {
    /// A Container is looked for.
    #[default]
    Matching,
    /// One holds a slot; the deposit is on its way.
    Opening,
    /// The Container was told to begin; nothing is drawn yet.
    Starting,
    /// The program draws; billing counts.
    Running,
    /// It is over; the rest of the deposit may still be on its way back.
    Ended,
}

/// A session as it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiveState {
    /// Where it is.
    pub step: LiveStep,
    /// Why it waits, why it was tried again, or how it ended: a sentence.
    pub why: Option<String>,
    /// How the workload ended, once it has.
    pub end: Option<End>,
    /// The lease of the present try.
    pub lease: Option<LeaseId>,
    /// Who runs it.
    pub container: Option<NodeId>,
    /// Price of a second of running.
    pub rate_per_second: TokenAmount,
    /// Price of a model's tokens.
    pub tokens: Option<TokenRates>,
    /// Tokens that were paid for, as last counted.
    pub counted: TokenCounts,
    /// What the escrow holds.
    pub deposit: TokenAmount,
    /// When it began to run, by this machine's clock.
    pub running_since: Option<TimeMs>,
    /// Milliseconds that it ran, as last told.
    pub ran_ms: u64,
    /// What was promised for that.
    pub paid: TokenAmount,
    /// Milliseconds of running that the deposit still pays for, once that is little.
    pub deposit_left_ms: Option<u64>,
    /// Whether the line to the Container stands.
    pub connected: bool,
    /// Paid out and given back, once the chain has closed the lease.
    pub settled: Option<(TokenAmount, TokenAmount)>,
}

/// A live session that this process drives.
#[derive(Debug)]
pub struct Live {
    name: String,
    state: watch::Receiver<LiveState>,
    line: SessionLine,
    control: JobControl,
    done: JoinHandle<JobReport>,
}

impl Live {
    /// Its name, as the records of its leases have it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it stands; changes are seen as they come.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<LiveState> {
        self.state.clone()
    }

    /// For players' offers.
    #[must_use]
    pub fn line(&self) -> SessionLine {
        self.line.clone()
    }

    /// Stops it, now or before it begins; what has run is billed, the rest of the deposit comes back.
    pub fn stop(&self) {
        self.control.stop();
    }

    /// For stopping it, or leaving it to the agent, from elsewhere.
    #[must_use]
    pub fn control(&self) -> JobControl {
        self.control.clone()
    }

    /// Waits until it is over and settled, or left to the agent. `None` when this process's runtime is ending.
    pub async fn over(self) -> Option<JobReport> {
        over(self.done).await
    }
}

/// What became of a job that runs in the background; `None` when this process's runtime is ending.
pub(crate) async fn over(done: JoinHandle<JobReport>) -> Option<JobReport> {
    match done.await {
        Ok(report) => Some(report),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => None,
    }
}

/// Rents a Container for a session and drives it in the background. Make the request with
/// [`JobRequest::with_session`]. Dropping the handle stops nothing.
///
/// # Errors
/// The request is no session, or is wrong. What goes wrong later is in the state and in the report.
pub fn start(renter: Renter, request: JobRequest) -> Result<Live, JobError> {
    if request.session.is_none() || request.array.is_some() {
        return Err(JobError::Request("a live session is one task with a session to stream".to_owned()));
    }
    let Driven { name, state, teller, line, control, done } = drive(renter, request, None)?;
    let (line, carrier) = line::Carrier::new(line);
    let carrying = tokio::spawn(carrier.run());
    if let Some(news) = line.news() {
        // Ends with the carrier, which has the only sender.
        tokio::spawn(listen(news, teller));
    }
    let done = tokio::spawn(async move {
        let Some(report) = over(done).await else {
            // The runtime is ending, and this task with it.
            return std::future::pending().await;
        };
        carrying.abort();
        report
    });
    Ok(Live { name, state, line, control, done })
}

/// A job of one task that runs in the background, and what can be seen of it.
pub(crate) struct Driven {
    pub(crate) name: String,
    pub(crate) state: watch::Receiver<LiveState>,
    teller: Arc<watch::Sender<LiveState>>,
    /// The connection to the Container, while it stands.
    pub(crate) line: watch::Receiver<Option<LeaseLine>>,
    pub(crate) control: JobControl,
    pub(crate) done: JoinHandle<JobReport>,
}

/// Where complaints of a job go, beside its records: each try begins a line of its own.
pub type Complaints = Box<dyn Fn() -> Box<dyn AsyncWrite + Send + Unpin> + Send + Sync>;

/// Runs a job of one task in the background.
pub(crate) fn drive(renter: Renter, request: JobRequest, complaints: Option<Complaints>) -> Result<Driven, JobError> {
    let (events, inbox) = mpsc::channel(EVENTS_MAX);
    let (shown, line) = watch::channel(None);
    let streams = move |_, _| Stdio { err: complaints.as_ref().map(|open| open()), ..Stdio::default() };
    let job = Job::new(renter.clone(), request, Box::new(streams), events)?.with_shown_line(shown);
    let (teller, state) = watch::channel(LiveState::default());
    let (name, control) = (job.name().to_owned(), job.control());
    let teller = Arc::new(teller);
    let (following, concluding) = (tokio::spawn(follow(renter, inbox, Arc::clone(&teller))), Arc::clone(&teller));
    let done = tokio::spawn(async move {
        let report = Box::pin(job.run()).await;
        // All events are sent by now; the last ones may still be on their way to the state.
        drop(following.await);
        concluding.send_modify(|state| conclude(state, &report));
        report
    });
    Ok(Driven { name, state, teller, line, control, done })
}

/// Tells the Indexer that found a lease's Container what was delivered on it. Whether it counts.
///
/// # Errors
/// The lease is not in this folder any more, or the Indexer cannot be told: a sentence.
pub async fn report_delivery(renter: &Renter, lease: LeaseId, receipts: Receipts) -> Result<bool, String> {
    let dir = renter.dir().clone();
    let read = tokio::task::spawn_blocking(move || dir.read(lease)).await;
    let record = read.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    let indexer = record.state.rented.lease.terms.indexer;
    let key = SessionKey::from_secret(&record.plan.session_key).map_err(|e| e.to_string())?;
    let addrs = renter.network().indexer_addrs();
    let addr = addrs.iter().find(|addr| addr.id == indexer).ok_or("its Indexer is not in the network file")?;
    let proof = key.wallet().sign_message(&delivery_bytes(lease, &receipts, indexer));
    let report = DeliveryReport { lease, receipts, proof };
    let noted: DeliveryNoted = renter.ask(addr, StreamKind::Delivery, &report, REPORT_WITHIN).await?;
    Ok(noted.counts)
}

async fn follow(renter: Renter, mut inbox: mpsc::Receiver<JobEvent>, teller: Arc<watch::Sender<LiveState>>) {
    while let Some(event) = inbox.recv().await {
        let now = renter.now();
        teller.send_if_modified(|state| {
            let before = state.clone();
            apply(state, event.step, now);
            *state != before
        });
    }
}

/// What is fetched before the program begins is told as the reason why it waits.
async fn listen(mut news: broadcast::Receiver<SessionNews>, teller: Arc<watch::Sender<LiveState>>) {
    loop {
        match news.recv().await {
            Ok(SessionNews::Preparing { what }) => {
                teller.send_if_modified(|state| prepare(state, what));
            }
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

fn prepare(state: &mut LiveState, what: String) -> bool {
    let news = matches!(state.step, LiveStep::Opening | LiveStep::Starting) && state.why.as_ref() != Some(&what);
    if news {
        state.why = Some(what);
    }
    news
}

/// One step of the job as a change of the state.
fn apply(state: &mut LiveState, step: JobStep, now: TimeMs) {
    match step {
        JobStep::Matching => state.step = LiveStep::Matching,
        JobStep::Waiting { why } => state.why = Some(why),
        JobStep::Matched { lease, container, rate_per_second, tokens, deposit, .. } => {
            let (lease, container) = (Some(lease), Some(container));
            *state = LiveState {
                step: LiveStep::Opening,
                lease,
                container,
                rate_per_second,
                tokens,
                deposit,
                ..LiveState::default()
            };
        }
        JobStep::Retrying { why } => *state = LiveState { why: Some(why), ..LiveState::default() },
        JobStep::Over { how } => state.why = Some(how),
        JobStep::Lease { lease, event } if state.lease == Some(lease) => heard(state, event, now),
        JobStep::Lease { .. } | JobStep::Settling { .. } => {}
    }
}

fn heard(state: &mut LiveState, event: RentalEvent, now: TimeMs) {
    match event {
        RentalEvent::Connected { .. } => state.connected = true,
        RentalEvent::Lost { .. } => state.connected = false,
        RentalEvent::Starting => state.step = state.step.max(LiveStep::Starting),
        RentalEvent::Running => {
            state.step = state.step.max(LiveStep::Running);
            state.why = None;
            state.running_since.get_or_insert(now);
        }
        RentalEvent::Paid { ran_ms, tokens, amount } => {
            (state.ran_ms, state.counted, state.paid) = (ran_ms, tokens, amount);
        }
        RentalEvent::TokensLow { .. } => {}
        RentalEvent::DepositLow { left_ms } => state.deposit_left_ms = Some(left_ms),
        RentalEvent::ToppedUp { deposit } => (state.deposit, state.deposit_left_ms) = (deposit, None),
        RentalEvent::Ended { end, ran_ms } => {
            state.step = LiveStep::Ended;
            state.ran_ms = ran_ms;
            state.why = Some(end.to_string());
            state.end = Some(end);
        }
        RentalEvent::Complaint(why) | RentalEvent::NeedsWallet(why) => {
            tracing::info!(%why, "a live session");
        }
        RentalEvent::Settled { redeemed, refunded, .. } => state.settled = Some((redeemed, refunded)),
        RentalEvent::Opening { .. }
        | RentalEvent::Opened
        | RentalEvent::Uploading { .. }
        | RentalEvent::LeftOut { .. }
        | RentalEvent::InputsFailed { .. }
        | RentalEvent::Missed { .. }
        | RentalEvent::Downloading { .. }
        | RentalEvent::Outputs(_)
        | RentalEvent::OutputsFailed { .. } => {}
    }
}

/// The report is what counts: events may have been left out.
fn conclude(state: &mut LiveState, report: &JobReport) {
    state.step = LiveStep::Ended;
    state.connected = false;
    let Some(task) = report.tasks.first() else { return };
    if let Some(last) = task.attempts.last() {
        state.lease = Some(last.lease);
        state.container = Some(last.container);
        state.ran_ms = last.ran_ms;
        state.paid = last.billed;
        state.end.clone_from(&last.end);
        if last.phase == muster_core::lease::Phase::Closed {
            state.settled = Some((last.billed, last.refunded));
        }
    }
    let how = task.outcome.to_string();
    state.why = Some(how);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(event: RentalEvent) -> JobStep {
        JobStep::Lease { lease: LeaseId([1; 32]), event }
    }

    #[test]
    fn steps_become_states() {
        let mut state = LiveState::default();
        let mut say = |step| {
            apply(&mut state, step, TimeMs(5));
            state.clone()
        };
        assert_eq!(say(JobStep::Waiting { why: "busy".into() }).why.as_deref(), Some("busy"));
        let matched = say(JobStep::Matched {
            lease: LeaseId([1; 32]),
            container: NodeId([2; 32]),
            indexer: NodeId([3; 32]),
            rate_per_second: TokenAmount(7),
            tokens: None,
            deposit: TokenAmount(70),
            considered: 1,
            turned_down: Vec::new(),
        });
        assert_eq!((matched.step, matched.why), (LiveStep::Opening, None));
        assert_eq!(say(lease(RentalEvent::Starting)).step, LiveStep::Starting);
        assert_eq!(say(lease(RentalEvent::Running)).running_since, Some(TimeMs(5)));
        // Of an earlier try, which is still being settled.
        let other = JobStep::Lease { lease: LeaseId([9; 32]), event: RentalEvent::Ended { end: End::Idle, ran_ms: 1 } };
        assert_eq!(say(other).step, LiveStep::Running);
        let ended = say(lease(RentalEvent::Ended { end: End::Exited(0), ran_ms: 9 }));
        assert_eq!((ended.step, ended.ran_ms, ended.end), (LiveStep::Ended, 9, Some(End::Exited(0))));
    }
}
