"""Where a trial runs: a process of this machine, or a job of a cluster through submitit. Both write the trial's log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Protocol

LOG = "log.txt"
"""In the trial's folder: everything it printed."""

TRIAL = (sys.executable, "-m", "edgetam_pl.commands.main", "trial")


class Job(Protocol):
    """A trial that has been started."""

    def status(self) -> int | None:
        """Exit status, or None while it runs."""
        ...

    def stop(self) -> None:
        """PromptFn it to save and end."""
        ...


class Launcher(Protocol):
    """Starts trials."""

    def start(self, words: tuple[str, ...], out: Path) -> Job: ...


class LocalJob:
    """A process with its own group, so that a Ctrl-C for the runner does not reach it twice."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def status(self) -> int | None:
        return self.process.poll()

    def stop(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)


class Local:
    """Processes of this machine."""

    def __init__(self, command: tuple[str, ...] = TRIAL, environment: dict[str, str] | None = None) -> None:
        self.command = command
        self.environment = {**os.environ, **(environment or {})}

    def start(self, words: tuple[str, ...], out: Path) -> LocalJob:
        out.mkdir(parents=True, exist_ok=True)
        with (out / LOG).open("ab") as log:
            return LocalJob(
                subprocess.Popen(
                    [*self.command, *words], stdout=log, stderr=log, env=self.environment, start_new_session=True
                )
            )


class SubmittedJob:
    """A job of submitit. One that was lost (a node died, the time was up) counts as failed and can be started again."""

    def __init__(self, job: Any) -> None:
        self.job = job

    def status(self) -> int | None:
        if not self.job.done():
            return None
        return 1 if self.job.exception() is not None else int(self.job.result())

    def stop(self) -> None:
        self.job.cancel()


class Submitit:
    """Jobs of a cluster: one a trial. `settings` are submitit's (slurm_partition, timeout_min, gpus_per_node ...)."""

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any],
        *,
        cluster: str | None = None,
        command: tuple[str, ...] = TRIAL,
        environment: dict[str, str] | None = None,
    ) -> None:
        import submitit

        self.executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        self.executor.update_parameters(**settings)
        self.command, self.environment = command, environment or {}

    def start(self, words: tuple[str, ...], out: Path) -> SubmittedJob:
        return SubmittedJob(self.executor.submit(call, self.command, words, out, self.environment))


def call(command: tuple[str, ...], words: tuple[str, ...], out: Path, environment: dict[str, str]) -> int:
    """Run a trial to its end on the machine where this is called; its exit status."""
    return Local(command, environment).start(words, out).process.wait()


def cause_of(out: Path, status: int) -> str:
    """Why a trial ended: the last line it wrote, and the signal where one killed it."""
    lines = (out / LOG).read_text(errors="replace").splitlines() if (out / LOG).is_file() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")
    if status < 0:
        return f"killed by {signal.Signals(-status).name}; last words: {last}"
    return f"status {status}: {last}"
