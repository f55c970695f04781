#!/usr/bin/env bash
# make build: the release build and nothing else.
. "$(dirname "$0")/lib.sh"

need_toolchains
need base
build_release
say "built: $(target_dir)/release/muster"
