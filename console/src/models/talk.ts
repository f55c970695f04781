// A conversation with a model. It lives outside of the page's parts, so that an answer goes on while another model is
// looked at.

import { ApiError } from '../player/api';
import { store, stored } from '../player/store';
import type { Trouble } from '../pure/advice';
import { speed, type Counts, type Piece } from '../pure/answer';
import { costMicro, type Price } from '../pure/money';
import type { Kind } from '../pure/snippets';
import { stream, used } from './ask';
import type { Used } from './wire';

export type TurnState = 'waiting' | 'writing' | 'done' | 'stopped' | 'failed';

/** What was asked, and the answer to it. */
export interface Turn {
  id: number;
  prompt: string;
  text: string;
  reasoning: string;
  state: TurnState;
  finish: string | null;
  trouble: Trouble | null;
  /** From the request to its first token, its last one so far, and the first that was no thought. */
  firstMs: number | null;
  lastMs: number | null;
  textMs: number | null;
  /** Pieces so far: about as many as tokens. */
  pieces: number;
  /** What the engine counted; null before that is known. */
  counts: Counts | null;
  micro: number | null;
}

export interface Settings {
  system: string;
  temperature: string;
  maxTokens: string;
  /** Whether a model that can think first is let to. */
  thinks: boolean;
}

export interface Total extends Counts {
  micro: number;
  /** Whether something is in it that is not counted for certain. */
  about: boolean;
}

const NOTHING: Total = { input: 0, cached: 0, output: 0, micro: 0, about: false };
const FIRST: Settings = { system: '', temperature: '', maxTokens: '', thinks: true };
const SHOW_EVERY_MS = 40;
const COUNT_EVERY_MS = 200;
const COUNT_TRIES = 25;
const PREFIX = 'muster.talk.';

export class Talk {
  turns: readonly Turn[] = [];
  settings: Settings = FIRST;
  /** What this key has used of the model this month. */
  month: Used | null = null;
  /** What was spent beside the turns: the first token of a deploy. */
  beside: Total = NOTHING;
  version = 0;
  price: Price | null = null;
  #listeners = new Set<() => void>();
  #running: AbortController | null = null;
  #next = 1;
  #closed = false;

  constructor(
    readonly model: string,
    readonly kind: Kind,
    readonly bearer: string,
  ) {
    this.#restore();
  }

  get busy(): boolean {
    return this.#running !== null;
  }

  subscribe(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  change(settings: Partial<Settings>): void {
    this.settings = { ...this.settings, ...settings };
    this.#keep();
    this.#changed();
  }

  clear(): void {
    this.stop();
    this.turns = [];
    this.beside = NOTHING;
    this.#keep();
    this.#changed();
  }

  /** Ends it: what is still being written is neither shown nor kept. */
  close(): void {
    this.#closed = true;
    this.stop();
  }

  /** Ends the answer that is being written; the model stops as well. */
  stop(): void {
    this.#running?.abort();
  }

  /** Asks again what was asked last. */
  async again(): Promise<void> {
    const last = this.turns.at(-1);
    if (last === undefined || this.busy) return;
    const spent = this.#totalOf([last]);
    // What the answer that goes has cost stays counted.
    this.beside = sum(this.beside, spent);
    this.turns = this.turns.slice(0, -1);
    await this.say(last.prompt);
  }

  async say(prompt: string): Promise<void> {
    if (this.busy) return;
    const running = new AbortController();
    this.#running = running;
    const body = { model: this.model, ...this.#asked(prompt), ...this.#wishes() };
    const turn: Turn = {
      id: this.#next,
      prompt,
      text: '',
      reasoning: '',
      state: 'waiting',
      finish: null,
      trouble: null,
      firstMs: null,
      lastMs: null,
      textMs: null,
      pieces: 0,
      counts: null,
      micro: null,
    };
    this.#next += 1;
    this.turns = [...this.turns, turn];
    this.#changed();
    const before = this.month;
    const begun = performance.now();
    const path = this.kind === 'chat' ? '/v1/chat/completions' : '/v1/completions';
    const show = later(() => this.#put(turn));
    try {
      await stream(path, this.bearer, body, running.signal, (piece) => {
        if (running.signal.aborted) return;
        take(turn, piece, performance.now() - begun);
        show.soon();
      });
      turn.state = 'done';
    } catch (error) {
      turn.state = running.signal.aborted ? 'stopped' : 'failed';
      if (turn.state === 'failed') turn.trouble = troubleOf(error);
    }
    show.cancel();
    this.#running = null;
    this.#bill(turn);
    this.#put(turn);
    await this.#count(turn, before);
  }

  /** What all of this has cost so far. */
  total(): Total {
    return sum(this.beside, this.#totalOf(this.turns));
  }

  /** Counts what was spent beside the conversation. */
  spent(counts: Counts): void {
    const micro = this.price === null ? 0 : costMicro(counts, this.price);
    this.beside = sum(this.beside, { ...counts, micro, about: this.price === null });
    this.#keep();
    this.#changed();
  }

  /** Asks what the Gateway has counted this month. */
  async look(): Promise<void> {
    try {
      this.month = await used(this.bearer, this.model);
      this.#changed();
    } catch (error) {
      // Only the sum of the month is not shown then; what keeps the Gateway from answering is told where it matters.
      if (!(error instanceof ApiError)) throw error;
    }
  }

  #totalOf(turns: readonly Turn[]): Total {
    return turns.reduce(
      (all, { counts, micro, pieces }) =>
        counts === null || micro === null
          ? sum(all, { input: 0, cached: 0, output: pieces, micro: this.#guess(pieces), about: pieces > 0 })
          : sum(all, { ...counts, micro, about: false }),
      NOTHING,
    );
  }

  #guess(pieces: number): number {
    return this.price === null || pieces === 0 ? 0 : costMicro({ input: 0, cached: 0, output: pieces }, this.price);
  }

  #bill(turn: Turn): void {
    if (turn.counts !== null && this.price !== null) turn.micro = costMicro(turn.counts, this.price);
  }

  /** An answer that was cut off has no count of its own: the Gateway's sum has grown by it. */
  async #count(turn: Turn, before: Used | null): Promise<void> {
    for (let tries = 0; tries < COUNT_TRIES && !this.#closed; tries += 1) {
      await this.look();
      const now = this.month;
      if (turn.counts !== null || before === null || now === null || now.requests > before.requests + 1) break;
      if (now.requests === before.requests + 1) {
        turn.counts = { input: now.input - before.input, cached: now.cached - before.cached, output: now.output - before.output };
        turn.micro = now.usd_micro - before.usd_micro;
        this.#put(turn);
        break;
      }
      if (turn.state === 'failed' && turn.pieces === 0) break;
      await new Promise((resolve) => setTimeout(resolve, COUNT_EVERY_MS));
    }
    this.#keep();
  }

  #asked(prompt: string): object {
    if (this.kind !== 'chat') return { prompt };
    const { system } = this.settings;
    const said = this.turns.filter(({ state, text }) => (state === 'done' || state === 'stopped') && text !== '');
    return {
      messages: [
        ...(system.trim() === '' ? [] : [{ role: 'system', content: system }]),
        ...said.flatMap((turn) => [
          { role: 'user', content: turn.prompt },
          { role: 'assistant', content: turn.text },
        ]),
        { role: 'user', content: prompt },
      ],
    };
  }

  #wishes(): object {
    const { temperature, maxTokens } = numbers(this.settings);
    return {
      ...(temperature === null ? {} : { temperature }),
      ...(maxTokens === null ? {} : { max_tokens: maxTokens }),
      ...(this.settings.thinks || this.kind !== 'chat' ? {} : { chat_template_kwargs: { enable_thinking: false } }),
    };
  }

