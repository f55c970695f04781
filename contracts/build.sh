#!/usr/bin/env bash
# Compiles the contracts into contracts/out (forge's layout: out/Name.sol/Name.json). Does nothing when nothing
# changed since the last time. Needs Node.js; the network only when contracts/package-lock.json is newer than
# what is installed.
set -euo pipefail
cd "$(dirname "$0")"

artefacts=()
for contract in MusterToken Registry LeaseEscrow CheckerLicence EpochRewards DrandBeacon; do
  artefacts+=("out/$contract.sol/$contract.json")
done

fail() {
  echo "contracts/build.sh: $*" >&2
  exit 1
}

command -v node >/dev/null || fail "Node.js is missing; install it (Debian: apt-get install nodejs npm) and run this again"
command -v npm >/dev/null || fail "npm is missing; install it (Debian: apt-get install npm) and run this again"

# One build at a time: several test binaries may ask for one at once.
exec 9>.build.lock
flock 9

installed() { [[ -f node_modules/.muster-lock ]] && cmp -s package-lock.json node_modules/.muster-lock; }

if ! installed; then
  echo "contracts: installing the compiler and the libraries"
  # Not `npm ci`: it refuses a lock file that lacks the binaries of other platforms, and registries differ in which of
  # those they have. Versions are exact in package.json, contents by hash in the lock file, and neither is written.
  npm install --no-save --ignore-scripts --no-audit --no-fund --loglevel=error ||
    fail "npm install failed; is the package registry reachable? Nothing was built"
  cp package-lock.json node_modules/.muster-lock
fi
. tools/foundry.sh

stamp=$(find src foundry.toml package-lock.json tools build.sh -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum)
if [[ -f out/.stamp && "$(cat out/.stamp)" == "$stamp" ]]; then
  complete=1
  for artefact in "${artefacts[@]}"; do [[ -s $artefact ]] || complete=0; done
  ((complete)) && exit 0
fi

echo "contracts: compiling"
forge build src --quiet || fail "the compiler refused the sources (see above)"
for artefact in "${artefacts[@]}"; do
  [[ -s $artefact ]] || fail "the compiler left no $artefact"
done
echo "$stamp" >out/.stamp
