#!/bin/sh
# Shards of the real-data study. DATA holds davis16_train (DAVIS's layout), coco_dev, coco128 and davis17_firstframes_dev (images/
# and masks/ with files of the same names). Twenty pictures of coco_dev are kept out of training, in SHARDS/../held_out.
#   DATA=... SHARDS=runs/real/shards sh experiments/real_cpu_data.sh
set -eu
sets=$(dirname "$SHARDS")
for set in coco_train held_out davis_frames; do mkdir -p "$sets/$set/images" "$sets/$set/masks"; done
number=0
for picture in "$DATA"/coco_dev/images/*; do
    name=$(basename "${picture%.*}")
    if [ $((number % 5)) -eq 4 ]; then set=held_out; else set=coco_train; fi
    ln -sf "$picture" "$sets/$set/images/"
    ln -sf "$DATA/coco_dev/masks/$name.png" "$sets/$set/masks/"
    number=$((number + 1))
done
for picture in "$DATA"/coco128/images/*; do
    name=$(basename "${picture%.*}")
    ln -sf "$picture" "$sets/coco_train/images/"
    ln -sf "$DATA/coco128/masks/$name.png" "$sets/coco_train/masks/"
done
for picture in "$DATA"/davis16_train/JPEGImages/*/*[048]0.jpg; do # every twentieth of DAVIS's frames: objects and backgrounds to paste
    video=$(basename "$(dirname "$picture")")
    number=$(basename "${picture%.*}")
    ln -sf "$picture" "$sets/davis_frames/images/$video-$number.jpg"
    ln -sf "$DATA/davis16_train/Annotations/$video/$number.png" "$sets/davis_frames/masks/$video-$number.png"
done
edgetam shards source=davis root="$DATA/davis16_train" out="$SHARDS/davis" name=davis short_side=288 window=16 stride=8
edgetam shards source=images root="$sets/coco_train" out="$SHARDS/coco" name=coco short_side=288 max_area=0.7
edgetam shards source=images root="$DATA/davis17_firstframes_dev" out="$SHARDS/davis_images" name=davis_images short_side=288
edgetam shards source=pasted root="$sets/coco_train:$DATA/davis17_firstframes_dev:$sets/davis_frames" out="$SHARDS/pasted" name=pasted \
    clips="${CLIPS:-1000}" frames=16 size=256 objects=5 twins=0.3 window=16 stride=16 group=50
