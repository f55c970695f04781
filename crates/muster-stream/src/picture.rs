//! Pictures as encoders want them: brightness for each pixel, two colour values for each four.

use crate::display::{Area, PIXEL_BYTES};

/// A picture in I420: BT.709, limited range.
#[derive(Clone, Debug)]
pub(crate) struct Picture {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) y: Vec<u8>,
    pub(crate) u: Vec<u8>,
    pub(crate) v: Vec<u8>,
}

// BT.709 in sixteenths of a thousandth: 8 bits after the point, limited range.
const Y_RED: i32 = 47;
const Y_GREEN: i32 = 157;
const Y_BLUE: i32 = 16;
const U_RED: i32 = -26;
const U_GREEN: i32 = -86;
const U_BLUE: i32 = 112;
const V_RED: i32 = 112;
const V_GREEN: i32 = -102;
const V_BLUE: i32 = -10;

impl Picture {
    /// A black one. Sizes are even.
    pub(crate) fn new(width: usize, height: usize) -> Self {
        let chroma = width / 2 * (height / 2);
        Self { width, height, y: vec![16; width * height], u: vec![128; chroma], v: vec![128; chroma] }
    }

    /// Takes a part of the display over. `area` is even in all its numbers and lies inside.
    pub(crate) fn put(&mut self, area: Area, pixels: &[u8]) {
        let (left, top) = (usize::from(area.x), usize::from(area.y));
        let (width, height) = (usize::from(area.width), usize::from(area.height));
        if left + width > self.width || top + height > self.height {
            return;
        }
        let row_bytes = width * PIXEL_BYTES;
        for (pair, rows) in pixels.chunks_exact(row_bytes * 2).take(height / 2).enumerate() {
            let (upper, lower) = rows.split_at(row_bytes);
            let y_at = (top + pair * 2) * self.width + left;
            let c_at = (top / 2 + pair) * (self.width / 2) + left / 2;
            let luma = self.y.get_mut(y_at..y_at + self.width + width);
            let Some((upper_y, rest)) = luma.and_then(|rows| rows.split_at_mut_checked(width)) else { return };
            let Some(lower_y) = rest.get_mut(self.width - width..) else { return };
            let chroma = c_at..c_at + width / 2;
            let (Some(u), Some(v)) = (self.u.get_mut(chroma.clone()), self.v.get_mut(chroma)) else { return };
            convert(upper, lower, upper_y, lower_y, u, v);
        }
    }

    /// A smaller copy: each pixel is the mean of those it stands for.
    pub(crate) fn shrink_into(&self, small: &mut Self) {
        shrink(&self.y, self.width, self.height, &mut small.y, small.width, small.height);
        let (w, h, sw, sh) = (self.width / 2, self.height / 2, small.width / 2, small.height / 2);
        shrink(&self.u, w, h, &mut small.u, sw, sh);
        shrink(&self.v, w, h, &mut small.v, sw, sh);
    }

    /// Fills a rectangle with one brightness, without colour; what lies outside is left away.
    pub(crate) fn fill(&mut self, x: usize, y: usize, width: usize, height: usize, luma: u8) {
        for row in y..(y + height).min(self.height) {
            let at = row * self.width;
            if let Some(cells) = self.y.get_mut(at + x.min(self.width)..at + (x + width).min(self.width)) {
                cells.fill(luma);
            }
        }
        let half = self.width / 2;
        for row in y / 2..((y + height) / 2).min(self.height / 2) {
            let range = row * half + (x / 2).min(half)..row * half + ((x + width) / 2).min(half);
            for plane in [&mut self.u, &mut self.v] {
                if let Some(cells) = plane.get_mut(range.clone()) {
                    cells.fill(128);
                }
            }
        }
    }
}

fn shrink(from: &[u8], width: usize, height: usize, to: &mut [u8], small_width: usize, small_height: usize) {
    if small_width == 0 || small_height == 0 {
        return;
    }
    for (row, out) in to.chunks_exact_mut(small_width).take(small_height).enumerate() {
        let (top, bottom) = (row * height / small_height, ((row + 1) * height).div_ceil(small_height).min(height));
        for (column, out) in out.iter_mut().enumerate() {
            let (left, right) = (column * width / small_width, ((column + 1) * width).div_ceil(small_width).min(width));
            let mut sum = 0u32;
            for line in top..bottom {
                let at = line * width;
                sum += from.get(at + left..at + right).unwrap_or_default().iter().map(|v| u32::from(*v)).sum::<u32>();
            }
            let count = u32::try_from((bottom - top) * (right - left)).unwrap_or(1).max(1);
            *out = u8::try_from((sum + count / 2) / count).unwrap_or(u8::MAX);
        }
    }
}

/// Two rows of pixels. The wide form is chosen once for each call; both are the same source.
fn convert(upper: &[u8], lower: &[u8], upper_y: &mut [u8], lower_y: &mut [u8], u: &mut [u8], v: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, as was asked just now; the function needs nothing else.
        #[allow(unsafe_code, reason = "a function for some processors only can be called in no other way")]
        unsafe {
            convert_avx2(upper, lower, upper_y, lower_y, u, v);
        }
        return;
    }
    convert_rows(upper, lower, upper_y, lower_y, u, v);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn convert_avx2(upper: &[u8], lower: &[u8], upper_y: &mut [u8], lower_y: &mut [u8], u: &mut [u8], v: &mut [u8]) {
    convert_rows(upper, lower, upper_y, lower_y, u, v);
}

