//! Chat templates: Jinja, as Hugging Face writes it. A template comes with a model's file and is data of strangers: it gets
//! a bounded number of steps, reads no file, and its result is bounded.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind};
use muster_core::inference::{Chat, Content, Message, ToolChoice};

/// Steps that one rendering may take.
const FUEL: u64 = 20_000_000;
/// Bytes of a template.
pub const TEMPLATE_LEN_MAX: usize = 256 * 1024;
/// Bytes that a rendering may have.
pub const RENDERED_LEN_MAX: usize = 8 * 1024 * 1024;

/// Why there is no prompt.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The template of the model is no template.
    #[error("the model's chat template is wrong: {0}")]
    Template(String),
    /// The template turns the conversation down, or stumbles over it.
    #[error("the model's chat template does not take this conversation: {0}")]
    Refused(String),
    /// A field of the request is no JSON.
    #[error("{field} is no JSON: {why}")]
    Json {
        /// Which.
        field: &'static str,
        /// What is wrong.
        why: String,
    },
}

/// A model's template.
#[derive(Debug)]
pub struct Template {
    environment: Environment<'static>,
    begin: String,
    end: String,
}

fn raise(why: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, why))
}

fn to_json(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    // Of Python's other options none changes what is said.
    for name in ["ensure_ascii", "sort_keys", "separators"] {
        let _ = options.get::<Option<Value>>(name)?;
    }
    options.assert_all_used()?;
    let wrong = |error: serde_json::Error| Error::new(ErrorKind::BadSerialization, error.to_string());
    let mut out = Vec::new();
    match indent {
        Some(indent) => {
            let spaces = vec![b' '; indent.min(16)];
            let pretty = serde_json::ser::PrettyFormatter::with_indent(&spaces);
            let mut writer = serde_json::Serializer::with_formatter(&mut out, pretty);
            serde::Serialize::serialize(value, &mut writer).map_err(wrong)?;
        }
        None => {
            let mut writer = serde_json::Serializer::with_formatter(&mut out, Spaced);
            serde::Serialize::serialize(value, &mut writer).map_err(wrong)?;
        }
    }
    Ok(Value::from_safe_string(String::from_utf8_lossy(&out).into_owned()))
}

/// As Python writes JSON: a space after colon and comma. Models have seen it so.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: std::io::Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: std::io::Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: std::io::Write + ?Sized>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

/// A day as templates ask for it. `format` may hold `%Y %m %d %B %b %H %M %S`.
fn date(unix_secs: u64, format: &str) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let (days, second) = (unix_secs / 86_400, unix_secs % 86_400);
    // Days from 0000-03-01 on (H. Hinnant, chrono-compatible low-level date algorithms).
    let z = days + 719_468;
    let (era, of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let name = usize::try_from(month - 1).ok().and_then(|at| MONTHS.get(at)).copied().unwrap_or_default();
    format
        .replace("%Y", &year.to_string())
        .replace("%m", &format!("{month:02}"))
        .replace("%d", &format!("{day:02}"))
        .replace("%B", name)
        .replace("%b", name.get(..3).unwrap_or_default())
        .replace("%H", &format!("{:02}", second / 3_600))
        .replace("%M", &format!("{:02}", second / 60 % 60))
        .replace("%S", &format!("{:02}", second % 60))
}

impl Template {
    /// `begin` and `end` are the texts of the model's tokens of that name; `now` gives the time of day, in seconds of Unix.
    ///
    /// # Errors
    /// It is no template, or too long.
    pub fn new(
        source: &str,
        begin: &str,
        end: &str,
        now: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Result<Self, TemplateError> {
        if source.len() > TEMPLATE_LEN_MAX {
            let why = format!("it has {} bytes, {TEMPLATE_LEN_MAX} are allowed", source.len());
            return Err(TemplateError::Template(why));
        }
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| TemplateError::Template(plain(&error)))?);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(64);
        environment.add_filter("tojson", |value: Value, options: Kwargs| to_json(&value, options));
        environment.add_function("raise_exception", raise);
        environment.add_function("strftime_now", move |format: String| date(now(), &format));
        // A block of Hugging Face's own, which marks the model's words for training.
        let source = source.replace("{% generation %}", "").replace("{% endgeneration %}", "");
        let source = source.replace("{%- generation -%}", "").replace("{%- endgeneration -%}", "");
        environment.add_template_owned("chat", source).map_err(|error| TemplateError::Template(plain(&error)))?;
        Ok(Self { environment, begin: begin.to_owned(), end: end.to_owned() })
    }

    /// The prompt of a conversation.
    ///
    /// # Errors
    /// The template turns it down, or a field is no JSON.
    pub fn render(&self, chat: &Chat) -> Result<String, TemplateError> {
        let messages = chat.messages.iter().map(message).collect::<Result<Vec<_>, _>>()?;
        let mut variables: Vec<(String, Value)> = Vec::new();
        if !chat.template_kwargs.is_empty() {
            let extra: Value = json("chat_template_kwargs", &chat.template_kwargs)?;
            if extra.kind() != ValueKind::Map {
                let why = "it must be an object".to_owned();
                return Err(TemplateError::Json { field: "chat_template_kwargs", why });
            }
            let keys = extra.try_iter().map_err(|error| TemplateError::Refused(plain(&error)))?;
            for key in keys {
                variables.push((key.to_string(), extra.get_item(&key).unwrap_or_default()));
            }
        }
        variables.push(("messages".to_owned(), Value::from(messages)));
        variables.push(("add_generation_prompt".to_owned(), Value::from(true)));
        variables.push(("bos_token".to_owned(), Value::from(self.begin.as_str())));
        variables.push(("eos_token".to_owned(), Value::from(self.end.as_str())));
        if !chat.tools.is_empty() && chat.tool_choice != ToolChoice::None {
            let mut tools = Vec::with_capacity(chat.tools.len());
            for tool in &chat.tools {
                let empty = "{\"type\":\"object\",\"properties\":{}}";
                let text = if tool.parameters.is_empty() { empty } else { &tool.parameters };
                let function = map([
                    ("name", Value::from(tool.name.as_str())),
                    ("description", Value::from(tool.description.as_str())),
                    ("parameters", json("tools", text)?),
                ]);
                tools.push(map([("type", Value::from("function")), ("function", function)]));
            }
            variables.push(("tools".to_owned(), Value::from(tools)));
        }
        let context = map(variables);
        let template = self.environment.get_template("chat");
        let template = template.map_err(|error| TemplateError::Template(plain(&error)))?;
        let mut out = Bounded(Vec::new());
        template.render_captured_to(context, &mut out).map_err(|error| TemplateError::Refused(plain(&error)))?;
        String::from_utf8(out.0).map_err(|error| TemplateError::Refused(error.to_string()))
    }
}

