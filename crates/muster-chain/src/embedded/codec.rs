//! Records as bytes. Fixed fields are big-endian; lists are RLP, as elsewhere in Ethereum.

use alloy::consensus::{Eip658Value, Receipt, ReceiptEnvelope, ReceiptWithBloom, TxEnvelope, TxType};
use alloy::eips::eip2718::{Decodable2718, Encodable2718};
use alloy::primitives::{Address, B256, Bytes, Log, U256, logs_bloom};
use alloy::rlp::{Decodable, Encodable};

/// An account as it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AccountRecord {
    pub(crate) nonce: u64,
    pub(crate) balance: U256,
    pub(crate) code_hash: B256,
}

impl AccountRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(80);
        out.extend_from_slice(&self.nonce.to_be_bytes());
        out.extend_from_slice(&self.balance.to_be_bytes::<32>());
        out.extend_from_slice(self.code_hash.as_slice());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (nonce, rest) = bytes.split_first_chunk::<8>()?;
        let (balance, rest) = rest.split_first_chunk::<32>()?;
        let (code_hash, rest) = rest.split_first_chunk::<32>()?;
        rest.is_empty().then_some(Self {
            nonce: u64::from_be_bytes(*nonce),
            balance: U256::from_be_bytes(*balance),
            code_hash: B256::from(*code_hash),
        })
    }
}

/// A mined transaction with what its receipt needs.
#[derive(Clone, Debug)]
pub(crate) struct TxRecord {
    pub(crate) envelope: TxEnvelope,
    pub(crate) sender: Address,
    pub(crate) success: bool,
    pub(crate) gas_used: u64,
    /// Gas of this and of all earlier transactions of the block.
    pub(crate) cumulative_gas: u64,
    pub(crate) effective_gas_price: u128,
    /// Number of logs in earlier transactions of the block.
    pub(crate) first_log: u32,
    pub(crate) contract: Option<Address>,
    pub(crate) logs: Vec<Log>,
    /// What a failed transaction returned (a revert's reason), at most `OUTPUT_KEPT_MAX` bytes.
    pub(crate) revert: Bytes,
}

/// Bytes of a revert's data that are kept.
pub(crate) const OUTPUT_KEPT_MAX: usize = 1024;

impl TxRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(320);
        out.push(u8::from(self.success));
        out.extend_from_slice(self.sender.as_slice());
        out.extend_from_slice(&self.gas_used.to_be_bytes());
        out.extend_from_slice(&self.cumulative_gas.to_be_bytes());
        out.extend_from_slice(&self.effective_gas_price.to_be_bytes());
        out.extend_from_slice(&self.first_log.to_be_bytes());
        out.extend_from_slice(self.contract.unwrap_or(Address::ZERO).as_slice());
        self.logs.encode(&mut out);
        self.revert.encode(&mut out);
        self.envelope.encode_2718(&mut out);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (success, rest) = bytes.split_first()?;
        let (sender, rest) = rest.split_first_chunk::<20>()?;
        let (gas_used, rest) = rest.split_first_chunk::<8>()?;
        let (cumulative_gas, rest) = rest.split_first_chunk::<8>()?;
        let (effective_gas_price, rest) = rest.split_first_chunk::<16>()?;
        let (first_log, rest) = rest.split_first_chunk::<4>()?;
        let (contract, mut rest) = rest.split_first_chunk::<20>()?;
        let logs = Vec::<Log>::decode(&mut rest).ok()?;
        let revert = Bytes::decode(&mut rest).ok()?;
        let envelope = TxEnvelope::decode_2718_exact(rest).ok()?;
        let contract = Address::from(*contract);
        Some(Self {
            envelope,
            sender: Address::from(*sender),
            success: *success == 1,
            gas_used: u64::from_be_bytes(*gas_used),
            cumulative_gas: u64::from_be_bytes(*cumulative_gas),
            effective_gas_price: u128::from_be_bytes(*effective_gas_price),
            first_log: u32::from_be_bytes(*first_log),
            contract: (!contract.is_zero()).then_some(contract),
            logs,
            revert,
        })
    }

    /// The consensus receipt.
    pub(crate) fn receipt(&self) -> ReceiptEnvelope<Log> {
        receipt_of(self.envelope.tx_type(), self.success, self.cumulative_gas, self.logs.clone(), &self.logs)
    }
}

/// A receipt whose logs may carry more than the consensus needs (their place in the chain).
pub(crate) fn receipt_of<T>(
    tx_type: TxType,
    success: bool,
    cumulative_gas: u64,
    logs: Vec<T>,
    plain: &[Log],
) -> ReceiptEnvelope<T> {
    let receipt = Receipt { status: Eip658Value::Eip658(success), cumulative_gas_used: cumulative_gas, logs };
    let bloom = ReceiptWithBloom { receipt, logs_bloom: logs_bloom(plain) };
    match tx_type {
        TxType::Legacy => ReceiptEnvelope::Legacy(bloom),
        TxType::Eip2930 => ReceiptEnvelope::Eip2930(bloom),
        TxType::Eip1559 => ReceiptEnvelope::Eip1559(bloom),
        TxType::Eip4844 => ReceiptEnvelope::Eip4844(bloom),
        TxType::Eip7702 => ReceiptEnvelope::Eip7702(bloom),
    }
}
