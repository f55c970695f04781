//! What a key may ask: models, and the replicas of each.

use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use muster_core::ids::NodeId;
use muster_core::inference::WeightsId;
use utoipa::IntoParams;

use super::error::ApiError;
use super::json::{number, quote};
use super::serve::{OpenAiError, find, json, known, may};
use super::{ModelApi, told};
use crate::keys::now_s;
use crate::models::{Model, Replica};

/// Which models are wanted; all where nothing is said.
#[derive(Debug, Default, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// Those that a replica of these weights answers for: the SHA-256 of their file, 64 hex digits.
    #[param(value_type = Option<String>)]
    weights: Option<WeightsId>,
    /// Those that have a replica at this Container: its key, 64 hex digits.
    #[param(value_type = Option<String>)]
    container: Option<NodeId>,
}

impl Filter {
    /// Hex digits need no decoding. What else is asked is left aside, as fields of requests are that are not known.
    fn read(query: &str) -> Result<Self, ApiError> {
        let mut filter = Self::default();
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            let wrong = || ApiError::invalid(name, format!("{name} must have 64 hex digits"));
            match name {
                "weights" => filter.weights = Some(value.parse().map_err(|_| wrong())?),
                "container" => filter.container = Some(value.parse().map_err(|_| wrong())?),
                _ => {}
            }
        }
        Ok(filter)
    }

    fn takes(&self, model: &Model) -> bool {
        let replica = |replica: &Replica| {
            self.weights.is_none_or(|weights| replica.whence.weights == Some(weights))
                && self.container.is_none_or(|container| replica.whence.container == Some(container))
        };
        (self.weights.is_none() && self.container.is_none()) || model.replicas().iter().any(|one| replica(one))
    }
}

/// The models that the key may ask.
#[utoipa::path(get, path = "/v1/models", params(Filter),
    responses((status = 200, body = serde_json::Value), (status = 400, body = OpenAiError),
        (status = 401, body = OpenAiError)))]
pub(crate) async fn list_models(State(api): State<ModelApi>, request: Request) -> Response {
    let listed = known(&api, &request).and_then(|key| {
        let filter = Filter::read(request.uri().query().unwrap_or_default())?;
        let mut body = b"{\"object\":\"list\",\"data\":[".to_vec();
        let models = api.inner.models.list();
        let shown = models.iter().filter(|model| may(&model.deployment, &key) && filter.takes(model));
        list(shown, &mut body, |model, to| show(model, false, to));
        body.extend_from_slice(b"]}");
        Ok(json(body))
    });
    told(&api, listed.unwrap_or_else(IntoResponse::into_response))
}

/// One model, with the Containers that answer for it.
#[utoipa::path(get, path = "/v1/models/{id}", params(("id" = String, Path, description = "Its name; it may hold slashes")),
    responses((status = 200, body = serde_json::Value), (status = 401, body = OpenAiError),
        (status = 404, body = OpenAiError)))]
pub(crate) async fn get_model(State(api): State<ModelApi>, Path(id): Path<String>, request: Request) -> Response {
    let shown = known(&api, &request).and_then(|key| find(&api, &id, Some(&key))).map(|model| {
        let mut body = Vec::new();
        show(&model, true, &mut body);
        json(body)
    });
    told(&api, shown.unwrap_or_else(IntoResponse::into_response))
}

/// What the key has used this month, by model.
#[utoipa::path(get, path = "/v1/usage",
    responses((status = 200, body = serde_json::Value), (status = 401, body = OpenAiError)))]
pub(crate) async fn usage(State(api): State<ModelApi>, request: Request) -> Response {
    let shown = known(&api, &request).map(|key| {
        let rows = api.inner.ledger.account(&key).rows(now_s());
        axum::Json(serde_json::json!({ "object": "list", "data": rows })).into_response()
    });
    told(&api, shown.unwrap_or_else(IntoResponse::into_response))
}

fn show(model: &Model, replicas: bool, to: &mut Vec<u8>) {
    let deployment = &model.deployment;
    to.extend_from_slice(b"{\"id\":");
    quote(to, &deployment.name);
    to.extend_from_slice(b",\"object\":\"model\",\"created\":");
    number(to, deployment.created_s);
    to.extend_from_slice(b",\"owned_by\":");
    quote(to, &deployment.owner);
    to.extend_from_slice(b",\"context_length\":");
    number(to, u64::from(model.context()));
    let price = &deployment.price;
    to.extend_from_slice(b",\"price_usd_micro_per_million_tokens\":{\"input\":");
    number(to, price.input.0);
    to.extend_from_slice(b",\"cached\":");
    number(to, price.cached.0);
    to.extend_from_slice(b",\"output\":");
    number(to, price.output.0);
    to.push(b'}');
    let abilities = deployment.abilities;
    to.extend_from_slice(b",\"abilities\":[");
    let named = [
        (abilities.chat, "chat"),
        (abilities.completion, "completion"),
        (abilities.embedding, "embedding"),
        (abilities.tools, "tools"),
        (abilities.vision, "vision"),
    ];
    list(named.iter().filter(|(has, _)| *has), to, |(_, name), to| quote(to, name));
    to.push(b']');
    if replicas {
        to.extend_from_slice(b",\"replicas\":[");
        list(model.replicas().iter(), to, |replica, to| of_replica(replica, to));
        to.push(b']');
    }
    to.push(b'}');
}

fn of_replica(replica: &Replica, to: &mut Vec<u8>) {
    to.extend_from_slice(b"{\"engine\":");
    quote(to, &replica.runs);
    to.extend_from_slice(b",\"context_length\":");
    number(to, u64::from(replica.context));
    if let Some(container) = replica.whence.container {
        to.extend_from_slice(b",\"container\":");
        quote(to, &container.to_string());
    }
    if let Some(weights) = replica.whence.weights {
        to.extend_from_slice(b",\"weights\":");
        quote(to, &weights.to_string());
    }
    to.push(b'}');
}

fn list<T>(items: impl Iterator<Item = T>, to: &mut Vec<u8>, each: impl Fn(T, &mut Vec<u8>)) {
    for (at, item) in items.enumerate() {
        if at > 0 {
            to.push(b',');
        }
        each(item, to);
    }
}
