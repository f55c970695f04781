// What became of the frames that the Container sent: how old each was when it was shown, and where the picture froze.

const KEPT = 900;
const INTERVALS = 30;
const FREEZE_MIN_MS = 150;

interface Gap {
  from: number;
  to: number;
  ms: number;
}

export interface FreezeCount {
  count: number;
  ms: number;
}

/** The threshold of WebRTC's `freezeCount`: three times the average interval, and at least 150 ms more than it. */
export function freezeThreshold(averageMs: number): number {
  return Math.max(3 * averageMs, averageMs + FREEZE_MIN_MS);
}

/**
 * Matches frames shown with what the Container says of them.
 *
 * A long gap between two shown frames is a freeze only if the Container sent frames meanwhile: a picture may stand
 * still for good reason, and then nothing is sent.
 */
export class FrameLog {
  private readonly shown = new Map<number, number>();
  private readonly captured = new Map<number, number>();
  private readonly intervals: number[] = [];
  private gaps: Gap[] = [];
  private last: { rtp: number; at: number } | null = null;
  private latencies: number[] = [];
  private frozen: FreezeCount = { count: 0, ms: 0 };

  /** A frame was shown. */
  show(rtp: number, at: number): void {
    if (this.last !== null && this.last.rtp !== rtp) {
      const ms = at - this.last.at;
      const average = this.averageMs();
      const threshold = average === null ? Infinity : freezeThreshold(average);
      if (ms > threshold) this.gaps.push({ from: this.last.rtp, to: rtp, ms });
      this.intervals.push(Math.min(ms, threshold));
      if (this.intervals.length > INTERVALS) this.intervals.shift();
      if (this.gaps.length > 100) this.gaps.shift();
    }
    this.last = { rtp, at };
    remember(this.shown, rtp, at);
  }

  /** What the Container says: pairs of RTP timestamp and when it was captured; `offset` is its clock minus the page's. */
  sent(frames: readonly (readonly [number, number])[], offset: number | null): void {
    for (const [rtp, captured] of frames) {
      remember(this.captured, rtp, captured);
      const at = this.shown.get(rtp);
      if (at === undefined || offset === null) continue;
      const ms = at - (captured - offset);
      if (ms > -1000 && ms < 60_000) this.latencies.push(Math.max(0, ms));
      if (this.latencies.length > KEPT) this.latencies.shift();
    }
    this.gaps = this.gaps.filter((gap) => !this.judge(gap));
  }

  /** The connection was lost and the picture stood still for `ms`. */
  lost(ms: number): void {
    this.frozen.count += 1;
    this.frozen.ms += ms;
    this.restart();
  }

  /** A new stream begins: its timestamps have nothing to do with the old one's. */
  restart(): void {
    this.shown.clear();
    this.captured.clear();
    this.intervals.length = 0;
    this.gaps = [];
    this.last = null;
  }

  /** Capture-to-screen times since the last call. */
  takeLatencies(): number[] {
    const taken = this.latencies;
    this.latencies = [];
    return taken;
  }

  /** Freezes since the last call. */
  takeFreezes(): FreezeCount {
    const taken = this.frozen;
    this.frozen = { count: 0, ms: 0 };
    return taken;
  }

  private averageMs(): number | null {
    if (this.intervals.length === 0) return null;
    return this.intervals.reduce((sum, ms) => sum + ms, 0) / this.intervals.length;
  }

  /** True once the gap is decided. */
  private judge(gap: Gap): boolean {
    const from = this.captured.get(gap.from);
    const to = this.captured.get(gap.to);
    if (from === undefined || to === undefined) return false;
    const times = [...this.captured.values()].filter((at) => at >= from && at <= to).sort((a, b) => a - b);
    let pause = 0;
    for (let i = 1; i < times.length; i++) pause = Math.max(pause, (times[i] ?? 0) - (times[i - 1] ?? 0));
    const excess = gap.ms - pause;
    if (excess > FREEZE_MIN_MS) {
      this.frozen.count += 1;
      this.frozen.ms += excess;
    }
    return true;
  }
}

function remember(map: Map<number, number>, key: number, value: number): void {
  map.set(key, value);
  if (map.size <= KEPT) return;
  const oldest = map.keys().next();
  if (!oldest.done) map.delete(oldest.value);
}

/** The value that `share` of all values do not exceed, or null where there are none. */
export function percentile(values: readonly number[], share: number): number | null {
  if (values.length === 0) return null;
  const sorted = [...values].sort((a, b) => a - b);
  const index = Math.min(sorted.length - 1, Math.max(0, Math.ceil(share * sorted.length) - 1));
  return sorted[index] ?? null;
}
