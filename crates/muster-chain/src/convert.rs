//! Between the core's names and the EVM libraries' types. Nothing else in the workspace sees the latter.

use alloy::primitives::{Address as EvmAddress, B256, U256};
use muster_core::ids::{Address, LeaseId, NodeId};
use muster_core::units::TokenAmount;

pub(crate) fn to_evm(address: Address) -> EvmAddress {
    EvmAddress::from(address.0)
}

pub(crate) fn from_evm(address: EvmAddress) -> Address {
    Address(address.into_array())
}

pub(crate) fn lease_word(lease: LeaseId) -> B256 {
    B256::from(lease.0)
}

pub(crate) fn node_word(node: NodeId) -> B256 {
    B256::from(node.0)
}

/// Amounts past `u128::MAX` do not exist in the contracts; a token that says otherwise is shown at the maximum.
pub(crate) fn amount(value: U256) -> TokenAmount {
    TokenAmount(value.saturating_to())
}
