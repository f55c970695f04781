//! What stands before the macroblocks (H.264, 7.3).

use crate::bits::{BitWriter, nal};

/// Kinds of units, with the bit that others refer to them.
pub(crate) const KEY: u8 = 0x65;
pub(crate) const PICTURE: u8 = 0x61;
const SEQUENCE: u8 = 0x67;
const PARAMETERS: u8 = 0x68;

/// Bits of a picture's number.
const NUMBER_BITS: u32 = 8;

/// The lowest level whose limits hold 60 pictures a second of so many macroblocks (table A-1).
fn level(macroblocks: usize) -> u8 {
    const LEVELS: [(usize, usize, u8); 8] = [
        (1_620, 40_500, 30),
        (3_600, 108_000, 31),
        (5_120, 216_000, 32),
        (8_192, 245_760, 40),
        (8_704, 522_240, 42),
        (22_080, 589_824, 50),
        (36_864, 983_040, 51),
        (36_864, 2_073_600, 52),
    ];
    let holds = |(size, rate, _): &&(usize, usize, u8)| macroblocks <= *size && macroblocks * 60 <= *rate;
    LEVELS.iter().find(holds).map_or(52, |(_, _, level)| *level)
}

/// What all pictures have in common: their size in pixels, and how they are written.
pub(crate) fn sequence(width: usize, height: usize, out: &mut Vec<u8>) {
    let (across, down) = (width.div_ceil(16), height.div_ceil(16));
    let mut bits = BitWriter::default();
    bits.put(8, 66);
    // Constrained Baseline.
    bits.put(8, 0xe0);
    bits.put(8, u32::from(level(across * down)));
    bits.ue(0);
    bits.ue(NUMBER_BITS - 4);
    // Pictures are shown in the order they are sent in.
    bits.ue(2);
    bits.ue(1);
    bits.flag(false);
    bits.ue(across as u32 - 1);
    bits.ue(down as u32 - 1);
    bits.flag(true);
    bits.flag(true);
    let (right, bottom) = ((across * 16 - width) / 2, (down * 16 - height) / 2);
    bits.flag(right + bottom > 0);
    if right + bottom > 0 {
        bits.ue(0);
        bits.ue(right as u32);
        bits.ue(0);
        bits.ue(bottom as u32);
    }
    bits.flag(true);
    usability(&mut bits);
    nal(SEQUENCE, bits.finish(), out);
    let mut bits = BitWriter::default();
    bits.ue(0);
    bits.ue(0);
    bits.flag(false);
    bits.flag(false);
    bits.ue(0);
    bits.ue(0);
    bits.ue(0);
    bits.flag(false);
    bits.put(2, 0);
    bits.se(0);
    bits.se(0);
    bits.se(0);
    // Whether edges are smoothed is said for each picture.
    bits.flag(true);
    bits.flag(false);
    bits.flag(false);
    nal(PARAMETERS, bits.finish(), out);
}

/// BT.709 in the limited range, and that nothing has to be held back (annex E).
fn usability(bits: &mut BitWriter) {
    bits.flag(false);
    bits.flag(false);
    bits.flag(true);
    bits.put(3, 5);
    bits.flag(false);
    bits.flag(true);
    bits.put(8, 1);
    bits.put(8, 1);
    bits.put(8, 1);
    bits.flag(false);
    bits.flag(false);
    bits.flag(false);
    bits.flag(false);
    bits.flag(false);
    bits.flag(true);
    // No way leads out of the picture.
    bits.flag(false);
    bits.ue(0);
    bits.ue(0);
    bits.ue(12);
    bits.ue(12);
    bits.ue(0);
    bits.ue(1);
}

/// The begin of a slice, of which this macroblock is the first.
pub(crate) fn slice(bits: &mut BitWriter, first: usize, key: Option<u32>, number: u32, qp: u8) {
    bits.ue(first as u32);
    bits.ue(if key.is_some() { 7 } else { 5 });
    bits.ue(0);
    bits.put(NUMBER_BITS, number & ((1 << NUMBER_BITS) - 1));
    match key {
        Some(id) => {
            bits.ue(id);
            bits.flag(false);
            bits.flag(false);
        }
        None => {
            bits.flag(false);
            bits.flag(false);
            bits.flag(false);
        }
    }
    bits.se(i32::from(qp) - 26);
    // Edges are not smoothed.
    bits.ue(1);
}
