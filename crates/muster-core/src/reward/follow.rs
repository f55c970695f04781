//! What follows from verdicts: records, slashes, bars.

use super::gather::at;
use super::judge::Verdict;
use super::outcome::SlashLeaf;
use super::params::RewardParams;
use super::state::{CheckerRecord, ContainerRecord};
use super::tally::{Found, Tally};
use crate::epoch::{Accusation, AccusedOf, ContainerEntry, Draw, EpochNo, RegistryStatus};
use crate::ids::{ContentHash, NodeId};
use crate::units::TokenAmount;

/// A Container that answered at least so often was there.
const PRESENT_BPS: u16 = 5_000;
/// After so many epochs without a verdict an accusation that votes decide is dropped: nobody can tell any more.
const APPEAL_EPOCHS_MAX: u64 = 8;

/// A fault that takes stake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// Work was broken off: a third.
    Interruption(ContentHash),
    /// Decided by the larger committee: far slower than claimed, or never answering a test while alive.
    FarBelow,
    /// Decided by the larger committee, each by many answers of its own: another model than is paid for.
    Substitution(ContentHash),
    /// A transcript shows it.
    Dishonest(ContentHash),
}

/// Follows the verdicts on Containers: new records, what is taken (by node), and who is jailed by it.
pub(super) fn containers(
    draw: &Draw,
    params: &RewardParams,
    tally: &Tally,
    mut records: Vec<ContainerRecord>,
) -> (Vec<ContainerRecord>, Vec<SlashLeaf>, Vec<NodeId>) {
    let (mut slashes, mut jailed) = (Vec::new(), Vec::new());
    let found = tally.containers.iter().zip(draw.view().containers());
    for (record, (found, entry)) in records.iter_mut().zip(found) {
        if entry.status != RegistryStatus::Active {
            record.proved = record.proved && entry.status == RegistryStatus::Jailed;
            continue;
        }
        let fault = follow(draw, params, record, found, entry);
        record.quality_bps = quality(record.quality_bps, found, entry, fault.is_some());
        let Some(fault) = fault else { continue };
        let amount = match fault {
            Fault::Interruption(_) => TokenAmount(entry.stake_due.0 / 3),
            Fault::FarBelow | Fault::Substitution(_) | Fault::Dishonest(_) => entry.stake_due,
        };
        if amount == TokenAmount::ZERO {
            continue;
        }
        let evidence = evidence(draw.epoch(), &entry.node, fault);
        slashes.push(SlashLeaf { last_epoch: draw.epoch(), node: entry.node, amount, evidence });
        if entry.stake.saturating_sub(amount) < entry.stake_due {
            jailed.push(entry.node);
        }
    }
    (records, slashes, jailed)
}

/// Brings one record in line with what was found; gives the worst fault.
fn follow(
    draw: &Draw,
    params: &RewardParams,
    record: &mut ContainerRecord,
    found: &Found,
    entry: &ContainerEntry,
) -> Option<Fault> {
    let epoch = draw.epoch();
    let suspect_until = epoch.plus(draw.params().epochs_in(draw.params().suspect_for_ms)).next();
    if let Some(presence) = found.presence_bps {
        record.presence_bps = presence;
        if presence < PRESENT_BPS {
            record.suspect_until = suspect_until;
        }
    }
    let tested = follow_test(draw, params, record, found, entry);
    let appealed = follow_appeal(epoch, record, found);
    let twice = match found.duplicate {
        Some(Verdict::Fraud { evidence }) => Some(Fault::Dishonest(evidence)),
        _ => None,
    };
    if matches!(found.quality, Some(Verdict::Poor | Verdict::Interrupted)) {
        record.suspect_until = suspect_until;
    }
    if found.quality == Some(Verdict::Interrupted) && record.accused.is_none() {
        record.accused = Some(Accusation { of: AccusedOf::Interruption, epoch });
    }
    // Who has looked at so many answers is rarely more than one of a small committee: the larger one looks for itself.
    if let Some(weights) = found.substituted.filter(|_| record.accused.is_none()) {
        record.accused = Some(Accusation { of: AccusedOf::Substitution { weights }, epoch });
    }
    let fault = tested.max(appealed).max(twice);
    if fault.is_some() {
        record.accused = None;
        record.suspect_until = suspect_until;
    }
    if matches!(fault, Some(Fault::FarBelow | Fault::Substitution(_) | Fault::Dishonest(_))) {
        // Whatever it proved before, it has to prove anew.
        *record = ContainerRecord {
            suspect_until,
            quality_bps: record.quality_bps,
            presence_bps: record.presence_bps,
            ..ContainerRecord::new(record.node)
        };
    }
    fault
}

