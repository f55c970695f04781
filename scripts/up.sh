#!/usr/bin/env bash
# make up: from a fresh machine to a running network. What follows is passed to `muster up`.
. "$(dirname "$0")/lib.sh"

need_toolchains
need base run
build_release
# Small real models; where pip's index cannot be reached, the network starts without them and says so.
scripts/weights.sh || say "the real models are not here this time"
export MUSTER_MODELS=${MUSTER_MODELS:-$(target_dir)/models}
exec "$(target_dir)/release/muster" up "$@"
