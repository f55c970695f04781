#!/bin/sh
# Renders one frame of the scene: out/frame_NN.png, where NN is MUSTER_TASK_INDEX (0 to 23).
#
# Needs in the current folder: muster.pov. Writes nothing outside it and needs no network, so it runs
# as anybody, on a read-only system, with only this folder writable.
set -eu

FRAMES=24
index=${MUSTER_TASK_INDEX:-}
case $index in
'' | *[!0-9]*)
  echo "frame.sh: MUSTER_TASK_INDEX is '$index', expected a frame number from 0 to $((FRAMES - 1))" >&2
  exit 2
  ;;
esac
# A leading zero would make the shell read an octal number.
while [ "${#index}" -gt 1 ] && [ "${index#0}" != "$index" ]; do index=${index#0}; done
if [ "${#index}" -gt 2 ] || [ "$index" -ge "$FRAMES" ]; then
  echo "frame.sh: there is no frame $index, the scene has frames 0 to $((FRAMES - 1))" >&2
  exit 2
fi
if ! [ -r muster.pov ]; then
  echo "frame.sh: muster.pov is not in $(pwd): send it as an input of the job" >&2
  exit 2
fi
if ! command -v povray >/dev/null 2>&1; then
  echo "frame.sh: this machine has no povray: its owner can install it with 'apt-get install povray'" >&2
  exit 127
fi

name=$(printf 'frame_%02d.png' "$index")
mkdir -p out

# Debian's povray may write to the current folder but to none below it, so the picture is moved after.
# The frame's number is passed as a range of one: povray then computes the clock as in the whole film.
if ! povray +Imuster.pov +Oframe_.png +W"${MUSTER_SCENE_WIDTH:-640}" +H"$((${MUSTER_SCENE_WIDTH:-640} * 9 / 16))" +A0.2 +R2 -D +WT"${MUSTER_SCENE_THREADS:-1}" \
  +KFI0 +KFF"$((FRAMES - 1))" +SF"$index" +EF"$index" >povray.log 2>&1; then
  cat povray.log >&2
  echo "frame.sh: povray could not render frame $index, its own words stand above" >&2
  exit 1
fi
rm -f povray.log
mv -f "$name" "out/$name"
echo "frame $index of $FRAMES: out/$name, $(wc -c <"out/$name") bytes"
