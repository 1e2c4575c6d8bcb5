"""How fast Core AI's CPU runtime is on Linux, operation by operation, beside torch: why a frame takes what it takes.

    python benchmarks/coreai_operations.py                        # single operations, with one thread
    python benchmarks/coreai_operations.py --part image_encoder   # one call of a part of the full EdgeTAM, 1024 px

Seconds are the processor's; each number is the best of three calls, or of one that takes longer than two seconds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgetam_pl.commands.bench import machine
from edgetam_pl.commands.compose import composed
from edgetam_pl.config import ExportConfig
from edgetam_pl.exporting.coreai import CoreAI
from edgetam_pl.exporting.gate.truth import Truth
from edgetam_pl.exporting.parts import Feature, Part
from edgetam_pl.exporting.run import load
from edgetam_pl.io.tables import markdown_table

C, S, T = 64, 64, 1024


class Of(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


IMAGE, TOKENS = (1, C, S, S), (1, 4096, 256)
OPERATIONS: dict[str, tuple[nn.Module, list[tuple[int, ...]], float]] = {
    "convolution 1 x 1": (nn.Conv2d(C, C, 1), [IMAGE], C * C * S * S),
    "convolution 3 x 3": (nn.Conv2d(C, C, 3, padding=1), [IMAGE], 9 * C * C * S * S),
    "convolution 3 x 3, by channel": (nn.Conv2d(C, C, 3, padding=1, groups=C), [IMAGE], 9 * C * S * S),
    "convolution 7 x 7, by channel": (nn.Conv2d(C, C, 7, padding=3, groups=C), [IMAGE], 49 * C * S * S),
    "linear layer": (nn.Linear(256, 256), [TOKENS], 4096 * 256 * 256),
    "product of matrices": (Of(lambda a, b: a @ b), [(1, 1, T, 256), (1, 1, 256, T)], T * 256 * T),
    "softmax, 4 million": (Of(lambda a: a.softmax(-1)), [(1, 1, T, 4096)], 0),
    "layer norm, 1 million": (nn.LayerNorm(256), [TOKENS], 0),
    "GELU, 1 million": (nn.GELU(), [(1, 256, S, S)], 0),
    "sum, 1 million": (Of(lambda a, b: a + b), [(1, 256, S, S)] * 2, 0),
    "bilinear resize to 1 million": (
        Of(lambda a: F.interpolate(a, scale_factor=4, mode="bilinear")), [(1, 1, 256, 256)], 0,
    ),
}  # fmt: skip
"""Module, shapes of its inputs, multiply-adds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", help="image_encoder, prompt_decoder, memory_encoder or track_step, instead of operations")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(machine(torch.device("cpu")))
    rows = [_row(f"{args.part}, 1024 px", _part(args.part), 0)] if args.part else []
    for name, (module, shapes, work) in {} if args.part else OPERATIONS.items():
        inputs = tuple(Feature(f"x{i}", shape, "float", "") for i, shape in enumerate(shapes))
        rows.append(
            _row(name, Part("Operation", "operation", module.eval(), inputs, (Feature("y", (), "float", ""),), ""), work)
        )
    print(markdown_table(["", "Core AI, ms", "torch, ms", "Core AI, GMAC/s", "torch, GMAC/s"], rows))


def _part(role: str) -> Part:
    words = ["model=edgetam", "weights=random", "backend=coreai", "precision=fp32"]
    cfg, _ = composed(ExportConfig, command="export", overrides=words)
    return Truth.of(load(cfg)[0], cfg).parts[role]


def _row(name: str, part: Part, work: float) -> list[str]:
    """Core AI's time and torch's on the same inputs."""
    draw = torch.Generator().manual_seed(0)
    inputs = {
        feature.name: torch.zeros(feature.shape, dtype=torch.int32)
        if feature.kind == "int32"
        else torch.rand(feature.shape, generator=draw)
        for feature in part.inputs
    }
    with tempfile.TemporaryDirectory() as folder:
        backend = CoreAI()
        (saved,) = backend.convert([part], Path(folder), ExportConfig(backend="coreai", precision="fp32"))
        theirs, ours = (_best(run, inputs) for run in (backend.load(saved, rounded=False), part.run))
    speeds = [f"{work / seconds / 1e9:.2f}" if work else "" for seconds in (theirs, ours)]
    return [name, f"{1000 * theirs:.1f}", f"{1000 * ours:.1f}", *speeds]


def _best(run: Callable[[dict[str, Tensor]], Any], inputs: dict[str, Tensor]) -> float:
    best = float("inf")
    for _ in range(3):
        begin = time.process_time()
        run(inputs)
        best = min(best, time.process_time() - begin)
        if best > 2:
            break
    return best


if __name__ == "__main__":
    main()
