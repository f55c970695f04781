//! `muster model`: deploy open models, look after them, talk to them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use muster_core::inference::{HUB_PREFIX, HubRef, ModelKind, PARTS_MAX, PartName, WeightsPart};
use muster_core::units::Bytes;
use muster_engine::hub::Found;
use muster_gateway::WEIGHTS_PART_MAX;
use reqwest::Method;
use serde_json::{Value, json};

use super::Context;
use super::live::{Customer, KEY_FILE, text};
use crate::cli::model::{Between, ModelChatArgs, ModelCommand, ModelDeployArgs, Prices, file_of};
use crate::failure::{Because, Code, Failure};
use crate::output::table;

mod catalog;
mod hub;
mod wallet;

/// For as long as something changes, a deployment is waited for; without any change so long.
const CHANGES_WITHIN: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often new lines of a log are asked for.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);
/// The models that `muster up` deploys: the first of these that it has the weights of, and one for embeddings.
const FIRST_CHATS: [&str; 2] = ["smollm2-135m-instruct", TINY];
const FIRST_EMBEDDING: &str = "minilm";
/// The model that is everywhere.
const TINY: &str = "tiny";

/// `muster model`.
pub(super) async fn run(cx: &Context, command: ModelCommand) -> Result<u8, Failure> {
    match command {
        ModelCommand::Catalog => catalog::show(cx)?,
        ModelCommand::Deploy(args) => return deploy(cx, args).await,
        ModelCommand::Ls { at } => {
            let value = Customer::find(cx, &at).await?.call(Method::GET, "/api/v1/models", None).await?;
            cx.output.result(&value, || listing(&value));
        }
        ModelCommand::Show { name, at } => {
            let value = Customer::find(cx, &at).await?.call(Method::GET, &path(&name, ""), None).await?;
            cx.output.result(&value, || serde_json::to_string_pretty(&value).unwrap_or_default());
        }
        ModelCommand::Scale { name, replicas: Between { min, max }, at } => {
            let body = json!({ "min": min, "max": max });
            let customer = Customer::find(cx, &at).await?;
            let value = customer.call(Method::POST, &path(&name, "/scale"), Some(&body)).await?;
            cx.output.result(&value, || format!("{name}: from {min} to {max} replicas"));
        }
        ModelCommand::Token(command) => return hub::token(cx, command).await,
        ModelCommand::Rm { name, at } => {
            Customer::find(cx, &at).await?.call(Method::DELETE, &path(&name, ""), None).await?;
            cx.output.result(&json!({ "removed": name }), || {
                format!("{name} ends: what its answers counted is paid, the rest of the deposits comes back")
            });
        }
        ModelCommand::Logs { name, follow, tail, at } => logs(cx, &name, follow, tail, &at).await?,
        ModelCommand::Convert { folder, file } => convert(cx, &folder, &file)?,
        ModelCommand::Chat(args) if args.wallet.is_some() => return Box::pin(wallet::chat(cx, &args)).await,
        ModelCommand::Chat(args) => return chat(cx, &args).await,
        ModelCommand::Embed { name, texts, at } => return embed(cx, &name, texts, &at).await,
    }
    Ok(0)
}

