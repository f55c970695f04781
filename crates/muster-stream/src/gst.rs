//! H.264 by GStreamer: the encoders of cards where there are any, else its software ones. Only in builds with the feature
//! `gstreamer`.

use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app::{AppSink, AppSrc};

use crate::encode::{EncodeError, Encoded, VideoCodec, VideoEncoder};
use crate::h264::H264;
use crate::picture::Picture;

/// An encoder that gives nothing for so long is broken.
const ENCODES_WITHIN: Duration = Duration::from_secs(2);

/// An encoder of GStreamer and how it is set up for a picture that must be on its way in milliseconds.
#[derive(Debug)]
struct Kind {
    name: &'static str,
    settings: &'static [(&'static str, &'static str)],
    /// Bits in the unit of its property `bitrate`.
    unit: u32,
}

/// The best first. A setting that a version does not know is left out; all of them encode without looking ahead, without
/// frames that need later ones, and with key frames only when they are asked for.
const KINDS: [Kind; 6] = [
    Kind {
        name: "nvh264enc",
        settings: &[
            ("preset", "low-latency-hq"),
            ("rc-mode", "cbr"),
            ("zerolatency", "true"),
            ("bframes", "0"),
            ("gop-size", "-1"),
            ("rc-lookahead", "0"),
        ],
        unit: 1_000,
    },
    Kind {
        name: "vah264enc",
        settings: &[
            ("rate-control", "cbr"),
            ("b-frames", "0"),
            ("ref-frames", "1"),
            ("key-int-max", "1024"),
            ("target-usage", "6"),
        ],
        unit: 1_000,
    },
    Kind {
        name: "vaapih264enc",
        settings: &[
            ("rate-control", "cbr"),
            ("max-bframes", "0"),
            ("refs", "1"),
            ("keyframe-period", "0"),
            ("quality-level", "6"),
        ],
        unit: 1_000,
    },
    Kind {
        name: "qsvh264enc",
        settings: &[
            ("low-latency", "true"),
            ("rate-control", "cbr"),
            ("b-frames", "0"),
            ("ref-frames", "1"),
            ("gop-size", "0"),
            ("target-usage", "7"),
        ],
        unit: 1_000,
    },
    Kind {
        name: "x264enc",
        settings: &[
            ("tune", "zerolatency"),
            ("speed-preset", "ultrafast"),
            ("key-int-max", "2147483647"),
            ("bframes", "0"),
            ("threads", "1"),
            ("vbv-buf-capacity", "120"),
        ],
        unit: 1_000,
    },
    Kind {
        name: "openh264enc",
        settings: &[
            ("rate-control", "bitrate"),
            ("complexity", "low"),
            ("gop-size", "2147483647"),
            ("multi-thread", "1"),
        ],
        unit: 1,
    },
];

fn failed(why: impl std::fmt::Display) -> EncodeError {
    EncodeError { codec: "H.264", why: why.to_string() }
}

/// Encoders chosen by what is there, when the first picture comes.
#[derive(Debug)]
pub(crate) struct Gst {
    fps: u8,
    bps: u32,
    begin: Instant,
    /// Where among the kinds the one stands that works; those before it did not.
    kind: usize,
    line: Option<Line>,
    /// Ours, where none of them works.
    own: Option<H264>,
}

impl Gst {
    pub(crate) fn new(fps: u8, bps: u32) -> Result<Self, EncodeError> {
        gst::init().map_err(failed)?;
        Ok(Self { fps, bps, begin: Instant::now(), kind: 0, line: None, own: None })
    }

    /// Encodes by the best kind that works; from then on it is this one.
    fn by_kind(&mut self, picture: &Picture, key: bool) -> Result<Option<Encoded>, EncodeError> {
        while let Some(kind) = KINDS.get(self.kind) {
            match self.by_line(kind, picture, key) {
                Ok(encoded) => return Ok(Some(encoded)),
                // One that has worked before does not work with another picture: that is a failure, and the next is tried.
                Err(error) => tracing::info!(encoder = kind.name, %error, "an encoder is left out"),
            }
            self.line = None;
            self.kind += 1;
        }
        Ok(None)
    }

    fn by_line(&mut self, kind: &'static Kind, picture: &Picture, key: bool) -> Result<Encoded, EncodeError> {
        let size = (picture.width, picture.height);
        let line = match &mut self.line {
            Some(line) if line.size == size => line,
            other => {
                drop(other.take());
                tracing::debug!(encoder = kind.name, ?size, "an encoder is set up");
                other.insert(Line::new(kind, size, self.fps, self.bps)?)
            }
        };
        line.encode(picture, key, self.begin.elapsed())
    }
}

