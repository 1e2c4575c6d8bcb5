"""What people meet first: a clean output, a bar that knows its end, curves of a run of a few steps."""

from __future__ import annotations

import gc
import re
import warnings
from pathlib import Path

import pytest
import torch
from trainings import training

from edgetam_pl.training import fit
from edgetam_pl.training.curves import STEP, read_lines


class Stopped(Exception):
    """Stands in for whatever stops a run."""


def test_a_short_run_is_clean_and_has_curves_and_panels(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A frozen encoder, two phases, a stop and a resume: no warning of a library, and a bar with total and time left."""
    phases = "{frames:2,steps:1,batch:1},{frames:2,steps:5,batch:1,freeze_encoder:true}"
    words = ["logger.log_every=20", "logger.panels_every=500", "checkpoint_every=1"]
    cfg = training(shards, tmp_path, *words, phases=phases)
    original = fit.Distillation.training_step

    def stop(self: fit.Distillation, batch: object, batch_idx: int) -> object:
        if self.steps_done == 4:
            raise Stopped
        return original(self, batch, batch_idx)  # type: ignore[arg-type]

    gc.collect()  # files that other tests left open say so when they are collected
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with monkeypatch.context() as patch:
            patch.setattr(fit.Distillation, "training_step", stop)
            with pytest.raises(Stopped):
                fit.run(cfg)
        capsys.readouterr()
        fit.run(cfg)
    # readers of earlier tests may be collected meanwhile, and their open files then say so
    said = [(one.category, str(one.message)) for one in seen]
    ours = [text for kind, text in said if kind is not ResourceWarning or str(tmp_path) in text or str(shards) in text]
    assert ours == []
    bar = capsys.readouterr().out
    assert re.search(r"3/5 \[\d\d:\d\d<", bar), bar
    assert re.search(r"4/5 \[\d\d:\d\d<\d\d:\d\d", bar), bar
    assert "/?" not in bar.partition("3/5")[2]
    assert [line[STEP] for line in read_lines(tmp_path / "curves.jsonl")] == [1, 2, 3, 4, 5, 6]
    assert [path.name for path in sorted((tmp_path / "panels").iterdir())] == ["step000003.png", "step000006.png"]


@pytest.mark.parametrize(("every", "steps", "expected"), [(20, 5, 1), (20, 100, 10), (20, 5000, 20), (500, 1, 1)])
def test_often_enough(every: int, steps: int, expected: int) -> None:
    assert fit.often_enough(every, steps, times=10) == expected


def test_a_gpu_that_is_too_small_is_answered_with_what_helps(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: fit.Distillation, batch: object, batch_idx: int) -> object:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(fit.Distillation, "training_step", full)
    with pytest.raises(ValueError, match=r"too small for phase 1 .*activation_checkpointing=true.*edgetam plan"):
        fit.run(training(shards, tmp_path, phases="{frames:2,steps:1,batch:1}"))
