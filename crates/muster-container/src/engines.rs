//! What models run on: the program that is the engine, and how it is spoken to.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use muster_core::inference::WeightsId;
use muster_core::params::Params;
use muster_engine::Engine;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::audit::{CheatError, may_cheat};

/// Where a job sees the engine's program.
const ENGINE_INSIDE: &str = "/.muster/engine";

/// What an engine is told at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineSetup {
    /// The weights, as the engine sees them; of several files the first, the others lie beside it.
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

    /// As [`Engines::check`], of one file of several: its number, from 1 on, and how many there are.
    ///
    /// # Errors
    /// As [`Engines::check`].
    fn check_part(&self, part: &Path, number: u16, count: u16) -> Result<(), String>;

    /// Whether files that were looked at one by one are one model, in this order.
    ///
    /// # Errors
    /// As [`Engines::check`].
    fn check_together(&self, parts: &[PathBuf]) -> Result<(), String>;

    /// Whether anybody may have a file of weights, whoever brought it: this program itself names it to everybody.
    fn is_public(&self, weights: WeightsId) -> bool;

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

    /// What the job is lent: the program and the weights, each file with where the job sees it.
    pub(crate) fn lent(&self, weights: impl IntoIterator<Item = (PathBuf, PathBuf)>) -> Vec<(PathBuf, PathBuf)> {
        let weights = weights.into_iter().map(|(path, inside)| (self.lends(&path), inside));
        std::iter::once((self.program(), ENGINE_INSIDE.into())).chain(weights).collect()
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

    fn check_part(&self, part: &Path, number: u16, count: u16) -> Result<(), String> {
        self.engines.check_part(part, number, count)
    }

    fn check_together(&self, parts: &[PathBuf]) -> Result<(), String> {
        self.engines.check_together(parts)
    }

    fn is_public(&self, weights: WeightsId) -> bool {
        self.engines.is_public(weights)
    }

    fn lends(&self, _: &Path) -> PathBuf {
        self.model.clone()
    }

    fn over(&self, input: EngineInput, output: EngineOutput, setup: EngineSetup) -> Arc<dyn Engine> {
        self.engines.over(input, output, setup)
    }
}
