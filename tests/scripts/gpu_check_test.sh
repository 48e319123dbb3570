#!/usr/bin/env bash
# scripts/gpu_check.sh with a bundle, a GPU and a toolkit that are shell scripts: what it runs in which order, what its report
# says and how it ends. Needs CMake, to pack, and nothing else that the script itself does not need.
#   tests/scripts/gpu_check_test.sh [SCRIPT IN ITS PLACE]
# shellcheck disable=SC2016  # the fakes expand these, not we
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
script=${1:-$PWD/scripts/gpu_check.sh}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failures=0
wrong() { printf 'FAILED in "%s": %s\n' "$case" "$*"; failures=$((failures + 1)); }

# --- what stands in for the machine. Every fake writes its name and words into $FAKE_LOG.
mkdir -p "$folder"/{bin,cuda/lib64,site/nvidia/one/lib,site/nvidia/two/lib,bundle/bin,bundle/lib,bundle/data/golden,packed}
touch "$folder"/site/nvidia/{one,two}/lib/{libcudnn.so.9,libnvrtc.so.13} "$folder/cuda/lib64/libcublasLt.so.13"
fake() { # FILE, whose body comes from standard input
  { printf '#!/usr/bin/env bash\nprintf "%%s %%s\\n" "${0##*/}" "$*" >> "$FAKE_LOG"\n'; cat; } > "$1"
  chmod +x "$1"
}
fake "$folder/bin/nvidia-smi" <<'E2'
[ -z "${FAKE_NO_GPU:-}" ] || exit 9
case "$*" in
  *compute_cap*) echo "${FAKE_CAPABILITY:-9.0}" ;;
  *) echo "NVIDIA H100, 580, 81559 MiB" ;;
esac
E2
fake "$folder/bin/ldconfig" <<< 'exit 1'
fake "$folder/bin/nvcc" <<< 'while [ "$1" != -o ]; do shift; done; printf "exit 9\n" > "$2"; chmod +x "$2"'
real_python=$(command -v python3 || true)
fake "$folder/bin/python3" <<E2
[ -z "\${FAKE_NO_PYTHON:-}" ] || exit 127
case "\$*" in
  *sys.path*) echo "$folder/site $folder/nowhere" ;;
  bench/gpu_table.py*) echo "| table of \$(cd "\$2" && echo bench_*.json peer_*.json) |" ;;
  bench/pytorch_baseline.py*) [ -z "\${FAKE_NO_COMPILER:-}" ] || [[ \$* != *--compile* ]] || { echo no compiler >&2; exit 1; }
    [ -z "\${FAKE_NO_WHOLE:-}" ] || [[ \$* != *"--compile model"* ]] || { echo too large >&2; exit 1; }
    echo '{}' ;;
esac
E2
fake "$folder/bin/compute-sanitizer" <<'E2'
echo "T6_ATTENTION=${T6_ATTENTION:-}" >> "$FAKE_LOG"
while [[ $1 == --* ]]; do shift 2; done
case "$1" in *planted) exit "${FAKE_PLANTED:-9}" ;; esac
"$@"
[ -z "${FAKE_RACE:-}" ] || { echo "========= Error: Race reported between Write access and Read access"; exec sleep 30; }
echo "========= ERROR SUMMARY: 0 errors"
E2
fake "$folder/bundle/bin/t6" <<'E2'
[ "$1 $2" != "bench train" ] || echo "T6_ATTENTION=$T6_ATTENTION" >> "$FAKE_LOG"
case "$*" in
  ${FAKE_HANGS:-nothing}) exec sleep 30 ;;
  *mqa_small*) [ -z "${FAKE_REFUSES:-}" ] || [ "$T6_ATTENTION" = auto ] || { echo "t6: cuDNN does not take it" >&2; exit 2; } ;;
esac
case "$*" in
  --version) echo "t6 of a test" ;;
  train*) echo "step 30  validation loss  4.5" ;;
  "bench train"*--profile*--json*) echo '{"measured_gflops": 790000.5, "measured_gigabytes_per_second": 3000.25}' ;;
  "bench train"*--json*) # as long as the program's, of which this is a part
    cat <<JSON
{
  "model": {
    "attention": "tpa"
  },
  "tokens_per_second": 401234.56,
  "mfu_causal": 0.3671,
  "peak_memory_bytes": 10737418240,
  "estimated_memory_bytes": ${FAKE_ESTIMATE:-11000000000},
  "attention": {
    "backend": "cuDNN",
    "forward": "cuDNN",
    "backward": "own kernels"
  }
}
JSON
    ;;
  *--json*) echo '{}' ;;
