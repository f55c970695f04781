//! A job's gamepads: virtual ones of the kernel, made before the command starts, so that programs which look for pads only
//! at their start find them. They are neutral until a player's is used.
//!
//! Each job sees its own and no other, and never a device of the host: its `/dev/input` holds the nodes of its own pads,
//! as `event0`, `js0` and so on, and nothing else. As root the Container makes these nodes itself, for the job's user
//! alone, in a folder of `/dev` that only root can enter, and takes them away once they are bound: the host's own node
//! keeps its owner, whom udev may set at any time. Otherwise the host's node is bound, which the Container's user must be
//! allowed to open.
//!
//! A pad lasts as long as its descriptor, which the streaming child gets. What lies on the disk or in `/dev` after a crash
//! is a node without a device, and goes with the recovery of its job.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use muster_stream::{Gamepad, GamepadError, GamepadNode};
use rustix::fs::{CWD, FileType, Gid, Mode, Uid, chown, makedev, mknodat};

use super::error::SandboxError;

/// Where jobs see them.
const INSIDE: &str = "/dev/input";
const DEV: &str = "/dev";
/// What our folders of nodes begin with.
const FOLDER: &str = "muster-gamepads.";
/// How long udev may take to hand a new device to the group that may open it.
const OPEN_WITHIN: Duration = Duration::from_secs(2);
const LOOK_PAUSE: Duration = Duration::from_millis(10);

/// A job's pads, before it runs.
#[derive(Debug)]
pub(super) struct Gamepads {
    pads: Vec<OwnedFd>,
    /// The nodes, and under which name the job sees them.
    binds: Vec<(PathBuf, String)>,
    /// Taken away with this value.
    _folder: Option<Folder>,
}

/// A folder of nodes of our own.
#[derive(Debug)]
struct Folder(PathBuf);

/// Why a job gets no gamepads; the text goes on with what the owner can do.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// The kernel gives none.
    #[error(transparent)]
    Kernel(#[from] GamepadError),
    /// A node for a job cannot be made.
    #[error("cannot {action} {path}")]
    Node {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Refusal {
    fn node(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Node { action, path, source }
    }

    /// What the owner can do.
    pub(super) fn mend(&self, root: bool) -> &'static str {
        match self {
            Self::Kernel(GamepadError::Open(error)) if error.kind() == io::ErrorKind::PermissionDenied && !root => {
                "give the Container's user the devices: write KERNEL==\"uinput\", GROUP=\"input\", MODE=\"0660\" to \
                 /etc/udev/rules.d/70-muster.rules, run udevadm control --reload and udevadm trigger, and add the user to \
                 the group input"
            }
            Self::Kernel(GamepadError::Open(_) | GamepadError::Make(_)) => {
                "run: modprobe uinput (and write uinput to /etc/modules-load.d/muster.conf); inside an OCI container, \
                 start that one with --device /dev/uinput"
            }
            Self::Kernel(GamepadError::NoNode) => {
                "run: modprobe evdev (and write evdev to /etc/modules-load.d/muster.conf)"
            }
            Self::Node { .. } if root => {
                "inside an OCI container, start that one with --device-cgroup-rule 'c 13:* rwm' and a /dev that can be \
                 written to"
            }
            Self::Node { .. } => "add the Container's user to the group input, and start the Container anew",
        }
    }
}

/// Plugs in `count` pads for the job with this name; `uid` is the user that it runs as where that is its own. Blocks.
pub(super) fn plug(count: u8, name: &str, uid: Option<u32>) -> Result<Gamepads, Refusal> {
    let made = (0..count).map(|_| Gamepad::plug()).collect::<Result<Vec<_>, _>>()?;
    let folder = uid.map(|_| Folder::make(name)).transpose()?;
    let mut binds = Vec::new();
    let nodes: Vec<&[GamepadNode]> = made.iter().map(Gamepad::nodes).collect();
    for (node, inside) in inside(&nodes) {
        let bound = match (&folder, uid) {
            (Some(folder), Some(uid)) => folder.node(&inside, node.number, uid)?,
            _ => Path::new(INSIDE).join(&node.name),
        };
        match openable(&bound) {
            Ok(()) => binds.push((bound, inside)),
            // Without the old interface a pad is as good for all but old programs.
            Err(error) if inside.starts_with("js") => tracing::debug!(%error, "a gamepad without its js device"),
            Err(error) => return Err(Refusal::node("open", &bound)(error)),
        }
    }
    let pads = made.into_iter().map(Gamepad::into_device).collect();
    Ok(Gamepads { pads, binds, _folder: folder })
}

/// The names under which a job sees the nodes of its pads: numbered anew, so that they tell nothing of the host's.
fn inside<'a>(pads: &[&'a [GamepadNode]]) -> Vec<(&'a GamepadNode, String)> {
    let named = |kind: &'static str| {
        let of_kind = pads.iter().filter_map(move |nodes| nodes.iter().find(|node| node.name.starts_with(kind)));
        of_kind.enumerate().map(move |(at, node)| (node, format!("{kind}{at}")))
    };
    named("event").chain(named("js")).collect()
}

