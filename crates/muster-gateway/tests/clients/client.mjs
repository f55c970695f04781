// OpenAI's own client for JavaScript, unmodified, against a Gateway: client.mjs BASE_URL KEY.
import assert from 'node:assert/strict';
import OpenAI from 'openai';

const [baseURL, apiKey] = process.argv.slice(2);
const SAID = 'Hello, "world"\né😀';
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const messages = [{ role: 'user', content: 'hi' }];

const whole = await client.chat.completions.create({ model: 'tiny', messages });
assert.equal(whole.choices[0].message.content, SAID);
let said = '';
let usage;
const options = { stream: true, stream_options: { include_usage: true } };
for await (const piece of await client.chat.completions.create({ model: 'tiny', messages, ...options })) {
  said += piece.choices[0]?.delta?.content ?? '';
  usage = piece.usage ?? usage;
}
assert.equal(said, SAID);
assert.deepEqual(usage, whole.usage);

const tools = [{ type: 'function', function: { name: 'weather', parameters: { type: 'object', properties: {} } } }];
const called = await client.chat.completions.stream({ model: 'tools', messages, tools }).finalChatCompletion();
assert.equal(called.choices[0].message.tool_calls[0].function.arguments, '{"city":"Rome"}');

const models = [];
for await (const model of client.models.list()) models.push(model.id);
assert.deepEqual(models, ['broken', 'tiny', 'tools', 'vectors']);
assert.equal((await client.completions.create({ model: 'tiny', prompt: 'a' })).choices[0].text, SAID);
for (const extra of [{}, { encoding_format: 'float' }]) {
  const placed = await client.embeddings.create({ model: 'vectors', input: 'a', ...extra });
  assert.deepEqual(placed.data[0].embedding, [1, 0.25]);
}

const response = await client.responses.create({ model: 'tiny', input: 'hi' });
assert.equal(response.output_text, SAID);
const kinds = [];
let last;
for await (const event of await client.responses.create({ model: 'tiny', input: 'hi', stream: true })) {
  kinds.push(event.type);
  last = event;
}
assert.equal(kinds[0], 'response.created');
assert.equal(last.response.output[0].content[0].text, SAID);
const final = await client.responses.stream({ model: 'tiny', input: 'hi' }).finalResponse();
assert.equal(final.output[0].content[0].text, SAID);

await assert.rejects(
  client.chat.completions.create({ model: 'tinny', messages }),
  (error) => error instanceof OpenAI.NotFoundError && error.code === 'model_not_found',
);
await assert.rejects(
  new OpenAI({ baseURL, apiKey: 'mk_wrong' }).models.list(),
  (error) => error instanceof OpenAI.AuthenticationError && error.code === 'invalid_api_key',
);
await assert.rejects(async () => {
  for await (const piece of await client.chat.completions.create({ model: 'broken', messages, stream: true })) void piece;
}, OpenAI.APIError);

// Whoever stops listening takes nothing else with it.
const stream = await client.chat.completions.create({ model: 'tiny', messages, stream: true });
for await (const piece of stream) {
  void piece;
  stream.controller.abort();
  break;
}
console.log('javascript is content');
