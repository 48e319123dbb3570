#!/usr/bin/env bash
# Checks and times the CUDA build on a machine that has a GPU, the CUDA toolkit's libraries and nothing of ours.
#
#   scripts/gpu_check.sh pack [--arch 90a] [--to out/gpu]
#       Where the packages are: builds program and tests for any x86-64 processor of the last ten years, and puts them with the
#       libraries and test data they need into out/gpu/bundle.tar.xz, at most 50 MiB. Needs nvcc and cuDNN's headers, no GPU.
#   scripts/gpu_check.sh run [--bundle out/gpu] [--report DIR] [--parts LIST] [--kinds LIST] [--sizes LIST] [--shard I/N]
#                            [--budget SECONDS]
#       Where the GPU is, in a working tree of this repository. Parts, all without --parts: tests, bench, peers (PyTorch on the
#       same card), profile, use (train, evaluate and generate as a user does) and sanitizer. In this order, but for tpa and mha
#       at small, which are timed beside PyTorch before all others, and for small shapes under the sanitizer, which follow the
#       tests; of all the parts the tests take at most 5/18 of the time, and each of the sanitizer's two tools then 1/12.
#       Nothing runs longer than the budget, 540 s from the start, and what was left out is said; parts that are named alone
#       have all of it. DIR gets two files, written again with every result so that a run that is killed leaves them too:
#       report.md, and report.tar.gz with all outputs. --kinds tpa,mha --sizes small,xl choose among bench, peers and use,
#       --shard 2/3 the second third of tests and sanitizer.
#       Exit status 0: all that was asked for ran and passed; 1: something failed; 3: nothing failed, but not all ran, as
#       without a GPU or beyond the budget; 2: wrong arguments, or a bundle that this card cannot run.
#
# cuBLASLt and cuDNN are found in the toolkit, among Python's packages (those of an installed PyTorch) and where the system looks;
# T6_CUBLASLT and T6_CUDNN name other files. Where cuDNN is found, bench fails instead of timing slower kernels in its place.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() { printf 'gpu_check: %s\n' "$*" >&2; exit 2; }
say() { printf '== %s  (%ds)\n' "$*" $SECONDS; }
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }

all_parts=tests,bench,peers,profile,use,sanitizer
bundle=out/gpu report=out/gpu_report architectures=90a parts=$all_parts
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
one_of "$parts" "$all_parts" --parts
one_of "$kinds" tpa,mha,tpa_kvonly,mqa,gqa,mla --kinds
one_of "$sizes" small,medium,large,xl --sizes
if ! [[ $shard =~ ^([0-9]+)/([0-9]+)$ ]] || ((BASH_REMATCH[1] < 1 || BASH_REMATCH[1] > BASH_REMATCH[2])); then
  die "--shard: expected I/N with 1 <= I <= N, got '$shard'"
fi
share=("GTEST_SHARD_INDEX=$((${shard%/*} - 1))" "GTEST_TOTAL_SHARDS=${shard#*/}")
[[ $budget =~ ^[1-9][0-9]{0,5}$ ]] || die "--budget: expected seconds, got '$budget'"

# Folder and filter of the tests on a GPU: those of label cuda.
cuda_filters() { sed -n 's/^set(t6_cuda_filter_\([a-z]*\) "\(.*\)")$/\1 \2/p' tests/CMakeLists.txt; }
# The C and C++ runtimes and the loader are not bundled: those of the other machine belong together. Nor is anything of CUDA.
system_libraries='/(libc|libm|libdl|librt|libpthread|libresolv|libstdc\+\+|libgcc_s|ld-linux[^/]*)\.so'
most_bytes=$((50 << 20))

