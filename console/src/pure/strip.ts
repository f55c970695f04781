// The delivery code in the picture: 40 cells of 8×8 pixels at the bottom left, `1010`, 32 bits, 4 bits of check sum.
// A cell that is 1 is white.

export const CELL = 8;
export const CELLS = 40;
export const STRIP_WIDTH = CELL * CELLS;
export const STRIP_HEIGHT = CELL;

const SYNC = [1, 0, 1, 0] as const;
const CONTRAST_MIN = 64;

/** The sum, modulo 16, of the code's eight nibbles. */
export function checkSum(code: number): number {
  let sum = 0;
  for (let shift = 28; shift >= 0; shift -= 4) sum += (code >>> shift) & 15;
  return sum & 15;
}

/** The 40 cells of a code, 0 or 1. */
export function encodeCells(code: number): number[] {
  const cells: number[] = [...SYNC];
  for (let bit = 31; bit >= 0; bit--) cells.push((code >>> bit) & 1);
  const sum = checkSum(code);
  for (let bit = 3; bit >= 0; bit--) cells.push((sum >>> bit) & 1);
  return cells;
}

/**
 * The code that a strip of brightness values shows, or null where there is none.
 *
 * @param luma one byte a pixel (or every `step`-th byte), row by row
 * @param offset where the strip's first pixel stands
 * @param stride bytes from one row to the next
 * @param step bytes from one pixel to the next
 */
export function decodeStrip(luma: Uint8Array | Uint8ClampedArray, offset: number, stride: number, step = 1): number | null {
  const means: number[] = [];
  for (let cell = 0; cell < CELLS; cell++) means.push(cellMean(luma, offset + cell * CELL * step, stride, step));
  const [a = 0, b = 0, c = 0, d = 0] = means;
  const white = Math.min(a, c);
  const black = Math.max(b, d);
  if (white - black < CONTRAST_MIN) return null;
  const threshold = (a + b + c + d) / 4;
  const bit = (cell: number): number => ((means[cell] ?? 0) > threshold ? 1 : 0);
  let code = 0;
  for (let i = 0; i < 32; i++) code = ((code << 1) | bit(4 + i)) >>> 0;
  let sum = 0;
  for (let i = 0; i < 4; i++) sum = (sum << 1) | bit(36 + i);
  return sum === checkSum(code) ? code : null;
}

/** The mean of a cell's inner 4×4 pixels: its edges are smeared by the codec. */
function cellMean(luma: Uint8Array | Uint8ClampedArray, start: number, stride: number, step: number): number {
  let sum = 0;
  for (let y = 2; y < 6; y++) {
    for (let x = 2; x < 6; x++) sum += luma[start + y * stride + x * step] ?? 0;
  }
  return sum / 16;
}
