//! Many leases with empty workloads, one after the other and side by side: for measuring, and for nothing else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use muster_core::brain::consumer::Rented;
use muster_core::demand::Demand;
use muster_core::lease::{End, Lease, Phase};
use muster_core::protocol::JobSpec;
use muster_core::units::TokenAmount;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::rental::{Rental, RentalEvent};
use crate::renter::Renter;
use crate::seek::{SeekError, seek};
use crate::session::SessionKey;
use crate::store::{LeasePlan, LeaseRecord, LeaseState};

/// The command that a Container with `allow_empty` takes for "run nothing, end at once".
pub const EMPTY_COMMAND: &str = "muster:empty";
/// How often a busy network is asked again for one lease.
const BUSY_TRIES: u32 = 2_000;
/// Pause before it is.
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// One lease that was opened, run and closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmptyRental {
    /// From the request to the slot.
    pub matched: Duration,
    /// From the slot to the deposit on the chain.
    pub opened: Duration,
    /// From the request to the workload's end.
    pub ended: Duration,
    /// From the request until the chain had closed it.
    pub closed: Duration,
    /// Vouchers that were signed.
    pub vouchers: u32,
    /// What it cost.
    pub billed: TokenAmount,
}

/// What came of all of them.
#[derive(Clone, Debug, Default)]
pub struct EmptyRentals {
    /// Those that came to their proper end.
    pub done: Vec<EmptyRental>,
    /// Why others did not, as sentences.
    pub failed: Vec<String>,
    /// From the first request to the last end.
    pub took: Duration,
}

/// Rents `count` times, `parallel` at a time, for a workload that does nothing.
pub async fn rent_empty(renter: &Renter, demand: &Demand, count: usize, parallel: usize) -> EmptyRentals {
    let slots = Arc::new(Semaphore::new(parallel.max(1)));
    let mut running = JoinSet::new();
    let mut all = EmptyRentals::default();
    let begun = Instant::now();
    for _ in 0..count {
        let slot = Arc::clone(&slots).acquire_owned().await.expect("the semaphore is never closed");
        while let Some(done) = running.try_join_next() {
            all.add(done);
        }
        let (renter, demand) = (renter.clone(), demand.clone());
        running.spawn(async move {
            let done = Box::pin(rent_one(renter, demand)).await;
            drop(slot);
            done
        });
    }
    while let Some(done) = running.join_next().await {
        all.add(done);
    }
    all.took = begun.elapsed();
    all
}

impl EmptyRentals {
    fn add(&mut self, done: Result<Result<EmptyRental, String>, tokio::task::JoinError>) {
        match done {
            Ok(Ok(rental)) => self.done.push(rental),
            Ok(Err(why)) => self.failed.push(why),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(error) => self.failed.push(error.to_string()),
        }
    }
}

async fn rent_one(renter: Renter, demand: Demand) -> Result<EmptyRental, String> {
    let key = SessionKey::random();
    let begun = Instant::now();
    let mut tries = 0;
    let matched = loop {
        match seek(&renter, &demand, demand.time_limit_s, &key).await {
            Ok(matched) => break matched,
            Err(SeekError::Busy(_) | SeekError::Overloaded(_)) if tries < BUSY_TRIES => {
                tries += 1;
                tokio::time::sleep(BUSY_PAUSE).await;
            }
            Err(error) => return Err(error.to_string()),
        }
    };
    let matched_after = begun.elapsed();
    let now = renter.now();
    let plan = LeasePlan {
        created_at: now,
        network: renter.network().fingerprint(),
        session_key: key.secret(),
        spec: JobSpec { command: vec![EMPTY_COMMAND.to_owned()], env: Vec::new(), stdin: false },
        inputs: Vec::new(),
        output: None,
        keep_logs: false,
        job: "bench".to_owned(),
        task: None,
        attempt: 1,
    };
    let rented = Rented {
        lease: Lease::accepted(matched.terms, now),
        container: matched.container,
        go_at: None,
        stop_asked: false,
        outputs_taken: false,
        gone: None,
        settle_tx: None,
    };
    let record = LeaseRecord { plan, state: LeaseState::new(rented) };
    let dir = renter.dir().clone();
    let created = tokio::task::spawn_blocking(move || dir.create(&record)).await;
    let file = created.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    let (sender, mut events) = mpsc::channel(64);
    let (_commands, received) = mpsc::channel(1);
    let mut driving = std::pin::pin!(Rental::new(renter, file, sender, received).run());
    let (mut opened, mut ended) = (None, None);
    let record = loop {
        tokio::select! {
            over = &mut driving => break over.map_err(|e| e.to_string())?.1,
            Some(event) = events.recv() => match event {
                RentalEvent::Opened => opened = Some(begun.elapsed()),
                RentalEvent::Ended { .. } => ended = Some(begun.elapsed()),
                _ => {}
            },
        }
    };
    let closed = begun.elapsed();
    let lease = &record.state.rented.lease;
    match (lease.phase, &lease.end, opened, ended) {
        (Phase::Closed, Some(End::Exited(0)), Some(opened), Some(ended)) => Ok(EmptyRental {
            matched: matched_after,
            opened: opened.saturating_sub(matched_after),
            ended,
            closed,
            vouchers: lease.vouchers,
            billed: lease.redeemed,
        }),
        (phase, end, ..) => {
            let how = end.as_ref().map(ToString::to_string).or_else(|| record.state.rented.gone.clone());
            Err(format!("the lease is {phase}: {}", how.unwrap_or_else(|| "nothing is known of its end".to_owned())))
        }
    }
}
