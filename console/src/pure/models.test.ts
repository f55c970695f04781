import { describe, expect, it } from 'vitest';
import { advice } from './advice';
import { countsOf, pieceOf, speed } from './answer';
import { likeness, pairs } from './likeness';
import { inline, markdown } from './markdown';
import { costMicro, dollars, priceShort, priceWords } from './money';
import { bytes, many } from './sizes';
import { PLACEHOLDER, snippet, type Asked } from './snippets';
import { SseReader } from './sse';
import { standingWords, stepNow, withStep, type Standing, type Step } from './steps';

describe('server-sent events', () => {
  const text = 'data: {"a":1}\n\n: a comment\r\ndata: one\r\ndata:two\r\n\r\nevent: x\nid: 3\n\ndata\n\ndata: [DONE]\n\n';
  const whole = ['{"a":1}', 'one\ntwo', '', '[DONE]'];

  it('are read whole', () => expect(new SseReader().push(text)).toEqual(whole));

  it('are read the same wherever the text is cut', () => {
    for (let cut = 0; cut <= text.length; cut += 1) {
      const reader = new SseReader();
      expect([...reader.push(text.slice(0, cut)), ...reader.push(''), ...reader.push(text.slice(cut))]).toEqual(whole);
    }
    const reader = new SseReader();
    expect([...text].flatMap((letter) => reader.push(letter))).toEqual(whole);
  });

  it('do not end with the text, and may not be endless', () => {
    const reader = new SseReader();
    expect(reader.push('data: half')).toEqual([]);
    expect(() => reader.push('x'.repeat(5 * 1024 * 1024))).toThrow('longer than');
  });
});

describe('pieces of an answer', () => {
  it('bring text, thoughts and how it ended', () => {
    expect(pieceOf('{"choices":[{"delta":{"role":"assistant","content":"Hi"},"finish_reason":null}]}')).toMatchObject({ text: 'Hi', reasoning: '', finish: null });
    expect(pieceOf('{"choices":[{"delta":{"reasoning_content":"hm"}}]}')).toMatchObject({ text: '', reasoning: 'hm' });
    expect(pieceOf('{"choices":[{"text":"on","finish_reason":"length"}]}')).toMatchObject({ text: 'on', finish: 'length' });
  });

  it('bring counts', () => {
    const usage = { prompt_tokens: 9, completion_tokens: 4, prompt_tokens_details: { cached_tokens: 3 } };
    expect(pieceOf(JSON.stringify({ choices: [], usage }))?.counts).toEqual({ input: 9, cached: 3, output: 4 });
    expect(countsOf(null)).toBeNull();
    expect(countsOf({ prompt_tokens: 'x' })).toEqual({ input: 0, cached: 0, output: 0 });
  });

  it('bring errors, and are not mistaken for something else', () => {
    expect(pieceOf('{"error":{"message":"the engine broke","code":"service_unavailable"}}')?.error).toEqual({
      code: 'service_unavailable',
      message: 'the engine broke',
    });
    for (const bad of ['', '{', '[]', '3', 'null']) expect(pieceOf(bad)).toBeNull();
    expect(pieceOf('{"choices":[null]}')).toMatchObject({ text: '', finish: null });
  });

  it('come at a speed', () => {
    expect(speed(11, 100, 1100)).toBe(10);
    expect(speed(1, 100, 1100)).toBeNull();
    expect(speed(5, null, 3)).toBeNull();
    expect(speed(5, 3, 3)).toBeNull();
  });
});

describe('money', () => {
  const price = { input: 0.1, cached: 0.01, output: 0.4 };

  it('is counted as the Gateway counts it', () => {
    // The same figures as in the tests of muster_core::inference::TokenAsk.
    expect(costMicro({ input: 1_000_000, cached: 0, output: 0 }, price)).toBe(100_000);
    expect(costMicro({ input: 1_000_000, cached: 1_000_000, output: 1_000_000 }, price)).toBe(410_000);
    expect(costMicro({ input: 1, cached: 0, output: 0 }, price)).toBe(1);
    expect(costMicro({ input: 0, cached: 5, output: 0 }, price)).toBe(0);
    expect(costMicro({ input: 30, cached: 10, output: 7 }, price)).toBe(5);
  });

  it('is written as money', () => {
    expect([0, 1, 410_000, 1_500_000, 123_456_789].map(dollars)).toEqual(['$0.00', '$0.000001', '$0.41', '$1.50', '$123.45']);
    expect(priceWords(price)).toBe('$0.10 in · $0.01 cached · $0.40 out');
    expect(priceWords({ input: 0.000004, cached: 0, output: 12.5 })).toBe('$0.000004 in · $0.00 cached · $12.50 out');
    expect(priceWords(price, false)).toBe('$0.10');
    expect(priceShort(price, false)).toBe('$0.10');
    expect(priceShort(price)).toBe('$0.10 in, $0.40 out');
    expect(priceWords(null)).toBe('told when it runs');
  });
});

