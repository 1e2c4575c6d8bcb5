"""What comes with the package: which model is meant when none is named, and the real weights where this copy has them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import shipped_stub
import torch

import edgetam_pl as et
from edgetam_pl.build import load_model
from edgetam_pl.commands.compose import composed, model_config
from edgetam_pl.config import EvaluateConfig, TrainConfig
from edgetam_pl.interactive.example_clip import ExampleClip
from edgetam_pl.io import shipped
from edgetam_pl.io.label_png import read_labels

needs_the_file = pytest.mark.skipif(not shipped.is_here(), reason=f"this copy holds no shipped weights ({shipped.WEIGHTS})")


def test_the_shipped_tracker_is_the_default_and_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped_stub.put_in_place(tmp_path, monkeypatch)
    for model, given in ((None, None), ("lite", None), (None, "shipped"), ("lite", "shipped"), (None, "")):
        assert shipped.resolve(model, given) == ("lite", str(tmp_path / "lite.pt"))
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "J&F given the first mask: davis16_dev 62.2" in said
        assert "CC BY-NC 4.0" in said
        assert "--weights edgetam" in said
    model = et.load_model()
    assert model.image_size == 256
    assert next(model.parameters()).dtype == torch.float32


def test_what_is_named_is_taken() -> None:
    assert shipped.resolve(None, "edgetam.pt") == (None, "edgetam.pt"), "the file may record its model"
    assert shipped.resolve("toy", "random") == ("toy", "random")
    with pytest.raises(ValueError, match=r"No weights were given for toy\. .*--weights random"):
        shipped.resolve("toy", None)
    with pytest.raises(ValueError, match="The shipped weights are of lite"):
        shipped.resolve("toy", "shipped")


def test_a_copy_without_them_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped_stub.take_away(tmp_path, monkeypatch)
    words = r"holds no shipped weights \(.*nothing/lite\.pt is missing\).*edgetam\.pt.*random"
    with pytest.raises(ValueError, match=words):
        et.load_model()
    with pytest.raises(ValueError, match=words):
        composed(EvaluateConfig, command="evaluate", overrides=["weights=shipped"])
    assert not shipped.is_here()


def test_one_word_names_them_in_every_composed_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped_stub.put_in_place(tmp_path, monkeypatch)
    cfg, _ = composed(EvaluateConfig, command="evaluate", overrides=["weights=shipped", "model.image_size=320"])
    assert (cfg.model.name, cfg.model.image_size, cfg.weights) == ("lite", 320, str(tmp_path / "lite.pt"))
    taught, _ = composed(TrainConfig, command="train", overrides=["model=lite", "teacher_weights=shipped"])
    assert taught.teacher is not None
    assert (taught.teacher.name, taught.teacher_weights, taught.weights) == ("lite", str(tmp_path / "lite.pt"), None)
    named, _ = composed(EvaluateConfig, command="evaluate", overrides=["weights=shipped", "model=toy"])
    assert named.model.name == "toy"  # what does not fit is refused when it is loaded


def test_the_example_is_a_real_clip_with_masks() -> None:
    clip = et.example_clip()
    frames, masks = clip
    assert frames.shape == (60, 200, 300, 3)
    assert masks.shape == (60, 1, 200, 300)
    assert masks.any(axis=(2, 3)).all()
    x, y = clip.click
    assert masks[0, 0, int(y), int(x)]
    assert et.open_video(clip.folder).count == 60


def test_every_shipped_picture_is_attributed_and_the_data_are_small() -> None:
    for folder, licence in ((shipped.EXAMPLE, "CC BY 4.0"), (shipped.PICTURES, "CC BY 2.0")):
        text = (folder / "ATTRIBUTION.md").read_text()
        assert licence in text
        assert "Changed:" in text
        assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 1_500_000
    pictures = sorted(path.stem for path in (shipped.PICTURES / "images").iterdir())
    assert len(pictures) >= 20
    rows = [line for line in (shipped.PICTURES / "ATTRIBUTION.md").read_text().splitlines() if line.startswith("| 0")]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == pictures
    assert all("flickr.com" in row for row in rows)


@needs_the_file
def test_the_shipped_file_is_small_and_its_card_speaks_of_it() -> None:
    assert shipped.WEIGHTS.stat().st_size <= 10_000_000
    facts = shipped.facts()
    assert facts["bytes"] == shipped.WEIGHTS.stat().st_size
    assert facts["sha256"] in shipped.CARD.read_text()
    for row in facts["scores"].values():
        assert f"{row['jf']:.1f} ({row['j']:.1f} / {row['f']:.1f})" in shipped.CARD.read_text()


@needs_the_file
def test_the_weights_may_be_used_at_another_image_size() -> None:
    """The demo's teacher is this tracker at 128 px."""
    assert torch.load(shipped.WEIGHTS, weights_only=True).keys() == {"model"}
    assert load_model(model_config("lite", "model.image_size=128"), shipped.WEIGHTS).image_size == 128


