//! Raw bytes from a stranger become a transaction whose signature, type and chain are right.

use alloy::consensus::{Transaction as _, TxEnvelope};
use alloy::eips::eip2718::Decodable2718;
use alloy::primitives::{Address, B256};
use revm::context::TxEnv;

use super::rpc::RpcError;
use crate::ecdsa;

/// Largest transaction in bytes, as in other nodes' pools.
pub(crate) const TX_BYTES_MAX: usize = 128 * 1024;

/// A transaction whose signature has been checked.
#[derive(Debug, Clone)]
pub struct SignedTx {
    pub(crate) envelope: TxEnvelope,
    pub(crate) sender: Address,
    pub(crate) hash: B256,
}

impl SignedTx {
    /// Decodes a raw transaction, checks its type, chain id and fees, and recovers its sender.
    ///
    /// # Errors
    /// The JSON-RPC error that a node answers.
    pub fn decode(raw: &[u8], chain_id: u64) -> Result<Self, RpcError> {
        if raw.len() > TX_BYTES_MAX {
            return Err(RpcError::refused(format!(
                "oversized data: transaction size {}, limit {TX_BYTES_MAX}",
                raw.len()
            )));
        }
        // Blob and delegation transactions are refused before anything else of them is looked at.
        if let Some(kind @ 3..=0x7f) = raw.first() {
            return Err(RpcError::refused(format!(
                "transaction type not supported: type {kind} (this chain takes legacy, EIP-2930 and EIP-1559)"
            )));
        }
        let envelope = TxEnvelope::decode_2718_exact(raw)
            .map_err(|error| RpcError::refused(format!("rlp: cannot decode the transaction: {error}")))?;
        match envelope.chain_id() {
            Some(id) if id == chain_id => {}
            Some(id) => {
                return Err(RpcError::refused(format!("invalid chain id for signer: have {id} want {chain_id}")));
            }
            None => {
                return Err(RpcError::refused(
                    "only replay-protected (EIP-155) transactions allowed over RPC".to_owned(),
                ));
            }
        }
        if let Some(tip) = envelope.max_priority_fee_per_gas()
            && tip > envelope.max_fee_per_gas()
        {
            return Err(RpcError::refused(format!(
                "max priority fee per gas higher than max fee per gas: maxPriorityFeePerGas: {tip}, maxFeePerGas: {}",
                envelope.max_fee_per_gas()
            )));
        }
        let sender = ecdsa::recover(envelope.signature(), envelope.signature_hash())
            .ok_or_else(|| RpcError::refused("invalid sender".to_owned()))?;
        let hash = *envelope.tx_hash();
        Ok(Self { envelope, sender, hash })
    }

    /// Hash of the transaction.
    #[must_use]
    pub fn hash(&self) -> B256 {
        self.hash
    }

    pub(crate) fn nonce(&self) -> u64 {
        self.envelope.nonce()
    }

    /// The price of a unit of gas in a block with this base fee.
    pub(crate) fn effective_gas_price(&self, base_fee: u64) -> u128 {
        self.envelope.effective_gas_price(Some(base_fee))
    }

    pub(crate) fn to_env(&self) -> TxEnv {
        let tx = &self.envelope;
        TxEnv {
            tx_type: tx.tx_type().into(),
            caller: self.sender,
            gas_limit: tx.gas_limit(),
            gas_price: tx.max_fee_per_gas(),
            kind: tx.kind(),
            value: tx.value(),
            data: tx.input().clone(),
            nonce: tx.nonce(),
            chain_id: tx.chain_id(),
            access_list: tx.access_list().cloned().unwrap_or_default(),
            gas_priority_fee: tx.max_priority_fee_per_gas(),
            blob_hashes: Vec::new(),
            max_fee_per_blob_gas: 0,
            authorization_list: Vec::new(),
        }
    }
}
