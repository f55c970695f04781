/** How people read the numbers. */

export function duration(ms: number): string {
  const seconds = Math.max(0, Math.round(ms / 1000));
  const h = Math.floor(seconds / 3600);
  const m = Math.floor((seconds % 3600) / 60);
  const s = seconds % 60;
  if (h > 0) return `${h} h ${m} min`;
  return m > 0 ? `${m} min ${s} s` : `${s} s`;
}

export function rate(bps: number): string {
  return bps >= 1e6 ? `${(bps / 1e6).toFixed(1)} Mbit/s` : `${Math.round(bps / 1e3)} kbit/s`;
}

export function ms(value: number | null): string {
  return value === null ? '–' : `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
}

export function percent(share: number): string {
  return `${(share * 100).toFixed(share > 0 && share < 0.1 ? 2 : 1)} %`;
}

/** What an hour costs: in dollars where that is known. */
export function hourly(dollars: number | null, tokens: string | null | undefined): string {
  if (dollars !== null) return `$${dollars.toFixed(dollars < 0.1 ? 4 : 2)} per hour`;
  return tokens === null || tokens === undefined ? '–' : `${amount(tokens)} per hour`;
}

/** An amount of the token, `0.00447609425000005 MUST`, to four digits behind the point, or four that count. */
export function amount(text: string): string {
  const [number = '', unit = ''] = text.split(' ');
  const value = Number(number);
  if (!Number.isFinite(value)) return text;
  const digits = value >= 1 || value === 0 ? { maximumFractionDigits: 4 } : { maximumSignificantDigits: 4 };
  return `${value.toLocaleString('en', { ...digits, useGrouping: false })} ${unit}`.trim();
}

/** A sentence of a program, as people write one. */
export function sentence(text: string): string {
  const [first = ''] = text;
  const whole = first.toUpperCase() + text.slice(first.length);
  return /[.!?…”)]$/.test(whole) || whole === '' ? whole : `${whole}.`;
}
