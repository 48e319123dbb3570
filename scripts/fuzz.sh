#!/usr/bin/env bash
# Fuzzes every reader of outside bytes under the address and undefined-behaviour sanitizers (clang's libFuzzer).
#
#   scripts/fuzz.sh                     1,000,000 inputs a target; 10,000 where each input has a process of its own
#   scripts/fuzz.sh --runs N            N inputs a target, of those with a process an input no more than before
#   scripts/fuzz.sh --forks N           N inputs of each target with a process an input
#   scripts/fuzz.sh --targets A,B       only these (see --list)
#   scripts/fuzz.sh --seconds S         at most S seconds a target; with a process an input: 600 by default
#   scripts/fuzz.sh --report FILE       also writes the table to FILE, as Markdown, row by row
#   scripts/fuzz.sh --judge FILE...     measures nothing: do the tables of earlier runs make up promise R19?
#   scripts/fuzz.sh --promise           measures R19, for scripts/reliability.sh; with T6_RELIABILITY=quick by the ordinary
#                                       build; with T6_FUZZ_TABLES="FILE..." judges these tables in its place
#   scripts/fuzz.sh --program FILE      runs this t6_fuzz in place of a new build
#   scripts/fuzz.sh --list              prints the targets
#   scripts/fuzz.sh --self-test         must find a bug that is there on purpose
#
# A finding is a crash, a report of a sanitizer, an Error with another exit code than the reader's, a broken promise of the
# target (such as: what was accepted reads back as the same), more than 1 s of processor time or more than 256 MiB for one
# input. Its input is kept in build/fuzz/findings, and the command that runs it again is printed. Inputs that reached new
# code are kept in build/fuzz/corpus and are where the next run begins. Exit status: 0 without findings, 1 with some, 3 when
# there are none but a target was given fewer inputs than asked for, which is said.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

runs=1000000
runs_of_forks=10000
seconds=0
seconds_of_forks=600
report=
only=
built=
self_test=no
list_only=no
promise=no
judge=()
die() { printf 'fuzz: %s\n' "$*" >&2; exit 2; }
number() { [[ "${2:-}" =~ ^[1-9][0-9]*$ ]] || die "$1: expected a number of at least 1, got '${2:-}'"; }
while [ $# -gt 0 ]; do
  case "$1" in
    --runs) number "$@"; runs=$2; shift ;;
    --forks) number "$@"; runs_of_forks=$2; shift ;;
    --seconds) number "$@"; seconds=$2 seconds_of_forks=$2; shift ;;
    --targets) only=,${2:?"--targets needs names"},; shift ;;
    --report) report=${2:?"--report needs a file"}; shift ;;
    --program) built=${2:?"--program needs a file"}; shift ;;
    --judge) shift; [ $# -gt 0 ] || die "--judge needs tables"; judge=("$@"); break ;;
    --promise) promise=yes ;;
    --self-test) self_test=yes ;;
    --list) list_only=yes ;;
    -h | --help) sed -n '2,21{s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    *) die "unknown option $1; see --help" ;;
  esac
  shift
done

if [ "$promise" = yes ] && [ -n "${T6_FUZZ_TABLES:-}" ]; then read -r -a judge <<<"$T6_FUZZ_TABLES"; fi
if [ "$promise" = yes ]; then seconds=3600 seconds_of_forks=3600 report=build/fuzz/promise.md; fi
[ "$runs_of_forks" -le "$runs" ] || runs_of_forks=$runs

