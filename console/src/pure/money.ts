import type { Counts } from './answer';

/** Dollars for a million tokens. */
export interface Price {
  input: number;
  cached: number;
  output: number;
}

const MICRO = 1e6;

/** What tokens cost in millionths of a dollar, rounded up, as the Gateway bills them. */
export function costMicro({ input, cached, output }: Counts, price: Price): number {
  const remembered = Math.min(cached, input);
  // Prices are whole millionths of a dollar: whole numbers all the way, so that nothing is rounded twice.
  const micro = (usd: number): bigint => BigInt(Math.round(usd * MICRO));
  const sum = BigInt(input - remembered) * micro(price.input) + BigInt(remembered) * micro(price.cached) + BigInt(output) * micro(price.output);
  return Number((sum + 999_999n) / 1_000_000n);
}

/** An amount in dollars: cents at least, and as many digits as count. */
export function dollars(micro: number): string {
  const [whole = '0', decimals = ''] = (Math.max(0, micro) / MICRO).toFixed(6).split('.');
  const kept = micro >= 100 * MICRO ? decimals.slice(0, 2) : decimals.replace(/0+$/, '').padEnd(2, '0');
  return `$${whole}.${kept}`;
}

/** The three prices of a million tokens; one where the model only reads (embeddings). */
export function priceWords(price: Price | null, writes = true): string {
  if (price === null) return 'told when it runs';
  const each = (usd: number): string => dollars(usd * MICRO);
  return writes ? `${each(price.input)} in · ${each(price.cached)} cached · ${each(price.output)} out` : each(price.input);
}

/** The prices that say most, for where there is little room. */
export function priceShort(price: Price, writes = true): string {
  return writes ? `${dollars(price.input * MICRO)} in, ${dollars(price.output * MICRO)} out` : dollars(price.input * MICRO);
}
