//! What Checkers made of a rental's Containers: shown with its receipt.

use std::time::Duration;

use muster_chain::settle::{NodeOnChain, NodeStatus};
use muster_checker::{Archive, ArchiveError};
use muster_client::Network;
use muster_core::epoch::{Draw, EpochNo, Phase};
use muster_core::ids::NodeId;
use muster_core::reward::{Settled, Verdict};
use muster_core::units::TokenAmount;
use serde::Serialize;

use super::checkers::Epochs;
use super::checkers::epoch::{archive_failure, now};
use super::{Context, chain_failure, setup};
use crate::calibration;
use crate::failure::{Code, Failure};
use crate::output::{table, tokens};

/// A Container's audit is waited for so many epochs after the rental; a busy machine may miss some.
const EPOCHS_MAX: u64 = 6;
/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What Checkers found about one Container in one epoch.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Audit {
    container: NodeId,
    /// The epoch in which it was tested in full and rewarded; absent where none came in time.
    epoch: Option<EpochNo>,
    /// What its test came to.
    verdict: String,
    /// The speed that it proved, in OctaneBench points.
    ob: Option<f64>,
    took_ms: Option<u32>,
    /// How many Checkers tested it.
    checkers: usize,
    quality_bps: Option<u16>,
    /// Rewards of that epoch, in smallest units.
    capacity_reward: TokenAmount,
    delivery_reward: TokenAmount,
}

/// What became of the Container that lies.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Caught {
    container: NodeId,
    /// The epoch whose outcome takes its stake.
    epoch: Option<EpochNo>,
    /// The signed transcript that shows the lie to everybody.
    evidence: Option<String>,
    /// What was taken, in smallest units.
    slashed: TokenAmount,
    /// How the registry has it now.
    status: String,
}

fn place(at: u32) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

/// The epochs of a network that has Checkers.
async fn archive(cx: &Context, network: &Network) -> Result<Option<(Epochs, Archive)>, Failure> {
    if network.first_committee.is_empty() {
        return Ok(None);
    }
    let client =
        muster_chain::settle::ChainClient::connect(&network.chain.rpc, network.chain.id, network.contracts.into())
            .await
            .map_err(|e| chain_failure(&e))?;
    let Some(epochs) = Epochs::begun(network, client).await? else { return Ok(None) };
    let archive = epochs.archive(network, calibration::table(&cx.dirs)?).await?;
    Ok(Some((epochs, archive)))
}

