//! The local page of a Checker, and the API beside it: state, tasks, results, earnings, licences served.
//!
//! On loopback only, and for reading only. A name that a browser resolved to this machine is refused, so that no page of
//! the internet reads it.

use std::sync::{Arc, OnceLock};

use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use muster_chain::settle::{NodeKind, NodeOnChain, NodeStatus};
use muster_checker::{Archive, CheckerStatus};
use muster_core::epoch::EpochNo;
use muster_core::ids::NodeId;
use muster_gateway::is_loopback_host;
use serde_json::{Value, json};
use tokio::sync::{Mutex, watch};

use super::Epochs;
use super::licence::{self, Licence};
use super::rewards::{Standing, Whose};
use crate::failure::{Code, Failure};

/// What a browser may do on the page: nothing but this program's own script and style.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const INDEX: &str = include_str!("page/index.html");
const SCRIPT: &str = include_str!("page/checker.js");
const STYLE: &str = include_str!("page/checker.css");

/// What the pages tell, once the Checker runs.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) name: String,
    pub(super) status: watch::Receiver<CheckerStatus>,
    pub(super) epochs: Epochs,
    pub(super) archive: Archive,
}

/// Rewards by licence of an epoch: they do not change once they are settled.
type ByLicence = (EpochNo, std::collections::BTreeMap<u64, Value>);

#[derive(Debug, Default)]
struct Inner {
    facts: OnceLock<Facts>,
    settled: Mutex<Option<ByLicence>>,
}

/// The pages; they answer that the Checker is not ready until it is.
#[derive(Clone, Debug, Default)]
pub(super) struct Pages(Arc<Inner>);

impl Pages {
    /// The Checker runs.
    pub(super) fn open(&self, facts: Facts) {
        if self.0.facts.set(facts).is_err() {
            tracing::debug!("the pages are open already");
        }
    }

    /// All of it.
    pub(super) fn router(&self) -> Router {
        Router::new()
            .route("/", get(|| async { Html(INDEX) }))
            .route("/checker.js", get(|| async { ([(header::CONTENT_TYPE, "text/javascript")], SCRIPT) }))
            .route("/checker.css", get(|| async { ([(header::CONTENT_TYPE, "text/css")], STYLE) }))
            .route("/api/v1/status", get(status))
            .route("/api/v1/clients", get(clients))
            .route("/api/v1/clients/{id}", get(client))
            .route("/api/v1/licences", get(licences))
            .route("/api/v1/licences/{id}/rewards", get(rewards))
            .layer(middleware::from_fn(guard))
            .with_state(self.clone())
    }

    fn facts(&self) -> Result<&Facts, Refusal> {
        self.0.facts.get().ok_or_else(|| {
            Refusal(
                StatusCode::SERVICE_UNAVAILABLE,
                "the Checker is starting; /healthz says what it waits for".to_owned(),
            )
        })
    }
}

/// An error as JSON: `{"error": {"message": …}}`.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": { "message": self.1 } }))).into_response()
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        let status = match failure.code {
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::Chain | Code::Unreachable => StatusCode::BAD_GATEWAY,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, failure.why)
    }
}

