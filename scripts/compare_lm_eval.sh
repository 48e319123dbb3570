#!/usr/bin/env bash
# Scores of one model by t6 and by lm-evaluation-harness, on the same items, in one table; fails where they differ by
# more than 0.1 points.
#
#   scripts/compare_lm_eval.sh --data DIR [--run RUN] [--tasks arc_easy,piqa,...] [--limit N] [--shots N] [--t6 PROGRAM]
#
#   --data DIR    files of the tasks, .jsonl or hellaswag_val_full.txt (docs/scores.md); sciq and mmlu are made of ARC's
#                 questions where they are not there
#   --run RUN     what is scored, after t6 export; without it a small one that is made for it and has seen the answers
#   --steps N     that it is trained for (default 300)
#   --tasks       all that t6 has without it
#   --limit N     the first N items of each task (default 200)
#   --shots N     examples before each question (default 0), the same for both
#
# The harness asks by its own task definitions; only where the items come from is replaced. It comes from PyPI into
# build/interop/lm_eval, beside the libraries of scripts/interop.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

t6=build/cpu/t6 data= more=()
while [ $# -gt 0 ]; do
  case "$1" in
    --data) data=$(realpath "${2:?"--data needs a folder"}"); shift ;;
    --run) more+=(--run "${2:?"--run needs a run folder"}"); shift ;;
    --t6) t6=${2:?"--t6 needs a program"}; shift ;;
    --tasks | --limit | --shots | --steps) more+=("$1" "${2:?"$1 needs a value"}"); shift ;;
    -h | --help) sed -n '2,16{s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    *) echo "compare_lm_eval: unknown option $1; see --help" >&2; exit 2 ;;
  esac
  shift
done
[ -n "$data" ] || { echo "compare_lm_eval: --data DIR is missing; see --help" >&2; exit 2; }
[ -x "$t6" ] || { echo "compare_lm_eval: $t6 is missing; build target t6 of preset cpu" >&2; exit 2; }

place=${T6_INTEROP_ENVIRONMENTS:-build/interop}
scripts/interop.sh --install lm_eval
out=build/interop/lm_eval_data
rm -rf "$out"
mkdir -p "$out"
export OMP_WAIT_POLICY=passive HF_MODULES_CACHE=$PWD/build/interop/modules HF_HOME=$PWD/build/interop/hf_home
"$place/lm_eval/bin/python" tests/interop/compare_lm_eval.py --t6 "$(realpath "$t6")" \
  --data "$data" --out "$out" ${more[@]+"${more[@]}"}
