//! A virtual gamepad of the kernel (`uinput`): a pad that programs see as an Xbox 360 pad, which is the one that games know
//! best.
//!
//! It exists for as long as its descriptor is open somewhere. The Container makes it, because it must be there before the
//! program starts, and hands the descriptor to the streaming child: that child needs no right to `/dev/uinput`, and with
//! it goes the pad. A new pad is neutral: nothing is pressed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::pads::{AXES, BUTTONS, Change, Device, EV_ABS, EV_KEY, EV_SYN, STICK};

/// Where the kernel makes such devices.
const UINPUT: &str = "/dev/uinput";
/// Where it shows them.
const SYS: &str = "/sys/devices/virtual/input";
/// As the driver of these pads (`xpad`) calls them.
const NAME: &[u8] = b"Microsoft X-Box 360 pad";
/// Bus (USB), vendor, product and version of a wired Xbox 360 pad: what SDL and games look up a pad's layout by.
const ID: libc::input_id = libc::input_id { bustype: 3, vendor: 0x045e, product: 0x028e, version: 0x0110 };
/// The event node comes with the module `evdev`, which udev may load only now.
const NODES_WITHIN: Duration = Duration::from_secs(1);
const LOOK_PAUSE: Duration = Duration::from_millis(10);
const SYSNAME_LEN: usize = 64;

/// Requests of `linux/uinput.h`: one without a parameter, some that are given so many bytes to read, one that writes some.
const UI_DEV_CREATE: libc::Ioctl = 0x5501;
const UI_DEV_SETUP: libc::Ioctl = writes(3, size_of::<libc::uinput_setup>());
const UI_ABS_SETUP: libc::Ioctl = writes(4, size_of::<libc::uinput_abs_setup>());
const UI_SET_EVBIT: libc::Ioctl = writes(100, size_of::<libc::c_int>());
const UI_SET_KEYBIT: libc::Ioctl = writes(101, size_of::<libc::c_int>());
const UI_GET_SYSNAME: libc::Ioctl = request(0x8000_5500, 44, SYSNAME_LEN);

const fn writes(number: libc::Ioctl, bytes: usize) -> libc::Ioctl {
    request(0x4000_5500, number, bytes)
}

#[allow(clippy::cast_possible_truncation, reason = "sizes of small structs")]
const fn request(direction: libc::Ioctl, number: libc::Ioctl, bytes: usize) -> libc::Ioctl {
    direction | (bytes as libc::Ioctl) << 16 | number
}

/// Why there is no virtual gamepad.
#[derive(Debug, thiserror::Error)]
pub enum GamepadError {
    /// The kernel's door to such devices is shut.
    #[error("cannot open {UINPUT}")]
    Open(#[source] io::Error),
    /// It is open, and the kernel refuses the device.
    #[error("the kernel makes no gamepad from {UINPUT}")]
    Make(#[source] io::Error),
    /// The kernel shows the device, and none that programs read.
    #[error("the kernel gives the gamepad no event device")]
    NoNode,
}

/// A device that programs read: its name below `/dev/input` on this machine, and its number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GamepadNode {
    /// `event7`, and `js0` where the kernel still has the old interface.
    pub name: String,
    /// Major and minor number.
    pub number: (u32, u32),
}

/// A gamepad that programs see until its descriptor is closed.
#[derive(Debug)]
pub struct Gamepad {
    device: OwnedFd,
    nodes: Vec<GamepadNode>,
}

impl Gamepad {
    /// Plugs one in. Blocks for up to a second where the kernel has yet to load what makes event devices.
    ///
    /// # Errors
    /// [`GamepadError`], where this machine has none to give.
    pub fn plug() -> Result<Self, GamepadError> {
        let device = OpenOptions::new().write(true).open(UINPUT).map_err(GamepadError::Open)?;
        let shown = make(&device).map_err(GamepadError::Make)?;
        let begin = Instant::now();
        loop {
            let nodes = nodes_below(&shown);
            if nodes.iter().any(|node| node.name.starts_with("event")) {
                return Ok(Self { device: device.into(), nodes });
            }
            if begin.elapsed() > NODES_WITHIN {
                return Err(GamepadError::NoNode);
            }
            sleep(LOOK_PAUSE);
        }
    }

