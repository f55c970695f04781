//! Which JSON schemas an answer can be held to.
//!
//! llama.cpp turns a schema into a grammar, but leaves out what it does not know. Here a schema is read first, and a
//! keyword that would be left out is refused with its name and place: an answer that is said to follow a schema does.

mod json;

use std::fmt::Write as _;

use muster_core::inference::{Tool, ToolChoice};

pub(crate) use self::json::Json;
use crate::tools::Style;

/// Bytes of a schema or a grammar.
pub const SCHEMA_LEN_MAX: usize = 256 * 1024;
/// How deep a schema may be nested.
pub const DEPTH_MAX: usize = 48;
/// The greatest length or count that a schema may ask for: a grammar holds each repetition.
pub const REPEAT_MAX: u64 = 2_000;

/// A schema that no answer can be held to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// It is no JSON.
    #[error("the schema is no JSON: {0}")]
    Json(String),
    /// It is too long.
    #[error("the schema has {len} bytes, {SCHEMA_LEN_MAX} are allowed")]
    TooLong {
        /// Its bytes.
        len: usize,
    },
    /// It is nested too deeply.
    #[error("the schema is nested deeper than {DEPTH_MAX} at {at}")]
    TooDeep {
        /// Where.
        at: String,
    },
    /// A keyword that cannot be held.
    #[error("{keyword} at {at} {why}")]
    Keyword {
        /// Which.
        keyword: String,
        /// Where, as a JSON pointer.
        at: String,
        /// What is wrong.
        why: String,
    },
}

/// Keywords that say nothing about what is valid.
const NOTES: [&str; 14] = [
    "title",
    "description",
    "default",
    "examples",
    "example",
    "$schema",
    "$id",
    "$comment",
    "deprecated",
    "readOnly",
    "writeOnly",
    "$anchor",
    "discriminator",
    "strict",
];
const FORMATS: [&str; 9] = ["date", "time", "date-time", "uuid", "uuid1", "uuid2", "uuid3", "uuid4", "uuid5"];

fn wrong(keyword: &str, at: &str, why: impl Into<String>) -> SchemaError {
    SchemaError::Keyword { keyword: keyword.to_owned(), at: at.to_owned(), why: why.into() }
}

struct Check<'a> {
    root: &'a Json,
}

/// Reads a schema and refuses what an answer cannot be held to.
///
/// # Errors
/// The first keyword that is at fault, with its place.
pub fn check(schema: &str) -> Result<(), SchemaError> {
    read(schema).map(|_| ())
}

fn read(schema: &str) -> Result<Json, SchemaError> {
    if schema.len() > SCHEMA_LEN_MAX {
        return Err(SchemaError::TooLong { len: schema.len() });
    }
    let root: Json = serde_json::from_str(schema).map_err(|error| SchemaError::Json(error.to_string()))?;
    Check { root: &root }.schema(&root, "#", 0)?;
    Ok(root)
}

