#!/usr/bin/env bash
# The streaming child's tests of bad networks, with network namespaces and the kernel's own netem, in user-mode Linux: a
# kernel that is an ordinary process. Few machines' kernels have netem; there the same tests run against a relay of their
# own in `cargo nextest`. Part of make test.
. "$(dirname "$0")/lib.sh"

if [[ $(uname -m) != x86_64 ]]; then
  say "user-mode Linux is for x86-64 only: netem is not tested on this machine"
  exit 0
fi
binary=${1:-$(tests_of muster-stream)}
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# That kernel has one slow processor: not the tests that want a large picture.
tests=(
  net::after_a_burst_of_losses_the_picture_is_back_within_a_second
  net::two_of_a_hundred_lost_at_fifty_milliseconds
  net::who_comes_from_another_network_sees_the_same_program
)

# Debian's kernel has netem and virtual cards as modules, and there may be no insmod.
in_uml 1200M 300M 600 "$log" "
mkdir -p /tmp/.X11-unix
chmod 1777 /tmp/.X11-unix
python3 - /usr/lib/uml/modules/\$(uname -r)/kernel/net/sched/sch_netem.ko \
  /usr/lib/uml/modules/\$(uname -r)/kernel/drivers/net/veth.ko <<'LOAD'
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
for module in sys.argv[1:]:
    if libc.syscall(313, os.open(module, os.O_RDONLY), b'', 0) != 0:
        print('cannot load', module, os.strerror(ctypes.get_errno()))
LOAD
'$binary' --test-threads=1 --nocapture --exact ${tests[*]}"
sed -n '/^running/,$p' "$log"
grep -q '^.*the network: namespaces and netem' "$log" || { cat "$log" >&2; fail "that kernel lent no netem"; }
all_passed "$log" "${#tests[@]}" || fail "the tests of bad networks failed with netem"
