#!/usr/bin/env bash
# Trains on the hosts of a list by Open MPI's mpirun: CPU ranks, or a rank for each GPU.
#
#   scripts/launch/mpirun.sh HOSTS --config configs/demo_tpa.yaml run.dir=/shared/runs/first
#   scripts/launch/mpirun.sh node1:8,node2:8 --config configs/t6_tpa_small.yaml
#   scripts/launch/mpirun.sh localhost:4 --config configs/demo_tpa.yaml run.device=cpu
#
# HOSTS is host:ranks,host:ranks as mpirun takes it; each must be reached by ssh without a password, have t6 at the same path
# and see run.dir. Every further argument goes to `t6 train`. T6 names the program (default: t6 in PATH), MPIRUN mpirun.
# On one host `t6 launch --nproc N train ...` is shorter and passes SIGTERM on, so that the run saves; mpirun itself passes on
# SIGUSR1 only: send it that one to stop a run with a checkpoint.
set -euo pipefail

if [ $# -lt 2 ] || [ "$1" = --help ] || [ "$1" = -h ]; then
  sed -n '2,11{s/^# \{0,1\}//;p}' "$0"
  [ $# -ge 1 ] && { [ "$1" = --help ] || [ "$1" = -h ]; } && exit 0
  exit 2
fi
hosts=$1
shift

ranks=0
IFS=, read -ra each <<<"$hosts"
for host in "${each[@]}"; do
  count=${host##*:}
  [ "$count" = "$host" ] && count=1
  ranks=$((ranks + count))
done
program=$(command -v "${T6:-t6}") || { echo "mpirun.sh: there is no ${T6:-t6}; name it: T6=build/cpu/t6 $0 ..." >&2; exit 2; }
# Each rank its share of the first host's cores seen from here; waiting threads sleep.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(share=${each[0]##*:}; [ "$share" = "${each[0]}" ] && share=1; cores=$(($(nproc) / share)); echo $((cores > 0 ? cores : 1)))}
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
root=()
[ "$(id -u)" -eq 0 ] && root=(--allow-run-as-root)

# --bind-to none: a rank's threads may use all cores of its host's share. --quiet: t6 says itself what went wrong.
exec "${MPIRUN:-mpirun}" -n "$ranks" --host "$hosts" --bind-to none --quiet ${root[@]+"${root[@]}"} \
  -x OMP_NUM_THREADS -x OMP_WAIT_POLICY "$program" train "$@"
