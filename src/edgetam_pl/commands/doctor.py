"""`edgetam doctor`: can this environment train and export, and how to get one that can?"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from edgetam_pl.config import ExportConfig
from edgetam_pl.config.choices import Flags
from edgetam_pl.exporting import web
from edgetam_pl.exporting.backend import Backend
from edgetam_pl.exporting.backends import BACKENDS
from edgetam_pl.exporting.extras import Finding, installed_version, numbers, package_finding
from edgetam_pl.exporting.parts import Feature, Part

TESTED_TORCH = ((2, 7), (2, 15))
"""torch.export conversions were run with these and what lies between (docs/export.md)."""

PLAIN = "pip install edgetam-pl"
WORKING = "python -m venv .export && .export/bin/pip install -c constraints.txt 'edgetam-pl[export]'"
FOR_ALL = WORKING.replace("constraints", "constraints-runtimes").replace("export]", "export,coreai,executorch,litert]")

EVERYTHING = ("train", *BACKENDS)


def main(argv: Sequence[str]) -> int:
    """Print the verdict; 0 when export to the default format works here, 1 when not."""
    parser = Flags(
        prog="edgetam doctor",
        description="Says whether this environment can train and export, and how to get one that can. "
        "Export may live in an environment of its own: it needs a checkpoint, not the training set-up.",
    )
    parser.add_argument("--quick", action="store_true", help="look at versions only; do not convert a test program")
    args = parser.parse_args(list(argv))
    findings = examine(convert=not args.quick)
    for finding in findings:
        print(f"{finding.state:<8} {finding.what:<14} {finding.message}")
    print()
    titles = {"train": "training"} | {name: f"export to {backend.title}" for name, backend in BACKENDS.items()}
    titles[web.WEB] = "a page in the browser (backend=onnx target=web)"
    purposes = dict.fromkeys([*titles, *(purpose for finding in findings for purpose in finding.needed_for)])
    for purpose in purposes:
        causes = blocking(findings, purpose) + (blocking(findings, "onnx") if purpose == web.WEB else [])
        print(f"{titles.get(purpose, purpose)}: {'yes' if not causes else 'no, because of ' + ', '.join(causes)}")
    if any(blocking(findings, name) for name in BACKENDS):
        print(f"\nAn environment that can export: {WORKING}")
        print(f"One for every format (the project's own tests need another): {FOR_ALL}")
    return 1 if blocking(findings, ExportConfig().backend) else 0


def blocking(findings: Sequence[Finding], purpose: str) -> list[str]:
    """What stands in the way of a purpose."""
    return [each.what for each in findings if purpose in each.needed_for and each.state in ("missing", "broken")]


def examine(*, convert: bool) -> list[Finding]:
    """Everything worth knowing, in the order in which it should be read."""
    findings = [
        Finding("python", "ok", platform.python_version()),
        torch_finding(installed_version("torch")),
        torchvision_finding(installed_version("torchvision"), installed_version("torch")),
        package_finding("numpy", installed_version("numpy"), EVERYTHING, install=PLAIN),
        package_finding("timm", installed_version("timm"), EVERYTHING, install=PLAIN),
        package_finding("lightning", installed_version("lightning"), ("train",), install=PLAIN),
    ]
    for kind in BACKENDS.values():
        findings += kind().findings(installed_version)
    findings.append(web.finding())
    for name, kind in BACKENDS.items():
        if convert and not blocking(findings, name):
            findings.append(conversion_finding(kind()))
    return findings


def torch_finding(found: str | None) -> Finding:
    """torch: present, and within what was tried?"""
    return package_finding("torch", found, EVERYTHING, TESTED_TORCH, PLAIN, upgrade="torch torchvision")


def torchvision_finding(found: str | None, torch_version: str | None) -> Finding:
    """torch 2.n belongs to torchvision 0.(n + 15)."""
    if found and torch_version:
        major, minor = numbers(torch_version)
        if major == 2 and numbers(found)[1] != minor + 15:
            message = f"{found} was not made for torch {torch_version}: pip install -U torch torchvision together"
            return Finding("torchvision", "note", message)
    return package_finding("torchvision", found, EVERYTHING, install=PLAIN)


def conversion_finding(backend: Backend) -> Finding:
    """The whole way once, on a program of two operations: convert, save, read back, compare."""
    what, needed_for = f"{backend.name} test", (backend.name,)
    x, y = Feature("x", (1, 4), "float", ""), Feature("y", (1, 3), "float", "")
    part = Part("Doctor", "doctor", torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU()).eval(), (x,), (y,), "test")
    inputs = {"x": torch.tensor([[1.0, -2.0, 0.5, 3.0]])}
    try:
        with tempfile.TemporaryDirectory() as folder:
            (saved,) = backend.convert((part,), Path(folder), ExportConfig(backend=backend.name))
            value = backend.load(saved, rounded=True)(inputs)["y"]
    except Exception as error:  # noqa: BLE001  (whatever a version pair does wrong is the answer that was asked for)
        return Finding(what, "broken", f"{type(error).__name__}: {error}", needed_for)
    if not torch.allclose(value, part.run(inputs)["y"], atol=1e-2):
        return Finding(what, "broken", "a test program came back with other numbers", needed_for)
    return Finding(what, "ok", "a test program was converted, read back and gives the same numbers")
