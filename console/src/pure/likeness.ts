/** How alike two texts are by their embeddings: 1 the same direction, 0 nothing in common, -1 opposite. */
export function likeness(a: readonly number[], b: readonly number[]): number {
  if (a.length !== b.length) throw new RangeError(`vectors of ${a.length} and ${b.length} numbers cannot be compared`);
  let [dot, aa, bb] = [0, 0, 0];
  for (const [at, x] of a.entries()) {
    const y = b[at] ?? 0;
    dot += x * y;
    aa += x * x;
    bb += y * y;
  }
  const length = Math.sqrt(aa) * Math.sqrt(bb);
  return length === 0 ? 0 : Math.max(-1, Math.min(1, dot / length));
}

export interface Pair {
  a: number;
  b: number;
  value: number;
}

/** All pairs, the likest first. */
export function pairs(vectors: readonly (readonly number[])[]): Pair[] {
  const all: Pair[] = [];
  for (const [a, first] of vectors.entries()) {
    for (const [b, second] of vectors.entries()) if (b > a) all.push({ a, b, value: likeness(first, second) });
  }
  return all.sort((x, y) => y.value - x.value);
}