#[inline(always)]
fn convert_rows(upper: &[u8], lower: &[u8], upper_y: &mut [u8], lower_y: &mut [u8], u: &mut [u8], v: &mut [u8]) {
    luma_row(upper, upper_y);
    luma_row(lower, lower_y);
    let (upper, _) = upper.as_chunks::<8>();
    let (lower, _) = lower.as_chunks::<8>();
    for (((above, below), u), v) in upper.iter().zip(lower).zip(u.iter_mut()).zip(v.iter_mut()) {
        // Two pixels as one number, red and blue apart from green, so that four pixels are added in three steps and
        // compilers see no bytes to shuffle.
        let (above, below) = (u64::from_le_bytes(*above), u64::from_le_bytes(*below));
        let red_blue = (above & RED_BLUE) + (below & RED_BLUE);
        let green = (above & GREEN) + (below & GREEN);
        let (red_blue, green) = (low(red_blue) + high(red_blue), low(green >> 8) + high(green >> 8));
        let (blue, green, red) = (int(red_blue & 0xffff), int(green & 0xffff), int(red_blue >> 16));
        // Sums of four, so ten bits after the point; 128 and a half are added before they are cut off.
        *u = clamp((U_RED * red + U_GREEN * green + U_BLUE * blue + (128 << 10) + 512) >> 10);
        *v = clamp((V_RED * red + V_GREEN * green + V_BLUE * blue + (128 << 10) + 512) >> 10);
    }
}

/// Red and blue of two pixels.
const RED_BLUE: u64 = 0x00ff_00ff_00ff_00ff;
/// Green of two pixels.
const GREEN: u64 = 0x0000_ff00_0000_ff00;

#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "the lower half is what is wanted")]
const fn low(two: u64) -> u32 {
    two as u32
}

#[inline(always)]
const fn high(two: u64) -> u32 {
    low(two >> 32)
}

/// Of a sum of four bytes, so far from the sign.
#[inline(always)]
const fn int(value: u32) -> i32 {
    value.cast_signed()
}

#[inline(always)]
fn luma_row(pixels: &[u8], y: &mut [u8]) {
    let (pixels, _) = pixels.as_chunks::<PIXEL_BYTES>();
    for (pixel, y) in pixels.iter().zip(y) {
        let pixel = u32::from_le_bytes(*pixel);
        let (blue, green, red) = (int(pixel & 0xff), int(pixel >> 8 & 0xff), int(pixel >> 16 & 0xff));
        *y = clamp((Y_RED * red + Y_GREEN * green + Y_BLUE * blue + (16 << 8) + 128) >> 8);
    }
}

#[inline(always)]
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the value is from 16 to 240 by its factors"
)]
const fn clamp(value: i32) -> u8 {
    value as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_those_of_bt_709() {
        // Blue, green, red of a pixel; brightness and colours as the standard has them, rounded.
        for (pixel, want) in [
            ([255, 255, 255], (235, 128, 128)),
            ([0, 0, 0], (16, 128, 128)),
            ([0, 0, 255], (63, 102, 240)),
            ([0, 255, 0], (173, 42, 26)),
            ([255, 0, 0], (32, 240, 118)),
        ] {
            let mut picture = Picture::new(4, 4);
            let pixels: Vec<u8> = [pixel[0], pixel[1], pixel[2], 9].repeat(16);
            picture.put(Area { x: 0, y: 0, width: 4, height: 4 }, &pixels);
            let near = |a: u8, b: u8| a.abs_diff(b) <= 1;
            assert!(picture.y.iter().all(|y| near(*y, want.0)), "{pixel:?}: {:?}", picture.y);
            assert!(picture.u.iter().all(|u| near(*u, want.1)), "{pixel:?}: {:?}", picture.u);
            assert!(picture.v.iter().all(|v| near(*v, want.2)), "{pixel:?}: {:?}", picture.v);
        }
    }

    #[test]
    fn every_colour_stays_in_range_and_both_forms_agree() {
        let pixels: Vec<u8> = (0..64 * 2 * 4).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let (upper, lower) = pixels.split_at(64 * 4);
        let planes = || [vec![0; 64], vec![0; 64], vec![0; 32], vec![0; 32]];
        let (mut plain, mut wide) = (planes(), planes());
        let [a, b, u, v] = &mut plain;
        convert_rows(upper, lower, a, b, u, v);
        let [a, b, u, v] = &mut wide;
        convert(upper, lower, a, b, u, v);
        assert_eq!(plain, wide);
        assert!(plain[0].iter().all(|y| (16..=235).contains(y)));
    }

    #[test]
    fn a_part_changes_only_its_place() {
        let mut picture = Picture::new(8, 8);
        picture.put(Area { x: 2, y: 4, width: 4, height: 2 }, &[255; 4 * 2 * 4]);
        let bright: Vec<usize> = (0..64).filter(|at| picture.y[*at] > 16).collect();
        assert_eq!(bright, [34, 35, 36, 37, 42, 43, 44, 45]);
        // At the right and lower edge, and beyond it.
        picture.put(Area { x: 4, y: 6, width: 4, height: 2 }, &[255; 4 * 2 * 4]);
        assert_eq!(picture.y[63], 235);
        picture.put(Area { x: 6, y: 6, width: 4, height: 2 }, &[0; 4 * 2 * 4]);
        assert_eq!(picture.y[63], 235);
    }

    #[test]
    fn a_smaller_copy_is_the_mean() {
        let mut picture = Picture::new(8, 4);
        picture.fill(0, 0, 4, 4, 100);
        let mut small = Picture::new(4, 2);
        picture.shrink_into(&mut small);
        assert_eq!(small.y, [100, 100, 16, 16, 100, 100, 16, 16]);
        picture.fill(6, 2, 100, 100, 200);
        assert_eq!(picture.y[31], 200);
        assert_eq!(picture.y[29], 16);
    }
}