/// A deployment's address: names may hold slashes.
fn path(name: &str, rest: &str) -> String {
    let escaped: String = name
        .bytes()
        .map(|b| {
            if b.is_ascii_alphanumeric() || b"-._~:".contains(&b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect();
    format!("/api/v1/models/{escaped}{rest}")
}

fn listing(value: &Value) -> String {
    let rows = value.as_array().into_iter().flatten().map(|one| {
        let running = one.pointer("/running/0/container");
        vec![
            text(one, "/name"),
            text(one, "/kind"),
            format!("{}/{}", text(one, "/ready"), text(one, "/wanted")),
            running.and_then(Value::as_str).unwrap_or("-").to_owned(),
            price_text(one),
            text(one, "/why"),
        ]
    });
    table(&["model", "kind", "ready", "container", "$ per M in/cached/out", "why"], rows.collect())
}

fn price_text(one: &Value) -> String {
    match one.pointer("/price_usd") {
        Some(Value::Object(_)) => {
            let part = |name: &str| {
                let usd = one.pointer(&format!("/price_usd/{name}")).and_then(Value::as_f64).unwrap_or_default();
                let text = format!("{usd:.6}");
                // Cents at least, and no more noughts than that.
                let (whole, decimals) = text.split_at(text.len() - 4);
                format!("{whole}{}", decimals.trim_end_matches('0'))
            };
            format!("{}/{}/{}", part("input"), part("cached"), part("output"))
        }
        _ => "-".to_owned(),
    }
}

/// How a model that providers serve with engines of their own is named.
const ENDPOINT_PREFIX: &str = "endpoint:";

/// What is to be deployed, before it is anywhere.
struct Plan {
    name: String,
    kind: &'static str,
    weights: Weights,
    context: Option<u32>,
    parallel: Option<u16>,
    cpu_millis: Option<u32>,
}

/// Where its weights are.
enum Weights {
    /// Here: they are sent to the Gateway.
    File(PathBuf),
    /// On a hub: Containers fetch them.
    Hub(Found),
    /// With providers, who serve it under this name by engines of their own.
    Endpoint(String),
}

async fn deploy(cx: &Context, args: ModelDeployArgs) -> Result<u8, Failure> {
    let plan = plan(cx, &args).await?;
    let customer = Customer::find(cx, &args.at).await?;
    let begun = Instant::now();
    let mut value = place(cx, &customer, &plan, &args).await?;
    if args.no_wait || args.replicas.min == 0 {
        cx.output.result(&value, || {
            format!("{} is deployed; `muster model show {}` tells how it stands", plan.name, plan.name)
        });
        return Ok(0);
    }
    value = until_ready(cx, &customer, &plan.name, &text(&value, "/version")).await?;
    let ready_s = begun.elapsed().as_secs_f64();
    let first = first_token(&customer, &plan).await?;
    if let Some(all) = value.as_object_mut() {
        all.insert("ready_ms".to_owned(), json!(millis(ready_s)));
        all.insert("first_token_ms".to_owned(), json!(millis(first.as_secs_f64())));
    }
    cx.output.result(&value, || deployed_text(&customer, &plan, &value, ready_s, first));
    Ok(0)
}

/// Sends what the Gateway lacks, and tells it what to deploy.
async fn place(cx: &Context, customer: &Customer, plan: &Plan, args: &ModelDeployArgs) -> Result<Value, Failure> {
    let weights = match &plan.weights {
        Weights::File(first) => {
            let mut parts = Vec::new();
            for file in files_of(first)? {
                parts.push(send_weights(cx, customer, &file).await?);
            }
            named(&parts)
        }
        Weights::Hub(found) => {
            let whole = [WeightsPart { weights: found.weights, bytes: found.bytes }];
            let mut named = named(if found.parts.is_empty() { &whole[..] } else { found.parts.as_slice() });
            if let Some(all) = named.as_object_mut() {
                all.insert("hub".to_owned(), json!(found.file.to_string()));
                all.insert("private".to_owned(), json!(found.private));
            }
            named
        }
        Weights::Endpoint(_) => Value::Null,
    };
    let endpoint = match &plan.weights {
        Weights::Endpoint(name) => Some(name),
        Weights::File(_) | Weights::Hub(_) => None,
    };
    let body = json!({
        "name": plan.name, "kind": plan.kind, "weights": weights, "endpoint": endpoint,
        "context": plan.context, "parallel": plan.parallel,
        "replicas": { "min": args.replicas.min, "max": args.replicas.max },
        "cpu_millis": plan.cpu_millis, "memory_bytes": args.memory.map(|memory| memory.0),
        "gpus": args.gpus, "vram_bytes": args.vram.map(|vram| vram.0),
        "price_max_usd": args.price_max.map(|Prices { input, cached, output }| {
            json!({ "input": input, "cached": cached, "output": output })
        }),
        "region": args.region.as_ref().map(ToString::to_string), "near": args.near.map(|place| place.to_string()),
        "max_latency_ms": args.max_latency, "shared": args.shared, "offered": args.offered, "edge": args.edge,
        "hedge_after_ms": args.hedge_after.map(|after| after.0),
    });
    customer.call(Method::POST, "/api/v1/models", Some(&body)).await
}

/// How a Gateway is told of a model's file, or of its files.
fn named(files: &[WeightsPart]) -> Value {
    let one = |file: &WeightsPart| json!({ "sha256": file.weights.to_string(), "bytes": file.bytes.0 });
    match files {
        [file] => one(file),
        files => json!({ "parts": files.iter().map(one).collect::<Vec<_>>() }),
    }
}

/// The files of a model by the one that was named: of several, the first one stands for all.
fn files_of(file: &Path) -> Result<Vec<PathBuf>, Failure> {
    let Some(part) = file.file_name().and_then(|name| name.to_str()).and_then(PartName::of) else {
        return Ok(vec![file.to_owned()]);
    };
    if usize::from(part.count) > PARTS_MAX {
        let why = format!("{} is one of {} files; a model has at most {PARTS_MAX}", file.display(), part.count);
        return Err(Failure::new(Code::Config, why));
    }
    let all = muster_engine::gguf::files_of(&file.with_file_name(part.nth(1)));
    match all.iter().find(|one| !one.is_file()) {
        Some(missing) => {
            let why =
                format!("the weights {} cannot be read: not all parts of that model are there", missing.display());
            Err(Failure::new(Code::Config, why))
        }
        None => Ok(all),
    }
}

/// Deploys the models of the first start, and says how to talk to those that are there. What goes wrong is told and harms
/// nothing.
pub(super) async fn first(cx: &Context, deploys: bool) -> Result<String, Failure> {
    let customer = Customer::find(cx, &ModelDeployArgs::usual(TINY).at).await?;
    let mut text = String::new();
    let mut deploy = async |name| match first_one(cx, &customer, name).await {
        Ok(()) => true,
        Err(failure) => {
            // Writing into a string cannot fail.
            let _ = write!(text, "\nmuster: the model {name} is not deployed: {failure}");
            false
        }
    };
    if deploys {
        for name in FIRST_CHATS {
            if deploy(name).await {
                break;
            }
        }
        deploy(FIRST_EMBEDDING).await;
    }
    let there = customer.call(Method::GET, "/api/v1/models", None).await?;
    let names: Vec<String> = there.as_array().into_iter().flatten().map(|one| self::text(one, "/name")).collect();
    let there = |name: &&str| names.iter().any(|known| known == name);
    let chat = FIRST_CHATS.into_iter().find(there);
    let embedding = Some(FIRST_EMBEDDING).filter(there);
    let lines = [
        (chat, "chat/completions", r#""messages":[{"role":"user","content":"What is the opposite of hot?"}]"#),
        (embedding, "embeddings", r#""input":["a cat","a kitten"]"#),
    ];
    let lines: Vec<_> = lines.iter().filter_map(|(name, path, asked)| Some(((*name)?, path, asked))).collect();
    if !lines.is_empty() {
        let _ = write!(text, "\nModels answer at {}/v1, by OpenAI's API; talk to them:", customer.url());
    }
    let key = cx.dirs.at(KEY_FILE);
    for (name, path, asked) in lines {
        let _ = write!(
            text,
            "\n  curl -s {}/v1/{path} -H \"Authorization: Bearer $(cat {})\" -H 'Content-Type: application/json' -d '{{\"model\":\"{name}\",{asked}}}'",
            customer.url(),
            key.display(),
        );
    }
    Ok(text)
}

async fn first_one(cx: &Context, customer: &Customer, name: &str) -> Result<(), Failure> {
    let args = ModelDeployArgs::usual(name);
    let plan = plan(cx, &args).await?;
    cx.output.note(&format!("deploying the model {name} …"));
    let placed = place(cx, customer, &plan, &args).await?;
    until_ready(cx, customer, name, &text(&placed, "/version")).await?;
    first_token(customer, &plan).await?;
    Ok(())
}

/// How long it takes from the request to deploy the tiny model, whose weights the Gateway has but for the first time, to its
/// first token; it is removed again.
pub(super) async fn deploy_once(cx: &Context, name: &str) -> Result<Duration, Failure> {
    let args = ModelDeployArgs { name: Some(name.to_owned()), ..ModelDeployArgs::usual(TINY) };
    let customer = Customer::find(cx, &args.at).await?;
    let plan = plan(cx, &args).await?;
    let begun = Instant::now();
    let placed = place(cx, &customer, &plan, &args).await?;
    until_ready(cx, &customer, name, &text(&placed, "/version")).await?;
    first_token(&customer, &plan).await?;
    let took = begun.elapsed();
    customer.call(Method::DELETE, &path(name, ""), None).await?;
    Ok(took)
}

/// `muster model logs`.
async fn logs(
    cx: &Context,
    name: &str,
    follow: bool,
    tail: Option<usize>,
    at: &crate::cli::AtGateway,
) -> Result<(), Failure> {
    let customer = Customer::find(cx, at).await?;
    let mut next = 0;
    let mut skip = tail;
    loop {
        let value = customer.call(Method::GET, &path(name, &format!("/logs?from={next}")), None).await?;
        let lines = value.as_array().cloned().unwrap_or_default();
        let from = skip.take().map_or(0, |tail| lines.len().saturating_sub(tail));
        for line in lines.iter().skip(from) {
            cx.output.result(line, || log_line(line));
        }
        if let Some(last) = lines.last().and_then(|line| line.get("number")).and_then(Value::as_u64) {
            next = last.saturating_add(1);
        }
        if !follow {
            return Ok(());
        }
        tokio::time::sleep(FOLLOW_EVERY).await;
    }
}

fn log_line(line: &Value) -> String {
    let at_ms = line.pointer("/at_ms").and_then(Value::as_u64).unwrap_or_default();
    let replica = line.pointer("/replica").and_then(Value::as_u64).map(|id| format!("replica {id} "));
    let engine = if text(line, "/from") == "engine" { "| " } else { "" };
    format!("{} {}{engine}{}", time_of_day(at_ms), replica.unwrap_or_default(), text(line, "/text"))
}

/// In UTC.
fn time_of_day(at_ms: u64) -> String {
    let s = at_ms / 1_000;
    format!("{:02}:{:02}:{:02}Z", s / 3_600 % 24, s / 60 % 60, s % 60)
}

/// `muster model convert`.
fn convert(cx: &Context, folder: &Path, file: &Path) -> Result<(), Failure> {
    let bytes = muster_engine::bert::gguf(folder)
        .because(Code::Config, format!("{} is no embedding model that can be converted", folder.display()))?;
    std::fs::write(file, &bytes).because(Code::Io, format!("cannot write {}", file.display()))?;
    let (sha256, len) =
        muster_client::weights::hash(file).because(Code::Io, format!("cannot read {}", file.display()))?;
    let value = json!({ "file": file.display().to_string(), "sha256": sha256.to_string(), "bytes": len });
    cx.output.result(&value, || {
        let shown = file.display();
        format!("{shown}: {}, SHA-256 {sha256}\nmuster model deploy file:{shown} --kind embedding", Bytes(len))
    });
    Ok(())
}

fn millis(seconds: f64) -> f64 {
    (seconds * 1e3).round()
}

async fn plan(cx: &Context, args: &ModelDeployArgs) -> Result<Plan, Failure> {
    let kind = |usual| args.kind.map_or(usual, crate::cli::model::Kind::word);
    let (cpu_millis, parallel) = (args.cpus.map(|cpus| cpus.0), args.parallel);
    if let Some(file) = file_of(&args.model) {
        let name = args.name.clone().unwrap_or_else(|| stem_of(&file));
        let weights = Weights::File(file);
        return Ok(Plan { name, kind: kind("chat"), weights, context: args.context, parallel, cpu_millis });
    }
    if args.model.starts_with(HUB_PREFIX) {
        let wanted: HubRef = args.model.parse().code(Code::Config)?;
        let found = hub::look(cx, &args.hub, &wanted).await?;
        let name = args.name.clone().unwrap_or_else(|| own_name(wanted.repo.name()));
        let weights = Weights::Hub(found);
        return Ok(Plan { name, kind: kind("chat"), weights, context: args.context, parallel, cpu_millis });
    }
    if let Some(endpoint) = args.model.strip_prefix(ENDPOINT_PREFIX) {
        let name = args.name.clone().unwrap_or_else(|| endpoint.to_owned());
        let weights = Weights::Endpoint(endpoint.to_owned());
        return Ok(Plan { name, kind: kind("chat"), weights, context: args.context, parallel, cpu_millis });
    }
    let entry = catalog::find(&args.model)?;
    let weights = match catalog::on_hub(&entry)? {
        Some(catalog::OnHub::Known(found)) => Weights::Hub(found),
        Some(catalog::OnHub::Ask(wanted, said)) => {
            let found = hub::look(cx, &args.hub, &wanted).await?;
            catalog::same(&entry, &found, said)?;
            Weights::Hub(found)
        }
        None => Weights::File(catalog::weights(cx, &entry)?),
    };
    Ok(Plan {
        name: args.name.clone().unwrap_or_else(|| entry.name.clone()),
        kind: kind(kind_word(entry.kind)),
        weights,
        context: args.context.or(entry.context),
        parallel,
        cpu_millis: cpu_millis.or(entry.cpu_millis()),
    })
}

const fn kind_word(kind: ModelKind) -> &'static str {
    match kind {
        ModelKind::Chat => "chat",
        ModelKind::Completion => "completion",
        ModelKind::Embedding => "embedding",
    }
}

/// What requests call a file: its name without what says that it is GGUF, or one of several.
fn stem_of(file: &Path) -> String {
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let stem = Path::new(&name).file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    PartName::of(&name).map_or(stem, |part| part.stem.to_owned())
}

/// What requests call a repository: its name in small letters, without what says that it is GGUF.
fn own_name(repository: &str) -> String {
    let name = repository.to_ascii_lowercase();
    name.strip_suffix("-gguf").or_else(|| name.strip_suffix("_gguf")).unwrap_or(&name).to_owned()
}

/// Sends what the Gateway lacks of a file; gives its hash and length.
async fn send_weights(cx: &Context, customer: &Customer, file: &Path) -> Result<WeightsPart, Failure> {
    let (shown, place) = (file.display(), file.to_owned());
    cx.output.note(&format!("hashing {shown} …"));
    let hashed =
        tokio::task::spawn_blocking(move || muster_client::weights::hash(&place)).await.code(Code::Internal)?;
    let (id, bytes) = hashed.because(Code::Config, format!("the weights {shown} cannot be read"))?;
    let sha256 = id.to_string();
    let state = customer.call(Method::GET, &format!("/api/v1/weights/{sha256}"), None).await?;
    let number = |value: &Value| value.pointer("/bytes").and_then(Value::as_u64).unwrap_or(0);
    let mut at = number(&state);
    let mut source = File::open(file).because(Code::Config, format!("the weights {shown} cannot be read"))?;
    let mut told = Instant::now();
    while at < bytes {
        source.seek(SeekFrom::Start(at)).because(Code::Io, format!("the weights {shown} cannot be read"))?;
        let mut part = Vec::new();
        let most = u64::try_from(WEIGHTS_PART_MAX).unwrap_or(u64::MAX);
        (&mut source)
            .take(most)
            .read_to_end(&mut part)
            .because(Code::Io, format!("the weights {shown} cannot be read"))?;
        let sent = customer.put(&format!("/api/v1/weights/{sha256}/{bytes}/{at}"), part).await?;
        at = number(&sent).max(at.saturating_add(1));
        if told.elapsed() > Duration::from_secs(1) || at >= bytes {
            cx.output.note(&format!("sending the weights: {} of {}", Bytes(at), Bytes(bytes)));
            told = Instant::now();
        }
    }
    Ok(WeightsPart { weights: id, bytes: Bytes(bytes) })
}

/// Shows each step until a replica of this version answers.
async fn until_ready(cx: &Context, customer: &Customer, name: &str, version: &str) -> Result<Value, Failure> {
    let mut told = String::new();
    let mut all_told = BTreeSet::new();
    let mut given = BTreeSet::new();
    let mut until = Instant::now() + CHANGES_WITHIN;
    loop {
        let value = customer.call(Method::GET, &path(name, ""), None).await?;
        hub::hand(cx, customer, &value, &mut given).await?;
        let running = value.pointer("/running").and_then(Value::as_array).cloned().unwrap_or_default();
        let updated = value.pointer("/updated").and_then(Value::as_u64).unwrap_or(0);
        if text(&value, "/version") == version && updated > 0 {
            return Ok(value);
        }
        let fresh = |replica: &&Value| text(replica, "/version") == version && text(replica, "/state") != "ended";
        let replicas = running.iter().filter(fresh);
        let steps: Vec<String> =
            replicas.map(|replica| format!("{}: {}", text(replica, "/state"), text(replica, "/why"))).collect();
        let why = value.pointer("/why").and_then(Value::as_str);
        let now = match (steps.last(), why) {
            (Some(step), _) => step.clone(),
            (None, Some(why)) => format!("trying again: {why}"),
            (None, None) => "looking for a Container".to_owned(),
        };
        if now != told {
            // What was told before is not told again while it is tried again and again.
            if all_told.insert(now.clone()) {
                cx.output.note(&format!("{now} …"));
            }
            told = now;
            until = Instant::now() + CHANGES_WITHIN;
        }
        if Instant::now() > until {
            let why = format!(
                "the model does not answer yet, and nothing has changed for {} s: {told}; it goes on trying, `muster model show {name}` tells how it stands, `muster model rm {name}` ends it",
                CHANGES_WITHIN.as_secs()
            );
            return Err(Failure::new(Code::Busy, why));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Asks for one token, or one embedding, and says how long that took.
async fn first_token(customer: &Customer, plan: &Plan) -> Result<Duration, Failure> {
    let name = &plan.name;
    let (path, body) = match plan.kind {
        "embedding" => ("/v1/embeddings", json!({ "model": name, "input": "hello" })),
        "completion" => ("/v1/completions", json!({ "model": name, "prompt": "hello", "max_tokens": 1 })),
        _ => {
            let messages = json!([{ "role": "user", "content": "hello" }]);
            ("/v1/chat/completions", json!({ "model": name, "messages": messages, "max_tokens": 1 }))
        }
    };
    let begun = Instant::now();
    customer.call(Method::POST, path, Some(&body)).await?;
    Ok(begun.elapsed())
}

fn deployed_text(customer: &Customer, plan: &Plan, value: &Value, ready_s: f64, first: Duration) -> String {
    let replica = |field: &str| text(value, &format!("/running/0/{field}"));
    let name = &plan.name;
    let talk = if plan.kind == "embedding" {
        format!("muster model embed {name} 'a text'")
    } else {
        format!("muster model chat {name} 'hello'")
    };
    format!(
        "{name} answers after {ready_s:.1} s on Container {}, by {}; its first token took {} ms.\n\
         A million tokens cost $ {} (prompts/remembered/answers). Any OpenAI client can ask it at {}/v1.\n{talk}",
        replica("container"),
        replica("engine"),
        first.as_millis(),
        price_text(value),
        customer.url(),
    )
}

async fn chat(cx: &Context, args: &ModelChatArgs) -> Result<u8, Failure> {
    let customer = Customer::find(cx, &args.at).await?;
    let mut messages: Vec<Value> = Vec::new();
    messages.extend(args.system.as_ref().map(|system| json!({ "role": "system", "content": system })));
    if let Some(prompt) = &args.prompt {
        messages.push(json!({ "role": "user", "content": prompt }));
        let (_, usage) = answer(cx, &customer, args, &messages).await?;
        cx.output.note(&usage);
        return Ok(0);
    }
    cx.output.note("Write a line; an empty one, or the end of the input, ends the conversation.");
    for line in std::io::stdin().lock().lines() {
        let line = line.because(Code::Io, "standard input cannot be read")?;
        if line.trim().is_empty() {
            break;
        }
        messages.push(json!({ "role": "user", "content": line }));
        let (said, usage) = answer(cx, &customer, args, &messages).await?;
        messages.push(json!({ "role": "assistant", "content": said }));
        cx.output.note(&usage);
    }
    Ok(0)
}

/// Shows an answer as it comes; gives it, and a line about its count.
async fn answer(
    cx: &Context,
    customer: &Customer,
    args: &ModelChatArgs,
    messages: &[Value],
) -> Result<(String, String), Failure> {
    let body = json!({
        "model": args.name, "messages": messages, "temperature": args.temperature, "max_tokens": args.max_tokens,
        "stream": true, "stream_options": { "include_usage": true },
    });
    let begun = Instant::now();
    let mut first = None;
    let (mut said, mut usage) = (String::new(), Value::Null);
    customer
        .stream("/v1/chat/completions", &body, |event| {
            if let Some(piece) = event.pointer("/choices/0/delta/content").and_then(Value::as_str) {
                first.get_or_insert_with(|| begun.elapsed());
                said.push_str(piece);
                if !cx.output.is_json() {
                    cx.output.piece(piece);
                }
            }
            if let Some(new) = event.get("usage").filter(|usage| usage.is_object()) {
                usage = new.clone();
            }
        })
        .await?;
    let value = json!({ "content": said, "usage": usage });
    cx.output.result(&value, || "\n".trim_end().to_owned());
    if !cx.output.is_json() {
        cx.output.piece("\n");
    }
    let took = begun.elapsed().as_secs_f64();
    let drawn = usage.pointer("/completion_tokens").and_then(Value::as_u64).unwrap_or(0);
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let rate = drawn as f64 / took.max(0.001);
    let line = format!(
        "{} tokens read ({} remembered), {drawn} drawn, {rate:.1} tokens/s, first after {} ms",
        text(&usage, "/prompt_tokens"),
        text(&usage, "/prompt_tokens_details/cached_tokens"),
        first.unwrap_or_default().as_millis(),
    );
    Ok((said, line))
}

async fn embed(cx: &Context, name: &str, texts: Vec<String>, at: &crate::cli::AtGateway) -> Result<u8, Failure> {
    let texts = if texts.is_empty() {
        let lines: Result<Vec<String>, _> = std::io::stdin().lock().lines().collect();
        lines.because(Code::Io, "standard input cannot be read")?
    } else {
        texts
    };
    let customer = Customer::find(cx, at).await?;
    let body = json!({ "model": name, "input": texts });
    let value = customer.call(Method::POST, "/v1/embeddings", Some(&body)).await?;
    cx.output.result(&value, || {
        let rows = value.pointer("/data").and_then(Value::as_array).into_iter().flatten();
        rows.map(|row| row.get("embedding").unwrap_or(&Value::Null).to_string()).collect::<Vec<_>>().join("\n")
    });
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn names_are_one_part_of_an_address() {
        assert_eq!(own_name("Qwen3-0.6B-GGUF"), "qwen3-0.6b");
        assert_eq!(stem_of(Path::new("/a/tiny.Q8_0.gguf")), "tiny.Q8_0");
        assert_eq!(stem_of(Path::new("tiny-00001-of-00003.gguf")), "tiny");
        assert_eq!(path("tiny", ""), "/api/v1/models/tiny");
        assert_eq!(path("Qwen/Qwen3 0.6B", "/scale"), "/api/v1/models/Qwen%2FQwen3%200.6B/scale");
    }

    #[test]
    fn lines_of_a_log_say_when_and_who() {
        let line = json!({ "at_ms": 1_700_000_001_999_u64, "replica": 2, "from": "engine", "text": "loading" });
        assert_eq!(log_line(&line), "22:13:21Z replica 2 | loading");
        let line = json!({ "at_ms": 0, "replica": null, "from": "gateway", "text": "wanted" });
        assert_eq!(log_line(&line), "00:00:00Z wanted");
    }

    #[test]
    fn prices_are_written_as_money() {
        let one = json!({ "price_usd": { "input": 0.1, "cached": 0.000_004, "output": 12.5 } });
        assert_eq!(price_text(&one), "0.10/0.000004/12.50");
        assert_eq!(price_text(&json!({ "price_usd": null })), "-");
    }

    #[test]
    fn a_model_in_parts_is_named_by_any_of_them_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let all = muster_engine::tiny::write_parts(dir.path(), "m", &muster_engine::tiny::Shape::default(), 3).unwrap();
        assert_eq!(files_of(&all[0]).unwrap(), all);
        assert_eq!(files_of(&all[2]).unwrap(), all);
        assert_eq!(files_of(Path::new("m.gguf")).unwrap(), [Path::new("m.gguf")]);
        std::fs::remove_file(&all[1]).unwrap();
        let missing = files_of(&all[0]).unwrap_err().to_string();
        assert!(missing.contains("m-00002-of-00003.gguf cannot be read"), "{missing}");
        assert!(files_of(Path::new("m-00001-of-00065.gguf")).unwrap_err().to_string().contains("at most 64"));
    }

    #[test]
    fn files_are_hashed_whole() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"abc").unwrap();
        let (id, bytes) = muster_client::weights::hash(file.path()).unwrap();
        assert_eq!(bytes, 3);
        assert!(id.to_string().starts_with("ba7816bf8f01cfea"));
    }
}