/// An object; its keys keep their order.
fn map<K: Into<Value>>(fields: impl IntoIterator<Item = (K, Value)>) -> Value {
    Value::from_pairs(fields)
}

/// Takes [`RENDERED_LEN_MAX`] bytes and no more.
struct Bounded(Vec<u8>);

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > RENDERED_LEN_MAX {
            return Err(std::io::Error::other("the prompt is too long"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn json(field: &'static str, text: &str) -> Result<Value, TemplateError> {
    serde_json::from_str(text).map_err(|error| TemplateError::Json { field, why: error.to_string() })
}

/// A template's error in one line, of bounded length.
fn plain(error: &Error) -> String {
    let line = error.line().map_or(String::new(), |line| format!(" (line {line})"));
    let said = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    said.chars().take(300).collect::<String>() + &line
}

fn message(message: &Message) -> Result<Value, TemplateError> {
    let mut fields: Vec<(&str, Value)> = vec![("role", Value::from(message.role.word()))];
    let empty = matches!(&message.content, Content::Text(text) if text.is_empty());
    let content =
        if empty && !message.tool_calls.is_empty() { Value::from("") } else { Value::from(message.content.text()) };
    fields.push(("content", content));
    fields.extend(message.name.as_deref().map(|name| ("name", Value::from(name))));
    fields.extend(message.tool_call_id.as_deref().map(|id| ("tool_call_id", Value::from(id))));
    if !message.tool_calls.is_empty() {
        let mut calls = Vec::with_capacity(message.tool_calls.len());
        for call in &message.tool_calls {
            // Templates write objects by `tojson`; what is none is passed as the text that it is.
            let arguments = json("messages", &call.arguments).unwrap_or_else(|_| Value::from(call.arguments.as_str()));
            let function = map([("name", Value::from(call.name.as_str())), ("arguments", arguments)]);
            let call =
                [("id", Value::from(call.id.as_str())), ("type", Value::from("function")), ("function", function)];
            calls.push(map(call));
        }
        fields.push(("tool_calls", Value::from(calls)));
    }
    Ok(map(fields))
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_core::inference::{Role, Tool};

    fn render(source: &str, chat: &Chat) -> Result<String, TemplateError> {
        Template::new(source, "<s>", "</s>", || 1_700_000_000)?.render(chat)
    }

    fn chat(text: &str) -> Chat {
        let content = Content::Text(text.to_owned());
        let message = Message { role: Role::User, content, tool_calls: Vec::new(), tool_call_id: None, name: None };
        Chat { messages: vec![message], ..Chat::default() }
    }

    #[test]
    fn conventions_of_hugging_face() {
        let source = "{{ bos_token }}{%- for m in messages %}\n[{{ m['role'] }}] {{ m.content.strip() | trim }}\n{%- endfor %}\
            {% if add_generation_prompt %}>{% endif %}{{ strftime_now('%d %b %Y') }}";
        assert_eq!(render(source, &chat(" <b>hi ")).unwrap(), "<s>[user] <b>hi>14 Nov 2023");
        let refused = render("{{ raise_exception('no such role') }}", &chat("x")).unwrap_err().to_string();
        assert!(refused.contains("no such role"), "{refused}");
        assert!(matches!(render("{% for", &chat("x")), Err(TemplateError::Template(_))));
        let kwargs = Chat { template_kwargs: "{\"thinking\": false}".to_owned(), ..chat("x") };
        assert_eq!(render("{{ thinking is false }}", &kwargs).unwrap().to_lowercase(), "true");
    }

    #[test]
    fn tools_keep_their_writers_order() {
        let parameters = "{\"type\":\"object\",\"properties\":{\"z\":{\"type\":\"string\"},\"a\":{}}}".to_owned();
        let tool = Tool { name: "f".to_owned(), description: String::new(), parameters, strict: false };
        let chat = Chat { tools: vec![tool], ..chat("x") };
        let text = render("{% for t in tools %}{{ t.function.parameters | tojson }}{% endfor %}", &chat).unwrap();
        assert_eq!(text, "{\"type\": \"object\", \"properties\": {\"z\": {\"type\": \"string\"}, \"a\": {}}}");
    }

    #[test]
    fn a_template_that_never_ends_is_stopped() {
        let long = "{% for a in range(9999) %}{% for b in range(9999) %}{% set c = a %}{% endfor %}{% endfor %}";
        assert!(matches!(render(long, &chat("x")), Err(TemplateError::Refused(_))));
        let wide = "{% for a in range(9999) %}{{ messages[0].content }}{% endfor %}";
        assert!(matches!(render(wide, &chat(&"x".repeat(9_999))), Err(TemplateError::Refused(_))));
    }
}
