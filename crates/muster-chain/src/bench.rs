//! Figures of the embedded chain: signed transfers through its JSON-RPC, durable.

use std::path::Path;
use std::time::{Duration, Instant};

use alloy::primitives::Bytes;
use muster_core::ids::Address;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::embedded::{ChainConfig, ChainError, ServerConfig, open_development, serve};
use crate::keys::Wallet;
use crate::settle::{Call, ClientError, Fees, Rpc, sign};

/// Transfers in one JSON-RPC batch.
const BATCH: usize = 200;
/// Batches under way at a time, each of an account of its own.
const LANES: usize = 4;
/// Transfers that are sent one after the other for the latency.
const SINGLES: usize = 200;

/// What was measured.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ChainFigures {
    /// Durable transfers a second, sent in batches from several accounts.
    pub transfers_per_second: f64,
    /// Median time from sending one transfer to its durable answer, in milliseconds.
    pub single_ms_p50: f64,
    /// The slowest hundredth, in milliseconds.
    pub single_ms_p99: f64,
    /// Transfers that the rate was measured over.
    pub transfers: usize,
    /// Blocks, and so durable commits, that they were in.
    pub blocks: u64,
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The chain could not be opened or served.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// A request failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// No free port.
    #[error("no port of loopback could be opened: {0}")]
    Io(#[from] std::io::Error),
    /// A task of the benchmark died.
    #[error("a part of the benchmark failed: {0}")]
    Task(String),
}

/// Runs about `transfers` signed transfers through a fresh chain in `dir`, over HTTP on loopback.
/// Signing is done beforehand and not counted.
///
/// # Errors
/// See [`BenchError`].
pub async fn bench_chain(dir: &Path, transfers: usize) -> Result<ChainFigures, BenchError> {
    let opened = open_development(dir, ChainConfig::development(31_337))?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let (stop, stopped) = oneshot::channel::<()>();
    let chain = opened.chain.clone();
    let server = tokio::spawn(serve(chain.clone(), listener, ServerConfig::default(), async {
        // Dropping the other end stops the server as well.
        let _ = stopped.await;
    }));
    let figures = measure(&url, &opened.faucet, &chain, transfers).await;
    // The server may have failed by itself, which its own result tells.
    let _ = stop.send(());
    server.await.map_err(|error| BenchError::Task(error.to_string()))??;
    figures
}

async fn measure(
    url: &str,
    faucet: &Wallet,
    chain: &crate::embedded::Chain,
    transfers: usize,
) -> Result<ChainFigures, BenchError> {
    let accounts: Vec<Wallet> = (0..=LANES).map(|_| Wallet::random()).collect();
    let rpc = Rpc::new(url)?;
    let funding = accounts.iter().zip(0..).map(|(account, nonce)| {
        transfer(faucet, chain.chain_id(), nonce, account.address(), 1_000_000_000_000_000_000_000)
    });
    send(&rpc, &funding.collect::<Vec<_>>()).await?;

    let per_lane = transfers.div_ceil(LANES).max(1);
    let chain_id = chain.chain_id();
    let signing: Vec<_> = accounts[..LANES]
        .iter()
        .cloned()
        .map(|account| {
            tokio::task::spawn_blocking(move || {
                let to = |nonce: u64| Address([u8::try_from(nonce % 251).unwrap_or(0) + 1; 20]);
                (0..per_lane as u64).map(|nonce| transfer(&account, chain_id, nonce, to(nonce), 1)).collect::<Vec<_>>()
            })
        })
        .collect();
    let mut lanes = Vec::with_capacity(LANES);
    for signed in signing {
        lanes.push(signed.await.map_err(|error| BenchError::Task(error.to_string()))?);
    }

    let first_block = chain.block_number();
    let started = Instant::now();
    let running: Vec<_> = lanes.into_iter().map(|lane| tokio::spawn(send_lane(rpc.clone(), lane))).collect();
    for lane in running {
        lane.await.map_err(|error| BenchError::Task(error.to_string()))??;
    }
    let took = started.elapsed();
    let blocks = chain.block_number() - first_block;
    let singles = singles(&rpc, &accounts[LANES], chain_id).await?;
    let total = per_lane * LANES;
    #[allow(clippy::cast_precision_loss, reason = "a count of transfers is far below 2^53")]
    let transfers_per_second = total as f64 / took.as_secs_f64();
    Ok(ChainFigures {
        transfers_per_second,
        single_ms_p50: percentile(&singles, 50),
        single_ms_p99: percentile(&singles, 99),
        transfers: total,
        blocks,
    })
}

async fn send_lane(rpc: Rpc, lane: Vec<Bytes>) -> Result<(), ClientError> {
    for batch in lane.chunks(BATCH) {
        send(&rpc, batch).await?;
    }
    Ok(())
}

async fn send(rpc: &Rpc, raws: &[Bytes]) -> Result<(), ClientError> {
    let requests: Vec<(&'static str, Value)> =
        raws.iter().map(|raw| ("eth_sendRawTransaction", json!([raw]))).collect();
    for answer in rpc.send_once(&requests).await? {
        answer?;
    }
    Ok(())
}

/// Sorted times of transfers that are sent one after the other.
async fn singles(rpc: &Rpc, account: &Wallet, chain_id: u64) -> Result<Vec<Duration>, ClientError> {
    let mut times = Vec::with_capacity(SINGLES);
    for nonce in 0..SINGLES as u64 {
        let raw = transfer(account, chain_id, nonce, Address([9; 20]), 1);
        let started = Instant::now();
        send(rpc, &[raw]).await?;
        times.push(started.elapsed());
    }
    times.sort_unstable();
    Ok(times)
}

fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(0.0, |time| time.as_secs_f64() * 1_000.0)
}

fn transfer(from: &Wallet, chain_id: u64, nonce: u64, to: Address, wei: u128) -> Bytes {
    let fees = Fees { max_fee: 1_000_000_000, priority_fee: 0 };
    sign(from, chain_id, nonce, 21_000, fees, &Call::transfer(to, wei)).raw
}
