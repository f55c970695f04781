//! From a request to the answers that are to be drawn; or to a refusal, before any work.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use llama_cpp_2::json_schema_to_grammar;
use llama_cpp_2::sampling::LlamaSampler;
use muster_core::inference::audit::{PromptHash, Replay, Replayable, Row, Transcript};
use muster_core::inference::{
    Chat, Completion, InferenceError, InferenceErrorKind, InferenceRequest, InferenceTask, Prompt, ResponseFormat,
    Sampling, ToolChoice,
};

use super::model::Loaded;
use crate::reasoning::Splitter;
use crate::scheduler::{Drawer, Writer, WriterConfig};
use crate::schema::{self, SCHEMA_LEN_MAX, SchemaError};
use crate::template::TemplateError;
use crate::tools::Parser;

/// An answer to be drawn.
pub(super) struct Answer {
    pub(super) prompt: Vec<u32>,
    /// A text that stands before it.
    pub(super) echo: Option<String>,
    /// Whether its prompt is counted: of several answers to one, the first counts it.
    pub(super) counts_prompt: bool,
    pub(super) drawer: Drawer,
    pub(super) writer: Writer,
    pub(super) grammar: Option<LlamaSampler>,
    /// What is committed to.
    pub(super) transcript: Transcript,
    /// Where it is somebody else's, drawn again.
    pub(super) replay: Option<Replaying>,
}

/// An answer that is drawn again.
pub(super) struct Replaying {
    /// It.
    tokens: Vec<u32>,
    rows: Vec<Row>,
}

impl Replaying {
    /// The token that is to be drawn next.
    pub(super) fn next(&self) -> Option<u32> {
        self.tokens.get(self.rows.len()).copied()
    }

    pub(super) fn push(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// All of it, once it is there.
    pub(super) fn whole(&mut self) -> Option<Vec<Row>> {
        (self.rows.len() == self.tokens.len()).then(|| std::mem::take(&mut self.rows))
    }
}

impl Answer {
    /// Where in its prompt something is drawn first.
    pub(super) fn draws_from(&self) -> usize {
        let prompt = usize::try_from(self.transcript.prompt_tokens).unwrap_or(usize::MAX);
        prompt.saturating_sub(1)
    }
}

type Refused = InferenceError;

fn bad(param: &str, why: impl Into<String>) -> Refused {
    InferenceError::new(InferenceErrorKind::BadRequest, why).of(param)
}

fn unsupported(param: &str, why: impl Into<String>) -> Refused {
    InferenceError::new(InferenceErrorKind::Unsupported, why).of(param)
}

/// A number that nobody knows before: the standard library's own keys for hash tables are such.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// All that is the same for every answer to one prompt.
struct Terms<'a> {
    sampling: &'a Sampling,
    grammar: Option<String>,
    echo: Option<String>,
    thoughts: Splitter,
    tools: Option<Parser>,
    one_call: bool,
    random: u64,
}

/// The answers that a request asks for, in their order.
pub(super) fn answers(loaded: &Loaded<'_>, request: &InferenceRequest) -> Result<Vec<Answer>, Refused> {
    match &request.task {
        InferenceTask::Chat(chat) => of_chat(loaded, chat),
        InferenceTask::Completion(completion) => of_completion(loaded, completion),
        InferenceTask::Embedding(_) => {
            Err(unsupported("model", "this model writes; ask one for embeddings that was deployed for them"))
        }
        InferenceTask::Replay(replay) => of_replay(loaded, replay).map(|answer| vec![answer]),
        InferenceTask::Reveal(_) => Err(unsupported("model", "this model keeps no transcripts")),
    }
}

/// An answer that is read together with its prompt, instead of being drawn.
fn of_replay(loaded: &Loaded<'_>, replay: &Replay) -> Result<Answer, Refused> {
    let all = match &replay.to {
        Replayable::Chat(chat) => of_chat(loaded, chat)?,
        Replayable::Completion(completion) => of_completion(loaded, completion)?,
    };
    known(loaded, "tokens", replay.tokens.iter())?;
    let which = usize::try_from(replay.choice).unwrap_or(usize::MAX);
    let mut answer = all.into_iter().nth(which).ok_or_else(|| bad("choice", "the request has no such answer"))?;
    let (got, max) = (replay.tokens.len(), answer.writer.tokens_max());
    if got > max {
        let why = format!("the answer has {got} tokens, and its request and this model's context allow {max}");
        return Err(bad("tokens", why));
    }
    // After the last token nothing is drawn.
    answer.prompt.extend(replay.tokens.iter().take(got.saturating_sub(1)));
    answer.counts_prompt = true;
    answer.echo = None;
    answer.replay = Some(Replaying { tokens: replay.tokens.clone(), rows: Vec::with_capacity(got) });
    Ok(answer)
}

