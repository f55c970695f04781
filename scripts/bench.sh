#!/usr/bin/env bash
# make bench: every measurement, one after the other, in release. What follows is passed to each `muster bench`.
. "$(dirname "$0")/lib.sh"

need_toolchains
need base run
build_release >&2
muster=$(target_dir)/release/muster

failed=()
for name in match chain lease job idle proof gpu epoch; do
  say "bench $name"
  "$muster" bench "$name" "$@" || failed+=("$name")
done
((${#failed[@]} == 0)) || fail "these measurements did not come to an end: ${failed[*]}"
