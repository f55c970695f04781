//! The HTTP side: `docs/streaming.md` and `/api/openapi.json` describe it.

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use muster_client::job::JobRequest;
use muster_client::live::{LiveState, LiveStep};
use muster_client::rental::TopUp;
use muster_core::demand::{Demand, Origin, Place, Region};
use muster_core::pricing::Exchange;
use muster_core::units::{Ob, TokenAmount};
use serde::{Deserialize, Serialize};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder};
use utoipa::{OpenApi, ToSchema};

use crate::apps::{App, AppError, Keyboard, Pointer, Published};
use crate::content::{FOLDER, PART_BYTES_MAX};
use crate::receipts::{DeliveryState, Receipt, is_key};
use crate::refusal::{Body, ErrorBody, Part, Path, Refusal};
use crate::saves::{Returning, SaveFolder};
use crate::sessions::{IceServer, Pass, Session, TOKEN_TTL, Wanted, now_ms};
use crate::weights::WEIGHTS_PART_MAX;
use crate::{Gateway, account_api, assets, keys_api, models_api};

/// Bytes of the longest body.
pub(crate) const BODY_BYTES_MAX: usize = 128 * 1024;
/// Requests in hand at once; more wait, which a flood pays itself.
const AT_ONCE_MAX: usize = 1_024;
/// How long a session lasts at most when nothing is said.
const TIME_LIMIT_S: u64 = 3_600;
/// For so many seconds a session's deposit lasts at first, and again each time it runs low.
const DEPOSIT_S: u64 = 600;
/// A Container that fails a session before it ends of itself is replaced so often.
const RETRIES: u32 = 2;
/// Bytes of a receipt's text, and of a public key.
const RECEIPT_BYTES_MAX: usize = 16 * 1024;
const PUBLIC_KEY_BYTES_MAX: usize = 512;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Muster Gateway",
        description = "Live sessions and apps of a Muster network, and models by the OpenAI API."
    ),
    paths(
        list_apps,
        get_app,
        publish_app,
        withdraw_app,
        arrived_content,
        take_content,
        start_session,
        list_sessions,
        get_session,
        join_session,
        keep_receipt,
        list_receipts,
        stop_session,
        link_session,
        crate::account_api::get_account,
        crate::account_api::credit_account,
        crate::models_api::list_catalog,
        crate::models_api::deploy_model,
        crate::models_api::list_deployments,
        crate::models_api::get_deployment,
        crate::models_api::scale_deployment,
        crate::models_api::deployment_logs,
        crate::models_api::give_token,
        crate::models_api::remove_deployment,
        crate::models_api::arrived_weights,
        crate::models_api::take_weights,
        crate::keys_api::make_key,
        crate::openai::list_models,
        crate::openai::get_model,
        crate::openai::chat_completions,
        crate::openai::completions,
        crate::openai::embeddings,
        crate::openai::responses,
        crate::openai::native,
        crate::openai::usage
    )
)]
struct Description;

/// The API's description, as `/api/openapi.json` serves it.
#[must_use]
pub fn openapi() -> String {
    let mut description = Description::openapi();
    for (path, item) in &mut description.paths.paths {
        let form = if path.starts_with("/v1/") { "OpenAiError" } else { "ErrorBody" };
        let all = [&mut item.get, &mut item.post, &mut item.put, &mut item.delete, &mut item.patch];
        for operation in all.into_iter().flatten() {
            operation.responses.responses.entry("default".to_owned()).or_insert_with(|| any_error(form));
        }
    }
    description.to_pretty_json().unwrap_or_default()
}

/// What an operation answers where it does not do what it is for: too many requests, no key, a body of another kind.
fn any_error(form: &str) -> RefOr<utoipa::openapi::Response> {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(form))).build();
    let response = ResponseBuilder::new().description("What was wrong, and what to do.");
    RefOr::T(response.content("application/json", content).build())
}

