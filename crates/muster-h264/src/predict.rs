//! What a block looks like by its neighbours in the same picture (H.264, 8.3).

use std::ops::Deref;

use crate::plane::Plane;

/// How a whole block continues its neighbours; the numbers are those of 16×16 luma.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Each column is the value above it.
    Down = 0,
    /// Each row is the value left of it.
    Across = 1,
    /// All is the mean of what is above and left.
    Mean = 2,
    /// A slope.
    Slope = 3,
}

impl Flow {
    /// The number of 16×16 luma.
    #[inline(always)]
    pub(crate) const fn luma(self) -> u32 {
        self as u32
    }

    /// The number of chroma.
    #[inline(always)]
    pub(crate) const fn chroma(self) -> u32 {
        match self {
            Self::Mean => 0,
            Self::Across => 1,
            Self::Down => 2,
            Self::Slope => 3,
        }
    }

    #[inline(always)]
    pub(crate) const fn possible(self, left: bool, above: bool) -> bool {
        match self {
            Self::Mean => true,
            Self::Across => left,
            Self::Down => above,
            Self::Slope => left && above,
        }
    }
}

/// What surrounds a square block of `S`.
#[derive(Clone, Debug)]
pub(crate) struct Around<const S: usize> {
    pub(crate) above: Option<[u8; S]>,
    pub(crate) left: Option<[u8; S]>,
    corner: u8,
}

impl<const S: usize> Around<S> {
    #[inline(always)]
    pub(crate) fn of(plane: &Plane<impl Deref<Target = [u8]>>, x: usize, y: usize) -> Self {
        let above = (y > 0).then(|| *plane.run::<S>(x, y - 1));
        let left = (x > 0).then(|| std::array::from_fn(|row| plane.run::<1>(x - 1, y + row)[0]));
        let corner = if x > 0 && y > 0 { plane.run::<1>(x - 1, y - 1)[0] } else { 0 };
        Self { above, left, corner }
    }

    /// The block by a flow that is possible here.
    #[inline(always)]
    pub(crate) fn flow(&self, flow: Flow) -> [[u8; S]; S] {
        let (above, left) = (self.above.unwrap_or([128; S]), self.left.unwrap_or([128; S]));
        match flow {
            Flow::Down => [above; S],
            Flow::Across => left.map(|value| [value; S]),
            Flow::Mean if S == 16 => [[mean(self.above.as_ref(), self.left.as_ref()); S]; S],
            Flow::Mean => self.quarters(),
            Flow::Slope => self.slope(),
        }
    }

    /// Chroma has a mean for each quarter; those off the diagonal go by one side where they can (8.3.4.1).
    #[inline(always)]
    fn quarters(&self) -> [[u8; S]; S] {
        let half = |side: &Option<[u8; S]>, second: bool| {
            side.map(|side| std::array::from_fn::<u8, 4, _>(|at| side[at + if second { 4 } else { 0 }]))
        };
        let mut block = [[0; S]; S];
        for quarter in 0..4 {
            let (right, low) = (quarter % 2 == 1, quarter / 2 == 1);
            let (above, left) = (half(&self.above, right), half(&self.left, low));
            let value = match (right, low) {
                (true, false) if above.is_some() => mean(above.as_ref(), None),
                (false, true) if left.is_some() => mean(None, left.as_ref()),
                _ => mean(above.as_ref(), left.as_ref()),
            };
            for row in block.iter_mut().skip(usize::from(low) * 4).take(4) {
                row[usize::from(right) * 4..][..4].fill(value);
            }
        }
        block
    }

    #[inline(always)]
    fn slope(&self) -> [[u8; S]; S] {
        let (above, left) = (self.above.unwrap_or([128; S]), self.left.unwrap_or([128; S]));
        let half = S / 2;
        let tilt = |side: &[u8; S]| {
            (1..=half).fold(0, |sum, step| {
                let before = if step == half { self.corner } else { side[half - 1 - step] };
                sum + step as i32 * (i32::from(side[half - 1 + step]) - i32::from(before))
            })
        };
        let (across, down) = if S == 16 {
            ((5 * tilt(&above) + 32) >> 6, (5 * tilt(&left) + 32) >> 6)
        } else {
            ((34 * tilt(&above) + 32) >> 6, (34 * tilt(&left) + 32) >> 6)
        };
        let base = 16 * (i32::from(above[S - 1]) + i32::from(left[S - 1]));
        let middle = half as i32 - 1;
        fill(|x, y| {
            let value = base + across * (x as i32 - middle) + down * (y as i32 - middle) + 16;
            (value >> 5).clamp(0, 255) as u8
        })
    }
}

