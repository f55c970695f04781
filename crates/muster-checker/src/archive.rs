//! Any epoch again, by anybody: from the chain, the beacon and what Checkers keep.
//!
//! Needs no Checker of one's own: `muster epoch explain` and `muster epoch verify` stand on it.

use std::collections::BTreeMap;
use std::sync::Arc;

use muster_chain::settle::{NodeKind, NodeStatus};
use muster_core::calibration::Table;
use muster_core::epoch::{Draw, EpochNo, TaskKind};
use muster_core::ids::{ContentHash, NodeId};
use muster_core::params::Params;
use muster_core::proof::Claim;
use muster_core::reward::{
    Bundle, Doubt, Finding, Outcome, Published, Reexecution, Settled, State, doubts, settle, settle_silence,
};
use muster_core::units::TimeMs;
use muster_net::evidence::{fetch_on, want};
use muster_net::{Peer, PeerAddr};
use muster_wire::endpoint::Endpoint;
use muster_wire::message::audit::Wanted;

use crate::beacon::{Beacon, BeaconError};
use crate::examine::reverify;
use crate::ledger::{Ledger, LedgerError, Snapshot};
use crate::view;

/// The longest thing that is fetched, in bytes.
const FETCH_LEN_MAX: u64 = 1 << 29;
/// Later than any block.
const FAR: TimeMs = TimeMs(u64::MAX / 2);
/// Checkers that are asked for one thing.
const ASKED_MAX: usize = 32;

