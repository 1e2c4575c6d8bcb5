"""Validation during training: the clips' J&F as evaluation measures it, shared by ranks, every so many steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from trainings import config, losses, training

from edgetam_pl import weights
from edgetam_pl.build import build_model
from edgetam_pl.config import TrainConfig, ValidationConfig
from edgetam_pl.evaluation.vos import clips_of, evaluate_vos
from edgetam_pl.training import fit
from edgetam_pl.training.curves import STEP, read_lines
from edgetam_pl.training.validation import Validation

ROOT = "toy:7:3"
PHASES = "{frames:2,steps:3,batch:1,distil:false},{frames:2,steps:3,batch:1,distil:false}"


def scores(cfg: TrainConfig, path: Path) -> dict[str, float]:
    """What evaluation says of these weights."""
    report = evaluate_vos(weights.load_into(build_model(cfg.model), path), clips_of(ROOT, size=64))
    return {"val/j": report.j, "val/f": report.f, "val/jf": report.jf}


def test_values_are_those_of_evaluation_at_every_so_many_steps_of_the_run(shards: Path, tmp_path: Path) -> None:
    """Steps are counted over phases, and batches that make up one step are not validated twice."""
    words = ["validation.every=2", f"validation.root={ROOT}", "checkpoint_every=1", "keep_checkpoints=9"]
    cfg = training(shards, tmp_path, *words, phases=PHASES.replace("batch:1", "batch:1,accumulate:2"))
    fit.run(cfg)
    lines = read_lines(tmp_path / "validation" / "jf.jsonl")
    assert [line[STEP] for line in lines] == [2, 4, 6]
    assert {name: lines[-1][name] for name in lines[-1] if name != STEP} == pytest.approx(
        scores(cfg, tmp_path / "last.pt"),
        rel=1e-2,  # in training, layers run as oneDNN's: a pixel may differ
    )
    second = scores(cfg, tmp_path / "checkpoints" / "phase1-step000002.ckpt")
    assert lines[0]["val/j"] == pytest.approx(second["val/j"], rel=1e-2)


def test_validating_changes_no_loss_and_a_resumed_run_repeats_no_line(shards: Path, tmp_path: Path) -> None:
    """The run goes on from the checkpoint of a step at which a validation was due. One clip is enough to disturb it."""
    words = ["validation.every=1", "validation.root=toy:7:1", "checkpoint_every=1"]
    fit.run(training(shards, tmp_path / "plain", phases=PHASES))
    cfg = training(shards, tmp_path / "validated", *words, phases=PHASES)
    fit.run(cfg)
    folder = tmp_path / "validated"
    assert losses(folder) == losses(tmp_path / "plain")
    before = (folder / "validation" / "jf.jsonl").read_text()
    for path in (*(folder / "checkpoints").glob("phase2-step*3.ckpt"), folder / "checkpoints" / "phase2-done.ckpt"):
        path.unlink()
    fit.run(cfg)
    assert losses(folder) == losses(tmp_path / "plain")
    assert (folder / "validation" / "jf.jsonl").read_text() == before


def test_ranks_share_the_clips_and_validate_in_step(tmp_path: Path) -> None:
    validation = Validation(ValidationConfig(every=1, root=ROOT), tmp_path, size=64, pictures=False)
    assert [validation.indices(rank, 2) for rank in range(2)] == [[0, 2], [1, -1]]
    assert validation.indices(0, 1) == [0, 1, 2]


def test_pictures_are_made_of_the_frame_that_went_worst(tmp_path: Path) -> None:
    torch.manual_seed(0)
    validation = Validation(ValidationConfig(every=1, root="toy:7:1"), tmp_path, size=64, pictures=True)
    validation.start(torch.device("cpu"))
    validation.add(build_model(config("toy").model), 0)
    (shown,) = validation.shown
    assert shown.image.shape == (64, 64, 3)
    assert shown.truth.shape == shown.prediction.shape == (64, 64)
    assert shown.truth.max() == len(shown.objects)
    assert 0 <= shown.j <= 100
    assert shown.strip.startswith(b"\xff\xd8"), "a JPEG"
