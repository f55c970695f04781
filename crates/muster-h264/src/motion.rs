//! Where a block was in the picture before (H.264, 8.4.2).

use crate::bits::signed_len;
use crate::differ::{Sum, sad};
use crate::plane::Plane;
use crate::predict::fill;

/// A way from a block to where it was, in quarters of a pixel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Motion {
    pub(crate) x: i16,
    pub(crate) y: i16,
}

impl Motion {
    #[inline(always)]
    pub(crate) const fn new(x: i16, y: i16) -> Self {
        Self { x, y }
    }

    #[inline(always)]
    pub(crate) const fn is_zero(self) -> bool {
        self.x == 0 && self.y == 0
    }

    #[inline(always)]
    pub(crate) const fn is_whole(self) -> bool {
        self.x & 3 == 0 && self.y & 3 == 0
    }

    /// The nearest whole pixels.
    #[inline(always)]
    pub(crate) const fn rounded(self) -> Self {
        Self { x: (self.x + 2) & !3, y: (self.y + 2) & !3 }
    }

    /// The middle one of three, each direction for itself.
    #[inline(always)]
    pub(crate) fn middle(a: Self, b: Self, c: Self) -> Self {
        let middle = |a: i16, b: i16, c: i16| a.max(b).min(a.min(b).max(c));
        Self { x: middle(a.x, b.x, c.x), y: middle(a.y, b.y, c.y) }
    }

    /// How many bits it takes to say it, where another is likely.
    #[inline(always)]
    pub(crate) fn len_from(self, likely: Self) -> u32 {
        signed_len(i32::from(self.x) - i32::from(likely.x)) + signed_len(i32::from(self.y) - i32::from(likely.y))
    }

    #[inline(always)]
    pub(crate) fn plus(self, x: i16, y: i16) -> Self {
        Self { x: self.x.saturating_add(x), y: self.y.saturating_add(y) }
    }
}

/// Values beside a block that the filter for parts of a pixel looks at.
const MARGIN: i32 = 3;

/// The upper left corner of where a block was, if that and what is needed around it lie in the picture.
#[inline(always)]
pub(crate) fn origin(plane: &Plane, x: usize, y: usize, motion: Motion) -> Option<(usize, usize)> {
    let (left, top) = (x as i32 + i32::from(motion.x >> 2), y as i32 + i32::from(motion.y >> 2));
    let margin = if motion.is_whole() { 0 } else { MARGIN };
    let inside = left >= margin
        && top >= margin
        && left + 16 + margin <= plane.width as i32
        && top + 16 + margin <= plane.height as i32;
    inside.then_some((left as usize, top as usize))
}

/// How different a block is from a place in a picture; no further than `limit`.
#[inline(always)]
pub(crate) fn sad_at(block: &[[u8; 16]; 16], plane: &Plane, x: usize, y: usize, limit: u32) -> u32 {
    let mut sum = Sum::new();
    for (four, rows) in block.chunks_exact(4).enumerate() {
        for (row, line) in rows.iter().enumerate() {
            sum.add(line, plane.run(x, y + four * 4 + row));
        }
        if sum.total() >= limit {
            break;
        }
    }
    sum.total()
}

/// Brightness of a block as it was; the place lies in the picture, see [`origin`].
#[inline(always)]
pub(crate) fn luma(plane: &Plane, (left, top): (usize, usize), motion: Motion) -> [[u8; 16]; 16] {
    let (dx, dy) = (motion.x & 3, motion.y & 3);
    if dx == 0 && dy == 0 {
        return plane.block(left, top);
    }
    parts(plane, left, top, dx, dy)
}

#[inline(always)]
fn six(a: i16, b: i16, c: i16, d: i16, e: i16, f: i16) -> i16 {
    a + f - 5 * (b + e) + 20 * (c + d)
}

#[inline(always)]
fn narrow(value: i16) -> u8 {
    ((value + 16) >> 5).clamp(0, 255) as u8
}

/// Between pixels of a row, for rows from `top` on.
#[inline(always)]
fn between_columns(plane: &Plane, left: usize, top: usize) -> [[u8; 16]; 16] {
    let mut block = [[0; 16]; 16];
    for (row, line) in block.iter_mut().enumerate() {
        let from = plane.run::<21>(left - 2, top + row);
        for x in 0..16 {
            let at = |step: usize| i16::from(from[x + step]);
            line[x] = narrow(six(at(0), at(1), at(2), at(3), at(4), at(5)));
        }
    }
    block
}

/// Between pixels of a column.
#[inline(always)]
fn between_rows(plane: &Plane, left: usize, top: usize) -> [[u8; 16]; 16] {
    let from: [[u8; 16]; 21] = plane.block(left, top - 2);
    let mut block = [[0; 16]; 16];
    for (row, line) in block.iter_mut().enumerate() {
        for x in 0..16 {
            let at = |step: usize| i16::from(from[row + step][x]);
            line[x] = narrow(six(at(0), at(1), at(2), at(3), at(4), at(5)));
        }
    }
    block
}

