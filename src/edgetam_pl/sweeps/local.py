"""`edgetam sweep FILE`: a sweep without a server. The space is checked, then trials run, a few at a time.

runs/sweeps/NAME/
  sweep.yaml                  the file, with the words that were added
  trials/<values>-<hash>/     one folder a trial: log.txt, training, evaluation, trial.json or failure.json
  report.md, trials.csv, *.png

The runner keeps nothing in memory that is not in these folders. Killed and started again it skips what is finished, and an
unfinished trial continues where its training stopped.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shlex
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from omegaconf import OmegaConf

from edgetam_pl.evaluation.reporting.report import write_whole
from edgetam_pl.sweeps.hyperband import should_stop
from edgetam_pl.sweeps.jobs import Job, Launcher, Local, Submitit, cause_of
from edgetam_pl.sweeps.report import Outcome, read_outcomes, write_report
from edgetam_pl.sweeps.samplers import proposals
from edgetam_pl.sweeps.sweep_config import Point, Sweep, read_sweep
from edgetam_pl.sweeps.trial import FAILURE, RECORD, WORDS, Plan, plan, record_failure, require_free_space

TOLD_TO_STOP = 75
"""Exit status of a training, and of this runner, that saved because it was told to stop: the same command continues."""


@dataclass
class Runner:
    """A sweep that is being run."""

    sweep: Sweep
    out: Path
    launcher: Launcher
    jobs: int = 1
    again: bool = False
    """Try failed trials once more."""
    poll: float = 1.0
    """Seconds between looks."""
    min_free_gb: float = 0.5
    """Space without which no trial is started, in 10^9 bytes."""
    running: dict[str, tuple[Point, Job]] = field(default_factory=dict)
    stopping: set[str] = field(default_factory=set)
    """Trials that were asked to end early."""
    told: bool = False

    def run(self) -> list[Outcome]:
        """Run what is not finished; outcomes of all trials, in order.

        Raises:
            KeyboardInterrupt: told to stop; the trials have saved and ended.
        """
        points = proposals(self.sweep, lambda: read_outcomes(self.out))
        more = True
        with self._hearing():
            while more or self.running:
                while more and len(self.running) < self.jobs and not self.told:
                    point = next(points, None)  # not before there is room: what is known by then may change it
                    more = point is not None
                    if point is not None:
                        self._start(point)
                self._look()
                if self.told and not self.running:
                    raise KeyboardInterrupt
                time.sleep(self.poll if self.running else 0)
        return read_outcomes(self.out)

    def folder(self, point: Point) -> Path:
        return self.out / "trials" / point.name

    def _start(self, point: Point) -> None:
        """Start a trial, unless it is done, or the disk is full: then it alone fails."""
        folder = self.folder(point)
        if (folder / RECORD).is_file() or ((folder / FAILURE).is_file() and not self._worth_another(folder)):
            self._say(point, "done before")
            return
        words = (*point.words, f"out={folder}")
        try:
            require_free_space(self.out, self.min_free_gb)
            write_whole(folder / WORDS, json.dumps(words).encode())
            (folder / FAILURE).unlink(missing_ok=True)
            self.running[point.name] = (point, self.launcher.start(words, folder))
            self._say(point, "started")
        except (OSError, ValueError) as error:
            self._fail(point, str(error))

    def _worth_another(self, folder: Path) -> bool:
        said = json.loads((folder / FAILURE).read_text())
        return said["status"] == "interrupted" or (self.again and said["status"] == "failed")

    def _look(self) -> None:
        """Take in what has ended; stop what is beaten."""
        for name, (point, job) in list(self.running.items()):
            status, folder = job.status(), self.folder(point)
            if status is None:
                if self.sweep.stop is not None and name not in self.stopping and should_stop(self.sweep, self.out, folder):
                    self._say(point, "is beaten by others: stopped early")
                    self.stopping.add(name)
                    job.stop()
                continue
            del self.running[name]
            if (folder / RECORD).is_file():
                self._say(point, "finished")
            elif name in self.stopping:
                self._record(point, "stopped", "stopped early: beaten by others")
            elif status == TOLD_TO_STOP or self.told:
                self._record(point, "interrupted", "told to stop; it continues when the sweep does")
            elif not (folder / FAILURE).is_file():
                self._fail(point, cause_of(folder, status))
            else:
                self._say(point, f"failed: {json.loads((folder / FAILURE).read_text())['cause']}")

    def _fail(self, point: Point, cause: str) -> None:
        self._say(point, f"failed: {cause}")
        self._record(point, "failed", cause)

    def _record(self, point: Point, status: str, cause: str) -> None:
        try:
            record_failure(self.folder(point), (*point.words, f"out={self.folder(point)}"), status, cause)
        except OSError as error:  # no room even for that: the sweep goes on, the next start tries this trial again
            self._say(point, f"{status}, and not recorded: {error}")

    def _say(self, point: Point, what: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {point.name}: {what}", flush=True)

    @contextmanager
    def _hearing(self) -> Iterator[None]:
        """A signal lets every running trial save and end, then the runner."""

        def hear(number: int, frame: FrameType | None) -> None:
            self.told = True
            for _, job in self.running.values():
                job.stop()

        before = {number: signal.signal(number, hear) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def check(sweep: Sweep) -> list[Plan]:
    """Check the whole space before the first trial: the plans of all points, or of telling ones where there are many.

    Raises:
        ValueError: points that describe no trial, each with its reason.
    """
    problems: dict[str, str] = {}
    plans: list[Plan] = []
    for point in sweep.validation_points():
        try:
            planned = plan(point.words)
        except ValueError as error:
            problems[", ".join(f"{key}={value}" for key, value in point.values.items())] = str(error)
            continue
        plans.append(planned)
        if sweep.stop is not None and not planned.train.validation.every:
            raise ValueError("early_terminate watches validations; set validation.every and validation.root in the command.")
    if problems:
        said = "\n".join(f"  {values}: {reason}" for values, reason in list(problems.items())[:8])
        raise ValueError(
            f"{len(problems)} of {len(problems) + len(plans)} points are no trials; nothing was started.\n{said}"
        )
    return plans


def main(argv: list[str]) -> int:
    """`edgetam sweep`: 0 when every trial finished or was stopped early, 1 when some did not, 75 when told to stop."""
    args = arguments(argv)
    sweep = read_sweep(args.file, args.words)
    print(f"{sweep.name}: {sweep.method} over {', '.join(p.key for p in sweep.parameters)}", flush=True)
    plans = check(sweep)
    print(f"{len(plans)} points are legal", flush=True)
    if args.dry_run:
        for point in sweep.validation_points():
            print(shlex.join(["edgetam", "trial", *point.words]))
        return 0
    if args.server:
        from edgetam_pl.training.wandb_sweeps import serve

        return serve(sweep.raw, agents=args.jobs, count=args.count)
    out = args.out or Path("runs/sweeps") / sweep.name
    with alone_with(sweep, out):
        least = plans[0].trial.min_free_gb
        require_free_space(out, least)
        launcher = _launcher(args, sweep, out)
        runner = Runner(sweep, out, launcher, jobs=args.jobs, again=args.again, poll=args.poll, min_free_gb=least)
        try:
            outcomes = runner.run()
        except KeyboardInterrupt:
            print("Told to stop: every trial has saved. The same command continues.", flush=True)
            return TOLD_TO_STOP
        print(write_report(out).read_text())
    return 0 if all(outcome.status in ("finished", "stopped") for outcome in outcomes) else 1


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="edgetam sweep",
        description="Run the trials of a W&B sweep file here, without a server (--server: with one). The same command "
        "continues what was interrupted.",
    )
    parser.add_argument("file", type=Path, help="for example experiments/sweeps/latents.yaml")
    parser.add_argument("words", nargs="*", help="more words for every trial, for example scale=small evaluate.root=...")
    parser.add_argument("--out", type=Path, help="folder (default: runs/sweeps/NAME)")
    parser.add_argument("--jobs", type=int, default=1, help="trials at a time; with --server, agents")
    parser.add_argument("--launcher", choices=("local", "submitit"), default="local", help="processes, or jobs of a cluster")
    parser.add_argument("--cluster", help="submitit's cluster: slurm, local, debug (default: what it finds)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of submitit")
    parser.add_argument("--again", action="store_true", help="try failed trials once more")
    parser.add_argument("--dry-run", action="store_true", help="check the space, print the commands, and stop")
    parser.add_argument("--server", action="store_true", help="create the sweep on W&B's server and start agents")
    parser.add_argument("--count", type=int, help="with --server: trials of each agent at most")
    parser.add_argument("--poll", type=float, default=1.0, help="seconds between looks at running trials")
    args = parser.parse_intermixed_args(argv)
    if args.jobs < 1:
        raise ValueError(f"--jobs is {args.jobs}; at least 1 is needed.")
    return args


@contextmanager
def alone_with(sweep: Sweep, out: Path) -> Iterator[None]:
    """Hold the sweep's folder, and its file: two runners, or two sweeps, in one folder are refused.

    Raises:
        ValueError: the folder is in use, or holds trials of other words.
    """
    out.mkdir(parents=True, exist_ok=True)
    kept = out / "sweep.yaml"
    if kept.is_file():
        before = OmegaConf.to_container(OmegaConf.load(kept), resolve=False)
        assert isinstance(before, dict)
        for key in ("command", "metric"):
            if before.get(key) != sweep.raw.get(key):
                raise ValueError(f"{out} holds a sweep with another {key}: {before.get(key)}. Give --out another folder.")
    with (out / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"{out} is being run by another process; wait for it, or give --out another folder.") from error
        write_whole(kept, OmegaConf.to_yaml(OmegaConf.create(dict(sweep.raw))).encode())
        yield


def _launcher(args: argparse.Namespace, sweep: Sweep, out: Path) -> Launcher:
    environment = {"WANDB_RUN_GROUP": sweep.name}  # so that W&B shows the trials together once they are synced
    os.environ.setdefault("WANDB_SILENT", "true")
    if args.launcher == "local":
        return Local(environment=environment)
    settings = OmegaConf.to_container(OmegaConf.from_dotlist(args.set))
    assert isinstance(settings, dict)
    named = {str(key): value for key, value in settings.items()}
    return Submitit(out / "jobs", named, cluster=args.cluster, environment=environment)
