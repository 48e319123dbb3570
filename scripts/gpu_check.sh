#!/usr/bin/env bash
# Checks and times the CUDA build on a machine that has a GPU, the CUDA toolkit's libraries and nothing of ours.
#
#   scripts/gpu_check.sh pack [--arch 90a] [--to out/gpu]
#       Where the packages are: builds program and tests for any x86-64 processor of the last ten years, and puts them with the
#       libraries and test data they need into out/gpu/bundle.tar.gz, at most 64 MiB. Needs nvcc and cuDNN's headers, no GPU.
#   scripts/gpu_check.sh run [--bundle out/gpu] [--report DIR] [--parts LIST] [--kinds LIST] [--sizes LIST] [--shard I/N]
#                            [--budget SECONDS]
#       Where the GPU is, in a working tree of this repository: the parts tests, use (train, evaluate and generate as a user
#       does), sanitizer, bench and peers (PyTorch on the same card), all without --parts; report in DIR/report.md, line by line
#       as results come, raw outputs beside it. Each part begins nothing new after its budget (540 s) and says what it left out;
#       --kinds tpa,mha --sizes small,xl choose among bench and peers, --shard 2/3 the second third of tests and sanitizer.
#       Exit status 0: all that was asked for ran and passed; 1: something failed; 3: nothing failed, but not all ran, as
#       without a GPU or beyond the budget; 2: wrong arguments.
#
# cuBLASLt and cuDNN are found in the toolkit, among Python's packages (those of an installed PyTorch) and where the system looks;
# T6_CUBLASLT and T6_CUDNN name other files.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() { printf 'gpu_check: %s\n' "$*" >&2; exit 2; }
say() { printf '== %s  (%ds)\n' "$*" $SECONDS; }
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }

bundle=out/gpu report=out/gpu_report architectures=90a parts=tests,use,sanitizer,bench,peers
kinds=tpa,mha,tpa_kvonly,mqa,gqa,mla sizes=small,medium,large,xl shard=1/1 budget=540
[ $# -gt 0 ] || { usage; exit 2; }
command=$1
shift
while [ $# -gt 0 ]; do
  case "$1" in
    --arch | --to | --bundle | --report | --parts | --kinds | --sizes | --shard | --budget)
      [ $# -gt 1 ] || die "$1 wants a value" ;;&
    --arch) architectures=$2; shift 2 ;;
    --to | --bundle) bundle=$2; shift 2 ;;
    --report) report=$2; shift 2 ;;
    --parts) parts=$2; shift 2 ;;
    --kinds) kinds=$2; shift 2 ;;
    --sizes) sizes=$2; shift 2 ;;
    --shard) shard=$2; shift 2 ;;
    --budget) budget=$2; shift 2 ;;
    *) die "unknown option $1; see --help" ;;
  esac
