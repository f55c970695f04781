//! Deploying models over HTTP: what `muster model` and the console speak.

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use muster_core::demand::{Demand, Origin, Place, Region};
use muster_core::inference::fleet::{REPLICAS_MAX, Scale};
use muster_core::inference::{
    HubFile, HubRefError, ModelDemand, ModelError, ModelKind, ModelSource, ModelSpec, PARTS_MAX, TokenAsk, WeightsId,
    WeightsPart,
};
use muster_core::units::{Bytes, UsdMicro};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::Gateway;
use crate::api::blocking;
use crate::catalog::{CatalogEntry, CatalogError, CatalogSource, catalog, in_catalog};
use crate::deployments::{DeployError, Record, ReplicaState, View};
use crate::logs::LogLine;
use crate::needs::model_needs;
use crate::refusal::{Body, ErrorBody, Part, Path, Refusal};
use crate::sessions::now_ms;
use crate::till::Till;
use crate::weights::WeightsError;

/// A context when nothing is said, in tokens.
const CONTEXT: u32 = 4_096;
/// Requests side by side when nothing is said.
const PARALLEL: u16 = 4;
/// For so many tokens of each kind the deposit of a replica pays at first.
const DEPOSIT_TOKENS: u64 = 2_000_000;
/// Beside what its places can hold, so many tokens of each kind may be on their way to being paid.
const CREDIT_TOKENS: u64 = 100_000;

/// Where weights are.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WeightsFrom {
    /// Their SHA-256, 64 hex digits; needed where they are one file.
    #[serde(default)]
    sha256: Option<String>,
    /// How large they are; needed where they are one file.
    #[serde(default)]
    bytes: Option<u64>,
    /// Their files in order, where they are several: `NAME-00001-of-00003.gguf` and so on.
    #[serde(default)]
    parts: Vec<FileFrom>,
    /// The file on a hub that Containers fetch them from, `hf:OWNER/NAME@REVISION:FILE`, the first of several; none where they
    /// were sent to this Gateway.
    #[serde(default)]
    hub: Option<String>,
    /// Whether the hub wants a token, which whoever deploys gives sealed to each Container that is found.
    #[serde(default)]
    private: bool,
}

/// One file of several.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileFrom {
    /// Its SHA-256, 64 hex digits.
    sha256: String,
    /// How large it is.
    bytes: u64,
}

/// Dollars for a million tokens.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UsdPerMillion {
    input: f64,
    cached: f64,
    output: f64,
}

/// How many replicas.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Replicas {
    /// The least; 0: none while nobody asks.
    min: u16,
    /// The most.
    max: u16,
    /// Requests that wait longer call for another replica.
    #[serde(default)]
    queue_ms: Option<u64>,
    /// With a least of 0: after so long without a request none is kept.
    #[serde(default)]
    idle_ms: Option<u64>,
}

/// What is to be deployed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeployModel {
    /// A model of the catalogue, which says all that is not said here.
    catalog: Option<String>,
    /// What requests call it; needed where the catalogue names none.
    name: Option<String>,
    /// `chat`, `completion` or `embedding`; needed where the catalogue says none.
    #[schema(value_type = Option<String>)]
    kind: Option<ModelKind>,
    /// Its weights; none for a model of the catalogue, or for an endpoint.
    weights: Option<WeightsFrom>,
    /// The name under which providers serve it with engines of their own.
    endpoint: Option<String>,
    /// Tokens that prompt and answer may have together.
    context: Option<u32>,
    /// Requests that one replica answers side by side.
    parallel: Option<u16>,
    replicas: Option<Replicas>,
    /// Thousandths of a core for each replica.
    cpu_millis: Option<u32>,
    /// Memory for each replica.
    memory_bytes: Option<u64>,
    /// Cards for each replica.
    gpus: Option<u8>,
    /// The least VRAM of each card.
    vram_bytes: Option<u64>,
    /// The most that tokens may cost.
    price_max_usd: Option<UsdPerMillion>,
    /// A region, as owners name it: `ca-east`.
    region: Option<String>,
    /// Where it shall be near to, degrees north and east: `45.508,-73.587`.
    near: Option<String>,
    /// The greatest round trip from there.
    max_latency_ms: Option<u32>,
    /// Whether other accounts of this Gateway may ask it.
    #[serde(default)]
    shared: bool,
    /// Whether anybody may ask it who pays for each request by itself, by x402; other accounts may, too.
    #[serde(default)]
    offered: bool,
    /// Whether it shall be near: on an ordinary machine without a card, to which the round trip is the shortest.
    #[serde(default)]
    edge: bool,
    /// After so long without a first token a request is sent to a second replica, too, if one is free; the first that shows
    /// something of its answer goes on, and the other is ended. Nothing: never.
    hedge_after_ms: Option<u64>,
}

