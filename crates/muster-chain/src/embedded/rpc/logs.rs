//! `eth_getLogs`, over a bounded range and with a bounded answer.

use alloy::eips::BlockNumberOrTag;
use alloy::rpc::types::{Filter, FilterBlockOption};
use serde_json::Value;

use super::RpcError;
use super::blocks::{rpc_logs, to_value};
use super::params::block_number;
use crate::embedded::store::Snapshot;

/// Most blocks that one request may span.
const BLOCKS_MAX: u64 = 100_000;
/// Most logs in one answer.
const LOGS_MAX: usize = 10_000;

pub(super) fn logs(snapshot: &Snapshot, filter: &Filter) -> Result<Value, RpcError> {
    let (from, to) = range(snapshot, filter)?;
    let mut found = Vec::new();
    for number in from..=to {
        let Some(head) = snapshot.header(number)? else { break };
        if !filter.matches_bloom(head.header.logs_bloom) {
            continue;
        }
        for (index, record) in (0u32..).zip(snapshot.transactions(number)?) {
            let matching = rpc_logs(&record, &head, index).into_iter().filter(|log| filter.matches(&log.inner));
            found.extend(matching);
            if found.len() > LOGS_MAX {
                return Err(RpcError::limit(format!(
                    "query returns more than {LOGS_MAX} logs: ask for fewer blocks (it got as far as block {number})"
                )));
            }
        }
    }
    to_value(&found)
}

/// First and last block of the request, both included; the last is at most the latest.
fn range(snapshot: &Snapshot, filter: &Filter) -> Result<(u64, u64), RpcError> {
    let head = snapshot.head.header.number;
    match filter.block_option {
        FilterBlockOption::AtBlockHash(hash) => match snapshot.number_of(hash)? {
            Some(number) => Ok((number, number)),
            None => Err(RpcError::refused("unknown block")),
        },
        FilterBlockOption::Range { from_block, to_block } => {
            let from = block_number(from_block.unwrap_or(BlockNumberOrTag::Latest), head);
            let to = block_number(to_block.unwrap_or(BlockNumberOrTag::Latest), head);
            if from > to && to_block.is_some() {
                return Err(RpcError::invalid_params("invalid block range params"));
            }
            let to = to.min(head);
            if to.saturating_sub(from) >= BLOCKS_MAX {
                return Err(RpcError::limit(format!(
                    "query spans {} blocks, limit {BLOCKS_MAX}: ask for fewer at a time",
                    to - from + 1
                )));
            }
            Ok((from, to))
        }
    }
}
