#!/bin/sh
# experiments/real_cpu.sh with larger numbers, for one GPU: the same stages, about twenty times as many clips. Not run so far.
# Shards as for the CPU; make more pasted clips with CLIPS=20000, or name larger sets in configs/data/real.yaml.
#   DATA=... TRUNK=....pth sh experiments/real_gpu.sh [JOB...]
set -eu
export RUNS="${RUNS:-runs/real_gpu}"
export COMMON="${COMMON:-trainer=gpu data.workers=8 checkpoint_every=500}"
export IMAGES="stage.phases=[{frames:1,steps:6000,batch:32,distil:false}]"
export MEMORY="stage.phases=[{frames:2,steps:10000,batch:16,distil:false},{frames:4,steps:4000,batch:8,distil:false}]"
export VIDEO="stage.phases=[{frames:4,steps:6000,batch:8},{frames:8,steps:4000,batch:4,lr_factor:0.7}] stage.ema=0.999"
export LONG="stage.phases=[{frames:16,steps:2000,batch:2,freeze_encoder:true,distil:false}]"
exec sh "$(dirname "$0")/real_cpu.sh" "$@"
