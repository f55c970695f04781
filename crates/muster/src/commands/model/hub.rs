//! Models on a hub: which file is meant, and the token that opens private ones.
//!
//! ```text
//! DIR/hub/key.json    a keystore: opens what is sealed in
//! DIR/hub/token       the token
//! ```
//!
//! The token leaves this machine for the hub itself, and for a Container sealed to its key; nobody between reads it.

use std::collections::BTreeSet;
use std::io::{IsTerminal, Read};
use std::time::Duration;

use muster_chain::keys::Wallet;
use muster_chain::settle::{NodeKind, NodeStatus};
use muster_core::ids::{LeaseId, NodeId};
use muster_core::inference::{HubFile, HubRef, TOKEN_CONTEXT};
use muster_engine::hub::{Found, Hub, HubError, TOKEN_LEN_MAX, Token};
use muster_net::{NodeSecret, seal};
use reqwest::Method;
use serde_json::{Value, json};

use super::super::Context;
use super::super::live::{Customer, text};
use crate::cli::AtGateway;
use crate::cli::model::TokenCommand;
use crate::dirs::{make_private, write_private};
use crate::failure::{Because, Code, Failure};
use crate::wallets;

/// A hub that says nothing for so long is given up.
const SILENCE: Duration = Duration::from_secs(30);
/// For what the token is sealed where it is kept.
const KEPT_CONTEXT: &str = "muster hub token kept v1";
const TOKEN_FILE: &str = "hub/token";
const KEEP_HINT: &str = "keep one with `muster model token set`";

/// `muster model token`.
pub(super) async fn token(cx: &Context, command: TokenCommand) -> Result<u8, Failure> {
    match command {
        TokenCommand::Set => set(cx)?,
        TokenCommand::Rm => rm(cx)?,
        TokenCommand::Give { name, at } => give(cx, &name, &at).await?,
    }
    Ok(0)
}

fn set(cx: &Context) -> Result<(), Failure> {
    let mut told = String::new();
    if std::io::stdin().is_terminal() {
        told = rpassword::prompt_password("The hub's token: ").because(Code::Wallet, "cannot read the token")?;
    } else {
        let most = u64::try_from(TOKEN_LEN_MAX).unwrap_or(u64::MAX).saturating_add(16);
        std::io::stdin()
            .take(most)
            .read_to_string(&mut told)
            .because(Code::Wallet, "cannot read the token from standard input")?;
    }
    let token = Token::new(&told).code(Code::Wallet)?;
    cx.dirs.prepare()?;
    let path = cx.dirs.hub_key();
    make_private(&cx.dirs.at("hub"))?;
    let key = if path.exists() {
        wallets::open(&cx.dirs, &cx.global, &path)?
    } else {
        let passphrase = wallets::passphrase(&cx.dirs, &cx.global, &path, true)?;
        wallets::open_or_make(&path, &passphrase)?
    };
    let kept = NodeSecret::from_bytes(&key.secret());
    let sealed = seal(kept.id(), KEPT_CONTEXT, b"", token.secret().as_bytes()).code(Code::Internal)?;
    write_private(&cx.dirs.at(TOKEN_FILE), format!("{}\n", hex::encode(sealed)).as_bytes())?;
    cx.output.result(&json!({ "kept": true }), || "the token is kept; private models can be deployed now".to_owned());
    Ok(())
}

fn rm(cx: &Context) -> Result<(), Failure> {
    let mut was = false;
    for path in [cx.dirs.at(TOKEN_FILE), cx.dirs.hub_key()] {
        match std::fs::remove_file(&path) {
            Ok(()) => was = true,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Failure::new(Code::Io, format!("cannot remove {}: {error}", path.display()))),
        }
    }
    if !was {
        return Err(Failure::new(Code::NotFound, "no token is kept here; nothing was done"));
    }
    cx.output.result(&json!({ "kept": false }), || "the token is gone from here; the hub can revoke it".to_owned());
    Ok(())
}

/// The token that is kept, if one is.
fn kept(cx: &Context) -> Result<Option<Token>, Failure> {
    let path = cx.dirs.at(TOKEN_FILE);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::new(Code::Io, format!("cannot read {}: {error}", path.display()))),
    };
    let key: Wallet = wallets::open(&cx.dirs, &cx.global, &cx.dirs.hub_key())?;
    let damaged = || {
        let why = format!("{} is damaged; set the token anew with `muster model token set`", path.display());
        Failure::new(Code::Data, why)
    };
    let sealed = hex::decode(text.trim()).map_err(|_| damaged())?;
    let opened = NodeSecret::from_bytes(&key.secret()).open(KEPT_CONTEXT, b"", &sealed).map_err(|_| damaged())?;
    let token = String::from_utf8(opened).ok().and_then(|text| Token::new(&text).ok());
    token.map(Some).ok_or_else(damaged)
}

