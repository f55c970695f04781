#!/usr/bin/env bash
# make up: from a fresh machine to a running network. What follows is passed to `muster up`.
. "$(dirname "$0")/lib.sh"

need_toolchains
need base run
build_release
exec "$(target_dir)/release/muster" up "$@"
