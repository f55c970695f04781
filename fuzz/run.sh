#!/usr/bin/env bash
# Fuzzes every decoder for a short while, on top of the kept corpus.
#
#   fuzz/run.sh [--seconds N] [--keep] [TARGET...]
#
#   --seconds N   so long per target (default 5)
#   --keep        add what was found to the corpus in git (fuzz/corpus), reduced to a few that add coverage
#
# A crash leaves its input under fuzz/artifacts/TARGET and fails the run. Needs a C++ compiler for libFuzzer.
set -euo pipefail
cd "$(dirname "$0")"

seconds=5 keep=0 targets=()
while (($#)); do
  case $1 in
    --seconds) seconds=${2:?--seconds needs a number}; shift 2 ;;
    --keep) keep=1; shift ;;
    -*) echo "fuzz/run.sh: unknown flag $1; see the head of the script" >&2; exit 2 ;;
    *) targets+=("$1"); shift ;;
  esac
done
# No decoder without a target.
while read -r message; do
  grep -q "::$message>" fuzz_targets/*.rs || {
    echo "fuzz/run.sh: $message has no fuzz target; add fuzz/fuzz_targets/NAME.rs and its [[bin]] in fuzz/Cargo.toml" >&2
    exit 1
  }
done < <(grep -rhoP 'impl WireMessage for \K\w+' ../crates/muster-wire/src/message)
if ((${#targets[@]} == 0)); then
  for file in fuzz_targets/*.rs; do targets+=("$(basename "$file" .rs)"); done
fi
for target in "${targets[@]}"; do
  [[ -f fuzz_targets/$target.rs ]] || { echo "fuzz/run.sh: no target $target in fuzz/fuzz_targets" >&2; exit 2; }
done
command -v "${CXX:-c++}" >/dev/null || {
  echo "fuzz/run.sh: no C++ compiler, which libFuzzer needs; install it with: apt-get install g++" >&2
  exit 1
}

# The instrumentation that cargo-fuzz asks for, without a sanitizer: this code has no unsafe to watch, so panics,
# overflows, hangs and memory are what there is to find. With a target triple, so that build scripts stay as they are.
host=$(rustc -vV | sed -n 's/^host: //p')
out=${CARGO_TARGET_DIR:-$PWD/target}/fuzz
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 --cfg fuzzing"
# Each its own binary, so that a fuzzer's memory and its crashes are its own.
cargo build --quiet --release --target "$host" --target-dir "$out" \
  "${targets[@]/#/--bin=}"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=()
for target in "${targets[@]}"; do
  binary=$out/$host/release/$target
  mkdir -p "corpus/$target" "artifacts/$target" "$work/$target"
  # New inputs go to the first folder; the kept corpus is only read.
  if "$binary" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -max_len=131072 -len_control=100 \
    -artifact_prefix="artifacts/$target/" -print_final_stats=1 "$work/$target" "corpus/$target" \
    >"$work/$target.log" 2>&1; then
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$work/$target.log")
    found=$(find "$work/$target" -type f | wc -l)
    printf 'fuzz %-18s %9s runs, %4s new inputs, no failure\n' "$target" "$runs" "$found"
  else
    failed+=("$target")
    tail -n 40 "$work/$target.log" >&2
    echo "fuzz/run.sh: $target failed; run it again with: $binary fuzz/artifacts/$target/FILE" >&2
  fi
  if ((keep)); then
    mkdir "$work/merged"
    "$binary" -set_cover_merge=1 -max_len=1024 "$work/merged" "corpus/$target" "$work/$target" >"$work/merge.log" 2>&1
    # A start is enough: the fuzzer finds the rest again within seconds. Inputs with a name of their own (an old
    # failure) stay; of the others, which are named by their hash, the first few.
    find "corpus/$target" -type f -regextype posix-extended ! -regex '.*/[0-9a-f]{40}' -exec cp -t "$work/merged" {} +
    find "$work/merged" -type f -regextype posix-extended -regex '.*/[0-9a-f]{40}' | sort | tail -n +33 | xargs -r rm
    rm -rf "corpus/$target"
    mv "$work/merged" "corpus/$target"
  fi
  rmdir --ignore-fail-on-non-empty "artifacts/$target"
done
rmdir --ignore-fail-on-non-empty artifacts
if ((${#failed[@]})); then
  echo "fuzz/run.sh: failed: ${failed[*]}" >&2
  exit 1
fi
