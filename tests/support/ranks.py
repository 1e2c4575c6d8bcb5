"""Trainings on two ranks, which torchrun's own agent forks from the test: each has loaded what it needs already.

A run is {"words": [...], "record": PATH, "accident": null | "nan" | "sigterm" | "sigkill", "at": step}. Every rank notes at
each step what it drew, in PATH.rankN. A run that was told to stop leaves its status; the next follows.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from edgetam_pl.commands.compose import composed
from edgetam_pl.config import TrainConfig
from edgetam_pl.training import fit
from edgetam_pl.training.distillation import Distillation
from edgetam_pl.training.forensics import NonFiniteError
from edgetam_pl.types import VideoBatch

STEP = Distillation.training_step
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""Signals that torchrun's agent handles, and its processes inherit."""


def launch(*runs: dict[str, Any]) -> str:
    """Do these runs, one after the other: "", or how they failed and the last words of the ranks."""
    before = {number: signal.getsignal(number) for number in HANDLED}
    with tempfile.TemporaryDirectory() as said:
        logs = DefaultLogsSpecs(log_dir=said, redirects=Std.ALL)
        config = LaunchConfig(
            1, 1, 2, logs, uuid.uuid4().hex,
            rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0, start_method="fork",
        )  # fmt: skip
        try:
            elastic_launch(config, rank)(runs)
        except ChildFailedError as error:
            return "\n".join([str(error), *(path.read_text()[-3000:] for path in Path(said).rglob("stderr.log"))])
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    return ""


def rank(runs: tuple[dict[str, Any], ...]) -> None:
    """One of the processes: what it inherited from the test is as in a process that Python has just started."""
    for number in HANDLED:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    rank_zero_only.rank = int(os.environ["RANK"])  # Lightning reads it when it is imported
    for run in runs:
        observed(run)
        cfg = composed(TrainConfig, command="train", overrides=run["words"])[0]
        try:
            fit.run(cfg)
        except NonFiniteError as error:
            Path(f"{run['record']}.stopped{os.environ['RANK']}").write_text(str(error))
        except SystemExit as end:
            Path(f"{run['record']}.status{os.environ['RANK']}").write_text(str(end.code))


def observed(run: dict[str, Any]) -> None:
    """Let every training step be noted, and the accident happen on rank 1."""
    number = int(os.environ["RANK"])
    notes = Path(f"{run['record']}.rank{number}")

    def training_step(self: Distillation, batch: VideoBatch, batch_idx: int) -> torch.Tensor:
        step = self.steps_done
        if run["accident"] == "sigterm" and step == run["at"] and number == 1:
            os.kill(os.getpid(), signal.SIGTERM)  # one rank is told; all must stop
        if run["accident"] == "sigkill" and step == run["at"] and number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if run["accident"] == "nan" and step == run["at"] and number == 1:
            with torch.no_grad():
                self.student.mask_decoder.iou_token.weight.mul_(float("nan"))
        plan = asdict(self.options.plan(batch.num_frames, self.seeds))
        with notes.open("a") as file:
            line = {"step": step, "phase": self.phase_index, "plan": plan, "source": batch.source, "keys": batch.keys}
            file.write(json.dumps(line) + "\n")
        return STEP(self, batch, batch_idx)

    Distillation.training_step = training_step