pub(crate) fn router(gateway: Gateway) -> Router {
    let api = Router::new()
        .route("/apps", get(list_apps).post(publish_app))
        .route("/apps/{name}", get(get_app).delete(withdraw_app))
        .route("/app-content/{hash}", get(arrived_content))
        .route("/app-content/{hash}/{at}", put(take_content).layer(DefaultBodyLimit::max(PART_BYTES_MAX)))
        .route("/sessions", post(start_session).get(list_sessions))
        .route("/sessions/{id}", get(get_session))
        .route("/sessions/{id}/join", post(join_session))
        .route("/sessions/{id}/receipts", post(keep_receipt).get(list_receipts))
        .route("/sessions/{id}/stop", post(stop_session))
        .route("/sessions/{id}/link", post(link_session))
        .route("/account", get(account_api::get_account))
        .route("/account/credits", post(account_api::credit_account))
        .route("/catalog", get(models_api::list_catalog))
        .route("/models", post(models_api::deploy_model).get(models_api::list_deployments))
        .route("/models/{id}", get(models_api::get_deployment).delete(models_api::remove_deployment))
        .route("/models/{id}/logs", get(models_api::deployment_logs))
        .route("/models/{id}/scale", post(models_api::scale_deployment))
        .route("/models/{id}/token", post(models_api::give_token))
        .route("/weights/{sha256}", get(models_api::arrived_weights))
        .route(
            "/weights/{sha256}/{total}/{at}",
            put(models_api::take_weights).layer(DefaultBodyLimit::max(WEIGHTS_PART_MAX)),
        )
        .route("/keys", post(keys_api::make_key))
        .method_not_allowed_fallback(wrong_method);
    Router::new()
        .nest("/api/v1", api)
        .route("/api/openapi.json", get(|| async { ([(header::CONTENT_TYPE, "application/json")], openapi()) }))
        .route("/", get(home))
        .route("/models", get(models))
        .route("/s/{id}", get(player))
        .route("/assets/{name}", get(|Path(name): Path<String>| async move { assets::file(&format!("assets/{name}")) }))
        .fallback(|| async {
            Refusal::new(StatusCode::NOT_FOUND, "not_found", "there is nothing here; /api/openapi.json lists what is")
        })
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(gateway.clone(), guard))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(tower::limit::GlobalConcurrencyLimitLayer::new(AT_ONCE_MAX))
        .with_state(gateway.clone())
        // What is asked of models has limits of its own, by key.
        .merge(gateway.inner.model_api.router())
}

async fn wrong_method() -> Refusal {
    let why = "this address does not take that method; /api/openapi.json lists those that each takes";
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", why)
}

/// What every request passes: the address's bucket, and names of others for this machine; every answer is told strictly
/// what a browser may do with it.
async fn guard(State(gateway): State<Gateway>, request: Request, next: Next) -> Response {
    let source = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let refused = match source {
        Some(ip) => gateway.inner.limits.address(ip).err(),
        None => None,
    };
    let refused = refused.or_else(|| {
        let foreign = gateway.inner.config.loopback_only && !is_loopback_host(host);
        foreign.then(|| {
            Refusal::new(
                StatusCode::FORBIDDEN,
                "wrong_host",
                "this Gateway is for this machine only: open it as http://127.0.0.1:PORT",
            )
        })
    });
    let mut response = match refused {
        Some(refusal) => refusal.into_response(),
        None => next.run(request).await,
    };
    assets::strict(&mut response);
    response
}

/// Whether a request's `Host` names this machine itself: other names are another site's, made to point here.
#[must_use]
pub fn is_loopback_host(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.is_empty() => name,
        _ => host,
    };
    name == "localhost" || name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ").map(str::trim)
}

impl Gateway {
    /// Whose request this is.
    pub(crate) fn account(&self, headers: &HeaderMap) -> Result<String, Refusal> {
        let account = bearer(headers).and_then(|key| self.inner.keys.account(key)).ok_or_else(Refusal::unauthorised)?;
        self.inner.limits.account(&account)?;
        Ok(account)
    }

    fn session(&self, id: &str) -> Result<std::sync::Arc<Session>, Refusal> {
        self.inner.sessions.get(id).ok_or_else(Refusal::unknown_session)
    }

