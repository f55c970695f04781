//! What a request may use, before the work: about, and at most.
//!
//! Limits of tokens a minute and the price of a single payment go by what a prompt usually has: a token for each three
//! bytes. Budgets and purses go by what it can have at most, so that no prompt whatever spends more than was reserved.

use muster_core::inference::{
    Chat, Content, ContentPart, InferenceRequest, InferenceTask, Prompt, Role, TokenAsk, TokenCounts,
};
use muster_core::units::UsdMicro;

use crate::models::Model;
use crate::usage::Estimate;

/// Bytes of text that are counted as one token; and what a picture counts.
const BYTES_A_TOKEN: usize = 3;
const PICTURE_TOKENS: usize = 1_024;
/// Tokens that count against a key's limit a minute where a request says nothing of them.
const USUAL_TOKENS: u64 = 1_024;
/// Tokens that a template adds at most around a message: marks, and its role.
const FRAME_TOKENS: usize = 64;
/// Tokens that it adds at most around a tool, or a call of one: names of fields, on lines of their own.
const TOOL_FRAME_TOKENS: usize = 256;
/// Tokens that a template adds at most of its own to a conversation: a system prompt where none is said, dates.
const TEMPLATE_TOKENS: usize = 1_024;
/// Tokens that it adds at most to say how tools are called.
const TOOLS_TOKENS: usize = 1_024;
/// How far a template sets what is within JSON in at most, and how deep it puts the JSON of a request into its own.
const JSON_INDENT: usize = 8;
const JSON_DEPTH: usize = 4;
/// Tokens that are added at most to a text without a template: its beginning and its end.
const TEXT_TOKENS: usize = 8;

/// What a request is reckoned to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reckoned {
    /// What is reserved: tokens as usual, and the most that it may cost.
    pub(super) reserved: Estimate,
    /// What a payment for this request alone is asked for.
    pub(super) price: UsdMicro,
}

/// What a request may use, by what can be known before the work.
pub(super) fn reckon(model: &Model, request: &InferenceRequest) -> Reckoned {
    let (least, greatest) = model.contexts();
    let price = &model.deployment.price;
    let input = u64::try_from(usual_tokens(&request.task)).unwrap_or(u64::MAX).max(1);
    let answers = u64::try_from(choices(request)).unwrap_or(u64::MAX);
    let room = u64::from(least).saturating_sub(input).max(1);
    let (output, usual) = match request.sampling() {
        None => (0, 0),
        Some(sampling) => {
            let each = sampling.max_tokens.map(u64::from);
            let most = each.unwrap_or(room).min(room);
            let usual = each.unwrap_or(USUAL_TOKENS).min(room);
            (most.saturating_mul(answers), usual.saturating_mul(answers))
        }
    };
    let asked = price.cost(TokenCounts { input, cached: 0, output });
    let cost = price.cost(at_most(request, price, greatest.into())).max(asked);
    Reckoned { reserved: Estimate { tokens: input.saturating_add(usual), cost }, price: asked }
}

/// Answers, or vectors, that a request asks for.
pub(super) fn choices(request: &InferenceRequest) -> usize {
    match &request.task {
        InferenceTask::Chat(chat) => usize::from(chat.sampling.n),
        InferenceTask::Completion(completion) => completion.prompts.len() * usize::from(completion.sampling.n),
        InferenceTask::Embedding(embedding) => embedding.inputs.len(),
        InferenceTask::Reveal(_) | InferenceTask::Replay(_) => 1,
    }
}

