//! Parameters of a network: the same code runs with production's and with development's.

use serde::{Deserialize, Serialize};

use crate::epoch::EpochParams;
use crate::proof::Scale;
use crate::reward::RewardParams;
use crate::units::{TokenAmount, UsdMicro};

/// What all nodes of one network agree on; part of `network.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Params {
    /// How often a Container tells its Indexers that it lives.
    pub heartbeat_ms: u64,
    /// A Container that was silent for so long is offered no work.
    pub silent_after_ms: u64,
    /// How long an Indexer waits for a Container's answer before it offers to the next.
    pub offer_timeout_ms: u64,
    /// How long a consumer waits for an Indexer's answer before it asks the next.
    pub match_timeout_ms: u64,
    /// How long a Container holds a slot for the deposit to appear.
    pub open_timeout_ms: u64,
    /// How long a live session's program may run before its deposit is seen on the chain: longer than a transaction takes
    /// to get into a block. 0: programs wait for the deposit.
    pub early_start_ms: u64,
    /// How long an open lease may wait for the consumer's inputs and its go, without any traffic.
    pub start_timeout_ms: u64,
    /// At most so much running time may be unpaid.
    pub voucher_interval_ms: u64,
    /// How long a Container waits for the last voucher after the end before it settles with what it has: longer than a
    /// consumer needs to notice that a line is dead (8 s) and to dial again.
    pub settle_grace_ms: u64,
    /// How long a consumer waits for the Container to close a lease on the chain before it closes it itself.
    pub close_patience_ms: u64,
    /// How long a Container keeps outputs and logs for a consumer that has not fetched them.
    pub keep_outputs_ms: u64,
    /// Price of a whole token.
    pub token_price: UsdMicro,
    /// Share of a lease's price that the network keeps, in hundredths of a per cent.
    pub fee_bps: u16,
    /// Stake of a Container.
    pub container_stake: TokenAmount,
    /// Stake of an Indexer.
    pub indexer_stake: TokenAmount,
    /// Stake that integrating an app takes, where a Gateway asks for it.
    pub app_stake: TokenAmount,
    /// Whether Indexers offer Containers that have not proved their cards yet. Where money is at stake they do not; on a
    /// development network one that has just joined is used while one watches.
    pub offer_unproved: bool,
    /// Audits: when, how many, by how many.
    pub epoch: EpochParams,
    /// What an epoch pays and takes.
    pub reward: RewardParams,
    /// How hard cards are tested.
    pub proof: Scale,
}

impl Params {
    /// Parameters of a development network, where an epoch passes while one watches.
    #[must_use]
    pub const fn development() -> Self {
        Self {
            heartbeat_ms: 2_000,
            silent_after_ms: 6_000,
            offer_timeout_ms: 500,
            match_timeout_ms: 4_000,
            open_timeout_ms: 15_000,
            early_start_ms: 10_000,
            start_timeout_ms: 30_000,
            voucher_interval_ms: 2_000,
            settle_grace_ms: 12_000,
            close_patience_ms: 20_000,
            keep_outputs_ms: 600_000,
            token_price: UsdMicro(10_000),
            fee_bps: 2_000,
            container_stake: TokenAmount(1_000 * TokenAmount::ONE.0),
            indexer_stake: TokenAmount(5_000 * TokenAmount::ONE.0),
            app_stake: TokenAmount(100 * TokenAmount::ONE.0),
            offer_unproved: true,
            epoch: EpochParams::development(),
            reward: RewardParams::development(),
            proof: Scale::development(),
        }
    }

    /// Parameters of the public network.
    #[must_use]
    pub const fn production() -> Self {
        Self {
            heartbeat_ms: 60_000,
            silent_after_ms: 150_000,
            offer_timeout_ms: 500,
            match_timeout_ms: 5_000,
            open_timeout_ms: 60_000,
            early_start_ms: 10_000,
            start_timeout_ms: 300_000,
            voucher_interval_ms: 10_000,
            settle_grace_ms: 30_000,
            close_patience_ms: 600_000,
            keep_outputs_ms: 86_400_000,
            token_price: UsdMicro(10_000),
            fee_bps: 2_000,
            container_stake: TokenAmount(1_334_220_000_000_000_000_000),
            indexer_stake: TokenAmount(5_000 * TokenAmount::ONE.0),
            app_stake: TokenAmount(1_000 * TokenAmount::ONE.0),
            offer_unproved: false,
            epoch: EpochParams::production(),
            reward: RewardParams::production(),
            proof: Scale::production(),
        }
    }
}

impl Default for Params {
    fn default() -> Self {
        Self::development()
    }
}
