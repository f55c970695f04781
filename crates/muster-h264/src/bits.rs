//! Bits, and the envelopes they are sent in.

/// Writes numbers bit by bit, the highest first.
#[derive(Debug, Default)]
pub(crate) struct BitWriter {
    bytes: Vec<u8>,
    /// Bits that make no whole word yet, at the low end.
    word: u64,
    held: u32,
}

impl BitWriter {
    #[inline(always)]
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        (self.word, self.held) = (0, 0);
    }

    /// How many bits were written.
    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() * 8 + self.held as usize
    }

    /// The lowest `count` bits of a number; at most 32.
    #[inline(always)]
    pub(crate) fn put(&mut self, count: u32, value: u32) {
        debug_assert!(count <= 32 && (count == 32 || value < 1 << count));
        self.word = self.word << count | u64::from(value);
        self.held += count;
        if self.held >= 32 {
            self.held -= 32;
            let [.., a, b, c, d] = (self.word >> self.held).to_be_bytes();
            self.bytes.extend_from_slice(&[a, b, c, d]);
        }
    }

    #[inline(always)]
    pub(crate) fn flag(&mut self, value: bool) {
        self.put(1, u32::from(value));
    }

    /// A number of which small ones are short (9.1).
    #[inline(always)]
    pub(crate) fn ue(&mut self, value: u32) {
        let more = value + 1;
        let bits = 32 - more.leading_zeros();
        if bits > 1 {
            self.put(bits - 1, 0);
        }
        self.put(bits, more);
    }

    /// The same of numbers with a sign.
    #[inline(always)]
    pub(crate) fn se(&mut self, value: i32) {
        self.ue(signed(value));
    }

    /// Ends with a one and zeros up to a whole byte, and gives all bytes.
    #[inline(always)]
    pub(crate) fn finish(&mut self) -> &[u8] {
        self.put(1, 1);
        let rest = (8 - self.held % 8) % 8;
        self.put(rest, 0);
        while self.held > 0 {
            self.held -= 8;
            let [.., byte] = (self.word >> self.held).to_be_bytes();
            self.bytes.push(byte);
        }
        &self.bytes
    }
}

/// How a number with a sign is counted: 0, 1, −1, 2, −2 and so on.
#[inline(always)]
pub(crate) const fn signed(value: i32) -> u32 {
    if value > 0 { value.unsigned_abs() * 2 - 1 } else { value.unsigned_abs() * 2 }
}

/// How many bits [`BitWriter::se`] takes.
#[inline(always)]
pub(crate) const fn signed_len(value: i32) -> u32 {
    let more = signed(value) + 1;
    (32 - more.leading_zeros()) * 2 - 1
}

/// Wraps a payload so that nothing in it looks like the begin of another (7.4.1).
pub(crate) fn nal(header: u8, payload: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&[0, 0, 0, 1, header]);
    let mut zeros = 0;
    for byte in payload {
        if zeros == 2 && *byte <= 3 {
            out.push(3);
            zeros = 0;
        }
        out.push(*byte);
        zeros = if *byte == 0 { zeros + 1 } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_the_standard_says() {
        let mut bits = BitWriter::default();
        for value in 0..5 {
            bits.ue(value);
        }
        bits.se(-2);
        assert_eq!(bits.len(), 1 + 3 + 3 + 5 + 5 + 5);
        // 1 010 011 00100 00101 00101, the one at the end, and zeros.
        assert_eq!(bits.finish(), [0b1010_0110, 0b0100_0010, 0b1001_0110]);
        for value in -40..40 {
            let mut bits = BitWriter::default();
            bits.se(value);
            assert_eq!(bits.len(), signed_len(value) as usize, "{value}");
        }
    }

    #[test]
    fn no_payload_looks_like_the_begin_of_another() {
        let mut out = Vec::new();
        nal(0x65, &[0, 0, 0, 0, 0, 1, 0, 0, 3, 7, 0, 0], &mut out);
        assert_eq!(out, [0, 0, 0, 1, 0x65, 0, 0, 3, 0, 0, 3, 0, 1, 0, 0, 3, 3, 7, 0, 0]);
    }
}
