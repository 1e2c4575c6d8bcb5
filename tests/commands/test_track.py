"""`edgetam track`: what it writes is what a session driven by hand gives."""

from __future__ import annotations

import doctest
import json
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import shipped_stub
import torch
from pycocotools import mask as coco

import edgetam_pl.commands.prompt_flags
import edgetam_pl.interactive.session
from edgetam_pl.build import build_model
from edgetam_pl.commands.compose import composed
from edgetam_pl.commands.prompt_flags import read_prompts
from edgetam_pl.commands.track import load_tracker, main, options_of
from edgetam_pl.config import BenchConfig
from edgetam_pl.interactive.options import SessionOptions
from edgetam_pl.interactive.session import Session
from edgetam_pl.io.frames import FrameMasks
from edgetam_pl.io.label_png import read_labels, write_labels
from edgetam_pl.io.video import VideoWriter, open_video
from edgetam_pl.weights import save_official

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools 2 and numpy 2

TOY = ("--model", "toy", "--quiet", "--threads", "1")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An official file of the toy model whose objects are present: with an empty mask any two results would agree."""
    torch.manual_seed(3)
    model = build_model(composed(BenchConfig, command="bench", overrides=["model=toy"])[0].model)
    with torch.no_grad():
        for name, parameter in model.mask_decoder.named_parameters():
            if name.endswith("presence_head.layers.2.bias"):
                parameter.fill_(5.0)
    path = tmp_path_factory.mktemp("weights") / "toy.pt"
    save_official(model, path)
    return path


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A disk that moves over noise, 7 frames of 96 x 64."""
    rng = np.random.default_rng(0)
    with VideoWriter(tmp_path / "clip.mp4", size=(64, 96)) as writer:
        for t in range(7):
            frame = rng.integers(0, 60, (64, 96, 3), dtype=np.uint8)
            writer.write(cv2.circle(frame, (20 + 6 * t, 30), 9, (200, 120, 40), -1))
    return tmp_path / "clip.mp4"


def decoded(entry: dict[str, dict[str, object]]) -> np.ndarray:
    return np.asarray(coco.decode(entry["rle"]), dtype=bool)  # type: ignore[arg-type]


def check(out: Path, expected: list[FrameMasks]) -> None:
    """Label maps and RLEs under `out` are those of a session."""
    record = json.loads(out.with_suffix(".json").read_text())
    assert [entry["frame"] for entry in record["frames"]] == [answer.frame for answer in expected]
    varied = False
    for entry, answer in zip(record["frames"], expected, strict=True):
        labels = read_labels(out.with_name(f"{out.stem}_masks") / f"{answer.frame:05d}.png")
        assert np.array_equal(labels, answer.label_map().numpy())
        assert sorted(entry["objects"]) == sorted(map(str, answer.objects))
        for number, mask in zip(answer.objects, answer.masks.numpy(), strict=True):
            assert np.array_equal(decoded(entry["objects"][str(number)]), mask)
            varied |= bool(mask.any()) and not bool(mask.all())
    assert varied


def test_the_command_gives_what_a_session_gives_on_a_real_video(shared: Path, weights: Path, tmp_path: Path) -> None:
    video, out = shared / "data" / "videos" / "01_dog.mp4", tmp_path / "dog.mp4"
    words = ["--point", "640,360", "--negative", "30,30", "--object", "2", "--box", "200,150,700,600@3"]
    assert main([str(video), *words, "--weights", str(weights), "--out", str(out), "--frames", "6", *TOY]) == 0

    options = SessionOptions(channels_last=True)
    session = Session(load_tracker("toy", str(weights)), open_video(video), options=options)
    session.prompt(1, 0, points=[(640, 360), (30, 30)], labels=[1, 0])
    session.prompt(2, 3, box=(200, 150, 700, 600))
    check(out, list(session.propagate(max_frames=6)))

    drawn = open_video(out)
    assert (drawn.size, drawn.count) == ((720, 1280), 6)


