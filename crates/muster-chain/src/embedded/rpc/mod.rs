//! Ethereum's JSON-RPC: one request or a batch of them as text, the answer as text.

mod blocks;
pub(crate) mod error;
mod fees;
mod logs;
mod methods;
mod params;
pub(crate) mod server;

use serde::Deserialize;
use serde_json::{Value, json};

pub use error::RpcError;

use super::{Chain, SignedTx};
use params::Params;

/// Most requests in one batch.
const BATCH_MAX: usize = 1_000;

/// A request before its fields are checked.
#[derive(Debug, Deserialize)]
struct Request {
    #[serde(default)]
    jsonrpc: Value,
    #[serde(default = "absent")]
    id: Value,
    #[serde(default)]
    method: Value,
    #[serde(default)]
    params: Value,
}

/// Stands for a missing `id`: a notification, which gets no answer.
fn absent() -> Value {
    Value::Array(Vec::new())
}

/// Answers one HTTP body: an object, or a batch. `None` where everything was a notification.
pub(crate) async fn answer(chain: &Chain, body: &[u8]) -> Option<Value> {
    let parsed: Value = match serde_json::from_slice(body) {
        Ok(parsed) => parsed,
        Err(error) => return Some(failure(Value::Null, &RpcError::parse(format!("parse error: {error}")))),
    };
    match parsed {
        Value::Array(batch) => answer_batch(chain, batch).await,
        single => answer_one(chain, single).await,
    }
}

async fn answer_batch(chain: &Chain, batch: Vec<Value>) -> Option<Value> {
    if batch.is_empty() {
        return Some(failure(Value::Null, &RpcError::invalid_request("empty batch")));
    }
    if batch.len() > BATCH_MAX {
        let error = RpcError::invalid_request(format!("batch too large: {} requests, limit {BATCH_MAX}", batch.len()));
        return Some(failure(Value::Null, &error));
    }
    let mut answers = Vec::with_capacity(batch.len());
    let mut requests = batch.into_iter().peekable();
    while let Some(request) = requests.next() {
        let sends = is_send(&request);
        let mut run = vec![request];
        while let Some(next) = requests.next_if(|next| is_send(next) == sends) {
            run.push(next);
        }
        if sends {
            // Neighbouring sends share a block, and so one commit.
            answers.extend(answer_sends(chain, run).await);
        } else {
            answers.extend(answer_reads(chain, run).await);
        }
    }
    (!answers.is_empty()).then_some(Value::Array(answers))
}

fn is_send(request: &Value) -> bool {
    request["method"] == methods::SEND
}

/// Checks the fields that every request has.
fn check(request: Value) -> Result<(Value, String, Params), Value> {
    let Ok(Request { jsonrpc, id, method, params }) = serde_json::from_value(request) else {
        return Err(failure(Value::Null, &RpcError::invalid_request("invalid request: expected an object")));
    };
    let shown = if matches!(id, Value::Array(_) | Value::Object(_)) { Value::Null } else { id.clone() };
    if jsonrpc != "2.0" {
        return Err(failure(shown, &RpcError::invalid_request("invalid request: \"jsonrpc\" must be \"2.0\"")));
    }
    let Value::String(method) = method else {
        return Err(failure(shown, &RpcError::invalid_request("invalid request: \"method\" must be a string")));
    };
    if matches!(id, Value::Object(_)) {
        return Err(failure(shown, &RpcError::invalid_request("invalid request: \"id\" must be a number or a string")));
    }
    match Params::new(params) {
        Ok(params) => Ok((id, method, params)),
        Err(error) => Err(failure(shown, &error)),
    }
}

async fn answer_one(chain: &Chain, request: Value) -> Option<Value> {
    let (id, method, params) = match check(request) {
        Ok(parts) => parts,
        Err(answer) => return Some(answer),
    };
    let result = methods::call(chain, &method, params).await;
    respond(id, result)
}

/// Answers requests that change nothing; long ones share one trip to another thread.
async fn answer_reads(chain: &Chain, requests: Vec<Value>) -> Vec<Value> {
    let long = requests.iter().any(|request| request["method"].as_str().is_some_and(methods::is_long));
    let count = requests.len();
    let reader = chain.clone();
    let read = move || requests.into_iter().filter_map(|request| answer_read(&reader, request)).collect::<Vec<_>>();
    if !long {
        return read();
    }
    match methods::off_the_reactor(read).await {
        Ok(answers) => answers,
        Err(error) => vec![failure(Value::Null, &error); count],
    }
}

fn answer_read(chain: &Chain, request: Value) -> Option<Value> {
    match check(request) {
        Ok((id, method, params)) => respond(id, methods::read(chain, &method, &params)),
        Err(answer) => Some(answer),
    }
}

async fn answer_sends(chain: &Chain, requests: Vec<Value>) -> Vec<Value> {
    let mut answers: Vec<Option<Value>> = Vec::with_capacity(requests.len());
    let mut places = Vec::with_capacity(requests.len());
    let mut raws = Vec::with_capacity(requests.len());
    for request in requests {
        match check(request).map(|(id, _, params)| (id, methods::raw_transaction(&params))) {
            Err(answer) => answers.push(Some(answer)),
            Ok((id, Err(error))) => answers.push(respond(id, Err(error))),
            Ok((id, Ok(raw))) => {
                places.push((answers.len(), id));
                raws.push(raw);
                answers.push(None);
            }
        }
    }
    methods::count(methods::SEND, places.len());
    let outcomes = methods::send_all(chain, raws).await;
    for ((place, id), outcome) in places.into_iter().zip(outcomes) {
        answers[place] = respond(id, outcome.map(|hash| json!(hash)));
    }
    answers.into_iter().flatten().collect()
}

fn respond(id: Value, result: Result<Value, RpcError>) -> Option<Value> {
    if id == absent() {
        return None;
    }
    Some(match result {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
        Err(error) => failure(id, &error),
    })
}

pub(crate) fn failure(id: Value, error: &RpcError) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "error": error.to_json() })
}

/// Decodes and checks raw transactions; heavy enough to be kept off the reactor.
fn decode_all(raws: &[Vec<u8>], chain_id: u64) -> Vec<Result<SignedTx, RpcError>> {
    raws.iter().map(|raw| SignedTx::decode(raw, chain_id)).collect()
}
