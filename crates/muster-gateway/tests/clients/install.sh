#!/usr/bin/env bash
# OpenAI's own clients for Python and JavaScript, and x402's for JavaScript, pinned by version and hash, in an environment
# of their own. Says where it is. Does nothing when it is there already.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
target=${CARGO_TARGET_DIR:-$here/../../../../target}/openai-clients

fail() {
  echo "clients/install.sh: $*" >&2
  exit 1
}

command -v python3 >/dev/null || fail "python3 is missing; install it (Debian: apt-get install python3 python3-venv)"
command -v npm >/dev/null || fail "npm is missing; install Node.js 20 or newer (Debian: apt-get install nodejs npm)"
mkdir -p "$target"
# One at a time: several tests may ask for it at once.
exec 9>"$target/.lock"
flock 9
if ! cat "$here/requirements.txt" "$here/package-lock.json" | cmp -s - "$target/.pins"; then
  echo "installing OpenAI's clients into $target" >&2
  rm -rf "$target/venv" "$target/js"
  python3 -m venv "$target/venv" >&2 || fail "cannot make a Python environment (Debian: apt-get install python3-venv)"
  "$target/venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes --only-binary :all: \
    -r "$here/requirements.txt" >&2 || fail "pip could not install requirements.txt; is the package index reachable?"
  mkdir -p "$target/js"
  cp "$here/package.json" "$here/package-lock.json" "$target/js/"
  (cd "$target/js" && npm ci --silent --ignore-scripts --no-audit --no-fund >&2) || fail "npm could not install package-lock.json; is the registry reachable?"
  cat "$here/requirements.txt" "$here/package-lock.json" >"$target/.pins"
fi
# Modules are looked for beside the script.
cp "$here/client.mjs" "$here/x402.mjs" "$target/js/"
echo "$target"
