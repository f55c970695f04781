#!/usr/bin/env bash
# The tests of gamepads, with the uinput of a Debian kernel in QEMU: programs in Sandboxes read the buttons that their
# players pressed (docs/adr/0038-gamepads-before-the-program.md). Kernel and emulator are unpacked below cargo's folder;
# nothing is installed. The processor is emulated, the files are this machine's, read-only. Part of make test.
. "$(dirname "$0")/lib.sh"

if [[ $(uname -m) != x86_64 ]]; then
  say "the kernel for these tests is for x86-64 only: gamepads are not tested on this machine"
  exit 0
fi
if ! command -v apt-get >/dev/null 2>&1; then
  say "this is not a Debian system: gamepads are not tested on this machine"
  exit 0
fi
binary=${1:-$(tests_of muster-container)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
machine=$(target_dir)/uinput

# Each after those that it needs.
modules=(virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci
  netfs fscache 9pnet 9pnet_virtio 9p uinput evdev joydev)
modules=("${modules[@]/%/.ko}")
tests=(
  gamepads::a_program_reads_its_own_players_buttons_and_nobody_elses
  gamepads::a_session_that_never_streams_leaves_no_gamepad
)

# download PACKAGE...: into this folder. The package lists may be missing or old: they are fetched, and it is tried once more.
download() {
  apt-get download -q "$@" >/dev/null 2>&1 && return
  apt-get update -q >/dev/null 2>&1 || true
  apt-get download -q "$@" >/dev/null 2>&1 || fail "apt-get could not download: $*; is the Debian mirror reachable?"
}

# fetch: unpacks kernel, emulator and the few programs of its first file system below cargo's folder.
fetch() {
  local packages=(busybox-static) missing package
  say "fetching a kernel and an emulator from Debian's packages"
  rm -rf "$machine"
  mkdir -p "$machine"
  packages+=("$(apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p')")
  if ! command -v qemu-system-x86_64 >/dev/null 2>&1; then
    mapfile -t missing < <(apt-get install -s --no-install-recommends qemu-system-x86 | awk '/^Inst/ {print $2}')
    packages+=("${missing[@]}")
  fi
  mkdir "$work/packages"
  (cd "$work/packages" && download "${packages[@]}")
  for package in "$work"/packages/*.deb; do
    if [[ $package == */linux-image-* ]]; then
      dpkg-deb --fsys-tarfile "$package" | tar -x -C "$machine" --wildcards './boot/vmlinuz*' "${modules[@]/#/*/}"
    else
      dpkg-deb -x "$package" "$machine"
    fi
  done
  touch "$machine/complete"
}
[[ -e $machine/complete ]] || fetch

# The first file system holds what it takes to reach this machine's files, which are the second.
cat >"$work/init" <<'INIT'
#!/busybox sh
for module in $(/busybox cat /modules); do /busybox insmod "/$module" || echo "cannot load $module"; done
/busybox mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=512000 root /root
/busybox mount -t devtmpfs dev /root/dev
/busybox mount -t tmpfs tmp /root/mnt
/busybox cp /first /root/mnt/first
exec /busybox switch_root /root /bin/sh /mnt/first
INIT
first_program 900M "
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /tmp/.X11-unix
chmod 1777 /tmp/.X11-unix
ls -l /dev/uinput /dev/input
'$binary' --test-threads=1 --nocapture --exact ${tests[*]}
" 'sleep 1; echo b >/proc/sysrq-trigger' >"$work/first"
printf '%s\n' "${modules[@]}" >"$work/modules"
files=("init=$work/init" "modules=$work/modules" "first=$work/first" "busybox=$machine/bin/busybox")
for module in "${modules[@]}"; do
  files+=("$module=$(find "$machine/lib/modules" -name "$module")")
done
# In the form that the kernel reads (cpio, newc).
python3 - "${files[@]}" >"$work/initrd" <<'PACK'
import sys
def entry(name, mode, data=b'', device=(0, 0)):
    fields = (entry.count, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name) + 1, 0)
    head = ('070701' + ''.join('%08X' % field for field in fields) + name + '\0').encode()
    for part in (head, data):
        sys.stdout.buffer.write(part + b'\0' * (-len(part) % 4))
    entry.count += 1
entry.count = 1
for folder in ('dev', 'root'):
    entry(folder, 0o40755)
entry('dev/console', 0o20600, device=(5, 1))
for file in sys.argv[1:]:
    name, path = file.split('=', 1)
    entry(name, 0o100755, open(path, 'rb').read())
entry('TRAILER!!!', 0)
PACK

qemu=(qemu-system-x86_64)
if ! command -v qemu-system-x86_64 >/dev/null 2>&1; then
  qemu=(env LD_LIBRARY_PATH="$machine/usr/lib/x86_64-linux-gnu:$machine/lib/x86_64-linux-gnu"
    "$machine/usr/bin/qemu-system-x86_64" -L "$machine/usr/share/seabios" -L "$machine/usr/share/qemu")
fi
# No network and no disk.
timeout 600 "${qemu[@]}" -accel tcg -cpu max -smp 2 -m 2048 -nodefaults -no-reboot -display none -serial stdio \
  -kernel "$machine"/boot/vmlinuz-* -initrd "$work/initrd" -append 'console=ttyS0 quiet panic=-1' \
  -virtfs local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap \
  </dev/null 2>&1 | tr -d '\r' >"$work/log" || true
sed -n '/^running/,$p' "$work/log"
grep -q ' /dev/uinput$' "$work/log" || { cat "$work/log" >&2; fail "that kernel has no uinput"; }
! grep -q '^skipped' "$work/log" || fail "that kernel gave a Sandbox no gamepads"
all_passed "$work/log" "${#tests[@]}" || { cat "$work/log" >&2; fail "the tests of gamepads failed"; }
