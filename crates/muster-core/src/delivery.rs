//! What of a live session was delivered: what somebody who watched it saw, and whether that is what was promised.
//!
//! The same judgement serves Checkers, who come as players, and the receipts of players. It knows no clock and no network:
//! whoever watched tells what there was.

use core::fmt;

use serde::{Deserialize, Serialize};

/// Who watched for less can say nothing.
pub const WATCHED_MS_MIN: u64 = 3_000;
/// A picture that comes later than this after the player was let in is none.
pub const FIRST_FRAME_MS_MAX: u32 = 10_000;
/// A code that is seen later than this was not drawn for who asked.
pub const CODE_MS_MAX: u32 = 2_000;
/// An answer to an input that shows later than this is none.
pub const INPUT_MS_MAX: u32 = 1_000;
/// A picture that stands still for longer, while the program draws, has stalled.
pub const GAP_MS_MAX: u32 = 2_000;
/// Of the frames that are drawn, at least one of so many must arrive.
const FRAMES_SHARE: u64 = 4;
/// So many packets in a million may be lost before the picture is the line's, and not the Container's.
pub const LOSS_PPM_MAX: u32 = 50_000;

/// Questions to the stream, and how many of them were answered in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// How often it was asked.
    pub asked: u32,
    /// How often the answer was seen in the picture, in time.
    pub seen: u32,
    /// From asking to seeing, the 95th of a hundred, in milliseconds; 0 where none was seen.
    pub ms_p95: u32,
}

/// What a player saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watched {
    /// How long it looked on after the first picture, in milliseconds.
    pub ms: u64,
    /// From being let in to the first picture; `None` when none came.
    pub first_frame_ms: Option<u32>,
    /// Pictures that came.
    pub frames: u64,
    /// Width of most of them, in pixels.
    pub width: u16,
    /// Height of most of them.
    pub height: u16,
    /// Codes that the picture should show.
    pub codes: Asked,
    /// Inputs that the program should answer.
    pub inputs: Asked,
    /// Packets lost, in millionths.
    pub loss_ppm: u32,
    /// The longest time without a new picture, in milliseconds.
    pub gap_ms_max: u32,
}

/// What was promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// Width of the picture.
    pub width: u16,
    /// Height of the picture.
    pub height: u16,
    /// Frames a second that the program draws for certain; 0 for one that may stand still.
    pub fps: u8,
}

/// What is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shortcoming {
    /// No picture came.
    NoPicture,
    /// The picture does not show what it was asked to show: it is not made now, or not for this player.
    Stale {
        /// Codes asked for.
        asked: u32,
        /// Codes seen.
        seen: u32,
    },
    /// The picture is smaller than was promised, on a line that would carry it.
    Small {
        /// Its width.
        width: u16,
        /// Its height.
        height: u16,
    },
    /// Hardly any frames, or none for long.
    Stalled {
        /// Frames that came.
        frames: u64,
        /// Frames that the program drew.
        drawn: u64,
        /// The longest time without one, in milliseconds.
        gap_ms: u32,
    },
    /// The program does not answer what the player does.
    Deaf {
        /// Inputs given.
        given: u32,
        /// Inputs answered.
        answered: u32,
    },
    /// Too many packets are lost.
    Lossy {
        /// In millionths.
        ppm: u32,
    },
}

impl fmt::Display for Shortcoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPicture => f.write_str("no picture came"),
            Self::Stale { asked, seen } => {
                write!(f, "the picture is not made now: of {asked} codes that it was asked to show, {seen} were seen")
            }
            Self::Small { width, height } => write!(f, "the picture is {width}×{height}, less than was promised"),
            Self::Stalled { frames, drawn, gap_ms } => {
                write!(f, "{frames} frames came of {drawn} that the program drew, once none for {gap_ms} ms")
            }
            Self::Deaf { given, answered } => {
                write!(f, "the program answered {answered} of {given} inputs")
            }
            Self::Lossy { ppm } => write!(f, "{}.{:02} % of the packets were lost", ppm / 10_000, ppm / 100 % 100),
        }
    }
}

/// What watching came to. Three-valued: who saw too little says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Delivered {
    /// What was promised.
    Good,
    /// Less.
    Poor(Shortcoming),
    /// It was not watched for long enough.
    Unknown,
}

