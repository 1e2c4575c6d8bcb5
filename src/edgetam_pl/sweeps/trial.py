"""`edgetam trial`: train what the words say, score it, measure what it costs, and leave trial.json.

One process coordinates and has no rank; a training on many GPUs is started by torchrun or SLURM with the same words on the
command line, so every rank reads them there and only the training's rank 0 speaks to W&B. The same command given again
continues: a finished trial is not repeated, an unfinished one goes on where its training stopped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import traceback
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from edgetam_pl.build import validate
from edgetam_pl.commands.compose import CONFIGS, composed
from edgetam_pl.config import BenchConfig, EvaluateConfig, ExportConfig, TrainConfig, TrialConfig
from edgetam_pl.io import stop
from edgetam_pl.io.atomic import write_json
from edgetam_pl.io.locks import folder_lock
from edgetam_pl.io.processes import LAUNCHER

FORMAT = 1
"""Version of sweep files and of trials that this code reads: trial.format=1."""

RECORD, FAILURE, WORDS = "trial.json", "failure.json", "words.json"
"""Left in the trial's folder: what a finished trial found; why one failed or was stopped; what was to be done."""

_SCHEMAS: Mapping[str, type[Any]] = {
    "trial": TrialConfig, "evaluate": EvaluateConfig, "bench": BenchConfig, "export": ExportConfig
}  # fmt: skip
"""Of the commands whose words have their name before them; all other words are of the training."""


@dataclass(frozen=True)
class Plan:
    """The words of a trial, checked as each of its commands would check them."""

    words: tuple[str, ...]
    trial: TrialConfig
    train: TrainConfig
    evaluate: EvaluateConfig
    bench: BenchConfig
    export: ExportConfig

    @property
    def out(self) -> Path:
        return Path(self.train.out)


def split(words: tuple[str, ...]) -> dict[str, list[str]]:
    """Words by command; the prefix that says for which is taken off."""
    found: dict[str, list[str]] = {name: [] for name in ("train", *_SCHEMAS)}
    for word in words:
        name = next((name for name in _SCHEMAS if word.startswith(f"{name}.")), "train")
        found[name].append(word.removeprefix(f"{name}."))
    return found


def plan(words: tuple[str, ...]) -> Plan:
    """Compose and check the words; nothing is allocated.

    Raises:
        ValueError: an unknown key, an allocation that describes no model, a training that cannot work, another version.
    """
    from edgetam_pl.training.fit import check

    given = split(words)
    others = {name: _composed(name, *given[name]) for name in _SCHEMAS}
    if others["trial"].format != FORMAT:
        raise ValueError(f"trial.format is {others['trial'].format}; this is version {FORMAT} of sweep files.")
    train = composed(TrainConfig, command="train", overrides=[*_default_out(given["train"]), *given["train"]])[0]
    validate(train.model)
    check(train)
    if not given["evaluate"]:
        raise ValueError("Say on what to score, for example evaluate.dataset=sav evaluate.root=/data/sav_val.")
    return Plan(words=words, train=train, **others)


@cache
def _composed(command: str, *words: str) -> Any:
    """The configuration of another command than the training: the same for all trials of a sweep, so composed once."""
    return composed(_SCHEMAS[command], command=command, overrides=list(words))[0]


def main(argv: list[str]) -> int:
    """`edgetam trial WORDS ...`; the exit status is that of the training where it does not finish."""
    if not argv or argv[0] in {"-h", "--help"}:
        print(help_text())
        return 0
    planned = plan(tuple(argv))
    with folder_lock(planned.out):
        if (planned.out / RECORD).is_file():
            print(f"{planned.out}: finished before.")
            return 0
        (planned.out / FAILURE).unlink(missing_ok=True)
        try:
            return run(planned)
        except Exception as error:
            record_failure(planned.out, planned.words, "failed", f"{type(error).__name__}: {error}", traceback.format_exc())
            raise


def run(planned: Plan) -> int:
    """Train, score, measure; 0, or the status of a training that did not finish."""
    require_free_space(planned.out, planned.trial.min_free_gb)
    if os.environ.get("WANDB_SWEEP_ID"):
        os.environ.setdefault("WANDB_MODE", "online")  # an agent's server waits for this run
    started = time.perf_counter()
    status = train(planned)
    if status:
        return status
    stop.at_once("after the training")
    trained = time.perf_counter()
    record = {
        "format": FORMAT,
        "words": list(planned.words),
        **measure(planned),
        "seconds": {"train": round(trained - started, 1), "measure": round(time.perf_counter() - trained, 1)},
    }
    write_json(planned.out / RECORD, record)
    if planned.train.logger.kind == "wandb":
        from edgetam_pl.training.wandb_runs import add_summary

        add_summary(planned.train, flat(record))
    print(f"{planned.out}: J&F {record['accuracy']['jf']:.1f}")
    return 0


def train(planned: Plan) -> int:
    """The training, in this process or by a launcher; its exit status."""
    if planned.trial.start == "local":
        from edgetam_pl.training import fit

        fit.run(planned.train)
        return 0
    run = submitted if planned.trial.start == "slurm" else passing_signals
    return run(launch_command(planned), launch_environment(planned.trial))


def passing_signals(command: list[str], environment: dict[str, str]) -> int:
    """Run a launcher to its end; a signal to this process (of an agent, of an allocation) is handed on: no orphans."""
    with (
        subprocess.Popen(command, env=environment) as process,
        stop.handled(process.send_signal),
    ):
        return process.wait()


