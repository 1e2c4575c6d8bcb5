"""The layout that trains is the layout that is evaluated: videos/NAME.mp4 and masks/NAME/00000.png."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from own_videos import make_own_videos

from edgetam_pl.commands.main import main
from edgetam_pl.datasets.toy_clips import toy_clip
from edgetam_pl.evaluation.datasets import open_data


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_own_videos(tmp_path_factory.mktemp("own") / "mine", videos=3, frames=9, every=3)


def test_masks_are_compared_with_the_frames_that_they_name(mine: Path) -> None:
    data = open_data("folder", mine)
    assert data.names == ("clip0", "clip1", "clip2")
    clip = data.clip("clip1")
    frames, masks = toy_clip(1, 10, 64, 2)
    assert clip.num_frames == 10
    assert [item.annotated for item in clip.objects] == [(0, 3, 6, 9)] * 2
    assert np.array_equal(clip.truths.read(6)[1], masks[6, 1])
    assert np.abs(clip.frames.read(6).astype(int) - frames[6]).mean() < 6  # H.264 is not exact


def test_own_videos_are_evaluated_by_a_model(mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["model=toy", "model.image_size=64", "weights=random", f"root={mine}", "pictures=false", "limit=1"]
    assert main(["evaluate", *words, f"out={tmp_path / 'out'}", f"cache={tmp_path / 'cache'}"]) == 0
    conditions = json.loads((tmp_path / "out" / "result.json").read_text())["conditions"]
    assert (conditions["num_sequences"], conditions["num_objects"], conditions["num_scored_frames"]) == (1, 2, 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda root: (root / "masks" / "lost").mkdir(), "lost has masks and no video"),
        (lambda root: (root / "masks" / "clip0" / "00000.png").rename(root / "masks/clip0/00050.png"), "frame"),
    ],
)
def test_what_does_not_fit_is_named(change: object, said: str, tmp_path: Path) -> None:
    root = make_own_videos(tmp_path / "mine", videos=1, frames=2)
    change(root)  # type: ignore[operator]
    with pytest.raises(ValueError, match=said):
        [clip.frames.read(item.start) for clip in open_data("folder", root) for item in clip.objects]
