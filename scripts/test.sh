#!/usr/bin/env bash
# make test: everything, from contracts to end-to-end, in one profile.
# Goes on after a step has failed, so that one run shows all there is to mend; exits non-zero if any did.
. "$(dirname "$0")/lib.sh"

need_toolchains
need base run test
# Without their artefacts no crate that settles compiles: no use in going on.
contracts/build.sh
# Without the pages no test of a whole session passes: the Gateway serves them from inside the binary.
scripts/console.sh
# Tests of real models are left out where pip's index cannot be reached, and say so.
scripts/weights.sh --unpack || say "no real models: their tests are left out"

passed=()
failed=()
step() {
  local name=$1 began=$SECONDS
  shift
  say "$name"
  if "$@"; then
    passed+=("$name ($((SECONDS - began)) s)")
  else
    failed+=("$name ($((SECONDS - began)) s)")
    say "FAILED: $name"
  fi
}

workspace_tests() {
  if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --workspace --locked --no-fail-fast "$@"
  else
    # cargo's own runner gives the same verdict, only slower.
    cargo test --workspace --locked --no-fail-fast --lib --bins --tests "$@"
  fi
}

console_tests() {
  (cd console && npm run --silent check && npm run --silent test && npm run --silent test:page)
}

step "contracts: forge, slither, halmos" contracts/test.sh
step "console: types, unit tests, pages in a browser" console_tests
step "workspace: unit, property, simulator, integration and end-to-end tests, tidy" workspace_tests "$@"
step "Sandbox: control groups version 2, in a kernel of its own" scripts/cgroup2.sh
step "live sessions: bad networks, with the netem of a kernel of its own" scripts/netem.sh
step "live sessions: gamepads, with the uinput of a kernel of its own" scripts/uinput.sh
step "decoders: a short fuzzing run" fuzz/run.sh

say "done"
for name in "${passed[@]}"; do echo "  passed: $name"; done
for name in "${failed[@]}"; do echo "  FAILED: $name"; done
echo "steps: ${#passed[@]} passed, ${#failed[@]} failed"
((${#failed[@]} == 0))
