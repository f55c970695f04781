//! The requests of a sender: asking what an intent needs, sending, and looking for receipts.

use std::sync::Arc;

use alloy::primitives::{B256, Bytes, U64, U256};
use serde_json::{Value, json};

use super::receipt::Receipt;
use super::{Command, Inner, SendError};
use crate::convert::to_evm;
use crate::settle::rpc::ClientError;
use crate::settle::transaction::{Fees, TxId};

/// What intents need before they can be signed.
#[derive(Debug)]
pub(super) struct Needs {
    pub(super) gas_limits: Vec<Result<u64, SendError>>,
    pub(super) account: Account,
}

/// What the chain said of the account and of the going fees.
#[derive(Clone, Copy, Debug)]
pub(super) struct Account {
    pub(super) balance_wei: u128,
    pub(super) chain_nonce: u64,
    pub(super) fees: Fees,
}

/// A step that has been done, for the driver to act on.
#[derive(Debug)]
pub(super) enum Step {
    Prepared { commands: Vec<Command>, needs: Result<Needs, ClientError> },
    Sent { nonces: Vec<u64>, answers: Result<Vec<SendAnswer>, ClientError> },
    Looked { looks: Result<Looks, ClientError> },
}

/// What the node said to one transaction, and its receipt if there is one already.
#[derive(Debug)]
pub(super) struct SendAnswer {
    pub(super) sent: Result<(), ClientError>,
    pub(super) receipt: Option<Receipt>,
}

/// Receipts of pending transactions, and the account's next nonce on the chain.
#[derive(Debug)]
pub(super) struct Looks {
    pub(super) chain_nonce: u64,
    pub(super) receipts: Vec<(u64, Option<Receipt>)>,
    pub(super) fees: Fees,
}

/// Gas estimates for all commands, the balance, and the going fees, in one round trip.
pub(super) async fn prepare(inner: Arc<Inner>, commands: Vec<Command>) -> Step {
    let needs = ask_needs(&inner, &commands).await;
    Step::Prepared { commands, needs }
}

async fn ask_needs(inner: &Inner, commands: &[Command]) -> Result<Needs, ClientError> {
    let account = to_evm(inner.wallet.address());
    let mut requests = fee_requests();
    requests.push(("eth_getBalance", json!([account, "latest"])));
    requests.push(("eth_getTransactionCount", json!([account, "latest"])));
    for command in commands.iter().filter(|command| command.call.gas_limit.is_none()) {
        let call = &command.call;
        let mut request = json!({
            "from": account,
            "input": Bytes::from(call.data.clone()),
            "value": U256::from(call.value_wei),
        });
        if let Some(to) = call.to {
            request["to"] = json!(to_evm(to));
        }
        requests.push(("eth_estimateGas", json!([request])));
    }
    let rpc = inner.client.rpc();
    let mut answers = rpc.ask_all(requests).await?.into_iter();
    let mut next = || answers.next().unwrap_or_else(|| Err(rpc.bad_answer("a batch", "too few answers".to_owned())));
    let fees = read_fees(inner, next()?, next()?)?;
    let balance: U256 = rpc.decode("eth_getBalance", next()?)?;
    let chain_nonce: U64 = rpc.decode("eth_getTransactionCount", next()?)?;
    let mut gas_limits = Vec::with_capacity(commands.len());
    for command in commands {
        gas_limits.push(match command.call.gas_limit {
            Some(gas) => Ok(gas),
            None => estimated(next().and_then(|value| rpc.decode::<U64>("eth_estimateGas", value))),
        });
    }
    let account = Account { balance_wei: balance.saturating_to(), chain_nonce: chain_nonce.to(), fees };
    Ok(Needs { gas_limits, account })
}

/// Gas on top of every estimate: a slot or two that another transaction has cleared, or a new second has opened, by the
/// time this one is mined.
const GAS_MARGIN: u64 = 60_000;

