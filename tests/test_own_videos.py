"""The guide for own videos: its commands, as they stand in docs/own_videos.md, from first to last at toy size."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from own_videos import make_own_videos
from smallest import SMALL

from edgetam_pl import weights
from edgetam_pl.build import build_model
from edgetam_pl.commands.compose import model_config
from edgetam_pl.commands.main import main

GUIDE = Path(__file__).resolve().parents[1] / "docs" / "own_videos.md"
COMMANDS = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
]
MIXTURE = re.search(r"```yaml\n# mine.yaml\n(.*?)```", GUIDE.read_text(), re.DOTALL)

TOY = ("model=toy", *SMALL)
QUICK = (
    "trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.enable_progress_bar=false", "logger=none",
    "data.workers=0", "data.augment.degrees=5",
    "stage.phases=[{frames:3,steps:2,batch:1,total_batch:2,freeze_encoder:true,distil:false}]",
    "stage.optim.warmup=0", "stage.max_objects=2", "stage.prompts.corrections=1", "validation.times=2",
)  # fmt: skip
MORE = {
    "split": (),
    "track": ("--model", "toy_guide"),
    "shards": ("processes=1",),
    "train": QUICK,
    "before-after": ("cache=cache", "threads=1"),
    "export": ("backend=onnx", "gate.frames=4", "gate.short_frames=4", "golden=false"),
}
"""What makes each command small."""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every command of the guide was run, in its order."""
    root = tmp_path_factory.mktemp("guide")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        make_own_videos(root / "mine", videos=5, frames=4)
        prepare(root)
        for line in COMMANDS:
            program, command, *words = shlex.split(line)
            assert program == "edgetam"
            words = [word for word in words if word not in ("model=edgetam", "trainer=gpu")]
            options = TOY if command in ("train", "before-after", "export") else ()
            assert main([command, *words, *options, *MORE[command]]) == 0, line
    return root


def listed(lines: str) -> str:
    """Settings of the compressor in a row."""
    return ", ".join(line.removeprefix("compressor.") for line in lines.splitlines())


def prepare(root: Path) -> None:
    """What a reader of the guide has: a video called cow with a first mask, a checkpoint, other shards, the mixture."""
    shutil.copyfile(root / "mine" / "videos" / "clip0.mp4", root / "mine" / "videos" / "cow.mp4")
    shutil.copyfile(root / "mine" / "masks" / "clip0" / "00000.png", root / "cow_00000.png")
    torch.manual_seed(0)
    weights.save_official(build_model(model_config("toy", *SMALL)), root / "edgetam.pt")
    (root / "configs" / "model").mkdir(parents=True)
    settings = "\n".join(f"{key.removeprefix('model.')}: {value}" for key, value in (word.split("=", 1) for word in SMALL))
    nested = re.sub(r"(?:compressor\.\w+: \d+\n?)+", lambda found: f"compressor: {{{listed(found[0])}}}", settings)
    spaced = re.sub(r"([{,])(\w+):\[", r"\1\2: [", nested)
    (root / "configs" / "model" / "toy_guide.yaml").write_text(f"defaults:\n  - toy\n  - _self_\n{spaced}\n")
    assert main(["shards", "source=toy", "out=runs/shards/davis17", "clips=2", "frames=4", "size=64", "processes=1"]) == 0
    assert MIXTURE is not None
    (root / "mine.yaml").write_text(MIXTURE[1])


pytestmark = pytest.mark.slow


def test_the_guide_has_every_step() -> None:
    assert [line.split()[1] for line in COMMANDS] == ["track", "split", "shards", "train", "train", "before-after", "export"]


def test_masks_of_track_are_annotations(done: Path) -> None:
    names = [*(done / "mine" / "train.txt").read_text().split(), *(done / "mine" / "val.txt").read_text().split()]
    assert "cow" in [*names, *(done / "mine" / "test.txt").read_text().split()]
    assert len(list((done / "mine" / "masks" / "cow").glob("*.png"))) == 4


def test_training_validates_on_the_list_beside_its_own(done: Path) -> None:
    lines = [json.loads(line) for line in (done / "runs/mine/validation/jf.jsonl").read_text().splitlines()]
    assert [line["progress/step"] for line in lines] == [1, 2]
    assert (done / "runs/mine/weights.pt").is_file()
    assert (done / "runs/mine/last.pt").is_file()
    assert "best by validation" in json.loads((done / "runs/mine/run.json").read_text())["weights"]


def test_before_and_after_are_on_one_page(done: Path) -> None:
    folder = done / "runs/mine/before-after"
    page = (folder / "report.html").read_text()
    found = json.loads((folder / "comparison.json").read_text())
    assert "first mask repeated" in page
    assert 0 < found["repeat"] <= 100
    assert found["a"]["conditions"]["weights_hash"] != found["b"]["conditions"]["weights_hash"]
    assert found["a"]["conditions"]["list_hash"] == found["b"]["conditions"]["list_hash"]


def test_packages_are_there(done: Path) -> None:
    assert json.loads((done / "runs/mine/packages/manifest.json").read_text())