fn of_chat(loaded: &Loaded<'_>, chat: &Chat) -> Result<Vec<Answer>, Refused> {
    if chat.messages.iter().any(|message| message.content.has_image()) {
        return Err(unsupported("messages", "this model cannot look at pictures; send text alone"));
    }
    let Some(template) = &loaded.template else {
        let why = "this model has no chat template that can be read; ask for completions instead";
        return Err(unsupported("messages", why));
    };
    let calls = !chat.tools.is_empty() && chat.tool_choice != ToolChoice::None;
    if calls && loaded.style.is_none() {
        return Err(unsupported("tools", "this model's chat template knows no tools; ask without them"));
    }
    let prompt = template.render(chat).map_err(|error| match &error {
        TemplateError::Template(_) => unsupported("messages", error.to_string()),
        TemplateError::Refused(_) => bad("messages", error.to_string()),
        TemplateError::Json { field, .. } => bad(field, error.to_string()),
    })?;
    let must = calls && matches!(chat.tool_choice, ToolChoice::Required | ToolChoice::Named(_));
    let grammar = match loaded.style.filter(|_| must) {
        Some(style) => {
            let wrong = |error: SchemaError| bad("tools", error.to_string());
            let schema = schema::calls(&chat.tools, &chat.tool_choice, style).map_err(wrong)?;
            let several = chat.parallel_tool_calls && chat.tool_choice == ToolChoice::Required;
            Some(schema::around(&compile("tools", &schema)?, style, several))
        }
        None => of_format(&chat.format)?,
    };
    let open = prompt.trim_end().ends_with("<think>");
    let thoughts = if loaded.thinks && (grammar.is_none() || open) { Splitter::new(&prompt) } else { Splitter::off() };
    let random = random();
    let tools = loaded.style.filter(|_| calls).map(|style| Parser::new(style, random));
    let (sampling, one_call) = (&chat.sampling, !chat.parallel_tool_calls);
    let terms = Terms { sampling, grammar, echo: None, thoughts, tools, one_call, random };
    let mut answers = Vec::new();
    terms.answers(loaded, &loaded.tokenize(&prompt), "messages", &mut answers)?;
    Ok(answers)
}

fn of_completion(loaded: &Loaded<'_>, completion: &Completion) -> Result<Vec<Answer>, Refused> {
    let grammar = of_format(&completion.format)?;
    let mut answers = Vec::new();
    for prompt in &completion.prompts {
        let tokens = match (prompt, &completion.suffix) {
            (Prompt::Text(text), None) => loaded.tokenize(text),
            (Prompt::Text(text), Some(suffix)) => fill_in(loaded, text, suffix)?,
            (Prompt::Tokens(_), Some(_)) => {
                return Err(bad("suffix", "suffix goes with a prompt of text, not of tokens"));
            }
            (Prompt::Tokens(tokens), None) => known(loaded, "prompt", tokens.iter()).map(|()| tokens.clone())?,
        };
        let echo = completion.echo.then(|| match prompt {
            Prompt::Text(text) => text.clone(),
            Prompt::Tokens(tokens) => {
                let bytes: Vec<u8> = tokens.iter().flat_map(|token| loaded.says(*token)).collect();
                String::from_utf8_lossy(&bytes).into_owned()
            }
        });
        let terms = Terms {
            sampling: &completion.sampling,
            grammar: grammar.clone(),
            echo,
            thoughts: Splitter::off(),
            tools: None,
            one_call: false,
            random: random(),
        };
        terms.answers(loaded, &tokens, "prompt", &mut answers)?;
    }
    Ok(answers)
}

fn known<'a>(loaded: &Loaded<'_>, param: &str, mut tokens: impl Iterator<Item = &'a u32>) -> Result<(), Refused> {
    match tokens.find(|token| **token >= loaded.tokens) {
        Some(token) => {
            Err(bad(param, format!("{param} holds token {token}; the model has {} tokens, from 0", loaded.tokens)))
        }
        None => Ok(()),
    }
}

