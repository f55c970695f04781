#!/usr/bin/env bash
# Builds the pages into console/dist, from where the build of muster-gateway takes them into the binary. Does nothing
# when nothing changed since the last time. Needs Node.js; the network only when console/package-lock.json is not what
# is installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../console"

fail() {
  echo "scripts/console.sh: $*" >&2
  exit 1
}

command -v node >/dev/null || fail "Node.js is missing; install version 20.19 or newer (nodejs.org) and run this again"
command -v npm >/dev/null || fail "npm is missing; install it (it comes with Node.js) and run this again"

# One build at a time.
exec 9>.build.lock
flock 9

if ! cmp -s package-lock.json node_modules/.muster-lock; then
  node -e 'const [major, minor] = process.versions.node.split(".").map(Number);
    process.exit(major >= 23 || (major === 22 && minor >= 12) || (major === 20 && minor >= 19) ? 0 : 1)' ||
    fail "Node.js $(node --version) cannot build the pages: they need 20.19 or newer, or 22.12 or newer (nodejs.org)"
  echo "console: installing what builds the pages"
  # Contents by hash in the lock file; nothing but the registry is asked, no package runs anything.
  npm ci --ignore-scripts --no-audit --no-fund --loglevel=error ||
    fail "npm ci failed; is the package registry reachable? Nothing was built"
  cp package-lock.json node_modules/.muster-lock
fi

# Beside dist, not in it: what lies there is served.
stamp=$(find src ./*.html ./*.ts tsconfig.json package.json package-lock.json .npmrc ../scripts/console.sh -type f \
  ! -name '*.test.ts' -print0 | sort -z | xargs -0 sha256sum | sha256sum)
[[ -s dist/index.html && -s dist/models.html && -s dist/play.html && -f .built && "$(<.built)" == "$stamp" ]] && exit 0

echo "console: building the pages"
rm -f .built
npm run --silent build || fail "the pages do not build (see above)"
[[ -s dist/index.html && -s dist/models.html && -s dist/play.html ]] || fail "the build left no pages in console/dist"
echo "$stamp" >.built
