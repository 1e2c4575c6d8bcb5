"""`--processor-times=N`: the N files and the N tests that use most of the processor, with the processes that they start.

Unlike the clock (`--durations`), it says the same on a machine that is busy with something else.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

TICK = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def used() -> float:
    """Seconds, user and system, of this process, the children that it waited for, and those that still run (on Linux)."""
    mine = os.times()
    return mine.user + mine.system + mine.children_user + mine.children_system + sum(map(_alive, _children("self")))


def _children(process: str) -> list[str]:
    """The processes that the main thread of `process` started."""
    task = Path("/proc", process, "task", str(os.getpid()) if process == "self" else process)
    try:
        return (task / "children").read_text().split()
    except OSError:  # it has just ended, or this is not Linux
        return []


def _alive(process: str) -> float:
    try:
        fields = Path("/proc", process, "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / TICK + sum(map(_alive, _children(process)))


class ProcessorTimes:
    """Measures in the process that runs the tests, and adds up in the one that reports them (xdist has several)."""

    def __init__(self, config: pytest.Config) -> None:
        self.count, self.last = config.getoption("--processor-times"), 0.0
        self.tests: Counter[str] = Counter()
        self.whole = 0.0  # of the workers

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self) -> None:
        self.last = used()

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self) -> Iterator[None]:
        """Once each for a test's set-up, its call and its end."""
        outcome = yield
        now = used()
        outcome.get_result().processor, self.last = now - self.last, now  # type: ignore[attr-defined]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.tests[report.nodeid] += report.processor  # type: ignore[attr-defined]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["processor"] = used()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: object) -> None:
        self.whole += getattr(node, "workeroutput", {}).get("processor", 0.0)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        files: Counter[str] = Counter()
        for name, seconds in self.tests.items():
            files[name.partition("::")[0]] += seconds
        whole = self.whole or used()
        inside = sum(files.values())
        terminalreporter.section(f"processor seconds: {whole:.1f}, of which {whole - inside:.1f} outside of the tests")
        for table in (files, self.tests):
            for name, seconds in table.most_common(self.count):
                terminalreporter.write_line(f"{seconds:8.1f}  {name}")
            terminalreporter.write_line("")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--processor-times", type=int, default=0, metavar="N",
        help="the N files and the N tests that use most of the processor, with the processes that they start",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--processor-times"):
        config.pluginmanager.register(ProcessorTimes(config))