/// Tokens that a prompt has, about.
fn usual_tokens(task: &InferenceTask) -> usize {
    let of_content = |content: &Content| match content {
        Content::Text(text) => text.len() / BYTES_A_TOKEN,
        Content::Parts(parts) => parts
            .iter()
            .map(|part| match part {
                ContentPart::Text(text) => text.len() / BYTES_A_TOKEN,
                ContentPart::Image(_) => PICTURE_TOKENS,
            })
            .sum(),
    };
    let of_prompts = |prompts: &[Prompt]| -> usize {
        let each = prompts.iter().map(|prompt| match prompt {
            Prompt::Text(text) => text.len() / BYTES_A_TOKEN,
            Prompt::Tokens(tokens) => tokens.len(),
        });
        each.sum()
    };
    match task {
        InferenceTask::Chat(chat) => {
            let calls =
                |call: &muster_core::inference::ToolCall| (call.name.len() + call.arguments.len()) / BYTES_A_TOKEN;
            let said = chat
                .messages
                .iter()
                .map(|message| of_content(&message.content) + message.tool_calls.iter().map(calls).sum::<usize>() + 4);
            let tools = chat.tools.iter().map(|tool| (tool.description.len() + tool.parameters.len()) / BYTES_A_TOKEN);
            said.sum::<usize>() + tools.sum::<usize>()
        }
        InferenceTask::Completion(completion) => of_prompts(&completion.prompts),
        InferenceTask::Embedding(embedding) => of_prompts(&embedding.inputs),
        InferenceTask::Reveal(_) | InferenceTask::Replay(_) => 0,
    }
}

/// What a request counts at most where it costs the most, at a model with a context of so many tokens. A prompt counts once,
/// however many answers it has; prompt and answer share the context, so that both are not at their greatest together.
fn at_most(request: &InferenceRequest, price: &TokenAsk, context: u64) -> TokenCounts {
    let (each, n) = request
        .sampling()
        .map_or((0, 0), |sampling| (sampling.max_tokens.map_or(u64::MAX, u64::from), u64::from(sampling.n)));
    let each = each.min(context);
    let answers_are_dearer = price.output.0.saturating_mul(n) >= price.input.max(price.cached).0;
    let dearest = |prompt: usize| {
        let prompt = u64::try_from(prompt).unwrap_or(u64::MAX).min(context);
        let (input, output) =
            if answers_are_dearer { (prompt.min(context - each), each) } else { (prompt, each.min(context - prompt)) };
        // More may be asked for what was remembered than for what was not.
        let cached = if price.cached > price.input { input } else { 0 };
        TokenCounts { input, cached, output: output.saturating_mul(n) }
    };
    let all = |prompts: &[Prompt], more: usize| {
        let each = prompts.iter().map(|prompt| match prompt {
            Prompt::Text(text) => text.len(),
            Prompt::Tokens(tokens) => tokens.len(),
        });
        each.fold(TokenCounts::ZERO, |sum, len| sum.plus(dearest(len.saturating_add(more))))
    };
    match &request.task {
        InferenceTask::Chat(chat) => dearest(most_tokens(chat)),
        InferenceTask::Completion(completion) => {
            let suffix = completion.suffix.as_ref().map_or(0, |suffix| suffix.len().saturating_add(TEXT_TOKENS));
            all(&completion.prompts, suffix.saturating_add(TEXT_TOKENS))
        }
        InferenceTask::Embedding(embedding) => all(&embedding.inputs, TEXT_TOKENS),
        InferenceTask::Reveal(_) | InferenceTask::Replay(_) => TokenCounts::ZERO,
    }
}

/// Tokens that a conversation's prompt has at most: a token is a byte of text at least, and a template adds words of its own.
/// Pictures have no such bound; the model's context is theirs.
fn most_tokens(chat: &Chat) -> usize {
    let mut sum = TEMPLATE_TOKENS;
    let mut add = |tokens: usize| sum = sum.saturating_add(tokens);
    if !chat.template_kwargs.is_empty() {
        // They may turn parts of a template on, and be written there.
        add(json_bytes(&chat.template_kwargs).saturating_mul(2).saturating_add(TEMPLATE_TOKENS));
    }
    if !chat.tools.is_empty() {
        add(TOOLS_TOKENS);
    }
    for tool in &chat.tools {
        add(json_bytes(&tool.parameters).saturating_add(TOOL_FRAME_TOKENS));
        add(quoted_bytes(&tool.name).saturating_add(quoted_bytes(&tool.description)));
    }
    for message in &chat.messages {
        add(FRAME_TOKENS);
        // What tools gave back is written as JSON by some templates.
        let of_text = |text: &str| if message.role == Role::Tool { quoted_bytes(text) } else { text.len() };
        match &message.content {
            Content::Text(text) => add(of_text(text)),
            Content::Parts(parts) => parts.iter().for_each(|part| match part {
                ContentPart::Text(text) => add(of_text(text)),
                ContentPart::Image(_) => add(usize::MAX),
            }),
        }
        for name in [&message.name, &message.tool_call_id].into_iter().flatten() {
            add(quoted_bytes(name));
        }
        for call in &message.tool_calls {
            add(json_bytes(&call.arguments).saturating_add(TOOL_FRAME_TOKENS));
            add(quoted_bytes(&call.id).saturating_add(quoted_bytes(&call.name)));
        }
    }
    sum
}

