//! What this binary runs models on: itself, as the child of the embedded engine.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use muster_container::{EngineInput, EngineOutput, EngineSetup, Engines};
use muster_core::inference::{InferenceRequest, WeightsId};
use muster_engine::child::{BareLoad, bare};
use muster_engine::embedded::{Child, Embedded, Spawn};
use muster_engine::protocol::{ChildConfig, PARALLEL_MAX, Pooling};
use muster_engine::{Answer, Engine, EngineInfo, Later, Load, NotReady};
use tokio::task::JoinHandle;

/// The subcommand that is the embedded engine's child.
pub(crate) const ENGINE: &str = "__engine";
/// The subcommand that measures llama.cpp by itself: a process of its own, as the engine is.
pub(crate) const BARE: &str = "__llama-cpp";
/// Requests that wait for a place, for each that has one.
const QUEUE_FOR_EACH: u32 = 8;
/// All layers of any model.
const ALL_LAYERS: u32 = 1_000;

/// Measures a model's file, and writes what it came to as JSON. The arguments: the file, and what is measured, as JSON.
pub(crate) fn bare_main(mut args: impl Iterator<Item = std::ffi::OsString>) -> Result<(), String> {
    let (Some(file), Some(load)) = (args.next(), args.next()) else { return Err("say FILE and LOAD".to_owned()) };
    let load: BareLoad = serde_json::from_str(&load.to_string_lossy()).map_err(|error| error.to_string())?;
    let speeds = bare(Path::new(&file), &load)?;
    let text = serde_json::to_vec(&speeds).map_err(|error| error.to_string())?;
    std::io::stdout().write_all(&text).map_err(|error| error.to_string())
}

/// The embedded engine.
#[derive(Debug)]
pub(crate) struct Own {
    program: PathBuf,
    /// Weights of the catalogue.
    public: BTreeSet<WeightsId>,
}

impl Own {
    /// This very program.
    pub(crate) fn new() -> std::io::Result<Self> {
        let catalog = muster_gateway::catalog().map_err(std::io::Error::other)?;
        let public = catalog.iter().filter_map(|entry| Some(entry.known()?.0)).collect();
        Ok(Self { program: std::env::current_exe()?, public })
    }
}

impl Engines for Own {
    fn program(&self) -> PathBuf {
        self.program.clone()
    }

    fn args(&self) -> Vec<String> {
        vec![ENGINE.to_owned()]
    }

    fn check(&self, weights: &Path) -> Result<(), String> {
        muster_engine::gguf::check_file(weights).map(drop)
    }

    fn check_part(&self, part: &Path, number: u16, count: u16) -> Result<(), String> {
        muster_engine::gguf::check_part_file(part, number, count).map(drop)
    }

    fn check_together(&self, parts: &[PathBuf]) -> Result<(), String> {
        muster_engine::gguf::check_files(parts).map(drop)
    }

    fn is_public(&self, weights: WeightsId) -> bool {
        self.public.contains(&weights)
    }

    fn over(&self, input: EngineInput, output: EngineOutput, setup: EngineSetup) -> Arc<dyn Engine> {
        let parallel = u32::from(setup.parallel).min(PARALLEL_MAX);
        let config = ChildConfig {
            path: setup.weights.display().to_string(),
            context: setup.context,
            parallel,
            threads: setup.threads,
            gpu_layers: if setup.gpus { ALL_LAYERS } else { 0 },
            embedding: setup.embedding,
            pooling: Pooling::Model,
        };
        let engine = Embedded::new(config, parallel.saturating_mul(QUEUE_FOR_EACH));
        let runner = engine.clone();
        let running = tokio::spawn(async move {
            // The Container starts another one where this one breaks.
            let once = Once(Mutex::new(Some((input, output))));
            runner.run(&once, std::future::pending()).await;
        });
        Arc::new(Over { engine, running })
    }
}

/// An engine over the pipes of one child. Dropping it ends the task behind it.
struct Over {
    engine: Embedded,
    running: JoinHandle<()>,
}

impl Drop for Over {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Engine for Over {
    fn ready(&self) -> Later<'_, Result<EngineInfo, NotReady>> {
        self.engine.ready()
    }

    fn submit(&self, request: InferenceRequest) -> Answer {
        self.engine.submit(request)
    }

    fn load(&self) -> Load {
        self.engine.load()
    }
}

/// The pipes of a child that runs already; there is no second one.
struct Once(Mutex<Option<(EngineInput, EngineOutput)>>);

impl Spawn for Once {
    fn spawn(&self) -> Later<'_, Result<Child, String>> {
        let pipes = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        Box::pin(async move {
            match pipes {
                Some((stdin, stdout)) => Ok(Child { stdin, stdout, exit: Box::pin(std::future::pending()) }),
                // Whoever asks meanwhile is told that it is lost.
                None => std::future::pending().await,
            }
        })
    }
}
