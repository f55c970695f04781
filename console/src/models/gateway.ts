// What the page knows of the Gateway: its deployments, its catalogue, how each deploy goes on, and the conversations.

import { ApiError, api } from '../player/api';
import { countsOf } from '../pure/answer';
import { withStep, type Step } from '../pure/steps';
import { tryOut } from './ask';
import { Talk } from './talk';
import { pathOf, type CatalogEntry, type Deployment, type Listed, type LogLine, type Model } from './wire';

const FAST_MS = 200;
const SLOW_MS = 2500;
/** Looks without others' models between two with them. */
const SHARED_EVERY = 8;
/** After so long without any change a person is told what may be done. */
export const STILL_MS = 120_000;

/** A deploy as it goes on. */
export interface Progress {
  steps: readonly Step[];
  begun: number;
  changed: number;
  /** Begun by this page, which tries the model out when it is ready. */
  ours: boolean;
  version: number;
  readyMs: number | null;
  firstMs: number | null;
  trouble: unknown;
}

export interface DeployRequest {
  catalog: string;
  name: string;
  replicas: { min: number; max: number };
  price_max_usd?: { input: number; cached: number; output: number };
  shared?: true;
  edge?: true;
}

export class GatewayModels {
  deployments: readonly Deployment[] | null = null;
  shared: readonly Listed[] = [];
  catalog: readonly CatalogEntry[] | null = null;
  /** Whether the key may deploy, and not only ask. */
  mayDeploy = true;
  trouble: unknown = null;
  catalogTrouble: unknown = null;
  version = 0;
  readonly progress = new Map<string, Progress>();
  #talks = new Map<string, Talk>();
  #listeners = new Set<() => void>();
  #timer: ReturnType<typeof setTimeout> | null = null;
  #looks = 0;
  #open = false;

  constructor(readonly bearer: string) {}