/// An epoch as soon as it is settled; `None` where it is not in time.
async fn settled(archive: &Archive, epoch: EpochNo) -> Result<Option<(std::sync::Arc<Draw>, Settled)>, Failure> {
    let params = &archive.params.epoch;
    let until = params.end(epoch).plus(params.epoch_ms.saturating_mul(2));
    loop {
        match archive.settled(epoch).await {
            Ok(found) => return Ok(Some(found)),
            // Checkers may be busy, or between two lives.
            Err(ArchiveError::NotSettled(_) | ArchiveError::Missing { .. } | ArchiveError::Chain(_))
                if now() < until => {}
            Err(ArchiveError::NotSettled(_) | ArchiveError::Missing { .. }) => return Ok(None),
            Err(error) => return Err(archive_failure(&error)),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Waits until Containers were audited, and says in which epoch and what they were rewarded.
pub(super) async fn audits(
    cx: &Context,
    network: &Network,
    containers: &[NodeId],
    since: EpochNo,
) -> Result<Vec<Audit>, Failure> {
    let Some((epochs, archive)) = archive(cx, network).await? else { return Ok(Vec::new()) };
    let first = since.max(epochs.genesis);
    let mut found: Vec<Audit> = containers.iter().map(|id| Audit::none(*id)).collect();
    for epoch in (first.0..first.0.saturating_add(EPOCHS_MAX)).map(EpochNo) {
        if found.iter().all(|audit| audit.epoch.is_some()) {
            break;
        }
        let left = archive.params.epoch.begin_of(epoch, Phase::Settle).since(now()) / 1_000;
        cx.output
            .note(&format!("Checkers audit the Containers in epoch {epoch}; its outcome is signed in about {left} s"));
        let Some((draw, settled)) = settled(&archive, epoch).await? else { continue };
        for audit in found.iter_mut().filter(|audit| audit.epoch.is_none()) {
            audit.note(&draw, &settled);
        }
    }
    archive.peer.close().await;
    Ok(found)
}

impl Audit {
    fn none(container: NodeId) -> Self {
        Self {
            container,
            epoch: None,
            verdict: "not audited yet; `muster epoch ls` shows when".to_owned(),
            ob: None,
            took_ms: None,
            checkers: 0,
            quality_bps: None,
            capacity_reward: TokenAmount::ZERO,
            delivery_reward: TokenAmount::ZERO,
        }
    }

    /// Takes over what an epoch says, if it says something.
    fn note(&mut self, draw: &Draw, settled: &Settled) {
        let Some(at) = draw.view().container(&self.container) else { return };
        let Some(summary) = settled.containers.get(place(at)) else { return };
        let verdict = match summary.test {
            Some(Verdict::Proved { ob, took_ms }) => {
                (self.ob, self.took_ms) = (Some(f64::from(ob.0) / 100.0), Some(took_ms));
                "proved"
            }
            Some(Verdict::Fraud { .. }) => "fraud",
            Some(Verdict::Absent) => "absent",
            // Busy, or paused: the next epoch tests it again.
            _ => return,
        };
        self.verdict = verdict.to_owned();
        self.epoch = Some(draw.epoch());
        self.checkers = draw.seats(muster_core::epoch::TaskKind::Capacity, at).as_slice().len();
        self.quality_bps = Some(summary.quality_bps);
        (self.capacity_reward, self.delivery_reward) = (summary.capacity, summary.delivery);
    }
}

/// Watches the Container that lies being caught, slashed and jailed, and tells it as it happens.
pub(super) async fn cheat(cx: &Context, network: &Network) -> Result<Caught, Failure> {
    let id = setup::container_id(cx, setup::CHEAT)?;
    let mut caught =
        Caught { container: id, epoch: None, evidence: None, slashed: TokenAmount::ZERO, status: String::new() };
    let Some((epochs, archive)) = archive(cx, network).await? else {
        let why = "--with-cheat needs Checkers: without them nobody looks; give it without --checkers 0";
        return Err(Failure::new(Code::Config, why));
    };
    let client = epochs.reads.client().clone();
    let ask = || async { client.node(id).await.map_err(|e| chain_failure(&e)) };
    let stake = |node: &Option<NodeOnChain>| node.as_ref().map_or(TokenAmount::ZERO, |node| node.stake);
    let mut most = stake(&ask().await?);
    cx.output.note(&format!("cheat: Container {} leaves out half of every picture that it has to prove", id.short()));
    let mut epoch = archive.params.epoch.at(now()).max(epochs.genesis);
    let until = EpochNo(epoch.0.saturating_add(EPOCHS_MAX));
    while epoch < until && caught.epoch.is_none() {
        most = most.max(stake(&ask().await?));
        if let Some((draw, settled)) = settled(&archive, epoch).await?
            && let Some(slash) = settled.slashes.iter().find(|slash| slash.node == id)
        {
            let at = draw.view().container(&id);
            let test = at.and_then(|at| settled.containers.get(place(at))).and_then(|summary| summary.test);
            if let Some(Verdict::Fraud { evidence }) = test {
                caught.evidence = Some(evidence.to_string());
                cx.output
                    .note(&format!("cheat: caught in epoch {epoch}; transcript {evidence} shows the lie to everybody"));
            }
            caught.epoch = Some(epoch);
            cx.output.note(&format!(
                "cheat: the outcome of epoch {epoch} takes {} of its stake, once the dispute window is over",
                tokens(slash.amount)
            ));
        }
        epoch = epoch.next();
    }
    let params = &archive.params.epoch;
    let patience = now().plus(params.dispute_window_ms).plus(params.epoch_ms.saturating_mul(3));
    loop {
        let node = ask().await?;
        most = most.max(stake(&node));
        caught.slashed = most.saturating_sub(stake(&node));
        if let Some(node) = node.filter(|node| node.status == NodeStatus::Jailed) {
            caught.status = "jailed".to_owned();
            let done = if caught.slashed == TokenAmount::ZERO {
                "was slashed before".to_owned()
            } else {
                format!("{} slashed", tokens(caught.slashed))
            };
            cx.output.note(&format!(
                "cheat: {done}, and jailed: {} of stake are left, no work is offered to it",
                tokens(node.stake)
            ));
            break;
        }
        if now() > patience {
            caught.status = "not jailed yet".to_owned();
            cx.output.note("cheat: not jailed yet; `muster epoch ls` and the Checkers' pages tell more");
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    archive.peer.close().await;
    Ok(caught)
}

/// For people.
pub(super) fn text(audits: &[Audit], cheat: Option<&Caught>) -> String {
    let mut text = String::new();
    if !audits.is_empty() {
        let row = |a: &Audit| {
            vec![
                a.container.short(),
                a.epoch.map(|e| e.to_string()).unwrap_or_default(),
                a.verdict.clone(),
                a.ob.map(|ob| format!("{ob:.2}")).unwrap_or_default(),
                a.checkers.to_string(),
                a.quality_bps.map(|q| format!("{:.1} %", f64::from(q) / 100.0)).unwrap_or_default(),
                tokens(a.capacity_reward),
                tokens(a.delivery_reward),
            ]
        };
        let head = ["container", "epoch", "audit", "ob", "checkers", "quality", "for capacity", "for delivery"];
        text = format!("\n{}\n", table(&head, audits.iter().map(row).collect()));
    }
    if let Some(c) = cheat {
        text.push_str(&format!(
            "\nThe cheat {} lost {} of stake{} and is {}.\n",
            c.container.short(),
            tokens(c.slashed),
            c.epoch.map(|e| format!(" by the outcome of epoch {e}")).unwrap_or_default(),
            c.status
        ));
    }
    text
}