esac
E2
for name in tensor ops model; do
  fake "$folder/bundle/bin/t6_${name}_tests" <<'E2'
[[ $* != *--gtest_list_tests* ]] || { printf 'Swiglu.\n  One\nKinds/Norm.\n  Two/0  # GetParam() = 1\n'; exit 0; }
echo "device $T6_TEST_DEVICE, program ${T6_TEST_PROGRAM:-}" >> "$FAKE_LOG"
echo "[       OK ] A.B (1 ms)"
case "${0##*/}" in
  ${FAKE_FAILS:-nothing}) echo "[  FAILED  ] A.C (1 ms)"; exit 1 ;;
  ${FAKE_SKIPS:-nothing}) printf 'x.cpp:1: Skipped\nneeds 2 GPUs\n[  SKIPPED ] A.D (0 ms)\n' ;;
esac
E2
done
printf 'tensor Gpu*\nops *\nmodel *Golden*-*F64*\n' > "$folder/bundle/filters"
echo abc > "$folder/bundle/commit"
echo 90a > "$folder/bundle/architectures"
echo 13 > "$folder/bundle/cuda"
touch "$folder/cuda/lib64/libcublasLt.so.12"
(cd "$folder/bundle" && cmake -E tar cJf "$folder/packed/bundle.tar.xz" bin lib data filters commit architectures cuda)

export FAKE_LOG=$folder/log CUDA_HOME=$folder/cuda PATH=$folder/bin:$PATH
unset T6_CUDNN T6_CUBLASLT T6_ATTENTION T6_TEST_DEVICE

# check STATUS [VARIABLE=VALUE...] [OPTIONS...]: a run, which must end with that status.
check() {
  local expected=$1 got=0 settings=()
  shift
  while [[ ${1:-} == FAKE_* ]]; do settings+=("$1"); shift; done
  rm -rf "$folder/report" "$FAKE_LOG"
  env "${settings[@]}" "$script" run --bundle "$folder/packed" --report "$folder/report" "$@" > "$folder/out" 2>&1 || got=$?
  [ "$got" = "$expected" ] || { wrong "status $got, expected $expected"; cat "$folder/out"; }
}
says() { grep -qF -- "$1" "$folder/report/report.md" || { wrong "the report lacks '$1':"; cat "$folder/report/report.md"; }; }
# runs WORDS...: that the log has these, one after the other.
runs() {
  local at=0 word line
  for word in "$@"; do
    line=$(tail -n +$((at + 1)) "$FAKE_LOG" | grep -nF -m1 -- "$word" || true)
    [ -n "$line" ] || { wrong "the log lacks '$word' after line $at:"; cat "$FAKE_LOG"; return; }
    at=$((at + ${line%%:*}))
  done
}

case="find_library: one line, always the first"
sed -n '/^find_library() {/,/^}$/p' "$script" > "$folder/function.sh"
for ((i = 0; i < 100; ++i)); do
  for name in libcudnn.so.9 'libnvrtc.so.*' libcublasLt.so.13 libnone.so; do
    bash -c 'set -euo pipefail; . "$1"; find_library "$2"' - "$folder/function.sh" "$name"
  done
done 2>&1 | sort | uniq -c | sed 's/^ *//' | sort > "$folder/found" || true
printf '100 %s\n' "" "$folder/cuda/lib64/libcublasLt.so.13" "$folder"/site/nvidia/one/lib/{libcudnn.so.9,libnvrtc.so.13} | sort > "$folder/expected"
diff -b "$folder/expected" "$folder/found" || wrong "not 100 times the same"

