/** A code that was asked for, and when it was seen; times in ms since 1970, `seen` null where it was not within 2 s. */
export interface CodeSeen {
  code: number;
  asked: number;
  seen: number | null;
}

export interface Receipt {
  session: string;
  seq: number;
  from: number;
  to: number;
  fps: number;
  latency_p95_ms: number | null;
  loss: number;
  bitrate_bps: number;
  freezes: number;
  freeze_ms: number;
  /** Of the decoded picture, in pixels. */
  width: number;
  height: number;
  codes: CodeSeen[];
}

type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

/** The canonical text that is signed: RFC 8785, that is, keys sorted, no blanks, numbers as ECMAScript writes them. */
export function canonicalReceipt(receipt: Receipt): string {
  return canonical({
    ...receipt,
    from: Math.round(receipt.from),
    to: Math.round(receipt.to),
    fps: rounded(receipt.fps, 1),
    latency_p95_ms: receipt.latency_p95_ms === null ? null : rounded(receipt.latency_p95_ms, 1),
    loss: rounded(receipt.loss, 4),
    bitrate_bps: Math.round(receipt.bitrate_bps),
    freeze_ms: Math.round(receipt.freeze_ms),
    codes: receipt.codes.map(({ code, asked, seen }) => ({
      code,
      asked: Math.round(asked),
      seen: seen === null ? null : Math.round(seen),
    })),
  });
}

function rounded(value: number, digits: number): number {
  const factor = 10 ** digits;
  const result = Math.round(value * factor) / factor;
  return Number.isFinite(result) ? result : 0;
}

export function canonical(value: Json): string {
  if (value === null || typeof value !== 'object') return JSON.stringify(value);
  if (isList(value)) return `[${value.map(canonical).join(',')}]`;
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
  return `{${entries.map(([key, inner]) => `${JSON.stringify(key)}:${canonical(inner)}`).join(',')}}`;
}

function isList(value: readonly Json[] | { readonly [key: string]: Json }): value is readonly Json[] {
  return Array.isArray(value);
}

export function base64(bytes: ArrayBuffer): string {
  let text = '';
  for (const byte of new Uint8Array(bytes)) text += String.fromCharCode(byte);
  return btoa(text);
}