/// A token for the hub, sealed to the Container that waits for it: nobody else, and no Gateway, can read it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SealedToken {
    /// The lease of the replica that waits for it.
    lease: String,
    /// HPKE of RFC 9180 (X25519, HKDF-SHA256, ChaCha20-Poly1305), in hex: the sender's key, the text, the tag.
    sealed: String,
}

/// A deployment as it stands.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeploymentState {
    id: String,
    name: String,
    kind: String,
    version: u64,
    created_s: u64,
    shared: bool,
    offered: bool,
    edge: bool,
    /// After so long without a first token a request is sent to a second replica, too.
    hedge_after_ms: Option<u64>,
    /// Of its weights; of several files, or of an endpoint, a number that stands for them, or for its name.
    sha256: String,
    bytes: u64,
    /// In how many files its weights are.
    files: usize,
    /// The file on a hub, where its weights come from one; the first of several.
    hub: Option<String>,
    /// The name under which providers serve it with engines of their own.
    endpoint: Option<String>,
    context: u32,
    parallel: u16,
    replicas: Replicas,
    /// How many there shall be now.
    wanted: u16,
    /// How many answer.
    ready: usize,
    /// How many of those are of the present version.
    updated: usize,
    /// The last failure, until a replica answers.
    why: Option<String>,
    price_usd: Option<UsdPerMillion>,
    running: Vec<ReplicaState>,
}

/// How much of some weights is here.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WeightsState {
    bytes: u64,
    whole: bool,
}

impl From<DeployError> for Refusal {
    fn from(error: DeployError) -> Self {
        let (status, code) = match &error {
            DeployError::Wrong(_) | DeployError::Name(_) => (StatusCode::BAD_REQUEST, "bad_model"),
            DeployError::Full => (StatusCode::CONFLICT, "too_many_models"),
            DeployError::NoTokenWanted(_) => (StatusCode::CONFLICT, "no_token_wanted"),
            DeployError::Token(_) => (StatusCode::UNPROCESSABLE_ENTITY, "bad_token"),
            DeployError::Unknown(_) => (StatusCode::NOT_FOUND, "unknown_model"),
            DeployError::Io { .. } | DeployError::Damaged { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "io"),
        };
        Self::new(status, code, error.to_string())
    }
}

impl From<WeightsError> for Refusal {
    fn from(error: WeightsError) -> Self {
        let (status, code) = match &error {
            WeightsError::Io { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "io"),
            WeightsError::Elsewhere { .. } => (StatusCode::CONFLICT, "elsewhere"),
            WeightsError::Size => (StatusCode::BAD_REQUEST, "bad_size"),
            WeightsError::Hash { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "wrong_hash"),
            WeightsError::Form(_) => (StatusCode::UNPROCESSABLE_ENTITY, "bad_weights"),
            WeightsError::Busy => (StatusCode::TOO_MANY_REQUESTS, "busy"),
            WeightsError::Full => (StatusCode::INSUFFICIENT_STORAGE, "full"),
        };
        Self::new(status, code, error.to_string())
    }
}

