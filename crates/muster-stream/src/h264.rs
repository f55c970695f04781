//! H.264 by our own encoder, which looks at what has changed only.

use std::time::{Duration, Instant};

use muster_h264::{Encoder, Planes, SizeError};

use crate::encode::{EncodeError, Encoded, VideoCodec, VideoEncoder};
use crate::picture::Picture;

impl From<SizeError> for EncodeError {
    fn from(error: SizeError) -> Self {
        Self { codec: "H.264", why: error.to_string() }
    }
}

#[derive(Debug)]
pub(crate) struct H264 {
    /// For pictures of the size of the last one.
    encoder: Option<Encoder>,
    bps: u32,
    last: Option<Instant>,
    /// For the next encoder, where there is none yet.
    hasty: bool,
}

impl H264 {
    pub(crate) const fn new(bps: u32) -> Self {
        Self { encoder: None, bps, last: None, hasty: false }
    }
}

impl VideoEncoder for H264 {
    fn codec(&self) -> VideoCodec {
        VideoCodec::H264
    }

    fn set_bitrate(&mut self, bps: u32) -> Result<(), EncodeError> {
        self.bps = bps;
        if let Some(encoder) = &mut self.encoder {
            encoder.set_bitrate(bps);
        }
        Ok(())
    }

    fn hasten(&mut self) {
        self.hasty = true;
    }

    fn encode(&mut self, picture: &Picture, key: bool) -> Result<Encoded, EncodeError> {
        let size = (picture.width, picture.height);
        let encoder = match self.encoder.take().filter(|encoder| encoder.size() == size) {
            Some(encoder) => self.encoder.insert(encoder),
            None => {
                self.encoder.insert(Encoder::new(size.0, size.1, self.bps)?.with_threads(rayon::current_num_threads()))
            }
        };
        if std::mem::take(&mut self.hasty) {
            encoder.hasten();
        }
        let now = Instant::now();
        let passed = self.last.replace(now).map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        let planes = Planes { width: size.0, height: size.1, y: &picture.y, u: &picture.u, v: &picture.v };
        let coded = encoder.encode(planes, passed, key)?;
        Ok(Encoded { bytes: coded.bytes, key: coded.key, settled: Some(coded.settled) })
    }
}
