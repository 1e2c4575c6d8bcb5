"""Validation during training: a few clips, first-frame masks, J&F, and pictures of the clips that go worst.

Lightning runs it (`Distillation.validation_step`): every rank tracks its share of the clips, and `JF` adds up over ranks.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import lightning as L
import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch.loggers import WandbLogger
from numpy.typing import NDArray

from edgetam_pl.config import ValidationConfig
from edgetam_pl.evaluation.clips import Clip, Masks
from edgetam_pl.evaluation.protocols import clip_tracker, follow
from edgetam_pl.evaluation.reporting.pictures import decode_jpeg
from edgetam_pl.evaluation.scoring import ObjectScore, ScoreRule, mean_j_by_frame
from edgetam_pl.evaluation.vos import clips_of, evaluate_clip
from edgetam_pl.io.atomic import atomic_path, write_json
from edgetam_pl.io.folders import some_of
from edgetam_pl.metrics.jf import JF
from edgetam_pl.tracking.frame_tracker import evaluating
from edgetam_pl.tracking.step import VideoModel
from edgetam_pl.training.best import SCORE
from edgetam_pl.training.curves import STEP, keep_lines, read_lines, write_line
from edgetam_pl.training.record import is_rank_zero
from edgetam_pl.training.wandb_runs import suppress_wandb_errors

if TYPE_CHECKING:
    import wandb

    from edgetam_pl.training.distillation import Distillation

WORST = 8
"""Clips in the table of the worst."""

CLIPS = "clips.jsonl"
"""J&F of each clip, a line a validation, beside jf.jsonl; worst/0.jpg, 1.jpg ... show the worst of the last one."""

NAMES = "names.json"
"""The clips that all validations of a run are of, beside jf.jsonl."""

Item = TypeVar("Item")

COLUMNS = ("step", "clip", "J&F", "objects", "worst frame", "J on it", "masks")

NEVER = sys.maxsize
"""Of `Trainer.val_check_interval`: `ValidateEvery` says when."""


class WorstFrame(NamedTuple):
    """The frame of a clip on which regions agree least."""

    number: int
    """Of the clip."""
    clip: str
    score: float
    """J&F of the whole clip, 0 ... 100."""
    stem: str
    j: float
    """Mean J of the objects on this frame, 0 ... 100."""
    image: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    truth: NDArray[np.uint8]
    """(H, W): 0 or the number of an object, from 1."""
    prediction: NDArray[np.uint8]
    objects: tuple[str, ...]
    strip: bytes
    """JPEG of some frames: frame, truth, prediction, error."""


class Validation:
    """Tracks clips from their first masks, as `edgetam evaluate` does with protocol vos, in fp32.

    With stage.ema the averaged weights are tracked, which are the ones that a training saves.
    """

    def __init__(self, cfg: ValidationConfig, folder: Path, *, size: int, pictures: bool) -> None:
        """`folder` receives jf.jsonl. `size` is the side of generated clips in pixels. `pictures`: draw them, for the page
        and W&B; the same on every rank."""
        self.cfg, self.size, self.pictures = cfg, size, pictures
        self.path = folder / "jf.jsonl"
        self.metric, self.device = JF(), torch.device("cpu")
        self.shown: list[WorstFrame] = []
        self.scores: list[tuple[str, float]] = []
        """Clip and its J&F, of this rank."""
        self.values: dict[str, float] = {}
        """Of the last validation, over all ranks: val/j, val/f, val/jf in 0 ... 100."""

    @cached_property
    def clips(self) -> list[Clip]:
        return clips_of(self.cfg.root, size=self.size, limit=self.cfg.clips, split=self.cfg.split)

    def hold_clips(self) -> None:
        """Note the names of the clips, on rank 0, at the first start of a run; later ones are of the same.

        Raises:
            ValueError: they are not, and scores of different clips do not tell which weights are the best.
        """
        path, now = self.path.with_name(NAMES), [clip.name for clip in self.clips]
        try:
            before = json.loads(path.read_bytes()) if path.is_file() else None
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error!r:.60}); move it away, and it is written anew.") from error
        if before is not None and before != now and self.path.is_file():
            raise ValueError(
                f"This run was validated on other clips before ({len(before)}: {some_of(before)}) than it would be now "
                f"({len(now)}: {some_of(now)}), and such scores do not tell which weights are the best. Give the "
                f"validation.root, split and clips that it had, or move {path.parent} and best.json away to begin anew."
            )
        if before != now and is_rank_zero():
            write_json(path, now)

    def indices(self, rank: int, world_size: int) -> list[int]:
        """Clips of a rank, by index. Equally many on each, for ranks validate in step; -1 where there are none left."""
        mine = list(range(len(self.clips)))[rank::world_size]
        return mine + [-1] * (-(-len(self.clips) // world_size) - len(mine))

    def start(self, device: torch.device) -> None:
        """Begin anew, with the model on `device`."""
        self.device, self.shown, self.scores = device, [], []
        # where NCCL can add the sums up; MPS has no double precision
        self.metric = JF().to(device if device.type == "cuda" else "cpu")

    def add(self, model: VideoModel, index: int) -> None:
        """Track and score one clip; below 0 there is none left for this rank."""
        if index < 0:
            return self.metric.update([], [])
        clip = self.clips[index]
        predicted: dict[int, NDArray[np.uint8]] = {}
        with evaluating(model), torch.autocast(self.device.type, enabled=False):
            answers = follow(clip_tracker(model, clip, device=self.device), clip)
            noted = (_noted(answer, predicted) if self.pictures else answer for answer in answers)
            sequence, rows = evaluate_clip(clip, noted, ScoreRule(), pictures=self.pictures)
        self.metric.update([row.mean_j / 100 for row in rows], [row.mean_f / 100 for row in rows])
        if rows:
            self.scores.append((clip.name, float(np.mean([row.score for row in rows]))))
        if rows and sequence.picture is not None:
            self.shown.append(_worst_frame(index, clip, rows, predicted, sequence.picture))

    def finish(self, trainer: L.Trainer, *, step: int) -> None:
        """Add up over ranks; rank 0 writes and logs. Called on every rank."""
        self.values = values = {f"val/{name}": float(value) for name, value in self.metric.compute().items()}
        shown = sorted(gathered(self.shown), key=lambda frame: frame.number) if self.pictures else []
        scores = dict(gathered(self.scores))
        if not trainer.is_global_zero:
            return
        write_line(self.path, {STEP: step, **values})
        write_line(self.path.with_name(CLIPS), {STEP: step, **scores})
        worst = sorted(shown, key=lambda frame: frame.score)[:WORST]
        for place, frame in enumerate(worst):
            with atomic_path(self.path.with_name("worst") / f"{place}.jpg") as draft:
                draft.write_bytes(frame.strip)
        for logger in trainer.loggers:
            logger.log_metrics({STEP: float(step), **values})
            if isinstance(logger, WandbLogger) and shown:
                with suppress_wandb_errors("validation's pictures"):
                    captions = [f"{frame.clip}: frame, truth, prediction, error" for frame in shown]
                    logger.log_image("val/masks", [decode_jpeg(frame.strip) for frame in shown], caption=captions)
                    logger.experiment.log({STEP: step, "val/worst clips": table(step, worst)})


class ValidateEvery(L.Callback):
    """Lets Lightning validate every so many optimiser steps of the whole run. Lightning's own interval counts the batches of
    one fit, and a phase is a fit."""

    def __init__(self, every: int, path: Path) -> None:
        """`path` is the file of results, of which lines beyond the step of a resumed run are dropped."""
        self.every, self.path, self.last = every, path, -1

    def on_train_start(self, trainer: L.Trainer, pl_module: Distillation) -> None:  # type: ignore[override]
        self.last = pl_module.steps_done
        if trainer.is_global_zero:
            keep_lines(self.path, self.last)
            keep_lines(self.path.with_name(CLIPS), self.last)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: L.Trainer, pl_module: Distillation, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = pl_module.steps_done
        due = step != self.last and step % self.every == 0  # batches of one optimiser step belong together
        self.last = step
        trainer.val_check_batch = 1 if due else NEVER


class ValidateOwed(L.Callback):
    """Validates before the first step where a run was killed after a checkpoint and before the validation of the same step
    was done. Comes after all callbacks that validation speaks to."""

    def __init__(self, every: int, path: Path) -> None:
        self.every, self.path = every, path

    def on_train_start(self, trainer: L.Trainer, pl_module: Distillation) -> None:  # type: ignore[override]
        step = pl_module.steps_done
        done = {line.get(STEP) for line in read_lines(self.path) if SCORE in line}
        if trainer.strategy.broadcast(step > 0 and step % self.every == 0 and step not in done):
            # as Lightning's own loop does it after a batch
            trainer.validating = True
            trainer.fit_loop.epoch_loop.val_loop.run()
            trainer.training = True


def gathered(items: list[Item]) -> list[Item]:
    """Those of all ranks. Called on every rank."""
    if not (dist.is_available() and dist.is_initialized()):
        return items
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, items)
    return [item for part in every for item in part]


def table(step: int, worst: Sequence[WorstFrame]) -> wandb.Table:
    """One row a clip; the layers of its picture are called truth and prediction, and can be toggled."""
    import wandb

    made = wandb.Table(columns=list[str | int](COLUMNS))
    for frame in worst:
        names = dict(enumerate(frame.objects, start=1))
        layers = {"truth": frame.truth, "prediction": frame.prediction}
        masks = {layer: {"mask_data": data, "class_labels": names} for layer, data in layers.items()}
        picture = wandb.Image(frame.image, masks=masks)  # type: ignore[arg-type]
        made.add_data(step, frame.clip, frame.score, len(frame.objects), frame.stem, frame.j, picture)
    return made


def label_map(masks: Masks) -> NDArray[np.uint8]:
    """Masks (O, H, W) as one map (H, W): 0, or the number of the first object there, from 1."""
    found = np.zeros(masks.shape[1:], np.uint8)
    for number in reversed(range(len(masks))):
        found[masks[number]] = number + 1
    return found


def _noted(answer: Any, predicted: dict[int, NDArray[np.uint8]]) -> Any:
    predicted[answer.t] = label_map(answer.masks)
    return answer


def _worst_frame(
    number: int, clip: Clip, rows: Sequence[ObjectScore], predicted: dict[int, NDArray[np.uint8]], strip: bytes
) -> WorstFrame:
    by_stem = mean_j_by_frame(rows)
    stem = min(by_stem, key=lambda stem: by_stem[stem])
    t = list(clip.stems).index(stem)
    return WorstFrame(
        number=number,
        clip=clip.name,
        score=float(np.mean([row.score for row in rows])),
        stem=stem,
        j=100 * by_stem[stem],
        image=np.asarray(clip.frames.read(t)),
        truth=label_map(clip.truths.read(t)),
        prediction=predicted[t],
        objects=tuple(row.object for row in rows),
        strip=strip,
    )
