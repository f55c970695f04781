#!/usr/bin/env bash
# make lint: what no test runs, because it would build the dependencies a second time.
. "$(dirname "$0")/lib.sh"

need_toolchains
need base
contracts/build.sh
scripts/console.sh

say "format"
cargo fmt --all --check
say "tidy"
cargo run --quiet --locked -p xtask -- tidy
say "clippy"
cargo clippy --workspace --all-targets --locked -- -D warnings
say "cargo-deny"
if ! cargo deny --version >/dev/null 2>&1; then
  # Unoptimised: it builds in half the time, and runs for seconds only.
  say "installing cargo-deny (once, a few minutes)"
  cargo install --locked --quiet --debug cargo-deny
fi
# The advisory database is a git repository that not every machine can reach: `cargo deny check advisories` where
# there is a network.
cargo deny check bans licenses sources
say "lint: nothing to complain about"
