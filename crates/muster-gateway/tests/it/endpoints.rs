use base64::Engine as _;
use muster_core::inference::{
    Content, ContentPart, Finish, InferenceEvent, InferenceTask, Part, Role, TokenLogprob, ToolCallPiece,
};
use muster_core::units::UsdMicro;
use muster_gateway::{Access, KeyTerms, Scope};
use serde_json::{Value, json};

use crate::rig::{PRICE, PROMPT, Rig, Scripted, Step, deployment, finished, request, said};

const HELLO: &str = "Hello, \"world\"\né😀";

fn chat(extra: Value) -> Value {
    let mut body = json!({ "model": "tiny", "messages": [{ "role": "user", "content": "hi" }] });
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn conversations_are_the_same_whole_and_streamed() {
    let (rig, seen) = Rig::hello().await;
    let reply = rig.ask("/v1/chat/completions", &chat(json!({}))).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let whole = reply.json();
    assert_eq!(whole["object"], "chat.completion");
    assert_eq!(whole["model"], "tiny");
    assert_eq!(whole["choices"][0]["message"], json!({"role": "assistant", "content": HELLO, "refusal": null}));
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    let usage = json!({"prompt_tokens": PROMPT, "completion_tokens": 3, "total_tokens": PROMPT + 3,
        "prompt_tokens_details": {"cached_tokens": 2}});
    assert_eq!(whole["usage"], usage);
    for name in
        ["limit-requests", "remaining-requests", "reset-requests", "limit-tokens", "remaining-tokens", "reset-tokens"]
    {
        assert!(reply.header(&format!("x-ratelimit-{name}")).is_some(), "{name}: {reply:?}");
    }
    assert!(reply.header("x-request-id").is_some());

    let reply = rig.ask("/v1/chat/completions", &chat(json!({"stream": true}))).await;
    assert!(reply.header("content-type").unwrap().starts_with("text/event-stream"));
    let events = reply.events();
    assert_eq!(events.last().unwrap(), "[DONE]");
    let pieces = &events[..events.len() - 1];
    assert!(pieces.iter().all(|piece| piece["object"] == "chat.completion.chunk" && piece.get("usage").is_none()));
    assert_eq!(pieces[0]["choices"][0]["delta"]["role"], "assistant");
    let said: String = pieces.iter().filter_map(|piece| piece["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(said, HELLO);
    assert_eq!(pieces.last().unwrap()["choices"][0]["finish_reason"], "stop");

    let body = chat(json!({"stream": true, "stream_options": {"include_usage": true}}));
    let events = rig.ask("/v1/chat/completions", &body).await.events();
    let counted = &events[events.len() - 2];
    assert_eq!((&counted["choices"], &counted["usage"]), (&json!([]), &usage));
    assert!(events[..events.len() - 2].iter().all(|piece| piece["usage"].is_null()));

    rig.idle().await;
    let told = *seen.told.lock().unwrap();
    let (requests, billed, cost) = rig.billed().await;
    assert_eq!((requests, billed), (3, told), "each is billed once, by the engine's count");
    assert_eq!(cost, 3 * PRICE.cost(muster_core::inference::TokenCounts { input: PROMPT, cached: 2, output: 3 }).0);
}

#[tokio::test]
async fn what_was_asked_arrives_at_the_engine() {
    let (rig, seen) = Rig::hello().await;
    let picture = base64::engine::general_purpose::STANDARD.encode(b"not really a png");
    let body = json!({
        "model": "tiny", "max_completion_tokens": 9, "temperature": 0.25, "top_p": 0.5, "top_k": 40, "min_p": 0.1, "seed": -1,
        "stop": "END", "logit_bias": {"17": -100}, "frequency_penalty": 0.5, "presence_penalty": -0.5,
        "repetition_penalty": 1.1, "ignore_eos": true, "n": 1, "user": "me", "metadata": {"a": "b"}, "store": true,
        "something_new": {"x": [1]}, "parallel_tool_calls": false, "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}},
        "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": true}}],
        "messages": [
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "look"},
                {"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{picture}")}}]},
            {"role": "assistant", "content": null, "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "done"}
        ]
    });
    let reply = rig.ask("/v1/chat/completions", &body).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let asked = seen.asked.lock().unwrap().pop().unwrap();
    let InferenceTask::Chat(chat) = asked.task else { panic!("no chat") };
    let roles: Vec<_> = chat.messages.iter().map(|message| message.role).collect();
    assert_eq!(roles, [Role::System, Role::User, Role::Assistant, Role::Tool]);
    let parts = vec![ContentPart::Text("look".into()), ContentPart::Image(b"not really a png".to_vec())];
    assert_eq!(chat.messages[1].content, Content::Parts(parts));
    assert_eq!(chat.messages[2].tool_calls[0].arguments, "{}");
    assert_eq!(chat.messages[3].tool_call_id.as_deref(), Some("c1"));
    assert_eq!((chat.tools[0].parameters.as_str(), chat.tools[0].strict), ("{\"type\":\"object\"}", true));
    let sampling = &chat.sampling;
    assert_eq!((sampling.max_tokens, sampling.seed, sampling.top_k), (Some(9), Some(u64::MAX), 40));
    assert_eq!(
        (sampling.stop.as_slice(), sampling.logit_bias.as_slice()),
        (&["END".to_owned()][..], &[(17, -100.0)][..])
    );
    assert!(sampling.ignore_eos && !chat.parallel_tool_calls && !asked.stream);
}

