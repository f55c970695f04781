//! Makes a GGUF file of a small embedding model of the BERT kind as Hugging Face keeps it: a folder with `config.json`,
//! `vocab.txt` and `model.safetensors`. All-MiniLM-L6-v2 is such a one.
//!
//! Matrices are written in 8 bits (Q8_0), everything else in 32. Tokens are pooled by their mean.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::gguf::{Builder, GgufError, Tensor};

/// Bytes of the description of the tensors.
const HEADER_MAX: usize = 4 * 1024 * 1024;

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub enum BertError {
    /// A file cannot be read.
    #[error("{name} cannot be read")]
    Read {
        /// Which.
        name: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// Something in a file is not as it should be.
    #[error("{name}: {why}")]
    Wrong {
        /// Which file.
        name: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The file cannot be put together.
    #[error("the file cannot be put together")]
    Gguf(#[from] GgufError),
}

#[derive(Deserialize)]
struct Config {
    hidden_size: u32,
    intermediate_size: u32,
    num_hidden_layers: u32,
    num_attention_heads: u32,
    max_position_embeddings: u32,
    layer_norm_eps: f32,
}

/// Where a tensor lies in a safetensors file.
#[derive(Deserialize)]
struct Place {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (usize, usize),
}

const WEIGHTS: &str = "model.safetensors";

fn wrong(name: &'static str, why: impl ToString) -> BertError {
    BertError::Wrong { name, why: why.to_string() }
}

fn read(folder: &Path, name: &'static str) -> Result<Vec<u8>, BertError> {
    std::fs::read(folder.join(name)).map_err(|source| BertError::Read { name, source })
}

/// The tensors of a safetensors file: length of the description, the description in JSON, the numbers.
struct Weights {
    places: BTreeMap<String, Place>,
    bytes: Vec<u8>,
    begin: usize,
}

impl Weights {
    fn new(bytes: Vec<u8>) -> Result<Self, BertError> {
        let len = bytes.first_chunk::<8>().map(|len| u64::from_le_bytes(*len));
        let len = len.and_then(|len| usize::try_from(len).ok()).filter(|len| *len <= HEADER_MAX);
        let begin = len.map(|len| len + 8).ok_or_else(|| wrong(WEIGHTS, "it does not begin with a length"))?;
        let header = bytes.get(8..begin).ok_or_else(|| wrong(WEIGHTS, "it ends in its description"))?;
        let mut all: BTreeMap<String, serde_json::Value> =
            serde_json::from_slice(header).map_err(|error| wrong(WEIGHTS, error))?;
        all.remove("__metadata__");
        let place = |(name, value)| Ok((name, serde_json::from_value(value).map_err(|error| wrong(WEIGHTS, error))?));
        let places = all.into_iter().map(place).collect::<Result<_, BertError>>()?;
        Ok(Self { places, bytes, begin })
    }

    fn take(&self, name: &str) -> Result<(Vec<u64>, Vec<f32>), BertError> {
        let missing = || wrong(WEIGHTS, format!("{name} is missing, or is not of 32-bit numbers"));
        let place = self.places.get(name).filter(|place| place.dtype == "F32").ok_or_else(missing)?;
        let (from, to) = place.data_offsets;
        let range = self.begin.checked_add(from).zip(self.begin.checked_add(to));
        let bytes = range.and_then(|(from, to)| self.bytes.get(from..to)).ok_or_else(missing)?;
        let numbers = bytes.chunks_exact(4).filter_map(|four| four.first_chunk().map(|four| f32::from_le_bytes(*four)));
        // GGUF has the length of a row first.
        Ok((place.shape.iter().rev().copied().collect(), numbers.collect()))
    }
}

/// The GGUF file of the model in a folder.
///
/// # Errors
/// A file is missing or not what it should be.
pub fn gguf(folder: &Path) -> Result<Vec<u8>, BertError> {
    let config: Config =
        serde_json::from_slice(&read(folder, "config.json")?).map_err(|error| wrong("config.json", error))?;
    let vocabulary = String::from_utf8(read(folder, "vocab.txt")?).map_err(|error| wrong("vocab.txt", error))?;
    let weights = Weights::new(read(folder, WEIGHTS)?)?;
    let mut file = Builder::new("bert");
    file.text("general.name", "MiniLM").u32("general.file_type", 7);
    file.u32("bert.block_count", config.num_hidden_layers).u32("bert.context_length", config.max_position_embeddings);
    file.u32("bert.embedding_length", config.hidden_size).u32("bert.feed_forward_length", config.intermediate_size);
    file.u32("bert.attention.head_count", config.num_attention_heads).bool("bert.attention.causal", false);
    file.f32("bert.attention.layer_norm_epsilon", config.layer_norm_eps).u32("bert.pooling_type", 1);
    // llama.cpp marks the beginning of a word, where BERT marks what goes on with one.
    let tokens: Vec<String> = vocabulary
        .lines()
        .map(|token| match token.strip_prefix("##") {
            Some(rest) => rest.to_owned(),
            None if token.starts_with('[') && token.ends_with(']') => token.to_owned(),
            None => format!("\u{2581}{token}"),
        })
        .collect();
    let number = |name: &str| {
        let at = tokens.iter().position(|token| token == name).and_then(|at| u32::try_from(at).ok());
        at.ok_or_else(|| wrong("vocab.txt", format!("{name} is missing")))
    };
    file.text("tokenizer.ggml.model", "bert");
    file.u32("tokenizer.ggml.token_type_count", 2);
    file.texts("tokenizer.ggml.tokens", tokens.iter().map(String::as_bytes));
    let kinds: Vec<i32> =
        tokens.iter().map(|token| if token.starts_with('[') && token.len() > 3 { 3 } else { 1 }).collect();
    file.i32s("tokenizer.ggml.token_type", &kinds);
    for (key, name) in [
        ("cls", "[CLS]"),
        ("bos", "[CLS]"),
        ("seperator", "[SEP]"),
        ("eos", "[SEP]"),
        ("unknown", "[UNK]"),
        ("padding", "[PAD]"),
        ("mask", "[MASK]"),
    ] {
        file.u32(&format!("tokenizer.ggml.{key}_token_id"), number(name)?);
    }
    let mut add = |to: &str, from: &str, small: bool| -> Result<(), BertError> {
        let (shape, numbers) = weights.take(from)?;
        let tensor = if small { Tensor::q8_0(to, &shape, &numbers) } else { Tensor::f32(to, &shape, &numbers) };
        file.tensor(tensor);
        Ok(())
    };
    add("token_embd.weight", "embeddings.word_embeddings.weight", true)?;
    add("position_embd.weight", "embeddings.position_embeddings.weight", false)?;
    add("token_types.weight", "embeddings.token_type_embeddings.weight", false)?;
    for part in ["weight", "bias"] {
        add(&format!("token_embd_norm.{part}"), &format!("embeddings.LayerNorm.{part}"), false)?;
    }
    for layer in 0..config.num_hidden_layers {
        for (to, from, matrix) in [
            ("attn_q", "attention.self.query", true),
            ("attn_k", "attention.self.key", true),
            ("attn_v", "attention.self.value", true),
            ("attn_output", "attention.output.dense", true),
            ("attn_output_norm", "attention.output.LayerNorm", false),
            ("ffn_up", "intermediate.dense", true),
            ("ffn_down", "output.dense", true),
            ("layer_output_norm", "output.LayerNorm", false),
        ] {
            for part in ["weight", "bias"] {
                let from = format!("encoder.layer.{layer}.{from}.{part}");
                add(&format!("blk.{layer}.{to}.{part}"), &from, matrix && part == "weight")?;
            }
        }
    }
    Ok(file.finish()?)
}
