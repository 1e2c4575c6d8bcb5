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
import os
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import OmegaConf

from edgetam_pl.config.choices import Flags
from edgetam_pl.io.atomic import write_json, write_text
from edgetam_pl.io.stop import TRY_AGAIN, handled
from edgetam_pl.sweeps import trial
from edgetam_pl.sweeps.hyperband import should_stop
from edgetam_pl.sweeps.jobs import Job, Launcher, Local, Submitit, cause_of
from edgetam_pl.sweeps.outcomes import Outcome, outcome_in, read_outcomes
from edgetam_pl.sweeps.report import write_report
from edgetam_pl.sweeps.samplers import proposals
from edgetam_pl.sweeps.sweep_config import Point, Sweep, read_sweep
from edgetam_pl.sweeps.trial import FAILURE, WORDS, Plan


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
    running: dict[Point, Job] = field(default_factory=dict)
    stopping_early: set[Point] = field(default_factory=set)
    """Running trials that early stopping has asked to end."""
    interrupted: bool = False
    """A signal has asked the runner to end."""

    def run(self) -> list[Outcome]:
        """Run what is not finished; outcomes of all trials, in order.

        Raises:
            KeyboardInterrupt: a signal asked for it; the trials have saved and ended.
        """
        points: Iterator[Point] | None = proposals(self.sweep, lambda: read_outcomes(self.out))
        with handled(self._interrupt):
            while points or self.running:
                # a point is asked for only when there is room for it: what is known by then may change it
                while points and len(self.running) < self.jobs and not self.interrupted:
                    if point := next(points, None):
                        self._start(point)
                    else:
                        points = None
                for point, job in list(self.running.items()):
                    self._check(point, job)
                if self.interrupted and not self.running:
                    raise KeyboardInterrupt
                time.sleep(self.poll if self.running else 0)
        return read_outcomes(self.out)

    def folder(self, point: Point) -> Path:
        return self.out / "trials" / point.name

    def _start(self, point: Point) -> None:
        """Start a trial, unless it is done, or the disk is full: then it alone fails."""
        folder = self.folder(point)
        status = outcome_in(folder).status
        if status in ("finished", "stopped") or (status == "failed" and not self.again):
            self._log(point, "done before")
            return
        words = (*point.words, f"out={folder}")
        try:
            trial.require_free_space(self.out, self.min_free_gb)
            write_json(folder / WORDS, words)
            (folder / FAILURE).unlink(missing_ok=True)
            self.running[point] = self.launcher.start(words, folder)
            self._log(point, "started")
        except (OSError, ValueError) as error:
            self._record(point, "failed", str(error))

    def _check(self, point: Point, job: Job) -> None:
        """Take in a trial that has ended; stop one that early stopping gives up."""
        status, folder = job.poll(), self.folder(point)
        if status is None:
            if point not in self.stopping_early and should_stop(self.sweep, self.out, folder):
                self._log(point, "is behind the others: stopped early")
                self.stopping_early.add(point)
                job.terminate()
            return
        del self.running[point]
        left = outcome_in(folder)
        if left.status == "finished":
            self._log(point, "finished")
        elif point in self.stopping_early:
            self._record(point, "stopped", "stopped early: behind the others")
        elif status == TRY_AGAIN or self.interrupted:
            self._record(point, "interrupted", "interrupted by a signal; it continues when the sweep does")
        elif left.cause:  # the trial has written it itself
            self._log(point, f"failed: {left.cause}")
        else:
            self._record(point, "failed", cause_of(folder, status))

    def _record(self, point: Point, status: str, cause: str) -> None:
        self._log(point, f"{status}: {cause}")
        try:
            trial.record_failure(self.folder(point), (*point.words, f"out={self.folder(point)}"), status, cause)
        except OSError as error:  # no room even for that: the sweep goes on, the next start tries this trial again
            self._log(point, f"{status}, and not recorded: {error}")

    def _log(self, point: Point, what: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {point.name}: {what}", flush=True)

    def _interrupt(self, number: int) -> None:
        """On a signal every running trial saves and ends, then the runner."""
        self.interrupted = True
        for job in self.running.values():
            job.terminate()


def check(sweep: Sweep) -> list[Plan]:
    """Check the whole space before the first trial: the plans of all points, or of each value where there are many.

    Raises:
        ValueError: points that describe no trial, each with its reason.
    """
    problems: dict[str, str] = {}
    plans: list[Plan] = []
    for point in sweep.validation_points():
        try:
            plans.append(trial.plan(point.words))
        except ValueError as error:
            problems[", ".join(f"{key}={value}" for key, value in point.values.items())] = str(error)
    if sweep.stop is not None and not all(planned.train.validation.every for planned in plans):
        raise ValueError("early_terminate watches validations; set validation.every and validation.root in the command.")
    if problems:
        listed = "\n".join(f"  {values}: {reason}" for values, reason in list(problems.items())[:8])
        raise ValueError(
            f"{len(problems)} of {len(problems) + len(plans)} points are no trials; nothing was started.\n{listed}"
        )
    return plans


def check_needs(plans: list[Plan]) -> None:
    """Refuse a sweep whose trials would not find what they read: checkpoints, shards, data sets. Each is looked at once.

    Raises:
        ValueError: naming the key and the file or folder.
    """
    from edgetam_pl.evaluation.datasets import open_data
    from edgetam_pl.training.check import check_data

    seen: set[str] = set()
    for planned in plans:
        cfg, scored = planned.train, planned.evaluate
        files = cfg.weights, cfg.trunk_weights, cfg.teacher_weights
        needs = repr((files, cfg.data, cfg.stage.phases, cfg.model.image_size))
        if needs not in seen:
            check_data(cfg)
        sets = {(scored.dataset, scored.root)} | ({("folder", cfg.validation.root)} if cfg.validation.every else set())
        for dataset, root in sets:
            if repr((dataset, root)) not in seen:
                open_data(dataset, root, split=scored.split if dataset == scored.dataset else None)
        seen |= {needs, *(repr(one) for one in sets)}


def main(argv: list[str]) -> int:
    """`edgetam sweep`: 0 when every trial finished or was stopped early, 1 when some failed, 75 when it, or
    trials of it and no more, were interrupted: the same command continues them."""
    args = arguments(argv)
    sweep = read_sweep(args.file, args.words)
    print(f"{sweep.name}: {sweep.method} over {', '.join(sweep.space)}", flush=True)
    plans = check(sweep)
    print(f"{len(plans)} points are legal", flush=True)
    if args.dry_run:
        for point in sweep.validation_points():
            print(shlex.join(["edgetam", "trial", *point.words]))
        return 0
    if args.server:
        from edgetam_pl.training.wandb_sweeps import serve

        return serve(sweep.raw, agents=args.jobs, count=args.count)
    check_needs(plans)
    out = args.out or Path("runs/sweeps") / sweep.name
    with own_folder(sweep, out):
        least = plans[0].trial.min_free_gb
        trial.require_free_space(out, least)
        launcher = _launcher(args, sweep, out)
        runner = Runner(sweep, out, launcher, jobs=args.jobs, again=args.again, poll=args.poll, min_free_gb=least)
        try:
            outcomes = runner.run()
        except KeyboardInterrupt:
            print("Interrupted: every trial has saved. The same command continues.", flush=True)
            return TRY_AGAIN
        print(write_report(out).read_text())
    statuses = {outcome.status for outcome in outcomes} - {"finished", "stopped"}
    return 0 if not statuses else TRY_AGAIN if statuses == {"interrupted"} else 1


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = Flags(
        prog="edgetam sweep",
        description="Run the trials of a W&B sweep file here, without a server (--server: with one). The same command "
        "continues what was interrupted.",
    )
    parser.add_argument("file", type=Path, help="for example experiments/sweeps/latents.yaml: yours, or ours")
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
def own_folder(sweep: Sweep, out: Path) -> Iterator[None]:
    """Hold the sweep's folder, and its file: two runners, or two sweeps, in one folder are refused.

    Raises:
        ValueError: the folder is in use, or holds trials of other words.
    """
    kept = out / "sweep.yaml"
    before = OmegaConf.to_container(OmegaConf.load(kept), resolve=False) if kept.is_file() else {}
    assert isinstance(before, dict)
    for key in ("command", "metric"):
        if before and before.get(key) != sweep.raw.get(key):
            raise ValueError(f"{out} holds a sweep with another {key}: {before.get(key)}. Give --out another folder.")
    with trial.folder_lock(out, wait=False):
        write_text(kept, OmegaConf.to_yaml(OmegaConf.create(dict(sweep.raw))))
        yield


def _launcher(args: argparse.Namespace, sweep: Sweep, out: Path) -> Launcher:
    os.environ.setdefault("WANDB_SILENT", "true")
    local = Local(environment={"WANDB_RUN_GROUP": sweep.name})  # so that W&B shows the trials together once they are synced
    if args.launcher == "local":
        return local
    settings = OmegaConf.to_container(OmegaConf.from_dotlist(args.set))
    assert isinstance(settings, dict)
    return Submitit(out / "jobs", {str(key): value for key, value in settings.items()}, local, cluster=args.cluster)
