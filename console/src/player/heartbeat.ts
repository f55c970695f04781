import type { ClockOffset } from '../pure/clock';
import type { Link } from './link';

const PING_MS = 500;
const SILENT_MS = 1000;
const SUSPECT_MS = 400;
const SLEPT_MS = 3000;
const PINGS_MAX = 20;

/**
 * Whether a connection lives: pings twice a second, and calls it dead once nothing of picture and sound has come for a
 * second while a ping stayed unanswered as long.
 */
export class Heartbeat {
  /** When the last answer came. */
  heardAt = performance.now();
  private pings: number[] = [];
  private pingAt = 0;
  private checkedAt = performance.now();
  private bytes = -1;
  private grewAt = performance.now();

  constructor(
    private readonly link: Link,
    private readonly clock: ClockOffset,
    private readonly dead: () => void,
  ) {
    clock.clear();
  }

  /** To be called a few times a second. */
  check(): void {
    const now = performance.now();
    if (now - this.checkedAt > SLEPT_MS) {
      // The page itself slept: what was not answered meanwhile says nothing.
      this.pings = [];
      this.pingAt = 0;
    }
    this.checkedAt = now;
    if (now - this.pingAt >= PING_MS) this.ping(now);
    const oldest = this.pings[0];
    if (oldest === undefined || now - oldest < SILENT_MS / 2) return;
    void this.count().then(() => {
      const then = performance.now();
      if (this.pings[0] === oldest && then - oldest >= SILENT_MS && then - this.grewAt >= SILENT_MS) this.dead();
    });
  }

  /** Something happened to the network: an answer has to come at once. */
  suspect(): void {
    const now = performance.now();
    if (!this.ping(now)) return;
    setTimeout(() => {
      if (this.pings.includes(now)) this.dead();
    }, Math.max(SUSPECT_MS, 3 * (this.clock.rtt ?? 0)));
  }

  /** A ping sent at `sent` was answered, at `at`, when the Container's clock said `remote`. */
  pong(sent: number, at: number, remote: number): void {
    this.heardAt = at;
    this.pings = this.pings.filter((other) => other > sent);
    this.clock.add(sent, at, remote);
  }

  private ping(now: number): boolean {
    if (!this.link.tell({ t: 'ping', at: now })) return false;
    this.pingAt = now;
    this.pings.push(now);
    if (this.pings.length > PINGS_MAX) this.pings.shift();
    return true;
  }

  /** Notes when the bytes of picture and sound last grew. */
  private async count(): Promise<void> {
    let bytes = 0;
    try {
      const report = await this.link.pc.getStats();
      report.forEach((entry: { type: string; bytesReceived?: number }) => {
        if (entry.type === 'inbound-rtp') bytes += entry.bytesReceived ?? 0;
      });
    } catch {
      return;
    }
    if (this.bytes >= 0 && bytes > this.bytes) this.grewAt = performance.now();
    this.bytes = bytes;
  }
}
