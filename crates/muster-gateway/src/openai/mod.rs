//! The OpenAI-compatible side: `/v1`, over the replicas of [`Models`].
//!
//! | module | does |
//! | --- | --- |
//! | `parse` | OpenAI's JSON becomes an `InferenceRequest` |
//! | `render` | events become OpenAI's JSON |
//! | `listing` | what a key may ask, and has used |
//! | `serve` | a request from its key until it is let in: limits, budget |
//! | `estimate` | what a request may use, about and at most |
//! | `answered` | from there to its answer: replica, another one where that fails or is late, bill |
//! | `running` | a request that a replica has, whoever stops listening |
//! | `x402` | payments of requests without a key |
//! | `error` | errors in OpenAI's shape |
//!
//! `docs/gateway.md` describes it for people.

mod answered;
mod error;
mod estimate;
mod json;
mod listing;
mod parse;
mod render;
mod running;
mod serve;
mod x402;

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use rand::Rng;
use tokio::sync::Semaphore;

use self::error::ApiError;
use crate::keys::{Key, KeyStore};
use crate::limits::Limits;
use crate::models::Models;
use crate::till::Till;
use crate::usage::{Ledger, UsageError};

pub(crate) use self::listing::{__path_get_model, __path_list_models, __path_usage};
pub(crate) use self::serve::{
    __path_chat_completions, __path_completions, __path_embeddings, __path_native, __path_responses,
};

/// Requests that are in hand at once; more are told to come back.
const AT_ONCE_MAX: u32 = 16_384;
/// What bodies that are being read or answered may take together, in KiB.
const BODIES_KIB_MAX: usize = 512 * 1024;

/// How the API behaves.
#[derive(Clone, Debug)]
pub struct ModelApiConfig {
    /// Bytes of the longest body: pictures come in it.
    pub body_bytes_max: usize,
    /// The longest that a body may take to arrive.
    pub body_within: Duration,
    /// The longest that an answer may take.
    pub answer_within: Duration,
    /// How long a request waits for the first replica of a model that has none.
    pub cold_start_within: Duration,
    /// Replicas that are asked for one answer, one after the other, at most.
    pub tries: usize,
    /// Whether names of others for this machine are refused.
    pub loopback_only: bool,
    /// How this Gateway is paid; none where it cannot be.
    pub till: Option<Till>,
    /// Whether accounts must have paid in beforehand what a request may cost.
    pub prepaid: bool,
}

impl Default for ModelApiConfig {
    fn default() -> Self {
        Self {
            body_bytes_max: 32 * 1024 * 1024,
            body_within: Duration::from_secs(60),
            answer_within: Duration::from_secs(1_800),
            cold_start_within: Duration::from_secs(60),
            tries: 3,
            loopback_only: false,
            till: None,
            prepaid: false,
        }
    }
}

/// The API. Clones share it.
#[derive(Clone, Debug)]
pub struct ModelApi {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: ModelApiConfig,
    models: Models,
    keys: Arc<KeyStore>,
    ledger: Arc<Ledger>,
    /// Under what those are counted who pay for each request by itself.
    payers: Key,
    limits: Arc<Limits>,
    in_hand: AtomicU32,
    bodies: Arc<Semaphore>,
    ids: Ids,
    began: Instant,
}

/// Names of requests and answers: a number that nobody guesses, mixed with a count.
#[derive(Debug)]
struct Ids {
    seed: u64,
    count: AtomicU64,
}

impl Ids {
    fn new() -> Self {
        Self { seed: rand::rng().next_u64(), count: AtomicU64::new(0) }
    }

    /// 32 hexadecimal digits.
    fn next(&self) -> String {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let (high, low) = (mix(self.seed ^ count), mix(self.seed.rotate_left(32).wrapping_add(count)));
        let mut digits = [0_u8; 32];
        // 16 bytes are 32 digits.
        let _ = hex::encode_to_slice((u128::from(high) << 64 | u128::from(low)).to_be_bytes(), &mut digits);
        digits.iter().map(|digit| char::from(*digit)).collect()
    }
}

/// The finaliser of `SplitMix64`: every bit of the input turns half of those of the output.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

