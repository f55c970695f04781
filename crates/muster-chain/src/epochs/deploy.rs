//! The contracts of epochs for a development network.

use muster_core::ids::Address;
use muster_core::units::TokenAmount;
use muster_wire::beacon::Beacon;

use super::EpochContracts;
use super::tree::numbers;
use crate::contracts::abi::{self, EpochRewardsBase};
use crate::contracts::{Contracts, DeployError, deploy};
use crate::convert::to_evm;
use crate::settle::{Settlement, SettlementError, TxSender};

/// Parameters of the contracts of epochs. Those of rewards can never change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochParams {
    /// Epoch `e` lasts from `genesis_s + e * epoch_s` on, in Unix seconds.
    pub genesis_s: u64,
    /// Length of an epoch, in seconds.
    pub epoch_s: u64,
    /// The first epoch that is rewarded.
    pub start_epoch: u64,
    /// Emission of an epoch, halved every `halving_epochs`.
    pub emission_per_epoch: TokenAmount,
    /// How many epochs pass between halvings.
    pub halving_epochs: u64,
    /// What an epoch may grant above the emission, out of fees.
    pub delivery_per_epoch: TokenAmount,
    /// Seconds in which a posted outcome can be disputed.
    pub dispute_window_s: u64,
    /// Seconds that the dispute committee has.
    pub resolve_window_s: u64,
    /// Seconds of silence after which the governor may name new committees.
    pub reset_after_s: u64,
    /// What a dispute costs whom it turns out wrong.
    pub dispute_bond: TokenAmount,
    /// What a dispute gains whom it turns out right.
    pub dispute_reward: TokenAmount,
    /// What a signer of a wrong outcome loses.
    pub signer_penalty: TokenAmount,
    /// What a claim pays at once, in hundredths of a per cent.
    pub immediate_bps: u16,
    /// Seconds over which the rest vests.
    pub vesting_s: u64,
    /// Most outcomes that are pending at a time.
    pub ring_size: u16,
    /// Most licences.
    pub licence_cap: u32,
    /// Price of a licence.
    pub licence_price: TokenAmount,
}

impl EpochParams {
    /// A development network: epochs of 30 seconds from `start_epoch` on, windows of a minute, vesting in minutes.
    #[must_use]
    pub fn development(start_epoch: u64) -> Self {
        let tokens = |whole: u128| TokenAmount(whole.saturating_mul(TokenAmount::ONE.0));
        Self {
            genesis_s: 0,
            epoch_s: 30,
            start_epoch,
            emission_per_epoch: tokens(1_000),
            halving_epochs: 1_000_000,
            delivery_per_epoch: tokens(1_000),
            dispute_window_s: 60,
            resolve_window_s: 60,
            reset_after_s: 600,
            dispute_bond: tokens(100),
            dispute_reward: tokens(100),
            signer_penalty: tokens(100),
            immediate_bps: 3_000,
            vesting_s: 180,
            ring_size: 64,
            licence_cap: 100_000,
            licence_price: tokens(100),
        }
    }
}

/// Deploys licences, rewards and beacon beside the other contracts, from the sender's account, which governs them.
/// Running it again with the same sender's folder returns the same addresses.
///
/// The rewards contract is not a slasher yet: see [`fund_rewards`].
///
/// # Errors
/// See [`DeployError`].
pub async fn deploy_epochs(
    sender: &TxSender,
    contracts: &Contracts,
    params: &EpochParams,
    beacon: &Beacon,
) -> Result<EpochContracts, DeployError> {
    let admin = to_evm(sender.address());
    let (token_, registry_) = (to_evm(contracts.token), to_evm(contracts.registry));
    let constructor = abi::CheckerLicence::constructorCall {
        token_,
        registry_,
        admin,
        recipient_: admin,
        cap_: alloy::primitives::U256::from(params.licence_cap),
        price_: params.licence_price.0,
    };
    let licences = deploy(sender, "CheckerLicence", &abi::CheckerLicence::BYTECODE, constructor).await?;
    let c = config(sender.address(), contracts, params);
    let constructor = abi::EpochRewards::constructorCall { c };
    let rewards = deploy(sender, "EpochRewards", &abi::EpochRewards::BYTECODE, constructor).await?;
    let schedule = beacon.schedule();
    let constructor = abi::DrandBeacon::constructorCall {
        key: numbers(beacon.key_words()),
        genesis_: schedule.genesis_s,
        period_: schedule.period_s,
    };
    let beacon = deploy(sender, "DrandBeacon", &abi::DrandBeacon::BYTECODE, constructor).await?;
    Ok(EpochContracts { licences, rewards, beacon })
}

fn config(admin: Address, contracts: &Contracts, params: &EpochParams) -> EpochRewardsBase::Config {
    EpochRewardsBase::Config {
        token: to_evm(contracts.token),
        registry: to_evm(contracts.registry),
        admin: to_evm(admin),
        genesisTime: params.genesis_s,
        epochSeconds: params.epoch_s,
        startEpoch: params.start_epoch,
        emissionPerEpoch: params.emission_per_epoch.0,
        halvingEpochs: params.halving_epochs,
        deliveryPerEpoch: params.delivery_per_epoch.0,
        disputeWindow: params.dispute_window_s,
        resolveWindow: params.resolve_window_s,
        resetAfter: params.reset_after_s,
        disputeBond: params.dispute_bond.0,
        disputeReward: params.dispute_reward.0,
        signerPenalty: params.signer_penalty.0,
        immediateBps: params.immediate_bps,
        vestingPeriod: params.vesting_s,
        ringSize: params.ring_size,
    }
}

/// Makes the rewards contract a slasher of the registry, and pays in what it may grant: emission, delivery, bounties.
/// The account must be the registry's admin. `intent` names this payment: the same one is never paid twice.
///
/// # Errors
/// See [`SettlementError`].
pub async fn fund_rewards(
    settlement: &Settlement,
    epochs: &EpochContracts,
    intent: &str,
    [emission, delivery, bounties]: [TokenAmount; 3],
) -> Result<(), SettlementError> {
    let registry = settlement.client().contracts().registry;
    let role = settlement.client().call(registry, &abi::Registry::SLASHER_ROLECall {}).await?;
    let grant = abi::Registry::grantRoleCall { role, account: to_evm(epochs.rewards) };
    settlement.send_again(&format!("slasher {}", epochs.rewards), registry, &grant).await?;
    let sum = emission.0.saturating_add(delivery.0).saturating_add(bounties.0);
    settlement.approve(epochs.rewards, TokenAmount(sum)).await?;
    let fund = abi::EpochRewards::fundCall { emission_: emission.0, delivery: delivery.0, bounties_: bounties.0 };
    settlement.send_once(&format!("fund rewards {intent}"), epochs.rewards, &fund).await.map(drop)
}
