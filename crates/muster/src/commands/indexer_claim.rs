//! `muster indexer claim`: rewards for leases that an Indexer matched.

use std::path::PathBuf;

use muster_chain::epochs::EpochSettlement;
use muster_core::units::TokenAmount;
use muster_net::NodeSecret;
use serde_json::json;

use super::Context;
use super::checkers::rewards::{self, Brought, Standing, Whose};
use super::wallet::paying;
use crate::failure::{Because, Code, Failure};
use crate::output::tokens;
use crate::wallets;

/// The folder of the Indexer: the one that is given, or that of `muster up`.
fn dir(cx: &Context) -> Result<PathBuf, Failure> {
    let candidates = [cx.dirs.root().to_owned(), cx.dirs.at("indexer-0")];
    candidates.into_iter().find(|dir| dir.join("records.sqlite").exists()).ok_or_else(|| {
        let why = format!("there is no Indexer in {}; name its folder with --dir", cx.dirs.root().display());
        Failure::new(Code::NotFound, why)
    })
}

/// Claims with the wallet that registered the Indexer: anybody may, the tokens go to its owner.
pub(super) async fn claim(cx: &Context) -> Result<u8, Failure> {
    let id = NodeSecret::load(&dir(cx)?.join("node.key")).code(Code::Wallet)?.id();
    let (_, epochs, archive) = cx.epochs().await?;
    let standing = Standing::of(&archive).await?;
    let due = standing.rewards(&epochs, Whose::Indexer(id)).await?;
    archive.peer.close().await;
    let nothing = due.claimable() == TokenAmount::ZERO && due.releasable == TokenAmount::ZERO;
    let brought = if nothing { Brought::default() } else { Box::pin(bring(cx, &standing, &epochs, id, due)).await? };
    cx.output.result(&json!({ "id": id, "rewards": due, "brought": brought }), || {
        if nothing {
            return format!("nothing is due to the Indexer {} yet; {} are pending", id.short(), tokens(due.pending));
        }
        format!(
            "claimed {} for the Indexer {}: a part is paid, the rest vests; {} that had vested is paid too",
            tokens(brought.claimed),
            id.short(),
            tokens(brought.released)
        )
    });
    Ok(0)
}

async fn bring(
    cx: &Context,
    standing: &Standing,
    epochs: &super::checkers::Epochs,
    id: muster_core::ids::NodeId,
    due: rewards::Rewards,
) -> Result<Brought, Failure> {
    let network = cx.network()?;
    let wallet = match &cx.global.wallet {
        Some(_) => cx.wallet()?,
        None if cx.dirs.wallets().join("indexer.json").exists() => wallets::own(&cx.dirs, "indexer")?.1,
        None => cx.wallet()?,
    };
    let outbox = paying::outbox(cx, &network, wallet.address())?;
    let contracts = epochs.reads.contracts();
    paying::pay(&outbox, wallet, epochs.reads.client(), |settlement| async move {
        let settlement = EpochSettlement::new(settlement, contracts);
        rewards::claim(cx, &settlement, standing, (Whose::Indexer(id), due)).await
    })
    .await
}
