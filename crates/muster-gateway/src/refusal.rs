//! Errors as a client sees them: a status, a code for programs, a sentence for people.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{self, FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa::ToSchema;

/// An error.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    error: ErrorDetail,
}

/// What was wrong.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErrorDetail {
    /// For programs, for example `token_used`.
    code: String,
    /// For people: what was wrong and what to do.
    message: String,
}

/// A request that is not met.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    code: String,
    message: String,
    retry_after_s: Option<u64>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self { status, code: code.to_owned(), message: message.into(), retry_after_s: None }
    }

    pub(crate) fn bad(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub(crate) fn unauthorised() -> Self {
        let message = "this needs an API key: send it as `Authorization: Bearer mk_…`; `muster api-key new` makes one";
        Self::new(StatusCode::UNAUTHORIZED, "no_key", message)
    }

    pub(crate) fn unknown_session() -> Self {
        let message = "there is no such session here, or it is not yours; `muster session ls` lists yours";
        Self::new(StatusCode::NOT_FOUND, "unknown_session", message)
    }

    pub(crate) fn too_many(message: impl Into<String>, retry_after_s: u64) -> Self {
        let refusal = Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", message);
        Self { retry_after_s: Some(retry_after_s), ..refusal }
    }

    /// The same under another code, for what is limited otherwise than by time.
    pub(crate) fn coded(self, code: &str) -> Self {
        Self { code: code.to_owned(), ..self }
    }
}

/// A body of JSON; what is wrong with one is told like any other error.
#[derive(Debug)]
pub(crate) struct Body<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let rejection = match Json::<T>::from_request(request, state).await {
            Ok(Json(body)) => return Ok(Self(body)),
            Err(rejection) => rejection,
        };
        Err(match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                let why = format!("the body is longer than the {} bytes that are taken", crate::api::BODY_BYTES_MAX);
                Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", why)
            }
            StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                let why = "send the body as JSON, with the header `Content-Type: application/json`";
                Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "wrong_type", why)
            }
            _ => Refusal::bad("bad_request", rejection.body_text()),
        })
    }
}

/// What the address names; what is wrong with one is told like any other error.
#[derive(Debug)]
pub(crate) struct Path<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let read = extract::Path::<T>::from_request_parts(parts, state).await;
        read.map(|extract::Path(named)| Self(named)).map_err(|error| Refusal::bad("bad_address", error.body_text()))
    }
}

/// A body of bytes; what is wrong with one is told like any other error.
#[derive(Debug)]
pub(crate) struct Part(pub(crate) Bytes);

impl<S: Send + Sync> FromRequest<S> for Part {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let read = Bytes::from_request(request, state).await;
        read.map(Self).map_err(|error| {
            let code = if error.status() == StatusCode::PAYLOAD_TOO_LARGE { "too_large" } else { "bad_request" };
            Refusal::new(error.status(), code, error.body_text())
        })
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = ErrorBody { error: ErrorDetail { code: self.code, message: self.message } };
        let mut response = (self.status, Json(body)).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
