#!/usr/bin/env bash
# Checks and times the CUDA build on a machine that has a GPU, the CUDA toolkit's libraries and nothing of ours.
#
#   scripts/gpu_check.sh pack [--arch "80;90a"] [--to out/gpu]
#       Where the packages are: builds program and tests for any x86-64 processor of the last ten years, and collects them with
#       the libraries, test data and configs they need in one folder (tens of MB). Needs nvcc, no GPU.
#   scripts/gpu_check.sh run [--bundle out/gpu] [--report DIR] [--parts tests,sanitizer,bench,peers] [--quick]
#       Where the GPU is: runs the CUDA tests, compute-sanitizer, the benchmark table and PyTorch beside it, as far as they are
#       there, and writes DIR/report.md with the raw outputs beside it. Under ten minutes without peers. Exit status 0 only
#       when every test passed.
#
# cuBLASLt and cuDNN are loaded when they are needed: T6_CUBLASLT and T6_CUDNN name their files where they lie in no usual place
# (those of an installed PyTorch are found).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() { printf 'gpu_check: %s\n' "$*" >&2; exit 2; }
say() { printf '== %s  (%ds)\n' "$*" $SECONDS; }

bundle=out/gpu report=out/gpu_report architectures="80;90a" parts=tests,sanitizer,bench,peers quick=no
[ $# -gt 0 ] || { sed -n '2,15s/^# \{0,1\}//p' "$0"; exit 2; }
command=$1
shift
while [ $# -gt 0 ]; do
  case "$1" in
    --arch) architectures=$2; shift 2 ;;
    --to | --bundle) bundle=$2; shift 2 ;;
    --report) report=$2; shift 2 ;;
    --parts) parts=$2; shift 2 ;;
    --quick) quick=yes; shift ;;
    *) die "unknown option $1; see --help" ;;
  esac
done

programs=(t6 tests/t6_tensor_tests tests/t6_ops_tests tests/t6_model_tests tests/t6_train_tests)

pack() {
  cmake -S . -B build/gpu -G Ninja -DCMAKE_BUILD_TYPE=Release -DT6_CUDA=on "-DT6_CUDA_ARCHITECTURES=$architectures" \
    -DT6_NATIVE=OFF -DCMAKE_CXX_FLAGS=-march=x86-64-v3
  cmake --build build/gpu --target "${programs[@]##*/}"
  rm -rf "$bundle"
  mkdir -p "$bundle/bin" "$bundle/lib" "$bundle/data"
  local program
  for program in "${programs[@]}"; do strip -o "$bundle/bin/${program##*/}" "build/gpu/$program"; done
  # Not the C and C++ runtimes and the loader: those of the other machine belong together.
  ldd "$bundle"/bin/* | awk '$3 ~ /^\// {print $3}' | sort -u |
    grep -vE '/(libc|libm|libdl|librt|libpthread|libstdc\+\+|libgcc_s|ld-linux[^/]*)\.so' | xargs -I{} cp -L {} "$bundle/lib/"
  cp -r tests/data/golden "$bundle/data/"
  git describe --always --dirty --abbrev=12 > "$bundle/commit"
  du -sh "$bundle"
}

# The first file named $1 in the places where CUDA's libraries usually lie, an installed PyTorch's among them.
find_library() {
  local site
  for site in $(python3 -c 'import sys; print(*sys.path)' 2>/dev/null) /opt/*/.venv/lib/python3*/site-packages; do
    compgen -G "$site/nvidia/*/lib/$1" && return
    compgen -G "$site/nvidia/$1" && return
  done | head -1
  ldconfig -p | awk -v name="$1" '$1 == name {print $NF; exit}'
}

failed=0
results() { printf '%s\n' "$*" | tee -a "$report/report.md"; }

run_tests() {
  local name status=0
  for name in tensor ops model train; do
    local filter='*'
    [ "$name" = tensor ] && filter='Gpu*'
    [ "$name" = model ] && filter='*Golden*-*F64*'
    [ "$name" = train ] && filter='*GoldenTraining*:*TrainingStep*'
    say "tests of $name"
    status=0
    T6_TEST_DEVICE=cuda timeout 200 "$bundle/bin/t6_${name}_tests" "--gtest_filter=$filter" > "$report/tests_$name.log" 2>&1 || status=$?
    local passed bad
    passed=$(grep -c '^\[       OK' "$report/tests_$name.log" || true)
    bad=$(grep -c '^\[  FAILED  \].*ms)' "$report/tests_$name.log" || true)
    results "| $name | $passed passed, $bad failed, status $status |"
    grep '^\[  FAILED  \]' "$report/tests_$name.log" | sort -u | head -20 || true
    [ "$status" = 0 ] || failed=$((failed + 1))
  done
}

