"""Training as a user meets it: phases, resume, the teacher's place, frozen encoders, one run directory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from edgetam_pl import weights
from edgetam_pl.build import build_model
from edgetam_pl.compose import composed
from edgetam_pl.config import ShardsConfig, TrainConfig
from edgetam_pl.data.build import run as build_shards
from edgetam_pl.training import fit
from edgetam_pl.training.curves import STEP, read_lines

SMALL = (
    "model.image_size=64",
    "model.trunk_args={embed_dim:[8,16,24,32],depth:[1,1,1,1]}",
    "model.dim=32",
    "model.memory_dim=16",
    "model.memory_ffn=32",
    "model.decoder_mlp=32",
    "model.compressor.global_latents=4",
    "model.compressor.spatial_latents=4",
    "model.dropout=0.1",
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    for kind, frames in (("video", 8), ("image", 1)):
        words = ["source=toy", f"out={root / kind}", "clips=8", f"frames={frames}", "size=64", "objects=3", "processes=1"]
        build_shards(composed(ShardsConfig, command="shards", overrides=words)[0])
    return root


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("teacher") / "teacher.pt"
    weights.save_official(build_model(config("toy").model), path)
    return path


def config(model: str, *words: str, stage: str = "toy_video") -> TrainConfig:
    return composed(TrainConfig, command="train", overrides=[f"model={model}", f"stage={stage}", *SMALL, *words])[0]


def training(shards: Path, out: Path, *words: str, phases: str, stage: str = "toy_video") -> TrainConfig:
    return config(
        "toy",
        "data=toy",
        f"data.sources.0.shards={shards / 'video'}",
        f"data.sources.1.shards={shards / 'image'}",
        "data.shuffle=4",
        f"out={out}",
        "stage.optim.warmup=0",
        "stage.optim.cooldown=0",
        f"stage.phases=[{phases}]",
        "stage.prompts.point_prob=0.5",
        "logger=none",
        "logger.log_every=1",
        "logger.panels_every=0",
        *words,
        stage=stage,
    )


def taught(teacher: Path) -> list[str]:
    small = [word.replace("model.", "teacher.") for word in SMALL]
    return ["model@teacher=toy", *small, f"teacher_weights={teacher}"]


def losses(out: Path) -> dict[int, float]:
    return {int(line[STEP]): line["train/total"] for line in read_lines(out / "curves.jsonl")}


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


@pytest.mark.parametrize("stopped_at", [2, 5])
def test_an_interrupted_run_continues_as_if_it_had_not_been(
    shards: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_at: int
) -> None:
    whole = training(shards, tmp_path / "whole", *taught(teacher), "checkpoint_every=1", phases=TWO_PHASES)
    fit.run(whole)
    broken = training(shards, tmp_path / "broken", *taught(teacher), "checkpoint_every=1", phases=TWO_PHASES)
    with monkeypatch.context() as patch:
        interrupt_after(patch, stopped_at)
        with pytest.raises(Stopped):
            fit.run(broken)
    fit.run(broken)
    assert len(losses(tmp_path / "whole")) == 7
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")


def test_no_key_of_the_teacher_is_saved_and_its_hash_is(shards: Path, teacher: Path, tmp_path: Path) -> None:
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


def test_another_teacher_is_refused_on_resume(shards: Path, teacher: Path, tmp_path: Path) -> None:
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


def test_a_frozen_encoder_does_not_move(shards: Path, tmp_path: Path) -> None:
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


def test_the_teacher_stays_in_evaluation_mode(shards: Path, teacher: Path, tmp_path: Path) -> None:
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


def test_images_teach_without_memory(shards: Path, teacher: Path, tmp_path: Path) -> None:
    cfg = training(shards, tmp_path, *taught(teacher), phases="{frames:1,steps:2,batch:2}", stage="toy_image")
    fit.run(cfg)
    line = read_lines(tmp_path / "curves.jsonl")[-1]
    assert line["train/img"] > 0
    assert line["train/mem"] == 0


def test_one_run_directory_holds_one_offline_run(shards: Path, tmp_path: Path) -> None:
    words = ["logger=wandb", "logger.panels_every=1"]
    cfg = training(
        shards, tmp_path, *words, phases="{frames:2,steps:1,batch:1,distil:false},{frames:3,steps:1,batch:1,distil:false}"
    )
    fit.run(cfg)
    record = json.loads((tmp_path / "run.json").read_text())
    runs = list((tmp_path / "wandb").glob("offline-run-*"))
    assert len(runs) == 1
    assert runs[0].name.endswith(record["run_id"])
    assert sorted(p.name for p in (tmp_path / "panels").iterdir()) == ["step000001.png", "step000002.png"]


def test_activation_checkpointing_changes_memory_not_losses(shards: Path, tmp_path: Path) -> None:
    phases = "{frames:3,steps:2,batch:1,distil:false}"
    fit.run(training(shards, tmp_path / "plain", phases=phases))
    fit.run(training(shards, tmp_path / "again", "activation_checkpointing=true", phases=phases))
    plain, again = losses(tmp_path / "plain"), losses(tmp_path / "again")
    assert again == pytest.approx(plain, rel=1e-5)


def test_a_dry_run_prints_and_writes_nothing(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit.run(training(shards, tmp_path / "run", "dry_run=true", phases="{frames:2,steps:1,batch:1,distil:false}"))
    assert "parameters" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_a_truncated_checkpoint_is_named_and_the_one_before_is_used(
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
