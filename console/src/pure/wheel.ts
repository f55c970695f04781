const LINES_PER_NOTCH = 3;
const NOTCHES_PER_PAGE = 8;

/** A wheel event's delta in notches. Mice send 100 or 120 pixels a notch, or 3 lines; touchpads send fractions. */
export function notches(delta: number, deltaMode: number): number {
  if (!Number.isFinite(delta) || delta === 0) return 0;
  const raw = deltaMode === 1 ? delta / LINES_PER_NOTCH : deltaMode === 2 ? delta * NOTCHES_PER_PAGE : pixels(delta);
  return Math.round(Math.min(100, Math.max(-100, raw)) * 1000) / 1000;
}

function pixels(delta: number): number {
  return delta % 120 === 0 && delta % 100 !== 0 ? delta / 120 : delta / 100;
}
