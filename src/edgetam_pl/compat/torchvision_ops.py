"""Let a CUDA build of torchvision be imported beside a CPU-only torch.

The Linux wheels on PyPI are built for CUDA. Beside a CPU-only torch their compiled operators cannot load, and torchvision
then fails at import because it attaches shape rules to two operators nobody declared. timm imports torchvision, so this
would stop every command on such a machine. Declaring the two names is enough; nothing in this project calls them.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

_UNGUARDED = ("nms", "qnms")
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_DECLARED: list[Any] = []
"""Handles that keep the declared operators alive."""


class _BeforeTorchvision(MetaPathFinder):
    """Finds nothing itself: it makes the repair when somebody first looks for torchvision, so that importing this package
    does not import torch."""

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            _declare_missing()


def install() -> None:
    """Make the repair as soon as torchvision is looked for."""
    if not any(isinstance(finder, _BeforeTorchvision) for finder in sys.meta_path):
        sys.meta_path.insert(0, _BeforeTorchvision())


def _declare_missing() -> None:
    """Declare the two operators if torchvision's own library cannot be loaded."""
    import torch

    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    compiled = [path for path in Path(spec.origin).parent.glob("_C*") if path.suffix in {".so", ".pyd"}]
    try:
        for path in compiled:
            torch.ops.load_library(str(path))
    except OSError:
        declared = torch.library.Library("torchvision", "FRAGMENT")
        for name in _UNGUARDED:
            declared.define(name + _SIGNATURE)
        _DECLARED.append(declared)
