#!/usr/bin/env bash
# A training on one machine, or on several without a scheduler. NODES and HEAD (host:port, of one of the machines) describe them.
#   configs/launcher/torchrun.sh stage=video data=sav out=runs/stage2 ...                  one machine, 8 GPUs
#   NODES=2 HEAD=node0:29500 configs/launcher/torchrun.sh ...                              the same command on both
#   NODES=2:4 HEAD=node0:29500 configs/launcher/torchrun.sh ...                            elastic: two to four machines
# A rank that dies takes the others with it; all are started again, RESTARTS times at most, and go on from the last checkpoint.
set -euo pipefail

GPUS="${GPUS:-8}" NODES="${NODES:-1}" RESTARTS="${RESTARTS:-3}"
if [ "$NODES" != 1 ]; then
  where=(--nnodes="$NODES" --rdzv-backend=c10d --rdzv-endpoint="${HEAD:?host:port of one of the machines}"
         --rdzv-id="${ID:-edgetam}")
else
  where=(--standalone)
fi
exec python -m edgetam_pl.training.torchrun "${where[@]}" --max-restarts="$RESTARTS" --nproc-per-node="$GPUS" \
  -m edgetam_pl.commands.main train trainer=gpu8 trainer.devices="$GPUS" trainer.num_nodes="${NODES##*:}" "$@"
