//! A development chain: its genesis gives all ether to a key that is drawn at random for its folder.

use std::path::Path;

use alloy::primitives::U256;

use super::{Chain, ChainConfig, ChainError};
use crate::keys::{self, KeyError, Wallet};

/// Ether of the faucet at genesis, in whole ether.
const FAUCET_ETHER: u64 = 1_000_000_000;

/// A development chain with its faucet.
#[derive(Debug)]
pub struct DevelopmentChain {
    /// The chain.
    pub chain: Chain,
    /// The key that owns all ether of the genesis block; kept in `faucet.key`, mode 0600.
    pub faucet: Wallet,
}

/// Opens or creates a development chain in `dir`. There is no built-in key: the faucet's is random.
///
/// # Errors
/// As [`Chain::open`]; or the faucet's key cannot be kept or read.
pub fn open_development(dir: &Path, mut config: ChainConfig) -> Result<DevelopmentChain, ChainError> {
    std::fs::create_dir_all(dir).map_err(|reason| ChainError::Io { path: dir.to_owned(), reason })?;
    let path = dir.join("faucet.key");
    let faucet = keys::read_or_create_raw(&path).map_err(|error| match error {
        KeyError::Io { path, reason } => ChainError::Io { path, reason },
        other => ChainError::Corrupted { path, what: other.to_string() },
    })?;
    let ether = U256::from(FAUCET_ETHER) * U256::from(10).pow(U256::from(18));
    config.genesis.push((crate::convert::to_evm(faucet.address()), ether));
    Ok(DevelopmentChain { chain: Chain::open(dir, config)?, faucet })
}
