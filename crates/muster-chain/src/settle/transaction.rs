//! What is sent, and what became of it.

use std::fmt;

use alloy::consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy::eips::eip2718::Encodable2718;
use alloy::primitives::{B256, Bytes, TxKind, U256, keccak256};
use muster_core::ids::Address;
use muster_core::units::TokenAmount;
use serde::{Deserialize, Serialize};

use super::types::ChainEvent;
use crate::convert::to_evm;
use crate::keys::Wallet;

/// Hash of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TxId(pub [u8; 32]);

impl fmt::Display for TxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{}", hex::encode(self.0))
    }
}

/// A call to be sent as a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The contract or account; `None` creates a contract.
    pub to: Option<Address>,
    /// Input data.
    pub data: Vec<u8>,
    /// Ether that goes with it, in wei.
    pub value_wei: u128,
    /// Most gas it may use; `None` lets the chain estimate it, which also tells beforehand if it would fail.
    pub gas_limit: Option<u64>,
}

impl Call {
    /// A call of a contract.
    #[must_use]
    pub fn to(to: Address, data: Vec<u8>) -> Self {
        Self { to: Some(to), data, value_wei: 0, gas_limit: None }
    }

    /// The creation of a contract.
    #[must_use]
    pub fn create(code: Vec<u8>) -> Self {
        Self { to: None, data: code, value_wei: 0, gas_limit: None }
    }

    /// A transfer of ether.
    #[must_use]
    pub fn transfer(to: Address, value_wei: u128) -> Self {
        Self { to: Some(to), data: Vec::new(), value_wei, gas_limit: None }
    }

    /// Names what the call does: two calls of one intent are the same.
    pub(crate) fn intent(&self) -> B256 {
        let mut bytes = Vec::with_capacity(self.data.len() + 48);
        bytes.push(u8::from(self.to.is_some()));
        bytes.extend_from_slice(&self.to.unwrap_or(Address::ZERO).0);
        bytes.extend_from_slice(&self.value_wei.to_be_bytes());
        bytes.extend_from_slice(&self.data);
        keccak256(bytes)
    }
}

/// A transaction that is in a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MinedTx {
    /// Its hash.
    pub tx: TxId,
    /// The block's number.
    pub block: u64,
    /// What it cost, in wei.
    pub fee_wei: u128,
    /// Whether it did what it should; otherwise why not, as a sentence.
    pub result: Result<(), String>,
    /// The contract it created.
    pub created: Option<Address>,
    /// What it made happen in the network's contracts. Empty when the outbox remembered the outcome
    /// from an earlier run.
    pub events: Vec<ChainEvent>,
    /// Tokens that it moved, as the token's events say; empty as `events`.
    pub transfers: Vec<(Address, Address, TokenAmount)>,
}

/// What became of an intent so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxOutcome {
    /// In a block.
    Mined(MinedTx),
    /// Signed and sent, but not seen in a block yet. It may still be: the sender keeps trying, and
    /// asking again with the same key waits for the outcome.
    Unknown {
        /// Hash of the newest attempt.
        tx: TxId,
    },
}

/// Fees of a transaction, in wei per gas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fees {
    pub(crate) max_fee: u128,
    pub(crate) priority_fee: u128,
}

impl Fees {
    /// A quarter more, and at least `floor`: enough for any node to replace the earlier attempt.
    pub(crate) fn raised(self, floor: Self) -> Self {
        let more = |fee: u128| fee.saturating_add(fee / 4).saturating_add(1);
        let priority_fee = more(self.priority_fee).max(floor.priority_fee);
        Self { max_fee: more(self.max_fee).max(floor.max_fee).max(priority_fee), priority_fee }
    }
}

/// A signed transaction as it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attempt {
    pub(crate) tx: TxId,
    pub(crate) raw: Bytes,
    pub(crate) fees: Fees,
}

/// Signs `call` with this nonce and these fees.
pub(crate) fn sign(wallet: &Wallet, chain_id: u64, nonce: u64, gas_limit: u64, fees: Fees, call: &Call) -> Attempt {
    let tx = TxEip1559 {
        chain_id,
        nonce,
        gas_limit,
        max_fee_per_gas: fees.max_fee,
        max_priority_fee_per_gas: fees.priority_fee,
        to: call.to.map_or(TxKind::Create, |to| TxKind::Call(to_evm(to))),
        value: U256::from(call.value_wei),
        access_list: alloy::eips::eip2930::AccessList::default(),
        input: call.data.clone().into(),
    };
    let signature = wallet.sign(tx.signature_hash());
    let envelope = TxEnvelope::from(tx.into_signed(signature));
    Attempt { tx: TxId(envelope.tx_hash().0), raw: envelope.encoded_2718().into(), fees }
}
