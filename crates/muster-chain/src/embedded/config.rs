//! How an embedded chain is set up.

use alloy::primitives::{Address, U256};

/// How the base fee of each block follows from its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseFee {
    /// The same in every block, in wei: what a development network wants.
    Fixed(u64),
    /// As on Ethereum (EIP-1559), beginning with this many wei.
    Eip1559 {
        /// Base fee of the genesis block and of the first block after it.
        initial: u64,
    },
}

/// Configuration of an embedded chain. What shapes its state (chain id, allocations) counts when
/// the folder is new; the rest at every start.
#[derive(Clone, Debug)]
pub struct ChainConfig {
    /// EIP-155 chain id; checked against the folder's.
    pub chain_id: u64,
    /// Balances in wei at genesis.
    pub genesis: Vec<(Address, U256)>,
    /// Policy of the base fee.
    pub base_fee: BaseFee,
    /// Gas limit of a block, and so of a transaction and of `eth_call`.
    pub block_gas_limit: u64,
    /// Most transactions in one block.
    pub block_transactions_max: usize,
    /// Who receives the priority fees.
    pub fee_recipient: Address,
    /// Memory for the database's page cache, in bytes.
    pub cache_bytes: usize,
}

impl ChainConfig {
    /// A development chain: fixed base fee of 0.1 gwei, blocks of 120 M gas.
    #[must_use]
    pub fn development(chain_id: u64) -> Self {
        Self {
            chain_id,
            genesis: Vec::new(),
            base_fee: BaseFee::Fixed(100_000_000),
            block_gas_limit: 120_000_000,
            block_transactions_max: 4_096,
            fee_recipient: Address::ZERO,
            cache_bytes: 16 << 20,
        }
    }
}
