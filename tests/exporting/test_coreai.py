"""Core AI: compressed weights, executed by its runtime."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from exported import part_of
from torch import nn

from edgetam_pl.config import ExportConfig
from edgetam_pl.exporting.coreai import CoreAI, compress

coreai_opt = pytest.importorskip("coreai_opt.coreai_utils")
SIDE = 128


@pytest.mark.parametrize(("kind", "error"), [("int8", 0.02), ("palette8", 0.02), ("palette6", 0.05), ("palette4", 0.2)])
def test_compressed_weights_are_smaller_and_near(kind: str, error: float, tmp_path: Path) -> None:
    """Also weights above 6.5, which coreai-opt's faster k-means makes infinite."""
    torch.manual_seed(0)
    layer = nn.Linear(SIDE, SIDE)
    nn.init.normal_(layer.weight, std=3)
    part, x = part_of(layer, ("x", (1, SIDE))), torch.randn(1, SIDE)
    (saved,) = CoreAI().convert([part], tmp_path, ExportConfig(backend="coreai", precision="fp32", compression=kind))
    assert sum(path.stat().st_size for path in saved.path.rglob("*") if path.is_file()) < 0.5 * 4 * SIDE * SIDE
    with torch.no_grad():
        exact, small = part.run({"x": x})["y"], CoreAI().load(saved, rounded=False)({"x": x})["y"]
    assert 0 < (small - exact).abs().max() < error * exact.abs().max()


def test_a_weight_that_could_not_be_compressed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(program: object, dtype: object) -> object:
        logging.getLogger("coreai_opt.coreai_utils").warning("Failed to quantize op x. Skipped this op.")
        return program

    monkeypatch.setattr(coreai_opt, "quantize_weights", fails)
    with pytest.raises(ValueError, match=r"compression=int8: coreai-opt could not compress 1 weights: Failed"):
        compress(object(), "int8")


def test_without_coreai_opt_the_words_that_install_it_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(ValueError, match=r"pip install 'edgetam-pl\[coreai\]'"):
        compress(object(), "int8")
