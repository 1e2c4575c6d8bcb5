"""The folder of a run: whose it is, where it stands, and whether what is asked for now may go on from there.

Every start compares the configuration with what the newest whole checkpoint and run.json hold (`survey`, which writes
nothing); then rank 0, which holds the folder's lock, writes down what it begins (`Start.begin`).
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from edgetam_pl.config import TrainConfig
from edgetam_pl.inference import products
from edgetam_pl.io.hashing import sha256_of
from edgetam_pl.training import optim
from edgetam_pl.training.best import WEIGHTS
from edgetam_pl.training.checkpoints import Checkpoint, DamagedError, check_file, newest_whole
from edgetam_pl.training.identity import BEGINNING, MODEL_MAY_CHANGE, Change, Identity, in_words
from edgetam_pl.training.phases import Progress, progress_from
from edgetam_pl.training.record import RECORD, Record, is_rank_zero
from edgetam_pl.training.trainer import accelerator_of
from edgetam_pl.training.wandb_runs import run_record

LOCK = "run.lock"
OVERRIDE = "accept_changes=true"

DRAFT = re.compile(r"\.partial\..+|\..+\.ckpt\.\d+")
"""Names of what a killed writer of checkpoints leaves, in this version and in earlier ones."""


def say(text: str) -> None:
    """Print once a run, at once."""
    if is_rank_zero():
        print(text, flush=True)


@dataclass(frozen=True)
class Start:
    """What a start finds, and may go on with."""

    cfg: TrainConfig
    identity: Identity
    found: Checkpoint | None
    record: Record | None
    progress: Progress
    changes: tuple[Change, ...] = ()
    """Accepted now."""
    record_is_damaged: str = ""

    @property
    def out(self) -> Path:
        return Path(self.cfg.out)

    @property
    def finished(self) -> bool:
        """Is there nothing left to train?"""
        return self.progress.phase >= len(self.cfg.stage.phases)

    @property
    def run_id(self) -> str | None:
        if self.record is not None:
            return self.record.run_id
        return None if self.found is None else self.found.run_id

    def weights_are_whole(self) -> bool:
        """Is weights.pt the one that this finished run saved? One that is gone or damaged can be saved again.

        Raises:
            ValueError: it is another, whole file: whoever put it there may want it. Or nothing is left to save it from.
        """
        path, saved = self.out / WEIGHTS, None if self.record is None else self.record.weights_sha256
        if not os.path.lexists(path):
            return False
        try:
            check_file(path)
        except DamagedError as error:
            if self.found is None:
                raise ValueError(f"{path} is {error}, and no checkpoint is there to make it again from.") from error
            say(f"{path} is {error}; it is made again.")
            return False
        if saved is not None and sha256_of(path) != saved:
            raise ValueError(
                f"{self.out} was finished before, but its {WEIGHTS} is not the file that the run saved. Move it away and "
                "give the same command again to have the run's own."
            )
        return saved is not None

    def begin(self, *, trains: bool) -> str:
        """Write down what begins now, on rank 0, which holds the folder; returns the run's id. Old drafts are removed. A run
        that `trains` is not finished any more."""
        path = self.out / RECORD
        if not is_rank_zero():
            return self.run_id or ""  # checkpoints are written by rank 0
        remove_drafts(self.out / "checkpoints")
        if self.record_is_damaged:
            aside = path.with_name(f"{RECORD}.damaged")
            os.replace(path, aside)
            say(f"{path} {self.record_is_damaged}; it was moved to {aside.name} and is written anew.")
        content = run_record(self.cfg, self.out) if self.record is None else self.record.content
        content = {**content, "run_id": self.run_id or content["run_id"]}
        if accelerator_of(self.cfg.trainer) == "cpu":
            content["products"] = products.faster_library()
        if self.changes:
            change = {
                "when": datetime.now(UTC).isoformat(timespec="seconds"),
                "step": 0 if self.found is None else self.found.steps_done,
                "command": sys.argv[1:],
                "keys": {change.key: [change.before, change.now] for change in self.changes},
            }
            content |= {"changes": [*content.get("changes", []), change], "config": asdict(self.cfg)}
        content["identity"] = dict(self.identity.settings)
        if trains:
            content.pop("finished", None)
        if self.record is None or content != self.record.content:
            Record(content).write(path)
        return content["run_id"]

    def finish(self) -> None:
        """Write down that the run is finished and what it saved."""
        path = self.out / RECORD
        record = Record.read(path)
        assert record is not None, "`begin` wrote it"
        steps = sum(phase.steps for phase in self.cfg.stage.phases)
        finished = {"steps": steps, "weights_sha256": sha256_of(self.out / WEIGHTS)}
        if record.content.get("finished") != finished:
            Record({**record.content, "finished": finished}).write(path)


def survey(cfg: TrainConfig) -> Start:
    """What lies in the run's folder, compared with the configuration. Nothing is written.

    Raises:
        ValueError: another run's folder, or settings that are not those of this run; each key is named with both values. Or
            no checkpoint can be used, or changes were accepted that cannot be made any more.
    """
    out, identity = Path(cfg.out), Identity.of(cfg)
    record, damage = None, ""
    try:
        record = Record.read(out / RECORD)
    except DamagedError as error:
        damage = str(error)
    found = newest_whole(out / "checkpoints", say)
    progress = Progress(0, None, inside=False)
    start = Start(cfg, identity, found, record, progress, record_is_damaged=damage)
    if found is None:
        return _without_checkpoint(start)
    changes = _changes(start, found)
    if changes and not cfg.accept_changes:
        raise ValueError(_refusal(start, found, changes))
    if changes:
        _refuse_too_late(start, found, changes)
    start = replace(start, changes=tuple(changes), progress=progress_from(found, cfg.stage))
    if changes and start.finished and record is not None and record.weights_sha256:
        raise ValueError(
            f"{out} holds a finished run, and with what is changed nothing is left to train:\n{in_words(changes)}\nGive "
            "more steps (stage.phases), or begin a new run (out=...) from its weights."
        )
    if changes:
        say(
            f"{out}: the run goes on from {found.path.name} with what was changed:\n{in_words(changes)}{_jump(start, found)}"
        )
    return start


def _without_checkpoint(start: Start) -> Start:
    """A folder without any checkpoint: new, never got to one, or finished and tidied up."""
    out, record = start.out, start.record
    changes = [] if record is None or record.identity is None else start.identity.changes_since(record.identity)
    if record is not None and record.weights_sha256:
        if changes:
            words = (
                f"{in_words(changes)}\nGive another folder (out=...), and begin from its weights (weights=...) if you like."
            )
            raise ValueError(f"{out} holds a finished run with other settings, whose checkpoints are gone:\n{words}")
        if not (out / WEIGHTS).is_file():
            raise ValueError(
                f"{out} holds a finished run whose checkpoints and weights are gone; give another folder (out=...)."
            )
        return replace(start, progress=Progress(len(start.cfg.stage.phases), None, inside=False))
    if os.path.lexists(out / WEIGHTS):
        raise ValueError(
            f"{out / WEIGHTS} is there without the checkpoints of a run, and would be written over. Move it away, or give "
            "another folder (out=...)."
        )
    if changes:
        say(f"{out} has no checkpoint yet: the run begins anew, with what was changed:\n{in_words(changes)}")
    return replace(start, changes=tuple(changes))


def _changes(start: Start, found: Checkpoint) -> list[Change]:
    """What is not as the checkpoint and run.json say, without what was accepted at an earlier start."""
    record, changes = start.record, {}
    if found.identity is None:
        changes["run"] = Change("run", "of an earlier version, which did not record its settings", "these settings")
    else:
        changes = {change.key: change for change in start.identity.changes_since(found.identity)}
    if record is None:
        return list(changes.values())
    if record.identity is not None:
        since = {change.key: change for change in start.identity.changes_since(record.identity)}
        known = record.accepted
        changes = {key: change for key, change in changes.items() if key in since or (key, change.now) not in known}
        changes = {**since, **changes}
    if found.run_id not in (None, record.run_id):
        changes["run_id"] = Change("run_id", found.run_id, record.run_id)
    return list(changes.values())


def _refusal(start: Start, found: Checkpoint, changes: list[Change]) -> str:
    finished = " a finished" if start.record is not None and start.record.weights_sha256 else " a"
    return (
        f"{start.out} holds{finished} run with other settings ({found.path.name}, step {found.steps_done}):\n"
        f"{in_words(changes)}{_jump(start, found)}\nGive the settings that it has, or another folder (out=...). To go on "
        f"from there with the new ones, add {OVERRIDE}; run.json then records the change."
    )


def _refuse_too_late(start: Start, found: Checkpoint, changes: list[Change]) -> None:
    """What is over, or built, cannot be changed even on demand.

    Raises:
        ValueError: naming it.
    """
    phases = start.cfg.stage.phases
    built = [change for change in changes if change.key.startswith("model.") and change.key not in MODEL_MAY_CHANGE]
    begun = [change for change in changes if change.key in BEGINNING]
    over = [
        change for change in changes if (p := re.match(r"stage\.phases\[(\d+)\]", change.key)) and int(p[1]) < found.phase
    ]
    for late, why in (
        (built, "its model is built"),
        (begun, "the run has begun"),
        (over, f"phase {found.phase + 1} is under way"),
    ):
        if late:
            raise ValueError(
                f"{start.out}: {why}, so {OVERRIDE} cannot change\n{in_words(late)}\nBegin a new run (out=...); it may "
                "start from the weights of this one."
            )
    if found.phase < len(phases) and found.steps_done > (end := sum(phase.steps for phase in phases[: found.phase + 1])):
        raise ValueError(
            f"{found.path} has done {found.steps_done} steps, more than the {end} that phase {found.phase + 1} now ends at. "
            "Give at least as many, or begin a new run (out=...)."
        )


def _jump(start: Start, found: Checkpoint) -> str:
    """A line about the learning rate of the next step, where it is not what it would have been."""
    cfg, before = start.cfg.stage, found.learning_rate
    if before is None or found.phase >= len(cfg.phases):
        return ""
    phase, step = cfg.phases[found.phase], found.steps_done - sum(one.steps for one in cfg.phases[: found.phase])
    if not 0 <= step < phase.steps:
        return ""
    now = cfg.optim.lr * phase.lr_factor * optim.schedule_of(cfg.optim, phase)(step)
    if now == before:
        return ""
    return f"\n  the learning rate of the next step: {before:.4g} as it was, {now:.4g} now"


def remove_drafts(folder: Path) -> None:
    """Remove what killed writers left in a folder of checkpoints. Whoever calls this holds the run: they are dead."""
    for path in folder.glob(".*") if folder.is_dir() else ():
        if DRAFT.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
