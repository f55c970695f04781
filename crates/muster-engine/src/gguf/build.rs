//! Writes GGUF files.

use super::{GgufError, block};

const ALIGNMENT: usize = 32;

/// A tensor.
#[derive(Clone, Debug)]
pub struct Tensor {
    name: String,
    /// The length of a row first.
    shape: Vec<u64>,
    kind: u32,
    data: Vec<u8>,
}

impl Tensor {
    /// Of 32-bit numbers. `shape` has the length of a row first.
    #[must_use]
    pub fn f32(name: &str, shape: &[u64], numbers: &[f32]) -> Self {
        let data = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        Self { name: name.to_owned(), shape: shape.to_vec(), kind: 0, data }
    }

    /// Of 16-bit numbers.
    #[must_use]
    pub fn f16(name: &str, shape: &[u64], numbers: &[f32]) -> Self {
        let data = numbers.iter().flat_map(|number| f16(*number).to_le_bytes()).collect();
        Self { name: name.to_owned(), shape: shape.to_vec(), kind: 1, data }
    }

    /// Of 4-bit numbers in blocks of 32 with a scale (Q4_0), as llama.cpp rounds them; rows must be multiples of 32.
    #[must_use]
    pub fn q4_0(name: &str, shape: &[u64], numbers: &[f32]) -> Self {
        let mut data = Vec::with_capacity(numbers.len() / 32 * 18);
        for block in numbers.chunks(32) {
            let most = block.iter().fold(0.0f32, |most, number| if number.abs() > most.abs() { *number } else { most });
            let scale = most / -8.0;
            data.extend(f16(scale).to_le_bytes());
            let step = |number: f32| {
                let scaled = if scale == 0.0 { 8.0 } else { (number / scale + 8.5).floor().clamp(0.0, 15.0) };
                // Clamped and rounded on the line above.
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 15")]
                let step = scaled as u8;
                step
            };
            let (low, high) = block.split_at(block.len() / 2);
            data.extend(low.iter().zip(high).map(|(low, high)| step(*low) | step(*high) << 4));
        }
        Self { name: name.to_owned(), shape: shape.to_vec(), kind: 2, data }
    }

    /// Of 8-bit numbers in blocks of 32 with a scale (Q8_0); rows must be multiples of 32.
    #[must_use]
    pub fn q8_0(name: &str, shape: &[u64], numbers: &[f32]) -> Self {
        let mut data = Vec::with_capacity(numbers.len() / 32 * 34);
        for block in numbers.chunks(32) {
            let most = block.iter().fold(0.0f32, |most, number| most.max(number.abs()));
            let scale = most / 127.0;
            data.extend(f16(scale).to_le_bytes());
            for number in block {
                let scaled = if scale > 0.0 { (number / scale).round().clamp(-127.0, 127.0) } else { 0.0 };
                // Clamped and rounded on the line above.
                #[allow(clippy::cast_possible_truncation, reason = "from -127 to 127")]
                data.extend((scaled as i8).to_le_bytes());
            }
        }
        Self { name: name.to_owned(), shape: shape.to_vec(), kind: 8, data }
    }
}

/// A number in 16 bits (IEEE 754), rounded to the nearest; too great ones become infinite.
fn f16(number: f32) -> u16 {
    let bits = number.to_bits();
    let sign = (bits >> 16) & 0x8000;
    let magnitude = f32::from_bits(bits & 0x7fff_ffff);
    let half = if magnitude >= 65_520.0 {
        0x7c00
    } else if magnitude < 6.103_515_6e-5 {
        // Below the smallest normal number: in steps of 2^-24.
        let steps = (magnitude * 16_777_216.0).round_ties_even();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 1,024")]
        let steps = steps as u32;
        steps
    } else {
        let bits = magnitude.to_bits();
        let even = (bits >> 13) & 1;
        ((bits + 0xfff + even) >> 13) - (112 << 10)
    };
    u16::try_from(sign | half).unwrap_or(0x7c00)
}

/// A file that is being put together.
#[derive(Clone, Debug)]
pub struct Builder {
    keys: u64,
    head: Vec<u8>,
    tensors: Vec<Tensor>,
}

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u64).to_le_bytes());
    out.extend(bytes);
}

impl Builder {
    /// A file of a kind of model (`llama`, `bert`).
    #[must_use]
    pub fn new(architecture: &str) -> Self {
        let mut builder = Self { keys: 0, head: Vec::new(), tensors: Vec::new() };
        builder.text("general.architecture", architecture);
        builder
    }

    fn key(&mut self, key: &str, kind: u32) -> &mut Vec<u8> {
        self.keys += 1;
        text(&mut self.head, key.as_bytes());
        self.head.extend(kind.to_le_bytes());
        &mut self.head
    }

    /// A text.
    pub fn text(&mut self, key: &str, value: &str) -> &mut Self {
        text(self.key(key, 8), value.as_bytes());
        self
    }

    /// A whole number.
    pub fn u32(&mut self, key: &str, value: u32) -> &mut Self {
        self.key(key, 4).extend(value.to_le_bytes());
        self
    }

    fn u16(&mut self, key: &str, value: u16) -> &mut Self {
        self.key(key, 2).extend(value.to_le_bytes());
        self
    }