/// The prompt for what comes between two texts.
fn fill_in(loaded: &Loaded<'_>, prefix: &str, suffix: &str) -> Result<Vec<u32>, Refused> {
    let vocab = &loaded.vocab;
    let marks = [vocab.fim_pre(), vocab.fim_suf(), vocab.fim_mid()];
    let [Ok(before), Ok(after), Ok(between)] = marks.map(|mark| u32::try_from(mark.0)) else {
        return Err(unsupported("suffix", "this model cannot fill in between two texts; ask without suffix"));
    };
    let plain = |text: &str| vocab.tokenize(text.as_bytes(), false, false).into_iter().map(super::model::number);
    let mut tokens = if vocab.should_add_bos() { vec![super::model::number(vocab.bos())] } else { Vec::new() };
    tokens.push(before);
    tokens.extend(plain(prefix));
    tokens.push(after);
    tokens.extend(plain(suffix));
    tokens.push(between);
    Ok(tokens)
}

fn of_format(format: &ResponseFormat) -> Result<Option<String>, Refused> {
    let param = "response_format";
    match format {
        ResponseFormat::Text => Ok(None),
        ResponseFormat::JsonObject => compile(param, "{\"type\":\"object\"}").map(Some),
        ResponseFormat::JsonSchema { schema, .. } => {
            schema::check(schema).map_err(|error| bad(param, error.to_string()))?;
            compile(param, schema).map(Some)
        }
        ResponseFormat::Grammar(text) if text.len() > SCHEMA_LEN_MAX => {
            Err(bad(param, format!("the grammar has {} bytes, {SCHEMA_LEN_MAX} are allowed", text.len())))
        }
        ResponseFormat::Grammar(text) => Ok(Some(text.clone())),
    }
}

fn compile(param: &str, schema: &str) -> Result<String, Refused> {
    let why = "the schema cannot become a grammar; look at its patterns, which may use only plain regular expressions";
    json_schema_to_grammar(schema).map_err(|_| bad(param, why))
}

impl Terms<'_> {
    fn answers(&self, loaded: &Loaded<'_>, prompt: &[u32], param: &str, out: &mut Vec<Answer>) -> Result<(), Refused> {
        let (context, have) = (u64::from(loaded.info.context), u64::try_from(prompt.len()).unwrap_or(u64::MAX));
        if have == 0 {
            return Err(bad(param, format!("{param} has no token")));
        }
        let want = self.sampling.max_tokens.map_or(1, u64::from);
        if have.saturating_add(want) > context {
            let both = match self.sampling.max_tokens {
                Some(max) => {
                    format!("the prompt has {have} tokens and max_tokens is {max}, {} together", have + u64::from(max))
                }
                None => format!("the prompt has {have} tokens"),
            };
            let why = format!(
                "{both}; this model's context has {context} for prompt and answer: shorten the prompt or ask for less"
            );
            return Err(InferenceError::new(InferenceErrorKind::ContextOverflow, why).of(param));
        }
        known(loaded, "logit_bias", self.sampling.logit_bias.iter().map(|(token, _)| token))?;
        let room = usize::try_from(context - have).unwrap_or(0);
        let asked = self.sampling.max_tokens.and_then(|max| usize::try_from(max).ok()).unwrap_or(room);
        for nth in 0..self.sampling.n {
            let choice = u32::try_from(out.len()).unwrap_or(u32::MAX);
            let grammar = self.grammar.as_deref().map(|text| {
                LlamaSampler::grammar(loaded.model, text, "root").map_err(|_| {
                    let why = "the grammar cannot be read: it needs a rule called root, and every rule that it names";
                    bad("response_format", why)
                })
            });
            let config = WriterConfig {
                choice,
                stop: self.sampling.stop.clone(),
                tokens_max: asked.min(room),
                thoughts: self.thoughts.clone(),
                tools: self.tools.clone(),
                one_call: self.one_call,
            };
            let drawer = Drawer::new(self.sampling, choice, self.random, prompt);
            let transcript = Transcript {
                seed: drawer.seed(),
                choice,
                prompt: PromptHash::of(prompt),
                prompt_tokens: u32::try_from(have).unwrap_or(u32::MAX),
                tokens: Vec::new(),
            };
            out.push(Answer {
                prompt: prompt.to_vec(),
                echo: self.echo.clone(),
                counts_prompt: nth == 0,
                drawer,
                writer: Writer::new(config),
                grammar: grammar.transpose()?,
                transcript,
                replay: None,
            });
        }
        Ok(())
    }
}
