//! Texts that are gone on with, and texts that are placed.

use muster_core::inference::{Completion, Embedding, InferenceTask, Prompt};
use serde_json::value::RawValue;

use super::{At, COMPLETION_TOKENS, Fields, Form};
use crate::openai::error::ApiError;
use crate::openai::json::{boolean, get, list, string};

const MUST_BE: &str = "a string, a list of strings, a list of tokens or a list of lists of tokens";

/// One text or several, as text or as tokens.
fn prompts(raw: Option<&RawValue>, at: &At<'_>) -> Result<Vec<Prompt>, ApiError> {
    let raw = raw.ok_or_else(|| at.missing())?;
    let text = raw.get();
    if text.starts_with('"') {
        return Ok(string(Some(raw), at)?.map(Prompt::Text).into_iter().collect());
    }
    if !text.starts_with('[') {
        return Err(at.invalid(MUST_BE, raw));
    }
    // The first item says of what kind the list is.
    match text.get(1..).unwrap_or_default().trim_start().as_bytes().first() {
        Some(b'"') => {
            let texts: Vec<String> = get(Some(raw), at, MUST_BE)?.unwrap_or_default();
            Ok(texts.into_iter().map(Prompt::Text).collect())
        }
        Some(b'[') => {
            let items = list(raw, at)?;
            let tokens = items.into_iter().enumerate().map(|(index, item)| {
                let at = At::Item(at, index);
                Ok(Prompt::Tokens(get(Some(item), &at, "a list of tokens, by their numbers")?.unwrap_or_default()))
            });
            tokens.collect()
        }
        _ => Ok(vec![Prompt::Tokens(get(Some(raw), at, MUST_BE)?.unwrap_or_default())]),
    }
}

pub(super) fn completion(fields: &Fields<'_>) -> Result<(InferenceTask, Form), ApiError> {
    let logprobs: Option<u8> = get(fields.logprobs, &At::Field("logprobs"), "a whole number from 0 to 20")?;
    let mut sampling = fields.sampling(fields.max_tokens, "max_tokens", logprobs)?;
    sampling.max_tokens = sampling.max_tokens.or(Some(COMPLETION_TOKENS));
    let best_of: Option<u16> = get(fields.best_of, &At::Field("best_of"), "a whole number")?;
    if best_of.is_some_and(|best_of| best_of != sampling.n) {
        return Err(At::Field("best_of").unserved("is not the same as n; answers that nobody sees are not drawn here"));
    }
    let completion = Completion {
        prompts: prompts(fields.prompt, &At::Field("prompt"))?,
        echo: boolean(fields.echo, &At::Field("echo"))?.unwrap_or(false),
        suffix: string(fields.suffix, &At::Field("suffix"))?.filter(|suffix| !suffix.is_empty()),
        format: fields.format()?,
        sampling,
    };
    Ok((InferenceTask::Completion(Box::new(completion)), Form::Text { logprobs: logprobs.is_some() }))
}

pub(super) fn embedding(fields: &Fields<'_>) -> Result<(InferenceTask, Form), ApiError> {
    let at = At::Field("encoding_format");
    let base64 = match string(fields.encoding_format, &at)?.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(other) => return Err(at.unserved(format_args!("is {other:?}; it may be float or base64"))),
    };
    let embedding = Embedding {
        inputs: prompts(fields.input, &At::Field("input"))?,
        dimensions: get(fields.dimensions, &At::Field("dimensions"), "a whole number from 1 on")?,
    };
    Ok((InferenceTask::Embedding(embedding), Form::Embedding { base64 }))
}
