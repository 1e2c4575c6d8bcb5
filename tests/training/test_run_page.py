"""A page for a run that opens without a network: what it shows follows from the files of the run."""

from __future__ import annotations

import csv
import doctest
import json
import re
from pathlib import Path

import pytest
from trainings import training

from edgetam_pl.training import fit, run_page, wandb_runs
from edgetam_pl.training.curves import read_lines
from edgetam_pl.training.tensorboard import ByStep

WORDS = ("logger.page=true", "logger=csv", "trainer.enable_progress_bar=false")


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "mine"
    words = ["validation.every=2", "validation.root=toy:7:2", "logger.panels_every=2", *WORDS]
    fit.run(training(shards, out, *words, phases="{frames:2,steps:3,batch:1},{frames:3,steps:1,batch:1}"))
    return out


def test_the_page_shows_what_happened(run: Path) -> None:
    page = (run / "report.html").read_text()
    for words in (
        "the best by validation, of step",
        "J&amp;F of validation",
        "first mask repeated",
        "share of each weighted term",
        "gradient norm",
        "learning rate",
        "clips a second",
        "masks at step 4",
        "2 frames, 3 steps of 1 clips a rank",
        "toy-7",
        "No sample was left out",
    ):
        assert words in page, words
    assert 0 < json.loads((run / "validation" / "repeat.json").read_text())["jf"] <= 100


def test_the_page_asks_no_other_host_and_is_no_longer_live(run: Path) -> None:
    page = (run / "report.html").read_text()
    assert not re.findall(r"""(?:src|href|action)\s*=\s*["'](?!data:|#)[^"']*["']|url\((?!data:)|@import""", page)
    assert "http-equiv" not in page
    assert 'http-equiv="refresh"' in run_page.write_page(run, live=True).read_text()


def test_the_norm_is_that_before_clipping(run: Path) -> None:
    norms = [line["train/gradient_norm"] for line in read_lines(run / "curves.jsonl")]
    assert len(norms) == 4
    assert max(norms) > 1.0  # stage.optim.clip_norm of the toys


def test_a_table_has_a_row_a_step(run: Path) -> None:
    rows = list(csv.DictReader((run / "curves.csv").open()))
    assert [float(row["progress/step"]) for row in rows] == [1, 2, 3, 4]
    assert [bool(row["val/jf"]) for row in rows] == [False, True, False, True]
    assert float(rows[0]["train/total"]) == read_lines(run / "curves.jsonl")[0]["train/total"]


def test_faults_of_the_data_are_on_the_page(tmp_path: Path) -> None:
    line = {"progress/step": 1, "train/total": 2.0, "data/skipped/undecodable image": 3.0}
    (tmp_path / "curves.jsonl").write_text(json.dumps(line) + "\n")
    assert "undecodable image" in run_page.write_page(tmp_path).read_text()


def test_an_empty_run_has_a_page(tmp_path: Path) -> None:
    assert "No step is logged yet" in run_page.write_page(tmp_path).read_text()


def test_what_cannot_be_drawn_does_not_end_a_training(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(out: Path, *, live: bool) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(run_page, "write_page", fail)
    fit.run(training(shards, tmp_path, *WORDS, phases="{frames:2,steps:1,batch:1}"))
    assert "was not written (OSError: no space left); the run goes on" in capsys.readouterr().out


def test_thinned() -> None:
    assert not doctest.testmod(run_page).failed


def test_stages_of_one_pipeline_belong_together(shards: Path, tmp_path: Path) -> None:
    one = "{frames:2,steps:1,batch:1}"
    first = wandb_runs.run_record(training(shards, tmp_path / "stage1", phases=one), tmp_path / "stage1")
    words = [f"weights={tmp_path / 'stage1' / 'weights.pt'}"]
    second = wandb_runs.run_record(training(shards, tmp_path / "stage2", *words, phases=one), tmp_path / "stage2")
    words = [f"weights={tmp_path / 'stage2' / 'weights.pt'}"]
    third = wandb_runs.run_record(training(shards, tmp_path / "tune", *words, phases=one), tmp_path / "tune")
    other = wandb_runs.run_record(training(shards, tmp_path / "other", phases=one), tmp_path / "other")
    assert first["pipeline"] == second["pipeline"] == third["pipeline"] == f"stage1-{first['run_id']}"
    assert other["pipeline"] != first["pipeline"]
    assert wandb_runs.tags_of(training(shards, tmp_path, phases=one)) == ["toy", "video", "no teacher", "toy_images"]


def test_tensorboard_counts_steps_of_the_whole_run(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[dict[str, float], int | None]] = []
    monkeypatch.setattr(ByStep.__base__, "log_metrics", lambda self, metrics, step=None: seen.append((metrics, step)))
    ByStep.log_metrics(object.__new__(ByStep), {"progress/step": 7.0, "train/total": 1.0}, 2)
    assert seen == [({"train/total": 1.0}, 7)]


def test_tensorboard_that_is_not_there_is_named(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgetam_pl.training.tensorboard.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install tensorboard"):
        fit.run(training(shards, tmp_path, "logger=tensorboard", phases="{frames:2,steps:1,batch:1}"))


def test_a_page_is_drawn_once_for_what_has_happened(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the first step, at the end of each phase, and not again within a minute because another phase has begun."""
    drawn: list[tuple[int, bool]] = []
    write = run_page.write_page

    def noted(out: Path, *, live: bool = False) -> Path:
        drawn.append((len(read_lines(out / "curves.jsonl")), live))
        return write(out, live=live)

    monkeypatch.setattr(run_page, "write_page", noted)
    phases = "{frames:2,steps:2,batch:1,distil:false},{frames:2,steps:2,batch:1,distil:false}"
    fit.run(training(shards, tmp_path, "logger.page=true", phases=phases))
    assert drawn == [(1, True), (2, True), (4, False)]
