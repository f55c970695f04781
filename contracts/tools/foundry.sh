# Sourced by build.sh and test.sh, in contracts/. Links forge, cast and anvil of this platform under
# node_modules/.foundry and puts them first in PATH. The wrappers that npm links into node_modules/.bin answer 0
# whatever the tool says, so that no failure would ever be noticed, and leave it running when they are killed.
case "$(uname -s)-$(uname -m)" in
  Linux-x86_64) platform=linux-amd64 ;;
  Linux-aarch64) platform=linux-arm64 ;;
  Darwin-x86_64) platform=darwin-amd64 ;;
  Darwin-arm64) platform=darwin-arm64 ;;
  *) fail "forge has no binary for $(uname -s) on $(uname -m)" ;;
esac
mkdir -p node_modules/.foundry
for tool in forge cast anvil; do
  ln -sfn "../@foundry-rs/$tool-$platform/bin/$tool" "node_modules/.foundry/$tool"
  [[ -x node_modules/.foundry/$tool ]] ||
    fail "npm left no $tool for $platform; remove contracts/node_modules and run this again"
done
export PATH="$PWD/node_modules/.foundry:$PATH"
