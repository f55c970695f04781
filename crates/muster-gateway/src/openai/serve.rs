//! A request from its key until it is let in: who asks, what, and whether that is within limits and budget.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt;
use muster_core::ids::NodeId;
use muster_core::inference::{InferenceRequest, InferenceTask, TokenAsk};
use tokio::sync::OwnedSemaphorePermit;
use utoipa::ToSchema;

use super::answered::{CONTAINER, answered, seat_after_cold_start};
use super::error::ApiError;
use super::estimate::reckon;
use super::json::number;
use super::parse::{Asked, Endpoint, parse};
use super::running::{Claim, InHand};
use super::x402::{self, Offer};
use super::{AT_ONCE_MAX, ModelApi, count_stranger, told};
use crate::keys::{Key, Scope, now_s};
use crate::models::{Access, Deployment, Model};
use crate::till::Till;
use crate::usage::{Denied, Standing};

/// Bodies from here on are read aside, so that nobody else waits for them.
const LARGE_BYTES: usize = 256 * 1024;
/// Bytes of the longest body without a key: it is read only to say what its answer would cost.
const STRANGER_BYTES_MAX: usize = 64 * 1024;
/// How long a body may wait for memory.
const MEMORY_WITHIN: Duration = Duration::from_secs(10);
/// An error, in OpenAI's shape.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes what `ApiError` writes")]
pub(crate) struct OpenAiError {
    error: OpenAiErrorDetail,
}

/// What was wrong.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes what `ApiError` writes")]
struct OpenAiErrorDetail {
    /// For people: what was wrong and what to do.
    message: String,
    /// `invalid_request_error`, `insufficient_quota`, `requests`, `tokens` or `server_error`.
    r#type: String,
    /// The field that is at fault.
    param: Option<String>,
    /// For programs, for example `model_not_found`.
    code: Option<String>,
}

/// The next message of a conversation, whole or as server-sent events.
///
/// An answer that had to wait for a replica to come up tells in `x-muster-cold-start-ms` how long, here and at the other
/// addresses that ask a model.
#[utoipa::path(post, path = "/v1/chat/completions", request_body = serde_json::Value,
    responses((status = 200, body = serde_json::Value), (status = 400, body = OpenAiError),
        (status = 401, body = OpenAiError), (status = 402, body = serde_json::Value), (status = 404, body = OpenAiError),
        (status = 413, body = OpenAiError), (status = 429, body = OpenAiError), (status = 503, body = OpenAiError)))]
pub(crate) async fn chat_completions(State(api): State<ModelApi>, request: Request) -> Response {
    answer(api, Endpoint::Chat, request).await
}

/// What follows a text, whole or as server-sent events.
#[utoipa::path(post, path = "/v1/completions", request_body = serde_json::Value,
    responses((status = 200, body = serde_json::Value), (status = 400, body = OpenAiError),
        (status = 401, body = OpenAiError), (status = 404, body = OpenAiError), (status = 429, body = OpenAiError)))]
pub(crate) async fn completions(State(api): State<ModelApi>, request: Request) -> Response {
    answer(api, Endpoint::Completions, request).await
}

/// Where texts lie in the space of meanings.
#[utoipa::path(post, path = "/v1/embeddings", request_body = serde_json::Value,
    responses((status = 200, body = serde_json::Value), (status = 400, body = OpenAiError),
        (status = 401, body = OpenAiError), (status = 404, body = OpenAiError), (status = 429, body = OpenAiError)))]
pub(crate) async fn embeddings(State(api): State<ModelApi>, request: Request) -> Response {
    answer(api, Endpoint::Embeddings, request).await
}

/// The Responses API, whole or as its events: text and tools, with nothing kept.
#[utoipa::path(post, path = "/v1/responses", request_body = serde_json::Value,
    responses((status = 200, body = serde_json::Value), (status = 400, body = OpenAiError),
        (status = 401, body = OpenAiError), (status = 404, body = OpenAiError), (status = 429, body = OpenAiError)))]