    fn i32(&mut self, key: &str, value: i32) -> &mut Self {
        self.key(key, 5).extend(value.to_le_bytes());
        self
    }

    /// A number.
    pub fn f32(&mut self, key: &str, value: f32) -> &mut Self {
        self.key(key, 6).extend(value.to_le_bytes());
        self
    }

    /// Yes or no.
    pub fn bool(&mut self, key: &str, value: bool) -> &mut Self {
        self.key(key, 7).push(u8::from(value));
        self
    }

    /// Texts.
    pub fn texts<'a>(&mut self, key: &str, values: impl ExactSizeIterator<Item = &'a [u8]>) -> &mut Self {
        let out = self.key(key, 9);
        out.extend(8u32.to_le_bytes());
        out.extend((values.len() as u64).to_le_bytes());
        values.for_each(|value| text(out, value));
        self
    }

    /// Numbers.
    pub fn f32s(&mut self, key: &str, values: &[f32]) -> &mut Self {
        let out = self.key(key, 9);
        out.extend(6u32.to_le_bytes());
        out.extend((values.len() as u64).to_le_bytes());
        values.iter().for_each(|value| out.extend(value.to_le_bytes()));
        self
    }

    /// Whole numbers.
    pub fn i32s(&mut self, key: &str, values: &[i32]) -> &mut Self {
        let out = self.key(key, 9);
        out.extend(5u32.to_le_bytes());
        out.extend((values.len() as u64).to_le_bytes());
        values.iter().for_each(|value| out.extend(value.to_le_bytes()));
        self
    }

    /// A tensor; it comes after those before.
    pub fn tensor(&mut self, tensor: Tensor) -> &mut Self {
        self.tensors.push(tensor);
        self
    }

    /// The same in several files, as `llama-gguf-split` writes them: keys in the first one, tensors dealt out in their order.
    ///
    /// # Errors
    /// As [`Builder::finish`].
    pub fn split(&self, count: u16) -> Result<Vec<Vec<u8>>, GgufError> {
        let all = i32::try_from(self.tensors.len()).unwrap_or(i32::MAX);
        let each = self.tensors.len().div_ceil(usize::from(count).max(1));
        let part = |number: u16| {
            let begin = (each * usize::from(number)).min(self.tensors.len());
            let end = (begin + each).min(self.tensors.len());
            let mut part =
                Self { keys: 0, head: Vec::new(), tensors: self.tensors.get(begin..end).unwrap_or(&[]).to_vec() };
            if number == 0 {
                (part.keys, part.head) = (self.keys, self.head.clone());
            }
            part.u16("split.no", number).u16("split.count", count).i32("split.tensors.count", all);
            part.finish()
        };
        (0..count).map(part).collect()
    }

    /// The file.
    ///
    /// # Errors
    /// A tensor's numbers are not as many as its shape says.
    pub fn finish(&self) -> Result<Vec<u8>, GgufError> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend(self.keys.to_le_bytes());
        out.extend(&self.head);
        let mut offset = 0usize;
        for tensor in &self.tensors {
            let elements: u64 = tensor.shape.iter().product();
            let want = block(tensor.kind).map(|(of, bytes)| elements / of * bytes);
            if want != Some(tensor.data.len() as u64) {
                let what = format!("tensor {} has {} bytes, its shape wants {want:?}", tensor.name, tensor.data.len());
                return Err(GgufError::Wrong { at: out.len() as u64, what });
            }
            text(&mut out, tensor.name.as_bytes());
            out.extend(u32::try_from(tensor.shape.len()).unwrap_or(u32::MAX).to_le_bytes());
            tensor.shape.iter().for_each(|size| out.extend(size.to_le_bytes()));
            out.extend(tensor.kind.to_le_bytes());
            out.extend((offset as u64).to_le_bytes());
            offset += tensor.data.len().next_multiple_of(ALIGNMENT);
        }
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        for tensor in &self.tensors {
            out.extend(&tensor.data);
            out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::{Tensor, f16};

    #[test]
    fn numbers_in_four_bits() {
        let mut numbers = [0.0f32; 32];
        (numbers[0], numbers[1], numbers[16], numbers[31]) = (-8.0, 7.0, 1.0, -3.4);
        let tensor = Tensor::q4_0("t", &[32], &numbers);
        assert_eq!(tensor.data.len(), 18);
        assert_eq!(tensor.data[..2], f16(1.0).to_le_bytes());
        assert_eq!((tensor.data[2], tensor.data[3], tensor.data[17]), (0x90, 0x8f, 0x58));
        assert_eq!(Tensor::q4_0("t", &[32], &[0.0; 32]).data[2..], [0x88; 16]);
    }

    #[test]
    fn numbers_in_sixteen_bits() {
        for (number, bits) in [(0.0, 0), (1.0, 0x3c00), (-2.0, 0xc000), (65_504.0, 0x7bff), (1e9, 0x7c00)] {
            assert_eq!(f16(number), bits, "{number}");
        }
        assert_eq!((f16(5.960_464_5e-8), f16(0.1), f16(6.103_515_6e-5)), (1, 0x2e66, 0x0400));
    }
}
