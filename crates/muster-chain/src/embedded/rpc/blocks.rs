//! Blocks, transactions and receipts as JSON.

use alloy::consensus::transaction::Recovered;
use alloy::consensus::{Sealed, Transaction as _};
use alloy::eips::eip2718::Encodable2718;
use alloy::primitives::{B256, U256};
use alloy::rlp::Encodable;
use alloy::rpc::types::{Block, BlockTransactions, Header, Log, Transaction, TransactionReceipt, Withdrawals};
use serde::Serialize;
use serde_json::Value;

use super::RpcError;
use super::error::revert_reason;
use crate::embedded::SignedTx;
use crate::embedded::codec::{TxRecord, receipt_of};
use crate::embedded::store::{Head, Snapshot};

pub(super) fn to_value(value: &impl Serialize) -> Result<Value, RpcError> {
    serde_json::to_value(value).map_err(|error| RpcError::internal(error.to_string()))
}

pub(super) fn block(snapshot: &Snapshot, number: u64, full: bool) -> Result<Value, RpcError> {
    let Some(head) = snapshot.header(number)? else { return Ok(Value::Null) };
    let records = snapshot.transactions(number)?;
    let size = head.header.length() + records.iter().map(|r| r.envelope.encode_2718_len()).sum::<usize>();
    let transactions = if full {
        BlockTransactions::Full((0u32..).zip(&records).map(|(i, r)| mined_transaction(r, &head, i)).collect())
    } else {
        BlockTransactions::Hashes(records.iter().map(|r| *r.envelope.tx_hash()).collect())
    };
    let sealed = Sealed::new_unchecked(head.header, head.hash);
    let header = Header::from_consensus(sealed, Some(U256::ZERO), Some(U256::from(size)));
    to_value(&Block { header, uncles: Vec::new(), transactions, withdrawals: Some(Withdrawals::default()) })
}

/// A transaction in its block.
pub(super) fn mined_transaction(record: &TxRecord, head: &Head, index: u32) -> Transaction {
    Transaction {
        inner: Recovered::new_unchecked(record.envelope.clone(), record.sender),
        block_hash: Some(head.hash),
        block_number: Some(head.header.number),
        transaction_index: Some(u64::from(index)),
        effective_gas_price: Some(record.effective_gas_price),
        block_timestamp: Some(head.header.timestamp),
    }
}

/// A transaction that waits for earlier nonces.
pub(super) fn pending_transaction(tx: &SignedTx) -> Transaction {
    Transaction {
        inner: Recovered::new_unchecked(tx.envelope.clone(), tx.sender),
        block_hash: None,
        block_number: None,
        transaction_index: None,
        effective_gas_price: None,
        block_timestamp: None,
    }
}

pub(super) fn transaction_by_hash(snapshot: &Snapshot, hash: B256) -> Result<Value, RpcError> {
    match find(snapshot, hash)? {
        Some((record, head, index)) => to_value(&mined_transaction(&record, &head, index)),
        None => Ok(Value::Null),
    }
}

pub(super) fn receipt_by_hash(snapshot: &Snapshot, hash: B256) -> Result<Value, RpcError> {
    match find(snapshot, hash)? {
        Some((record, head, index)) => receipt(&record, &head, index),
        None => Ok(Value::Null),
    }
}

pub(super) fn block_receipts(snapshot: &Snapshot, number: u64) -> Result<Value, RpcError> {
    let Some(head) = snapshot.header(number)? else { return Ok(Value::Null) };
    let records = snapshot.transactions(number)?;
    (0u32..).zip(&records).map(|(index, record)| receipt(record, &head, index)).collect()
}

fn find(snapshot: &Snapshot, hash: B256) -> Result<Option<(TxRecord, Head, u32)>, RpcError> {
    let Some((number, index)) = snapshot.locate(hash)? else { return Ok(None) };
    let record = snapshot.transaction(number, index)?;
    let head = snapshot.header(number)?;
    match (record, head) {
        (Some(record), Some(head)) if *record.envelope.tx_hash() == hash => Ok(Some((record, head, index))),
        _ => Err(RpcError::internal(format!("the chain's index of transaction {hash} points nowhere"))),
    }
}

fn receipt(record: &TxRecord, head: &Head, index: u32) -> Result<Value, RpcError> {
    let logs = rpc_logs(record, head, index);
    let receipt = TransactionReceipt {
        inner: receipt_of(record.envelope.tx_type(), record.success, record.cumulative_gas, logs, &record.logs),
        transaction_hash: *record.envelope.tx_hash(),
        transaction_index: Some(u64::from(index)),
        block_hash: Some(head.hash),
        block_number: Some(head.header.number),
        gas_used: record.gas_used,
        effective_gas_price: record.effective_gas_price,
        blob_gas_used: None,
        blob_gas_price: None,
        from: record.sender,
        to: record.envelope.to(),
        contract_address: record.contract,
    };
    let mut value = to_value(&receipt)?;
    if !record.revert.is_empty()
        && let Some(fields) = value.as_object_mut()
    {
        // Beyond the standard, as some other nodes do: why the transaction reverted.
        fields.insert("revertData".to_owned(), to_value(&record.revert)?);
        if let Some(reason) = revert_reason(&record.revert) {
            fields.insert("revertReason".to_owned(), Value::String(reason));
        }
    }
    Ok(value)
}

/// The logs of a transaction with their place in the chain.
pub(super) fn rpc_logs(record: &TxRecord, head: &Head, index: u32) -> Vec<Log> {
    (u64::from(record.first_log)..)
        .zip(&record.logs)
        .map(|(log_index, log)| Log {
            inner: log.clone(),
            block_hash: Some(head.hash),
            block_number: Some(head.header.number),
            block_timestamp: Some(head.header.timestamp),
            transaction_hash: Some(*record.envelope.tx_hash()),
            transaction_index: Some(u64::from(index)),
            log_index: Some(log_index),
            removed: false,
        })
        .collect()
}
