"""Does a teacher of another grid teach as well as one of the student's own? One process, minutes on a CPU core.

Two teachers of one design and one budget, at 64 px (4 x 4 tokens) and at 96 px (6 x 6), and students at 64 px that learn
from the first, from the second, or from none: five seeds each, the same clips, prompts and steps. Students have their
teachers' design: reading a compressed memory takes a smaller one longer to learn than there is time for here. Scored on
clips that nothing was trained on: mean IoU of the masks of frames 1, 2, ... after the mask of frame 0 was given.
    python experiments/teacher_grid.py [OUT]      writes OUT (default: experiments/results/004-teacher-grid/scores.json)
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from edgetam_pl.build import build_model
from edgetam_pl.commands.compose import composed
from edgetam_pl.config import ModelConfig, PhaseConfig, StageConfig, TrainConfig
from edgetam_pl.datasets.toy_clips import toy_clip
from edgetam_pl.losses.match import FeatureMatch
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.tracking.prompters import GivenMasks
from edgetam_pl.training.step import StepOptions, StepSeeds, compute_losses
from edgetam_pl.training.track_batch import Teacher, encode_frames, track_objects
from edgetam_pl.types import VideoBatch

SIDE, LARGER, FRAMES, OBJECTS, BATCH = 64, 96, 2, 2, 4
SEEDS = 5
TEACHER_STEPS, STUDENT_STEPS, CLIPS, HELD_OUT = 150, 120, 96, 12
SMALL = "trunk_args={embed_dim:[12,24,48,96],depth:[1,1,2,1]}"


def clip(seed: int, frames: int) -> tuple[Tensor, Tensor, Tensor]:
    """The frames (T, 3, S, S) of a generated clip at both sizes, and masks (T, O, S, S), all shrunk from 192 px."""
    images, masks = toy_clip(seed, frames, 192, OBJECTS)
    large = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    low, high = (F.interpolate(large, (side, side), mode="area").round().byte() for side in (SIDE, LARGER))
    return low, high, F.interpolate(torch.from_numpy(masks).float(), (SIDE, SIDE), mode="area") >= 0.5


def batch_of(clips: list[tuple[Tensor, Tensor, Tensor]], side: int) -> VideoBatch:
    """A batch at `side` pixels; the other size is its view."""
    low, high = torch.stack([one[0] for one in clips]), torch.stack([one[1] for one in clips])
    masks = torch.cat([one[2] for one in clips], dim=1)
    if side != SIDE:
        masks = F.interpolate(masks.float(), (side, side), mode="bilinear") >= 0.5
    video_of = torch.arange(len(clips)).repeat_interleave(OBJECTS)
    frames, view = (low, high) if side == SIDE else (high, low)
    return VideoBatch(frames, masks, video_of, tuple(map(str, range(len(clips)))), views=(view,))


def train(
    model: TrackAnything,
    stage: StageConfig,
    clips: list[tuple[Tensor, Tensor, Tensor]],
    *,
    steps: int,
    seed: int,
    teacher: Teacher | None,
) -> None:
    side, match = model.image_size, (FeatureMatch(),)
    options = StepOptions(stage, PhaseConfig(frames=FRAMES, steps=steps, batch=BATCH), matches=match)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    order = torch.Generator().manual_seed(seed)
    for step in range(steps):
        chosen = [clips[i] for i in torch.randint(len(clips), (BATCH,), generator=order).tolist()]
        seeds = StepSeeds.of(seed, phase=0, batch=step, rank=0)
        found = compute_losses(model.train(), [teacher] if teacher else [], batch_of(chosen, side), seeds, options)
        optimizer.zero_grad()
        found.losses.weighted(stage.weights).total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


@torch.inference_mode()
def score(model: TrackAnything, clips: list[tuple[Tensor, Tensor, Tensor]]) -> float:
    """Mean IoU in percent over clips, objects and frames but the first."""
    model.eval()
    ious = []
    for one in clips:
        batch = batch_of([one], model.image_size)
        outputs = track_objects(model, encode_frames(model, batch.frames), batch, GivenMasks(batch.masks))
        for t, output in enumerate(outputs[1:], start=1):
            found = F.interpolate(output.final.best, (SIDE, SIDE), mode="bilinear")[:, 0] > 0
            union = (found | one[2][t]).flatten(1).sum(1)
            ious.append((found & one[2][t]).flatten(1).sum(1)[union > 0] / union[union > 0])
    return 100 * float(torch.cat(ious).mean())


def model_of(seed: int, cfg: ModelConfig, side: int) -> TrackAnything:
    torch.manual_seed(seed)
    return build_model(replace(cfg, image_size=side))


def main() -> None:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "experiments/results/004-teacher-grid/scores.json")
    torch.set_num_threads(1)
    words = ["data=toy", "stage.mask_size=32", "logger=none", f"model.{SMALL}"]
    student = composed(TrainConfig, command="train", overrides=["model=toy_teacher", "stage=toy_video", *words])[0]
    taught = composed(TrainConfig, command="train", overrides=["model=toy_teacher", "stage=toy_teacher", *words])[0]
    clips, held_out = [clip(seed, FRAMES) for seed in range(CLIPS)], [clip(9000 + seed, 4) for seed in range(HELD_OUT)]
    scores: dict[str, list[float]] = {}
    started = time.process_time()

    def note(name: str, value: float) -> None:
        scores.setdefault(name, []).append(round(value, 2))
        out.parent.mkdir(parents=True, exist_ok=True)
        settings = {"teacher_steps": TEACHER_STEPS, "student_steps": STUDENT_STEPS, "batch": BATCH, "frames": FRAMES}
        seconds = round(time.process_time() - started)
        out.write_text(json.dumps({"iou": scores, **settings, "held_out_clips": HELD_OUT, "cpu_seconds": seconds}, indent=1))
        print(name, scores[name], f"{seconds} s", flush=True)

    teachers: dict[str, Teacher | None] = {"untaught": None}
    for side in (SIDE, LARGER):
        model = model_of(0, taught.model, side)
        train(model, taught.stage, clips, steps=TEACHER_STEPS, seed=0, teacher=None)
        note(f"teacher_{side}", score(model, held_out))
        teachers[f"taught_by_{side}"] = Teacher(model, f"toy_teacher at {side} px", "")
    for seed in range(1, SEEDS + 1):
        for name, teacher in teachers.items():
            model = model_of(seed, student.model, SIDE)
            train(model, student.stage, clips, steps=STUDENT_STEPS, seed=seed, teacher=teacher)
            note(name, score(model, held_out))


if __name__ == "__main__":
    main()
