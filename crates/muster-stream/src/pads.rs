//! Gamepads: what a browser says of a player's pads, done on the virtual ones that the session was lent.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use crate::control::Gamepads;
use crate::gamepad::take;

/// Pads at once.
pub(crate) const PADS_MAX: u8 = 4;

const NOT_ASKED: &str = "This program takes no gamepad, so the gamepad has no effect; keyboard, mouse and touch work.";
const NO_PADS: &str = "This machine gives sessions no virtual gamepad, so the gamepad has no effect; keyboard, mouse and the on-screen controls work.";

/// Kinds of events, and their codes, as `linux/input-event-codes.h` has them.
pub(crate) const EV_SYN: u16 = 0;
pub(crate) const EV_KEY: u16 = 1;
pub(crate) const EV_ABS: u16 = 3;
/// A pad's buttons by the number that the W3C's standard mapping gives them; those that are none here are axes.
pub(crate) const BUTTONS: [Option<u16>; 17] = [
    Some(0x130), // BTN_SOUTH, A
    Some(0x131), // BTN_EAST, B
    Some(0x133), // BTN_X, left: the driver of these pads gives it the code of the kernel's BTN_NORTH
    Some(0x134), // BTN_Y, above
    Some(0x136), // BTN_TL
    Some(0x137), // BTN_TR
    None,        // triggers
    None,
    Some(0x13a), // BTN_SELECT
    Some(0x13b), // BTN_START
    Some(0x13d), // BTN_THUMBL
    Some(0x13e), // BTN_THUMBR
    None,        // the cross
    None,
    None,
    None,
    Some(0x13c), // BTN_MODE
];
const ABS_Z: u16 = 2;
const ABS_RZ: u16 = 5;
const ABS_HAT0X: u16 = 16;
const ABS_HAT0Y: u16 = 17;
/// ABS_X, ABS_Y, ABS_RX, ABS_RY.
const STICKS: [u16; 4] = [0, 1, 3, 4];
pub(crate) const STICK: (i32, i32) = (-32_768, 32_767);
const TRIGGER: (i32, i32) = (0, 255);
const CROSS: (i32, i32) = (-1, 1);
/// Every axis, and from where to where it goes.
pub(crate) const AXES: [(u16, (i32, i32)); 8] = [
    (STICKS[0], STICK),
    (STICKS[1], STICK),
    (ABS_Z, TRIGGER),
    (STICKS[2], STICK),
    (STICKS[3], STICK),
    (ABS_RZ, TRIGGER),
    (ABS_HAT0X, CROSS),
    (ABS_HAT0Y, CROSS),
];

/// A change of a pad: kind, code, value.
pub(crate) type Change = (u16, u16, i32);

/// A gamepad that programs see, until it is dropped.
pub(crate) trait Device: Send {
    /// Does these together.
    fn change(&mut self, changes: &[Change]) -> io::Result<()>;
}

/// What a pad's buttons and axes stand at, by kind and code.
type State = BTreeMap<(u16, u16), i32>;

/// The session's pads, and which of the player's steers which.
pub(crate) struct Pads {
    pads: Vec<(Box<dyn Device>, State)>,
    /// By the browser's number. The first that is used steers the first, and all that are too many share the last.
    steered: BTreeMap<u8, usize>,
    /// What a player is told who uses one where there is none; once.
    without: Option<&'static str>,
}

impl Pads {
    /// The pads that this process was lent. One that cannot be had counts as none.
    pub(crate) fn lent(how: &Gamepads) -> Self {
        let (numbers, without) = match how {
            Gamepads::Unasked => (&[][..], NOT_ASKED),
            Gamepads::Refused => (&[][..], NO_PADS),
            Gamepads::Lent(numbers) => (numbers.as_slice(), NO_PADS),
        };
        let mut taken = BTreeSet::new();
        let pads = numbers.iter().filter(|number| taken.insert(**number)).filter_map(|number| {
            take(*number).inspect_err(|error| tracing::warn!(%error, number, "a gamepad that was lent is none")).ok()
        });
        Self::new(pads.collect(), without)
    }

    fn new(pads: Vec<Box<dyn Device>>, without: &'static str) -> Self {
        let pads = pads.into_iter().map(|pad| (pad, state(&[], &[]))).collect();
        Self { pads, steered: BTreeMap::new(), without: Some(without) }
    }

