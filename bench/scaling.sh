#!/usr/bin/env bash
# Measures training on several CPU ranks of this machine, and sets what t6 plan predicts beside it.
#
#   bench/scaling.sh [--ranks "1 2 4"] [--threads N] [--config FILE] [--steps N] [--global-batch N] [--micro-batch N] [--zero]
#                    [--rounds N] [--t6 PROGRAM] [--launch "mpirun -n %n ..."] [--out FILE]
#
# Every rank has --threads threads (1), whatever the number of ranks; the global batch is the same for all. Each round
# measures, for every number of ranks n:
#   alone   n processes side by side, each training on its share of the batch and exchanging nothing
#   ranks   n ranks of one run
# What ranks take longer than alone is the exchange, as cores, memory and heat are shared alike: its part of the step is
# "exposed". Efficiency is tokens/s over n times those of one rank; with more ranks x threads than cores it says little.
# Step times are medians of timing.jsonl over the steps from the third on and over the rounds (3). The prediction gets the time
# alone as its pace, and the bandwidth of an MPI all-reduce measured here.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() { printf 'scaling: %s\n' "$*" >&2; exit 2; }
say() { printf 'scaling: %s\n' "$*" >&2; }

ranks="1 2 4" threads=1 config=configs/demo_tpa.yaml steps=12 global_batch=16 micro_batch=4 zero=no rounds=3 t6=build/cpu/t6
launch="" out=""
while [ $# -gt 0 ]; do
  case "$1" in
    --ranks | --threads | --config | --steps | --global-batch | --micro-batch | --rounds | --t6 | --launch | --out)
      [ $# -gt 1 ] || die "$1 wants a value" ;;&
    --ranks) ranks=$2; shift 2 ;;
    --threads) threads=$2; shift 2 ;;
    --config) config=$2; shift 2 ;;
    --steps) steps=$2; shift 2 ;;
    --global-batch) global_batch=$2; shift 2 ;;
    --micro-batch) micro_batch=$2; shift 2 ;;
    --rounds) rounds=$2; shift 2 ;;
    --t6) t6=$2; shift 2 ;;
    --launch) launch=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    --zero) zero=yes; shift ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    *) die "unknown option $1; see --help" ;;
  esac
done
[ -x "$t6" ] || die "$t6 is missing; build it with: cmake --preset cpu && cmake --build --preset cpu --target t6"
t6=$(realpath "$t6")
[ "$steps" -ge 5 ] || die "--steps: expected at least 5, got $steps"
for n in $ranks; do
  [ $((global_batch % (n * micro_batch))) = 0 ] || die "--global-batch $global_batch does not divide into $n ranks x micro-batches of $micro_batch"
