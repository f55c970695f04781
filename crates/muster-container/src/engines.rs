//! What models run on: the program that is the engine, and how it is spoken to.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use muster_engine::Engine;
use tokio::io::{AsyncRead, AsyncWrite};

/// Where a job sees the engine's program.
const ENGINE_INSIDE: &str = "/.muster/engine";

/// What an engine is told at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineSetup {
    /// The weights, as the engine sees them.
    pub weights: PathBuf,
    /// Tokens that prompt and answer may have together.
    pub context: u32,
    /// Requests side by side.
    pub parallel: u16,
    /// Threads.
    pub threads: u32,
    /// Whether it is for embeddings.
    pub embedding: bool,
    /// Whether it may use the job's cards.
    pub gpus: bool,
}

/// A way to the engine's input.
pub type EngineInput = Box<dyn AsyncWrite + Send + Unpin>;
/// A way from the engine's output.
pub type EngineOutput = Box<dyn AsyncRead + Send + Unpin>;

/// Makes engines of programs that run in the Sandbox.
pub trait Engines: fmt::Debug + Send + Sync {
    /// The engine's program on this machine.
    fn program(&self) -> PathBuf;

    /// Its arguments.
    fn args(&self) -> Vec<String>;

    /// Whether a file is a model that it can serve, without trusting it.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence.
    fn check(&self, weights: &Path) -> Result<(), String>;

    /// The engine that speaks over these pipes.
    fn over(&self, input: EngineInput, output: EngineOutput, setup: EngineSetup) -> Arc<dyn Engine>;
}

impl dyn Engines {
    /// The command, as a job sees it.
    pub(crate) fn command(&self) -> Vec<String> {
        std::iter::once(ENGINE_INSIDE.to_owned()).chain(self.args()).collect()
    }

    /// What the job is lent: the program and the weights.
    pub(crate) fn lent(&self, weights: &Path, inside: &str) -> Vec<(PathBuf, PathBuf)> {
        vec![(self.program(), ENGINE_INSIDE.into()), (weights.to_owned(), inside.into())]
    }
}
