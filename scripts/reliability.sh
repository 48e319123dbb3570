#!/usr/bin/env bash
# Measures the promises of docs/reliability.md, R1 to R26: one line each, with its figure. Exit code 1 when one fails.
#
#   scripts/reliability.sh                  the full figures of all promises
#   scripts/reliability.sh R1 R5            of these
#   scripts/reliability.sh --quick          the quick form, as the ordinary tests take it
#   scripts/reliability.sh --report FILE    also writes the table in FILE; promises not measured now keep their rows
#   scripts/reliability.sh --check          measures nothing: has every promise its tests?
#   scripts/reliability.sh --build DIR      test programs of this build (default build/cpu, built first where needed)
#
# A promise with a test that was skipped, or with fewer inputs than it speaks of, is PARTLY shown and no success either.
# Which tests measure a promise stands in tests/reliability/promises.txt. Times are those of a machine that does little
# else; what fails prints what its tests said.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

build='' report='' form=full check=no
chosen=()
while [ $# -gt 0 ]; do
  case "$1" in
    --quick) form=quick ;;
    --check) check=yes ;;
    --report) report=${2:?"--report needs a file"}; shift ;;
    --build) build=${2:?"--build needs a folder"}; shift ;;
    -h | --help) sed -n '2,13{s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    R[1-9] | R1[0-9] | R2[0-6]) chosen+=("$1") ;;
    *) echo "scripts/reliability.sh: expected a promise R1 to R26 or an option of --help, got '$1'" >&2; exit 2 ;;
  esac
  shift
done

# ---- The map: promises in order, their titles, and their tests as "program filter".
promises=() missing=()
declare -A title tests seconds
while read -r first rest; do
  case "$first" in
    '' | '#'*) ;;
    missing) read -ra missing <<<"$rest" ;;
    R*) promises+=("$first"); title[$first]=$rest ;;
    *)
      read -r filter duration <<<"$rest"
      tests[${promises[-1]}]+="$first $filter"$'\n'
      seconds["$first $filter"]=$duration
      ;;
  esac
done <tests/reliability/promises.txt

if [ -z "$build" ]; then
  build=build/cpu
  [ $check = yes ] || { cmake --preset cpu >/dev/null && cmake --build --preset cpu >/dev/null; }
fi
list_of() { "$build/tests/$1" --gtest_filter="$2" --gtest_list_tests | grep -c '^  ' || true; }

# ---- Every promise has tests that exist, and every pattern of a filter finds one.
faults=0
complain() { echo "tests/reliability/promises.txt: $*" >&2; faults=$((faults + 1)); }
for n in $(seq 26); do
  in_map=no in_missing=no
  [ -n "${title[R$n]:-}" ] && in_map=yes
  [[ " ${missing[*]-} " == *" R$n "* ]] && in_missing=yes
  [ "$in_map$in_missing" = nono ] && complain "R$n has no test"
  [ "$in_map$in_missing" = yesyes ] && complain "R$n has tests and is called missing"
