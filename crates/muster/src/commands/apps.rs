//! `muster app`: apps of a Gateway, and the stakes that stand for them.

mod stake;

use std::path::Path;

use muster_gateway::{App, PUBLISHER_HEADER, STAKE_NEEDED};
use reqwest::Method;
use serde_json::{Value, json};

use super::Context;
use super::live::{Customer, text};
use crate::cli::{AppCommand, AppWithdrawArgs, AtGateway};
use crate::failure::{Because, Code, Failure};
use crate::output::{table, tokens};
use stake::Staked;

/// `muster app`.
pub(super) async fn run(cx: &Context, command: AppCommand) -> Result<u8, Failure> {
    match command {
        AppCommand::Publish { file, yes, at } => publish_file(cx, &file, yes, &at).await?,
        AppCommand::Ls { at } => ls(cx, &at).await?,
        AppCommand::Show { name, at } => {
            let path = format!("/api/v1/apps/{name}");
            let mut value = Customer::find(cx, &at).await?.call(Method::GET, &path, None).await?;
            stake::shown(cx, std::slice::from_mut(&mut value)).await;
            cx.output.result(&value, || serde_json::to_string_pretty(&value).unwrap_or_default());
        }
        AppCommand::Withdraw(args) => withdraw(cx, &args).await?,
        AppCommand::Claim { name } => stake::claim(cx, name.as_deref()).await?,
    }
    Ok(0)
}

async fn publish_file(cx: &Context, file: &Path, yes: bool, at: &AtGateway) -> Result<(), Failure> {
    let source = std::fs::read_to_string(file).because(Code::Io, format!("cannot read {}", file.display()))?;
    let wrong = |e: muster_gateway::AppError| Failure::new(Code::Config, format!("{}: {e}", file.display()));
    let mut app = App::parse(&source).map_err(wrong)?;
    let customer = Customer::find(cx, at).await?;
    app.content = None;
    if !app.files.is_empty() {
        let base = file.parent().map(Path::to_owned).unwrap_or_default();
        let (content, paths) = muster_gateway::gather(&base, &app.files).map_err(wrong)?;
        upload(cx, &customer, &content, &paths).await?;
        app.content = Some(content);
    }
    let (mut value, staked) = publish(cx, &customer, &app, yes).await?;
    if let Some(fields) = value.as_object_mut() {
        fields.insert("staked".to_owned(), json!(staked));
    }
    cx.output.result(&value, || {
        let (name, version) = (&app.name, &app.version);
        let stake = match &staked {
            Some(staked) => format!(" with a stake of {}", tokens(staked.stake)),
            None => String::new(),
        };
        format!("published {name} {version}{stake}; play it with `muster session start {name}`")
    });
    if staked.is_none() && app.stake.is_some() {
        cx.output.note("This Gateway asks for no stake, so none was registered.");
    }
    Ok(())
}

/// Publishes an app; where the Gateway asks for a stake, the wallet pays it first. Whoever was cut off says the same again:
/// what the chain holds by then is not paid anew.
pub(super) async fn publish(
    cx: &Context,
    customer: &Customer,
    app: &App,
    yes: bool,
) -> Result<(Value, Option<Staked>), Failure> {
    let (place, body) = ("/api/v1/apps", serde_json::to_value(app).code(Code::Internal)?);
    match customer.ask(Method::POST, place, Some(&body), None).await {
        Ok(value) => Ok((value, None)),
        Err(refused) if refused.code.as_deref() == Some(STAKE_NEEDED) => {
            let (staked, signature) = Box::pin(stake::ensure(cx, app, customer.key(), yes)).await?;
            crate::crashes::here(cx.crash_plans.as_deref(), "app-staked");
            let signed = Some((PUBLISHER_HEADER, signature.as_str()));
            Ok((customer.ask(Method::POST, place, Some(&body), signed).await?, Some(staked)))
        }
        Err(refused) => Err(refused.failure),
    }
}

