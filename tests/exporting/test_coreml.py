"""Core ML packages: what their conversion and compression keep."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from exported import part_of
from torch import nn

from edgetam_pl.config import ExportConfig
from edgetam_pl.exporting.coreml import CoreML
from edgetam_pl.exporting.mil_interpreter import Interpreter


@pytest.mark.parametrize("kind", ["int8", "palette8"])
def test_weights_are_compressed_where_their_layer_shares_a_bias_with_a_layer_norm(kind: str, tmp_path: Path) -> None:
    """Conversion stores equal constants once, for instance the zero biases of a new model."""
    torch.manual_seed(0)
    norm, layer = nn.LayerNorm(128), nn.Linear(128, 128)
    nn.init.zeros_(layer.bias)
    part, cfg = part_of(nn.Sequential(norm, layer), ("x", (1, 128))), ExportConfig(precision="fp32", compression=kind)
    (saved,) = CoreML().convert([part], tmp_path, cfg)
    assert sum(path.stat().st_size for path in saved.path.rglob("*.bin")) < 0.5 * 4 * 128 * 128
    x = torch.randn(1, 128)
    with torch.no_grad():
        exact, small = part.run({"x": x})["y"], Interpreter.load(saved.path, rounded=False)({"x": x})["y"]
    assert (small - exact).abs().max() < 0.05 * exact.abs().max()
