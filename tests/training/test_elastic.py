"""With total_batch a run may go on at other ranks: all optimiser steps, each sample once an epoch, the same rates."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from ranks import launch
from trainings import SMALL, changed_in, losses, training, words_of

from edgetam_pl.config import TrainConfig
from edgetam_pl.training import fit
from edgetam_pl.training.curves import STEP, read_lines
from edgetam_pl.training.optim import schedule_of
from edgetam_pl.types import VideoBatch

CLIPS = 8
SINGLE = ("data.sources.1.weight=0", "data.workers=0", "checkpoint_every=1", "trainer.enable_progress_bar=false")


class Stopped(Exception):
    """Stands in for whatever stops a run."""


def trained(cfg: TrainConfig, monkeypatch: pytest.MonkeyPatch, *, until: int | None = None) -> Counter[tuple[int, str]]:
    """Train up to a step, or to the end: (optimiser step, clip) of what was trained on."""
    seen: Counter[tuple[int, str]] = Counter()
    original = fit.Distillation.training_step

    def training_step(self: fit.Distillation, batch: VideoBatch, batch_idx: int) -> torch.Tensor:
        if self.steps_done == until:
            raise Stopped
        seen.update((self.steps_done, clip_of(key)) for key in batch.keys)
        return original(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(fit.Distillation, "training_step", training_step)
        if until is None:
            fit.run(cfg)
        else:
            with pytest.raises(Stopped):
                fit.run(cfg)
    return seen


def clip_of(key: str) -> str:
    return key.split("@")[0]


def check_steps(cfg: TrainConfig, seen: Counter[tuple[int, str]], *, total: int) -> None:
    """Every step has `total` clips, every epoch has each clip once, and rates are those of the schedule."""
    (phase,) = cfg.stage.phases
    assert Counter(step for step, _ in seen.elements()) == dict.fromkeys(range(phase.steps), total)
    steps_an_epoch = CLIPS // total
    for begin in range(0, phase.steps, steps_an_epoch):
        epoch = Counter(clip for step, clip in seen.elements() if begin <= step < begin + steps_an_epoch)
        assert len(epoch) == epoch.total() == CLIPS
    lines = read_lines(Path(cfg.out) / "curves.jsonl")
    assert [line[STEP] for line in lines] == list(range(1, phase.steps + 1))
    factor = schedule_of(cfg.stage.optim, phase)
    assert [line["lr/max"] for line in lines] == [cfg.stage.optim.lr * factor(step) for step in range(1, phase.steps + 1)]


def test_a_step_of_other_batches_is_the_same_step(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another number of ranks does to one process: 2, then 4 batches, then 1 make up a step."""
    cfg = training(shards, tmp_path, *SINGLE, phases="{frames:2,steps:6,batch:2,total_batch:4,distil:false}")
    seen = trained(cfg, monkeypatch, until=1)
    seen += trained(changed_in(cfg, stage__phases__0__batch=1, accept_changes=True), monkeypatch, until=4)
    seen += trained(changed_in(cfg, stage__phases__0__batch=4, accept_changes=True), monkeypatch)
    check_steps(cfg, seen, total=4)
    assert len(json.loads((tmp_path / "run.json").read_text())["changes"]) == 2


def test_one_rank_then_two_then_one_do_all_steps(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    phases = "{frames:2,steps:8,batch:1,total_batch:2,distil:false}"
    cfg = training(shards, out, *SINGLE, phases=phases)
    seen = trained(cfg, monkeypatch, until=3)
    # two ranks, of which one is told to stop at step 5
    words = ["model=toy", "stage=toy_video", *SMALL, *words_of(shards, out, phases), *SINGLE, "trainer.devices=2"]
    plan = {"words": [*words, "trainer.strategy=ddp_find_unused_parameters_true"], "record": str(tmp_path / "notes")}
    failed = launch({**plan, "accident": "sigterm", "at": 5})
    assert not failed, failed
    for rank in (0, 1):
        notes = [json.loads(line) for line in (tmp_path / f"notes.rank{rank}").read_text().splitlines()]
        assert [note["step"] for note in notes] == [3, 4, 5]
        seen.update((note["step"], clip_of(key)) for note in notes for key in note["keys"])
    assert (out / "checkpoints" / "phase1-step000006-stopped.ckpt").is_file()
    seen += trained(cfg, monkeypatch)
    check_steps(cfg, seen, total=2)
    assert len(losses(out)) == 8
    assert (out / "weights.pt").is_file()