pub(crate) async fn responses(State(api): State<ModelApi>, request: Request) -> Response {
    answer(api, Endpoint::Responses, request).await
}

pub(super) fn json(body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.reserve(FIELDS);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn address(request: &Request) -> Option<IpAddr> {
    request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip())
}

/// The key of a request that needs one.
pub(super) fn known(api: &ModelApi, request: &Request) -> Result<Arc<Key>, ApiError> {
    check_host(api, request.headers())?;
    match key(api, request.headers()) {
        Ok(Some(key)) => Ok(key),
        Ok(None) => count_stranger(api, address(request)).and_then(|()| Err(no_key())),
        Err(error) => count_stranger(api, address(request)).and_then(|()| Err(error)),
    }
}

fn no_key() -> ApiError {
    ApiError::no_key("this needs an API key: send it as `Authorization: Bearer mk_…`; `muster api-key new` makes one")
}

/// The key, if one is sent; one that is sent must be good.
fn key(api: &ModelApi, headers: &HeaderMap) -> Result<Option<Arc<Key>>, ApiError> {
    let Some(sent) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let sent = sent.to_str().ok().and_then(|text| text.strip_prefix("Bearer ")).map(str::trim).ok_or_else(no_key)?;
    let Some(key) = api.inner.keys.find(sent) else {
        // What is shown of it is too little to use, and enough to find it.
        let shown: String = sent.chars().take(6).collect();
        return Err(ApiError::no_key(format!("the API key {shown}… is not known here, or it was revoked")));
    };
    if key.is_expired(now_s()) {
        return Err(ApiError::no_key(format!("the API key {:?} has expired; ask for a new one", key.shown.name)));
    }
    if !key.opens(Scope::Models) {
        let why = format!("the API key {:?} does not open models; ask for one with the scope models", key.shown.name);
        return Err(ApiError::forbidden("scope_missing", why));
    }
    Ok(Some(key))
}

fn check_host(api: &ModelApi, headers: &HeaderMap) -> Result<(), ApiError> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if api.inner.config.loopback_only && !crate::is_loopback_host(host) {
        let why = "this Gateway is for this machine only: ask it as http://127.0.0.1:PORT";
        return Err(ApiError::forbidden("wrong_host", why));
    }
    Ok(())
}

/// Whether a key may know of a model and ask it.
pub(super) fn may(deployment: &Deployment, key: &Key) -> bool {
    let owned = deployment.access != Access::Owner || deployment.owner == key.owner();
    let models = &key.shown.terms.models;
    owned && (models.is_empty() || models.contains(&deployment.name))
}

/// The model of a name; one that the key may not ask is as one that is not there.
pub(super) fn find(api: &ModelApi, name: &str, key: Option<&Key>) -> Result<Arc<Model>, ApiError> {
    let open = |deployment: &Deployment| match key {
        Some(key) => may(deployment, key),
        None => deployment.access == Access::Offered,
    };
    if let Some(model) = api.inner.models.get(name).filter(|model| open(&model.deployment)) {
        return Ok(model);
    }
    let nearest = api.inner.models.nearest(name, open);
    let hint = match nearest.as_slice() {
        [] => "none is served for this key; see /v1/models".to_owned(),
        names => format!("did you mean {}? /v1/models lists all", names.join(", ")),
    };
    let shown: String = name.chars().take(200).collect();
    let why = format!("the model {shown:?} does not exist here, or this key may not ask it: {hint}");
    Err(ApiError::not_found("model_not_found", why).param("model"))
}

/// A request, and the events of its answer, as nodes have them among themselves: a JSON object `{"model", "request"}`, and a
/// line of JSON for each event. An answer that commits to what it was drawn from can so be held against that.
#[utoipa::path(post, path = "/v1/native", request_body = serde_json::Value,
    responses((status = 200, body = serde_json::Value), (status = 400, body = OpenAiError),
        (status = 401, body = OpenAiError), (status = 404, body = OpenAiError), (status = 429, body = OpenAiError)))]