    /// What programs read it by.
    #[must_use]
    pub fn nodes(&self) -> &[GamepadNode] {
        &self.nodes
    }

    /// What it is steered by, and lives as long as.
    #[must_use]
    pub fn into_device(self) -> OwnedFd {
        self.device
    }
}

/// Makes the device; where the kernel shows it.
fn make(device: &File) -> io::Result<PathBuf> {
    for kind in [EV_KEY, EV_ABS] {
        tell(device, UI_SET_EVBIT, kind)?;
    }
    for code in BUTTONS.into_iter().flatten() {
        tell(device, UI_SET_KEYBIT, code)?;
    }
    for (code, (minimum, maximum)) in AXES {
        // As the driver has it: sticks tremble, triggers and the cross do not.
        let fuzz = if (minimum, maximum) == STICK { 16 } else { 0 };
        let absinfo = libc::input_absinfo { value: 0, minimum, maximum, fuzz, flat: fuzz * 8, resolution: 0 };
        let setup = libc::uinput_abs_setup { code, absinfo };
        // SAFETY: the request takes exactly this struct, which lives until the call returns, and only reads it.
        #[allow(unsafe_code, reason = "the kernel's interface has no safe wrapper")]
        ok(unsafe { libc::ioctl(device.as_raw_fd(), UI_ABS_SETUP, &raw const setup) })?;
    }
    let mut name = [0; libc::UINPUT_MAX_NAME_SIZE];
    for (to, from) in name.iter_mut().zip(NAME) {
        *to = from.cast_signed();
    }
    let setup = libc::uinput_setup { id: ID, name, ff_effects_max: 0 };
    // SAFETY: as above.
    #[allow(unsafe_code, reason = "the kernel's interface has no safe wrapper")]
    ok(unsafe { libc::ioctl(device.as_raw_fd(), UI_DEV_SETUP, &raw const setup) })?;
    // SAFETY: the request takes nothing.
    #[allow(unsafe_code, reason = "the kernel's interface has no safe wrapper")]
    ok(unsafe { libc::ioctl(device.as_raw_fd(), UI_DEV_CREATE) })?;
    let mut sysname = [0_u8; SYSNAME_LEN];
    // SAFETY: the request says how many bytes it writes at the most, and there are as many.
    #[allow(unsafe_code, reason = "the kernel's interface has no safe wrapper")]
    let length = unsafe { libc::ioctl(device.as_raw_fd(), UI_GET_SYSNAME, sysname.as_mut_ptr()) };
    ok(length.min(0))?;
    let end = sysname.iter().position(|byte| *byte == 0).unwrap_or(SYSNAME_LEN);
    let sysname = std::str::from_utf8(sysname.get(..end).unwrap_or_default()).map_err(io::Error::other)?;
    Ok(Path::new(SYS).join(sysname))
}

fn ok(code: libc::c_int) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn tell(device: &File, request: libc::Ioctl, what: u16) -> io::Result<()> {
    // SAFETY: these requests take a number, and no pointer.
    #[allow(unsafe_code, reason = "the kernel's interface has no safe wrapper")]
    ok(unsafe { libc::ioctl(device.as_raw_fd(), request, libc::c_int::from(what)) })
}

/// The devices that the kernel shows below an input device, sorted; none while there are none.
fn nodes_below(shown: &Path) -> Vec<GamepadNode> {
    let entries = fs::read_dir(shown).into_iter().flatten().flatten();
    let mut nodes: Vec<GamepadNode> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let digits = name.strip_prefix("event").or_else(|| name.strip_prefix("js"))?;
            if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            let number = fs::read_to_string(entry.path().join("dev")).ok()?;
            let (major, minor) = number.trim().split_once(':')?;
            let number = (major.parse().ok()?, minor.parse().ok()?);
            Some(GamepadNode { name, number })
        })
        .collect();
    nodes.sort_unstable();
    nodes
}