case="everything passes"
check 0
says "All passed."
says "# NVIDIA H100"
says "| tests of model | 1 passed, 0 failed, 0 skipped |"
says "| use of mla |"
says "validation loss 4.5, resumed"
says "bench_tpa_small.no_graph.json"
says "| memcheck of a planted error | found |"
[ "$(grep -c 'exitcode 9 .*/planted' "$FAKE_LOG")" = 2 ] || wrong "the planted errors were looked for more than once"
says "| memcheck of small shapes | 1 tests, ERROR SUMMARY: 0 errors |"
says "| racecheck Kinds/Norm | 1 tests, ERROR SUMMARY: 0 errors |"
runs "t6_tensor_tests --gtest_filter=Gpu*" "device cuda, program /" "t6_model_tests --gtest_filter=*Golden*-*F64*" \
  "t6_ops_tests --gtest_filter=*" "--kernel-name kernel_substring=2t64cuda --error-exitcode 9" "/planted racing" "--tool memcheck" "T6_ATTENTION=own" \
  "t6_ops_tests --gtest_filter=*-*Bench" "--tool racecheck" "t6_tpa_small.yaml" "T6_ATTENTION=cudnn" "t6_mha_small.yaml" \
  "t6_tpa_small.yaml train.cuda_graph=false --device cuda --precision bf16 --batch 24 --micro-steps 5" "--kind tpa --size small" "--kind mha --size small" "t6_mqa_small.yaml" "t6_mha_xl.yaml" \
  "--profile" "bench ops" "bench decode" "--kind mla --size small" "--kind mha --size xl" "tokenizer train" "generate" "--tool memcheck" \
  "T6_ATTENTION=own" "--gtest_filter=Swiglu.*-" "AttentionBackend" "--tool racecheck"
# As large and as many as in the configs on the GPUs of the published runs, by ours and by the peer.
for counts in "small 24 5" "medium 20 3" "large 15 4" "xl 6 10"; do
  read -r size batch micro_steps <<< "$counts"
  grep -q "micro_batch: $batch\$" "configs/t6_tpa_$size.yaml" || wrong "the config of $size has another micro-batch than $batch"
  grep -q "t6_mha_$size.yaml .*--batch $batch --micro-steps $micro_steps " "$FAKE_LOG" || wrong "bench of $size is not $counts"
  grep -q -- "--size $size .*--batch $batch --accumulate $micro_steps " "$FAKE_LOG" || wrong "the peer of $size is not $counts"
done
[ "$(ls -A "$folder/report")" = $'report.md\nreport.tar.gz' ] || wrong "the report's folder has $(ls -A "$folder/report")"
tar -tzf "$folder/report/report.tar.gz" > "$folder/list"
for name in bench_tpa_xl.json peer_mha_small.json tests_ops.log use/gqa.3_eval.out; do
  grep -qx "./$name" "$folder/list" || wrong "report.tar.gz lacks $name"
done
! grep -E 'inductor|\.yaml|\.tiktoken' "$folder/list" || wrong "report.tar.gz has what is no report"

case="what fails is said and counted"
check 1 FAKE_FAILS='t6_model*' FAKE_SKIPS='t6_tensor*' FAKE_REFUSES=1 FAKE_NO_COMPILER=1 --kinds tpa,mqa --sizes small --parts tests,bench,peers
says "| tests of model | FAILED: status 1: 1 passed, 1 failed, 0 skipped |"
says "    [  FAILED  ] A.C"
says "skipped in tensor: needs 2 GPUs"
says "| mqa small | FAILED: status 2: t6: cuDNN does not take it |"
says "| mqa small, without insisting on cuDNN | 401235 tokens/s, MFU 36.7 %, 10.0 GiB (estimate 10.2), attention forward on cuDNN, "
says "| PyTorch tpa small | left out: it failed with status 1: no compiler |"
says "| PyTorch tpa small | not compiled |"
says "| PyTorch tpa small, compiled as a whole | it failed with status 1: no compiler |"
! grep -q -- "--kind mqa .*--compile model" "$FAKE_LOG" || wrong "a model that does not lead was compiled as a whole"
says "2 checks failed, 2 were left out."

case="PyTorch is compiled as a whole, or by blocks"
check 0 --parts peers --kinds tpa,mha,mqa --sizes small
says "| PyTorch tpa small | compiled as a whole |"
says "| PyTorch mha small | compiled as a whole |"
says "| PyTorch mqa small | compiled by blocks |"
check 0 FAKE_NO_WHOLE=1 --parts peers --kinds tpa,mha --sizes small
says "| PyTorch tpa small, compiled as a whole | it failed with status 1: too large |"
says "| PyTorch tpa small | compiled by blocks |"
says "| PyTorch mha small | compiled by blocks |"
[ "$(grep -c -- '--compile model' "$FAKE_LOG")" = 1 ] || wrong "compiling as a whole was tried again"

