//! OpenAI's JSON becomes an [`InferenceRequest`], here and nowhere else.
//!
//! Strict where OpenAI is: a value of the wrong kind is named with its field. Fields that are not known are left aside,
//! as servers of open models do.

mod chat;
mod native;
mod responses;
mod text;

use muster_core::ids::NodeId;
use muster_core::inference::{InferenceRequest, ResponseFormat, Sampling};
use serde::Deserialize;

use super::error::ApiError;
use super::json::{At, Raw, boolean, get, object, string, text_of_object};

/// Tokens that follow a text where nobody says how many, as OpenAI has it.
const COMPLETION_TOKENS: u32 = 16;

/// Which address was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Chat,
    Completions,
    Embeddings,
    Responses,
    /// The form that nodes have among themselves.
    Native,
}

/// A request as it was asked.
#[derive(Debug)]
pub(crate) struct Asked {
    /// Of which model.
    pub(crate) model: String,
    /// What.
    pub(crate) request: InferenceRequest,
    /// Whether the count comes along with a stream.
    pub(crate) include_usage: bool,
    /// How the answer is written.
    pub(crate) form: Form,
    /// Whose answer alone is wanted.
    pub(crate) container: Option<NodeId>,
}

/// How an answer is written.
#[derive(Debug)]
pub(crate) enum Form {
    Chat {
        logprobs: bool,
    },
    Text {
        logprobs: bool,
    },
    Embedding {
        base64: bool,
    },
    /// The part of a response object that repeats the request, as JSON without braces.
    Responses {
        repeated: String,
    },
    /// Events, a line each.
    Native,
}

/// All fields that are read, of every address.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Fields<'a> {
    #[serde(borrow)]
    model: Raw<'a>,
    #[serde(borrow)]
    messages: Raw<'a>,
    #[serde(borrow)]
    prompt: Raw<'a>,
    #[serde(borrow)]
    input: Raw<'a>,
    #[serde(borrow)]
    stream: Raw<'a>,
    #[serde(borrow)]
    stream_options: Raw<'a>,
    #[serde(borrow)]
    max_tokens: Raw<'a>,
    #[serde(borrow)]
    max_completion_tokens: Raw<'a>,
    #[serde(borrow)]
    max_output_tokens: Raw<'a>,
    #[serde(borrow)]
    temperature: Raw<'a>,
    #[serde(borrow)]
    top_p: Raw<'a>,
    #[serde(borrow)]
    top_k: Raw<'a>,
    #[serde(borrow)]
    min_p: Raw<'a>,
    #[serde(borrow)]
    frequency_penalty: Raw<'a>,
    #[serde(borrow)]
    presence_penalty: Raw<'a>,
    #[serde(borrow)]
    repetition_penalty: Raw<'a>,
    #[serde(borrow)]
    seed: Raw<'a>,
    #[serde(borrow)]
    n: Raw<'a>,
    #[serde(borrow)]
    best_of: Raw<'a>,
    #[serde(borrow)]
    stop: Raw<'a>,
    #[serde(borrow)]
    logit_bias: Raw<'a>,
    #[serde(borrow)]
    logprobs: Raw<'a>,
    #[serde(borrow)]
    top_logprobs: Raw<'a>,
    #[serde(borrow)]
    ignore_eos: Raw<'a>,
    #[serde(borrow)]
    tools: Raw<'a>,
    #[serde(borrow)]
    tool_choice: Raw<'a>,
    #[serde(borrow)]
    parallel_tool_calls: Raw<'a>,
    #[serde(borrow)]
    response_format: Raw<'a>,
    #[serde(borrow)]
    guided_grammar: Raw<'a>,
    #[serde(borrow)]
    guided_json: Raw<'a>,
    #[serde(borrow)]
    chat_template_kwargs: Raw<'a>,
    #[serde(borrow)]
    functions: Raw<'a>,
    #[serde(borrow)]
    function_call: Raw<'a>,
    #[serde(borrow)]
    modalities: Raw<'a>,
    #[serde(borrow)]
    suffix: Raw<'a>,
    #[serde(borrow)]
    echo: Raw<'a>,
    #[serde(borrow)]
    dimensions: Raw<'a>,
    #[serde(borrow)]
    encoding_format: Raw<'a>,
    #[serde(borrow)]
    instructions: Raw<'a>,
    #[serde(borrow)]
    text: Raw<'a>,
    #[serde(borrow)]
    previous_response_id: Raw<'a>,
    #[serde(borrow)]
    conversation: Raw<'a>,
    #[serde(borrow)]
    background: Raw<'a>,
    #[serde(borrow)]
    metadata: Raw<'a>,
    #[serde(borrow)]
    user: Raw<'a>,
}

