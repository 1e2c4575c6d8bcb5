"""The shipped file is the run's model in fp16, and its card holds the numbers of the evaluations."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import shipped_stub
import torch

import edgetam_pl as et
from edgetam_pl.commands import ship
from edgetam_pl.commands.compose import model_config
from edgetam_pl.evaluation.clips import Clip
from edgetam_pl.evaluation.reporting.page import write_report
from edgetam_pl.evaluation.vos import repeat_first_mask


def test_what_is_shipped_is_the_run_rounded_to_half_and_statistics_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shipped_stub.put_in_place(tmp_path, monkeypatch)
    content = torch.load(run, weights_only=True)
    statistics = next(name for name in content["model"] if name.endswith("running_var"))
    content["model"][statistics].fill_(1e-9)  # below what fp16 has
    card = {"model": asdict(model_config("lite")), "data": {"mine": "/home/me/shards"}}
    content |= {"edgetam_pl": card, "optimizer_states": [torch.zeros(1000, 1000)]}
    torch.save(content, run)
    ship.ship(run, tmp_path, scores={}, beside={})

    shipped = torch.load(tmp_path / "lite.pt", weights_only=True)
    assert shipped.keys() == {"model"}, "a card would name folders of the machine, and be refused by the demo at 128 px"
    assert (tmp_path / "lite.pt").stat().st_size <= ship.MOST_BYTES
    loaded, trained = et.load_model("lite", tmp_path / "lite.pt"), et.load_model("lite", run)
    for (name, tensor), original in zip(loaded.state_dict().items(), trained.state_dict().values(), strict=True):
        assert tensor.dtype == original.dtype, name
        expected = original.half().float() if original.ndim > 1 and original.is_floating_point() else original
        assert torch.equal(tensor, expected), name


def test_a_checkpoint_of_training_is_shipped_without_its_optimiser(tmp_path: Path) -> None:
    model = et.load_model("lite", "random")
    state = {f"student.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": state, "optimizer_states": [torch.zeros(8)]}, tmp_path / "last.ckpt")
    ship.ship(tmp_path / "last.ckpt", tmp_path / "out", scores={}, beside={})
    assert torch.load(tmp_path / "out" / "lite.pt", weights_only=True).keys() == {"state_dict"}
    assert et.load_model("lite", tmp_path / "out" / "lite.pt").image_size == 256


def test_the_cards_numbers_are_those_of_the_evaluations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = shipped_stub.put_in_place(tmp_path / "package", monkeypatch)
    masks = np.zeros((4, 1, 32, 32), bool)
    for t in range(4):
        masks[t, 0, 4 + t : 20 + t, 4:20] = True
    report = repeat_first_mask([Clip.of_arrays("a", np.zeros((4, 32, 32, 3), np.uint8), masks)])
    write_report(report, tmp_path / "scores" / "chair-mask")
    words = [
        "--scores",
        str(tmp_path / "scores"),
        "--beside",
        f"teacher={tmp_path / 'scores'}",
        "--out",
        str(tmp_path / "o"),
    ]
    assert ship.main([str(run), *words, "--note", "Two hours."]) == 0
    card = (tmp_path / "o" / "card.md").read_text()
    figure = f"{report.jf:.1f} ({report.j:.1f} / {report.f:.1f})"
    assert f"| chair-mask | 1 | 1 | {figure} | {figure} |" in card
    assert "| set and prompt | videos | objects | lite | teacher |" in card
    assert "Two hours." in card


def test_the_card_lists_the_trainings_that_led_to_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = shipped_stub.put_in_place(tmp_path / "package", monkeypatch)
    runs = {
        "images": (
            None,
            ["train", "stage=real_image", "logger=none", "out=runs/real/images", "trunk_weights=/home/me/lite0.pth"],
        ),
        "video": ("runs/real/images/weights.pt", ["train", "stage=real_video", "weights=runs/real/images/weights.pt"]),
    }
    for name, (begun_with, command) in runs.items():
        folder = tmp_path / "runs" / "real" / name
        folder.mkdir(parents=True)
        record = {"run_id": name, "command": command, "config": {"weights": begun_with, "out": f"runs/real/{name}"}}
        (folder / "run.json").write_text(json.dumps(record))
    (folder / "weights.pt").write_bytes(run.read_bytes())
    assert ship.main([str(folder / "weights.pt"), "--out", str(tmp_path / "o")]) == 0
    first, second = (
        "edgetam train stage=real_image out=runs/real/images trunk_weights=lite0.pth",
        "edgetam train stage=real_video weights=runs/real/images/weights.pt",
    )
    assert f"```sh\n{first}\n{second}\n```" in (tmp_path / "o" / "card.md").read_text()


def test_what_cannot_be_shipped_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = shipped_stub.put_in_place(tmp_path, monkeypatch)
    with pytest.raises(ValueError, match="holds no evaluation"):
        ship.main([str(run), "--scores", str(tmp_path), "--out", str(tmp_path)])
    with pytest.raises(ValueError, match=r"a\.weight holds values that are not finite in fp16 \(largest: 70000\)"):
        ship.halved({"a.weight": torch.full((2, 2), 7e4)})
    before = (tmp_path / "lite.pt").read_bytes()
    monkeypatch.setattr(ship, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match=r"at most 1,000 are shipped"):
        ship.ship(run, tmp_path, scores={}, beside={})
    assert (tmp_path / "lite.pt").read_bytes() == before
