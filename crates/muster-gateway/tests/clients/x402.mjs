// x402's own client for JavaScript, unmodified, against a Gateway that offers a model: x402.mjs BASE_URL PRIVATE_KEY NETWORK
// TOKEN.
// OpenAI's client asks through it, without a key.
import assert from 'node:assert/strict';
import { ExactEvmScheme } from '@x402/evm';
import { decodePaymentResponseHeader, wrapFetchWithPaymentFromConfig } from '@x402/fetch';
import OpenAI from 'openai';
import { privateKeyToAccount } from 'viem/accounts';

const [baseURL, privateKey, network, asset] = process.argv.slice(2);
const SAID = 'Hello, "world"\né😀';
const account = privateKeyToAccount(privateKey);
const paying = wrapFetchWithPaymentFromConfig(fetch, {
  schemes: [{ network: 'eip155:*', client: new ExactEvmScheme(account) }],
  // It pays in no token that it was not told of.
  spendControls: { allowedAssets: [{ network, asset }] },
});
const told = [];
const watched = async (...request) => {
  const response = await paying(...request);
  told.push(decodePaymentResponseHeader(response.headers.get('PAYMENT-RESPONSE')));
  return response;
};
const client = new OpenAI({
  baseURL,
  apiKey: 'none',
  defaultHeaders: { Authorization: null },
  maxRetries: 0,
  fetch: watched,
});
const messages = [{ role: 'user', content: 'hi' }];

const whole = await client.chat.completions.create({ model: 'tiny', messages, max_tokens: 20 });
assert.equal(whole.choices[0].message.content, SAID);
let said = '';
for await (const piece of await client.chat.completions.create({ model: 'tiny', messages, stream: true })) {
  said += piece.choices[0]?.delta?.content ?? '';
}
assert.equal(said, SAID);
assert.equal(told.length, 2);
for (const { success, payer, transaction, network: on } of told) {
  assert.equal(success, true);
  assert.equal(payer.toLowerCase(), account.address.toLowerCase());
  assert.match(transaction, /^0x[0-9a-f]{64}$/);
  assert.equal(on, network);
}
assert.notEqual(told[0].transaction, told[1].transaction);
console.log('x402 for JavaScript is content');
