"""Recipes: every file is complete and builds what it says; counts that differ from the published ones are told."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest
from shard_sets import palette_folder

from edgetam_pl.commands.compose import composed
from edgetam_pl.config import ShardsConfig
from edgetam_pl.data.build import run
from edgetam_pl.data.recipes import Recipe
from edgetam_pl.datasets.layout import SOURCES
from edgetam_pl.io.resources import shipped

RECIPES, MIXTURES = shipped("shards/recipes"), shipped("configs") / "data"
NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))


def test_the_five_data_sets_of_the_paper_and_own_data_have_a_recipe() -> None:
    assert {"sa1b", "sav", "davis17", "mose", "ytvos19", "own_videos", "own_images"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_says_all_and_its_command_means_its_settings(name: str) -> None:
    recipe = Recipe.read(name)
    assert all((recipe.title, recipe.licence, recipe.page, recipe.layout))
    known = {field.name for field in dataclasses.fields(ShardsConfig)}
    assert set(recipe.settings) <= known
    words = shlex.split(recipe.command)
    assert words[:3] == ["edgetam", "shards", f"recipe={name}"]
    cfg, _ = composed(ShardsConfig, command="shards", overrides=words[2:])
    assert cfg.recipe == name
    assert cfg.source in SOURCES
    for key, value in recipe.settings.items():
        assert getattr(cfg, key) == value
    for counts in recipe.splits.values():
        assert [*counts] in (["videos"], ["images"])
        assert all(count > 0 for count in counts.values())
    assert not recipe.splits or cfg.split in recipe.splits


@pytest.mark.parametrize("path", sorted(MIXTURES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_mixture_reads_what_recipes_write_or_what_it_says_how_to_write(path: Path) -> None:
    written = {word.removeprefix("out=") for name in NAMES for word in Recipe.read(name).command.split()[3:]}
    generated = {"runs/toy/video", "runs/toy/image"}
    tenth = {"runs/shards/sa1b_tenth"}
    text = path.read_text()
    told = set(re.findall(r"^# .*edgetam shards .*out=(\S+)", text, flags=re.M))
    for line in text.splitlines():
        if "shards: " in line:
            assert line.split("shards: ")[1].split(",")[0] in written | generated | tenth | told


def test_words_of_the_user_win_wherever_they_stand() -> None:
    for words in (["recipe=davis17", "split=val"], ["split=val", "recipe=davis17"]):
        cfg, _ = composed(ShardsConfig, command="shards", overrides=words)
        assert (cfg.split, cfg.name) == ("val", "davis17")


def test_a_folder_is_compared_with_what_was_published(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    palette_folder(tmp_path / "in" / "train", {"00f9183c": [0, 1], "0a1b": [0]})
    cfg = ShardsConfig(recipe="mose", source="mose", split="train", root=str(tmp_path / "in"), out=str(tmp_path / "out"))
    assert run(dataclasses.replace(cfg, processes=1)) == 0
    said = capsys.readouterr().out
    assert "MOSE (version 1). Licence: CC BY-NC-SA 4.0" in said
    assert "2 videos found, 1507 published: 1505 missing" in said


def test_the_same_count_more_and_an_unknown_split_are_told_apart() -> None:
    recipe = Recipe.read("davis17")
    assert recipe.compared(60, split="train") == "60 videos, as published."
    assert "2 more than there should be" in recipe.compared(32, split="val")
    assert "how many split=test-dev should have is not known" in recipe.compared(30, split="test-dev")


def test_an_unknown_recipe_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no recipe named davis; known ones: coco, davis16, davis17"):
        Recipe.read("davis")
    with pytest.raises(ValueError, match="no recipe named davis; known ones"):
        composed(ShardsConfig, command="shards", overrides=["recipe=davis"])
