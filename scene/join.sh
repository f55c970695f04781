#!/bin/sh
# Joins the 24 frames into a film, a still and a sheet of all frames.
#
#   sh join.sh FRAMES_DIR [OUTPUT_DIR]
#
# FRAMES_DIR holds frame_00.png to frame_23.png, either directly or each in a folder of its own below it
# (as an array job leaves them: 0/frame_00.png or 0/out/frame_00.png). OUTPUT_DIR (default: FRAMES_DIR) gets
#   animation.mp4  12 frames a second, the last one held for a second and a half
#   still.png      the last frame
#   poster.png     a sheet of all 24 frames, 6 by 4
set -eu

FRAMES=24
if [ $# -lt 1 ] || [ $# -gt 2 ]; then
  echo "usage: sh join.sh FRAMES_DIR [OUTPUT_DIR]" >&2
  exit 2
fi
from=$1
to=${2:-$1}
if ! [ -d "$from" ]; then
  echo "join.sh: there is no folder '$from'" >&2
  exit 2
fi
if ! command -v ffmpeg >/dev/null 2>&1; then
  echo "join.sh: ffmpeg is missing, install it with 'apt-get install ffmpeg'" >&2
  exit 127
fi
mkdir -p "$to"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# The frames may lie in folders of their own: bring them under one numbering, and name what is missing.
missing=
i=0
while [ "$i" -lt "$FRAMES" ]; do
  name=$(printf 'frame_%02d.png' "$i")
  found=$(find "$from" -maxdepth 3 -type f -name "$name" | sort | head -n 1)
  if [ -n "$found" ]; then
    cp "$found" "$work/$name"
  else
    missing="$missing $i"
  fi
  i=$((i + 1))
done
if [ -n "$missing" ]; then
  echo "join.sh: these frames are missing in '$from':$missing" >&2
  exit 1
fi

run() {
  ffmpeg -nostdin -hide_banner -loglevel error -y "$@"
}
# Written under another name first, so that a failure leaves no half a film behind.
run -framerate 12 -i "$work/frame_%02d.png" \
  -vf 'tpad=stop_mode=clone:stop_duration=1.5,format=yuv420p' \
  -c:v libx264 -preset medium -crf 16 -movflags +faststart "$work/animation.mp4"
run -framerate 12 -i "$work/frame_%02d.png" \
  -vf 'scale=320:-1:flags=area,tile=6x4:padding=4:margin=4:color=0x05070d' -frames:v 1 "$work/poster.png"
cp "$work/frame_$(printf %02d $((FRAMES - 1))).png" "$work/still.png"

for file in animation.mp4 still.png poster.png; do
  cp "$work/$file" "$to/$file.part"
  mv -f "$to/$file.part" "$to/$file"
  echo "$to/$file"
done
