"""`data=` takes one's own shards wherever they lie, and brings their validation with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from own_videos import make_own_videos

from edgetam_pl.commands.compose import composed
from edgetam_pl.commands.main import main
from edgetam_pl.config import TrainConfig


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a space and a comma in its name, split, and shards of its train list and of all."""
    root = make_own_videos(tmp_path_factory.mktemp("own") / "my, videos", videos=4, frames=3)
    assert main(["split", str(root)]) == 0
    for name, split in (("train", "train"), ("all", "")):
        words = [f"root={root}", f"split={split}", f"out={root / 'shards' / name}", "name=mine", "processes=1"]
        assert main(["shards", "source=videos", *words]) == 0
    return root


def compose(*words: str) -> TrainConfig:
    return composed(TrainConfig, command="train", overrides=list(words))[0]


def test_a_folder_of_shards_is_the_data(mine: Path) -> None:
    cfg = compose("stage=own_data", f"data={mine / 'shards' / 'train'}", "data.workers=0")
    (source,) = cfg.data.sources
    assert (source.name, source.shards, source.kind) == ("mine", str(mine / "shards" / "train"), "video")
    assert cfg.data.augment.degrees == 25  # Table 5's, not that of toys
    assert cfg.data.workers == 0


def test_the_list_of_validation_comes_with_it(mine: Path) -> None:
    validation = compose(f"data={mine / 'shards' / 'train'}").validation
    assert (validation.root, validation.split, validation.times) == (str(mine), "val", 10)
    assert compose("validation.times=0", f"data={mine / 'shards' / 'train'}").validation.times == 0


def test_shards_of_all_videos_are_not_validated_on_what_they_train(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compose(f"data={mine / 'shards' / 'all'}").validation.root == ""
    assert "hold the videos of val.txt too" in capsys.readouterr().err


def test_a_yaml_mixes_shards(mine: Path, tmp_path: Path) -> None:
    path = tmp_path / "mixed.yaml"
    path.write_text(
        f"""sources:
  - {{name: mine, shards: "{mine / "shards" / "train"}", weight: 0.8}}
  - {{name: others, shards: runs/shards/davis17, weight: 0.2, max_objects: 2}}
augment: {{degrees: 5}}
workers: 1
"""
    )
    cfg = compose(f"data={path}")
    assert [(source.name, source.weight, source.max_objects) for source in cfg.data.sources] == [
        ("mine", 0.8, None),
        ("others", 0.2, 2),
    ]
    assert (cfg.data.augment.degrees, cfg.data.augment.flip, cfg.data.workers) == (5, 0.5, 1)
    assert cfg.validation.root == str(mine)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("{root}", "is a folder of videos, not of shards"),
        ("{root}/nowhere", "There is no folder"),
        ("{root}/nowhere.yaml", "There is no file"),
        ("{root}/empty.yaml", "needs a list of sources"),
        ("tyo", "Did you mean toy"),
    ],
)
def test_what_is_no_data_is_refused(value: str, said: str, mine: Path) -> None:
    (mine / "empty.yaml").write_text("workers: 2\n")
    with pytest.raises(ValueError, match=said):
        compose(f"data={value.format(root=mine)}")


def test_a_checkpoint_without_data_is_not_trained_on_toys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = tmp_path / "edgetam.pt"
    torch.save({"model": {"no_mem_embed": torch.zeros(1)}}, start)
    assert main(["train", "stage=own_data", f"weights={start}"]) == 2
    assert "would train it on generated toys" in capsys.readouterr().err
    assert compose("stage=own_data", f"weights={start}", "data=toy").data.sources[0].name == "toy"