/// In the middle of four pixels.
#[inline(always)]
fn middle(plane: &Plane, left: usize, top: usize) -> [[u8; 16]; 16] {
    let mut lines = [[0i16; 16]; 21];
    for (row, line) in lines.iter_mut().enumerate() {
        let from = plane.run::<21>(left - 2, top + row - 2);
        for x in 0..16 {
            let at = |step: usize| i16::from(from[x + step]);
            line[x] = six(at(0), at(1), at(2), at(3), at(4), at(5));
        }
    }
    let mut block = [[0; 16]; 16];
    for (row, line) in block.iter_mut().enumerate() {
        for x in 0..16 {
            let at = |step: usize| i32::from(lines[row + step][x]);
            let sum = at(0) + at(5) - 5 * (at(1) + at(4)) + 20 * (at(2) + at(3));
            line[x] = ((sum + 512) >> 10).clamp(0, 255) as u8;
        }
    }
    block
}

#[inline(always)]
fn average(a: &[[u8; 16]; 16], b: &[[u8; 16]; 16]) -> [[u8; 16]; 16] {
    fill(|x, y| ((u16::from(a[y][x]) + u16::from(b[y][x]) + 1) >> 1) as u8)
}

#[inline(always)]
fn parts(plane: &Plane, left: usize, top: usize, dx: i16, dy: i16) -> [[u8; 16]; 16] {
    let (right, low) = (usize::from(dx == 3), usize::from(dy == 3));
    let whole = |x: usize, y: usize| plane.block(left + x, top + y);
    match (dx, dy) {
        (2, 0) => between_columns(plane, left, top),
        (0, 2) => between_rows(plane, left, top),
        (2, 2) => middle(plane, left, top),
        (2, _) => average(&middle(plane, left, top), &between_columns(plane, left, top + low)),
        (_, 2) => average(&middle(plane, left, top), &between_rows(plane, left + right, top)),
        (_, 0) => average(&whole(right, 0), &between_columns(plane, left, top)),
        (0, _) => average(&whole(0, low), &between_rows(plane, left, top)),
        _ => average(&between_columns(plane, left, top + low), &between_rows(plane, left + right, top)),
    }
}

/// The best step of less than a pixel from a way of whole ones, and how different the block is there: to the halves beside
/// it, and to the quarters before these. All of them come from five filtered blocks.
pub(crate) fn between(
    block: &[[u8; 16]; 16],
    plane: &Plane,
    x: usize,
    y: usize,
    way: Motion,
    price: u32,
    likely: Motion,
) -> Option<(Motion, u32)> {
    // The filters of all steps have to stay in the picture.
    origin(plane, x, y, way.plus(-3, -3))?;
    let (left, top) = origin(plane, x, y, way.plus(3, 3))?;
    let before = between_columns(plane, left - 1, top);
    let after = between_columns(plane, left, top);
    let above = between_rows(plane, left, top - 1);
    let below = between_rows(plane, left, top);
    let whole = plane.block(left, top);
    let mut best = (Motion::default(), u32::MAX, u32::MAX);
    let mut attempt = |step: Motion, guess: &[[u8; 16]; 16]| {
        let differs = sad(block, guess);
        let cost = differs + price * way.plus(step.x, step.y).len_from(likely);
        if cost < best.1 {
            best = (step, cost, differs);
        }
        cost
    };
    let across = [attempt(Motion::new(-2, 0), &before), attempt(Motion::new(2, 0), &after)];
    let down = [attempt(Motion::new(0, -2), &above), attempt(Motion::new(0, 2), &below)];
    let (dx, across) = if across[0] < across[1] { (-1, &before) } else { (1, &after) };
    let (dy, down) = if down[0] < down[1] { (-1, &above) } else { (1, &below) };
    let middle = middle(plane, left - usize::from(dx < 0), top - usize::from(dy < 0));
    attempt(Motion::new(2 * dx, 2 * dy), &middle);
    attempt(Motion::new(2 * dx, dy), &average(&middle, across));
    attempt(Motion::new(dx, 2 * dy), &average(&middle, down));
    attempt(Motion::new(dx, 0), &average(&whole, across));
    attempt(Motion::new(0, dy), &average(&whole, down));
    attempt(Motion::new(dx, dy), &average(across, down));
    Some((best.0, best.2))
}

/// A colour of a block as it was.
#[inline(always)]
pub(crate) fn chroma(plane: &Plane, x: usize, y: usize, motion: Motion) -> [[u8; 8]; 8] {
    let (dx, dy) = (u16::from((motion.x & 7).unsigned_abs() as u8), u16::from((motion.y & 7).unsigned_abs() as u8));
    let left = (x as i32 + i32::from(motion.x >> 3)) as usize;
    let top = (y as i32 + i32::from(motion.y >> 3)) as usize;
    if dx == 0 && dy == 0 {
        return plane.block(left, top);
    }
    // What has no weight need not be there.
    let (right, low) = (usize::from(dx > 0), usize::from(dy > 0));
    let [a, b, c, d] = [(8 - dx) * (8 - dy), dx * (8 - dy), (8 - dx) * dy, dx * dy];
    let mut block = [[0; 8]; 8];
    for (row, line) in block.iter_mut().enumerate() {
        let (upper, lower) = (top + row, top + row + low);
        let (upper, upper_next) = (plane.run::<8>(left, upper), plane.run::<8>(left + right, upper));
        let (lower, lower_next) = (plane.run::<8>(left, lower), plane.run::<8>(left + right, lower));
        for x in 0..8 {
            let sum = a * u16::from(upper[x])
                + b * u16::from(upper_next[x])
                + c * u16::from(lower[x])
                + d * u16::from(lower_next[x]);
            line[x] = ((sum + 32) >> 6) as u8;
        }
    }
    block
}

