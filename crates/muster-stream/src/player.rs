//! One player's connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use str0m::bwe::{Bitrate, BweKind};
use str0m::change::SdpOffer;
use str0m::channel::ChannelId;
use str0m::format::Codec;
use str0m::media::{Frequency, MediaKind, MediaTime, Mid, Pt};
use str0m::rtp::Extension;
use str0m::{Candidate, Event, IceConnectionState, Rtc, RtcConfig};

use crate::encode::VideoCodec;
use crate::gate::NAME;
use crate::messages::{Ask, CONTROL_BYTES_MAX, InputMessage, Tell, ask, input};
use crate::sound::Packet;
use crate::studio::{BPS_MAX, Frame, START_BPS};

/// Places from which a player's packets may come: it asks from all of its networks at first.
const PLACES_MAX: usize = 6;
/// Frames whose times wait to be told.
const TIMES_MAX: usize = 64;
/// What the sound and everything else takes of the estimate.
const ASIDE_BPS: u64 = 150_000;

/// The answer without the word that this side is ICE-lite. Browsers choose the way to a lite agent only with their second
/// check, 50 ms after the first, and to any other with the first one; this side does the same for both.
fn without_lite(sdp: &str) -> String {
    sdp.split_inclusive('\n').filter(|line| line.trim_end() != "a=ice-lite").collect()
}

/// Seconds between two questions whether the way carries more.
const SEEK_EVERY: u8 = 3;

/// Why a player is not let in.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) code: &'static str,
    pub(crate) why: String,
}

/// What a connection brings.
#[derive(Debug)]
pub(crate) enum Brought {
    Connected,
    Gone,
    Input(InputMessage),
    Ask(Ask),
    KeyWanted,
    /// Opus from the player's microphone.
    Voice(Arc<[u8]>),
    /// The way carries more or less than before: see [`Player::estimate`].
    Rate,
}

pub(crate) struct Player {
    pub(crate) id: u64,
    pub(crate) rtc: Rtc,
    /// How it is sent pictures.
    pub(crate) codec: VideoCodec,
    pub(crate) connected: bool,
    pub(crate) since: Instant,
    /// When anything came from it.
    pub(crate) heard: Instant,
    /// Frames are of no use to it before one that needs none before it.
    pub(crate) needs_key: bool,
    pub(crate) limit: u32,
    /// Bits a second that the way carries, after what else goes on it.
    pub(crate) estimate: u32,
    seek: Seek,
    /// How the name begins by which its connection asks for this one.
    pub(crate) name: Option<[u8; NAME]>,
    /// From where it has shown that it is there, the last first.
    places: Vec<SocketAddr>,
    pub(crate) clip_wanted: bool,
    video: Option<(Mid, Pt)>,
    sound: Option<(Mid, Pt)>,
    input: Option<ChannelId>,
    control: Option<ChannelId>,
    times: Vec<(u32, f64)>,
    pub(crate) count: Count,
}

/// When it is worth asking whether the way carries more.
#[derive(Debug, Default)]
struct Seek {
    /// Seconds in which the estimate did not fall.
    calm: u8,
}

impl Seek {
    fn seen(&mut self, before: u32, now: u32) {
        if now < before / 10 * 9 {
            self.calm = 0;
        }
    }

    /// What to wish for from now on, if something else than before.
    fn tick(&mut self) -> Option<u32> {
        self.calm = (self.calm + 1) % SEEK_EVERY;
        match self.calm {
            0 => Some(BPS_MAX),
            last if last == SEEK_EVERY - 1 => Some(BPS_MAX / 2),
            _ => None,
        }
    }
}

/// What is counted between two reports.
#[derive(Debug, Default)]
pub(crate) struct Count {
    pub(crate) frames: u32,
    pub(crate) bytes: u64,
    pub(crate) encode: Vec<f32>,
    pub(crate) loss: f32,
    pub(crate) rtt: Duration,
}

impl std::fmt::Debug for Player {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Player").field("id", &self.id).field("connected", &self.connected).finish_non_exhaustive()
    }
}