/// Reads a body.
///
/// # Errors
/// What is wrong, and where: line and column of what is no JSON, the field of what has a wrong value.
pub(crate) fn parse(endpoint: Endpoint, body: &[u8]) -> Result<Asked, ApiError> {
    let text = std::str::from_utf8(body).map_err(|error| {
        let (line, column) = place(body, error.valid_up_to());
        ApiError::malformed(format!("the body is no UTF-8 at line {line}, column {column}; send JSON in UTF-8"))
    })?;
    if !text.trim_start().starts_with('{') {
        let what = if text.trim().is_empty() { "empty" } else { "no JSON object at line 1, column 1" };
        return Err(ApiError::malformed(format!("the body is {what}; send one JSON object")));
    }
    if endpoint == Endpoint::Native {
        return native::parse(text);
    }
    let fields: Fields<'_> = serde_json::from_str(text)
        .map_err(|error| ApiError::malformed(format!("the body cannot be read as JSON: {error}")))?;
    let model = string(fields.model, &At::Field("model"))?.ok_or_else(|| At::Field("model").missing())?;
    let stream = boolean(fields.stream, &At::Field("stream"))?.unwrap_or(false);
    let include_usage = include_usage(&fields, stream)?;
    let (task, form) = match endpoint {
        Endpoint::Chat => chat::parse(&fields)?,
        Endpoint::Completions => text::completion(&fields)?,
        Endpoint::Embeddings => text::embedding(&fields)?,
        Endpoint::Responses => responses::parse(&fields)?,
        Endpoint::Native => return native::parse(text),
    };
    let stream = stream && endpoint != Endpoint::Embeddings;
    let request = InferenceRequest { task, stream };
    request.check()?;
    Ok(Asked { model, request, include_usage, form, container: None })
}

/// Line and column of a byte, from 1.
fn place(body: &[u8], at: usize) -> (usize, usize) {
    let before = body.get(..at).unwrap_or_default();
    let line_begins = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    (before.iter().filter(|byte| **byte == b'\n').count() + 1, at - line_begins + 1)
}

fn include_usage(fields: &Fields<'_>, stream: bool) -> Result<bool, ApiError> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Options<'a> {
        #[serde(borrow)]
        include_usage: Raw<'a>,
    }
    let at = At::Field("stream_options");
    let Some(raw) = fields.stream_options else { return Ok(false) };
    if !stream {
        return Err(at.wrong("may be set only together with stream"));
    }
    let options: Options<'_> = object(raw, &at)?;
    Ok(boolean(options.include_usage, &At::Of(&at, "include_usage"))?.unwrap_or(false))
}

fn real(raw: Raw<'_>, name: &str, default: f32) -> Result<f32, ApiError> {
    Ok(get(raw, &At::Field(name), "a number")?.unwrap_or(default))
}

const COUNT: &str = "a whole number from 0 on";

