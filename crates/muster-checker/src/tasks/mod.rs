//! The tasks of an epoch, each in a task of its own; every one ends before commitments begin.

mod answers;
mod capacity;
mod liveness;
mod play;
mod recheck;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use muster_core::brain::checker::Event;
use muster_core::epoch::{Assignment, Draw, EpochNo, Phase, TaskKind};
use muster_core::ids::NodeId;
use muster_core::reward::Finding;
use muster_core::units::TimeMs;
use tracing::{debug, info};

pub(crate) use answers::Visits;
pub use answers::{AnswersConfig, AskedThrough, AuditedError, AuditedFile, AuditedModel};
pub use play::PlayConfig;
pub(crate) use recheck::set_proof;

use crate::node::House;

/// A finding, and a sentence of why.
pub(crate) type Found = (Finding, Option<String>);

fn unknown(why: impl Into<String>) -> Found {
    (Finding::Unknown, Some(why.into()))
}

/// What a task is about.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) draw: Arc<Draw>,
    pub(crate) assignment: Assignment,
    /// The Container; of a recheck the Checker that sets it.
    pub(crate) subject: NodeId,
    /// When this Checker began it.
    pub(crate) begun: TimeMs,
    /// When its result must be there.
    pub(crate) until: TimeMs,
    /// Cards whose proofs have not come to their end: what is late after that is this Checker's own fault.
    pub(crate) missing: AtomicU32,
}

impl Job {
    /// Whether a good part of the time for the test was over when this Checker began it.
    fn begun_late(&self) -> bool {
        let begin = self.assignment.begin;
        self.begun.since(begin) > self.until.since(begin) / 4
    }

    /// How long there is from now.
    fn left(&self, now: TimeMs) -> Duration {
        Duration::from_millis(self.until.since(now))
    }
}

/// Does a task and tells the brain.
pub(crate) async fn perform(house: Arc<House>, epoch: EpochNo, assignment: Assignment) {
    let Some(job) = job(&house, epoch, assignment) else { return };
    let kind = assignment.task.kind;
    let name = (epoch, kind, job.subject);
    house.board.begun(epoch, kind, job.subject);
    // Whatever hangs is given up in time for the result to count.
    let within = job.left(house.clock.now());
    let done = tokio::time::timeout(within, work(&house, &job)).await;
    let (finding, why) = done.unwrap_or_else(|_| late(&job));
    let (finding, why) = match finding {
        // Nobody is absent who was asked when the time was nearly over: this Checker has just started.
        Finding::Absent if job.begun_late() => unknown("this Checker began the test too late for an answer"),
        finding => (finding, why),
    };
    match &why {
        Some(why) => info!(%epoch, %kind, subject = %job.subject.short(), ?finding, %why, "task done"),
        None => debug!(%epoch, %kind, subject = %job.subject.short(), ?finding, "task done"),
    }
    metrics::counter!("muster_checker_tasks_total", "kind" => kind.to_string()).increment(1);
    house.board.ended(name, finding, why);
    house.tell(Event::Found { epoch, task: assignment.task, finding }).await;
}

fn late(job: &Job) -> Found {
    match job.assignment.task.kind {
        TaskKind::Capacity | TaskKind::Dispute if job.missing.load(Ordering::Relaxed) == 0 => {
            unknown("this Checker could not verify the proof before commitments began")
        }
        // Who is still asked at the end was asked in time.
        TaskKind::Capacity | TaskKind::Dispute => {
            (Finding::Absent, Some("no proof before commitments began".to_owned()))
        }
        TaskKind::Liveness | TaskKind::Quality | TaskKind::Duplicate | TaskKind::Recheck => {
            unknown("it was not done when commitments began")
        }
    }
}

fn job(house: &House, epoch: EpochNo, assignment: Assignment) -> Option<Job> {
    let draw = house.draw(epoch)?;
    let place = usize::try_from(assignment.task.subject).ok()?;
    let subject = match assignment.task.kind {
        TaskKind::Recheck => draw.view().checkers().get(place)?.node,
        TaskKind::Liveness | TaskKind::Capacity | TaskKind::Quality | TaskKind::Duplicate | TaskKind::Dispute => {
            draw.view().containers().get(place)?.node
        }
    };
    let params = draw.params();
    let commit = params.begin_of(epoch, Phase::Commit);
    let tests = commit.since(params.begin_of(epoch, Phase::Tests));
    // A twentieth of the tests is left for results to reach the brain.
    let until = TimeMs(commit.0.saturating_sub(tests / 20));
    let begun = house.clock.now();
    Some(Job { draw, assignment, subject, begun, until, missing: AtomicU32::new(u32::MAX) })
}

async fn work(house: &Arc<House>, job: &Job) -> Found {
    match job.assignment.task.kind {
        TaskKind::Liveness => liveness::liveness(house, job).await,
        TaskKind::Quality => liveness::quality(house, job).await,
        TaskKind::Capacity => capacity::capacity(house, job).await,
        TaskKind::Dispute => dispute(house, job).await,
        TaskKind::Recheck => recheck::recheck(house, job).await,
        TaskKind::Duplicate => unknown("no batch task of this Container could be run twice"),
    }
}

/// Decides an accusation: speed and absence by another proof, broken work by what the chain says, another model by answers
/// of its own.
async fn dispute(house: &Arc<House>, job: &Job) -> Found {
    use muster_core::epoch::AccusedOf;
    let place = usize::try_from(job.assignment.task.subject).unwrap_or(usize::MAX);
    let accused = job.draw.view().containers().get(place).and_then(|c| c.accused);
    match accused.map(|accused| (accused.of, accused.epoch)) {
        Some((AccusedOf::Absence | AccusedOf::FarBelow, _)) => capacity::capacity(house, job).await,
        Some((AccusedOf::Interruption, epoch)) => liveness::interruption(house, job, epoch).await,
        Some((AccusedOf::Substitution { weights }, epoch)) => answers::substitution(house, job, weights, epoch).await,
        None => unknown("nothing is disputed"),
    }
}
