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

srun --kill-on-bad-exit=0 "${EDGETAM:-edgetam}" train trainer=gpu8 \
  trainer.devices="${SLURM_NTASKS_PER_NODE}" trainer.num_nodes="${SLURM_JOB_NUM_NODES}" "$@"
status=$?

# 75: told to stop, saved. The same job again continues at the next step, in the same W&B run.
if [ "$status" -eq 75 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
