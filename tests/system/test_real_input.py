"""The chain on real video and images with the real EdgeTAM: shards, both stages, J&F, packages. Reduced to 256 pixels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from edgetam_pl.commands.compose import composed
from edgetam_pl.config import EvaluateConfig, ExportConfig, ShardsConfig, TrainConfig
from edgetam_pl.data.build import run as build_shards
from edgetam_pl.evaluation.runner import run as evaluate
from edgetam_pl.exporting import run as export
from edgetam_pl.training import fit
from edgetam_pl.training.curves import read_lines

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shards(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("real")
    for kind, source, folder, limit in (("video", "davis", "davis16_train", 2), ("image", "images", "coco_dev", 8)):
        words = [
            f"source={source}",
            f"root={shared / 'data' / folder}",
            f"out={root / kind}",
            f"limit={limit}",
            "processes=1",
        ]
        build_shards(composed(ShardsConfig, command="shards", overrides=words)[0])
        assert json.loads((root / kind / "manifest.json").read_text())["samples"] >= 2
    return root


def train(out: Path, *words: str) -> list[dict[str, float]]:
    common = [
        "model=edgetam",
        "model.image_size=256",
        f"out={out}",
        "logger=none",
        "logger.log_every=1",
        "logger.panels_every=0",
        "logger.page=false",
    ]
    small = [
        "data.workers=0",
        "data.shuffle=4",
        "stage.optim.warmup=0",
        "stage.optim.cooldown=0",
        "stage.optim.clip_norm=1.0",
    ]
    cfg = composed(TrainConfig, command="train", overrides=[*common, *small, *words])[0]
    fit.run(cfg)
    return read_lines(out / "curves.jsonl")


def beginnings(root: Path, out: Path, *, clips: int = 2, frames: int = 4) -> None:
    """The first frames of the first sequences, in a folder laid out like the original."""
    for kind in ("JPEGImages", "Annotations"):
        for sequence in sorted((root / kind).iterdir())[:clips]:
            (out / kind / sequence.name).mkdir(parents=True)
            for path in sorted(sequence.iterdir())[:frames]:
                shutil.copyfile(path, out / kind / sequence.name / path.name)


def test_from_real_video_to_packages(shared: Path, shards: Path, tmp_path: Path) -> None:
    stage1 = train(
        tmp_path / "stage1",
        "stage=image",
        "stage.phases=[{frames:1,steps:2,batch:2}]",
        "stage.max_objects=4",
        "stage.prompts.corrections=1",
        f"data.sources=[{{name:coco,kind:image,shards:{shards / 'image'}}}]",
    )
    assert len(stage1) == 2
    assert all(np.isfinite(line["train/total"]) for line in stage1)

    stage2 = train(
        tmp_path / "stage2",
        "stage=video",
        "stage.phases=[{frames:2,steps:8,batch:1}]",
        "stage.prompts.point_prob=0",
        "stage.prompts.max_prompted_frames=1",
        "stage.optim.lr=8e-4",
        "stage.optim.encoder_lr=null",
        "data.augment.reverse=0",
        f"weights={tmp_path / 'stage1' / 'weights.pt'}",
        f"data.sources=[{{name:davis,kind:video,shards:{shards / 'video'}}}]",
    )
    totals = [line["train/total"] for line in stage2]
    assert np.isfinite(totals).all()
    assert np.mean(totals[-3:]) < 0.8 * np.mean(totals[:3]), totals

    weights = tmp_path / "stage2" / "weights.pt"
    saved = torch.load(weights, weights_only=True)["model"]
    assert sum(saved[key].numel() for key in saved) == 13_895_794 + 47_354  # parameters and buffers

    words = [
        "model=edgetam",
        "model.image_size=256",
        f"weights={weights}",
        "dataset=davis16",
        f"out={tmp_path / 'evaluation'}",
    ]
    beginnings(shared / "data" / "davis16_dev", tmp_path / "clips")
    words += [f"root={tmp_path / 'clips'}", "pictures=false", f"cache={tmp_path / 'cache'}"]
    report = evaluate(composed(EvaluateConfig, command="evaluate", overrides=words)[0])
    assert report is not None
    assert len(report.sequences) == 2
    assert 0 <= report.jf <= 100

    words = ["model=edgetam", "model.image_size=256", f"weights={weights}", f"out={tmp_path / 'packages'}", "golden=false"]
    words += ["gate.frames=4", "gate.short_frames=4"]  # long rollouts are the business of test_export
    exported = export(composed(ExportConfig, command="export", overrides=words)[0])
    assert exported.passed
    assert len(list((tmp_path / "packages").glob("*.mlpackage"))) == 4