/// Bytes of a text as a string of JSON, at most.
fn quoted_bytes(text: &str) -> usize {
    text.bytes().map(|byte| if byte < 0x20 { 6 } else { 1 + usize::from(byte == b'"' || byte == b'\\') }).sum()
}

/// Bytes of JSON when a template writes it anew, at most: with spaces and on lines of its own, its numbers in full.
fn json_bytes(text: &str) -> usize {
    let (mut sum, mut depth, mut in_string, mut escaped) = (0usize, JSON_DEPTH, false, false);
    for byte in text.bytes() {
        let bytes = match byte {
            _ if in_string => {
                in_string = escaped || byte != b'"';
                escaped = !escaped && byte == b'\\';
                // Of a text that is no JSON after all.
                if byte < 0x20 { 6 } else { 1 }
            }
            b'"' => {
                in_string = true;
                1
            }
            b'{' | b'[' | b'}' | b']' | b',' | b':' => {
                match byte {
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth = depth.saturating_sub(1).max(JSON_DEPTH),
                    _ => {}
                }
                depth.saturating_mul(JSON_INDENT).saturating_add(3)
            }
            _ => 6,
        };
        sum = sum.saturating_add(bytes);
    }
    sum
}

#[cfg(test)]
mod tests {
    use muster_core::inference::{Completion, Embedding, Message, Sampling, ToolCall};
    use proptest::prelude::*;

    use super::*;

    const PRICE: TokenAsk = TokenAsk { input: UsdMicro(1_000_000), cached: UsdMicro(0), output: UsdMicro(2_000_000) };

    fn message(role: Role, content: Content) -> Message {
        Message { role, content, tool_calls: Vec::new(), tool_call_id: None, name: None }
    }

    fn chat(text: &str, max_tokens: Option<u32>) -> InferenceRequest {
        let messages = vec![message(Role::User, Content::Text(text.to_owned()))];
        let sampling = Sampling { max_tokens, ..Sampling::default() };
        let task = InferenceTask::Chat(Box::new(Chat { messages, sampling, ..Chat::default() }));
        InferenceRequest { task, stream: false }
    }

    #[test]
    fn a_token_is_a_byte_at_least_and_the_context_is_shared() {
        let digits = "7".repeat(3_000);
        let counts = at_most(&chat(&digits, Some(10)), &PRICE, 100_000);
        let input = 3_000 + TEMPLATE_TOKENS + FRAME_TOKENS;
        assert_eq!((counts.input, counts.output), (u64::try_from(input).unwrap(), 10));
        let whole = at_most(&chat(&digits, None), &PRICE, 100_000);
        assert_eq!((whole.input, whole.output), (0, 100_000), "an answer costs more than a prompt in its place");
        let dear_prompts = TokenAsk { input: UsdMicro(3_000_000), ..PRICE };
        let counts = at_most(&chat(&digits, None), &dear_prompts, 5_000);
        assert_eq!((counts.input, counts.output), (u64::try_from(input).unwrap(), 5_000 - counts.input));
        let counts = at_most(&chat(&digits, Some(10)), &PRICE, 2_000);
        assert_eq!((counts.input, counts.output), (1_990, 10), "no prompt has more than the context");
        // Bytes that are no text arrive as three bytes each, and are counted as they arrive.
        assert!(at_most(&chat(&"\u{fffd}".repeat(1_000), Some(1)), &PRICE, 100_000).input >= 3_000);
    }

