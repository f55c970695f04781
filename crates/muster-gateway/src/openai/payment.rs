//! x402: what a request without a key is told to pay, where the model is offered to anybody.

use axum::http::HeaderMap;
use muster_core::units::UsdMicro;

use super::error::ApiError;
use super::json::quote;
use crate::models::{Deployment, Payee};

/// How long a payment may take to arrive.
const WITHIN_S: u64 = 60;

/// The answer 402 with its price, in the form of x402 version 1.
pub(super) fn needed(to: &Payee, model: &Deployment, path: &str, cost: UsdMicro, headers: &HeaderMap) -> ApiError {
    let why = if headers.contains_key("x-payment") {
        "this Gateway does not take payments for single requests yet; send an API key"
    } else {
        "this needs an API key, or a payment of the amount that is named"
    };
    let host = headers.get(axum::http::header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    let mut body = Vec::with_capacity(512);
    body.extend_from_slice(b"{\"x402Version\":1,\"error\":");
    quote(&mut body, why);
    body.extend_from_slice(b",\"accepts\":[{\"scheme\":\"exact\"");
    for (name, value) in [
        ("network", to.network.as_str()),
        ("maxAmountRequired", cost.0.max(1).to_string().as_str()),
        ("resource", format!("http://{host}{path}").as_str()),
        ("description", format!("an answer of the model {}", model.name).as_str()),
        ("mimeType", "application/json"),
        ("payTo", to.pay_to.as_str()),
        ("asset", to.asset.as_str()),
    ] {
        body.push(b',');
        quote(&mut body, name);
        body.push(b':');
        quote(&mut body, value);
    }
    body.extend_from_slice(format!(",\"maxTimeoutSeconds\":{WITHIN_S},\"extra\":null}}]}}").as_bytes());
    ApiError::payment(body)
}
