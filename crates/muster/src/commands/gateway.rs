//! `muster gateway run` and `muster api-key`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use muster_chain::settle::ChainClient;
use muster_client::chain::ChainLedger;
use muster_client::{ClientDir, Network, Renter, agent, leases};
use muster_gateway::{
    AppStakes, Gateway, GatewayConfig, IceServer, KeyShown, KeyStore, KeyTerms, Scope, TAKES_WITHIN, UsageRow, patient,
    read_snapshot,
};
use tokio::net::TcpListener;

use super::live::{GATEWAY, ORIGIN};
use super::roles::{await_chain, begin};
use super::{Context, chain_failure};
use crate::cli::{ApiKeyCommand, ApiKeyNewArgs, GatewayCommand, GatewayRunArgs, KeyScope};
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
    let Some(chain) = await_chain(&network, &begun).await? else { return Ok(0) };
    let app_stakes = if args.app_stake { Some(app_stakes(chain, &network).await?) } else { None };
    let wallet = wallet(cx, &dir)?;
    let client_dir = dir.join("client");
    make_private(&client_dir)?;
    let records = ClientDir::open(&client_dir).code(Code::Data)?;
    let ledger = ChainLedger::connect(&network, Some(wallet), records.root()).await.map_err(|e| chain_failure(&e))?;
    let renter = Renter::new(network, Arc::new(ledger), records.clone()).await.code(Code::Unreachable)?;
    let settling = settle_left_over(records, begun.stop.clone())?;
    muster_gateway::allow_many_connections();
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
        app_stakes,
        loopback_only: bound.ip().is_loopback() && args.origin.is_none(),
    };
    let gateway = Gateway::new(config, renter.clone()).code(Code::Data)?;
    begun.health.set(|h| {
        h.ready = true;
        h.listen = Some(bound.to_string());
    });
    let listener = patient(listener, TAKES_WITHIN);
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

/// What is asked of who publishes; a network from before there were stakes for apps cannot hold any.
async fn app_stakes(client: ChainClient, network: &Network) -> Result<AppStakes, Failure> {
    if !client.takes_apps().await.map_err(|e| chain_failure(&e))? {
        let why = format!(
            "the registry of the network {} takes no apps, so --app-stake cannot be: run the Gateway without it",
            network.name
        );
        return Err(Failure::new(Code::Config, why));
    }
    Ok(AppStakes { client, least: network.params.app_stake })
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

/// `muster api-key`: keys of the Gateway of this folder. One that runs takes a change over within a second.
pub(super) fn api_key(cx: &Context, command: ApiKeyCommand) -> Result<u8, Failure> {
    let up = cx.dirs.at(GATEWAY);
    let dir = if up.exists() { up } else { cx.dirs.root().to_owned() };
    let store = KeyStore::open(&dir.join("api-keys.json")).code(Code::Data)?;
    match command {
        ApiKeyCommand::New(args) => {
            let key = store.create_with(&args.name, terms(&args)).code(Code::Config)?;
            cx.output.result(&serde_json::json!({ "name": args.name, "key": key }), || key.clone());
            cx.output.note("This is shown once; keep it like a password.");
        }
        ApiKeyCommand::Ls { long } => {
            let keys = store.list();
            let rows = || keys.iter().map(|key| vec![key.name.clone()]).collect();
            if long {
                let heads = ["name", "id", "account", "opens", "models", "budget", "a month", "expires"];
                cx.output.result(&keys, || table(&heads, keys.iter().map(row).collect()));
            } else {
                cx.output.result(&store.names(), || table(&["name"], rows()));
            }
        }
        ApiKeyCommand::Revoke { name } => {
            if !store.revoke(&name).code(Code::Io)? {
                return Err(unknown_key(&name));
            }
            cx.output.result(&serde_json::json!({ "revoked": name }), || format!("{name} is revoked"));
        }
        ApiKeyCommand::Usage { name } => used(cx, &dir, &store, name.as_deref())?,
    }
    Ok(0)
}

fn unknown_key(name: &str) -> Failure {
    Failure::new(Code::NotFound, format!("there is no key {name:?}; `muster api-key ls` lists them"))
}

fn terms(args: &ApiKeyNewArgs) -> KeyTerms {
    let scopes = args.scope.iter().map(|scope| match scope {
        KeyScope::Models => Scope::Models,
        KeyScope::Sessions => Scope::Sessions,
    });
    let now_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    KeyTerms {
        account: args.account.clone(),
        scopes: scopes.collect(),
        models: args.model.clone(),
        budget_usd_micro: args.budget,
        budget_month_usd_micro: args.budget_month,
        expires_s: args.expires_days.map(|days| now_s.saturating_add(u64::from(days) * 86_400)),
        requests_per_minute: args.requests_per_minute,
        tokens_per_minute: args.tokens_per_minute,
        requests_at_once: args.requests_at_once,
    }
}

fn row(key: &KeyShown) -> Vec<String> {
    let terms = &key.terms;
    let all = |list: String| if list.is_empty() { "all".to_owned() } else { list };
    let scopes = terms.scopes.iter().map(|scope| match scope {
        Scope::Models => "models",
        Scope::Sessions => "sessions",
    });
    let money = |usd: Option<muster_core::units::UsdMicro>| usd.map_or_else(String::new, |usd| usd.to_string());
    vec![
        key.name.clone(),
        key.id.clone(),
        terms.account.clone().unwrap_or_else(|| key.name.clone()),
        all(scopes.collect::<Vec<_>>().join(", ")),
        all(terms.models.join(", ")),
        money(terms.budget_usd_micro),
        money(terms.budget_month_usd_micro),
        terms.expires_s.map_or_else(String::new, |until| until.to_string()),
    ]
}

/// What keys have used this month, by model, at most a second late.
fn used(cx: &Context, dir: &Path, store: &KeyStore, only: Option<&str>) -> Result<(), Failure> {
    let keys = store.list();
    let wanted = match only {
        Some(name) => Some(keys.iter().find(|key| key.name == name).ok_or_else(|| unknown_key(name))?),
        None => None,
    };
    let rows = read_snapshot(dir).code(Code::Data)?;
    let named = |row: &UsageRow| keys.iter().find(|key| key.id == row.key).map(|key| key.name.clone());
    let rows: Vec<_> = rows
        .into_iter()
        .filter(|row| wanted.is_none_or(|key| key.id == row.key))
        .map(|row| (named(&row).unwrap_or_else(|| format!("revoked {}", row.key)), row))
        .collect();
    let shown: Vec<_> = rows.iter().map(|(name, row)| serde_json::json!({ "name": name, "usage": row })).collect();
    cx.output.result(&shown, || {
        let lines = rows.iter().map(|(name, row)| {
            let used = row.used;
            let counts = [used.requests, used.input, used.cached, used.output].map(|count| count.to_string());
            let usd = muster_core::units::UsdMicro(used.usd_micro).to_string();
            [vec![name.clone(), row.month.clone(), row.model.clone()], counts.to_vec(), vec![usd]].concat()
        });
        table(&["name", "month", "model", "requests", "input", "cached", "output", "cost"], lines.collect())
    });
    Ok(())
}