impl Check<'_> {
    fn schema(&self, schema: &Json, at: &str, depth: usize) -> Result<(), SchemaError> {
        if depth > DEPTH_MAX {
            return Err(SchemaError::TooDeep { at: at.to_owned() });
        }
        let fields = match schema {
            Json::Object(fields) => fields,
            Json::Bool(true) => return Ok(()),
            _ => return Err(wrong("the schema", at, "must be an object")),
        };
        let is = |kind: &str| match schema.get("type") {
            Some(Json::Text(text)) => text == kind,
            Some(Json::List(list)) => list.iter().any(|one| one.text() == Some(kind)),
            _ => false,
        };
        for (keyword, value) in fields {
            let below = format!("{at}/{keyword}");
            match keyword.as_str() {
                "type" => Self::kinds(value, at)?,
                "enum" => {
                    let some = matches!(value, Json::List(list) if !list.is_empty());
                    some.then_some(()).ok_or_else(|| wrong(keyword, at, "must be a list with one value at least"))?;
                }
                "const" | "nullable" => {}
                "properties" | "$defs" | "definitions" => {
                    let Json::Object(named) = value else { return Err(wrong(keyword, at, "must be an object")) };
                    for (name, one) in named {
                        self.schema(one, &format!("{below}/{name}"), depth + 1)?;
                    }
                }
                "oneOf" | "anyOf" | "allOf" | "prefixItems" => {
                    let Json::List(list) = value else { return Err(wrong(keyword, at, "must be a list of schemas")) };
                    for (nth, one) in list.iter().enumerate() {
                        self.schema(one, &format!("{below}/{nth}"), depth + 1)?;
                    }
                }
                "required" => {
                    let names = matches!(value, Json::List(list) if list.iter().all(|name| name.text().is_some()));
                    names.then_some(()).ok_or_else(|| wrong(keyword, at, "must be a list of names"))?;
                }
                "additionalProperties" if matches!(value, Json::Bool(_)) => {}
                "items" | "additionalProperties" => self.schema(value, &below, depth + 1)?,
                "minItems" | "maxItems" | "minLength" | "maxLength" => {
                    let count = if let Json::Number(number) = value { number.as_u64() } else { None };
                    count
                        .filter(|count| *count <= REPEAT_MAX)
                        .ok_or_else(|| wrong(keyword, at, format!("must be a whole number up to {REPEAT_MAX}")))?;
                }
                "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => {
                    let whole = matches!(value, Json::Number(number) if number.as_i64().is_some());
                    if !(is("integer") && whole) {
                        return Err(wrong(keyword, at, "holds for integers only, with a whole number"));
                    }
                }
                "pattern" => {
                    let text = value.text().unwrap_or_default();
                    if !(text.len() <= 1_024 && text.starts_with('^') && text.ends_with('$')) {
                        let why = "must begin with ^ and end with $, and have 1,024 bytes at most";
                        return Err(wrong(keyword, at, why));
                    }
                }
                "format" if value.text().is_some_and(|format| FORMATS.contains(&format)) => {}
                "format" => {
                    return Err(wrong(keyword, at, format!("must be one of {}", FORMATS.join(", "))));
                }
                "$ref" => {
                    let there = value.text().filter(|pointer| pointer.starts_with("#/"));
                    if there.and_then(|pointer| self.root.at(pointer)).is_none() {
                        return Err(wrong(keyword, at, "must point at a part of this schema, as #/$defs/name"));
                    }
                }
                note if NOTES.contains(&note) || note.starts_with("x-") => {}
                _ => return Err(wrong(keyword, at, "is a keyword that answers cannot be held to here")),
            }
        }
        Ok(())
    }

    fn kinds(value: &Json, at: &str) -> Result<(), SchemaError> {
        const KINDS: [&str; 7] = ["object", "array", "string", "number", "integer", "boolean", "null"];
        let known = |one: &Json| one.text().is_some_and(|kind| KINDS.contains(&kind));
        let all = match value {
            Json::List(list) => !list.is_empty() && list.iter().all(known),
            one => known(one),
        };
        all.then_some(()).ok_or_else(|| wrong("type", at, format!("must be one or several of {}", KINDS.join(", "))))
    }
}

/// Points references of a schema that becomes part of another at their new place.
fn rebase(schema: &mut Json, to: &str) {
    match schema {
        Json::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Json::Text(pointer) if key == "$ref" => {
                        *pointer = pointer.replacen("#/", &format!("{to}/"), 1);
                    }
                    value => rebase(value, to),
                }
            }
        }
        Json::List(list) => list.iter_mut().for_each(|value| rebase(value, to)),
        _ => {}
    }
}

