"""torchrun with c10d and --max-restarts: what is killed is started again and repeats no step; what refuses is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from smallest import SMALL

from edgetam_pl.commands.compose import composed
from edgetam_pl.config import TrainConfig
from edgetam_pl.io.resources import CONFIGS, shipped
from edgetam_pl.io.stop import TRY_AGAIN
from edgetam_pl.training.check import accumulation, in_this_world, ranks
from edgetam_pl.training.curves import STEP, read_lines

TORCHRUN = [sys.executable, "-m", "edgetam_pl.training.torchrun", "--standalone", "--nproc-per-node=2", "--max-restarts=2"]


@pytest.mark.parametrize(("status", "starts"), [(TRY_AGAIN, 1), (2, 1), (1, 3)])
def test_only_what_may_help_is_started_again(tmp_path: Path, status: int, starts: int) -> None:
    """75 has saved and 2 refuses its command; 1 may be the loss of a peer."""
    (tmp_path / "rank.py").write_text(
        "import os, sys\n"
        f"open({str(tmp_path)!r} + '/started' + os.environ['TORCHELASTIC_RESTART_COUNT'], 'a')\n"
        f"sys.exit({status})\n"
    )
    done = subprocess.run([*TORCHRUN, str(tmp_path / "rank.py")], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == (TRY_AGAIN if status == TRY_AGAIN else 1), done.stderr
    assert len(list(tmp_path.glob("started*"))) == starts  # one of the two may fall to the other's end before it is here


def test_a_rank_that_torchrun_ends_after_another_has_saved_is_no_failure(tmp_path: Path) -> None:
    """Rank 1 was told to stop and is done; rank 0, as good as done, falls to the SIGTERM that torchrun then sends."""
    (tmp_path / "rank.py").write_text(
        "import os, signal, sys, time\nsignal.signal(signal.SIGTERM, signal.SIG_DFL)\n"
        f"sys.exit({TRY_AGAIN}) if os.environ['RANK'] == '1' else time.sleep(60)\n"
    )
    done = subprocess.run([*TORCHRUN, str(tmp_path / "rank.py")], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == TRY_AGAIN, done.stderr


MEET = """
import os, signal, sys
import torch.distributed as dist
dist.init_process_group("gloo")
dist.barrier()
open(sys.argv[1] + "/met" + os.environ["RANK"], "a").write("x")
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()
dist.destroy_process_group()
"""


def test_ranks_that_are_started_again_find_one_another(tmp_path: Path) -> None:
    (tmp_path / "rank.py").write_text(MEET)
    command = [*TORCHRUN, str(tmp_path / "rank.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [(tmp_path / f"met{rank}").read_text() for rank in range(2)] == ["xx", "xx"]


@pytest.mark.slow
def test_a_rank_that_is_killed_takes_the_run_back_to_its_last_checkpoint_and_no_further(
    shards: Path, tmp_path: Path
) -> None:
    out, steps = tmp_path / "run", 16
    words = [
        "model=toy", "stage=toy_image", *SMALL, "data=toy_images", f"data.sources.0.shards={shards / 'image'}",
        "data.workers=0", "stage.optim.warmup=0", "stage.optim.cooldown=0", "stage.max_objects=2", "logger=none",
        f"stage.phases=[{{frames: 1, steps: {steps}, batch: 1}}]", "logger.log_every=1", "logger.panels_every=0",
        "logger.page=false",
        "checkpoint_every=4", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.enable_progress_bar=false",
        "trainer.strategy=ddp_find_unused_parameters_true", f"out={out}",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*TORCHRUN, "-m", "edgetam_pl.commands.main", "train", *words]
    log = tmp_path / "log.txt"
    with log.open("wb") as file:
        launcher = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
    while len(read_lines(out / "curves.jsonl")) < 6:
        assert launcher.poll() is None, log.read_text()[-3000:]
        time.sleep(0.02)
    found = subprocess.run(["pgrep", "-P", str(launcher.pid), "-f", "commands.main train"], capture_output=True, text=True)
    os.kill(int(found.stdout.split()[-1]), signal.SIGKILL)
    assert launcher.wait(timeout=900) == 0, log.read_text()[-3000:]
    assert [line[STEP] for line in read_lines(out / "curves.jsonl")] == list(range(1, steps + 1))


def test_an_elastic_world_is_accepted_and_keeps_its_optimiser_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for four machines of two; two have come. total_batch is met by twice the accumulation."""
    words = ["stage=toy_image", "trainer.devices=2", "trainer.num_nodes=4"]
    words += ["stage.phases=[{frames: 1, steps: 60, batch: 1, total_batch: 16}]"]
    cfg = composed(TrainConfig, command="train", overrides=words)[0]
    assert (ranks(cfg), accumulation(cfg, 0)) == (8, 2)
    assert in_this_world(cfg) is cfg
    for key, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(key, value)
    here = in_this_world(cfg)
    assert (ranks(here), accumulation(here, 0)) == (4, 4)
    monkeypatch.setenv("WORLD_SIZE", "6")
    with pytest.raises(ValueError, match="does not divide"):  # six ranks do not divide 16: named
        accumulation(in_this_world(cfg), 0)


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ("1", ["--standalone"]),
        ("2:4", ["--nnodes=2:4", "--rdzv-backend=c10d", "--rdzv-endpoint=n0:29500", "trainer.num_nodes=4"]),
    ],
)
def test_the_script_starts_one_machine_or_an_elastic_set_of_them(tmp_path: Path, nodes: str, words: list[str]) -> None:
    (tmp_path / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "python").chmod(0o755)
    environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "NODES": nodes, "HEAD": "n0:29500", "GPUS": "2"}
    script = str(shipped(CONFIGS) / "launcher" / "torchrun.sh")
    said = subprocess.run(["bash", script, "out=x"], env=environment, capture_output=True, text=True, check=True).stdout
    assert {*words, "--max-restarts=3", "--nproc-per-node=2", "trainer.devices=2", "out=x"} <= set(said.splitlines())
