"""Semi-supervised VOS in one call: masks of first frames in, J&F out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from edgetam_pl.evaluation.clips import Clip
from edgetam_pl.evaluation.datasets import open_data
from edgetam_pl.evaluation.protocols import Answer, clip_tracker, repeat
from edgetam_pl.evaluation.recipe import Recipe
from edgetam_pl.evaluation.reporting.pictures import KeptMasks, decode_jpeg, film, strip
from edgetam_pl.evaluation.reporting.report import Report, Sequence
from edgetam_pl.evaluation.scoring import ObjectScore, ScoreRule, Tally, mean_j_by_frame
from edgetam_pl.tracking.frame_tracker import FrameTracker, evaluating
from edgetam_pl.tracking.step import VideoModel

__all__ = ["Clip", "Report", "clips_of", "evaluate_vos", "glance", "repeat_first_mask"]


def evaluate_vos(
    model: VideoModel,
    clips: Iterable[Clip],
    *,
    title: str = "vos",
    skip_first_and_last: bool = True,
) -> Report:
    """Track every object of every clip from its first mask, and score it (DAVIS 2017 rule).

    Args:
        model: it is put in evaluation mode, and back as it was.
        clips: read one after another; one is in memory at a time.
        skip_first_and_last: leave out the given frame and the last one.
    """
    first = next(model.parameters(), None) if isinstance(model, torch.nn.Module) else None
    device = torch.device("cpu") if first is None else first.device
    recipe = Recipe("vos", score=ScoreRule(skip_first_and_last=skip_first_and_last))
    with evaluating(model):
        report = _over(clips, recipe, lambda clip: clip_tracker(model, clip, device=device), title)
    more = {"non_overlap": recipe.non_overlap, "resolution": model.image_size}
    return replace(report, conditions={**report.conditions, **more})


class Glance(NamedTuple):
    """A short look at a model while it trains."""

    values: dict[str, float]
    """j, f and jf in 0 ... 100."""
    pictures: dict[str, NDArray[np.uint8]]
    """(H, W, 3) RGB by clip: frame, truth, prediction, error."""


def glance(model: VideoModel, clips: Iterable[Clip]) -> Glance:
    """Follow a few clips from their first masks: for callbacks, every so many steps. The model comes back as it was.

    Any rank may look alone: nothing is communicated. To share clips among ranks, give each its own, and put the means of
    `evaluate_vos(...).rows` into a `JF` with `update`, which reduces.
    """
    report = evaluate_vos(model, clips)
    pictures = {item.name: decode_jpeg(item.picture) for item in report.sequences if item.picture is not None}
    return Glance({"j": report.j, "f": report.f, "jf": report.jf}, pictures)


def clips_of(root: str, *, limit: int = 0, size: int = 128, split: str | None = None) -> list[Clip]:
    """Clips of a DAVIS-like folder or of one's own videos (of a list, with `split`), or generated ones of `size` pixels for
    toy[:seed[:clips]]. Frames of a folder are read when asked for.

    Raises:
        ValueError: no such folder, or no sequence in it.
    """
    return list(open_data("folder", root, limit=limit, toy_size=size, split=split))


def repeat_first_mask(clips: Iterable[Clip], *, skip_first_and_last: bool = True) -> Report:
    """The score of no tracker at all: each object's first mask, repeated on every frame."""
    recipe = Recipe("repeat", score=ScoreRule(skip_first_and_last=skip_first_and_last))
    return _over(clips, recipe, lambda clip: None, "repeat")


def _over(clips: Iterable[Clip], recipe: Recipe, tracker: Callable[[Clip], FrameTracker | None], title: str) -> Report:
    conditions = {"protocol": recipe.protocol, "prompts": recipe.words, "frame_rule": recipe.score.words}
    results = (evaluate_clip(clip, recipe.answers(tracker(clip), clip), recipe.score) for clip in clips)
    return collect(title, results, conditions=conditions)


def evaluate_clip(
    clip: Clip,
    answers: Iterator[Answer],
    rule: ScoreRule,
    *,
    pictures: bool = True,
    export: Callable[[Answer], None] | None = None,
    person_seconds: Callable[[Clip, int, int], float] = lambda clip, index, rounds: 0.0,
    baseline: bool = False,
) -> tuple[Sequence, tuple[ObjectScore, ...]]:
    """Take the answers to one clip, score and draw them; pictures show the last round. `baseline`: beside each row what its
    first mask on every frame would score."""
    tally, drawn = Tally(clip, rule, person_seconds), KeptMasks(len(clip.objects))
    started = time.perf_counter()
    for answer in answers:
        tally.add(answer)
        if pictures:
            drawn.keep(answer.t, answer.objects, answer.masks)
        if export is not None:
            export(answer)
    seconds = time.perf_counter() - started
    rows = _beside_baseline(clip, rule, tally.rows()) if baseline else tally.rows()
    item = Sequence(clip.name, clip.num_frames, len(clip.objects), seconds)
    if pictures and rows:
        item = replace(item, picture=strip(clip, drawn, _shown_frames(clip, rows)), film=film(clip, drawn))
    return item, rows


def _beside_baseline(clip: Clip, rule: ScoreRule, rows: tuple[ObjectScore, ...]) -> tuple[ObjectScore, ...]:
    """The rows, each with the means of the first mask repeated."""
    held = Tally(clip, rule)
    for answer in repeat(clip):
        held.add(answer)
    means = {row.object: (row.mean_j, row.mean_f) for row in held.rows()}
    return tuple(replace(row, repeated=means.get(row.object)) for row in rows)


def collect(
    title: str, results: Iterable[tuple[Sequence, tuple[ObjectScore, ...]]], *, conditions: Mapping[str, Any] | None = None
) -> Report:
    """The report of clips evaluated one by one."""
    done = list(results)
    return Report(title, tuple(row for _, rows in done for row in rows), tuple(item for item, _ in done), conditions or {})


def _shown_frames(clip: Clip, rows: tuple[ObjectScore, ...]) -> dict[int, str]:
    """The first frame, the worst and the last of the scored ones, with captions."""
    last_round = max(row.round for row in rows)
    means = mean_j_by_frame(row for row in rows if row.round == last_round)
    number = {stem: t for t, stem in enumerate(clip.stems)}
    worst = min(means, key=lambda stem: means[stem])
    ends = sorted(means, key=lambda stem: number[stem])
    chosen = {ends[0]: "first", ends[-1]: "last", worst: "worst"}
    return {number[stem]: f"{stem} {which} J {100 * means[stem]:.0f}" for stem, which in chosen.items()}
