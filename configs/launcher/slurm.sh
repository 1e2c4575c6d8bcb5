#!/usr/bin/env bash
# A training under SLURM that survives pre-emption and time limits. One task a GPU; srun starts them, Lightning finds them.
#   sbatch --nodes=4 configs/launcher/slurm.sh stage=video data=sav out=/shared/runs/stage2 ...
#SBATCH --job-name=edgetam
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=USR1@300
# USR1 reaches every task 300 s before the end: longer than one optimiser step and a checkpoint.
set -uo pipefail

export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
export WANDB_MODE="${WANDB_MODE:-offline}"

# The shell outlives `scancel --batch` and `--signal=B:...`: it passes the signal on and waits for the tasks.
tasks=
pass_on() { [ -z "$tasks" ] || kill -s "$1" "$tasks" 2>/dev/null; }
trap 'pass_on USR1' USR1
trap 'pass_on USR2' USR2
trap 'pass_on TERM' TERM INT EXIT
with_shell=()  # where the system can do that, srun also ends when this shell is killed
command -v setpriv >/dev/null && with_shell=(setpriv --pdeathsig TERM)
"${with_shell[@]}" srun --kill-on-bad-exit=0 "${EDGETAM:-edgetam}" train trainer=gpu8 \
  trainer.devices="${SLURM_NTASKS_PER_NODE}" trainer.num_nodes="${SLURM_JOB_NUM_NODES}" "$@" &
tasks=$!
wait "$tasks"
status=$?
while kill -0 "$tasks" 2>/dev/null; do  # a signal ended the waiting, not the tasks
  wait "$tasks"
  status=$?
done
tasks=

# 75: told to stop, saved. 130, 138, 140, 143: told so early that there was nothing to save. The same job again continues at
# the next step, in the same W&B run; but a job that somebody has cancelled stays cancelled.
case "$status" in
  75|130|138|140|143)
    status=75
    # COMPLETING is what a cancelled job is called while its tasks end, and one that SLURM itself puts back, too
    if scontrol show job "$SLURM_JOB_ID" | grep -qE 'JobState=(CANCELLED|COMPLETING)'; then
      echo "Job $SLURM_JOB_ID was ended by SLURM, which puts it back into the queue unless somebody has cancelled it."
    else
      scontrol requeue "$SLURM_JOB_ID"
    fi
    ;;
esac
exit "$status"
