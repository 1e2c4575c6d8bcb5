"""The one door to coremltools: imported late, without the noise it makes on Linux."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

CURE = "pip install 'edgetam-pl[export]'"


class MissingExtra(ValueError):
    """A package that only export needs is not installed."""


def coremltools() -> Any:
    """The coremltools module.

    Raises:
        MissingExtra: it is not installed, with the command that installs it.
    """
    return require("coremltools")


def require(name: str) -> Any:
    """Import an optional package, or say how to get it."""
    try:
        with hush():
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise MissingExtra(f"{name} is not installed, and export needs it. Install it with: {CURE}") from error


@contextlib.contextmanager
def hush() -> Iterator[None]:
    """Silence what converters print: progress bars, and warnings about the Mac-only library and untested versions.

    `edgetam doctor` judges versions; here the same warning with every call would only hide the messages that matter.
    """
    names = ("coremltools", "onnxscript", "onnx_ir", "torch.onnx", "torch.export", "torch.__trace")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:  # torch's trace writes a record per node for whoever listens: much of a conversion's time
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
