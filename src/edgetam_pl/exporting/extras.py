"""Packages that only export needs: imported late and without the noise they make on Linux, and judged by version."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Iterator
from importlib import metadata
from typing import Any, NamedTuple


def install_words(extra: str = "export") -> str:
    """The command that installs an extra of this package."""
    return f"pip install 'edgetam-pl[{extra}]'"


class MissingExtra(ValueError):
    """A package that only export needs is not installed."""


class Finding(NamedTuple):
    """One thing that `edgetam doctor` has looked at."""

    what: str
    state: str
    """ok | note | missing | broken."""
    message: str
    needed_for: tuple[str, ...] = ()
    """What does not work when the state is missing or broken: `train`, a backend's name, an optional feature."""


def package_finding(
    name: str,
    found: str | None,
    needed_for: tuple[str, ...],
    tested: tuple[tuple[int, int], tuple[int, int]] | None = None,
    install: str = "",
    upgrade: str = "",
) -> Finding:
    """Is a distribution there, and between the oldest version that works and the newest that was tried?"""
    if found is None:
        return Finding(name, "missing", f"not installed: {install or install_words()}", needed_for)
    if tested is not None:
        (low, high), version = tested, numbers(found)
        if version < low:
            message = f"{found} is older than {low[0]}.{low[1]}: pip install -U {upgrade or name}"
            return Finding(name, "broken", message, needed_for)
        if version > high:
            return Finding(name, "note", f"{found} is newer than {high[0]}.{high[1]}, the newest that was tried")
    return Finding(name, "ok", found)


def installed_version(name: str) -> str | None:
    """Version of a distribution, or None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def numbers(version: str) -> tuple[int, int]:
    """(major, minor) of a version, whatever follows."""
    major, *rest = version.split("+")[0].split(".")
    return int(major), int("".join(c for c in rest[0] if c.isdigit()) or 0) if rest else 0


def require(name: str, extra: str = "export") -> Any:
    """Import an optional module, without the noise that converters make on Linux.

    Raises:
        MissingExtra: it is not installed, with the command that installs it.
    """
    try:
        with silenced():
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in (name, name.split(".")[0]):
            raise
        words = install_words(extra)
        raise MissingExtra(f"{name} is not installed, and export needs it. Install it with: {words}") from error


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Silence what converters print: progress bars, and warnings about the Mac-only library and untested versions.

    `edgetam doctor` judges versions; here the same warning with every call would only hide the messages that matter.
    """
    names = ("coremltools", "onnxscript", "onnx_ir", "torch.onnx", "torch.export", "torch.__trace", "torch.utils._pytree")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:  # torch's trace writes a record per node if anything listens: much of a conversion's time
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
