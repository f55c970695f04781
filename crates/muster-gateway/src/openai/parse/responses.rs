//! The Responses API: what it says otherwise becomes the same conversation.

use muster_core::inference::{Chat, Content, InferenceTask, Message, ResponseFormat, Role, ToolCall};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::chat::{content, role, tool_choice, tools};
use super::{At, Fields, Form, format_of};
use crate::openai::error::ApiError;
use crate::openai::json::{Raw, boolean, list, object, one_line, string};

pub(super) fn parse(fields: &Fields<'_>) -> Result<(InferenceTask, Form), ApiError> {
    for (raw, name) in [(fields.previous_response_id, "previous_response_id"), (fields.conversation, "conversation")] {
        if raw.is_some() {
            return Err(
                At::Field(name).unserved("names what was said before; nothing is kept here, so send it again in input")
            );
        }
    }
    if boolean(fields.background, &At::Field("background"))?.unwrap_or(false) {
        return Err(At::Field("background").unserved("is true; nothing is kept here for later, so wait for the answer"));
    }
    let mut messages = Vec::new();
    if let Some(instructions) = string(fields.instructions, &At::Field("instructions"))? {
        messages.push(plain(Role::System, Content::Text(instructions)));
    }
    input(fields, &mut messages)?;
    let chat = Chat {
        messages,
        tools: tools(fields.tools)?,
        tool_choice: tool_choice(fields.tool_choice)?,
        parallel_tool_calls: boolean(fields.parallel_tool_calls, &At::Field("parallel_tool_calls"))?.unwrap_or(true),
        format: format(fields)?,
        template_kwargs: String::new(),
        sampling: fields.sampling(fields.max_output_tokens, "max_output_tokens", None)?,
    };
    if chat.sampling.n != 1 {
        return Err(At::Field("n").unserved("must be 1 here"));
    }
    Ok((InferenceTask::Chat(Box::new(chat)), Form::Responses { repeated: repeated(fields) }))
}

fn plain(role: Role, content: Content) -> Message {
    Message { role, content, tool_calls: Vec::new(), tool_call_id: None, name: None }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawItem<'a> {
    #[serde(borrow, rename = "type")]
    kind: Raw<'a>,
    #[serde(borrow)]
    role: Raw<'a>,
    #[serde(borrow)]
    content: Raw<'a>,
    #[serde(borrow)]
    call_id: Raw<'a>,
    #[serde(borrow)]
    name: Raw<'a>,
    #[serde(borrow)]
    arguments: Raw<'a>,
    #[serde(borrow)]
    output: Raw<'a>,
}

fn input(fields: &Fields<'_>, messages: &mut Vec<Message>) -> Result<(), ApiError> {
    let at = At::Field("input");
    let raw = fields.input.ok_or_else(|| at.missing())?;
    if raw.get().starts_with('"') {
        messages.push(plain(Role::User, Content::Text(string(Some(raw), &at)?.unwrap_or_default())));
        return Ok(());
    }
    if !raw.get().starts_with('[') {
        return Err(at.invalid("a string or a list of items", raw));
    }
    for (index, raw) in list(raw, &at)?.into_iter().enumerate() {
        item(raw, &At::Item(&at, index), messages)?;
    }
    Ok(())
}

fn item(raw: &RawValue, at: &At<'_>, messages: &mut Vec<Message>) -> Result<(), ApiError> {
    let fields: RawItem<'_> = object(raw, at)?;
    let needed = |raw: Raw<'_>, name: &str| {
        let at = At::Of(at, name);
        string(raw, &at)?.ok_or_else(|| at.missing())
    };
    let kind_at = At::Of(at, "type");
    match string(fields.kind, &kind_at)?.as_deref() {
        None | Some("message") => {
            let role = role(&needed(fields.role, "role")?, &At::Of(at, "role"))?;
            let content_at = At::Of(at, "content");
            messages.push(plain(role, content(fields.content.ok_or_else(|| content_at.missing())?, &content_at)?));
        }
        Some("function_call") => {
            let call = ToolCall {
                id: needed(fields.call_id, "call_id")?,
                name: needed(fields.name, "name")?,
                arguments: needed(fields.arguments, "arguments")?,
            };
            // Calls that were made together belong to one message, and to what was said before them.
            match messages.last_mut() {
                Some(last) if last.role == Role::Assistant => last.tool_calls.push(call),
                _ => {
                    let said = plain(Role::Assistant, Content::Text(String::new()));
                    messages.push(Message { tool_calls: vec![call], ..said });
                }
            }
        }
        Some("function_call_output") => {
            let id = needed(fields.call_id, "call_id")?;
            let output_at = At::Of(at, "output");
            let output = content(fields.output.ok_or_else(|| output_at.missing())?, &output_at)?;
            messages.push(Message { tool_call_id: Some(id), ..plain(Role::Tool, output) });
        }
        // What a model thought before is not shown to it again.
        Some("reasoning") => {}
        Some(other) => {
            let may = "items may be message, function_call, function_call_output and reasoning";
            return Err(kind_at.unserved(format_args!("is {other:?}; {may}")));
        }
    }
    Ok(())
}

fn format(fields: &Fields<'_>) -> Result<ResponseFormat, ApiError> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Text<'a> {
        #[serde(borrow)]
        format: Raw<'a>,
    }
    let at = At::Field("text");
    let Some(raw) = fields.text else { return fields.format() };
    let text: Text<'_> = object(raw, &at)?;
    text.format.map_or(Ok(ResponseFormat::Text), |raw| format_of(raw, &At::Of(&at, "format")))
}

/// What a response object says again of its request.
fn repeated(fields: &Fields<'_>) -> String {
    let mut out = String::new();
    for (name, raw, default) in [
        ("instructions", fields.instructions, "null"),
        ("max_output_tokens", fields.max_output_tokens, "null"),
        ("metadata", fields.metadata, "{}"),
        ("parallel_tool_calls", fields.parallel_tool_calls, "true"),
        ("previous_response_id", None, "null"),
        ("store", None, "false"),
        ("temperature", fields.temperature, "1.0"),
        ("text", fields.text, "{\"format\":{\"type\":\"text\"}}"),
        ("tool_choice", fields.tool_choice, "\"auto\""),
        ("tools", fields.tools, "[]"),
        ("top_p", fields.top_p, "1.0"),
        ("truncation", None, "\"disabled\""),
        ("user", fields.user, "null"),
    ] {
        out.push_str(",\"");
        out.push_str(name);
        out.push_str("\":");
        out.push_str(&raw.map_or_else(|| default.to_owned(), one_line));
    }
    out
}
