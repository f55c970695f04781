/** Tokens as the engine counted them; `cached` is a part of `input`. */
export interface Counts {
  input: number;
  cached: number;
  output: number;
}

/** What one event of a streamed answer brings. */
export interface Piece {
  text: string;
  reasoning: string;
  finish: string | null;
  counts: Counts | null;
  error: { code: string; message: string } | null;
}

type Json = Record<string, unknown>;
const isObject = (value: unknown): value is Json => typeof value === 'object' && value !== null && !Array.isArray(value);
const word = (value: unknown): string => (typeof value === 'string' ? value : '');
const count = (value: unknown): number => (typeof value === 'number' && value >= 0 ? value : 0);

/** Reads an event of a chat or of a completion. Null where it is none: a stream that is not ours. */
export function pieceOf(data: string): Piece | null {
  let value: unknown;
  try {
    value = JSON.parse(data);
  } catch {
    return null;
  }
  if (!isObject(value)) return null;
  const piece: Piece = { text: '', reasoning: '', finish: null, counts: countsOf(value['usage']), error: null };
  if (isObject(value['error'])) {
    piece.error = { code: word(value['error']['code']), message: word(value['error']['message']) };
    return piece;
  }
  const choice: unknown = Array.isArray(value['choices']) ? value['choices'][0] : undefined;
  if (!isObject(choice)) return piece;
  const delta = isObject(choice['delta']) ? choice['delta'] : {};
  piece.text = word(delta['content']) || word(choice['text']);
  piece.reasoning = word(delta['reasoning_content']);
  piece.finish = word(choice['finish_reason']) || null;
  return piece;
}

/** The counts of an answer's `usage`. */
export function countsOf(usage: unknown): Counts | null {
  if (!isObject(usage)) return null;
  const details = isObject(usage['prompt_tokens_details']) ? usage['prompt_tokens_details'] : {};
  return { input: count(usage['prompt_tokens']), cached: count(details['cached_tokens']), output: count(usage['completion_tokens']) };
}

/** Tokens a second after the first one; null where there are too few to say. */
export function speed(tokens: number, firstMs: number | null, lastMs: number | null): number | null {
  if (firstMs === null || lastMs === null || tokens < 2 || lastMs - firstMs < 1) return null;
  return ((tokens - 1) * 1000) / (lastMs - firstMs);
}