impl Player {
    /// Takes an offer; the answer is for the player.
    pub(crate) fn accept(
        id: u64,
        sdp: &str,
        addresses: &[SocketAddr],
        codec: VideoCodec,
    ) -> Result<(Self, String), Refusal> {
        let bad = |why: String| Refusal { code: "bad_offer", why: format!("the offer cannot be taken: {why}") };
        let offer = SdpOffer::from_sdp_string(sdp).map_err(|e| bad(e.to_string()))?;
        let now = Instant::now();
        let mut config = RtcConfig::new()
            .set_ice_lite(true)
            .clear_codecs()
            .enable_h264(codec == VideoCodec::H264)
            .enable_vp8(codec == VideoCodec::Vp8)
            .enable_opus(true, false)
            // A word that is lost is not waited for.
            .set_reordering_size_audio(3)
            .set_stats_interval(Some(Duration::from_secs(1)))
            .enable_bwe(Some(Bitrate::bps(u64::from(START_BPS))));
        config.extension_map().set(5, Extension::PlayoutDelay);
        let mut rtc = config.build(now);
        for address in addresses {
            let candidate = Candidate::host(*address, "udp").map_err(|e| bad(e.to_string()))?;
            rtc.add_local_candidate(candidate);
        }
        let answer = rtc.sdp_api().accept_offer(offer).map_err(|e| bad(e.to_string()))?.to_sdp_string();
        // No more is asked for than is known of, so that the first picture does not wait behind trials of the way; later on
        // `seek` does.
        rtc.bwe().set_bitrate(Bitrate::ZERO, Bitrate::bps(u64::from(START_BPS)));
        let player = Self {
            id,
            rtc,
            codec,
            connected: false,
            since: now,
            heard: now,
            needs_key: true,
            limit: BPS_MAX,
            estimate: START_BPS,
            seek: Seek::default(),
            name: answer.lines().find_map(|line| line.strip_prefix("a=ice-ufrag:")?.as_bytes().first_chunk().copied()),
            places: Vec::new(),
            clip_wanted: false,
            video: None,
            sound: None,
            input: None,
            control: None,
            times: Vec::new(),
            count: Count::default(),
        };
        Ok((player, without_lite(&answer)))
    }

    /// Where it is, as far as it has shown.
    pub(crate) fn places(&self) -> impl Iterator<Item = SocketAddr> {
        self.places.iter().copied()
    }

    /// A packet from there was one that only this player can have sent; whether that is news.
    pub(crate) fn is_at(&mut self, place: SocketAddr) -> bool {
        if self.places.contains(&place) {
            return false;
        }
        self.places.insert(0, place);
        self.places.truncate(PLACES_MAX);
        true
    }

    /// What an event of the connection means here.
    pub(crate) fn event(&mut self, event: Event) -> Option<Brought> {
        match event {
            Event::Connected => {
                self.connected = true;
                Some(Brought::Connected)
            }
            Event::IceConnectionStateChange(IceConnectionState::Disconnected) | Event::Closed => Some(Brought::Gone),
            Event::MediaAdded(added) => {
                let codec = match added.kind {
                    MediaKind::Video => self.codec.on_wire(),
                    MediaKind::Audio => Codec::Opus,
                };
                let chosen = self.payload(added.mid, codec).map(|pt| (added.mid, pt));
                match added.kind {
                    MediaKind::Video => self.video = self.video.or(chosen),
                    MediaKind::Audio => self.sound = self.sound.or(chosen),
                }
                None
            }
            Event::ChannelOpen(id, label) => {
                match label.as_str() {
                    "input" => self.input = Some(id),
                    "control" => self.control = Some(id),
                    _ => {}
                }
                None
            }
            Event::ChannelData(data) if Some(data.id) == self.input => input(&data.data).map(Brought::Input),
            Event::ChannelData(data) if Some(data.id) == self.control => ask(&data.data).map(Brought::Ask),
            Event::MediaData(data) if self.sound.is_some_and(|(mid, _)| mid == data.mid) => {
                Some(Brought::Voice(data.data))
            }
            Event::KeyframeRequest(_) => Some(Brought::KeyWanted),
            Event::EgressBitrateEstimate(BweKind::Twcc { estimate, .. } | BweKind::Remb { estimate, .. }) => {
                let left = estimate.as_u64().saturating_sub(ASIDE_BPS) * 9 / 10;
                let left = u32::try_from(left).unwrap_or(u32::MAX);
                self.seek.seen(self.estimate, left);
                self.estimate = left;
                Some(Brought::Rate)
            }
            Event::MediaEgressStats(stats) if self.video.is_some_and(|(mid, _)| mid == stats.mid) => {
                self.count.loss = stats.loss.unwrap_or(self.count.loss);
                self.count.rtt = stats.rtt.unwrap_or(self.count.rtt);
                None
            }
            _ => None,
        }
    }

