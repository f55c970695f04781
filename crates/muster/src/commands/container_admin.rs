//! `muster container`, except `run`: what an owner asks of the Containers of a folder.

pub(super) mod claim;
pub(super) mod init;
mod tell;

use std::path::{Path, PathBuf};

use muster_chain::settle::ChainClient;
use muster_container::{AdminError, AdminRequest, ContainerStatus};
use muster_core::ids::LeaseId;
use muster_core::units::TokenAmount;
use muster_net::NodeSecret;

use self::tell::ContainerObject;
use super::{Context, chain_failure, roles};
use crate::cli::ContainerCommand;
use crate::failure::{Because, Code, Failure};
use crate::output::tokens;

/// Containers that are looked for below a folder of `muster up`.
const CONTAINERS_MAX: usize = 1_024;

/// Runs one of the commands.
pub(super) async fn run(cx: &Context, command: ContainerCommand) -> Result<u8, Failure> {
    match command {
        ContainerCommand::Init(args) => init::init(cx, args).await.map(|()| 0),
        ContainerCommand::Status => ask_all(cx, &AdminRequest::Status, None).await,
        ContainerCommand::Drain => {
            let done = "takes nothing new; what runs is finished (`muster container resume` takes offers again)";
            ask_all(cx, &AdminRequest::Drain, Some(done)).await
        }
        ContainerCommand::Resume => ask_all(cx, &AdminRequest::Resume, Some("takes offers again")).await,
        ContainerCommand::Leave => {
            let done = "leaves: what runs is finished, then its stake is asked back; after the unbonding time \
                        `muster container claim` brings it";
            ask_all(cx, &AdminRequest::Leave, Some(done)).await
        }
        ContainerCommand::Stop { lease } => stop(cx, lease).await,
        ContainerCommand::Claim => claim::claim(cx).await.map(|()| 0),
        ContainerCommand::TopUp { amount } => top_up(cx, amount).await.map(|()| 0),
        ContainerCommand::Run(_) => Err(Failure::new(Code::Internal, "a Container is run by its role")),
    }
}