/// A block by what each of its places is.
#[inline(always)]
pub(crate) fn fill<const W: usize, const H: usize>(value: impl Fn(usize, usize) -> u8) -> [[u8; W]; H] {
    let mut block = [[0; W]; H];
    for (y, row) in block.iter_mut().enumerate() {
        for (x, cell) in row.iter_mut().enumerate() {
            *cell = value(x, y);
        }
    }
    block
}

#[inline(always)]
fn mean<const S: usize>(above: Option<&[u8; S]>, left: Option<&[u8; S]>) -> u8 {
    let sum = |side: &[u8; S]| side.iter().map(|value| u32::from(*value)).sum::<u32>();
    let count = S as u32;
    let value = match (above, left) {
        (Some(above), Some(left)) => (sum(above) + sum(left) + count) / (2 * count),
        (Some(side), None) | (None, Some(side)) => (sum(side) + count / 2) / count,
        (None, None) => 128,
    };
    value as u8
}

/// How many ways a block of four by four has.
pub(crate) const WAYS: u8 = 9;
/// The one that is always possible.
pub(crate) const WAY_MEAN: u8 = 2;
/// The first of those that go aslant.
pub(crate) const SLANTED: u8 = 3;

/// What surrounds a block of four by four, with what all nine ways are made of: the values from the lowest on the left over
/// the corner to the last above, and what lies between them. What a way needs and is not there is never looked at.
#[derive(Clone, Debug)]
pub(crate) struct Near {
    above: bool,
    left: bool,
    /// Four on the left from below, the corner, and eight above; the first and the last once more on either side.
    edge: [u8; 18],
    /// Of two beside each other: the n-th lies between the n-th on the edge and the next, where the lowest is the first.
    halves: [u8; 16],
    /// Of three beside each other, around the n-th.
    thirds: [u8; 16],
}

impl Near {
    #[inline(always)]
    pub(crate) fn new(above: Option<[u8; 8]>, left: Option<[u8; 4]>, corner: u8) -> Self {
        let [l0, l1, l2, l3] = left.unwrap_or_default();
        let [t0, t1, t2, t3, t4, t5, t6, t7] = above.unwrap_or_default();
        let edge = [l3, l3, l2, l1, l0, corner, t0, t1, t2, t3, t4, t5, t6, t7, t7, t7, t7, t7];
        let (mut halves, mut thirds) = ([0; 16], [0; 16]);
        for at in 0..16 {
            let [a, b, c] = [edge[at], edge[at + 1], edge[at + 2]].map(u16::from);
            halves[at] = ((b + c + 1) >> 1) as u8;
            thirds[at] = ((a + 2 * b + c + 2) >> 2) as u8;
        }
        Self { above: above.is_some(), left: left.is_some(), edge, halves, thirds }
    }

    /// The block by one of the nine ways of 8.3.1.2, row by row, where that is possible here.
    #[inline(always)]
    pub(crate) fn way(&self, way: u8) -> Option<[u8; 16]> {
        let possible = match way {
            0 | 3 | 7 => self.above,
            1 | 8 => self.left,
            WAY_MEAN => true,
            _ => self.above && self.left,
        };
        if !possible {
            return None;
        }
        let (h, t) = (&self.halves, &self.thirds);
        Some(match way {
            0 => rows([four(&self.edge, 6); 4]),
            1 => rows([4, 3, 2, 1].map(|at| [self.edge[at]; 4])),
            WAY_MEAN => {
                let above = self.above.then(|| four(&self.edge, 6));
                let left = self.left.then(|| four(&self.edge, 1));
                [mean(above.as_ref(), left.as_ref()); 16]
            }
            3 => rows([four(t, 6), four(t, 7), four(t, 8), four(t, 9)]),
            4 => rows([four(t, 4), four(t, 3), four(t, 2), four(t, 1)]),
            5 => rows([four(h, 4), four(t, 4), [t[3], h[4], h[5], h[6]], [t[2], t[4], t[5], t[6]]]),
            6 => {
                let steps = [h[0], t[1], h[1], t[2], h[2], t[3], h[3], t[4], t[5], t[6]];
                rows([four(&steps, 6), four(&steps, 4), four(&steps, 2), four(&steps, 0)])
            }
            7 => rows([four(h, 5), four(t, 6), four(h, 6), four(t, 7)]),
            _ => {
                let last = self.edge[0];
                let steps = [h[2], t[2], h[1], t[1], h[0], t[0], last, last, last, last];
                rows([four(&steps, 0), four(&steps, 2), four(&steps, 4), four(&steps, 6)])
            }
        })
    }
}

