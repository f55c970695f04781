//! The child: the process that has the model. It reads frames from its standard input and writes frames to its standard
//! output; what llama.cpp says goes to `tracing`, which the caller of [`main`] sends to the standard error.
//!
//! One thread owns the model's context and does all the work, a step at a time; one other reads what comes. A step is a
//! token of every answer that is being drawn, and some of the prompts that are being read.

mod ask;
mod bare;
mod embed;
mod engine;
mod model;

use std::fs::File;
use std::io::{Stdin, Write as _};
use std::process::ExitCode;
use std::sync::mpsc;

use llama_cpp_2::LogOptions;
use llama_cpp_2::llama_backend::LlamaBackend;

pub use self::bare::{BareLoad, BareSpeeds, bare};
use crate::protocol::{self, ChildConfig, FromEngine, ToEngine};

/// Where frames to the parent go. Only the thread that owns the model writes.
struct Mouth(File);

impl Mouth {
    /// Takes the standard output for frames alone: whatever else writes there from now on (a library that complains) writes
    /// to the standard error.
    fn take() -> std::io::Result<Self> {
        let out = rustix::io::dup(rustix::stdio::stdout())?;
        rustix::stdio::dup2_stdout(rustix::stdio::stderr())?;
        Ok(Self(out.into()))
    }

    /// The same pipe, for the time when the model is loaded.
    fn another(&self) -> Result<Self, Gone> {
        self.0.try_clone().map(Self).map_err(|error| Gone(error.to_string()))
    }

    fn say(&mut self, message: &FromEngine) -> Result<(), Gone> {
        let frame = protocol::encode(message).map_err(|error| Gone(error.to_string()))?;
        self.0.write_all(&frame).map_err(|error| Gone(error.to_string()))
    }
}

/// The child cannot go on.
#[derive(Debug)]
struct Gone(String);

/// What the hidden command of the binary does: waits for [`ToEngine::Load`], loads the model, answers until it is told to
/// stop or its input ends.
#[must_use]
pub fn main() -> ExitCode {
    llama_cpp_2::send_logs_to_tracing(LogOptions::default());
    let mut mouth = match Mouth::take() {
        Ok(mouth) => mouth,
        Err(error) => {
            tracing::error!(%error, "the engine has no standard output");
            return ExitCode::FAILURE;
        }
    };
    let mut stdin = std::io::stdin();
    let config = match protocol::read_blocking(&mut stdin) {
        Ok(Some(ToEngine::Load(config))) => config,
        Ok(None | Some(ToEngine::Stop)) => return ExitCode::SUCCESS,
        Ok(Some(_)) => return failed(&mut mouth, "the first message must say what to load"),
        Err(error) => return failed(&mut mouth, &error.to_string()),
    };
    match run(&config, stdin, &mut mouth) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Gone(why)) => failed(&mut mouth, &why),
    }
}

fn failed(mouth: &mut Mouth, why: &str) -> ExitCode {
    tracing::error!(why, "the engine ends");
    // Where nobody listens any more, nobody has to know.
    let _ = mouth.say(&FromEngine::Failed { why: why.to_owned() });
    ExitCode::FAILURE
}

fn run(config: &ChildConfig, mut stdin: Stdin, mouth: &mut Mouth) -> Result<(), Gone> {
    let backend = LlamaBackend::init().map_err(|error| Gone(format!("llama.cpp does not start: {error}")))?;
    let model = model::load(config, &backend, mouth)?;
    let loaded = model::Loaded::new(&model, config)?;
    let context = loaded.context(&backend, config)?;
    mouth.say(&FromEngine::Ready(loaded.info.clone()))?;
    let (heard, messages) = mpsc::channel();
    // It ends with the process: a read cannot be called back.
    std::thread::spawn(move || {
        loop {
            let message = match protocol::read_blocking(&mut stdin) {
                Ok(Some(message)) => message,
                Ok(None) => ToEngine::Stop,
                Err(error) => {
                    tracing::error!(%error, "the engine's owner is not understood");
                    ToEngine::Stop
                }
            };
            let stop = message == ToEngine::Stop;
            if heard.send(message).is_err() || stop {
                return;
            }
        }
    });
    if config.embedding {
        embed::Embedder::new(&loaded, context).run(&messages, mouth)
    } else {
        engine::Drawing::new(&loaded, context)?.run(&messages, mouth)
    }
}
