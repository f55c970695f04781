//! Conversations.

use base64::Engine as _;
use muster_core::inference::{Chat, Content, ContentPart, InferenceTask, Message, Role, Tool, ToolCall, ToolChoice};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{At, Fields, Form};
use crate::openai::error::ApiError;
use crate::openai::json::{Raw, boolean, get, list, object, string, text_of_object};

/// A schema that takes anything.
const ANY: &str = "{\"type\":\"object\",\"properties\":{}}";

pub(super) fn parse(fields: &Fields<'_>) -> Result<(InferenceTask, Form), ApiError> {
    if fields.functions.is_some() || fields.function_call.is_some() {
        let name = if fields.functions.is_some() { "functions" } else { "function_call" };
        return Err(At::Field(name).unserved("is of an API that OpenAI has given up; use tools and tool_choice"));
    }
    let modalities = At::Field("modalities");
    let wanted: Option<Vec<String>> = get(fields.modalities, &modalities, "a list of strings")?;
    if wanted.is_some_and(|wanted| wanted.iter().any(|one| one != "text")) {
        return Err(modalities.unserved("asks for more than text; models here answer in text"));
    }
    let logprobs = logprobs(fields)?;
    let (max, name) = match fields.max_completion_tokens {
        Some(raw) => (Some(raw), "max_completion_tokens"),
        None => (fields.max_tokens, "max_tokens"),
    };
    let at = At::Field("messages");
    let items = list(fields.messages.ok_or_else(|| at.missing())?, &at)?;
    let messages = items.into_iter().enumerate().map(|(index, raw)| message(raw, &At::Item(&at, index)));
    let chat = Chat {
        messages: messages.collect::<Result<_, _>>()?,
        tools: tools(fields.tools)?,
        tool_choice: tool_choice(fields.tool_choice)?,
        parallel_tool_calls: boolean(fields.parallel_tool_calls, &At::Field("parallel_tool_calls"))?.unwrap_or(true),
        format: fields.format()?,
        template_kwargs: fields
            .chat_template_kwargs
            .map(|raw| text_of_object(raw, &At::Field("chat_template_kwargs")))
            .transpose()?
            .unwrap_or_default(),
        sampling: fields.sampling(max, name, logprobs)?,
    };
    Ok((InferenceTask::Chat(Box::new(chat)), Form::Chat { logprobs: logprobs.is_some() }))
}

