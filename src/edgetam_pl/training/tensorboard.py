"""TensorBoard, where it is installed: the values of curves.jsonl against the step of the whole run."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger

from edgetam_pl.training.curves import STEP


class ByStep(TensorBoardLogger):
    """Lightning's, whose x-axis is the step of the whole run rather than that of one fit."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        at = int(metrics[STEP]) if STEP in metrics else step
        super().log_metrics({name: value for name, value in metrics.items() if name != STEP}, at)


def tensorboard_logger(out: Path, **more: Any) -> ByStep:
    """A logger that writes into OUT/tensorboard, over resumes and phases.

    Raises:
        ValueError: TensorBoard is not installed.
    """
    if not (find_spec("tensorboard") or find_spec("tensorboardX")):
        raise ValueError("logger=tensorboard needs the package tensorboard; install it with: pip install tensorboard.")
    return ByStep(save_dir=str(out), name="tensorboard", version="", **more)
