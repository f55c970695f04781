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
        let seats = u32::from(self.epochs.dispute_seats.max(self.epochs.committee_seats));
        let mine = counted.proofs.get(&(checker, challenge.card)).copied().unwrap_or(0);
        let all = counted.all.get(&challenge.card).copied().unwrap_or(0);
        // What is refused counts for nothing: nobody can use up what others are to have.
        if mine >= PER_CHECKER || all >= seats.saturating_mul(PER_CHECKER) {
            return Err(Refusal::TooOften);
        }
        counted.proofs.insert((checker, challenge.card), mine + 1);
        counted.all.insert(challenge.card, all + 1);
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

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use futures::future::BoxFuture;
    use muster_core::hardware::GpuModel;
    use muster_core::ids::{Address, ContentHash, LeaseId};
    use muster_core::proof::challenge::PROOF_VERSION;
    use muster_core::proof::{Claim, Rates, Scale};
    use muster_core::protocol::EscrowLease;
    use muster_core::units::{Bytes, Ob};
    use muster_core::voucher::{CompactSignature, SignedVoucher};

    use super::*;
    use crate::ledger::{Earnings, LedgerError, Settled, Standing};

    /// A chain that knows Checkers, or is away.
    #[derive(Debug)]
    struct Chain(Mutex<Option<Vec<NodeId>>>);

    fn away<T>() -> Result<T, LedgerError> {
        Err(LedgerError::Unknown("away".to_owned()))
    }

    impl Ledger for Chain {
        fn leases(&self, _: Vec<LeaseId>) -> BoxFuture<'_, Result<Vec<EscrowLease>, LedgerError>> {
            async { away() }.boxed()
        }
        fn settle(&self, _: LeaseId, _: Option<SignedVoucher>) -> BoxFuture<'_, Result<Settled, LedgerError>> {
            async { away() }.boxed()
        }
        fn standing(&self) -> BoxFuture<'_, Result<Standing, LedgerError>> {
            async { away() }.boxed()
        }
        fn register(&self, _: String) -> BoxFuture<'_, Result<(), LedgerError>> {
            async { away() }.boxed()
        }
        fn announce(&self, _: String) -> BoxFuture<'_, Result<(), LedgerError>> {
            async { away() }.boxed()
        }
        fn checkers(&self) -> BoxFuture<'_, Result<Vec<NodeId>, LedgerError>> {
            let known = held(&self.0).clone();
            async move { known.map_or_else(away, Ok) }.boxed()
        }
        fn leave(&self) -> BoxFuture<'_, Result<(), LedgerError>> {
            async { away() }.boxed()
        }
        fn earnings(&self) -> BoxFuture<'_, Result<Earnings, LedgerError>> {
            async { away() }.boxed()
        }
        fn owner(&self) -> Address {
            Address::ZERO
        }
        fn voucher_signer(&self, _: &SignedVoucher) -> Option<Address> {
            None
        }
        fn message_signer(&self, _: &[u8], _: CompactSignature) -> Option<Address> {
            None
        }
        fn close(&self) -> BoxFuture<'_, ()> {
            async {}.boxed()
        }
    }

    const ME: NodeId = NodeId([1; 32]);
    const NOW: EpochNo = EpochNo(100);

    fn gate(checkers: Option<Vec<NodeId>>) -> Gate {
        Gate::new(Arc::new(Chain(Mutex::new(checkers))), EpochParams::development(), 2)
    }

    fn challenge(checker: u8, card: u8, epoch: u64) -> Challenge {
        Challenge {
            version: PROOF_VERSION,
            beacon: [0; 32],
            epoch,
            container: ME,
            checker: NodeId([checker; 32]),
            card,
            claim: Claim { model: GpuModel::new("processor").unwrap(), ob: Ob(1), vram: Bytes(1) },
            rates: Rates {
                table_ob: Ob(1),
                uncertainty_percent: 80,
                steps_per_ob: 1,
                products_per_ob: 1,
                reads_per_ob: 1,
            },
            scale: Scale::development(),
            commitment: ContentHash::ZERO,
        }
    }

    #[test]
    fn nobody_gets_more_proofs_than_a_draw_can_ask() {
        let gate = gate(None);
        let ask =
            |checker: u8, card, epoch| gate.admit(&challenge(checker, card, epoch), NodeId([checker; 32]), ME, NOW);
        assert_eq!((ask(2, 0, 100), ask(2, 0, 99), ask(2, 0, 101)), (Ok(()), Ok(()), Err(Refusal::TooOften)));
        assert_eq!(ask(2, 1, 100), Ok(()), "another card");
        assert_eq!(ask(2, 2, 100), Err(Refusal::Card));
        assert_eq!(ask(3, 0, 102), Err(Refusal::Epoch { got: EpochNo(102), now: NOW }));
        let other = gate.admit(&challenge(2, 0, 100), NodeId([9; 32]), ME, NOW);
        assert_eq!(other, Err(Refusal::Names), "in another one's name");
        // All of them together get twice the largest committee's seats.
        let seats = u32::from(EpochParams::development().dispute_seats);
        let taken = (10..200).filter(|checker| ask(*checker, 0, 100).is_ok()).count();
        assert_eq!(u32::try_from(taken).unwrap(), 2 * seats - 2, "twice {seats}, without two before");
        assert_eq!(gate.admit(&challenge(2, 0, 101), NodeId([2; 32]), ME, NOW.next()), Ok(()), "a new epoch");
    }

    #[tokio::test]
    async fn only_checkers_of_the_registry_come_through_and_stay_known_while_the_chain_is_away() {
        let chain = Arc::new(Chain(Mutex::new(Some(vec![NodeId([2; 32])]))));
        let gate = Gate::new(Arc::clone(&chain) as Arc<dyn Ledger>, EpochParams::development(), 1);
        assert!(gate.is_checker(NodeId([2; 32])).await);
        assert!(!gate.is_checker(NodeId([3; 32])).await);
        *held(&chain.0) = None;
        gate.known.lock().await.read_at = None;
        assert!(gate.is_checker(NodeId([2; 32])).await, "unknown is not no");
    }

    #[tokio::test]
    async fn a_card_proves_one_at_a_time_and_few_wait() {
        let gate = Arc::new(gate(None));
        let first = gate.turn(0).await.unwrap();
        let waiting: Vec<_> = (0..WAITING_MAX)
            .map(|_| {
                let gate = Arc::clone(&gate);
                tokio::spawn(async move { gate.turn(0).await.map(drop) })
            })
            .collect();
        while *held(&gate.cards[0].waiting) < WAITING_MAX {
            tokio::task::yield_now().await;
        }
        assert_eq!(gate.turn(0).await.map(drop), Err(Refusal::Busy));
        assert!(gate.turn(1).await.is_ok(), "the other card is free");
        drop(first);
        for turn in waiting {
            assert_eq!(turn.await.unwrap(), Ok(()));
        }
    }
}