fn failed(error: &HubError) -> Failure {
    let code = match error {
        HubError::NotFound(_) => Code::NotFound,
        HubError::TokenWanted(_) | HubError::TokenRefused(_) | HubError::Token => Code::Wallet,
        HubError::Busy => Code::Busy,
        HubError::Unreachable(_) | HubError::Silent(_) | HubError::BrokeOff | HubError::Status(_) => Code::Unreachable,
        _ => Code::Config,
    };
    Failure::new(code, error)
}

/// Asks the hub which file is meant. A token that is kept is shown to it only where it asks for one.
pub(super) async fn look(cx: &Context, address: &str, wanted: &HubRef) -> Result<Found, Failure> {
    let hub = Hub::new(address, SILENCE).map_err(|error| failed(&error))?;
    cx.output.note(&format!("asking the hub for {wanted} …"));
    let found = match hub.look(wanted, None).await {
        Err(error @ (HubError::TokenWanted(_) | HubError::NotFound(_))) => match kept(cx)? {
            Some(token) => hub.look(wanted, Some(&token)).await,
            None => Err(error),
        },
        other => other,
    };
    let found = found.map_err(|error| failed(&error))?;
    if wanted.file.as_deref() != Some(found.file.file()) {
        let more = if found.parts.is_empty() {
            String::new()
        } else {
            format!(" and the rest of its {} parts", found.parts.len())
        };
        let name = found.file.file();
        cx.output.note(&format!("taking {name}{more} ({}); name another file behind a colon", found.bytes));
    }
    Ok(found)
}

/// Gives the token to those replicas that wait for it and were not given it yet.
pub(super) async fn hand(
    cx: &Context,
    customer: &Customer,
    state: &Value,
    given: &mut BTreeSet<String>,
) -> Result<(), Failure> {
    let replicas = state.pointer("/running").and_then(Value::as_array).into_iter().flatten();
    for wants in replicas.filter_map(|replica| replica.get("wants_token").filter(|wants| wants.is_object())) {
        let lease = text(wants, "/lease");
        if given.contains(&lease) {
            continue;
        }
        let why = format!("{} is private, and no token is kept here: {KEEP_HINT}", text(wants, "/source"));
        let token = kept(cx)?.ok_or_else(|| Failure::new(Code::Wallet, why))?;
        let sealed = sealed(cx, wants, &lease, &token).await?;
        let name = text(state, "/name");
        let body = json!({ "lease": lease, "sealed": hex::encode(sealed) });
        customer.call(Method::POST, &super::path(&name, "/token"), Some(&body)).await?;
        cx.output.note(&format!("the token was given, sealed to Container {} …", text(wants, "/node")));
        given.insert(lease);
    }
    Ok(())
}

/// The token, as only the Container of this lease reads it, and only for this repository.
async fn sealed(cx: &Context, wants: &Value, lease: &str, token: &Token) -> Result<Vec<u8>, Failure> {
    let wrong = |what: &str| Failure::new(Code::Unreachable, format!("the Gateway names a {what} that is none"));
    let node: NodeId = text(wants, "/node").parse().map_err(|_| wrong("Container"))?;
    let id: LeaseId = lease.parse().map_err(|_| wrong("lease"))?;
    let file: HubFile = text(wants, "/source").parse().map_err(|_| wrong("file"))?;
    // A Gateway could name a key of its own: the chain says who is a Container.
    if cx.network().is_ok() {
        let known = cx.chain().await?.node(node).await.map_err(|error| super::super::chain_failure(&error))?;
        if !known.is_some_and(|node| node.kind == NodeKind::Container && node.status == NodeStatus::Active) {
            let why = format!("{node} is registered as no Container; it gets no token, and neither does this Gateway");
            return Err(Failure::new(Code::Wallet, why));
        }
    }
    seal(node, TOKEN_CONTEXT, &file.repo.token_bound(id), token.secret().as_bytes()).code(Code::Internal)
}

async fn give(cx: &Context, name: &str, at: &AtGateway) -> Result<(), Failure> {
    let customer = Customer::find(cx, at).await?;
    let state = customer.call(Method::GET, &super::path(name, ""), None).await?;
    let mut given = BTreeSet::new();
    hand(cx, &customer, &state, &mut given).await?;
    if given.is_empty() {
        return Err(Failure::new(Code::NotFound, format!("no replica of {name} waits for a token; nothing was given")));
    }
    cx.output.result(&json!({ "given": given }), || format!("{name}: the token was given to {} replicas", given.len()));
    Ok(())
}
