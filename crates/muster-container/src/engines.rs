//! What models run on: the program that is the engine, and how it is spoken to.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use muster_core::params::Params;
use muster_engine::Engine;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::audit::{CheatError, may_cheat};

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

    /// The file that an engine is lent as a model's weights.
    fn lends(&self, weights: &Path) -> PathBuf {
        weights.to_owned()
    }

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
        vec![(self.program(), ENGINE_INSIDE.into()), (self.lends(weights), inside.into())]
    }
}

/// Engines that serve one model whatever they are asked for, to see it caught: development networks only.
#[derive(Debug)]
pub struct Substitute {
    engines: Arc<dyn Engines>,
    model: PathBuf,
}

impl Substitute {
    /// Serves this file in place of every other.
    ///
    /// # Errors
    /// The network is no development network.
    pub fn new(engines: Arc<dyn Engines>, model: PathBuf, params: &Params) -> Result<Self, CheatError> {
        may_cheat(params)?;
        Ok(Self { engines, model })
    }
}

impl Engines for Substitute {
    fn program(&self) -> PathBuf {
        self.engines.program()
    }

    fn args(&self) -> Vec<String> {
        self.engines.args()
    }

    fn check(&self, weights: &Path) -> Result<(), String> {
        self.engines.check(weights)
    }

    fn lends(&self, _: &Path) -> PathBuf {
        self.model.clone()
    }

    fn over(&self, input: EngineInput, output: EngineOutput, setup: EngineSetup) -> Arc<dyn Engine> {
        self.engines.over(input, output, setup)
    }
}