/// Holds what was seen against what was promised. What a cheat cannot have (fresh frames, for this player) comes first;
/// where too much is lost on the way, that is said before a small or slow picture.
#[must_use]
pub fn judge(watched: &Watched, promise: &Promise) -> Delivered {
    if watched.first_frame_ms.is_none_or(|ms| ms > FIRST_FRAME_MS_MAX) {
        return Delivered::Poor(Shortcoming::NoPicture);
    }
    if watched.ms < WATCHED_MS_MIN {
        return Delivered::Unknown;
    }
    let Asked { asked, seen, .. } = watched.codes;
    if missed(&watched.codes) {
        return Delivered::Poor(Shortcoming::Stale { asked, seen });
    }
    if watched.loss_ppm > LOSS_PPM_MAX {
        return Delivered::Poor(Shortcoming::Lossy { ppm: watched.loss_ppm });
    }
    let drawn = watched.ms.saturating_mul(u64::from(promise.fps)) / 1_000;
    let slow = watched.frames.saturating_mul(FRAMES_SHARE) < drawn;
    if promise.fps > 0 && (slow || watched.gap_ms_max > GAP_MS_MAX) {
        let (frames, gap_ms) = (watched.frames, watched.gap_ms_max);
        return Delivered::Poor(Shortcoming::Stalled { frames, drawn, gap_ms });
    }
    if watched.width < promise.width || watched.height < promise.height {
        return Delivered::Poor(Shortcoming::Small { width: watched.width, height: watched.height });
    }
    if missed(&watched.inputs) {
        let Asked { asked: given, seen: answered, .. } = watched.inputs;
        return Delivered::Poor(Shortcoming::Deaf { given, answered });
    }
    if asked == 0 { Delivered::Unknown } else { Delivered::Good }
}

/// A single question proves nothing: its answer may have been in the one packet that was lost.
const PROVING: u32 = 2;

/// Whether more than half of the answers are missing.
const fn missed(asked: &Asked) -> bool {
    asked.asked >= PROVING && asked.seen.saturating_mul(2) < asked.asked
}

/// What a Container's players have said of it lately: receipts that were verified, in the account of one consumer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipts {
    /// Of which what was promised was delivered.
    pub good: u32,
    /// Of which it was not.
    pub poor: u32,
    /// Poor ones since the last good one.
    pub poor_in_a_row: u32,
}

/// After so many poor receipts one after the other the player is told: going on would be paying for nothing.
pub const POOR_IN_A_ROW_MAX: u32 = 3;

impl Receipts {
    /// Whether what was delivered in all is less than what was promised.
    #[must_use]
    pub const fn is_poor(&self) -> bool {
        self.poor > self.good
    }
}

/// The receipts of one lease as they come in. Only codes count: a small or slow picture may be the player's own line's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Codes asked for since the last judgement.
    codes: Asked,
    receipts: Receipts,
}

impl Tally {
    /// Takes the codes of a receipt; a judgement needs as many as prove something. Whether the picture has just turned out
    /// to be stale for so long that going on would be paying for nothing.
    pub const fn take(&mut self, codes: Asked) -> bool {
        self.codes.asked = self.codes.asked.saturating_add(codes.asked);
        self.codes.seen = self.codes.seen.saturating_add(codes.seen);
        if self.codes.asked < PROVING {
            return false;
        }
        let poor = missed(&self.codes);
        self.codes = Asked { asked: 0, seen: 0, ms_p95: 0 };
        if poor {
            self.receipts.poor = self.receipts.poor.saturating_add(1);
            self.receipts.poor_in_a_row = self.receipts.poor_in_a_row.saturating_add(1);
        } else {
            self.receipts.good = self.receipts.good.saturating_add(1);
            self.receipts.poor_in_a_row = 0;
        }
        poor && self.receipts.poor_in_a_row >= POOR_IN_A_ROW_MAX
    }

