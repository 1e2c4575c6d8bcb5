"""What an export reports: sizes, seconds, memory, and every number of the gate."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from edgetam_pl.exporting.documents import render
from edgetam_pl.exporting.gate.comparing_tracker import FrameRow
from edgetam_pl.exporting.gate.witnesses import Witnesses
from edgetam_pl.exporting.manifest import NOT_ON_APPLE
from edgetam_pl.io.environment import peak_memory_bytes


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
    """Largest resident memory of the process up to the end of each step, in MiB."""
    failures: list[str]
    worst: dict[str, dict[str, Any]]
    """Of each part and quantity, the number nearest to its bound."""
    processor_seconds: dict[str, float] = field(default_factory=dict)
    """Of the processor, which other programs do not lengthen as they do the clock's; all threads together."""
    frames: list[FrameRow] = field(default_factory=list)
    witnesses: Witnesses = field(default_factory=Witnesses)
    """Other runtimes on the same model, where the export was asked for them."""
    estimate: dict[str, Any] = field(default_factory=dict)
    executed: str = ""
    """By what, for the gate, and what of the packages was not (`Backend.executed`)."""
    apple_hardware: str = NOT_ON_APPLE

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes by file; a file that holds several programs is counted once."""
        return {row.file: row.bytes for row in self.packages}

    def table(self, device: str = "phone") -> str:
        """The report as text. `device` is what the packages were not run on (`Backend.device`)."""
        return render("report.txt.jinja", report=self, device=device).rstrip()


class Clock:
    """Seconds, of the clock and of the processor, and peak memory of each step."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self.peaks: dict[str, float] = {"start": _peak_mib()}
        self.processor: dict[str, float] = {}
        self._last, self._spent = time.perf_counter(), time.process_time()

    def lap(self, name: str) -> None:
        """A step of that name has ended; the next one begins."""
        now, spent = time.perf_counter(), time.process_time()
        self.laps[name], self.peaks[name] = round(now - self._last, 2), _peak_mib()
        self.processor[name] = round(spent - self._spent, 2)
        self._last, self._spent = now, spent


def _peak_mib() -> float:
    return round(peak_memory_bytes() / (1 << 20), 1)
