//! Live sessions: what a job's private display shall be like.

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::packages::PackageSet;

/// The narrowest and the widest picture, in pixels.
pub const WIDTH: (u16, u16) = (320, 3840);
/// The lowest and the highest picture, in pixels.
pub const HEIGHT: (u16, u16) = (200, 2160);
/// The most frames a second.
pub const FPS_MAX: u8 = 120;
/// The most gamepads.
pub const GAMEPADS_MAX: u8 = 4;
/// The longest name of a keyboard's layout, in bytes.
pub const LAYOUT_LEN_MAX: usize = 32;

/// What a job that is streamed asks for beside its command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionSpec {
    /// Width of the display in pixels, even.
    pub width: u16,
    /// Height of the display in pixels, even.
    pub height: u16,
    /// Frames a second, at most.
    pub fps: u8,
    /// The keyboard's layout, as XKB names it: `us`, `de`.
    pub layout: String,
    /// How keys are meant.
    pub keyboard: KeyboardUse,
    /// Whether the program's sound is streamed.
    pub sound: bool,
    /// Whether the program hears the player's microphone.
    pub microphone: bool,
    /// How many gamepads the program sees, from its start on; 0 for one that takes none.
    #[serde(default)]
    pub gamepads: u8,
    /// Debian packages that the program needs; those that the machine lacks are fetched before it begins.
    #[serde(default)]
    pub packages: PackageSet,
}

/// How keys are meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyboardUse {
    /// By their place on the keyboard: games.
    #[default]
    Position,
    /// By what they write: desktop programs.
    Text,
}

impl fmt::Display for KeyboardUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Position => "position",
            Self::Text => "text",
        })
    }
}

/// What is wrong with a [`SessionSpec`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionSpecError {
    /// A side of the picture is out of bounds or odd.
    #[error("the session's {side} is {got}; it must be an even number from {min} to {max}")]
    Size {
        /// `width` or `height`.
        side: &'static str,
        /// What it is.
        got: u16,
        /// The least.
        min: u16,
        /// The most.
        max: u16,
    },
    /// The rate of frames is out of bounds.
    #[error("the session's fps is {0}; it must be from 1 to {FPS_MAX}")]
    Fps(u8),
    /// The layout's name has other characters than it may, or too many.
    #[error(
        "{0:?} is no name of a keyboard layout; write it as XKB does, for example us or de: 1 to {LAYOUT_LEN_MAX} of a-z, 0-9, - and _"
    )]
    Layout(String),
    /// A microphone without sound.
    #[error("the session asks for a microphone and for no sound; ask for both")]
    MicrophoneWithoutSound,
    /// More gamepads than there are hands.
    #[error("the session asks for {0} gamepads; it may have up to {GAMEPADS_MAX}")]
    Gamepads(u8),
}

impl Default for SessionSpec {
    fn default() -> Self {
        Self {
            width: 1280,
            height: 720,
            fps: 60,
            layout: "us".to_owned(),
            keyboard: KeyboardUse::Position,
            sound: true,
            microphone: false,
            gamepads: 0,
            packages: PackageSet::default(),
        }
    }
}

impl SessionSpec {
    /// Refuses what no display can be.
    ///
    /// # Errors
    /// The first field that is wrong, with what it may hold.
    pub fn check(&self) -> Result<(), SessionSpecError> {
        for (side, got, (min, max)) in [("width", self.width, WIDTH), ("height", self.height, HEIGHT)] {
            if got < min || got > max || !got.is_multiple_of(2) {
                return Err(SessionSpecError::Size { side, got, min, max });
            }
        }
        if self.fps == 0 || self.fps > FPS_MAX {
            return Err(SessionSpecError::Fps(self.fps));
        }
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
        if self.layout.is_empty() || self.layout.len() > LAYOUT_LEN_MAX || !self.layout.bytes().all(fits) {
            return Err(SessionSpecError::Layout(self.layout.chars().take(LAYOUT_LEN_MAX).collect()));
        }
        if self.microphone && !self.sound {
            return Err(SessionSpecError::MicrophoneWithoutSound);
        }
        if self.gamepads > GAMEPADS_MAX {
            return Err(SessionSpecError::Gamepads(self.gamepads));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn displays_are_bounded() {
        assert_eq!(SessionSpec::default().check(), Ok(()));
        let wrong = |change: fn(&mut SessionSpec)| {
            let mut spec = SessionSpec::default();
            change(&mut spec);
            spec.check().unwrap_err().to_string()
        };
        assert!(wrong(|s| s.width = 318).contains("width is 318"));
        assert!(wrong(|s| s.width = 1281).contains("even"));
        assert!(wrong(|s| s.height = 2162).contains("height is 2162"));
        assert!(wrong(|s| s.fps = 0).contains("fps is 0"));
        assert!(wrong(|s| s.fps = 121).contains("fps is 121"));
        assert!(wrong(|s| s.layout.clear()).contains("layout"));
        assert!(wrong(|s| s.layout = "us;rm".to_owned()).contains("us;rm"));
        assert!(wrong(|s| s.layout = "x".repeat(33)).contains("layout"));
        assert!(wrong(|s| (s.sound, s.microphone) = (false, true)).contains("microphone"));
        assert!(wrong(|s| s.gamepads = 5).contains("5 gamepads"));
    }
}
