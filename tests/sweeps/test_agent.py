"""W&B's own agent, with a server that is a list: what it starts, with which words, and who of the ranks speaks to W&B."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
import wandb
import yaml
from wandb import wandb_agent

from edgetam_pl.commands.compose import CONFIGS, EXPERIMENTS
from edgetam_pl.config import TrialConfig
from edgetam_pl.sweeps import trial
from edgetam_pl.sweeps.sweep_config import read_sweep
from edgetam_pl.training import wandb_runs, wandb_sweeps

SWEEP = "me/edgetam-pl/abc123"

NOTER = """#!{python}
import json, os, sys
from pathlib import Path
keys = [key for key in os.environ if key.startswith("WANDB_") or key in ("RANK", "GPUS", "NODES")]
said = {{"argv": sys.argv, "env": {{key: os.environ[key] for key in keys}}, "cwd": os.getcwd()}}
with open({notes!r}, "a") as file:
    file.write(json.dumps(said) + "\\n")
sys.exit({status})
"""


def program(folder: Path, name: str, *, status: int = 0) -> Path:
    """A program called `name` that notes how it was called; where the notes are."""
    folder.mkdir(exist_ok=True)
    notes = folder / f"{name}.jsonl"
    path = folder / name
    path.write_text(NOTER.format(python=sys.executable, notes=str(notes), status=status))
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return notes


def notes_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class Server:
    """What W&B's server says to an agent: the sweep's file, then one run after another, then the end."""

    def __init__(self, config: dict[str, Any], runs: list[dict[str, Any]]) -> None:
        self.config, self.commands = config, [{"type": "run", "id": str(i), **run} for i, run in enumerate(runs)]
        self.statuses: list[dict[str, bool]] = []

    def sweep(self, api: object, name: str, specs: str) -> dict[str, str]:
        return {"config": yaml.safe_dump(self.config)}

    def register(self, api: object, host: str, sweep_id: str) -> dict[str, str]:
        return {"id": "agent"}

    def heartbeat(self, api: object, agent: str, metrics: object, running: dict[str, bool]) -> list[dict[str, Any]]:
        self.statuses.append(dict(running))
        if running:
            return []
        return [self.commands.pop(0)] if self.commands else [{"type": "exit", "id": "end"}]


@pytest.fixture
def at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No agent's environment survives a test; programs of the test come first."""
    for key in ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_SWEEP_PARAM_PATH", "WANDB_MODE"):
        monkeypatch.setenv(key, "")
        monkeypatch.delenv(key)
    programs = tmp_path / "programs"
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return programs


