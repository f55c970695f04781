//! Payments of single requests: what became of each, written down before it is acted on.
//!
//! A payment is *taken* before it is brought to the chain, *settled* once it is in a block, and *answered* before the
//! head of its answer goes out. One that is taken or settled may be sent again, also to the process after this one; one
//! that is answered never. So it buys one answer at most, and is not lost with a process.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use muster_chain::settle::{Authorization, TxId};
use muster_core::units::TokenAmount;
use redb::TableDefinition;

use super::store::{self, Store, UsageError};

/// By payer and nonce.
const PAYMENTS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("payments");
/// What is answered is forgotten so long after the token itself would refuse it.
const KEPT_S: u64 = 86_400;

/// Which payment: the payer, and the nonce that the payer drew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct PaymentId([u8; 52]);

impl PaymentId {
    fn of(authorization: &Authorization) -> Self {
        let mut id = [0; 52];
        id[..20].copy_from_slice(&authorization.from.0);
        id[20..].copy_from_slice(&authorization.nonce);
        Self(id)
    }
}

/// How far a payment has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Brought to the chain, or about to be.
    Taken,
    /// In a block.
    Settled(TxId),
    /// Its answer went out.
    Answered(TxId),
}

/// Why a payment cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PaymentError {
    #[error("another request is being answered for this payment; sign a payment for each request")]
    InHand,
    #[error("this payment was used already (transaction {0}); sign a payment for each request")]
    Used(TxId),
    #[error(transparent)]
    Store(#[from] UsageError),
}

/// All payments.
#[derive(Debug)]
pub(crate) struct Payments {
    store: Arc<Store>,
    in_hand: Mutex<HashSet<PaymentId>>,
}

/// A payment that one request has in hand, until it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    payments: Arc<Payments>,
    id: PaymentId,
    authorization: Authorization,
    /// What an earlier request, or an earlier process, has done with it.
    pub(crate) known: Option<Step>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.payments.in_hand.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl Payments {
    /// Reads nothing yet, and forgets what is long over.
    pub(super) fn open(store: Arc<Store>, now_s: u64) -> Result<Arc<Self>, UsageError> {
        store.write("look through the payments in", |txn| {
            let mut payments = txn.open_table(PAYMENTS)?;
            payments.retain(|_, value| {
                let over = |(step, valid_before_s): (Step, u64)| {
                    matches!(step, Step::Answered(_)) && valid_before_s.saturating_add(KEPT_S) < now_s
                };
                !unseal(value).is_some_and(over)
            })?;
            Ok(())
        })?;
        Ok(Arc::new(Self { store, in_hand: Mutex::default() }))
    }

    /// Takes a payment in hand for one request. Waits for the disk.
    pub(crate) fn hold(self: &Arc<Self>, authorization: &Authorization) -> Result<Held, PaymentError> {
        let id = PaymentId::of(authorization);
        if !self.in_hand.lock().unwrap_or_else(PoisonError::into_inner).insert(id) {
            return Err(PaymentError::InHand);
        }
        // From here on it is let go of where anything fails.
        let mut held = Held { payments: Arc::clone(self), id, authorization: *authorization, known: None };
        let found = self.store.read(|txn| {
            let payments = txn.open_table(PAYMENTS)?;
            Ok(payments.get(id.0.as_slice())?.map(|value| value.value().to_vec()))
        })?;
        held.known = match found {
            None => None,
            Some(bytes) => {
                let (step, _) = unseal(&bytes).ok_or_else(|| self.store.damaged(&hex::encode(id.0)))?;
                Some(step)
            }
        };
        match held.known {
            Some(Step::Answered(tx)) => Err(PaymentError::Used(tx)),
            Some(Step::Taken | Step::Settled(_)) | None => Ok(held),
        }
    }
}

impl Held {
    /// Writes down how far it has come. Waits for the disk.
    pub(crate) fn note(&self, step: Step) -> Result<(), UsageError> {
        self.payments.store.write("keep a payment in", |txn| {
            let value = seal(step, &self.authorization);
            txn.open_table(PAYMENTS)?.insert(self.id.0.as_slice(), value.as_slice())?;
            Ok(())
        })
    }

