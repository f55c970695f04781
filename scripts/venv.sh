#!/usr/bin/env bash
# A Python environment with what a file of requirements pins by hash; says where it is. Does nothing when it is there.
#
#   scripts/venv.sh NAME REQUIREMENTS
set -euo pipefail
(($# == 2)) || { echo "scripts/venv.sh: say NAME and REQUIREMENTS" >&2; exit 2; }
requirements=$(realpath "$2")
cd "$(dirname "$0")/.."
folder=${CARGO_TARGET_DIR:-$PWD/target}/venv-$1
mkdir -p "$folder"
# One at a time: several tests may ask for it at once.
exec 9>"$folder/.lock"
flock 9
if ! cmp -s "$requirements" "$folder/.pins"; then
  echo "installing $1 into $folder" >&2
  python3 -m venv --clear "$folder/python" >&2 ||
    { echo "scripts/venv.sh: cannot make a Python environment: apt-get install python3-venv" >&2; exit 1; }
  "$folder/python/bin/pip" install --quiet --disable-pip-version-check --require-hashes --only-binary :all: \
    -r "$requirements" >&2 || { echo "scripts/venv.sh: pip could not install $1; is the package index reachable?" >&2; exit 1; }
  cp "$requirements" "$folder/.pins"
fi
echo "$folder/python"
