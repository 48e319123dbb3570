#!/usr/bin/env bash
# Checks exports and imports with what people use: transformers, tokenizers, safetensors, PyTorch (tests/interop).
#
#   scripts/interop.sh                      everything, on each version of transformers
#   scripts/interop.sh --env 5              on one alone: oldest (4.45), 4 (the last 4.x), 5
#   scripts/interop.sh --t6 PROGRAM         of another build than build/cpu/t6
#   scripts/interop.sh --text FILE          text that both tokenizers encode, instead of a hard one from tests/data
#   scripts/interop.sh --keep-models        those of the last call, instead of new ones
#   scripts/interop.sh --fixtures           makes tests/data/interop anew, and tests nothing
#   scripts/interop.sh test_transformers.Exports.test_logits ...     some tests alone
#
# When everything has passed, tests/data/interop/remote_code.json tells the ordinary suite with which files of the Python
# model: a change of these has to pass here first.
#
# The libraries come from PyPI into build/interop, once: about 6 GB, most of it PyTorch's GPU libraries, which all
# versions share. They are tools of these tests and no dependency of t6. T6_INTEROP_ENVIRONMENTS names another place.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

t6=build/cpu/t6 all=no environments=() make=() keep=no fixtures=no install_only=no tests=()
while [ $# -gt 0 ]; do
  case "$1" in
    --t6) t6=${2:?"--t6 needs a program"}; shift ;;
    --text) make+=(--text "$(realpath "${2:?"--text needs a file"}")"); shift ;;
    --env) environments+=("${2:?"--env needs oldest, 4 or 5"}"); shift ;;
    --keep-models) keep=yes ;;
    --fixtures) fixtures=yes; environments=(5) ;;
    --install) environments+=("${2:?"--install needs a name"}"); install_only=yes; shift ;;  # for compare_lm_eval.sh
    -h | --help) sed -n '2,16{s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    -*) echo "interop: unknown option $1; see --help" >&2; exit 2 ;;
    *) tests+=("$1") ;;
  esac
  shift
done
[ ${#environments[@]} -gt 0 ] || [ ${#tests[@]} -gt 0 ] || all=yes
[ ${#environments[@]} -gt 0 ] || environments=(oldest 4 5)
[ ${#tests[@]} -gt 0 ] || tests=(test_transformers test_t6_model test_official)
if [ "$install_only" = no ]; then
  [ -x "$t6" ] || { echo "interop: $t6 is missing; build it: cmake --build --preset cpu --target t6" >&2; exit 2; }
  t6=$(realpath "$t6")
fi

place=${T6_INTEROP_ENVIRONMENTS:-build/interop}
declare -A requirement=([oldest]='transformers==4.45.2' [4]='transformers>=4.57,<5' [5]='transformers>=5,<6'
                        [lm_eval]='lm_eval[hf]')

# install NAME PACKAGE...: a virtual environment, remembered as complete by a file with what it was asked for.
install() {
  local folder=$place/$1
  shift
  [ "$(cat "$folder/complete" 2>/dev/null)" != "$*" ] || return 0
  echo "interop: installing $* into $folder"
  rm -rf "$folder"
  python3 -m venv "$folder"
  if [ "$folder" != "$place/torch" ]; then  # what is in there is found from here, too
    realpath "$place"/torch/lib/python3*/site-packages > "$(echo "$folder"/lib/python3*/site-packages)/torch.pth"
  fi
  "$folder/bin/pip" install --quiet "$@"
  echo "$*" > "$folder/complete"
}

mkdir -p "$place"
install torch torch numpy safetensors zstandard
for name in "${environments[@]}"; do
  [ -n "${requirement[$name]:-}" ] || { echo "interop: --env is oldest, 4 or 5, not $name" >&2; exit 2; }
  packages=("${requirement[$name]}")
  case "$name" in
    oldest) packages+=('numpy<2') ;;
    lm_eval) packages+=('transformers<5') ;;
  esac
  install "$name" "${packages[@]}"
done

[ "$install_only" = no ] || exit 0

export OMP_WAIT_POLICY=passive PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1 HF_MODULES_CACHE=$PWD/build/interop/modules
export T6_PROGRAM=$t6 T6_INTEROP_MODELS=$PWD/build/interop/models
rm -rf "$HF_MODULES_CACHE"
if [ "$fixtures" = yes ]; then
  python=$(realpath "$place/5")/bin/python
  (cd tests/interop && "$python" make_fixtures.py --t6 "$t6" --out ../data/interop)
  du -sh tests/data/interop
  exit 0
fi
[ "$keep" = yes ] && [ -e "$T6_INTEROP_MODELS/models.json" ] ||
  "$place/torch/bin/python" tests/interop/make_models.py --t6 "$t6" --out "$T6_INTEROP_MODELS" ${make[@]+"${make[@]}"}

failed=() versions=()
for name in "${environments[@]}"; do
  python=$(realpath "$place/$name")/bin/python
  echo "== $("$python" -c 'import torch, transformers, tokenizers
print("transformers", transformers.__version__, "tokenizers", tokenizers.__version__, "torch", torch.__version__)')"
  versions+=("$("$python" -c 'import transformers; print(transformers.__version__)')")
  (cd tests/interop && "$python" -m unittest -v "${tests[@]}") || failed+=("$name")
done
[ ${#failed[@]} -eq 0 ] || { echo "interop: FAILED with ${failed[*]}" >&2; exit 1; }
[ "$all" = no ] || "$place/torch/bin/python" tests/interop/note_passed.py "$T6_INTEROP_MODELS" "${versions[@]}"
echo "interop: passed with ${environments[*]}"
