import { expect, it } from 'vitest';
import { directions, typed } from './typed';

it('sees what was typed, taken back and replaced', () => {
  expect(typed(' ', ' a')).toEqual({ back: 0, text: 'a' });
  expect(typed(' ab', ' a')).toEqual({ back: 1, text: '' });
  expect(typed(' helo', ' hello')).toEqual({ back: 1, text: 'lo' });
  expect(typed(' ', '')).toEqual({ back: 1, text: '' });
  expect(typed(' 😀', ' ')).toEqual({ back: 1, text: '' });
});

it('turns a stick into eight directions', () => {
  expect(directions(0.1, 0.1)).toEqual([]);
  expect(directions(1, 0)).toEqual(['right']);
  expect(directions(0, -1)).toEqual(['up']);
  expect(directions(-0.7, 0.7)).toEqual(['left', 'down']);
  expect(directions(0.95, 0.2)).toEqual(['right']);
});
