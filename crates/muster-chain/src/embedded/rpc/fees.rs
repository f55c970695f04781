//! What a transaction should pay.

use alloy::consensus::Transaction as _;
use alloy::primitives::U64;
use alloy::rpc::types::FeeHistory;
use serde_json::Value;

use super::RpcError;
use super::blocks::to_value;
use super::methods::newest;
use super::params::Params;
use crate::embedded::Chain;
use crate::embedded::codec::TxRecord;
use crate::embedded::mine::next_base_fee;

/// The priority fee that is suggested, in wei: blocks are made on demand, so there is nobody to outbid.
pub(super) const PRIORITY_FEE: u64 = 0;

/// Most blocks of history in one answer, as other nodes have it.
const HISTORY_MAX: u64 = 1_024;
/// Most percentiles of rewards in one request.
const PERCENTILES_MAX: usize = 100;

/// What a legacy transaction should pay for gas now.
pub(super) fn gas_price(chain: &Chain) -> u64 {
    next_base_fee(chain.config().base_fee, &chain.snapshot().head.header).saturating_add(PRIORITY_FEE)
}

pub(super) fn history(chain: &Chain, params: &Params) -> Result<Value, RpcError> {
    let snapshot = chain.snapshot();
    let head = snapshot.head.header.number;
    let count = params.required::<U64>(0)?.to::<u64>().min(HISTORY_MAX);
    let last = newest(params, 1, head)?;
    if last > head {
        return Err(RpcError::refused(format!("request beyond head block: requested {last}, head {head}")));
    }
    let percentiles: Option<Vec<f64>> = params.optional(2)?;
    let percentiles = percentiles.unwrap_or_default();
    check_percentiles(&percentiles)?;
    let oldest = (last + 1).saturating_sub(count);
    let mut history = FeeHistory { oldest_block: oldest, ..FeeHistory::default() };
    let mut rewards = Vec::new();
    for number in oldest..=last {
        if count == 0 {
            break;
        }
        let Some(block) = snapshot.header(number)? else { break };
        history.base_fee_per_gas.push(u128::from(block.header.base_fee_per_gas.unwrap_or(0)));
        #[allow(clippy::cast_precision_loss, reason = "a ratio of two numbers far below 2^53")]
        history.gas_used_ratio.push(block.header.gas_used as f64 / block.header.gas_limit as f64);
        history.base_fee_per_blob_gas.push(1);
        history.blob_gas_used_ratio.push(0.0);
        if !percentiles.is_empty() {
            let base_fee = block.header.base_fee_per_gas.unwrap_or(0);
            rewards.push(reward_percentiles(&snapshot.transactions(number)?, base_fee, &percentiles));
        }
        if number == last {
            history.base_fee_per_gas.push(u128::from(next_base_fee(chain.config().base_fee, &block.header)));
            history.base_fee_per_blob_gas.push(1);
        }
    }
    history.reward = (!percentiles.is_empty()).then_some(rewards);
    to_value(&history)
}

fn check_percentiles(percentiles: &[f64]) -> Result<(), RpcError> {
    let in_order = percentiles.windows(2).all(|pair| pair[0] <= pair[1]);
    let in_bounds = percentiles.iter().all(|p| (0.0..=100.0).contains(p));
    if percentiles.len() > PERCENTILES_MAX || !in_order || !in_bounds {
        return Err(RpcError::invalid_params(format!(
            "invalid reward percentile: up to {PERCENTILES_MAX} numbers from 0 to 100 in ascending order"
        )));
    }
    Ok(())
}

/// Priority fees of a block at percentiles of its gas, as on other nodes.
fn reward_percentiles(records: &[TxRecord], base_fee: u64, percentiles: &[f64]) -> Vec<u128> {
    let mut tips: Vec<(u128, u64)> =
        records.iter().map(|r| (r.envelope.effective_tip_per_gas(base_fee).unwrap_or(0), r.gas_used)).collect();
    tips.sort_unstable();
    let total: u64 = tips.iter().map(|(_, gas)| gas).sum();
    percentiles
        .iter()
        .map(|percentile| {
            #[allow(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a share of a block's gas, far below 2^53 and never negative"
            )]
            let threshold = (total as f64 * percentile / 100.0) as u64;
            let mut sum = 0u64;
            for (tip, gas) in &tips {
                sum = sum.saturating_add(*gas);
                if sum >= threshold {
                    return *tip;
                }
            }
            tips.last().map_or(0, |(tip, _)| *tip)
        })
        .collect()
}
