//! The model's file, its vocabulary, its template.

use std::fs::File;
use std::num::NonZeroU32;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::{LlamaContextParams, LlamaPoolingType};
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::vocab::LlamaVocab;

use super::{Gone, Mouth};
use crate::protocol::{ChildConfig, FromEngine, PARALLEL_MAX, Pooling};
use crate::template::Template;
use crate::tools::Style;
use crate::{Abilities, EngineInfo, gguf};

/// Tokens of one step, unless there are more places.
pub(super) const BATCH: u32 = 512;

/// Checks the file and loads it.
pub(super) fn load(config: &ChildConfig, backend: &LlamaBackend, mouth: &Mouth) -> Result<LlamaModel, Gone> {
    let path = Path::new(&config.path);
    if !(1..=PARALLEL_MAX).contains(&config.parallel) {
        return Err(Gone(format!("{} requests at once; it must be from 1 to {PARALLEL_MAX}", config.parallel)));
    }
    drop(File::open(path).map_err(|error| Gone(format!("{} cannot be opened: {error}", config.path)))?);
    // llama.cpp looks for the other files of a model in parts beside the first one.
    if let Err(why) = gguf::check_files(&gguf::files_of(path)) {
        return Err(Gone(format!("{} is no model that can be loaded: {why}", config.path)));
    }
    let mut told = 0;
    let mut mouth = mouth.another()?;
    let params = LlamaModelParams::default().with_n_gpu_layers(config.gpu_layers).with_progress_callback(move |part| {
        // From 0 to 1, so the product is from 0 to 1,000.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 1,000")]
        let permille = (part.clamp(0.0, 1.0) * 1_000.0) as u16;
        if permille < told + 10 {
            return true;
        }
        told = permille;
        // Nobody waits for a model any more whose owner is gone.
        mouth.say(&FromEngine::Loading { permille }).is_ok()
    });
    LlamaModel::load_from_file(backend, path, &params).map_err(|_| {
        let why = "llama.cpp does not know its kind, or there is too little memory; the engine's log says which";
        Gone(format!("{} cannot be loaded: {why}", config.path))
    })
}

/// A model that was loaded.
pub(super) struct Loaded<'m> {
    pub(super) model: &'m LlamaModel,
    pub(super) vocab: LlamaVocab<'m>,
    pub(super) info: EngineInfo,
    pub(super) template: Option<Template>,
    /// How it writes calls of tools.
    pub(super) style: Option<Style>,
    /// Whether its template speaks of thoughts.
    pub(super) thinks: bool,
    /// Tokens that end an answer.
    pub(super) ends: Vec<u32>,
    pub(super) tokens: u32,
    begin: String,
    threads: i32,
}

/// A token by llama.cpp's number.
pub(super) fn token(number: u32) -> LlamaToken {
    LlamaToken::new(i32::try_from(number).unwrap_or(-1))
}