describe('sizes', () => {
  it('are written as people read them', () => {
    expect([0, 1023, 1024, 45_949_216, 397_000_000, 42_500_000_000, 2 ** 60].map(bytes)).toEqual(['0 B', '1023 B', '1 KiB', '43.8 MiB', '379 MiB', '39.6 GiB', '1048576 TiB']);
    expect([12, 500_000, 22_700_000, 70_600_000_000].map(many)).toEqual(['12', '500 K', '22.7 M', '70.6 B']);
  });
});

describe('likeness', () => {
  it('is the angle', () => {
    expect(likeness([1, 0], [2, 0])).toBe(1);
    expect(likeness([1, 0], [0, 3])).toBe(0);
    expect(likeness([1, 2], [-1, -2])).toBeCloseTo(-1, 12);
    expect(likeness([1, 0], [1, 1])).toBeCloseTo(Math.SQRT1_2, 12);
    expect(likeness([0, 0], [1, 1])).toBe(0);
    expect(() => likeness([1], [1, 2])).toThrow('cannot be compared');
  });

  it('ranks pairs', () => {
    const found = pairs([
      [1, 0],
      [0, 1],
      [0.1, 1],
    ]);
    expect(found.map(({ a, b }) => [a, b])).toEqual([
      [1, 2],
      [0, 2],
      [0, 1],
    ]);
  });
});

describe('snippets', () => {
  const asked: Asked = {
    origin: 'http://127.0.0.1:8600',
    model: 'tiny',
    kind: 'chat',
    key: PLACEHOLDER,
    prompt: `It's "so"\n`,
    system: '',
    temperature: null,
    maxTokens: null,
  };

  it('are for a shell, which is told everything literally', () => {
    const text = snippet('curl', asked);
    expect(text).toContain(`curl -N 'http://127.0.0.1:8600/v1/chat/completions' \\\n`);
    expect(text).toContain(`-H 'Authorization: Bearer ${PLACEHOLDER}'`);
    expect(text).toContain(`"content": "It'\\''s \\"so\\"\\n"`);
    const body = text.slice(text.indexOf("-d '") + 4, -1).replaceAll(`'\\''`, "'");
    expect(JSON.parse(body)).toEqual({ model: 'tiny', messages: [{ role: 'user', content: `It's "so"\n` }], stream: true });
  });

  it('are for Python and JavaScript, with what was set', () => {
    const set = { ...asked, system: 'Be short.', temperature: 0.2, maxTokens: 64 };
    const python = snippet('python', set);
    expect(python).toContain('OpenAI(\n    base_url="http://127.0.0.1:8600/v1",\n    api_key="YOUR_API_KEY",\n)');
    expect(python).toContain('    messages=[{"role": "system", "content": "Be short."}, {"role": "user", "content": "It\'s \\"so\\"\\n"}],');
    expect(python).toContain('    temperature=0.2,\n    max_tokens=64,\n    stream=True,');
    expect(python).toContain('event.choices[0].delta.content');
    const javascript = snippet('javascript', set);
    expect(javascript).toContain('new OpenAI({\n  baseURL: "http://127.0.0.1:8600/v1",\n  apiKey: "YOUR_API_KEY",\n})');
    expect(javascript).toContain('  max_tokens: 64,\n  stream: true,');
    expect(javascript).toContain('choices[0]?.delta?.content');
  });

  it('ask each kind where it answers', () => {
    expect(snippet('curl', { ...asked, kind: 'embedding' })).toContain('/v1/embeddings');
    expect(snippet('curl', { ...asked, kind: 'embedding' })).not.toContain('stream');
    expect(snippet('python', { ...asked, kind: 'embedding' })).toContain('client.embeddings.create(model="tiny", input=[');
    expect(snippet('javascript', { ...asked, kind: 'completion' })).toContain('client.completions.create({\n  model: "tiny",\n  prompt: ');
    expect(snippet('python', { ...asked, kind: 'completion' })).toContain('choices[0].text');
  });
});

