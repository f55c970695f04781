//! The contracts: bindings made from their artefacts, and a deployment for development networks.

use alloy::sol_types::SolConstructor;
use muster_core::ids::Address;
use muster_core::units::TokenAmount;
use serde::{Deserialize, Serialize};

use crate::convert::to_evm;
use crate::settle::{Call, ChainClient, ClientError, SendError, TxOutcome, TxSender};

/// The bindings themselves; their documentation is the contracts'.
#[allow(missing_docs, missing_debug_implementations, clippy::pedantic, reason = "generated from the contracts")]
#[allow(clippy::too_many_arguments, unreachable_pub, reason = "generated from the contracts")]
pub(crate) mod abi {
    alloy::sol!(
        #[sol(all_derives)]
        MusterToken,
        concat!(env!("MUSTER_CONTRACTS_OUT"), "/MusterToken.sol/MusterToken.json")
    );
    alloy::sol!(
        #[sol(all_derives)]
        Registry,
        concat!(env!("MUSTER_CONTRACTS_OUT"), "/Registry.sol/Registry.json")
    );
    alloy::sol!(
        #[sol(all_derives)]
        LeaseEscrow,
        concat!(env!("MUSTER_CONTRACTS_OUT"), "/LeaseEscrow.sol/LeaseEscrow.json")
    );
    alloy::sol!(
        #[sol(all_derives)]
        CheckerLicence,
        concat!(env!("MUSTER_CONTRACTS_OUT"), "/CheckerLicence.sol/CheckerLicence.json")
    );
    alloy::sol!(
        #[sol(all_derives)]
        EpochRewards,
        concat!(env!("MUSTER_CONTRACTS_OUT"), "/EpochRewards.sol/EpochRewards.json")
    );
    alloy::sol!(
        #[sol(all_derives)]
        DrandBeacon,
        concat!(env!("MUSTER_CONTRACTS_OUT"), "/DrandBeacon.sol/DrandBeacon.json")
    );
}

/// Where a network's contracts are; part of `network.toml`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contracts {
    /// The network token (ERC-20).
    pub token: Address,
    /// Nodes and their stakes.
    pub registry: Address,
    /// Leases and their deposits.
    pub escrow: Address,
}

/// Parameters of a deployment, as the contracts take them.
#[derive(Clone, Debug)]
pub struct DeployParams {
    /// Least stake of a Container, an Indexer, a Checker and an app.
    pub min_stake: [TokenAmount; 4],
    /// Seconds between asking for stake back and getting it.
    pub unbonding_s: u64,
    /// The network's share of every payment, in hundredths of a per cent.
    pub fee_bps: u16,
    /// Seconds until a Container can claim what it earned.
    pub service_fee_delay_s: u64,
    /// Seconds in which vouchers count after the consumer has closed a lease.
    pub challenge_window_s: u64,
}

impl DeployParams {
    /// A development network: everything within a minute.
    #[must_use]
    pub fn development(container_stake: TokenAmount, indexer_stake: TokenAmount, fee_bps: u16) -> Self {
        Self {
            min_stake: [container_stake, indexer_stake, TokenAmount::ZERO, TokenAmount::ZERO],
            unbonding_s: 60,
            fee_bps,
            service_fee_delay_s: 60,
            challenge_window_s: 30,
        }
    }

    /// The same with a least stake of apps.
    #[must_use]
    pub fn with_app_stake(mut self, stake: TokenAmount) -> Self {
        self.min_stake[3] = stake;
        self
    }
}

/// Why contracts were not deployed.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// A transaction was not sent.
    #[error(transparent)]
    Send(#[from] SendError),
    /// The chain does not answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The chain refused a deployment.
    #[error("the deployment of {contract} failed: {reason}")]
    Failed {
        /// Which contract.
        contract: &'static str,
        /// What the chain said.
        reason: String,
    },
    /// The deployment's fate is not known yet: running it again continues it.
    #[error("the deployment of {contract} is not in a block yet: run this again to continue it")]
    Unknown {
        /// Which contract.
        contract: &'static str,
    },
}

/// Deploys the three contracts from the sender's account, which gets the whole supply, governs the
/// registry and the escrow, and receives fees and penalties. Running it again with the same sender's
/// folder returns the same addresses.
///
/// # Errors
/// See [`DeployError`].
pub async fn deploy_development(sender: &TxSender, params: &DeployParams) -> Result<Contracts, DeployError> {
    let admin = to_evm(sender.address());
    let token = deploy(
        sender,
        "MusterToken",
        &abi::MusterToken::BYTECODE,
        abi::MusterToken::constructorCall { treasury: admin },
    )
    .await?;
    let registry = deploy(
        sender,
        "Registry",
        &abi::Registry::BYTECODE,
        abi::Registry::constructorCall {
            token_: to_evm(token),
            admin,
            minStake_: params.min_stake.map(|amount| amount.0),
            unbondingPeriod_: params.unbonding_s,
            penaltyPool_: admin,
        },
    )
    .await?;
    let escrow = deploy(
        sender,
        "LeaseEscrow",
        &abi::LeaseEscrow::BYTECODE,
        abi::LeaseEscrow::constructorCall {
            token_: to_evm(token),
            registry_: to_evm(registry),
            admin,
            feeRecipient_: admin,
            feeBps_: params.fee_bps,
            serviceFeeDelay_: params.service_fee_delay_s,
            challengeWindow_: params.challenge_window_s,
        },
    )
    .await?;
    Ok(Contracts { token, registry, escrow })
}

pub(crate) async fn deploy(
    sender: &TxSender,
    contract: &'static str,
    bytecode: &[u8],
    constructor: impl SolConstructor,
) -> Result<Address, DeployError> {
    let mut code = bytecode.to_vec();
    code.extend(constructor.abi_encode());
    match sender.submit(&format!("deploy {contract}"), Call::create(code)).await? {
        TxOutcome::Mined(mined) => match mined.result {
            Ok(()) => mined.created.ok_or(DeployError::Failed { contract, reason: "no address".to_owned() }),
            Err(reason) => Err(DeployError::Failed { contract, reason }),
        },
        TxOutcome::Unknown { .. } => Err(DeployError::Unknown { contract }),
    }
}

/// Checks that there is code where `contracts` says.
///
/// # Errors
/// The chain does not answer, or has no code there.
pub async fn check_deployed(client: &ChainClient) -> Result<(), ClientError> {
    let contracts = client.contracts();
    for (name, address) in [("token", contracts.token), ("registry", contracts.registry), ("escrow", contracts.escrow)]
    {
        if !client.has_code(address).await? {
            return Err(ClientError::NoContract { name, address });
        }
    }
    Ok(())
}
