import { ApiError, api, refusal } from '../player/api';
import { pieceOf, type Piece } from '../pure/answer';
import type { Kind } from '../pure/snippets';
import { SseReader } from '../pure/sse';
import type { Used } from './wire';

const BROKEN = 'broken_off';

/**
 * Asks for a streamed answer and gives its pieces as they come. Throws `ApiError`; where `signal` was aborted, whatever
 * it throws means nothing.
 */
export async function stream(path: string, bearer: string, body: object, signal: AbortSignal, onPiece: (piece: Piece) => void): Promise<void> {
  const asked = { ...body, stream: true, stream_options: { include_usage: true } };
  const headers = { Authorization: `Bearer ${bearer}`, 'Content-Type': 'application/json' };
  let response: Response;
  try {
    response = await fetch(path, { method: 'POST', headers, body: JSON.stringify(asked), cache: 'no-store', signal });
  } catch {
    throw new ApiError('network', 'The Gateway did not answer.', 0);
  }
  if (!response.ok) throw await refused(response);
  if (response.body === null || !(response.headers.get('Content-Type') ?? '').startsWith('text/event-stream')) {
    throw new ApiError(BROKEN, 'The Gateway’s answer is no stream.', response.status);
  }
  const events = new SseReader();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read().catch(() => {
      throw new ApiError(BROKEN, 'The answer broke off.', 0);
    });
    if (done) throw new ApiError(BROKEN, 'The answer broke off before its end.', 0);
    for (const data of events.push(value)) {
      if (data === '[DONE]') return;
      const piece = pieceOf(data);
      if (piece === null) throw new ApiError(BROKEN, 'A part of the answer could not be read.', 0);
      if (piece.error !== null) throw new ApiError(piece.error.code || BROKEN, piece.error.message || 'The model failed.', 503);
      onPiece(piece);
    }
  }
}

async function refused(response: Response): Promise<ApiError> {
  const text = await response.text().catch(() => '');
  let value: unknown = null;
  try {
    value = JSON.parse(text);
  } catch {
    // The status says enough.
  }
  if (response.status === 402) return new ApiError('payment_required', 'This model is paid for each request, or through a key.', 402);
  return refusal(response, value);
}

/** What this key has used of a model this month. */
export async function used(bearer: string, model: string): Promise<Used> {
  const { data } = await api<{ data: Used[] }>('GET', '/v1/usage', { bearer });
  return data.find((row) => row.model === model) ?? { model, requests: 0, input: 0, cached: 0, output: 0, usd_micro: 0 };
}

/** Asks a model for the least that it can say; the time to its answer, and what the engine counted. */
export async function tryOut(bearer: string, model: string, kind: Kind): Promise<{ ms: number; usage: unknown }> {
  const [path, body] = {
    chat: ['/v1/chat/completions', { messages: [{ role: 'user', content: 'hello' }], max_tokens: 1 }] as const,
    completion: ['/v1/completions', { prompt: 'hello', max_tokens: 1 }] as const,
    embedding: ['/v1/embeddings', { input: 'hello' }] as const,
  }[kind];
  const begun = performance.now();
  const { usage } = await api<{ usage?: unknown }>('POST', path, { bearer, body: { model, ...body } });
  return { ms: performance.now() - begun, usage };
}
