//! What a page or a command shows of a Checker.

use std::sync::Arc;

use muster_core::epoch::{EpochNo, Phase, TaskKind};
use muster_core::ids::{Address, ContentHash, NodeId};
use muster_core::reward::Finding;
use muster_core::units::TokenAmount;
use serde::Serialize;
use tokio::sync::watch;

/// Tasks of one Checker that a page lists; the oldest go first.
const TASKS_MAX: usize = 512;
/// Problems that a page lists.
const PROBLEMS_MAX: usize = 16;

/// A task and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TaskStatus {
    /// In which epoch.
    pub epoch: EpochNo,
    /// What kind.
    pub kind: TaskKind,
    /// The Container; of a recheck the Checker that set it.
    pub subject: NodeId,
    /// What came of it; `None`: under way.
    pub finding: Option<Finding>,
    /// A sentence of why, where there is more to say.
    pub why: Option<String>,
}

/// What was counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counted {
    /// Tasks that came to their end.
    pub tasks: u64,
    /// Of those, tasks without a result.
    pub unknown: u64,
    /// Containers that were found lying.
    pub refuted: u64,
    /// Things run again for others' results.
    pub reexecuted: u64,
    /// Messages of others that were refused.
    pub refused: u64,
}

/// A Checker as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckerStatus {
    /// Its key.
    pub id: NodeId,
    /// The account that signs for it.
    pub signer: Address,
    /// Where it is dialled.
    pub listens: Vec<std::net::SocketAddr>,
    /// The epoch by its clock.
    pub epoch: EpochNo,
    /// The phase by its clock.
    pub phase: Phase,
    /// The view that the last draw was made from.
    pub view: Option<ContentHash>,
    /// Whether it can be drawn, by that view: registered, active, with stake and licences.
    pub drawable: bool,
    /// Licences that it serves, by that view.
    pub licences: u32,
    /// The last settled epoch that it knows of.
    pub settled: Option<EpochNo>,
    /// Epochs that wait to be settled.
    pub open: u64,
    /// What the owners of its licences have earned in all, as far as final or pending outcomes say.
    pub earned: TokenAmount,
    /// The last tasks.
    pub tasks: Vec<TaskStatus>,
    /// Counted since the start.
    pub counted: Counted,
    /// Transcripts that it keeps, and their bytes.
    pub transcripts: (usize, u64),
    /// What is wrong just now, as sentences that say what to do.
    pub problems: Vec<String>,
}

/// Where the status is written; many may read it.
#[derive(Clone, Debug)]
pub(crate) struct Board(Arc<watch::Sender<CheckerStatus>>);

impl Board {
    pub(crate) fn new(id: NodeId, signer: Address) -> Self {
        let status = CheckerStatus {
            id,
            signer,
            listens: Vec::new(),
            epoch: EpochNo(0),
            phase: Phase::Draw,
            view: None,
            drawable: false,
            licences: 0,
            settled: None,
            open: 0,
            earned: TokenAmount::ZERO,
            tasks: Vec::new(),
            counted: Counted::default(),
            transcripts: (0, 0),
            problems: Vec::new(),
        };
        Self(Arc::new(watch::Sender::new(status)))
    }

    pub(crate) fn watch(&self) -> watch::Receiver<CheckerStatus> {
        self.0.subscribe()
    }

    pub(crate) fn note(&self, change: impl FnOnce(&mut CheckerStatus)) {
        self.0.send_modify(change);
    }

    pub(crate) fn count(&self, change: impl FnOnce(&mut Counted)) {
        self.note(|status| change(&mut status.counted));
    }

    /// A task begins.
    pub(crate) fn begun(&self, epoch: EpochNo, kind: TaskKind, subject: NodeId) {
        self.note(|status| {
            if status.tasks.len() >= TASKS_MAX {
                status.tasks.remove(0);
            }
            status.tasks.push(TaskStatus { epoch, kind, subject, finding: None, why: None });
        });
    }

    /// A task came to its end.
    pub(crate) fn ended(
        &self,
        (epoch, kind, subject): (EpochNo, TaskKind, NodeId),
        finding: Finding,
        why: Option<String>,
    ) {
        self.note(|status| {
            status.counted.tasks += 1;
            status.counted.unknown += u64::from(finding == Finding::Unknown);
            status.counted.refuted += u64::from(matches!(finding, Finding::Refuted { .. }));
            let mut tasks = status.tasks.iter_mut().rev();
            let same = |task: &&mut TaskStatus| {
                (task.epoch, task.kind, task.subject) == (epoch, kind, subject) && task.finding.is_none()
            };
            if let Some(task) = tasks.find(same) {
                task.finding = Some(finding);
                task.why = why;
            }
        });
    }

    /// Something is wrong; a sentence that begins alike takes the place of the one before.
    pub(crate) fn problem(&self, about: &str, why: Option<String>) {
        self.note(|status| {
            status.problems.retain(|problem| !problem.starts_with(about));
            if let Some(why) = why
                && status.problems.len() < PROBLEMS_MAX
            {
                status.problems.push(format!("{about}: {why}"));
            }
        });
    }
}
