//! What a player does, done on the display.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use x11rb::connection::Connection;
use x11rb::protocol::xproto::{
    BUTTON_PRESS_EVENT, BUTTON_RELEASE_EVENT, ConnectionExt as _, KEY_PRESS_EVENT, KEY_RELEASE_EVENT,
    MOTION_NOTIFY_EVENT,
};
use x11rb::protocol::xtest::ConnectionExt as _;
use x11rb::rust_connection::RustConnection;

use crate::control::{Gamepads, Keyboard};
use crate::display::{DisplayError, connect};
use crate::keys::{keycode, keysym};
use crate::messages::{InputMessage, Phase};
use crate::pads::Pads;

/// Left, middle, right, back, forward; X keeps 4 to 7 for the wheel.
const BUTTONS: [u8; 5] = [1, 2, 3, 8, 9];
/// Notches of the wheel that one message may bring.
const NOTCHES_MAX: f64 = 20.0;
/// The left button, for fingers.
const LEFT: u8 = 1;
/// Keys held at once; more than anybody has fingers.
const HELD_MAX: usize = 64;

/// A keyboard and a pointer for the display.
pub(crate) struct Hands {
    connection: RustConnection,
    root: u32,
    width: f64,
    height: f64,
    keyboard: Keyboard,
    layout: Layout,
    /// Keys that are down, by their W3C name, and what was pressed for them.
    keys: BTreeMap<String, u8>,
    buttons: BTreeSet<u8>,
    wheel: (f64, f64),
    finger: Option<i64>,
    pads: Pads,
}

impl std::fmt::Debug for Hands {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hands").field("keyboard", &self.keyboard).finish_non_exhaustive()
    }
}

/// What each key writes, as the display has it.
struct Layout {
    first: u8,
    per_key: usize,
    keysyms: Vec<u32>,
    /// Keys that write nothing, which may be given something; the next one to take.
    spare: Vec<u8>,
    next_spare: usize,
}

impl Layout {
    fn read(connection: &RustConnection) -> Result<Self, DisplayError> {
        let setup = connection.setup();
        let (first, count) = (setup.min_keycode, setup.max_keycode - setup.min_keycode + 1);
        let what = "tell its keyboard";
        let reply = connection
            .get_keyboard_mapping(first, count)
            .map_err(|e| DisplayError::protocol(what, e))?
            .reply()
            .map_err(|e| DisplayError::protocol(what, e))?;
        let per_key = usize::from(reply.keysyms_per_keycode).max(1);
        let spare = (first..=setup.max_keycode)
            .zip(reply.keysyms.chunks(per_key))
            .filter(|(_, syms)| syms.iter().all(|sym| *sym == 0))
            .map(|(key, _)| key)
            .collect();
        Ok(Self { first, per_key, keysyms: reply.keysyms, spare, next_spare: 0 })
    }

    /// What the key writes, plain or with Shift.
    fn writes(&self, key: u8, shift: bool) -> Option<u32> {
        let at = usize::from(key.checked_sub(self.first)?) * self.per_key;
        self.keysyms.get(at + usize::from(shift)).copied()
    }

    /// A key that writes this.
    fn key_for(&self, sym: u32, shift: bool) -> Option<u8> {
        let keys = self.keysyms.chunks(self.per_key);
        let at = keys.into_iter().position(|syms| syms.get(usize::from(shift)) == Some(&sym))?;
        u8::try_from(usize::from(self.first) + at).ok()
    }
}

impl Hands {
    pub(crate) fn open(socket: &Path, keyboard: Keyboard, gamepads: &Gamepads) -> Result<Self, DisplayError> {
        let connection = connect(socket)?;
        let screen = connection.setup().roots.first().ok_or_else(|| DisplayError::protocol("show a screen", "none"))?;
        let (root, width, height) =
            (screen.root, f64::from(screen.width_in_pixels), f64::from(screen.height_in_pixels));
        let what = "take input";
        connection
            .xtest_get_version(2, 2)
            .map_err(|e| DisplayError::protocol(what, e))?
            .reply()
            .map_err(|e| DisplayError::protocol(what, e))?;
        let layout = Layout::read(&connection)?;
        Ok(Self {
            connection,
            root,
            width,
            height,
            keyboard,
            layout,
            keys: BTreeMap::new(),
            buttons: BTreeSet::new(),
            wheel: (0.0, 0.0),
            finger: None,
            pads: Pads::lent(gamepads),
        })
    }

