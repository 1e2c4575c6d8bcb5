"""The nouns of export: a feature (one named tensor), a part (one program), and a part that was converted and saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

PADDING_LABEL, UNUSED_LABEL = -1, -2
"""Label of SAM's not-a-point token, and of a prompt slot that is to be ignored altogether."""

BYTES = {"fp16": 2, "fp32": 4, "int32": 4, "image": 1}
"""Of one number of each type."""


@dataclass(frozen=True)
class Feature:
    """One input or output of a program."""

    name: str
    shape: tuple[int, ...]
    kind: str
    """float (fp16 or fp32, as the export's precision says) | float32 | int32 | image (RGB, 0 ... 255)."""
    meaning: str

    def dtype(self, precision: str) -> str:
        """The type of the stored numbers: fp16, fp32, int32, or image."""
        return {"float": precision, "float32": "fp32"}.get(self.kind, self.kind)

    def bytes(self, precision: str) -> int:
        return prod(self.shape) * BYTES[self.dtype(precision)]


@dataclass(frozen=True)
class Part:
    """One program of the exported loop: a module over flat tensors, and the contract of its inputs and outputs."""

    name: str
    """Name of the package and of its function, e.g. EdgeTAMImageEncoder."""
    role: str
    """image_encoder | prompt_decoder | memory_encoder | track_step."""
    module: nn.Module
    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]
    purpose: str
    compute_units: str = "cpuAndGPU"
    """Core ML compute units that the app should ask for; a package cannot hold this itself."""
    states: tuple[Feature, ...] = ()
    """Tensors that follow the inputs, and that the module writes into: the runtime keeps them between calls."""

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The module in eager torch, by name. This is what every backend must reproduce."""
        with torch.no_grad():
            results = self.module(*(inputs[feature.name] for feature in self.inputs))
        return self.named(results)

    def named(self, results: Tensor | tuple[Tensor, ...]) -> dict[str, Tensor]:
        """The module's results by the names of the outputs."""
        results = (results,) if isinstance(results, Tensor) else results
        return {feature.name: value for feature, value in zip(self.outputs, results, strict=True)}

    def example(self) -> tuple[Tensor, ...]:
        """Inputs of the right shapes and types, to trace with; no graph depends on their values."""
        return tuple(
            torch.zeros(feature.shape, dtype=torch.int32 if feature.kind == "int32" else torch.float32)
            for feature in (*self.inputs, *self.states)
        )

    def output(self, name: str) -> Feature:
        return next(feature for feature in self.outputs if feature.name == name)


class Program(Protocol):
    """A converted part, loaded back from disk."""

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]: ...


@dataclass(frozen=True)
class Saved:
    """A converted part on disk."""

    part: Part
    path: Path
    """Folder or file."""
    function: str | None = None
    """Function inside a package that holds several; null: the only one."""
