"""Training as a user meets it: phases, resume, the teacher's place, frozen encoders, one run directory."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import steps
import torch
from trainings import SMALL, config, losses, training

from edgetam_pl import weights
from edgetam_pl.build import build_model, load_model
from edgetam_pl.config import PhaseConfig, StageConfig
from edgetam_pl.inference import products
from edgetam_pl.inference.onednn import OneDnnLinear
from edgetam_pl.training import fit
from edgetam_pl.training.checkpoints import newest_whole
from edgetam_pl.training.curves import read_lines
from edgetam_pl.training.phases import progress_from
from edgetam_pl.training.step import asked
from edgetam_pl.training.teachers import cache_bytes


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("teacher") / "teacher.pt"
    weights.save_official(build_model(config("toy").model), path)
    return path


def taught(teacher: Path) -> list[str]:
    small = [word.replace("model.", "teacher.") for word in SMALL]
    return ["model@teacher=toy", *small, f"teacher_weights={teacher}"]


class Stopped(Exception):
    """Stands in for whatever stops a run."""


def interrupt_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    original = fit.Distillation.training_step

    def training_step(self: fit.Distillation, batch: object, batch_idx: int) -> torch.Tensor:
        if self.steps_done == step:
            raise Stopped
        return original(self, batch, batch_idx)  # type: ignore[arg-type]

    monkeypatch.setattr(fit.Distillation, "training_step", training_step)


TWO_PHASES = "{frames:2,steps:4,batch:2},{frames:4,steps:3,batch:1,freeze_encoder:true,distil:false}"


@pytest.fixture(scope="module")
def whole(shards: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of both phases, with a moving average of the weights."""
    out = tmp_path_factory.mktemp("whole")
    words = [*taught(teacher), "checkpoint_every=1", "stage.ema=0.5", "keep_checkpoints=7"]
    fit.run(training(shards, out, *words, phases=TWO_PHASES))
    assert len(losses(out)) == 7
    return out


@pytest.mark.parametrize("stopped_at", [2, 5])
def test_f10_an_interrupted_run_continues_as_if_it_had_not_been(
    shards: Path, teacher: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_at: int
) -> None:
    """Losses, weights and the moving average, inside the first phase and inside the frozen one."""
    broken = training(shards, tmp_path, *taught(teacher), "checkpoint_every=1", "stage.ema=0.5", phases=TWO_PHASES)
    with monkeypatch.context() as patch:
        interrupt_after(patch, stopped_at)
        with pytest.raises(Stopped):
            fit.run(broken)
    fit.run(broken)
    assert losses(tmp_path) == losses(whole)
    ours, theirs = (torch.load(out / "weights.pt", weights_only=True)["model"] for out in (tmp_path, whole))
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name


