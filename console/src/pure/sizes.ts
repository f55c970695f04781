const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'] as const;
const STEP = 1024;

/** A size in bytes as people read it, to three digits. */
export function bytes(count: number): string {
  let [value, unit] = [count, 0];
  while (value >= STEP && unit < UNITS.length - 1) {
    value /= STEP;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : Number(value.toPrecision(3))} ${UNITS[unit]}`;
}

/** A large number as people name models by: 500 K, 22.7 M, 8 B. */
export function many(count: number): string {
  const [step, unit] = ([[1e9, ' B'], [1e6, ' M'], [1e3, ' K']] as const).find(([least]) => count >= least) ?? [1, ''];
  return `${Number((count / step).toPrecision(3))}${unit}`;
}
