//! `muster epoch`: draws and outcomes, computed here and compared with the chain.

use std::time::{SystemTime, UNIX_EPOCH};

use muster_chain::epochs::{EpochSettlement, PostedOutcome};
use muster_checker::{Archive, ArchiveError, Verification};
use muster_core::epoch::{Draw, EpochNo, TaskKind};
use muster_core::ids::NodeId;
use muster_core::reward::{ContainerSummary, Outcome, Reexecution};
use muster_core::units::{TimeMs, TokenAmount};
use serde_json::{Value, json};

use super::Epochs;
use crate::cli::{EpochChoice, EpochCommand};
use crate::commands::wallet::paying;
use crate::commands::{Context, chain_failure};
use crate::failure::{Because, Code, Failure};
use crate::output::{table, tokens};

/// Runs one of the commands.
pub(crate) async fn run(cx: &Context, command: EpochCommand) -> Result<u8, Failure> {
    match command {
        EpochCommand::Ls { last } => Box::pin(ls(cx, last)).await.map(|()| 0),
        EpochCommand::Explain { epoch, container } => Box::pin(explain(cx, epoch, container)).await.map(|()| 0),
        EpochCommand::Verify { epoch, no_dispute } => Box::pin(verify(cx, epoch, no_dispute)).await,
    }
}

/// Milliseconds since 1970.
pub(crate) fn now() -> TimeMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    TimeMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// An archive's error as a failure of a command.
pub(crate) fn archive_failure(error: &ArchiveError) -> Failure {
    let code = match error {
        ArchiveError::Chain(_) => Code::Chain,
        ArchiveError::Beacon(_) | ArchiveError::Missing { .. } => Code::Unreachable,
        ArchiveError::NotSettled(_) => Code::NotFound,
        ArchiveError::View(_) | ArchiveError::Published(_) | ArchiveError::Settle(_) => Code::WrongOutcome,
        ArchiveError::Task(_) => Code::Internal,
    };
    Failure::new(code, error)
}

async fn chosen(archive: &Archive, choice: EpochChoice) -> Result<EpochNo, Failure> {
    match choice {
        EpochChoice::Number(epoch) => Ok(epoch),
        EpochChoice::Now => Ok(archive.params.epoch.at(now())),
        EpochChoice::Last => {
            let posted = archive.ledger.outcomes().await.map_err(|e| Failure::new(Code::Chain, e))?;
            let last = posted.last().map(|one| one.outcome.last_epoch);
            last.ok_or_else(|| {
                Failure::new(Code::NotFound, "no epoch is settled yet; outcomes come a little after their epoch's end")
            })
        }
    }
}

/// A time of the past or the future for people.
fn ago(at: TimeMs) -> String {
    let now = now();
    let (past, s) = (at <= now, if at <= now { now.since(at) } else { at.since(now) } / 1_000);
    let length = match s {
        0..=119 => format!("{s} s"),
        120..=7_199 => format!("{} min", s / 60),
        _ => format!("{} h", s / 3_600),
    };
    if past { format!("{length} ago") } else { format!("in {length}") }
}

async fn ls(cx: &Context, last: usize) -> Result<(), Failure> {
    let (network, epochs, archive) = cx.epochs().await?;
    let outcomes = epochs.reads.outcomes(epochs.from_block).await.map_err(|e| chain_failure(&e))?;
    let (final_sequence, _) = epochs.reads.last_final().await.map_err(|e| chain_failure(&e))?;
    let params = &network.params.epoch;
    let mut before = TokenAmount::ZERO;
    let mut rows = Vec::new();
    for posted in outcomes.values() {
        let o = &posted.outcome;
        let paid = o.cumulative_total.saturating_sub(before);
        before = o.cumulative_total;
        // The first entry only names the first committees.
        if o.data_hash == [0; 32] {
            continue;
        }
        let final_at = TimeMs(posted.posted_at_s.saturating_mul(1_000)).plus(params.dispute_window_ms);
        let is_final = posted.sequence <= final_sequence;
        rows.push((
            json!({
                "first_epoch": o.first_epoch, "last_epoch": o.last_epoch, "granted": paid, "final": is_final,
                "posted_at": posted.posted_at_s, "signers": posted.signers.count_ones(),
                "slashes": o.slash_root != [0; 32], "data": hex::encode(o.data_hash),
            }),
            vec![
                if o.first_epoch == o.last_epoch {
                    o.last_epoch.to_string()
                } else {
                    format!("{}-{}", o.first_epoch, o.last_epoch)
                },
                ago(TimeMs(posted.posted_at_s.saturating_mul(1_000))),
                posted.signers.count_ones().to_string(),
                tokens(paid),
                if o.slash_root == [0; 32] { String::new() } else { "yes".to_owned() },
                if is_final { "final".to_owned() } else { format!("final {}", ago(final_at)) },
            ],
        ));
    }
    rows.drain(..rows.len().saturating_sub(last));
    let (values, rows): (Vec<Value>, Vec<Vec<String>>) = rows.into_iter().unzip();
    let running = params.at(now());
    cx.output.result(&json!({ "running": running, "genesis": epochs.genesis, "outcomes": values }), || {
        let head = format!("epoch {running} runs; {} is the first that was settled", epochs.genesis);
        match rows.is_empty() {
            true => format!("epoch {running} runs; no outcome stands on the chain yet"),
            false => {
                format!("{head}\n\n{}", table(&["epoch", "posted", "signers", "granted", "slashes", "state"], rows))
            }
        }
    });
    archive.peer.close().await;
    Ok(())
}

