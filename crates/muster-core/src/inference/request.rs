//! What is asked of a model.

use serde::{Deserialize, Serialize};

use super::audit::{Commitment, Replay};

/// Bytes of all the text of one request.
pub const TEXT_LEN_MAX: usize = 2 * 1024 * 1024;
/// Messages of one chat.
pub const MESSAGES_MAX: usize = 2_048;
/// Tools that one chat may name.
pub const TOOLS_MAX: usize = 128;
/// Answers to one request.
pub const N_MAX: u16 = 16;
/// Sequences at which an answer stops.
pub const STOPS_MAX: usize = 16;
/// Bytes of a sequence at which an answer stops.
pub const STOP_LEN_MAX: usize = 256;
/// Tokens that are made likelier or less likely.
pub const BIASES_MAX: usize = 1_024;
/// Texts of one request for completions or embeddings.
pub const INPUTS_MAX: usize = 2_048;
/// The most tokens that a choice may be narrowed to.
pub const TOP_K_MAX: u32 = 1_000_000;

/// What is asked of a model: one request of an API, checked and in our own terms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InferenceRequest {
    /// What is to be done.
    pub task: InferenceTask,
    /// Whether pieces are wanted as they come; otherwise the engine may hold them back and give them together.
    pub stream: bool,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum InferenceTask {
    /// The next message of a conversation.
    Chat(Box<Chat>),
    /// What follows a text.
    Completion(Box<Completion>),
    /// Where texts lie in the space of meanings.
    Embedding(Embedding),
    /// What was committed to with an answer, for as long as it is kept. Counts nothing.
    Reveal(Commitment),
    /// An answer of somebody else's, drawn again.
    Replay(Box<Replay>),
}

/// A conversation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Chat {
    /// What was said, the oldest first.
    pub messages: Vec<Message>,
    /// What the model may call.
    pub tools: Vec<Tool>,
    /// Whether it must.
    pub tool_choice: ToolChoice,
    /// Whether it may call several at once.
    pub parallel_tool_calls: bool,
    /// The form of the answer.
    pub format: ResponseFormat,
    /// Extra variables of the model's template, as a JSON object; empty for none.
    pub template_kwargs: String,
    /// How it is drawn.
    pub sampling: Sampling,
}

/// Who said something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Who built the application.
    System,
    /// Who uses it.
    User,
    /// The model.
    Assistant,
    /// What a tool gave back.
    Tool,
}

impl Role {
    /// Its word in the API and in templates.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// Something that was said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// By whom.
    pub role: Role,
    /// What.
    pub content: Content,
    /// What the model called for, if it did.
    pub tool_calls: Vec<ToolCall>,
    /// Which call a tool answers.
    pub tool_call_id: Option<String>,
    /// The speaker's name, where there are several.
    pub name: Option<String>,
}

/// What a message holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// Text alone.
    Text(String),
    /// Parts, in their order.
    Parts(Vec<ContentPart>),
}

/// A part of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContentPart {
    /// Text.
    Text(String),
    /// A picture, as it came: a file's bytes.
    Image(Vec<u8>),
}

/// Something that the model called for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// Its name in this conversation.
    pub id: String,
    /// Which tool.
    pub name: String,
    /// With what: JSON text, as the model wrote it.
    pub arguments: String,
}

/// Something that the model may call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: String,
    /// What it takes: a JSON schema, as text.
    pub parameters: String,
    /// Whether the arguments must follow the schema to the letter.
    pub strict: bool,
}

/// Whether tools are called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToolChoice {
    /// As the model likes.
    #[default]
    Auto,
    /// Not at all.
    None,
    /// One at least.
    Required,
    /// This one.
    Named(String),
}

/// The form of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResponseFormat {
    /// Any.
    #[default]
    Text,
    /// A JSON object.
    JsonObject,
    /// JSON of this schema.
    JsonSchema {
        /// The schema's name.
        name: String,
        /// The schema, as text.
        schema: String,
    },
    /// What this grammar (GBNF) derives.
    Grammar(String),
}

/// A text, or the tokens that it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Prompt {
    /// Text.
    Text(String),
    /// Tokens, by the model's own numbers.
    Tokens(Vec<u32>),
}

/// Texts to be gone on with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// Each gets `n` answers, numbered one prompt after the other.
    pub prompts: Vec<Prompt>,
    /// Whether an answer begins with its prompt.
    pub echo: bool,
    /// What comes after the answer, for models that can fill in between.
    pub suffix: Option<String>,
    /// The form of the answer.
    pub format: ResponseFormat,
    /// How it is drawn.
    pub sampling: Sampling,
}