#[tokio::test]
async fn tools_reasoning_and_several_answers_are_told() {
    let rig = Rig::new().await;
    let call = |index, id: Option<&str>, arguments: &str| {
        let piece = ToolCallPiece {
            index,
            id: id.map(str::to_owned),
            name: id.map(|_| "weather".to_owned()),
            arguments: arguments.to_owned(),
        };
        Step::Say(InferenceEvent::ToolCall { choice: 0, piece })
    };
    let steps = move || {
        vec![
            said(0, Part::Reasoning, "hm"),
            call(0, Some("call_a"), ""),
            call(0, None, "{\"city\":"),
            call(0, None, "\"Rome\"}"),
            call(1, Some("call_b"), "{}"),
            finished(0, Finish::ToolCalls),
            said(1, Part::Answer, "second"),
            finished(1, Finish::Length),
        ]
    };
    rig.add("tiny", Scripted::new(move |_| steps()));
    let tools = json!([{"type": "function", "function": {"name": "weather"}}]);
    let whole = rig.ask("/v1/chat/completions", &chat(json!({"n": 2, "tools": tools}))).await.json();
    let message = &whole["choices"][0]["message"];
    assert_eq!((&message["content"], &message["reasoning_content"]), (&Value::Null, &json!("hm")));
    assert_eq!(message["tool_calls"][0]["function"], json!({"name": "weather", "arguments": "{\"city\":\"Rome\"}"}));
    assert_eq!(message["tool_calls"][1]["id"], "call_b");
    assert_eq!(whole["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!(whole["choices"][1]["message"]["content"], "second");
    assert_eq!(whole["choices"][1]["finish_reason"], "length");
    let events = rig.ask("/v1/chat/completions", &chat(json!({"n": 2, "tools": tools, "stream": true}))).await.events();
    let arguments: String = events
        .iter()
        .flat_map(|event| event["choices"][0]["delta"]["tool_calls"].as_array().into_iter().flatten())
        .filter(|call| call["index"] == 0)
        .filter_map(|call| call["function"]["arguments"].as_str())
        .collect();
    assert_eq!(arguments, "{\"city\":\"Rome\"}");

    // The same by the Responses API.
    let tools = json!([{"type": "function", "name": "weather", "parameters": {"type": "object"}}]);
    let body = json!({"model": "tiny", "input": "?", "tools": tools});
    let whole = rig.ask("/v1/responses", &body).await.json();
    let kinds: Vec<_> = whole["output"].as_array().unwrap().iter().map(|item| item["type"].clone()).collect();
    assert_eq!(kinds, ["reasoning", "function_call", "function_call"], "{whole}");
    assert_eq!(whole["output"][1]["arguments"], "{\"city\":\"Rome\"}");
    assert_eq!(whole["output"][2]["call_id"], "call_b");
}

#[tokio::test]
async fn texts_are_gone_on_with() {
    let rig = Rig::new().await;
    let logprobs = |text: &str| TokenLogprob {
        id: 1,
        bytes: text.as_bytes().to_vec(),
        logprob: -0.5,
        top: vec![(1, text.as_bytes().to_vec(), -0.5), (2, vec![0xff], -1.5)],
    };
    let seen = rig.add(
        "tiny",
        Scripted::new(move |_| {
            let piece = |choice, text: &str| {
                let logprobs = vec![logprobs(text)];
                Step::Say(InferenceEvent::Text { choice, part: Part::Answer, text: text.to_owned(), logprobs })
            };
            vec![piece(0, "ab"), piece(0, "c"), finished(0, Finish::Stop), piece(1, "d"), finished(1, Finish::Length)]
        }),
    );
    let body = json!({"model": "tiny", "prompt": ["one", "two"], "logprobs": 2});
    let whole = rig.ask("/v1/completions", &body).await.json();
    assert_eq!((&whole["object"], &whole["choices"][0]["text"]), (&json!("text_completion"), &json!("abc")));
    assert_eq!(
        whole["choices"][1],
        json!({"index": 1, "text": "d", "finish_reason": "length", "logprobs":
        {"tokens": ["d"], "token_logprobs": [-0.5], "top_logprobs": [{"d": -0.5, "\u{fffd}": -1.5}], "text_offset": [0]}})
    );
    assert_eq!(whole["choices"][0]["logprobs"]["text_offset"], json!([0, 2]));
    let asked = seen.asked.lock().unwrap().pop().unwrap();
    assert_eq!(asked.sampling().unwrap().max_tokens, Some(16), "what OpenAI takes where nothing is said");
    let body =
        json!({"model": "tiny", "prompt": [[1, 2], [3]], "stream": true, "stream_options": {"include_usage": true}});
    let events = rig.ask("/v1/completions", &body).await.events();
    let of = |choice: u64| -> String {
        let mine = events.iter().filter(|event| event["choices"][0]["index"] == choice);
        mine.filter_map(|event| event["choices"][0]["text"].as_str()).collect()
    };
    assert_eq!((of(0), of(1)), ("abc".to_owned(), "d".to_owned()));
    assert_eq!(events[events.len() - 2]["usage"]["completion_tokens"], 3);
    let chat = chat(json!({"logprobs": true, "top_logprobs": 2}));
    let whole = rig.ask("/v1/chat/completions", &chat).await.json();
    let first = &whole["choices"][0]["logprobs"]["content"][0];
    assert_eq!(
        (&first["token"], &first["bytes"], &first["top_logprobs"][1]["bytes"]),
        (&json!("ab"), &json!([97, 98]), &json!([255]))
    );
}

#[tokio::test]
async fn embeddings_come_as_numbers_and_as_base64() {
    let rig = Rig::new().await;
    rig.add(
        "tiny",
        Scripted::new(|_| {
            let one = |index, vector: Vec<f32>| Step::Say(InferenceEvent::Embedding { index, vector });
            vec![one(1, vec![0.5, -2.0]), one(0, vec![1.0, 0.25])]
        }),
    );
    let whole = rig.ask("/v1/embeddings", &json!({"model": "tiny", "input": ["a", "b"]})).await.json();
    assert_eq!(whole["data"][0]["embedding"], json!([1.0, 0.25]));
    assert_eq!(whole["usage"], json!({"prompt_tokens": PROMPT, "total_tokens": PROMPT}));
    let body = json!({"model": "tiny", "input": ["a", "b"], "encoding_format": "base64", "dimensions": 2});
    let whole = rig.ask("/v1/embeddings", &body).await.json();
    let bytes =
        base64::engine::general_purpose::STANDARD.decode(whole["data"][1]["embedding"].as_str().unwrap()).unwrap();
    assert_eq!(bytes, [0.5_f32.to_le_bytes(), (-2.0_f32).to_le_bytes()].concat());
}

#[tokio::test]
async fn the_responses_api_tells_its_events_in_order() {
    let (rig, seen) = Rig::hello().await;
    let body = json!({"model": "tiny", "instructions": "be\nbrief", "stream": true, "metadata": {"k": "v"}, "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "done"}]});
    let events = rig.ask("/v1/responses", &body).await.events();
    let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(
        kinds,
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.delta",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed"
        ]
    );
    assert!(events.iter().enumerate().all(|(at, event)| event["sequence_number"] == at));
    let response = &events.last().unwrap()["response"];
    assert_eq!(response["output"][0]["content"][0]["text"], HELLO);
    assert_eq!((&response["status"], &response["usage"]["output_tokens"]), (&json!("completed"), &json!(3)));
    assert_eq!((&response["instructions"], &response["metadata"]), (&json!("be\nbrief"), &json!({"k": "v"})));
    let InferenceTask::Chat(chat) = seen.asked.lock().unwrap().pop().unwrap().task else { panic!("no chat") };
    let roles: Vec<_> = chat.messages.iter().map(|message| message.role).collect();
    assert_eq!(roles, [Role::System, Role::User, Role::Assistant, Role::Tool]);
    let whole = rig.ask("/v1/responses", &json!({"model": "tiny", "input": "hi"})).await.json();
    assert_eq!((&whole["object"], &whole["output"][0]["content"][0]["text"]), (&json!("response"), &json!(HELLO)));
    for (field, value) in [("previous_response_id", json!("resp_1")), ("background", json!(true))] {
        let body = json!({"model": "tiny", "input": "hi", field: value});
        assert_eq!(rig.ask("/v1/responses", &body).await.error(400, "unsupported_value")["param"], field);
    }
}

#[tokio::test]
async fn models_are_listed_for_who_may_ask_them() {
    let (rig, _) = Rig::hello().await;
    rig.api
        .models()
        .deploy(muster_gateway::Deployment { access: Access::Owner, ..deployment("org/private:1") })
        .unwrap();
    let listed = rig.get("/v1/models").await.json();
    assert_eq!(listed["data"].as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(rig.get("/v1/models/tiny").await.json()["id"], "tiny");
    let error = rig.get("/v1/models/org/private:1").await.error(404, "model_not_found");
    assert!(error["message"].as_str().unwrap().contains("tiny"), "{error}");
    let owner = rig.key_of("other", KeyTerms { account: Some("owner".into()), ..KeyTerms::default() });
    let as_owner = |path| rig.raw_get(&owner, path);
    assert_eq!(as_owner("/v1/models/org/private:1").await.json()["owned_by"], "owner");
    let reply = rig.ask("/v1/chat/completions", &chat(json!({"model": "tinny"}))).await;
    let error = reply.error(404, "model_not_found");
    assert_eq!((&error["param"], &error["type"]), (&json!("model"), &json!("invalid_request_error")));
    assert!(error["message"].as_str().unwrap().contains("did you mean tiny"), "{error}");
    let reply = rig.ask_as(&owner, "/v1/chat/completions", &chat(json!({"model": "org/private:1"}))).await;
    assert_eq!(reply.error(503, "service_unavailable")["type"], "server_error");
    assert_eq!(reply.header("retry-after"), Some("5"));
    rig.get("/v1/nothing").await.error(404, "unknown_url");
    rig.get("/v1/chat/completions").await.error(405, "method_not_allowed");
}

#[tokio::test]
async fn keys_open_what_they_may_and_no_more() {
    let (rig, _) = Rig::hello().await;
    let ask = |key: String| {
        let rig = &rig;
        async move { rig.ask_as(&key, "/v1/chat/completions", &chat(json!({}))).await }
    };
    ask("mk_wrong".into()).await.error(401, "invalid_api_key");
    let none = rig.raw(&request(rig.at, "POST", "/v1/chat/completions", &[], b"{}")).await;
    assert!(none.error(401, "invalid_api_key")["message"].as_str().unwrap().contains("muster api-key new"));
    let good = rig.key_of("good", KeyTerms::default());
    assert_eq!(ask(good.clone()).await.status, 200);
    assert!(rig.keys.revoke("good").unwrap());
    ask(good).await.error(401, "invalid_api_key");
    let expired = rig.key_of("expired", KeyTerms { expires_s: Some(1), ..KeyTerms::default() });
    assert!(ask(expired).await.error(401, "invalid_api_key")["message"].as_str().unwrap().contains("expired"));
    let scoped = rig.key_of("scoped", KeyTerms { scopes: vec![Scope::Sessions], ..KeyTerms::default() });
    ask(scoped).await.error(403, "scope_missing");
    let other = rig.key_of("other", KeyTerms { models: vec!["big".into()], ..KeyTerms::default() });
    ask(other).await.error(404, "model_not_found");
    let slow = rig.key_of("slow", KeyTerms { requests_per_minute: Some(1), ..KeyTerms::default() });
    assert_eq!(ask(slow.clone()).await.status, 200);
    let refused = ask(slow).await;
    assert_eq!(refused.error(429, "rate_limit_exceeded")["type"], "requests");
    assert!(refused.header("retry-after").is_some() && refused.header("x-ratelimit-remaining-requests") == Some("0"));
    let poor = rig.key_of("poor", KeyTerms { budget_usd_micro: Some(UsdMicro(5)), ..KeyTerms::default() });
    let error = ask(poor).await.error(429, "insufficient_quota");
    assert!(error["message"].as_str().unwrap().contains("budget of this key is $0.000005"), "{error}");
    // A key that another process has made is known at once.
    let aside = muster_gateway::KeyStore::open(&rig.dir.path().join("api-keys.json")).unwrap();
    assert_eq!(ask(aside.create("aside").unwrap()).await.status, 200);
}

#[tokio::test]
async fn without_a_till_nothing_is_offered_to_who_has_no_key() {
    let (rig, seen) = Rig::hello().await;
    let offered = muster_gateway::Deployment { access: Access::Offered, ..deployment("tiny") };
    rig.api.models().deploy(offered).unwrap();
    let body = chat(json!({"max_tokens": 10})).to_string();
    let reply = rig.raw(&request(rig.at, "POST", "/v1/chat/completions", &[], body.as_bytes())).await;
    reply.error(401, "invalid_api_key");
    assert!(seen.asked.lock().unwrap().is_empty(), "nothing was done for it");
    assert_eq!(rig.ask("/v1/chat/completions", &chat(json!({}))).await.status, 200, "a key opens it");
}

#[tokio::test]
async fn wrong_requests_are_told_where_they_are_wrong() {
    let (rig, seen) = Rig::hello().await;
    let ask = |body: Vec<u8>| {
        let rig = &rig;
        let headers = format!("Bearer {}", rig.key);
        async move { rig.raw(&request(rig.at, "POST", "/v1/chat/completions", &[("authorization", &headers)], &body)).await }
    };
    let error = ask(b"{\n  \"model\": }".to_vec()).await.error(400, "invalid_json");
    assert!(error["message"].as_str().unwrap().contains("line 2 column 12"), "{error}");
    let error = ask(b"{\"a\":\n\"\xff\"}".to_vec()).await.error(400, "invalid_json");
    assert!(error["message"].as_str().unwrap().contains("line 2, column 2"), "{error}");
    ask(b"[1]".to_vec()).await.error(400, "invalid_json");
    ask(Vec::new()).await.error(400, "invalid_json");
    let deep = [b"{\"model\":".to_vec(), vec![b'['; 100_000]].concat();
    ask(deep).await.error(400, "invalid_json");
    for (extra, param, word) in [
        (json!({"temperature": "hot"}), "temperature", "a string"),
        (json!({"temperature": 3}), "temperature", "from 0 to 2"),
        (json!({"max_tokens": -1}), "max_tokens", "whole number"),
        (json!({"messages": []}), "messages", "one message"),
        (json!({"messages": [{"role": "user", "content": 5}]}), "messages[0].content", "must be"),
        (json!({"messages": [{"role": "nobody", "content": ""}]}), "messages[0].role", "nobody"),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "video"}]}]}),
            "messages[0].content[0].type",
            "video",
        ),
        (json!({"messages": [["user", "hi"]]}), "messages[0]", "an object"),
        (json!({"functions": []}), "functions", "tools"),
        (json!({"tools": [{"type": "function", "function": {}}]}), "tools[0].function.name", "missing"),
        (json!({"tool_choice": "f"}), "tool_choice", "none, auto, required"),
        (json!({"stream_options": {}}), "stream_options", "stream"),
        (json!({"n": 99}), "n", "from 1 to 16"),
        (json!({"logit_bias": {"x": 1}}), "logit_bias", "numbers"),
        (json!({"response_format": {"type": "xml"}}), "response_format.type", "json_schema"),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://10.0.0.1/x"}}]}]}),
            "messages[0].content[0].image_url",
            "data: URL",
        ),
    ] {
        let reply = ask(chat(extra).to_string().into_bytes()).await;
        assert_eq!(reply.status, 400, "{param}: {}", reply.body);
        let error = reply.json()["error"].clone();
        assert_eq!((&error["param"], &error["type"]), (&json!(param), &json!("invalid_request_error")), "{error}");
        assert!(error["message"].as_str().unwrap().contains(word), "{word}: {error}");
    }
    assert!(seen.asked.lock().unwrap().is_empty());
    let bare = muster_gateway::Deployment { abilities: muster_engine::Abilities::default(), ..deployment("tiny") };
    rig.api.models().deploy(bare).unwrap();
    ask(chat(json!({})).to_string().into_bytes()).await.error(400, "unsupported_value");
}
