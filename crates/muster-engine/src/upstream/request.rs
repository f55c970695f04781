//! A request as the OpenAI API writes it, with vLLM's fields where that has none.

use std::fmt::Write as _;

use muster_core::inference::{
    Chat, Completion, Content, ContentPart, Embedding, InferenceRequest, InferenceTask, Message, Prompt,
    ResponseFormat, Sampling, ToolChoice,
};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use crate::Abilities;

/// Bytes of a short request.
const BODY_USUAL: usize = 1_024;

/// The request that shows whether the server answers.
pub(super) fn first(abilities: &Abilities) -> InferenceRequest {
    let prompt = || vec![Prompt::Text("Hello".to_owned())];
    let sampling = Sampling { max_tokens: Some(1), temperature: 0.0, ..Sampling::default() };
    let task = if abilities.chat {
        let content = Content::Text("Hello".to_owned());
        let role = muster_core::inference::Role::User;
        let message = Message { role, content, tool_calls: Vec::new(), tool_call_id: None, name: None };
        InferenceTask::Chat(Box::new(Chat { messages: vec![message], sampling, ..Chat::default() }))
    } else if abilities.completion {
        let (prompts, format) = (prompt(), ResponseFormat::Text);
        InferenceTask::Completion(Box::new(Completion { prompts, echo: false, suffix: None, format, sampling }))
    } else {
        InferenceTask::Embedding(Embedding { inputs: prompt(), dimensions: None })
    };
    InferenceRequest { task, stream: true }
}

/// The body of a request. Messages are most of it, and are written as they are.
pub(super) struct Body<'a> {
    fields: Map<String, Value>,
    messages: &'a [Message],
}

impl Body<'_> {
    pub(super) fn json(&self) -> serde_json::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(BODY_USUAL);
        serde_json::to_writer(&mut out, self)?;
        Ok(out)
    }
}

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        if !self.messages.is_empty() {
            map.serialize_entry("messages", &Messages(self.messages))?;
        }
        for (name, value) in &self.fields {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

struct Messages<'a>(&'a [Message]);

impl Serialize for Messages<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.0.iter().map(Said))
    }
}

struct Said<'a>(&'a Message);

impl Serialize for Said<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let message = self.0;
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("role", message.role.word())?;
        match &message.content {
            Content::Text(text) if text.is_empty() && !message.tool_calls.is_empty() => {
                map.serialize_entry("content", &())?;
            }
            Content::Text(text) => map.serialize_entry("content", text)?,
            Content::Parts(parts) => map.serialize_entry("content", &parts.iter().map(part).collect::<Value>())?,
        }
        if let Some(name) = &message.name {
            map.serialize_entry("name", name)?;
        }
        if let Some(id) = &message.tool_call_id {
            map.serialize_entry("tool_call_id", id)?;
        }
        if !message.tool_calls.is_empty() {
            let call = |call: &muster_core::inference::ToolCall| json!({ "id": call.id, "type": "function", "function": { "name": call.name, "arguments": call.arguments } });
            map.serialize_entry("tool_calls", &message.tool_calls.iter().map(call).collect::<Value>())?;
        }
        map.end()
    }
}

/// Where a request goes, and its body.
pub(super) fn body<'a>(model: &str, request: &'a InferenceRequest) -> Result<(&'static str, Body<'a>), String> {
    let mut messages: &[Message] = &[];
    let mut body = Map::new();
    body.insert("model".to_owned(), json!(model));
    let path = match &request.task {
        InferenceTask::Chat(chat) => {
            of_chat(&mut body, chat)?;
            messages = &chat.messages;
            "chat/completions"
        }
        InferenceTask::Completion(completion) => {
            body.insert("prompt".to_owned(), prompts(&completion.prompts)?);
            if completion.echo {
                body.insert("echo".to_owned(), json!(true));
            }
            if let Some(suffix) = &completion.suffix {
                body.insert("suffix".to_owned(), json!(suffix));
            }
            of_format(&mut body, &completion.format)?;
            of_sampling(&mut body, &completion.sampling, false);
            "completions"
        }
        InferenceTask::Embedding(embedding) => {
            body.insert("input".to_owned(), prompts(&embedding.inputs)?);
            body.insert("encoding_format".to_owned(), json!("float"));
            if let Some(dimensions) = embedding.dimensions {
                body.insert("dimensions".to_owned(), json!(dimensions));
            }
            "embeddings"
        }
    };
    if !matches!(request.task, InferenceTask::Embedding(_)) {
        // Always in pieces: what was answered until a request is cancelled is then known.
        body.insert("stream".to_owned(), json!(true));
        body.insert("stream_options".to_owned(), json!({ "include_usage": true, "continuous_usage_stats": true }));
    }
    Ok((path, Body { fields: body, messages }))
}

fn prompts(prompts: &[Prompt]) -> Result<Value, String> {
    let texts = prompts.iter().all(|prompt| matches!(prompt, Prompt::Text(_)));
    let tokens = prompts.iter().all(|prompt| matches!(prompt, Prompt::Tokens(_)));
    if !texts && !tokens {
        return Err("prompts are texts or tokens, not some of each".to_owned());
    }
    let one = |prompt: &Prompt| match prompt {
        Prompt::Text(text) => json!(text),
        Prompt::Tokens(tokens) => json!(tokens),
    };
    Ok(prompts.iter().map(one).collect())
}

