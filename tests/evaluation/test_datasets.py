"""Data sets as their authors lay them out: objects, starts, annotated frames, groups; and what does not fit is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgetam_pl.evaluation.clips import Clip
from edgetam_pl.evaluation.datasets import open_data
from edgetam_pl.evaluation.rules import RULES
from edgetam_pl.evaluation.scoring import ScoreRule
from edgetam_pl.io.label_png import write_labels

SIZE = (24, 32)


def labels(*objects: int) -> np.ndarray:
    """A label map with a 4 x 4 patch of each object."""
    result = np.zeros(SIZE, dtype=np.uint8)
    for place, number in enumerate(objects):
        result[2:6, 5 * place : 5 * place + 4] = number
    return result


def write_video(root: Path, name: str, masks: dict[int, np.ndarray], *, frames: int = 6, folder: str = "JPEGImages") -> None:
    for t in range(frames):
        path = root / folder / name / f"{t:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((*SIZE, 3), 10 * t, dtype=np.uint8))
    for t, mask in masks.items():
        write_labels(root / "Annotations" / name / f"{t:05d}.png", mask)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_video(tmp_path, "cat", {t: labels(1, 2) for t in range(6)})
    write_video(tmp_path, "dog", {t: labels(1) if t < 3 else labels(1, 3) for t in range(6)})
    return tmp_path


def objects_of(clip: Clip) -> list[tuple[str, int, int]]:
    return [(item.name, item.start, len(item.annotated)) for item in clip.objects]


def test_a_davis_like_folder(root: Path) -> None:
    data = open_data("folder", root)
    assert data.names == ("cat", "dog")
    assert objects_of(data.clip("cat")) == [("1", 0, 6), ("2", 0, 6)]
    assert objects_of(data.clip("dog")) == [("1", 0, 6), ("3", 3, 6)]
    clip = data.clip("dog")
    assert clip.size == SIZE
    assert clip.truths.read(4).sum(axis=(1, 2)).tolist() == [16, 16]
    assert clip.truths.read(0).sum(axis=(1, 2)).tolist() == [16, 0]
    assert clip.frames.read(3).shape == (*SIZE, 3)
    assert clip.frames.read(3).dtype == np.uint8


def test_davis_follows_the_objects_of_the_first_frame(root: Path) -> None:
    assert objects_of(open_data("davis17", root).clip("dog")) == [("1", 0, 6)]
    binary = open_data("davis16", root).clip("cat")
    assert objects_of(binary) == [("1", 0, 6)]
    assert binary.truths.read(0).sum() == 32


def test_davis_lists_are_found(root: Path) -> None:
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("dog\n")
    (root / "ImageSets" / "480p").mkdir()
    (root / "ImageSets" / "480p" / "val.txt").write_text(
        "/JPEGImages/480p/cat/00000.jpg /Annotations/480p/cat/00000.png\n/JPEGImages/480p/cat/00001.jpg /x/cat/1.png\n"
    )
    assert open_data("davis17", root).names == ("dog",)
    assert open_data("davis16", root).names == ("cat",)
    assert open_data("folder", root).names == ("cat", "dog")
    assert open_data("folder", root, split="ImageSets/2017/val.txt").names == ("dog",)


def test_full_resolution_folders_of_davis_are_found(root: Path) -> None:
    for role in ("JPEGImages", "Annotations"):
        (root / role).rename(root / "480p")
        (root / role).mkdir()
        (root / "480p").rename(root / role / "480p")
    assert open_data("davis17", root).names == ("cat", "dog")


def test_void_is_no_object(root: Path) -> None:
    mask = labels(1)
    mask[20:] = 255
    write_labels(root / "Annotations" / "cat" / "00002.png", mask)
    assert [item.name for item in open_data("folder", root).clip("cat").objects] == ["1", "2"]


def test_black_and_white_masks_are_one_object(tmp_path: Path) -> None:
    write_video(tmp_path, "cow", {t: labels(255) for t in range(6)})
    clip = open_data("folder", tmp_path).clip("cow")
    assert objects_of(clip) == [("1", 0, 6)]
    assert clip.truths.read(0).sum() == 16


def test_hidden_truth_is_known_by_its_first_masks_alone(tmp_path: Path) -> None:
    write_video(tmp_path, "moose", {0: labels(1, 2), 3: labels(1, 2, 4)})
    clip = open_data("mose", tmp_path).clip("moose")
    assert [(item.name, item.start, item.annotated) for item in clip.objects] == [
        ("1", 0, (0,)),
        ("2", 0, (0,)),
        ("4", 3, (3,)),
    ]


def test_sav_has_a_folder_an_object_and_every_fourth_frame(tmp_path: Path) -> None:
    write_video(tmp_path, "sav_1", {}, frames=13, folder="JPEGImages_24fps")
    for name, frames in (("000", (0, 4, 8, 12)), ("001", (4, 8, 12))):
        for t in frames:
            write_labels(tmp_path / "Annotations_6fps" / "sav_1" / name / f"{t:05d}.png", labels(1))
    data = open_data("sav", tmp_path)
    clip = data.clip("sav_1")
    assert [(item.name, item.start, item.annotated) for item in clip.objects] == [
        ("000", 0, (0, 4, 8, 12)),
        ("001", 4, (4, 8, 12)),
    ]
    assert clip.num_frames == 13
    assert clip.truths.read(4).any(axis=(1, 2)).tolist() == [True, True]
    assert not clip.truths.read(5).any()
    assert data.rule.score.frames(clip.objects[0]) == (4, 8)
    assert not data.rule.non_overlap


def test_youtube_vos_knows_seen_and_unseen(root: Path) -> None:
    said = {"cat": {"1": "cat", "2": "tail"}, "dog": {"1": "dog", "3": "ball"}}
    videos = {v: {"objects": {o: {"category": c, "frames": []} for o, c in objects.items()}} for v, objects in said.items()}
    (root / "meta.json").write_text(json.dumps({"videos": videos}))
    (root / "unseen.txt").write_text("tail\ndog\n")
    data = open_data("ytvos19", root, unseen=root / "unseen.txt")
    groups = {(clip.name, item.name): item.group for clip in data for item in clip.objects}
    # "dog" is a category and a sequence here; a sequence that is listed is unseen as a whole
    assert groups == {("cat", "1"): "seen", ("cat", "2"): "unseen", ("dog", "1"): "unseen", ("dog", "3"): "unseen"}


def test_frames_go_by_the_number_in_their_names(tmp_path: Path) -> None:
    for t in (1, 2, 10):
        path = tmp_path / "JPEGImages" / "v" / f"frame{t}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.zeros((*SIZE, 3), dtype=np.uint8))
        write_labels(tmp_path / "Annotations" / "v" / f"frame{t}.png", labels(1))
    assert open_data("vost", tmp_path).clip("v").stems == ("frame1", "frame2", "frame10")


def test_images_with_palettes_and_with_run_lengths(shared: Path) -> None:
    coco = open_data("images", shared / "data" / "coco_dev", limit=2)
    clip = coco.clip(coco.names[0])
    assert clip.num_frames == 1
    assert clip.truths.read(0).shape == (len(clip.objects), *clip.size)
    palettes = open_data("images", shared / "data" / "davis17_firstframes_dev")
    assert len(palettes) == 20
    assert all(mask.any() for mask in palettes.clip("boxing").truths.read(0))


def test_every_real_set_opens(shared: Path) -> None:
    for kind, name, count in (
        ("davis16", "davis16_dev", 10),
        ("davis17", "davis17_multi_dev", 1),
        ("pumavos", "pumavos_chair", 1),
    ):
        data = open_data(kind, shared / "data" / name)
        clip = next(iter(data))
        assert len(data) == count
        assert clip.frames.read(0).shape[:2] == clip.size == clip.truths.read(0).shape[1:]


def test_generated_clips_come_from_a_seed() -> None:
    data = open_data("toy", "toy:7:3", toy_size=32)
    assert data.names == ("toy-7", "toy-8", "toy-9")
    assert open_data("folder", "toy:7:3", limit=2, toy_size=32).names == ("toy-7", "toy-8")
    assert data.clip("toy-8").fingerprint() == open_data("toy", "toy:8", toy_size=32).clip("toy-8").fingerprint()


def test_fingerprints_change_with_masks_and_frames(root: Path) -> None:
    before = {clip.name: clip.fingerprint() for clip in open_data("folder", root)}
    write_labels(root / "Annotations" / "cat" / "00003.png", labels(2, 1))
    cv2.imwrite(str(root / "JPEGImages" / "dog" / "00001.jpg"), np.random.default_rng(0).integers(0, 255, (*SIZE, 3)))
    after = {clip.name: clip.fingerprint() for clip in open_data("folder", root)}
    assert before["cat"] != after["cat"]
    assert before["dog"] != after["dog"]


def test_the_list_hash_is_that_of_names_in_order(root: Path) -> None:
    data = open_data("folder", root)
    assert data.list_hash == open_data("davis17", root).list_hash
    assert data.list_hash != open_data("folder", root, sequences=["dog"]).list_hash


# ---------------------------------------------------------------------- what does not fit


def test_an_unknown_set_or_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no data set 'davis18'; known ones: davis16, davis17"):
        open_data("davis18", tmp_path)
    with pytest.raises(ValueError, match=r"no folder .*nowhere; give data\.root|no folder .*nowhere; give root"):
        open_data("davis17", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="has no folder JPEGImages"):
        open_data("davis17", tmp_path)
    with pytest.raises(ValueError, match="has no folder masks"):
        open_data("images", tmp_path)


def test_an_empty_set_is_named(tmp_path: Path) -> None:
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "Annotations").mkdir()
    with pytest.raises(ValueError, match="no sequence in"):
        open_data("folder", tmp_path)


def test_a_sequence_without_masks_is_named_or_left_out(root: Path) -> None:
    shutil.rmtree(root / "Annotations" / "cat")
    with pytest.raises(ValueError, match=r"cat is in one folder and not in the other: .*Annotations/cat.*strict=false"):
        open_data("folder", root)
    assert open_data("folder", root, strict=False).names == ("dog",)


def test_a_sequence_that_is_not_there_is_named(root: Path) -> None:
    with pytest.raises(ValueError, match="has no sequence cow; it has cat, dog"):
        open_data("folder", root, sequences=["cow"])


def test_a_mask_of_another_size_is_named(root: Path) -> None:
    write_labels(root / "Annotations" / "cat" / "00003.png", np.ones((5, 5), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"00003\.png is \(5, 5\) and its frame \(24, 32\)"):
        open_data("folder", root).clip("cat")


def test_a_mask_without_a_frame_is_named(root: Path) -> None:
    write_labels(root / "Annotations" / "cat" / "00099.png", labels(1))
    with pytest.raises(ValueError, match=r"masks without a frame: 00099\.png"):
        open_data("folder", root).clip("cat")


def test_a_damaged_frame_is_named_when_it_is_read(root: Path) -> None:
    clip = open_data("folder", root).clip("cat")
    (root / "JPEGImages" / "cat" / "00004.jpg").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"00004\.jpg cannot be read"):
        clip.frames.read(4)


def test_a_sequence_without_objects_is_named(root: Path) -> None:
    for t in range(6):
        write_labels(root / "Annotations" / "cat" / f"{t:05d}.png", labels())
    with pytest.raises(ValueError, match="cat shows no object on any frame"):
        open_data("folder", root).clip("cat")


def test_every_rule_says_what_it_is() -> None:
    for rule in RULES.values():
        assert rule.score.words.startswith("all annotated frames")


def test_an_image_without_objects_is_an_image_without_rows(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.jpg"), np.zeros((*SIZE, 3), dtype=np.uint8))
    write_labels(tmp_path / "masks" / "a.png", labels())
    clip = open_data("images", tmp_path).clip("a")
    assert clip.objects == ()
    assert clip.truths.read(0).shape == (0, *SIZE)


def test_scored_frames_of_an_object(root: Path) -> None:
    late = open_data("folder", root).clip("dog").objects[1]
    assert ScoreRule().frames(late) == (1, 2, 3, 4)
    assert ScoreRule(counts_from="start").frames(late) == (4,)  # as if the video began with its prompted frame 3
    assert ScoreRule(skip_first_and_last=False, counts_from="start").frames(late) == (3, 4, 5)
