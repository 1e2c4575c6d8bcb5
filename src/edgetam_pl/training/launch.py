"""`edgetam train launcher=slurm`: the training as a SLURM job, submitted through submitit.

The job is the same command with launcher=local, one task a GPU. Before its time is over, or when it is pre-empted, SLURM
sends a signal; the step is finished and saved, every task exits with TRY_AGAIN, and the first one puts the job back into
the queue (`fit.train_in_job`). It continues with the next step, in the same run directory and W&B run.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from edgetam_pl.config import LauncherConfig, TrainConfig
from edgetam_pl.training.check import check_data

SIGNAL_DELAY = 300
"""Seconds between SLURM's signal and the end: longer than an optimiser step and a checkpoint."""


def submit(cfg: TrainConfig, task: Callable[[TrainConfig], str]) -> str:
    """Hand in a job in which every task does `task`, and return its id. What the job would refuse is refused here.

    Raises:
        ValueError: submitit is not installed, or the configuration cannot work.
    """
    try:
        import submitit
    except ModuleNotFoundError as error:
        raise ValueError("launcher=slurm needs submitit; install it with: pip install 'edgetam-pl[cluster]'.") from error
    launcher = cfg.launcher
    trainer = {**cfg.trainer, "devices": launcher.tasks_per_node, "num_nodes": launcher.nodes}
    job_cfg = replace(cfg, trainer=trainer, launcher=LauncherConfig())
    check_data(job_cfg)
    arguments = {"timeout_min": 24 * 60, **launcher.arguments}
    cluster = arguments.pop("cluster", None)
    if cluster is None:
        arguments = {"slurm_signal_delay_s": SIGNAL_DELAY, **arguments}
    executor = submitit.AutoExecutor(folder=Path(cfg.out).resolve() / "jobs", cluster=cluster)
    executor.update_parameters(
        name=Path(cfg.out).name, nodes=launcher.nodes, tasks_per_node=launcher.tasks_per_node, **arguments
    )
    job = executor.submit(task, job_cfg)
    print(f"Job {job.job_id} was submitted; it writes to {cfg.out}, its output goes to {executor.folder}.")
    return job.job_id


def requeue(job: str) -> None:
    """Put this job of SLURM back into the queue, unless somebody has cancelled it."""
    shown = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=False).stdout
    if any(f"JobState={state}" in shown for state in ("CANCELLED", "COMPLETING")):  # the second while its tasks end
        print(f"Job {job} was ended by SLURM, which puts it back unless somebody has cancelled it.", flush=True)
    else:
        subprocess.run(["scontrol", "requeue", job], check=True)