    /// The session, for its account, or for whoever `also` lets in by the secret that was sent.
    fn session_for(
        &self,
        id: &str,
        headers: &HeaderMap,
        also: impl Fn(&Session, &str) -> bool,
    ) -> Result<std::sync::Arc<Session>, Refusal> {
        let secret = bearer(headers).ok_or_else(Refusal::unauthorised)?;
        let session = self.session(id)?;
        let owner = self.inner.keys.account(secret).is_some_and(|account| account == session.account);
        if owner || also(&session, secret) { Ok(session) } else { Err(Refusal::unknown_session()) }
    }
}

impl From<AppError> for Refusal {
    fn from(error: AppError) -> Self {
        let (status, code) = match &error {
            AppError::Invalid(_) => (StatusCode::BAD_REQUEST, "bad_app"),
            AppError::Unknown { .. } => (StatusCode::NOT_FOUND, "unknown_app"),
            AppError::NotYours(_) => (StatusCode::FORBIDDEN, "not_yours"),
            AppError::Changed { .. } => (StatusCode::CONFLICT, "version_exists"),
            AppError::ContentMissing { .. } => (StatusCode::CONFLICT, "content_missing"),
            AppError::Full => (StatusCode::INSUFFICIENT_STORAGE, "full"),
            AppError::Io { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "io"),
        };
        Self::new(status, code, error.to_string())
    }
}

/// What is asked for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct StartSession {
    /// Name of a published app.
    app: String,
    /// Pixels; the app's usual size where none is said.
    width: Option<u16>,
    /// Pixels.
    height: Option<u16>,
    /// Frames a second.
    fps: Option<u8>,
    /// A region, as owners name it: `ca-east`.
    region: Option<String>,
    /// Where the player is, degrees north and east: `45.508,-73.587`.
    near: Option<String>,
    /// The greatest round trip.
    max_latency_ms: Option<u32>,
    /// The longest that it may last.
    time_limit_s: Option<u64>,
    /// The keyboard's layout, as XKB names it.
    layout: Option<String>,
    /// Thousandths of a core to rent, where that shall be more than the app needs at least.
    cpu_millis: Option<u32>,
}

/// A session that begins.
#[derive(Debug, Serialize, ToSchema)]
struct Started {
    /// To be opened in a browser; good once.
    link: String,
    /// Until when the link is good, milliseconds since 1970.
    token_expires_at: u64,
    /// How it stands.
    #[serde(flatten)]
    state: SessionState,
}

/// The app of a session.
#[derive(Debug, Serialize, ToSchema)]
struct SessionApp {
    name: String,
    version: String,
    title: String,
    keyboard: Keyboard,
    pointer: Pointer,
}

/// A session as it stands.
#[derive(Debug, Serialize, ToSchema)]
struct SessionState {
    id: String,
    app: SessionApp,
    /// `matching`, `opening`, `starting`, `running` or `ended`.
    state: &'static str,
    /// What it waits for, or how it ended.
    why: Option<String>,
    width: u16,
    height: u16,
    fps: u8,
    /// The lease on the chain.
    lease: Option<String>,
    /// Who runs it.
    container: Option<String>,
    region: Option<String>,
    /// What an hour costs.
    rate_usd_per_hour: Option<f64>,
    /// What an hour costs.
    rate_must_per_hour: Option<String>,
    /// How long it ran, milliseconds.
    ran_ms: u64,
    /// What that cost.
    cost: String,
    /// Milliseconds of running that the deposit still pays for, once that is little.
    deposit_left_ms: Option<u64>,
    /// What the players' receipts say of it.
    delivery: DeliveryState,
    ice_servers: Vec<IceServer>,
    microphone: bool,
}

/// What a player sends to be let in.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Join {
    /// The link's token, the first time.
    token: Option<String>,
    /// The player's key, after it.
    key: Option<String>,
    /// The browser's offer.
    sdp: String,
    /// The key that receipts are signed with: SPKI in base64.
    public_key: Option<String>,
}

