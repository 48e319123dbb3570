#!/usr/bin/env bash
# Starts this host's ranks of a run over several hosts with GPUs, with the variables that torchrun sets. No MPI, no Slurm.
#
#   on node1:  scripts/launch/torchrun.sh 0 2 8 node1:29500 --config configs/t6_tpa_small.yaml run.dir=/shared/runs/first
#   on node2:  scripts/launch/torchrun.sh 1 2 8 node1:29500 --config configs/t6_tpa_small.yaml run.dir=/shared/runs/first
#
# Arguments: number of this host (from 0), number of hosts, ranks on each, address of host 0 with a free port; the rest goes to
# `t6 train` and must be the same everywhere. RUN_NONCE, if set, must be equal on all hosts and keeps out ranks of another run
# that uses the same port. T6 names the program (default: t6 in PATH). Signals go to all ranks of this host.
# torchrun itself sets the same variables: torchrun --no-python --nnodes 2 --nproc-per-node 8 ... t6 train ...
set -uo pipefail

if [ $# -lt 5 ] || [ "$1" = --help ] || [ "$1" = -h ]; then
  sed -n '2,10{s/^# \{0,1\}//;p}' "$0"
  [ $# -ge 1 ] && { [ "$1" = --help ] || [ "$1" = -h ]; } && exit 0
  exit 2
fi
host=$1 hosts=$2 ranks=$3 address=$4
shift 4

export WORLD_SIZE=$((hosts * ranks)) LOCAL_WORLD_SIZE=$ranks
export MASTER_ADDR=${address%:*} MASTER_PORT=${address##*:}
# Each rank its share of the cores; waiting threads sleep.
cores=$(($(nproc) / ranks))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > 0 ? cores : 1))} OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
[ -n "${RUN_NONCE:-}" ] && export T6_RUN_NONCE=$RUN_NONCE
processes=()
for ((local = 0; local < ranks; ++local)); do
  RANK=$((host * ranks + local)) LOCAL_RANK=$local "${T6:-t6}" train "$@" &
  processes+=($!)
done
woken=0
for signal in TERM INT USR1; do
  # shellcheck disable=SC2064  # the name of now
  trap "woken=1; kill -$signal ${processes[*]} 2>/dev/null" "$signal"
done

code=0
for process in "${processes[@]}"; do
  while :; do
    wait "$process"
    ended=$?
    [ "$woken" -eq 1 ] || break
    woken=0  # that was the signal
  done
  [ "$code" -ne 0 ] || code=$ended
done
exit "$code"
