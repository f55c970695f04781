//! Parameters of a request, by position.

use alloy::eips::{BlockId, BlockNumberOrTag};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::RpcError;
use crate::embedded::Chain;

/// The parameters as they came.
#[derive(Debug)]
pub(super) struct Params(Vec<Value>);

/// Which state or block a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    /// The latest block.
    Latest,
    /// The block that would be made now.
    Pending,
}

impl Params {
    pub(super) fn new(value: Value) -> Result<Self, RpcError> {
        match value {
            Value::Null => Ok(Self(Vec::new())),
            Value::Array(values) => Ok(Self(values)),
            _ => Err(RpcError::invalid_params("non-array args: \"params\" must be an array")),
        }
    }

    /// A parameter that must be there.
    pub(super) fn required<T: DeserializeOwned>(&self, index: usize) -> Result<T, RpcError> {
        self.optional(index)?
            .ok_or_else(|| RpcError::invalid_params(format!("missing value for required argument {index}")))
    }

    /// A parameter that may be missing or null.
    pub(super) fn optional<T: DeserializeOwned>(&self, index: usize) -> Result<Option<T>, RpcError> {
        match self.0.get(index) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => T::deserialize(value)
                .map(Some)
                .map_err(|error| RpcError::invalid_params(format!("invalid argument {index}: {error}"))),
        }
    }

    /// Refuses a parameter that this chain has no use for, rather than answer as if it were not there.
    pub(super) fn unsupported(&self, index: usize, what: &str) -> Result<(), RpcError> {
        match self.0.get(index) {
            None | Some(Value::Null) => Ok(()),
            Some(Value::Object(map)) if map.is_empty() => Ok(()),
            Some(_) => Err(RpcError::invalid_params(format!("invalid argument {index}: {what} are not supported"))),
        }
    }

    /// The state a request asks for: only that of the latest block is kept.
    pub(super) fn state(&self, index: usize, chain: &Chain) -> Result<At, RpcError> {
        let id: BlockId = self.optional(index)?.unwrap_or_default();
        let snapshot = chain.snapshot();
        let head = &snapshot.head;
        let gone = |number: u64| {
            RpcError::refused(format!(
                "state of block {number} is not kept: this chain keeps the state of its latest block only (block {})",
                head.header.number
            ))
        };
        match id {
            BlockId::Number(BlockNumberOrTag::Pending) => Ok(At::Pending),
            BlockId::Number(BlockNumberOrTag::Latest | BlockNumberOrTag::Safe | BlockNumberOrTag::Finalized) => {
                Ok(At::Latest)
            }
            BlockId::Number(BlockNumberOrTag::Earliest) if head.header.number == 0 => Ok(At::Latest),
            BlockId::Number(BlockNumberOrTag::Earliest) => Err(gone(0)),
            BlockId::Number(BlockNumberOrTag::Number(number)) if number == head.header.number => Ok(At::Latest),
            BlockId::Number(BlockNumberOrTag::Number(number)) if number < head.header.number => Err(gone(number)),
            BlockId::Number(BlockNumberOrTag::Number(_)) => Err(RpcError::refused("header not found")),
            BlockId::Hash(hash) if hash.block_hash == head.hash => Ok(At::Latest),
            BlockId::Hash(hash) => match snapshot.number_of(hash.block_hash)? {
                Some(number) => Err(gone(number)),
                None => Err(RpcError::refused("header not found")),
            },
        }
    }
}

/// The number a tag stands for; every block is final once it is made.
pub(super) fn block_number(tag: BlockNumberOrTag, head: u64) -> u64 {
    match tag {
        BlockNumberOrTag::Number(number) => number,
        BlockNumberOrTag::Earliest => 0,
        BlockNumberOrTag::Latest | BlockNumberOrTag::Pending | BlockNumberOrTag::Safe | BlockNumberOrTag::Finalized => {
            head
        }
    }
}