/// What it gets.
#[derive(Debug, Serialize, ToSchema)]
struct Joined {
    /// For coming back.
    key: String,
    /// The Container's answer.
    sdp: String,
    state: SessionState,
}

fn step(state: &LiveState) -> &'static str {
    match state.step {
        LiveStep::Matching => "matching",
        LiveStep::Opening => "opening",
        LiveStep::Starting => "starting",
        LiveStep::Running => "running",
        LiveStep::Ended => "ended",
    }
}

pub(crate) fn must(amount: TokenAmount) -> String {
    // People read this; the lease's record has it to the last digit. Rounded down, to a millionth of a token.
    let micro = amount.0 / (TokenAmount::ONE.0 / 1_000_000);
    format!("{}.{:06} MUST", micro / 1_000_000, micro % 1_000_000)
}

fn shown(gateway: &Gateway, session: &Session) -> SessionState {
    let live = session.state();
    let rate = (live.rate_per_second != TokenAmount::ZERO).then(|| live.rate_per_second.per_second_for_ms(3_600_000));
    let app = &session.app;
    SessionState {
        id: session.id.clone(),
        app: SessionApp {
            name: app.name.clone(),
            version: app.version.clone(),
            title: app.title.clone(),
            keyboard: app.keyboard,
            pointer: app.pointer,
        },
        state: step(&live),
        why: live.why.clone(),
        width: session.width,
        height: session.height,
        fps: session.fps,
        lease: live.lease.map(|lease| lease.to_string()),
        container: live.container.map(|container| container.short().to_string()),
        region: session.region.clone(),
        rate_usd_per_hour: rate.and_then(|rate| usd(gateway, rate)),
        rate_must_per_hour: rate.map(must),
        ran_ms: live.ran_ms,
        cost: must(live.settled.map_or(live.paid, |(paid, _)| paid)),
        deposit_left_ms: live.deposit_left_ms,
        ice_servers: gateway.inner.config.ice_servers.clone(),
        delivery: session.delivery(),
        microphone: app.microphone,
    }
}

/// What an amount is worth by the network's price of its token.
fn usd(gateway: &Gateway, amount: TokenAmount) -> Option<f64> {
    let token_price = gateway.inner.renter.params().token_price;
    let worth = Exchange { token_price }.worth(amount).ok()?;
    // To a millionth of a dollar, far below what a float holds.
    u32::try_from(worth.0).ok().map(|micro| f64::from(micro) / 1e6)
}

fn link(gateway: &Gateway, session: &Session, token: &str) -> String {
    format!("{}/s/{}#{token}", gateway.inner.config.origin, session.id)
}

/// All published apps.
#[utoipa::path(get, path = "/api/v1/apps", responses((status = 200, body = Vec<Published>)))]
async fn list_apps(State(gateway): State<Gateway>) -> Json<Vec<Published>> {
    Json(gateway.inner.apps.list())
}

/// One app.
#[utoipa::path(get, path = "/api/v1/apps/{name}", responses((status = 200, body = Published), (status = 404, body = ErrorBody)))]
async fn get_app(State(gateway): State<Gateway>, Path(name): Path<String>) -> Result<Json<Published>, Refusal> {
    Ok(Json(gateway.inner.apps.get(&name)?))
}

/// Publishes an app, or a new version of it. Where the Gateway asks for a stake (402, `stake_needed`), the publisher's
/// wallet registers the app on the chain with the hash of exactly this and signs; docs/apps.md says what.
#[utoipa::path(post, path = "/api/v1/apps", request_body = App,
    params(("muster-publisher" = Option<String>, Header, description = "The publisher's signature: 128 hex digits")),
    responses((status = 201, body = App), (status = 200, body = App), (status = 402, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 409, body = ErrorBody), (status = 503, body = ErrorBody)))]