pack() {
  local folder name missing bytes largest programs=(t6)
  command -v xz >/dev/null || die "xz is missing (Debian package xz-utils)"
  while read -r name _; do programs+=("tests/t6_${name}_tests"); done < <(cuda_filters)
  [ ${#programs[@]} -gt 1 ] || die "tests/CMakeLists.txt has no lines set(t6_cuda_filter_...)"
  cmake -S . -B build/gpu -G Ninja -DCMAKE_BUILD_TYPE=Release -DT6_CUDA=on "-DT6_CUDA_ARCHITECTURES=$architectures" \
    -DT6_NATIVE=OFF -DT6_MPI=off -DCMAKE_CXX_FLAGS=-march=x86-64-v3
  grep -q '^T6_CUDNN_FRONTEND_INCLUDE:[^=]*=/' build/gpu/CMakeCache.txt ||
    die "the cuDNN frontend's headers were not found: scripts/setup.sh gets them. Without them attention would be timed on slower kernels"
  cmake --build build/gpu --target "${programs[@]##*/}"
  folder=$(mktemp -d)
  mkdir -p "$folder/bin" "$folder/lib" "$folder/data"
  for name in "${programs[@]}"; do strip -o "$folder/bin/${name##*/}" "build/gpu/$name"; done
  ldd "$folder"/bin/* | awk '$3 ~ /^\// {print $3}' | sort -u | grep -vE "$system_libraries" | xargs -I{} cp -L {} "$folder/lib/"
  # By the bundle alone, every library but those of the system.
  missing=$(for name in "$folder"/bin/* "$folder"/lib/*; do readelf -d "$name"; done |
    sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | sort -u | while read -r name; do
      [ -e "$folder/lib/$name" ] || grep -qE "$system_libraries" <<<"/$name" || echo "$name"
    done)
  [ -z "$missing" ] || die "these libraries are needed and neither bundled nor the system's: $missing"
  cp -r tests/data/golden "$folder/data/"
  cuda_filters > "$folder/filters"
  git describe --always --dirty --abbrev=12 > "$folder/commit"
  echo "$architectures" > "$folder/architectures"
  # cuBLASLt is loaded by this number.
  sed -n 's/^set(CMAKE_CUDA_COMPILER_VERSION "\([0-9]*\)\..*/\1/p' build/gpu/CMakeFiles/*/CMakeCUDACompiler.cmake |
    sort -u > "$folder/cuda"
  [ "$(wc -l < "$folder/cuda")" = 1 ] || die "build/gpu does not tell one release of CUDA: $(paste -sd' ' "$folder/cuda")"
  rm -rf "$bundle"
  mkdir -p "$bundle"
  # The programs hold the same kernels: with a window of 64 MiB these are stored once.
  tar -C "$folder" -c bin lib data filters commit architectures cuda | xz -9 > "$bundle/bundle.tar.xz"
  largest=$(cd "$folder" && find . -type f -printf '%s %p\n' | sort -rn | sed -n '1,8s/^\([0-9]*\)[0-9]\{6\} /  \1 MB /p')
  rm -rf "$folder"
  bytes=$(stat -c %s "$bundle/bundle.tar.xz")
  say "$bundle/bundle.tar.xz: $((bytes >> 20)) MiB, of these files, unpacked:"
  printf '%s\n' "$largest"
  [ "$bytes" -le "$most_bytes" ] || die "the bundle has $((bytes >> 20)) MiB, more than the $((most_bytes >> 20)) that travel" \
    "with a working tree; the files above are its largest. Choose fewer architectures (--arch)"
}

# The first file named $1 in the places where CUDA's libraries usually lie, an installed PyTorch's among them; empty: none.
# All are looked at before the first is printed: a pipe that is closed early would make the look-up fail at random.
find_library() {
  local all
  all=$(
    for site in $(python3 -c 'import sys; print(*sys.path)' 2>/dev/null) /opt/*/.venv/lib/python3*/site-packages; do
      compgen -G "$site/nvidia/*/lib/$1" | sort || true
    done
    compgen -G "${CUDA_HOME:-/usr/local/cuda}/lib64/$1" | sort || true
    ldconfig -p 2>/dev/null | awk -v name="$1" '$1 == name {print $NF}' || true
  )
  printf '%s\n' "${all%%$'\n'*}"
}

find_program() { # an executable of the toolkit; empty: none
  local all
  all=$(
    command -v "$1" || true
    compgen -G "${CUDA_HOME:-/usr/local/cuda}/bin/$1" || true
    compgen -G "${CUDA_HOME:-/usr/local/cuda}/*/$1" | sort || true
  )
  printf '%s\n' "${all%%$'\n'*}"
}

# --- the report: $raw holds all outputs, with rows.md and table.md, of which report.md is made

failed=0 left_out=0 finished=
row() { # LABEL RESULT
  printf '| %s | %s |\n' "$1" "$2" | tee -a "$raw/rows.md"
  publish
}
pass() { row "$1" "$2"; }
leave_out() { left_out=$((left_out + 1)); row "$1" "left out: $2"; }
fail() { failed=$((failed + 1)); row "$1" "FAILED: $2"; }
note() { sed 's/^/    /' | tee -a "$raw/notes.md"; } # lines below the checks
publish() {
  {
    cat "$raw/head.md"
    [ ! -s "$raw/table.md" ] || { cat "$raw/table.md"; echo; }
    printf '| check | result |\n|---|---|\n'
    cat "$raw/rows.md"
    echo
    [ ! -s "$raw/notes.md" ] || { cat "$raw/notes.md"; echo; }
    echo "${finished:-Not finished: $failed checks failed and $left_out were left out after $SECONDS s.}"
  } > "$report/.report.md"
  mv "$report/.report.md" "$report/report.md"
  # What a process that was cut off still writes is no reason to end here.
  tar -C "$raw" -czf "$report/.report.tar.gz" . 2>/dev/null || true
  mv "$report/.report.tar.gz" "$report/report.tar.gz"
}
update_table() {
  python3 bench/gpu_table.py "$raw" > "$raw/table.md" 2> "$raw/table.err" ||
    echo "No table: bench/gpu_table.py did not run here (table.err); where Python is it makes one of report.tar.gz." > "$raw/table.md"
  publish
}
first_match() { # PATTERN FILE...: the first line with it, fit for a row
  { grep -hE "$@" || true; } | sed -n '1{s/^=* *//;s/  */ /g;p}' | tr '|' '/'
}
last_line() { # of a file, fit for a row
  tail -n 1 "$1" | tr '|' '/' | cut -c1-300
}

# --- running things, all within one deadline

seconds_left() { echo $((budget - SECONDS)); }
# attempt LABEL LEAST MOST STDOUT STDERR COMMAND...: where LEAST seconds are left, runs the command for MOST of them at most.
# status: its exit status, 124 where it was cut off at `limit` seconds. False: there was no time, which is said.
status=0 limit=0
attempt() {
  local label=$1 least=$2 most=$3 out=$4 err=$5 left began=$SECONDS
  shift 5
  left=$(seconds_left)
  if [ "$left" -lt "$least" ] || [ "$left" -lt 1 ]; then
    leave_out "$label" "the budget of $budget s is spent"
    return 1
  fi
  limit=$((most < left ? most : left)) status=0
  [ "$limit" -ge 1 ] || limit=1
  : > "$out"
  : > "$err"
  timeout --kill-after=5 "$limit" "$@" >> "$out" 2>> "$err" < /dev/null || status=$?
  [ "$status" != 137 ] || [ $((SECONDS - began)) -lt "$limit" ] || status=124
}
# judge LABEL RESULT WHY: the row of what was attempted; WHY where it failed.
judge() {
  case "$status" in
    0) pass "$1" "${2:-}" ;;
    124) leave_out "$1" "cut off after $limit s" ;;
    *) fail "$1" "status $status: ${3:-}" ;;
  esac
}
on_gpu() { # LABEL
  [ "$gpu" = none ] || return 0
  leave_out "$1" "no GPU"
  return 1
}
among() { [[ ,$2, == *,$1,* ]]; }

