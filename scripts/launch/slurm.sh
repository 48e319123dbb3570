#!/usr/bin/env bash
#SBATCH --job-name=t6
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --output=t6-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@300
# Trains on several hosts of a Slurm cluster, one rank for each GPU, and goes on after pre-emption or the time limit.
#
#   sbatch scripts/launch/slurm.sh --config configs/t6_tpa_small.yaml run.dir=/shared/runs/first
#   sbatch --nodes=4 --time=2:00:00 scripts/launch/slurm.sh CONFIG...
#   scripts/launch/slurm.sh --help
#
# Every argument goes to `t6 train`. run.dir must be a folder that all hosts see. T6 names the program (default: t6 in PATH).
#
# 300 seconds before the time limit Slurm sends SIGUSR1 to this script (B:), which passes it to the ranks: they finish their
# step, save and exit with 138. At pre-emption Slurm sends SIGTERM to the ranks themselves: they save and exit with 143. (Where
# the cluster sets PreemptParameters=send_user_signal it is SIGUSR1, to this script, as before the time limit.) After both the
# job puts itself into the queue again, where the same command goes on from the checkpoint. Pre-emption must give a grace time
# longer than a step and a save. Any other end leaves the queue with its exit code, SIGTERM by scancel, too.
# For ranks on CPUs, which talk by MPI, add run.device=cpu and set SRUN_MPI=pmix (what the cluster's Open MPI was built for).
set -uo pipefail

if [ $# -eq 0 ] || [ "$1" = --help ] || [ "$1" = -h ]; then
  sed -n '12,25{s/^# \{0,1\}//;p}' "$0"
  exit 0
fi
if [ -z "${SLURM_JOB_ID:-}" ]; then
  echo "slurm.sh: this is no job of Slurm; submit it: sbatch $0 $*" >&2
  exit 2
fi

# Each rank the cores of its task; waiting threads sleep.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}} OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

signalled=0 woken=0
# Of $!, which is there as soon as the step is: the signal may come before the line that keeps it.
trap 'signalled=1; woken=1; kill -USR1 "${!:-}" 2>/dev/null' USR1
# Slurm sends it to the ranks, too, and a second one would end them without a checkpoint: it is not passed on.
trap 'woken=1' TERM

# Slurm has begun to take the job's hosts away for another job; scancel sends SIGTERM, too, and means it.
preempted() {
  [[ $(scontrol show job "$SLURM_JOB_ID" 2>/dev/null) =~ [[:space:]]PreemptTime=[0-9] ]]
}

# One step: each task is a rank and finds itself by SLURM_PROCID and its like. srun passes signals on to all tasks.
# --kill-on-bad-exit=0: the ranks end each other themselves, with a message; Slurm need not cut it off.
srun --kill-on-bad-exit=0 ${SRUN_MPI:+--mpi="$SRUN_MPI"} "${T6:-t6}" train "$@" &
step=$!
# The first wait ends when the signal comes, the next one when the ranks have saved.
while :; do
  wait "$step"
  code=$?
  [ "$woken" -eq 1 ] || break
  woken=0
done

if { [ "$signalled" -eq 1 ] && [ "$code" -eq 138 ]; } || { [ "$code" -eq 143 ] && preempted; }; then
  echo "slurm.sh: saved; into the queue again"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