    #[test]
    fn every_prompt_of_several_counts_and_every_answer() {
        let sampling = Sampling { max_tokens: Some(5), n: 3, ..Sampling::default() };
        let prompts = vec![Prompt::Text("ab".into()), Prompt::Tokens(vec![1; 40])];
        let completion = Completion { prompts, echo: false, suffix: None, format: Default::default(), sampling };
        let request = InferenceRequest { task: InferenceTask::Completion(Box::new(completion)), stream: false };
        let counts = at_most(&request, &PRICE, 1_000);
        let input = u64::try_from(42 + 2 * TEXT_TOKENS).unwrap();
        assert_eq!(counts, TokenCounts { input, cached: 0, output: 30 });
        let remembered = TokenAsk { cached: UsdMicro(9_000_000), ..PRICE };
        assert_eq!(at_most(&request, &remembered, 1_000).cached, input, "whatever is asked the most for");
        let inputs = vec![Prompt::Text("abc".into())];
        let task = InferenceTask::Embedding(Embedding { inputs, dimensions: None });
        let counts = at_most(&InferenceRequest { task, stream: false }, &PRICE, 1_000);
        assert_eq!(counts, TokenCounts { input: u64::try_from(3 + TEXT_TOKENS).unwrap(), cached: 0, output: 0 });
    }

    #[test]
    fn pictures_and_what_is_written_anew_are_bounded_too() {
        let picture = message(Role::User, Content::Parts(vec![ContentPart::Image(vec![0; 9])]));
        let chat = Chat { messages: vec![picture], ..Chat::default() };
        assert_eq!(most_tokens(&chat), usize::MAX);
        let written = message(Role::Tool, Content::Text("\u{1}\"\n".repeat(100)));
        let chat = Chat { messages: vec![written], ..Chat::default() };
        let text = serde_json::to_string(&"\u{1}\"\n".repeat(100)).unwrap();
        assert!(most_tokens(&chat) >= text.len() + TEMPLATE_TOKENS);
        let call = ToolCall { id: "a".into(), name: "b".into(), arguments: "[1e15,2e15]".into() };
        let mut called = message(Role::Assistant, Content::Text(String::new()));
        called.tool_calls = vec![call];
        let chat = Chat { messages: vec![called], ..Chat::default() };
        assert!(most_tokens(&chat) >= "[\n1000000000000000.0,\n2000000000000000.0\n]".len());
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            ".{0,12}".prop_map(Into::into),
        ];
        leaf.prop_recursive(6, 64, 6, |inner| {
            let object = prop::collection::btree_map(".{0,6}", inner.clone(), 0..6);
            prop_oneof![
                prop::collection::vec(inner, 0..6).prop_map(Into::into),
                object.prop_map(|map| map.into_iter().collect::<serde_json::Map<_, _>>().into()),
            ]
        })
    }

    proptest! {
        #[test]
        fn json_written_anew_is_no_longer_than_thought(value in json()) {
            let text = value.to_string();
            let mut pretty = Vec::new();
            let spaces = [b' '; JSON_INDENT];
            let formatter = serde_json::ser::PrettyFormatter::with_indent(&spaces);
            serde::Serialize::serialize(&value, &mut serde_json::Serializer::with_formatter(&mut pretty, formatter)).unwrap();
            prop_assert!(json_bytes(&text) >= pretty.len(), "{text}");
            prop_assert!(quoted_bytes(&text) + 2 >= serde_json::to_string(&text).unwrap().len());
        }

        #[test]
        fn nothing_that_a_context_holds_costs_more(
            prompt in 0usize..3_000, max_tokens in prop::option::of(1u32..3_000), n in 1u16..5, context in 1u64..3_000,
            input in 0u64..3_000, output in 0u64..3_000, cached in 0u64..3_000,
            prices in (0u64..2_000_000, 0u64..2_000_000, 0u64..2_000_000),
        ) {
            let price = TokenAsk { input: UsdMicro(prices.0), cached: UsdMicro(prices.1), output: UsdMicro(prices.2) };
            let mut request = chat(&"x".repeat(prompt), max_tokens);
            if let InferenceTask::Chat(chat) = &mut request.task {
                chat.sampling.n = n;
            }
            let most = u64::try_from(prompt + TEMPLATE_TOKENS + FRAME_TOKENS).unwrap();
            let input = input.min(most).min(context);
            let each = output.min(max_tokens.map_or(u64::MAX, u64::from)).min(context - input);
            let counts = TokenCounts { input, cached: cached.min(input), output: each * u64::from(n) };
            prop_assert!(price.cost(at_most(&request, &price, context)) >= price.cost(counts));
        }
    }
}