async fn explain(cx: &Context, choice: EpochChoice, container: Option<NodeId>) -> Result<(), Failure> {
    let (_, epochs, archive) = cx.epochs().await?;
    let epoch = chosen(&archive, choice).await?;
    if epoch < epochs.genesis {
        let why = format!("epoch {epoch} was before the network's first, {}; nobody was drawn in it", epochs.genesis);
        return Err(Failure::new(Code::NotFound, why));
    }
    if epoch > archive.params.epoch.at(now()) {
        let begin = archive.params.epoch.begin(epoch);
        let why =
            format!("epoch {epoch} begins {}; its lots are drawn then, and nobody can know them before", ago(begin));
        return Err(Failure::new(Code::NotFound, why));
    }
    let drawn = archive.draw(epoch).await.map_err(|e| archive_failure(&e))?;
    let draw = &drawn.draw;
    if let Some(id) = &container
        && draw.view().container(id).is_none()
    {
        let why = format!("no Container {id} was in the registry when epoch {epoch} began");
        return Err(Failure::new(Code::NotFound, why));
    }
    let all: Vec<NodeId> = draw.view().containers().iter().map(|c| c.node).collect();
    let wanted = container.map_or(all, |one| vec![one]);
    // What came of it, where that is known already: an epoch can be explained as soon as it has begun.
    let settled = match archive.settled(epoch).await {
        Ok((_, settled)) => Some(settled),
        Err(ArchiveError::NotSettled(_) | ArchiveError::Missing { .. }) => None,
        Err(error) => return Err(archive_failure(&error)),
    };
    let summary = |id: &NodeId| {
        let place = usize::try_from(draw.view().container(id)?).ok()?;
        settled.as_ref()?.containers.get(place).copied()
    };
    let containers: Vec<Value> = wanted.iter().map(|id| of_container(draw, id, summary(id))).collect();
    let value = json!({
        "epoch": epoch, "seed": hex::encode(draw.seed().0), "view": draw.view_hash(),
        "reasons": draw.explain_epoch(), "containers": containers,
    });
    cx.output.result(&value, || {
        let mut text = draw.explain_epoch().join("\n");
        for id in &wanted {
            text.push_str(&format!("\n\nContainer {id}\n"));
            text.push_str(&draw.explain(id).iter().map(|l| format!("  {l}")).collect::<Vec<_>>().join("\n"));
            if let Some(outcome) = summary(id) {
                let quality = f64::from(outcome.quality_bps) / 100.0;
                let (capacity, delivery) = (tokens(outcome.capacity), tokens(outcome.delivery));
                text.push_str(&format!(
                    "\n  outcome: quality {quality:.1} %, {capacity} for capacity, {delivery} for delivery"
                ));
            }
        }
        text
    });
    archive.peer.close().await;
    Ok(())
}

fn of_container(draw: &Draw, id: &NodeId, outcome: Option<ContainerSummary>) -> Value {
    let place = draw.view().container(id);
    let seats = |kind: TaskKind| -> Vec<NodeId> {
        let seats = place.map(|place| draw.seats(kind, place));
        let places = seats.iter().flat_map(|seats| seats.as_slice().to_vec());
        let checker = |place: u32| draw.view().checkers().get(usize::try_from(place).unwrap_or(usize::MAX));
        places.filter_map(|place| checker(place).map(|c| c.node)).collect()
    };
    let tasks: serde_json::Map<String, Value> =
        TaskKind::ALL.into_iter().map(|kind| (kind.to_string(), json!(seats(kind)))).collect();
    json!({
        "id": id,
        "tested": place.and_then(|place| draw.tested(place)).map(|why| format!("{why:?}").to_lowercase()),
        "group": place.map(|place| draw.group(place)),
        "checkers": tasks,
        "reasons": draw.explain(id),
        "outcome": outcome.map(|o| json!({
            "quality_bps": o.quality_bps, "presence_bps": o.presence_bps,
            "capacity_reward": o.capacity, "delivery_reward": o.delivery,
        })),
    })
}