fn micro(usd: f64) -> Result<UsdMicro, Refusal> {
    let micro = (usd * 1e6).round();
    if !(0.0..=1e12).contains(&micro) {
        return Err(Refusal::bad("bad_price", format!("{usd} is no price in dollars")));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within bounds, as was just looked at")]
    let micro = micro as u64;
    Ok(UsdMicro(micro))
}

fn dollars(price: &TokenAsk) -> UsdPerMillion {
    // Prices are bounded far below what a float holds exactly.
    let usd = |micro: UsdMicro| u32::try_from(micro.0).map_or(f64::from(u32::MAX), f64::from) / 1e6;
    UsdPerMillion { input: usd(price.input), cached: usd(price.cached), output: usd(price.output) }
}

/// Says what the catalogue knows of a model, where nothing else is said. Blocks: weights may have to be made.
fn from_catalog(gateway: &Gateway, asked: &mut DeployModel) -> Result<(), Refusal> {
    let Some(name) = &asked.catalog else { return Ok(()) };
    if asked.weights.is_some() || asked.endpoint.is_some() {
        let why = "a model of the catalogue has its own weights; name one of `catalog`, `weights` and `endpoint`";
        return Err(Refusal::bad("bad_model", why));
    }
    let entry = in_catalog(name)?;
    asked.weights = Some(catalog_weights(gateway, &entry)?);
    asked.name.get_or_insert_with(|| entry.name.clone());
    asked.kind.get_or_insert(entry.kind);
    asked.context = asked.context.or(entry.context);
    asked.cpu_millis = asked.cpu_millis.or(entry.cpu_millis());
    Ok(())
}

/// Why a model of the catalogue cannot be deployed from here, if it cannot.
fn lacks(gateway: &Gateway, entry: &CatalogEntry) -> Option<String> {
    if let Some(why) = entry.needs_image() {
        return Some(why);
    }
    let known = entry.known();
    let here = || known.is_some_and(|(id, _)| gateway.inner.weights.path(id).is_some());
    match &entry.source {
        CatalogSource::Made => None,
        CatalogSource::Packaged | CatalogSource::Converted if here() => None,
        CatalogSource::Hub(_) if known.is_some() => None,
        CatalogSource::Packaged | CatalogSource::Converted | CatalogSource::Hub(_) => Some(format!(
            "this Gateway does not know the weights of {}; `muster model deploy {0}` where they are brings them",
            entry.name
        )),
    }
}

fn catalog_weights(gateway: &Gateway, entry: &CatalogEntry) -> Result<WeightsFrom, Refusal> {
    if let Some(why) = lacks(gateway, entry) {
        return Err(Refusal::new(StatusCode::CONFLICT, "weights_missing", why));
    }
    let hub = match &entry.source {
        CatalogSource::Hub(hub) => Some(hub.to_string()),
        CatalogSource::Made | CatalogSource::Packaged | CatalogSource::Converted => None,
    };
    let (id, bytes) = match entry.known() {
        Some(known) => known,
        None => gateway.inner.weights.make(muster_engine::tiny::write)?,
    };
    Ok(WeightsFrom { sha256: Some(id.to_string()), bytes: Some(bytes), parts: Vec::new(), hub, private: false })
}

impl From<CatalogError> for Refusal {
    fn from(error: CatalogError) -> Self {
        let (status, code) = match &error {
            CatalogError::Unknown { .. } => (StatusCode::NOT_FOUND, "unknown_model"),
            CatalogError::Damaged(_) => (StatusCode::INTERNAL_SERVER_ERROR, "io"),
        };
        Self::new(status, code, error.to_string())
    }
}

/// A model of the catalogue, as this Gateway can deploy it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CatalogModel {
    #[serde(flatten)]
    entry: CatalogEntry,
    /// Whether it can be deployed by its name alone.
    deployable: bool,
    /// Why not; else empty.
    why: String,
}