/// A fifth more than estimated, and [`GAS_MARGIN`]: the state may have moved a little when the transaction is mined.
fn estimated(answer: Result<U64, ClientError>) -> Result<u64, SendError> {
    match answer {
        Ok(gas) => Ok(gas.to::<u64>().saturating_add(gas.to::<u64>() / 5).saturating_add(GAS_MARGIN)),
        Err(ClientError::Reverted(reason)) => Err(SendError::WouldFail(reason)),
        Err(ClientError::Refused { message, .. }) => Err(SendError::WouldFail(message)),
        Err(other) => Err(SendError::Client(other)),
    }
}

fn fee_requests() -> Vec<(&'static str, Value)> {
    vec![("eth_getBlockByNumber", json!(["latest", false])), ("eth_maxPriorityFeePerGas", json!([]))]
}

/// Twice the base fee leaves room for six full blocks in a row.
fn read_fees(inner: &Inner, block: Value, tip: Value) -> Result<Fees, ClientError> {
    let rpc = inner.client.rpc();
    let base: U256 = match &block["baseFeePerGas"] {
        Value::Null => U256::ZERO,
        fee => rpc.decode("eth_getBlockByNumber", fee.clone())?,
    };
    let tip: U256 = rpc.decode("eth_maxPriorityFeePerGas", tip)?;
    let priority_fee = tip.saturating_to::<u128>().min(inner.config.fee_max);
    let max_fee = base.saturating_to::<u128>().saturating_mul(2).saturating_add(priority_fee);
    Ok(Fees { max_fee: max_fee.min(inner.config.fee_max).max(priority_fee), priority_fee })
}

/// Sends signed transactions and asks for their receipts in the same breath: the embedded chain has
/// them at once, and other nodes say null.
pub(super) async fn send(inner: Arc<Inner>, batch: Vec<(u64, TxId, Bytes)>) -> Step {
    let nonces = batch.iter().map(|(nonce, ..)| *nonce).collect();
    let mut requests = Vec::with_capacity(batch.len() * 2);
    requests.extend(batch.iter().map(|(_, _, raw)| ("eth_sendRawTransaction", json!([raw]))));
    requests.extend(batch.iter().map(|(_, tx, _)| ("eth_getTransactionReceipt", json!([B256::from(tx.0)]))));
    let answers = inner.client.rpc().send_once(&requests).await.map(|mut all| {
        let receipts = all.split_off(batch.len().min(all.len()));
        all.into_iter()
            .zip(receipts)
            .map(|(sent, receipt)| SendAnswer {
                sent: sent.map(|_| ()),
                receipt: receipt.ok().and_then(|value| serde_json::from_value(value).ok()),
            })
            .collect()
    });
    Step::Sent { nonces, answers }
}

/// Looks for receipts of pending transactions, any attempt of each.
pub(super) async fn look(inner: Arc<Inner>, pending: Vec<(u64, Vec<TxId>)>) -> Step {
    Step::Looked { looks: ask_receipts(&inner, pending).await }
}

async fn ask_receipts(inner: &Inner, pending: Vec<(u64, Vec<TxId>)>) -> Result<Looks, ClientError> {
    let rpc = inner.client.rpc();
    let mut requests = fee_requests();
    // The nonce is asked for before the receipts: a transaction that is mined in between is seen next time,
    // and never taken for one that was displaced.
    requests.push(("eth_getTransactionCount", json!([to_evm(inner.wallet.address()), "latest"])));
    for (_, attempts) in &pending {
        requests.extend(attempts.iter().map(|tx| ("eth_getTransactionReceipt", json!([B256::from(tx.0)]))));
    }
    let mut answers = rpc.send_once(&requests).await?.into_iter();
    let mut next = || answers.next().unwrap_or_else(|| Err(rpc.bad_answer("a batch", "too few answers".to_owned())));
    let fees = read_fees(inner, next()?, next()?)?;
    let chain_nonce: U64 = rpc.decode("eth_getTransactionCount", next()?)?;
    let mut receipts = Vec::with_capacity(pending.len());
    for (nonce, attempts) in pending {
        let mut found = None;
        for _ in attempts {
            let receipt: Option<Receipt> = rpc.decode("eth_getTransactionReceipt", next()?)?;
            found = found.or(receipt);
        }
        receipts.push((nonce, found));
    }
    Ok(Looks { chain_nonce: chain_nonce.to(), receipts, fees })
}