/// A token by ours.
pub(super) fn number(token: LlamaToken) -> u32 {
    u32::try_from(token.0).unwrap_or(u32::MAX)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl<'m> Loaded<'m> {
    pub(super) fn new(model: &'m LlamaModel, config: &ChildConfig) -> Result<Self, Gone> {
        let vocab = model.vocab();
        let tokens = u32::try_from(vocab.n_tokens()).unwrap_or(0);
        let special = |token: LlamaToken| match token.0 {
            0.. => String::from_utf8_lossy(&vocab.token_to_piece(token, true, None)).into_owned(),
            _ => String::new(),
        };
        let (begin, end) = (special(vocab.bos()), special(vocab.eos()));
        let source = model.chat_template(None).ok().and_then(|template| template.to_string().ok()).unwrap_or_default();
        let template = match source.as_str() {
            "" => None,
            source => Template::new(source, &begin, &end, now)
                .inspect_err(|error| tracing::warn!(%error, "conversations are refused"))
                .ok(),
        };
        let style = Style::of_template(&source).filter(|_| template.is_some());
        let trained = model.n_ctx_train();
        let context = if config.context == 0 { trained } else { config.context.min(trained) };
        if context < 8 {
            return Err(Gone(format!("a context of {context} tokens; it must have 8 at least")));
        }
        let threads = match config.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => usize::try_from(threads).unwrap_or(1),
        };
        let abilities = Abilities {
            chat: template.is_some() && !config.embedding,
            completion: !config.embedding,
            embedding: config.embedding,
            tools: style.is_some() && !config.embedding,
            vision: false,
        };
        let info = EngineInfo {
            context,
            parallel: config.parallel,
            queue: 0,
            abilities,
            dimensions: if config.embedding { u32::try_from(model.n_embd_out()).unwrap_or(0) } else { 0 },
            engine: format!("llama.cpp, {}, {threads} threads", devices(config.gpu_layers)),
        };
        let ends = (0..tokens).filter(|number| vocab.is_eog(token(*number))).collect();
        let thinks = source.contains("<think>");
        let threads = i32::try_from(threads.min(512)).unwrap_or(1);
        Ok(Self { model, vocab, info, template, style, thinks, ends, tokens, begin, threads })
    }

    pub(super) fn context(&self, backend: &LlamaBackend, config: &ChildConfig) -> Result<LlamaContext<'m>, Gone> {
        let all = self.info.context.saturating_mul(config.parallel);
        // A text is placed in one piece; a prompt may be read in several.
        let batch = if config.embedding { self.info.context } else { BATCH.max(config.parallel) };
        // llama.cpp plans for as many tokens of each sequence as of every other, and stumbles over a rest.
        let batch = batch.next_multiple_of(config.parallel);
        let mut params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(all))
            .with_n_batch(batch)
            .with_n_ubatch(batch)
            .with_n_seq_max(config.parallel)
            .with_n_threads(self.threads)
            .with_n_threads_batch(self.threads)
            .with_kv_unified(false);
        if config.embedding {
            let pooling = match config.pooling {
                Pooling::Model => LlamaPoolingType::Unspecified,
                Pooling::Mean => LlamaPoolingType::Mean,
                Pooling::First => LlamaPoolingType::Cls,
                Pooling::Last => LlamaPoolingType::Last,
            };
            params = params.with_embeddings(true).with_pooling_type(pooling);
        }
        self.model.new_context(backend, params).map_err(|_| {
            let (one, count) = (self.info.context, config.parallel);
            Gone(format!(
                "there is no memory for {count} requests of {one} tokens at once; take fewer, or a shorter context"
            ))
        })
    }

    /// The tokens of a text that stands at the beginning.
    pub(super) fn tokenize(&self, text: &str) -> Vec<u32> {
        // Templates write the first token themselves, where the model wants one.
        let begun = !self.begin.is_empty() && text.starts_with(&self.begin);
        self.vocab.tokenize(text.as_bytes(), !begun, true).into_iter().map(number).collect()
    }

    /// What a token says: nothing, for one of control that is no mark of a call or a thought.
    pub(super) fn says(&self, number: u32) -> Vec<u8> {
        let said = self.vocab.token_to_piece(token(number), false, None);
        if !said.is_empty() {
            return said;
        }
        let mark = self.bytes(number);
        if Style::is_mark(&mark) { mark } else { Vec::new() }
    }

    /// A token's bytes.
    pub(super) fn bytes(&self, number: u32) -> Vec<u8> {
        self.vocab.token_to_piece(token(number), true, None)
    }
}

fn devices(gpu_layers: u32) -> String {
    let mut names: Vec<String> = Vec::new();
    for device in llama_cpp_2::list_llama_ggml_backend_devices() {
        if !names.contains(&device.backend) && (device.backend == "CPU" || gpu_layers > 0) {
            names.push(device.backend);
        }
    }
    if names.is_empty() { "CPU".to_owned() } else { names.join(" and ") }
}
