#!/usr/bin/env bash
# Everything that is checked about the contracts. Without arguments all stages run; with arguments only those named.
#
#   contracts/test.sh [style] [forge] [gas] [slither] [halmos]
#
# `contracts/test.sh gas-update` writes snapshots/ anew instead of comparing with it.
set -euo pipefail
cd "$(dirname "$0")"

./build.sh

# The tools below clean and rebuild as they please: never in out/, which others read meanwhile.
export FOUNDRY_OUT=cache/test-out FOUNDRY_CACHE_PATH=cache/test-cache

fail() {
  echo "contracts/test.sh: $*" >&2
  exit 1
}

. tools/foundry.sh

# The Python tools, pinned, in an environment of their own.
tools() {
  cmp -s tools/requirements.txt .venv/.requirements && return
  command -v python3 >/dev/null || fail "python3 is missing; install it (Debian: apt-get install python3 python3-venv)"
  echo "contracts: installing slither and halmos into contracts/.venv"
  rm -rf .venv
  python3 -m venv .venv || fail "cannot make a Python environment (Debian: apt-get install python3-venv)"
  .venv/bin/pip install --quiet --disable-pip-version-check -r tools/requirements.txt ||
    fail "pip could not install tools/requirements.txt; is the package index reachable?"
  cp tools/requirements.txt .venv/.requirements
}

stage_style() {
  forge fmt --check src test
  forge lint --quiet src
  # Fails where a contract is larger than a chain takes.
  forge build src --sizes --json >/dev/null
}

stage_forge() { forge test --threads 2 --no-match-contract 'GasTest|Proof$'; }

stage_gas() {
  forge test --isolate --match-contract GasTest --gas-snapshot-check true ||
    fail "gas differs from snapshots/; if that is meant, run contracts/test.sh gas-update and commit it"
}

stage_gas-update() { forge test --isolate --match-contract GasTest --gas-snapshot-emit true --gas-snapshot-check false; }

stage_slither() {
  tools
  # Exits with an error on any finding of medium or high impact; the lesser ones are hints about time and style.
  FOUNDRY_OUT=cache/slither-out FOUNDRY_CACHE_PATH=cache/slither-cache .venv/bin/slither . \
    --filter-paths 'node_modules|test/' --exclude-informational --exclude-optimization --exclude-low --fail-medium
}

# A contract of proofs, and what they prove.
prove() {
  FOUNDRY_TEST=test/halmos FOUNDRY_OUT=cache/halmos-out FOUNDRY_CACHE_PATH=cache/halmos-cache timeout 600 \
    .venv/bin/halmos --contract "$1" --forge-build-out cache/halmos-out --no-status \
    --panic-error-codes '*' ||
    fail "halmos found no proof (above) that $2, or took over ten minutes"
}

stage_halmos() {
  tools
  prove LeaseProof "a lease never pays out more than its deposit"
}

# Not among the default stages: the solver does not finish its check of claims within minutes. What it would prove is
# held by the invariant tests of epochs.
stage_halmos-rewards() {
  tools
  prove RewardProof "a reward is never paid more than its leaf grants"
}

stages=("$@")
((${#stages[@]})) || stages=(style forge gas slither halmos)
for stage in "${stages[@]}"; do
  declare -F "stage_$stage" >/dev/null || fail "no stage named '$stage' (style, forge, gas, gas-update, slither, halmos, halmos-rewards)"
done
for stage in "${stages[@]}"; do
  echo "== contracts: $stage"
  "stage_$stage"
done
echo "contracts: all good"