fn object(field: &str, text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("{field} is no JSON: {error}"))
}

fn of_chat(body: &mut Map<String, Value>, chat: &Chat) -> Result<(), String> {
    if !chat.tools.is_empty() {
        let mut tools = Vec::new();
        for tool in &chat.tools {
            let parameters = if tool.parameters.is_empty() { json!({}) } else { object("tools", &tool.parameters)? };
            let function = json!({
                "name": tool.name, "description": tool.description, "parameters": parameters, "strict": tool.strict,
            });
            tools.push(json!({ "type": "function", "function": function }));
        }
        body.insert("tools".to_owned(), Value::Array(tools));
        let choice = match &chat.tool_choice {
            ToolChoice::Auto => json!("auto"),
            ToolChoice::None => json!("none"),
            ToolChoice::Required => json!("required"),
            ToolChoice::Named(name) => json!({ "type": "function", "function": { "name": name } }),
        };
        body.insert("tool_choice".to_owned(), choice);
        body.insert("parallel_tool_calls".to_owned(), json!(chat.parallel_tool_calls));
    }
    if !chat.template_kwargs.is_empty() {
        body.insert("chat_template_kwargs".to_owned(), object("chat_template_kwargs", &chat.template_kwargs)?);
    }
    of_format(body, &chat.format)?;
    of_sampling(body, &chat.sampling, true);
    Ok(())
}

fn part(part: &ContentPart) -> Value {
    match part {
        ContentPart::Text(text) => json!({ "type": "text", "text": text }),
        ContentPart::Image(bytes) => {
            let kind = match bytes.as_slice() {
                [0x89, b'P', b'N', b'G', ..] => "png",
                [b'G', b'I', b'F', ..] => "gif",
                [b'R', b'I', b'F', b'F', ..] => "webp",
                _ => "jpeg",
            };
            let url = format!("data:image/{kind};base64,{}", base64(bytes));
            json!({ "type": "image_url", "image_url": { "url": url } })
        }
    }
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let all = three.iter().fold(0u32, |all, byte| all << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for nth in 0..4 {
            let at = usize::try_from(all >> (18 - 6 * nth) & 63).unwrap_or(0);
            let letter =
                if nth <= three.len() { LETTERS.get(at).map_or('=', |letter| char::from(*letter)) } else { '=' };
            let _ = out.write_char(letter);
        }
    }
    out
}

fn of_format(body: &mut Map<String, Value>, format: &ResponseFormat) -> Result<(), String> {
    let (key, value) = match format {
        ResponseFormat::Text => return Ok(()),
        ResponseFormat::JsonObject => ("response_format", json!({ "type": "json_object" })),
        ResponseFormat::JsonSchema { name, schema } => {
            let name = if name.is_empty() { "answer" } else { name };
            let schema = json!({ "name": name, "schema": object("response_format", schema)?, "strict": true });
            ("response_format", json!({ "type": "json_schema", "json_schema": schema }))
        }
        // vLLM's field; llama-server calls it `grammar`.
        ResponseFormat::Grammar(text) => {
            body.insert("grammar".to_owned(), json!(text));
            ("guided_grammar", json!(text))
        }
    };
    body.insert(key.to_owned(), value);
    Ok(())
}

fn of_sampling(body: &mut Map<String, Value>, s: &Sampling, chat: bool) {
    let mut set = |key: &str, value: Value| body.insert(key.to_owned(), value);
    set("temperature", json!(s.temperature));
    set("top_p", json!(s.top_p));
    set("n", json!(s.n));
    if let Some(max) = s.max_tokens {
        set("max_tokens", json!(max));
    }
    if s.top_k > 0 {
        set("top_k", json!(s.top_k));
    }
    for (key, value, plain) in [
        ("min_p", s.min_p, 0.0),
        ("frequency_penalty", s.frequency_penalty, 0.0),
        ("presence_penalty", s.presence_penalty, 0.0),
        ("repetition_penalty", s.repetition_penalty, 1.0),
    ] {
        if (value - plain).abs() > f32::EPSILON {
            set(key, json!(value));
        }
    }
    if let Some(seed) = s.seed {
        // Servers read it as a signed number.
        set("seed", json!(seed & i64::MAX.unsigned_abs()));
    }
    if !s.stop.is_empty() {
        set("stop", json!(s.stop));
    }
    if !s.logit_bias.is_empty() {
        let biases: Map<String, Value> =
            s.logit_bias.iter().map(|(token, bias)| (token.to_string(), json!(bias))).collect();
        set("logit_bias", Value::Object(biases));
    }
    match s.logprobs {
        Some(top) if chat => {
            set("logprobs", json!(true));
            set("top_logprobs", json!(top));
        }
        Some(top) => {
            set("logprobs", json!(top));
        }
        None => {}
    }
    if s.ignore_eos {
        set("ignore_eos", json!(true));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        let of = |text: &str| base64(text.as_bytes());
        assert_eq!(
            (of(""), of("f"), of("fo"), of("foo"), of("foob")),
            (String::new(), "Zg==".into(), "Zm8=".into(), "Zm9v".into(), "Zm9vYg==".into())
        );
    }
}