done
for promise in "${promises[@]}"; do
  [ -n "${tests[$promise]:-}" ] || complain "$promise names no test"
  while read -r program filter; do
    [ -n "$program" ] || continue
    if [[ $program == scripts/* ]]; then
      [ -x "$program" ] || complain "$promise: no program $program"
      continue
    fi
    if [ ! -x "$build/tests/$program" ]; then complain "$promise: no program $build/tests/$program"; continue; fi
    IFS=: read -ra patterns <<<"$filter"
    for pattern in "${patterns[@]}"; do
      [ "$(list_of "$program" "$pattern")" -gt 0 ] || complain "$promise: $program has no test $pattern"
    done
  done <<<"${tests[$promise]:-}"
done
[ $faults -eq 0 ] || exit 1
if [ $check = yes ]; then
  echo "${#promises[@]} promises have tests; without: ${missing[*]-none}"
  exit 0
fi

# ---- What to run: each set of tests once.
[ ${#chosen[@]} -gt 0 ] || chosen=("${promises[@]}")
runs=()
for promise in "${chosen[@]}"; do
  [ -n "${tests[$promise]:-}" ] || { echo "$promise has no test yet" >&2; exit 2; }
  while read -r one; do
    [ -z "$one" ] || [[ " ${runs[*]-} " == *" ${one// /|} "* ]] || runs+=("${one// /|}")
  done <<<"${tests[$promise]}"
done

say_time() { if [ "$1" -ge 60 ]; then printf '%dm%02ds' $(($1 / 60)) $(($1 % 60)); else printf '%ds' "$1"; fi; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive} T6_RELIABILITY=$form T6_BUILD=$build
total=0 done_weight=0 begin=$SECONDS
for run in "${runs[@]}"; do total=$((total + ${seconds[${run//|/ }]})); done
declare -A passed took skipped
number=0
for run in "${runs[@]}"; do
  number=$((number + 1))
  program=${run%%|*} filter=${run#*|}
  left=''
  if [ $done_weight -gt 0 ]; then left=", about $(say_time $(((total - done_weight) * (SECONDS - begin) / done_weight))) left"; fi
  echo "[$number/${#runs[@]}] $program $filter (since $(say_time $((SECONDS - begin)))$left)" >&2
  start=$SECONDS
  output=$scratch/$number
  if [[ $program == scripts/* ]]; then command=("$program" "$filter"); else
    command=("$build/tests/$program" --gtest_filter="$filter" --gtest_brief=1)
  fi
  status=0
  "${command[@]}" >"$output" 2>&1 || status=$?
  skipped[$run]=$(sed -n 's/^\[  SKIPPED \] \([0-9]*\) tests\{0,1\}[,.].*/\1/p' "$output")
  case "$program $status" in
    *' 0') passed[$run]=PASS ;;
    'scripts/'*' 3') passed[$run]=PARTLY ;;
    *) passed[$run]=FAIL; grep -v '^\[promise\]' "$output" | tail -n 60 >&2 || true ;;
  esac
  if [ -n "${skipped[$run]}" ] && [ ${passed[$run]} = PASS ]; then passed[$run]=PARTLY; fi
  took[$run]=$((SECONDS - start))
  done_weight=$((done_weight + ${seconds["$program $filter"]}))
done

# ---- One line a promise: its figures, from the tests that are its own.
commit=$(git describe --always --dirty --abbrev=10 2>/dev/null || echo unknown)
day=$(date -u +%Y-%m-%d)
rows=$scratch/rows
: >"$rows"
failed=0
for promise in "${chosen[@]}"; do
  verdict=PASS figures='' time=0 left_out=0
  number=0
  for run in "${runs[@]}"; do
    number=$((number + 1))
    [[ $'\n'${tests[$promise]} == *$'\n'"${run//|/ }"$'\n'* ]] || continue
    [ $verdict = FAIL ] || [ ${passed[$run]} = PASS ] || verdict=${passed[$run]}
    left_out=$((left_out + ${skipped[$run]:-0}))
    time=$((time + ${took[$run]}))
    figures+=$(sed -n "s/^\[promise\] $promise \(.*\)$/\1; /p" "$scratch/$number" | tr -d '\n')
  done
  figures=${figures%; }
  # Tests that ended before the figure measured nothing.
  [ -n "$figures" ] || { verdict=FAIL; figures="nothing was measured"; }
  [ $left_out = 0 ] || figures+="; $left_out tests were skipped"
  [ $verdict = PASS ] || failed=$((failed + 1))
  printf '%-4s %s: %s   %s  (%s)\n' "$promise" "${title[$promise]}" "$figures" "$verdict" "$(say_time $time)"
  printf '| %s | %s | %s | %s | %s | %s, %s |\n' "$promise" "${title[$promise]}" "$figures" "$verdict" \
    "$(say_time $time)" "$commit" "$day" >>"$rows"
done

if [ -n "$report" ]; then
  # Rows of promises that were not measured now stay, with the commit and day that they were measured at.
  if [ -f "$report" ]; then
    while IFS= read -r line; do
      name=$(sed -n 's/^| \(R[0-9]*\) .*/\1/p' <<<"$line")
      [ -z "$name" ] || grep -q "^| $name " "$rows" || printf '%s\n' "$line" >>"$rows"
    done <"$report"
  fi
  {
    echo '# Reliability: promises and their measured figures'
    echo
    echo "Written by \`scripts/reliability.sh$([ $form = full ] || echo ' --quick') --report $report\`, in one run or several: each row comes"
    echo 'from tests that every test run has in their quick form, repeated as often as the promise says.'
    echo '`tests/reliability/promises.txt` names the tests of each.'
    echo
    echo "Machine: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) processors, $(awk '/MemTotal/ {printf "%.0f GiB", $2 / 1048576}' /proc/meminfo) of memory, Linux $(uname -r)."
    echo
    echo '| | promise | measured | | time | at commit |'
    echo '|---|---|---|---|---|---|'
    sort -t R -k 2n "$rows"
  } >"$report.tmp"
  mv "$report.tmp" "$report"
fi
[ $failed -eq 0 ] || { echo "$failed of ${#chosen[@]} promises were not shown in full" >&2; exit 1; }
