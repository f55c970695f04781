//! A tiny model of the Llama kind for tests and for trying things out: random weights of a fixed seed, a vocabulary of single
//! characters and bytes, and a chat template with tools. What it writes is noise. It shows that models load, stream, count
//! and stop, on any machine, without a download.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::gguf::{Builder, GgufError, Tensor};

/// Tokens that prompt and answer may have together.
pub const CONTEXT: u32 = 2_048;
/// The token that ends an answer.
pub const END: u32 = 4;

const HEADS: u32 = 4;

/// In what numbers a model's matrices are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Numbers {
    /// 32 bits each.
    #[default]
    F32,
    /// 16 bits each.
    F16,
    /// 8 bits each, in blocks of 32.
    Q8_0,
    /// 4 bits each, in blocks of 32.
    Q4_0,
}

/// What a generated model is like. Two that differ in `numbers` or `left_out` alone have the same weights otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// What its weights are drawn from.
    pub seed: u64,
    /// Numbers of a token; a multiple of 32.
    pub width: u32,
    /// Layers.
    pub layers: u32,
    /// How many of them, the last ones, are left out.
    pub left_out: u32,
    /// How great the weights are that give the odds of tokens: the greater, the more often one of them is likely.
    pub peak: f32,
    /// In what numbers its matrices are written.
    pub numbers: Numbers,
}

impl Default for Shape {
    fn default() -> Self {
        Self { seed: 5, width: 64, layers: 2, left_out: 0, peak: 0.3, numbers: Numbers::F32 }
    }
}

/// One of 21 million parameters, whose weights do not fit into a processor's caches: for measuring.
pub const MEASURED: Shape = Shape { seed: 5, width: 512, layers: 8, left_out: 0, peak: 0.1, numbers: Numbers::F32 };

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

/// The file's bytes, the same each time.
///
/// # Errors
/// None that is known; the writer checks shapes.
pub fn bytes() -> Result<Vec<u8>, GgufError> {
    shaped(&Shape::default())
}

/// The bytes of a file of this shape.
///
/// # Errors
/// The width is no multiple of 32.
pub fn shaped(shape: &Shape) -> Result<Vec<u8>, GgufError> {
    builder(shape).finish()
}

/// As [`shaped`], in so many files.
///
/// # Errors
/// The width is no multiple of 32.
pub fn in_parts(shape: &Shape, count: u16) -> Result<Vec<Vec<u8>>, GgufError> {
    builder(shape).split(count)
}

fn builder(shape: &Shape) -> Builder {
    let (width, inner) = (shape.width, shape.width * 2);
    let layers = shape.layers.saturating_sub(shape.left_out);
    let vocabulary = vocabulary();
    let count = u32::try_from(vocabulary.len()).unwrap_or(0);
    let mut file = Builder::new("llama");
    file.text("general.name", "muster-tiny").u32("general.file_type", 0);
    file.u32("llama.context_length", CONTEXT).u32("llama.embedding_length", width).u32("llama.block_count", layers);
    file.u32("llama.feed_forward_length", inner).u32("llama.attention.head_count", HEADS);
    file.u32("llama.attention.head_count_kv", HEADS).u32("llama.rope.dimension_count", width / HEADS);
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
    let mut weights = Weights(shape.seed);
    let mut matrix = |file: &mut Builder, name: &str, row: u32, rows: u32, scale: f32| {
        let numbers = weights.take(row * rows, scale);
        let write = match shape.numbers {
            Numbers::F32 => Tensor::f32,
            Numbers::F16 => Tensor::f16,
            Numbers::Q8_0 => Tensor::q8_0,
            Numbers::Q4_0 => Tensor::q4_0,
        };
        file.tensor(write(name, &[row.into(), rows.into()], &numbers));
    };
    let ones = vec![1.0; usize::try_from(width).unwrap_or(0)];
    // Wider models have smaller weights, so that what comes out of a layer is as great.
    let each = 0.3 * (64.0 / f32::from(u16::try_from(width).unwrap_or(u16::MAX))).sqrt();
    matrix(&mut file, "token_embd.weight", width, count, 1.0);
    for layer in 0..shape.layers {
        // What is left out is drawn all the same: the rest has the same weights then.
        let mut aside = Builder::new("none");
        let file = if layer < layers { &mut file } else { &mut aside };
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        file.tensor(Tensor::f32(&name("attn_norm"), &[width.into()], &ones));
        for part in ["attn_q", "attn_k", "attn_v", "attn_output"] {
            matrix(file, &name(part), width, width, each);
        }
        file.tensor(Tensor::f32(&name("ffn_norm"), &[width.into()], &ones));
        matrix(file, &name("ffn_gate"), width, inner, each);
        matrix(file, &name("ffn_up"), width, inner, each);
        matrix(file, &name("ffn_down"), inner, width, each);
    }
    file.tensor(Tensor::f32("output_norm.weight", &[width.into()], &ones));
    matrix(&mut file, "output.weight", width, count, shape.peak);
    file
}

/// Writes the file.
///
/// # Errors
/// It cannot be written.
pub fn write(path: &Path) -> std::io::Result<()> {
    write_shaped(path, &Shape::default())
}

/// As [`write_shaped`], in several files, `STEM-00001-of-00003.gguf` and so on; gives where they are.
///
/// # Errors
/// As [`write_shaped`].
pub fn write_parts(folder: &Path, stem: &str, shape: &Shape, count: u16) -> std::io::Result<Vec<PathBuf>> {
    let parts = in_parts(shape, count).map_err(std::io::Error::other)?;
    let write = |(number, bytes): (usize, &Vec<u8>)| {
        let path = folder.join(format!("{stem}-{number:05}-of-{count:05}.gguf"));
        std::fs::write(&path, bytes)?;
        Ok(path)
    };
    (1..).zip(&parts).map(write).collect()
}

/// Writes a file of this shape.
///
/// # Errors
/// It cannot be written, or the width is no multiple of 32.
pub fn write_shaped(path: &Path, shape: &Shape) -> std::io::Result<()> {
    let bytes = shaped(shape).map_err(std::io::Error::other)?;
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
        let len = |numbers, left_out| shaped(&Shape { numbers, left_out, ..Shape::default() }).unwrap().len();
        assert!(len(Numbers::F16, 0) < bytes.len() && len(Numbers::Q4_0, 0) < len(Numbers::Q8_0, 0));
        assert!(len(Numbers::F32, 1) < bytes.len());
        let dir = tempfile::tempdir().unwrap();
        let parts = write_parts(dir.path(), "tiny", &Shape::default(), 3).unwrap();
        assert!(parts[1].ends_with("tiny-00002-of-00003.gguf"), "{parts:?}");
        assert_eq!(crate::gguf::files_of(&parts[0]), parts);
        let whole = crate::gguf::check_files(&parts).unwrap();
        assert_eq!((whole.tensors, whole.parameters), (summary.tensors, summary.parameters));
        assert!(shaped(&Shape { width: 65, numbers: Numbers::Q8_0, ..Shape::default() }).is_err());
    }
}
