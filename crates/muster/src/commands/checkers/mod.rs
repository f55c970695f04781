//! Checkers: running one, the licences that it serves, the epochs that it settles.

pub(super) mod admin;
pub(super) mod config;
pub(super) mod epoch;
pub(super) mod licence;
pub(super) mod page;
pub(super) mod rewards;
pub(super) mod role;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use muster_chain::beacon::BeaconClient;
use muster_chain::epochs::EpochClient;
use muster_chain::settle::ChainClient;
use muster_checker::{Archive, ChainLedger, DrandBeacon};
use muster_client::Network;
use muster_core::brain::checker::Member;
use muster_core::calibration::Table;
use muster_core::epoch::EpochNo;
use muster_net::{NodeSecret, Peer, PeerConfig, RelayConfig};

use super::{Context, chain_failure, roles};
use crate::calibration;
use crate::cli::CheckerCommand;
use crate::failure::{Because, Code, Failure};

/// Runs `muster checker`.
pub(super) async fn run(cx: &Context, command: CheckerCommand) -> Result<u8, Failure> {
    match command {
        CheckerCommand::Init(args) => config::init(cx, &args),
        CheckerCommand::Run(args) => Box::pin(role::run(cx, args)).await,
        CheckerCommand::Status => admin::status(cx).await,
        CheckerCommand::TopUp { amount } => admin::top_up(cx, amount).await,
        CheckerCommand::Leave => admin::leave(cx).await,
    }
}

/// The epochs of a network, for reading.
#[derive(Clone, Debug)]
pub(super) struct Epochs {
    /// Its contracts.
    pub(super) reads: EpochClient,
    /// A block at or before their first.
    pub(super) from_block: u64,
    /// The first epoch that is settled.
    pub(super) genesis: EpochNo,
}

impl Epochs {
    /// Asks the chain.
    pub(super) async fn of(network: &Network, client: ChainClient) -> Result<Self, Failure> {
        let Some(epochs) = Self::begun(network, client).await? else {
            let why = format!(
                "the network {} has no committee of Checkers yet, so nothing is settled: whoever runs it names the first one (`muster up` does)",
                network.name
            );
            return Err(Failure::new(Code::NotFound, why));
        };
        Ok(epochs)
    }

    /// The same; `None` where the first committee was not named yet.
    pub(super) async fn begun(network: &Network, client: ChainClient) -> Result<Option<Self>, Failure> {
        let contracts = network.epoch_contracts().code(Code::Config)?;
        let reads = EpochClient::new(client, contracts.addresses());
        reads.check_deployed().await.map_err(|e| chain_failure(&e))?;
        let from_block = contracts.from_block;
        let first = reads.first_epoch(from_block).await.map_err(|e| chain_failure(&e))?;
        Ok(first.map(|genesis| Self { reads, from_block, genesis: EpochNo(genesis) }))
    }

    /// What computes epochs again: asks the Checkers for what they keep.
    pub(super) async fn archive(&self, network: &Network, table: Table) -> Result<Archive, Failure> {
        let params = network.params.clone();
        let ledger = ChainLedger::reading(self.reads.clone(), params.epoch.clone(), self.genesis, self.from_block);
        Ok(Archive {
            peer: asking(network).await?,
            ledger: Arc::new(ledger),
            beacon: Arc::new(beacon(network)?),
            params,
            table: Arc::new(table),
        })
    }
}

/// The network's beacon.
pub(super) fn beacon(network: &Network) -> Result<DrandBeacon, Failure> {
    let verified = network.verified_beacon().code(Code::Config)?;
    let urls = network.beacon.as_ref().map(|beacon| beacon.urls.clone()).unwrap_or_default();
    let client = BeaconClient::new(verified, &urls).code(Code::Config)?;
    Ok(DrandBeacon::new(client, network.params.epoch.clone()))
}

/// The Checkers that settle the first epoch.
pub(super) fn first_committee(network: &Network) -> Vec<Member> {
    network.first_committee.iter().map(|member| Member { node: member.id, signer: member.signer }).collect()
}

/// A peer of nobody's that asks.
async fn asking(network: &Network) -> Result<Peer, Failure> {
    let urls = roles::relays(network)?;
    // On a network of this machine alone nothing listens beyond it.
    let local = urls.is_empty() && network.indexers.iter().flat_map(|i| &i.direct).all(|addr| addr.ip().is_loopback());
    let ip = if local { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED };
    let config = PeerConfig {
        relay: (!urls.is_empty()).then_some(RelayConfig { urls }),
        ..PeerConfig::new(NodeSecret::generate(), SocketAddr::new(IpAddr::V4(ip), 0))
    };
    Peer::bind(config).await.code(Code::InUse)
}

impl Context {
    /// The network's epochs, and what computes them again.
    pub(super) async fn epochs(&self) -> Result<(Network, Epochs, Archive), Failure> {
        let network = self.network()?;
        let client = self.chain().await?;
        let epochs = Epochs::of(&network, client).await?;
        let archive = epochs.archive(&network, calibration::table(&self.dirs)?).await?;
        Ok((network, epochs, archive))
    }
}
