//! The Checkers of a new network: keys, stakes, licences, and the first committee.

use std::net::SocketAddr;
use std::path::PathBuf;

use muster_chain::epochs::{EpochClient, EpochSettlement, committee_hash};
use muster_chain::keys::Wallet;
use muster_chain::settle::ChainClient;
use muster_client::Network;
use muster_client::network::FirstMember;
use muster_core::ids::NodeId;
use muster_net::{NodeSecret, PeerAddr};

use super::{Plan, Sending, address, chain_failure, folder_wallet};
use crate::commands::Context;
use crate::commands::checkers::config::{self, CheckerFile, free_port};
use crate::commands::checkers::epoch::now;
use crate::commands::checkers::role;
use crate::commands::wallet::paying;
use crate::dirs::make_private;
use crate::failure::{Because, Code, Failure};
use crate::wallets;

/// The first epoch begins no sooner than this after the committee is named, so that all nodes are in the registry.
const HEAD_START_MS: u64 = 6_000;

fn dir(cx: &Context, index: u16) -> Result<PathBuf, Failure> {
    let dir = cx.dirs.at(format!("checker-{index}"));
    make_private(&dir)?;
    Ok(dir)
}

/// The wallet of a Checker of this folder: one each, since an owner is drawn once.
pub(super) fn wallet(cx: &Context, index: u16) -> Result<Wallet, Failure> {
    folder_wallet(cx, &dir(cx, index)?)
}

/// The wallet that a Checker of this folder plays from.
pub(super) fn player(cx: &Context, index: u16) -> Result<Wallet, Failure> {
    let dir = dir(cx, index)?.join(config::PLAYER);
    make_private(&dir)?;
    folder_wallet(cx, &dir)
}

fn secret(cx: &Context, index: u16) -> Result<NodeSecret, Failure> {
    NodeSecret::load_or_create(&dir(cx, index)?.join("node.key")).code(Code::Wallet)
}

/// The Checkers of a new network settle its first epoch.
pub(super) fn committee(cx: &Context, plan: &Plan) -> Result<Vec<FirstMember>, Failure> {
    let member = |index| Ok(FirstMember { id: secret(cx, index)?.id(), signer: wallet(cx, index)?.address() });
    (0..plan.checkers).map(member).collect()
}

/// Writes the configuration of a Checker of this folder, if it has none.
fn configured(cx: &Context, plan: &Plan, index: u16) -> Result<CheckerFile, Failure> {
    let path = dir(cx, index)?.join(config::FILE);
    if !path.exists() {
        let listen = free_port(SocketAddr::new(address(plan.listen), 0))?;
        CheckerFile::new(&format!("checker-{index}"), listen).save(&path)?;
    }
    CheckerFile::load(&path)
}

/// Registers the Checkers, gives each a licence, and names the first committee. Idempotent.
pub(super) async fn begin(cx: &Context, plan: &Plan, network: &Network, client: ChainClient) -> Result<(), Failure> {
    let Some(contracts) = network.epochs.filter(|_| plan.checkers > 0) else { return Ok(()) };
    let reads = EpochClient::new(client.clone(), contracts.addresses());
    let mut idle = Vec::new();
    for index in 0..plan.checkers {
        let (file, id) = (configured(cx, plan, index)?, secret(cx, index)?.id());
        if client.node(id).await.map_err(|e| chain_failure(&e))?.is_none() {
            let here = PeerAddr { id, direct: [file.listen].into(), relay: None };
            let sending = Sending::begin(&dir(cx, index)?.join("outbox"), wallet(cx, index)?, client.clone()).await?;
            role::register(network, id, role::endpoint(&file, &here), &sending.settlement).await?;
            sending.end().await?;
        }
        if reads.delegated_count(id).await.map_err(|e| chain_failure(&e))? == 0 {
            idle.push(id);
        }
    }
    if !idle.is_empty() {
        license(cx, network, &reads, &idle).await?;
    }
    if reads.first_epoch(contracts.from_block).await.map_err(|e| chain_failure(&e))?.is_none() {
        name_committee(cx, network, client).await?;
    }
    Ok(())
}

/// Buys a licence for each Checker with the consumer's wallet, and delegates it.
async fn license(cx: &Context, network: &Network, reads: &EpochClient, idle: &[NodeId]) -> Result<(), Failure> {
    let (_, owner) = wallets::own(&cx.dirs, "consumer")?;
    let address = owner.address();
    let price = reads.licence_price().await.map_err(|e| chain_failure(&e))?;
    let contracts = network.epoch_contracts().code(Code::Config)?.addresses();
    let outbox = paying::outbox(cx, network, address)?;
    paying::pay(&outbox, owner, reads.client(), |settlement| async move {
        let settlement = EpochSettlement::new(settlement, contracts);
        for checker in idle {
            let mine = || async {
                let all = reads.licences().await.map_err(|e| chain_failure(&e))?;
                Ok::<_, Failure>(all.into_iter().find(|l| l.owner == address && l.delegate.is_none()))
            };
            let mut licence = mine().await?;
            if licence.is_none() {
                let intent = format!("first of {checker}");
                let mined = paying::decided(cx, || settlement.buy_licences(&intent, 1, price)).await?;
                mined.result.map_err(|why| Failure::new(Code::Reverted, why))?;
                licence = mine().await?;
            }
            let Some(licence) = licence else {
                return Err(Failure::new(Code::Internal, "a licence that was bought is not there"));
            };
            let licences = [licence.id];
            let mined = paying::decided(cx, || settlement.delegate(&licences, *checker)).await?;
            mined.result.map_err(|why| Failure::new(Code::Reverted, why))?;
        }
        Ok(())
    })
    .await
}

/// Names who settles the first epoch: the next one that leaves enough time.
async fn name_committee(cx: &Context, network: &Network, client: ChainClient) -> Result<(), Failure> {
    if network.first_committee.is_empty() {
        return Ok(());
    }
    let contracts = network.epoch_contracts().code(Code::Config)?.addresses();
    let signers: Vec<_> = network.first_committee.iter().map(|member| member.signer).collect();
    let committee = committee_hash(&signers);
    let last = network.params.epoch.at(now().plus(HEAD_START_MS));
    let sending = Sending::begin(&cx.dirs.at("faucet-outbox"), cx.faucet_key()?, client).await?;
    let governor = EpochSettlement::new(sending.settlement.clone(), contracts);
    let mined = governor.bootstrap(last.0, committee, committee).await;
    drop(governor);
    sending.end().await?;
    let mined = mined.map_err(|error| paying::settlement_failure(&error))?;
    mined.result.map_err(|why| Failure::new(Code::Reverted, format!("the first committee was not named: {why}")))
}
