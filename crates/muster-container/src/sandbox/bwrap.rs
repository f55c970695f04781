//! The Sandbox as bubblewrap's arguments: what a job can see, and nothing else.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use super::over;

/// The user a job sees itself as when the Container is not root.
pub(super) const INNER_UID: u32 = 1000;
/// Where the helper is visible inside the Sandbox.
pub(super) const HELPER: &str = "/.muster/init";
/// What a job may keep in `/dev/shm`, at most; it counts as memory all the same.
const SHM_BYTES_MAX: u64 = 1 << 30;

/// Folders of the system that a job reads, when they exist; links (`/bin -> usr/bin`) are made as links.
pub(super) const SYSTEM_DIRS: [&str; 7] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];

/// What of the host's `/etc` a job reads: nothing with a secret, a name of the machine or of a person.
const ETC: [&str; 26] = [
    "alternatives",
    "ca-certificates",
    "ca-certificates.conf",
    "debian_version",
    "fonts",
    "ImageMagick-6",
    "ImageMagick-7",
    "java-17-openjdk",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "magic",
    "magic.mime",
    "mime.types",
    "OpenCL",
    "os-release",
    "perl",
    "povray",
    "protocols",
    "python3",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
    "vulkan",
    "xdg",
];

/// Parts of `/sys` that graphics drivers read; only jobs with devices see them.
const SYS_FOR_DEVICES: [&str; 4] = ["/sys/bus", "/sys/class", "/sys/dev", "/sys/devices"];

/// Everything the arguments depend on.
#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) work: &'a Path,
    pub(super) tmp: &'a Path,
    pub(super) init_exe: &'a Path,
    pub(super) root: bool,
    /// Files of the Sandbox's own: descriptor with the content, and path.
    pub(super) files: &'a [(i32, &'static str)],
    pub(super) memory_bytes: u64,
    pub(super) devices: &'a [PathBuf],
    /// Nodes of the job's own gamepads, and where it sees them.
    pub(super) gamepads: &'a [(PathBuf, PathBuf)],
    /// A folder of packages that is laid over the system.
    pub(super) over: Option<&'a Path>,
    /// Files that the job reads, and where it sees them.
    pub(super) lent: &'a [(PathBuf, PathBuf)],
    pub(super) info_fd: i32,
    pub(super) block_fd: i32,
}