pub(crate) async fn native(State(api): State<ModelApi>, request: Request) -> Response {
    answer(api, Endpoint::Native, request).await
}

/// The Container whose answer alone is wanted.
fn container(headers: &HeaderMap) -> Result<Option<NodeId>, ApiError> {
    let Some(named) = headers.get(CONTAINER) else { return Ok(None) };
    let id = named.to_str().ok().and_then(|text| text.parse().ok());
    let wrong =
        || ApiError::invalid(CONTAINER.as_str(), format!("{CONTAINER} must be a Container's key, 64 hex digits"));
    id.map(Some).ok_or_else(wrong)
}

async fn answer(api: ModelApi, endpoint: Endpoint, request: Request) -> Response {
    let mut standing = None;
    let served = Box::pin(serve(&api, endpoint, request, &mut standing)).await;
    let mut response = served.unwrap_or_else(IntoResponse::into_response);
    if let Some(standing) = standing {
        tell(&standing, response.headers_mut());
    }
    told(&api, response)
}

const LIMIT_REQUESTS: HeaderName = HeaderName::from_static("x-ratelimit-limit-requests");
const LEFT_REQUESTS: HeaderName = HeaderName::from_static("x-ratelimit-remaining-requests");
const RESET_REQUESTS: HeaderName = HeaderName::from_static("x-ratelimit-reset-requests");
const LIMIT_TOKENS: HeaderName = HeaderName::from_static("x-ratelimit-limit-tokens");
const LEFT_TOKENS: HeaderName = HeaderName::from_static("x-ratelimit-remaining-tokens");
const RESET_TOKENS: HeaderName = HeaderName::from_static("x-ratelimit-reset-tokens");
/// Fields of an answer's head, at most.
const FIELDS: usize = 16;

fn tell(standing: &Standing, headers: &mut HeaderMap) {
    headers.reserve(FIELDS);
    for (name, value) in [
        (LIMIT_REQUESTS, standing.limit_requests),
        (LEFT_REQUESTS, standing.left_requests),
        (LIMIT_TOKENS, standing.limit_tokens),
        (LEFT_TOKENS, standing.left_tokens),
    ] {
        headers.insert(name, HeaderValue::from(value));
    }
    for (name, ms) in [(RESET_REQUESTS, standing.reset_requests_ms), (RESET_TOKENS, standing.reset_tokens_ms)] {
        let mut text = Vec::with_capacity(24);
        number(&mut text, ms);
        text.extend_from_slice(b"ms");
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(name, value);
        }
    }
}

async fn serve(
    api: &ModelApi,
    endpoint: Endpoint,
    request: Request,
    standing: &mut Option<Standing>,
) -> Result<Response, ApiError> {
    let from = address(&request);
    let (parts, body) = request.into_parts();
    check_host(api, &parts.headers)?;
    let key = match key(api, &parts.headers) {
        Ok(Some(key)) => Some(key),
        Ok(None) => {
            count_stranger(api, from)?;
            let offered = |model: &Arc<Model>| model.deployment.access == Access::Offered;
            let takes_payments = api.till().is_some_and(Till::takes_single_payments);
            if !takes_payments || endpoint == Endpoint::Native || !api.inner.models.list().iter().any(offered) {
                return Err(no_key());
            }
            None
        }
        Err(error) => return count_stranger(api, from).and_then(|()| Err(error)),
    };
    let in_hand = InHand::new(api, AT_ONCE_MAX).ok_or_else(|| {
        ApiError::unavailable(format!("this Gateway has {AT_ONCE_MAX} requests in hand, which is all; come back"), 1)
    })?;
    let (body, _memory) = read(api, &parts.headers, body, key.is_some()).await?;
    let mut asked = parsed(endpoint, body).await?;
    asked.container = container(&parts.headers)?;
    let model = find(api, &asked.model, key.as_deref())?;
    can(&model.deployment, &asked.request)?;
    let Some(key) = key else { return Box::pin(paid(api, asked, model, &parts, in_hand)).await };
    let reckoned = reckon(&model, &asked.request);
    let now_ms = now_s().saturating_mul(1_000).max(wall_ms());
    let (stands, admitted) = api.inner.ledger.admit(&key, reckoned.reserved, now_ms);
    *standing = Some(stands);
    let bill = admitted.map_err(denied)?;
    answered(api, asked, Claim { model, bill, in_hand }, None).await
}