/// Folders of the Containers of this folder: itself, the one of `container init`, or all of `muster up`.
fn containers(cx: &Context) -> Result<Vec<PathBuf>, Failure> {
    let root = cx.dirs.root();
    let one = roles::container_dir(root);
    if one.join("container.toml").exists() {
        return Ok(vec![one]);
    }
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(root).into_iter().flatten().take(CONTAINERS_MAX) {
        let path = entry.because(Code::Io, root.display())?.path();
        let number = path.file_name().and_then(|n| match n.to_str()? {
            super::setup::CHEAT => Some(u32::MAX),
            name => name.strip_prefix("container-")?.parse().ok(),
        });
        if let Some(number) = number
            && path.join("container.toml").exists()
        {
            found.push((number, path));
        }
    }
    if found.is_empty() {
        let why = format!(
            "there is no Container in {}: `muster container init` makes one, `muster up` a whole network, and --dir names \
             another folder",
            root.display()
        );
        return Err(Failure::new(Code::NotFound, why));
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Asks the Container of a folder. A wrong configuration is an error at once; one that does not answer is an outcome.
async fn ask(dir: &Path, request: &AdminRequest) -> Result<Result<ContainerStatus, AdminError>, Failure> {
    let config = roles::container_config(&dir.join("container.toml"))?;
    Ok(muster_container::ask(&config.data_dir, request).await)
}

/// Asks every Container of the folder for the same. `done` is what to say of each that did it; none shows the status.
async fn ask_all(cx: &Context, request: &AdminRequest, done: Option<&str>) -> Result<u8, Failure> {
    let mut objects = Vec::new();
    let mut code = None;
    for dir in containers(cx)? {
        match ask(&dir, request).await? {
            Ok(status) => objects.push(ContainerObject { dir, running: true, status: Some(status), problem: None }),
            Err(error) => {
                code = code.or(Some(admin_code(&error)));
                let running = matches!(error, AdminError::Refused(_) | AdminError::Answer(_) | AdminError::Silent(_));
                objects.push(ContainerObject { dir, running, status: None, problem: Some(sentence(&error)) });
            }
        }
    }
    // The status of some is worth showing although others are away; a wish must have reached all.
    let answered = objects.iter().any(|c| c.status.is_some());
    let code = if done.is_none() && answered { None } else { code };
    let text = || match done {
        None => tell::text(&objects),
        Some(done) => objects.iter().map(|c| outcome(c, done)).collect::<Vec<_>>().join("\n"),
    };
    cx.output.result(&serde_json::json!({ "containers": objects }), text);
    Ok(code.map_or(0, |code| code as u8))
}

fn outcome(container: &ContainerObject, done: &str) -> String {
    match (&container.status, &container.problem) {
        (Some(status), _) => {
            let open = match status.leases.len() {
                0 => String::new(),
                1 => " (1 lease is open)".to_owned(),
                more => format!(" ({more} leases are open)"),
            };
            format!("{} {done}{open}", status.name)
        }
        (None, Some(problem)) => problem.clone(),
        (None, None) => "no answer".to_owned(),
    }
}

async fn stop(cx: &Context, lease: LeaseId) -> Result<u8, Failure> {
    let name = lease.to_string();
    for dir in containers(cx)? {
        match ask(&dir, &AdminRequest::Status).await? {
            Ok(status) if status.leases.iter().any(|l| l.lease == name) => {}
            Ok(_) | Err(AdminError::NotRunning { .. }) => continue,
            Err(error) => return Err(Failure::new(admin_code(&error), sentence(&error))),
        }
        let status = match ask(&dir, &AdminRequest::Stop { lease: name.clone() }).await? {
            Ok(status) => status,
            Err(AdminError::Refused(why)) => return Err(Failure::new(Code::NotFound, why)),
            Err(error) => return Err(Failure::new(admin_code(&error), sentence(&error))),
        };
        let value = serde_json::json!({ "id": lease, "container": status.id, "stopped": true });
        cx.output.result(&value, || {
            format!("the job of lease {} is stopped on {}; it counts as an interruption", lease.short(), status.name)
        });
        return Ok(0);
    }
    let why = format!(
        "no Container of {} works on lease {lease}; `muster container status` lists the leases of each",
        cx.dirs.root().display()
    );
    Err(Failure::new(Code::NotFound, why))
}

/// Adds to the stake of the only Container of the folder.
async fn top_up(cx: &Context, amount: Option<TokenAmount>) -> Result<(), Failure> {
    let mut found = containers(cx)?;
    let (Some(dir), true) = (found.pop(), found.is_empty()) else {
        let why = format!(
            "{} holds several Containers; name the folder of one, for example --dir {}",
            cx.dirs.root().display(),
            cx.dirs.at("container-0").display()
        );
        return Err(Failure::new(Code::Config, why));
    };
    let network = claim::network(cx, &dir)?;
    let id = NodeSecret::load(&dir.join("node.key")).code(Code::Wallet)?.id();
    let client = ChainClient::connect(&network.chain.rpc, network.chain.id, network.contracts.into())
        .await
        .map_err(|e| chain_failure(&e))?;
    let Some(node) = client.node(id).await.map_err(|e| chain_failure(&e))? else {
        return Err(Failure::new(
            Code::NotFound,
            "this Container is not registered yet: `muster container run` does that",
        ));
    };
    let due = network.params.container_stake;
    let (added, tx) = super::checkers::admin::add_stake(cx, &dir, &client, (&node, due), amount).await?;
    let stake = node.stake.saturating_add(added);
    let value = serde_json::json!({ "id": id, "added": added, "stake": stake, "transaction": tx });
    cx.output.result(&value, || {
        format!(
            "{} of stake were added; it is {} now. A Container that was jailed serves again once it has proved itself.",
            tokens(added),
            tokens(stake)
        )
    });
    Ok(())
}

const fn admin_code(error: &AdminError) -> Code {
    match error {
        AdminError::NotRunning { .. } | AdminError::Silent(_) => Code::Unreachable,
        AdminError::Forbidden { .. } | AdminError::Io { .. } => Code::Io,
        AdminError::Answer(_) => Code::Internal,
        AdminError::Refused(_) => Code::NotFound,
    }
}

/// An error with its causes, in one sentence.
pub(super) fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = cause.source();
    }
    text
}
