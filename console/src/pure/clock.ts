const SAMPLES_MAX = 60;

interface Sample {
  at: number;
  rtt: number;
  offset: number;
}

/**
 * How the Container's clock stands to the page's. Each ping gives a sample; the one with the shortest round trip is the
 * most exact, because half of the round trip is the most that it can be wrong.
 */
export class ClockOffset {
  private samples: Sample[] = [];

  /** A ping sent at `sent`, answered at `received` (page's clock), when the Container's clock said `remote`. */
  add(sent: number, received: number, remote: number): void {
    const rtt = received - sent;
    if (!(rtt >= 0) || !Number.isFinite(remote)) return;
    this.samples.push({ at: received, rtt, offset: remote - (sent + received) / 2 });
    if (this.samples.length > SAMPLES_MAX) this.samples.shift();
  }

  /** Container's clock minus the page's, or null before the first answer. */
  get offset(): number | null {
    return this.best()?.offset ?? null;
  }

  /** The last round trip. */
  get rtt(): number | null {
    return this.samples.at(-1)?.rtt ?? null;
  }

  clear(): void {
    this.samples = [];
  }

  private best(): Sample | null {
    let best: Sample | null = null;
    for (const sample of this.samples) if (best === null || sample.rtt < best.rtt) best = sample;
    return best;
  }
}
