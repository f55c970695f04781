// Keys for text that comes without a keyboard, as from a phone's: each character as the key of a US keyboard.

export interface KeyPress {
  code: string;
  key: string;
  shift: boolean;
}

const PLAIN: Readonly<Record<string, string>> = {
  ' ': 'Space', '\n': 'Enter', '\t': 'Tab', '-': 'Minus', '=': 'Equal', '[': 'BracketLeft', ']': 'BracketRight',
  '\\': 'Backslash', ';': 'Semicolon', "'": 'Quote', '`': 'Backquote', ',': 'Comma', '.': 'Period', '/': 'Slash',
};
const SHIFTED: Readonly<Record<string, string>> = {
  '!': 'Digit1', '@': 'Digit2', '#': 'Digit3', '$': 'Digit4', '%': 'Digit5', '^': 'Digit6', '&': 'Digit7',
  '*': 'Digit8', '(': 'Digit9', ')': 'Digit0', _: 'Minus', '+': 'Equal', '{': 'BracketLeft', '}': 'BracketRight',
  '|': 'Backslash', ':': 'Semicolon', '"': 'Quote', '~': 'Backquote', '<': 'Comma', '>': 'Period', '?': 'Slash',
};
const NAMED: Readonly<Record<string, string>> = { '\n': 'Enter', '\t': 'Tab' };

/** The key that writes a character; its code is empty where a US keyboard has none. */
export function keyOf(character: string): KeyPress {
  const key = NAMED[character] ?? character;
  if (/^[a-z]$/.test(character)) return { code: `Key${character.toUpperCase()}`, key, shift: false };
  if (/^[A-Z]$/.test(character)) return { code: `Key${character}`, key, shift: true };
  if (/^[0-9]$/.test(character)) return { code: `Digit${character}`, key, shift: false };
  const plain = PLAIN[character];
  if (plain !== undefined) return { code: plain, key, shift: false };
  const shifted = SHIFTED[character];
  if (shifted !== undefined) return { code: shifted, key, shift: true };
  return { code: '', key, shift: false };
}