/// Texts to be placed in the space of meanings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Embedding {
    /// The texts.
    pub inputs: Vec<Prompt>,
    /// How many numbers each gets; the model's own count where none is said.
    pub dimensions: Option<u32>,
}

/// How tokens are drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Tokens of each answer at most; `None`: as many as the context has room for.
    pub max_tokens: Option<u32>,
    /// 0 takes the likeliest token each time; from 0 to 2.
    pub temperature: f32,
    /// Only the likeliest tokens that together have this share; above 0, at most 1.
    pub top_p: f32,
    /// Only so many of the likeliest tokens; 0 for all.
    pub top_k: u32,
    /// Only tokens that are this likely beside the likeliest; from 0 to 1.
    pub min_p: f32,
    /// How much a token that has come already is held back, each time more; from -2 to 2.
    pub frequency_penalty: f32,
    /// How much a token that has come already is held back, once; from -2 to 2.
    pub presence_penalty: f32,
    /// By what a token's odds are divided that has come already; 1 for none; above 0, at most 10.
    pub repetition_penalty: f32,
    /// The same seed, prompt and engine give the same answer.
    pub seed: Option<u64>,
    /// Answers wanted.
    pub n: u16,
    /// Sequences at which an answer stops; they are not part of it.
    pub stop: Vec<String>,
    /// Tokens with what is added to their logits, from -100 to 100.
    pub logit_bias: Vec<(u32, f32)>,
    /// Whether log-probabilities are told, and of how many of the likeliest tokens beside the drawn one.
    pub logprobs: Option<u8>,
    /// Goes on although the model says that it is done.
    pub ignore_eos: bool,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            max_tokens: None,
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            repetition_penalty: 1.0,
            seed: None,
            n: 1,
            stop: Vec::new(),
            logit_bias: Vec::new(),
            logprobs: None,
            ignore_eos: false,
        }
    }
}

/// What is wrong with a request; `param` is the field, as the OpenAI API calls it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct RequestError {
    /// The field.
    pub param: String,
    /// What is wrong with it, and what it may be.
    pub why: String,
}

impl RequestError {
    /// A field and what is wrong with it.
    #[must_use]
    pub fn new(param: &str, why: impl Into<String>) -> Self {
        Self { param: param.to_owned(), why: why.into() }
    }
}

fn within(param: &str, got: f32, (min, max): (f32, f32)) -> Result<(), RequestError> {
    if got.is_finite() && got >= min && got <= max {
        return Ok(());
    }
    Err(RequestError::new(param, format!("{param} is {got}; it must be from {min} to {max}")))
}

fn at_most(param: &str, what: &str, got: usize, max: usize) -> Result<(), RequestError> {
    if got <= max {
        return Ok(());
    }
    Err(RequestError::new(param, format!("{param} holds {got} {what}; it may hold {max}")))
}

impl Sampling {
    /// Refuses what no engine can draw by.
    ///
    /// # Errors
    /// The first field that is wrong, with what it may hold.
    pub fn check(&self) -> Result<(), RequestError> {
        within("temperature", self.temperature, (0.0, 2.0))?;
        within("top_p", self.top_p, (f32::MIN_POSITIVE, 1.0))?;
        within("min_p", self.min_p, (0.0, 1.0))?;
        within("frequency_penalty", self.frequency_penalty, (-2.0, 2.0))?;
        within("presence_penalty", self.presence_penalty, (-2.0, 2.0))?;
        within("repetition_penalty", self.repetition_penalty, (f32::MIN_POSITIVE, 10.0))?;
        if self.top_k > TOP_K_MAX {
            return Err(RequestError::new("top_k", format!("top_k is {}; it may be {TOP_K_MAX}", self.top_k)));
        }
        if self.n == 0 || self.n > N_MAX {
            return Err(RequestError::new("n", format!("n is {}; it must be from 1 to {N_MAX}", self.n)));
        }
        if self.max_tokens == Some(0) {
            return Err(RequestError::new("max_tokens", "max_tokens is 0; ask for one token at least"));
        }
        at_most("stop", "sequences", self.stop.len(), STOPS_MAX)?;
        if self.stop.iter().any(|stop| stop.is_empty() || stop.len() > STOP_LEN_MAX) {
            let why = format!("each sequence of stop must have from 1 to {STOP_LEN_MAX} bytes");
            return Err(RequestError::new("stop", why));
        }
        at_most("logit_bias", "tokens", self.logit_bias.len(), BIASES_MAX)?;
        self.logit_bias.iter().try_for_each(|(_, bias)| within("logit_bias", *bias, (-100.0, 100.0)))?;
        match self.logprobs {
            Some(top) if top > super::TOP_LOGPROBS_MAX => {
                let why = format!("top_logprobs is {top}; it may be {}", super::TOP_LOGPROBS_MAX);
                Err(RequestError::new("top_logprobs", why))
            }
            _ => Ok(()),
        }
    }
}