fn follow_test(
    draw: &Draw,
    params: &RewardParams,
    record: &mut ContainerRecord,
    found: &Found,
    entry: &ContainerEntry,
) -> Option<Fault> {
    let epoch = draw.epoch();
    // The larger committee decides what the small one only accuses of.
    let disputed = entry.accused.is_some_and(|accused| !accused.of.is_decided_by_votes());
    let accuse = |record: &mut ContainerRecord, of: AccusedOf| {
        record.suspect_until = epoch.plus(draw.params().epochs_in(draw.params().suspect_for_ms)).next();
        record.accused = Some(Accusation { of, epoch });
    };
    match found.test {
        Some(Verdict::Fraud { evidence }) => return Some(Fault::Dishonest(evidence)),
        Some(Verdict::Proved { ob, .. }) => {
            let claimed = u64::from(entry.ob_claimed.0);
            let share = u64::from(ob.0).saturating_mul(10_000);
            let below = |bps: u16| share < claimed.saturating_mul(u64::from(bps));
            record.tested = Some(epoch);
            record.again = false;
            record.proved = true;
            record.note_ob(draw.params().day(epoch), ob);
            if disputed {
                record.accused = None;
            }
            if below(params.far_below_bps) {
                if disputed {
                    return Some(Fault::FarBelow);
                }
                accuse(record, AccusedOf::FarBelow);
            } else if below(params.suspect_below_bps) {
                record.suspect_until = epoch.plus(draw.params().epochs_in(draw.params().suspect_for_ms)).next();
            }
        }
        Some(Verdict::Absent) => {
            record.again = true;
            record.proved = false;
            // Who is not there at all earns nothing, which is enough; who is there and proves nothing is accused.
            if found.presence_bps.is_some_and(|presence| presence >= PRESENT_BPS) {
                if disputed {
                    return Some(Fault::FarBelow);
                }
                accuse(record, AccusedOf::Absence);
            } else if disputed && found.presence_bps.is_some() {
                record.accused = None;
            }
        }
        Some(_) => record.again = true,
        None => {}
    }
    None
}

fn follow_appeal(epoch: EpochNo, record: &mut ContainerRecord, found: &Found) -> Option<Fault> {
    let accused = record.accused.filter(|accused| accused.of.is_decided_by_votes())?;
    match found.appeal {
        Some(Verdict::Upheld { evidence }) => {
            return Some(match accused.of {
                AccusedOf::Substitution { .. } => Fault::Substitution(evidence),
                _ => Fault::Interruption(evidence),
            });
        }
        Some(Verdict::Dismissed) => record.accused = None,
        Some(_) | None => {
            if epoch.since(accused.epoch) > APPEAL_EPOCHS_MAX {
                record.accused = None;
            }
        }
    }
    None
}

/// The new quality: a quarter of the way down to what was found, or a twentieth of the way up, at least by one.
fn quality(before: u16, found: &Found, entry: &ContainerEntry, fault: bool) -> u16 {
    let test = match found.test {
        Some(Verdict::Proved { ob, .. }) => {
            let share = u64::from(ob.0).saturating_mul(10_000) / u64::from(entry.ob_claimed.0.max(1));
            Some(u16::try_from(share.min(10_000)).unwrap_or(10_000))
        }
        Some(Verdict::Absent) => Some(0),
        _ => None,
    };
    let work = match found.quality {
        Some(Verdict::Good) => Some(10_000),
        Some(Verdict::Poor) => Some(3_000),
        Some(Verdict::Interrupted) => Some(0),
        _ => None,
    };
    let samples = [found.presence_bps, test, work, fault.then_some(0)];
    let Some(sample) = samples.into_iter().flatten().min() else { return before };
    if sample < before {
        before.saturating_sub(before.saturating_sub(sample).div_ceil(4))
    } else {
        before.saturating_add(sample.saturating_sub(before).div_ceil(20))
    }
}

/// Names a fault of a node in an epoch, once.
fn evidence(epoch: EpochNo, node: &NodeId, fault: Fault) -> ContentHash {
    let (tag, hash) = match fault {
        Fault::Interruption(hash) => (1u8, hash),
        Fault::FarBelow => (2, ContentHash::ZERO),
        Fault::Dishonest(hash) => (3, hash),
        Fault::Substitution(hash) => (4, hash),
    };
    let mut hasher = blake3::Hasher::new_derive_key("muster 2026 slash evidence v1");
    hasher.update(&epoch.0.to_be_bytes()).update(&node.0).update(&[tag]).update(&hash.0);
    ContentHash(*hasher.finalize().as_bytes())
}

/// Follows what the epoch found of Checkers: new records, in the order of the view.
pub(super) fn checkers(
    draw: &Draw,
    params: &RewardParams,
    tally: &Tally,
    known: &[CheckerRecord],
) -> Vec<CheckerRecord> {
    let (epoch, epochs) = (draw.epoch(), draw.params());
    let (week, month) = (epochs.epochs_in(params.week_ms), epochs.epochs_in(params.month_ms));
    let mut known = known.iter().peekable();
    let mut records = Vec::with_capacity(draw.view().checkers().len());
    for (entry, place) in draw.view().checkers().iter().zip(0u32..) {
        while known.next_if(|record| record.node < entry.node).is_some() {}
        let old = known.next_if(|record| record.node == entry.node);
        let mut record = old.cloned().unwrap_or_else(|| CheckerRecord::new(entry.node));
        record.note(epochs.day(epoch), tally.duties.get(at(place)).copied().unwrap_or_default());
        record.wrong.retain(|wrong| epoch.since(*wrong) < week);
        let wrong = usize::try_from(tally.wrong.get(at(place)).copied().unwrap_or(0)).unwrap_or(usize::MAX);
        record.wrong.extend(core::iter::repeat_n(epoch, wrong.min(CheckerRecord::WRONG_MAX)));
        let excess = record.wrong.len().saturating_sub(CheckerRecord::WRONG_MAX);
        record.wrong.drain(..excess);
        if wrong > 0 && record.wrong.len() >= usize::from(params.wrong_max) {
            record.barred_until = epoch.next().plus(month);
        }
        records.push(record);
    }
    records
}
