"""OpenAI's own client for Python, unmodified, against a Gateway: client.py BASE_URL KEY."""

import asyncio
import sys

import openai

BASE, KEY = sys.argv[1:]
SAID = 'Hello, "world"\né😀'
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]


def same(got, wanted):
    assert got == wanted, f"{got!r} is not {wanted!r}"


def chat(client):
    ask = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
    whole = client.chat.completions.create(**ask)
    same((whole.choices[0].message.content, whole.choices[0].finish_reason), (SAID, "stop"))
    assert whole._request_id.startswith("req_")
    pieces = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    same("".join(p.choices[0].delta.content or "" for p in pieces if p.choices), SAID)
    same(pieces[-1].usage, whole.usage)
    raw = client.chat.completions.with_raw_response.create(**ask)
    assert int(raw.headers["x-ratelimit-remaining-requests"]) > 0
    with client.chat.completions.stream(**ask) as stream:
        for _ in stream:
            pass
        same(stream.get_final_completion().choices[0].message.content, SAID)


def tools(client):
    ask = {"model": "tools", "messages": [{"role": "user", "content": "?"}], "tools": TOOLS}
    call = client.chat.completions.create(**ask).choices[0].message.tool_calls[0]
    same((call.id, call.function.name, call.function.arguments), ("call_a", "weather", '{"city":"Rome"}'))
    with client.chat.completions.stream(**ask) as stream:
        for _ in stream:
            pass
        same(stream.get_final_completion().choices[0].message.tool_calls[0].function.arguments, '{"city":"Rome"}')


def others(client):
    same([model.id for model in client.models.list()], ["broken", "tiny", "tools", "vectors"])
    same(client.models.retrieve("tiny").id, "tiny")
    same(client.completions.create(model="tiny", prompt="a").choices[0].text, SAID)
    pieces = client.completions.create(model="tiny", prompt="a", stream=True)
    same("".join(piece.choices[0].text for piece in pieces), SAID)
    # The client asks for base64 unless it is told otherwise.
    same(client.embeddings.create(model="vectors", input=["a"]).data[0].embedding, [1.0, 0.25])
    same(client.embeddings.create(model="vectors", input="a", encoding_format="float").data[0].embedding, [1.0, 0.25])


def responses(client):
    whole = client.responses.create(model="tiny", input="hi", instructions="be brief")
    same((whole.output_text, whole.status, whole.usage.output_tokens), (SAID, "completed", 3))
    events = list(client.responses.create(model="tiny", input="hi", stream=True))
    same("".join(e.delta for e in events if e.type == "response.output_text.delta"), SAID)
    same(events[-1].response.output_text, SAID)
    with client.responses.stream(model="tiny", input="hi") as stream:
        for _ in stream:
            pass
        same(stream.get_final_response().output_text, SAID)
    call = client.responses.create(model="tools", input="?", tools=[{"type": "function", "name": "weather", "parameters": {}, "strict": False}])
    same(call.output[0].arguments, '{"city":"Rome"}')


def errors(client):
    ask = {"messages": [{"role": "user", "content": "hi"}]}
    for model, extra, kind, code in [
        ("tinny", {}, openai.NotFoundError, "model_not_found"),
        ("tiny", {"temperature": 9}, openai.BadRequestError, "invalid_value"),
    ]:
        try:
            client.chat.completions.create(model=model, **ask, **extra)
            raise AssertionError("answered")
        except kind as error:
            same(error.code, code)
    try:
        openai.OpenAI(base_url=BASE, api_key="mk_wrong").models.list()
        raise AssertionError("answered")
    except openai.AuthenticationError as error:
        same(error.code, "invalid_api_key")
    try:
        for _ in client.chat.completions.create(model="broken", stream=True, **ask):
            pass
        raise AssertionError("ended as if it were whole")
    except openai.APIError as error:
        assert "script" in str(error), error


async def beside():
    client = openai.AsyncOpenAI(base_url=BASE, api_key=KEY)

    async def one():
        stream = await client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hi"}], stream=True)
        return "".join([piece.choices[0].delta.content or "" async for piece in stream])

    same(set(await asyncio.gather(*[one() for _ in range(32)])), {SAID})


client = openai.OpenAI(base_url=BASE, api_key=KEY, max_retries=0)
for part in (chat, tools, others, responses, errors):
    part(client)
asyncio.run(beside())
print("python", openai.__version__, "is content")
