//! A job's private display and sound.
//!
//! The X server runs inside the job's Sandbox, under its user, limits and fences; nothing of it is shared with another
//! job. Its sockets and pipes lie in `/tmp/.X11-unix`, which on the host is below the folder of jobs, that only the
//! Container can enter. The network namespace keeps its abstract socket private as well.
//! Whoever reaches the socket may use the display (`-ac`): the program that streams it runs outside, as another user,
//! whom the server's own list would not know; the folder is the fence.
//!
//! The job may put anything into that folder, links above all. So the Container opens what it hands to the streaming
//! program itself, without following a link, and passes it on as descriptors: no path of the job's is ever resolved
//! outside. What lies behind the descriptors is the job's all the same, and whatever speaks to it must not trust it.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use muster_core::live::GAMEPADS_MAX;
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, mkdirat, openat};

use super::capabilities::Capabilities;
use super::companion::{Companion, Readiness};
use super::error::SandboxError;
use super::workdir::WorkDir;

/// The folder of sockets, as jobs see it.
const INSIDE: &str = "/tmp/.X11-unix";
/// Its name below the job's `/tmp`.
const FOLDER: &str = ".X11-unix";
const SOCKET: &str = "X0";
const SOUND: &str = "sound";
const MICROPHONE: &str = "microphone";
const DISPLAY: &str = ":0";
/// What the display has beside its size: sides that a job asks for have been checked, so these are bounds of last resort.
const SIDE_MAX: u16 = 8192;

/// A private display for a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Display {
    /// Width in pixels.
    pub width: u16,
    /// Height in pixels.
    pub height: u16,
    /// The keyboard's layout, as XKB names it.
    pub layout: String,
    /// Whether the job's sound is wanted, where the machine has a sound server.
    pub sound: bool,
    /// Whether the job hears a microphone; only with sound.
    pub microphone: bool,
    /// How many virtual gamepads the job sees, where the machine has any to give.
    pub gamepads: u8,
}

/// The Container's ends of a job's display: descriptors of the job's own socket and pipes, opened for passing on only.
/// `/proc/self/fd/N` connects to or opens what they stand for.
#[derive(Debug)]
pub struct DisplayEnds {
    /// The display's socket.
    pub socket: OwnedFd,
    /// What the job plays: 48 kHz, two channels, 16 bits little-endian.
    pub sound: Option<OwnedFd>,
    /// What the job hears, in the same form.
    pub microphone: Option<OwnedFd>,
    /// What the job's gamepads are steered by, and live as long as; as many as were asked for, or none.
    pub gamepads: Vec<OwnedFd>,
}

/// The folder of sockets, before the job runs.
#[derive(Debug)]
pub(super) struct Place {
    folder: OwnedFd,
    sound: bool,
    microphone: bool,
}

