//! llama.cpp by itself, for measuring what the engine costs beside it: the loops of its own `llama-bench`, which decode tokens
//! and draw none, in the very library that the engine runs on. Its sources are in no registry that this builds from.

use std::num::NonZeroU32;
use std::path::Path;
use std::time::Instant;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;
use serde::{Deserialize, Serialize};

use super::model::BATCH;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BareLoad {
    /// Tokens of the prompt.
    pub prompt: u32,
    /// Tokens that are decoded one by one.
    pub drawn: u32,
    /// Threads.
    pub threads: u32,
    /// Rounds after the first, which does not count.
    pub rounds: u32,
}

/// Tokens a second, of the best round.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BareSpeeds {
    /// Of the prompt.
    pub prompt: f64,
    /// Of those that are decoded one by one.
    pub drawn: f64,
}

/// Measures a model's file.
///
/// # Errors
/// It cannot be loaded or decoded, as a sentence.
pub fn bare(path: &Path, load: &BareLoad) -> Result<BareSpeeds, String> {
    let backend = LlamaBackend::init().map_err(|error| error.to_string())?;
    let params = LlamaModelParams::default().with_n_gpu_layers(0);
    let model = LlamaModel::load_from_file(&backend, path, &params).map_err(|error| error.to_string())?;
    let threads = i32::try_from(load.threads).map_err(|error| error.to_string())?;
    let params = LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(load.prompt.max(load.drawn).saturating_add(1)))
        .with_n_batch(BATCH)
        .with_n_ubatch(BATCH)
        .with_n_threads(threads)
        .with_n_threads_batch(threads);
    let mut context = model.new_context(&backend, params).map_err(|error| error.to_string())?;
    let vocabulary = u32::try_from(model.vocab().n_tokens()).unwrap_or(1).max(1);
    // Any tokens will do: what they say changes nothing of the work.
    let tokens: Vec<LlamaToken> = (0..load.prompt.max(load.drawn))
        .map(|at| LlamaToken::new(i32::try_from(at.wrapping_mul(7_919) % vocabulary).unwrap_or(0)))
        .collect();
    let mut best = BareSpeeds { prompt: 0.0, drawn: 0.0 };
    let whole = usize::try_from(BATCH).unwrap_or(512);
    for round in 0..=load.rounds {
        let prompt = timed(&mut context, &tokens, load.prompt, whole)?;
        let drawn = timed(&mut context, &tokens, load.drawn, 1)?;
        if round > 0 {
            best = BareSpeeds { prompt: best.prompt.max(prompt), drawn: best.drawn.max(drawn) };
        }
    }
    Ok(best)
}

/// Tokens a second, of so many that are decoded in pieces of this size.
fn timed(context: &mut LlamaContext<'_>, tokens: &[LlamaToken], count: u32, piece: usize) -> Result<f64, String> {
    let wanted = usize::try_from(count).ok().and_then(|count| tokens.get(..count)).unwrap_or(tokens);
    context.clear_kv_cache();
    let begun = Instant::now();
    for piece in wanted.chunks(piece) {
        let mut batch = LlamaBatch::get_one(piece).map_err(|error| error.to_string())?;
        context.decode(&mut batch).map_err(|error| error.to_string())?;
        context.synchronize();
    }
    Ok(f64::from(count) / begun.elapsed().as_secs_f64())
}
