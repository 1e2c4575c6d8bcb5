"""Python runs this first in every process that tests start, and the tests themselves import it. It saves time alone:

Lightning imports torchmetrics, which imports transformers, scipy and matplotlib for metrics and plots that nobody here
makes; timm imports wandb for a summary that nobody here writes. coremltools checks the program that it converts after each
of some hundred passes; here the gate judges what comes out. Cycles are looked for less often, and at the end nobody looks
for them among a million objects that are given up anyway.
"""

from __future__ import annotations

import atexit
import gc
import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import FunctionType, ModuleType


def load_torchmetrics(module: ModuleType, load: FunctionType) -> None:
    from lightning_utilities.core import imports

    there, available = imports.package_available, imports.RequirementCache.__bool__
    less = ("matplotlib", "scipy", "transformers")
    imports.package_available = lambda name: name not in less and there(name)
    imports.RequirementCache.__bool__ = lambda self: not (self.requirement or "").startswith(less) and available(self)
    try:
        load(module)
    finally:
        imports.package_available, imports.RequirementCache.__bool__ = there, available


def load_summary(module: ModuleType, load: FunctionType) -> None:
    known = sys.modules.setdefault("wandb", None)  # type: ignore[arg-type]
    try:
        load(module)
    finally:
        if known is None:
            del sys.modules["wandb"]


def load_coreml_program(module: ModuleType, load: FunctionType) -> None:
    load(module)
    module.Program.validate = lambda self, check_essential_scope=False: None


FINDS_LESS = {
    "torchmetrics": load_torchmetrics,
    "timm.utils.summary": load_summary,
    "coremltools.converters.mil.mil.program": load_coreml_program,
}


class _FindsLess:
    """A finder of these modules. Every import here would cost each process its time, so there are few."""

    @staticmethod
    def find_spec(name: str, path: list[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name in FINDS_LESS else None
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module
        spec.loader.exec_module = lambda module: FINDS_LESS[name](module, load)  # type: ignore[method-assign, arg-type]
        return spec


sys.meta_path.insert(0, _FindsLess)  # type: ignore[arg-type]
gc.set_threshold(10_000, 20, 20)
atexit.register(gc.freeze)
