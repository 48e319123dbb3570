#!/usr/bin/env bash
# Installs what t6 needs to build and test on Debian 12 or Ubuntu 24.04. Quick and without a network when nothing is missing.
#
#   scripts/setup.sh                what building and testing needs
#   scripts/setup.sh --test-tools   also the formatter, a second compiler, and tools the optional checks use
#   scripts/setup.sh --list         prints the packages, installs nothing
#
# Needs root or sudo only when a package is missing. CUDA is never installed, only reported.
set -euo pipefail

# The same names on Debian 12 and Ubuntu 24.04 (there some are in the component "universe").
packages=(
  g++ cmake ninja-build ccache mold git
  libdnnl-dev libhdf5-dev libyaml-cpp-dev libfmt-dev libspdlog-dev libcli11-dev nlohmann-json3-dev
  libsimdjson-dev libpcre2-dev zlib1g-dev libzstd-dev libbz2-dev libxxhash-dev libgtest-dev
  libboost-context-dev libopenmpi-dev openmpi-bin
)
test_tools=(clang-format-14 clang-14 libclang-rt-14-dev libomp-14-dev python3 python3-venv)

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

list_only=no
for argument in "$@"; do
  case "$argument" in
    --test-tools) packages+=("${test_tools[@]}") ;;
    --list) list_only=yes ;;
    -h | --help) sed -n '2,8{s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    *) die "unknown option $argument; expected --test-tools, --list or --help" ;;
  esac
done
if [ "$list_only" = yes ]; then printf '%s\n' "${packages[@]}"; exit 0; fi

command -v dpkg-query >/dev/null && command -v apt-get >/dev/null ||
  die "this is no Debian or Ubuntu system (no apt-get). Install these by hand, under your system's names: ${packages[*]}"

# Prints those of its arguments that are not installed.
missing_of() {
  local installed package
  installed=" $(dpkg-query -W -f '${db:Status-Status}:${Package} ' "$@" 2>/dev/null || true)"
  for package in "$@"; do
    [[ "$installed" == *" installed:$package "* ]] || printf '%s ' "$package"
  done
}

read -r -a missing <<<"$(missing_of "${packages[@]}")" || true
if [ "${#missing[@]}" -gt 0 ]; then
  say "missing: ${missing[*]}"
  as_root=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null ||
      die "not root and no sudo here. Run as root: apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
    as_root=(sudo)
    [ -t 0 ] || as_root=(sudo -n)  # nobody is there to type a password
  fi
  apt_get() { ${as_root[@]+"${as_root[@]}"} env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@"; }
  apt_get update -qq || die "apt-get update failed (its message stands above): is there a network, and are you allowed to use sudo?"
  apt_get install -y -qq --no-install-recommends "${missing[@]}" ||
    die "apt-get could not install: ${missing[*]}. On Ubuntu, enable the component universe: add-apt-repository universe"
  read -r -a missing <<<"$(missing_of "${missing[@]}")" || true
  [ "${#missing[@]}" = 0 ] || die "still missing after apt-get install: ${missing[*]}"
  say "installed"
else
  say "nothing missing"
fi

# The versions the build insists on, checked here because an older release has the same package names.
version_at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -1)" = "$1" ]; }
cmake_version=$(cmake --version | sed -n '1s/[^0-9]*//p')
version_at_least 3.25 "$cmake_version" || die "CMake 3.25 or newer is needed, this system has $cmake_version: use Debian 12, Ubuntu 24.04 or newer"
gcc_version=$(g++ -dumpfullversion)
version_at_least 12 "$gcc_version" || die "g++ 12 or newer is needed, this system has $gcc_version: use Debian 12, Ubuntu 24.04 or newer"

# The headers by which attention calls cuDNN, from a Python package of which only they are kept. A build without them is
# complete, with slower attention on GPUs: so no failure here stops the set-up.
get_cudnn_frontend() {
  local folder why
  folder=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/build/deps/cudnn-frontend
  if [ -f "$folder/include/cudnn_frontend.h" ]; then
    say "cuDNN frontend: $folder"
    return
  fi
  rm -rf "$folder.new"
  if why=$(python3 -m pip install -q --disable-pip-version-check --no-deps --target "$folder.new" 'nvidia-cudnn-frontend>=1.14,<2' 2>&1) &&
    [ -f "$folder.new/include/cudnn_frontend.h" ]; then
    rm -rf "$folder"
    mkdir -p "$folder"
    mv "$folder.new/include" "$folder/include"
    say "cuDNN frontend: $folder"
  else
    say "cuDNN frontend: none (${why##*$'\n'}); to have cuDNN's attention, install Python's pip or set T6_CUDNN_FRONTEND"
  fi
  rm -rf "$folder.new"
}

if nvcc=$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null); then
  say "CUDA compiler: $nvcc ($("$nvcc" --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')); preset cuda builds with it"
  get_cudnn_frontend
else
  say "CUDA compiler: none; the CPU build is complete without one"
fi