/// The models that can be deployed by name.
#[utoipa::path(get, path = "/api/v1/catalog", responses((status = 200, body = Vec<CatalogModel>)))]
pub(crate) async fn list_catalog(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
) -> Result<Json<Vec<CatalogModel>>, Refusal> {
    gateway.account(&headers)?;
    let shown = |entry: CatalogEntry| {
        let why = lacks(&gateway, &entry);
        CatalogModel { entry, deployable: why.is_none(), why: why.unwrap_or_default() }
    };
    Ok(Json(catalog()?.into_iter().map(shown).collect()))
}

/// What a deployment's weights are.
struct Weighed {
    weights: WeightsId,
    bytes: Bytes,
    parts: Vec<WeightsPart>,
    sources: Vec<ModelSource>,
}

/// Which weights, how large, and in which files.
fn weighed(from: &WeightsFrom) -> Result<Weighed, Refusal> {
    let wrong = |why: String| Refusal::bad("bad_model", why);
    let id = |text: &str| text.parse::<WeightsId>().map_err(|e| wrong(e.to_string()));
    let sources = Vec::new();
    match (&from.sha256, from.bytes, from.parts.as_slice()) {
        (Some(sha256), Some(bytes), []) => {
            Ok(Weighed { weights: id(sha256)?, bytes: Bytes(bytes), parts: Vec::new(), sources })
        }
        (None, None, [_, ..]) if from.parts.len() <= PARTS_MAX => {
            let part = |file: &FileFrom| Ok(WeightsPart { weights: id(&file.sha256)?, bytes: Bytes(file.bytes) });
            let parts = from.parts.iter().map(part).collect::<Result<Vec<_>, Refusal>>()?;
            let bytes = parts.iter().fold(0, |sum: u64, part| sum.saturating_add(part.bytes.0));
            Ok(Weighed { weights: WeightsId::of_parts(&parts), bytes: Bytes(bytes), parts, sources })
        }
        _ => Err(wrong(format!(
            "say `sha256` and `bytes` of weights in one file, or `parts` of those in several, at most {PARTS_MAX}"
        ))),
    }
}

/// Which weights, how large, and where they can be had.
fn origin(asked: &DeployModel) -> Result<Weighed, Refusal> {
    let wrong = |why: String| Refusal::bad("bad_model", why);
    match (&asked.weights, &asked.endpoint) {
        (Some(from), None) => {
            let weighed = weighed(from)?;
            let file: Option<HubFile> =
                from.hub.as_deref().map(str::parse).transpose().map_err(|e: HubRefError| wrong(e.to_string()))?;
            if from.private && file.is_none() {
                return Err(wrong("private weights come from a hub; name the file there".to_owned()));
            }
            let source = |file| ModelSource::Hub { file, private: from.private };
            Ok(Weighed { sources: file.into_iter().map(source).collect(), ..weighed })
        }
        (None, Some(name)) => {
            let weights = WeightsId::of_endpoint(name);
            // How large it is, its provider says.
            Ok(Weighed { weights, bytes: Bytes(1), parts: Vec::new(), sources: Vec::new() })
        }
        _ => Err(wrong("name a model of the catalogue, or weights, or an endpoint that providers serve".to_owned())),
    }
}