def test_the_moving_average_is_what_is_saved_and_what_the_next_phase_starts_from(whole: Path) -> None:
    """After step n: average = decay * average + (1 - decay) * weights."""
    saved = [torch.load(path, weights_only=True) for path in sorted((whole / "checkpoints").glob("phase1-step*.ckpt"))]
    assert len(saved) == 4
    name = "student.mask_decoder.iou_token.weight"
    for before, after in pairwise(saved):
        expected = 0.5 * before["state_dict"][name] + 0.5 * after["current_model_state"][name]
        torch.testing.assert_close(after["state_dict"][name], expected)
    done = torch.load(whole / "checkpoints" / "phase1-done.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(done[name], saved[-1]["state_dict"][name])


def test_f11_inside_a_frozen_phase_a_resumed_encoder_is_frozen_again(
    shards: Path, teacher: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No gradient, evaluation mode, statistics and F16 still; the other parts are trained. And the phase before is not."""
    broken = training(shards, tmp_path, *taught(teacher), "checkpoint_every=1", phases=TWO_PHASES)
    seen: dict[int, tuple[bool, bool, bool, bool]] = {}
    original = fit.Distillation.training_step

    def training_step(self: fit.Distillation, batch: object, batch_idx: int) -> torch.Tensor:
        if self.steps_done == 5 and 5 not in seen:
            seen[5] = (True,) * 4  # the first time here: stop
            raise Stopped
        trunk, rest = self.student.image_encoder.trunk, self.student.mask_decoder
        learns = [any(p.requires_grad for p in part.parameters()) for part in (trunk, rest)]
        seen[self.steps_done] = (*learns, trunk.training, rest.training)  # type: ignore[assignment]
        return original(self, batch, batch_idx)  # type: ignore[arg-type]

    monkeypatch.setattr(fit.Distillation, "training_step", training_step)
    with pytest.raises(Stopped):
        fit.run(broken)
    fit.run(broken)
    assert {step: seen[step] for step in (0, 3)} == dict.fromkeys((0, 3), (True, True, True, True))
    assert {step: seen[step] for step in (4, 5, 6)} == dict.fromkeys((4, 5, 6), (False, True, False, True))
    first, last = (build_model(broken.model).eval() for _ in range(2))
    weights.load_into(first, tmp_path / "checkpoints" / "phase1-done.ckpt")
    weights.load_into(last, tmp_path / "weights.pt")
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(first.encode(images).f16, last.encode(images).f16)


def test_f16_no_key_of_the_teacher_is_saved_and_its_hash_is(shards: Path, teacher: Path, tmp_path: Path) -> None:
    cfg = training(shards, tmp_path, *taught(teacher), phases="{frames:2,steps:1,batch:1}")
    fit.run(cfg)
    saved = torch.load(tmp_path / "checkpoints" / "phase1-done.ckpt", weights_only=True)
    assert saved["state_dict"]
    assert all(key.startswith("student.") for key in saved["state_dict"])
    assert saved["edgetam_pl"]["teacher"]["name"] == "toy"
    assert len(saved["edgetam_pl"]["teacher"]["sha256"]) == 64
    module = fit.build_module(cfg)
    assert module.teacher is not None
    groups = module.configure_optimizers()["optimizer"].param_groups  # type: ignore[index,call-overload]
    optimised = {id(parameter) for group in groups for parameter in group["params"]}
    assert optimised
    assert not optimised & {id(parameter) for parameter in module.teacher.model.parameters()}


@pytest.mark.parametrize(("words", "faster"), [([], True), (["compile=true"], False)])
def test_on_a_cpu_layers_run_as_onednns_unless_they_are_compiled(
    words: list[str], faster: bool, shards: Path, teacher: Path, tmp_path: Path
) -> None:
    module = fit.build_module(training(shards, tmp_path, *taught(teacher), *words, phases="{frames:2,steps:1,batch:1}"))
    assert module.teacher is not None
    for model in (module.student, module.teacher.model):
        assert any(isinstance(layer, OneDnnLinear) for layer in model.modules()) == faster


def test_f16_another_teacher_is_refused_on_resume(shards: Path, teacher: Path, tmp_path: Path) -> None:
    phases = "{frames:2,steps:3,batch:1}"
    cfg = training(shards, tmp_path / "run", *taught(teacher), "checkpoint_every=1", phases=phases)
    fit.run(cfg)
    (tmp_path / "run" / "checkpoints" / "phase1-done.ckpt").unlink()
    for path in (tmp_path / "run" / "checkpoints").glob("*000003.ckpt"):
        path.unlink()
    other = tmp_path / "other.pt"
    torch.manual_seed(2)
    weights.save_official(build_model(config("toy").model), other)
    with pytest.raises(ValueError, match="taught by"):
        fit.run(training(shards, tmp_path / "run", *taught(other), "checkpoint_every=1", phases=phases))


def test_f11_a_frozen_encoder_does_not_move(shards: Path, tmp_path: Path) -> None:
    cfg = training(
        shards,
        tmp_path,
        phases="{frames:2,steps:2,batch:1,distil:false},{frames:4,steps:2,batch:1,freeze_encoder:true,distil:false}",
    )
    fit.run(cfg)
    first, last = (
        torch.load(tmp_path / "checkpoints" / f"phase{n}-done.ckpt", weights_only=True)["state_dict"] for n in (1, 2)
    )
    still = [key for key in first if key.startswith("student.image_encoder") and ".project_f" not in key]
    assert any("running_mean" in key for key in still)
    assert all(torch.equal(first[key], last[key]) for key in still)
    assert any(not torch.equal(first[key], last[key]) for key in first if key not in still)


def test_f16_the_teacher_stays_in_evaluation_mode(shards: Path, teacher: Path, tmp_path: Path) -> None:
    cfg = training(shards, tmp_path, *taught(teacher), phases="{frames:2,steps:2,batch:1}")
    module = fit.build_module(cfg)
    assert module.teacher is not None
    before = {key: value.clone() for key, value in module.teacher.model.state_dict().items()}
    module.train()
    data = fit.ShardDataModule(cfg.data, stage=cfg.stage, image_size=64, seed=0)
    fit.fit_phase(cfg, module, data, 0, logger=None, resume=None)
    assert not any(part.training for part in module.teacher.model.modules())
    assert all(torch.equal(before[key], value) for key, value in module.teacher.model.state_dict().items())


def test_the_distances_are_logged_per_level(shards: Path, teacher: Path, tmp_path: Path) -> None:
    fit.run(training(shards, tmp_path, *taught(teacher), "data.sources.1.weight=0", phases="{frames:3,steps:2,batch:1}"))
    line = read_lines(tmp_path / "curves.jsonl")[-1]
    for level in ("f4", "f8", "f16", "f_m"):
        assert line[f"agree/{level}_mse"] > 0
        assert -1 <= line[f"agree/{level}_cosine"] <= 1
    assert line["train/img"] > 0
    assert line["train/mem"] > 0


@pytest.mark.parametrize("more", [[], ["stage.projection=linear", "stage.resample=area", "data.augment.where=device"]])
def test_a_teacher_of_another_image_size_teaches_in_a_run(shards: Path, tmp_path: Path, more: list[str]) -> None:
    """96 px and 6 x 6 tokens beside the student's 64 px and 4 x 4; started again between the phases, nothing is lost."""
    torch.manual_seed(1)
    wide = ["teacher.image_size=96", "teacher.dim=64", "teacher.compressor.spatial_latents=9"] if more else []
    wide = wide or ["teacher.image_size=96", "teacher.compressor.spatial_latents=9"]
    larger = config("toy", *(word.replace("teacher.", "model.") for word in wide)).model
    weights.save_official(build_model(larger), tmp_path / "teacher.pt", {"model": larger})
    words = [*taught(tmp_path / "teacher.pt"), *wide, *more, "data.augment.degrees=20"]
    two = training(shards, tmp_path / "whole", *words, phases="{frames:3,steps:2,batch:1},{frames:2,steps:1,batch:1}")
    fit.run(two)
    lines = read_lines(tmp_path / "whole" / "curves.jsonl")
    assert all(line["train/img"] > 0 for line in lines)
    assert "agree/f16_cosine" in lines[-1]
    saved = torch.load(tmp_path / "whole" / "checkpoints" / "phase1-done.ckpt", weights_only=True)
    assert sum(name.startswith("match.") for name in saved["state_dict"]) == (4 if more else 0)
    assert not [name for name in weights.contents(tmp_path / "whole" / "weights.pt").state if "match" in name]

    again = training(shards, tmp_path / "again", *words, phases="{frames:3,steps:2,batch:1},{frames:2,steps:1,batch:1}")
    phase, fit_phase = [0], fit.fit_phase

    def first_alone(*arguments: Any, **named: Any) -> None:
        if phase[0]:
            raise Stopped
        phase[0] += 1
        fit_phase(*arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "fit_phase", first_alone)
        with pytest.raises(Stopped):
            fit.run(again)
    fit.run(again)
    assert losses(tmp_path / "again") == losses(tmp_path / "whole")


def test_images_teach_without_memory(shards: Path, teacher: Path, tmp_path: Path) -> None:
    cfg = training(shards, tmp_path, *taught(teacher), phases="{frames:1,steps:2,batch:2}", stage="toy_image")
    fit.run(cfg)
    line = read_lines(tmp_path / "curves.jsonl")[-1]
    assert line["train/img"] > 0
    assert line["train/mem"] == 0


def test_f18_f19_one_run_directory_holds_one_run_however_often_it_is_continued(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W&B's id is the run's own, over phases and requeues; the x-axis goes on where it was."""
    words = ["logger=wandb", "logger.panels_every=1"]
    cfg = training(
        shards, tmp_path, *words, phases="{frames:2,steps:1,batch:1,distil:false},{frames:3,steps:1,batch:1,distil:false}"
    )
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        with pytest.raises(Stopped):
            fit.run(cfg)
    fit.run(cfg)
    record = json.loads((tmp_path / "run.json").read_text())
    runs = list((tmp_path / "wandb").glob("offline-run-*"))  # offline, each process leaves a folder of the same run
    assert {run.name.rpartition("-")[2] for run in runs} == {record["run_id"]}
    assert sorted(losses(tmp_path)) == [1, 2]
    assert sorted(p.name for p in (tmp_path / "panels").iterdir()) == ["step000001.png", "step000002.png"]


def test_activation_checkpointing_changes_memory_not_losses(shards: Path, tmp_path: Path) -> None:
    phases = "{frames:3,steps:2,batch:1,distil:false}"
    fit.run(training(shards, tmp_path / "plain", phases=phases))
    fit.run(training(shards, tmp_path / "again", "activation_checkpointing=true", phases=phases))
    plain, again = losses(tmp_path / "plain"), losses(tmp_path / "again")
    assert again == pytest.approx(plain, rel=1e-5)


@pytest.mark.filterwarnings("ignore:bfloat16 was asked for on a processor without")
def test_f14_a_bf16_training_clips_and_steps(shards: Path, teacher: Path, tmp_path: Path) -> None:
    """Autocast, a fused optimiser and clipping together, weights in fp32; close to fp32, and not equal to it."""
    phases = "{frames:3,steps:3,batch:1}"
    words = (*taught(teacher), "model.memory_blocks=2", "model.compressor.depth=2")
    fit.run(training(shards, tmp_path / "fp32", *words, phases=phases))
    fit.run(training(shards, tmp_path / "bf16", *words, "trainer.precision=bf16-mixed", phases=phases))
    exact, rounded = losses(tmp_path / "fp32"), losses(tmp_path / "bf16")
    assert rounded == pytest.approx(exact, rel=0.1)
    assert rounded != exact
    saved = torch.load(tmp_path / "bf16" / "weights.pt", weights_only=True)["model"]
    assert {value.dtype for value in saved.values() if value.is_floating_point()} == {torch.float32}


def test_a_run_that_is_continued_multiplies_as_it_began(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The libraries of matrix products round differently, and a measurement may come out otherwise the next time."""
    cfg = training(shards, tmp_path, phases="{frames:2,steps:1,batch:1,distil:false}")
    monkeypatch.setenv(products.CHOICE, "blas")
    fit.run(cfg)
    assert json.loads((tmp_path / "run.json").read_text())["products"] == "blas"
    (tmp_path / "weights.pt").unlink()  # the same command makes it again
    monkeypatch.delenv(products.CHOICE)
    monkeypatch.setattr(products, "measured", lambda: pytest.fail("it was measured"))
    fit.run(cfg)
    assert products.faster_library() == "blas"


def test_a_dry_run_prints_and_writes_nothing(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit.run(training(shards, tmp_path / "run", "dry_run=true", phases="{frames:2,steps:1,batch:1,distil:false}"))
    assert "parameters" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_f18_a_process_killed_while_it_saves_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    """kill -9 in the middle of writing: the old file is whole, and what was begun does not pass for one."""
    path = tmp_path / "phase1-step000001.ckpt"
    script = f"""
import os, pathlib, signal, torch
from edgetam_pl import weights
from edgetam_pl.training.checkpoints import PARTS
whole = {{part: kind() for part, kind in PARTS.items()}}
path = pathlib.Path({str(path)!r})
weights.write({{**whole, "edgetam_pl": {{"phase": 0, "steps_done": 1, "batches_seen": 1}}}}, path)
def save(content, file, *args, **kwargs):
    pathlib.Path(file).write_bytes(b"half of it")
    os.kill(os.getpid(), signal.SIGKILL)
torch.save = save
weights.write({{"edgetam_pl": {{"phase": 0, "steps_done": 2}}}}, path.with_name("phase1-step000002.ckpt"))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [entry.name for entry in tmp_path.glob("*.ckpt")] == [path.name]
    found = newest_whole(tmp_path)
    assert found is not None
    progress = progress_from(found, StageConfig(phases=[PhaseConfig(steps=9)]))
    assert progress.checkpoint == path
    assert progress.inside


def test_f18_a_truncated_checkpoint_is_named_and_the_one_before_is_used(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = training(shards, tmp_path, "checkpoint_every=1", phases="{frames:2,steps:3,batch:1,distil:false}")
    fit.run(cfg)
    (tmp_path / "weights.pt").unlink()
    done = tmp_path / "checkpoints" / "phase1-done.ckpt"
    done.write_bytes(done.read_bytes()[:1000])
    fit.run(cfg)
    assert "phase1-done.ckpt is incomplete" in capsys.readouterr().out
    assert (tmp_path / "weights.pt").is_file()


def test_a_set_of_images_is_shown_to_the_teacher_once(shards: Path, teacher: Path, tmp_path: Path) -> None:
    """teacher_cache: two entries an image at most, one of them flipped; the loss is that of asking every time."""
    words = [*taught(teacher), "data.augment.flip=0.5"]
    phases = "{frames:1,steps:4,batch:4}"
    fit.run(training(shards, tmp_path / "asked", *words, phases=phases, stage="toy_image"))
    words.append(f"teacher_cache={tmp_path / 'kept'}")
    fit.run(training(shards, tmp_path / "known", *words, phases=phases, stage="toy_image"))
    assert losses(tmp_path / "known") == pytest.approx(losses(tmp_path / "asked"), rel=1e-3)
    assert 0 < len(list((tmp_path / "kept").rglob("*.npy"))) <= 16


@pytest.mark.parametrize(
    ("words", "phases", "named"),
    [
        ((), "{frames:12,steps:1,batch:1}", r"phases\[0\] \(frames=12.*longest has 8"),
        ((), "{frames:2,steps:1,batch:1},{frames:9,steps:1,batch:1}", r"phases\[1\] \(frames=9"),
        ((), "{frames:2,steps:1,batch:9}", r"batch=9.*8 samples"),
        (("trainer.devices=3",), "{frames:2,steps:1,batch:3}", r"3 ranks of 3 clips need 9"),
    ],
)
def test_f21_phases_that_the_shards_cannot_feed_are_refused_before_anything_is_built(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], phases: str, named: str
) -> None:
    monkeypatch.setattr(fit, "build_module", lambda cfg: pytest.fail("something was built"))
    with pytest.raises(ValueError, match=named):
        fit.run(training(shards, tmp_path / "run", "data.sources.1.weight=0", *words, phases=phases))
    assert not (tmp_path / "run").exists()


def test_the_final_weights_say_their_model_and_training(whole: Path) -> None:
    found = weights.contents(whole / "weights.pt")
    assert found.card is not None
    assert [phase["frames"] for phase in found.card["training"]["phases"]] == [2, 4]
    assert (found.card["training"]["stage"], found.card["steps_done"]) == ("video", 7)
    assert found.card["data"].keys() == {source.name for source in config("toy", "data=toy").data.sources}
    assert {"commit", "version", "teacher", "started_from"} <= found.card.keys()
    recorded = weights.recorded_config(whole / "weights.pt")
    assert recorded is not None
    assert recorded.image_size == 64
    model = load_model(recorded, whole / "weights.pt")  # no other word is needed
    assert all(torch.equal(tensor, found.state[weights.official_name(n)]) for n, tensor in model.state_dict().items())


def test_a_run_from_kept_answers_is_the_one_with_the_teacher(shards: Path, teacher: Path, tmp_path: Path) -> None:
    """Clips and images, flips and warps: bit for bit in fp32; in fp16 it is the run that filled the folder."""
    words = [*taught(teacher), "stage.prompts.corrections=0"]
    phases = "{frames:3,steps:3,batch:2}"

    def trained(name: str, *more: str) -> dict[int, float]:
        fit.run(training(shards, tmp_path / name, *words, *more, phases=phases))
        return losses(tmp_path / name)

    asked_for = trained("asked")
    exact = [f"teacher_cache={tmp_path / 'exact'}", "teacher_cache_precision=fp32"]
    assert trained("filling", *exact) == asked_for
    assert trained("kept", *exact, "teacher_cache_only=true") == asked_for
    ours, theirs = (weights.contents(tmp_path / name / "weights.pt").state for name in ("kept", "asked"))
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())

    rounded = [f"teacher_cache={tmp_path / 'rounded'}"]
    first = trained("rounded_filling", *rounded)
    assert trained("rounded_kept", *rounded, "teacher_cache_only=true") == first
    with pytest.raises(ValueError, match=r"is not in .*teacher_cache_only=true leaves the teacher out"):
        trained("other_seed", *exact, "teacher_cache_only=true", "seed=99")

    found = sum(file.stat().st_size for file in (tmp_path / "exact").rglob("*.npy"))
    cfg = training(shards, tmp_path / "told", *words, *exact, phases=phases)
    assert cfg.teacher is not None
    told = cache_bytes(cfg, cfg.teacher, world=1)
    assert 0.3 * told < found < 1.2 * told, "the size that plan tells is about that of a run"


def test_two_teachers_are_averaged_or_teach_by_kind_and_are_recorded(shards: Path, teacher: Path, tmp_path: Path) -> None:
    torch.manual_seed(2)
    weights.save_official(build_model(config("toy").model), tmp_path / "second.pt")
    small = [word.replace("model.", "second_teacher.") for word in SMALL]
    second = ["model@second_teacher=toy", *small, f"second_teacher_weights={tmp_path / 'second.pt'}"]
    alone = {}
    for name, words in (("first", taught(teacher)), ("second", taught(tmp_path / "second.pt"))):
        fit.run(training(shards, tmp_path / name, *words, phases="{frames:2,steps:1,batch:1}"))
        alone[name] = read_lines(tmp_path / name / "curves.jsonl")[0]
    both = training(shards, tmp_path / "both", *taught(teacher), *second, phases="{frames:2,steps:1,batch:1}")
    fit.run(both)
    found = read_lines(tmp_path / "both" / "curves.jsonl")[0]
    for term in ("train/img", "train/mem"):
        assert found[term] == pytest.approx((alone["first"][term] + alone["second"][term]) / 2, rel=1e-5)
    card = weights.contents(tmp_path / "both" / "weights.pt").card
    assert card is not None
    assert card["teacher"]["sha256"] != card["second_teacher"]["sha256"]

    module = fit.build_module(replace(both, stage=replace(both.stage, teachers="by_kind")))
    images, clips = steps.clips(1), steps.clips(2)
    assert [asked(module.teachers, batch, module.stage) for batch in (images, clips)] == [[0], [1]]
    assert asked(module.teachers, clips, both.stage) == [0, 1]
