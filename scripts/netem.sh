#!/usr/bin/env bash
# The streaming child's tests of bad networks, with network namespaces and the kernel's own netem, in user-mode Linux: a
# kernel that is an ordinary process. Few machines' kernels have netem; there the same tests run against a relay of their
# own in `cargo nextest`. Part of make test.
. "$(dirname "$0")/lib.sh"

if [[ $(uname -m) != x86_64 ]]; then
  say "user-mode Linux is for x86-64 only: netem is not tested on this machine"
  exit 0
fi
command -v linux.uml >/dev/null 2>&1 || fail "user-mode Linux is missing: apt-get install user-mode-linux"

# The binary that the workspace's tests run (asked for in the same words, so that nothing is built again), or the one named.
binary=${1:-$(cargo test --workspace --locked --no-run --message-format=json |
  sed -n '/"manifest_path":"[^"]*muster-stream\/Cargo.toml"/s/.*"name":"it".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)}
[[ -x $binary ]] || fail "the tests of muster-stream were not built"
folder=$(target_dir)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# That kernel has one slow processor: not the tests that want a large picture.
tests=(
  net::after_a_burst_of_losses_the_picture_is_back_within_a_second
  net::two_of_a_hundred_lost_at_fifty_milliseconds
  net::who_comes_from_another_network_sees_the_same_program
)

# The machine's files are there read-only; what is written stays in memory. Debian's kernel has netem and virtual cards as
# modules, and there may be no insmod.
cat >"$work/init" <<INIT
#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TMPDIR=/tmp
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs run /run
mkdir /run/kept
mount --bind "$folder" /run/kept
mount -t tmpfs -o mode=1777,size=300M tmp /tmp
mkdir -p "$folder"
mount --bind /run/kept "$folder"
mkdir -p /dev/shm /dev/pts /tmp/.X11-unix
chmod 1777 /tmp/.X11-unix
mount -t tmpfs shm /dev/shm
mount -t devpts pts /dev/pts
ip link set lo up
python3 - /usr/lib/uml/modules/\$(uname -r)/kernel/net/sched/sch_netem.ko \
  /usr/lib/uml/modules/\$(uname -r)/kernel/drivers/net/veth.ko <<'LOAD'
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
for module in sys.argv[1:]:
    if libc.syscall(313, os.open(module, os.O_RDONLY), b"", 0) != 0:
        print("cannot load", module, os.strerror(ctypes.get_errno()))
LOAD
"$binary" --test-threads=1 --nocapture --exact ${tests[*]}
halt -f
INIT
chmod +x "$work/init"

# The kernel takes its console from a terminal or a pipe, never from a file.
timeout 600 linux.uml mem=1200M root=/dev/root rootfstype=hostfs rootflags=/ ro init="$work/init" \
  con=null con0=fd:0,fd:1 quiet </dev/null 2>&1 | tr -d '\r' >"$work/log" || true
sed -n '/^running/,$p' "$work/log"
grep -q '^.*the network: namespaces and netem' "$work/log" || { cat "$work/log" >&2; fail "that kernel lent no netem"; }
grep -q "^test result: .*${#tests[@]} passed; 0 failed; 0 ignored" <(sed 's/\x1b\[[0-9;]*m//g' "$work/log") || fail "the tests of bad networks failed with netem"