    /// Does it. What cannot be done comes back as a sentence, once.
    pub(crate) fn act(&mut self, message: InputMessage) -> Result<Option<&'static str>, DisplayError> {
        let mut note = None;
        match message {
            InputMessage::Key { code, key, down } => self.key(&code, &key, down)?,
            InputMessage::Move { x, y } => self.point(x, y)?,
            InputMessage::Rel { dx, dy } => {
                self.fake(MOTION_NOTIFY_EVENT, 1, pixels(dx), pixels(dy))?;
            }
            InputMessage::Button { b, down, x, y } => {
                if let (Some(x), Some(y)) = (x, y) {
                    self.point(x, y)?;
                }
                if let Some(button) = BUTTONS.get(usize::from(b)) {
                    self.button(*button, down)?;
                }
            }
            InputMessage::Wheel { dx, dy } => self.roll(dx, dy)?,
            InputMessage::Touch { id, phase, x, y } => self.touch(id, phase, x, y)?,
            InputMessage::Pad { i, axes, buttons, .. } => note = self.pads.set(i, &axes, &buttons),
            InputMessage::PadGone { i } => self.pads.unplug(i),
            InputMessage::Release => self.release_all()?,
        }
        self.connection.flush().map_err(|e| DisplayError::protocol("take input", e))?;
        Ok(note)
    }

    fn fake(&self, kind: u8, detail: u8, x: i16, y: i16) -> Result<(), DisplayError> {
        let sent = self.connection.xtest_fake_input(kind, detail, 0, self.root, x, y, 0);
        sent.map(drop).map_err(|e| DisplayError::protocol("take input", e))
    }

    fn point(&self, x: f64, y: f64) -> Result<(), DisplayError> {
        let at = |share: f64, size: f64| pixels((share.clamp(0.0, 1.0) * size).min(size - 1.0));
        self.fake(MOTION_NOTIFY_EVENT, 0, at(x, self.width), at(y, self.height))
    }

    fn button(&mut self, button: u8, down: bool) -> Result<(), DisplayError> {
        let changes = if down { self.buttons.insert(button) } else { self.buttons.remove(&button) };
        if changes {
            self.fake(if down { BUTTON_PRESS_EVENT } else { BUTTON_RELEASE_EVENT }, button, 0, 0)?;
        }
        Ok(())
    }

    fn roll(&mut self, dx: f64, dy: f64) -> Result<(), DisplayError> {
        for (sum, step, back, forth) in [(&mut self.wheel.0, dx, 6, 7), (&mut self.wheel.1, dy, 4, 5)] {
            if step.is_finite() {
                *sum += step.clamp(-NOTCHES_MAX, NOTCHES_MAX);
            }
            while sum.abs() >= 1.0 {
                let button = if *sum < 0.0 { back } else { forth };
                *sum -= sum.signum();
                for kind in [BUTTON_PRESS_EVENT, BUTTON_RELEASE_EVENT] {
                    let sent = self.connection.xtest_fake_input(kind, button, 0, self.root, 0, 0, 0);
                    sent.map_err(|e| DisplayError::protocol("take input", e))?;
                }
            }
        }
        Ok(())
    }

    fn touch(&mut self, id: i64, phase: Phase, x: f64, y: f64) -> Result<(), DisplayError> {
        match phase {
            Phase::Start if self.finger.is_none() => {
                self.finger = Some(id);
                self.point(x, y)?;
                self.button(LEFT, true)
            }
            Phase::Move if self.finger == Some(id) => self.point(x, y),
            Phase::End if self.finger == Some(id) => {
                self.finger = None;
                self.point(x, y)?;
                self.button(LEFT, false)
            }
            Phase::Start | Phase::Move | Phase::End => Ok(()),
        }
    }

    fn key(&mut self, code: &str, key: &str, down: bool) -> Result<(), DisplayError> {
        if down {
            if self.keys.contains_key(code) || self.keys.len() >= HELD_MAX {
                return Ok(());
            }
            let Some(number) = self.number(code, key)? else { return Ok(()) };
            self.keys.insert(code.to_owned(), number);
            self.fake(KEY_PRESS_EVENT, number, 0, 0)
        } else if let Some(number) = self.keys.remove(code) {
            self.fake(KEY_RELEASE_EVENT, number, 0, 0)
        } else {
            Ok(())
        }
    }

    /// The key to press: by its place, or such that it writes what the player's keyboard wrote.
    fn number(&mut self, code: &str, key: &str) -> Result<Option<u8>, DisplayError> {
        let place = keycode(code);
        let sym = if self.keyboard == Keyboard::Text { keysym(key) } else { None };
        let Some(sym) = sym else { return Ok(place) };
        let shift = self.keys.contains_key("ShiftLeft") || self.keys.contains_key("ShiftRight");
        if let Some(place) = place
            && self.layout.writes(place, shift) == Some(sym)
        {
            return Ok(Some(place));
        }
        // With a modifier held, a key is a command, and commands go by what the key writes alone.
        if let Some(number) = self.layout.key_for(sym, shift) {
            return Ok(Some(number));
        }
        let Some(spare) = self.layout.spare.get(self.layout.next_spare).copied() else { return Ok(place) };
        self.layout.next_spare = (self.layout.next_spare + 1) % self.layout.spare.len();
        let what = "learn a character";
        self.connection
            .change_keyboard_mapping(1, spare, 2, &[sym, sym])
            .map_err(|e| DisplayError::protocol(what, e))?
            .check()
            .map_err(|e| DisplayError::protocol(what, e))?;
        let at = usize::from(spare - self.layout.first) * self.layout.per_key;
        for sym_at in at..at + self.layout.per_key.min(2) {
            if let Some(known) = self.layout.keysyms.get_mut(sym_at) {
                *known = sym;
            }
        }
        Ok(Some(spare))
    }

    /// Lets go of everything: the page has lost the keyboard, or the player.
    pub(crate) fn release_all(&mut self) -> Result<(), DisplayError> {
        for number in std::mem::take(&mut self.keys).into_values() {
            self.fake(KEY_RELEASE_EVENT, number, 0, 0)?;
        }
        for button in std::mem::take(&mut self.buttons) {
            self.fake(BUTTON_RELEASE_EVENT, button, 0, 0)?;
        }
        self.finger = None;
        self.pads.release();
        self.connection.flush().map_err(|e| DisplayError::protocol("take input", e))
    }
}

/// Whole pixels, inside what X can say.
#[allow(clippy::cast_possible_truncation, reason = "clamped to the type's range, and not a number is 0")]
fn pixels(value: f64) -> i16 {
    value.clamp(f64::from(i16::MIN), f64::from(i16::MAX)) as i16
}
