//! Errors as JSON-RPC answers them: the codes of the standard, the words of the most used node.

use alloy::consensus::Transaction as _;
use alloy::primitives::{Bytes, U256};
use alloy::sol_types::{Panic, Revert, SolError};
use revm::context::result::{HaltReason, InvalidTransaction};
use serde_json::{Value, json};

use crate::embedded::store::StoreError;
use crate::embedded::tx::SignedTx;

/// A JSON-RPC error object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} (code {code})")]
pub struct RpcError {
    /// -32700, -32600, -32601, -32602, -32603, -32000, -32005, or 3 for a revert.
    pub code: i64,
    /// One sentence.
    pub message: String,
    /// Return data of a revert, as hex.
    pub data: Option<String>,
}

impl RpcError {
    fn new(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    pub(crate) fn parse(message: impl Into<String>) -> Self {
        Self::new(-32700, message)
    }

    pub(crate) fn invalid_request(message: impl Into<String>) -> Self {
        Self::new(-32600, message)
    }

    pub(crate) fn method_not_found(method: &str) -> Self {
        let shown: String = method.chars().take(64).collect();
        Self::new(-32601, format!("the method {shown} does not exist/is not available"))
    }

    pub(crate) fn invalid_params(message: impl Into<String>) -> Self {
        Self::new(-32602, message)
    }

    /// Refused by the chain's rules.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::new(-32000, message)
    }

    pub(crate) fn limit(message: impl Into<String>) -> Self {
        Self::new(-32005, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(-32603, message)
    }

    pub(crate) fn nonce_too_low(next: u64, nonce: u64) -> Self {
        Self::refused(format!("nonce too low: next nonce {next}, tx nonce {nonce}"))
    }

    pub(crate) fn insufficient_funds(balance: U256, cost: U256) -> Self {
        let overshot = cost.saturating_sub(balance);
        Self::refused(format!(
            "insufficient funds for gas * price + value: balance {balance}, tx cost {cost}, overshot {overshot}"
        ))
    }

    /// A call that reverted, with its reason in words where it has one.
    pub(crate) fn reverted(output: &Bytes) -> Self {
        let message = match revert_reason(output) {
            Some(reason) => format!("execution reverted: {reason}"),
            None => "execution reverted".to_owned(),
        };
        Self { code: 3, message, data: Some(output.to_string()) }
    }

    pub(crate) fn halted(reason: &HaltReason) -> Self {
        Self::refused(match reason {
            HaltReason::OutOfGas(_) => "out of gas".to_owned(),
            other => other.to_string(),
        })
    }

    pub(crate) fn to_json(&self) -> Value {
        match &self.data {
            Some(data) => json!({ "code": self.code, "message": self.message, "data": data }),
            None => json!({ "code": self.code, "message": self.message }),
        }
    }
}

impl From<StoreError> for RpcError {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the chain's database failed while answering a request");
        Self::internal(format!("the chain's database failed: {error}"))
    }
}

/// The text of `Error(string)` or of a compiler's `Panic(uint256)`.
pub(crate) fn revert_reason(output: &[u8]) -> Option<String> {
    if let Ok(revert) = Revert::abi_decode(output) {
        return Some(revert.reason);
    }
    Panic::abi_decode(output).ok().map(|panic| panic.to_string())
}

/// Why a transaction cannot be in the next block, in other nodes' words.
pub(crate) fn invalid_transaction(error: &InvalidTransaction, tx: &SignedTx, base_fee: u64) -> RpcError {
    use InvalidTransaction as E;
    let env = &tx.envelope;
    let text = match error {
        E::NonceTooLow { tx, state } => return RpcError::nonce_too_low(*state, *tx),
        E::NonceTooHigh { tx, state } => format!("nonce too high: next nonce {state}, tx nonce {tx}"),
        E::NonceOverflowInTransaction => "nonce has max value".to_owned(),
        E::LackOfFundForMaxFee { fee, balance } => return RpcError::insufficient_funds(**balance, **fee),
        E::OverflowPaymentInTransaction => format!(
            "insufficient funds for gas * price + value: gas {} at {} wei is more than can exist",
            env.gas_limit(),
            U256::from(env.max_fee_per_gas())
        ),
        E::CallGasCostMoreThanGasLimit { initial_gas, gas_limit } => {
            format!("intrinsic gas too low: gas {gas_limit}, minimum needed {initial_gas}")
        }
        E::GasFloorMoreThanGasLimit { gas_floor, gas_limit } => {
            format!("insufficient gas for floor data gas cost: gas {gas_limit}, minimum needed {gas_floor}")
        }
        E::CallerGasLimitMoreThanBlock => "exceeds block gas limit".to_owned(),
        E::TxGasLimitGreaterThanCap { gas_limit, cap } => {
            format!("transaction gas limit too high (cap: {cap}, tx: {gas_limit})")
        }
        E::GasPriceLessThanBasefee => format!(
            "max fee per gas less than block base fee: address {}, maxFeePerGas: {}, baseFee: {base_fee}",
            tx.sender,
            env.max_fee_per_gas()
        ),
        E::PriorityFeeGreaterThanMaxFee => "max priority fee per gas higher than max fee per gas".to_owned(),
        E::RejectCallerWithCode => format!("sender not an eoa: address {}", tx.sender),
        E::CreateInitCodeSizeLimit => "max initcode size exceeded".to_owned(),
        E::InvalidChainId | E::MissingChainId => "invalid chain id for signer".to_owned(),
        other => other.to_string(),
    };
    RpcError::refused(text)
}
