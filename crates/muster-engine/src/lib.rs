//! Engines: whatever turns an [`InferenceRequest`] into events.
//!
//! [`Engine`] is the one interface. Who asks holds an [`Answer`]: it takes events as they come, may cancel and still learn
//! the count, or drops it, which cancels as well. An engine never waits for a slow reader without bound: what a reader
//! does not take is held in a channel of [`EVENTS_WAITING_MAX`] batches, and a request whose reader stands still holds up
//! nobody but itself.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test"))]

#[cfg(feature = "engines")]
mod answer;
pub mod bert;
#[cfg(feature = "llama")]
pub mod child;
#[cfg(feature = "engines")]
pub mod embedded;
pub mod gguf;
#[cfg(feature = "engines")]
pub mod protocol;
pub mod reasoning;
pub mod scheduler;
pub mod schema;
#[cfg(feature = "engines")]
pub mod template;
pub mod tiny;
pub mod tools;
#[cfg(feature = "engines")]
pub mod upstream;

#[cfg(feature = "engines")]
use std::future::Future;
#[cfg(feature = "engines")]
use std::pin::Pin;

#[cfg(feature = "engines")]
use muster_core::inference::InferenceRequest;
use serde::{Deserialize, Serialize};

#[cfg(feature = "engines")]
pub(crate) use answer::turned;
#[cfg(feature = "engines")]
pub use answer::{Answer, Answering, EVENTS_WAITING_MAX, answer, driven};

/// What an engine says of its model, once it is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineInfo {
    /// Tokens that prompt and answer may have together.
    pub context: u32,
    /// Requests that are answered side by side.
    pub parallel: u32,
    /// Requests that may wait for a place.
    pub queue: u32,
    /// What it can do.
    pub abilities: Abilities,
    /// Numbers of an embedding, where it gives embeddings; 0 otherwise.
    pub dimensions: u32,
    /// What runs: `llama.cpp, CPU, 2 threads`, for people.
    pub engine: String,
}

/// What a model and its engine can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Abilities {
    /// Conversations: the model has a template for them.
    pub chat: bool,
    /// Going on with a text.
    pub completion: bool,
    /// Places in the space of meanings.
    pub embedding: bool,
    /// Calling tools: the template speaks of them.
    pub tools: bool,
    /// Looking at pictures.
    pub vision: bool,
}

/// How busy an engine is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests that are being answered.
    pub busy: u32,
    /// Requests that wait.
    pub waiting: u32,
}

/// Why an engine does not come up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotReady(pub String);

/// A future that can be held behind a pointer.
#[cfg(feature = "engines")]
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A model that answers.
#[cfg(feature = "engines")]
pub trait Engine: Send + Sync {
    /// Waits until the model answers: a real completion (or embedding) was made, and not only a page of health read.
    /// Every caller is told the same; one that broke since is ready again once it was started anew.
    fn ready(&self) -> Later<'_, Result<EngineInfo, NotReady>>;

    /// Takes a request; its events come through the answer, refusals too. Never blocks. Some engines work only while their
    /// answer is waited for.
    fn submit(&self, request: InferenceRequest) -> Answer;

    /// How busy it is.
    fn load(&self) -> Load;
}