/// What a deployment is, in the network's terms.
fn record(account: String, asked: DeployModel) -> Result<Record, Refusal> {
    let wrong = |why: String| Refusal::bad("bad_model", why);
    let needed = |field: &str| wrong(format!("`{field}` is missing: name a model of the catalogue, or say it"));
    let Weighed { weights, bytes, parts, sources } = origin(&asked)?;
    let sends_weights = asked.endpoint.is_none() && sources.is_empty();
    let model = ModelSpec {
        name: asked.name.ok_or_else(|| needed("name"))?,
        kind: asked.kind.ok_or_else(|| needed("kind"))?,
        weights,
        bytes,
        parts,
        sources,
        context: asked.context.unwrap_or(CONTEXT),
        parallel: asked.parallel.unwrap_or(PARALLEL),
        endpoint: asked.endpoint,
    };
    model.check().map_err(|e| wrong(e.to_string()))?;
    let usual = model_needs(&model, sends_weights, CREDIT_TOKENS, DEPOSIT_TOKENS);
    let price_max = match asked.price_max_usd {
        Some(UsdPerMillion { input, cached, output }) => {
            Some(TokenAsk { input: micro(input)?, cached: micro(cached)?, output: micro(output)? })
        }
        None => None,
    };
    let word = |e: muster_core::demand::DemandError| wrong(e.to_string());
    let place: Option<Place> = asked.near.as_deref().map(str::parse).transpose().map_err(word)?;
    let region: Option<Region> = asked.region.as_deref().map(str::parse).transpose().map_err(word)?;
    if asked.edge && asked.gpus.unwrap_or(0) > 0 {
        return Err(wrong("`edge` is for machines without a card; leave out either it or `gpus`".to_owned()));
    }
    let demand = Demand {
        cpu_millis: asked.cpu_millis.unwrap_or(usual.cpu_millis),
        memory: asked.memory_bytes.map_or(usual.memory, Bytes),
        gpu_count: asked.gpus.unwrap_or(0),
        vram: Bytes(asked.vram_bytes.unwrap_or(0)),
        region,
        origin: Origin { place, network: None },
        latency_ms_max: asked.max_latency_ms,
        model: usual.model.map(|tokens| ModelDemand { price_max, ..tokens }),
        ..usual
    };
    demand.check().map_err(word)?;
    let scale = asked.replicas.map_or_else(Scale::default, scale);
    scale.check().map_err(|e| wrong(e.to_string()))?;
    Ok(Record {
        id: String::new(),
        account,
        version: 1,
        created_s: now_ms() / 1_000,
        shared: asked.shared,
        offered: asked.offered,
        model,
        demand,
        scale,
        sends_weights,
        edge: asked.edge,
        hedge_after_ms: asked.hedge_after_ms,
    })
}

fn scale(replicas: Replicas) -> Scale {
    let usual = Scale::default();
    Scale {
        min: replicas.min,
        max: replicas.max.min(REPLICAS_MAX.saturating_add(1)),
        queue_ms: replicas.queue_ms.unwrap_or(usual.queue_ms),
        idle_ms: replicas.idle_ms.unwrap_or(usual.idle_ms),
    }
}

fn state(record: &Record, view: View) -> DeploymentState {
    let Scale { min, max, queue_ms, idle_ms } = record.scale;
    let ready = || view.replicas.iter().filter(|replica| replica.state == "ready");
    DeploymentState {
        id: record.id.clone(),
        name: record.model.name.clone(),
        kind: record.model.kind.to_string(),
        version: record.version,
        created_s: record.created_s,
        shared: record.shared,
        offered: record.offered,
        edge: record.edge,
        hedge_after_ms: record.hedge_after_ms,
        sha256: record.model.weights.to_string(),
        bytes: record.model.bytes.0,
        files: record.model.parts.len().max(1),
        hub: record.model.hub().map(|(file, _)| file.to_string()),
        endpoint: record.model.endpoint.clone(),
        context: view.info.as_ref().map_or(record.model.context, |info| info.context),
        parallel: record.model.parallel,
        replicas: Replicas { min, max, queue_ms: Some(queue_ms), idle_ms: Some(idle_ms) },
        wanted: view.wanted,
        ready: ready().count(),
        updated: ready().filter(|replica| replica.version == record.version).count(),
        why: view.why,
        price_usd: view.price.as_ref().map(dollars),
        running: view.replicas,
    }
}

