"""`edgetam train launcher=slurm`: the training as a SLURM job, handed in through submitit.

The job is the same command with launcher=local, one task a GPU. Before its time is over, or when it is pre-empted, SLURM
sends a signal; the step is finished and saved, every task leaves with TRY_AGAIN, and the first one puts the job back into
the queue. It continues with the next step, in the same run directory and W&B run.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

from edgetam_pl.config import LauncherConfig, TrainConfig
from edgetam_pl.training.check import check_data
from edgetam_pl.training.preemption import TRY_AGAIN

SIGNAL_DELAY = 300
"""Seconds between SLURM's signal and the end: longer than an optimiser step and a checkpoint."""


def submit(cfg: TrainConfig) -> str:
    """Hand in the job and return its id. What the job would refuse is refused here.

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
    job = executor.submit(train_in_job, job_cfg)
    print(f"job {job.job_id} was handed in; it writes to {cfg.out}, its words go to {executor.folder}.")
    return job.job_id


def train_in_job(cfg: TrainConfig) -> str:
    """What every task of the job does."""
    import submitit

    from edgetam_pl.training.fit import run

    place = submitit.JobEnvironment()
    try:
        return str(run(cfg))
    except SystemExit as end:
        if end.code == TRY_AGAIN and place.global_rank == 0 and (job := os.environ.get("SLURM_JOB_ID")):
            subprocess.run(["scontrol", "requeue", job], check=True)
        raise
