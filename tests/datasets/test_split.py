"""Whole videos are shared out, by a seed, short and long ones alike; what cannot be split is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from own_videos import make_own_videos

from edgetam_pl.commands.main import main
from edgetam_pl.config import ShardsConfig
from edgetam_pl.datasets.layout import open_layout
from edgetam_pl.datasets.split import split
from edgetam_pl.evaluation.datasets import open_data
from edgetam_pl.io.folders import lines_of
from edgetam_pl.io.label_png import read_labels, write_labels

LENGTHS = {f"v{number:03d}": 10 * (number % 30 + 1) for number in range(300)}


def test_parts_are_whole_videos_of_the_asked_sizes() -> None:
    parts = split(LENGTHS, val=0.1, test=0.2, seed=0)
    assert {part: len(names) for part, names in parts.items()} == {"train": 210, "val": 30, "test": 60}
    assert sorted(name for names in parts.values() for name in names) == sorted(LENGTHS)


def test_every_length_is_in_every_part() -> None:
    """Thirds of the lengths hold a third of the validation, where chance alone would often give a fifth or a half."""
    for seed in range(5):
        lengths = [LENGTHS[name] for name in split(LENGTHS, val=0.1, test=0.1, seed=seed)["val"]]
        thirds = [sum(low < length <= low + 100 for length in lengths) for low in (0, 100, 200)]
        assert thirds == pytest.approx([10] * 3, abs=1)


def test_the_seed_decides() -> None:
    again = {name: LENGTHS[name] for name in reversed(LENGTHS)}
    assert split(LENGTHS, val=0.1, test=0.1, seed=3) == split(again, val=0.1, test=0.1, seed=3)
    assert split(LENGTHS, val=0.1, test=0.1, seed=3) != split(LENGTHS, val=0.1, test=0.1, seed=4)


@pytest.mark.parametrize(
    ("videos", "shares", "said"),
    [
        (1, {"val": 0.1, "test": 0.0}, "1 video cannot be split into train, val: at least 2 videos"),
        (2, {"val": 0.1, "test": 0.1}, r"--test 0\)"),
        (4, {"val": 0.5, "test": 0.5}, "leave nothing to train on"),
        (4, {"val": -0.1, "test": 0.5}, "leave nothing to train on"),
    ],
)
def test_a_split_that_cannot_be_is_refused(videos: int, shares: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        split({str(number): 5 for number in range(videos)}, **shares, seed=0)


def test_shards_and_evaluation_read_the_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_own_videos(tmp_path / "mine")
    (root / "videos" / "forgotten.mp4").write_bytes((root / "videos" / "clip0.mp4").read_bytes())
    (root / "masks" / "lost").mkdir()
    assert main(["split", str(root)]) == 0
    said = capsys.readouterr().out
    assert "forgotten: forgotten.mp4 has no folder" in said
    assert "lost has masks and no video" in said
    assert "train.txt: 3 videos of" in said
    train = open_layout(ShardsConfig(source="videos", root=str(root), split="train")).names()
    val = open_data("folder", root, split="val").names
    assert train == lines_of(root / "train.txt")
    assert list(val) == lines_of(root / "val.txt")
    assert not {*train} & {*val}
    assert main(["split", str(root)]) == 0  # the same again
    assert main(["split", str(root), "--val", "0.5"]) == 2
    assert "holds another list" in capsys.readouterr().err


def test_a_list_that_would_never_be_read_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_own_videos(tmp_path / "mine", videos=3, frames=2)
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("clip0\n")
    assert main(["split", str(root)]) == 2
    assert "a list that the data set comes with" in capsys.readouterr().err
    assert main(["split", str(root), "--out", str(tmp_path / "lists")]) == 0
    assert len(lines_of(tmp_path / "lists" / "val.txt")) == 1


def test_one_video_is_refused_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_own_videos(tmp_path / "mine", videos=1, frames=2)
    assert main(["split", str(root)]) == 2
    assert "1 video cannot be split" in capsys.readouterr().err


def test_videos_without_any_mask_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_own_videos(tmp_path / "mine", videos=2, frames=2)
    (root / "masks").rename(root / "elsewhere")
    assert main(["split", str(root)]) == 2
    assert "has no folder masks" in capsys.readouterr().err


def test_a_class_that_is_never_visible_is_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_own_videos(tmp_path / "mine", videos=2, frames=8)
    for path in (root / "masks" / "clip0").iterdir():
        write_labels(path, np.zeros_like(read_labels(path)))
    words = ["shards", "source=videos", f"root={root}", "name=mine", "processes=1"]
    assert main([*words, f"out={tmp_path / 'some'}"]) == 0
    assert "no object visible: clip0: no object in frames 0 to 7" in capsys.readouterr().out
    for path in (root / "masks" / "clip1").iterdir():
        write_labels(path, np.zeros_like(read_labels(path)))
    assert main([*words, f"out={tmp_path / 'none'}"]) == 2
    assert f"Not one sample could be made of {root}: left out: no object visible (2)" in capsys.readouterr().err
