//! Whether the network of the folder answers: its chain and its Indexers.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use futures::future::join_all;
use muster_chain::contracts::check_deployed;
use muster_chain::settle::ChainClient;
use muster_client::Network;
use muster_core::ids::NodeId;
use muster_net::{NodeSecret, Peer, PeerAddr, PeerConfig, RelayConfig, RelayUrl};
use serde::Serialize;

use crate::commands::{Context, roles};
use crate::failure::{Because, Code, Failure};

/// How long an Indexer may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// One thing that should answer.
#[derive(Debug, Serialize)]
pub(super) struct Answers {
    /// An Indexer's key; absent for the chain.
    pub(super) id: Option<NodeId>,
    /// Where it was tried.
    pub(super) at: String,
    /// Whether it answered.
    pub(super) reachable: bool,
    /// Why not, or what is wrong with the answer.
    pub(super) problem: Option<String>,
}

/// The network of the folder.
#[derive(Debug, Serialize)]
pub(super) struct NetworkReport {
    /// What people call it.
    pub(super) name: String,
    /// Its file.
    pub(super) file: PathBuf,
    /// Its chain.
    pub(super) chain: Answers,
    /// Its Indexers.
    pub(super) indexers: Vec<Answers>,
}

/// Looks, where there is a network file.
///
/// # Errors
/// A file was named or is there, and is wrong.
pub(super) async fn look(cx: &Context) -> Result<Option<NetworkReport>, Failure> {
    let file = cx.global.network.clone().unwrap_or_else(|| cx.dirs.network());
    if cx.global.network.is_none() && !file.exists() {
        return Ok(None);
    }
    let network = cx.network()?;
    let (chain, indexers) = tokio::join!(chain(&network), indexers(&network));
    Ok(Some(NetworkReport { name: network.name.clone(), file, chain, indexers: indexers? }))
}

async fn chain(network: &Network) -> Answers {
    let rpc = &network.chain.rpc;
    let problem = match ChainClient::connect(rpc, network.chain.id, network.contracts.into()).await {
        Ok(client) => check_deployed(&client).await.err(),
        Err(error) => Some(error),
    };
    Answers { id: None, at: rpc.clone(), reachable: problem.is_none(), problem: problem.map(|e| e.to_string()) }
}

async fn indexers(network: &Network) -> Result<Vec<Answers>, Failure> {
    let addrs = roles::indexers(network)?;
    let urls: Result<Vec<RelayUrl>, _> = network.relay.iter().map(|url| url.parse()).collect();
    let urls = urls.because(Code::Config, "the network's relay")?;
    let relay = (!urls.is_empty()).then_some(RelayConfig { urls });
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let config = PeerConfig { relay, accept: false, ..PeerConfig::new(NodeSecret::generate(), any) };
    let peer = Peer::bind(config).await.because(Code::Internal, "no port can be opened")?;
    let found = join_all(addrs.iter().map(|addr| dial(&peer, addr))).await;
    peer.close().await;
    Ok(found)
}

async fn dial(peer: &Peer, addr: &PeerAddr) -> Answers {
    let problem = match tokio::time::timeout(ANSWER_WITHIN, peer.connect(addr)).await {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("no answer within {} s", ANSWER_WITHIN.as_secs())),
    };
    Answers { id: Some(addr.id), at: addr.to_string(), reachable: problem.is_none(), problem }
}
