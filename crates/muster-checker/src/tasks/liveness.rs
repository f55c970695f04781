//! Does a Container live, and is what it tells of its work plausible?

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use muster_chain::settle::LeaseOnChain;
use muster_core::delivery::Delivered;
use muster_core::epoch::EpochNo;
use muster_core::ids::{ContentHash, LeaseId};
use muster_core::reward::Finding;
use muster_core::units::{TimeMs, TokenAmount};
use muster_net::{NetError, StreamKind};
use muster_wire::message::audit::{Alive, Question};

use super::answers::{Honest, answers, ask_by_chance};
use super::play::play;
use super::{Found, Job, unknown};
use crate::ledger::LedgerError;
use crate::node::House;

/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// What clocks, blocks and the way may differ by before figures count as made up.
const SLACK_MS: u64 = 120_000;
/// Questions of one epoch: what fits into a report.
const ASKED_MAX: u16 = 10_000;

async fn ask(house: &Arc<House>, job: &Job) -> Result<Alive, NetError> {
    let connection = house.connect(job.subject).await?;
    let mut stream = connection.open_bi(StreamKind::Liveness).await?.framed();
    let question = Question { epoch: job.draw.epoch().0, nonce: rand::random() };
    let alive: Alive = stream.ask(&question, ANSWER_WITHIN).await?;
    if alive.nonce == question.nonce { Ok(alive) } else { Err(NetError::StreamClosed) }
}

/// Asks again and again until the tests are over.
pub(super) async fn liveness(house: &Arc<House>, job: &Job) -> Found {
    let every = Duration::from_millis(job.draw.params().liveness_every_ms);
    let (mut answered, mut asked) = (0u16, 0u16);
    let mut why = None;
    loop {
        let before = tokio::time::Instant::now();
        // An answer that could not come in time any more is not asked for.
        if job.left(house.clock.now()) <= ANSWER_WITHIN.min(every) && asked > 0 || asked >= ASKED_MAX {
            break;
        }
        let answer = tokio::time::timeout(job.left(house.clock.now()).saturating_sub(GRACE), ask(house, job)).await;
        asked += 1;
        match answer {
            Ok(Ok(_)) => answered += 1,
            Ok(Err(error)) => why = Some(error.to_string()),
            Err(_) => why = Some("no answer".to_owned()),
        }
        let next = before + every;
        let left = job.left(house.clock.now()).saturating_sub(GRACE);
        if tokio::time::Instant::now() + left <= next {
            break;
        }
        tokio::time::sleep_until(next).await;
    }
    (Finding::Liveness { answered, asked }, why)
}

/// Left over at the end for the result.
const GRACE: Duration = Duration::from_millis(50);

/// What one look at a Container's work came to.
enum Look {
    /// It answers, and what it tells is plausible.
    Good,
    /// It answers, and tells something that cannot be.
    Odd(String),
    /// It has leases and does not answer.
    Silent(String),
    /// Nothing can be said.
    Nothing(String),
}

/// Looks at the work until the tests are over, and may play or ask meanwhile: what a player sees, and what answers come to,
/// counts before what is told, and what is poor before what is good.
pub(super) async fn quality(house: &Arc<House>, job: &Job) -> Found {
    ask_by_chance(house, job);
    let (looked, played) = tokio::join!(looks(house, job), play(house, job));
    let seen = match (played, answers(house, job)) {
        (_, Some((Honest::No, why, weights))) => Some((Finding::Substituted { weights }, why)),
        (Some((Delivered::Poor(_), why)), _) => Some((Finding::Poor, why)),
        (_, Some((Honest::Hides, why, _))) => Some((Finding::Poor, why)),
        (Some((Delivered::Good, why)), _) | (_, Some((Honest::Yes, why, _))) => Some((Finding::Good, why)),
        _ => None,
    };
    match (looked, seen) {
        ((Finding::Good | Finding::Unknown, _), Some((finding, why))) => (finding, Some(why)),
        (looked, _) => looked,
    }
}

/// Looks at what it tells of its work.
///
/// Work is broken off where the Container has leases, answers nothing to the end, and a consumer had to give one of them up
/// on the chain: what a consumer says alone counts as little as what a Checker does not hear alone.
async fn looks(house: &Arc<House>, job: &Job) -> Found {
    let every = Duration::from_millis(job.draw.params().quality_every_ms);
    let (mut good, mut poor, mut silent) = (0u32, 0u32, 0u32);
    let mut last: BTreeMap<LeaseId, u64> = BTreeMap::new();
    let mut why = None;
    loop {
        let before = tokio::time::Instant::now();
        match look(house, job, &mut last).await {
            Look::Good => (good, silent) = (good + 1, 0),
            Look::Odd(oddity) => {
                (poor, silent) = (poor + 1, 0);
                why = Some(oddity);
            }
            Look::Silent(error) => {
                (poor, silent) = (poor + 1, silent + 1);
                why = Some(error);
            }
            Look::Nothing(error) => why = Some(error),
        }
        let next = before + every;
        let left = job.left(house.clock.now()).saturating_sub(GRACE);
        if tokio::time::Instant::now() + left <= next {
            break;
        }
        tokio::time::sleep_until(next).await;
    }
    if silent >= SILENT_MIN
        && let Ok(Some(lease)) = given_up(house, job, job.draw.epoch()).await
    {
        return (Finding::Interrupted, Some(format!("it is silent, and the consumer of lease {lease} gave it up")));
    }
    match (good, poor) {
        (0, 0) => unknown(why.unwrap_or_else(|| "nothing could be looked at".to_owned())),
        (good, poor) if poor > good => (Finding::Poor, why),
        _ => (Finding::Good, why),
    }
}

