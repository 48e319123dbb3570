#!/usr/bin/env bash
# Builds t6 for the CPU and runs its tests, from nothing: installs what is missing first (scripts/setup.sh).
#
#   scripts/test.sh                   everything
#   scripts/test.sh --quick           without the tests that kill processes again and again
#   scripts/test.sh --full            and those with other people's libraries (scripts/interop.sh), which take 6 GB from PyPI
#   scripts/test.sh --preset NAME     cpu (default), cuda, emulated or asan of CMakePresets.json
#   scripts/test.sh -R 'ops\.'        any other argument goes to ctest
#
# JOBS sets how many compilers and tests run at once (default: the processors).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

preset=cpu
full=no
ctest_arguments=()
while [ $# -gt 0 ]; do
  case "$1" in
    --quick) ctest_arguments+=(-LE '^kill$') ;;
    --full) full=yes ;;
    --preset) preset=${2:?"--preset needs a name: cpu, cuda, emulated or asan"}; shift ;;
    -h | --help) sed -n '2,10{s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    *) ctest_arguments+=("$1") ;;
  esac
  shift
done

scripts/setup.sh

# Hits across clones and build folders: nothing compiled depends on where it lies.
export CCACHE_BASEDIR=${CCACHE_BASEDIR:-$PWD} CCACHE_NOHASHDIR=${CCACHE_NOHASHDIR:-1}
jobs=${JOBS:-$(nproc)}
cmake --preset "$preset"
cmake --build --preset "$preset" -j "$jobs"
ctest --preset "$preset" -j "$jobs" --no-tests=error ${ctest_arguments[@]+"${ctest_arguments[@]}"}
[ "$full" = no ] || ctest --preset "$preset" -C Interop -L '^interop$' --no-tests=error