/// How wide the stripes are in which the way of a scroll is looked for.
pub(crate) const STRIPE: usize = 128;
/// Rows of a stripe that are looked for in the picture before.
const SAMPLES: usize = 24;
/// So many of them must have gone the same way.
const AGREED: usize = 4;

/// By how many rows each stripe of the picture has moved up, if it has; found by rows that are the same as another one
/// before and unlike those beside them.
#[derive(Debug, Default)]
pub(crate) struct Scrolls {
    /// A number for each row of each stripe of the picture that was looked at last; none, if that was not the one before.
    signs: Vec<Vec<u64>>,
}

impl Scrolls {
    /// The pictures that follow are not those after the one that was looked at last.
    pub(crate) fn forget(&mut self) {
        self.signs.clear();
    }

    /// Looks at a picture; the next one looked at is the one after it, or [`Scrolls::forget`] is to be called.
    pub(crate) fn look(&mut self, now: &Plane, before: &Plane) -> Vec<Option<i16>> {
        let old = std::mem::replace(&mut self.signs, signs(now));
        let old = if old.is_empty() { signs(before) } else { old };
        self.signs.iter().zip(old).map(|(new, old)| scroll(new, &old)).collect()
    }
}

fn signs(plane: &Plane) -> Vec<Vec<u64>> {
    let stripe = |left: usize| {
        let right = (left + STRIPE).min(plane.width);
        (0..plane.height).map(|row| sign(&plane.row(row)[left..right])).collect()
    };
    (0..plane.width).step_by(STRIPE).map(stripe).collect()
}

/// A number that other rows hardly have. Four runs side by side, as each step of one waits for the step before it.
#[inline(always)]
fn sign(row: &[u8]) -> u64 {
    let mix = |sum: u64, eight: &[u8; 8]| {
        (sum ^ u64::from_le_bytes(*eight)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
    };
    let (eights, _) = row.as_chunks::<8>();
    let (fours, rest) = eights.as_chunks::<4>();
    let mut sums = [1, 2, 3, 4];
    for four in fours {
        for (sum, eight) in sums.iter_mut().zip(four) {
            *sum = mix(*sum, eight);
        }
    }
    let whole = sums.iter().fold(0, |all, sum| mix(all, &sum.to_le_bytes()));
    rest.iter().fold(whole, mix)
}

fn scroll(new: &[u64], old: &[u64]) -> Option<i16> {
    let mut telling: Vec<usize> =
        (1..new.len()).filter(|row| new[*row] != old[*row] && new[*row] != new[row - 1]).collect();
    let every = telling.len().div_ceil(SAMPLES).max(1);
    telling = telling.into_iter().step_by(every).collect();
    let mut ways: Vec<i16> = Vec::new();
    for row in telling {
        let mut found = old.iter().enumerate().filter(|(_, sign)| **sign == new[row]);
        // A row that stood in several places says nothing.
        if let (Some((at, _)), None) = (found.next(), found.next()) {
            ways.extend(i16::try_from(at as i64 - row as i64));
        }
    }
    ways.sort_unstable();
    let best = ways.chunk_by(|a, b| a == b).max_by_key(|run| run.len())?;
    (best.len() >= AGREED).then(|| best[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plane::Frame;

    /// Something without edges, and unlike itself everywhere.
    fn scene(dx: f64, dy: f64) -> Frame {
        let mut frame = Frame::new(6, 6);
        let value =
            |x: f64, y: f64| 50.0f64.mul_add((x * 0.31 + y * 0.17).sin() * (y * 0.23 - x * 0.05).cos(), 128.0) as u8;
        let rows: Vec<u8> = (0..96 * 96).map(|at| value(f64::from(at % 96) + dx, f64::from(at / 96) + dy)).collect();
        let planes = crate::Planes { width: 96, height: 96, y: &rows, u: &[128; 48 * 48], v: &[128; 48 * 48] };
        for at in 0..36 {
            frame.take(&planes, at % 6, at / 6, 0);
        }
        frame
    }

    #[test]
    fn each_step_is_seen_as_it_is_predicted() {
        let before = scene(0.0, 0.0).y;
        let way = Motion::new(8, -4);
        for dx in -2i16..=2 {
            for dy in -2i16..=2 {
                let step = Motion::new(dx, dy);
                if step.is_zero() {
                    continue;
                }
                let there = way.plus(dx, dy);
                let block = luma(&before, origin(&before, 32, 32, there).unwrap(), there);
                assert_eq!(between(&block, &before, 32, 32, way, 0, way), Some((step, 0)), "{step:?}");
            }
        }
    }
}