done
command -v mpirun >/dev/null && command -v mpicxx >/dev/null || die "mpirun and mpicxx are needed: scripts/setup.sh, or Debian's openmpi-bin and libopenmpi-dev"
# Ranks wait without spinning, as they may share cores; mpirun starts as root in containers, and more ranks than cores.
export OMP_WAIT_POLICY=passive OMP_NUM_THREADS=$threads OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
mpi=(mpirun --oversubscribe --bind-to none)
if [ -z "$launch" ]; then
  if "$t6" launch --help >/dev/null 2>&1; then launch="$t6 launch --nproc %n -- train"; else launch="${mpi[*]} -n %n $t6 train"; fi
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mpicxx -O2 -o "$folder/allreduce" bench/allreduce.cpp
vocabulary=$("$t6" info "$config" --json | python3 -c 'import json,sys; print(json.load(sys.stdin)["models"][0]["vocab_size"])')
context=$("$t6" info "$config" --json | python3 -c 'import json,sys; print(json.load(sys.stdin)["models"][0]["context"])')
# Text enough for the windows of one step, again and again.
for ((i = 0; i < 20; ++i)); do cat README.md docs/*.md; done > "$folder/text.txt"
"$t6" tokenizer train --input "$folder/text.txt" --vocab "$((vocabulary < 1000 ? vocabulary : 1000))" --out "$folder/t.tiktoken" > "$folder/data.log" 2>&1 &&
  "$t6" tokenize --tokenizer "$folder/t.tiktoken" --out "$folder/text" "$folder/text.txt" >> "$folder/data.log" 2>&1 ||
  die "no tokens: $(tail -1 "$folder/data.log")"

keys=(--config "$config" "data.train=$folder/text_train_*.bin" "data.validation=[]" "data.tokenizer=$folder/t.tiktoken"
  "train.steps=$steps" schedule.warmup_steps=1 schedule.decay_steps=0 "train.micro_batch=$micro_batch" checkpoint.every=0 logging.tensorboard=false run.device=cpu "run.threads=$threads")
[ "$zero" = no ] || keys+=(optimizer.zero=true)

# Adds the median step of a run's timing.jsonl, in ms, from its third step on, to a file.
median_step() {
  python3 -c '
import json, statistics, sys
ms = [r["ms"] for r in map(json.loads, open(sys.argv[1])) if r["kind"] == "train" and r["step"] > 2]
print(statistics.median(ms))' "$1/timing.jsonl" >> "$2"
}
alone() { # n
  local i pids=()
  for ((i = 0; i < $1; ++i)); do
    "$t6" train "${keys[@]}" "train.global_batch=$((global_batch / $1))" "run.dir=$folder/alone_$1_$i" > "$folder/alone_$1_$i.log" 2>&1 &
    pids+=($!)
  done
  for i in "${!pids[@]}"; do wait "${pids[$i]}" || die "alone: $(tail -1 "$folder/alone_$1_$i.log")"; done
  for ((i = 0; i < $1; ++i)); do median_step "$folder/alone_$1_$i" "$folder/alone_$1.ms"; done
  rm -rf "$folder"/alone_"$1"_*
}
together() { # n
  # shellcheck disable=SC2086  # words of a command
  ${launch//%n/$1} "${keys[@]}" "train.global_batch=$global_batch" "run.dir=$folder/ranks_$1" > "$folder/ranks_$1.log" 2>&1 ||
    die "$1 ranks: $(tail -3 "$folder/ranks_$1.log")"
  median_step "$folder/ranks_$1" "$folder/ranks_$1.ms"
  rm -rf "$folder/ranks_$1"
}
gradient_mib=$("$t6" plan --config "$config" --cpu --bus-gbs 1 --micro-ms 1 --ranks 1 --json | python3 -c 'import json,sys; print(max(1, round(json.load(sys.stdin)["gradient_bytes"] / 2**20)))')
for ((round = 1; round <= rounds; ++round)); do
  for n in $ranks; do
    say "round $round of $rounds: $n"
    alone "$n"
    together "$n"
    [ "$n" = 1 ] || "${mpi[@]}" -n "$n" "$folder/allreduce" "$((gradient_mib < 32 ? gradient_mib : 32))" >> "$folder/bus_$n"
  done
done

median() { python3 -c 'import statistics, sys; print(statistics.median(float(l.split()[-1]) for l in open(sys.argv[1])))' "$1"; }
table() {
  local n alone_ms ranks_ms bus options first=
  echo "$(basename "$config" .yaml), $global_batch windows of $context tokens a step in micro-batches of $micro_batch, $threads thread(s) a rank, $(nproc --all) cores ($(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1)), commit $(git describe --always --dirty --abbrev=12), sharded optimizer: $zero"
  echo
  echo "| ranks | step | tokens/s | efficiency | alone | exposed | all-reduce | predicted step | tokens/s | exposed | measured over predicted |"
  echo "|---|---|---|---|---|---|---|---|---|---|---|"
  for n in $ranks; do
    alone_ms=$(median "$folder/alone_$n.ms") ranks_ms=$(median "$folder/ranks_$n.ms")
    bus=$([ "$n" = 1 ] && echo 1 || median "$folder/bus_$n")
    options=(--cpu --ranks "$n" --bus-gbs "$bus" --micro-batch "$micro_batch" --json "train.global_batch=$global_batch"
      --micro-ms "$(python3 -c "print($alone_ms / ($global_batch // ($n * $micro_batch)))")")
    [ "$zero" = no ] || options+=(--zero)
    "$t6" plan --config "$config" "${options[@]}" > "$folder/plan_$n.json"
    first=${first:-$(python3 -c "print($global_batch * $context / $ranks_ms * 1e3 / $n)")}
    python3 - "$folder/plan_$n.json" "$n" "$ranks_ms" "$alone_ms" "$bus" "$first" "$((global_batch * context))" <<'PY'
import json, sys
row = json.load(open(sys.argv[1]))["rows"][0]
n, ranks_ms, alone_ms, bus, first, tokens = int(sys.argv[2]), *map(float, sys.argv[3:8])
rate = tokens / ranks_ms * 1e3
print(f"| {n} | {ranks_ms:.1f} ms | {rate:,.0f} | {100 * rate / n / first:.0f} % | {alone_ms:.1f} ms "
      f"| {100 * (1 - alone_ms / ranks_ms):.1f} % | {'' if n == 1 else f'{bus:.2f} GB/s'} "
      f"| {row['step_ms']:.1f} ms | {row['tokens_per_second']:,.0f} | {100 * row['exposed_share']:.1f} % | {ranks_ms / row['step_ms']:.2f} |")
PY
  done
}
if [ -n "$out" ]; then table | tee "$out"; else table; fi