impl VideoEncoder for Gst {
    fn codec(&self) -> VideoCodec {
        VideoCodec::H264
    }

    fn set_bitrate(&mut self, bps: u32) -> Result<(), EncodeError> {
        self.bps = bps;
        if let Some(line) = &self.line {
            line.set_bitrate(bps);
        }
        self.own.as_mut().map_or(Ok(()), |own| own.set_bitrate(bps))
    }

    fn set_fps(&mut self, fps: f64) -> Result<(), EncodeError> {
        self.own.as_mut().map_or(Ok(()), |own| own.set_fps(fps))
    }

    fn hasten(&mut self) {
        if let Some(own) = &mut self.own {
            own.hasten();
        }
    }

    fn encode(&mut self, picture: &Picture, key: bool) -> Result<Encoded, EncodeError> {
        if let Some(encoded) = self.by_kind(picture, key)? {
            return Ok(encoded);
        }
        self.own.get_or_insert_with(|| H264::new(self.bps)).encode(picture, key)
    }
}

/// A pipeline for pictures of one size.
#[derive(Debug)]
struct Line {
    pipeline: gst::Pipeline,
    source: AppSrc,
    encoder: gst::Element,
    sink: AppSink,
    unit: u32,
    size: (usize, usize),
}

impl Drop for Line {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

impl Line {
    fn new(kind: &'static Kind, size: (usize, usize), fps: u8, bps: u32) -> Result<Self, EncodeError> {
        let encoder = gst::ElementFactory::make(kind.name).build().map_err(failed)?;
        for (name, value) in kind.settings {
            // Names of values differ between versions, and a wrong one must not stop anything: it is asked for first.
            if encoder.find_property(name).is_some() && !takes(&encoder, name, value) {
                tracing::debug!(encoder = kind.name, name, value, "a setting is not known");
            }
        }
        let side = |pixels: usize| i32::try_from(pixels).map_err(failed);
        let caps = gst::Caps::builder("video/x-raw")
            .field("format", "I420")
            .field("width", side(size.0)?)
            .field("height", side(size.1)?)
            .field("framerate", gst::Fraction::new(i32::from(fps), 1))
            .field("colorimetry", "bt709")
            .build();
        let source = AppSrc::builder().caps(&caps).format(gst::Format::Time).is_live(true).build();
        let made = gst::Caps::builder("video/x-h264")
            .field("stream-format", "byte-stream")
            .field("alignment", "au")
            .field("profile", gst::List::new(["constrained-baseline", "baseline"]))
            .build();
        let sink = AppSink::builder().caps(&made).sync(false).max_buffers(4).build();
        let element = |name: &str| gst::ElementFactory::make(name).build().map_err(failed);
        let (convert, parse) = (element("videoconvert")?, element("h264parse")?);
        // The headers with every key frame: who comes later has not seen the first.
        parse.set_property("config-interval", -1i32);
        let pipeline = gst::Pipeline::new();
        let all = [source.upcast_ref(), &convert, &encoder, &parse, sink.upcast_ref::<gst::Element>()];
        pipeline.add_many(all).map_err(failed)?;
        gst::Element::link_many(all).map_err(failed)?;
        let line = Self { pipeline, source, encoder, sink, unit: kind.unit, size };
        line.set_bitrate(bps);
        line.pipeline.set_state(gst::State::Playing).map_err(failed)?;
        Ok(line)
    }

    fn set_bitrate(&self, bps: u32) {
        self.encoder.set_property_from_str("bitrate", &(bps / self.unit).to_string());
    }

    fn encode(&mut self, picture: &Picture, key: bool, at: Duration) -> Result<Encoded, EncodeError> {
        if key && let Some(pad) = self.encoder.static_pad("src") {
            let wish = gst::Structure::builder("GstForceKeyUnit").field("all-headers", true).build();
            if !pad.send_event(gst::event::CustomUpstream::new(wish)) {
                tracing::debug!("the encoder takes no wish for a key frame");
            }
        }
        let mut buffer = gst::Buffer::from_mut_slice(planes(picture));
        let time = gst::ClockTime::try_from(at).map_err(failed)?;
        buffer.get_mut().ok_or_else(|| failed("a new buffer is shared"))?.set_pts(time);
        self.source.push_buffer(buffer).map_err(failed)?;
        let within = gst::ClockTime::try_from(ENCODES_WITHIN).map_err(failed)?;
        let Some(sample) = self.sink.try_pull_sample(within) else { return Err(failed(self.complaint())) };
        let buffer = sample.buffer().ok_or_else(|| failed("it gave no frame"))?;
        let bytes = buffer.map_readable().map_err(failed)?.to_vec();
        let key = !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT);
        Ok(Encoded { bytes, key, settled: None })
    }