def submitted(command: list[str], environment: dict[str, str]) -> int:
    """Hand in a job of SLURM and wait for its end. It is cancelled, which lets it save, when this process is told to stop
    and when whatever waits for it ends without it."""
    job, told = "", False

    def cancel(number: int = 0) -> None:
        nonlocal told
        told = told or bool(number)
        if job:
            subprocess.run(["scancel", job], check=False)
        else:
            process.terminate()

    with (
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process,
        stop.handled(cancel),
    ):
        assert process.stdout is not None
        job = process.stdout.readline().strip().partition(";")[0]
        if told:
            cancel()  # it came while the job was handed in
        status = process.wait()
        if status:
            cancel()
    return stop.TRY_AGAIN if told else status


def launch_command(planned: Plan) -> list[str]:
    """What starts a training on many GPUs: a script of configs/launcher with the training's words, for every rank alike."""
    trial, scripts = planned.trial, CONFIGS / "launcher"
    words = [*split(planned.words)["train"], f"out={planned.out}"]
    if trial.start == "torchrun":
        return ["bash", str(scripts / "torchrun.sh"), *words]
    size = [f"--nodes={trial.nodes}", f"--ntasks-per-node={trial.gpus}", f"--gpus-per-node={trial.gpus}"]
    # two jobs of one name are never run at once: one that outlived its trial is waited for
    name = f"--job-name=edgetam-{zlib.crc32(str(planned.out.resolve()).encode()):08x}"
    waiting = ["sbatch", "--parsable", "--wait", name, "--dependency=singleton"]
    return [*waiting, *size, f"--output={planned.out}/slurm-%j.log", str(scripts / "slurm.sh"), *words]


def launch_environment(trial: TrialConfig) -> dict[str, str]:
    """The environment of a launcher: its programs are those of this environment, its size the trial's."""
    here = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "PATH": here, "GPUS": str(trial.gpus), "NODES": str(trial.nodes), LAUNCHER: str(os.getpid())}


def measure(planned: Plan) -> dict[str, Any]:
    """Accuracy, cost, and the last values that the training logged."""
    from edgetam_pl.evaluation.runner import run as evaluate
    from edgetam_pl.sweeps import cost
    from edgetam_pl.training.curves import read_lines

    model, out = planned.train.model, planned.out
    weights = out / "weights.pt"
    report = evaluate(
        replace(
            planned.evaluate, model=model, weights=str(weights), out=str(out / "evaluation"), cache=str(out / "evaluated")
        )
    )
    assert report is not None, "a trial has no rank, so the report is its own"
    spent = cost.arithmetic(model)
    if planned.trial.latency:
        spent |= cost.latency(planned.bench, model=model, weights=weights)
    if planned.trial.export:
        spent["refused"] = cost.export(planned.export, model=model, weights=weights, out=out / "packages")
    spent["package_bytes"] = cost.package_bytes(out)
    validations, curve = read_lines(out / "validation" / "jf.jsonl"), read_lines(out / "curves.jsonl")
    return {
        "accuracy": {"j": report.j, "f": report.f, "jf": report.jf},
        "conditions": dict(report.conditions),
        "cost": spent,
        "model": {"name": model.name, **vars(model.compressor), "memory_blocks": model.memory_blocks, "trunk": model.trunk},
        "validation": validations[-1] if validations else {},
        "training": curve[-1] if curve else {},
    }


def flat(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record under the names that sweep files and W&B use: trial/jf, trial/latency_ms/step, val/jf."""
    cost = record["cost"]
    values = {f"trial/{name}": value for name, value in record["accuracy"].items()}
    for name, value in cost.items():
        if isinstance(value, int | float):
            values[f"trial/{name}"] = value
        elif name in ("gflops", "latency_ms", "processor_ms"):
            values |= {f"trial/{name}/{verb}": number for verb, number in value.items()}
    return {**values, **record["validation"]}


def record_failure(out: Path, words: tuple[str, ...], status: str, cause: str, details: str = "") -> None:
    """Leave why a trial did not finish."""
    failure = {"format": FORMAT, "words": words, "status": status, "cause": cause, "details": details}
    write_json(out / FAILURE, failure)


def require_free_space(out: Path, least_gb: float) -> None:
    """Refuse to start on a disk that is nearly full.

    Raises:
        ValueError: less than `least_gb` are free.
    """
    free = shutil.disk_usage(out).free / 1e9
    if free < least_gb:
        raise ValueError(
            f"{free:.2f} GB are free for {out}, less than trial.min_free_gb={least_gb}; make room, then start again."
        )


def help_text() -> str:
    from edgetam_pl.commands.main import field_docs

    keys = [f"  trial.{name}  {text}" for name, text in field_docs(TrialConfig).items()]
    return "\n".join([str(TrialConfig.__doc__), "", *keys, "", "Sweeps start trials: edgetam sweep --help, docs/sweeps.md."])


def _default_out(words: list[str]) -> list[str]:
    """Under W&B's agent a trial's folder is named by sweep and run, so that a resumed run finds it."""
    sweep, run = os.environ.get("WANDB_SWEEP_ID"), os.environ.get("WANDB_RUN_ID")
    if sweep and run and not any(word.startswith("out=") for word in words):
        return [f"out=runs/sweeps/{sweep}/trials/{run}"]
    return []