    /// What they came to.
    #[must_use]
    pub const fn receipts(&self) -> Receipts {
        self.receipts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PROMISE: Promise = Promise { width: 640, height: 360, fps: 30 };

    fn good() -> Watched {
        Watched {
            ms: 10_000,
            first_frame_ms: Some(400),
            frames: 300,
            width: 640,
            height: 360,
            codes: Asked { asked: 4, seen: 4, ms_p95: 90 },
            inputs: Asked { asked: 5, seen: 5, ms_p95: 60 },
            loss_ppm: 100,
            gap_ms_max: 120,
        }
    }

    fn changed(change: impl FnOnce(&mut Watched)) -> Delivered {
        let mut watched = good();
        change(&mut watched);
        judge(&watched, &PROMISE)
    }

    #[test]
    fn each_kind_of_fraud_has_its_word() {
        assert_eq!(judge(&good(), &PROMISE), Delivered::Good);
        assert_eq!(changed(|w| w.first_frame_ms = None), Delivered::Poor(Shortcoming::NoPicture));
        assert_eq!(changed(|w| w.first_frame_ms = Some(10_001)), Delivered::Poor(Shortcoming::NoPicture));
        assert_eq!(changed(|w| w.codes.seen = 1), Delivered::Poor(Shortcoming::Stale { asked: 4, seen: 1 }));
        assert_eq!(
            changed(|w| (w.width, w.height) = (320, 180)),
            Delivered::Poor(Shortcoming::Small { width: 320, height: 180 })
        );
        assert!(matches!(changed(|w| w.frames = 74), Delivered::Poor(Shortcoming::Stalled { drawn: 300, .. })));
        assert_eq!(changed(|w| w.frames = 75), Delivered::Good);
        assert!(matches!(changed(|w| w.gap_ms_max = 2_001), Delivered::Poor(Shortcoming::Stalled { .. })));
        assert_eq!(changed(|w| w.inputs.seen = 2), Delivered::Poor(Shortcoming::Deaf { given: 5, answered: 2 }));
        assert_eq!(changed(|w| w.loss_ppm = 61_234), Delivered::Poor(Shortcoming::Lossy { ppm: 61_234 }));
        let said = changed(|w| w.loss_ppm = 61_234);
        assert!(matches!(said, Delivered::Poor(short) if short.to_string().starts_with("6.12 %")));
    }

    #[test]
    fn who_saw_too_little_says_nothing() {
        assert_eq!(changed(|w| w.ms = WATCHED_MS_MIN - 1), Delivered::Unknown);
        assert_eq!(changed(|w| w.codes = Asked::default()), Delivered::Unknown);
        // One code alone may have been lost.
        assert_eq!(changed(|w| w.codes = Asked { asked: 1, seen: 0, ms_p95: 0 }), Delivered::Good);
        // A program that may stand still owes no frames.
        let still = Promise { fps: 0, ..PROMISE };
        assert_eq!(judge(&Watched { frames: 1, gap_ms_max: 9_000, ..good() }, &still), Delivered::Good);
    }

    #[test]
    fn three_poor_receipts_in_a_row_are_enough() {
        let mut tally = Tally::default();
        let mut take = |asked, seen| tally.take(Asked { asked, seen, ms_p95: 0 });
        let (poor, good, too_few) = ((2, 0), (3, 2), (1, 0));
        assert!(![poor, poor, good, poor, (0, 0), poor].map(|(asked, seen)| take(asked, seen)).contains(&true));
        assert!(take(poor.0, poor.1));
        // What is too little for a judgement waits for more.
        assert!(!take(too_few.0, too_few.1));
        assert!(take(too_few.0, too_few.1));
        assert!(!take(good.0, good.1));
        let receipts = tally.receipts();
        assert_eq!(receipts, Receipts { good: 2, poor: 6, poor_in_a_row: 0 });
        assert!(receipts.is_poor());
    }

    proptest! {
        /// Whoever delivers more of anything is never judged worse.
        #[test]
        fn more_is_never_worse(
            ms in 0u64..30_000, first in proptest::option::of(0u32..20_000), frames in 0u64..1_000,
            size in (1u16..1_280, 1u16..720), codes in (0u32..8, 0u32..8), inputs in (0u32..8, 0u32..8),
            loss_ppm in 0u32..200_000, gap_ms_max in 0u32..5_000, which in 0u8..6,
        ) {
            let asked = |(asked, seen): (u32, u32)| Asked { asked, seen: seen.min(asked), ms_p95: 0 };
            let (width, height) = size;
            let watched = Watched {
                ms, first_frame_ms: first, frames, width, height,
                codes: asked(codes), inputs: asked(inputs), loss_ppm, gap_ms_max,
            };
            let mut better = watched;
            match which {
                0 => better.frames += 100,
                1 => (better.width, better.height) = (better.width * 2, better.height * 2),
                2 => better.codes.seen = better.codes.asked,
                3 => better.inputs.seen = better.inputs.asked,
                4 => better.loss_ppm /= 2,
                _ => better.gap_ms_max /= 2,
            }
            let rank = |delivered| match delivered {
                Delivered::Poor(_) => 0,
                Delivered::Unknown => 1,
                Delivered::Good => 2,
            };
            prop_assert!(rank(judge(&better, &PROMISE)) >= rank(judge(&watched, &PROMISE)));
        }
    }
}
