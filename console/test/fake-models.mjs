// The part of the fake Gateway that has models: a catalogue, deployments that come up step by step, answers that are
// streamed, and what they counted.

const PRICE = { input: 0.1, cached: 0.01, output: 0.4 };
const MIB = 1 << 20;
export const KEY = 'mk_test';
const CATALOG = [
  { name: 'tiny', about: 'random weights that write nonsense: for trying the machinery, in every form that it has', kind: 'chat', licence: 'Apache-2.0', parameters: 500_000, context: 2048, bytes: 2 * MIB, recipe: [{ engine: 'embedded', quantisation: 'F32', cpu_millis: 250 }], deployable: true, why: '' },
  { name: 'minilm', about: 'all-MiniLM-L6-v2: sentences to 384 numbers, near where they mean the like', kind: 'embedding', licence: 'Apache-2.0', parameters: 22_700_000, context: 512, bytes: 45_949_216, deployable: true, why: '' },
  { name: 'qwen3-0.6b', about: 'a small model that thinks first, in a hundred languages', kind: 'chat', licence: 'Apache-2.0', parameters: 600_000_000, context: 4096, bytes: 397_000_000, deployable: true, why: '' },
  { name: 'story', about: 'goes on with texts', kind: 'completion', licence: 'MIT', parameters: 15_000_000, context: 1024, bytes: null, deployable: true, why: '' },
  { name: 'llama-3.3-70b', about: 'large, and good at most things', kind: 'chat', licence: 'Llama 3.3', parameters: 70_600_000_000, context: 8192, bytes: 42_500_000_000, deployable: false, why: 'no Container here has 43 GiB of memory' },
];