case="kernels for another card"
for capability in 8.0 10.0; do
  check 2 FAKE_CAPABILITY=$capability --parts bench --kinds mla --sizes small
  grep -qF "the bundle holds kernels for sm_90a and NVIDIA H100, 580, 81559 MiB is sm_${capability/./}: make another" "$folder/out" ||
    wrong "it does not say what does not fit: $(cat "$folder/out")"
done
sed -n '/^runs_on() {/,/^}$/p' "$script" > "$folder/function.sh"
for words in "90 90a" "90 80" "90 80-virtual" "89 80-real" "103 100f" "120 native"; do
  # shellcheck disable=SC2086
  bash -c '. "$1"; runs_on "$2" "$3"' - "$folder/function.sh" $words || wrong "code for an architecture does not run: $words"
done
for words in "80 90a" "100 90a" "80 90" "90 80-real" "80 86-real" "120 100f"; do
  # shellcheck disable=SC2086
  ! bash -c '. "$1"; runs_on "$2" "$3"' - "$folder/function.sh" $words || wrong "code for an architecture runs: $words"
done

case="cuBLASLt of the CUDA that the bundle was built with"
mkdir "$folder/packed12"
echo 12 > "$folder/bundle/cuda"
(cd "$folder/bundle" && cmake -E tar cJf "$folder/packed12/bundle.tar.xz" bin lib data filters commit architectures cuda)
check 0 --bundle "$folder/packed12" --parts bench --kinds mla --sizes small
says "for sm_90a, CUDA 12."
says "cuBLASLt: $folder/cuda/lib64/libcublasLt.so.12."

case="tools that find no planted error prove nothing"
check 1 FAKE_PLANTED=0 --parts sanitizer
says "| racecheck of a planted error | FAILED: not found (status 0)"

case="an estimate of memory that is more than a tenth off"
for estimate in 9500000000 11900000000 12000000000000; do
  check $((estimate > 9600000000 && estimate < 11811160064 ? 0 : 1)) FAKE_ESTIMATE=$estimate --kinds mla --sizes small --parts bench
done
says "| mla small | FAILED: the estimate of memory is off by +111659 %; 401235 tokens/s"
check 0 FAKE_ESTIMATE=9700000000 --kinds mla --sizes small --parts bench
check 1 FAKE_ESTIMATE=none --kinds mla --sizes small --parts bench
says "| mla small | FAILED: it wrote no figures |"

case="without Python the rows have the figures"
check 3 FAKE_NO_PYTHON=1 --kinds tpa --sizes small --parts bench,peers
says "No table: bench/gpu_table.py did not run here"
says "| rates of the card | 790000.5 GFLOP/s on a large product, 3000.25 GB/s in copies |"
says "| tpa small | 401235 tokens/s, MFU 36.7 %, 10.0 GiB (estimate 10.2), attention forward on cuDNN, backward on own kernels |"
says "| tpa small, no CUDA graph | 401235 tokens/s"
says "| peers, lead | left out: PyTorch is not installed |"

case="what a tool found before it was cut off counts"
check 1 FAKE_RACE=1 --parts bench,sanitizer --kinds mla --sizes xl --budget 24
says "| memcheck of small shapes | FAILED: status 9: 1 tests, Error: Race reported between Write access and Read access |"

