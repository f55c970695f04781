export type Kind = 'chat' | 'completion' | 'embedding';
export type Language = 'curl' | 'python' | 'javascript';

export interface Asked {
  /** The Gateway's own address, without `/v1`. */
  origin: string;
  model: string;
  kind: Kind;
  key: string;
  prompt: string;
  system: string;
  temperature: number | null;
  maxTokens: number | null;
}

export const PLACEHOLDER = 'YOUR_API_KEY';

/** What to run to ask the model, in one of the languages. */
export function snippet(language: Language, asked: Asked): string {
  return { curl, python, javascript }[language](asked);
}

const PATHS: Readonly<Record<Kind, string>> = { chat: 'chat/completions', completion: 'completions', embedding: 'embeddings' };

function curl(asked: Asked): string {
  const streams = asked.kind !== 'embedding';
  const body = JSON.stringify(bodyOf(asked, streams), null, 2);
  return [
    `curl ${streams ? '-N ' : ''}${shell(`${asked.origin}/v1/${PATHS[asked.kind]}`)} \\`,
    `  -H ${shell(`Authorization: Bearer ${asked.key}`)} \\`,
    `  -H 'Content-Type: application/json' \\`,
    `  -d ${shell(body)}`,
  ].join('\n');
}

function python(asked: Asked): string {
  const client = [
    'from openai import OpenAI',
    '',
    'client = OpenAI(',
    `    base_url=${quoted(`${asked.origin}/v1`)},`,
    `    api_key=${quoted(asked.key)},`,
    ')',
  ];
  if (asked.kind === 'embedding') {
    return [
      ...client,
      `answer = client.embeddings.create(model=${quoted(asked.model)}, input=[${quoted(asked.prompt)}])`,
      'print(answer.data[0].embedding)',
    ].join('\n');
  }
  const [call, read] = asked.kind === 'chat' ? ['chat.completions', 'delta.content'] : ['completions', 'text'];
  return [
    ...client,
    `stream = client.${call}.create(`,
    ...Object.entries(bodyOf(asked, false)).map(([name, value]) => `    ${name}=${literal(value)},`),
    '    stream=True,',
    ')',
    'for event in stream:',
    '    if event.choices:',
    `        print(event.choices[0].${read} or "", end="", flush=True)`,
    'print()',
  ].join('\n');
}

function javascript(asked: Asked): string {
  const client = [
    `import OpenAI from 'openai';`,
    '',
    'const client = new OpenAI({',
    `  baseURL: ${quoted(`${asked.origin}/v1`)},`,
    `  apiKey: ${quoted(asked.key)},`,
    '});',
  ];
  if (asked.kind === 'embedding') {
    return [
      ...client,
      `const answer = await client.embeddings.create({ model: ${quoted(asked.model)}, input: [${quoted(asked.prompt)}] });`,
      'console.log(answer.data[0].embedding);',
    ].join('\n');
  }
  const [call, read] = asked.kind === 'chat' ? ['chat.completions', 'delta?.content'] : ['completions', 'text'];
  return [
    ...client,
    `const stream = await client.${call}.create({`,
    ...Object.entries(bodyOf(asked, false)).map(([name, value]) => `  ${name}: ${literal(value)},`),
    '  stream: true,',
    '});',
    'for await (const event of stream) {',
    `  process.stdout.write(event.choices[0]?.${read} ?? '');`,
    '}',
  ].join('\n');
}

function bodyOf(asked: Asked, stream: boolean): Record<string, unknown> {
  if (asked.kind === 'embedding') return { model: asked.model, input: [asked.prompt] };
  const system = asked.system === '' ? [] : [{ role: 'system', content: asked.system }];
  return {
    model: asked.model,
    ...(asked.kind === 'chat' ? { messages: [...system, { role: 'user', content: asked.prompt }] } : { prompt: asked.prompt }),
    ...(asked.temperature === null ? {} : { temperature: asked.temperature }),
    ...(asked.maxTokens === null ? {} : { max_tokens: asked.maxTokens }),
    ...(stream ? { stream: true } : {}),
  };
}

/** JSON's strings are strings of Python and JavaScript as well. */
const quoted = (text: string): string => JSON.stringify(text);

/** JSON as a literal of Python or JavaScript, on one line, with room behind commas and colons. */
function literal(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(literal).join(', ')}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  return `{${Object.entries(value)
    .map(([name, inner]) => `${quoted(name)}: ${literal(inner)}`)
    .join(', ')}}`;
}

/** A word of a POSIX shell. */
const shell = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;