# $1: seconds for all of them.
run_tests() {
  local name filter log passed bad skipped until=$((SECONDS + $1)) counts
  say "tests"
  # The operations are most of the tests and come last.
  while read -r name filter; do
    log=$raw/tests_$name.log
    if [ $((until - SECONDS)) -lt 5 ]; then
      leave_out "tests of $name" "the time for tests is spent"
      continue
    fi
    attempt "tests of $name" 5 $((until - SECONDS)) "$log" "$log" env "${ours[@]}" "${share[@]}" T6_TEST_DEVICE=cuda \
      "T6_TEST_PROGRAM=$unpacked/bin/t6" "$unpacked/bin/t6_${name}_tests" "--gtest_filter=$filter" || continue
    passed=$(grep -c '^\[       OK' "$log" || true)
    bad=$(grep -c '^\[  FAILED  \].*ms)' "$log" || true)
    skipped=$(grep -c '^\[  SKIPPED \].*ms)' "$log" || true)
    counts="$passed passed, $bad failed, $skipped skipped"
    if [ "$status" = 124 ] && [ "$bad" != 0 ]; then
      fail "tests of $name" "$counts, then cut off after $limit s"
    elif [ "$status" = 124 ]; then
      leave_out "tests of $name" "$counts, then cut off after $limit s"
    elif [ "$status" = 0 ] && grep -q '^\[  SKIPPED \] all tests' "$log"; then
      leave_out "tests of $name" "$(sed -n 's/^\[  SKIPPED \] all tests: //p' "$log")"
    elif [ "$status" = 0 ] && [ "$passed" = 0 ]; then
      leave_out "tests of $name" "$counts"
    else
      judge "tests of $name" "$counts" "$counts"
    fi
    { grep '^\[  FAILED  \] [A-Za-z]' "$log" || true; } | sed 's/ (.*ms)$//' | sort -u | sed -n 1,20p | note
    # Why tests were skipped: the line after "<file>:<line>: Skipped".
    sed -n "/: Skipped\$/{n;s/^/skipped in $name: /p}" "$log" | sort | uniq -c | sort -rn | sed -n 1,5p | note
    if [ "$status" != 0 ] && [ "$status" != 124 ] && [ "$bad" = 0 ]; then tail -n 3 "$log" | note; fi
    publish
  done < <(grep -v '^ops ' "$unpacked/filters"; grep '^ops ' "$unpacked/filters")
}

