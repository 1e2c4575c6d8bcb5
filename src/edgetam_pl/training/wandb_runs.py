"""A training's run in W&B: one id over resumes and phases, offline unless asked otherwise, and never a reason to stop.

Everything that goes to W&B is also on disk (curves.jsonl, panels/, validation/), so a server that is away, a full disk or a
refused upload costs pictures on a web page and nothing else: it is printed once, and the training goes on.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

import edgetam_pl
from edgetam_pl.config import TrainConfig
from edgetam_pl.io.environment import versions
from edgetam_pl.training.best import WEIGHTS
from edgetam_pl.training.curves import STEP, read_lines
from edgetam_pl.training.export_at_end import PACKAGES
from edgetam_pl.training.record import RECORD, Record, is_rank_zero, record_of
from edgetam_pl.training.tensorboard import tensorboard_logger
from edgetam_pl.training.wandb_service import out_of_reach

EMPTY = 7
"""Bytes of an offline piece that holds nothing."""
KEPT = 1000
"""So many of the last lines are logged again when W&B's service was ended: more than it holds back before it writes them."""


def make_logger(cfg: TrainConfig, out: Path) -> Logger | None:
    """The logger of the whole run; W&B continues the run id recorded in run.json and is offline by default."""
    record = run_record(cfg, out)
    if cfg.logger.kind == "tensorboard":
        return tensorboard_logger(out)
    if cfg.logger.kind != "wandb" or mode() == "disabled":
        return None
    with suppress_wandb_errors("the run"):
        logger = ForgivingLogger(
            project=cfg.logger.project,
            save_dir=str(out),
            id=record["run_id"],
            resume="allow",
            offline=mode() == "offline",
            config={**asdict(cfg), "git": record["git"]},
            name=out.name,
            group=cfg.logger.group or record["pipeline"],
            job_type=cfg.stage.name,
            tags=tags_of(cfg),
            save_code=False,
        )
        logger.begin()  # on rank 0, where a failure can still be helped
        return logger
    return None


class ForgivingLogger(WandbLogger):
    """Lightning's, whose errors are printed once and never end a training. W&B's own step is the step of the whole run, so
    that the pieces of a resumed run fit together and a line that is logged twice is one.

    A cluster sends its signals to every process of a job; W&B's service does not hear them (`wandb_service`). Should it be
    gone all the same, it has taken with it what it had not written; it is started again and given the last lines once more.
    """

    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        self._step = 0
        self._last: deque[tuple[dict[str, float], int]] = deque(maxlen=KEPT)

    def begin(self) -> None:
        """Begin the run, or another piece of it; everything is drawn against the step of the whole run."""
        with out_of_reach():
            self.experiment.define_metric(STEP)
        self.experiment.define_metric("*", step_metric=STEP)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        line = {**metrics, "trainer/global_step": step}
        self._step = int(metrics.get(STEP, self._step))
        with suppress_wandb_errors("a line of the curves"):
            self._with_service(lambda: self.experiment.log(line, step=self._step))
        self._last.append(({k: v for k, v in line.items() if isinstance(v, int | float)}, self._step))

    def log_image(self, key: str, images: list[Any], step: int | None = None, **named: Any) -> None:
        with suppress_wandb_errors(key):
            super().log_image(key, images, step, **named)

    def finish(self) -> None:
        """End the run, or the next training of this process would log into it. The service ends as well, so that a piece is
        on the disk as soon as this returns."""
        import wandb

        with suppress_wandb_errors("the end of the run"):
            self._with_service(wandb.finish)
            wandb.teardown()

    def _with_service(self, action: Callable[[], object]) -> None:
        """Do something that needs the service; where it is gone, start it again, log the last lines, and do it then."""
        try:
            action()
        except ConnectionError:
            import wandb

            with suppress(ConnectionError):
                wandb.teardown()
            lost = self.experiment
            wandb.run = self._experiment = None  # or Lightning would take the run whose service is gone
            piece = Path(lost.settings.sync_file)
            if piece.is_file() and piece.stat().st_size <= EMPTY:
                shutil.rmtree(piece.parent)  # `wandb sync` would stumble over it
            self.begin()
            for line, step in self._last:
                self.experiment.log(line, step=step)
            print(f"W&B: its service was ended from outside; the last {len(self._last)} lines are logged again.", flush=True)
            action()


def finish(logger: Logger | None) -> None:
    """End the run that a training logged to."""
    if isinstance(logger, ForgivingLogger):
        logger.finish()


def mode() -> str:
    """online, offline or disabled: what WANDB_MODE and WANDB_DISABLED say, offline where they say nothing.

    Raises:
        ValueError: WANDB_MODE is another word.
    """
    if os.environ.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes", "on"):
        return "disabled"
    said = os.environ.get("WANDB_MODE") or "offline"
    known = {"run": "online", "dryrun": "offline", "shared": "online"}  # W&B's own older words
    if (chosen := known.get(said, said)) not in ("online", "offline", "disabled"):
        raise ValueError(f"WANDB_MODE={said} is unknown; use online, offline or disabled.")
    return chosen