async fn verify(cx: &Context, choice: EpochChoice, no_dispute: bool) -> Result<u8, Failure> {
    let (_, epochs, archive) = cx.epochs().await?;
    let epoch = chosen(&archive, choice).await?;
    let progress = |ran: usize, all: usize| {
        if ran.is_multiple_of(16) {
            cx.output.note(&format!("  {ran} of {all} transcripts run again"));
        }
    };
    let found = archive.verify(epoch, progress).await.map_err(|e| archive_failure(&e))?;
    let right = found.is_right();
    let dispute = if right || no_dispute { None } else { Some(dispute(cx, &epochs, found.posted).await?) };
    let value = json!({
        "epoch": epoch, "right": right, "transcripts": found.ran.len(), "missing": found.missing,
        "bad": found.ran.iter().filter(|(_, r)| *r == Reexecution::Bad).count(),
        "posted": outcome_value(&found.posted), "computed": outcome_value(&found.ours.outcome),
        "dispute": dispute,
    });
    cx.output.result(&value, || verdict(&found, epoch, dispute.as_deref()));
    archive.peer.close().await;
    Ok(if right { 0 } else { Code::WrongOutcome as u8 })
}

fn outcome_value(o: &Outcome) -> Value {
    json!({
        "first_epoch": o.first_epoch, "last_epoch": o.last_epoch, "reward_root": hex::encode(o.reward_root),
        "cumulative_total": o.cumulative_total, "slash_root": hex::encode(o.slash_root), "data": o.data_hash,
        "next_committee": hex::encode(o.next_committee),
        "next_dispute_committee": hex::encode(o.next_dispute_committee),
    })
}

fn verdict(found: &Verification, epoch: EpochNo, dispute: Option<&str>) -> String {
    let ran = found.ran.len().saturating_sub(found.missing);
    let missing = match found.missing {
        0 => String::new(),
        missing => format!("; {missing} are not kept by anybody any more, and count as the signers say"),
    };
    let bad = found.ran.iter().filter(|(_, r)| *r == Reexecution::Bad).count();
    let checked = format!("{ran} transcripts were run again, {bad} of them are proof of a lie{missing}");
    if found.is_right() {
        let (o, jailed) = (&found.ours.outcome, found.ours.jailed.len());
        return format!(
            "epoch {epoch} is settled rightly: {checked}.\n  reward root {}\n  granted     {} by this outcome\n  slashed     {} ({jailed} jailed)",
            hex::encode(o.reward_root),
            tokens(found.ours.growth),
            tokens(TokenAmount(found.ours.slashes.iter().map(|s| s.amount.0).fold(0, u128::saturating_add))),
        );
    }
    let what = match dispute {
        Some(tx) => format!("It is disputed in transaction {tx}; the dispute committee decides."),
        None => "It was not disputed (--no-dispute).".to_owned(),
    };
    format!(
        "the outcome of epoch {epoch} on the chain is WRONG: {checked}.\n  on the chain: reward root {}, slash root {}, {} in all\n  computed:     reward root {}, slash root {}, {} in all\n{what}",
        hex::encode(found.posted.reward_root),
        hex::encode(found.posted.slash_root),
        tokens(found.posted.cumulative_total),
        hex::encode(found.ours.outcome.reward_root),
        hex::encode(found.ours.outcome.slash_root),
        tokens(found.ours.outcome.cumulative_total),
    )
}

/// Names a wrong outcome wrong, with a bond that comes back; gives the transaction.
async fn dispute(cx: &Context, epochs: &Epochs, wrong: Outcome) -> Result<String, Failure> {
    let network = cx.network()?;
    let (last_final, _) = epochs.reads.last_final().await.map_err(|e| chain_failure(&e))?;
    let all = epochs.reads.outcomes(epochs.from_block).await.map_err(|e| chain_failure(&e))?;
    let same = |posted: &&PostedOutcome| {
        let o = &posted.outcome;
        (o.last_epoch, o.reward_root, o.data_hash) == (wrong.last_epoch.0, wrong.reward_root, wrong.data_hash.0)
    };
    let Some(posted) = all.values().find(same).filter(|posted| posted.sequence > last_final) else {
        let why = format!(
            "the outcome of epoch {} is wrong, but its dispute window is over: it is final. Tell the network's operators",
            wrong.last_epoch
        );
        return Err(Failure::new(Code::WrongOutcome, why));
    };
    let contracts = network.epoch_contracts().code(Code::Config)?.addresses();
    let wallet = cx.wallet()?;
    let outbox = paying::outbox(cx, &network, wallet.address())?;
    cx.output.note("the outcome is wrong: filing a dispute …");
    let mined = paying::pay(&outbox, wallet, epochs.reads.client(), |settlement| async move {
        let settlement = EpochSettlement::new(settlement, contracts);
        paying::decided(cx, || settlement.dispute(posted)).await
    })
    .await?;
    mined.result.map_err(|why| Failure::new(Code::Reverted, why))?;
    Ok(mined.tx.to_string())
}
