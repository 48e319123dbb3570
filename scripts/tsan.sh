#!/usr/bin/env bash
# Runs what several threads work on under clang's thread sanitizer: loader, shard writer, tokenizing workers, progress bar, and
# every other test suite whose name says so (t6_thread_filter of tests/CMakeLists.txt). No report is allowed; a race that is
# there on purpose must be reported.
#
#   scripts/tsan.sh            all rooms
#   scripts/tsan.sh --quick    base and data alone, which build fast
#
# Any other argument goes to ctest. JOBS sets how many compilers and tests run at once.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

rooms=(base data dist checkpoint train)
arguments=()
while [ $# -gt 0 ]; do
  case "$1" in
    --quick) rooms=(base data) ;;
    -h | --help) sed -n '2,9{s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    *) arguments+=("$1") ;;
  esac
  shift
done

command -v clang++-14 >/dev/null || { printf 'tsan: clang++-14 is missing: scripts/setup.sh --test-tools\n' >&2; exit 2; }
export CCACHE_BASEDIR=${CCACHE_BASEDIR:-$PWD} CCACHE_NOHASHDIR=${CCACHE_NOHASHDIR:-1}
jobs=${JOBS:-$(nproc)}
cmake --preset tsan
targets=(t6_planted_race)
for room in "${rooms[@]}"; do
  ! ls "tests/$room"/*_test.cpp >/dev/null 2>&1 || targets+=("t6_${room}_tests")
done
cmake --build --preset tsan -j "$jobs" --target "${targets[@]}"

# The control: a sanitizer that sees nothing would pass everything.
if report=$(build/tsan/tests/t6_planted_race 2>&1) || [[ "$report" != *"data race"* ]]; then
  printf 'tsan: the planted race was NOT reported:\n%s\n' "$report" >&2
  exit 1
fi
printf 'tsan: the planted race was reported\n'
pattern=$(IFS='|'; printf '%s' "${rooms[*]}")
ctest --preset tsan -j "$jobs" --no-tests=error -L '^threads$' -R "^($pattern)\\." ${arguments[@]+"${arguments[@]}"}
