import { answerTimeoutMs, backoffMs } from '../pure/backoff';
import { ClockOffset } from '../pure/clock';
import { base64 } from '../pure/receipt';
import { ApiError, api, passing } from './api';
import { Heartbeat } from './heartbeat';
import { Link, Unsupported } from './link';
import { store, stored } from './store';
import type { FromContainer, InputMessage, JoinAnswer, SessionState, ToContainer } from './wire';

export type Phase = 'connecting' | 'playing' | 'reconnecting' | 'ended' | 'failed';

/** Why it cannot go on: what happened, and what to do. */
export interface Failure {
  code: string;
  title: string;
  text: string;
  advice: string;
}

export type Frame = (now: number, metadata: VideoFrameCallbackMetadata) => void;

const CHECK_MS = 250;
const OPEN_MS = 4000;
const FIRST_JOIN_MS = 40_000;
const POLL_MS = 300;
const POLL_PLAYING_MS = 5000;

/**
 * A session as the page sees it: joins, shows the picture, and rejoins by itself until the session is over. It knows
 * nothing of menus or keys; they are loaded later and listen here.
 */
export class Player {
  phase: Phase = 'connecting';
  /** Since when, by `performance.now()`. */
  since = performance.now();
  state: SessionState | null = null;
  failure: Failure | null = null;
  ending: string | null = null;
  link: Link | null = null;
  /** The player's key, once known. */
  key: string | null;
  /** The pair that signs receipts; null where the page was reloaded or the browser has no WebCrypto. */
  pair: Promise<CryptoKeyPair> | null = null;
  readonly clock = new ClockOffset();
  /** Each shown picture had one; times by `performance.now()`. */
  shownAt: number | null = null;
  firstFrameMs: number | null = null;
  frames = 0;
  /** Grows with each change, so that a page can tell whether to draw itself again. */
  version = 0;
  /** How often the connection was lost, and since when the picture has stood still because of it. */
  stalls = 0;
  lostAt: number | null = null;
  readonly firstFrame: Promise<void>;
  microphone: MediaStreamTrack | null = null;
  limit = 0;

  private token: string | null;
  private readonly listeners = new Set<() => void>();
  private readonly messages = new Set<(message: FromContainer, at: number) => void>();
  private readonly frameListeners = new Set<Frame>();
  private readonly linkListeners = new Set<() => void>();
  private resolveFirst: () => void = () => undefined;
  private lose: (() => void) | null = null;
  private nudge: (() => void) | null = null;
  private heartbeat: Heartbeat | null = null;
  private fresh = false;
  private renewing = false;
  /** Whoever stops it is told so, and not what the Container says of it. */
  private stopping = false;
  private askedFrameAt = 0;
  private readonly tabs: BroadcastChannel | null;

  constructor(
    readonly id: string,
    token: string | null,
    readonly video: HTMLVideoElement,
    readonly sound: HTMLAudioElement,
    private readonly still: HTMLCanvasElement,
    private readonly iceServers: RTCIceServer[],
  ) {
    this.key = stored(`muster.key.${id}`);
    if (token !== null) {
      // A fresh link counts for more than an older key; the token is kept until it has become a key.
      this.key = null;
      store(`muster.token.${id}`, token);
    }
    this.token = token ?? (this.key === null ? stored(`muster.token.${id}`) : null);
    this.firstFrame = new Promise((resolve) => (this.resolveFirst = resolve));
    this.tabs = typeof BroadcastChannel === 'function' ? new BroadcastChannel(`muster.${id}`) : null;
  }

  /** Plays until it is over. */
  async run(): Promise<void> {
    if (this.key === null && this.token === null) {
      this.fail('no_token', 'This link is incomplete', 'It lacks the part behind “#”.', 'Open the whole link, go back to the window where you play, or start a new session.');
      return;
    }
    this.watch();
    for (let attempt = 0; !this.over; attempt++) {
      await this.pause(backoffMs(attempt));
      if (this.over) return;
      try {
        const lost = await this.connect(attempt);
        const since = performance.now();
        await lost;
        if (performance.now() - since > 2000) attempt = -1;
      } catch (error) {
        this.drop();
        if (this.over) return;
        if (this.giveUp(error)) return;
        if (error instanceof ApiError && error.retryAfterMs !== null) await this.pause(error.retryAfterMs);
      }
    }
  }

  /** Whether a connection stands; the picture may still be on its way. */
  get connected(): boolean {
    return this.heartbeat !== null;
  }

