import { percentile } from '../pure/frames';
import { base64, canonicalReceipt, type CodeSeen } from '../pure/receipt';
import { STRIP_HEIGHT, STRIP_WIDTH, decodeStrip } from '../pure/strip';
import { api, passing } from './api';
import { keepPair, keptPair } from './pair';
import type { Meter, Totals } from './meter';
import type { Player } from './player';
import { store, stored } from './store';

const RECEIPT_MS = 10_000;
const CODE_MS_MIN = 10_000;
const CODE_MS_MAX = 30_000;
const AWAIT_MS = 2000;
const CODES_MAX = 32;
const UNSENT_MAX = 30;

/**
 * Proves what was delivered: asks for codes in the picture, reads them back from decoded frames, and signs a receipt
 * every 10 s.
 */
export class Delivery {
  private codes: CodeSeen[] = [];
  private awaited: { code: number; asked: number; until: number } | null = null;
  private reading = false;
  /** Goes on after a reload. */
  private seq: number;
  private from = wallClock(performance.now());
  private before: Totals;
  private unsent: { payload: string; signature: string }[] = [];
  private canvas: CanvasRenderingContext2D | null = null;
  private pair: CryptoKeyPair | null = null;

  constructor(
    private readonly player: Player,
    private readonly meter: Meter,
  ) {
    this.before = { ...meter.totals };
    this.seq = Number(stored(`muster.seq.${player.id}`) ?? 0) || 0;
    void this.start();
  }

  private async start(): Promise<void> {
    const { player } = this;
    this.pair = player.pair === null ? await keptPair(player.id) : await player.pair.catch(() => null);
    if (this.pair === null) return;
    if (player.pair !== null) void keepPair(player.id, this.pair);
    player.onFrame((now) => void this.look(now));
    this.schedule();
    setInterval(() => void this.receipt(), RECEIPT_MS);
  }

  private schedule(): void {
    const [random = 0] = crypto.getRandomValues(new Uint32Array(1));
    setTimeout(() => {
      this.ask();
      this.schedule();
    }, CODE_MS_MIN + (random / 2 ** 32) * (CODE_MS_MAX - CODE_MS_MIN));
  }

  /** Asks for a code; not while nobody looks, because then no frame is shown. */
  private ask(): void {
    if (this.player.phase !== 'playing' || document.hidden || !('requestVideoFrameCallback' in this.player.video)) return;
    const [code = 0] = crypto.getRandomValues(new Uint32Array(1));
    if (!this.player.tell({ t: 'code', n: code })) return;
    const now = performance.now();
    const awaited = { code, asked: now, until: now + AWAIT_MS };
    this.awaited = awaited;
    setTimeout(() => {
      if (this.awaited === awaited) this.settle(null);
    }, AWAIT_MS);
  }

  private settle(seen: number | null): void {
    const awaited = this.awaited;
    if (awaited === null) return;
    this.awaited = null;
    this.codes.push({ code: awaited.code, asked: wallClock(awaited.asked), seen: seen === null ? null : wallClock(seen) });
    if (this.codes.length > CODES_MAX) this.codes.shift();
  }

  private async look(now: number): Promise<void> {
    const awaited = this.awaited;
    if (awaited === null || this.reading) return;
    this.reading = true;
    try {
      const code = await this.read();
      if (code === awaited.code && this.awaited === awaited) this.settle(now);
    } catch {
      // This frame could not be read; another comes.
    } finally {
      this.reading = false;
    }
  }

  private async read(): Promise<number | null> {
    const { video } = this.player;
    if (typeof VideoFrame === 'function') {
      const frame = new VideoFrame(video);
      try {
        const luma = await readLuma(frame);
        if (luma !== null) return decodeStrip(luma.bytes, luma.offset, luma.stride);
      } finally {
        frame.close();
      }
    }
    return this.readCanvas(video);
  }

  private readCanvas(video: HTMLVideoElement): number | null {
    this.canvas ??= stripCanvas();
    if (this.canvas === null || video.videoWidth < STRIP_WIDTH) return null;
    this.canvas.drawImage(video, 0, video.videoHeight - STRIP_HEIGHT, STRIP_WIDTH, STRIP_HEIGHT, 0, 0, STRIP_WIDTH, STRIP_HEIGHT);
    const { data } = this.canvas.getImageData(0, 0, STRIP_WIDTH, STRIP_HEIGHT);
    return decodeStrip(data, 1, STRIP_WIDTH * 4, 4);
  }

  private async receipt(): Promise<void> {
    const { player, meter, pair } = this;
    if (pair === null || player.key === null || player.over || player.firstFrameMs === null) return;
    const to = wallClock(performance.now());
    const now = { ...meter.totals };
    const grown = (name: keyof Totals): number => now[name] - this.before[name];
    const seconds = Math.max(0.001, (to - this.from) / 1000);
    const packets = grown('packets') + grown('lost');
    const payload = canonicalReceipt({
      session: player.id,
      seq: this.seq,
      from: this.from,
      to,
      fps: grown('frames') / seconds,
      latency_p95_ms: percentile(meter.takeLatencies(), 0.95),
      loss: packets === 0 ? 0 : grown('lost') / packets,
      bitrate_bps: (grown('bytes') * 8) / seconds,
      freezes: grown('freezes'),
      freeze_ms: grown('freezeMs'),
      width: player.video.videoWidth,
      height: player.video.videoHeight,
      codes: this.codes,
    });
    this.seq += 1;
    store(`muster.seq.${player.id}`, String(this.seq));
    this.from = to;
    this.before = now;
    this.codes = [];
    const signed = await crypto.subtle.sign({ name: 'ECDSA', hash: 'SHA-256' }, pair.privateKey, new TextEncoder().encode(payload));
    this.unsent.push({ payload, signature: base64(signed) });
    if (this.unsent.length > UNSENT_MAX) this.unsent.shift();
    await this.deliver(player.key);
  }

  /** Sends what is unsent, oldest first; what cannot be sent now waits for the next receipt. */
  private async deliver(key: string): Promise<void> {
    for (let next = this.unsent[0]; next !== undefined; next = this.unsent[0]) {
      try {
        await api('POST', `sessions/${this.player.id}/receipts`, { bearer: key, body: next });
      } catch (error) {
        if (passing(error)) return;
      }
      if (this.unsent[0] === next) this.unsent.shift();
    }
  }
}

/** The strip's luma plane, or null where the frame's format has none to be read without conversion. */
async function readLuma(frame: VideoFrame): Promise<{ bytes: Uint8Array; offset: number; stride: number } | null> {
  const visible = frame.visibleRect;
  if ((frame.format !== 'I420' && frame.format !== 'NV12') || visible === null || visible.width < STRIP_WIDTH) return null;
  const rect = { x: visible.x, y: visible.y + visible.height - STRIP_HEIGHT, width: STRIP_WIDTH, height: STRIP_HEIGHT };
  if (rect.x % 2 !== 0 || rect.y % 2 !== 0) return null;
  const bytes = new Uint8Array(frame.allocationSize({ rect }));
  const [luma] = await frame.copyTo(bytes, { rect });
  return luma === undefined ? null : { bytes, offset: luma.offset, stride: luma.stride };
}

function stripCanvas(): CanvasRenderingContext2D | null {
  const canvas = document.createElement('canvas');
  canvas.width = STRIP_WIDTH;
  canvas.height = STRIP_HEIGHT;
  return canvas.getContext('2d', { willReadFrequently: true, alpha: false });
}

/** A `performance.now()` time in ms since 1970. */
function wallClock(at: number): number {
  return performance.timeOrigin + at;
}