async fn publish_app(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    Body(app): Body<App>,
) -> Result<(StatusCode, Json<App>), Refusal> {
    let account = gateway.account(&headers)?;
    gateway.inner.apps.may_publish(&app, &account)?;
    let publisher = match &gateway.inner.config.app_stakes {
        Some(stakes) => Some(stakes.admit(&app, &headers, bearer(&headers).unwrap_or_default()).await?),
        None => None,
    };
    let published = app.clone();
    // What goes along is read and written.
    let new = blocking(move || gateway.inner.apps.publish(published, &account, publisher)).await?;
    Ok((if new { StatusCode::CREATED } else { StatusCode::OK }, Json(app)))
}

/// How much has arrived of files that shall go along with an app.
#[derive(Serialize, ToSchema)]
struct Arrived {
    bytes: u64,
}

/// How much has arrived of the files of an app: all of them, one behind the other, named by their BLAKE3.
#[utoipa::path(get, path = "/api/v1/app-content/{hash}", responses((status = 200, body = Arrived), (status = 401, body = ErrorBody)))]
async fn arrived_content(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    Path(hash): Path<String>,
) -> Result<Json<Arrived>, Refusal> {
    let account = gateway.account(&headers)?;
    Ok(Json(Arrived { bytes: gateway.inner.apps.contents.arrived(&account, &hash)? }))
}

/// Takes the next part of the files of an app, behind the `at` bytes that are here already. Publish the app then.
#[utoipa::path(put, path = "/api/v1/app-content/{hash}/{at}", request_body = Vec<u8>,
    responses((status = 200, body = Arrived), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody)))]
async fn take_content(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    Path((hash, at)): Path<(String, u64)>,
    Part(part): Part,
) -> Result<Json<Arrived>, Refusal> {
    let account = gateway.account(&headers)?;
    let bytes = blocking(move || gateway.inner.apps.contents.take(&account, &hash, at, &part)).await?;
    Ok(Json(Arrived { bytes }))
}

pub(crate) async fn blocking<T: Send + 'static, E: Into<Refusal> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(work).await;
    let broken =
        |error: tokio::task::JoinError| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "io", error.to_string());
    done.map_err(broken)?.map_err(Into::into)
}

/// Withdraws an app; sessions that run go on.
#[utoipa::path(delete, path = "/api/v1/apps/{name}", responses((status = 204), (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn withdraw_app(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    Path(name): Path<String>,
) -> Result<StatusCode, Refusal> {
    let account = gateway.account(&headers)?;
    gateway.inner.apps.withdraw(&name, &account)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Starts a session: rents a Container and runs an app on it.
#[utoipa::path(post, path = "/api/v1/sessions", request_body = StartSession,
    responses((status = 201, body = Started), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 409, body = ErrorBody), (status = 429, body = ErrorBody)))]
