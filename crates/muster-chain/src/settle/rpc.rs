//! JSON-RPC to a node: retries for what may be asked twice, and errors that say whether anything happened.

use std::time::Duration;

use alloy::primitives::Bytes;
use alloy::rpc::client::RpcClient;
use alloy::rpc::json_rpc::{ErrorPayload, RpcError};
use alloy::transports::http::reqwest;
use alloy::transports::{TransportError, TransportErrorKind};
use muster_core::ids::Address;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::reverts;

/// How often a question is asked before it counts as unanswered, and the first pause in between.
const ATTEMPTS_MAX: u32 = 6;
const BACKOFF_FIRST: Duration = Duration::from_millis(100);

/// Most requests in one HTTP body.
const BATCH_MAX: usize = 200;

/// Why the chain could not be asked, or what it answered.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// The URL is no URL of a node.
    #[error("{url:?} is not an address of a node: use for example http://127.0.0.1:8545 or https://…")]
    BadUrl {
        /// What was given.
        url: String,
    },
    /// Nobody answers, or not in time.
    #[error("the chain at {url} cannot be reached: {reason}; is it running, and is the address right?")]
    Unreachable {
        /// The node's address, without its path (which may hold a key).
        url: String,
        /// What failed.
        reason: String,
    },
    /// The node answered with an error.
    #[error("the chain refused the request: {message} (code {code})")]
    Refused {
        /// JSON-RPC error code.
        code: i64,
        /// The node's words; a contract's error as a sentence.
        message: String,
    },
    /// A call reverted.
    #[error("{0}")]
    Reverted(String),
    /// The answer is not what the method returns.
    #[error("the chain at {url} answered {method} with something else than expected: {reason}")]
    BadAnswer {
        /// The node's address.
        url: String,
        /// What was asked.
        method: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The node serves another chain.
    #[error(
        "the chain at {url} has chain id {found}, expected {expected}: the address or the network file is of another network"
    )]
    WrongChain {
        /// The node's address.
        url: String,
        /// Its chain id.
        found: u64,
        /// The network's.
        expected: u64,
    },
    /// There is no contract where the network says.
    #[error(
        "there is no contract at {address} (the network's {name}): was the chain's data removed, or is the network file of another network?"
    )]
    NoContract {
        /// Which contract.
        name: &'static str,
        /// Where it should be.
        address: Address,
    },
}

impl ClientError {
    /// Whether the request may have reached the chain, or never did.
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::BadAnswer { .. })
    }
}

/// A connection to a node.
#[derive(Clone, Debug)]
pub(crate) struct Rpc {
    client: RpcClient,
    shown_url: String,
}