run_sanitizer() {
  local tool=$1 status=0
  command -v compute-sanitizer >/dev/null || { results "| compute-sanitizer | not installed |"; return; }
  # Large cases say nothing more here and take minutes.
  local filter='*-*Bench*:*Heavy*:*LargeProduct*'
  say "compute-sanitizer $tool"
  T6_TEST_DEVICE=cuda timeout 150 compute-sanitizer --tool "$tool" --error-exitcode 9 "$bundle/bin/t6_ops_tests" "--gtest_filter=$filter" \
    > "$report/sanitizer_$tool.log" 2>&1 || status=$?
  results "| compute-sanitizer $tool | status $status: $(grep -E 'ERROR SUMMARY|RACECHECK SUMMARY' "$report/sanitizer_$tool.log" | tail -1 | sed 's/^=* *//') |"
  [ "$status" = 0 ] || failed=$((failed + 1))
}

# kind size micro-batch: all kinds at small; tpa and mha at every size.
configurations() {
  local kind
  for kind in tpa mha tpa_kvonly mqa gqa mla; do echo "$kind small 24"; done
  [ "$quick" = yes ] && return
  for kind in tpa mha; do printf '%s\n' "$kind medium 16" "$kind large 12" "$kind xl 6"; done
}

run_bench() {
  local kind size batch
  configurations | while read -r kind size batch; do
    say "t6 $kind $size, micro-batch $batch"
    "$bundle/bin/t6" bench train --config "configs/t6_${kind}_${size}.yaml" --device cuda --precision bf16 --batch "$batch" --steps 20 \
      --warmup 4 --json > "$report/bench_${kind}_${size}.json" 2> "$report/bench_${kind}_${size}.err" ||
      results "| $kind $size | failed: $(tail -1 "$report/bench_${kind}_${size}.err") |"
  done
  for kind in tpa mha; do
    "$bundle/bin/t6" bench train --config "configs/t6_${kind}_small.yaml" --device cuda --precision bf16 --batch 24 --steps 5 --profile \
      > "$report/profile_${kind}_small.txt" 2>&1 || true
    "$bundle/bin/t6" bench ops --config "configs/t6_${kind}_small.yaml" --device cuda --precision bf16 --batch 24 \
      > "$report/ops_${kind}_small.txt" 2>&1 || true
  done
}

run_peers() {
  python3 -c 'import torch' 2>/dev/null || { results "| PyTorch | not installed |"; return; }
  local kind size batch
  configurations | { [ "$quick" = yes ] && head -2 || cat; } | while read -r kind size batch; do
    say "PyTorch $kind $size"
    timeout 120 python3 bench/pytorch_baseline.py --device cuda --kind "$kind" --size "$size" --precision bf16 --batch "$batch" \
      --steps 20 --warmup 4 --compile > "$report/peer_${kind}_${size}.json" 2> "$report/peer_${kind}_${size}.err" || true
  done
}

run() {
  [ -x "$bundle/bin/t6" ] || die "$bundle holds no bundle; make one with scripts/gpu_check.sh pack on a machine with the packages"
  command -v nvidia-smi >/dev/null || die "no nvidia-smi here: is there a GPU and its driver?"
  mkdir -p "$report"
  : > "$report/report.md"
  export LD_LIBRARY_PATH=$PWD/$bundle/lib:${LD_LIBRARY_PATH:-} T6_GOLDEN_DIR=$PWD/$bundle/data/golden
  export T6_CUBLASLT=${T6_CUBLASLT:-$(find_library libcublasLt.so.13)} T6_CUDNN=${T6_CUDNN:-$(find_library libcudnn.so.9)}
  results "# $(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | head -1)"
  results ""
  results "Commit $(cat "$bundle/commit"). cuBLASLt: ${T6_CUBLASLT:-not found}. cuDNN: ${T6_CUDNN:-not found}."
  results ""
  results "| check | result |"
  results "|---|---|"
  [[ ,$parts, != *,tests,* ]] || run_tests
  [[ ,$parts, != *,sanitizer,* ]] || { run_sanitizer memcheck; run_sanitizer racecheck; }
  [[ ,$parts, != *,bench,* ]] || run_bench
  [[ ,$parts, != *,peers,* ]] || run_peers
  if command -v python3 >/dev/null; then
    results ""
    python3 bench/gpu_table.py "$report" | tee -a "$report/report.md"
  fi
  say "report in $report/report.md"
  [ "$failed" = 0 ]
}

case "$command" in
  pack) pack ;;
  run) run ;;
  -h | --help) sed -n '2,15s/^# \{0,1\}//p' "$0" ;;
  *) die "unknown command $command; expected pack or run" ;;
esac
