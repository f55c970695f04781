const WAITS_MS = [0, 250, 500, 1000] as const;
const WAIT_MS_MAX = 2000;

/** How long to wait before the attempt: 0, 250, 500, 1000, then 2000 ms, so that a network that is back is soon used. */
export function backoffMs(attempt: number): number {
  return WAITS_MS[attempt] ?? WAIT_MS_MAX;
}

/**
 * How long an attempt to rejoin may wait for its answer. Short, because a request that was sent into a dead network
 * hangs; but each third one is patient, for networks that are only slow.
 */
export function answerTimeoutMs(attempt: number): number {
  return attempt % 3 === 2 ? 8000 : 2500;
}