# The targets as sources register them, "name kind" each: what --list says, without a program.
registered() {
  cat tests/fuzz/*_fuzz.cpp | tr '\n' ' ' | grep -oE 'Registered [a-z0-9_]+\(\{"[^;]*;' |
    sed -E 's/^[^"]*"([a-z0-9_]+)".*, *true\}\);$/\1 forks/; s/^[^"]*"([a-z0-9_]+)".*;$/\1 plain/' | grep -v '^planted ' | sort
}

# judge <table...>: has every target its inputs, and none a finding? Says so as the figure of R19. The last row of a target
# counts.
judge() {
  local name kind wanted row inputs findings plain=0 forks=0 processes='' short=() found=() status=0
  while read -r name kind; do
    wanted=$runs
    [ "$kind" != forks ] || wanted=$runs_of_forks
    row=$(cat -- "$@" | awk -F' *[|] *' -v name="$name" '$2 == name {row = $3 "|" $7} END {print row}')
    inputs=${row%%|*} findings=${row#*|}
    if [ -z "$row" ]; then short+=("$name none"); continue; fi
    case "$findings" in
      0 | '0 '* | '0, '*) ;;
      *) found+=("$name: $findings") ;;
    esac
    if ! [[ $inputs =~ ^[0-9]+$ ]] || [ "$inputs" -lt "$wanted" ]; then
      short+=("$name $inputs")
    elif [ "$kind" = forks ]; then forks=$((forks + 1)) processes+=", $name"; else plain=$((plain + 1)); fi
  done < <(registered)
  [ ${#short[@]} -eq 0 ] || status=3
  [ ${#found[@]} -eq 0 ] || status=1
  local text
  text="$plain readers with $runs inputs each, $forks with a process an input and $runs_of_forks each${processes:+ (${processes#, })}"
  [ ${#short[@]} -eq 0 ] || text+="; fewer: $(printf '%s, ' "${short[@]}" | sed 's/, $//')"
  [ ${#found[@]} -eq 0 ] || text+="; FOUND $(printf '%s, ' "${found[@]}" | sed 's/, $//')"
  printf '[promise] R19 %s; %s findings\n' "$text" "${#found[@]}"
  return $status
}
if [ ${#judge[@]} -gt 0 ]; then
  for table in "${judge[@]}"; do [ -r "$table" ] || die "cannot read $table"; done
  judge "${judge[@]}"
  exit
fi

# The quick form of R19: seeds, changes of them and earlier findings, without libFuzzer.
if [ "$promise" = yes ] && [ "${T6_RELIABILITY:-full}" = quick ]; then
  replays=$(ctest --test-dir "${T6_BUILD:-build/cpu}" -R '^fuzz\.replay\.' --no-tests=error -j 2 --output-on-failure) ||
    { tail -n 40 <<<"$replays"; exit 1; }
  printf '[promise] R19 %s readers replayed (seeds, changes of them, inputs of earlier findings): no finding\n' "$(grep -c ' Passed ' <<<"$replays")"
  exit 0
fi

mkdir -p build/fuzz
if [ -z "$built" ]; then
  command -v clang++-14 >/dev/null || die "clang++-14 is missing: scripts/setup.sh --test-tools"
  export CCACHE_BASEDIR=${CCACHE_BASEDIR:-$PWD} CCACHE_NOHASHDIR=${CCACHE_NOHASHDIR:-1}
  log=$PWD/build/fuzz/build.log
  printf 'fuzz: building (preset fuzz)\n' >&2
  { cmake --preset fuzz && cmake --build --preset fuzz --target t6_fuzz -j "${JOBS:-$(nproc)}"; } >"$log" 2>&1 ||
    { tail -30 "$log" >&2; die "the build failed, see $log"; }
  built=build/fuzz/tests/fuzz/t6_fuzz
fi
# A copy, so that a build meanwhile does not change what runs.
program=$PWD/build/fuzz/t6_fuzz.$$
cp "$built" "$program" || die "cannot copy $built"
work=$(mktemp -d "$PWD/build/fuzz/run.XXXXXX")
running=
trap '[ -z "$running" ] || kill "$running" 2>/dev/null; rm -rf "$work" "$program"' EXIT
trap 'exit 130' INT TERM

# Few freed blocks are held back, so that peak memory says something, and short stacks are kept of each: a finding is run
# again for a longer one. libhdf5 copies overlapping memory by memcpy, which the sanitizer would end its child for: where
# children read, the sanitizer's own memcpy is off.
export ASAN_OPTIONS=quarantine_size_mb=8:malloc_context_size=2:detect_stack_use_after_return=0:allocator_may_return_null=0
export UBSAN_OPTIONS=print_stacktrace=1 OMP_NUM_THREADS=1
targets=$("$program" --list)
if [ "$list_only" = yes ]; then awk '{print $1}' <<<"$targets"; exit 0; fi
findings=$PWD/build/fuzz/findings
mkdir -p "$findings" build/fuzz/corpus
"$program" --write-seeds="$work/seeds"

# options_of <target> <kind> <longest input>: libFuzzer's options that say what a finding is.
options_of() {
  local limit=10
  [ "$2" != forks ] || limit=30  # of the clock; processor time is judged by the target, or by the child's own limit
  printf '%s ' --target="$1" -max_len="$3" -timeout=$limit -rss_limit_mb=256 -malloc_limit_mb=256 -handle_xfsz=0
}

# progress <status file> <runs> <target>: one line, rewritten on a terminal.
progress() {
  local inputs=0 took=0
  [ ! -f "$1" ] || read -r inputs took _ <"$1"
  local line
  line=$(awk -v n="$inputs" -v t="$took" -v all="$2" -v name="$3" 'BEGIN {
    if (n == 0 || t == 0) { printf "%s: starting", name; exit }
    left = (all - n) * t / n
    printf "%s: %d of %d (%d %%), %d a second, %d min %02d s left", name, n, all, 100 * n / all, n / t, left / 60, left % 60 }')
  if [ -t 2 ]; then printf '\r\033[K%s' "$line" >&2; else printf '%s\n' "$line" >&2; fi
}

failed=0
short=
row() {
  printf '%-16s %10s inputs %8s s  slowest %8s ms  peak %5s MiB  %s\n' "$1" "$2" "$3" "$4" "$5" "$6"
  [ -z "$report" ] || printf '| %s | %s | %s | %s | %s | %s |\n' "$1" "$2" "$3" "$4" "$5" "$6" >>"$report"
}
if [ -n "$report" ]; then
  printf '| target | inputs | seconds | slowest input (ms) | peak memory (MiB) | findings |\n|---|---|---|---|---|---|\n' >"$report"
fi

# fuzz <target> <longest input> <kind>
fuzz() {
  local name=$1 longest=$2 kind=$3 status=$work/$1.status log=$work/$1.log code=0 limit=$seconds shown=0 wanted=$runs
  [ "$kind" != forks ] || limit=$seconds_of_forks wanted=$runs_of_forks
  local corpus=$PWD/build/fuzz/corpus/$name
  mkdir -p "$corpus" "$work/$name"
  local inputs=("$corpus" "$work/seeds/$name")
  [ ! -d "tests/fuzz/regressions/$name" ] || inputs+=("$PWD/tests/fuzz/regressions/$name")
  local options
  read -r -a options <<<"$(options_of "$name" "$kind" "$longest")"
  [ ! -f "tests/fuzz/dictionaries/$name.dict" ] || options+=(-dict="$PWD/tests/fuzz/dictionaries/$name.dict")
  (
    [ "$kind" != forks ] || export ASAN_OPTIONS=$ASAN_OPTIONS:replace_intrin=0
    export T6_FUZZ_STATUS=$status
    exec "$program" "${options[@]}" -runs="$wanted" -max_total_time="$limit" -artifact_prefix="$work/$name/" "${inputs[@]}"
  ) >"$log" 2>&1 &
  running=$!
  local every=60
  [ ! -t 2 ] || every=1
  while kill -0 "$running" 2>/dev/null; do
    sleep 0.5
    if [ $((SECONDS - shown)) -ge "$every" ]; then shown=$SECONDS; progress "$status" "$wanted" "$name"; fi
  done
  wait "$running" || code=$?
  running=
  [ ! -t 2 ] || printf '\r\033[K' >&2
  local inputs_run=0 took=0 slowest=0 peak=0 words=
  [ ! -f "$status" ] || read -r inputs_run took slowest peak words <"$status"
  local verdict=0
  if [ "$code" != 0 ]; then
    verdict=$(grep -aoE 'FINDING: .*|SUMMARY: .*' "$log" | head -1)
    verdict=${verdict:-ended with status $code}
  elif [ "$inputs_run" -lt "$wanted" ]; then
    verdict="0, but only $inputs_run of $wanted inputs"
    short+=", $name ($inputs_run of $wanted)"
  fi
  row "$name" "$inputs_run" "$took" "$slowest" $((peak / 1024)) "$verdict${words:+ ($words)}"
  [ "$code" != 0 ] || return 0
  failed=1
  cp "$log" "$findings/$name.log"
  local artifact
  for artifact in "$work/$name"/*; do
    [ -f "$artifact" ] || continue
    cp "$artifact" "$findings/$name-${artifact##*/}"
    printf '  again: cmake --build --preset fuzz --target t6_fuzz && build/fuzz/tests/fuzz/t6_fuzz %s build/fuzz/findings/%s\n' \
      "${options[*]}" "$name-${artifact##*/}"
  done
  printf '  log:   build/fuzz/findings/%s.log\n' "$name"
}

