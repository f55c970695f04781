// As much of Markdown as models write: what is not known stays as it was written. Links are not followed and pictures not
// fetched, since an answer is a stranger's text.

export type Inline = { t: 'text'; text: string } | { t: 'code'; text: string } | { t: 'strong' | 'em'; inner: Inline[] };

export type Block =
  | { t: 'p'; inner: Inline[] }
  | { t: 'h'; level: number; inner: Inline[] }
  | { t: 'code'; language: string; text: string }
  | { t: 'list'; ordered: boolean; start: number; items: Inline[][] }
  | { t: 'quote'; inner: Inline[] }
  | { t: 'table'; head: Inline[][]; rows: Inline[][][] }
  | { t: 'rule' };

const FENCE = /^\s{0,3}(`{3,}|~{3,})\s*([\w+#.-]*)/;
const HEADING = /^(#{1,6})\s+(.*?)\s*#*$/;
const BULLET = /^\s*[-*+]\s+(.*)$/;
const NUMBER = /^\s*(\d{1,9})[.)]\s+(.*)$/;
const QUOTE = /^\s{0,3}>\s?(.*)$/;
const RULE = /^\s{0,3}([-*_])(\s*\1){2,}\s*$/;
const TABLE_RULE = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;
const DEPTH_MAX = 4;

/** The blocks of a text; one that is still being written may end anywhere. */
export function markdown(text: string): Block[] {
  const lines = text.replaceAll('\r\n', '\n').split('\n');
  const blocks: Block[] = [];
  let at = 0;
  const line = (offset = 0): string => lines[at + offset] ?? '';
  while (at < lines.length) {
    const fence = FENCE.exec(line());
    if (line().trim() === '') {
      at += 1;
    } else if (fence !== null) {
      at = code(lines, at, fence, blocks);
    } else if (RULE.test(line())) {
      blocks.push({ t: 'rule' });
      at += 1;
    } else if (HEADING.test(line())) {
      const [, marks = '', inner = ''] = HEADING.exec(line()) ?? [];
      blocks.push({ t: 'h', level: marks.length, inner: inline(inner) });
      at += 1;
    } else if (line().includes('|') && line(1).includes('-') && TABLE_RULE.test(line(1)) && cells(line()).length === cells(line(1)).length) {
      const head = cells(line());
      const rows: Inline[][][] = [];
      for (at += 2; line().includes('|'); at += 1) rows.push(cells(line()));
      blocks.push({ t: 'table', head, rows });
    } else if (QUOTE.test(line())) {
      const said: string[] = [];
      for (; QUOTE.test(line()); at += 1) said.push(QUOTE.exec(line())?.[1] ?? '');
      blocks.push({ t: 'quote', inner: inline(said.join('\n')) });
    } else if (BULLET.test(line()) || NUMBER.test(line())) {
      at = list(lines, at, blocks);
    } else {
      const said: string[] = [];
      for (; at < lines.length && line().trim() !== '' && (said.length === 0 || !begins(line())); at += 1) said.push(line());
      blocks.push({ t: 'p', inner: inline(said.join('\n')) });
    }
  }
  return blocks;
}

const begins = (line: string): boolean => [FENCE, HEADING, BULLET, NUMBER, QUOTE, RULE].some((form) => form.test(line));

function code(lines: readonly string[], from: number, fence: RegExpExecArray, blocks: Block[]): number {
  const [, marks = '```', language = ''] = fence;
  const said: string[] = [];
  let at = from + 1;
  for (; at < lines.length; at += 1) {
    const line = lines[at] ?? '';
    const trimmed = line.trim();
    if (trimmed.length >= marks.length && trimmed === (marks[0] ?? '`').repeat(trimmed.length)) break;
    said.push(line);
  }
  blocks.push({ t: 'code', language, text: said.join('\n') });
  return at + 1;
}

function list(lines: readonly string[], from: number, blocks: Block[]): number {
  const ordered = NUMBER.test(lines[from] ?? '');
  const start = ordered ? Number(NUMBER.exec(lines[from] ?? '')?.[1] ?? 1) : 1;
  const form = ordered ? NUMBER : BULLET;
  const items: string[] = [];
  let at = from;
  for (; at < lines.length; at += 1) {
    const line = lines[at] ?? '';
    const item = form.exec(line);
    const last = items.length - 1;
    if (item !== null) items.push(item.at(-1) ?? '');
    else if (line.trim() !== '' && /^\s{2,}/.test(line) && !FENCE.test(line) && last >= 0) items[last] += `\n${line.trim()}`;
    else if (line.trim() === '' && form.test(lines[at + 1] ?? '')) continue;
    else break;
  }
  blocks.push({ t: 'list', ordered, start, items: items.map((item) => inline(item)) });
  return at;
}

function cells(line: string): Inline[][] {
  const parts = line.trim().replace(/^\|/, '').replace(/\|$/, '').split('|');
  return parts.map((part) => inline(part.trim()));
}

/** Marks within a line: code, strong, emphasis. A mark that is not closed is text. */
export function inline(text: string, depth = 0): Inline[] {
  const out: Inline[] = [];
  const say = (more: string): void => {
    const last = out.at(-1);
    if (last?.t === 'text') last.text += more;
    else if (more !== '') out.push({ t: 'text', text: more });
  };
  let at = 0;
  while (at < text.length) {
    const rest = text.slice(at);
    const ticks = /^(`+)([^`]|[^`][\s\S]*?[^`])\1(?!`)/.exec(rest);
    const strong = depth < DEPTH_MAX ? /^(\*\*|__)(?=\S)([\s\S]*?\S)\1/.exec(rest) : null;
    const em = depth < DEPTH_MAX ? /^([*_])(?![\s*_])([^*_\n]*[^\s*_])\1(?!\w)/.exec(rest) : null;
    const within = /\w$/.test(text.slice(0, at));
    if (ticks !== null) {
      out.push({ t: 'code', text: ticks[2] ?? '' });
      at += ticks[0].length;
    } else if (strong !== null && !(within && strong[1] === '__')) {
      out.push({ t: 'strong', inner: inline(strong[2] ?? '', depth + 1) });
      at += strong[0].length;
    } else if (em !== null && !within) {
      out.push({ t: 'em', inner: inline(em[2] ?? '', depth + 1) });
      at += em[0].length;
    } else {
      const plain = /^([`*_]+|[^`*_]+)/.exec(rest)?.[0] ?? rest;
      say(plain);
      at += plain.length;
    }
  }
  return out;
}
