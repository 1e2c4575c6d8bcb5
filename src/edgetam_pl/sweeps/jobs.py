"""Where a trial runs: a process of this machine, or a job of a cluster through submitit. Both write the trial's log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from edgetam_pl.io.processes import LAUNCHER
from edgetam_pl.io.stop import TRY_AGAIN, handled

LOG = "log.txt"
"""In the trial's folder: everything it printed."""

TRIAL = (sys.executable, "-m", "edgetam_pl.commands.main", "trial")


class LocalJob(subprocess.Popen[bytes]):
    """A process with a group of its own, so that a Ctrl-C for the runner does not reach it twice."""

    def terminate(self) -> None:
        """Ask it to save and end."""
        if self.poll() is None:
            os.killpg(self.pid, signal.SIGTERM)


class Local:
    """Starts trials as processes of this machine."""

    def __init__(self, command: tuple[str, ...] = TRIAL, environment: dict[str, str] | None = None) -> None:
        self.command, self.environment = command, environment or {}

    def start(self, words: tuple[str, ...], out: Path) -> LocalJob:
        out.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, **self.environment}  # of the machine that starts it, be it a node of a cluster
        environment[LAUNCHER] = str(os.getpid())  # a trial without its runner would hold the devices of the next ones
        with (out / LOG).open("ab") as log:
            return LocalJob([*self.command, *words], stdout=log, stderr=log, env=environment, start_new_session=True)


class SubmittedJob:
    """A job of submitit. One that was lost (a node died) counts as failed and can be started again."""

    def __init__(self, job: Any) -> None:
        self.job = job

    def poll(self) -> int | None:
        """Exit status, or None while it runs."""
        if not self.job.done():
            return None
        if self.job.exception() is None:
            return int(self.job.result())
        taken_away = str(self.job.state).startswith(("PREEMPTED", "REQUEUED", "TIMEOUT"))
        return TRY_AGAIN if taken_away else 1

    def terminate(self) -> None:
        self.job.cancel()


class Submitit:
    """Jobs of a cluster: one a trial. `settings` are submitit's (slurm_partition, timeout_min, gpus_per_node ...)."""

    def __init__(self, folder: Path, settings: dict[str, Any], local: Local, *, cluster: str | None = None) -> None:
        import submitit

        self.executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        self.executor.update_parameters(**settings)
        self.local = local
        """What a job runs on its machine."""

    def start(self, words: tuple[str, ...], out: Path) -> SubmittedJob:
        return SubmittedJob(self.executor.submit(run_to_end, self.local, words, out))


Job = LocalJob | SubmittedJob
Launcher = Local | Submitit


def run_to_end(local: Local, words: tuple[str, ...], out: Path) -> int:
    """Run a trial on the machine where this is called; its exit status. The cluster's signals are passed on to it. One that
    ends by them was stopped, even where a second one (SLURM tells every process) met it after its own handlers."""
    told: list[int] = []
    job: LocalJob | None = None

    def stop(number: int) -> None:
        told.append(number)
        if job is not None:
            job.terminate()

    with handled(stop):
        job = local.start(words, out)
        if told:
            job.terminate()
        status = job.wait()
    return TRY_AGAIN if told and status == -signal.SIGTERM else status


def cause_of(out: Path, status: int) -> str:
    """Why a trial ended: the last line it wrote, and the signal where one killed it."""
    lines = (out / LOG).read_text(errors="replace").splitlines() if (out / LOG).is_file() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")
    if status < 0:
        return f"killed by {signal.Signals(-status).name}; last words: {last}"
    return f"status {status}: {last}"