export function fakeModels() {
  const deployments = new Map();
  const used = new Map();
  const fake = {
    deployments,
    /** What was asked under /v1, with whether its client went before the end. */
    asked: [],
    /** What was sent to deploy, scale and remove. */
    calls: [],
    /** What the next answers are like: { status, error, waitMs, reasoning, pieces, everyMs, failAfter, cutAfter, finish }. */
    answers: [],
    /** Milliseconds that each step of a deploy takes. */
    stepMs: 60,
    /** Steps of a deploy; each is laid over the deployment. */
    path: [
      { running: [replica('matching', 'a Container is looked for', null)] },
      { running: [replica('opening', 'the deposit is paid')] },
      { running: [replica('starting', 'the weights arrive: 1 of 2 MiB')] },
      { running: [replica('starting', 'the weights arrive: 2 of 2 MiB')] },
      { running: [replica('starting', 'the model is loaded')] },
      { running: [replica('ready', null)], ready: 1, price_usd: PRICE },
    ],
    deploy(name, kind, over = {}) {
      const known = deployments.get(name);
      const one = {
        id: `d${deployments.size}`, name, kind, version: (known?.version ?? 0) + 1, created_s: 1_790_000_000, shared: false, sha256: 'ab'.repeat(32),
        bytes: 2 * MIB, context: 2048, parallel: 4, replicas: { min: 1, max: 1, queue_ms: 1000, idle_ms: 300_000 }, wanted: 1, ready: 0, why: null, price_usd: null, running: [], ...over,
      };
      deployments.set(name, one);
      return one;
    },
    /** A deployment that answers. */
    ready: (name, kind, over = {}) => fake.deploy(name, kind, { ...fake.path.at(-1), ...over }),
    /** Forgets what was deployed and used. */
    clear: () => (deployments.clear(), used.clear()),
    usageOf: (model) => used.get(model),
    handle,
  };

  function replica(state, why, container = 'c7f2a9') {
    return { state, why, lease: container && `0x${'5e'.repeat(32)}`, container, engine: state === 'ready' ? 'llama.cpp b7000 (CPU)' : null, held: 0, input_tokens: 0, cached_tokens: 0, output_tokens: 0, paid: '0.000000 MUST' };
  }

  /** Answers a request, or says that it is somebody else's. */
  async function handle(request, response, pathname, body, send) {
    const v1 = pathname.startsWith('/v1/');
    if (!v1 && !/^\/api\/v1\/(models|catalog|keys)/.test(pathname)) return false;
    const refuse = (status, code, message, headers = {}) => {
      for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
      send(response, status, { error: { code, message } });
      return true;
    };
    const ok = (status, value) => (send(response, status, value), true);
    const { authorization } = request.headers;
    const onlyModels = authorization === 'Bearer mk_models';
    if (authorization !== `Bearer ${KEY}` && !(v1 && onlyModels)) {
      return v1 ? refuse(401, 'invalid_api_key', 'the API key is not known here, or it was revoked') : refuse(401, 'no_key', 'this needs an API key');
    }
    const at = `${request.method} ${pathname}`;
    if (at === 'GET /api/v1/catalog') return ok(200, CATALOG);
    if (at === 'GET /api/v1/models') return ok(200, [...deployments.values()]);
    if (at === 'POST /api/v1/models') return deployed(body, refuse, ok);
    if (at === 'POST /api/v1/keys') {
      fake.calls.push(['key', body]);
      return ok(201, { name: 'test-tiny-1', key: `mk_${'4f'.repeat(32)}` });
    }
    const [, escaped, verb] = /^\/api\/v1\/models\/([^/]+)(\/scale|\/logs)?$/.exec(pathname) ?? [];
    if (escaped !== undefined) {
      const name = decodeURIComponent(escaped);
      const one = deployments.get(name);
      if (one === undefined) return refuse(404, 'unknown_model', `there is no deployment ${JSON.stringify(name)}`);
      if (verb === '/logs') {
        const from = Number(new URL(request.url, 'http://x').searchParams.get('from'));
        const said = ['a replica is started', 'the model is loaded', 'it answers'];
        return ok(200, said.map((text, number) => ({ number, at_ms: 1_790_000_000_000 + number * 900, replica: number === 0 ? null : 1, from: number === 1 ? 'engine' : 'gateway', text })).slice(from));
      }
      fake.calls.push([verb ?? request.method, name, body]);
      if (request.method === 'DELETE') {
        deployments.delete(name);
        response.writeHead(204).end();
        return true;
      }
      if (verb !== undefined) Object.assign(one, { replicas: { ...one.replicas, ...body }, wanted: body.min });
      return ok(200, one);
    }
    if (at === 'GET /v1/models') {
      const shared = { id: 'house-model', owned_by: 'the-house', created: 1, object: 'model', context_length: 4096, price_usd_micro_per_million_tokens: { input: 100_000, cached: 10_000, output: 400_000 } };
      return ok(200, { object: 'list', data: [shared] });
    }
    if (at === 'GET /v1/usage') return ok(200, { object: 'list', data: [...used].map(([model, row]) => ({ model, month: '2026-11', key: 'k', ...row })) });
    return answer(request, response, pathname, body, refuse, ok);
  }

  function deployed(body, refuse, ok) {
    fake.calls.push(['deploy', body]);
    const entry = CATALOG.find(({ name }) => name === body.catalog);
    if (entry === undefined) return refuse(400, 'bad_model', `there is no model ${JSON.stringify(body.catalog)} in the catalogue`);
    const one = fake.deploy(body.name ?? entry.name, entry.kind, { replicas: body.replicas, wanted: body.replicas.min });
    if (one.wanted > 0) for (const [step, change] of fake.path.entries()) setTimeout(() => Object.assign(one, structuredClone(change)), (step + 1) * fake.stepMs);
    return ok(201, one);
  }

  function count(model, input, cached, output) {
    const row = used.get(model) ?? { requests: 0, input: 0, cached: 0, output: 0, usd_micro: 0 };
    const micro = Math.ceil(((input - cached) * 100_000 + cached * 10_000 + output * 400_000) / 1e6 - 1e-9);
    used.set(model, { requests: row.requests + 1, input: row.input + input, cached: row.cached + cached, output: row.output + output, usd_micro: row.usd_micro + micro });
    return { prompt_tokens: input, completion_tokens: output, total_tokens: input + output, prompt_tokens_details: { cached_tokens: cached } };
  }

  async function answer(request, response, pathname, body, refuse, ok) {
    const record = { path: pathname, body, gone: false, pieces: 0 };
    fake.asked.push(record);
    if (pathname === '/v1/embeddings') {
      const texts = [body.input].flat();
      const data = texts.map((text, index) => ({ object: 'embedding', index, embedding: vector(text) }));
      return ok(200, { object: 'list', model: body.model, data, usage: count(body.model, 6 * texts.length, 0, 0) });
    }
    const like = body.stream ? (fake.answers.shift() ?? {}) : {};
    if (like.status !== undefined) return refuse(like.status, like.error[0], like.error[1], like.headers);
    const chat = pathname === '/v1/chat/completions';
    const input = chat ? 7 + 5 * body.messages.length : 4;
    const cached = chat && body.messages.length > 1 ? 6 : 0;
    if (!body.stream) return ok(200, { choices: [{ index: 0, message: { role: 'assistant', content: 'x' }, finish_reason: 'length' }], usage: count(body.model, input, cached, 1) });
    const { pieces = ['Hello', ', ', 'this ', 'is ', 'an ', 'answer', '.'], reasoning = [], everyMs = 15, waitMs = 30, failAfter, cutAfter, finish = 'stop' } = like;
    response.on('close', () => (record.gone = !response.writableFinished));
    const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
    await wait(waitMs);
    response.writeHead(200, { 'Content-Type': 'text/event-stream; charset=utf-8', 'Cache-Control': 'no-cache' });
    const head = { id: 'chatcmpl-1', object: 'chat.completion.chunk', created: 1, model: body.model };
    const say = (choices, more = {}) => response.write(`data: ${JSON.stringify({ ...head, choices, ...more })}\n\n`);
    const all = [...reasoning.map((text) => ({ reasoning_content: text })), ...pieces.map((text) => ({ content: text }))];
    for (const [at, delta] of all.entries()) {
      if (record.gone) break;
      if (at === failAfter) {
        response.end(`data: ${JSON.stringify({ error: { message: 'the engine broke while it answered', type: 'server_error', param: null, code: 'service_unavailable' } })}\n\n`);
        count(body.model, input, cached, at);
        return true;
      }
      if (at === cutAfter) return response.destroy(), true;
      say([chat ? { index: 0, delta, finish_reason: null } : { index: 0, text: delta.content, finish_reason: null }]);
      record.pieces += 1;
      await wait(everyMs);
    }
    if (record.gone) {
      await wait(80);
      count(body.model, input, cached, record.pieces);
      return true;
    }
    say([chat ? { index: 0, delta: {}, finish_reason: finish } : { index: 0, text: '', finish_reason: finish }]);
    say([], { usage: count(body.model, input, cached, all.length) });
    response.end('data: [DONE]\n\n');
    return true;
  }

  /** Texts with the same words lie near each other; cats are kittens. */
  function vector(text) {
    const out = new Array(16).fill(0.02);
    const alike = { kitten: 'cat', couch: 'sofa', napping: 'sleeps' };
    for (const word of text.toLowerCase().match(/\w{3,}/g) ?? []) {
      const same = alike[word] ?? word;
      out[[...same].reduce((sum, letter) => (sum * 31 + letter.codePointAt(0)) % 15, 7)] += 1;
    }
    return out;
  }

  return fake;
}
