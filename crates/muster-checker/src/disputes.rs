//! Disputes: who decides one, what the outcome should be, and slashing those who signed what was wrong.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use muster_core::brain::checker::{Disputed, Event, Member};
use muster_core::ids::Address;
use muster_core::reward::Outcome;
use tracing::{info, warn};

use crate::archive::ArchiveError;
use crate::evidence::Kind;
use crate::ledger::{DisputedOutcome, LedgerError};
use crate::node::House;

/// How often the reports of a disputed outcome are looked for before it counts as one without reports.
const LOOKS_MAX: u32 = 3;
/// Between two of these looks.
const LOOK_AGAIN: Duration = Duration::from_secs(3);

/// Follows disputes until told to stop.
pub(crate) async fn watch(house: Arc<House>) {
    let every = Duration::from_millis(house.params.epoch.epoch_ms / 30)
        .clamp(Duration::from_millis(300), Duration::from_secs(30));
    let (mut told, mut slashed) = (None, BTreeSet::new());
    loop {
        match house.ledger.disputed().await {
            Ok(None) if told.take().is_some() => house.tell(Event::Disputed(None)).await,
            Ok(None) => {}
            Ok(Some(DisputedOutcome { posted, before })) if told != Some(posted) => {
                if let Some(members) = members(&house, before.as_ref()).await {
                    info!(last = %posted.last_epoch, seats = members.len(), "an outcome is disputed");
                    told = Some(posted);
                    house.tell(Event::Disputed(Some(Box::new(Disputed { posted, members })))).await;
                }
            }
            Ok(Some(_)) => {}
            Err(why) => house.chain_problem(Some(why.to_string())),
        }
        if let Err(why) = slash(&house, &mut slashed).await {
            house.chain_problem(Some(why.to_string()));
        }
        tokio::select! {
            () = house.stop.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
    }
}

/// The dispute committee that an outcome names.
async fn members(house: &Arc<House>, before: Option<&Outcome>) -> Option<Vec<Member>> {
    let Some(before) = before else { return Some(house.first_committee().to_vec()) };
    match house.archive().published_with(before).await {
        Ok(published) => Some(house.members(&published.next_dispute_committee)),
        Err(why) => {
            warn!(%why, "who decides a dispute cannot be known yet");
            None
        }
    }
}

/// Computes a disputed outcome again.
pub(crate) async fn reexamine(house: Arc<House>, posted: Outcome) {
    let archive = house.archive();
    let mut looks = 0u32;
    let ours = loop {
        looks = looks.saturating_add(1);
        let why = match archive.right(&posted, looks >= LOOKS_MAX).await {
            Ok(ours) => break ours,
            Err(why) => why,
        };
        warn!(%why, last = %posted.last_epoch, "a disputed outcome cannot be computed again yet");
        if !matches!(why, ArchiveError::Missing { .. } | ArchiveError::Published(_)) || looks >= LOOKS_MAX {
            // It is asked for again.
            return;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    };
    if let Err(why) = house.keep(Kind::Published, &ours.published) {
        warn!(%why, "a dispute is not decided, because its data cannot be kept");
        return;
    }
    let (right, published) = (Box::new(ours.outcome), Arc::new(ours.published));
    house.tell(Event::Reexamined { posted: Box::new(posted), right, published }).await;
}

/// Slashes signers of outcomes that were replaced for good. All Checkers try; the chain takes it once.
async fn slash(house: &Arc<House>, done: &mut BTreeSet<(u64, Address)>) -> Result<(), LedgerError> {
    for wrong in house.ledger.condemned().await? {
        let committee: Vec<Address> = match &wrong.before {
            None => house.first_committee().iter().map(|member| member.signer).collect(),
            Some(before) => match house.archive().published_with(before).await {
                Ok(published) => published.next_committee,
                Err(_) => continue,
            },
        };
        let signed = (0u8..32).zip(house.members(&committee)).filter(|(at, _)| wrong.signers >> at & 1 == 1);
        for (position, member) in signed {
            if !done.insert((wrong.sequence, member.signer)) {
                continue;
            }
            match house.ledger.slash_signer(wrong.sequence, committee.clone(), position, member.node).await {
                Ok(()) => info!(checker = %member.node.short(), "slashed for signing a wrong outcome"),
                // Another Checker was first, or nothing is left to take.
                Err(LedgerError::Refused(why)) => tracing::debug!(%why, "a signer was not slashed by this Checker"),
                Err(why) => {
                    done.remove(&(wrong.sequence, member.signer));
                    return Err(why);
                }
            }
        }
    }
    Ok(())
}