def run_record(cfg: TrainConfig, out: Path) -> dict[str, Any]:
    """run.json: written once, by rank 0, and read on every resume, so that a run keeps its identity. Other ranks do not read
    it: rank 0 may be mending it.

    The id is the one that W&B's agent chose, where there is one.

    Raises:
        ValueError: what lies there is no record.
    """
    if not is_rank_zero():
        return {"run_id": "", "pipeline": "", "git": {}}
    if found := record_of(out):
        return {"git": {}, **found, "pipeline": found.get("pipeline") or pipeline_of(cfg, out.name)}
    run_id = os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)
    record = {
        "run_id": run_id,
        "pipeline": pipeline_of(cfg, f"{out.name}-{run_id}"),
        **versions(),
        "git": git_state(),
        "command": sys.argv[1:],
        "config": asdict(cfg),
    }
    Record(record).write(out / RECORD)
    return record


def pipeline_of(cfg: TrainConfig, own: str) -> str:
    """The pipeline of the run whose weights this one starts from, so that all stages of one carry one name; else `own`."""
    before = Path(cfg.weights).parent if cfg.weights else None
    try:
        record = {} if before is None else record_of(before)
    except ValueError as error:  # only a name of a group is lost
        print(f"{error} This run is not grouped with that one.", flush=True)
        return own
    return str(record.get("pipeline") or f"{before.name}-{record['run_id']}") if before and record else own


def tags_of(cfg: TrainConfig) -> list[str]:
    """What a run is found by on W&B: model, stage, teacher or none, data. W&B's tags have at most 64 letters."""
    teacher = "no teacher" if cfg.teacher is None else f"taught by {cfg.teacher.name}"
    words = [cfg.model.name, cfg.stage.name, teacher, *(source.name for source in cfg.data.sources)]
    return [word[:64] for word in dict.fromkeys(words)]


def note(out: Path, **facts: Any) -> None:
    """Print facts of a run, and keep them in its run.json. On rank 0."""
    print("\n".join(str(value) for value in facts.values()))
    Record({**record_of(out), **facts}).write(out / RECORD)


def git_state() -> dict[str, Any]:
    """Commit of the code, and whether files differ from it; empty where it does not come from a repository."""
    here = Path(edgetam_pl.__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.rstrip()

    try:
        changed = [line[3:] for line in git("status", "--porcelain", "--untracked-files=no").splitlines()]
        return {"commit": git("rev-parse", "HEAD"), "branch": git("rev-parse", "--abbrev-ref", "HEAD"), "changed": changed}
    except (OSError, subprocess.SubprocessError):
        return {}


_PRINTED: set[str] = set()


@contextmanager
def suppress_wandb_errors(what: str) -> Iterator[None]:
    """W&B's errors (a server, a disk, a package that is not there) are printed, each once, not raised."""
    try:
        yield
    except Exception as error:
        ours = isinstance(error, OSError | ModuleNotFoundError) or type(error).__module__.partition(".")[0] == "wandb"
        if not ours:
            raise
        message = f"W&B: {what} was not logged ({type(error).__name__}: {error}); the run goes on."
        if message not in _PRINTED:
            print(message, flush=True)
        _PRINTED.add(message)


def add_summary(cfg: TrainConfig, values: Mapping[str, float]) -> None:
    """Put a finished trial's numbers into the run of its training: the summary that sweeps and panels read."""
    if mode() == "disabled":
        return
    record = run_record(cfg, Path(cfg.out))
    with suppress_wandb_errors("the trial's result"):
        import wandb

        run = wandb.init(
            project=cfg.logger.project,
            dir=cfg.out,
            id=record["run_id"],
            resume="allow",
            mode="online" if mode() == "online" else "offline",
            name=Path(cfg.out).name,
        )
        lines = read_lines(Path(cfg.out) / "curves.jsonl")
        run.log(dict(values), step=int(lines[-1][STEP]) + 1 if lines else None)  # after the training's own steps
        run.summary.update(dict(values))
        run.finish()


def keep_artifacts(cfg: TrainConfig, logger: Logger | None) -> None:
    """The final weights, and exported packages where there are some, as artifacts of the run (logger.artifacts=true)."""
    if not cfg.logger.artifacts or not isinstance(logger, WandbLogger) or rank_zero_only.rank != 0:  # type: ignore[attr-defined]
        return
    out = Path(cfg.out)
    kinds = {"model": out / WEIGHTS, "packages": out / PACKAGES}
    for kind, path in kinds.items():
        if not path.exists():
            continue
        with suppress_wandb_errors(f"the artifact {path.name}"):
            import wandb

            artifact = wandb.Artifact(f"{cfg.model.name}-{kind}", type=kind, metadata={"config": asdict(cfg)})
            if path.is_dir():
                artifact.add_dir(str(path))
            else:
                artifact.add_file(str(path))
            logger.experiment.log_artifact(artifact)
