#!/usr/bin/env bash
# make up: from a fresh machine to a running network. What follows is passed to `muster up`.
. "$(dirname "$0")/lib.sh"

need_toolchains
need base run
build_release
# The small embedding model; where pip's index cannot be reached, the network starts without it and says so.
scripts/minilm.sh || say "no embedding model this time"
export MUSTER_MODELS=${MUSTER_MODELS:-$(target_dir)/minilm}
exec "$(target_dir)/release/muster" up "$@"
