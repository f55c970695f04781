//! The form that nodes have among themselves.

use muster_core::inference::InferenceRequest;
use serde::Deserialize;

use super::{Asked, Form};
use crate::openai::error::ApiError;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Native {
    model: String,
    request: InferenceRequest,
}

pub(super) fn parse(text: &str) -> Result<Asked, ApiError> {
    let Native { model, request } = serde_json::from_str(text).map_err(|error| {
        ApiError::malformed(format!("the body is no request in this Gateway's own form (docs/gateway.md): {error}"))
    })?;
    request.check()?;
    Ok(Asked { model, request, include_usage: false, form: Form::Native, container: None })
}
