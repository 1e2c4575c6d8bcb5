"""Sweep files and the words in them: what needs no trial."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
from sweep_points import sweep

from edgetam_pl.commands.compose import expand, latents
from edgetam_pl.sweeps.sweep_config import StopRule, distribution


def test_a_grid_is_every_combination_with_the_last_key_fastest() -> None:
    points = list(sweep({"a": {"values": [1, 2]}, "b.c": {"values": ["x", "y"]}}).grid())
    assert [point.words for point in points] == [
        ("scale=toy", f"a={a}", f"b.c={b}") for a, b in itertools.product((1, 2), ("x", "y"))
    ]
    assert points[0].name.startswith("a-1_c-x-")
    assert len({point.name for point in points}) == 4


def test_a_grid_needs_no_optuna() -> None:
    """It takes a second to import, and `edgetam trial`, a grid and a report never draw."""
    words = "import sys; import edgetam_pl.sweeps.local, edgetam_pl.sweeps.report; sys.exit('optuna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", words], check=False).returncode == 0


def test_a_large_space_is_checked_value_by_value() -> None:
    large = sweep({f"k{i}": {"values": list(range(10))} for i in range(4)})
    points = list(large.validation_points())
    assert len(points) == 40
    assert {point.values["k2"] for point in points} == set(range(10))
    assert large.size == 10_000
    ends = sweep({"k": {"min": 2, "max": 9}})
    assert [point.values["k"] for point in ends.validation_points()] == [2, 9]


def test_values_that_are_lists_become_words() -> None:
    points = sweep({"stage.phases": {"values": [[{"frames": 2}], [{"frames": 4}]]}}).grid()
    assert [point.words[-1] for point in points] == ["stage.phases=[{'frames': 2}]", "stage.phases=[{'frames': 4}]"]


@pytest.mark.parametrize(
    ("said", "wrong"),
    [({"vlaues": [1]}, "give value"), ({"values": []}, "list of values"), ({"values": [None]}, "'null'"),
     ({"min": 3, "max": 1}, "below max"), ({"min": 1, "max": 2, "distribution": "normal"}, "int_uniform")],
)  # fmt: skip
def test_a_parameter_that_is_none_is_refused(said: dict[str, object], wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        distribution("k", said)


def test_bands_are_those_of_wandb() -> None:
    assert StopRule.read({"type": "hyperband", "min_iter": 3}).bands[:3] == (3, 9, 27)
    assert StopRule.read({"type": "hyperband", "max_iter": 27, "s": 2, "eta": 3}).bands == (3, 9)


def test_latents_are_numbers_of_the_paper_that_a_scale_converts() -> None:
    kind = "model.compressor.kind="
    both = ("model.compressor.global_latents=16", "model.compressor.spatial_latents=4")
    assert latents("256/64", of_256=16) == (f"{kind}perceiver", *both)
    assert latents("none") == (f"{kind}none",)
    assert latents("pool2") == (f"{kind}pooling", "model.compressor.pool=2")
    for wrong in ("0/0", "256", "8/0"):
        with pytest.raises(ValueError, match="latents="):
            latents(wrong, of_256=16)


def test_a_scale_replaces_choices_and_its_own_words_give_way() -> None:
    words = expand(["experiment=tab3b_global", "scale=toy", "checkpoint_every=7"])
    assert "model=toy" in words
    assert "model=edgetam" not in words
    assert "model.compressor.global_latents=16" in words
    assert words.index("checkpoint_every=50") < words.index("checkpoint_every=7")
    with pytest.raises(ValueError, match="known ones: full, small, toy"):
        expand(["scale=huge"])
