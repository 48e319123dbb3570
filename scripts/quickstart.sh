#!/usr/bin/env bash
# From an empty machine to a model that writes: builds t6, trains a small model on real English text for a few minutes, lets
# it write, and says where everything lies. Needs Debian 12 or newer, or Ubuntu 24.04; about ten minutes on two cores.
#
#   scripts/quickstart.sh                what was done by an earlier call is reused; an interrupted training goes on
#   scripts/quickstart.sh --fresh        makes tokenizer, shards and model anew
#   scripts/quickstart.sh --text FILE    your own text instead of the one from the distribution, documents separated by form
#                                        feeds, a megabyte or more
#
# The text is the Debian package anarchism (a book-length FAQ, 11 MB): downloaded and unpacked, not installed.
# JOBS sets how many compilers run at once (default: the processors).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

config=configs/demo_tpa.yaml
data=data/demo
run=runs/demo_tpa
t6=build/cpu/t6
fresh=no
own_text=
started=$SECONDS

step() { printf '\n== %s  (%dm%02ds)\n' "$*" $(((SECONDS - started) / 60)) $(((SECONDS - started) % 60)); }
say() { printf '%s\n' "$*"; }
die() { printf 'quickstart: %s\n' "$*" >&2; exit 1; }

while [ $# -gt 0 ]; do
  case "$1" in
    --fresh) fresh=yes ;;
    --text) own_text=${2:?"--text needs a file"}; shift ;;
    -h | --help) sed -n '2,11{s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    *) die "unknown option $1; expected --fresh, --text FILE or --help" ;;
  esac
  shift
done
[ -z "$own_text" ] || [ -s "$own_text" ] || die "--text: there is no text in $own_text"

start_over() { rm -rf "$run" "$data"/tokenizer.tiktoken "$data"/text_*.bin; }

# Puts the package's .deb into $data, from the package lists at hand, or after bringing them up to date.
download_package() {
  local as_root=() options=()
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
    die "no apt-get here to get a text with. Take any English text of a megabyte or more: scripts/quickstart.sh --text FILE"
  if [ "$(id -u)" = 0 ]; then options=(-o APT::Sandbox::User=root); else as_root=(sudo); fi
  (cd "$data" && apt-get -qq "${options[@]}" download anarchism 2>/dev/null) && return
  say "the package lists are old or missing: apt-get update"
  "${as_root[@]}" apt-get -qq update || true
  (cd "$data" && apt-get -qq "${options[@]}" download anarchism) ||
    die "could not download the package anarchism (on Ubuntu it is in the component universe). Without a network, take any
English text of a megabyte or more: scripts/quickstart.sh --text FILE"
}

# One file, a form feed between documents; paragraphs on one line, without the targets of links and emphasis marks. The order
# mixes subjects: what comes first is for validation.
make_text() {
  local file
  for file in "$data"/anarchism/usr/share/doc/anarchism/markdown/*.md.gz; do
    printf '%s %s\n' "$(basename "$file" | md5sum | cut -c1-32)" "$file"
  done | sort | cut -d' ' -f2- | while read -r file; do
    gzip -dc "$file" | awk 'BEGIN { RS = ""; ORS = "\n\n" } { gsub(/\n>? */, " "); print }' |
      sed -E 's/\[([^]]*)\]\([^)]*\)/\1/g; s/[*_]+//g; s/^> *//; s/\\([-.+#])/\1/g; s/  +/ /g'
    printf '\f'
  done
}

# Threads that wait sleep: on a machine that is busy with other things, spinning ones more than halve the speed.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

step "1/6 building"
scripts/setup.sh
export CCACHE_BASEDIR=${CCACHE_BASEDIR:-$PWD} CCACHE_NOHASHDIR=${CCACHE_NOHASHDIR:-1}
cmake --preset cpu >/dev/null
cmake --build --preset cpu --target t6 -j "${JOBS:-$(nproc)}"
[ "$fresh" = no ] || start_over
mkdir -p "$data"

