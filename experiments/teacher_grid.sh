#!/bin/sh
# Does a teacher of another grid teach as well as one of the student's own? Two teachers of one design, one budget and one seed,
# at 64 px (4 x 4 tokens) and at 96 px (6 x 6); students at 64 px, three seeds each: without a teacher, taught by the first, by the
# second. Generated clips; minutes on one CPU core. Given again, it continues. Results: results/004-teacher-grid.
#   sh experiments/teacher_grid.sh
set -euf
export OMP_NUM_THREADS=1
out=runs/teacher_grid
quiet="logger=none logger.page=false logger.panels_every=0 trainer.enable_progress_bar=false logger.log_every=10 checkpoint_every=1000"
edgetam=${EDGETAM:-edgetam}
small() { # PREFIX SIDE
    echo "$1.image_size=$2 $1.trunk_args={embed_dim:[12,24,48,96],depth:[1,1,2,1]}"
}

$edgetam shards source=toy out=$out/data clips=160 frames=8 objects=3 processes=1 >&2

train() { # NAME word...
    name=$1
    shift
    [ -f "$out/$name/weights.pt" ] || $edgetam train data=toy "data.sources=[{name:toy,shards:$out/data,kind:video}]" \
        data.workers=0 data.shuffle=4 $quiet "out=$out/$name" "$@" >&2
}

score() { # NAME MODEL word... : J&F on 16 clips that nothing was trained on
    name=$1 model=$2
    shift 2
    [ -f "$out/scores/$name/report.json" ] || $edgetam evaluate "model=$model" "weights=$out/$name/weights.pt" protocol=first_frame \
        prompt=mask dataset=toy root=toy:7:16 threads=1 pictures=false "out=$out/scores/$name" "$@" >&2
}

for side in 64 96; do
    train teacher_$side model=toy_teacher $(small model $side) stage=toy_teacher stage.mask_size=32 \
        "stage.phases=[{frames:2,steps:160,batch:8,distil:false},{frames:4,steps:60,batch:4,distil:false}]"
    score teacher_$side toy_teacher $(small model $side)
done
for arm in 64 96 none; do
    for seed in 1 2 3; do
        taught=
        [ $arm = none ] || taught="model@teacher=toy_teacher $(small teacher $arm) teacher_weights=$out/teacher_$arm/weights.pt"
        train student_${arm}_$seed model=toy $(small model 64) stage=toy_video stage.mask_size=32 seed=$seed $taught \
            "stage.phases=[{frames:2,steps:75,batch:8},{frames:4,steps:30,batch:4}]"
        score student_${arm}_$seed toy $(small model 64)
    done
done
