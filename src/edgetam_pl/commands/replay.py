"""`edgetam replay CASE`: take a step again whose loss or gradient was not finite, and see where that began."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf

from edgetam_pl.build import build_model
from edgetam_pl.config import ModelConfig, StageConfig
from edgetam_pl.config.choices import Flags
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.training.forensics import Case, Finding, diagnose, first_nonfinite_module, load_case
from edgetam_pl.training.step import StepOptions, freeze, measure, repeat_step

T = TypeVar("T")


def main(argv: list[str]) -> int:
    """Print what was recorded and what happens now. 0: not finite again; 1: everything was finite this time.

    Raises:
        ValueError: no such case, or it was saved without its model.
    """
    parser = Flags(
        prog="edgetam replay",
        description="Take a saved step again: the same clip, prompts, dropout and weights, in fp32 on the CPU. The teacher "
        "is not part of a case, so its two terms are left out.",
    )
    parser.add_argument("case", type=Path, metavar="CASE", help="RUN/forensics/step*.pt")
    case = load_case(parser.parse_args(argv).case)
    print(f"step {case.step}, rank {case.rank}, clips {', '.join(case.batch.keys)} of {case.batch.source}")
    print(f"then: {case.finding}; first module: {case.module or 'none in the forward pass'}")
    finding, module = replay(case)
    print(f"now:  {finding}; first module: {module or 'none in the forward pass'}")
    if any(finding):
        return 0
    print("Everything is finite in fp32 without the teacher: look at precision, or at the teacher's terms.")
    return 1


def replay(case: Case) -> tuple[Finding, str | None]:
    """Forward and backward of the case on the CPU: what is not finite, and the module that was first."""
    student, options = rebuilt(case)
    losses = measure(case.batch, repeat_step(student, case, options), {}, options, case.batch.num_objects)
    losses.weighted(options.stage.weights).total.backward()
    finding = diagnose(student, losses)
    return finding, first_nonfinite_module(student, lambda: repeat_step(student, case, options))


def rebuilt(case: Case) -> tuple[TrackAnything, StepOptions]:
    """The student of the case in training mode, and the options of the phase it was in.

    Raises:
        ValueError: the case was saved without its model.
    """
    if case.card is None or case.card["model"] is None or case.weights is None:
        raise ValueError("The case was saved without its model; only a case of `edgetam train` can be taken again.")
    student = build_model(_config(ModelConfig, case.card["model"]))
    student.load_state_dict(case.weights)
    stage = _config(StageConfig, case.card["stage"])
    phase = stage.phases[case.card["phase"]]
    freeze(student.train(), stage, phase)
    return student, StepOptions(stage, phase)


def _config(kind: type[T], values: dict[str, Any]) -> T:
    found = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), values))
    assert isinstance(found, kind)
    return found