  /** Looks again and again, until what it gives is called. */
  follow(): () => void {
    this.#open = true;
    const wake = (): void => {
      if (!document.hidden) this.#soon(0);
    };
    document.addEventListener('visibilitychange', wake);
    void this.#learn();
    this.#soon(0);
    return () => {
      this.#open = false;
      document.removeEventListener('visibilitychange', wake);
      if (this.#timer !== null) clearTimeout(this.#timer);
      for (const talk of this.#talks.values()) talk.close();
      this.#talks.clear();
    };
  }

  subscribe(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** All that can be asked, one's own first. */
  models(): Model[] {
    const own = (this.deployments ?? []).map((one): Model => ({ name: one.name, kind: one.kind, context: one.context, price: one.price_usd, owner: null, deployment: one }));
    const others = this.shared.filter(({ id }) => !own.some(({ name }) => name === id));
    const kindOf = (name: string): Model['kind'] => this.catalog?.find((entry) => entry.name === name)?.kind ?? 'chat';
    return [
      ...own,
      ...others.map(({ id, owned_by, context_length, price_usd_micro_per_million_tokens: price }): Model => {
        const usd = { input: price.input / 1e6, cached: price.cached / 1e6, output: price.output / 1e6 };
        return { name: id, kind: kindOf(id), context: context_length, price: usd, owner: owned_by, deployment: null };
      }),
    ];
  }

  talk(model: Model): Talk {
    const known = this.#talks.get(model.name);
    const talk = known?.kind === model.kind ? known : new Talk(model.name, model.kind, this.bearer);
    if (talk !== known) {
      this.#talks.set(model.name, talk);
      void talk.look();
    }
    talk.price = model.price ?? talk.price;
    return talk;
  }

  async deploy(request: DeployRequest): Promise<Deployment> {
    const begun = performance.now();
    const deployed = await api<Deployment>('POST', 'models', { bearer: this.bearer, body: request });
    const fresh = { steps: [], begun, changed: begun, ours: true, version: deployed.version, readyMs: null, firstMs: null, trouble: null };
    this.progress.set(deployed.name, fresh);
    this.#take([...(this.deployments ?? []).filter(({ name }) => name !== deployed.name), deployed]);
    this.#soon(FAST_MS);
    return deployed;
  }

  async scale(name: string, replicas: { min: number; max: number }): Promise<void> {
    await api('POST', pathOf(name, '/scale'), { bearer: this.bearer, body: replicas });
    this.#soon(0);
  }

  async remove(name: string): Promise<void> {
    await api('DELETE', pathOf(name), { bearer: this.bearer });
    const talk = this.#talks.get(name);
    talk?.clear();
    talk?.close();
    this.#talks.delete(name);
    this.progress.delete(name);
    this.shared = this.shared.filter(({ id }) => id !== name);
    this.deployments = (this.deployments ?? []).filter((one) => one.name !== name);
    this.#changed();
  }

  /** What became of a deployment, from a line on. */
  logs(name: string, from: number): Promise<LogLine[]> {
    return api('GET', pathOf(name, `/logs?from=${from}`), { bearer: this.bearer });
  }

  /** Makes a key that may ask this model and nothing else. */
  async makeKey(model: string): Promise<string> {
    const { key } = await api<{ key: string }>('POST', 'keys', { bearer: this.bearer, body: { models: [model] } });
    return key;
  }

  async #learn(): Promise<void> {
    try {
      this.catalog = await api<CatalogEntry[]>('GET', 'catalog', { bearer: this.bearer });
      this.catalogTrouble = null;
    } catch (error) {
      this.catalogTrouble = error;
    }
    this.#changed();
  }

  #soon(ms: number): void {
    if (!this.#open) return;
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#look(), ms);
  }

  async #look(): Promise<void> {
    if (!document.hidden || this.deployments === null) {
      try {
        const others = this.#looks % SHARED_EVERY === 0 ? await this.#others() : this.shared;
        this.shared = others;
        this.#take(await this.#own());
        if (this.catalog === null && this.#looks % SHARED_EVERY === SHARED_EVERY - 1) void this.#learn();
        this.#looks += 1;
        this.trouble = null;
      } catch (error) {
        this.trouble = error;
        this.#changed();
      }
    }
    const moves = (this.deployments ?? []).some(({ ready, updated, wanted }) => (updated ?? ready) < wanted);
    this.#soon(moves && this.trouble === null ? FAST_MS : SLOW_MS);
  }

  async #own(): Promise<Deployment[]> {
    try {
      const all = await api<Deployment[]>('GET', 'models', { bearer: this.bearer });
      this.mayDeploy = true;
      return all;
    } catch (error) {
      // A key for models alone opens /v1 and nothing else, which `others` has shown.
      const closed = error instanceof ApiError && error.status === 401;
      if (!closed || (await this.#others().catch(() => null)) === null) throw error;
      this.mayDeploy = false;
      return [];
    }
  }

  async #others(): Promise<readonly Listed[]> {
    try {
      return (await api<{ data: Listed[] }>('GET', '/v1/models', { bearer: this.bearer })).data;
    } catch (error) {
      // A key for sessions alone may deploy and not ask.
      if (error instanceof ApiError && error.status === 403) return [];
      throw error;
    }
  }

  #take(deployments: Deployment[]): void {
    const now = performance.now();
    this.deployments = deployments.sort((a, b) => a.name.localeCompare(b.name));
    for (const one of deployments) {
      const known = this.progress.get(one.name);
      if (known === undefined && (one.ready > 0 || one.wanted === 0)) continue;
      const ready = one.updated ?? one.ready;
      const again = known !== undefined && known.readyMs !== null && one.ready === 0;
      if (again && one.wanted === 0) continue;
      const progress = known?.version === one.version && !again ? known : { ...NEW, begun: now, changed: now, version: one.version };
      this.progress.set(one.name, progress);
      const steps = withStep(progress.steps, { ...one, ready }, now - progress.begun);
      if (steps !== progress.steps) Object.assign(progress, { steps, changed: now });
      if (ready > 0 && progress.readyMs === null) {
        progress.readyMs = now - progress.begun;
        if (progress.ours) void this.#tryOut(one, progress);
      }
    }
    this.#changed();
  }

  async #tryOut(one: Deployment, progress: Progress): Promise<void> {
    try {
      const { ms, usage } = await tryOut(this.bearer, one.name, one.kind);
      progress.firstMs = ms;
      const model = this.models().find(({ name }) => name === one.name);
      const counts = countsOf(usage);
      if (model !== undefined && counts !== null) this.talk(model).spent(counts);
    } catch (error) {
      progress.trouble = error;
    }
    this.#changed();
  }

  #changed(): void {
    this.version += 1;
    for (const listener of this.#listeners) listener();
  }
}

const NEW: Progress = { steps: [], begun: 0, changed: 0, ours: false, version: 0, readyMs: null, firstMs: null, trouble: null };
