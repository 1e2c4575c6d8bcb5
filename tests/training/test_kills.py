"""A training of three phases on two ranks is killed at random moments, again and again, and ends as the undisturbed one.

Three kills in the normal tests, with a stand-in for the export; `make test-kills` makes 50, with other moments at every
KILL_SEED, and exports packages.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from kills import Kill, Run
from trainings import SMALL

from edgetam_pl.io.stop import TRY_AGAIN
from edgetam_pl.training.curves import read_lines

KILLS, SEED = int(os.environ.get("KILLS", "3")), int(os.environ.get("KILL_SEED", "0"))
PHASES = (
    "{frames:2,steps:4,batch:1,distil:false},{frames:3,steps:3,batch:1,distil:false},"
    "{frames:4,steps:3,batch:1,freeze_encoder:true,distil:false}"
)

ALONE = ("data.workers=0", "logger.page=false")
"""Of the undisturbed run: what changes no value and takes time."""

QUICK = str(Path(__file__).resolve().parents[1] / "support" / "quick_export.py")
PROGRAM = (QUICK,) if KILLS < 10 else ("-m", "edgetam_pl.commands.main")
PAGE = ("logger.page=false",) if KILLS < 10 else ()
"""It is drawn at moments at which neither SIGKILL of the three kills comes."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked for in /proc")


@pytest.fixture(scope="module")
def words(shards: Path) -> list[str]:
    return [
        "model=toy", "stage=toy_video", *SMALL, "data=toy", f"data.sources.0.shards={shards / 'video'}",
        f"data.sources.1.shards={shards / 'image'}", "data.sources.1.weight=0.4", "data.shuffle=4", "data.workers=2",
        "stage.optim.warmup=0", f"stage.phases=[{PHASES}]", "stage.prompts.point_prob=0.5", "stage.max_objects=2",
        "logger=none", "logger.log_every=1", "logger.panels_every=0", "checkpoint_every=1", "trainer.devices=2",
        "trainer.strategy=ddp_find_unused_parameters_true", "trainer.enable_progress_bar=false",
        "export_on_end=true", *PAGE,
    ]  # fmt: skip


def curve(out: Path) -> list[dict[str, Any]]:
    """What was trained, without what depends on the clock."""
    return [
        {key: value for key, value in line.items() if not key.startswith("speed/")}
        for line in read_lines(out / "curves.jsonl")
    ]


def packages(out: Path) -> list[tuple[str, str]]:
    """What was exported: names and digests."""
    manifest = json.loads((out / "packages" / "manifest.json").read_text())
    return [(part["name"], part["sha256"]) for part in manifest["parts"]]


def legal(kill: Kill, status: int) -> bool:
    """0: it was done before the signal counted. A run that was told to stop says so; one that was killed never does."""
    if kill.number == signal.SIGKILL:
        return status not in (0, TRY_AGAIN)
    return status in (0, TRY_AGAIN)


def test_a_training_that_is_killed_again_and_again_ends_as_the_undisturbed_one(words: list[str], tmp_path: Path) -> None:
    rng = random.Random(SEED)
    whole = Run([*words, *ALONE], tmp_path / "whole", "lightning", PROGRAM)
    assert whole.end() == 0, whole.log.read_text()[-3000:]
    assert whole.left() == []
    chosen = [
        Kill(signal.SIGKILL, "training", "launcher", 0.0),
        Kill(signal.SIGUSR1, "boundary", "rank", 0.0),
        Kill(signal.SIGKILL, "export", "launcher", 0.0),
        *(Kill.drawn(rng) for _ in range(KILLS - 3)),
    ]
    counted, number = 0, 0
    while counted < len(chosen):
        number += 1
        out = tmp_path / f"killed{number}"
        status: int | None = None
        while status != 0 and counted < len(chosen):
            kill, by = chosen[counted], ("torchrun", "lightning")[counted % 2]
            run = Run(words, out, by, PROGRAM)
            status = run.suffer(kill)
            said = f"{counted + 1}. {kill.number.name}, {kill.whom}, {kill.moment} + {kill.later:.1f} s, {by}: {status}"
            print(said, flush=True)
            if status is None:  # the run was over before the moment came
                status = run.end()
                assert status == 0, f"{said}\n{run.log.read_text()[-3000:]}"
            else:
                counted += 1
                assert legal(kill, status), f"{said}\n{run.log.read_text()[-3000:]}"
            assert run.left() == [], said
        last = Run(words, out, "lightning", PROGRAM)
        assert last.end() == 0, last.log.read_text()[-3000:]
        assert last.left() == []
        assert curve(out) == curve(tmp_path / "whole"), said
        ours, theirs = (
            torch.load(folder / "weights.pt", weights_only=True)["model"] for folder in (out, tmp_path / "whole")
        )
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs), said
        assert packages(out) == packages(tmp_path / "whole"), said
        assert not list((out / "checkpoints").glob(".*")), said
        assert not list(out.glob(".*")), said