impl ModelApi {
    /// Reads what an earlier process counted in `dir`, and is ready to serve what `models` hold.
    ///
    /// # Errors
    /// The usage cannot be read or kept.
    pub fn new(dir: &Path, config: ModelApiConfig, keys: Arc<KeyStore>, models: Models) -> Result<Self, UsageError> {
        Self::with_limits(dir, config, keys, models, Arc::default())
    }

    pub(crate) fn with_limits(
        dir: &Path,
        config: ModelApiConfig,
        keys: Arc<KeyStore>,
        models: Models,
        limits: Arc<Limits>,
    ) -> Result<Self, UsageError> {
        let inner = Inner {
            ledger: Ledger::open(dir, crate::keys::now_s(), config.prepaid)?,
            config,
            models,
            keys,
            payers: Key::of_payers(),
            limits,
            in_hand: AtomicU32::new(0),
            bodies: Arc::new(Semaphore::new(BODIES_KIB_MAX)),
            ids: Ids::new(),
            began: Instant::now(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What it serves.
    #[must_use]
    pub fn models(&self) -> &Models {
        &self.inner.models
    }

    /// How it is paid.
    pub(crate) fn till(&self) -> Option<&Till> {
        self.inner.config.till.as_ref()
    }

    /// What keys have used and accounts have paid in.
    pub(crate) fn ledger(&self) -> &Arc<Ledger> {
        &self.inner.ledger
    }

    /// Requests that are in hand.
    #[must_use]
    pub fn in_hand(&self) -> u32 {
        self.inner.in_hand.load(Ordering::Relaxed)
    }

    /// Everything under `/v1`.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/v1/models", get(listing::list_models))
            .route("/v1/models/{*id}", get(listing::get_model))
            .route("/v1/chat/completions", post(serve::chat_completions))
            .route("/v1/completions", post(serve::completions))
            .route("/v1/embeddings", post(serve::embeddings))
            .route("/v1/responses", post(serve::responses))
            .route("/v1/native", post(serve::native))
            .route("/v1/usage", get(listing::usage))
            .route("/v1/{*rest}", axum::routing::any(nothing_here))
            .method_not_allowed_fallback(wrong_method)
            .with_state(self.clone())
    }

    /// Waits for the requests in hand, at most so long, and writes what was counted.
    pub async fn close(&self, within: Duration) {
        let until = Instant::now() + within;
        while self.in_hand() > 0 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if self.in_hand() > 0 {
            tracing::warn!(requests = self.in_hand(), "some requests are not over; what they use is not counted");
        }
        let ledger = Arc::clone(&self.inner.ledger);
        // It waits for the disk.
        let _ = tokio::task::spawn_blocking(move || ledger.close()).await;
    }

    /// Milliseconds since this process began, for what is compared with itself only.
    fn now_ms(&self) -> u64 {
        u64::try_from(self.inner.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

async fn nothing_here(State(api): State<ModelApi>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let error = ApiError::not_found(
        "unknown_url",
        format!(
            "there is nothing at {path}; /v1/models, /v1/chat/completions, /v1/completions, /v1/embeddings, /v1/responses and /v1/native are served"
        ),
    );
    told(&api, error.into_response())
}

async fn wrong_method(State(api): State<ModelApi>, request: Request) -> Response {
    let why = format!("{} does not take the method {}; see /api/openapi.json", request.uri().path(), request.method());
    let kind = "invalid_request_error";
    told(&api, ApiError::new(StatusCode::METHOD_NOT_ALLOWED, kind, "method_not_allowed", why).into_response())
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What every answer says: which request it answers, and that a browser may make nothing else of it.
fn told(api: &ModelApi, mut response: Response) -> Response {
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::try_from(format!("req_{}", api.inner.ids.next())) {
        headers.insert(REQUEST_ID, id);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Counts a request without a good key against its address.
fn count_stranger(api: &ModelApi, from: Option<IpAddr>) -> Result<(), ApiError> {
    let taken = from.map_or(Ok(()), |ip| api.inner.limits.address(ip));
    taken.map_err(|_| ApiError::rate("requests", "too many requests without a good key from this address; wait", 1))
}