/// Builds the options (without the command) in the order bubblewrap performs them.
pub(super) fn options(view: &View<'_>) -> Vec<OsString> {
    let mut args = Args::default();
    for namespace in ["ipc", "pid", "net", "uts", "cgroup-try"] {
        args.push([format!("--unshare-{namespace}")]);
    }
    if view.root {
        // The helper starts the command as the job's own user with these two, and then drops them.
        args.push(["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]);
    } else {
        let uid = INNER_UID.to_string();
        args.push(["--unshare-user", "--uid", &uid, "--gid", &uid]);
    }
    args.push(["--hostname", "sandbox", "--die-with-parent", "--new-session", "--as-pid-1", "--clearenv"]);
    args.push(["--info-fd", &view.info_fd.to_string(), "--block-fd", &view.block_fd.to_string()]);
    system_dirs(&mut args, view.over);
    args.push(["--proc", "/proc", "--dev", "/dev"]);
    let shm = (view.memory_bytes / 2).min(SHM_BYTES_MAX);
    args.push(["--perms", "1777", "--size", &shm.to_string(), "--tmpfs", "/dev/shm"]);
    etc(&mut args, view);
    for (place, part) in view.over.into_iter().flat_map(over::alone) {
        args.bind("--ro-bind", place, Path::new("/").join(part));
    }
    args.bind("--ro-bind", view.init_exe, HELPER);
    for (file, inside) in view.lent {
        args.bind("--ro-bind", file, inside);
    }
    args.bind("--bind", view.work, "/work");
    args.bind("--bind", view.tmp, "/tmp");
    let devices = view.devices.iter().map(|device| (device, device));
    for (device, inside) in devices.chain(view.gamepads.iter().map(|(node, inside)| (node, inside))) {
        if let Some(parent) = inside.parent().filter(|parent| *parent != Path::new("/dev")) {
            args.push([OsString::from("--perms"), "0755".into(), "--dir".into(), parent.into()]);
        }
        args.bind("--dev-bind", device, inside);
    }
    if !view.devices.is_empty() {
        args.push(["--perms", "0755", "--dir", "/sys"]);
        for dir in SYS_FOR_DEVICES {
            args.bind("--ro-bind-try", dir, dir);
        }
    }
    // The top folder and /dev are memory: nothing may be written there past the limits of the work folder.
    args.push(["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/work"]);
    args.0
}

fn system_dirs(args: &mut Args, over: Option<&Path>) {
    for dir in SYSTEM_DIRS {
        let layered = over.and_then(|folder| over::place(folder, dir.trim_start_matches('/')));
        match fs::read_link(dir) {
            Ok(target) => args.bind("--symlink", target, dir),
            Err(_) if layered.is_some() => args.bind("--ro-bind", layered.unwrap_or_default(), dir),
            Err(_) if Path::new(dir).is_dir() => args.bind("--ro-bind", dir, dir),
            Err(_) => {}
        }
    }
}

fn etc(args: &mut Args, view: &View<'_>) {
    // Named, because bubblewrap closes the folders it makes on its own to everybody but root.
    for dir in ["/etc", "/etc/ssl", "/.muster"] {
        args.push(["--perms", "0755", "--dir", dir]);
    }
    let host = Path::new("/etc");
    let layered = view.over.and_then(|folder| over::place(folder, "etc"));
    let packages = view.over.map(|folder| folder.join(over::ROOT).join("etc"));
    let has = |name: &OsStr| packages.as_ref().is_some_and(|etc| etc.join(name).exists());
    let known = ETC.iter().map(OsString::from).filter(|name| host.join(name).exists() || has(name));
    for name in known.chain(packages.iter().flat_map(|etc| new_in(etc, view))) {
        args.bind("--ro-bind", layered.as_deref().unwrap_or(host).join(&name), host.join(&name));
    }
    // Copied, not mounted: a job can read where its mounts come from, and these would tell the provider's folders.
    for (fd, path) in view.files {
        args.push(["--perms", "0444", "--file", &fd.to_string(), path]);
    }
}

/// What packages have in their `/etc` and the host has not: where both have something, the host's may be secret.
fn new_in(etc: &Path, view: &View<'_>) -> Vec<OsString> {
    let names = fs::read_dir(etc).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let host = Path::new("/etc");
    let known = |name: &OsString| {
        ETC.iter().any(|known| Path::new(known).starts_with(name))
            || view.files.iter().any(|(_, path)| host.join(name) == Path::new(path))
    };
    let mut new: Vec<OsString> = names.filter(|name| !known(name) && !host.join(name).exists()).collect();
    new.sort_unstable();
    new
}

/// Options under which tools of the system write to one folder and reach nothing else.
pub(super) fn tools(folder: &Path, out: &Path) -> Vec<OsString> {
    let mut args = Args::default();
    args.push(["--unshare-user-try", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]);
    args.push(["--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv"]);
    args.push(["--setenv", "PATH", "/usr/sbin:/usr/bin", "--setenv", "LC_ALL", "C.UTF-8"]);
    system_dirs(&mut args, Some(folder));
    let etc = over::place(folder, "etc").unwrap_or_else(|| "/etc".into());
    for name in ["ld.so.conf", "ld.so.conf.d", "ld.so.cache"] {
        args.bind("--ro-bind-try", etc.join(name), Path::new("/etc").join(name));
    }
    args.push(["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]);
    args.bind("--bind", out, "/out");
    args.push(["--chdir", "/out"]);
    args.0
}

#[derive(Debug, Default)]
struct Args(Vec<OsString>);

impl Args {
    fn push<const N: usize>(&mut self, args: [impl Into<OsString>; N]) {
        self.0.extend(args.into_iter().map(Into::into));
    }

    fn bind(&mut self, option: &str, from: impl AsRef<Path>, to: impl AsRef<Path>) {
        self.0.extend([OsString::from(option), from.as_ref().into(), to.as_ref().into()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gamepads_are_the_only_input_devices() {
        let gamepads = [("/dev/muster-gamepads.x/event0", "/dev/input/event0"), ("/dev/input/js3", "/dev/input/js0")];
        let gamepads = gamepads.map(|(node, inside)| (PathBuf::from(node), PathBuf::from(inside)));
        let mut view = View {
            work: Path::new("/w"),
            tmp: Path::new("/t"),
            init_exe: Path::new("/i"),
            root: true,
            files: &[],
            memory_bytes: 0,
            devices: &[],
            gamepads: &gamepads,
            over: None,
            lent: &[],
            info_fd: 3,
            block_fd: 4,
        };
        let text = |view: &View<'_>| {
            let args = options(view).into_iter().map(|arg| arg.into_string().unwrap()).collect::<Vec<_>>().join(" ");
            (args.matches("/dev/input").count(), args)
        };
        let (count, args) = text(&view);
        for (node, inside) in &gamepads {
            let bound = format!("--perms 0755 --dir /dev/input --dev-bind {} {}", node.display(), inside.display());
            assert!(args.contains(&bound), "{args}");
        }
        assert!(args.find("--dev-bind") < args.find("--remount-ro /dev"), "{args}");
        // The two folders, the two places, and the host's own node.
        assert_eq!(count, 5, "{args}");
        view.gamepads = &[];
        assert_eq!(text(&view).0, 0);
    }
}