describe('steps of a deployment', () => {
  const nothing: Standing = { wanted: 1, ready: 0, why: null, running: [] };
  const at = (state: string, why: string | null = null): Standing => ({ ...nothing, running: [{ state, why }] });

  it('are told one after the other, with numbers growing in place', () => {
    const seen = [
      nothing,
      at('matching'),
      at('matching', 'a Container is looked for'),
      at('opening', 'the deposit is paid'),
      at('starting', 'sending the weights: 3.5 of 20 MiB'),
      at('starting', 'sending the weights: 12 of 20 MiB'),
      at('starting', 'loading the model'),
      { ...at('ready'), ready: 1 },
    ];
    let steps: readonly Step[] = [];
    for (const [index, standing] of seen.entries()) steps = withStep(steps, standing, index * 100);
    expect(steps.map(({ text, atMs }) => `${atMs} ${text}`)).toEqual([
      '0 Looking for a Container',
      '300 Opening the lease: the deposit is paid',
      '400 Starting: sending the weights: 12 of 20 MiB',
      '600 Starting: loading the model',
      '700 Ready',
    ]);
  });

  it('tell a failure once, while it is tried again', () => {
    const failing = { ...nothing, why: 'no Container has 4 GiB' };
    let steps: readonly Step[] = [];
    for (const standing of [nothing, failing, nothing, failing, nothing]) steps = withStep(steps, standing, 0);
    expect(steps.map(({ bad }) => bad)).toEqual([false, true]);
    expect(stepNow(failing).text).toBe('Trying again: no Container has 4 GiB');
    expect(stepNow({ ...failing, running: [{ state: 'ended', why: 'x' }] }).bad).toBe(true);
  });

  it('come to a word', () => {
    expect(standingWords({ ...at('ready'), ready: 1 })).toBe('ready');
    expect(standingWords({ ...at('ready'), ready: 1, wanted: 2 })).toBe('ready, 1 of 2');
    expect(standingWords(nothing)).toBe('starting');
    expect(standingWords({ ...nothing, wanted: 0 })).toBe('asleep until asked');
    expect(standingWords({ ...nothing, why: 'x' })).toBe('in trouble');
    expect(standingWords(at('draining'))).toBe('changing');
  });
});

describe('advice', () => {
  const trouble = (code: string, status: number, retryAfterMs: number | null = null): string => advice({ code, status, message: '', retryAfterMs });

  it('says what to do', () => {
    expect(trouble('network', 0)).toContain('try again');
    expect(trouble('context_length_exceeded', 400)).toContain('new conversation');
    expect(trouble('insufficient_quota', 429)).toContain('budget');
    expect(trouble('rate_limit_exceeded', 429, 2500)).toBe('Try again in 3 s.');
    expect(trouble('invalid_api_key', 401)).toContain('muster api-key new');
    expect(trouble('service_unavailable', 503)).toContain('Details');
    expect(trouble('invalid_value', 400)).toBe('');
  });
});

describe('markdown', () => {
  it('has blocks', () => {
    const text = '# One\nsome *text*\nmore\n\n- a\n- b `c`\n  d\n\n2. x\n3. y\n\n> said\n\n---\n```rust\nfn main() {}\n\n**no**\n```\nend';
    expect(markdown(text)).toEqual([
      { t: 'h', level: 1, inner: [{ t: 'text', text: 'One' }] },
      { t: 'p', inner: [{ t: 'text', text: 'some ' }, { t: 'em', inner: [{ t: 'text', text: 'text' }] }, { t: 'text', text: '\nmore' }] },
      {
        t: 'list',
        ordered: false,
        start: 1,
        items: [[{ t: 'text', text: 'a' }], [{ t: 'text', text: 'b ' }, { t: 'code', text: 'c' }, { t: 'text', text: '\nd' }]],
      },
      { t: 'list', ordered: true, start: 2, items: [[{ t: 'text', text: 'x' }], [{ t: 'text', text: 'y' }]] },
      { t: 'quote', inner: [{ t: 'text', text: 'said' }] },
      { t: 'rule' },
      { t: 'code', language: 'rust', text: 'fn main() {}\n\n**no**' },
      { t: 'p', inner: [{ t: 'text', text: 'end' }] },
    ]);
  });

  it('has tables', () => {
    expect(markdown('| a | b |\n|---|:-:|\n| 1 | 2 |\n\nx | y')).toMatchObject([{ t: 'table', head: [[{ text: 'a' }], [{ text: 'b' }]], rows: [[[{ text: '1' }], [{ text: '2' }]]] }, { t: 'p' }]);
  });

  it('leaves what is not closed as it was written', () => {
    expect(inline('2 * 3 ** 4 and snake_case_name `open')).toEqual([{ t: 'text', text: '2 * 3 ** 4 and snake_case_name `open' }]);
    expect(markdown('```\nhalf')).toEqual([{ t: 'code', language: '', text: 'half' }]);
    expect(inline('**a _b_**')).toEqual([{ t: 'strong', inner: [{ t: 'text', text: 'a ' }, { t: 'em', inner: [{ t: 'text', text: 'b' }] }] }]);
  });

  it('loses no letter of plain text, and comes to an end', () => {
    const plain = (parts: ReturnType<typeof inline>): string => parts.map((part) => ('text' in part ? part.text : plain(part.inner))).join('');
    for (const text of ['', 'a', '****', '`'.repeat(9), '_*'.repeat(50), '**x', '__x__y', '\u{1f600}*', '# ', '|', '|-|\n|-|']) {
      expect(typeof plain(inline(text))).toBe('string');
      expect(Array.isArray(markdown(text))).toBe(true);
    }
    expect(plain(inline('<b>5 < 6</b> & "x"'))).toBe('<b>5 < 6</b> & "x"');
  });
});