    /// Why there is no frame.
    fn complaint(&self) -> String {
        let bus = self.pipeline.bus();
        let said = bus.and_then(|bus| bus.pop_filtered(&[gst::MessageType::Error]));
        match said.as_ref().map(|message| message.view()) {
            Some(gst::MessageView::Error(error)) => error.error().to_string(),
            _ => "it gives nothing".to_owned(),
        }
    }
}

/// Sets a property if the element knows the value.
fn takes(encoder: &gst::Element, name: &str, value: &str) -> bool {
    let Some(property) = encoder.find_property(name) else { return false };
    match gst::glib::Value::deserialize(value, property.value_type()) {
        Ok(value) => {
            encoder.set_property(name, value);
            true
        }
        Err(_) => false,
    }
}

/// The picture's planes as GStreamer lays them out: rows in steps of four bytes.
fn planes(picture: &Picture) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(picture.width * picture.height * 3 / 2 + picture.height * 8);
    let half = picture.width / 2;
    for (plane, width) in [(&picture.y, picture.width), (&picture.u, half), (&picture.v, half)] {
        for row in plane.chunks_exact(width.max(1)) {
            bytes.extend_from_slice(row);
            bytes.resize(bytes.len() + width.next_multiple_of(4) - width, 0);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kinds that work on this machine; which do not is said.
    fn working() -> Vec<&'static Kind> {
        gst::init().unwrap();
        let works = |kind: &&'static Kind| {
            let made = Line::new(kind, (320, 180), 30, 1_000_000);
            let made = made.and_then(|mut line| line.encode(&Picture::new(320, 180), false, Duration::ZERO));
            made.inspect_err(|error| eprintln!("{} is not tested: {error}", kind.name)).is_ok()
        };
        KINDS.iter().filter(works).collect()
    }

    /// A picture with something in it that another seed moves.
    fn noise(width: usize, height: usize, mut seed: u32) -> Picture {
        let mut picture = Picture::new(width, height);
        for block in 0..width * height / 256 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let (x, y) = (block * 16 % width, block * 16 / width * 16 % height);
            picture.fill(x, y, 16.min(width - x), 16.min(height - y), seed.to_be_bytes()[0]);
        }
        picture
    }

    #[test]
    fn every_kind_that_is_there_encodes_what_ours_decodes() {
        let kinds = working();
        assert!(!kinds.is_empty(), "install gstreamer1.0-plugins-ugly or -bad");
        for kind in kinds {
            // A width whose half is no multiple of four.
            let mut line = Line::new(kind, (852, 480), 30, 2_000_000).unwrap();
            let mut decoder = openh264::decoder::Decoder::new().unwrap();
            for at in 0..20u32 {
                let wanted = at == 10;
                let picture = noise(852, 480, at / 5);
                let time = Duration::from_millis(33) * at;
                let encoded = line.encode(&picture, wanted, time).unwrap();
                assert_eq!(encoded.key, at == 0 || wanted, "{} {at}", kind.name);
                let decoded = decoder.decode(&encoded.bytes).unwrap();
                let decoded = decoded.unwrap_or_else(|| panic!("{}: frame {at} shows nothing", kind.name));
                let (stride, _, _) = openh264::formats::YUVSource::strides(&decoded);
                // The same picture, row by row, as far as a lossy one is: an average difference of a few steps.
                let rows = picture.y.chunks(852).zip(openh264::formats::YUVSource::y(&decoded).chunks(stride));
                let apart: u64 =
                    rows.flat_map(|(a, b)| a.iter().zip(b).map(|(a, b)| u64::from(a.abs_diff(*b)))).sum::<u64>()
                        / (852 * 480);
                assert!(apart < 25, "{}: frame {at} is {apart} apart", kind.name);
            }
        }
    }

    #[test]
    fn the_rate_is_changed_while_it_runs() {
        for kind in working() {
            let mut line = Line::new(kind, (640, 360), 30, 8_000_000).unwrap();
            let mut seconds = Vec::new();
            for bps in [8_000_000, 500_000] {
                line.set_bitrate(bps);
                let frames = 0..60u32;
                let bytes = frames.map(|at| {
                    let time = Duration::from_millis(33) * (at + 60 * u32::try_from(seconds.len()).unwrap());
                    line.encode(&noise(640, 360, at * 7 + bps), false, time).unwrap().bytes.len()
                });
                seconds.push(bytes.skip(20).sum::<usize>());
            }
            assert!(seconds[1] * 2 < seconds[0], "{}: {seconds:?} bytes", kind.name);
        }
    }
}
