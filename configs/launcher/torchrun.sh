#!/usr/bin/env bash
# A training on one machine, or on several without a scheduler. NODES, RANK and HEAD (host:port) describe the machines.
#   configs/launcher/torchrun.sh stage=video data=sav out=runs/stage2 ...                          one machine, 8 GPUs
#   NODES=2 RANK=0 HEAD=node0:29500 configs/launcher/torchrun.sh ...                               and RANK=1 on the other
set -euo pipefail

GPUS="${GPUS:-8}" NODES="${NODES:-1}"
if [ "$NODES" -gt 1 ]; then
  where=(--nnodes="$NODES" --node-rank="${RANK:?which of the machines is this, from 0}"
         --master-addr="${HEAD%%:*}" --master-port="${HEAD##*:}")
else
  where=(--standalone)
fi
exec python -m edgetam_pl.training.torchrun "${where[@]}" --nproc-per-node="$GPUS" -m edgetam_pl.commands.main train trainer=gpu8 \
  trainer.devices="$GPUS" trainer.num_nodes="$NODES" "$@"