/// Deploys a model, or changes one of the same name.
#[utoipa::path(post, path = "/api/v1/models", request_body = DeployModel, responses((status = 201, body = DeploymentState),
    (status = 400, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn deploy_model(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    Body(asked): Body<DeployModel>,
) -> Result<(StatusCode, Json<DeploymentState>), Refusal> {
    let account = gateway.account(&headers)?;
    let deployed = blocking(move || {
        let mut asked = asked;
        if asked.offered && !gateway.inner.model_api.till().is_some_and(Till::takes_single_payments) {
            let why = "this Gateway cannot be paid for single requests: the network's token takes no authorized transfers (ERC-3009); deploy without `offered`";
            return Err(Refusal::new(StatusCode::CONFLICT, "no_payments", why));
        }
        from_catalog(&gateway, &mut asked)?;
        let record = record(account, asked)?;
        if record.sends_weights {
            let Some(files) = gateway.inner.weights.files(&record.model)? else {
                let why = "this Gateway does not have the weights, and no file on a hub is named that Containers could fetch; send them first";
                return Err(Refusal::new(StatusCode::CONFLICT, "weights_missing", why));
            };
            muster_engine::gguf::check_files(&files).map_err(WeightsError::Form)?;
        }
        Ok((gateway.inner.deployments.deploy(record)?, gateway))
    });
    let (record, gateway) = deployed.await?;
    let view = gateway.inner.deployments.view(&record.id);
    Ok((StatusCode::CREATED, Json(state(&record, view))))
}

/// All deployments of this account.
#[utoipa::path(get, path = "/api/v1/models", responses((status = 200, body = Vec<DeploymentState>)))]
pub(crate) async fn list_deployments(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
) -> Result<Json<Vec<DeploymentState>>, Refusal> {
    let account = gateway.account(&headers)?;
    let records = gateway.inner.deployments.of(&account);
    Ok(Json(records.iter().map(|record| state(record, gateway.inner.deployments.view(&record.id))).collect()))
}

/// One deployment.
#[utoipa::path(get, path = "/api/v1/models/{id}", responses((status = 200, body = DeploymentState), (status = 404, body = ErrorBody)))]
pub(crate) async fn get_deployment(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Json<DeploymentState>, Refusal> {
    let account = gateway.account(&headers)?;
    let record = gateway.inner.deployments.record(&account, &id)?;
    Ok(Json(state(&record, gateway.inner.deployments.view(&record.id))))
}

/// Which lines of a log.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it describes; one number is read without it")]
struct LogQuery {
    /// The number of the first one; all that are kept where none is said.
    from: Option<u64>,
}

/// The number of `from=N`.
fn log_from(query: Option<&str>) -> Result<u64, Refusal> {
    let Some(query) = query.filter(|query| !query.is_empty()) else { return Ok(0) };
    query.strip_prefix("from=").and_then(|number| number.parse().ok()).ok_or_else(|| {
        Refusal::bad(
            "bad_request",
            format!("{query:?} says not which lines: write ?from=N with the number of the first one"),
        )
    })
}

/// What became of a deployment since this process began, the oldest lines first; the last thousand are kept.
#[utoipa::path(get, path = "/api/v1/models/{id}/logs", params(LogQuery),
    responses((status = 200, body = Vec<LogLine>), (status = 404, body = ErrorBody)))]
pub(crate) async fn deployment_logs(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<Vec<LogLine>>, Refusal> {
    let account = gateway.account(&headers)?;
    let from = log_from(query.as_deref())?;
    let record = gateway.inner.deployments.record(&account, &id)?;
    Ok(Json(gateway.inner.deployments.log(&record.id).from(from)))
}

/// Changes how many replicas there are.
#[utoipa::path(post, path = "/api/v1/models/{id}/scale", request_body = Replicas,
    responses((status = 200, body = DeploymentState), (status = 404, body = ErrorBody)))]
pub(crate) async fn scale_deployment(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    Path(id): Path<String>,
    Body(replicas): Body<Replicas>,
) -> Result<Json<DeploymentState>, Refusal> {
    let account = gateway.account(&headers)?;
    let scaled = move || {
        let record = gateway.inner.deployments.scale(&account, &id, scale(replicas))?;
        Ok::<_, DeployError>((gateway, record))
    };
    let (gateway, record) = blocking(scaled).await?;
    Ok(Json(state(&record, gateway.inner.deployments.view(&record.id))))
}

