"""The shell recipes of experiments/: every command they give is one that the command line takes, and they continue."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from edgetam_pl import config
from edgetam_pl.commands.compose import composed
from edgetam_pl.io import shipped

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"

STUB = """#!/bin/sh
echo "$@" >> {log}
for word in "$@"; do
    case $word in out=*) out=${{word#out=}} ;; esac
done
mkdir -p "$out"
touch "$out/weights.pt" "$out/report.json" "$out/manifest.json"
"""
"""Instead of `edgetam`: remembers the words and leaves what the recipe looks for."""

RESIZE = """#!/bin/sh
[ "$(basename "$1") $3" = "resize_latents.py 64" ] && touch "$4"
"""
"""Instead of `python`, which the recipe asks for other latents of a checkpoint."""


def given(script: str, folder: Path, *jobs: str) -> list[list[str]]:
    """The commands that a recipe gives, word by word."""
    log, stub = folder / "log", folder / "bin" / "edgetam"
    stub.parent.mkdir(exist_ok=True)
    stub.write_text(STUB.format(log=log))
    (stub.parent / "python").write_text(RESIZE)
    for program in stub.parent.iterdir():
        program.chmod(0o755)
    log.write_text("")
    environment = {**os.environ, "PATH": f"{stub.parent}:{os.environ['PATH']}", "DATA": "data", "TRUNK": "trunk.pth"}
    subprocess.run(["sh", EXPERIMENTS / script, *jobs], cwd=folder, env=environment, check=True)
    return [line.split() for line in log.read_text().splitlines()]


@pytest.mark.parametrize("script", ["real_cpu.sh", "real_gpu.sh"])
def test_a_recipe_gives_commands_that_are_understood_and_repeats_none(script: str, tmp_path: Path) -> None:
    commands = given(script, tmp_path)
    schemas = {"train": config.TrainConfig, "evaluate": config.EvaluateConfig, "export": config.ExportConfig}
    stages, before = [], None
    for name, *words in commands:
        cfg, _ = composed(schemas[name], command=name, overrides=words)
        if isinstance(cfg, config.TrainConfig):
            stages.append((cfg.stage.name, cfg.model.image_size, cfg.stage.phases[-1].frames))
            # each begins where the one before ended, with as many latents as it has itself
            weights = "weights-64.pt" if cfg.load_parts == "equal_shapes" else "weights.pt"
            assert cfg.weights == (before and str(Path(before) / weights))
            assert cfg.model.compressor.spatial_latents == {128: 16, 256: 64}[cfg.model.image_size]
            before = cfg.out
    assert stages == [("image", 128, 1), ("video", 128, 4), ("video", 256, 8), ("video", 256, 16)]
    assert [name for name, *_ in commands] == ["train"] * 4 + ["evaluate"] * 8 + ["export"]
    assert given(script, tmp_path) == []


def test_the_gpu_recipe_is_the_same_with_larger_numbers(tmp_path: Path) -> None:
    steps = {}
    for script in ("real_cpu.sh", "real_gpu.sh"):
        (tmp_path / script).mkdir()
        for name, *words in given(script, tmp_path / script, "images", "memory", "video", "long"):
            cfg, _ = composed(config.TrainConfig, command=name, overrides=words)
            clips = sum(phase.steps * phase.batch for phase in cfg.stage.phases)
            steps.setdefault(Path(cfg.out).name, []).append((clips, [phase.frames for phase in cfg.stage.phases]))
    for (small, frames), (large, longer) in steps.values():
        assert large > 5 * small
        assert frames == longer


def test_the_teachers_recipe_goes_from_one_training_to_the_next(tmp_path: Path) -> None:
    commands = given("real_cpu_teacher.sh", tmp_path, "data", "grown", "steps", "zoom", "scores")
    assert [name for name, *_ in commands] == ["shards"] * 2 + ["train"] * 3 + ["evaluate"] * 6
    schemas = {"shards": config.ShardsConfig, "train": config.TrainConfig, "evaluate": config.EvaluateConfig}
    found = [composed(schemas[name], command=name, overrides=words)[0] for name, *words in commands]
    built = {cfg.out for cfg in found if isinstance(cfg, config.ShardsConfig)}
    before = None
    for cfg in found:
        if isinstance(cfg, config.TrainConfig):
            assert cfg.model.compressor.kind == "none"
            assert Path(str(cfg.weights)) == (shipped.WEIGHTS if before is None else Path(before) / "weights.pt")
            assert cfg.load_parts == ("all_but_compressor" if before is None else "all")
            assert not any(phase.distil for phase in cfg.stage.phases)
            assert built & {source.shards for source in cfg.data.sources}
            before = cfg.out
    steps = [cfg.data for cfg in found if isinstance(cfg, config.TrainConfig)]
    assert [data.sources[0].max_step for data in steps] == [1, 6, 8]
    assert [data.augment.zoom for data in steps] == [0.0, 1.5, 2.5]
    assert {data.augment.degrees for data in steps} == {12.0}
    # students with and without the teacher that came last, from the same weights
    students = [
        composed(config.TrainConfig, command=name, overrides=words)[0]
        for name, *words in given("real_cpu_teacher.sh", tmp_path)
        if name == "train"
    ]  # what is there already is not done again
    assert len(students) == 6
    for alone, taught in zip(students[::2], students[1::2]):
        assert taught.teacher_weights == f"{before}/weights.pt"
        assert alone.teacher is None
        assert (alone.weights, alone.seed, alone.data) == (taught.weights, taught.seed, taught.data)
        assert [phase.distil for cfg in (alone, taught) for phase in cfg.stage.phases] == [False, True]


@pytest.mark.parametrize("script", ["real_cpu.sh", "real_cpu_teacher.sh"])
def test_an_unknown_job_is_named(script: str, tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        given(script, tmp_path, "vidoe")