async fn start_session(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    Body(wanted): Body<StartSession>,
) -> Result<(StatusCode, Json<Started>), Refusal> {
    let account = gateway.account(&headers)?;
    let published = gateway.inner.apps.get(&wanted.app)?;
    if let Some(stakes) = &gateway.inner.config.app_stakes {
        stakes.playable(&published).await?;
    }
    let app = published.app;
    let size = match (wanted.width, wanted.height) {
        (Some(width), Some(height)) => Some((width, height)),
        (None, None) => None,
        _ => return Err(Refusal::bad("bad_request", "give both width and height, or neither")),
    };
    let spec = app.session(size, wanted.fps, wanted.layout.as_deref().unwrap_or("us"))?;
    let region = wanted.region.as_deref().map(str::parse::<Region>).transpose();
    let region = region.map_err(|e| Refusal::bad("bad_request", e.to_string()))?;
    let near = wanted.near.as_deref().map(str::parse::<Place>).transpose();
    let near = near.map_err(|e| Refusal::bad("bad_request", e.to_string()))?;
    let demand = Demand {
        origin: Origin { place: near, network: None },
        cpu_millis: wanted.cpu_millis.unwrap_or(0).max(app.needs.cpu_millis),
        memory: app.memory(),
        disk: app.disk(),
        ob: Ob::points(app.needs.ob),
        gpu_count: u8::from(app.needs.ob > 0 || app.needs.vram_mib > 0),
        vram: muster_core::units::Bytes(app.needs.vram_mib.saturating_mul(muster_core::units::Bytes::MIB)),
        region,
        time_limit_s: wanted.time_limit_s.unwrap_or(TIME_LIMIT_S),
        latency_ms_max: wanted.max_latency_ms,
        packages: spec.packages.clone(),
        ..Demand::default()
    };
    let mut env: Vec<(String, String)> = app.env.clone().into_iter().collect();
    env.push(("MUSTER_WIDTH".to_owned(), spec.width.to_string()));
    env.push(("MUSTER_HEIGHT".to_owned(), spec.height.to_string()));
    // What a program can make again is not worth carrying to the player and back.
    env.push(("XDG_CACHE_HOME".to_owned(), "/tmp/cache".to_owned()));
    let (mut inputs, returning) = saved(&gateway, &account, &app)?;
    inputs.extend(app.content.as_ref().map(|content| gateway.inner.apps.contents.folder(content)));
    let output = returning.as_ref().map(|returning| returning.path().to_owned());
    let usual = JobRequest::new(demand, app.command.clone());
    // A session of hours need not bind the money of hours at once.
    let deposit_seconds = Some(usual.demand.time_limit_s.min(DEPOSIT_S));
    let top_up = Some(TopUp { seconds: DEPOSIT_S });
    let request =
        JobRequest { env, inputs, output, retries: RETRIES, deposit_seconds, top_up, ..usual }.with_session(spec);
    request.check().map_err(|e| Refusal::bad("bad_request", e.to_string()))?;
    let inner = &gateway.inner;
    let wanted = Wanted { account, app, request, region: wanted.region, returning };
    let (session, token) = inner.sessions.start(&inner.renter, wanted, inner.config.sessions_max)?;
    let link = link(&gateway, &session, &token);
    let ttl = u64::try_from(TOKEN_TTL.as_millis()).unwrap_or(0);
    let started = Started { link, token_expires_at: now_ms().saturating_add(ttl), state: shown(&gateway, &session) };
    Ok((StatusCode::CREATED, Json(started)))
}

/// All sessions of the account.
#[utoipa::path(get, path = "/api/v1/sessions", responses((status = 200, body = Vec<SessionState>)))]
async fn list_sessions(State(gateway): State<Gateway>, headers: HeaderMap) -> Result<Json<Vec<SessionState>>, Refusal> {
    let account = gateway.account(&headers)?;
    Ok(Json(gateway.inner.sessions.of(&account).iter().map(|session| shown(&gateway, session)).collect()))
}

/// How a session stands.
#[utoipa::path(get, path = "/api/v1/sessions/{id}", responses((status = 200, body = SessionState), (status = 404, body = ErrorBody)))]
async fn get_session(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Json<SessionState>, Refusal> {
    let session = gateway.session_for(&id, &headers, Session::admits)?;
    Ok(Json(shown(&gateway, &session)))
}

/// Lets a player in: brings its offer to the Container and the answer back.
#[utoipa::path(post, path = "/api/v1/sessions/{id}/join", request_body = Join,
    responses((status = 200, body = Joined), (status = 403, body = ErrorBody), (status = 410, body = ErrorBody)))]
async fn join_session(
    State(gateway): State<Gateway>,
    Path(id): Path<String>,
    Body(join): Body<Join>,
) -> Result<Json<Joined>, Refusal> {
    let session = gateway.session(&id)?;
    if join.public_key.as_ref().is_some_and(|key| key.len() > PUBLIC_KEY_BYTES_MAX) {
        return Err(Refusal::bad("bad_request", "public_key is longer than any key is"));
    }
    if join.public_key.as_ref().is_some_and(|key| !is_key(key)) {
        return Err(Refusal::bad("bad_request", "public_key is no P-256 key as SPKI in base64"));
    }
    let pass = match (&join.key, &join.token) {
        (Some(key), _) => Pass::Key(key),
        (None, Some(token)) => Pass::Token(token, join.public_key.clone()),
        (None, None) => return Err(Refusal::bad("bad_request", "send the link's token, or the player's key")),
    };
    let (key, sdp) = session.join(&pass, &join.sdp).await?;
    Ok(Json(Joined { key, sdp, state: shown(&gateway, &session) }))
}