/// So many looks one after the other, up to the last, must go without an answer.
const SILENT_MIN: u32 = 2;

/// The first lease of the Container that its consumer gave up since the epoch before one.
async fn given_up(house: &House, job: &Job, epoch: EpochNo) -> Result<Option<LeaseId>, LedgerError> {
    // Between the tests of one epoch and of the next nobody looks.
    let after = job.draw.params().begin(EpochNo(epoch.0.saturating_sub(1)));
    Ok(house.ledger.given_up(job.subject, after).await?.first().copied())
}

/// Decides whether a Container broke work off, as it was accused of: by what the chain says.
pub(super) async fn interruption(house: &Arc<House>, job: &Job, accused: EpochNo) -> Found {
    match given_up(house, job, accused).await {
        Ok(Some(lease)) => {
            let why = format!("the consumer of lease {lease} gave it up");
            (Finding::Upheld { evidence: ContentHash(lease.0) }, Some(why))
        }
        Ok(None) => (Finding::Dismissed, Some("no consumer gave a lease of it up".to_owned())),
        Err(error) => unknown(error.to_string()),
    }
}

/// One look.
async fn look(house: &Arc<House>, job: &Job, last: &mut BTreeMap<LeaseId, u64>) -> Look {
    let leases = match house.ledger.leases(job.subject).await {
        Ok(leases) if leases.is_empty() => {
            return Look::Nothing("it has no open lease on the chain any more".to_owned());
        }
        Ok(leases) => leases,
        Err(error) => return Look::Nothing(error.to_string()),
    };
    // A line that is dead takes long to say so.
    let within = job.left(house.clock.now()).saturating_sub(GRACE * 4).min(ANSWER_WITHIN);
    let alive = match tokio::time::timeout(within, ask(house, job)).await {
        Ok(Ok(alive)) => alive,
        Ok(Err(error)) => return Look::Silent(format!("it has leases and does not answer: {error}")),
        Err(_) => return Look::Silent("it has leases and does not answer".to_owned()),
    };
    let now = house.clock.now();
    let known: BTreeMap<LeaseId, &LeaseOnChain> = leases.iter().map(|lease| (lease.lease, lease)).collect();
    for work in &*alive.work {
        let Some(lease) = known.get(&work.lease) else { continue };
        if let Some(oddity) = implausible(lease, (work.ran_ms, work.vouched.0), last.get(&work.lease).copied(), now) {
            return Look::Odd(format!("lease {}: {oddity}", work.lease.short()));
        }
        last.insert(work.lease, work.ran_ms);
    }
    Look::Good
}

/// What is wrong with figures of a lease, if anything is.
fn implausible(
    lease: &LeaseOnChain,
    (ran_ms, vouched): (u64, u128),
    before: Option<u64>,
    now: TimeMs,
) -> Option<String> {
    if vouched > lease.deposit.0 {
        return Some(format!("vouchers for {vouched}, more than the deposit of {}", lease.deposit.0));
    }
    let open_ms = now.0.saturating_sub(lease.opened_at_s.saturating_mul(1_000));
    if ran_ms > open_ms.saturating_add(SLACK_MS) {
        return Some(format!("it ran {ran_ms} ms and is open for {open_ms} ms"));
    }
    if before.is_some_and(|before| ran_ms < before) {
        return Some("its running time has fallen".to_owned());
    }
    // What is paid by the token says nothing of time.
    if lease.rate_per_second == TokenAmount::ZERO {
        return None;
    }
    // What was vouched is for time that ran, and half an interval ahead at most.
    let worth = lease.rate_per_second.0.saturating_mul(u128::from(ran_ms.saturating_add(SLACK_MS))) / 1_000;
    (vouched > worth.saturating_add(1)).then(|| format!("vouchers for {vouched}, and what ran is worth {worth}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_chain::settle::LeaseStatus;
    use muster_core::ids::{Address, NodeId};

    #[test]
    fn made_up_figures_are_seen() {
        let lease = LeaseOnChain {
            lease: LeaseId([1; 32]),
            consumer: Address::ZERO,
            payee: Address::ZERO,
            session_key: Address::ZERO,
            container: NodeId::ZERO,
            deposit: TokenAmount(1_000_000),
            redeemed: TokenAmount::ZERO,
            rate_per_second: TokenAmount(100),
            opened_at_s: 1_000,
            max_seconds: 3_600,
            closing_at_s: 0,
            closed_at_s: 0,
            fee_bps: 0,
            status: LeaseStatus::Open,
        };
        let now = TimeMs(1_600_000);
        let odd = |figures, before| implausible(&lease, figures, before, now);
        assert_eq!(odd((500_000, 50_000), Some(400_000)), None);
        assert!(odd((500_000, 2_000_000), None).unwrap().contains("deposit"));
        assert!(odd((900_000, 0), None).unwrap().contains("is open for"));
        assert!(odd((500_000, 50_000), Some(600_000)).unwrap().contains("fallen"));
        assert!(odd((500_000, 70_000), None).unwrap().contains("worth"));
        // A model is paid by the token.
        let by_token = LeaseOnChain { rate_per_second: TokenAmount::ZERO, ..lease.clone() };
        assert_eq!(implausible(&by_token, (500_000, 70_000), None, now), None);
        assert!(implausible(&by_token, (500_000, 2_000_000), None, now).unwrap().contains("deposit"));
    }
}
