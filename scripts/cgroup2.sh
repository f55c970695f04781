#!/usr/bin/env bash
# The Sandbox's tests on control groups version 2, in user-mode Linux: a kernel that is an ordinary process
# (docs/adr/0018-version-2-in-a-kernel-of-its-own.md). Part of make test.
. "$(dirname "$0")/lib.sh"

if [[ $(uname -m) != x86_64 ]]; then
  say "user-mode Linux is for x86-64 only: control groups version 2 are not tested on this machine"
  exit 0
fi
command -v linux.uml >/dev/null 2>&1 || fail "user-mode Linux is missing: apt-get install user-mode-linux"

# The binary that the workspace's tests run (asked for in the same words, so that nothing is built again), or the one named.
binary=${1:-$(cargo test --workspace --locked --no-run --message-format=json |
  sed -n '/"manifest_path":"[^"]*muster-container\/Cargo.toml"/s/.*"name":"it".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)}
[[ -x $binary ]] || fail "the tests of muster-container were not built"
# Kept in sight where it lies below /tmp, which is empty there.
folder=$(target_dir)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# What control groups decide. The rest of the Sandbox's tests need devices that this kernel lacks (loop, tun).
tests=(
  escape::dropping_a_job_ends_it
  escape::nothing_outlives_the_job
  escape_limits::a_fork_bomb_stays_inside
  escape_limits::a_killed_container_leaves_nothing
  escape_limits::filling_memory_ends_the_job_and_says_so
  escape_limits::processes_and_files_up_to_the_limit_are_given
  escape_limits::processor_time_is_rationed
  sandbox::many_jobs_at_once_do_not_mix
  sandbox::usage_counts_processor_time_and_memory
)

# The machine's files are there read-only; what is written stays in memory.
cat >"$work/init" <<INIT
#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TMPDIR=/tmp
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs run /run
mkdir /run/kept
mount --bind "$folder" /run/kept
mount -t tmpfs -o mode=1777,size=900M tmp /tmp
mkdir -p "$folder"
mount --bind /run/kept "$folder"
mkdir -p /dev/shm /dev/pts
mount -t tmpfs shm /dev/shm
mount -t devpts pts /dev/pts
ip link set lo up
echo "controllers: \$(cat /sys/fs/cgroup/cgroup.controllers)"
"$binary" --test-threads=1 --exact ${tests[*]}
halt -f
INIT
chmod +x "$work/init"

# The kernel takes its console from a terminal or a pipe, never from a file.
timeout 900 linux.uml mem=1500M root=/dev/root rootfstype=hostfs rootflags=/ ro init="$work/init" \
  con=null con0=fd:0,fd:1 quiet </dev/null 2>&1 | tr -d '\r' >"$work/log" || true
sed -n '/^controllers:/,$p' "$work/log"
grep -q '^controllers:.*\bmemory\b.*\bpids\b' "$work/log" || { cat "$work/log" >&2; fail "that kernel has no control groups version 2"; }
grep -q "^test result: .*${#tests[@]} passed; 0 failed; 0 ignored" <(sed 's/\x1b\[[0-9;]*m//g' "$work/log") || fail "the Sandbox's tests failed on control groups version 2"
