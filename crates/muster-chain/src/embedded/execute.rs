//! Calls that change nothing: `eth_call` and `eth_estimateGas`.

use std::sync::Arc;

use alloy::primitives::{Address, Bytes, TxKind, U256};
use alloy::rpc::types::TransactionRequest;
use revm::context::result::{EVMError, ExecutionResult, HaltReason, InvalidTransaction};
use revm::context::{BlockEnv, CfgEnv, Context, TxEnv};
use revm::{ExecuteEvm, MainBuilder, MainContext};

use super::Chain;
use super::mine::{block_env, cfg_env};
use super::rpc::RpcError;
use super::state::FrozenState;
use super::store::{Snapshot, StoreError};

/// How far `eth_estimateGas` may be above the least gas that suffices, in thousandths.
const ESTIMATE_SLACK_PERMILLE: u64 = 20;

/// Gas that a call with value adds for its callee.
const CALL_STIPEND: u64 = 2_300;

/// A call against one snapshot.
pub(crate) struct Simulation {
    snapshot: Arc<Snapshot>,
    cfg: CfgEnv,
    block: BlockEnv,
    tx: TxEnv,
    gas_given: Option<u64>,
}

impl Simulation {
    /// Prepares a call on top of the latest block; `pending` counts it as part of the next one.
    pub(crate) fn new(chain: &Chain, request: TransactionRequest, pending: bool) -> Result<Self, RpcError> {
        let snapshot = chain.snapshot();
        let mut block = block_env(chain.config(), &snapshot.head.header);
        if !pending {
            block.number = U256::from(snapshot.head.header.number);
        }
        let mut cfg = cfg_env(chain.chain_id());
        cfg.disable_nonce_check = true;
        cfg.disable_eip3607 = true;
        let gas_given = request.gas;
        let tx = call_env(request, chain)?;
        if tx.gas_price == 0 {
            // A call that names no price pays none, as on other nodes.
            block.basefee = 0;
        }
        Ok(Self { snapshot, cfg, block, tx, gas_given })
    }

    fn run(&self, gas_limit: u64) -> Result<ExecutionResult, EVMError<StoreError>> {
        let context = Context::mainnet()
            .with_db(FrozenState(Arc::clone(&self.snapshot)))
            .with_cfg(self.cfg.clone())
            .with_block(self.block.clone());
        let tx = TxEnv { gas_limit, ..self.tx.clone() };
        context.build_mainnet().transact(tx).map(|outcome| outcome.result)
    }

    /// The return data of the call.
    pub(crate) fn call(&self) -> Result<Bytes, RpcError> {
        match self.run(self.tx.gas_limit).map_err(|e| self.invalid(e))? {
            ExecutionResult::Success { output, .. } => Ok(output.into_data()),
            ExecutionResult::Revert { output, .. } => Err(RpcError::reverted(&output)),
            ExecutionResult::Halt { reason, .. } => Err(RpcError::halted(&reason)),
        }
    }

    /// A gas limit that suffices, found by bisection as other nodes do.
    pub(crate) fn estimate(&self) -> Result<u64, RpcError> {
        let mut high = self.gas_given.map_or(self.block.gas_limit, |gas| gas.min(self.block.gas_limit));
        high = self.affordable(high)?;
        let is_plain = self.tx.data.is_empty() && self.tx.access_list.0.is_empty();
        if is_plain
            && let TxKind::Call(to) = self.tx.kind
            && self.snapshot.account(to)?.is_none_or(|a| a.code_hash == revm::primitives::KECCAK_EMPTY)
            && let Ok(ExecutionResult::Success { .. }) = self.run(21_000)
        {
            return Ok(21_000);
        }
        let first = self.run(high).map_err(|e| self.invalid(e))?;
        let (used, refunded) = match first {
            ExecutionResult::Success { gas, .. } => (gas.tx_gas_used(), gas.final_refunded()),
            ExecutionResult::Revert { output, .. } => return Err(RpcError::reverted(&output)),
            ExecutionResult::Halt { reason: HaltReason::OutOfGas(_), .. } => {
                return Err(RpcError::refused(format!("gas required exceeds allowance ({high})")));
            }
            ExecutionResult::Halt { reason, .. } => return Err(RpcError::halted(&reason)),
        };
        let mut low = used.saturating_sub(1);
        // Most calls need what they used, plus what they got back, plus a 64th kept from callees.
        let optimistic = (used + refunded + CALL_STIPEND).saturating_mul(64) / 63;
        if optimistic < high {
            if self.suffices(optimistic)? { high = optimistic } else { low = optimistic }
        }
        while low.saturating_add(1) < high {
            if (high - low).saturating_mul(1000) / high < ESTIMATE_SLACK_PERMILLE {
                break;
            }
            let middle = low.midpoint(high).min(low.saturating_mul(2).max(low.saturating_add(1)));
            if self.suffices(middle)? { high = middle } else { low = middle }
        }
        Ok(high)
    }

