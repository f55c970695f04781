//! VP8 by libvpx, for browsers without H.264.

use std::ffi::{CStr, c_char, c_int};
use std::ptr::NonNull;
use std::time::Instant;

use crate::encode::{EncodeError, Encoded, VideoCodec, VideoEncoder};
use crate::picture::Picture;

/// The encoder of `native/vp8.c`, which only C looks into.
#[repr(C)]
struct Opaque {
    _private: [u8; 0],
}

#[allow(unsafe_code, reason = "the library is written in C")]
unsafe extern "C" {
    fn muster_vp8_new(width: u32, height: u32, kbps: u32, error: *mut c_int) -> *mut Opaque;
    fn muster_vp8_free(encoder: *mut Opaque);
    fn muster_vp8_rate(encoder: *mut Opaque, kbps: u32) -> c_int;
    fn muster_vp8_encode(
        encoder: *mut Opaque,
        y: *const u8,
        u: *const u8,
        v: *const u8,
        time: i64,
        lasts: u32,
        wants_key: c_int,
        bytes: *mut *const u8,
        length: *mut usize,
        is_key: *mut c_int,
    ) -> c_int;
    fn muster_vp8_words(error: c_int) -> *const c_char;
}

/// Ticks of its clock in a second.
const TICKS: u32 = 90_000;

fn failed(error: c_int) -> EncodeError {
    // SAFETY: the library gives a string that ends with 0 and lives as long as the program, for every number.
    #[allow(unsafe_code, reason = "the library is written in C")]
    let words = unsafe { CStr::from_ptr(muster_vp8_words(error)) };
    EncodeError { codec: "VP8", why: words.to_string_lossy().into_owned() }
}

/// An encoder for pictures of one size.
struct OneSize {
    raw: NonNull<Opaque>,
    width: usize,
    height: usize,
}

// SAFETY: the library keeps nothing that belongs to a thread (it is set up to start none of its own), and this type is not
// Sync, so that one thread has it at a time.
#[allow(unsafe_code, reason = "a pointer says nothing of threads")]
unsafe impl Send for OneSize {}

impl Drop for OneSize {
    fn drop(&mut self) {
        // SAFETY: it was made by `muster_vp8_new`, and is freed only here.
        #[allow(unsafe_code, reason = "the library is written in C")]
        unsafe {
            muster_vp8_free(self.raw.as_ptr());
        }
    }
}

impl OneSize {
    fn new(width: usize, height: usize, kbps: u32) -> Result<Self, EncodeError> {
        let side = |pixels: usize| {
            let side = u32::try_from(pixels).ok().filter(|side| (2..=16_382).contains(side) && side.is_multiple_of(2));
            side.ok_or_else(|| EncodeError {
                codec: "VP8",
                why: format!("a side of {pixels} pixels cannot be encoded"),
            })
        };
        let (w, h, mut error) = (side(width)?, side(height)?, 0);
        // SAFETY: `error` lives until the call returns, and is all that it writes.
        #[allow(unsafe_code, reason = "the library is written in C")]
        let raw = unsafe { muster_vp8_new(w, h, kbps, &raw mut error) };
        let raw = NonNull::new(raw).ok_or_else(|| failed(error))?;
        Ok(Self { raw, width, height })
    }

    fn rate(&mut self, kbps: u32) -> Result<(), EncodeError> {
        // SAFETY: the encoder is alive, and `&mut` says that nothing else uses it.
        #[allow(unsafe_code, reason = "the library is written in C")]
        let error = unsafe { muster_vp8_rate(self.raw.as_ptr(), kbps) };
        if error == 0 { Ok(()) } else { Err(failed(error)) }
    }

    fn encode(&mut self, picture: &Picture, time: i64, lasts: u32, key: bool) -> Result<Encoded, EncodeError> {
        let (luma, chroma) = (self.width * self.height, self.width / 2 * (self.height / 2));
        let (Some(y), Some(u), Some(v)) = (picture.y.get(..luma), picture.u.get(..chroma), picture.v.get(..chroma))
        else {
            return Err(EncodeError { codec: "VP8", why: "a picture is smaller than it says".to_owned() });
        };
        let (mut bytes, mut length, mut is_key) = (std::ptr::null(), 0, 0);
        // SAFETY: the encoder is alive and used by nobody else; the planes have just been seen to hold as many bytes as a
        // picture of its size has (its sides are even), and are only read; the three results live until the call returns.
        #[allow(unsafe_code, reason = "the library is written in C")]
        let error = unsafe {
            muster_vp8_encode(
                self.raw.as_ptr(),
                y.as_ptr(),
                u.as_ptr(),
                v.as_ptr(),
                time,
                lasts,
                c_int::from(key),
                &raw mut bytes,
                &raw mut length,
                &raw mut is_key,
            )
        };
        if error != 0 {
            return Err(failed(error));
        }
        if bytes.is_null() || length == 0 {
            return Ok(Encoded { bytes: Vec::new(), key: false, settled: None });
        }
        // SAFETY: the library says that so many bytes are there; they are its own until the next call, and copied before.
        #[allow(unsafe_code, reason = "the library is written in C")]
        let bytes = unsafe { std::slice::from_raw_parts(bytes, length) }.to_vec();
        Ok(Encoded { bytes, key: is_key != 0, settled: None })
    }
}

pub(crate) struct Vp8 {
    encoder: Option<OneSize>,
    kbps: u32,
    lasts: u32,
    begin: Instant,
    /// The time of the picture before; times have to grow.
    last: i64,
}

impl std::fmt::Debug for Vp8 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vp8").field("kbps", &self.kbps).finish_non_exhaustive()
    }
}

impl Vp8 {
    pub(crate) fn new(fps: u8, bps: u32) -> Self {
        let lasts = TICKS / u32::from(fps.max(1));
        Self { encoder: None, kbps: bps / 1_000, lasts, begin: Instant::now(), last: 0 }
    }
}

impl VideoEncoder for Vp8 {
    fn codec(&self) -> VideoCodec {
        VideoCodec::Vp8
    }

    fn set_bitrate(&mut self, bps: u32) -> Result<(), EncodeError> {
        self.kbps = bps / 1_000;
        self.encoder.as_mut().map_or(Ok(()), |encoder| encoder.rate(self.kbps))
    }

    fn encode(&mut self, picture: &Picture, key: bool) -> Result<Encoded, EncodeError> {
        let size = (picture.width, picture.height);
        let encoder = match &mut self.encoder {
            Some(encoder) if (encoder.width, encoder.height) == size => encoder,
            other => {
                // One at a time: the old one's memory is free before the new one takes its own.
                drop(other.take());
                other.insert(OneSize::new(size.0, size.1, self.kbps)?)
            }
        };
        let passed = self.begin.elapsed().as_micros() * u128::from(TICKS) / 1_000_000;
        self.last = i64::try_from(passed).unwrap_or(i64::MAX).max(self.last.saturating_add(1));
        encoder.encode(picture, self.last, self.lasts, key)
    }
}
