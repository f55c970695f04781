//! A tiny model of the Llama kind for tests and for trying things out: random weights of a fixed seed, a vocabulary of single
//! characters and bytes, and a chat template with tools. What it writes is noise. It shows that models load, stream, count
//! and stop, on any machine, without a download.

use std::io::Write as _;
use std::path::Path;

use crate::gguf::{Builder, GgufError, Tensor};

/// Tokens that prompt and answer may have together.
pub const CONTEXT: u32 = 2_048;
/// The token that ends an answer.
pub const END: u32 = 4;

/// How large a model is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Numbers of a token's place; a multiple of the heads.
    pub width: u32,
    /// Numbers between the two halves of a layer.
    pub inner: u32,
    /// Heads of attention.
    pub heads: u32,
    /// Layers.
    pub layers: u32,
    /// How far weights lie from 0 at most.
    pub scale: f32,
}

/// The tiny model.
pub const TINY: Shape = Shape { width: 64, inner: 128, heads: 4, layers: 2, scale: 0.3 };
/// One of 26 million parameters, whose weights do not fit into a processor's caches: for measuring.
pub const MEASURED: Shape = Shape { width: 512, inner: 1_408, heads: 8, layers: 8, scale: 0.1 };

const TEMPLATE: &str = "{%- if tools %}<|im_start|>system
You may call tools.
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}Call one as <tool_call>{\"name\": name, \"arguments\": object}</tool_call><|im_end|>
{% endif -%}
{%- for m in messages -%}
{%- if m.role == 'tool' -%}<|im_start|>user
<tool_response>
{{ m.content }}
</tool_response><|im_end|>
{% else -%}<|im_start|>{{ m.role }}
{{ m.content }}
{%- for call in m.tool_calls or [] %}
<tool_call>
{\"name\": \"{{ call.function.name }}\", \"arguments\": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}";

/// Numbers of a fixed seed, alike on every machine: only sums and products of whole numbers make them.
struct Weights(u64);

impl Weights {
    fn take(&mut self, count: u32, scale: f32) -> Vec<f32> {
        (0..count)
            .map(|_| {
                self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let top = u16::try_from(self.0 >> 48).unwrap_or(0);
                (f32::from(top) / 32_768.0 - 1.0) * scale
            })
            .collect()
    }
}

/// Tokens with their kind, by llama.cpp's numbers: 1 a piece, 2 unknown, 3 control, 6 a byte.
fn vocabulary() -> Vec<(Vec<u8>, i32)> {
    let mut tokens: Vec<(Vec<u8>, i32)> =
        [("<unk>", 2), ("<s>", 3), ("</s>", 3), ("<|im_start|>", 3), ("<|im_end|>", 3)]
            .iter()
            .map(|(text, kind)| (text.as_bytes().to_vec(), *kind))
            .collect();
    tokens.extend((0..=255u8).map(|byte| (format!("<0x{byte:02X}>").into_bytes(), 6)));
    tokens.push(("\u{2581}".as_bytes().to_vec(), 1));
    tokens.extend((b'!'..=b'~').map(|letter| (vec![letter], 1)));
    let pieces =
        ["th", "he", "in", "er", "an", "on", "re", "\u{2581}a", "\u{2581}the", "ing", "é", "ü", "€", "日", "本", "😀"];
    tokens.extend(pieces.iter().map(|text| (text.as_bytes().to_vec(), 1)));
    tokens
}

/// The tiny model's file, the same bytes each time.
///
/// # Errors
/// None that is known; the writer checks shapes.
pub fn bytes() -> Result<Vec<u8>, GgufError> {
    shaped(&TINY)
}

/// A file of a model of this shape, the same bytes each time.
///
/// # Errors
/// The shape is none.
pub fn shaped(shape: &Shape) -> Result<Vec<u8>, GgufError> {
    let Shape { width, inner, heads, layers, scale } = *shape;
    let vocabulary = vocabulary();
    let count = u32::try_from(vocabulary.len()).unwrap_or(0);
    let mut file = Builder::new("llama");
    file.text("general.name", "muster-tiny").u32("general.file_type", 0);
    file.u32("llama.context_length", CONTEXT).u32("llama.embedding_length", width).u32("llama.block_count", layers);
    file.u32("llama.feed_forward_length", inner).u32("llama.attention.head_count", heads);
    file.u32("llama.attention.head_count_kv", heads).u32("llama.rope.dimension_count", width / heads);
    file.f32("llama.attention.layer_norm_rms_epsilon", 1e-5).u32("llama.vocab_size", count);
    file.text("tokenizer.ggml.model", "llama");
    file.texts("tokenizer.ggml.tokens", vocabulary.iter().map(|(text, _)| text.as_slice()));
    let scores: Vec<f32> =
        vocabulary.iter().map(|(text, kind)| if *kind == 1 && text.len() > 1 { -1.0 } else { -2.0 }).collect();
    file.f32s("tokenizer.ggml.scores", &scores);
    let kinds: Vec<i32> = vocabulary.iter().map(|(_, kind)| *kind).collect();
    file.i32s("tokenizer.ggml.token_type", &kinds);
    file.u32("tokenizer.ggml.bos_token_id", 1).u32("tokenizer.ggml.eos_token_id", END);
    file.u32("tokenizer.ggml.unknown_token_id", 0).bool("tokenizer.ggml.add_bos_token", true);
    file.bool("tokenizer.ggml.add_eos_token", false).bool("tokenizer.ggml.add_space_prefix", false);
    file.text("tokenizer.chat_template", TEMPLATE);
    let mut weights = Weights(5);
    let mut matrix = |file: &mut Builder, name: &str, row: u32, rows: u32, scale: f32| {
        let numbers = weights.take(row * rows, scale);
        file.tensor(Tensor::f32(name, &[row.into(), rows.into()], &numbers));
    };
    let ones = vec![1.0; usize::try_from(width).unwrap_or(0)];
    matrix(&mut file, "token_embd.weight", width, count, 1.0);
    for layer in 0..layers {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        file.tensor(Tensor::f32(&name("attn_norm"), &[width.into()], &ones));
        for part in ["attn_q", "attn_k", "attn_v", "attn_output"] {
            matrix(&mut file, &name(part), width, width, scale);
        }
        file.tensor(Tensor::f32(&name("ffn_norm"), &[width.into()], &ones));
        matrix(&mut file, &name("ffn_gate"), width, inner, scale);
        matrix(&mut file, &name("ffn_up"), width, inner, scale);
        matrix(&mut file, &name("ffn_down"), inner, width, scale);
    }
    file.tensor(Tensor::f32("output_norm.weight", &[width.into()], &ones));
    matrix(&mut file, "output.weight", width, count, scale);
    file.finish()
}

/// Writes the file.
///
/// # Errors
/// It cannot be written.
pub fn write(path: &Path) -> std::io::Result<()> {
    let bytes = bytes().map_err(std::io::Error::other)?;
    std::fs::File::create(path)?.write_all(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_whole_small_and_always_the_same() {
        let bytes = bytes().unwrap();
        let summary = crate::gguf::check(bytes.as_slice(), bytes.len() as u64).unwrap();
        assert_eq!((summary.architecture.as_str(), summary.context), ("llama", Some(CONTEXT.into())));
        assert!(bytes.len() < 1_000_000 && summary.template.is_some());
        let sum = bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
        assert_eq!(format!("{sum:016x}"), "0178b748dfa47538");
    }
}