/// Refuses names of others for this machine, and tells the browser what the page may do.
async fn guard(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
    if !is_loopback_host(host) {
        let why = "this page is for this machine only: open it as http://127.0.0.1:PORT".to_owned();
        return Refusal(StatusCode::FORBIDDEN, why).into_response();
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn status(State(pages): State<Pages>) -> Result<Json<Value>, Refusal> {
    let facts = pages.facts()?;
    let status = facts.status.borrow().clone();
    let params = &facts.archive.params.epoch;
    Ok(Json(json!({
        "name": facts.name,
        "now_ms": super::epoch::now().0,
        "epoch_begins_ms": params.begin(status.epoch).0,
        "epoch_ends_ms": params.end(status.epoch).0,
        "genesis": facts.epochs.genesis,
        "checker": status,
    })))
}

fn chain(error: &muster_chain::settle::ClientError) -> Refusal {
    Refusal(StatusCode::BAD_GATEWAY, error.to_string())
}

fn client_value(node: &NodeOnChain, licences: &[Licence]) -> Value {
    let served: Vec<u64> = licences.iter().filter(|l| l.checker == Some(node.node)).map(|l| l.id).collect();
    let status = match node.status {
        NodeStatus::Active => "active",
        NodeStatus::Jailed => "jailed",
        NodeStatus::Left => "left",
    };
    json!({
        "id": node.node, "owner": node.owner, "status": status, "stake": node.stake,
        "registered_at": node.registered_at_s, "endpoint": node.endpoint, "licences": served,
    })
}

/// Every Checker of the network.
async fn clients(State(pages): State<Pages>) -> Result<Json<Value>, Refusal> {
    let facts = pages.facts()?;
    let nodes = facts.epochs.reads.client().nodes(NodeKind::Checker).await.map_err(|e| chain(&e))?;
    let licences = licence::all(&facts.epochs.reads).await?;
    let clients: Vec<Value> = nodes.iter().map(|node| client_value(node, &licences)).collect();
    Ok(Json(json!({ "clients": clients })))
}

/// One Checker: its standing on the chain, its duties by the last outcome, and whether it answers.
async fn client(State(pages): State<Pages>, Path(id): Path<String>) -> Result<Json<Value>, Refusal> {
    let facts = pages.facts()?;
    let id: NodeId = id
        .parse()
        .map_err(|why| Refusal(StatusCode::BAD_REQUEST, format!("{id:.80} is not the key of a Checker: {why}")))?;
    let node = facts.epochs.reads.client().node(id).await.map_err(|e| chain(&e))?;
    let Some(node) = node.filter(|node| node.kind == NodeKind::Checker) else {
        return Err(Refusal(StatusCode::NOT_FOUND, format!("no Checker {id} is registered")));
    };
    let licences = licence::all(&facts.epochs.reads).await?;
    let mut value = client_value(&node, &licences);
    let standing = Standing::of(&facts.archive).await?;
    let day = standing.settled().map(|last| facts.archive.params.epoch.day(last));
    let record = standing.last.as_ref().and_then(|told| told.published.state.checker(&id).cloned());
    let duty = record.as_ref().zip(day).map(|(record, day)| record.week(day));
    if let Some(fields) = value.as_object_mut() {
        fields.insert("settled".to_owned(), json!(standing.settled()));
        fields.insert(
            "week".to_owned(),
            json!(duty.map(|d| json!({ "due": d.due, "done": d.done, "uptime_bps": d.share_bps() }))),
        );
        fields.insert("wrong".to_owned(), json!(record.as_ref().map(|r| r.wrong.clone())));
        fields.insert("barred_until".to_owned(), json!(record.map(|r| r.barred_until)));
    }
    Ok(Json(value))
}

/// The licences that this Checker serves.
async fn licences(State(pages): State<Pages>) -> Result<Json<Value>, Refusal> {
    let facts = pages.facts()?;
    let me = facts.status.borrow().id;
    let mut served = licence::all(&facts.epochs.reads).await?;
    served.retain(|licence| licence.checker == Some(me));
    let standing = Standing::of(&facts.archive).await?;
    let last = pages.by_licence(facts, &standing).await?;
    let of = |licence: &Licence| {
        json!({
            "id": licence.id, "owner": licence.owner, "checker": licence.checker, "last_epoch": last.get(&licence.id),
        })
    };
    let served: Vec<Value> = served.iter().map(of).collect();
    Ok(Json(json!({ "licences": served })))
}

/// Rewards of a licence: its own of the last settled epoch, and its owner's in all.
async fn rewards(State(pages): State<Pages>, Path(id): Path<u64>) -> Result<Json<Value>, Refusal> {
    let facts = pages.facts()?;
    let found = licence::all(&facts.epochs.reads).await?.into_iter().find(|licence| licence.id == id);
    let Some(found) = found else {
        return Err(Refusal(StatusCode::NOT_FOUND, format!("there is no licence {id}")));
    };
    let standing = Standing::of(&facts.archive).await?;
    let last = pages.by_licence(facts, &standing).await?;
    let rewards = standing.rewards(&facts.epochs, Whose::Owner(found.owner)).await?;
    Ok(Json(json!({
        "licence": found.id,
        "checker": found.checker,
        "settled": standing.settled(),
        "last_epoch": last.get(&id),
        "owner": { "account": found.owner, "rewards": rewards, "claimable": rewards.claimable() },
    })))
}

impl Pages {
    async fn by_licence(
        &self,
        facts: &Facts,
        standing: &Standing,
    ) -> Result<std::collections::BTreeMap<u64, Value>, Refusal> {
        let Some(last) = standing.settled() else { return Ok(std::collections::BTreeMap::new()) };
        let mut kept = self.0.settled.lock().await;
        if let Some((epoch, found)) = kept.as_ref()
            && *epoch == last
        {
            return Ok(found.clone());
        }
        let found = licence::by_licence(&facts.archive, standing).await?;
        *kept = Some((last, found.clone()));
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_answered() {
        for good in ["127.0.0.1:80", "127.0.0.1", "localhost:8080", "localhost", "[::1]:80", "127.9.9.9:1"] {
            assert!(is_loopback_host(good), "{good}");
        }
        for bad in ["", "example.org", "example.org:80", "127.0.0.1.example.org:80", "10.0.0.1", "localhost.x", ":80"] {
            assert!(!is_loopback_host(bad), "{bad}");
        }
    }
}