    /// Forgets it: the chain has refused it. Waits for the disk.
    pub(crate) fn forget(&self) -> Result<(), UsageError> {
        self.payments.store.write("forget a payment in", |txn| {
            txn.open_table(PAYMENTS)?.remove(self.id.0.as_slice())?;
            Ok(())
        })
    }
}

/// The step, its transaction, until when the payment is good, and how much it is.
fn seal(step: Step, authorization: &Authorization) -> Vec<u8> {
    let (kind, tx) = match step {
        Step::Taken => (0, TxId([0; 32])),
        Step::Settled(tx) => (1, tx),
        Step::Answered(tx) => (2, tx),
    };
    let mut body = vec![kind];
    body.extend_from_slice(&tx.0);
    body.extend_from_slice(&authorization.valid_before_s.to_le_bytes());
    let TokenAmount(amount) = authorization.value;
    body.extend_from_slice(&amount.to_le_bytes());
    store::seal_bytes(&body)
}

fn unseal(bytes: &[u8]) -> Option<(Step, u64)> {
    let (kind, rest) = store::unseal_bytes(bytes)?.split_first()?;
    let (tx, rest) = rest.split_first_chunk::<32>()?;
    let (valid_before_s, amount) = rest.split_first_chunk()?;
    let step = match (kind, amount.len()) {
        (0, 16) => Step::Taken,
        (1, 16) => Step::Settled(TxId(*tx)),
        (2, 16) => Step::Answered(TxId(*tx)),
        _ => return None,
    };
    Some((step, u64::from_le_bytes(*valid_before_s)))
}

#[cfg(test)]
mod tests {
    use muster_core::ids::Address;

    use super::*;

    fn authorization(nonce: u8, valid_before_s: u64) -> Authorization {
        Authorization {
            from: Address([1; 20]),
            to: Address([2; 20]),
            value: TokenAmount(7),
            valid_after_s: 0,
            valid_before_s,
            nonce: [nonce; 32],
        }
    }

    #[test]
    fn a_payment_is_in_one_hand_and_used_once_over_processes() {
        let dir = tempfile::tempdir().unwrap();
        let open = |now_s| Payments::open(Arc::new(Store::open(dir.path()).unwrap()), now_s).unwrap();
        let (one, other, tx) = (authorization(1, 1_000), authorization(2, 1_000), TxId([9; 32]));
        {
            let payments = open(0);
            let held = payments.hold(&one).unwrap();
            assert_eq!(held.known, None);
            assert!(matches!(payments.hold(&one), Err(PaymentError::InHand)));
            payments.hold(&other).unwrap();
            held.note(Step::Taken).unwrap();
        }
        {
            // The process was killed in between: the next one goes on with it.
            let payments = open(0);
            let held = payments.hold(&one).unwrap();
            assert_eq!(held.known, Some(Step::Taken));
            held.note(Step::Settled(tx)).unwrap();
            drop(held);
            let held = payments.hold(&one).unwrap();
            assert_eq!(held.known, Some(Step::Settled(tx)));
            held.note(Step::Answered(tx)).unwrap();
        }
        {
            let payments = open(1_000 + KEPT_S);
            let Err(PaymentError::Used(used)) = payments.hold(&one) else { panic!("it would be used twice") };
            assert_eq!(used, tx);
            let held = payments.hold(&other).unwrap();
            held.note(Step::Taken).unwrap();
            held.forget().unwrap();
            drop(held);
            assert_eq!(payments.hold(&other).unwrap().known, None);
            payments.hold(&other).unwrap().note(Step::Settled(tx)).unwrap();
        }
        let payments = open(1_001 + KEPT_S);
        assert_eq!(payments.hold(&one).unwrap().known, None, "the token refuses it for long");
        assert_eq!(payments.hold(&other).unwrap().known, Some(Step::Settled(tx)), "what is owed is never forgotten");
    }
}
