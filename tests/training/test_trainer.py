"""Arguments of Lightning's trainer: the strategy that several ranks need, and what is refused before anything is built."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from edgetam_pl.commands.compose import composed
from edgetam_pl.config import TrainConfig
from edgetam_pl.io import environment
from edgetam_pl.training import fit
from edgetam_pl.training.check import check
from edgetam_pl.training.trainer import UNUSED, accelerator_of, require_devices, trainer_arguments


@pytest.mark.parametrize(
    ("given", "strategy"),
    [
        ({"devices": 2}, UNUSED),
        ({"devices": 1, "num_nodes": 2}, UNUSED),
        ({"devices": "auto"}, UNUSED),
        ({"devices": 2, "strategy": "auto"}, UNUSED),
        ({"devices": 2, "strategy": UNUSED}, UNUSED),
        ({"devices": 1}, None),
        ({}, None),
    ],
)
def test_several_ranks_get_the_strategy_that_bears_unused_parameters(given: dict[str, Any], strategy: str | None) -> None:
    assert trainer_arguments(given).get("strategy") == strategy


@pytest.mark.parametrize("trainer", ["cpu", "gpu", "gpu8"])
def test_every_trainer_file_is_fit_for_two_devices(trainer: str) -> None:
    cfg = composed(TrainConfig, command="train", overrides=[f"trainer={trainer}", "trainer.devices=2"])[0]
    assert trainer_arguments(cfg.trainer)["strategy"] == UNUSED


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"precision": "bf16-true"}, "trainer.precision is bf16-true; use one of 32-true, bf16-mixed, 16-mixed"),
        ({"precision": 64}, "trainer.precision is 64"),
        ({"devices": 2, "strategy": "ddp"}, f"trainer.strategy is ddp, .*images leave .* or use {UNUSED}"),
        ({"presicion": "16"}, r"no argument presicion \(trainer.presicion\). Did you mean precision\?"),
    ],
)
def test_what_cannot_train_is_refused_before_a_model_is_built(
    given: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "build_model", lambda cfg: pytest.fail("a model was built"))
    cfg = composed(TrainConfig, command="train", overrides=["model=toy"])[0]
    cfg.trainer = {**cfg.trainer, **given}
    for refuse in (lambda: check(cfg), lambda: fit.run(cfg)):
        with pytest.raises(ValueError, match=message):
            refuse()


@pytest.mark.parametrize("dry", ["dry_run=true", "dry_run=false"])
def test_a_training_on_a_gpu_that_is_not_there_is_refused_also_by_a_dry_run(
    dry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    cfg = composed(TrainConfig, command="train", overrides=["model=toy", "trainer=gpu", dry])[0]
    with pytest.raises(ValueError, match="accelerator is gpu with devices=1, but torch finds 0 GPUs here; use trainer=cpu"):
        fit.run(cfg)


def test_bfloat16_that_lands_on_a_processor_without_it_is_warned_of_also_when_the_accelerator_was_left_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(environment, "processor_flags", lambda: ("avx2", "fma"))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.warns(UserWarning, match="give trainer.precision=32-true"):
        require_devices({"accelerator": "auto", "precision": "bf16-mixed"})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        require_devices({"accelerator": "auto", "precision": "bf16-mixed"})


def test_more_gpus_than_there_are_is_refused_with_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    require_devices({"accelerator": "gpu", "devices": 4})
    require_devices({"accelerator": "gpu", "devices": -1})
    with pytest.raises(ValueError, match=r"finds 4 GPUs here; use trainer.devices=4"):
        require_devices({"accelerator": "gpu", "devices": 8})


@pytest.mark.parametrize(("cuda", "mps", "found"), [(True, False, "gpu"), (False, True, "mps"), (False, False, "cpu")])
def test_an_accelerator_that_is_left_open_is_the_one_that_is_there(
    cuda: bool, mps: bool, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert accelerator_of({}) == accelerator_of({"accelerator": "auto"}) == found
    assert accelerator_of({"accelerator": "cpu"}) == "cpu"
    assert accelerator_of({"accelerator": "cuda"}) == "gpu"