def agent(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run W&B's agent to its end against `server`."""
    from wandb.apis.public import sweeps

    monkeypatch.setattr(sweeps, "_sweep_with_runs", server.sweep)
    monkeypatch.setattr(sweeps, "_register_agent", server.register)
    monkeypatch.setattr(sweeps, "_agent_heartbeat", server.heartbeat)
    monkeypatch.setattr(wandb, "Api", lambda *_, **__: object())
    monkeypatch.setattr(wandb, "teardown", lambda *_: None)
    monkeypatch.setattr(wandb_agent.Agent, "POLL_INTERVAL", 0.05)
    wandb_agent.run_agent(SWEEP)


def test_the_agent_starts_trials_with_words_on_the_command_line(at_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = program(at_home, "edgetam")
    sweep = read_sweep(EXPERIMENTS / "sweeps" / "latents.yaml", ["scale=toy"])
    points = list(sweep.grid())[:2]
    runs = [
        {"run_id": f"run{i}", "program": "edgetam", "args": {key: {"value": value} for key, value in point.values.items()}}
        for i, point in enumerate(points)
    ]
    agent(Server(dict(sweep.raw), runs), monkeypatch)
    said = notes_of(notes)
    assert [note["argv"][1] for note in said] == ["trial", "trial"]
    assert [tuple(note["argv"][2:]) for note in said] == [point.words for point in points]  # as without a server
    assert [note["env"]["WANDB_RUN_ID"] for note in said] == ["run0", "run1"]
    assert {note["env"]["WANDB_SWEEP_ID"] for note in said} == {"abc123"}


def test_a_trial_of_an_agent_keeps_its_run_id_and_folder(
    at_home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc123")
    monkeypatch.setenv("WANDB_RUN_ID", "run7")
    words = ("trial.format=1", "experiment=tab3a_perceiver", "scale=toy", "evaluate.dataset=toy")
    planned = trial.plan(words)
    assert planned.out == Path("runs/sweeps/abc123/trials/run7")
    assert wandb_runs.run_record(planned.train, tmp_path)["run_id"] == "run7"
    monkeypatch.delenv("WANDB_RUN_ID")
    assert wandb_runs.run_record(planned.train, tmp_path)["run_id"] == "run7"  # resumed without the agent


def test_every_rank_reads_the_same_words_from_torchrun(at_home: Path, tmp_path: Path) -> None:
    """The launcher's script as it is, with a torchrun that starts nothing."""
    notes = program(at_home, "python", status=3)
    words = (
        "trial.format=1", "trial.start=torchrun", "trial.gpus=4", "experiment=tab3a_perceiver", "scale=full",
        "latents=64/256", "evaluate.dataset=toy", f"out={tmp_path / 'trial'}",
    )  # fmt: skip
    planned = trial.plan(words)
    environment = trial.launch_environment(planned.trial)
    environment["PATH"] = f"{at_home}{os.pathsep}{environment['PATH']}"
    assert trial.passing_signals(trial.launch_command(planned), environment) == 3
    (said,) = notes_of(notes)
    argv = said["argv"]
    assert "--nproc-per-node=4" in argv
    assert argv[argv.index("train") :].count("latents=64/256") == 1
    assert f"out={planned.out}" in argv
    assert not [word for word in argv if word.startswith(("trial.", "evaluate."))]


def test_slurm_is_asked_for_the_gpus_and_waited_for(at_home: Path, tmp_path: Path) -> None:
    notes = program(at_home, "sbatch")
    words = (
        "trial.format=1", "trial.start=slurm", "trial.gpus=8", "trial.nodes=2", "experiment=tab3a_perceiver", "scale=full",
        "evaluate.dataset=toy", f"out={tmp_path / 'trial'}",
    )  # fmt: skip
    planned = trial.plan(words)
    environment = trial.launch_environment(planned.trial)
    environment["PATH"] = f"{at_home}{os.pathsep}{environment['PATH']}"
    assert trial.passing_signals(trial.launch_command(planned), environment) == 0
    argv = notes_of(notes)[0]["argv"]
    assert {"--wait", "--nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8"} <= set(argv)
    assert str(CONFIGS / "launcher" / "slurm.sh") in argv
    assert "scale=full" in argv


def test_only_rank_0_writes_the_run_and_speaks_to_wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cfg = trial.plan(("trial.format=1", "scale=toy", "experiment=tab3a_perceiver", "evaluate.dataset=toy")).train
    begun: list[str] = []
    monkeypatch.setattr(wandb, "init", lambda **said: begun.append(said["id"]))
    monkeypatch.setattr("lightning.pytorch.utilities.rank_zero_only.rank", 1)
    logger = wandb_runs.make_logger(cfg, tmp_path)
    assert logger is not None
    logger.log_metrics({"val/jf": 1.0})
    assert begun == []
    assert not (tmp_path / "run.json").exists()


def test_make_sweep_creates_the_sweep_and_starts_agents(at_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = program(at_home, "agent")
    made: dict[str, Any] = {}

    def create(config: dict[str, Any], **where: object) -> str:
        made.update(config=config, **where)
        return "abc123"

    monkeypatch.setattr(wandb, "sweep", create)
    monkeypatch.setattr(wandb_sweeps, "agent_command", lambda: [str(at_home / "agent")])
    sweep = read_sweep(EXPERIMENTS / "sweeps" / "latents_bayes.yaml", ["scale=small"])
    assert wandb_sweeps.serve(sweep.raw, agents=2, count=5) == 0
    assert made["project"] == "edgetam-pl"
    assert made["config"]["command"][-2:] == ["scale=small", "${args_no_hyphens}"]
    assert "project" not in made["config"]
    assert [note["argv"][1:] for note in notes_of(notes)] == [["--count", "5", "edgetam-pl/abc123"]] * 2
    assert {note["env"]["WANDB_MODE"] for note in notes_of(notes)} == {"online"}


def test_without_a_login_the_way_without_a_server_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise wandb.errors.UsageError("api_key not configured (no-tty)")

    monkeypatch.setattr(wandb, "sweep", refuse)
    with pytest.raises(ValueError, match=r"api_key not configured.*make sweep-local"):
        wandb_sweeps.create({"name": "x"})


def test_the_words_of_a_trial_are_told_apart() -> None:
    said = trial.split(("trial.gpus=2", "latents=none", "evaluate.root=x", "bench.repeats=3", "export.backend=onnx"))
    assert said == {
        "trial": ["gpus=2"], "train": ["latents=none"], "evaluate": ["root=x"], "bench": ["repeats=3"],
        "export": ["backend=onnx"],
    }  # fmt: skip
    assert "trial.min_free_gb" in trial.help_text()
    assert TrialConfig().start == "local"