/// Why an epoch cannot be computed again.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The chain.
    #[error("the chain does not tell: {0}")]
    Chain(#[from] LedgerError),
    /// The beacon.
    #[error("the beacon's round cannot be had: {0}")]
    Beacon(#[from] BeaconError),
    /// The registry.
    #[error("the registry cannot be numbered: {0}")]
    View(#[from] muster_core::epoch::ViewError),
    /// Nobody has settled it.
    #[error("no outcome of epoch {0} stands on the chain yet; outcomes come a little after their epoch's end")]
    NotSettled(EpochNo),
    /// No Checker gives something.
    #[error("no Checker gives {what} {hash}; try again later, or ask whoever keeps an archive")]
    Missing {
        /// What.
        what: &'static str,
        /// Its name.
        hash: ContentHash,
    },
    /// What was published is not what the outcome names.
    #[error("what was published with the outcome of epoch {0} cannot be read: the outcome is wrong")]
    Published(EpochNo),
    /// It cannot be settled.
    #[error("the epoch cannot be settled again: {0}")]
    Settle(#[from] muster_core::reward::SettleError),
    /// A task failed: a bug.
    #[error("a computation failed: {0}")]
    Task(String),
}

/// An epoch that was drawn again.
#[derive(Clone, Debug)]
pub struct Drawn {
    /// The draw.
    pub draw: Arc<Draw>,
    /// What each Container claimed, by key.
    pub claims: BTreeMap<NodeId, Vec<Claim>>,
    /// Where Checkers are.
    checkers: BTreeMap<NodeId, PeerAddr>,
}

/// All that an outcome was made of.
struct Reported {
    posted: Outcome,
    drawn: Drawn,
    /// Of the outcome before.
    state: State,
    /// `None` for an epoch without reports.
    bundle: Option<Bundle>,
}

/// What came of computing an epoch again.
#[derive(Clone, Debug)]
pub struct Verification {
    /// The outcome on the chain.
    pub posted: Outcome,
    /// The outcome that the same reports come to.
    pub ours: Box<Settled>,
    /// Every transcript that was run again, and what came of it.
    pub ran: Vec<(Doubt, Reexecution)>,
    /// Transcripts that nobody has any more.
    pub missing: usize,
}

impl Verification {
    /// Whether the outcome on the chain is right.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.posted == self.ours.outcome
    }
}

/// Computes epochs again.
#[derive(Clone, Debug)]
pub struct Archive {
    /// Who asks.
    pub peer: Peer,
    /// The chain.
    pub ledger: Arc<dyn Ledger>,
    /// The beacon.
    pub beacon: Arc<dyn Beacon>,
    /// The network's parameters.
    pub params: Params,
    /// The calibration table.
    pub table: Arc<Table>,
}

impl Archive {
    /// The draw of an epoch: who tested whom, and why.
    ///
    /// # Errors
    /// See [`ArchiveError`].
    pub async fn draw(&self, epoch: EpochNo) -> Result<Drawn, ArchiveError> {
        let snapshot = self.ledger.snapshot(self.params.epoch.begin(epoch)).await?;
        // Checkers may have moved since.
        let checkers = addresses(&self.ledger.snapshot(FAR).await?);
        let state = match &snapshot.outcome {
            None => State::default(),
            Some(outcome) => self.published(&checkers, outcome).await?.state,
        };
        let view = view::view(&snapshot, epoch, self.ledger.genesis(), &self.params, &self.table)?;
        let claims = snapshot
            .nodes
            .iter()
            .filter(|node| node.kind == NodeKind::Container)
            .map(|node| (node.node, view::claims(&Endpoint::parse(&node.endpoint), &self.table)))
            .collect();
        let seed = self.beacon.seed(epoch).await?;
        let draw = Draw::new(Arc::new(state.freeze(view)), self.params.epoch.clone(), seed);
        Ok(Drawn { draw: Arc::new(draw), claims, checkers })
    }

    /// Computes the outcome of an epoch again: runs every transcript that its reports name, and settles. One that
    /// nobody has any more counts as the outcome's signers say that it came out. `progress` hears how many transcripts
    /// were run again, and of how many.
    ///
    /// # Errors
    /// See [`ArchiveError`].
    pub async fn verify(
        &self,
        epoch: EpochNo,
        progress: impl Fn(usize, usize) + Send + Sync,
    ) -> Result<Verification, ArchiveError> {
        let mut found = self.reported(epoch).await?;
        let (mut ran, mut missing) = (Vec::new(), 0);
        if let Some(bundle) = &mut found.bundle {
            (ran, missing) = self.rerun(&found.drawn, bundle, progress).await?;
            let doubted = doubts(&found.drawn.draw, bundle)?;
            let mut answers: BTreeMap<Doubt, Reexecution> = bundle.reexecuted.iter().copied().collect();
            for (doubt, result) in &ran {
                if doubted.contains(doubt) && *result != Reexecution::Unavailable {
                    answers.insert(*doubt, *result);
                }
            }
            bundle.reexecuted = answers.into_iter().collect();
        }
        let posted = found.posted;
        let ours = Box::new(self.settle(epoch, &found).await?);
        Ok(Verification { posted, ours, ran, missing })
    }

    /// What a posted outcome should be. Where its reports are had from nobody and `or_silent`, it should be that of an epoch
    /// without any.
    ///
    /// # Errors
    /// See [`ArchiveError`].
    pub async fn right(&self, posted: &Outcome, or_silent: bool) -> Result<Settled, ArchiveError> {
        match self.verify(posted.last_epoch, |_, _| {}).await {
            Ok(found) => Ok(*found.ours),
            Err(ArchiveError::Missing { .. } | ArchiveError::Published(_)) if or_silent => {
                let drawn = self.draw(posted.last_epoch).await?;
                let state = self.state_before(posted, &drawn).await?;
                Ok(settle_silence(&state, &drawn.draw)?)
            }
            Err(error) => Err(error),
        }
    }

    /// What the outcome before left behind.
    async fn state_before(&self, posted: &Outcome, drawn: &Drawn) -> Result<State, ArchiveError> {
        let history = self.ledger.history().await?;
        match history.iter().rev().find(|outcome| outcome.last_epoch < posted.first_epoch) {
            None => Ok(State::default()),
            Some(before) => Ok(self.published(&drawn.checkers, before).await?.state),
        }
    }

    /// What an epoch came to, by its reports and by what its signers say of the transcripts: nothing is run again.
    ///
    /// # Errors
    /// See [`ArchiveError`].
    pub async fn settled(&self, epoch: EpochNo) -> Result<(Arc<Draw>, Settled), ArchiveError> {
        let found = self.reported(epoch).await?;
        let settled = self.settle(epoch, &found).await?;
        Ok((found.drawn.draw, settled))
    }

    /// An outcome with what was published beside it.
    ///
    /// # Errors
    /// See [`ArchiveError`].
    pub async fn published_with(&self, outcome: &Outcome) -> Result<Published, ArchiveError> {
        let checkers = addresses(&self.ledger.snapshot(FAR).await?);
        self.published(&checkers, outcome).await
    }

    async fn reported(&self, epoch: EpochNo) -> Result<Reported, ArchiveError> {
        let history = self.ledger.history().await?;
        let within = |outcome: &&Outcome| (outcome.first_epoch..=outcome.last_epoch).contains(&epoch);
        let posted = *history.iter().find(within).ok_or(ArchiveError::NotSettled(epoch))?;
        let drawn = self.draw(posted.last_epoch).await?;
        let published = self.published(&drawn.checkers, &posted).await?;
        let state = self.state_before(&posted, &drawn).await?;
        let silent = published.reports == Bundle::default().hash();
        let bundle = if silent { None } else { Some(self.reports(&drawn.checkers, published.reports).await?) };
        Ok(Reported { posted, drawn, state, bundle })
    }

    async fn settle(&self, epoch: EpochNo, found: &Reported) -> Result<Settled, ArchiveError> {
        let Some(bundle) = &found.bundle else { return Ok(settle_silence(&found.state, &found.drawn.draw)?) };
        let params = &self.params.epoch;
        let facts = self.ledger.facts(params.begin(epoch), params.end(epoch)).await?;
        Ok(settle(&found.state, &found.drawn.draw, bundle, &facts, &self.params.reward)?)
    }

    /// Runs everything again that reports show.
    async fn rerun(
        &self,
        drawn: &Drawn,
        bundle: &Bundle,
        progress: impl Fn(usize, usize) + Send + Sync,
    ) -> Result<(Vec<(Doubt, Reexecution)>, usize), ArchiveError> {
        let view = drawn.draw.view();
        let shown = bundle.entries.iter().filter_map(|entry| entry.reveal.as_ref()).flat_map(|reveal| {
            let checker = view.checker(&reveal.report.checker);
            let evidence = |finding: &Finding| match finding {
                Finding::Upheld { .. } => None,
                other => other.transcript(),
            };
            reveal.report.results.iter().filter_map(move |result| {
                let transcript = evidence(&result.finding)?;
                Some(Doubt { checker: checker?, task: result.task, transcript })
            })
        });
        let shown: Vec<Doubt> = shown.collect();
        let (mut ran, mut missing, all) = (Vec::with_capacity(shown.len()), 0usize, shown.len());
        for doubt in shown {
            progress(ran.len(), all);
            let place = |at: u32| usize::try_from(at).unwrap_or(usize::MAX);
            let owner = view.checkers().get(place(doubt.checker)).map(|checker| checker.node);
            let Some(bytes) = self.find(&drawn.checkers, doubt.transcript, owner).await else {
                missing = missing.saturating_add(1);
                ran.push((doubt, Reexecution::Unavailable));
                continue;
            };
            let subject = match doubt.task.kind {
                TaskKind::Capacity | TaskKind::Dispute => view.containers().get(place(doubt.task.subject)),
                TaskKind::Liveness | TaskKind::Quality | TaskKind::Duplicate | TaskKind::Recheck => None,
            };
            let claims = subject.and_then(|c| drawn.claims.get(&c.node)).cloned().unwrap_or_default();
            let (draw, scale, table) = (Arc::clone(&drawn.draw), self.params.proof, Arc::clone(&self.table));
            let running = move || reverify(&bytes, &draw, &doubt, scale, &table, &claims);
            let result = tokio::task::spawn_blocking(running).await;
            ran.push((doubt, result.map_err(|error| ArchiveError::Task(error.to_string()))?));
        }
        Ok((ran, missing))
    }

    async fn published(
        &self,
        checkers: &BTreeMap<NodeId, PeerAddr>,
        outcome: &Outcome,
    ) -> Result<Published, ArchiveError> {
        let hash = outcome.data_hash;
        let bytes = self.find(checkers, hash, None).await;
        let bytes = bytes.ok_or(ArchiveError::Missing { what: "what was published with an outcome,", hash })?;
        Published::decode(&bytes).map_err(|_| ArchiveError::Published(outcome.last_epoch))
    }

    async fn reports(&self, checkers: &BTreeMap<NodeId, PeerAddr>, hash: ContentHash) -> Result<Bundle, ArchiveError> {
        for addr in checkers.values().take(ASKED_MAX) {
            let Ok(connection) = self.peer.connect(addr).await else { continue };
            let Ok(bytes) = want(&connection, Wanted::Reports { hash }, FETCH_LEN_MAX).await else { continue };
            if let Ok(bundle) = postcard::from_bytes::<Bundle>(&bytes)
                && bundle.hash() == hash
            {
                return Ok(bundle);
            }
        }
        Err(ArchiveError::Missing { what: "the reports of an epoch,", hash })
    }

    async fn find(
        &self,
        checkers: &BTreeMap<NodeId, PeerAddr>,
        hash: ContentHash,
        owner: Option<NodeId>,
    ) -> Option<Vec<u8>> {
        let first = owner.and_then(|owner| checkers.get(&owner)).into_iter();
        let others = checkers.values().filter(|addr| Some(addr.id) != owner);
        for addr in first.chain(others).take(ASKED_MAX) {
            let Ok(connection) = self.peer.connect(addr).await else { continue };
            if let Ok(bytes) = fetch_on(&connection, hash, FETCH_LEN_MAX).await {
                return Some(bytes);
            }
        }
        None
    }
}

/// Where active Checkers are.
fn addresses(snapshot: &Snapshot) -> BTreeMap<NodeId, PeerAddr> {
    let checkers = snapshot.nodes.iter().filter(|n| n.kind == NodeKind::Checker && n.status == NodeStatus::Active);
    checkers.map(|node| (node.node, PeerAddr::registered(node.node, &Endpoint::parse(&node.endpoint)))).collect()
}
