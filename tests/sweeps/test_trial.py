"""One real trial, very small: it trains, is scored and measured, tells W&B (offline), and is never repeated."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import wandb
from lightning.pytorch.loggers import WandbLogger

from edgetam_pl.commands.compose import composed
from edgetam_pl.config import ShardsConfig
from edgetam_pl.data.build import run as build_shards
from edgetam_pl.io.stop import TRY_AGAIN
from edgetam_pl.sweeps import trial
from edgetam_pl.sweeps.outcomes import read_outcomes
from edgetam_pl.sweeps.report import write_report
from edgetam_pl.training import wandb_runs, wandb_sweeps

SMALL = (
    "model.image_size=64", "model.trunk_args={embed_dim:[8,16,24,32],depth:[1,1,1,1]}", "model.dim=32",
    "model.memory_dim=16", "model.memory_ffn=32", "model.decoder_mlp=32",
    "model.cross_attention_bias_init=0", "weights=null",
    "data.shuffle=4", "stage.phases=[{frames:2,steps:2,batch:1}]", "stage.optim.warmup=0", "stage.mask_size=32",
    "logger.log_every=1",
    "validation.every=2", "validation.root=toy:7:1", "logger.artifacts=true", "bench.repeats=1", "bench.warmup=0",
    "evaluate.dataset=toy", "evaluate.root=toy:8:1",
)  # fmt: skip


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    root = tmp_path_factory.mktemp("shards")
    for kind, frames in (("video", 4), ("image", 1)):
        said = ["source=toy", f"out={root / kind}", "clips=4", f"frames={frames}", "size=64", "processes=1"]
        build_shards(composed(ShardsConfig, command="shards", overrides=said)[0])
    shards = (f"data.sources.0.shards={root / 'video'}", f"data.sources.1.shards={root / 'image'}")
    return ("trial.format=1", "experiment=tab3b_global", "scale=toy", "latents=64/64", *SMALL, *shards)


@pytest.fixture(scope="module")
def finished(words: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sweep")
    os.environ["WANDB_MODE"] = "offline"
    assert trial.main([*words, f"out={out / 'trials' / 'one'}"]) == 0
    return out


def test_a_trial_leaves_accuracy_and_every_cost(finished: Path) -> None:
    record = json.loads((finished / "trials" / "one" / "trial.json").read_text())
    values = trial.flat(record)
    assert 0 <= values["trial/jf"] <= 100
    assert values["trial/memory_tokens"] == 4 + 4
    verbs = {"encode", "attend", "decode", "memorize"}
    for kind, total in (("gflops", "total"), ("latency_ms", "step"), ("processor_ms", "step")):
        assert {name.rpartition("/")[2] for name in values if name.startswith(f"trial/{kind}/")} == {*verbs, total}
    assert values["trial/parameters"] > 10_000
    assert values["val/jf"] == record["validation"]["val/jf"]
    assert record["conditions"]["num_sequences"] == 1
    assert [outcome.status for outcome in read_outcomes(finished)] == ["finished"]
    assert "finished" in write_report(finished).read_text()


def test_a_finished_trial_is_not_repeated(
    finished: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    started = time.perf_counter()
    assert trial.main([*words, f"out={finished / 'trials' / 'one'}"]) == 0
    assert "finished before" in capsys.readouterr().out
    assert time.perf_counter() - started < 60


def test_wandb_has_one_run_with_config_git_state_worst_clips_and_artifacts(finished: Path) -> None:
    out = finished / "trials" / "one"
    record = json.loads((out / "run.json").read_text())
    folders = sorted((out / "wandb").glob("offline-run-*"))
    assert len(folders) == 2  # the training, and the result that continues its run
    assert {folder.name.rpartition("-")[2] for folder in folders} == {record["run_id"]}
    assert list((folders[0] / "files" / "media").rglob("*worst clips*"))
    logged = told(out, b"trial/memory_tokens")
    for name in (b"latents", b"worst clips", b"weights.pt", record["git"].get("commit", "").encode()):
        assert name in logged


def test_a_failure_is_recorded_with_its_cause(words: tuple[str, ...], tmp_path: Path) -> None:
    out = tmp_path / "trials" / "bad"
    with pytest.raises(ValueError, match="nowhere"):
        trial.main([*words, "data.sources.0.shards=/nowhere", "logger=none", f"out={out}"])
    (outcome,) = read_outcomes(tmp_path)
    assert outcome.status == "failed"
    assert "nowhere" in outcome.cause


def test_no_room_is_said_before_anything_is_trained(words: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="make room"):
        trial.main([*words, "trial.min_free_gb=1e9", f"out={tmp_path / 'trials' / 'full'}"])
    assert not (tmp_path / "trials" / "full" / "run.json").exists()


def test_a_report_is_a_run_of_wandb_too(finished: Path) -> None:
    write_report(finished)
    wandb_sweeps.log_report(finished, name="sweep")
    logged = told(finished, b"sweep/pareto")
    assert b"sweep/table" in logged
    assert b"score against" in logged


def told(folder: Path, last: bytes) -> bytes:
    """What W&B's file holds once `last` is in it: its own process writes a moment after the run is finished."""
    for _ in range(200):
        logged = b"".join(path.read_bytes() for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")))
        if last in logged:
            return logged
        time.sleep(0.1)
    raise AssertionError(f"{last!r} was never written")


@pytest.mark.parametrize("trouble", [OSError(28, "No space left on device"), wandb.errors.CommError("no server")])
def test_wandbs_troubles_do_not_end_a_run(
    trouble: Exception,
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise trouble

    cfg = trial.plan((*words, f"out={tmp_path}")).train
    (tmp_path / "weights.pt").write_bytes(b"x")
    logger = wandb_runs.ForgivingLogger(save_dir=str(tmp_path), offline=True)
    for name in ("init", "Artifact", "finish"):
        monkeypatch.setattr(wandb, name, broken)
    monkeypatch.setattr(WandbLogger, "log_image", broken)
    monkeypatch.setattr(wandb_runs, "_PRINTED", set())
    assert wandb_runs.make_logger(cfg, tmp_path) is None
    for _ in range(2):
        logger.log_metrics({"val/jf": 1.0})
        logger.log_image("val/masks", [])
    wandb_runs.add_summary(cfg, {"trial/jf": 1.0})
    wandb_runs.keep_artifacts(cfg, logger)
    wandb_runs.finish(logger)
    assert capsys.readouterr().out.count("was not logged") == 6  # each is said once


def test_a_training_needs_no_wandb(words: tuple[str, ...], tmp_path: Path) -> None:
    """Without the package: said, and trained; curves and validation are on disk all the same."""
    script = (
        "import sys, edgetam_pl; sys.modules['wandb'] = None\n"
        "import lightning.pytorch.loggers.wandb as loggers; loggers._WANDB_AVAILABLE = False\n"
        "from edgetam_pl.training import fit\n"
        "from edgetam_pl.sweeps.trial import plan\n"
        "fit.run(plan(tuple(sys.argv[1:])).train)"
    )
    said = subprocess.run(
        [sys.executable, "-c", script, *words, "logger.artifacts=false", f"out={tmp_path}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "W&B: the run was not logged" in said.stdout
    assert (tmp_path / "weights.pt").is_file()
    assert (tmp_path / "validation" / "jf.jsonl").is_file()


SBATCH = """#!/bin/sh
echo '41;cluster'
echo sbatch "$@" >> {told}
trap 'exit 1' TERM USR2
touch {waits}
while ! [ -f {over} ]; do sleep 0.05; done
exit 1
"""


def test_a_job_of_slurm_is_cancelled_when_its_trial_is_told_to_stop(tmp_path: Path) -> None:
    """sbatch --wait only waits: without scancel the job would go on, with nobody to take its result."""
    told, waits, over = (tmp_path / name for name in ("told.txt", "waits", "over"))
    for name, text in {
        "sbatch": SBATCH.format(told=told, waits=waits, over=over),
        "scancel": f'#!/bin/sh\necho scancel "$@" >> {told}\ntouch {over}\n',
    }.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    script = (
        "import os, sys; from edgetam_pl.sweeps.trial import submitted; sys.exit(submitted(sys.argv[1:], dict(os.environ)))"
    )
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    process = subprocess.Popen([sys.executable, "-c", script, "sbatch", "slurm.sh"], env=environment)
    while not waits.exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    assert process.wait(timeout=60) == TRY_AGAIN
    assert told.read_text().splitlines()[:2] == ["sbatch slurm.sh", "scancel 41"]
