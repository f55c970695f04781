#!/usr/bin/env bash
# A player that is not ours, pinned by version and hash, in an environment of its own. Says where its Python is. Does
# nothing when it is there already.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
target=${CARGO_TARGET_DIR:-$here/../../../../target}/aiortc

fail() {
  echo "aiortc/install.sh: $*" >&2
  exit 1
}

command -v python3 >/dev/null || fail "python3 is missing; install it (Debian: apt-get install python3 python3-venv)"
mkdir -p "$target"
# One at a time: several tests may ask for it at once.
exec 9>"$target/.lock"
flock 9
if ! cmp -s "$here/requirements.txt" "$target/.requirements"; then
  echo "installing aiortc into $target" >&2
  rm -rf "$target/venv"
  python3 -m venv "$target/venv" >&2 || fail "cannot make a Python environment (Debian: apt-get install python3-venv)"
  "$target/venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes --only-binary :all: \
    -r "$here/requirements.txt" >&2 || fail "pip could not install requirements.txt; is the package index reachable?"
  cp "$here/requirements.txt" "$target/.requirements"
fi
echo "$target/venv/bin/python"