/// Answers who brings a payment, and tells everybody else what it costs.
async fn paid(
    api: &ModelApi,
    mut asked: Asked,
    model: Arc<Model>,
    parts: &axum::http::request::Parts,
    in_hand: InHand,
) -> Result<Response, ApiError> {
    x402::bound(&mut asked.request);
    let name = &model.deployment.name;
    if model.deployment.price == TokenAsk::default() && !model.has_replicas() {
        let why = format!(
            "what the model {name} costs is not known before its first replica is up; come back when its owner has started one"
        );
        return Err(ApiError::unavailable(why, 5));
    }
    let reckoned = reckon(&model, &asked.request);
    let till = api.till().ok_or_else(no_key)?;
    let offer = Offer::new(Some(till), &model.deployment, parts.uri.path(), reckoned.price, &parts.headers);
    let offer = offer.ok_or_else(no_key)?;
    let signed = offer.payment(&parts.headers)?;
    let payer = signed.authorization.from;
    let held = offer.hold(api.inner.ledger.payments(), &signed, now_s()).await?;
    // Nothing is taken before somebody is there to answer.
    let waited = match model.seat(0, api.now_ms(), &[]) {
        Some(_) => None,
        None => Some(seat_after_cold_start(api, &model, 0).await?.1),
    };
    let (_, admitted) = api.inner.ledger.admit(&api.inner.payers, reckoned.reserved, wall_ms());
    let bill = admitted.map_err(denied)?;
    let paid = offer.settle(held, signed).await?;
    let answer = answered(api, asked, Claim { model, bill, in_hand }, waited).await;
    paid.answer(till, payer, answer).await
}

/// Milliseconds since 1970.
fn wall_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn denied(denied: Denied) -> ApiError {
    match denied {
        Denied::AtOnce { limit } => {
            ApiError::rate("requests", format!("this key has {limit} requests running, which is all it may; wait"), 1)
        }
        Denied::Requests { limit, retry_after_s } => {
            let why = format!("this key may make {limit} requests a minute; come back in {retry_after_s} s");
            ApiError::rate("requests", why, retry_after_s)
        }
        Denied::Tokens { limit, wanted, .. } if wanted > limit => {
            let why = format!(
                "this request may take {wanted} tokens, and this key has {limit} a minute: send a smaller max_tokens"
            );
            ApiError::rate("tokens", why, 60)
        }
        Denied::Tokens { limit, wanted, retry_after_s } => {
            let why = format!(
                "this request may take {wanted} tokens, more than is left of the {limit} a minute of this key; come back \
                 in {retry_after_s} s or send a smaller max_tokens"
            );
            ApiError::rate("tokens", why, retry_after_s)
        }
        Denied::Budget(why) => ApiError::quota(why),
        Denied::Purse { account, cost, left, reserved } => ApiError::quota(format!(
            "this request may cost {cost}, and the account {account:?} has {left} left beside {reserved} that requests hold \
             which run: pay more in with `muster account top-up AMOUNT --account {account}`, or send a smaller max_tokens"
        )),
    }
}

