import { FrameLog, percentile } from '../pure/frames';
import type { Link } from './link';
import type { Player } from './player';
import type { StreamStats } from './wire';

/** What adds up over the whole session, across connections. */
export interface Totals {
  frames: number;
  bytes: number;
  packets: number;
  lost: number;
  decoded: number;
  decodeMs: number;
  freezes: number;
  freezeMs: number;
}

/** What the quality overlay shows; null where it is not known. */
export interface Reading {
  fps: number;
  bps: number;
  loss: number;
  rtt: number | null;
  decodeMs: number | null;
  latencyMs: number | null;
  width: number;
  height: number;
  codec: string | null;
  container: StreamStats | null;
}

interface Raw extends Totals {
  codec: string | null;
  rtt: number | null;
}

const NOTHING: Totals = { frames: 0, bytes: 0, packets: 0, lost: 0, decoded: 0, decodeMs: 0, freezes: 0, freezeMs: 0 };
const LATENCIES_MAX = 5000;

/** Measures the stream once a second. */
export class Meter {
  readonly totals: Totals = { ...NOTHING };
  reading: Reading | null = null;
  readonly log = new FrameLog();
  private latencies: number[] = [];
  private base: { link: Link; raw: Raw; frames: number; at: number } | null = null;
  private container: StreamStats | null = null;
  private stalls = 0;
  private readonly hasCallback = 'requestVideoFrameCallback' in HTMLVideoElement.prototype;

  constructor(private readonly player: Player) {
    player.onFrame((now, metadata) => {
      if (metadata.rtpTimestamp === undefined) return;
      this.log.show(metadata.rtpTimestamp, Math.max(now, metadata.expectedDisplayTime));
    });
    player.onMessage((message) => {
      if (message.t === 'frames') this.log.sent(message.f, player.clock.offset);
      if (message.t === 'stats') this.container = message;
    });
    player.onLink(() => {
      if (player.stalls > this.stalls && player.lostAt !== null) this.log.lost(Math.max(0, performance.now() - player.lostAt));
      else this.log.restart();
      this.stalls = player.stalls;
    });
    // A hidden page shows no frames, and that is no freeze.
    document.addEventListener('visibilitychange', () => this.log.restart());
    setInterval(() => void this.measure(), 1000);
  }

  /** Capture-to-screen times since the last call. */
  takeLatencies(): number[] {
    const taken = this.latencies;
    this.latencies = [];
    return taken;
  }

  private async measure(): Promise<void> {
    const { player } = this;
    const link = player.link;
    if (link === null || player.phase !== 'playing') return;
    let raw: Raw;
    try {
      raw = read(await link.pc.getStats());
    } catch {
      return;
    }
    const at = performance.now();
    const frames = player.frames;
    const base = this.base?.link === link ? this.base : { link, raw: { ...NOTHING, codec: null, rtt: null }, frames, at: at - 1000 };
    this.base = { link, raw, frames, at };
    const grown = (name: keyof Totals): number => Math.max(0, raw[name] - base.raw[name]);
    const seconds = Math.max(0.001, (at - base.at) / 1000);
    const shown = this.hasCallback && !document.hidden ? frames - base.frames : grown('decoded');
    for (const name of ['bytes', 'packets', 'lost', 'decoded', 'decodeMs'] as const) this.totals[name] += grown(name);
    this.totals.frames += shown;
    this.freezes(grown('freezes'), grown('freezeMs'));
    const fresh = this.log.takeLatencies();
    this.latencies = [...this.latencies, ...fresh].slice(-LATENCIES_MAX);
    const packets = grown('packets') + grown('lost');
    this.reading = {
      fps: shown / seconds,
      bps: (grown('bytes') * 8) / seconds,
      loss: packets === 0 ? 0 : grown('lost') / packets,
      rtt: player.clock.rtt ?? raw.rtt,
      decodeMs: grown('decoded') === 0 ? null : grown('decodeMs') / grown('decoded'),
      latencyMs: percentile(fresh, 0.5) ?? this.reading?.latencyMs ?? null,
      width: player.video.videoWidth,
      height: player.video.videoHeight,
      codec: raw.codec,
      container: this.container,
    };
    player.changed();
  }

  /** By the frames' own times where the browser tells them; else as the browser counts, while frames were sent. */
  private freezes(counted: number, countedMs: number): void {
    const own = this.log.takeFreezes();
    const sending = (this.container?.fps ?? 0) >= 1;
    this.totals.freezes += this.hasCallback ? own.count : own.count + (sending ? counted : 0);
    this.totals.freezeMs += this.hasCallback ? own.ms : own.ms + (sending ? countedMs : 0);
  }
}

/** The few numbers that matter out of `getStats`. */
function read(report: RTCStatsReport): Raw {
  const raw: Raw = { ...NOTHING, codec: null, rtt: null };
  const all = new Map<string, Record<string, unknown>>();
  report.forEach((value: Record<string, unknown>, id: string) => all.set(id, value));
  for (const entry of all.values()) {
    const number = (name: string): number => {
      const value = Number(entry[name] ?? 0);
      return Number.isFinite(value) ? value : 0;
    };
    if (entry['type'] === 'inbound-rtp' && entry['kind'] === 'video') {
      raw.bytes += number('bytesReceived');
      raw.packets += number('packetsReceived');
      raw.lost += Math.max(0, number('packetsLost'));
      raw.decoded += number('framesDecoded');
      raw.decodeMs += number('totalDecodeTime') * 1000;
      raw.freezes += number('freezeCount');
      raw.freezeMs += number('totalFreezesDuration') * 1000;
      const mime = all.get(String(entry['codecId'] ?? ''))?.['mimeType'];
      if (typeof mime === 'string') raw.codec = mime.replace(/^video\//i, '');
    }
    if (entry['type'] === 'candidate-pair' && entry['nominated'] === true && number('currentRoundTripTime') > 0) {
      raw.rtt = number('currentRoundTripTime') * 1000;
    }
  }
  return raw;
}
