//! Errors in OpenAI's shape: `{"error":{"message","type","param","code"}}`.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use muster_core::inference::{InferenceError, InferenceErrorKind, RequestError};

use super::json::quote;

/// Of wrong requests.
const INVALID: &str = "invalid_request_error";
/// Of what is our own fault, or a replica's.
const SERVER: &str = "server_error";

/// A request that is not met, as OpenAI's clients read it.
#[derive(Debug)]
pub(crate) struct ApiError(Box<Told>);

#[derive(Debug)]
struct Told {
    status: StatusCode,
    kind: &'static str,
    code: &'static str,
    param: Option<String>,
    message: String,
    retry_after_s: Option<u64>,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// A body of its own, where another shape is asked for.
    body: Option<Vec<u8>>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, kind: &'static str, code: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        let told =
            Told { status, kind, code, param: None, message, retry_after_s: None, headers: Vec::new(), body: None };
        Self(Box::new(told))
    }

    /// A wrong value of a field.
    pub(crate) fn invalid(param: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, INVALID, "invalid_value", message).param(param)
    }

    /// A field that says something that is not served.
    pub(crate) fn unsupported(param: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, INVALID, "unsupported_value", message).param(param)
    }

    /// A body that is no JSON.
    pub(crate) fn malformed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, INVALID, "invalid_json", message)
    }

    pub(crate) fn no_key(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, INVALID, "invalid_api_key", message)
    }

    pub(crate) fn forbidden(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, INVALID, code, message)
    }

    pub(crate) fn not_found(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, INVALID, code, message)
    }

    pub(crate) fn too_large(message: impl Into<String>) -> Self {
        let mut error = Self::new(StatusCode::PAYLOAD_TOO_LARGE, INVALID, "request_too_large", message);
        // What follows is not read: the connection ends with the answer.
        error.0.headers.push((header::CONNECTION, HeaderValue::from_static("close")));
        error
    }

    pub(crate) fn quota(message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "insufficient_quota", "insufficient_quota", message)
    }

    /// `what` is `requests` or `tokens`.
    pub(crate) fn rate(what: &'static str, message: impl Into<String>, retry_after_s: u64) -> Self {
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, what, "rate_limit_exceeded", message);
        error.retry_after(retry_after_s.max(1))
    }

    pub(crate) fn unavailable(message: impl Into<String>, retry_after_s: u64) -> Self {
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, SERVER, "service_unavailable", message);
        error.retry_after(retry_after_s.max(1))
    }

    pub(crate) fn timed_out(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, SERVER, "timeout", message)
    }

    pub(crate) fn slow_body(message: impl Into<String>) -> Self {
        let mut error = Self::new(StatusCode::REQUEST_TIMEOUT, INVALID, "request_timeout", message);
        error.0.headers.push((header::CONNECTION, HeaderValue::from_static("close")));
        error
    }

    /// The answer of x402: a body of its own shape.
    pub(crate) fn payment(body: Vec<u8>) -> Self {
        let mut error = Self::new(StatusCode::PAYMENT_REQUIRED, "payment_required", "payment_required", "");
        error.0.body = Some(body);
        error
    }

    /// A header beside the usual ones.
    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.push((name, value));
        self
    }

    pub(crate) fn param(mut self, param: &str) -> Self {
        self.0.param = Some(param.to_owned());
        self
    }

    fn retry_after(mut self, seconds: u64) -> Self {
        self.0.retry_after_s = Some(seconds);
        self
    }

    /// The error as JSON, without a line break in it.
    pub(crate) fn write(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(b"{\"error\":");
        self.write_inner(to);
        to.push(b'}');
    }

    /// What stands behind `error`.
    pub(crate) fn write_inner(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(b"{\"message\":");
        quote(to, &self.0.message);
        to.extend_from_slice(b",\"type\":");
        quote(to, self.0.kind);
        to.extend_from_slice(b",\"param\":");
        match &self.0.param {
            Some(param) => quote(to, param),
            None => to.extend_from_slice(b"null"),
        }
        to.extend_from_slice(b",\"code\":");
        quote(to, self.0.code);
        to.push(b'}');
    }

    /// Its code and its sentence.
    pub(crate) fn told(&self) -> (&'static str, &str) {
        (self.0.code, &self.0.message)
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        Self::invalid(&error.param, error.why)
    }
}

impl From<InferenceError> for ApiError {
    fn from(error: InferenceError) -> Self {
        let why = error.why;
        let told = match error.kind {
            InferenceErrorKind::BadRequest => Self::new(StatusCode::BAD_REQUEST, INVALID, "invalid_value", why),
            InferenceErrorKind::ContextOverflow => {
                Self::new(StatusCode::BAD_REQUEST, INVALID, "context_length_exceeded", why)
            }
            InferenceErrorKind::Unsupported => Self::new(StatusCode::BAD_REQUEST, INVALID, "unsupported_value", why),
            InferenceErrorKind::QueueFull { retry_after_ms } => {
                let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "requests", "rate_limit_exceeded", why);
                error.retry_after(retry_after_ms.div_ceil(1_000).max(1))
            }
            InferenceErrorKind::EngineLost | InferenceErrorKind::Unavailable => Self::unavailable(why, 1),
            InferenceErrorKind::TimedOut => Self::timed_out(why),
        };
        match error.param {
            Some(param) => told.param(&param),
            None => told,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(mut self) -> Response {
        let body = self.0.body.take().unwrap_or_else(|| {
            let mut body = Vec::with_capacity(256);
            self.write(&mut body);
            body
        });
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.0.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.0.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        for (name, value) in std::mem::take(&mut self.0.headers) {
            headers.insert(name, value);
        }
        response
    }
}