    /// The payload type to send with: of H.264 one that takes slices in pieces, baseline where there is one.
    fn payload(&mut self, mid: Mid, codec: Codec) -> Option<Pt> {
        let writer = self.rtc.writer(mid)?;
        writer
            .payload_params()
            .filter(|params| params.spec().codec == codec)
            .filter(|params| codec != Codec::H264 || params.spec().format.packetization_mode == Some(1))
            .min_by_key(|params| {
                let profile = params.spec().format.profile_level_id.unwrap_or_default() >> 8;
                [0x42e0, 0x4200].iter().position(|known| *known == profile).unwrap_or(usize::MAX)
            })
            .map(str0m::format::PayloadParams::pt)
    }

    /// Sends a frame. What the network does with it comes back as a rate.
    pub(crate) fn send_frame(&mut self, frame: &Frame, bytes: &Arc<[u8]>, begin: Instant) {
        let Some((mid, pt)) = self.video else { return };
        // A frame of another form was on its way when the last player left.
        if !self.connected || (self.needs_key && !frame.key) || frame.codec != self.codec {
            return;
        }
        let since = frame.captured.saturating_duration_since(begin);
        let time = MediaTime::from_90khz(u64::try_from(since.as_micros() * 9 / 100).unwrap_or(u64::MAX));
        let Some(writer) = self.rtc.writer(mid) else { return };
        let written =
            writer.playout_delay(MediaTime::ZERO, MediaTime::ZERO).write(pt, frame.captured, time, Arc::clone(bytes));
        if let Err(error) = written {
            tracing::debug!(player = self.id, %error, "a frame is not sent");
            return;
        }
        self.needs_key = false;
        self.count.frames += 1;
        self.count.bytes += u64::try_from(bytes.len()).unwrap_or(0);
        self.count.encode.push(frame.encode.as_secs_f32() * 1_000.0);
        if self.times.len() < TIMES_MAX {
            self.times.push((u32::try_from(time.numer() & u64::from(u32::MAX)).unwrap_or(0), frame.captured_ms));
        }
    }

    /// Sends ten milliseconds of sound, with a time of the same beginning as the pictures'.
    pub(crate) fn send_sound(&mut self, packet: &Packet, begin: Instant) {
        let Some((mid, pt)) = self.sound.filter(|_| self.connected) else { return };
        let since = packet.at.saturating_duration_since(begin);
        let samples = u64::try_from(since.as_micros() * 48 / 1_000).unwrap_or(u64::MAX);
        let time = MediaTime::new(samples, Frequency::FORTY_EIGHT_KHZ);
        let Some(writer) = self.rtc.writer(mid) else { return };
        let written = writer.start_of_talkspurt(packet.first).write(pt, packet.at, time, Arc::clone(&packet.bytes));
        if let Err(error) = written {
            tracing::debug!(player = self.id, %error, "sound is not sent");
        }
    }

    /// To be called each second: asks now and then whether the way carries more than was thought. By itself the library asks
    /// only every fifteen seconds where all of the estimate is used, which it is after a narrow way has become wide again.
    pub(crate) fn seek(&mut self) {
        if self.connected
            && self.estimate < BPS_MAX
            && let Some(desired) = self.seek.tick()
        {
            // It asks when it is told to wish for more than before.
            self.rtc.bwe().set_bitrate(Bitrate::ZERO, Bitrate::bps(u64::from(desired)));
        }
    }

    /// Tells when frames were captured, where any wait to be told.
    pub(crate) fn tell_times(&mut self) {
        if !self.times.is_empty() && self.control.is_some() {
            let f = std::mem::take(&mut self.times);
            self.tell(&Tell::Frames { f });
        }
    }

    /// Whether messages can be sent, and have not been before.
    pub(crate) fn is_open(&self) -> bool {
        self.control.is_some()
    }

    pub(crate) fn tell(&mut self, tell: &Tell) {
        let Some(id) = self.control else { return };
        let Ok(text) = serde_json::to_vec(tell) else { return };
        // A text of signs that JSON writes in six letters each.
        if text.len() > CONTROL_BYTES_MAX {
            tracing::debug!(player = self.id, bytes = text.len(), "a message is left out: it is too long");
            return;
        }
        let Some(mut channel) = self.rtc.channel(id) else { return };
        // A page that takes nothing is told nothing; its connection ends by itself.
        match channel.write(false, &text) {
            Ok(true) => {}
            Ok(false) => tracing::debug!(player = self.id, "a message is left out: the player takes none"),
            Err(error) => tracing::debug!(player = self.id, %error, "a message is not sent"),
        }
    }
}
