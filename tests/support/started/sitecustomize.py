"""Python runs this first in every process that tests start: torchmetrics and timm find fewer packages than are there.

Lightning imports torchmetrics, which imports transformers and scipy for metrics that nobody here computes; timm imports
wandb for a summary that nobody here writes. That is a quarter of the time that such a process needs to begin.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


@contextmanager
def torchmetrics_finds_less() -> Iterator[None]:
    from lightning_utilities.core import imports

    there, available = imports.package_available, imports.RequirementCache.__bool__
    less = ("scipy", "transformers")
    imports.package_available = lambda name: name not in less and there(name)
    imports.RequirementCache.__bool__ = lambda self: not (self.requirement or "").startswith(less) and available(self)
    try:
        yield
    finally:
        imports.package_available, imports.RequirementCache.__bool__ = there, available


@contextmanager
def timm_finds_no_wandb() -> Iterator[None]:
    known = sys.modules.setdefault("wandb", None)  # type: ignore[arg-type]
    try:
        yield
    finally:
        if known is None:
            del sys.modules["wandb"]


FINDS_LESS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "torchmetrics": torchmetrics_finds_less,
    "timm.utils.summary": timm_finds_no_wandb,
}


class _FindsLess(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name in FINDS_LESS else None
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            with FINDS_LESS[name]():
                load(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _FindsLess())