  #put(turn: Turn): void {
    const copy = { ...turn };
    this.turns = this.turns.map((known) => (known.id === turn.id ? copy : known));
    this.#changed();
  }

  #changed(): void {
    this.version += 1;
    for (const listener of this.#listeners) listener();
  }

  #keep(): void {
    if (this.#closed) return;
    const turns = this.turns.filter(({ state }) => state !== 'waiting' && state !== 'writing');
    store(PREFIX + this.model, JSON.stringify({ turns, settings: this.settings, beside: this.beside }));
  }

  #restore(): void {
    try {
      const kept = JSON.parse(stored(PREFIX + this.model) ?? 'null') as Pick<Talk, 'turns' | 'settings' | 'beside'> | null;
      if (kept === null) return;
      this.turns = kept.turns;
      this.settings = { ...FIRST, ...kept.settings };
      this.beside = { ...this.beside, ...kept.beside };
      this.#next = Math.max(0, ...kept.turns.map(({ id }) => id)) + 1;
    } catch {
      // What an older page kept cannot be read: begin anew.
    }
  }
}

/** What settings mean; null where nothing is said. */
export function numbers({ temperature, maxTokens }: Settings): { temperature: number | null; maxTokens: number | null } {
  const number = (text: string): number | null => (text.trim() === '' || !Number.isFinite(Number(text)) ? null : Number(text));
  return { temperature: number(temperature), maxTokens: number(maxTokens) };
}

/** Tokens a second of an answer. */
export function speedOf({ counts, pieces, firstMs, lastMs }: Turn): number | null {
  return speed(counts?.output ?? pieces, firstMs, lastMs);
}

/** What failed, for people. */
export function troubleOf(error: unknown): Trouble {
  if (error instanceof ApiError) return { code: error.code, status: error.status, message: error.message, retryAfterMs: error.retryAfterMs };
  return { code: 'page', status: 0, message: error instanceof Error ? error.message : 'Something went wrong.', retryAfterMs: null };
}

/** Forgets what was said with all models. */
export function forgetTalks(): void {
  try {
    for (const key of Object.keys(sessionStorage)) if (key.startsWith(PREFIX)) sessionStorage.removeItem(key);
  } catch {
    // Nothing is kept where nothing may be.
  }
}

function take(turn: Turn, piece: Piece, ms: number): void {
  if (piece.text !== '' || piece.reasoning !== '') {
    turn.firstMs ??= ms;
    turn.lastMs = ms;
    turn.pieces += 1;
    turn.state = 'writing';
    if (piece.text !== '') turn.textMs ??= ms;
  }
  turn.text += piece.text;
  turn.reasoning += piece.reasoning;
  turn.finish = piece.finish ?? turn.finish;
  turn.counts = piece.counts ?? turn.counts;
}

function sum(a: Total, b: Total): Total {
  return { input: a.input + b.input, cached: a.cached + b.cached, output: a.output + b.output, micro: a.micro + b.micro, about: a.about || b.about };
}

/** Does something soon, once for all who asked meanwhile. */
function later(act: () => void): { soon: () => void; cancel: () => void } {
  let timer: ReturnType<typeof setTimeout> | null = null;
  return {
    soon: () => {
      timer ??= setTimeout(() => {
        timer = null;
        act();
      }, SHOW_EVERY_MS);
    },
    cancel: () => {
      if (timer !== null) clearTimeout(timer);
    },
  };
}