done
one_of() { # one_of LIST ALLOWED NAME
  local word
  for word in ${1//,/ }; do [[ ,$2, == *,$word,* ]] || die "$3: expected some of $2, got '$word'"; done
}
one_of "$parts" tests,use,sanitizer,bench,peers --parts
one_of "$kinds" tpa,mha,tpa_kvonly,mqa,gqa,mla --kinds
one_of "$sizes" small,medium,large,xl --sizes
[[ $shard =~ ^([0-9]+)/([0-9]+)$ ]] && ((BASH_REMATCH[1] >= 1 && BASH_REMATCH[1] <= BASH_REMATCH[2])) ||
  die "--shard: expected I/N with 1 <= I <= N, got '$shard'"
shard_index=$((${shard%/*} - 1)) shard_count=${shard#*/}
[[ $budget =~ ^[0-9]+$ ]] || die "--budget: expected seconds, got '$budget'"

programs=(t6 tests/t6_tensor_tests tests/t6_ops_tests tests/t6_model_tests tests/t6_train_tests)
# The C and C++ runtimes and the loader are not bundled: those of the other machine belong together. Nor is anything of CUDA.
system_libraries='/(libc|libm|libdl|librt|libpthread|libresolv|libstdc\+\+|libgcc_s|ld-linux[^/]*)\.so'
most_bytes=$((64 << 20))

pack() {
  local program folder missing bytes
  cmake -S . -B build/gpu -G Ninja -DCMAKE_BUILD_TYPE=Release -DT6_CUDA=on "-DT6_CUDA_ARCHITECTURES=$architectures" \
    -DT6_NATIVE=OFF -DT6_MPI=off -DCMAKE_CXX_FLAGS=-march=x86-64-v3
  grep -q '^T6_CUDNN_FRONTEND_INCLUDE:[^=]*=/' build/gpu/CMakeCache.txt ||
    die "the cuDNN frontend's headers were not found: scripts/setup.sh gets them. Without them attention would be timed on slower kernels"
  cmake --build build/gpu --target "${programs[@]##*/}"
  folder=$(mktemp -d)
  mkdir -p "$folder/bin" "$folder/lib" "$folder/data"
  for program in "${programs[@]}"; do strip -o "$folder/bin/${program##*/}" "build/gpu/$program"; done
  ldd "$folder"/bin/* | awk '$3 ~ /^\// {print $3}' | sort -u | grep -vE "$system_libraries" | xargs -I{} cp -L {} "$folder/lib/"
  # By the bundle alone, every library but those of the system.
  missing=$(for program in "$folder"/bin/* "$folder"/lib/*; do readelf -d "$program"; done |
    sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | sort -u | while read -r name; do
      [ -e "$folder/lib/$name" ] || grep -qE "$system_libraries" <<<"/$name" || echo "$name"
    done)
  [ -z "$missing" ] || die "these libraries are needed and neither bundled nor the system's: $missing"
  cp -r tests/data/golden "$folder/data/"
  git describe --always --dirty --abbrev=12 > "$folder/commit"
  echo "$architectures" > "$folder/architectures"
  rm -rf "$bundle"
  mkdir -p "$bundle"
  du -ak --apparent-size "$folder"/bin "$folder"/lib "$folder"/data --max-depth=1 | sort -rn | head -12
  tar -C "$folder" -czf "$bundle/bundle.tar.gz" .
  rm -rf "$folder"
  bytes=$(stat -c %s "$bundle/bundle.tar.gz")
  say "$bundle/bundle.tar.gz: $((bytes >> 20)) MiB"
  [ "$bytes" -le "$most_bytes" ] || die "the bundle has $bytes bytes, more than $most_bytes; choose fewer architectures"
}

# The first file named $1 in the places where CUDA's libraries usually lie, an installed PyTorch's among them.
find_library() {
  local site
  for site in $(python3 -c 'import sys; print(*sys.path)' 2>/dev/null) /opt/*/.venv/lib/python3*/site-packages; do
    compgen -G "$site/nvidia/*/lib/$1" || true
  done | head -1 | grep . && return
  compgen -G "${CUDA_HOME:-/usr/local/cuda}/lib64/$1" | head -1 | grep . && return
  ldconfig -p 2>/dev/null | awk -v name="$1" '$1 == name {print $NF; exit}'
}

find_program() { # an executable of the toolkit
  command -v "$1" || { compgen -G "${CUDA_HOME:-/usr/local/cuda}/bin/$1" || compgen -G "${CUDA_HOME:-/usr/local/cuda}/*/$1" || true; } | head -1
}

failed=0 left_out=0 part_began=0
results() { printf '%s\n' "$*" | tee -a "$report/report.md"; }
begin_part() { part_began=$SECONDS; say "$1"; }
seconds_left() { echo $((budget - (SECONDS - part_began))); }
# More to do, with at least $1 seconds left? Otherwise $2 is said to be left out.
may_begin() {
  [ "$(seconds_left)" -ge "$1" ] && return
  results "| $2 | left out: the budget of $budget s is spent |"
  left_out=$((left_out + 1))
  return 1
}
# Our programs with the bundle's libraries, which are no business of Python's or the toolkit's programs.
ours() { local program=$1; shift; LD_LIBRARY_PATH=$libraries timeout "$(seconds_left)" "$unpacked/bin/$program" "$@"; }

run_tests() {
  local name status passed bad skipped filter
  begin_part "tests"
  for name in tensor ops model train; do
    may_begin 10 "tests of $name" || continue
    filter='*'
    [ "$name" = tensor ] && filter='Gpu*'
    [ "$name" = model ] && filter='*Golden*:*MemoryEstimate*-*F64*'
    [ "$name" = train ] && filter='*GoldenTraining*:*TrainingStep*:*ChooseDevice*:*DevicePeak*'
    status=0
    T6_TEST_DEVICE=cuda GTEST_SHARD_INDEX=$shard_index GTEST_TOTAL_SHARDS=$shard_count LD_LIBRARY_PATH=$libraries \
      timeout "$(seconds_left)" "$unpacked/bin/t6_${name}_tests" "--gtest_filter=$filter" > "$report/tests_$name.log" 2>&1 || status=$?
    passed=$(grep -c '^\[       OK' "$report/tests_$name.log" || true)
    bad=$(grep -c '^\[  FAILED  \].*ms)' "$report/tests_$name.log" || true)
    skipped=$(grep -c '^\[  SKIPPED \].*ms)' "$report/tests_$name.log" || true)
    if [ "$status" = 0 ] && grep -q '^\[  SKIPPED \] all tests' "$report/tests_$name.log"; then
      results "| tests of $name | no GPU: tests skipped |"
      left_out=$((left_out + 1))
    elif [ "$status" = 124 ]; then
      results "| tests of $name | $passed passed, $bad failed, then the budget was spent |"
      left_out=$((left_out + 1))
      [ "$bad" = 0 ] || failed=$((failed + 1))
    else
      results "| tests of $name | $passed passed, $bad failed, $skipped skipped, status $status |"
      [ "$status" = 0 ] || failed=$((failed + 1))
    fi
    grep '^\[  FAILED  \]' "$report/tests_$name.log" | sort -u | head -20 | sed 's/^/    /' | tee -a "$report/report.md" || true
    [ "$status" = 0 ] || [ "$status" = 124 ] || [ "$bad" != 0 ] || tail -3 "$report/tests_$name.log" | sed 's/^/    /' | tee -a "$report/report.md"
  done
}

# What a user does, on text that the repository has: every kind trains a little, goes on, is evaluated and writes.
run_use() {
  local kind folder=$report/use log
  begin_part "use"
  if [ "$gpu" = none ]; then
    results "| use | no GPU: not run |"
    left_out=$((left_out + 1))
    return
  fi
  rm -rf "$folder"
  mkdir -p "$folder"
  cat README.md docs/*.md > "$folder/text.txt"
  if ! { ours t6 tokenizer train --input "$folder/text.txt" --vocab 1024 --out "$folder/t.tiktoken" &&
    ours t6 tokenize --tokenizer "$folder/t.tiktoken" --out "$folder/text" "$folder/text.txt"; } > "$folder/data.log" 2>&1; then
    results "| use | no tokens: $(tail -1 "$folder/data.log") |"
    failed=$((failed + 1))
    return
  fi
  for kind in ${kinds//,/ }; do
    may_begin 20 "use of $kind" || continue
    log=$folder/$kind.log
    cat > "$folder/$kind.yaml" <<YAML
model: {attention: $kind, layers: 4, width: 256, heads: 8, head_width: 32, vocab_size: 1024, context: 128}
data: {train: ["$folder/text_train_*.bin"], validation: ["$folder/text_val_*.bin"], tokenizer: "$folder/t.tiktoken"}
train: {steps: 60, global_batch: 16, micro_batch: 8, precision: bf16}
schedule: {warmup_steps: 10}
evaluation: {every: 0, windows: 8}
run: {device: cuda, dir: "$folder/$kind"}
YAML
    if ours t6 train --config "$folder/$kind.yaml" train.steps=30 > "$log" 2>&1 &&
      ours t6 train --config "$folder/$kind.yaml" >> "$log" 2>&1 &&
      ours t6 eval "$folder/$kind" --device cuda --json > "$folder/$kind.eval" 2>> "$log" &&
      ours t6 generate "$folder/$kind" --device cuda --prompt "The " --tokens 20 --temperature 0 > "$folder/$kind.text" 2>> "$log"; then
      results "| use of $kind | $(grep -m1 'validation loss  *[0-9]' "$log" | sed 's/  */ /g'), then resumed, evaluated, wrote text |"
    else
      results "| use of $kind | failed: $(tail -1 "$log") |"
      failed=$((failed + 1))
    fi
  done
}

run_sanitizer() {
  local tool suite status sanitizer summary log suites
  begin_part "compute-sanitizer"
  sanitizer=$(find_program compute-sanitizer)
  if [ -z "$sanitizer" ]; then
    results "| compute-sanitizer | not installed |"
    left_out=$((left_out + 1))
    return
  fi
  if [ "$gpu" = none ]; then
    results "| compute-sanitizer | no GPU: not run |"
    left_out=$((left_out + 1))
    return
  fi
  # Large cases say nothing more here and take minutes. One suite at a time, so that what is done counts.
  mapfile -t suites < <(ours t6_ops_tests --gtest_list_tests '--gtest_filter=*-*Bench*:*Heavy*:*LargeProduct*' | sed -n 's/^\([A-Za-z0-9_/]*\.\)\( .*\)\{0,1\}$/\1/p')
  for tool in memcheck racecheck; do
    for suite in "${suites[@]}"; do
      may_begin 15 "compute-sanitizer $tool, from $suite on" || break
      log=$report/sanitizer_${tool}_${suite//[^A-Za-z0-9]/_}log
      status=0
      T6_TEST_DEVICE=cuda GTEST_SHARD_INDEX=$shard_index GTEST_TOTAL_SHARDS=$shard_count LD_LIBRARY_PATH=$libraries \
        timeout "$(seconds_left)" "$sanitizer" --tool "$tool" --error-exitcode 9 "$unpacked/bin/t6_ops_tests" \
        "--gtest_filter=$suite*-*Bench*:*Heavy*:*LargeProduct*" > "$log" 2>&1 || status=$?
      summary=$(grep -E 'ERROR SUMMARY|RACECHECK SUMMARY' "$log" | tail -1 | sed 's/^=* *//' || true)
      if [ "$status" = 124 ]; then
        results "| $tool ${suite%.} | the budget was spent |"
        left_out=$((left_out + 1))
      else
        results "| $tool ${suite%.} | $(grep -c '^\[       OK' "$log" || true) tests, status $status: $summary |"
        [ "$status" = 0 ] || failed=$((failed + 1))
      fi
    done
  done
}

# kind size micro-batch, of the kinds and sizes asked for: all kinds at small; tpa and mha at every size.
configurations() {
  local kind size batch
  while read -r size batch; do
    [[ ,$sizes, == *,$size,* ]] || continue
    for kind in ${kinds//,/ }; do
      [ "$size" = small ] || [ "$kind" = tpa ] || [ "$kind" = mha ] || continue
      echo "$kind $size $batch"
    done
  done <<< $'small 24\nmedium 16\nlarge 12\nxl 6'
}

run_bench() {
  local kind size batch status
  begin_part "bench"
  if [ "$gpu" = none ]; then
    results "| bench | no GPU: not run |"
    left_out=$((left_out + 1))
    return
  fi
  while read -r kind size batch; do
    may_begin 20 "bench of $kind $size" || continue
    status=0
    LD_LIBRARY_PATH=$libraries timeout "$(seconds_left)" "$unpacked/bin/t6" bench train --config "configs/t6_${kind}_${size}.yaml" \
      --device cuda --precision bf16 --batch "$batch" --steps 20 --warmup 4 --json > "$report/bench_${kind}_${size}.json" \
      2> "$report/bench_${kind}_${size}.err" < /dev/null || status=$?
    if [ "$status" = 0 ]; then
      results "| $kind $size | $(python3 -c 'import json,sys; d=json.load(open(sys.argv[1])); print("%.0f tokens/s, MFU %.1f %%, %.1f GiB (estimate %.1f)" % (d["tokens_per_second"], 100*d["mfu_causal"], d["peak_memory_bytes"]/2**30, d["estimated_memory_bytes"]/2**30))' \
        "$report/bench_${kind}_${size}.json" 2>/dev/null || echo measured) |"
    else
      results "| $kind $size | failed with status $status: $(tail -1 "$report/bench_${kind}_${size}.err") |"
      failed=$((failed + 1))
    fi
  done < <(configurations)
  for kind in tpa mha; do
    [[ ,$kinds, == *,$kind,* && ,$sizes, == *,small,* ]] || continue
    may_begin 20 "profile of $kind small" || continue
    { ours t6 bench train --config "configs/t6_${kind}_small.yaml" --device cuda --precision bf16 --batch 24 --steps 5 --profile \
      > "$report/profile_${kind}_small.txt" &&
      ours t6 bench ops --config "configs/t6_${kind}_small.yaml" --device cuda --precision bf16 --batch 24 \
        > "$report/ops_${kind}_small.txt"; } 2> "$report/profile_${kind}_small.err" || {
      results "| profile of $kind small | failed: $(tail -1 "$report/profile_${kind}_small.err") |"
      failed=$((failed + 1))
    }
  done
}

run_peers() {
  local kind size batch status
  begin_part "peers"
  if ! python3 -c 'import torch' 2>/dev/null; then
    results "| PyTorch | not installed |"
    left_out=$((left_out + 1))
    return
  fi
  if [ "$gpu" = none ]; then
    results "| PyTorch | no GPU: not run |"
    left_out=$((left_out + 1))
    return
  fi
  while read -r kind size batch; do
    may_begin 60 "PyTorch $kind $size" || continue
    status=0
    timeout "$(seconds_left)" python3 bench/pytorch_baseline.py --device cuda --kind "$kind" --size "$size" --precision bf16 --batch "$batch" \
      --steps 20 --warmup 4 --compile > "$report/peer_${kind}_${size}.json" 2> "$report/peer_${kind}_${size}.err" < /dev/null || status=$?
    [ "$status" = 0 ] && results "| PyTorch $kind $size | done |" || {
      results "| PyTorch $kind $size | failed with status $status: $(tail -1 "$report/peer_${kind}_${size}.err") |"
      left_out=$((left_out + 1))
    }
  done < <(configurations)
}

unpack() {
  [ -f "$bundle/bundle.tar.gz" ] || die "$bundle holds no bundle.tar.gz; make one with scripts/gpu_check.sh pack on a machine with the packages"
  unpacked=$(mktemp -d)
  trap 'rm -rf "$unpacked"' EXIT
  tar -C "$unpacked" -xzf "$bundle/bundle.tar.gz"
}

run() {
  local name file
  unpack
  mkdir -p "$report"
  report=$(cd "$report" && pwd)
  : > "$report/report.md"
  gpu=none
  if command -v nvidia-smi >/dev/null && nvidia-smi -L > /dev/null 2>&1; then
    gpu=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | head -1)
  fi
  export T6_GOLDEN_DIR=$unpacked/data/golden
  export T6_CUBLASLT=${T6_CUBLASLT:-$(find_library libcublasLt.so.13)} T6_CUDNN=${T6_CUDNN:-$(find_library libcudnn.so.9)}
  # Beside them lie the libraries that they load themselves; cuDNN compiles kernels with nvrtc.
  libraries=$unpacked/lib
  for file in "$T6_CUBLASLT" "$T6_CUDNN" "$(find_library 'libnvrtc.so.*')" "$(find_library 'libnccl.so.2')"; do
    [ -z "$file" ] || libraries+=:$(dirname "$file")
  done
  libraries+=${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  results "# $gpu"
  results ""
  results "Commit $(cat "$unpacked/commit") for sm_$(sed 's/;/, sm_/g' "$unpacked/architectures"). cuBLASLt: ${T6_CUBLASLT:-not found}. cuDNN: ${T6_CUDNN:-not found}. Parts: $parts, shard $shard."
  results ""
  results "| check | result |"
  results "|---|---|"
  if ! ours t6 --version > "$report/version.txt" 2>&1; then
    results "| start | failed: $(tail -1 "$report/version.txt") |"
    exit 1
  fi
  results "| start | $(head -1 "$report/version.txt") |"
  for name in tests use sanitizer bench peers; do
    [[ ,$parts, != *,$name,* ]] || "run_$name"
  done
  if command -v python3 >/dev/null && compgen -G "$report/bench_*.json" >/dev/null; then
    results ""
    python3 bench/gpu_table.py "$report" | tee -a "$report/report.md"
  fi
  results ""
  if [ "$failed" != 0 ]; then
    results "$failed checks failed, $left_out were left out."
  elif [ "$left_out" != 0 ]; then
    results "Nothing failed; $left_out checks were left out."
  else
    results "All passed."
  fi
  say "report in $report/report.md"
  [ "$failed" = 0 ] || exit 1
  [ "$left_out" = 0 ] || exit 3
}

case "$command" in
  pack) pack ;;
  run) run ;;
  -h | --help) usage ;;
  *) die "unknown command $command; expected pack or run" ;;
esac
