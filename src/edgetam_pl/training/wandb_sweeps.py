"""Sweeps on W&B's server: create one from a checked file, start agents; a local sweep's report as a run."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import wandb

from edgetam_pl.io.stop import handled
from edgetam_pl.training.wandb_runs import mode


def serve(raw: Mapping[str, Any], *, agents: int, count: int | None) -> int:
    """Create the sweep and run agents on this machine until it is done; 1 where an agent failed.

    Every agent is a process of its own, and starts trials by their command line: nothing of a trial shares its process.
    An existing sweep is joined with `wandb agent SWEEP`, on any machine that has this code and the data.
    """
    os.environ.setdefault("WANDB_MODE", "online")
    sweep = create(raw)
    print(f"sweep {sweep}; join it from another machine with: wandb agent {sweep}", flush=True)
    command = [*agent_command(), *(["--count", str(count)] if count else []), sweep]
    started = [subprocess.Popen(command, env=_environment(number, agents)) for number in range(agents)]
    with handled(lambda number: [process.send_signal(number) for process in started]):
        statuses = [process.wait() for process in started]
    return 1 if any(statuses) else 0


def create(raw: Mapping[str, Any]) -> str:
    """The new sweep's path: entity/project/id where these are known.

    Raises:
        ValueError: the server cannot be reached, or does not know who asks.
    """
    config = {key: value for key, value in raw.items() if key not in ("project", "entity")}
    try:
        made = wandb.sweep(config, project=raw.get("project"), entity=raw.get("entity"))
    except (wandb.Error, OSError) as error:
        cure = "`wandb login` first, or run the same file without a server: leave out --server (make sweep-local)."
        raise ValueError(f"W&B's server did not take the sweep ({error}). {cure}") from error
    return "/".join(str(part) for part in (raw.get("entity"), raw.get("project"), made) if part)


def agent_command() -> list[str]:
    return [sys.executable, "-m", "wandb", "agent", "--forward-signals"]


def _environment(number: int, agents: int) -> dict[str, str]:
    """This environment's programs first, so that `edgetam` is this one; with several agents, each has its share of GPUs."""
    here = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    devices = [device for device in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device]
    share = {"CUDA_VISIBLE_DEVICES": ",".join(devices[number::agents])} if agents > 1 and len(devices) >= agents else {}
    return {**os.environ, **share, "PATH": here}


def log_report(out: Path, *, name: str, project: str = "edgetam-pl") -> None:
    """The report of a sweep as a run: the table of configurations, score against each cost as a panel, the pictures."""
    if mode() == "disabled":
        return
    with (out / "table.csv").open(newline="") as file:
        head, *rows = list(csv.reader(file))
    where: Literal["online", "offline"] = "online" if mode() == "online" else "offline"
    run = wandb.init(project=project, dir=str(out), name=f"report-{name}", group=name, job_type="report", mode=where)
    table = wandb.Table(columns=list[str | int](head), data=[[_number(cell) for cell in row] for row in rows])
    panels: dict[str, Any] = {"sweep/table": table}
    for cost in ("step ms", "step cpu ms", "tokens a memory", "GFLOPs", "parameters"):
        if cost in head:
            panels[f"sweep/score against {cost}"] = wandb.plot.scatter(table, cost, "mean", title=f"score against {cost}")
    panels |= {f"sweep/{path.stem}": wandb.Image(str(path)) for path in sorted(out.glob("*.png"))}
    run.log(panels)
    run.finish()


def _number(cell: str) -> float | str:
    try:
        return float(cell.replace(",", ""))
    except ValueError:
        return cell
