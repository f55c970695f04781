import type { ReactNode } from 'react';
import type { Parts } from './app';
import { amount, hourly, ms, percent, rate } from './format';

/** How the stream does, in numbers. */
export function Overlay({ player, meter }: Parts): ReactNode {
  const { reading } = meter;
  const { state } = player;
  const rows: [string, string][] = [
    ['Frames shown', reading === null ? '–' : `${reading.fps.toFixed(0)} of ${state?.fps ?? '–'} per second`],
    ['Capture to screen', ms(reading?.latencyMs ?? null)],
    ['Round trip', ms(reading?.rtt ?? null)],
    ['Bitrate', reading === null ? '–' : rate(reading.bps)],
    ['Loss', reading === null ? '–' : percent(reading.loss)],
    ['Encode · decode', `${ms(reading?.container?.encode ?? null)} · ${ms(reading?.decodeMs ?? null)}`],
    ['Picture', reading === null ? '–' : `${reading.width} × ${reading.height}${reading.codec === null ? '' : `, ${reading.codec}`}`],
    ['Machine', [state?.region, state?.container].filter(Boolean).join(' · ') || '–'],
    ['Cost so far', amount(state?.cost ?? '–')],
    ['Rate', hourly(state?.rate_usd_per_hour ?? null, state?.rate_must_per_hour)],
  ];
  return (
    <dl className="overlay" aria-label="Quality">
      {rows.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}
