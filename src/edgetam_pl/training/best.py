"""The best weights of a training by its validation, and its end when they get no better.

runs/NAME/
  weights.pt          the best by J&F of validation, where there is validation; otherwise the last
  last.pt             the last, where weights.pt are the best
  checkpoints/best.pt the best so far
  best.json           their step and J&F, and the step at which training was ended early
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L

from edgetam_pl import weights
from edgetam_pl.config import TrainConfig
from edgetam_pl.io.atomic import atomic_path, write_json
from edgetam_pl.io.torch_files import damage_in
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.training.curves import STEP, read_lines

if TYPE_CHECKING:
    from edgetam_pl.training.distillation import Distillation

WEIGHTS = "weights.pt"
"""The result of a run."""
SCORE = "val/jf"
"""What is monitored: J&F of validation, 0 ... 100."""


class BestWeights(L.Callback):
    """Keeps the weights of the best validation, and ends training after `patience` validations that were no better.

    What was best before is read from the results on disk, so that a resumed run, and the next phase, go on from there. With
    a moving average of the weights it is the average that is validated and kept: this callback comes before that one.
    """

    def __init__(self, out: Path, *, patience: int = 0) -> None:
        """`out` is the run directory; patience 0: training is never ended."""
        self.out, self.patience = out, patience
        self.best, self.since = -math.inf, 0

    def on_train_start(self, trainer: L.Trainer, pl_module: Distillation) -> None:  # type: ignore[override]
        self.best, self.since = -math.inf, 0
        for line in read_lines(self.out / "validation" / "jf.jsonl"):
            if isinstance(line.get(SCORE), int | float) and line.get(STEP, math.inf) <= pl_module.steps_done:
                self._note(line[SCORE])

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Distillation) -> None:  # type: ignore[override]
        """Before a moving average gives the trained weights back, and before the score is known."""
        if trainer.is_global_zero:
            card = {**pl_module.full_card, "chosen": "the best by validation"}
            weights.save_official(pl_module.student, self._candidate, card)

    def on_validation_end(self, trainer: L.Trainer, pl_module: Distillation) -> None:  # type: ignore[override]
        assert pl_module.validation is not None
        step, score = pl_module.steps_done, pl_module.validation.values[SCORE]
        better = self._note(score)
        ended = bool(self.patience) and self.since >= self.patience
        if trainer.is_global_zero:
            if better:
                self._candidate.replace(self.out / "checkpoints" / "best.pt")
                write_json(self.out / "best.json", {"step": step, "jf": score, "ended": None})
            self._candidate.unlink(missing_ok=True)
            if ended:
                found = {**(read_best(self.out) or {"step": None, "jf": None}), "ended": step}
                write_json(self.out / "best.json", found)
                print(
                    f"ended at step {step}: the last {self.since} validations were not above J&F {self.best:.1f} "
                    f"(validation.patience={self.patience})."
                )
        if ended:  # the same on every rank, for the score is
            trainer.should_stop = True

    def _note(self, score: float) -> bool:
        better = score > self.best  # never where it is not a number
        self.best, self.since = (score, 0) if better else (self.best, self.since + 1)
        return better

    @property
    def _candidate(self) -> Path:
        return self.out / "checkpoints" / "candidate.pt"


def with_validation(cfg: TrainConfig) -> TrainConfig:
    """The same configuration with `validation.every` as `validation.times` asks.

    Raises:
        ValueError: validation without clips to validate on, or patience without validation.
    """
    steps = sum(phase.steps for phase in cfg.stage.phases)
    every = cfg.validation.every or (-(-steps // cfg.validation.times) if cfg.validation.times else 0)
    if every and not cfg.validation.root:
        raise ValueError("validation has no clips: give validation.root, a folder of videos with masks, or toy.")
    if cfg.validation.patience and not every:
        raise ValueError(
            f"validation.patience={cfg.validation.patience} waits for validations, and there are none: give "
            "validation.every and validation.root."
        )
    return replace(cfg, validation=replace(cfg.validation, every=every))


def read_best(out: Path) -> dict[str, Any] | None:
    """best.json of a run: step, J&F, and where training was ended early (or None); None where nothing was validated.

    Raises:
        ValueError: it is damaged.
    """
    path = out / "best.json"
    if not path.is_file():
        return None
    try:
        raw = json.loads(path.read_bytes())
        found = {key: raw[key] for key in ("step", "jf", "ended")}
        if not all(value is None or type(value) in (int, float) for value in found.values()):
            raise TypeError(found)
        return found
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error!r:.60}), so which weights are the best is not known. Write into it "
            '{"step": STEP, "jf": SCORE, "ended": null}, the best line of validation/jf.jsonl.'
        ) from error


def ended_early(out: Path) -> bool:
    """Was this run ended because validation got no better?"""
    found = read_best(out)
    return found is not None and found["ended"] is not None


def save_weights(model: TrackAnything, out: Path, card: dict[str, Any]) -> str:
    """Write weights.pt, and last.pt where there are best ones; what they are, in words, which the cards in them say too. On
    rank 0."""
    best, found = out / "checkpoints" / "best.pt", read_best(out)
    lost = damage_in(best) if best.is_file() else "not there"
    if found is None or found["step"] is None or lost:
        weights.save_official(model, out / WEIGHTS, card)
        if found is None or found["step"] is None:
            return f"{WEIGHTS}: the last weights; nothing was validated, so that no better ones are known"
        return f"{WEIGHTS}: the last weights; the best by validation, of step {found['step']}, are lost: {best} is {lost}"
    weights.save_official(model, out / "last.pt", {**card, "chosen": "the last"})
    with atomic_path(out / WEIGHTS) as draft:
        shutil.copyfile(best, draft)
    return f"{WEIGHTS}: the best by validation, of step {found['step']}, J&F {found['jf']:.1f}; last.pt: the last"
