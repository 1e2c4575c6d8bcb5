"""`edgetam doctor`: can this environment train and export, and how to get one that can?"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgetam_pl.export.extras import CURE

TESTED_TORCH = ((2, 7), (2, 15))
"""torch.export conversions were run with these and what lies between (docs/export.md)."""

TESTED_COREMLTOOLS = (9, 0)

WORKING = "python -m venv .export && .export/bin/pip install -c constraints.txt 'edgetam-pl[export]'"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    state: str
    """ok | note | missing | broken."""
    told: str
    needed_for: tuple[str, ...] = ()
    """train | coreml | onnx | compression: what does not work when the state is missing or broken."""


def main(argv: Sequence[str]) -> int:
    """Print the verdict; 0 when Core ML export works here, 1 when not."""
    parser = argparse.ArgumentParser(
        prog="edgetam doctor",
        description="Says whether this environment can train and export, and how to get one that can. "
        "Export may live in an environment of its own: it needs a checkpoint, not the training set-up.",
    )
    parser.add_argument("--quick", action="store_true", help="look at versions only; do not convert a test program")
    args = parser.parse_args(list(argv))
    findings = examine(convert=not args.quick)
    for finding in findings:
        print(f"{finding.state:<8} {finding.what:<14} {finding.told}")
    print()
    blocked = {
        purpose: [f.what for f in findings if purpose in f.needed_for and f.state in ("missing", "broken")]
        for purpose in PURPOSES
    }
    for purpose, causes in blocked.items():
        print(f"{PURPOSES[purpose]}: {'yes' if not causes else 'no, because of ' + ', '.join(causes)}")
    if blocked["coreml"] or blocked["onnx"]:
        print(f"\nAn environment that can export: {WORKING}")
    return 1 if blocked["coreml"] else 0


PURPOSES = {
    "train": "training",
    "coreml": "export to Core ML",
    "onnx": "export to ONNX",
    "compression": "palettes (compression=palette8, palette6, palette4)",
    "mac": "running Core ML itself",
}


def examine(*, convert: bool) -> list[Finding]:
    """Everything worth knowing, in the order in which it should be read."""
    findings = [
        Finding("python", "ok", platform.python_version()),
        torch_finding(_version("torch")),
        _torchvision(),
        numpy_finding(_version("numpy"), _version("coremltools")),
        _extra("timm", ("train", "coreml", "onnx")),
        _extra("lightning", ("train",)),
        coremltools_finding(_version("coremltools")),
        _extra("sklearn", ("compression",), distribution="scikit-learn"),
        _extra("onnx", ("onnx",)),
        _extra("onnxscript", ("onnx",)),
        _extra("onnxruntime", ("onnx",)),
    ]
    if sys.platform == "darwin":
        findings.append(Finding("Apple", "ok", "macOS: validate_on_mac.py can run Core ML itself"))
    else:
        told = "not a Mac: programs are checked numerically here, validate_on_mac.py does the rest there"
        findings.append(Finding("Apple", "missing", told, ("mac",)))
    if convert and not any("coreml" in f.needed_for and f.state in ("missing", "broken") for f in findings):
        findings.append(_conversion())
    return findings


def torch_finding(found: str | None) -> Finding:
    """torch: present, and within what was tried?"""
    needed = ("train", "coreml", "onnx")
    if found is None:
        return Finding("torch", "missing", "not installed: pip install edgetam-pl", needed)
    low, high = TESTED_TORCH
    if _numbers(found) < low:
        return Finding(
            "torch", "broken", f"{found} is older than {low[0]}.{low[1]}: pip install -U torch torchvision", needed
        )
    if _numbers(found) > high:
        return Finding("torch", "note", f"{found} is newer than {high[0]}.{high[1]}, the newest that was tried")
    return Finding("torch", "ok", found)


def numpy_finding(found: str | None, tools: str | None) -> Finding:
    """numpy 2.4 breaks coremltools 9.0's older front end; ours goes through torch.export, which works with both."""
    if found is None:
        return Finding("numpy", "missing", "not installed: pip install edgetam-pl", ("train", "coreml", "onnx"))
    if tools is not None and _numbers(tools) <= TESTED_COREMLTOOLS and _numbers(found) >= (2, 4):
        return Finding(
            "numpy",
            "note",
            f"{found}: coremltools {tools} fails with it where it traces; pip install 'numpy<2.4' to be safe",
        )
    return Finding("numpy", "ok", found)


def coremltools_finding(found: str | None) -> Finding:
    """coremltools: present, and new enough for torch.export programs?"""
    if found is None:
        return Finding("coremltools", "missing", f"not installed: {CURE}", ("coreml",))
    if _numbers(found) < TESTED_COREMLTOOLS:
        return Finding("coremltools", "broken", f"{found} is older than 9.0: pip install -U coremltools", ("coreml",))
    if _numbers(found) > TESTED_COREMLTOOLS:
        return Finding("coremltools", "note", f"{found} is newer than 9.0, the newest that was tried; the gate will tell")
    return Finding("coremltools", "ok", found)


def _conversion() -> Finding:
    """The whole way once, on a program of two operations: convert, save, read back, compare."""
    import torch

    from edgetam_pl.export.coreml import convert_part
    from edgetam_pl.export.mil_interpreter import Interpreter
    from edgetam_pl.export.parts import Feature, Part

    x, y = Feature("x", (1, 4), "float", ""), Feature("y", (1, 3), "float", "")
    part = Part("Doctor", "doctor", torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU()).eval(), (x,), (y,), "test")
    inputs = {"x": torch.tensor([[1.0, -2.0, 0.5, 3.0]])}
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "doctor.mlpackage"
            convert_part(part, precision="fp16", system="ios17").save(str(path))
            value = Interpreter.load(path, rounded=True)(inputs)["y"]
    except Exception as error:  # noqa: BLE001  (whatever a version pair does wrong is the answer that was asked for)
        return Finding("conversion", "broken", f"{type(error).__name__}: {error}", ("coreml",))
    if not torch.allclose(value, part.run(inputs)["y"], atol=1e-2):
        return Finding("conversion", "broken", "a test program came back with other numbers", ("coreml",))
    return Finding("conversion", "ok", "a test program was converted, read back and gives the same numbers")


def _torchvision() -> Finding:
    found, torch = _version("torchvision"), _version("torch")
    if found is None:
        return Finding("torchvision", "missing", "not installed: pip install edgetam-pl", ("train", "coreml", "onnx"))
    # torch 2.n belongs to torchvision 0.(n + 15)
    if torch is not None and _numbers(torch)[0] == 2 and _numbers(found)[1] != _numbers(torch)[1] + 15:
        return Finding(
            "torchvision", "note", f"{found} was not made for torch {torch}: pip install -U torch torchvision together"
        )
    return Finding("torchvision", "ok", found)


def _extra(name: str, needed_for: tuple[str, ...], distribution: str = "") -> Finding:
    found = _version(distribution or name)
    if found is None:
        return Finding(distribution or name, "missing", f"not installed: {CURE}", needed_for)
    return Finding(distribution or name, "ok", found)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _numbers(text: str) -> tuple[int, int]:
    """(major, minor) of a version, whatever follows."""
    parts = text.split("+")[0].split(".")
    return int(parts[0]), int("".join(c for c in parts[1] if c.isdigit()) or 0) if len(parts) > 1 else 0
