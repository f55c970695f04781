/** What was typed into a text field: how many characters went, counted from the end, and what came instead. */
export function typed(before: string, after: string): { back: number; text: string } {
  const old = [...before];
  const now = [...after];
  let same = 0;
  while (same < old.length && same < now.length && old[same] === now[same]) same += 1;
  return { back: old.length - same, text: now.slice(same).join('') };
}

export type Direction = 'up' | 'down' | 'left' | 'right';

const DEAD = 0.35;

/** The directions that a stick held at x, y (-1 to 1, y down) means: one, or two neighbours. */
export function directions(x: number, y: number): Direction[] {
  const length = Math.hypot(x, y);
  if (length < DEAD) return [];
  const held: Direction[] = [];
  const diagonal = Math.sin(Math.PI / 8);
  if (x / length > diagonal) held.push('right');
  if (x / length < -diagonal) held.push('left');
  if (y / length > diagonal) held.push('down');
  if (y / length < -diagonal) held.push('up');
  return held;
}
