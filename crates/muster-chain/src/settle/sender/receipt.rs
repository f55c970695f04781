//! From a receipt, or from what the outbox remembers of it, to an outcome.

use alloy::primitives::{Address as EvmAddress, Bytes, U64, U128};
use alloy::rpc::types::Log;
use alloy::sol_types::SolEvent;
use muster_core::ids::Address;
use serde::Deserialize;

use super::SendError;
use crate::contracts::Contracts;
use crate::contracts::abi::MusterToken;
use crate::convert::{amount, from_evm, to_evm};
use crate::settle::client::event;
use crate::settle::outbox::{Record, State};
use crate::settle::reverts;
use crate::settle::transaction::{MinedTx, TxId, TxOutcome};

/// What is read of a receipt.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Receipt {
    pub(super) transaction_hash: alloy::primitives::B256,
    block_number: U64,
    status: U64,
    gas_used: U128,
    effective_gas_price: U128,
    contract_address: Option<EvmAddress>,
    logs: Vec<Log>,
    #[serde(default)]
    revert_data: Option<Bytes>,
}

impl Receipt {
    pub(super) fn state(&self) -> State {
        let failed = self.status != U64::from(1);
        let revert = failed.then(|| match &self.revert_data {
            Some(data) => reverts::explain(data),
            None => "the contract refused, or the gas did not suffice".to_owned(),
        });
        State::Mined {
            tx: TxId(self.transaction_hash.0),
            block: self.block_number.to(),
            fee_wei: self.gas_used.to::<u128>().saturating_mul(self.effective_gas_price.to()),
            created: self.contract_address.filter(|_| !failed).map(from_evm),
            revert,
        }
    }

    /// Adds what only the receipt knows to a remembered outcome.
    pub(super) fn complete(&self, mined: &mut MinedTx, contracts: &Contracts) {
        for log in &self.logs {
            let source = log.inner.address;
            if source == to_evm(contracts.escrow) || source == to_evm(contracts.registry) {
                mined.events.extend(event(&log.inner));
            } else if source == to_evm(contracts.token)
                && let Ok(moved) = MusterToken::Transfer::decode_log(&log.inner)
            {
                mined.transfers.push((from_evm(moved.from), from_evm(moved.to), amount(moved.value)));
            }
        }
    }
}

/// The outcome of a decided record.
pub(super) fn remembered(account: Address, record: &Record) -> Result<TxOutcome, SendError> {
    match &record.state {
        State::Mined { tx, block, fee_wei, created, revert } => Ok(TxOutcome::Mined(MinedTx {
            tx: *tx,
            block: *block,
            fee_wei: *fee_wei,
            result: revert.clone().map_or(Ok(()), Err),
            created: *created,
            events: Vec::new(),
            transfers: Vec::new(),
        })),
        State::Superseded => Err(SendError::Superseded { account, nonce: record.nonce }),
        State::Pending => Ok(TxOutcome::Unknown { tx: record.tx() }),
    }
}
