"""A training in processes of its own that is killed at chosen moments, and what is left of it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from edgetam_pl.training.curves import read_lines

MARK = "EDGETAM_TEST_RUN"
"""In the environment of every process of a run, so that those that nobody waits for are found too."""
PATIENCE = 1200.0
"""Seconds after which a run hangs. A machine may be busy."""
LEFT = 10.0
"""Seconds after a kill in which every process of a run has to be gone, on a machine with a core for each of them. A crowded
one takes longer to do the same; a process that is left behind never goes."""


@dataclass
class Kill:
    """What is done to a run, and when."""

    number: signal.Signals
    moment: str
    """startup | training | checkpoint | boundary | export."""
    whom: str
    """launcher | rank | everybody: every process of the run, as SLURM does it."""
    later: float
    """Seconds after the moment."""

    @staticmethod
    def drawn(rng: random.Random) -> Kill:
        return Kill(
            rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1]),
            rng.choice(["startup", "training", "training", "checkpoint", "boundary", "export"]),
            rng.choice(["launcher", "rank"]),
            rng.uniform(0, 1.5) if rng.random() < 0.5 else 0.0,
        )


@dataclass
class Run:
    """One start of `edgetam train` with these words, on two ranks that Lightning or torchrun starts."""

    words: list[str]
    out: Path
    by: str
    """lightning | torchrun."""
    program: tuple[str, ...] = ("-m", "edgetam_pl.commands.main")
    """What python runs."""
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        train = [*self.program, "train", *self.words, f"out={self.out}"]
        ranks = ["-m", "edgetam_pl.training.torchrun", "--standalone", "--nproc-per-node=2"]
        command = [sys.executable, *(ranks if self.by == "torchrun" else []), *train]
        environment = {**os.environ, MARK: self.mark, "OMP_NUM_THREADS": "1", "WANDB_SILENT": "true"}
        self.log = self.out.with_name(f"{self.out.name}.log")
        self.lines = self._lines()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    def end(self) -> int:
        return self.process.wait(timeout=PATIENCE)

    def suffer(self, kill: Kill) -> int | None:
        """Kill at the moment and wait for the end: the exit status, or None where the run ended before the moment."""
        if not self._until(kill):
            return None
        time.sleep(kill.later)
        # a process that has not come to its first line yet cannot answer; it is waited for, as it is not what is tested
        while (target := self._target(kill)) is not None and not _hears(target):
            time.sleep(0.05)
        if target is None:
            return None
        targets = [*self._processes()] if kill.whom == "everybody" else [target]
        try:
            for process in targets:
                os.kill(process, kill.number)
        except ProcessLookupError:
            return None
        return self.end()

    def left(self) -> list[str]:
        """Processes of this run that are still there when they should be gone."""
        crowded = max(1.0, 2 * os.getloadavg()[0] / (os.cpu_count() or 1))
        end = time.monotonic() + LEFT * crowded
        while (found := self._processes()) and time.monotonic() < end:
            time.sleep(0.2)
        return [f"{pid}: {line}" for pid, line in found.items()]

    def _until(self, kill: Kill) -> bool:
        """Wait for the moment; False where the run ended first."""
        folder, end = self.out / "checkpoints", time.monotonic() + PATIENCE
        done = {path.name for path in folder.glob("*-done.ckpt")}
        while self.process.poll() is None and time.monotonic() < end:
            drafts = _drafts(folder, "*")
            if (
                kill.moment == "startup"
                or (kill.moment == "training" and self._lines() > self.lines)
                or (kill.moment == "checkpoint" and drafts)
                or (kill.moment == "export" and _drafts(self.out, "packages"))
                or (kill.moment == "boundary" and {path.name for path in folder.glob("*-done.ckpt")} - done)
            ):
                return True
            time.sleep(0.002)
        return False

    def _lines(self) -> int:
        return len(read_lines(self.out / "curves.jsonl"))

    def _target(self, kill: Kill) -> int | None:
        """The process to kill: the launcher; or a rank that it started, once there is one. Rank 0 exports alone, and it is
        Lightning's launcher."""
        while self.process.poll() is None:
            if kill.whom != "rank" or (kill.moment == "export" and self.by == "lightning"):
                return self.process.pid
            ranks = [pid for pid, line in self._processes().items() if " train " in line]
            if ranks := sorted(pid for pid in ranks if pid != self.process.pid):
                return ranks[-1]
            time.sleep(0.02)
        return None

    def _processes(self) -> dict[int, str]:
        """Every process of this run that is alive, by its number: its command line."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if f"{MARK}={self.mark}".encode() not in (folder / "environ").read_bytes():
                    continue
                if (line := (folder / "cmdline").read_bytes()) and "\nState:\tZ" not in (folder / "status").read_text():
                    found[int(folder.name)] = line.replace(b"\0", b" ").decode()
            except OSError:
                continue  # it has just ended
        return found


def _hears(pid: int) -> bool:
    """Has this process a handler for SIGTERM?"""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True  # it is gone; the kill will find out
    caught = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")), 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def _drafts(folder: Path, name: str) -> bool:
    """Is a draft of that name in the folder? It may vanish while it is looked for."""
    try:
        return any(folder.glob(f".partial.*/{name}"))
    except FileNotFoundError:
        return False
