//! Transactions that wait: for the next block, or for an earlier nonce of their sender.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use alloy::consensus::Transaction as _;
use alloy::primitives::{Address, B256};
use tokio::sync::oneshot;

use super::rpc::RpcError;
use super::tx::SignedTx;

/// Most transactions that wait for a block.
const WAITING_MAX: usize = 16_384;
/// Most transactions that wait for an earlier nonce, of one sender and of all.
const PARKED_OF_SENDER_MAX: usize = 64;
const PARKED_MAX: usize = 4_096;

/// A transaction and who wants to know what became of it.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) tx: Arc<SignedTx>,
    reply: oneshot::Sender<Result<(), RpcError>>,
    parked: Arc<AtomicBool>,
}

impl Pending {
    /// Says that the transaction is in a durable block, or why it never will be.
    pub(crate) fn answer(self, outcome: Result<(), RpcError>) {
        // The asker may have gone away; the outcome stands in the chain all the same.
        let _ = self.reply.send(outcome);
    }
}

/// The asker's end of a [`Pending`].
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) outcome: oneshot::Receiver<Result<(), RpcError>>,
    parked: Arc<AtomicBool>,
}

impl Ticket {
    /// Whether the transaction waits for an earlier nonce.
    pub(crate) fn is_parked(&self) -> bool {
        self.parked.load(Ordering::Acquire)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Pool {
    waiting: VecDeque<Pending>,
    parked: BTreeMap<Address, BTreeMap<u64, Pending>>,
    parked_hashes: HashMap<B256, Arc<SignedTx>>,
    /// Somebody makes blocks, or is about to.
    pub(crate) busy: bool,
}

impl Pool {
    /// Adds a transaction for the next block.
    pub(crate) fn push(&mut self, tx: SignedTx) -> Result<Ticket, RpcError> {
        if self.waiting.len() >= WAITING_MAX {
            return Err(RpcError::refused("txpool is full".to_owned()));
        }
        if self.parked_hashes.contains_key(&tx.hash) {
            return Err(RpcError::refused("already known".to_owned()));
        }
        let (reply, outcome) = oneshot::channel();
        let parked = Arc::new(AtomicBool::new(false));
        self.waiting.push_back(Pending { tx: Arc::new(tx), reply, parked: Arc::clone(&parked) });
        Ok(Ticket { outcome, parked })
    }

    /// Takes up to `count` transactions in the order of their arrival.
    pub(crate) fn take(&mut self, count: usize) -> VecDeque<Pending> {
        let rest = self.waiting.split_off(count.min(self.waiting.len()));
        std::mem::replace(&mut self.waiting, rest)
    }

    /// Puts transactions back that did not fit into a block; they come first in the next.
    pub(crate) fn put_back(&mut self, mut left: VecDeque<Pending>) {
        left.append(&mut self.waiting);
        self.waiting = left;
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Keeps a transaction until its sender's earlier nonces have come.
    pub(crate) fn park(&mut self, pending: Pending) {
        let sender = pending.tx.sender;
        let nonce = pending.tx.nonce();
        let full = self.parked_hashes.len() >= PARKED_MAX;
        let of_sender = self.parked.entry(sender).or_default();
        if let Some(old) = of_sender.get(&nonce) {
            if !outbids(&pending.tx, &old.tx) {
                return pending.answer(Err(RpcError::refused("replacement transaction underpriced".to_owned())));
            }
        } else if full || of_sender.len() >= PARKED_OF_SENDER_MAX {
            if of_sender.is_empty() {
                self.parked.remove(&sender);
            }
            let text = "nonce too high: too many transactions wait for earlier nonces, send those first";
            return pending.answer(Err(RpcError::refused(text.to_owned())));
        }
        pending.parked.store(true, Ordering::Release);
        self.parked_hashes.insert(pending.tx.hash, Arc::clone(&pending.tx));
        if let Some(old) = of_sender.insert(nonce, pending) {
            self.parked_hashes.remove(&old.tx.hash);
            old.answer(Err(RpcError::refused("replaced by a transaction with a higher fee".to_owned())));
        }
    }

    /// The parked transaction of this sender with this nonce, if its turn has come.
    /// Earlier ones can no longer be mined and are answered so.
    pub(crate) fn unpark(&mut self, sender: Address, next: u64) -> Option<Pending> {
        let of_sender = self.parked.get_mut(&sender)?;
        while let Some(entry) = of_sender.first_entry() {
            if *entry.key() > next {
                break;
            }
            let pending = entry.remove();
            self.parked_hashes.remove(&pending.tx.hash);
            if pending.tx.nonce() == next {
                if of_sender.is_empty() {
                    self.parked.remove(&sender);
                }
                return Some(pending);
            }
            let nonce = pending.tx.nonce();
            pending.answer(Err(RpcError::nonce_too_low(next, nonce)));
        }
        if of_sender.is_empty() {
            self.parked.remove(&sender);
        }
        None
    }

    /// A parked transaction by its hash.
    pub(crate) fn find(&self, hash: B256) -> Option<Arc<SignedTx>> {
        self.parked_hashes.get(&hash).cloned()
    }
}

/// Whether `new` pays at least a tenth more than `old`, as other nodes ask of a replacement.
fn outbids(new: &SignedTx, old: &SignedTx) -> bool {
    let enough = |new: u128, old: u128| new >= old.saturating_add(old / 10).max(old.saturating_add(1));
    let tip = |tx: &SignedTx| tx.envelope.max_priority_fee_per_gas().unwrap_or_else(|| tx.envelope.max_fee_per_gas());
    enough(new.envelope.max_fee_per_gas(), old.envelope.max_fee_per_gas()) && tip(new) >= tip(old)
}
