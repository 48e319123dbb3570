#!/usr/bin/env bash
# Builds t6 for the CPU and runs its tests, from nothing: installs what is missing first (scripts/setup.sh).
#
#   scripts/test.sh                   everything
#   scripts/test.sh --quick           without the tests that kill processes again and again
#   scripts/test.sh --full            and those with other people's libraries (scripts/interop.sh), which take 6 GB from PyPI
#                                     and need python3-venv (scripts/setup.sh --test-tools)
#   scripts/test.sh --preset NAME     cpu (default), cuda, emulated or asan of CMakePresets.json
#   scripts/test.sh -R 'ops\.'        any other argument goes to ctest, for the ordinary tests
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
    -h | --help) sed -n '2,11{s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    *) ctest_arguments+=("$1") ;;
  esac
  shift
done

if [ "$full" = yes ]; then scripts/setup.sh --test-tools; else scripts/setup.sh; fi

# Hits across clones and build folders: nothing compiled depends on where it lies.
export CCACHE_BASEDIR=${CCACHE_BASEDIR:-$PWD} CCACHE_NOHASHDIR=${CCACHE_NOHASHDIR:-1}
jobs=${JOBS:-$(nproc)}
cmake --preset "$preset"
cmake --build --preset "$preset" -j "$jobs"
parts=("the ordinary tests") failed=()
ctest --preset "$preset" -j "$jobs" --no-tests=error ${ctest_arguments[@]+"${ctest_arguments[@]}"} ||
  failed+=("${parts[0]}")
if [ "$full" = yes ]; then
  parts+=("the tests with other people's libraries")
  ctest --preset "$preset" -C Interop -L '^interop$' --no-tests=error || failed+=("${parts[1]}")
fi
# said WHAT PART...: the last line.
said() { printf 'test: %s (preset %s): %s%s\n' "$1" "$preset" "$2" "${3:+ and $3}"; }
[ ${#failed[@]} -eq 0 ] || { said FAILED "${failed[@]}" >&2; exit 1; }
said passed "${parts[@]}"
