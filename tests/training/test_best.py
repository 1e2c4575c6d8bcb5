"""weights.pt is the best by validation, last.pt the last; training ends when validation gets no better."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from trainings import changed_in, losses, training
from zoo import toy

from edgetam_pl.training import fit
from edgetam_pl.training.best import read_best, save_weights
from edgetam_pl.training.curves import STEP, read_lines
from edgetam_pl.training.validation import Validation
from edgetam_pl.weights import official_name

ONE = "{frames:2,steps:6,batch:1}"
TWO = "{frames:2,steps:3,batch:1},{frames:2,steps:3,batch:1}"
WORDS = ("validation.every=1", "validation.root=toy:7:1", "trainer.enable_progress_bar=false")


class Broken(Exception):
    """Stands in for whatever ends a run."""


def scored(monkeypatch: pytest.MonkeyPatch, scores: list[float]) -> None:
    """Validation finds these J&F, one after the other, and tracks nothing."""
    left = iter(scores)

    class Told:
        def compute(self) -> dict[str, float]:
            score = next(left, None)
            if score is None:
                raise Broken
            return {"j": score, "f": score, "jf": score}

    def start(self: Validation, device: torch.device) -> None:
        self.metric = Told()  # type: ignore[assignment]

    monkeypatch.setattr(Validation, "start", start)
    monkeypatch.setattr(Validation, "add", lambda self, model, index: None)


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["model"]


def equal(one: Path, other: Path) -> bool:
    ours, theirs = weights_of(one), weights_of(other)
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("ema", ["0", "0.5"])
def test_the_best_weights_are_kept(
    ema: str, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of step 2, as a training that ends there leaves them; with a moving average, the average."""
    words = ["stage.optim.schedule=constant", f"stage.ema={ema}"]
    long, short = tmp_path / "long", tmp_path / "short"
    scored(monkeypatch, [30, 50, 40, 50])
    fit.run(training(shards, long, *WORDS, *words, phases=ONE.replace("steps:6", "steps:4")))
    assert "the best by validation, of step 2, J&F 50.0; last.pt: the last" in capsys.readouterr().out
    assert json.loads((long / "run.json").read_text())["weights"].startswith("weights.pt: the best by validation, of step 2")
    fit.run(training(shards, short, *words, phases=ONE.replace("steps:6", "steps:2")))
    assert equal(long / "weights.pt", short / "weights.pt")
    assert not equal(long / "last.pt", short / "weights.pt")
    assert not (short / "last.pt").exists()
    assert "the last weights; nothing was validated" in capsys.readouterr().out


def test_training_ends_when_validation_gets_no_better_and_stays_ended(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The best of the first phase is still the best in the second, where it ends; nothing that is not a number is better."""
    cfg = training(shards, tmp_path, *WORDS, "validation.patience=3", phases=TWO)
    scored(monkeypatch, [50, 40, float("nan"), 45])
    fit.run(cfg)
    assert "ended at step 4" in capsys.readouterr().out
    assert list(losses(tmp_path)) == [1, 2, 3, 4]
    before = {name: (tmp_path / name).read_bytes() for name in ("weights.pt", "last.pt")}
    fit.run(cfg)
    assert "was ended before" in capsys.readouterr().out
    assert list(losses(tmp_path)) == [1, 2, 3, 4]
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_a_resumed_run_knows_what_was_best(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after step 3; what it found later is found again."""
    cfg = training(shards, tmp_path, *WORDS, "checkpoint_every=3", "validation.patience=3", phases=ONE)
    scored(monkeypatch, [30, 50, 40, 90])  # then the run breaks
    with pytest.raises(Broken):
        fit.run(cfg)
    scored(monkeypatch, [40, 60, 50])
    fit.run(cfg)
    assert json.loads((tmp_path / "best.json").read_text()) == {"step": 5, "jf": 60, "ended": None}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["validation.patience=2"], "there are none"),
        (["validation.times=2"], "validation has no clips"),
    ],
)
def test_what_cannot_be_watched_is_refused(words: list[str], said: str, shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        fit.run(training(shards, tmp_path, *words, phases=ONE))


def test_times_spreads_validations_evenly(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored(monkeypatch, [1, 2, 3])
    fit.run(training(shards, tmp_path, "validation.times=3", "validation.root=toy:7:1", phases=ONE))
    lines = [json.loads(line) for line in (tmp_path / "validation" / "jf.jsonl").read_text().splitlines()]
    assert [(line["progress/step"], line["val/jf"]) for line in lines] == [(2, 1), (4, 2), (6, 3)]


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"step": 3}'])
def test_a_damaged_record_of_the_best_is_named_with_the_cure(tmp_path: Path, text: str) -> None:
    (tmp_path / "best.json").write_text(text)
    with pytest.raises(ValueError, match=r"best\.json is damaged .* the best line of validation/jf\.jsonl"):
        read_best(tmp_path)


@pytest.mark.parametrize("at", [2, 3, 4, 6])
def test_a_run_that_ends_inside_a_validation_makes_up_for_it(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Inside a phase, at the end of one, at the beginning of the next and at the end of the run: the checkpoint of that step
    may be there already. Step 4's is the best."""
    scores = [30.0, 50.0, 40.0, 60.0, 20.0, 10.0]
    cfg = training(shards, tmp_path, *WORDS, "checkpoint_every=1", "validation.patience=5", phases=TWO)
    scored(monkeypatch, scores[: at - 1])
    with pytest.raises(Broken):
        fit.run(cfg)
    scored(monkeypatch, scores[at - 1 :])
    fit.run(cfg)
    lines = read_lines(tmp_path / "validation" / "jf.jsonl")
    assert [(line[STEP], line["val/jf"]) for line in lines] == [*enumerate(scores, start=1)]
    assert json.loads((tmp_path / "best.json").read_text()) == {"step": 4, "jf": 60, "ended": None}
    assert list(losses(tmp_path)) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("content", [None, b"", b"damaged"])
def test_best_weights_that_are_lost_are_said_to_be(tmp_path: Path, content: bytes | None) -> None:
    (tmp_path / "best.json").write_text('{"step": 7, "jf": 50.0, "ended": null}')
    (tmp_path / "checkpoints").mkdir()
    if content is not None:
        (tmp_path / "checkpoints" / "best.pt").write_bytes(content)
    model = toy()
    said = save_weights(model, tmp_path, {})
    assert "the last weights; the best by validation, of step 7, are lost: " in said
    kept = weights_of(tmp_path / "weights.pt")
    assert all(torch.equal(kept[official_name(name)], tensor) for name, tensor in model.state_dict().items())
    (tmp_path / "best.json").write_text('{"step": 7, "jf": "much", "ended": null}')
    with pytest.raises(ValueError, match=r"best\.json is damaged"):
        save_weights(model, tmp_path, {})


def test_other_clips_are_refused_since_scores_could_not_be_compared(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also lines of results that hold no score are not believed to be one."""
    cfg = training(shards, tmp_path, *WORDS, "checkpoint_every=1", phases=ONE.replace("steps:6", "steps:3"))
    scored(monkeypatch, [30])
    with pytest.raises(Broken):
        fit.run(cfg)
    (tmp_path / "validation" / "jf.jsonl").open("a").write('{"progress/step": 2}\n')
    scored(monkeypatch, [50, 40])
    with pytest.raises(ValueError, match=r"validated on other clips before \(1: .*than it would be now \(2: "):
        fit.run(changed_in(cfg, validation__root="toy:7:2"))
    fit.run(cfg)
    assert read_best(tmp_path) == {"step": 2, "jf": 50, "ended": None}