step "2/6 text"
if [ -n "$own_text" ]; then
  cmp -s "$own_text" "$data/text.txt" || { start_over; cp "$own_text" "$data/text.txt"; }
elif [ -s "$data/text.txt" ]; then
  say "reusing $data/text.txt"
else
  download_package
  dpkg-deb -x "$data"/anarchism_*.deb "$data/anarchism"
  make_text >"$data/text.tmp"
  [ "$(wc -c <"$data/text.tmp")" -gt 1000000 ] ||
    die "the package anarchism holds no text where it was expected: $data/anarchism/usr/share/doc/anarchism/markdown"
  rm -rf "$data"/anarchism "$data"/anarchism_*.deb
  mv "$data/text.tmp" "$data/text.txt"
fi
say "$(tr -cd '\f' <"$data/text.txt" | wc -c) documents, $(wc -w <"$data/text.txt") words, $(wc -c <"$data/text.txt") bytes"

step "3/6 a vocabulary of 4,096 tokens"
if [ -s "$data/tokenizer.tiktoken" ]; then
  say "reusing $data/tokenizer.tiktoken"
else
  "$t6" tokenizer train --input "$data/text.txt" --separator '\f' --vocab 4096 --out "$data/tokenizer.tiktoken"
fi

step "4/6 token shards"
if ls "$data"/text_train_*.bin >/dev/null 2>&1; then
  say "reusing the shards in $data"
else
  "$t6" tokenize --tokenizer "$data/tokenizer.tiktoken" --separator '\f' --out "$data/text" \
    --val-tokens 65537 "$data/text.txt"
fi
"$t6" shards "$data/text_*.bin" --vocab 4096

step "5/6 training $config"
# Prints the validation loss of the first or last line that has one; nothing when there is none.
validation_loss() {
  sed -n 's/.*"kind":"validation","step":\([0-9]*\),"loss":\([0-9.]*\).*/\2 \1/p' "$run/metrics.jsonl" 2>/dev/null | "$1" -n 1
}
[ ! -e "$run/metrics.jsonl" ] || say "going on with $run; --fresh starts over"
"$t6" train --config "$config"

step "6/6 what it writes"
"$t6" generate "$run" --prompt "The question of freedom is" --tokens 150 --seed 1
"$t6" plot "$run" --out "$run/curves.svg"

entropy=$("$t6" shards "$data/text_val_*.bin" --json | sed -n 's/.*"unigram_entropy": \([0-9.]*\).*/\1/p' | tail -n 1)
read -r before first_step <<<"$(validation_loss head)"
read -r after last_step <<<"$(validation_loss tail)"
checkpoint=$("$t6" checkpoint list "$run" --json | sed -n 's/.*"path": "\(.*step-[0-9]*\)".*/\1/p' | tail -n 1)
step "done"
cat <<END
validation loss   $(LC_ALL=C printf '%.3f before (step %d), %.3f after (step %d)' "$before" "$first_step" "$after" "$last_step"), in nats a token
unigram entropy   $(LC_ALL=C printf '%.3f' "$entropy") of the same tokens: the best that is possible without looking at context
run folder        $run
curves            $run/curves.svg  (or here: $t6 plot $run)
checkpoint        $checkpoint

Next:
  $t6 generate $run --prompt "Workers and peasants" --temperature 0.7     let it write more
  $t6 train --config configs/demo_mha.yaml                               the same with multi-head attention
  $t6 plot runs/demo_tpa runs/demo_mha --out curves.svg                  both runs in one picture
  $t6 train --config configs/demo_tpa.yaml model.layers=6 model.width=384 model.heads=24 \\
    train.steps=4000 optimizer.lr=2e-3 run.dir=runs/larger               a bigger model, for longer
  $t6 info --all --size small                                            all six kinds of attention side by side
END