    /// The player's pad is like this now; a sentence, once, where there is none to steer with it.
    pub(crate) fn set(&mut self, index: u8, axes: &[f64], buttons: &[f64]) -> Option<&'static str> {
        if index >= PADS_MAX {
            return None;
        }
        let Some(last) = self.pads.len().checked_sub(1) else { return self.without.take() };
        let free = || (0..last).find(|at| !self.steered.values().any(|taken| taken == at)).unwrap_or(last);
        let at = self.steered.get(&index).copied().unwrap_or_else(free);
        self.steered.insert(index, at);
        self.put(at, state(axes, buttons));
        None
    }

    /// The player's pad is gone. The program's stays, and nothing on it is held, unless another one steers it as well.
    pub(crate) fn unplug(&mut self, index: u8) {
        if let Some(at) = self.steered.remove(&index)
            && !self.steered.values().any(|other| *other == at)
        {
            self.put(at, state(&[], &[]));
        }
    }

    /// Lets go of every button and stick.
    pub(crate) fn release(&mut self) {
        for at in 0..self.pads.len() {
            self.put(at, state(&[], &[]));
        }
    }

    fn put(&mut self, at: usize, now: State) {
        let Some((device, known)) = self.pads.get_mut(at) else { return };
        let changes: Vec<Change> = now
            .iter()
            .filter(|(control, value)| known.get(control) != Some(value))
            .map(|((kind, code), value)| (*kind, *code, *value))
            .collect();
        *known = now;
        if !changes.is_empty()
            && let Err(error) = device.change(&changes)
        {
            tracing::warn!(%error, at, "a virtual gamepad takes nothing");
        }
    }
}

/// Where everything stands on a pad of the standard mapping; what is not said is not touched.
fn state(axes: &[f64], buttons: &[f64]) -> State {
    let pressed = |at: usize| buttons.get(at).copied().filter(|value| value.is_finite()).unwrap_or(0.0);
    let down = |at: usize| i32::from(pressed(at) >= 0.5);
    let mut state = State::new();
    for (at, code) in BUTTONS.iter().enumerate() {
        if let Some(code) = code {
            state.insert((EV_KEY, *code), down(at));
        }
    }
    for (at, code) in STICKS.into_iter().enumerate() {
        let value = axes.get(at).copied().filter(|value| value.is_finite()).unwrap_or(0.0).clamp(-1.0, 1.0);
        let far = if value < 0.0 { -STICK.0 } else { STICK.1 };
        state.insert((EV_ABS, code), whole(value * f64::from(far)));
    }
    for (at, code) in [(6, ABS_Z), (7, ABS_RZ)] {
        state.insert((EV_ABS, code), whole(pressed(at).clamp(0.0, 1.0) * f64::from(TRIGGER.1)));
    }
    state.insert((EV_ABS, ABS_HAT0X), down(15) - down(14));
    state.insert((EV_ABS, ABS_HAT0Y), down(13) - down(12));
    state
}

