//! Making API keys over HTTP: what the console's snippets need.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Gateway;
use crate::api::{bearer, blocking};
use crate::keys::KeyError;
use crate::refusal::{Body, ErrorBody, Refusal};

/// Models that one key may name.
const MODELS_MAX: usize = 64;
/// Bytes of the longest name of a model.
const MODEL_LEN_MAX: usize = 200;

/// What a new key may do.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MakeKey {
    /// The models that it may ask; all of the account where none is named.
    models: Vec<String>,
}

/// A new key.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MadeKey {
    /// What it is called: `muster api-key revoke` takes it back by that.
    name: String,
    /// The key itself; it is shown this once.
    key: String,
}

impl From<KeyError> for Refusal {
    fn from(error: KeyError) -> Self {
        let (status, code) = match &error {
            KeyError::Io { .. } | KeyError::Damaged { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "io"),
            KeyError::Name(_) => (StatusCode::BAD_REQUEST, "bad_key"),
            KeyError::Taken(_) | KeyError::Full | KeyError::MadeFull => (StatusCode::CONFLICT, "too_many_keys"),
            KeyError::Limited(_) => (StatusCode::FORBIDDEN, "key_limited"),
        };
        Self::new(status, code, error.to_string())
    }
}

/// Makes a key that asks models and does nothing else. A key with limits of its own makes none.
#[utoipa::path(post, path = "/api/v1/keys", request_body = MakeKey, responses((status = 201, body = MadeKey),
    (status = 400, body = ErrorBody), (status = 403, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn make_key(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    Body(asked): Body<MakeKey>,
) -> Result<(StatusCode, Json<MadeKey>), Refusal> {
    gateway.account(&headers)?;
    let by = bearer(&headers).and_then(|key| gateway.inner.keys.find(key)).ok_or_else(Refusal::unauthorised)?;
    if asked.models.len() > MODELS_MAX || asked.models.iter().any(|name| name.is_empty() || name.len() > MODEL_LEN_MAX)
    {
        let why = format!("`models` takes at most {MODELS_MAX} names of 1 to {MODEL_LEN_MAX} bytes");
        return Err(Refusal::bad("bad_key", why));
    }
    // Keys are written to the disk.
    let (name, key) = blocking(move || gateway.inner.keys.create_by(&by, asked.models)).await?;
    Ok((StatusCode::CREATED, Json(MadeKey { name, key })))
}
