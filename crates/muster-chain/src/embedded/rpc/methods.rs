//! The methods, by name.

use std::sync::Arc;

use alloy::eips::BlockNumberOrTag;
use alloy::primitives::{Address, B256, Bytes, U64, U256, keccak256};
use alloy::rpc::types::{Filter, TransactionRequest};
use serde_json::{Value, json};

use super::params::{At, Params, block_number};
use super::{RpcError, blocks, decode_all, fees, logs};
use crate::embedded::execute::Simulation;
use crate::embedded::{Chain, SignedTx};

/// Below this many transactions their signatures are checked on the spot; above, on other threads.
const DECODE_INLINE_MAX: usize = 2;

/// Transactions whose signatures one thread checks at a time.
const DECODE_CHUNK: usize = 128;

/// The one method that changes something.
pub(super) const SEND: &str = "eth_sendRawTransaction";

/// Counts requests; unknown names share one label, so that strangers cannot grow the metrics.
pub(super) fn count(method: &'static str, requests: usize) {
    metrics::counter!("muster_chain_rpc_requests_total", "method" => method).increment(requests as u64);
}

/// Runs something that reads the database or the EVM at length off the reactor's threads.
pub(super) async fn off_the_reactor<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, RpcError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| RpcError::internal(format!("the request was not finished: {error}")))
}

/// Answers one request.
pub(super) async fn call(chain: &Chain, method: &str, params: Params) -> Result<Value, RpcError> {
    if method == SEND {
        count(SEND, 1);
        let raw = raw_transaction(&params)?;
        let outcome = send_all(chain, vec![raw]).await.pop();
        return outcome.unwrap_or_else(|| Err(RpcError::internal("no answer"))).map(|hash| json!(hash));
    }
    if !is_long(method) {
        return read(chain, method, &params);
    }
    let (chain, method) = (chain.clone(), method.to_owned());
    off_the_reactor(move || read(&chain, &method, &params)).await.unwrap_or_else(Err)
}

/// Whether a method reads the database or the EVM at length.
pub(super) fn is_long(method: &str) -> bool {
    matches!(
        method,
        "eth_call"
            | "eth_estimateGas"
            | "eth_getLogs"
            | "eth_feeHistory"
            | "eth_getBlockByNumber"
            | "eth_getBlockByHash"
            | "eth_getBlockReceipts"
    )
}

/// Answers a request that sends nothing, on this thread.
pub(super) fn read(chain: &Chain, method: &str, params: &Params) -> Result<Value, RpcError> {
    let Some(name) = METHODS.iter().find(|name| **name == method) else {
        count("unknown", 1);
        return Err(RpcError::method_not_found(method));
    };
    count(name, 1);
    match *name {
        "eth_call" => simulation(chain, params)?.call().map(|output| json!(output)),
        "eth_estimateGas" => simulation(chain, params)?.estimate().map(|gas| json!(U64::from(gas))),
        "eth_getLogs" => {
            let filter: Filter = params.required(0)?;
            logs::logs(&chain.snapshot(), &filter)
        }
        "eth_feeHistory" => fees::history(chain, params),
        "eth_getBlockByNumber" | "eth_getBlockByHash" | "eth_getBlockReceipts" => block(chain, name, params),
        other => quick(chain, other, params),
    }
}

/// Every method that is answered.
const METHODS: &[&str] = &[
    "eth_accounts",
    "eth_blockNumber",
    "eth_call",
    "eth_chainId",
    "eth_estimateGas",
    "eth_feeHistory",
    "eth_gasPrice",
    "eth_getBalance",
    "eth_getBlockByHash",
    "eth_getBlockByNumber",
    "eth_getBlockReceipts",
    "eth_getBlockTransactionCountByHash",
    "eth_getBlockTransactionCountByNumber",
    "eth_getCode",
    "eth_getLogs",
    "eth_getStorageAt",
    "eth_getTransactionByBlockHashAndIndex",
    "eth_getTransactionByBlockNumberAndIndex",
    "eth_getTransactionByHash",
    "eth_getTransactionCount",
    "eth_getTransactionReceipt",
    "eth_maxPriorityFeePerGas",
    "eth_sendRawTransaction",
    "eth_syncing",
    "net_listening",
    "net_peerCount",
    "net_version",
    "web3_clientVersion",
    "web3_sha3",
];

