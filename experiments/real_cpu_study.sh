#!/bin/sh
# Does distillation through the memory help on real data, and how many latents are needed? The studies of results/003-real, at 128 px on
# one CPU core: the image parts of the shipped tracker, all parts of memory from the beginning, 230 steps, several seeds. Given again after
# an interruption it continues: finished jobs are skipped, a training resumes at its step, an evaluation at its clip.
#   DATA=... SHARDS=runs/real/shards sh experiments/real_cpu_data.sh      first
#   DATA=... sh experiments/real_cpu_study.sh [JOB...]                    all jobs but far, or these: teacher distillation latents far
# Results: runs/real/study/NAME/{weights.pt,curves.jsonl}, runs/real/study/scores/NAME/SET/report.json.
set -euf
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
runs=runs/real/study
quiet="logger=none trainer.enable_progress_bar=false logger.log_every=10 checkpoint_every=50 keep_checkpoints=1"
SMALL="model.image_size=128 model.compressor.spatial_latents=16"
LEARN="stage=real_memory stage.optim.warmup=20 weights=shipped load_parts=images"

train() { # NAME word...
    name=$1
    shift
    [ -f "$runs/$name/weights.pt" ] || edgetam train data=real $quiet out="$runs/$name" "$@"
}

score() { # NAME word...
    name=$1
    shift
    for set_ in davis16_dev davis17_multi_dev; do
        out=$runs/scores/$name/$set_
        [ -f "$out/report.json" ] || edgetam evaluate weights="$runs/$name/weights.pt" protocol=first_frame prompt=mask \
            dataset=folder root="$DATA/$set_" threads=1 pictures=false out="$out" "$@"
    done
}

phases() { # word of each phase, e.g. ", distil: false"
    echo "stage.phases=[{frames: 2, steps: 170, batch: 8$1}, {frames: 4, steps: 60, batch: 4, lr_factor: 0.7$1}]"
}

teacher() { # uncompressed memory; everything else begins as in the shipped tracker
    train teacher model=lite_teacher model.image_size=128 stage=real_memory weights=shipped load_parts=all_but_compressor seed=7 \
        stage.optim.lr=5e-4 stage.optim.encoder_lr=1e-4 \
        'stage.phases=[{frames: 2, steps: 300, batch: 8, distil: false}, {frames: 4, steps: 150, batch: 4, lr_factor: 0.7, distil: false}]'
    score teacher model=lite_teacher model.image_size=128
}

distillation() {
    teacher
    taught="model@teacher=lite_teacher teacher.image_size=128 teacher_weights=$runs/teacher/weights.pt stage.weights.img=2"
    for seed in ${SEEDS:-1 2 3}; do
        train "img_mem-$seed" model=lite $SMALL $LEARN seed="$seed" $taught stage.weights.mem=1 "$(phases '')"
        train "none-$seed" model=lite $SMALL $LEARN seed="$seed" "$(phases ', distil: false')"
        train "img-$seed" model=lite $SMALL $LEARN seed="$seed" $taught stage.weights.mem=0 "$(phases '')"
        for arm in img_mem none img; do score "$arm-$seed" model=lite $SMALL; done
    done
}

far() { # a teacher of 256 px, far better than its students: TEACHER names its weights; `none-1` above is without one
    taught="model@teacher=lite_teacher teacher_weights=${TEACHER:?names the weights of a teacher at 256 px, e.g. of real_cpu_teacher.sh}"
    train far_img_mem-1 model=lite $SMALL $LEARN seed=1 $taught stage.weights.img=2 stage.weights.mem=1 "$(phases '')"
    train far_mem-1 model=lite $SMALL $LEARN seed=1 $taught stage.weights.img=0 stage.weights.mem=5 logger.gradient_shares_every=20 "$(phases '')"
    for arm in far_img_mem far_mem; do score "$arm-1" model=lite $SMALL; done
}

latents() { # Table 3 at this size; `none-1` above is both kinds of latents
    small="model=lite model.image_size=128"
    train latents-all model=lite_teacher model.image_size=128 $LEARN seed=1 "$(phases ', distil: false')"
    score latents-all model=lite_teacher model.image_size=128
    for each in global:64:0 spatial:0:16; do
        counts=${each#*:}
        words="$small model.compressor.global_latents=${counts%:*} model.compressor.spatial_latents=${counts#*:}"
        train "latents-${each%%:*}" $words $LEARN seed=1 "$(phases ', distil: false')"
        score "latents-${each%%:*}" $words
    done
}

[ $# -gt 0 ] || set -- distillation latents
for job in "$@"; do
    case $job in
        teacher | distillation | latents | far) "$job" ;;
        *)
            echo "$0: there is no job $job; give some of teacher distillation latents far, or none for the first three." >&2
            exit 2
            ;;
    esac
done
