"""A table of the clips that go worst, for W&B: one picture each, with truth and prediction as layers that can be toggled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from edgetam_pl.evaluation.clips import Clip, Masks
from edgetam_pl.evaluation.protocols import Answer, clip_tracker, follow
from edgetam_pl.evaluation.reporting.pictures import decode_jpeg
from edgetam_pl.evaluation.scoring import ScoreRule, mean_j_by_frame
from edgetam_pl.evaluation.vos import collect, evaluate_clip
from edgetam_pl.tracking.frame_tracker import evaluating
from edgetam_pl.tracking.step import VideoModel

if TYPE_CHECKING:
    import wandb

COLUMNS = ("step", "clip", "J&F", "objects", "worst frame", "J on it", "masks")


class WorstFrame(NamedTuple):
    """The frame of a clip on which regions agree least."""

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


class Look(NamedTuple):
    """What an evaluation during training sees."""

    values: dict[str, float]
    """j, f and jf in 0 ... 100."""
    pictures: dict[str, NDArray[np.uint8]]
    """(H, W, 3) RGB by clip: frame, truth, prediction, error."""
    worst: list[WorstFrame]
    """Of each clip, the worst clip first."""


def look(model: VideoModel, clips: Iterable[Clip], *, device: torch.device) -> Look:
    """Follow clips from their first masks. The model comes back as it was."""
    results, frames = [], []
    rule = ScoreRule()
    with evaluating(model):
        for clip in clips:
            kept: dict[int, NDArray[np.uint8]] = {}
            answers = follow(clip_tracker(model, clip, device=device), clip)
            sequence, rows = evaluate_clip(clip, _noting(answers, kept), rule)
            results.append((sequence, rows))
            if not rows:
                continue
            by_stem = mean_j_by_frame(rows)
            stem = min(by_stem, key=lambda stem: by_stem[stem])
            t = list(clip.stems).index(stem)
            frames.append(
                WorstFrame(
                    clip=clip.name,
                    score=float(np.mean([row.score for row in rows])),
                    stem=stem,
                    j=100 * by_stem[stem],
                    image=np.asarray(clip.frames.read(t)),
                    truth=labels(clip.truths.read(t)),
                    prediction=kept[t],
                    objects=tuple(row.object for row in rows),
                )
            )
    report = collect("validation", results)
    pictures = {item.name: decode_jpeg(item.picture) for item in report.sequences if item.picture is not None}
    values = {"j": report.j, "f": report.f, "jf": report.jf}
    return Look(values, pictures, sorted(frames, key=lambda frame: frame.score))


def table(step: int, worst: Iterable[WorstFrame]) -> wandb.Table:
    """One row a clip; the layers of its picture are called truth and prediction."""
    import wandb

    made = wandb.Table(columns=list[str | int](COLUMNS))
    for frame in worst:
        names = dict(enumerate(frame.objects, start=1))
        layers = {"truth": frame.truth, "prediction": frame.prediction}
        masks = {layer: {"mask_data": data, "class_labels": names} for layer, data in layers.items()}
        picture = wandb.Image(frame.image, masks=masks)  # type: ignore[arg-type]
        made.add_data(step, frame.clip, frame.score, len(frame.objects), frame.stem, frame.j, picture)
    return made


def labels(masks: Masks) -> NDArray[np.uint8]:
    """Masks (O, H, W) as one map (H, W): 0, or the number of the first object there, from 1."""
    found = np.zeros(masks.shape[1:], np.uint8)
    for number in reversed(range(len(masks))):
        found[masks[number]] = number + 1
    return found


def _noting(answers: Iterator[Answer], kept: dict[int, NDArray[np.uint8]]) -> Iterator[Answer]:
    for answer in answers:
        kept[answer.t] = labels(answer.masks)
        yield answer
