"""The nouns of export: a feature (one named tensor), a part (one program), and what a backend must offer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from edgetam_pl.config import ExportConfig

PADDING_LABEL, UNUSED_LABEL = -1, -2
"""Label of SAM's not-a-point token, and of a prompt slot that is to be ignored altogether."""


PRECISIONS = ("auto", "fp16", "fp32")


def one_of(key: str, value: str, legal: Sequence[str]) -> None:
    """Refuse a value that is not among the legal ones."""
    if value not in legal:
        raise ValueError(f"{key}={value} is not known; use one of {', '.join(legal)}.")


@dataclass(frozen=True)
class Feature:
    """One input or output of a program."""

    name: str
    shape: tuple[int, ...]
    kind: str
    """float (fp16 or fp32, as the export's precision says) | float32 | int32 | image (RGB, 0 ... 255)."""
    meaning: str

    def dtype(self, precision: str) -> str:
        """The type on the wire: fp16, fp32, int32, or image."""
        return {"float": precision, "float32": "fp32"}.get(self.kind, self.kind)


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

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The module in eager torch, by name. This is what every backend must reproduce."""
        with torch.no_grad():
            results = self.module(*(inputs[feature.name] for feature in self.inputs))
        results = (results,) if isinstance(results, Tensor) else results
        return {feature.name: value for feature, value in zip(self.outputs, results, strict=True)}

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
    """Folder (.mlpackage) or file (.onnx)."""
    function: str | None = None
    """Function inside a package that holds several; null: the only one."""


class Backend(Protocol):
    """A format that parts can be converted to and executed from."""

    name: str
    suffix: str
    needs: tuple[str, ...]
    """Optional packages without which nothing goes."""

    def precision(self, config: ExportConfig) -> str:
        """fp16 or fp32. Raises ValueError for a target that the format does not have."""
        ...

    def wire(self, feature: Feature, precision: str) -> str:
        """The type that the feature has in a saved part: fp16, fp32, int32 or image."""
        ...

    def convert(self, parts: Sequence[Part], folder: Path, config: ExportConfig) -> tuple[Saved, ...]:
        """Convert every part and save it under `folder`."""
        ...

    def load(self, saved: Saved, *, rounded: bool) -> Program:
        """Load a saved part back, to be executed on this machine.

        Args:
            rounded: round every result to the declared type; only formats that declare fp16 care.
        """
        ...
