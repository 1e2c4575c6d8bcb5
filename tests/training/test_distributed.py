"""Two ranks (gloo): the same plan, source and steps; told to stop, killed, and poisoned (F10, F12, F13, F18, F19)."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import launch
from trainings import SMALL, config, losses, training

from edgetam_pl import weights
from edgetam_pl.build import build_model
from edgetam_pl.commands.main import main
from edgetam_pl.commands.replay import replay
from edgetam_pl.config import PhaseConfig, StageConfig
from edgetam_pl.evaluation.vos import clips_of, evaluate_vos
from edgetam_pl.training import fit
from edgetam_pl.training.checkpoints import CARD, newest_whole
from edgetam_pl.training.curves import STEP, read_lines
from edgetam_pl.training.forensics import load_case
from edgetam_pl.training.phases import progress_from
from edgetam_pl.training.preemption import TRY_AGAIN
from edgetam_pl.types import VideoBatch

PHASES = "{frames:2,steps:3,batch:1,distil:false},{frames:4,steps:3,batch:1,freeze_encoder:true,distil:false}"
STEPS = 6


class Runs:
    """Trainings on two ranks, a folder each."""

    def __init__(self, root: Path, shards: Path) -> None:
        self.root, self.shards = root, shards

    def plan(self, name: str, *words: str, accident: str | None = None, at: int = 0) -> dict[str, Any]:
        base = [
            "model=toy", "stage=toy_video", *SMALL, "data=toy", f"data.sources.0.shards={self.shards / 'video'}",
            f"data.sources.1.shards={self.shards / 'image'}", "data.sources.1.weight=0.4", "data.shuffle=4",
            f"out={self.root / name}", "stage.optim.warmup=0", f"stage.phases=[{PHASES}]", "stage.prompts.point_prob=0.5",
            "stage.max_objects=2", "logger=none", "logger.log_every=1", "logger.panels_every=0", "checkpoint_every=1",
            "trainer.devices=2", "trainer.strategy=ddp_find_unused_parameters_true", "trainer.enable_progress_bar=false",
        ]  # fmt: skip
        record = str(self.root / f"{name}.notes")
        return {"words": [*base, *words], "record": record, "accident": accident, "at": at}

    def notes(self, name: str, rank: int) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.root / f"{name}.notes.rank{rank}").read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Runs:
    """One launch: an undisturbed run, one that recomputes activations, one that is told to stop at step 1, one whose rank 1
    breaks at step 1, and the one that was told to stop again, whose rank 1 is killed at step 4."""
    runs = Runs(tmp_path_factory.mktemp("ranks"), shards)
    failed = launch(
        runs.plan("whole", "logger=wandb"),
        runs.plan(
            "recomputed",
            "logger.page=false",
            "activation_checkpointing=true",
            "validation.every=3",
            "validation.root=toy:7:3",
        ),
        runs.plan("disturbed", "checkpoint_every=100", accident="sigterm", at=1),
        runs.plan("poisoned", "logger.page=false", "object_chunk=1", accident="nan", at=1),
        runs.plan("disturbed", accident="sigkill", at=4),
    )
    assert failed, "the last run was killed"
    assert len(runs.notes("disturbed", 1)) == 4, failed
    return runs


def test_both_ranks_draw_the_same_plan_and_source_and_other_clips(runs: Runs) -> None:
    first, second = runs.notes("whole", 0), runs.notes("whole", 1)
    assert len(first) == len(second) == STEPS
    for ours, theirs in zip(first, second, strict=True):
        assert [ours[key] for key in ("step", "phase", "plan", "source")] == [
            theirs[key] for key in ("step", "phase", "plan", "source")
        ]
    assert any(ours["keys"] != theirs["keys"] for ours, theirs in zip(first, second, strict=True))


def test_f12_every_phase_runs_with_and_without_recomputation(runs: Runs) -> None:
    """Under DDP, an encoder frozen in the second phase."""
    whole, recomputed = losses(runs.root / "whole"), losses(runs.root / "recomputed")
    assert sorted(whole) == list(range(1, STEPS + 1))
    assert recomputed == pytest.approx(whole, rel=1e-4)


def test_two_ranks_share_the_clips_of_a_validation_and_find_what_one_finds(runs: Runs) -> None:
    """Three clips: one rank has two of them, the other one. The value is that of evaluating the saved weights alone."""
    out = runs.root / "recomputed"
    lines = read_lines(out / "validation" / "jf.jsonl")
    assert [line[STEP] for line in lines] == [3, 6]
    model = config("toy").model
    for line, name in zip(lines, ("phase1-done.ckpt", "phase2-done.ckpt"), strict=True):
        student = weights.load_into(build_model(model), out / "checkpoints" / name)
        report = evaluate_vos(student, clips_of("toy:7:3", size=64))
        found = {"val/j": report.j, "val/f": report.f, "val/jf": report.jf}
        assert {key: line[key] for key in found} == pytest.approx(found, rel=1e-2)


def test_f19_two_ranks_are_one_run(runs: Runs) -> None:
    out = runs.root / "whole"
    assert {path.name for path in out.iterdir()} == {
        "checkpoints", "curves.jsonl", "report.html", "run.json", "wandb", "weights.pt"
    }  # fmt: skip
    found = list((out / "wandb").glob("offline-run-*"))
    assert len(found) == 1
    assert found[0].name.endswith(json.loads((out / "run.json").read_text())["run_id"])


def test_f13_a_nan_on_one_rank_stops_both_and_is_kept_for_replay(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    out = runs.root / "poisoned"
    assert all((runs.root / f"poisoned.notes.stopped{rank}").is_file() for rank in (0, 1))
    assert [len(runs.notes("poisoned", rank)) for rank in (0, 1)] == [2, 2]
    assert [path.name for path in (out / "forensics").glob("*.pt")] == ["step000001-rank1.pt"]
    path = out / "forensics" / "step000001-rank1.pt"
    case = load_case(path)
    assert list(case.batch.keys) == runs.notes("poisoned", 1)[1]["keys"]
    assert "mask_decoder.iou_token.weight" in case.finding.weights
    found, module = replay(case)
    assert "iou" in found.terms
    assert found.terms == case.finding.terms
    assert module == case.module
    assert main(["replay", str(path)]) == 0
    assert case.batch.keys[0] in capsys.readouterr().out


def test_f10_f18_a_run_that_is_told_to_stop_and_then_killed_ends_as_the_undisturbed_one(runs: Runs) -> None:
    """SIGTERM inside the first phase, kill -9 inside the second, the same command each time: same samples, same losses."""
    out = runs.root / "disturbed"
    assert {(runs.root / f"disturbed.notes.status{rank}").read_text() for rank in (0, 1)} == {str(TRY_AGAIN)}
    assert (out / "checkpoints" / "phase1-step000002-stopped.ckpt").is_file()
    found = newest_whole(out / "checkpoints")
    assert found is not None
    assert torch.load(found.path, weights_only=True, mmap=True)[CARD]["steps_done"] == 4
    failed = launch(runs.plan("disturbed"))
    assert not failed, failed
    assert losses(out) == losses(runs.root / "whole")
    for rank in (0, 1):
        drawn = {note["step"]: note for note in runs.notes("disturbed", rank)}  # step 4 was begun twice
        assert drawn == {note["step"]: note for note in runs.notes("whole", rank)}
    stage = StageConfig(phases=[PhaseConfig(frames=2, steps=3), PhaseConfig(frames=4, steps=3)])
    found = newest_whole(out / "checkpoints")
    assert found is not None
    assert progress_from(found, stage).phase == 2
    assert not list(out.rglob(".*"))


def test_one_process_that_is_told_to_stop_saves_and_says_try_again(
    tmp_path: Path,
    shards: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    words = ["checkpoint_every=100", "trainer.enable_progress_bar=false"]
    cfg = training(shards, tmp_path, *words, phases="{frames:2,steps:2,batch:1,distil:false}")
    original = fit.Distillation.training_step

    def training_step(self: fit.Distillation, batch: VideoBatch, batch_idx: int) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(fit.Distillation, "training_step", training_step)
    with pytest.raises(SystemExit) as end:
        fit.run(cfg)
    monkeypatch.setattr(fit.Distillation, "training_step", original)
    assert end.value.code == TRY_AGAIN
    assert signal.getsignal(signal.SIGTERM) == before
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["phase1-step000001-stopped.ckpt"]
    fit.run(cfg)
    assert sorted(losses(tmp_path)) == [1, 2]


def test_shares_of_the_terms_are_logged_when_asked_for(tmp_path: Path, shards: Path) -> None:
    words = ["logger.gradient_shares_every=2"]
    fit.run(training(shards, tmp_path, *words, phases="{frames:2,steps:2,batch:1,distil:false}"))
    first, second = read_lines(tmp_path / "curves.jsonl")
    assert not any(name.startswith("gradient_share") for name in first)
    for kind in ("loss_share", "gradient_share"):
        assert sum(value for name, value in second.items() if name.startswith(kind)) == pytest.approx(1.0)