#[inline(always)]
fn four(values: &[u8], at: usize) -> [u8; 4] {
    values.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default()
}

/// Four rows of four as one.
#[inline(always)]
pub(crate) fn rows([a, b, c, d]: [[u8; 4]; 4]) -> [u8; 16] {
    let [a, b, c, d] = [a, b, c, d].map(|row| u128::from(u32::from_le_bytes(row)));
    (a | b << 32 | c << 64 | d << 96).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 8.3.1.2 as it is written there: `p` gives what is at a place beside the block.
    fn standard(way: u8, p: impl Fn(i32, i32) -> u16) -> [u8; 16] {
        let third =
            |a: (i32, i32), b: (i32, i32), c: (i32, i32)| (p(a.0, a.1) + 2 * p(b.0, b.1) + p(c.0, c.1) + 2) >> 2;
        let half = |a: (i32, i32), b: (i32, i32)| (p(a.0, a.1) + p(b.0, b.1) + 1) >> 1;
        let at = |x: i32, y: i32| match way {
            0 => p(x, -1),
            1 => p(-1, y),
            2 => ((0..4).map(|at| p(at, -1) + p(-1, at)).sum::<u16>() + 4) >> 3,
            3 => third((x + y, -1), (x + y + 1, -1), ((x + y + 2).min(7), -1)),
            4 if x > y => third((x - y - 2, -1), (x - y - 1, -1), (x - y, -1)),
            4 if x < y => third((-1, y - x - 2), (-1, y - x - 1), (-1, y - x)),
            4 => third((0, -1), (-1, -1), (-1, 0)),
            5 => {
                let (z, from) = (2 * x - y, x - (y >> 1));
                match z {
                    0 | 2 | 4 | 6 => half((from - 1, -1), (from, -1)),
                    1 | 3 | 5 => third((from - 2, -1), (from - 1, -1), (from, -1)),
                    -1 => third((-1, 0), (-1, -1), (0, -1)),
                    _ => third((-1, y - 1), (-1, y - 2), (-1, y - 3)),
                }
            }
            6 => {
                let (z, from) = (2 * y - x, y - (x >> 1));
                match z {
                    0 | 2 | 4 | 6 => half((-1, from - 1), (-1, from)),
                    1 | 3 | 5 => third((-1, from - 2), (-1, from - 1), (-1, from)),
                    -1 => third((-1, 0), (-1, -1), (0, -1)),
                    _ => third((x - 1, -1), (x - 2, -1), (x - 3, -1)),
                }
            }
            7 => {
                let from = x + (y >> 1);
                if y % 2 == 0 {
                    half((from, -1), (from + 1, -1))
                } else {
                    third((from, -1), (from + 1, -1), (from + 2, -1))
                }
            }
            _ => {
                let from = y + (x >> 1);
                match x + 2 * y {
                    0 | 2 | 4 => half((-1, from), (-1, from + 1)),
                    1 | 3 => third((-1, from), (-1, from + 1), (-1, from + 2)),
                    5 => third((-1, 2), (-1, 3), (-1, 3)),
                    _ => p(-1, 3),
                }
            }
        };
        std::array::from_fn(|place| at(place as i32 % 4, place as i32 / 4) as u8)
    }

    #[test]
    fn each_way_is_that_of_the_standard() {
        let mut seed = 5u32;
        let mut value = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 24) as u8
        };
        for _ in 0..200 {
            let (above, left): ([u8; 8], [u8; 4]) =
                (std::array::from_fn(|_| value()), std::array::from_fn(|_| value()));
            let corner = value();
            let p = |x: i32, y: i32| {
                u16::from(match (x, y) {
                    (-1, -1) => corner,
                    (-1, y) => left[y as usize],
                    (x, _) => above[x as usize],
                })
            };
            let near = Near::new(Some(above), Some(left), corner);
            for way in 0..WAYS {
                assert_eq!(near.way(way), Some(standard(way, p)), "{way}");
            }
            let alone = Near::new(None, None, corner);
            let possible: Vec<u8> = (0..WAYS).filter(|way| alone.way(*way).is_some()).collect();
            assert_eq!(possible, [WAY_MEAN]);
            assert_eq!(alone.way(WAY_MEAN), Some([128; 16]));
        }
    }
}
