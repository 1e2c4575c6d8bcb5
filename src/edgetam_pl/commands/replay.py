"""`edgetam replay CASE`: take a step again that broke a training, and see where."""

from __future__ import annotations

import argparse
from pathlib import Path

from omegaconf import OmegaConf

from edgetam_pl.build import build_model
from edgetam_pl.config import ModelConfig, StageConfig
from edgetam_pl.training.distillation import STAGES, Distillation, repeat_step
from edgetam_pl.training.forensics import Case, Finding, diagnose, first_broken_module, load_case


def main(argv: list[str]) -> int:
    """Print what was recorded and what happens now. 0: it broke again; 1: everything was finite this time.

    Raises:
        ValueError: no such case, or it was saved without its model.
    """
    parser = argparse.ArgumentParser(
        prog="edgetam replay",
        description="Take a saved step again: the same clip, prompts, dropout and weights, in fp32 on the CPU. The teacher "
        "is not part of a case, so its two terms are left out.",
    )
    parser.add_argument("case", type=Path, metavar="CASE", help="RUN/forensics/step*.pt")
    args = parser.parse_args(argv)
    case = load_case(args.case)
    print(f"step {case.step}, rank {case.rank}, clips {', '.join(case.batch.keys)} of {case.batch.source}")
    print(f"then: {case.finding}; first broken module: {case.module or 'none in the forward pass'}")
    finding, module = replay(case)
    print(f"now:  {finding}; first broken module: {module or 'none in the forward pass'}")
    again = any(finding)
    if not again:
        print("It does not break in fp32 without the teacher: look at precision, or at the teacher's terms.")
    return 0 if again else 1


def replay(case: Case) -> tuple[Finding, str | None]:
    """Forward and backward of the case on the CPU: what is not finite, and the module that broke first."""
    module = rebuilt(case)
    student = repeat_step(module, case)
    losses = module.measure(case.batch, student, None, case.batch.num_objects)
    losses.weighted(module.stage.weights).total.backward()
    finding = diagnose(module.student, losses)
    return finding, first_broken_module(module.student, lambda: repeat_step(module, case))


def rebuilt(case: Case) -> Distillation:
    """The student of the case in training mode, in the phase it was in."""
    if case.card is None or case.card["model"] is None or case.weights is None:
        raise ValueError("The case was saved without its model; only a case of `edgetam train` can be taken again.")
    model = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ModelConfig), case.card["model"]))
    stage = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(StageConfig), case.card["stage"]))
    assert isinstance(model, ModelConfig)
    assert isinstance(stage, StageConfig)
    student = build_model(model)
    student.load_state_dict(case.weights)
    module = STAGES[stage.name](student, stage=stage)
    module.enter(case.card["phase"])
    module.train()
    module.freeze_eval()
    return module