impl Rpc {
    pub(crate) fn new(url: &str) -> Result<Self, ClientError> {
        let bad = || ClientError::BadUrl { url: url.to_owned() };
        let parsed: reqwest::Url = url.parse().map_err(|_| bad())?;
        if !matches!(parsed.scheme(), "http" | "https") || parsed.host_str().is_none() {
            return Err(bad());
        }
        install_crypto_provider();
        let mut builder = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(30))
            .tcp_nodelay(true);
        if parsed.scheme() == "http" {
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|error| ClientError::Unreachable {
            url: shown(&parsed),
            reason: format!("no HTTP client could be made ({error})"),
        })?;
        let shown_url = shown(&parsed);
        Ok(Self { client: RpcClient::new_http_with_client(http, parsed), shown_url })
    }

    pub(crate) fn shown_url(&self) -> &str {
        &self.shown_url
    }

    /// Asks until there is an answer or the attempts are used up. For requests that change nothing.
    pub(crate) async fn ask<T: DeserializeOwned>(&self, method: &'static str, params: Value) -> Result<T, ClientError> {
        let mut answers = self.ask_all(vec![(method, params)]).await?;
        let value = answers.pop().unwrap_or_else(|| Err(self.bad_answer(method, "no answer".to_owned())))?;
        self.decode(method, value)
    }

    /// Asks several things at once, in order; the outer error is of the connection.
    pub(crate) async fn ask_all(
        &self,
        requests: Vec<(&'static str, Value)>,
    ) -> Result<Vec<Result<Value, ClientError>>, ClientError> {
        let mut answers = Vec::with_capacity(requests.len());
        for chunk in requests.chunks(BATCH_MAX) {
            answers.extend(self.ask_chunk(chunk).await?);
        }
        Ok(answers)
    }

    async fn ask_chunk(&self, chunk: &[(&'static str, Value)]) -> Result<Vec<Result<Value, ClientError>>, ClientError> {
        let mut pause = BACKOFF_FIRST;
        let mut attempt = 1;
        loop {
            match self.send_once(chunk).await {
                Err(error) if error.is_unknown() && attempt < ATTEMPTS_MAX => {
                    tracing::debug!(%error, attempt, "the chain did not answer; asking again");
                    tokio::time::sleep(pause).await;
                    pause = pause.saturating_mul(2);
                    attempt += 1;
                }
                done => return done,
            }
        }
    }

    /// Sends once, without asking again: for transactions, whose sender decides itself.
    pub(crate) async fn send_once(
        &self,
        requests: &[(&'static str, Value)],
    ) -> Result<Vec<Result<Value, ClientError>>, ClientError> {
        if let [(method, params)] = requests {
            let answer = self.client.request::<_, Value>(*method, params).await;
            return match answer.map_err(|error| self.explain(method, error)) {
                Err(error) if error.is_unknown() => Err(error),
                other => Ok(vec![other]),
            };
        }
        let mut batch = self.client.new_batch();
        let mut waiters = Vec::with_capacity(requests.len());
        for (method, params) in requests {
            let waiter = batch.add_call::<_, Value>(*method, params).map_err(|error| self.explain(method, error))?;
            waiters.push((*method, waiter));
        }
        batch.send().await.map_err(|error| self.explain("a batch", error))?;
        let mut answers = Vec::with_capacity(waiters.len());
        for (method, waiter) in waiters {
            answers.push(waiter.await.map_err(|error| self.explain(method, error)));
        }
        Ok(answers)
    }

    pub(crate) fn decode<T: DeserializeOwned>(&self, method: &str, value: Value) -> Result<T, ClientError> {
        serde_json::from_value(value).map_err(|error| self.bad_answer(method, error.to_string()))
    }

    pub(crate) fn bad_answer(&self, method: &str, reason: String) -> ClientError {
        ClientError::BadAnswer { url: self.shown_url.clone(), method: method.to_owned(), reason }
    }

    fn explain(&self, method: &str, error: TransportError) -> ClientError {
        match error {
            RpcError::ErrorResp(payload) => refusal(&payload),
            RpcError::Transport(TransportErrorKind::HttpError(http)) => {
                self.unreachable(format!("HTTP {}", http.status))
            }
            RpcError::Transport(other) => self.unreachable(deepest(&other)),
            other => self.bad_answer(method, other.to_string()),
        }
    }

    fn unreachable(&self, reason: String) -> ClientError {
        ClientError::Unreachable { url: self.shown_url.clone(), reason }
    }
}

/// The words of the innermost error: "connection refused" rather than "error sending request".
fn deepest(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

fn refusal(payload: &ErrorPayload) -> ClientError {
    let data: Option<Bytes> = payload.data.as_ref().and_then(|raw| serde_json::from_str(raw.get()).ok());
    match data.filter(|data| !data.is_empty()) {
        Some(data) => ClientError::Reverted(reverts::explain(&data)),
        None if payload.code == 3 || payload.message.starts_with("execution reverted") => {
            ClientError::Reverted(payload.message.to_string())
        }
        None => ClientError::Refused { code: payload.code, message: payload.message.to_string() },
    }
}

/// Scheme, host and port; a path may hold a key that belongs in no log.
fn shown(url: &reqwest::Url) -> String {
    let host = url.host_str().unwrap_or("?");
    match url.port() {
        Some(port) => format!("{}://{host}:{port}", url.scheme()),
        None => format!("{}://{host}", url.scheme()),
    }
}

/// The process needs one TLS provider; a binary installs its own first, and then this does nothing.
pub(crate) fn install_crypto_provider() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // An error means that another thread was faster, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}
