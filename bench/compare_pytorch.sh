#!/usr/bin/env bash
# Times a training step of t6 and of PyTorch on this machine's CPU, in turns, and prints a table.
#
#   bench/compare_pytorch.sh [--rounds N] [--batch B] [--steps N] [--t6 PROGRAM] [kind...]     (kinds: tpa mha)
#
# PyTorch comes from PyPI into build/pytorch, once; it is a tool of this comparison and no dependency of t6.
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=3 batch=4 steps=2 t6=build/cpu/t6 kinds=()
while [ $# -gt 0 ]; do
  case "$1" in
    --rounds) rounds=$2; shift 2 ;;
    --batch) batch=$2; shift 2 ;;
    --steps) steps=$2; shift 2 ;;
    --t6) t6=$2; shift 2 ;;
    -h | --help) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) echo "unknown option $1; see --help" >&2; exit 2 ;;
    *) kinds+=("$1"); shift ;;
  esac
done
[ ${#kinds[@]} -gt 0 ] || kinds=(tpa mha)
[ -x "$t6" ] || { echo "$t6 is missing; build it with: cmake --preset cpu && cmake --build --preset cpu --target t6" >&2; exit 2; }

python=${T6_PYTORCH:-build/pytorch/bin/python}
if ! "$python" -c 'import torch' 2>/dev/null; then
  echo "installing PyTorch into build/pytorch (about 5 GB on disk)" >&2
  python3 -m venv build/pytorch
  build/pytorch/bin/pip install --quiet torch numpy
  python=build/pytorch/bin/python
fi

results=$(mktemp)
trap 'rm -f "$results"' EXIT
run_peer() { "$python" bench/pytorch_baseline.py --device cpu --kind "$1" --precision "$2" --batch "$batch" --steps "$steps" "${@:3}"; }
for ((round = 1; round <= rounds; ++round)); do
  for kind in "${kinds[@]}"; do
    for precision in f32 bf16; do
      echo "round $round of $rounds: $kind $precision" >&2
      "$t6" bench train --config "configs/t6_${kind}_small.yaml" --precision "$precision" --batch "$batch" --steps "$steps" --json |
        "$python" -c 'import json, sys; r = json.load(sys.stdin); r["framework"] = "t6"; r["kind"] = sys.argv[1]; print(json.dumps(r))' \
          "$kind" >> "$results"
      run_peer "$kind" "$precision" >> "$results"
      run_peer "$kind" "$precision" --compile >> "$results"
    done
  done
done

"$python" - "$results" <<'TABLE'
import json, statistics, sys

rows = {}
for line in open(sys.argv[1]):
    r = json.loads(line)
    rows.setdefault((r["kind"], r["precision"]), {}).setdefault(r["framework"], []).append(r["tokens_per_second"])
print("| model | precision | program | tokens/s, median (lowest .. highest) | t6 is |")
print("|---|---|---|---|---|")
for (kind, precision), frameworks in rows.items():
    ours = statistics.median(frameworks["t6"])
    for name, rates in frameworks.items():
        median = statistics.median(rates)
        ratio = "" if name == "t6" else f"{ours / median:.2f} x"
        print(f"| {kind} small | {precision} | {name} | {median:.0f} ({min(rates):.0f} .. {max(rates):.0f}) | {ratio} |")
TABLE