impl Fields<'_> {
    /// What all addresses that draw tokens have in common; `max_tokens` as the address calls it.
    fn sampling(&self, max_tokens: Raw<'_>, max_name: &str, logprobs: Option<u8>) -> Result<Sampling, ApiError> {
        let seed: Option<i64> = get(self.seed, &At::Field("seed"), "a whole number")?;
        Ok(Sampling {
            max_tokens: get(max_tokens, &At::Field(max_name), COUNT)?,
            temperature: real(self.temperature, "temperature", 1.0)?,
            top_p: real(self.top_p, "top_p", 1.0)?,
            // Servers of open models take -1 for all.
            top_k: get::<i64>(self.top_k, &At::Field("top_k"), "a whole number")?
                .map_or(0, |top_k| u32::try_from(top_k).unwrap_or(if top_k < 0 { 0 } else { u32::MAX })),
            min_p: real(self.min_p, "min_p", 0.0)?,
            frequency_penalty: real(self.frequency_penalty, "frequency_penalty", 0.0)?,
            presence_penalty: real(self.presence_penalty, "presence_penalty", 0.0)?,
            repetition_penalty: real(self.repetition_penalty, "repetition_penalty", 1.0)?,
            seed: seed.map(i64::cast_unsigned),
            n: get(self.n, &At::Field("n"), COUNT)?.unwrap_or(1),
            stop: self.stops()?,
            logit_bias: self.biases()?,
            logprobs,
            ignore_eos: boolean(self.ignore_eos, &At::Field("ignore_eos"))?.unwrap_or(false),
        })
    }

    fn stops(&self) -> Result<Vec<String>, ApiError> {
        let at = At::Field("stop");
        match self.stop {
            None => Ok(Vec::new()),
            Some(raw) if raw.get().starts_with('[') => {
                Ok(get(Some(raw), &at, "a string or a list of strings")?.unwrap_or_default())
            }
            Some(raw) => Ok(get(Some(raw), &at, "a string or a list of strings")?.into_iter().collect()),
        }
    }

    fn biases(&self) -> Result<Vec<(u32, f32)>, ApiError> {
        let at = At::Field("logit_bias");
        let must_be = "an object of tokens with numbers from -100 to 100";
        let biases: Option<std::collections::BTreeMap<String, f32>> = get(self.logit_bias, &at, must_be)?;
        let pairs = biases.into_iter().flatten().map(|(token, bias)| match token.parse() {
            Ok(token) => Ok((token, bias)),
            Err(_) => Err(at.wrong(format_args!("names the token {token:?}; name tokens by their numbers"))),
        });
        pairs.collect()
    }

    /// The form of the answer by `response_format` and what servers of open models take beside it.
    fn format(&self) -> Result<ResponseFormat, ApiError> {
        if let Some(grammar) = string(self.guided_grammar, &At::Field("guided_grammar"))? {
            return Ok(ResponseFormat::Grammar(grammar));
        }
        if let Some(raw) = self.guided_json {
            let schema = text_of_object(raw, &At::Field("guided_json"))?;
            return Ok(ResponseFormat::JsonSchema { name: "guided_json".to_owned(), schema });
        }
        let at = At::Field("response_format");
        self.response_format.map_or(Ok(ResponseFormat::Text), |raw| format_of(raw, &at))
    }
}

/// A form; its schema stands in `json_schema`, or beside the type, where the Responses API has it.
fn format_of(raw: &serde_json::value::RawValue, at: &At<'_>) -> Result<ResponseFormat, ApiError> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Format<'a> {
        #[serde(borrow, rename = "type")]
        kind: Raw<'a>,
        #[serde(borrow)]
        json_schema: Raw<'a>,
        #[serde(borrow)]
        name: Raw<'a>,
        #[serde(borrow)]
        schema: Raw<'a>,
    }
    let outer: Format<'_> = object(raw, at)?;
    let kind_at = At::Of(at, "type");
    let kind = string(outer.kind, &kind_at)?.ok_or_else(|| kind_at.missing())?;
    match kind.as_str() {
        "text" => Ok(ResponseFormat::Text),
        "json_object" => Ok(ResponseFormat::JsonObject),
        "json_schema" => {
            let inner_at = At::Of(at, "json_schema");
            let (at, inner) = match outer.json_schema {
                Some(raw) => (&inner_at, object(raw, &inner_at)?),
                None => (at, outer),
            };
            let (name_at, schema_at) = (At::Of(at, "name"), At::Of(at, "schema"));
            let name = string(inner.name, &name_at)?.ok_or_else(|| name_at.missing())?;
            let schema = text_of_object(inner.schema.ok_or_else(|| schema_at.missing())?, &schema_at)?;
            Ok(ResponseFormat::JsonSchema { name, schema })
        }
        other => Err(kind_at.unserved(format_args!("is {other:?}; it may be text, json_object or json_schema"))),
    }
}
