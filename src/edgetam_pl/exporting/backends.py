"""The formats that parts can be exported to. A new one is a subclass of `Backend` in a file of its own, and a line here."""

from __future__ import annotations

from edgetam_pl.config.choices import check_choice
from edgetam_pl.exporting.backend import Backend
from edgetam_pl.exporting.coreai import CoreAI
from edgetam_pl.exporting.coreml import CoreML
from edgetam_pl.exporting.executorch import ExecuTorch
from edgetam_pl.exporting.litert import LiteRT
from edgetam_pl.exporting.onnx import Onnx

BACKENDS: dict[str, type[Backend]] = {
    "coreml": CoreML,
    "coreai": CoreAI,
    "executorch": ExecuTorch,
    "litert": LiteRT,
    "onnx": Onnx,
}


def backend_of(name: str) -> Backend:
    """The backend of that name, or a ValueError that lists them."""
    check_choice("backend", name, sorted(BACKENDS))
    return BACKENDS[name]()