impl Display {
    pub(super) fn check(&self) -> Result<(), SandboxError> {
        let fits = |side: u16| (1..=SIDE_MAX).contains(&side);
        if !fits(self.width) || !fits(self.height) {
            let why =
                format!("a display of {}×{} cannot be: each side has 1 to {SIDE_MAX} pixels", self.width, self.height);
            return Err(SandboxError::invalid(why));
        }
        if self.layout.is_empty() || !self.layout.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)) {
            return Err(SandboxError::invalid(format!("{:?} is no name of a keyboard layout", self.layout)));
        }
        if self.gamepads > GAMEPADS_MAX {
            let why = format!("gamepads is {}, the most is {GAMEPADS_MAX}", self.gamepads);
            return Err(SandboxError::invalid(why));
        }
        Ok(())
    }

    fn has_sound(&self, machine: &Capabilities) -> bool {
        self.sound && machine.pulseaudio.is_some()
    }

    /// What is started before the command.
    pub(super) fn companions(&self, machine: &Capabilities) -> Result<Vec<Companion>, SandboxError> {
        let xvfb = machine.xvfb.as_ref().ok_or_else(|| {
            let why = "this machine has no X server for it: choose another Container, or have its owner run \
                       `apt-get install xvfb`";
            SandboxError::DisplayRefused { why: why.into() }
        })?;
        let screen = format!("{}x{}x24", self.width, self.height);
        // The number of the display on standard output says that it takes connections.
        let display = [DISPLAY, "-screen", "0", &screen, "-nolisten", "tcp", "-noreset", "-ac", "-displayfd", "1"];
        let mut all = vec![companion("the display (Xvfb)", xvfb, &display, Readiness::Speaks)];
        if self.layout != "us" {
            let keys = ["-display", DISPLAY, "-layout", &self.layout];
            let program = PathBuf::from("/usr/bin/setxkbmap");
            all.push(companion("the keyboard's layout (setxkbmap)", &program, &keys, Readiness::Ends));
        }
        if let Some(pulseaudio) = machine.pulseaudio.as_ref().filter(|_| self.sound) {
            all.extend(self.sound_companions(pulseaudio));
        }
        Ok(all)
    }

    fn sound_companions(&self, pulseaudio: &Path) -> [Companion; 2] {
        let form = "format=s16le rate=48000 channels=2";
        let mut args = vec!["-n".to_owned(), "--daemonize=no".into(), "--exit-idle-time=-1".into()];
        args.extend(["--disallow-exit", "--use-pid-file=no", "--realtime=no", "--high-priority=no"].map(str::to_owned));
        args.extend(["--log-target=stderr", "--log-level=error"].map(str::to_owned));
        let mut load = |module: String| args.extend(["-L".to_owned(), module]);
        load(format!("module-pipe-sink file={INSIDE}/{SOUND} {form} use_system_clock_for_timing=yes"));
        if self.microphone {
            load(format!("module-pipe-source file={INSIDE}/{MICROPHONE} {form}"));
        }
        // The last one: with its socket, everything is there.
        load(format!("module-native-protocol-unix socket={INSIDE}/pulse auth-anonymous=1"));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let wait = format!("until test -S {INSIDE}/pulse; do sleep 0.02; done");
        let shell = PathBuf::from("/bin/sh");
        [
            companion("the sound (PulseAudio)", pulseaudio, &args, Readiness::Stays),
            companion("the sound (PulseAudio)", &shell, &["-c", &wait], Readiness::Ends),
        ]
    }

    /// What the command finds its display and sound by.
    pub(super) fn env(&self, machine: &Capabilities) -> Vec<(String, String)> {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut env = vec![pair("DISPLAY", DISPLAY)];
        if self.has_sound(machine) {
            env.push(pair("PULSE_SERVER", &format!("unix:{INSIDE}/pulse")));
            // Not in the work folder, where it would be an output.
            env.push(pair("PULSE_COOKIE", "/tmp/.pulse-cookie"));
        }
        env
    }

    /// Makes the folder, before anything of the job runs.
    pub(super) fn make(&self, work: &WorkDir, machine: &Capabilities) -> Result<Place, SandboxError> {
        let path = work.tmp().join(FOLDER);
        let action = "make the folder of the display";
        mkdirat(CWD, &path, Mode::RWXU).map_err(SandboxError::io(action, &path))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = openat(CWD, &path, flags, Mode::empty()).map_err(SandboxError::io(action, &path))?;
        let sound = self.has_sound(machine);
        Ok(Place { folder, sound, microphone: sound && self.microphone })
    }
}

impl Place {
    /// What the streaming program gets, once the display is up.
    pub(super) fn ends(self, gamepads: Vec<OwnedFd>) -> Result<DisplayEnds, SandboxError> {
        let socket = open(&self.folder, SOCKET, FileType::Socket)?;
        let pipe = |name, there: bool| there.then(|| open(&self.folder, name, FileType::Fifo)).transpose();
        let (sound, microphone) = (pipe(SOUND, self.sound)?, pipe(MICROPHONE, self.microphone)?);
        Ok(DisplayEnds { socket, sound, microphone, gamepads })
    }
}

/// Opens a name of the folder without following a link, and only if it is what it should be.
fn open(folder: &OwnedFd, name: &str, kind: FileType) -> Result<OwnedFd, SandboxError> {
    let failed = |why: &dyn std::fmt::Display| SandboxError::setup("find the display", format!("{name}: {why}"));
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat(folder, name, flags, Mode::empty()).map_err(|error| failed(&error))?;
    let stat = fstat(&fd).map_err(|error| failed(&error))?;
    if FileType::from_raw_mode(stat.st_mode) != kind {
        return Err(failed(&"the job has put something else in its place"));
    }
    Ok(fd)
}

fn companion(name: &str, program: &Path, args: &[&str], ready: Readiness) -> Companion {
    let command = std::iter::once(program.display().to_string()).chain(args.iter().map(ToString::to_string)).collect();
    // A home of their own: what they keep there is no output of the job.
    let env = [("PATH", "/usr/bin:/bin"), ("HOME", "/tmp/.companions"), ("LANG", "C.UTF-8"), ("TMPDIR", "/tmp")];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    Companion { name: name.to_owned(), command, env, ready }
}
