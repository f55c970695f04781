//! The code in the picture: a stranger's 32 bits, drawn into the next frame, so that who sees them knows that this frame
//! was made just now, and for him.

use std::time::{Duration, Instant};

use crate::picture::Picture;

/// Pixels of a cell's side.
pub(crate) const CELL: usize = 8;
/// Cells in the row: four that tell where it is, 32 bits, and four to check them.
pub(crate) const CELLS: usize = 40;
/// How long a code stays.
const STAYS: Duration = Duration::from_millis(120);

const WHITE: u8 = 235;
const BLACK: u8 = 16;
/// The least difference between a white cell and a black one.
const CONTRAST_MIN: u32 = 64;

/// The row's cells, the first first.
pub(crate) fn cells(code: u32) -> [bool; CELLS] {
    let sum = (0..8).fold(0u32, |sum, nibble| sum + (code >> (nibble * 4) & 15)) & 15;
    let bits = 0b1010u64 << 36 | u64::from(code) << 4 | u64::from(sum);
    std::array::from_fn(|at| bits >> (CELLS - 1 - at) & 1 == 1)
}

/// The code that a strip shows, read as a page reads it: the means of the cells' middles, because a codec smears their
/// edges. `luma` tells of a place in the strip.
pub(crate) fn read_code(luma: impl Fn(usize, usize) -> u8) -> Option<u32> {
    let means: [u32; CELLS] = std::array::from_fn(|cell| {
        let inner = (2..6).flat_map(|y| (2..6).map(move |x| (x, y)));
        inner.map(|(x, y)| u32::from(luma(cell * CELL + x, y))).sum::<u32>() / 16
    });
    let [a, b, c, d, ..] = means;
    if a.min(c).saturating_sub(b.max(d)) < CONTRAST_MIN {
        return None;
    }
    let threshold = (a + b + c + d) / 4;
    let bits = means.iter().skip(4).map(|mean| u64::from(*mean > threshold));
    let all = bits.fold(0u64, |all, bit| all << 1 | bit);
    let code = u32::try_from(all >> 4).ok()?;
    (cells(code).into_iter().rev().take(4).rev().fold(0, |sum, bit| sum << 1 | u64::from(bit)) == all & 15)
        .then_some(code)
}

/// The code that is shown, and until when.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shown {
    code: Option<(u32, Option<Instant>)>,
}

impl Shown {
    pub(crate) fn ask(&mut self, code: u32) {
        self.code = Some((code, None));
    }

    /// Whether there is one, or one has just gone and its place must be shown again.
    pub(crate) fn is_active(&self) -> bool {
        self.code.is_some()
    }

    /// Draws what is to be seen at `now`; `false` once nothing is.
    pub(crate) fn draw(&mut self, picture: &mut Picture, now: Instant) -> bool {
        let Some((code, until)) = &mut self.code else { return false };
        let until = *until.get_or_insert(now + STAYS);
        if now >= until {
            self.code = None;
            return false;
        }
        let y = picture.height.saturating_sub(CELL);
        for (at, white) in cells(*code).into_iter().enumerate() {
            picture.fill(at * CELL, y, CELL, CELL, if white { WHITE } else { BLACK });
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(picture: &Picture) -> Option<u32> {
        read_code(|x, y| picture.y[(picture.height - CELL + y) * picture.width + x])
    }

    #[test]
    fn what_is_drawn_can_be_read_and_goes_away() {
        let now = Instant::now();
        for code in [0, 1, 0xdead_beef, u32::MAX, 2_882_400_001] {
            let (mut shown, mut picture) = (Shown::default(), Picture::new(640, 360));
            shown.ask(code);
            assert!(shown.draw(&mut picture, now));
            assert_eq!(read(&picture), Some(code));
            assert!(shown.draw(&mut picture, now + STAYS / 2));
            assert!(!shown.draw(&mut picture, now + STAYS));
            assert!(!shown.is_active());
        }
    }

    #[test]
    fn a_tiny_picture_is_no_harm() {
        let (mut shown, mut picture) = (Shown::default(), Picture::new(16, 4));
        shown.ask(7);
        assert!(shown.draw(&mut picture, Instant::now()));
    }
}