async fn ls(cx: &Context, at: &AtGateway) -> Result<(), Failure> {
    let mut value = Customer::find(cx, at).await?.call(Method::GET, "/api/v1/apps", None).await?;
    if let Some(all) = value.as_array_mut() {
        stake::shown(cx, all).await;
    }
    cx.output.result(&value, || {
        let rows = value.as_array().into_iter().flatten().map(|one| {
            let sizes = one.pointer("/app/resolutions/0").and_then(Value::as_str).unwrap_or("-").to_owned();
            let by = one.pointer("/account").and_then(Value::as_str).unwrap_or("muster").to_owned();
            let needs = one.pointer("/app/packages").and_then(Value::as_array).into_iter().flatten();
            let needs: Vec<&str> = needs.filter_map(Value::as_str).collect();
            let needs = if needs.is_empty() { "-".to_owned() } else { needs.join(" ") };
            let named = ["/app/name", "/app/version", "/app/title"].map(|field| text(one, field));
            [named.to_vec(), vec![sizes, needs, by, stake::word(one)]].concat()
        });
        table(&["name", "version", "title", "size", "packages", "publisher", "stake"], rows.collect())
    });
    Ok(())
}

async fn withdraw(cx: &Context, args: &AppWithdrawArgs) -> Result<(), Failure> {
    let name = &args.name;
    let own = if args.keep_stake { None } else { stake::own(cx, name).await? };
    if args.stake_only {
        if own.is_none() {
            let why =
                format!("no stake of this wallet stands for {name:?}; `muster app claim` lists those that unbond");
            return Err(Failure::new(Code::NotFound, why));
        }
    } else {
        let customer = Customer::find(cx, &args.at).await?;
        match customer.ask(Method::DELETE, &format!("/api/v1/apps/{name}"), None, None).await {
            Ok(_) => {}
            // Cut off between the two, or withdrawn by hand: the stake is what is left to do.
            Err(refused) if own.is_some() && refused.code.as_deref() == Some("unknown_app") => {
                cx.output.note(&format!("The Gateway has no app {name:?} any more."));
            }
            Err(refused) => return Err(refused.failure),
        }
    }
    let left = match own {
        Some(own) => Some(Box::pin(stake::leave(cx, own)).await?),
        None => None,
    };
    cx.output.result(&json!({ "withdrawn": name, "staked": left }), || match &left {
        Some(left) => format!("{name} is withdrawn; {}", left.text()),
        None => format!("{name} is withdrawn"),
    });
    Ok(())
}

/// Sends what goes along with an app, in parts, from where an earlier try stopped.
async fn upload(
    cx: &Context,
    customer: &Customer,
    content: &muster_gateway::Content,
    paths: &[std::path::PathBuf],
) -> Result<(), Failure> {
    let place = format!("/api/v1/app-content/{}", content.hash);
    let have = customer.call(Method::GET, &place, None).await?;
    let mut at = have.pointer("/bytes").and_then(Value::as_u64).unwrap_or(0);
    let mut files = Joined::new(paths, at).code(Code::Io)?;
    let mut told = at;
    loop {
        let part = files.part(muster_gateway::PART_BYTES_MAX).code(Code::Io)?;
        let last = part.len() < muster_gateway::PART_BYTES_MAX;
        let sent = customer.put(&format!("{place}/{at}"), part).await?;
        at = sent.pointer("/bytes").and_then(Value::as_u64).unwrap_or(0);
        if at.saturating_sub(told) > 32 << 20 {
            cx.output.note(&format!("sent {} of {} MB …", at / 1_000_000, content.bytes() / 1_000_000));
            told = at;
        }
        if last {
            return Ok(());
        }
    }
}

/// Files one behind the other, read in parts.
struct Joined {
    left: std::collections::VecDeque<std::path::PathBuf>,
    open: Option<std::fs::File>,
}

impl Joined {
    fn new(paths: &[std::path::PathBuf], skip: u64) -> std::io::Result<Self> {
        let mut files = Self { left: paths.iter().cloned().collect(), open: None };
        let mut skip = skip;
        while let Some(path) = files.left.front() {
            let bytes = std::fs::metadata(path)?.len();
            if skip < bytes {
                break;
            }
            skip -= bytes;
            files.left.pop_front();
        }
        if let Some(path) = files.left.pop_front() {
            let mut file = std::fs::File::open(path)?;
            std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(skip))?;
            files.open = Some(file);
        }
        Ok(files)
    }

    /// The next bytes; fewer only at the end.
    fn part(&mut self, most: usize) -> std::io::Result<Vec<u8>> {
        use std::io::Read as _;
        let mut part = Vec::new();
        while part.len() < most {
            let Some(file) = &mut self.open else { break };
            let room = u64::try_from(most - part.len()).unwrap_or(0);
            if file.take(room).read_to_end(&mut part)? == 0 {
                self.open = self.left.pop_front().map(std::fs::File::open).transpose()?;
            }
        }
        Ok(part)
    }
}
