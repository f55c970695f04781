# Sourced by build.sh and test.sh, in contracts/. Links this platform's own forge, cast and anvil into
# node_modules/.bin and puts them first in PATH. The wrappers that npm links there exit with 0 whatever the tool says,
# so that no failure would ever be noticed, and leave it running when they are killed.
case "$(uname -s)-$(uname -m)" in
  Linux-x86_64) platform=linux-amd64 ;;
  Linux-aarch64) platform=linux-arm64 ;;
  Darwin-x86_64) platform=darwin-amd64 ;;
  Darwin-arm64) platform=darwin-arm64 ;;
  *) fail "forge has no binary for $(uname -s) on $(uname -m)" ;;
esac
for tool in forge cast anvil; do
  binary="../@foundry-rs/$tool-$platform/bin/$tool"
  [[ -x node_modules/.bin/$binary ]] ||
    fail "npm left no $tool for $platform; remove contracts/node_modules and run this again"
  [[ "$(readlink "node_modules/.bin/$tool")" == "$binary" ]] || ln -sfn "$binary" "node_modules/.bin/$tool"
done
export PATH="$PWD/node_modules/.bin:$PATH"