def test_object_2_added_at_frame_5_leaves_object_1_unchanged_bit_for_bit(shared: Path, weights: Path) -> None:
    frames = shared / "data" / "videos" / "02_cups.mp4"
    answers = []
    for late in (False, True):
        session = Session(load_tracker("toy", str(weights)), open_video(frames))
        session.prompt(1, 0, points=[(640, 360)])
        if late:
            session.prompt(2, 5, points=[(300, 300)])
        answers.append([out.logits[0] for out in session.propagate(max_frames=8)])
    assert all(torch.equal(alone, together) for alone, together in zip(*answers, strict=True))


def test_both_ways_covers_the_frames_before_the_prompt(clip: Path, weights: Path) -> None:
    for both in (False, True):
        out = clip.with_name(f"both_{both}.mp4")
        flags = ["--both-ways"] if both else []
        main([str(clip), "--point", "40,30@4", "--weights", str(weights), "--out", str(out), *flags, *TOY])
        record = json.loads(out.with_suffix(".json").read_text())
        assert [entry["frame"] for entry in record["frames"]] == list(range(0 if both else 4, 7))
        assert len(list(out.with_name(f"{out.stem}_masks").glob("*.png"))) == 7
        assert open_video(out).count == 7


def test_a_palette_png_prompts_each_object_in_it(clip: Path, weights: Path) -> None:
    labels = np.zeros((64, 96), np.uint8)
    labels[20:40, 10:30] = 3
    labels[5:15, 60:80] = 7
    write_labels(clip.with_name("first.png"), labels)
    out = clip.with_name("out.mp4")
    main([str(clip), "--mask", str(clip.with_name("first.png")), "--weights", str(weights), "--out", str(out), *TOY])
    session = Session(load_tracker("toy", str(weights)), open_video(clip), options=SessionOptions(channels_last=True))
    session.prompt(3, 0, mask=labels == 3)
    session.prompt(7, 0, mask=labels == 7)
    check(out, list(session.propagate()))


def test_prompts_are_read_in_order_and_joined_by_frame() -> None:
    said = [(1, "point", "10,20"), (1, "negative", "5.5,6"), (2, "box", "0,0,9,9@5"), (1, "point", "1,2@3")]
    first, second, third = read_prompts(said)
    assert (first.object_id, first.frame, first.points, first.labels) == (1, 0, ((10, 20), (5.5, 6)), (1, 0))
    assert (second.object_id, second.frame, second.points) == (1, 3, ((1, 2),))
    assert (third.object_id, third.frame, third.box) == (2, 5, (0, 0, 9, 9))


