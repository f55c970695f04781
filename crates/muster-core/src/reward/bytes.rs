//! The fixed form in which things are hashed and published: big-endian, nothing optional, every length counted.

use super::SettleError;

/// Writes the fixed form.
#[derive(Debug, Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_be_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_be_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_be_bytes());
    }

    pub(super) fn u128(&mut self, value: u128) {
        self.bytes(&value.to_be_bytes());
    }

    pub(super) fn length(&mut self, value: usize) {
        self.u64(u64::try_from(value).unwrap_or(u64::MAX));
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn done(self) -> Vec<u8> {
        self.0
    }
}

/// Reads the fixed form; nothing is taken on trust.
#[derive(Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], SettleError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(SettleError::Truncated)?;
        self.0 = rest;
        Ok(*head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, SettleError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub(super) fn u16(&mut self) -> Result<u16, SettleError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, SettleError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, SettleError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub(super) fn u128(&mut self) -> Result<u128, SettleError> {
        Ok(u128::from_be_bytes(self.array()?))
    }

    pub(super) fn bool(&mut self) -> Result<bool, SettleError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(SettleError::Malformed("a yes or no")),
        }
    }

    /// A count of things that take at least `each` bytes; more than what is left can hold is refused before memory
    /// is taken.
    pub(super) fn length(&mut self, each: usize) -> Result<usize, SettleError> {
        let length = usize::try_from(self.u64()?).map_err(|_| SettleError::Truncated)?;
        if length.checked_mul(each.max(1)).is_none_or(|need| need > self.0.len()) {
            return Err(SettleError::Truncated);
        }
        Ok(length)
    }

    pub(super) fn end(self) -> Result<(), SettleError> {
        if self.0.is_empty() { Ok(()) } else { Err(SettleError::Malformed("the end")) }
    }
}
