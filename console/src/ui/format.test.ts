import { expect, it } from 'vitest';
import { amount, hourly, sentence } from './format';

it('shows amounts to the digits that count', () => {
  expect(amount('0.00447609425000005 MUST')).toBe('0.004476 MUST');
  expect(amount('0 MUST')).toBe('0 MUST');
  expect(amount('12345.678 MUST')).toBe('12345.678 MUST');
  expect(amount('0.000000000000000001 MUST')).toBe('0.000000000000000001 MUST');
  expect(amount('–')).toBe('–');
});

it('prefers dollars and has tokens', () => {
  expect(hourly(0.42, '1 MUST')).toBe('$0.42 per hour');
  expect(hourly(null, '0.2127000000000024 MUST')).toBe('0.2127 MUST per hour');
  expect(hourly(null, null)).toBe('–');
});

it('writes sentences', () => {
  expect(sentence('the session was ended')).toBe('The session was ended.');
  expect(sentence('Stopped.')).toBe('Stopped.');
  expect(sentence('ask with `muster session link`')).toBe('Ask with `muster session link`.');
  expect(sentence('')).toBe('');
});
