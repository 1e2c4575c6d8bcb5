"""`edgetam bench`: a card for people, JSON on the last line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgetam_pl.commands.bench import MEASURED, run, summary
from edgetam_pl.commands.compose import composed
from edgetam_pl.config import BenchConfig


def configured(*overrides: str) -> BenchConfig:
    return composed(BenchConfig, command="bench", overrides=["model=toy", "repeats=3", "warmup=1", *overrides])[0]


def test_the_last_line_is_the_result(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    result = run(configured("objects=[1,3]", f"out={tmp_path}/bench.json"))
    printed = capsys.readouterr().out.splitlines()
    assert json.loads(printed[-1]) == result
    assert json.loads((tmp_path / "bench.json").read_text()) == result
    assert list(result["objects"]) == ["1", "3"]
    for verbs in result["objects"].values():
        assert list(verbs) == list(MEASURED)
        assert all(0 < verb["p50"] <= verb["p95"] <= verb["max"] for verb in verbs.values())
    assert {"device", "torch", "threads", "date"} <= result["machine"].keys()
    assert any("frames/s" in line for line in printed)


@pytest.mark.parametrize("overrides", [["dtype=bfloat16"], ["fuse=false", "channels_last=false"], ["batch_objects=false"]])
def test_every_setting_runs(overrides: list[str]) -> None:
    result = run(configured("objects=[2]", *overrides))
    assert result["objects"]["2"]["step"]["p50"] > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "int8"}, "dtype is int8"),
        ({"objects": []}, "objects is"),
        ({"objects": [0]}, "objects is"),
        ({"repeats": 0}, "repeats is 0"),
        ({"device": "abacus"}, "device is abacus"),
        ({"compile": "everything"}, "none, attention, all"),
        ({"cuda_graphs": True}, "CUDA graphs need"),
        ({"weights": "nowhere.pt"}, "nowhere.pt"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes: dict[str, Any], message: str) -> None:
    cfg = configured()
    for name, value in changes.items():
        setattr(cfg, name, value)
    with pytest.raises(ValueError, match=message):
        run(cfg)


def test_the_95th_percentile_is_of_the_measured_times() -> None:
    assert summary([float(n) for n in range(1, 101)]) == {"p50": 50.5, "p95": 95.0, "max": 100.0}
    assert summary([3.0]) == {"p50": 3.0, "p95": 3.0, "max": 3.0}