/// A pad that this process was lent by the number of its descriptor.
struct Lent(File);

/// Takes over a pad's descriptor, inherited by number. Call it once for each number.
pub(crate) fn take(number: RawFd) -> io::Result<Box<dyn Device>> {
    if number < 3 || !Path::new("/proc/self/fd").join(number.to_string()).exists() {
        return Err(io::Error::from(io::ErrorKind::NotFound));
    }
    // SAFETY: the descriptor is open (looked up just now), nothing else in this process knows its number, which was
    // inherited for this use, and each number is taken once.
    #[allow(unsafe_code, reason = "a descriptor inherited by number has no safe constructor")]
    let device = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&device, rustix::io::FdFlags::CLOEXEC)?;
    Ok(Box::new(Lent(device.into())))
}

impl Device for Lent {
    fn change(&mut self, changes: &[Change]) -> io::Result<()> {
        self.0.write_all(&events(changes))
    }
}

/// Changes as the kernel takes them, with the event that ends what belongs together.
fn events(changes: &[Change]) -> Vec<u8> {
    let ends = (EV_SYN, 0, 0);
    let mut bytes = Vec::new();
    for (kind, code, value) in changes.iter().copied().chain([ends]) {
        // The kernel puts in the time itself.
        bytes.extend([0; size_of::<libc::timeval>()]);
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(code.to_ne_bytes());
        bytes.extend(value.to_ne_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_those_of_the_kernel() {
        // As a C compiler has them on x86-64 and on 64-bit ARM.
        let requests = [UI_DEV_SETUP, UI_ABS_SETUP, UI_SET_EVBIT, UI_SET_KEYBIT, UI_GET_SYSNAME];
        assert_eq!(requests, [0x405c_5503, 0x401c_5504, 0x4004_5564, 0x4004_5565, 0x8040_552c]);
    }

    #[test]
    fn changes_end_with_a_report() {
        let bytes = events(&[(EV_KEY, 0x130, 1)]);
        let one = size_of::<libc::input_event>();
        assert_eq!(bytes.len(), 2 * one);
        assert_eq!(bytes[one - 8..one], [1, 0, 0x30, 1, 1, 0, 0, 0]);
        assert!(bytes[one..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn nodes_are_read_from_where_the_kernel_shows_them() {
        let folder = tempfile::tempdir().unwrap();
        for (name, number) in [("event7", "13:71\n"), ("js0", "13:0\n"), ("event", "1:1"), ("mouse3", "13:35\n")] {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join("dev"), number).unwrap();
        }
        fs::create_dir(folder.path().join("event8")).unwrap();
        let node = |name: &str, number| GamepadNode { name: name.to_owned(), number };
        assert_eq!(nodes_below(folder.path()), [node("event7", (13, 71)), node("js0", (13, 0))]);
        assert_eq!(nodes_below(&folder.path().join("nothing")), []);
    }

    #[test]
    fn numbers_that_nobody_lent_are_no_pads() {
        assert!(take(1).is_err());
        assert!(take(1_000_000).is_err());
    }

    #[test]
    fn the_kernel_makes_one_where_it_can() {
        let there = || fs::read_to_string("/proc/bus/input/devices").unwrap().contains("Microsoft X-Box 360 pad");
        match Gamepad::plug() {
            Ok(pad) => {
                assert!(pad.nodes().iter().all(|node| node.number.0 == 13), "{pad:?}");
                assert!(there());
                let mut lent = Lent(pad.into_device().into());
                lent.change(&[(EV_KEY, 0x130, 1), (EV_ABS, 0, 100)]).unwrap();
            }
            Err(error) => eprintln!("no virtual gamepad is tested here (scripts/uinput.sh does): {error}"),
        }
    }
}