/// Passes a sealed token on to a replica that waits for it.
#[utoipa::path(post, path = "/api/v1/models/{id}/token", request_body = SealedToken,
    responses((status = 204), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub(crate) async fn give_token(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    Path(id): Path<String>,
    Body(token): Body<SealedToken>,
) -> Result<StatusCode, Refusal> {
    let account = gateway.account(&headers)?;
    let wrong = |_| Refusal::bad("bad_token", "the sealed token is no hex; seal it anew");
    let sealed = hex::decode(&token.sealed).map_err(wrong)?;
    gateway.inner.deployments.give_token(&account, &id, &token.lease, sealed).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends a deployment; answers that are being given are cut off, and what they counted is paid.
#[utoipa::path(delete, path = "/api/v1/models/{id}", responses((status = 204), (status = 404, body = ErrorBody)))]
pub(crate) async fn remove_deployment(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<StatusCode, Refusal> {
    let account = gateway.account(&headers)?;
    blocking(move || gateway.inner.deployments.remove(&account, &id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn weights_id(text: &str) -> Result<WeightsId, Refusal> {
    text.parse().map_err(|e: ModelError| Refusal::bad("bad_hash", e.to_string()))
}

/// How much of some weights this Gateway has.
#[utoipa::path(get, path = "/api/v1/weights/{sha256}", responses((status = 200, body = WeightsState)))]
pub(crate) async fn arrived_weights(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    Path(sha256): Path<String>,
) -> Result<Json<WeightsState>, Refusal> {
    gateway.account(&headers)?;
    let (bytes, whole) = gateway.inner.weights.arrived(weights_id(&sha256)?);
    Ok(Json(WeightsState { bytes, whole }))
}

/// Takes a part of weights of `total` bytes, from the byte `at` on; the last one is answered once all was hashed and looked
/// at.
#[utoipa::path(put, path = "/api/v1/weights/{sha256}/{total}/{at}",
    responses((status = 200, body = WeightsState), (status = 409, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub(crate) async fn take_weights(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    Path((sha256, total, at)): Path<(String, u64, u64)>,
    Part(part): Part,
) -> Result<Json<WeightsState>, Refusal> {
    gateway.account(&headers)?;
    let id = weights_id(&sha256)?;
    let (bytes, whole) = blocking(move || gateway.inner.weights.take(id, at, &part, total)).await?;
    Ok(Json(WeightsState { bytes, whole }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin_of(weights: serde_json::Value) -> Option<Weighed> {
        let asked = serde_json::json!({ "name": "m", "kind": "chat", "weights": weights });
        origin(&serde_json::from_value(asked).unwrap()).ok()
    }

    #[test]
    fn weights_are_named_as_one_file_or_as_several() {
        let (one, other) = ("ab".repeat(32), "cd".repeat(32));
        let whole = origin_of(serde_json::json!({ "sha256": one, "bytes": 7 })).unwrap();
        assert_eq!((whole.weights.to_string(), whole.bytes, whole.parts.len()), (one.clone(), Bytes(7), 0));
        let file = |sha256: &str, bytes: u64| serde_json::json!({ "sha256": sha256, "bytes": bytes });
        let parts = [file(&one, 7), file(&other, 8)];
        let hub = "hf:a/b:m-00001-of-00002.gguf";
        let several = origin_of(serde_json::json!({ "parts": parts, "hub": hub })).unwrap();
        assert_eq!((several.weights, several.bytes), (WeightsId::of_parts(&several.parts), Bytes(15)));
        assert_eq!((several.parts.len(), several.sources.len()), (2, 1));
        let many = vec![file(&one, 1); PARTS_MAX + 1];
        for wrong in [
            serde_json::json!({}),
            serde_json::json!({ "sha256": one }),
            serde_json::json!({ "sha256": one, "bytes": 7, "parts": parts }),
            serde_json::json!({ "parts": [file("x", 7), file(&other, 8)] }),
            serde_json::json!({ "parts": many }),
        ] {
            assert!(origin_of(wrong.clone()).is_none(), "{wrong}");
        }
    }
}
