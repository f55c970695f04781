//! Raw bytes from a stranger become a transaction whose signature, type and chain are right.

use alloy::consensus::{Transaction as _, TxEnvelope};
use alloy::eips::eip2718::Decodable2718;
use alloy::primitives::{Address, B256, U256, uint};
use revm::context::TxEnv;

use super::rpc::RpcError;

/// Largest transaction in bytes, as in other nodes' pools.
pub(crate) const TX_BYTES_MAX: usize = 128 * 1024;

/// Half the order of secp256k1: a signature's `s` above it is the malleable twin (EIP-2).
const HALF_ORDER: U256 = uint!(0x7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0_U256);

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
        let sender = recover(&envelope).ok_or_else(|| RpcError::refused("invalid sender".to_owned()))?;
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

/// The signer's address, by libsecp256k1, as the `ecrecover` precompile finds it.
fn recover(envelope: &TxEnvelope) -> Option<Address> {
    let signature = envelope.signature();
    if signature.s() > HALF_ORDER || signature.r().is_zero() || signature.s().is_zero() {
        return None;
    }
    let mut rs = [0u8; 64];
    rs[..32].copy_from_slice(&signature.r().to_be_bytes::<32>());
    rs[32..].copy_from_slice(&signature.s().to_be_bytes::<32>());
    let hash = envelope.signature_hash();
    let word = revm::precompile::crypto().secp256k1_ecrecover(&rs, u8::from(signature.v()), &hash.0).ok()?;
    Some(Address::from_slice(&word[12..]))
}
