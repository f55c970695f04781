//! What the studio asks of an encoder, whichever it is.

use str0m::format::Codec as WireCodec;

#[cfg(not(feature = "gstreamer"))]
use crate::h264::H264;
use crate::picture::Picture;
use crate::vp8::Vp8;

/// Why a picture is not encoded.
#[derive(Debug, thiserror::Error)]
#[error("the {codec} encoder failed: {why}")]
pub(crate) struct EncodeError {
    pub(crate) codec: &'static str,
    pub(crate) why: String,
}

/// A picture as it is sent.
#[derive(Clone, Debug)]
pub(crate) struct Encoded {
    /// One frame (of H.264: NAL units with start codes); empty when the encoder left the picture out to keep its rate.
    pub(crate) bytes: Vec<u8>,
    /// Whether it needs none before it.
    pub(crate) key: bool,
    /// Whether what stands still is as fine as it will be; nothing where the encoder does not tell.
    pub(crate) settled: Option<bool>,
}

/// Turns pictures into frames.
pub(crate) trait VideoEncoder: Send + std::fmt::Debug {
    fn codec(&self) -> VideoCodec;

    /// What it may send in a second from now on.
    fn set_bitrate(&mut self, bps: u32) -> Result<(), EncodeError>;

    /// How many pictures a second it is given, where it plans its rate by that. It may differ from what was announced.
    fn set_fps(&mut self, _fps: f64) -> Result<(), EncodeError> {
        Ok(())
    }

    /// The next frame that needs none before it is for somebody who sees nothing yet: better coarse now than fine later.
    /// Where the encoder can tell the two apart.
    fn hasten(&mut self) {}

    /// Encodes a picture; with `key` into a frame that needs none before it. A size that is new begins anew.
    fn encode(&mut self, picture: &Picture, key: bool) -> Result<Encoded, EncodeError>;
}

/// How pictures are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VideoCodec {
    H264,
    Vp8,
}

impl VideoCodec {
    /// The best of what an offer has, if it has any.
    pub(crate) fn best(sdp: &str) -> Option<Self> {
        [Self::H264, Self::Vp8].into_iter().find(|codec| codec.is_in(sdp))
    }

    /// Whether an offer has it; of H.264 the form that takes a frame in pieces.
    pub(crate) fn is_in(self, sdp: &str) -> bool {
        let attribute = |name: &'static str| {
            sdp.lines().filter_map(move |line| line.trim_end().strip_prefix(name)?.split_once(' '))
        };
        let named = |name: &'static str| {
            attribute("a=rtpmap:").filter(move |(_, what)| what.eq_ignore_ascii_case(name)).map(|(number, _)| number)
        };
        match self {
            Self::Vp8 => named("VP8/90000").next().is_some(),
            Self::H264 => named("H264/90000").any(|number| {
                let mut options = attribute("a=fmtp:").filter(|(of, _)| *of == number);
                options.any(|(_, what)| what.split(';').any(|option| option.trim() == "packetization-mode=1"))
            }),
        }
    }

    /// For players and people.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::H264 => "h264",
            Self::Vp8 => "vp8",
        }
    }

    pub(crate) const fn on_wire(self) -> WireCodec {
        match self {
            Self::H264 => WireCodec::H264,
            Self::Vp8 => WireCodec::Vp8,
        }
    }

    pub(crate) fn encoder(self, fps: u8, bps: u32) -> Result<Box<dyn VideoEncoder>, EncodeError> {
        Ok(match self {
            #[cfg(feature = "gstreamer")]
            Self::H264 => Box::new(crate::gst::Gst::new(fps, bps)?),
            #[cfg(not(feature = "gstreamer"))]
            Self::H264 => Box::new(H264::new(bps)),
            Self::Vp8 => Box::new(Vp8::new(fps, bps)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_of_an_offer_is_found() {
        let (h264, vp8) = ("a=rtpmap:102 H264/90000\r\n", "a=rtpmap:96 VP8/90000\r\n");
        let pieces = "a=fmtp:102 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f\r\n";
        let whole = "a=fmtp:102 level-asymmetry-allowed=1;packetization-mode=0;profile-level-id=42e01f\r\n";
        assert_eq!(VideoCodec::best(&[vp8, h264, pieces].concat()), Some(VideoCodec::H264));
        assert_eq!(VideoCodec::best(&[vp8, h264, whole].concat()), Some(VideoCodec::Vp8));
        assert_eq!(VideoCodec::best(&[vp8, h264].concat()), Some(VideoCodec::Vp8));
        assert_eq!(VideoCodec::best(&[h264, whole].concat()), None);
        // Options of another number say nothing.
        assert_eq!(VideoCodec::best(&[h264, "a=fmtp:10 packetization-mode=1"].concat()), None);
        assert_eq!(VideoCodec::best("VP8/90000"), None);
    }

    #[test]
    fn every_codec_encodes_changes_its_size_and_its_rate() {
        for codec in [VideoCodec::H264, VideoCodec::Vp8] {
            let mut encoder = codec.encoder(60, 2_000_000).unwrap();
            assert_eq!(encoder.codec(), codec);
            let picture = Picture::new(320, 180);
            let first = encoder.encode(&picture, false).unwrap();
            assert!(first.key && !first.bytes.is_empty(), "{codec:?}");
            assert!(!encoder.encode(&picture, false).unwrap().key, "{codec:?}");
            encoder.set_bitrate(500_000).unwrap();
            encoder.set_fps(20.0).unwrap();
            assert!(encoder.encode(&picture, true).unwrap().key, "{codec:?}");
            let smaller = encoder.encode(&Picture::new(160, 90), false).unwrap();
            assert!(smaller.key && !smaller.bytes.is_empty(), "{codec:?}");
            assert!(encoder.encode(&picture, false).unwrap().key, "{codec:?}");
        }
    }

    #[test]
    fn every_size_takes_every_rate() {
        use crate::studio::{BPS_MAX, BPS_MIN, START_BPS};
        for codec in [VideoCodec::H264, VideoCodec::Vp8] {
            let mut encoder = codec.encoder(60, START_BPS).unwrap();
            for side in [(1280, 720), (640, 360), (320, 180), (1280, 720), (160, 90), (1920, 1080), (320, 240)] {
                for bps in [BPS_MIN, BPS_MAX, START_BPS] {
                    for fps in [5.0, 60.0] {
                        let place = format!("{codec:?} {side:?} {bps} {fps}");
                        encoder.set_bitrate(bps).expect(&place);
                        encoder.set_fps(fps).expect(&place);
                        encoder.encode(&Picture::new(side.0, side.1), false).expect(&place);
                    }
                }
            }
        }
    }
}