fn logprobs(fields: &Fields<'_>) -> Result<Option<u8>, ApiError> {
    let wanted = boolean(fields.logprobs, &At::Field("logprobs"))?.unwrap_or(false);
    let at = At::Field("top_logprobs");
    let top: Option<u8> = get(fields.top_logprobs, &at, "a whole number from 0 to 20")?;
    match (wanted, top) {
        (false, Some(top)) if top > 0 => Err(at.wrong("may be set only together with logprobs")),
        (false, _) => Ok(None),
        (true, top) => Ok(Some(top.unwrap_or(0))),
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawMessage<'a> {
    #[serde(borrow)]
    role: Raw<'a>,
    #[serde(borrow)]
    content: Raw<'a>,
    #[serde(borrow)]
    tool_calls: Raw<'a>,
    #[serde(borrow)]
    tool_call_id: Raw<'a>,
    #[serde(borrow)]
    name: Raw<'a>,
}

fn message(raw: &RawValue, at: &At<'_>) -> Result<Message, ApiError> {
    let fields: RawMessage<'_> = object(raw, at)?;
    let role_at = At::Of(at, "role");
    let said = string(fields.role, &role_at)?.ok_or_else(|| role_at.missing())?;
    let role = role(&said, &role_at)?;
    let tool_calls = match fields.tool_calls {
        Some(raw) => tool_calls(raw, &At::Of(at, "tool_calls"))?,
        None => Vec::new(),
    };
    let content_at = At::Of(at, "content");
    let content = match fields.content {
        Some(raw) => content(raw, &content_at)?,
        // A model that only calls tools says nothing.
        None if role == Role::Assistant => Content::Text(String::new()),
        None => return Err(content_at.missing()),
    };
    let tool_call_id = string(fields.tool_call_id, &At::Of(at, "tool_call_id"))?;
    if role == Role::Tool && tool_call_id.is_none() {
        return Err(At::Of(at, "tool_call_id").missing());
    }
    Ok(Message { role, content, tool_calls, tool_call_id, name: string(fields.name, &At::Of(at, "name"))? })
}

pub(super) fn role(said: &str, at: &At<'_>) -> Result<Role, ApiError> {
    match said {
        "system" | "developer" => Ok(Role::System),
        "user" => Ok(Role::User),
        "assistant" => Ok(Role::Assistant),
        "tool" => Ok(Role::Tool),
        "function" => Err(at.unserved("is \"function\", which OpenAI has given up; use tool and tool_call_id")),
        other => Err(at.wrong(format_args!("is {other:?}; it may be system, developer, user, assistant or tool"))),
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawPart<'a> {
    #[serde(borrow, rename = "type")]
    kind: Raw<'a>,
    #[serde(borrow)]
    text: Raw<'a>,
    #[serde(borrow)]
    refusal: Raw<'a>,
    #[serde(borrow)]
    image_url: Raw<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawUrl<'a> {
    #[serde(borrow)]
    url: Raw<'a>,
}

/// Text, or parts; the Responses API calls them otherwise.
pub(super) fn content(raw: &RawValue, at: &At<'_>) -> Result<Content, ApiError> {
    if raw.get().starts_with('"') {
        return Ok(Content::Text(string(Some(raw), at)?.unwrap_or_default()));
    }
    if !raw.get().starts_with('[') {
        return Err(at.invalid("a string or a list of parts", raw));
    }
    let parts = list(raw, at)?.into_iter().enumerate().map(|(index, raw)| part(raw, &At::Item(at, index)));
    Ok(Content::Parts(parts.collect::<Result<_, _>>()?))
}

fn part(raw: &RawValue, at: &At<'_>) -> Result<ContentPart, ApiError> {
    let fields: RawPart<'_> = object(raw, at)?;
    let kind_at = At::Of(at, "type");
    let kind = string(fields.kind, &kind_at)?.ok_or_else(|| kind_at.missing())?;
    let text = |raw: Raw<'_>, name: &str| {
        let at = At::Of(at, name);
        string(raw, &at)?.map(ContentPart::Text).ok_or_else(|| at.missing())
    };
    match kind.as_str() {
        "text" | "input_text" | "output_text" => text(fields.text, "text"),
        "refusal" => text(fields.refusal, "refusal"),
        "image_url" | "input_image" => {
            let at = At::Of(at, "image_url");
            let raw = fields.image_url.ok_or_else(|| at.missing())?;
            let url = if raw.get().starts_with('{') {
                let inner: RawUrl<'_> = object(raw, &at)?;
                string(inner.url, &At::Of(&at, "url"))?
            } else {
                string(Some(raw), &at)?
            };
            image(&url.ok_or_else(|| At::Of(&at, "url").missing())?, &at)
        }
        other => Err(kind_at.unserved(format_args!("is {other:?}; parts may be text and image_url"))),
    }
}

/// The bytes of a `data:` URL. Others are not fetched: a Gateway that opens what strangers name is a way into its network.
fn image(url: &str, at: &At<'_>) -> Result<ContentPart, ApiError> {
    let Some((head, data)) = url.strip_prefix("data:").and_then(|rest| rest.split_once(',')) else {
        return Err(at.unserved("is an address that would have to be fetched; send the picture itself as a data: URL"));
    };
    if !head.starts_with("image/") || !head.ends_with(";base64") {
        return Err(at.wrong("must begin with data:image/…;base64,"));
    }
    let bytes = base64::engine::general_purpose::STANDARD.decode(data.trim());
    bytes.map(ContentPart::Image).map_err(|error| at.wrong(format_args!("holds no base64: {error}")))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawCall<'a> {
    #[serde(borrow)]
    id: Raw<'a>,
    #[serde(borrow)]
    function: Raw<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawFunction<'a> {
    #[serde(borrow)]
    name: Raw<'a>,
    #[serde(borrow)]
    description: Raw<'a>,
    #[serde(borrow)]
    parameters: Raw<'a>,
    #[serde(borrow)]
    strict: Raw<'a>,
    #[serde(borrow)]
    arguments: Raw<'a>,
}

fn tool_calls(raw: &RawValue, at: &At<'_>) -> Result<Vec<ToolCall>, ApiError> {
    let calls = list(raw, at)?.into_iter().enumerate().map(|(index, raw)| {
        let at = At::Item(at, index);
        let call: RawCall<'_> = object(raw, &at)?;
        let (id_at, function_at) = (At::Of(&at, "id"), At::Of(&at, "function"));
        let function: RawFunction<'_> = object(call.function.ok_or_else(|| function_at.missing())?, &function_at)?;
        let (name_at, arguments_at) = (At::Of(&function_at, "name"), At::Of(&function_at, "arguments"));
        Ok(ToolCall {
            id: string(call.id, &id_at)?.ok_or_else(|| id_at.missing())?,
            name: string(function.name, &name_at)?.ok_or_else(|| name_at.missing())?,
            arguments: string(function.arguments, &arguments_at)?.unwrap_or_default(),
        })
    });
    calls.collect()
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawTool<'a> {
    #[serde(borrow, rename = "type")]
    kind: Raw<'a>,
    #[serde(borrow)]
    function: Raw<'a>,
}

/// Tools; their function stands in `function`, or beside the type, where the Responses API has it.
pub(super) fn tools(raw: Raw<'_>) -> Result<Vec<Tool>, ApiError> {
    let at = At::Field("tools");
    let Some(raw) = raw else { return Ok(Vec::new()) };
    let tools = list(raw, &at)?.into_iter().enumerate().map(|(index, raw)| {
        let at = At::Item(&at, index);
        let tool: RawTool<'_> = object(raw, &at)?;
        let kind_at = At::Of(&at, "type");
        match string(tool.kind, &kind_at)?.as_deref() {
            Some("function") => {}
            None => return Err(kind_at.missing()),
            Some(other) => {
                return Err(kind_at.unserved(format_args!("is {other:?}; only tools of the type function are called")));
            }
        }
        let inner_at = At::Of(&at, "function");
        let (at, raw) = tool.function.map_or((&at, raw), |inner| (&inner_at, inner));
        let function: RawFunction<'_> = object(raw, at)?;
        let name_at = At::Of(at, "name");
        let name = string(function.name, &name_at)?.ok_or_else(|| name_at.missing())?;
        let good = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if name.is_empty() || name.len() > 64 || !name.bytes().all(good) {
            return Err(name_at.wrong(format_args!("is {name:?}; use 1 to 64 letters, digits, _ or -")));
        }
        let parameters = function.parameters.map(|raw| text_of_object(raw, &At::Of(at, "parameters"))).transpose()?;
        Ok(Tool {
            name,
            description: string(function.description, &At::Of(at, "description"))?.unwrap_or_default(),
            parameters: parameters.unwrap_or_else(|| ANY.to_owned()),
            strict: boolean(function.strict, &At::Of(at, "strict"))?.unwrap_or(false),
        })
    });
    tools.collect()
}

pub(super) fn tool_choice(raw: Raw<'_>) -> Result<ToolChoice, ApiError> {
    let at = At::Field("tool_choice");
    let Some(raw) = raw else { return Ok(ToolChoice::Auto) };
    let must_be = "none, auto, required, or an object that names a function";
    if raw.get().starts_with('{') {
        let tool: RawTool<'_> = object(raw, &at)?;
        let kind_at = At::Of(&at, "type");
        if string(tool.kind, &kind_at)?.is_some_and(|kind| kind != "function") {
            return Err(kind_at.unserved("must be function; only tools of that type are called"));
        }
        let inner_at = At::Of(&at, "function");
        let (at, raw) = tool.function.map_or((&at, raw), |inner| (&inner_at, inner));
        let function: RawFunction<'_> = object(raw, at)?;
        let name_at = At::Of(at, "name");
        return Ok(ToolChoice::Named(string(function.name, &name_at)?.ok_or_else(|| name_at.missing())?));
    }
    match get::<String>(Some(raw), &at, must_be)?.as_deref() {
        Some("auto") | None => Ok(ToolChoice::Auto),
        Some("none") => Ok(ToolChoice::None),
        Some("required") => Ok(ToolChoice::Required),
        Some(other) => Err(at.wrong(format_args!("is {other:?}; it must be {must_be}"))),
    }
}
