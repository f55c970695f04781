//! Does a Container live, and is what it tells of its work plausible?

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use muster_chain::settle::LeaseOnChain;
use muster_core::ids::LeaseId;
use muster_core::reward::Finding;
use muster_core::units::TimeMs;
use muster_net::{NetError, StreamKind};
use muster_wire::message::audit::{Alive, Question};

use super::{Found, Job, unknown};
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

/// Looks at the work until the tests are over.
pub(super) async fn quality(house: &Arc<House>, job: &Job) -> Found {
    let every = Duration::from_millis(job.draw.params().quality_every_ms);
    let (mut good, mut poor) = (0u32, 0u32);
    let mut last: BTreeMap<LeaseId, u64> = BTreeMap::new();
    let mut why = None;
    loop {
        let before = tokio::time::Instant::now();
        match look(house, job, &mut last).await {
            Ok(None) => good += 1,
            Ok(Some(oddity)) => {
                poor += 1;
                why = Some(oddity);
            }
            Err(error) => why = Some(error),
        }
        let next = before + every;
        let left = job.left(house.clock.now()).saturating_sub(GRACE);
        if tokio::time::Instant::now() + left <= next {
            break;
        }
        tokio::time::sleep_until(next).await;
    }
    match (good, poor) {
        (0, 0) => unknown(why.unwrap_or_else(|| "nothing could be looked at".to_owned())),
        (good, poor) if poor > good => (Finding::Poor, why),
        _ => (Finding::Good, why),
    }
}

/// One look: `Ok(Some)` says what is implausible, `Err` why nothing can be said.
async fn look(house: &Arc<House>, job: &Job, last: &mut BTreeMap<LeaseId, u64>) -> Result<Option<String>, String> {
    let leases = house.ledger.leases(job.subject).await.map_err(|error| error.to_string())?;
    if leases.is_empty() {
        return Err("it has no open lease on the chain any more".to_owned());
    }
    let alive = match ask(house, job).await {
        Ok(alive) => alive,
        Err(error) => return Ok(Some(format!("it has leases and does not answer: {error}"))),
    };
    let now = house.clock.now();
    let known: BTreeMap<LeaseId, &LeaseOnChain> = leases.iter().map(|lease| (lease.lease, lease)).collect();
    for work in &*alive.work {
        let Some(lease) = known.get(&work.lease) else { continue };
        if let Some(oddity) = implausible(lease, (work.ran_ms, work.vouched.0), last.get(&work.lease).copied(), now) {
            return Ok(Some(format!("lease {}: {oddity}", work.lease.short())));
        }
        last.insert(work.lease, work.ran_ms);
    }
    Ok(None)
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
    // What was vouched is for time that ran, and half an interval ahead at most.
    let worth = lease.rate_per_second.0.saturating_mul(u128::from(ran_ms.saturating_add(SLACK_MS))) / 1_000;
    (vouched > worth.saturating_add(1)).then(|| format!("vouchers for {vouched}, and what ran is worth {worth}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_chain::settle::LeaseStatus;
    use muster_core::ids::{Address, NodeId};
    use muster_core::units::TokenAmount;

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
    }
}
