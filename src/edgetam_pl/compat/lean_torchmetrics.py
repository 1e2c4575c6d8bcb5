"""Let a command start without the packages that torchmetrics imports for metrics that no command uses.

Lightning imports all of torchmetrics, and that imports Transformers, SciPy's signal processing and Matplotlib's pyplot where
they are installed: a quarter of the time that the imports of `edgetam train` take. In a process of `edgetam` torchmetrics is
told that they are absent. A program that imports this package is left alone: it may want those metrics.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType

UNUSED = frozenset({"matplotlib", "scipy", "transformers"})


class _BeforeTorchmetrics(MetaPathFinder):
    """Finds nothing itself: it acts when somebody first looks for torchmetrics, so that quick commands pay nothing."""

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        if fullname == "torchmetrics":
            sys.meta_path.remove(self)
            _hide_unused()


def install() -> None:
    """Hide the unused packages from torchmetrics as soon as it is looked for."""
    if not any(isinstance(finder, _BeforeTorchmetrics) for finder in sys.meta_path):
        sys.meta_path.insert(0, _BeforeTorchmetrics())


def _hide_unused() -> None:
    """Have the two questions that torchmetrics asks about packages answered by no for the unused ones."""
    from lightning_utilities.core import imports

    available, is_met = imports.package_available, imports.RequirementCache.__bool__

    def package_available(package_name: str) -> bool:
        return package_name not in UNUSED and available(package_name)

    def __bool__(self: imports.RequirementCache) -> bool:
        name = (self.requirement or self.module or "").partition(">")[0]
        return name not in UNUSED and is_met(self)

    imports.package_available = package_available
    imports.RequirementCache.__bool__ = __bool__