# configurations lead|rest: "kind size micro-batch micro-steps steps" of the kinds and sizes asked for: all kinds at small; tpa and
# mha at every size. tpa and mha at small lead. Micro-batches are those of the configs; as many of them share an update as on the
# 8 GPUs (small: 4) of the published runs, which the ceilings were computed for; few steps are as long as many short ones.
configurations() {
  local kind size counts which
  while read -r size counts; do
    among "$size" "$sizes" || continue
    for kind in ${kinds//,/ }; do
      which=rest
      case "$kind $size" in
        "tpa small" | "mha small") which=lead ;;
        *" small" | "tpa "* | "mha "*) ;;
        *) continue ;;
      esac
      [ "$which" != "$1" ] || echo "$kind $size $counts"
    done
  done <<< $'small 24 5 8\nmedium 20 3 8\nlarge 15 4 5\nxl 6 10 3'
}

# What t6 bench train --json wrote, read without Python, which not every machine has.
number_of() { sed -n "s/.*\"$2\": *\(-\{0,1\}[0-9][0-9.e+-]*\).*/\1/p" "$1" | sed -n 1p; } # FILE NAME
word_of() { sed -n "s/.*\"$2\": *\"\([^\"]*\)\".*/\1/p" "$1" | sed -n 1p; }               # FILE NAME
describe_bench() { # FILE: false where it lacks figures
  awk -v rate="$(number_of "$1" tokens_per_second)" -v mfu="$(number_of "$1" mfu_causal)" \
    -v peak="$(number_of "$1" peak_memory_bytes)" -v estimate="$(number_of "$1" estimated_memory_bytes)" \
    -v forward="$(word_of "$1" forward)" -v backward="$(word_of "$1" backward)" 'BEGIN {
      if (rate <= 0 || mfu == "" || peak <= 0 || estimate == "") exit 1
      printf "%.0f tokens/s, MFU %.1f %%, %.1f GiB (estimate %.1f), attention forward on %s, backward on %s\n",
        rate, 100 * mfu, peak / 2^30, estimate / 2^30, forward, backward }'
}
# By how many percent the estimate of memory misses the peak, where that is more than 10: who plans a run trusts it.
memory_error() { # FILE
  awk -v peak="$(number_of "$1" peak_memory_bytes)" -v estimate="$(number_of "$1" estimated_memory_bytes)" 'BEGIN {
    error = 100 * (estimate / peak - 1)
    if (error > 10 || error < -10) printf "%+.0f %%\n", error }'
}
# Of a row that ran.
judge_bench() { # LABEL FILE
  local text error
  if ! text=$(describe_bench "$2"); then
    fail "$1" "it wrote no figures"
    return 0
  fi
  error=$(memory_error "$2")
  if [ -n "$error" ]; then
    fail "$1" "the estimate of memory is off by $error; $text"
  else
    pass "$1" "$text"
  fi
}
# What the card does on a large product and in copies, which the ceilings are computed from: once.
measure_rates() {
  local file=$raw/rates
  [ ! -e "$file.err" ] || return 0
  attempt "rates of the card" 15 60 "$file.json" "$file.err" env "${ours[@]}" T6_ATTENTION=auto "$unpacked/bin/t6" bench train \
    --config configs/demo_tpa.yaml --device cuda --precision bf16 --batch 1 --steps 1 --profile --json || return 0
  judge "rates of the card" "$(number_of "$file.json" measured_gflops) GFLOP/s on a large product, $(
    number_of "$file.json" measured_gigabytes_per_second) GB/s in copies" "$(last_line "$file.err")"
  [ "$status" = 0 ] || rm -f "$file.json"
}
# bench_row LABEL FILE KIND SIZE BATCH MICRO_STEPS STEPS [SETTING...]
bench_row() {
  local label=$1 file=$raw/$2 kind=$3 size=$4 batch=$5 micro_steps=$6 steps=$7 least=15 kernels=$attention_kernels
  shift 7
  [ "$size" != xl ] || least=25
  while true; do
    attempt "$label" $least 100 "$file.json" "$file.err" env "${ours[@]}" "T6_ATTENTION=$kernels" "$unpacked/bin/t6" bench train \
      --config "configs/t6_${kind}_${size}.yaml" "$@" --device cuda --precision bf16 --batch "$batch" \
      --micro-steps "$micro_steps" --steps "$steps" --warmup 1 --json || return 0
    if [ "$status" = 0 ]; then judge_bench "$label" "$file.json"; else judge "$label" "" "$(last_line "$file.err")"; fi
    # What cuDNN does not take is a failure; a figure of the slower kernels is worth having all the same.
    if [ "$status" != 2 ] || [ "$kernels" != cudnn ]; then break; fi
    cp "$file.err" "$file.cudnn.err"
    kernels=auto label="$label, without insisting on cuDNN"
  done
  [ "$status" = 0 ] || rm -f "$file.json"
  update_table
}
run_bench() { # lead|rest
  local kind size batch micro_steps steps
  say "bench, $1"
  on_gpu "bench, $1" || return 0
  measure_rates
  while read -r kind size batch micro_steps steps; do
    bench_row "$kind $size" "bench_${kind}_$size" "$kind" "$size" "$batch" "$micro_steps" "$steps"
  done < <(configurations "$1")
  # What the graph costs or saves, nodes that allocate and free among it.
  if [ "$1" = lead ] && among tpa "$kinds" && among small "$sizes"; then
    bench_row "tpa small, no CUDA graph" bench_tpa_small.no_graph tpa small 24 5 8 train.cuda_graph=false
  fi
}

