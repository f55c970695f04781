#!/usr/bin/env bash
# The Sandbox's tests on control groups version 2, in user-mode Linux: a kernel that is an ordinary process
# (docs/adr/0018-version-2-in-a-kernel-of-its-own.md). Part of make test.
. "$(dirname "$0")/lib.sh"

if [[ $(uname -m) != x86_64 ]]; then
  say "user-mode Linux is for x86-64 only: control groups version 2 are not tested on this machine"
  exit 0
fi
binary=${1:-$(tests_of muster-container)}
log=$(mktemp)
trap 'rm -f "$log"' EXIT

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

in_uml 1500M 900M 900 "$log" "
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo \"controllers: \$(cat /sys/fs/cgroup/cgroup.controllers)\"
'$binary' --test-threads=1 --exact ${tests[*]}"
sed -n '/^controllers:/,$p' "$log"
grep -q '^controllers:.*\bmemory\b.*\bpids\b' "$log" || { cat "$log" >&2; fail "that kernel has no control groups version 2"; }
all_passed "$log" "${#tests[@]}" || fail "the Sandbox's tests failed on control groups version 2"