/// Whether the node may be read and written, waiting a little for udev to say so.
fn openable(node: &Path) -> io::Result<()> {
    let begin = Instant::now();
    loop {
        match OpenOptions::new().read(true).write(true).open(node) {
            Err(error) if begin.elapsed() < OPEN_WITHIN && error.kind() == io::ErrorKind::PermissionDenied => {
                sleep(LOOK_PAUSE);
            }
            // A js device is opened by some only to be read.
            Err(_) if node.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"js")) => {
                return OpenOptions::new().read(true).open(node).map(drop);
            }
            opened => return opened.map(drop),
        }
    }
}

impl Gamepads {
    /// What is bound into the job's `/dev`: the node, and where.
    pub(super) fn binds(&self) -> Vec<(PathBuf, PathBuf)> {
        self.binds.iter().map(|(node, inside)| (node.clone(), Path::new(INSIDE).join(inside))).collect()
    }

    /// What the streaming child steers them by. Our own nodes are taken away: the job has them bound, or never will.
    pub(super) fn into_pads(self) -> Vec<OwnedFd> {
        self.pads
    }
}

/// What a program finds its pads by.
pub(super) fn env(binds: &[(PathBuf, PathBuf)]) -> Vec<(String, String)> {
    let events = binds.iter().map(|(_, inside)| inside.display().to_string()).filter(|path| path.contains("/event"));
    let events: Vec<String> = events.collect();
    if events.is_empty() {
        return Vec::new();
    }
    // There is no udev in the Sandbox. Today's SDL finds that out by itself and looks through /dev/input; older versions
    // are told not to ask udev, and where to look.
    let pair = |name: &str, value: String| (name.to_owned(), value);
    vec![pair("SDL_JOYSTICK_DEVICE", events.join(":")), pair("SDL_JOYSTICK_DISABLE_UDEV", "1".to_owned())]
}

impl Folder {
    fn path(name: &str) -> PathBuf {
        Path::new(DEV).join(format!("{FOLDER}{name}"))
    }

    fn make(name: &str) -> Result<Self, Refusal> {
        let path = Self::path(name);
        remove(&path).map_err(Refusal::node("remove", &path))?;
        DirBuilder::new().mode(0o700).create(&path).map_err(Refusal::node("create the folder", &path))?;
        Ok(Self(path))
    }

    /// Makes a node that only this user can open.
    fn node(&self, name: &str, (major, minor): (u32, u32), uid: u32) -> Result<PathBuf, Refusal> {
        let path = self.0.join(name);
        let failed = |error: rustix::io::Errno| Refusal::node("make the device", &path)(error.into());
        let mode = Mode::RUSR | Mode::WUSR;
        mknodat(CWD, &path, FileType::CharacterDevice, mode, makedev(major, minor)).map_err(failed)?;
        chown(&path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(uid))).map_err(failed)?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "the nodes of a job's gamepads stay until the next recovery");
        }
    }
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Takes away what a crash has left of a job's nodes.
pub(super) fn clear(name: &str) -> Result<(), SandboxError> {
    let path = Folder::path(name);
    remove(&path).map_err(SandboxError::io("remove the folder", &path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, minor: u32) -> GamepadNode {
        GamepadNode { name: name.to_owned(), number: (13, minor) }
    }

    #[test]
    fn a_job_sees_its_own_nodes_numbered_anew() {
        let (one, two) = ([node("event7", 71), node("js2", 2)], [node("event12", 76)]);
        let named: Vec<(u32, String)> =
            inside(&[&one, &two]).into_iter().map(|(node, name)| (node.number.1, name)).collect();
        let wanted = [(71, "event0"), (76, "event1"), (2, "js0")].map(|(minor, name)| (minor, name.to_owned()));
        assert_eq!(named, wanted);
        assert!(inside(&[]).is_empty());
    }

    #[test]
    fn programs_are_told_where_their_pads_are() {
        let binds = ["event0", "event1", "js0"].map(|name| (PathBuf::from("/x"), Path::new(INSIDE).join(name)));
        let env = env(&binds);
        assert_eq!(env[0], ("SDL_JOYSTICK_DEVICE".to_owned(), "/dev/input/event0:/dev/input/event1".to_owned()));
        assert!(super::env(&[]).is_empty());
    }

    #[test]
    fn refusals_say_what_to_do() {
        let open = |kind: io::ErrorKind| Refusal::Kernel(GamepadError::Open(kind.into()));
        assert!(open(io::ErrorKind::NotFound).mend(true).contains("modprobe uinput"));
        assert!(open(io::ErrorKind::NotFound).mend(false).contains("modprobe uinput"));
        assert!(open(io::ErrorKind::PermissionDenied).mend(false).contains("GROUP=\"input\""));
        assert!(Refusal::Kernel(GamepadError::NoNode).mend(true).contains("modprobe evdev"));
        let node = || Refusal::node("open", Path::new("/dev/input/event7"))(io::ErrorKind::PermissionDenied.into());
        assert_eq!(node().to_string(), "cannot open /dev/input/event7");
        assert!(node().mend(false).contains("group input"));
        assert!(node().mend(true).contains("device-cgroup-rule"));
    }

    #[test]
    fn a_crash_leaves_nothing_that_the_recovery_does_not_take() {
        assert!(clear("nobody.nothing").is_ok());
    }
}