/// Methods that read a record or two.
fn quick(chain: &Chain, method: &str, params: &Params) -> Result<Value, RpcError> {
    match method {
        "eth_chainId" => Ok(json!(U64::from(chain.chain_id()))),
        "eth_blockNumber" => Ok(json!(U64::from(chain.block_number()))),
        "eth_accounts" => Ok(json!([])),
        "eth_syncing" => Ok(json!(false)),
        "net_version" => Ok(json!(chain.chain_id().to_string())),
        "net_listening" => Ok(json!(true)),
        "net_peerCount" => Ok(json!("0x0")),
        "web3_clientVersion" => Ok(json!(concat!("muster/v", env!("CARGO_PKG_VERSION"), "/embedded"))),
        "web3_sha3" => Ok(json!(keccak256(params.required::<Bytes>(0)?))),
        "eth_gasPrice" => Ok(json!(U256::from(fees::gas_price(chain)))),
        "eth_maxPriorityFeePerGas" => Ok(json!(U256::from(fees::PRIORITY_FEE))),
        "eth_getBalance" | "eth_getCode" | "eth_getStorageAt" | "eth_getTransactionCount" => {
            state(chain, method, params)
        }
        "eth_getTransactionByHash" => transaction_by_hash(chain, params.required(0)?),
        "eth_getTransactionReceipt" => blocks::receipt_by_hash(&chain.snapshot(), params.required(0)?),
        "eth_getBlockTransactionCountByHash" | "eth_getTransactionByBlockHashAndIndex" => {
            let snapshot = chain.snapshot();
            match snapshot.number_of(params.required(0)?)? {
                Some(number) => in_block(chain, method, params, number),
                None => Ok(Value::Null),
            }
        }
        "eth_getBlockTransactionCountByNumber" | "eth_getTransactionByBlockNumberAndIndex" => {
            let number = block_number(params.required(0)?, chain.block_number());
            in_block(chain, method, params, number)
        }
        other => Err(RpcError::method_not_found(other)),
    }
}

fn state(chain: &Chain, method: &str, params: &Params) -> Result<Value, RpcError> {
    let address: Address = params.required(0)?;
    let at = if method == "eth_getStorageAt" { 2 } else { 1 };
    params.state(at, chain)?;
    let snapshot = chain.snapshot();
    if method == "eth_getStorageAt" {
        let slot: U256 = params.required(1)?;
        return Ok(json!(B256::from(snapshot.slot(address, slot)?)));
    }
    let account = snapshot.account(address)?;
    Ok(match method {
        "eth_getBalance" => json!(account.map_or(U256::ZERO, |a| a.balance)),
        "eth_getTransactionCount" => json!(U64::from(account.map_or(0, |a| a.nonce))),
        _ => match account.filter(|a| a.code_hash != revm::primitives::KECCAK_EMPTY) {
            Some(account) => json!(snapshot.code(account.code_hash)?.original_bytes()),
            None => json!("0x"),
        },
    })
}

fn transaction_by_hash(chain: &Chain, hash: B256) -> Result<Value, RpcError> {
    if let Some(parked) = chain.parked(hash) {
        return blocks::to_value(&blocks::pending_transaction(&parked));
    }
    blocks::transaction_by_hash(&chain.snapshot(), hash)
}