BAD = {
    "no weights": (["--point", "9,9"], "--weights random to try"),
    "another architecture": (["--point", "9,9", "--weights", "WEIGHTS", "--model", "toy_teacher"], "toy.pt"),
    "no such model": (["--point", "9,9", "--weights", "random", "--model", "edgetan"], "edgetan"),
    "no such file": (["--point", "9,9", "--weights", "nowhere.pt"], "nowhere.pt"),
    "nothing to follow": (["--weights", "random"], "nothing to follow"),
    "a click outside": (["--point", "900,9", "--weights", "random"], "lies outside the 96 x 64 frame"),
    "a click that is none": (["--point", "9;9", "--weights", "random"], "expected x,y"),
    "a box with no area": (["--box", "9,9,9,20", "--weights", "random"], "has no area"),
    "a box of three": (["--box", "9,9,9", "--weights", "random"], "expected x0,y0,x1,y1"),
    "a frame beyond the end": (["--point", "9,9@70", "--weights", "random"], "There is no frame 70"),
    "a mask of another size": (["--mask", "SMALL", "--weights", "random"], "Give a mask of that size"),
    "an empty mask": (["--mask", "EMPTY", "--weights", "random"], "is empty"),
    "no mask": (["--mask", "nowhere.png", "--weights", "random"], "There is no mask at nowhere.png"),
    "no frames": (["--point", "9,9", "--weights", "random", "--frames", "0"], "at least 1"),
    "no such device": (["--point", "9,9", "--weights", "random", "--device", "abacus"], "device is abacus"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_and_nothing_is_written(case: str, clip: Path, weights: Path) -> None:
    words, message = BAD[case]
    write_labels(clip.with_name("small.png"), np.ones((8, 8), np.uint8))
    write_labels(clip.with_name("empty.png"), np.zeros((64, 96), np.uint8))
    places = {"WEIGHTS": weights, "SMALL": clip.with_name("small.png"), "EMPTY": clip.with_name("empty.png")}
    before = sorted(clip.parent.iterdir())
    with pytest.raises(ValueError, match=message):
        main([str(clip), *TOY, *(str(places.get(word, word)) for word in words), "--out", str(clip.with_name("out.mp4"))])
    assert sorted(clip.parent.iterdir()) == before


def test_without_weights_the_shipped_tracker_follows_the_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["example", "--point", "115,63", "--out", str(tmp_path / "chair.mp4"), "--frames", "2", "--quiet"]
    shipped_stub.take_away(tmp_path, monkeypatch)
    with pytest.raises(ValueError, match="holds no shipped weights"):
        main(words)
    assert not list(tmp_path.iterdir())
    shipped_stub.put_in_place(tmp_path / "package", monkeypatch)
    assert main(words) == 0
    record = json.loads((tmp_path / "chair.json").read_text())
    assert (record["model"], record["weights"], record["size"]) == ("lite", "lite.pt", [200, 300])
    assert capsys.readouterr().err.count("the shipped tracker lite") == 1


def test_a_video_that_cannot_be_decoded_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("text.mp4", "cannot be decoded"),
        ("empty", "holds no images"),
        ("none.mp4", "There is no video"),
    ):
        with pytest.raises(ValueError, match=message):
            main([str(tmp_path / name), "--point", "1,1", "--weights", "random", "--out", str(tmp_path / "o.mp4"), *TOY])


def test_results_are_not_overwritten_unless_asked(clip: Path, weights: Path) -> None:
    words = [str(clip), "--point", "20,30", "--weights", str(weights), "--out", str(clip.with_name("out.mp4")), *TOY]
    assert main([*words, "--frames", "2"]) == 0
    with pytest.raises(ValueError, match="exists; give another name, or --overwrite"):
        main(words)
    assert main([*words, "--overwrite"]) == 0
    assert len(list(clip.with_name("out_masks").glob("*.png"))) == 7
    with pytest.raises(ValueError, match=r"ends in \.mp4"):
        main([*words[:5], "--out", str(clip.with_name("out.avi")), *TOY])


def test_a_run_that_breaks_leaves_nothing_behind(clip: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("the disk is full")

    monkeypatch.setattr("edgetam_pl.commands.track._write_video", broken)
    with pytest.raises(ValueError, match="disk is full"):
        main([str(clip), "--point", "20,30", "--weights", str(weights), "--out", str(clip.with_name("out.mp4")), *TOY])
    assert not [path for path in clip.parent.iterdir() if "out" in path.name]


@pytest.mark.parametrize("module", [edgetam_pl.commands.prompt_flags, edgetam_pl.interactive.session])
def test_the_examples_in_the_documentation_run(module: ModuleType) -> None:
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0


def test_the_released_predictor_is_one_flag() -> None:
    import argparse

    released = options_of(argparse.Namespace(released=True, bf16=False))
    assert released.binarize_prompted_memory
    assert released.fill_holes_area == 8
    assert options_of(argparse.Namespace(released=False, bf16=True)).autocast == torch.bfloat16


def test_weights_that_record_their_model_need_no_other_word(tmp_path: Path) -> None:
    cfg = composed(BenchConfig, command="bench", overrides=["model=toy", "model.image_size=64"])[0].model
    save_official(build_model(cfg), tmp_path / "own.pt", {"model": cfg})
    assert load_tracker(None, str(tmp_path / "own.pt")).image_size == 64
    with pytest.raises(ValueError, match=r"model.image_size is 128, recorded is 64"):
        load_tracker("toy", str(tmp_path / "own.pt"))
