//! Gamepads: what a browser says of a player's pad, done on a virtual one that programs see as an Xbox 360 pad, which is
//! the one that games know best.
//!
//! The kernel makes such devices for who may open `/dev/uinput`. Where it does not, the player is told so, once.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;

/// Pads at once.
pub(crate) const PADS_MAX: u8 = 4;

const NO_PADS: &str = "This machine gives sessions no virtual gamepad, so the gamepad has no effect; keyboard, mouse and the on-screen controls work.";

/// Kinds of events, and their codes, as `linux/input-event-codes.h` has them.
const EV_SYN: u16 = 0;
const EV_KEY: u16 = 1;
const EV_ABS: u16 = 3;
/// A pad's buttons by the number that the W3C's standard mapping gives them; those that are none here are axes.
const BUTTONS: [Option<u16>; 17] = [
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
const STICK: (i32, i32) = (-32_768, 32_767);
const TRIGGER: (i32, i32) = (0, 255);
const CROSS: (i32, i32) = (-1, 1);
/// Every axis, and from where to where it goes.
const AXES: [(u16, (i32, i32)); 8] = [
    (STICKS[0], STICK),
    (STICKS[1], STICK),
    (ABS_Z, TRIGGER),
    (STICKS[2], STICK),
    (STICKS[3], STICK),
    (ABS_RZ, TRIGGER),
    (ABS_HAT0X, CROSS),
    (ABS_HAT0Y, CROSS),
];

/// Requests of `linux/uinput.h`: one without a parameter, and some that are given so many bytes to read.
const UI_DEV_CREATE: libc::Ioctl = 0x5501;
const UI_DEV_SETUP: libc::Ioctl = writes(3, size_of::<libc::uinput_setup>());
const UI_ABS_SETUP: libc::Ioctl = writes(4, size_of::<libc::uinput_abs_setup>());
const UI_SET_EVBIT: libc::Ioctl = writes(100, size_of::<libc::c_int>());
const UI_SET_KEYBIT: libc::Ioctl = writes(101, size_of::<libc::c_int>());

#[allow(clippy::cast_possible_truncation, reason = "sizes of three small structs")]
const fn writes(number: libc::Ioctl, bytes: usize) -> libc::Ioctl {
    0x4000_5500 | (bytes as libc::Ioctl) << 16 | number
}

/// A change of a pad: kind, code, value.
pub(crate) type Change = (u16, u16, i32);

/// A gamepad that programs see, until it is dropped.
pub(crate) trait Device: Send {
    /// Does these together.
    fn change(&mut self, changes: &[Change]) -> io::Result<()>;
}

/// Plugs one in.
pub(crate) type Plug = Box<dyn FnMut() -> io::Result<Box<dyn Device>> + Send>;

/// What a pad's buttons and axes stand at, by kind and code.
type State = BTreeMap<(u16, u16), i32>;

/// The player's pads.
pub(crate) struct Pads {
    plug: Plug,
    pads: BTreeMap<u8, (Box<dyn Device>, State)>,
    told: bool,
}

impl Pads {
    pub(crate) fn new(plug: Plug) -> Self {
        Self { plug, pads: BTreeMap::new(), told: false }
    }

    /// The pad is like this now; a sentence, once, where there is none to be had.
    pub(crate) fn set(&mut self, index: u8, axes: &[f64], buttons: &[f64]) -> Option<&'static str> {
        if index >= PADS_MAX {
            return None;
        }
        if !self.pads.contains_key(&index) {
            match (self.plug)() {
                Ok(device) => drop(self.pads.insert(index, (device, state(&[], &[])))),
                Err(error) => {
                    tracing::debug!(%error, "no virtual gamepad");
                    return (!std::mem::replace(&mut self.told, true)).then_some(NO_PADS);
                }
            }
        }
        let (device, known) = self.pads.get_mut(&index)?;
        let now = state(axes, buttons);
        let changes: Vec<Change> = now
            .iter()
            .filter(|(control, value)| known.get(control) != Some(value))
            .map(|((kind, code), value)| (*kind, *code, *value))
            .collect();
        *known = now;
        if !changes.is_empty()
            && let Err(error) = device.change(&changes)
        {
            tracing::warn!(%error, index, "a virtual gamepad is gone");
            self.pads.remove(&index);
        }
        None
    }

    pub(crate) fn unplug(&mut self, index: u8) {
        self.pads.remove(&index);
    }

    /// Lets go of every button and stick; the pads stay plugged in.
    pub(crate) fn release(&mut self) {
        let plugged: Vec<u8> = self.pads.keys().copied().collect();
        for index in plugged {
            self.set(index, &[], &[]);
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

/// A device of `uinput`.
struct Virtual(File);

/// Plugs in a pad by way of the kernel.
pub(crate) fn plug() -> io::Result<Box<dyn Device>> {
    let device = Virtual(OpenOptions::new().write(true).open("/dev/uinput")?);
    for kind in [EV_KEY, EV_ABS] {
        device.tell(UI_SET_EVBIT, kind)?;
    }
    for code in BUTTONS.into_iter().flatten() {
        device.tell(UI_SET_KEYBIT, code)?;
    }
    for (code, (minimum, maximum)) in AXES {
        let fuzz = if (minimum, maximum) == STICK { 16 } else { 0 };
        let absinfo = libc::input_absinfo { value: 0, minimum, maximum, fuzz, flat: fuzz * 8, resolution: 0 };
        let setup = libc::uinput_abs_setup { code, absinfo };
        // SAFETY: the request takes exactly this struct, which lives until the call returns, and only reads it.
        #[allow(unsafe_code, reason = "the kernel's interface has no safe wrapper")]
        ok(unsafe { libc::ioctl(device.0.as_raw_fd(), UI_ABS_SETUP, &raw const setup) })?;
    }
    let mut name = [0; libc::UINPUT_MAX_NAME_SIZE];
    for (to, from) in name.iter_mut().zip(b"Microsoft X-Box 360 pad") {
        *to = from.cast_signed();
    }
    let id = libc::input_id { bustype: 3, vendor: 0x045e, product: 0x028e, version: 0x0110 };
    let setup = libc::uinput_setup { id, name, ff_effects_max: 0 };
    // SAFETY: as above.
    #[allow(unsafe_code, reason = "the kernel's interface has no safe wrapper")]
    ok(unsafe { libc::ioctl(device.0.as_raw_fd(), UI_DEV_SETUP, &raw const setup) })?;
    // SAFETY: the request takes nothing.
    #[allow(unsafe_code, reason = "the kernel's interface has no safe wrapper")]
    ok(unsafe { libc::ioctl(device.0.as_raw_fd(), UI_DEV_CREATE) })?;
    Ok(Box::new(device))
}

fn ok(code: libc::c_int) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl Virtual {
    fn tell(&self, request: libc::Ioctl, what: u16) -> io::Result<()> {
        // SAFETY: these requests take a number, and no pointer.
        #[allow(unsafe_code, reason = "the kernel's interface has no safe wrapper")]
        ok(unsafe { libc::ioctl(self.0.as_raw_fd(), request, libc::c_int::from(what)) })
    }
}

impl Device for Virtual {
    fn change(&mut self, changes: &[Change]) -> io::Result<()> {
        let ends = (EV_SYN, 0, 0);
        let mut bytes = Vec::new();
        for (kind, code, value) in changes.iter().copied().chain([ends]) {
            // The kernel puts in the time itself.
            bytes.extend([0; size_of::<libc::timeval>()]);
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(code.to_ne_bytes());
            bytes.extend(value.to_ne_bytes());
        }
        self.0.write_all(&bytes)
    }
}

// The device goes away with its file.

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    type Seen = Arc<Mutex<Vec<Change>>>;

    struct Fake(Seen, Arc<Mutex<u32>>);

    impl Device for Fake {
        fn change(&mut self, changes: &[Change]) -> io::Result<()> {
            self.0.lock().map_err(|_| io::Error::other("a test has failed"))?.extend(changes);
            Ok(())
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            *self.1.lock().unwrap() -= 1;
        }
    }

    /// Pads that are none, what happens to them, and how many are plugged in.
    fn fakes() -> (Pads, Seen, Arc<Mutex<u32>>) {
        let (seen, plugged) = (Seen::default(), Arc::new(Mutex::new(0)));
        let (to, count) = (Arc::clone(&seen), Arc::clone(&plugged));
        let plug = move || {
            *count.lock().unwrap() += 1;
            Ok(Box::new(Fake(Arc::clone(&to), Arc::clone(&count))) as Box<dyn Device>)
        };
        (Pads::new(Box::new(plug)), seen, plugged)
    }

    fn changes(pads: &mut Pads, seen: &Seen, axes: &[f64], buttons: &[f64]) -> Vec<Change> {
        assert_eq!(pads.set(0, axes, buttons), None);
        std::mem::take(&mut *seen.lock().unwrap())
    }

    #[test]
    fn the_standard_mapping_is_a_pad_of_linux() {
        let (mut pads, seen, _) = fakes();
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

    #[test]
    fn requests_are_those_of_the_kernel() {
        // As a C compiler has them on x86-64 and on 64-bit ARM.
        let requests = [UI_DEV_SETUP, UI_ABS_SETUP, UI_SET_EVBIT, UI_SET_KEYBIT];
        assert_eq!(requests, [0x405c_5503, 0x401c_5504, 0x4004_5564, 0x4004_5565]);
    }

    #[test]
    fn nonsense_moves_nothing_and_everything_is_let_go() {
        let (mut pads, seen, plugged) = fakes();
        assert_eq!(changes(&mut pads, &seen, &[f64::NAN, f64::INFINITY], &[f64::NAN; 40]), []);
        assert_eq!(changes(&mut pads, &seen, &[7.0], &[]), [(EV_ABS, 0, 32_767)]);
        assert_eq!(pads.set(4, &[], &[1.0]), None);
        pads.release();
        assert_eq!(std::mem::take(&mut *seen.lock().unwrap()), [(EV_ABS, 0, 0)]);
        pads.set(1, &[], &[1.0]);
        assert_eq!(*plugged.lock().unwrap(), 2);
        pads.unplug(1);
        pads.unplug(3);
        assert_eq!(*plugged.lock().unwrap(), 1);
        drop(pads);
        assert_eq!(*plugged.lock().unwrap(), 0);
    }

    #[test]
    fn where_there_is_none_it_is_said_once() {
        let mut pads = Pads::new(Box::new(|| Err(io::Error::from(io::ErrorKind::NotFound))));
        assert_eq!(pads.set(0, &[], &[]), Some(NO_PADS));
        assert_eq!(pads.set(0, &[], &[1.0]), None);
        pads.release();
    }

    #[test]
    fn the_kernel_makes_one_where_it_can() {
        match plug() {
            Ok(mut device) => {
                device.change(&[(EV_KEY, 0x130, 1), (EV_ABS, 0, 100)]).unwrap();
                let devices = std::fs::read_to_string("/proc/bus/input/devices").unwrap();
                assert!(devices.contains("Name=\"Microsoft X-Box 360 pad\""), "{devices}");
            }
            Err(error) => eprintln!("/dev/uinput is not to be had, so no virtual gamepad is tested: {error}"),
        }
    }
}