fn in_block(chain: &Chain, method: &str, params: &Params, number: u64) -> Result<Value, RpcError> {
    let snapshot = chain.snapshot();
    let Some(head) = snapshot.header(number)? else { return Ok(Value::Null) };
    if method.starts_with("eth_getBlockTransactionCount") {
        return Ok(json!(U64::from(snapshot.transactions(number)?.len() as u64)));
    }
    let index: U64 = params.required(1)?;
    let Ok(index) = u32::try_from(index.to::<u64>()) else { return Ok(Value::Null) };
    match snapshot.transaction(number, index)? {
        Some(record) => blocks::to_value(&blocks::mined_transaction(&record, &head, index)),
        None => Ok(Value::Null),
    }
}

fn block(chain: &Chain, method: &str, params: &Params) -> Result<Value, RpcError> {
    let snapshot = chain.snapshot();
    let head = snapshot.head.header.number;
    let number = match method {
        "eth_getBlockByHash" => snapshot.number_of(params.required(0)?)?,
        "eth_getBlockByNumber" => Some(block_number(params.required(0)?, head)),
        _ => match params.required::<alloy::eips::BlockId>(0)? {
            alloy::eips::BlockId::Hash(hash) => snapshot.number_of(hash.block_hash)?,
            alloy::eips::BlockId::Number(tag) => Some(block_number(tag, head)),
        },
    };
    let Some(number) = number else { return Ok(Value::Null) };
    if method == "eth_getBlockReceipts" {
        return blocks::block_receipts(&snapshot, number);
    }
    blocks::block(&snapshot, number, params.optional(1)?.unwrap_or(false))
}

fn simulation(chain: &Chain, params: &Params) -> Result<Simulation, RpcError> {
    let request: TransactionRequest = params.required(0)?;
    let at = params.state(1, chain)?;
    params.unsupported(2, "state overrides")?;
    params.unsupported(3, "block overrides")?;
    Simulation::new(chain, request, at == At::Pending)
}

/// The bytes of a raw transaction.
pub(super) fn raw_transaction(params: &Params) -> Result<Vec<u8>, RpcError> {
    let raw: Bytes = params.required(0)?;
    Ok(raw.into())
}

/// Sends raw transactions, in order; each is answered once it is durable in a block.
pub(super) async fn send_all(chain: &Chain, raws: Vec<Vec<u8>>) -> Vec<Result<B256, RpcError>> {
    let decoded = decode(chain.chain_id(), raws).await;
    let mut good = Vec::with_capacity(decoded.len());
    let mut answers: Vec<Option<RpcError>> = Vec::with_capacity(decoded.len());
    for tx in decoded {
        match tx {
            Ok(tx) => {
                good.push(tx);
                answers.push(None);
            }
            Err(error) => answers.push(Some(error)),
        }
    }
    let mut outcomes = chain.submit(good).await.into_iter();
    answers
        .into_iter()
        .map(|bad| match bad {
            Some(error) => Err(error),
            None => outcomes.next().unwrap_or_else(|| Err(RpcError::internal("no answer"))),
        })
        .collect()
}

async fn decode(chain_id: u64, raws: Vec<Vec<u8>>) -> Vec<Result<SignedTx, RpcError>> {
    if raws.len() <= DECODE_INLINE_MAX {
        return decode_all(&raws, chain_id);
    }
    let raws = Arc::new(raws);
    let chunks: Vec<_> = (0..raws.len())
        .step_by(DECODE_CHUNK)
        .map(|from| {
            let raws = Arc::clone(&raws);
            let to = (from + DECODE_CHUNK).min(raws.len());
            (to - from, tokio::task::spawn_blocking(move || decode_all(&raws[from..to], chain_id)))
        })
        .collect();
    let mut all = Vec::with_capacity(raws.len());
    for (count, chunk) in chunks {
        match chunk.await {
            Ok(decoded) => all.extend(decoded),
            Err(error) => all.extend((0..count).map(|_| Err(RpcError::internal(error.to_string())))),
        }
    }
    all
}

/// Used by the fee history, whose newest block is given as a tag.
pub(super) fn newest(params: &Params, index: usize, head: u64) -> Result<u64, RpcError> {
    let tag: BlockNumberOrTag = params.required(index)?;
    Ok(block_number(tag, head))
}