# Must find the planted bug; in a subshell.
self_test() {
  runs=2000000 seconds=60 findings=$work/findings report=
  mkdir -p "$findings"
  rm -rf build/fuzz/corpus/planted
  fuzz planted "$(awk '$1 == "planted" {print $2}' <<<"$targets")" plain
  if [ "$failed" = 1 ] && grep -q heap-buffer-overflow "$findings/planted.log" && ls "$findings"/planted-crash-* >/dev/null 2>&1; then
    printf 'fuzz: the planted bug was found\n'
    exit 0
  fi
  printf 'fuzz: the planted bug was NOT found\n'
  exit 1
}
if [ "$self_test" = yes ]; then self_test; fi
[ "$promise" = no ] || (trap - EXIT; self_test) || exit 1

chosen=0
while read -r name longest kind _; do
  [ "$kind" != planted ] || continue
  [ -z "$only" ] || [[ "$only" == *",$name,"* ]] || continue
  chosen=$((chosen + 1))
  fuzz "$name" "$longest" "$kind"
done <<<"$targets"
[ "$chosen" -gt 0 ] || die "no target is named ${only//,/ }; scripts/fuzz.sh --list names them"
if [ "$promise" = yes ]; then
  judge "$report"
  exit
fi
if [ "$failed" = 1 ]; then
  printf 'fuzz: findings, kept in build/fuzz/findings\n'
  exit 1
fi
printf 'fuzz: %d targets, no findings%s\n' "$chosen" "${short:+; fewer inputs than asked for: ${short#, }}"
[ -z "$short" ] || exit 3