/// Reads a body, as far as it may go; what is too long is refused by its head alone.
async fn read(
    api: &ModelApi,
    headers: &HeaderMap,
    body: Body,
    has_key: bool,
) -> Result<(Bytes, OwnedSemaphorePermit), ApiError> {
    let config = &api.inner.config;
    let most = if has_key { config.body_bytes_max } else { STRANGER_BYTES_MAX.min(config.body_bytes_max) };
    let too_large = || ApiError::too_large(format!("the body is longer than the {most} bytes that are taken"));
    let said = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let said = said.map(|said| usize::try_from(said).unwrap_or(usize::MAX));
    if said.is_some_and(|said| said > most) {
        return Err(too_large());
    }
    let kib = |bytes: usize| u32::try_from(bytes / 1_024 + 1).unwrap_or(u32::MAX);
    let full = || ApiError::unavailable("this Gateway reads as many bodies as it has memory for; come back", 2);
    let taken = Arc::clone(&api.inner.bodies).acquire_many_owned(kib(said.unwrap_or(0)));
    let mut memory = tokio::time::timeout(MEMORY_WITHIN, taken).await.map_err(|_| full())?.map_err(|_| full())?;
    let reading = async {
        let mut pieces = body.into_data_stream();
        let broken = |error: axum::Error| ApiError::malformed(format!("the body broke off: {error}"));
        let first = pieces.next().await.transpose().map_err(broken)?.unwrap_or_default();
        if first.len() > most {
            return Err(too_large());
        }
        let Some(second) = pieces.next().await.transpose().map_err(broken)? else { return Ok(first) };
        let mut whole = Vec::with_capacity(said.unwrap_or(first.len() + second.len()));
        whole.extend_from_slice(&first);
        let mut next = Some(second);
        while let Some(piece) = next {
            if whole.len() + piece.len() > most {
                return Err(too_large());
            }
            whole.extend_from_slice(&piece);
            if said.is_none() {
                let more = Arc::clone(&api.inner.bodies).try_acquire_many_owned(kib(piece.len()));
                memory.merge(more.map_err(|_| full())?);
            }
            next = pieces.next().await.transpose().map_err(broken)?;
        }
        Ok(Bytes::from(whole))
    };
    let within = config.body_within;
    let read = tokio::time::timeout(within, reading).await;
    let late =
        |_| ApiError::slow_body(format!("the body did not arrive within {} s; send it faster", within.as_secs()));
    let body = read.map_err(late)??;
    Ok((body, memory))
}

async fn parsed(endpoint: Endpoint, body: Bytes) -> Result<Asked, ApiError> {
    if body.len() < LARGE_BYTES {
        return parse(endpoint, &body);
    }
    let aside = tokio::task::spawn_blocking(move || parse(endpoint, &body)).await;
    aside.unwrap_or_else(|_| Err(ApiError::unavailable("the body could not be read; send it again", 1)))
}

/// Refuses what the model cannot do.
fn can(deployment: &Deployment, request: &InferenceRequest) -> Result<(), ApiError> {
    let abilities = deployment.abilities;
    let name = &deployment.name;
    let (able, what) = match &request.task {
        InferenceTask::Chat(chat) => {
            let pictures = chat.messages.iter().any(|message| message.content.has_image());
            if pictures && !abilities.vision {
                let why = format!("the model {name} does not look at pictures; choose one that does");
                return Err(ApiError::unsupported("messages", why));
            }
            if !chat.tools.is_empty() && !abilities.tools {
                let why = format!("the model {name} does not call tools; choose one that does, or leave tools out");
                return Err(ApiError::unsupported("tools", why));
            }
            (abilities.chat, "hold conversations")
        }
        InferenceTask::Completion(_) => (abilities.completion, "go on with texts"),
        InferenceTask::Embedding(_) => (abilities.embedding, "give embeddings"),
        // Whoever knows a commitment was given it with an answer. What it stands for costs nothing.
        InferenceTask::Reveal(_) => (true, "tell what they committed to"),
        InferenceTask::Replay(_) => (false, "replay answers; rent a Container for that"),
    };
    if able { Ok(()) } else { Err(ApiError::unsupported("model", format!("the model {name} does not {what}"))) }
}
