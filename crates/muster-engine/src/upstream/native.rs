//! Somebody's Gateway as an engine: one of its models, at one of its Containers, in the form that nodes have among themselves.
//!
//! What that Container sees is the Gateway's: its wallet, its line, and this request among those of others.

use std::sync::Arc;
use std::time::Duration;

use muster_core::ids::NodeId;
use muster_core::inference::{
    InferenceError, InferenceErrorKind, InferenceEvent, InferenceRequest, TokenCounts, WeightsId,
};
use muster_core::protocol::NodeSignature;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::sse::Lines;
use super::{ERROR_MAX, Response, UpstreamError, all, broke_off, lost, other, refusal, why};
use crate::{Abilities, Answer, Answering, Engine, EngineInfo, Later, Load, NotReady, driven};

/// Bytes of a list of models, or of one.
const LIST_MAX: usize = 4 * 1024 * 1024;
/// How long a Gateway may take to say which models it has.
const LIST_WITHIN: Duration = Duration::from_secs(30);
/// Names the Container whose answer alone is wanted.
const CONTAINER: &str = "x-muster-container";

/// A Gateway, and a key for it.
#[derive(Clone)]
pub struct Through {
    /// Up to and without `/v1`.
    base: String,
    key: String,
    client: reqwest::Client,
}

impl std::fmt::Debug for Through {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Through").field("base", &self.base).finish_non_exhaustive()
    }
}

/// Whether a Container's signature over some bytes is its own.
pub type Verify = fn(NodeId, &[u8], &NodeSignature) -> bool;

/// One of its models at one of its Containers.
#[derive(Clone, Debug)]
pub struct GatewayLine(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    verify: Verify,
    node: NodeId,
    weights: WeightsId,
    through: Through,
    model: String,
    container: String,
    info: EngineInfo,
}

#[derive(Deserialize)]
struct List {
    data: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    id: String,
}

#[derive(Deserialize)]
struct Shown {
    abilities: Vec<String>,
    replicas: Vec<Replica>,
}

#[derive(Deserialize)]
struct Replica {
    engine: String,
    context_length: u32,
    container: Option<String>,
    weights: Option<String>,
}

impl Through {
    /// The Gateway at `https://host` or, on this machine, `http://127.0.0.1:port`: a key goes in clear over no network.
    ///
    /// # Errors
    /// The address is none such, or the key has characters that no key has.
    pub fn new(url: &str, key: &str) -> Result<Self, UpstreamError> {
        let base = url.trim_end_matches('/').trim_end_matches("/v1").to_owned();
        let parsed = reqwest::Url::parse(&base).ok();
        let is_here = |url: &reqwest::Url| {
            url.host_str().is_some_and(|host| {
                let host = host.trim_matches(['[', ']']);
                host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
            })
        };
        if !parsed
            .is_some_and(|url| url.has_host() && (url.scheme() == "https" || url.scheme() == "http" && is_here(&url)))
        {
            return Err(UpstreamError::Gateway { url: base });
        }
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(UpstreamError::Key);
        }
        Ok(Self { base, key: key.to_owned(), client: other()? })
    }

    /// A model of these weights that this Container answers for; `None` where the Gateway has none such. What is committed to
    /// must have the Container's signature, so that the Gateway cannot say it in another's name.
    ///
    /// # Errors
    /// The Gateway cannot be reached, or turns this key away.
    pub async fn find(&self, of: WeightsId, node: NodeId, verify: Verify) -> Result<Option<GatewayLine>, NotReady> {
        let (weights, container) = (of.to_string(), node.to_string());
        let list: List = self.get(&format!("/v1/models?weights={weights}&container={container}")).await?;
        for Named { id } in list.data {
            let Shown { abilities, replicas } = self.get(&format!("/v1/models/{id}")).await?;
            let is_it = |replica: &Replica| {
                replica.container.as_ref() == Some(&container) && replica.weights.as_ref() == Some(&weights)
            };
            // It may have gone in between.
            let Some(replica) = replicas.into_iter().find(is_it) else { continue };
            let can = |what: &str| abilities.iter().any(|one| one == what);
            let abilities = Abilities {
                chat: can("chat"),
                completion: can("completion"),
                embedding: can("embedding"),
                tools: can("tools"),
                vision: can("vision"),
            };
            let info = EngineInfo {
                context: replica.context_length,
                parallel: 1,
                queue: 0,
                abilities,
                dimensions: 0,
                engine: replica.engine,
            };
            let through = self.clone();
            let inner = Inner { verify, node, weights: of, through, model: id, container, info };
            return Ok(Some(GatewayLine(Arc::new(inner))));
        }
        Ok(None)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, NotReady> {
        let asking = async {
            let sent = self.client.get(format!("{}{path}", self.base)).bearer_auth(&self.key).send().await;
            let mut response = Response::Other(sent.map_err(|error| broke_off(why(&error)))?);
            let (status, body) = (response.status(), all(&mut response, LIST_MAX).await?);
            if status != 200 {
                return Err(refusal(status, None, &body));
            }
            serde_json::from_slice(&body).map_err(|_| lost("it lists its models in a way that is not understood"))
        };
        let asked = tokio::time::timeout(LIST_WITHIN, asking).await;
        let told = asked.unwrap_or_else(|_| Err(lost(format!("it says nothing for {} s", LIST_WITHIN.as_secs()))));
        told.map_err(|error| NotReady(format!("the Gateway {} cannot be asked: {}", self.base, error.why)))
    }
}