impl Prompt {
    fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Tokens(tokens) => tokens.len().saturating_mul(4),
        }
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Content {
    /// All its text, one part after the other.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Parts(parts) => parts
                .iter()
                .filter_map(|part| match part {
                    ContentPart::Text(text) => Some(text.as_str()),
                    ContentPart::Image(_) => None,
                })
                .collect(),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Parts(parts) => parts
                .iter()
                .map(|part| match part {
                    ContentPart::Text(text) => text.len(),
                    ContentPart::Image(bytes) => bytes.len(),
                })
                .sum(),
        }
    }

    /// Whether it holds a picture.
    #[must_use]
    pub fn has_image(&self) -> bool {
        matches!(self, Self::Parts(parts) if parts.iter().any(|part| matches!(part, ContentPart::Image(_))))
    }
}

fn check_prompts(param: &str, prompts: &[Prompt]) -> Result<(), RequestError> {
    at_most(param, "texts", prompts.len(), INPUTS_MAX)?;
    if prompts.is_empty() || prompts.iter().any(Prompt::is_empty) {
        return Err(RequestError::new(param, format!("{param} is empty, or one of its texts is; send some text")));
    }
    at_most(param, "bytes", prompts.iter().map(Prompt::len).sum(), TEXT_LEN_MAX)
}

impl Chat {
    /// Refuses what is no conversation.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn check(&self) -> Result<(), RequestError> {
        if self.messages.is_empty() {
            return Err(RequestError::new("messages", "messages is empty; send one message at least"));
        }
        at_most("messages", "messages", self.messages.len(), MESSAGES_MAX)?;
        at_most("tools", "tools", self.tools.len(), TOOLS_MAX)?;
        let called =
            |m: &Message| m.tool_calls.iter().map(|call| call.arguments.len() + call.name.len()).sum::<usize>();
        let said: usize = self.messages.iter().map(|m| m.content.len().saturating_add(called(m))).sum();
        let tools: usize = self.tools.iter().map(|t| t.parameters.len() + t.description.len()).sum();
        at_most("messages", "bytes", said.saturating_add(tools), TEXT_LEN_MAX)?;
        if let ToolChoice::Named(name) = &self.tool_choice
            && !self.tools.iter().any(|tool| tool.name == *name)
        {
            let why = format!("tool_choice names {name:?}, which is none of the tools of this request");
            return Err(RequestError::new("tool_choice", why));
        }
        if self.tool_choice == ToolChoice::Required && self.tools.is_empty() {
            return Err(RequestError::new("tool_choice", "tool_choice asks for a tool, and the request names none"));
        }
        self.sampling.check()
    }
}

impl Completion {
    /// Refuses what cannot be gone on with.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn check(&self) -> Result<(), RequestError> {
        check_prompts("prompt", &self.prompts)?;
        self.sampling.check()
    }
}

impl InferenceRequest {
    /// Refuses what no engine can answer, whatever its model.
    ///
    /// # Errors
    /// The first field that is wrong, as the OpenAI API calls it.
    pub fn check(&self) -> Result<(), RequestError> {
        match &self.task {
            InferenceTask::Chat(chat) => chat.check(),
            InferenceTask::Completion(completion) => completion.check(),
            InferenceTask::Embedding(embedding) => {
                if embedding.dimensions == Some(0) {
                    return Err(RequestError::new("dimensions", "dimensions is 0; ask for one at least"));
                }
                check_prompts("input", &embedding.inputs)
            }
            InferenceTask::Reveal(_) => Ok(()),
            InferenceTask::Replay(replay) => replay.check(),
        }
    }

    /// How its tokens are drawn; `None` where none are.
    #[must_use]
    pub fn sampling(&self) -> Option<&Sampling> {
        match &self.task {
            InferenceTask::Chat(chat) => Some(&chat.sampling),
            InferenceTask::Completion(completion) => Some(&completion.sampling),
            InferenceTask::Embedding(_) | InferenceTask::Reveal(_) | InferenceTask::Replay(_) => None,
        }
    }

    /// The same with a seed where it has none: it shall not be the Container that chooses.
    #[must_use]
    pub fn seeded(mut self, random: u64) -> Self {
        let sampling = match &mut self.task {
            InferenceTask::Chat(chat) => &mut chat.sampling,
            InferenceTask::Completion(completion) => &mut completion.sampling,
            InferenceTask::Embedding(_) | InferenceTask::Reveal(_) | InferenceTask::Replay(_) => return self,
        };
        sampling.seed.get_or_insert(random);
        self
    }
}