/// The schema of a call of one of these tools, in the model's way of writing it.
///
/// # Errors
/// A tool's parameters are a schema that cannot be held.
pub fn calls(tools: &[Tool], choice: &ToolChoice, style: Style) -> Result<String, SchemaError> {
    let named = |tool: &&Tool| !matches!(choice, ToolChoice::Named(name) if tool.name != *name);
    let key = style.arguments_key();
    let mut any = String::new();
    for (nth, tool) in tools.iter().filter(named).enumerate() {
        let text = if tool.parameters.is_empty() { "{\"type\":\"object\"}" } else { &tool.parameters };
        let mut parameters = read(text)?;
        rebase(&mut parameters, &format!("#/anyOf/{nth}/properties/{key}"));
        let json = |value: &Json| serde_json::to_string(value).map_err(|error| SchemaError::Json(error.to_string()));
        let (name, parameters) = (json(&Json::Text(tool.name.clone()))?, json(&parameters)?);
        let comma = if nth == 0 { "" } else { "," };
        // A string takes any text; this cannot fail.
        let _ = write!(
            any,
            "{comma}{{\"type\":\"object\",\"properties\":{{\"name\":{{\"const\":{name}}},\"{key}\":{parameters}}},\
             \"required\":[\"name\",\"{key}\"],\"additionalProperties\":false}}"
        );
    }
    Ok(format!("{{\"anyOf\":[{any}]}}"))
}

/// A grammar (GBNF) of one call, or several, from the grammar of one. llama.cpp calls the first rule `root`.
#[must_use]
pub fn around(grammar: &str, style: Style, several: bool) -> String {
    let (open, close) = style.around();
    let one = |text: &str| format!("\"{}\"", text.replace('\n', "\\n"));
    let renamed: String = grammar
        .lines()
        .map(|line| line.strip_prefix("root ::=").map_or(line.to_owned(), |rest| format!("the-call ::={rest}")) + "\n")
        .collect();
    let root = match (style, several) {
        (Style::Llama3, _) => "the-call".to_owned(),
        (_, false) => format!("{} the-call {}", one(open), one(close)),
        (Style::Hermes, true) => {
            format!("{o} the-call {c} (\"\\n\" {o} the-call {c}){{0,7}}", o = one(open), c = one(close))
        }
        (Style::Mistral, true) => format!("{} the-call (\", \" the-call){{0,7}} {}", one(open), one(close)),
    };
    format!("root ::= {root}\n{renamed}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(schema: &str) -> String {
        check(schema).unwrap_err().to_string()
    }

    #[test]
    fn a_keyword_is_named_with_its_place() {
        check(r##"{"type":"object","properties":{"a":{"$ref":"#/$defs/b"}},"$defs":{"b":{"type":"string"}}}"##)
            .unwrap();
        check(r#"{"type":["integer","null"],"minimum":0,"title":"n"}"#).unwrap();
        let at = refused(r#"{"type":"object","properties":{"a":{"type":"array","uniqueItems":true}}}"#);
        assert_eq!(at, "uniqueItems at #/properties/a is a keyword that answers cannot be held to here");
        assert!(refused(r#"{"type":"number","minimum":0.5}"#).starts_with("minimum at #"));
        assert!(refused(r#"{"type":"string","maxLength":99999}"#).contains("2000"));
        assert!(refused(r##"{"$ref":"#/$defs/no"}"##).starts_with("$ref at #"));
        assert!(refused(r#"{"$ref":"http://example.com/a.json"}"#).starts_with("$ref at #"));
        assert!(refused("{").contains("no JSON"));
        let deep = "{\"items\":".repeat(60) + "{}" + &"}".repeat(60);
        assert!(refused(&deep).contains("deeper"));
    }

    #[test]
    fn calls_keep_order_and_references() {
        let parameters = r##"{"type":"object","properties":{"z":{"$ref":"#/$defs/s"},"a":{}},"$defs":{"s":{}}}"##;
        let tool = |name: &str| Tool {
            name: name.to_owned(),
            description: String::new(),
            parameters: parameters.to_owned(),
            strict: false,
        };
        let schema = calls(&[tool("f"), tool("g")], &ToolChoice::Named("g".to_owned()), Style::Hermes).unwrap();
        assert!(schema.contains("\"$ref\":\"#/anyOf/0/properties/arguments/$defs/s\""), "{schema}");
        assert!(schema.find("\"z\"") < schema.find("\"a\"") && !schema.contains("\"f\""), "{schema}");
        check(&schema).unwrap();
        let grammar = around("root ::= \"x\"\nspace ::= \" \"\n", Style::Hermes, false);
        assert!(grammar.starts_with("root ::= \"<tool_call>\\n\" the-call \"\\n</tool_call>\"\nthe-call ::= \"x\"\n"));
    }
}