@needs_the_file
def test_tracking_the_example_is_worth_more_than_repeating_the_first_mask() -> None:
    """On the frames before the chair has turned back to its first pose, where its first mask is right without tracking."""
    clip: ExampleClip = et.example_clip()
    truth = clip.masks[:36, 0]
    session = et.Session(et.load_model(), et.open_video(clip.frames))
    session.prompt(1, 0, mask=torch.from_numpy(truth[0]))
    answers = np.stack([answer.masks[0].numpy() for answer in session.propagate(max_frames=len(truth))])
    assert _iou(answers, truth) > _iou(np.repeat(truth[:1], len(truth), axis=0), truth)


@needs_the_file
def test_a_click_on_the_example_is_answered_where_it_was_made() -> None:
    """It may mean the back of the chair or all of it; not the chair beside it, and not the floor."""
    clip: ExampleClip = et.example_clip()
    session = et.Session(et.load_model(), et.open_video(clip.frames))
    session.prompt(1, 0, points=[clip.click])
    (answer,) = (found.masks[0].numpy() for found in session.propagate(max_frames=1))
    assert answer[round(clip.click[1]), round(clip.click[0])]
    assert (answer & clip.masks[0, 0]).sum() > 0.9 * answer.sum()


@needs_the_file
def test_clicks_on_two_objects_of_a_picture_tell_them_apart(tmp_path: Path) -> None:
    """Each answer is more like the object that was clicked than like the other, in pictures with two large ones. A tracker
    that finds what is conspicuous, whatever is clicked, scores as high on videos with one object and fails here."""
    model, right = et.load_model(), []
    for picture in sorted((shipped.FOLDER / "pictures" / "images").iterdir()):
        labels = read_labels(shipped.FOLDER / "pictures" / "masks" / f"{picture.stem}.png")
        areas = np.bincount(labels.ravel(), minlength=256)[1:255]
        objects = [labels == 1 + int(n) for n in np.argsort(-areas, kind="stable")[:2] if areas[n] > 0.02 * labels.size]
        if len(objects) < 2:
            continue
        folder = tmp_path / picture.stem
        folder.mkdir()
        (folder / f"0{picture.suffix}").write_bytes(picture.read_bytes())
        for clicked, other in (objects, objects[::-1]):
            session = et.Session(model, et.open_video(folder))
            session.prompt(1, 0, points=[_deepest(clicked)])
            (answer,) = (found.masks[0].numpy() for found in session.propagate())
            right.append(_overlap(answer, clicked) > _overlap(answer, other))
    assert len(right) >= 20
    assert np.mean(right) > 0.9


def _deepest(mask: np.ndarray) -> tuple[int, int]:
    """(x, y) of the place that is farthest from the object's edge."""
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    return int(x), int(y)


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


def _iou(answers: np.ndarray, truth: np.ndarray) -> float:
    """Mean over the frames after the first."""
    return float(np.mean([_overlap(a, m) for a, m in zip(answers[1:], truth[1:], strict=True)]))