#[allow(clippy::cast_possible_truncation, reason = "at most the range of a stick")]
fn whole(value: f64) -> i32 {
    value.round() as i32
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What happened to each pad.
    type Seen = Arc<Mutex<Vec<(usize, Change)>>>;

    struct Fake(usize, Seen);

    impl Device for Fake {
        fn change(&mut self, changes: &[Change]) -> io::Result<()> {
            let mut seen = self.1.lock().map_err(|_| io::Error::other("a test has failed"))?;
            seen.extend(changes.iter().map(|change| (self.0, *change)));
            Ok(())
        }
    }

    /// Pads that are none, and what happens to them.
    fn fakes(count: usize) -> (Pads, Seen) {
        let seen = Seen::default();
        let pads = (0..count).map(|at| Box::new(Fake(at, Arc::clone(&seen))) as Box<dyn Device>).collect();
        (Pads::new(pads, NO_PADS), seen)
    }

    fn took(seen: &Seen) -> Vec<(usize, Change)> {
        std::mem::take(&mut *seen.lock().unwrap())
    }

    fn changes(pads: &mut Pads, seen: &Seen, axes: &[f64], buttons: &[f64]) -> Vec<Change> {
        assert_eq!(pads.set(0, axes, buttons), None);
        took(seen).into_iter().map(|(_, change)| change).collect()
    }

    #[test]
    fn the_standard_mapping_is_a_pad_of_linux() {
        let (mut pads, seen) = fakes(1);
        let down = |at: usize| {
            let mut buttons = [0.0; 17];
            buttons[at] = 1.0;
            buttons
        };
        let codes: [Change; 17] = [
            (EV_KEY, 0x130, 1),
            (EV_KEY, 0x131, 1),
            (EV_KEY, 0x133, 1),
            (EV_KEY, 0x134, 1),
            (EV_KEY, 0x136, 1),
            (EV_KEY, 0x137, 1),
            (EV_ABS, ABS_Z, 255),
            (EV_ABS, ABS_RZ, 255),
            (EV_KEY, 0x13a, 1),
            (EV_KEY, 0x13b, 1),
            (EV_KEY, 0x13d, 1),
            (EV_KEY, 0x13e, 1),
            (EV_ABS, ABS_HAT0Y, -1),
            (EV_ABS, ABS_HAT0Y, 1),
            (EV_ABS, ABS_HAT0X, -1),
            (EV_ABS, ABS_HAT0X, 1),
            (EV_KEY, 0x13c, 1),
        ];
        for (at, (kind, code, value)) in codes.into_iter().enumerate() {
            assert_eq!(changes(&mut pads, &seen, &[], &down(at)), [(kind, code, value)], "button {at}");
            assert_eq!(changes(&mut pads, &seen, &[], &[]), [(kind, code, 0)], "button {at} up");
        }
        let sticks = changes(&mut pads, &seen, &[-1.0, 1.0, 0.5, -0.5], &[]);
        assert_eq!(sticks, [(EV_ABS, 0, -32_768), (EV_ABS, 1, 32_767), (EV_ABS, 3, 16_384), (EV_ABS, 4, -16_384)]);
        // What did not change is not told again.
        assert_eq!(changes(&mut pads, &seen, &[-1.0, 1.0, 0.5, 0.0], &[0.4]), [(EV_ABS, 4, 0)]);
    }

    /// The layout that SDL's own list has for this pad (`030000005e0400008e02000010010000`), and which number of the
    /// W3C's standard mapping is the same control. SDL counts buttons and axes by their codes, ascending; the cross is
    /// hat 0 (1 up, 2 right, 4 down, 8 left). By the kernel's gamepad document a left button would be BTN_WEST, but the
    /// driver of these pads says BTN_X, which has the code of BTN_NORTH, and so it is what games expect of them.
    #[test]
    fn the_mapping_is_the_one_that_sdl_has_for_this_pad() {
        let sdl_buttons = [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (8, 6), (9, 7), (16, 8), (10, 9), (11, 10)];
        let mut codes: Vec<u16> = BUTTONS.into_iter().flatten().collect();
        codes.sort_unstable();
        assert_eq!(codes.len(), sdl_buttons.len());
        for (w3c, sdl) in sdl_buttons {
            assert_eq!(BUTTONS[w3c], Some(codes[sdl]), "button {w3c} of the W3C");
        }
        let mut axes: Vec<u16> = AXES.into_iter().map(|(code, _)| code).collect();
        axes.sort_unstable();
        // leftx:a0, lefty:a1, lefttrigger:a2, rightx:a3, righty:a4, righttrigger:a5, and then the hat.
        assert_eq!(axes, [STICKS[0], STICKS[1], ABS_Z, STICKS[2], STICKS[3], ABS_RZ, ABS_HAT0X, ABS_HAT0Y]);
    }

    #[test]
    fn a_new_pad_is_neutral() {
        // The kernel begins with 0 everywhere, and nothing is told that is so.
        assert!(state(&[], &[]).values().all(|value| *value == 0));
        assert_eq!(state(&[], &[]).len(), BUTTONS.into_iter().flatten().count() + AXES.len());
        let (mut pads, seen) = fakes(2);
        pads.release();
        assert_eq!(pads.set(0, &[0.0; 4], &[0.0; 17]), None);
        assert_eq!(took(&seen), []);
    }

    #[test]
    fn nonsense_moves_nothing_and_everything_is_let_go() {
        let (mut pads, seen) = fakes(1);
        assert_eq!(changes(&mut pads, &seen, &[f64::NAN, f64::INFINITY], &[f64::NAN; 40]), []);
        assert_eq!(changes(&mut pads, &seen, &[7.0], &[]), [(EV_ABS, 0, 32_767)]);
        assert_eq!(pads.set(4, &[], &[1.0]), None);
        pads.release();
        assert_eq!(took(&seen), [(0, (EV_ABS, 0, 0))]);
    }

    #[test]
    fn the_first_that_is_used_steers_the_first_and_the_last_is_shared() {
        let (down, up) = ((EV_KEY, 0x130, 1), (EV_KEY, 0x130, 0));
        let (mut pads, seen) = fakes(2);
        for index in [3, 1, 0] {
            assert_eq!(pads.set(index, &[], &[1.0]), None);
            assert_eq!(pads.set(index, &[], &[]), None);
        }
        assert_eq!(took(&seen), [(0, down), (0, up), (1, down), (1, up), (1, down), (1, up)]);
        pads.set(0, &[], &[1.0]);
        pads.unplug(1);
        assert_eq!(took(&seen), [(1, down)], "another one steers it still");
        pads.unplug(0);
        assert_eq!(took(&seen), [(1, up)], "unplugged, so nothing is held");
        pads.unplug(3);
        pads.unplug(3);
        pads.set(2, &[], &[1.0]);
        assert_eq!(took(&seen), [(0, down)], "a place that is free again");
    }

    #[test]
    fn where_there_is_none_it_is_said_once() {
        for (how, sentence) in [
            (Gamepads::Refused, NO_PADS),
            (Gamepads::Unasked, NOT_ASKED),
            (Gamepads::Lent(vec![1_000_000, 1_000_000]), NO_PADS),
        ] {
            let mut pads = Pads::lent(&how);
            assert_eq!(pads.set(0, &[], &[]), Some(sentence));
            assert_eq!(pads.set(0, &[], &[1.0]), None);
            pads.release();
            pads.unplug(0);
        }
    }
}
