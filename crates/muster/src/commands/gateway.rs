//! `muster gateway run` and `muster api-key`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use muster_client::chain::ChainLedger;
use muster_client::{ClientDir, Renter, agent, leases};
use muster_gateway::{Gateway, GatewayConfig, IceServer, KeyStore};
use tokio::net::TcpListener;

use super::live::{GATEWAY, ORIGIN};
use super::roles::{await_chain, begin};
use super::{Context, chain_failure};
use crate::cli::{ApiKeyCommand, GatewayCommand, GatewayRunArgs};
use crate::dirs::{make_private, write_private};
use crate::failure::{Because, Code, Failure};
use crate::output::table;

/// How long sessions may take to be settled when the Gateway ends.
const SETTLE_WITHIN: Duration = Duration::from_secs(5);

/// `muster gateway`.
pub(super) async fn run(cx: &Context, command: GatewayCommand) -> Result<u8, Failure> {
    let GatewayCommand::Run(args) = command;
    let dir = cx.dirs.root().to_owned();
    let begun = begin("gateway", &dir, &args.role).await?;
    let network = cx.network()?;
    let Some(_chain) = await_chain(&network, &begun).await? else { return Ok(0) };
    let wallet = wallet(cx, &dir)?;
    let client_dir = dir.join("client");
    make_private(&client_dir)?;
    let records = ClientDir::open(&client_dir).code(Code::Data)?;
    let ledger = ChainLedger::connect(&network, Some(wallet), records.root()).await.map_err(|e| chain_failure(&e))?;
    let renter = Renter::new(network, Arc::new(ledger), records.clone()).await.code(Code::Unreachable)?;
    let settling = settle_left_over(records, begun.stop.clone())?;
    let listener = TcpListener::bind(args.listen)
        .await
        .because(Code::InUse, format!("cannot listen on {}; name another address with --listen", args.listen))?;
    let bound = listener.local_addr().because(Code::Internal, "the listener has no address")?;
    let origin = args.origin.clone().unwrap_or_else(|| format!("http://{bound}"));
    write_private(&dir.join(ORIGIN), format!("{origin}\n").as_bytes())?;
    let config = GatewayConfig {
        dir: dir.clone(),
        origin,
        ice_servers: ice_servers(&args)?,
        sessions_max: args.sessions_max,
        loopback_only: bound.ip().is_loopback() && args.origin.is_none(),
    };
    let gateway = Gateway::new(config, renter.clone()).code(Code::Data)?;
    begun.health.set(|h| {
        h.ready = true;
        h.listen = Some(bound.to_string());
    });
    let service = gateway.router().into_make_service_with_connect_info::<std::net::SocketAddr>();
    let stop = begun.stop.clone();
    let served = axum::serve(listener, service).with_graceful_shutdown(async move {
        stop.cancelled().await;
    });
    // A page that waits for its session must not hold the end up.
    tokio::select! {
        served = served => served.because(Code::Io, "the API cannot be served any more")?,
        () = async { begun.stop.cancelled().await; tokio::time::sleep(Duration::from_millis(500)).await } => {}
    }
    gateway.close(SETTLE_WITHIN).await;
    settling.abort();
    renter.close().await;
    Ok(0)
}

/// Sessions of a process that was killed: nobody can reach them any more, so they are stopped and settled.
pub(super) fn settle_left_over(
    records: ClientDir,
    stop: tokio_util::sync::CancellationToken,
) -> Result<tokio::task::JoinHandle<()>, Failure> {
    let listing = leases::list(&records).code(Code::Data)?;
    for lease in listing.0.iter().filter(|lease| !lease.lease.phase.is_final()) {
        if let Err(error) = leases::stop(&records, lease.lease.lease) {
            tracing::warn!(lease = %lease.lease.lease.short(), %error, "a session of an earlier process is not stopped");
        }
    }
    Ok(tokio::spawn(async move {
        if let Err(error) = agent::run(&records, stop.cancelled_owned()).await {
            tracing::warn!(%error, "sessions of an earlier process are not settled");
        }
    }))
}

/// The Gateway's own wallet in its folder, else the one that was chosen.
fn wallet(cx: &Context, dir: &Path) -> Result<muster_chain::keys::Wallet, Failure> {
    let own = dir.join("wallet.json");
    if cx.global.wallet.is_none() && own.exists() {
        return crate::wallets::open(&cx.dirs, &cx.global, &own);
    }
    cx.wallet()
}

fn ice_servers(args: &GatewayRunArgs) -> Result<Vec<IceServer>, Failure> {
    let mut servers = Vec::new();
    if !args.stun.is_empty() {
        servers.push(IceServer { urls: args.stun.clone(), username: None, credential: None });
    }
    if !args.turn.is_empty() {
        let secret = |name: &str| {
            let missing = || Failure::new(Code::Config, format!("--turn needs {name} in the environment"));
            std::env::var(name).ok().filter(|text| !text.is_empty()).ok_or_else(missing)
        };
        let (username, credential) = (Some(secret("MUSTER_TURN_USER")?), Some(secret("MUSTER_TURN_PASSWORD")?));
        servers.push(IceServer { urls: args.turn.clone(), username, credential });
    }
    Ok(servers)
}

/// `muster api-key`: keys of the Gateway of this folder. One that runs takes a change over at its next start.
pub(super) fn api_key(cx: &Context, command: ApiKeyCommand) -> Result<u8, Failure> {
    let up = cx.dirs.at(GATEWAY);
    let dir = if up.exists() { up } else { cx.dirs.root().to_owned() };
    let store = KeyStore::open(&dir.join("api-keys.json")).code(Code::Data)?;
    match command {
        ApiKeyCommand::New { name } => {
            let key = store.create(&name).code(Code::Config)?;
            cx.output.result(&serde_json::json!({ "name": name, "key": key }), || key.clone());
            cx.output.note("This is shown once; keep it like a password.");
        }
        ApiKeyCommand::Ls => {
            let names = store.names();
            cx.output.result(&names, || table(&["name"], names.iter().map(|name| vec![name.clone()]).collect()));
        }
        ApiKeyCommand::Revoke { name } => {
            if !store.revoke(&name).code(Code::Io)? {
                return Err(Failure::new(
                    Code::NotFound,
                    format!("there is no key {name:?}; `muster api-key ls` lists them"),
                ));
            }
            cx.output.result(&serde_json::json!({ "revoked": name }), || format!("{name} is revoked"));
        }
    }
    Ok(0)
}