whole_models=yes # compiled as a whole in time, until one is not
run_peers() { # lead|rest
  local kind size batch micro_steps steps mode modes how most file label
  say "peers, $1"
  on_gpu "peers, $1" || return 0
  if ! python3 -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)' 2>/dev/null; then
    leave_out "peers, $1" "PyTorch is not installed"
    return 0
  fi
  while read -r kind size batch micro_steps steps; do
    file=$raw/peer_${kind}_$size
    label="PyTorch $kind $size"
    # As a whole it may be faster; that takes minutes more to compile where models are larger.
    modes=(blocks eager)
    [ "$1$whole_models" != leadyes ] || modes=(model blocks eager)
    for mode in "${modes[@]}"; do
      how=(--compile "$mode") most=150
      [ "$mode" != model ] || most=90
      [ "$mode" != eager ] || how=()
      attempt "$label" 45 $most "$file.json" "$file.err" \
        env "TORCHINDUCTOR_CACHE_DIR=$work/inductor" "TRITON_CACHE_DIR=$work/triton" \
        python3 bench/pytorch_baseline.py --device cuda --kind "$kind" --size "$size" --precision bf16 --batch "$batch" \
        --accumulate "$micro_steps" --steps "$steps" --warmup 1 "${how[@]}" || break
      case "$status $mode" in
        "0 model") pass "$label" "compiled as a whole" ;;
        "0 blocks") pass "$label" "compiled by blocks" ;;
        "0 eager") pass "$label" "not compiled" ;;
        # The blocks take its place.
        "124 model") row "$label, compiled as a whole" "cut off after $limit s" ;;
        *" model") row "$label, compiled as a whole" "it failed with status $status: $(last_line "$file.err")" ;;
        124*) leave_out "$label" "cut off after $limit s" ;;
        # Its failure is none of ours.
        *) leave_out "$label" "it failed with status $status: $(last_line "$file.err")" ;;
      esac
      if [ "$status" = 0 ]; then break; fi
      [ "$mode" != model ] || whole_models=no
      # What does not fit does not fit in another mode either.
      if [ "$mode" != model ] && grep -q OutOfMemory "$file.err"; then status=124; fi
      mv "$file.err" "$file.$mode.failed.err"
      rm -f "$file.json"
      if [ "$status" = 124 ] && [ "$mode" != model ]; then break; fi
    done
    update_table
  done < <(configurations "$1")
}

run_profile() {
  local kind bench file more
  say "profile"
  on_gpu "profile" || return 0
  for kind in tpa mha; do
    if ! among "$kind" "$kinds" || ! among small "$sizes"; then continue; fi
    for bench in train ops; do
      file=$raw/profile_${bench}_$kind more=()
      [ "$bench" = ops ] || more=(--steps 5 --profile)
      attempt "profile of $kind small ($bench)" 15 90 "$file.txt" "$file.err" env "${ours[@]}" "T6_ATTENTION=$attention_kernels" \
        "$unpacked/bin/t6" bench $bench --config "configs/t6_${kind}_small.yaml" --device cuda --precision bf16 --batch 24 \
        "${more[@]}" || continue
      judge "profile of $kind small ($bench)" "in profile_${bench}_$kind.txt" "$(last_line "$file.err")"
    done
  done
  among small "$sizes" || return 0
  file=$raw/profile_decode
  attempt "decoding, small" 20 120 "$file.txt" "$file.err" env "${ours[@]}" "$unpacked/bin/t6" bench decode --kinds "$kinds" --size small \
    --device cuda --precision bf16 --lengths 1024..32768 --batch 16 || return 0
  judge "decoding, small" "in profile_decode.txt" "$(last_line "$file.err")"
}

