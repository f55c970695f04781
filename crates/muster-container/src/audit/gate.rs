//! Who may ask for proofs, and how often.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use muster_core::epoch::{EpochNo, EpochParams};
use muster_core::ids::NodeId;
use muster_core::proof::Challenge;
use tokio::sync::Semaphore;
use tracing::debug;

use crate::ledger::Ledger;

/// How long the list of Checkers is believed, and how soon it is read again for somebody who is not on it.
const BELIEVED_FOR: Duration = Duration::from_secs(60);
const READ_AGAIN_AFTER: Duration = Duration::from_secs(2);
/// Proofs of one card for one Checker in one epoch: its test, and one repetition after a lost connection.
const PER_CHECKER: u32 = 2;
/// Proofs of one card that may wait for the one that runs.
const WAITING_MAX: u32 = 2;

/// Why a Checker gets no proof.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// For another epoch than now, by this clock.
    #[error("it is for epoch {got}, and by this clock it is epoch {now}: compare the clocks")]
    Epoch {
        /// The challenge's.
        got: EpochNo,
        /// Now.
        now: EpochNo,
    },
    /// Meant for others.
    #[error("it names another Checker or Container than those who talk here")]
    Names,
    /// Of a card that is not offered, or claimed to be another one.
    #[error("it is about a card that this Container does not offer like that")]
    Card,
    /// More often than any draw asks.
    #[error("the card was proved to this Checker as often in this epoch as a draw can ask")]
    TooOften,
    /// Too many at once.
    #[error("the card proves itself to others just now, and more wait already")]
    Busy,
}

#[derive(Debug, Default)]
struct Known {
    checkers: BTreeSet<NodeId>,
    read_at: Option<Instant>,
}

#[derive(Debug, Default)]
struct Counted {
    epoch: EpochNo,
    proofs: BTreeMap<(NodeId, u8), u32>,
    all: BTreeMap<u8, u32>,
}

#[derive(Debug)]
struct Card {
    running: Arc<Semaphore>,
    waiting: Mutex<u32>,
}

/// The gate that Checkers come through.
#[derive(Debug)]
pub(crate) struct Gate {
    ledger: Arc<dyn Ledger>,
    epochs: EpochParams,
    known: tokio::sync::Mutex<Known>,
    counted: Mutex<Counted>,
    cards: Vec<Card>,
}

/// A card that is free for one proof, until this is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _running: tokio::sync::OwnedSemaphorePermit,
}

fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gate {
    pub(crate) fn new(ledger: Arc<dyn Ledger>, epochs: EpochParams, cards: usize) -> Self {
        let card = || Card { running: Arc::new(Semaphore::new(1)), waiting: Mutex::new(0) };
        Self {
            ledger,
            epochs,
            known: tokio::sync::Mutex::default(),
            counted: Mutex::default(),
            cards: (0..cards).map(|_| card()).collect(),
        }
    }

    /// Whether somebody is a Checker in good standing, by the chain's registry. What was known stays while the chain is
    /// away.
    pub(crate) async fn is_checker(&self, peer: NodeId) -> bool {
        let mut known = self.known.lock().await;
        let age = known.read_at.map(|at| at.elapsed());
        let listed = known.checkers.contains(&peer);
        let read = match age {
            None => true,
            Some(age) => age >= BELIEVED_FOR || (!listed && age >= READ_AGAIN_AFTER),
        };
        if read {
            known.read_at = Some(Instant::now());
            match self.ledger.checkers().await {
                Ok(checkers) => known.checkers = checkers.into_iter().collect(),
                Err(error) => debug!(%error, "the Checkers cannot be read from the registry"),
            }
        }
        known.checkers.contains(&peer)
    }

    /// Whether a challenge may be taken now; counts it.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub(crate) fn admit(
        &self,
        challenge: &Challenge,
        checker: NodeId,
        container: NodeId,
        now: EpochNo,
    ) -> Result<(), Refusal> {
        if challenge.checker != checker || challenge.container != container {
            return Err(Refusal::Names);
        }
        let got = EpochNo(challenge.epoch);
        if got != now && got.next() != now && now.next() != got {
            return Err(Refusal::Epoch { got, now });
        }
        if usize::from(challenge.card) >= self.cards.len() {
            return Err(Refusal::Card);
        }
        let mut counted = held(&self.counted);
        // Counted by this side's epoch: a Checker that names another one gains nothing.
        if counted.epoch != now {
            *counted = Counted { epoch: now, ..Counted::default() };
        }
        let all_max = u32::from(self.epochs.dispute_seats.max(self.epochs.committee_seats)).saturating_mul(PER_CHECKER);
        let all = counted.all.entry(challenge.card).or_insert(0);
        if *all >= all_max {
            return Err(Refusal::TooOften);
        }
        *all += 1;
        let count = counted.proofs.entry((checker, challenge.card)).or_insert(0);
        if *count >= PER_CHECKER {
            return Err(Refusal::TooOften);
        }
        *count += 1;
        Ok(())
    }

    /// Waits for a card to be free. The Checker's clock runs on meanwhile.
    ///
    /// # Errors
    /// [`Refusal::Busy`].
    pub(crate) async fn turn(&self, card: u8) -> Result<Turn, Refusal> {
        let card = self.cards.get(usize::from(card)).ok_or(Refusal::Card)?;
        if let Ok(running) = Arc::clone(&card.running).try_acquire_owned() {
            return Ok(Turn { _running: running });
        }
        let _place = Place::take(&card.waiting).ok_or(Refusal::Busy)?;
        let running = Arc::clone(&card.running).acquire_owned().await.map_err(|_| Refusal::Busy)?;
        Ok(Turn { _running: running })
    }
}

/// A place in a queue, given up when dropped.
struct Place<'a>(&'a Mutex<u32>);

impl<'a> Place<'a> {
    fn take(waiting: &'a Mutex<u32>) -> Option<Self> {
        let mut count = held(waiting);
        if *count >= WAITING_MAX {
            return None;
        }
        *count += 1;
        drop(count);
        Some(Self(waiting))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        *held(self.0) -= 1;
    }
}