/// Verifies and keeps a receipt that a player signed.
#[utoipa::path(post, path = "/api/v1/sessions/{id}/receipts", request_body = Receipt, responses((status = 204), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn keep_receipt(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    Path(id): Path<String>,
    Body(receipt): Body<Receipt>,
) -> Result<StatusCode, Refusal> {
    let session = gateway.session_for(&id, &headers, Session::is_player)?;
    if receipt.payload.len() + receipt.signature.len() > RECEIPT_BYTES_MAX {
        return Err(Refusal::bad("bad_request", format!("a receipt is at most {RECEIPT_BYTES_MAX} bytes")));
    }
    session.keep(bearer(&headers).unwrap_or_default(), receipt)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Receipts of a session, for its account.
#[utoipa::path(get, path = "/api/v1/sessions/{id}/receipts", responses((status = 200, body = Vec<Receipt>), (status = 404, body = ErrorBody)))]
async fn list_receipts(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Json<Vec<Receipt>>, Refusal> {
    let session = gateway.session_for(&id, &headers, |_, _| false)?;
    Ok(Json(session.receipts()))
}

/// Ends a session; what has run is billed, the rest of the deposit comes back.
#[utoipa::path(post, path = "/api/v1/sessions/{id}/stop", responses((status = 202, body = SessionState), (status = 404, body = ErrorBody)))]
async fn stop_session(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<SessionState>), Refusal> {
    let session = gateway.session_for(&id, &headers, Session::is_player)?;
    session.stop();
    Ok((StatusCode::ACCEPTED, Json(shown(&gateway, &session))))
}

/// A new link to a session; the one before it is good no more.
#[utoipa::path(post, path = "/api/v1/sessions/{id}/link", responses((status = 201, body = Started), (status = 404, body = ErrorBody)))]
async fn link_session(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<Started>), Refusal> {
    let session = gateway.session_for(&id, &headers, |_, _| false)?;
    let link = link(&gateway, &session, &session.new_token());
    let ttl = u64::try_from(TOKEN_TTL.as_millis()).unwrap_or(0);
    let started = Started { link, token_expires_at: now_ms().saturating_add(ttl), state: shown(&gateway, &session) };
    Ok((StatusCode::CREATED, Json(started)))
}

/// What an app kept the last time, and where it comes back to.
fn saved(gateway: &Gateway, account: &str, app: &App) -> Result<(Vec<std::path::PathBuf>, Option<Returning>), Refusal> {
    if !app.save {
        return Ok((Vec::new(), None));
    }
    let failed = |error: std::io::Error| {
        let why = format!("the save folder of {} cannot be used: {error}", app.name);
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "io", why)
    };
    let own = app.content.as_ref().map(|_| FOLDER);
    let folder = SaveFolder::of(&gateway.inner.config.dir, account, &app.name).without(own);
    Ok((folder.inputs().map_err(failed)?, Some(folder.returning().map_err(failed)?)))
}

async fn home() -> Response {
    assets::page("index.html", "[]")
}

async fn models() -> Response {
    assets::page("models.html", "[]")
}

async fn player(State(gateway): State<Gateway>) -> Response {
    let servers = serde_json::to_string(&gateway.inner.config.ice_servers).unwrap_or_else(|_| "[]".to_owned());
    assets::page("play.html", &servers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_its_own() {
        for host in ["127.0.0.1:8600", "localhost:1", "[::1]:8600", "127.0.0.1", "localhost", "[::1]"] {
            assert!(is_loopback_host(host), "{host}");
        }
        for host in ["", "evil.example", "127.0.0.1.evil.example:80", "10.0.0.1:80", "[2001:db8::1]:1"] {
            assert!(!is_loopback_host(host), "{host}");
        }
    }

    #[test]
    fn the_description_names_every_call() {
        let text = openapi();
        for path in ["/api/v1/sessions", "/api/v1/sessions/{id}/join", "/api/v1/apps/{name}"] {
            assert!(text.contains(path), "{path}");
        }
    }
}