# What a user does, on text that the repository has: every kind trains a little, goes on, is evaluated and writes.
use_step() { # LABEL LOG WORDS...
  local label=$1 log=$2
  shift 2
  attempt "$label" 5 60 "$log.out" "$log.err" env "${ours[@]}" "$unpacked/bin/t6" "$@"
}
run_use() {
  local kind folder=$work/use step label
  say "use"
  on_gpu "use" || return 0
  mkdir -p "$folder" "$raw/use"
  cat README.md docs/*.md > "$folder/text.txt"
  use_step "use" "$raw/use/tokenizer" tokenizer train --input "$folder/text.txt" --vocab 1024 --out "$folder/t.tiktoken" || return 0
  if [ "$status" = 0 ]; then
    use_step "use" "$raw/use/tokenize" tokenize --tokenizer "$folder/t.tiktoken" --out "$folder/text" "$folder/text.txt" || return 0
  fi
  if [ "$status" != 0 ]; then
    judge "use: tokens" "" "$(cat "$raw"/use/token*.err | tail -n 1)"
    return 0
  fi
  for kind in ${kinds//,/ }; do
    label="use of $kind"
    cat > "$folder/$kind.yaml" <<YAML
model: {attention: $kind, layers: 4, width: 256, heads: 8, head_width: 32, vocab_size: 1024, context: 128}
data: {train: ["$folder/text_train_*.bin"], validation: ["$folder/text_val_*.bin"], tokenizer: "$folder/t.tiktoken"}
train: {steps: 60, global_batch: 16, micro_batch: 8, precision: bf16}
schedule: {warmup_steps: 10}
evaluation: {every: 0, windows: 8}
run: {device: cuda, dir: "$folder/$kind"}
YAML
    step=$raw/use/$kind
    use_step "$label" "$step.1_begin" train --config "$folder/$kind.yaml" train.steps=30 || continue
    [ "$status" != 0 ] || use_step "$label" "$step.2_resume" train --config "$folder/$kind.yaml" || continue
    [ "$status" != 0 ] || use_step "$label" "$step.3_eval" eval "$folder/$kind" --device cuda --json || continue
    [ "$status" != 0 ] || use_step "$label" "$step.4_generate" generate "$folder/$kind" --device cuda --prompt "The " --tokens 20 \
      --temperature 0 || continue
    judge "$label" "$(first_match 'validation loss  *[0-9]' "$step".1_begin.*), resumed, evaluated, wrote text" "$(cat "$step".*.err | tail -n 1)"
  done
}

# Our kernels alone are watched: those of namespace t6::cuda, by what their names share.
our_kernels=kernel_substring=2t64cuda
# Two kernels with an error each, named as ours are: the tools must find them, or finding nothing says nothing.
planted_errors() {
  cat <<'CUDA'
#include <cstdlib>
namespace t6::cuda {
namespace {
__global__ void beyond_the_end(int* p) { p[1 << 20] = 1; }
__global__ void race(int* p) {
  __shared__ int shared[64];
  shared[threadIdx.x] = static_cast<int>(threadIdx.x);
  p[threadIdx.x] = shared[63 - threadIdx.x];
}
}  // namespace
void run(bool racing) {
  int* p = nullptr;
  if (cudaMalloc(&p, 64 * sizeof(int)) != cudaSuccess) std::exit(1);
  racing ? race<<<1, 64>>>(p) : beyond_the_end<<<1, 1>>>(p);
  static_cast<void>(cudaDeviceSynchronize());
}
}  // namespace t6::cuda
int main(int argc, char**) { t6::cuda::run(argc > 1); }
CUDA
}
# With the path of the sanitizer. Once: what comes last needs no other answer.
planted=
check_planted() {
  local nvcc tool label which=()
  [ -z "$planted" ] || return 0
  planted=checked
  nvcc=$(find_program nvcc)
  if [ -z "$nvcc" ]; then
    leave_out "planted errors" "no nvcc to compile them"
    return 0
  fi
  planted_errors > "$work/planted.cu"
  attempt "planted errors" 20 60 "$raw/planted.log" "$raw/planted.log" "$nvcc" -std=c++17 -arch=native -o "$work/planted" \
    "$work/planted.cu" || return 0
  if [ "$status" != 0 ]; then
    leave_out "planted errors" "nvcc did not compile them: $(last_line "$raw/planted.log")"
    return 0
  fi
  for tool in memcheck racecheck; do
    label="$tool of a planted error"
    attempt "$label" 10 60 "$raw/planted_$tool.log" "$raw/planted_$tool.log" "$sanitizer" --tool "$tool" --kernel-name "$our_kernels" \
      --error-exitcode 9 "$work/planted" "${which[@]}" || continue
    case "$status" in
      9) pass "$label" "found" ;;
      124) judge "$label" ;;
      *) fail "$label" "not found (status $status), so that what follows says nothing: $(last_line "$raw/planted_$tool.log")" ;;
    esac
    which=(racing)
  done
}
# Large cases say nothing more here and take minutes, and of cuDNN's attention nothing is ours.
not_watched='*Bench*:*Heavy*:*LargeProduct*:AttentionBackend*'
# What is left for a few seconds: no products, no reading of files, nothing that runs on the host alone, and of the others no
# test that is named for its size or runs its kernels again and again.
not_small="$not_watched:Matmul*:Linear.*:FewRows.*:Lanes.*:Hdf5Reader.*:SimdMath.*:Divisor.*:Work.*:*Rejects*:*ThreadCount*"
not_small+=':*Many*:*Several*:*Long*:*Every*:*Wide*:*SizesOf*:*Splits*:*Nearest*'
sanitizer=
find_sanitizer() { # LABEL
  on_gpu "$1" || return 1
  sanitizer=$(find_program compute-sanitizer)
  [ -n "$sanitizer" ] || leave_out "$1" "not installed"
  [ -n "$sanitizer" ]
}
# sanitize LABEL LEAST MOST TOOL LOG FILTER: false as attempt; summary: what the tool said in the end, or its first finding.
summary=
sanitize() {
  local label=$1 least=$2 most=$3 tool=$4 log=$5 filter=$6
  attempt "$label" "$least" "$most" "$log" "$log" env "${ours[@]}" "${share[@]}" T6_TEST_DEVICE=cuda T6_ATTENTION=own \
    "$sanitizer" --tool "$tool" --kernel-name "$our_kernels" --error-exitcode 9 "$unpacked/bin/t6_ops_tests" \
    "--gtest_filter=$filter" || return 1
  summary="$(grep -c '^\[       OK' "$log" || true) tests"
  # One that was cut off gives no summary, but what it found until then.
  if [ "$status" = 124 ] && grep -qE "$findings" "$log"; then status=9; fi
  if [ "$status" = 0 ]; then
    summary+=", $(first_match 'ERROR SUMMARY|RACECHECK SUMMARY' "$log")"
  elif [ "$status" != 124 ]; then
    summary+=", $(first_match "ERROR SUMMARY|RACECHECK SUMMARY|^\[  FAILED  \]|$findings" "$log")"
  fi
}
findings='^=+ (Invalid|Misaligned|Error: Race|Warning: Race)|^\[  FAILED  \]'
# Both tools over small shapes, in one process each, as starting one takes seconds: what comes last is often not reached.
run_sanitizer_early() {
  local tool label
  say "compute-sanitizer, small shapes"
  find_sanitizer "compute-sanitizer, small shapes" || return 0
  check_planted
  for tool in memcheck racecheck; do
    label="$tool of small shapes"
    sanitize "$label" 15 $((budget / 12)) "$tool" "$raw/sanitizer_small_$tool.log" "*-$not_small" || continue
    if [ "$status" = 124 ]; then
      leave_out "$label" "$summary, then cut off after $limit s"
    else
      judge "$label" "$summary" "$summary"
    fi
  done
}
run_sanitizer() {
  local tool suite log suites label filter="*-$not_watched"
  say "compute-sanitizer"
  find_sanitizer "compute-sanitizer" || return 0
  check_planted
  attempt "compute-sanitizer" 10 60 "$raw/suites.txt" "$raw/suites.err" env "${ours[@]}" "$unpacked/bin/t6_ops_tests" --gtest_list_tests \
    "--gtest_filter=$filter" || return 0
  mapfile -t suites < <(sed -n 's/^\([A-Za-z0-9_/]*\.\)\( .*\)\{0,1\}$/\1/p' "$raw/suites.txt")
  if [ "$status" != 0 ] || [ ${#suites[@]} = 0 ]; then
    fail "compute-sanitizer" "no list of tests, status $status: $(last_line "$raw/suites.err")"
    return 0
  fi
  for suite in "${suites[@]}"; do
    for tool in memcheck racecheck; do
      label="$tool ${suite%.}"
      log=$raw/sanitizer_${tool}_${suite//[^A-Za-z0-9]/_}log
      sanitize "$tool from ${suite%.} on" 15 60 "$tool" "$log" "$suite$filter" || return 0
      judge "$label" "$summary" "$summary"
    done
  done
}

unpack() {
  local file=$bundle/bundle.tar.xz
  [ -f "$file" ] || die "$bundle holds no bundle.tar.xz; make one with scripts/gpu_check.sh pack on a machine with the packages"
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  unpacked=$work/bundle raw=$work/raw
  mkdir "$unpacked" "$raw"
  file=$(cd "$bundle" && pwd)/bundle.tar.xz
  # Not every machine has xz.
  tar -C "$unpacked" -xJf "$file" 2>/dev/null || (cd "$unpacked" && cmake -E tar xf "$file" 2>/dev/null) ||
    python3 -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2])' "$file" "$unpacked" ||
    die "$file could not be unpacked: neither xz, nor CMake, nor Python's lzma is there, or the file is damaged"
}

# Whether code for architecture $2, as CMake names it, runs at compute capability $1, 90 for 9.0: that of 90a there alone, that of
# 80-real at 8.x from there on; the others hold PTX, too, which later cards compile.
runs_on() {
  local number=${2%%[!0-9]*}
  case "$2" in
    *a) [ "$1" = "$number" ] ;;
    *f | *-real) [ "$((${1} / 10))" = "$((number / 10))" ] && [ "$1" -ge "$number" ] ;;
    *) [ "$1" -ge "${number:-0}" ] ;;
  esac
}
# Ends where no kernel of the bundle runs on the card: every check would say so in words of its own.
check_architectures() {
  local card architecture list
  # Of a driver that does not know the question nothing is asked.
  card=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | sed -n '1s/^\([0-9]*\)\.\([0-9]\)$/\1\2/p' || true)
  [ -n "$card" ] || return 0
  list=$(cat "$unpacked/architectures")
  for architecture in ${list//;/ }; do
    ! runs_on "$card" "$architecture" || return 0
  done
  die "the bundle holds kernels for sm_${list//;/, sm_} and $gpu is sm_$card: make another with" \
    "scripts/gpu_check.sh pack --arch $([ "$card" = 90 ] && echo 90a || echo "$card")"
}

run() {
  local file name cuda test_seconds=$budget
  unpack
  mkdir -p "$report"
  report=$(cd "$report" && pwd)
  gpu=none
  if command -v nvidia-smi >/dev/null && nvidia-smi -L > /dev/null 2>&1; then
    gpu=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | sed -n 1p)
    check_architectures
  fi
  cuda=$(cat "$unpacked/cuda") || die "the bundle does not tell its release of CUDA: make another with scripts/gpu_check.sh pack"
  export T6_GOLDEN_DIR=$unpacked/data/golden
  T6_CUBLASLT=${T6_CUBLASLT:-$(find_library "libcublasLt.so.$cuda")} T6_CUDNN=${T6_CUDNN:-$(find_library libcudnn.so.9)}
  export T6_CUBLASLT T6_CUDNN
  attention_kernels=${T6_ATTENTION:-${T6_CUDNN:+cudnn}}
  attention_kernels=${attention_kernels:-auto}
  # Beside them lie the libraries that they load themselves; cuDNN compiles kernels with nvrtc.
  libraries=$unpacked/lib
  for file in "$T6_CUBLASLT" "$T6_CUDNN" "$(find_library 'libnvrtc.so.*')" "$(find_library 'libnccl.so.2')"; do
    [ -z "$file" ] || libraries+=:$(dirname "$file")
  done
  libraries+=${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  # For our programs alone: the bundle's libraries are no business of Python's.
  ours=("LD_LIBRARY_PATH=$libraries")
  cat > "$raw/head.md" <<HEAD
# $gpu

Commit $(cat "$unpacked/commit") for sm_$(sed 's/;/, sm_/g' "$unpacked/architectures"), CUDA $cuda.
cuBLASLt: ${T6_CUBLASLT:-not found}. cuDNN: ${T6_CUDNN:-not found}.
Parts: $parts. Shard $shard, budget $budget s.

HEAD
  : > "$raw/rows.md"
  attempt "start" 1 60 "$raw/version.txt" "$raw/version.err" env "${ours[@]}" "$unpacked/bin/t6" --version || exit 3
  judge "start" "$(sed -n 1p "$raw/version.txt")" "$(last_line "$raw/version.err")"
  [ "$status" = 0 ] || exit 1
  [ "$parts" = tests ] || test_seconds=$((budget * 5 / 18))
  ! among tests "$parts" || run_tests "$test_seconds"
  [ "$parts" = sanitizer ] || ! among sanitizer "$parts" || run_sanitizer_early
  ! among bench "$parts" || run_bench lead
  ! among peers "$parts" || run_peers lead
  ! among bench "$parts" || run_bench rest
  ! among profile "$parts" || run_profile
  ! among peers "$parts" || run_peers rest
  ! among use "$parts" || run_use
  ! among sanitizer "$parts" || run_sanitizer
  if [ "$failed" != 0 ]; then
    finished="$failed checks failed, $left_out were left out."
  elif [ "$left_out" != 0 ]; then
    finished="Nothing failed; $left_out checks were left out."
  else
    finished="All passed."
  fi
  publish
  echo "$finished"
  say "report in $report/report.md, all outputs in $report/report.tar.gz"
  [ "$failed" = 0 ] || exit 1
  [ "$left_out" = 0 ] || exit 3
}

case "$command" in
  pack) pack ;;
  run) run ;;
  -h | --help) usage ;;
  *) die "unknown command $command; expected pack or run" ;;
esac
