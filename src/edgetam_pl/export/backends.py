"""The formats that parts can be exported to. A new runtime is a class with the members of `Backend`, and a line here."""

from __future__ import annotations

from collections.abc import Callable

from edgetam_pl.export.coreml import CoreML
from edgetam_pl.export.onnx import Onnx
from edgetam_pl.export.parts import Backend

BACKENDS: dict[str, Callable[[], Backend]] = {"coreml": CoreML, "onnx": Onnx}


def backend_of(name: str) -> Backend:
    """The backend of that name, or a ValueError that lists them."""
    if name not in BACKENDS:
        raise ValueError(f"backend={name} is not known; use one of {', '.join(sorted(BACKENDS))}.")
    return BACKENDS[name]()
