#!/usr/bin/env bash
# Builds llama.cpp's own programs (llama-bench, llama-server) from the sources that cargo has fetched for the engine, with
# the flags of a release build (NATIVE=ON: for this very processor), and says where they are. For `muster bench model --llama-bench`, and for trying the upstream
# engine against a real server; nothing else needs them. Takes a quarter of an hour on two cores.
. "$(dirname "$0")/lib.sh"

need_toolchains
need base
manifest=$(cargo metadata --locked --format-version 1 |
  python3 -c 'import json,sys; print(next(p["manifest_path"] for p in json.load(sys.stdin)["packages"] if p["name"]=="llama-cpp-sys-2"))')
sources=$(dirname "$manifest")/llama.cpp
out=$(target_dir)/llama.cpp
cmake -S "$sources" -B "$out" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF \
  -DGGML_NATIVE="${NATIVE:-OFF}" -DGGML_OPENMP=OFF \
  -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TOOLS=ON -DLLAMA_BUILD_SERVER=ON >&2
cmake --build "$out" --target llama-bench --target llama-server -j "$(nproc)" >&2
printf '%s\n' "$out/bin/llama-bench"