  get over(): boolean {
    return this.phase === 'ended' || this.phase === 'failed';
  }

  /** Told whenever something changes that the page shows. */
  subscribe(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  onMessage(listener: (message: FromContainer, at: number) => void): () => void {
    this.messages.add(listener);
    return () => this.messages.delete(listener);
  }

  /** Told of each frame that is shown, where the browser tells. */
  onFrame(listener: Frame): void {
    this.frameListeners.add(listener);
  }

  /** Told whenever a new connection stands; at once, where one does already. */
  onLink(listener: () => void): void {
    this.linkListeners.add(listener);
    if (this.connected) listener();
  }

  send(message: InputMessage): boolean {
    return this.link?.send(message) ?? false;
  }

  tell(message: ToContainer): boolean {
    return this.link?.tell(message) ?? false;
  }

  /** Makes a new connection, as when the microphone is added. */
  renew(): void {
    this.renewing = this.connected;
    this.lose?.();
  }

  /** Never more than this many bits a second; 0 is no limit. */
  setLimit(bps: number): void {
    this.limit = bps;
    this.tell({ t: 'limit', bps });
  }

  async stop(): Promise<void> {
    this.stopping = true;
    try {
      await api('POST', `sessions/${this.id}/stop`, { bearer: this.key ?? this.token, body: {} });
    } catch (error) {
      this.stopping = false;
      throw error;
    }
    this.end('');
  }

  changed(): void {
    this.version += 1;
    document.body.dataset['state'] = this.phase;
    for (const listener of this.listeners) listener();
  }

  private async connect(attempt: number): Promise<Promise<void>> {
    this.drop();
    let lost = (): void => undefined;
    const gone = new Promise<void>((resolve) => (lost = resolve));
    const link = new Link({
      iceServers: this.state?.ice_servers?.length ? this.state.ice_servers : this.iceServers,
      microphone: this.microphone,
      onMessage: (message, at) => this.hear(message, at),
      onTrack: (track) => this.attach(track),
      onLost: lost,
    });
    this.link = link;
    if (this.key !== null) this.tabs?.postMessage({ key: this.key, opened: performance.timeOrigin });
    const rejoin = this.key !== null && this.state !== null;
    const offer = link.offer();
    const publicKey = this.key === null ? this.publicKey() : null;
    const answer = await this.join(await offer, publicKey, rejoin ? answerTimeoutMs(attempt) : FIRST_JOIN_MS);
    await link.answer(answer.sdp);
    const failed = gone.then(() => Promise.reject(new ApiError('network', 'The connection failed.', 0)));
    failed.catch(() => undefined);
    await Promise.race([link.open, failed, after(OPEN_MS).then(() => Promise.reject(new ApiError('network', 'The machine did not answer.', 0)))]);
    this.live();
    const lostOnce = new Promise<void>((resolve) => (this.lose = resolve));
    return Promise.race([gone, lostOnce]).then(() => this.dropped());
  }

  private async join(sdp: string, publicKey: Promise<string | null> | null, timeoutMs: number): Promise<JoinAnswer> {
    for (;;) {
      const abort = new AbortController();
      const timer = setTimeout(() => abort.abort(), timeoutMs);
      try {
        const body: Record<string, unknown> = { sdp };
        if (this.key !== null) body['key'] = this.key;
        else {
          body['token'] = this.token;
          const key = await publicKey;
          if (key !== null && key !== undefined) body['public_key'] = key;
        }
        const answer = await api<JoinAnswer>('POST', `sessions/${this.id}/join`, { body, signal: abort.signal });
        if (this.over) throw new ApiError('over', 'The session is over.', 0);
        this.key = answer.key;
        store(`muster.key.${this.id}`, answer.key);
        store(`muster.token.${this.id}`, null);
        this.token = null;
        this.setState(answer.state);
        return answer;
      } catch (error) {
        if (this.over) throw error;
        if (!(error instanceof ApiError) || error.code !== 'not_ready') throw error;
        await after(error.retryAfterMs ?? 100);
      } finally {
        clearTimeout(timer);
      }
    }
  }

  /** The public key for receipts; the pair is made meanwhile, and cannot leave the browser. */
  private publicKey(): Promise<string | null> {
    const subtle: SubtleCrypto | undefined = globalThis.crypto?.subtle;
    if (subtle === undefined) return Promise.resolve(null);
    this.pair ??= subtle.generateKey({ name: 'ECDSA', namedCurve: 'P-256' }, false, ['sign', 'verify']);
    return this.pair.then(async (pair) => base64(await subtle.exportKey('spki', pair.publicKey))).catch(() => null);
  }

  private attach(track: MediaStreamTrack): void {
    const stream = new MediaStream([track]);
    if (track.kind === 'audio') {
      this.sound.srcObject = stream;
      this.sound.play().catch(() => undefined);
      return;
    }
    this.hold();
    this.fresh = true;
    this.video.srcObject = stream;
    this.video.play().catch(() => undefined);
  }

  /** Keeps the last picture in sight until the new connection has one. */
  private hold(): void {
    const { videoWidth: width, videoHeight: height } = this.video;
    if (this.shownAt === null || width === 0 || !this.still.hidden) return;
    this.still.width = width;
    this.still.height = height;
    this.still.getContext('2d')?.drawImage(this.video, 0, 0);
    this.still.hidden = false;
  }

  private watch(): void {
    const video = this.video;
    if ('requestVideoFrameCallback' in video) {
      const tick: Frame = (now, metadata) => {
        video.requestVideoFrameCallback(tick);
        this.shown(now);
        for (const listener of this.frameListeners) listener(now, metadata);
      };
      video.requestVideoFrameCallback(tick);
    } else {
      (video as HTMLVideoElement).addEventListener('loadeddata', () => this.shown(performance.now()));
    }
    // Some browsers pause what is out of sight.
    video.addEventListener('pause', () => void video.play().catch(() => undefined));
    setInterval(() => this.check(), CHECK_MS);
    void this.poll();
    const hurry = (): void => this.suspect();
    addEventListener('online', hurry);
    addEventListener('offline', hurry);
    addEventListener('pageshow', hurry);
    document.addEventListener('visibilitychange', hurry);
    const network = (navigator as Navigator & { connection?: EventTarget }).connection;
    network?.addEventListener?.('change', hurry);
    this.tabs?.addEventListener('message', ({ data }: MessageEvent<{ key: string; opened: number }>) => {
      // A tab that was copied has the same key, and two would push each other out without end: the newer one plays.
      if (this.over || data.key !== this.key || data.opened <= performance.timeOrigin) return;
      this.fail('elsewhere', 'Playing in another tab', 'This session was opened in another tab of this browser.', 'Go on there, or reload this page to play here.');
    });
  }

  private shown(now: number): void {
    this.frames += 1;
    this.shownAt = now;
    if (!this.fresh) return;
    this.fresh = false;
    this.still.hidden = true;
    if (this.over) return;
    if (this.firstFrameMs === null) {
      this.firstFrameMs = performance.now();
      this.resolveFirst();
    }
    if (this.connected) this.setPhase('playing');
  }

  private live(): void {
    const link = this.link;
    if (link === null) return;
    this.heartbeat = new Heartbeat(link, this.clock, () => link === this.link && this.lose?.());
    this.askedFrameAt = performance.now();
    this.check();
    if (this.limit > 0) this.setLimit(this.limit);
    if (!this.fresh && this.shownAt !== null) this.setPhase('playing');
    for (const listener of this.linkListeners) listener();
  }

  private dropped(): void {
    if (this.over) return;
    if (!this.renewing) {
      this.stalls += 1;
      this.lostAt = Math.max(this.shownAt ?? 0, this.heartbeat?.heardAt ?? 0);
    }
    this.renewing = false;
    this.hold();
    this.setPhase(this.firstFrameMs === null ? 'connecting' : 'reconnecting');
  }

  private drop(): void {
    this.heartbeat = null;
    this.lose = null;
    this.link?.close();
    this.link = null;
  }

  /** Called four times a second. */
  private check(): void {
    if (this.over) return;
    this.heartbeat?.check();
    const now = performance.now();
    if (this.heartbeat === null || !this.fresh || document.hidden || now - this.askedFrameAt < 1000) return;
    this.askedFrameAt = now;
    this.tell({ t: 'keyframe' });
  }

  /** Something happened to the network: ask at once whether the connection lives, or try again without waiting. */
  private suspect(): void {
    if (this.over) return;
    if (this.heartbeat === null) this.nudge?.();
    else this.heartbeat.suspect();
  }

  private hear(message: FromContainer, at: number): void {
    if (message.t === 'pong') {
      this.heartbeat?.pong(message.at, at, message.now);
    } else if (message.t === 'end') {
      this.end(message.text);
    }
    for (const listener of this.messages) listener(message, at);
  }

  /** Asks for the state: often before the picture, seldom after. */
  private async poll(): Promise<void> {
    while (!this.over) {
      await after(this.phase === 'connecting' && this.firstFrameMs === null ? POLL_MS : POLL_PLAYING_MS);
      const bearer = this.key ?? this.token;
      if (this.over || bearer === null || document.hidden) continue;
      try {
        this.setState(await api<SessionState>('GET', `sessions/${this.id}`, { bearer, signal: timeout(8000) }));
      } catch (error) {
        if (error instanceof ApiError && error.retryAfterMs !== null) await after(error.retryAfterMs);
      }
    }
  }

  private setState(state: SessionState): void {
    if (this.over) return;
    this.state = state;
    if (state.state === 'ended') this.end(state.why ?? 'The session has ended.');
    else this.changed();
  }

  private setPhase(phase: Phase): void {
    if (this.over || this.phase === phase) return;
    this.phase = phase;
    this.since = performance.now();
    this.changed();
  }

  /** The session is over; what never showed a picture has failed. */
  private end(text: string): void {
    if (this.over) return;
    this.ending = this.stopping ? 'You stopped the session.' : text;
    if (this.firstFrameMs === null && this.state !== null && this.state.ran_ms === 0) {
      this.fail('session_ended', 'The session could not start', text, 'Start a new session to try again.');
      return;
    }
    this.hold();
    this.phase = 'ended';
    this.changed();
    setTimeout(() => this.drop(), 0);
    const bearer = this.key ?? this.token;
    if (bearer !== null && this.state?.state !== 'ended') void this.lastState(bearer);
  }

  /** Joining found the session ended: what it was is asked for first, so that it can be told. */
  private async endedBefore(text: string): Promise<void> {
    const bearer = this.key ?? this.token;
    try {
      this.state ??= await api<SessionState>('GET', `sessions/${this.id}`, { bearer, signal: timeout(2000) });
    } catch {
      // Then it is told without.
    }
    this.end(text);
  }

  /** The final time and cost, which the Gateway may know a moment later. */
  private async lastState(bearer: string): Promise<void> {
    for (let i = 0; i < 5; i++) {
      try {
        this.state = await api<SessionState>('GET', `sessions/${this.id}`, { bearer });
        this.changed();
        if (this.state.state === 'ended') return;
      } catch (error) {
        if (!passing(error)) return;
      }
      await after(1000);
    }
  }

  private fail(code: string, title: string, text: string, advice: string): void {
    this.failure = { code, title, text, advice };
    this.hold();
    this.phase = 'failed';
    this.changed();
    this.drop();
  }

  /** True where no further try can help, and the page says why. */
  private giveUp(error: unknown): boolean {
    if (error instanceof Unsupported) {
      this.fail('unsupported', 'This browser cannot play', error.message, 'Open the link in another browser; it is still good.');
      return true;
    }
    if (passing(error)) {
      if (this.phase === 'playing') this.setPhase('reconnecting');
      return false;
    }
    if (!(error instanceof ApiError) || error.code === 'over') return false;
    if (error.code === 'session_ended') {
      void this.endedBefore(error.message);
      return true;
    }
    const [title, advice] = WORDS[error.code] ?? ['It cannot go on', 'Start a new session, or ask whoever gave you the link.'];
    if (error.code.startsWith('token_')) store(`muster.token.${this.id}`, null);
    this.fail(error.code, title, error.message, advice);
    return true;
  }

  private pause(ms: number): Promise<void> {
    if (ms === 0) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.nudge = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}

const WORDS: Readonly<Record<string, readonly [title: string, advice: string]>> = {
  token_used: ['This link was used already', 'A link works once. Ask for a new one, or go back to the window where you play.'],
  token_expired: ['This link is too old', 'A link is good for two minutes. Start a new session to get a fresh one.'],
  token_wrong: ['This link is not right', 'Copy the whole link once more, with everything behind “#”.'],
  unknown_session: ['No such session', 'It may have ended long ago. Start a new one.'],
  no_codec: ['This browser cannot play', 'Open the link in a browser with H.264 or VP8 over WebRTC.'],
  too_many_players: ['The session is full', 'Ask somebody who plays to leave, then reload this page.'],
};

function after(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

function timeout(ms: number): AbortSignal {
  const abort = new AbortController();
  setTimeout(() => abort.abort(), ms);
  return abort.signal;
}