# Models of the shipped configs at the speed of their published ceilings, at the rates these were computed for.
case="the table"
bench_json() { # KIND SIZE PARAMETERS LAYERS WIDTH HEADS BATCH MICRO_STEPS TOKENS_PER_SECOND CARD
  cat > "$folder/table/bench_$1_$2.json" <<JSON
{"model": {"attention": "$1", "layers": $4, "width": $5, "heads": $6, "head_width": 64, "context": 1024, "vocab_size": 50304,
  "parameters": $3, "matmul_parameters": $3, "flops_per_token_causal": $((6 * $3 + 6 * $4 * 1024 * $6 * 64))},
 "device_name": "${10}", "batch": $7, "micro_steps": $8, "context": 1024, "tokens_per_second": $9, "mfu_causal": 0.4, "mfu_full": 0.5,
 "peak_memory_bytes": 10737418240, "estimated_memory_bytes": 9126805504, "reserved_memory_bytes": 11811160064,
 "attention": {"forward": "cuDNN", "backward": "cuDNN"}}
JSON
}
if [ -n "$real_python" ]; then
  mkdir "$folder/table"
  echo '{"measured_gflops": 790000, "measured_gigabytes_per_second": 3000}' > "$folder/table/rates.json"
  bench_json tpa small 124342272 12 768 34 24 5 474000 "NVIDIA H100 80GB HBM3"
  bench_json mha xl 1554892800 48 1600 25 6 10 55500 "NVIDIA H200"
  echo '{"tokens_per_second": 237000, "compiled": "model"}' > "$folder/table/peer_tpa_small.json"
  "$real_python" bench/gpu_table.py "$folder/table" > "$folder/table.md"
  memory='10.0 GiB | **8.5 GiB (-15 %)** | 11.0 GiB'
  for line in "| tpa small | 24 | 5 | 474,000 | 40.0 % | 50.0 % | $memory | cuDNN | 100 % | 100 % | 237,000 | as a whole | 2.00 x |" \
    "| mha xl | 6 | 10 | 55,500 | 40.0 % | 50.0 % | $memory | cuDNN | 99 % |  |  |  |  |"; do
    grep -qxF "$line" "$folder/table.md" || wrong "the table lacks $line: $(cat "$folder/table.md")"
  done
  # Twice the rates, half the share; without them none.
  echo '{"measured_gflops": 1580000, "measured_gigabytes_per_second": 6000}' > "$folder/table/rates.json"
  "$real_python" bench/gpu_table.py "$folder/table" > "$folder/table.md"
  grep -qF '| 50 % | 100 % |' "$folder/table.md" || wrong "the ceiling does not follow the rates"
  rm "$folder/table/rates.json"
  "$real_python" bench/gpu_table.py "$folder/table" > "$folder/table.md"
  grep -qF '| cuDNN |  | 100 % |' "$folder/table.md" || wrong "a ceiling without rates"
fi

case="without a GPU"
check 3 FAKE_NO_GPU=1 --parts bench,peers,profile,use,sanitizer
says "| compute-sanitizer | left out: no GPU |"
says "Nothing failed; 8 checks were left out."

case="one deadline for everything; what is cut off is left out"
SECONDS=0
check 3 FAKE_HANGS='generate*tpa*' --budget 12 --kinds mha,tpa,mqa --parts use,sanitizer
((SECONDS < 22)) || wrong "took $SECONDS s with a budget of 12"
says "| use of mha | step 30 validation loss 4.5"
says "| use of tpa | left out: cut off after "
says "| use of mqa | left out: the budget of 12 s is spent |"
says "| planted errors | left out: the budget of 12 s is spent |"

case="a run that is killed leaves its report"
rm -rf "$folder/report" "$FAKE_LOG"
FAKE_HANGS='*mha_small*' setsid "$script" run --bundle "$folder/packed" --report "$folder/report" --parts bench --kinds tpa,mha > "$folder/out" 2>&1 &
for ((i = 0; i < 100; ++i)); do
  grep -q mha_small "$FAKE_LOG" 2>/dev/null && break
  sleep 0.1
done
kill -KILL -- -$! 2>/dev/null || kill -KILL $!
wait $! 2>/dev/null || true
says "| tpa small | 401235 tokens/s"
says "Not finished: 0 checks failed"
# All is listed before it is searched: a pipe that is closed early would make this fail at random.
tar -tzf "$folder/report/report.tar.gz" > "$folder/list"
grep -qx ./bench_tpa_small.json "$folder/list" || wrong "report.tar.gz lacks what was done"

case="wrong arguments"
for words in "--parts test" "--budget 0" "--shard 3/2" "--sizes huge" "--nothing"; do
  # shellcheck disable=SC2086
  check 2 $words
done

[ "$failures" = 0 ] || { echo "$failures failures"; exit 1; }
echo "gpu_check: all as expected"
