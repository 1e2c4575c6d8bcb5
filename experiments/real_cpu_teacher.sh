#!/bin/sh
# A teacher from real data on one CPU core: all tokens of its memories, 256 px, everything but the compressor from a student's
# weights. Three trainings, each from the last one's end: pasted clips that grow; DAVIS's frames further apart and zooms; more of both.
# Given again after an interruption it continues: what is finished is skipped, a training resumes at its step.
#   DATA=... SHARDS=runs/real/shards sh experiments/real_cpu_data.sh            first
#   DATA=... sh experiments/real_cpu_teacher.sh [JOB...]                        all jobs, or these: data grown steps zoom scores students
# START: the student's weights (shipped). Results: runs/real/teacher_{grown,steps,zoom}, student_{none,taught}-SEED, scores.
set -euf
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
RUNS=${RUNS:-runs/real}
SHARDS=${SHARDS:-$RUNS/shards}
quiet="logger=none trainer.enable_progress_bar=false logger.log_every=10 checkpoint_every=50 keep_checkpoints=1"
# the trunk's first half stays as it is
FROZEN="stage.frozen=[image_encoder.trunk.body.conv_stem,image_encoder.trunk.body.bn1,image_encoder.trunk.body.blocks.0.,image_encoder.trunk.body.blocks.1.]"

ALONE="stage.weights.img=0 stage.weights.mem=0"
TEACHER="model=lite_teacher stage.ema=0.99 $ALONE"

prompts() { # shares of clips that begin with points, and with boxes
    echo "stage.prompts={point_prob:$1,box_prob:$2,max_prompted_frames:1,max_corrected_frames:1,corrections:1}"
}

train() { # NAME word...
    name=$1
    shift
    [ -f "$RUNS/$name/weights.pt" ] || edgetam train stage=real_video $quiet out="$RUNS/$name" "$FROZEN" stage.max_objects=3 "$@"
}

data() { # the shards that real_cpu_data.sh has not made
    sets=$(dirname "$SHARDS")
    [ -f "$SHARDS/grown/manifest.json" ] || edgetam shards source=pasted \
        root="$sets/coco_train:$DATA/davis17_firstframes_dev:$sets/davis_frames" out="$SHARDS/grown" name=grown clips=1200 frames=12 size=256 \
        objects=4 twins=0.25 growth=3 window=12 stride=12 group=50 seed=21
    [ -f "$SHARDS/davis_whole/manifest.json" ] || edgetam shards source=davis root="$DATA/davis16_train" out="$SHARDS/davis_whole" \
        name=davis short_side=400 window=24 stride=24
}

grown() {
    train teacher_grown $TEACHER data=real_grown weights="${START:-shipped}" load_parts=all_but_compressor seed=21 stage.optim.lr=8e-4 "$(prompts 0.5 0.25)" \
        'stage.phases=[{frames:2,steps:200,batch:8,distil:false},{frames:4,steps:500,batch:4,distil:false},{frames:8,steps:350,batch:2,lr_factor:0.6,distil:false}]'
}

steps() {
    train teacher_steps $TEACHER data=real_steps weights="$RUNS/teacher_grown/weights.pt" seed=31 stage.optim.lr=8e-4 "$(prompts 0.4 0.2)" \
        'stage.phases=[{frames:4,steps:420,batch:4,distil:false},{frames:8,steps:260,batch:2,lr_factor:0.6,distil:false}]'
}

zoom() {
    train teacher_zoom $TEACHER data=real_zoom weights="$RUNS/teacher_steps/weights.pt" seed=41 stage.optim.lr=7e-4 "$(prompts 0.3 0.2)" \
        'stage.phases=[{frames:8,steps:700,batch:2,distil:false}]'
}

score() { # NAME MODEL
    for set_ in davis16_dev davis17_multi_dev; do
        out=$RUNS/scores/$1/$set_-mask
        [ -f "$out/report.json" ] || edgetam evaluate model="$2" weights="$RUNS/$1/weights.pt" protocol=first_frame prompt=mask dataset=folder \
            root="$DATA/$set_" threads=1 pictures=false out="$out"
    done
}

scores() {
    for name in teacher_grown teacher_steps teacher_zoom; do score "$name" lite_teacher; done
}

students() { # the student goes on for 150 steps of the teacher's last data, with and without the teacher
    taught="model@teacher=lite_teacher teacher_weights=$RUNS/teacher_zoom/weights.pt stage.weights.img=2 stage.weights.mem=1"
    for seed in ${SEEDS:-51 52 53}; do
        common="model=lite data=real_zoom weights=${START:-shipped} seed=$seed stage.optim.lr=6e-4 stage.ema=0.98 $(prompts 0.3 0.2)"
        train "student_none-$seed" $common $ALONE 'stage.phases=[{frames:4,steps:150,batch:4,distil:false}]'
        train "student_taught-$seed" $common $taught 'stage.phases=[{frames:4,steps:150,batch:4}]'
        for arm in none taught; do score "student_$arm-$seed" lite; done
    done
}

[ $# -gt 0 ] || set -- data grown steps zoom scores students
for job in "$@"; do
    case $job in
        data | grown | steps | zoom | scores | students) "$job" ;;
        *)
            echo "$0: there is no job $job; give some of data grown steps zoom scores students, or none for all." >&2
            exit 2
            ;;
    esac
done
