#!/usr/bin/env bash
# make clean-data: throws away what `make up` keeps: the chain, the wallets, the jobs, the pictures.
# ARGS=DIR names another folder than the default; YES=1 does not ask.
. "$(dirname "$0")/lib.sh"

dir=${1:-${MUSTER_DIR:-${XDG_DATA_HOME:-$HOME/.local/share}/muster}}
if ! [[ -d $dir ]]; then
  say "nothing to do: there is no folder $dir"
  exit 0
fi
# Only a folder that `muster up` has made: a slip of the keyboard must not cost somebody's files.
[[ -f $dir/network.toml ]] || fail "$dir holds no network.toml, so it is no data folder of muster up: nothing was removed"
if [[ -f $dir/lock ]] && ! flock -n "$dir/lock" true; then
  fail "a network runs on $dir (process $(<"$dir/lock")): stop it first, nothing was removed"
fi
if [[ ${YES:-} != 1 ]]; then
  [[ -t 0 ]] || fail "this removes $dir with its wallets: say make clean-data YES=1 where nobody can be asked"
  read -r -p "Remove $dir with its chain, wallets and pictures? [y/N] " answer
  [[ $answer == [yY]* ]] || fail "nothing was removed"
fi
rm -rf -- "$dir"
say "removed $dir"
