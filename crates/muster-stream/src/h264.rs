//! H.264 by openh264, set up for a picture that must be on its way in milliseconds.

use openh264::OpenH264API;
use openh264::encoder::{
    BitRate, Complexity, Encoder, EncoderConfig, FrameRate, FrameType, Profile, QpRange, RateControlMode,
    SpsPpsStrategy, UsageType, VuiConfig,
};
use openh264::formats::YUVSlices;
use openh264_sys2::{
    ENCODER_OPTION_BITRATE, ENCODER_OPTION_FRAME_RATE, ENCODER_OPTION_MAX_BITRATE, ENCODER_OPTION_TRACE_LEVEL,
    SBitrateInfo, SPATIAL_LAYER_0, SPATIAL_LAYER_ALL, WELS_LOG_QUIET,
};

use crate::encode::{EncodeError, Encoded, VideoCodec, VideoEncoder};
use crate::picture::Picture;
use crate::studio::BPS_MAX;

impl From<openh264::Error> for EncodeError {
    fn from(error: openh264::Error) -> Self {
        Self { codec: "H.264", why: error.to_string() }
    }
}

pub(crate) struct H264 {
    encoder: Encoder,
    bps: u32,
    /// The size that the encoder is set up for.
    size: Option<(usize, usize)>,
}

impl std::fmt::Debug for H264 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("H264").field("bps", &self.bps).field("size", &self.size).finish_non_exhaustive()
    }
}

impl H264 {
    /// Measured on a program that changes a little and on one that scrolls: the search for what has not moved halves the
    /// time of the first; the mode for screen content takes twice the time for a tenth fewer bytes; more threads gain nothing.
    pub(crate) fn new(fps: u8, bps: u32) -> Result<Self, EncodeError> {
        let config = EncoderConfig::new()
            .bitrate(BitRate::from_bps(bps))
            .max_frame_rate(FrameRate::from_hz(f32::from(fps)))
            .rate_control_mode(RateControlMode::Bitrate)
            // Whether there is room for a picture is decided before it is encoded (`budget`); here only how fine it is.
            .skip_frames(false)
            .usage_type(UsageType::CameraVideoRealTime)
            .complexity(Complexity::Low)
            .profile(Profile::Baseline)
            .sps_pps_strategy(SpsPpsStrategy::ConstantId)
            .scene_change_detect(false)
            .adaptive_quantization(false)
            .background_detection(true)
            .qp(QpRange::new(18, 48))
            .num_threads(1)
            .vui(VuiConfig::bt709());
        let mut encoder = Encoder::with_api_config(OpenH264API::from_source(), config)?;
        // It would warn of the choice above on standard error.
        let mut level = WELS_LOG_QUIET;
        // SAFETY: this option takes exactly an integer, which lives until the call returns, before anything else is set up.
        #[allow(unsafe_code, reason = "the library offers this option by pointer only")]
        let _ = unsafe { encoder.raw_api().set_option(ENCODER_OPTION_TRACE_LEVEL, (&raw mut level).cast()) };
        Ok(Self { encoder, bps, size: None })
    }
}

impl VideoEncoder for H264 {
    fn codec(&self) -> VideoCodec {
        VideoCodec::H264
    }

    fn set_bitrate(&mut self, bps: u32) -> Result<(), EncodeError> {
        self.bps = bps;
        if self.size.is_none() {
            return Ok(());
        }
        let rate = i32::try_from(bps).unwrap_or(i32::MAX);
        // It was set up with a highest rate, that of its beginning, and would refuse more: and a size that is new brings
        // that one back.
        let most = i32::try_from(BPS_MAX.max(bps)).unwrap_or(i32::MAX);
        let most = (ENCODER_OPTION_MAX_BITRATE, SBitrateInfo { iLayer: SPATIAL_LAYER_0, iBitrate: most });
        let rate = (ENCODER_OPTION_BITRATE, SBitrateInfo { iLayer: SPATIAL_LAYER_ALL, iBitrate: rate });
        for (option, mut info) in [most, rate] {
            // SAFETY: the encoder was initialised (it has encoded a picture), and these options take exactly this struct,
            // which lives until the call returns.
            #[allow(unsafe_code, reason = "the library offers these options by pointer only")]
            let code = unsafe { self.encoder.raw_api().set_option(option, (&raw mut info).cast()) };
            if code != 0 {
                return Err(EncodeError {
                    codec: "H.264",
                    why: format!("a rate of {bps} bit/s is refused with {code}"),
                });
            }
        }
        Ok(())
    }

    fn set_fps(&mut self, fps: f64) -> Result<(), EncodeError> {
        if self.size.is_none() {
            return Ok(());
        }
        #[expect(clippy::cast_possible_truncation, reason = "frames a second are told as a single float")]
        let mut rate = fps as f32;
        // SAFETY: the encoder was initialised (it has encoded a picture), and this option takes exactly a float, which lives
        // until the call returns.
        #[allow(unsafe_code, reason = "the library offers this option by pointer only")]
        let code = unsafe { self.encoder.raw_api().set_option(ENCODER_OPTION_FRAME_RATE, (&raw mut rate).cast()) };
        if code == 0 {
            Ok(())
        } else {
            Err(EncodeError { codec: "H.264", why: format!("{fps} pictures a second are refused with {code}") })
        }
    }

    fn encode(&mut self, picture: &Picture, key: bool) -> Result<Encoded, EncodeError> {
        let size = (picture.width, picture.height);
        if key && self.size == Some(size) {
            self.encoder.force_intra_frame();
        }
        let half = picture.width / 2;
        let source = YUVSlices::new((&picture.y, &picture.u, &picture.v), size, (picture.width, half, half));
        let stream = self.encoder.encode(&source)?;
        let encoded = Encoded { bytes: stream.to_vec(), key: matches!(stream.frame_type(), FrameType::IDR) };
        if self.size != Some(size) {
            self.size = Some(size);
            let bps = self.bps;
            self.set_bitrate(bps)?;
        }
        Ok(encoded)
    }
}
