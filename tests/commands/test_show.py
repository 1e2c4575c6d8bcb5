"""What `show` says of a model."""

from __future__ import annotations

import pytest
import torch
from zoo import config, toy

from edgetam_pl.build import build_model
from edgetam_pl.commands.show import describe, verbs


def test_the_tree_names_parts_verbs_and_totals() -> None:
    text = describe(toy())
    for word in ("image_encoder", "compressor", "Perceiver2D", "encode", "attend", "decode", "memorize", "681,338"):
        assert word in text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("edgetam", {"encode": 38.8, "attend": 89.1, "decode": 3.6, "memorize": 12.6}),
        ("repvit_dense", {"encode": 38.8, "attend": 302.8, "decode": 3.6, "memorize": 11.6}),
        ("sam2.1_hiera_base_plus", {"encode": 646.8, "attend": 605.6, "decode": 3.6, "memorize": 11.6}),
        ("efficienttam_s_1", {"encode": 304.5, "attend": 244.8, "decode": 3.6, "memorize": 11.6}),
    ],
)
def test_arithmetic_equals_what_was_counted_on_the_released_models(name: str, expected: dict[str, float]) -> None:
    """GFLOPs per frame at 1024 pixels with a full bank, two per multiply-add."""
    with torch.device("meta"):
        model = build_model(config(name))
    found = {verb.name: verb.flops / 1e9 for verb in verbs(model)}
    assert found == pytest.approx(expected, rel=0.02)


def test_looking_at_a_model_does_not_move_it() -> None:
    model = toy().train()
    describe(model)
    assert model.training
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