    fn suffices(&self, gas: u64) -> Result<bool, RpcError> {
        match self.run(gas) {
            Ok(result) => Ok(result.is_success()),
            Err(EVMError::Transaction(
                InvalidTransaction::CallGasCostMoreThanGasLimit { .. }
                | InvalidTransaction::GasFloorMoreThanGasLimit { .. },
            )) => Ok(false),
            Err(other) => Err(self.invalid(other)),
        }
    }

    /// The most gas the sender can pay for at the price the call names.
    fn affordable(&self, gas: u64) -> Result<u64, RpcError> {
        let balance = self.snapshot.account(self.tx.caller)?.map_or(U256::ZERO, |a| a.balance);
        let Some(left) = balance.checked_sub(self.tx.value) else {
            return Err(RpcError::refused("insufficient funds for transfer"));
        };
        if self.tx.gas_price == 0 {
            return Ok(gas);
        }
        let allowance: u64 = (left / U256::from(self.tx.gas_price)).saturating_to();
        Ok(gas.min(allowance))
    }

    fn invalid(&self, error: EVMError<StoreError>) -> RpcError {
        match error {
            EVMError::Database(error) => error.into(),
            EVMError::Transaction(InvalidTransaction::LackOfFundForMaxFee { fee, balance }) => {
                RpcError::refused(format!(
                    "insufficient funds for gas * price + value: address {} have {balance} want {fee}",
                    self.tx.caller
                ))
            }
            EVMError::Transaction(InvalidTransaction::CallGasCostMoreThanGasLimit { initial_gas, gas_limit }) => {
                RpcError::refused(format!("intrinsic gas too low: have {gas_limit}, want {initial_gas}"))
            }
            EVMError::Transaction(other) => RpcError::refused(other.to_string()),
            other => RpcError::internal(other.to_string()),
        }
    }
}

fn call_env(request: TransactionRequest, chain: &Chain) -> Result<TxEnv, RpcError> {
    if request.blob_versioned_hashes.is_some() || request.authorization_list.is_some() {
        return Err(RpcError::invalid_params("blob and delegation transactions are not supported"));
    }
    if let Some(id) = request.chain_id
        && id != chain.chain_id()
    {
        return Err(RpcError::invalid_params(format!("chainId {id} does not match this chain's {}", chain.chain_id())));
    }
    if request.gas_price.is_some() && request.max_fee_per_gas.is_some() {
        return Err(RpcError::invalid_params("both gasPrice and (maxFeePerGas or maxPriorityFeePerGas) specified"));
    }
    let data = request
        .input
        .try_into_unique_input()
        .map_err(|_| RpcError::invalid_params("both \"data\" and \"input\" are set and not equal"))?
        .unwrap_or_default();
    let gas_cap = chain.config().block_gas_limit;
    let tip = request.max_priority_fee_per_gas;
    let mut tx = TxEnv {
        caller: request.from.unwrap_or(Address::ZERO),
        gas_limit: request.gas.map_or(gas_cap, |gas| gas.min(gas_cap)),
        gas_price: request.gas_price.or(request.max_fee_per_gas).unwrap_or(0),
        gas_priority_fee: tip.filter(|_| request.max_fee_per_gas.is_some()),
        kind: request.to.unwrap_or(TxKind::Create),
        value: request.value.unwrap_or_default(),
        data,
        nonce: request.nonce.unwrap_or(0),
        chain_id: Some(chain.chain_id()),
        access_list: request.access_list.unwrap_or_default(),
        ..TxEnv::default()
    };
    tx.derive_tx_type().map_err(|error| RpcError::invalid_params(error.to_string()))?;
    Ok(tx)
}
