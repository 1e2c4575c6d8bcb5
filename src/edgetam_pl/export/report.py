"""What an export has to tell: the report, the manifest's entries, the clock."""

from __future__ import annotations

import dataclasses
import platform
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edgetam_pl.config import ExportConfig
from edgetam_pl.export import manifest as contract
from edgetam_pl.export.backends import backend_of
from edgetam_pl.export.estimate import lines as estimate_lines
from edgetam_pl.export.gate.comparing_tracker import FrameRow
from edgetam_pl.export.gate.measures import Verdict
from edgetam_pl.export.manifest import FeatureEntry, Manifest, PartEntry, RuntimeSpec
from edgetam_pl.export.parts import Saved
from edgetam_pl.io.environment import VERSION

NOT_ON_APPLE = "not run on Apple hardware"


@dataclass(frozen=True)
class PackageRow:
    """One package in the report."""

    name: str
    file: str
    bytes: int


@dataclass
class ExportReport:
    """What an export did. `passed` is False only in reports of refused exports."""

    out: str
    backend: str
    precision: str
    passed: bool
    packages: list[PackageRow]
    seconds: dict[str, float]
    """Wall-clock seconds of each step."""
    peak_rss_mb: dict[str, float]
    """Largest resident memory of the process up to the end of each step."""
    failures: list[str]
    worst: dict[str, dict[str, Any]]
    """Of each part and quantity, the number nearest to its bound."""
    frames: list[FrameRow] = field(default_factory=list)
    estimate: dict[str, Any] = field(default_factory=dict)
    apple_hardware: str = NOT_ON_APPLE

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes by file; a file that holds several programs is counted once."""
        return {row.file: row.bytes for row in self.packages}

    def table(self) -> str:
        """For people."""
        lines = [f"{'package':<28} {'MB':>7}"]
        lines += [f"{row.name:<28} {row.bytes / 1e6:>7.2f}" for row in self.packages]
        lines.append(f"{'total':<28} {sum(self.sizes.values()) / 1e6:>7.2f}")
        lines += ["", f"{'gate':<74} {'worst':>10} {'bound':>10}"]
        for key, row in self.worst.items():
            mark = "" if row["ok"] else "  <- refused"
            lines.append(f"{key:<74} {row['value']:>10.4g} {row['bound']:>10.4g}{mark}")
        lines.append("")
        if self.estimate:
            lines += [*estimate_lines(self.estimate), ""]
        lines.append("seconds: " + ", ".join(f"{step} {seconds:.1f}" for step, seconds in self.seconds.items()))
        lines.append(
            f"Core ML itself: {self.apple_hardware}" if self.backend == "coreml" else f"phone: {self.apple_hardware}"
        )
        return "\n".join(lines)


def report_of(
    out: Path,
    cfg: ExportConfig,
    precision: str,
    saved: Sequence[Saved],
    verdict: Verdict,
    frames: Sequence[FrameRow],
    clock: Clock,
) -> ExportReport:
    worst = {
        key: {"value": m.value, "bound": m.bound, "ok": m.ok, "where": m.where} for key, m in sorted(verdict.worst().items())
    }
    return ExportReport(
        out=str(out),
        backend=cfg.backend,
        precision=precision,
        passed=verdict.ok,
        packages=[PackageRow(each.part.name, each.path.name, contract.bytes_of(each.path)) for each in saved],
        seconds=clock.laps,
        peak_rss_mb=clock.peaks,
        failures=[str(measure) for measure in verdict.failures],
        worst=worst,
        frames=list(frames),
    )


def manifest_of(
    cfg: ExportConfig,
    precision: str,
    saved: Sequence[Saved],
    loop: RuntimeSpec,
    folder: Path,
    checkpoint: str,
    checkpoint_sha256: str,
    report: ExportReport,
) -> Manifest:
    backend = backend_of(cfg.backend)
    entries = []
    for each in saved:
        part = each.part
        entries.append(
            PartEntry(
                name=part.name,
                role=part.role,
                file=str(each.path.relative_to(folder)),
                function=each.function,
                compute_units=part.compute_units,
                bytes=contract.bytes_of(each.path),
                sha256=contract.sha256_of(each.path),
                inputs=tuple(FeatureEntry(f.name, f.shape, backend.wire(f, precision), f.meaning) for f in part.inputs),
                outputs=tuple(FeatureEntry(f.name, f.shape, backend.wire(f, precision), f.meaning) for f in part.outputs),
            )
        )
    return Manifest(
        format=contract.FORMAT,
        name=cfg.name,
        backend=cfg.backend,
        precision=precision,
        system=cfg.system if cfg.backend == "coreml" else "",
        attention=cfg.attention,
        compression=cfg.compression,
        loop=loop,
        parts=tuple(entries),
        rules=contract.RULES,
        model=dataclasses.asdict(cfg.model),
        checkpoint=checkpoint,
        checkpoint_sha256=checkpoint_sha256,
        versions=versions(),
        thresholds=dataclasses.asdict(cfg.gate),
        parity=report.worst,
        estimate=report.estimate,
        apple_hardware=report.apple_hardware,
    )


def versions() -> dict[str, str]:
    """Of everything that had a hand in an export."""
    found = {"edgetam_pl": VERSION, "python": platform.python_version()}
    for name in ("torch", "numpy", "timm", "coremltools", "onnx", "onnxruntime"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


class Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self.peaks: dict[str, float] = {"start": _peak_rss_mb()}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = round(now - self._last, 2)
        self.peaks[name] = _peak_rss_mb()
        self._last = now


def _peak_rss_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10), 1)