impl Engine for GatewayLine {
    fn ready(&self) -> Later<'_, Result<EngineInfo, NotReady>> {
        Box::pin(async { Ok(self.0.info.clone()) })
    }

    fn submit(&self, request: InferenceRequest) -> Answer {
        if let Err(wrong) = request.check() {
            return Answer::failed(InferenceError::new(InferenceErrorKind::BadRequest, wrong.why).of(&wrong.param));
        }
        let line = self.clone();
        driven(|answering| async move { line.answer(&request, answering).await })
    }

    fn load(&self) -> Load {
        Load::default()
    }
}

impl Inner {
    fn is_signed(&self, event: &InferenceEvent) -> Result<(), InferenceError> {
        let InferenceEvent::Committed { commitment, signature, .. } = event else { return Ok(()) };
        let good = |signature| (self.verify)(self.node, &commitment.signed(self.weights, &self.info.engine), signature);
        if signature.as_ref().is_some_and(good) {
            return Ok(());
        }
        let why = "what it commits to has no signature of the Container's, or another one's";
        Err(InferenceError::new(InferenceErrorKind::Unavailable, why))
    }
}

impl GatewayLine {
    async fn answer(&self, request: &InferenceRequest, answering: Answering) {
        let mut word = answering.word();
        let done = tokio::select! {
            done = self.exchange(request, &answering) => done,
            // Leaving the exchange closes its connection, by which the Gateway knows.
            () = crate::turned(&mut word) => Ok(()),
        };
        if let Err(error) = done {
            answering.fail(error, TokenCounts::ZERO).await;
        }
    }

    /// Asks, and passes on what is answered, the last event too.
    async fn exchange(&self, request: &InferenceRequest, answering: &Answering) -> Result<(), InferenceError> {
        let Inner { through, model, container, .. } = &*self.0;
        let body = serde_json::to_vec(&serde_json::json!({ "model": model, "request": request }))
            .map_err(|error| lost(format!("the request cannot be written: {error}")))?;
        let post = through.client.post(format!("{}/v1/native", through.base)).bearer_auth(&through.key);
        let post = post.header("content-type", "application/json").header(CONTAINER, container).body(body);
        let mut response = Response::Other(post.send().await.map_err(|error| broke_off(why(&error)))?);
        let status = response.status();
        if status != 200 {
            let retry = response.retry_after();
            let body = all(&mut response, ERROR_MAX).await.unwrap_or_default();
            return Err(refusal(status, retry, &body));
        }
        let (mut lines, mut piece) = (Lines::whole(), Vec::new());
        while response.piece(&mut piece).await.map_err(broke_off)? {
            let (mut events, mut over) = (Vec::new(), false);
            lines.push(&piece, |line| {
                let event = match serde_json::from_str(line) {
                    Ok(event) => event,
                    Err(_) if line.is_empty() => return Ok(true),
                    // Anything else is an error, or is not understood.
                    Err(_) => return Err(refusal(500, None, line.as_bytes())),
                };
                self.0.is_signed(&event)?;
                over = matches!(event, InferenceEvent::Done { .. } | InferenceEvent::Failed { .. });
                events.push(event);
                Ok(!over)
            })?;
            if !events.is_empty() && !answering.send(events).await {
                return Ok(());
            }
            if over {
                return Ok(());
            }
        }
        Err(lost("the Gateway ended in the middle of its answer"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_goes_in_clear_over_no_network() {
        for good in [
            "https://gw.example",
            "https://gw.example/v1/",
            "http://127.0.0.1:8080",
            "http://[::1]:1/v1",
            "http://localhost:2",
        ] {
            assert!(!Through::new(good, "mk_1").unwrap().base.ends_with("/v1"), "{good}");
        }
        for wrong in ["http://gw.example", "http://10.0.0.1:8080", "ftp://127.0.0.1", "gw.example", ""] {
            let error = Through::new(wrong, "mk_1").unwrap_err().to_string();
            assert!(error.contains("https"), "{error}");
        }
        assert!(matches!(Through::new("https://gw.example", "a b"), Err(UpstreamError::Key)));
        assert!(matches!(Through::new("https://gw.example", ""), Err(UpstreamError::Key)));
    }
}
