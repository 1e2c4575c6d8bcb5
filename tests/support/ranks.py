"""One rank of a training for test_distributed.py: `python ranks.py PLAN.json`, under torchrun.

PLAN.json is {"runs": [{"words": [...], "record": PATH, "accident": null | "nan" | "sigterm" | "sigkill", "at": step}]}.
Every rank notes at each step what it drew, in PATH.rankN. A run that was told to stop leaves its status; the next follows.
"""

from __future__ import annotations

from edgetam_pl.commands import begin  # noqa: F401  # isort: skip  (first, as in `edgetam`: what is not needed is not imported)

import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from edgetam_pl.commands.compose import composed
from edgetam_pl.config import TrainConfig
from edgetam_pl.training import fit
from edgetam_pl.training.distillation import Distillation
from edgetam_pl.training.forensics import NonFiniteError
from edgetam_pl.types import VideoBatch

RANK = int(os.environ["RANK"])
STEP = Distillation.training_step


def observed(run: dict[str, Any]) -> None:
    """Let every training step be noted, and the accident happen on rank 1."""
    notes = Path(f"{run['record']}.rank{RANK}")

    def training_step(self: Distillation, batch: VideoBatch, batch_idx: int) -> torch.Tensor:
        step = self.steps_done
        if run["accident"] == "sigterm" and step == run["at"] and RANK == 1:
            os.kill(os.getpid(), signal.SIGTERM)  # one rank is told; all must stop
        if run["accident"] == "sigkill" and step == run["at"] and RANK == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if run["accident"] == "nan" and step == run["at"] and RANK == 1:
            with torch.no_grad():
                self.student.mask_decoder.iou_token.weight.mul_(float("nan"))
        plan = asdict(self.options.plan(batch.num_frames, self.seeds))
        with notes.open("a") as file:
            line = {"step": step, "phase": self.phase_index, "plan": plan, "source": batch.source, "keys": batch.keys}
            file.write(json.dumps(line) + "\n")
        return STEP(self, batch, batch_idx)

    Distillation.training_step = training_step


def main() -> None:
    torch.set_num_threads(1)
    for run in json.loads(Path(sys.argv[1]).read_text())["runs"]:
        observed(run)
        cfg = composed(TrainConfig, command="train", overrides=run["words"])[0]
        try:
            fit.run(cfg)
        except NonFiniteError as error:
            Path(f"{run['record']}.stopped{RANK}").write_text(str(error))
        except SystemExit as end:
            Path(f"{run['record']}.status{RANK}").write_text(str(end.code))


if __name__ == "__main__":
    main()
