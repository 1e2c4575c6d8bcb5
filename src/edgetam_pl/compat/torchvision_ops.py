"""Let a CUDA build of torchvision be imported beside a CPU-only torch.

The Linux wheels on PyPI are built for CUDA. Beside a CPU-only torch their compiled operators cannot load, and torchvision
then fails at import because it attaches shape rules to two operators nobody declared. timm imports torchvision, so this
would stop every command on such a machine. Declaring the two names is enough; nothing in this project calls them.
"""

import importlib.util
from pathlib import Path

import torch
from torch import library

_UNGUARDED = ("nms", "qnms")
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def _declare_missing() -> library.Library | None:
    """Declare the two operators if torchvision's own library cannot be loaded; return the handle that keeps them alive."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return None
    compiled = [path for path in Path(spec.origin).parent.glob("_C*") if path.suffix in {".so", ".pyd"}]
    try:
        for path in compiled:
            torch.ops.load_library(str(path))
    except OSError:
        declared = library.Library("torchvision", "FRAGMENT")
        for name in _UNGUARDED:
            declared.define(name + _SIGNATURE)
        return declared
    return None


_LIBRARY = _declare_missing()
