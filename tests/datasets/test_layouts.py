"""Every data set as it is distributed: made small here, read back exactly; what is wrong with it is said in one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from shard_sets import SIZE, palette_folder, save_frame, save_labels

from edgetam_pl.config import ShardsConfig
from edgetam_pl.data.build import run
from edgetam_pl.datasets.layout import AnnotatedFrame, Layout, open_layout
from edgetam_pl.datasets.layouts.sav import SAV as Masklets
from edgetam_pl.datasets.masks import LabelMaps
from edgetam_pl.datasets.toy_clips import toy_clip
from edgetam_pl.io import rle
from edgetam_pl.io.errors import BadSampleError, Cause

SAV = "sav_000/sav_000001"


def found_in(layout: Layout, name: str) -> list[AnnotatedFrame | BadSampleError]:
    """The annotated frames of a video; an error that ends it comes last."""
    found: list[AnnotatedFrame | BadSampleError] = []
    try:
        found += layout.clip(name).annotated_frames()
    except BadSampleError as error:
        found.append(error)
    return found


def good(layout: Layout, name: str) -> list[AnnotatedFrame]:
    found = found_in(layout, name)
    assert all(isinstance(frame, AnnotatedFrame) for frame in found), found
    return [frame for frame in found if isinstance(frame, AnnotatedFrame)]


def causes(layout: Layout, name: str) -> list[Cause]:
    return [frame.cause for frame in found_in(layout, name) if isinstance(frame, BadSampleError)]


def config(source: str, root: Path, **changes: object) -> ShardsConfig:
    return ShardsConfig(source=source, root=str(root), **changes)  # type: ignore[arg-type]


def test_davis_2017_with_its_resolution_folder_and_image_sets(tmp_path: Path) -> None:
    palette_folder(tmp_path, {"bear": [0, 1, 2], "bus": [0, 1], "cat": [0]}, middle="480p")
    sets = tmp_path / "ImageSets" / "2017"
    sets.mkdir(parents=True)
    (sets / "train.txt").write_text("bus\nbear\n")
    assert open_layout(config("davis", tmp_path)).names() == ["bear", "bus", "cat"]
    reader = open_layout(config("davis", tmp_path, split="train"))
    assert reader.names() == ["bus", "bear"]
    frames = good(reader, "bear")
    assert [frame.number for frame in frames] == [0, 1, 2]
    _, masks = toy_clip(0, 3, SIZE, 2)
    assert set(frames[0].masks) == {"1", "2"}  # 255 is void
    found = frames[0].masks["1"]
    assert isinstance(found, np.ndarray)
    expected = masks[0, 0].copy()
    expected[0, 0] = False
    assert (found == expected).all()


def test_frame_numbers_may_have_gaps_and_any_number_of_digits(tmp_path: Path) -> None:
    palette_folder(tmp_path, {"bear": [0, 2, 10]})
    for path in tmp_path.rglob("*00010.*"):
        path.rename(path.with_name("10" + path.suffix))
    assert [frame.number for frame in good(open_layout(config("davis", tmp_path)), "bear")] == [0, 2, 10]


def test_mose_is_found_in_its_train_folder_or_below_it(tmp_path: Path) -> None:
    palette_folder(tmp_path / "train", {"00f9183c": [0, 1], "0a1b": [0]})
    for root in (tmp_path, tmp_path / "train"):
        reader = open_layout(config("mose", root))
        assert reader.names() == ["00f9183c", "0a1b"]
        assert len(good(reader, "00f9183c")) == 2
    listed = tmp_path / "list.txt"
    listed.write_text("0a1b.jpg\n")
    assert open_layout(config("mose", tmp_path, split=str(listed))).names() == ["0a1b"]


def test_youtube_vos_objects_are_those_of_meta_json(tmp_path: Path) -> None:
    palette_folder(tmp_path / "train", {"003234408d": [0, 5, 10], "0043f083b5": [0, 5]})
    meta = {
        "videos": {v: {"objects": {"1": {"category": "ape", "frames": ["00000"]}}} for v in ("003234408d", "0043f083b5")}
    }
    meta["videos"]["003234408d"]["objects"]["2"] = {"category": "ape", "frames": ["00000"]}
    path = tmp_path / "train" / "meta.json"
    with pytest.raises(ValueError, match=r"has no meta\.json"):
        open_layout(config("ytvos", tmp_path))
    path.write_text(json.dumps(meta))
    reader = open_layout(config("ytvos", tmp_path))
    assert [frame.number for frame in good(reader, "003234408d")] == [0, 5, 10]
    assert set(causes(reader, "0043f083b5")) == {Cause.ANNOTATION}  # object 2 is not in meta.json
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"not YouTube-VOS's meta\.json"):
        open_layout(config("ytvos", tmp_path))


def save_video(path: Path, frames: list[NDArray[np.uint8]], rate: int = 24) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 4_000_000
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def counted(number: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A frame from whose brightness its number can be read."""
    return np.full((*size, 3), 40 + number, np.uint8)


def sav_folder(root: Path, *, frames: int = 41, entries: int = 11) -> dict[str, object]:
    """One SA-V video of `frames` frames, every fourth annotated; object 1 leaves after entry 5."""
    save_video(root / "sav_000" / "sav_000001.mp4", [counted(number, (48, 64)) for number in range(frames)])
    masklet = []
    for entry in range(entries):
        masks = np.zeros((2, 48, 64), bool)
        masks[0, 4 : 8 + entry, 4:20] = True
        masks[1, 30:40, 30:50] = entry <= 5
        masklet.append([{"size": [48, 64], "counts": rle.encode(mask)} for mask in masks])
    raw: dict[str, object] = {"video_id": "sav_000001", "video_frame_count": float(frames), "masklet": masklet}
    (root / "sav_000" / "sav_000001_manual.json").write_text(json.dumps(raw))
    return raw


def test_sav_entry_i_is_video_frame_4i(tmp_path: Path) -> None:
    sav_folder(tmp_path)
    reader = open_layout(config("sav", tmp_path))
    assert reader.names() == ["sav_000/sav_000001"]
    frames = good(reader, SAV)
    assert [frame.number for frame in frames] == list(range(0, 44, 4))
    for entry, frame in enumerate(frames):
        assert isinstance(frame.image, np.ndarray)
        assert abs(float(frame.image.mean()) - (40 + 4 * entry)) < 1.5
        mask = frame.masks["0"]
        assert isinstance(mask, rle.Rle)
        assert rle.decode(*mask).sum() == (4 + entry) * 16
        assert set(frame.masks) == ({"0", "1"} if entry <= 5 else {"0"})  # an empty mask is an absent object


def test_sav_asking_for_an_unannotated_frame_fails(tmp_path: Path) -> None:
    sav_folder(tmp_path)
    reader = open_layout(config("sav", tmp_path))
    assert isinstance(reader, Masklets)
    assert reader.clip(SAV).masks.read(4) == good(reader, SAV)[1].masks
    for frame in (2, 3, 44, -4):
        with pytest.raises(ValueError, match="is not annotated; frames 0, 4, 8"):
            reader.clip(SAV).masks.read(frame)


def test_sav_null_entries_are_left_out_and_counted(tmp_path: Path) -> None:
    raw = sav_folder(tmp_path)
    masklet = raw["masklet"]
    assert isinstance(masklet, list)
    masklet[3] = None
    masklet[4][1] = None
    (tmp_path / "sav_000" / "sav_000001_manual.json").write_text(json.dumps(raw))
    reader = open_layout(config("sav", tmp_path))
    assert causes(reader, SAV) == [Cause.NO_MASK, Cause.NO_MASK]
    numbers = [frame.number for frame in found_in(reader, SAV) if isinstance(frame, AnnotatedFrame)]
    assert numbers == [0, 4, 8, 20, 24, 28, 32, 36, 40]


def test_sav_auto_manual_and_both(tmp_path: Path) -> None:
    raw = sav_folder(tmp_path)
    (tmp_path / "sav_000" / "sav_000001_auto.json").write_text(json.dumps(raw))
    first = {kind: good(open_layout(config("sav", tmp_path, annotations=kind)), SAV)[0] for kind in ("auto", "both")}
    assert set(first["auto"].masks) == {"0", "1"}
    assert set(first["both"].masks) == {"manual-0", "manual-1", "auto-0", "auto-1"}
    with pytest.raises(ValueError, match="use manual, auto or both"):
        open_layout(config("sav", tmp_path, annotations="all"))


def test_sav_a_short_video_a_torn_one_and_a_missing_annotation_are_named(tmp_path: Path) -> None:
    sav_folder(tmp_path, frames=20)
    reader = open_layout(config("sav", tmp_path))
    errors = [frame for frame in found_in(reader, SAV) if isinstance(frame, BadSampleError)]
    assert [error.cause for error in errors] == [Cause.VIDEO]
    assert "ends after 5 annotated frames; its annotation has 11" in errors[0].message
    path = tmp_path / "sav_000" / "sav_000001.mp4"
    path.write_bytes(path.read_bytes()[:300])
    assert causes(reader, SAV) == [Cause.VIDEO]
    (tmp_path / "sav_000" / "sav_000001_manual.json").write_text('{"masklet": 3}')
    assert causes(reader, SAV) == [Cause.ANNOTATION]
    (tmp_path / "sav_000" / "sav_000001_manual.json").unlink()
    assert causes(reader, SAV) == [Cause.NO_MASK]


def test_sav_videos_of_other_kinds_are_read_and_what_is_alone_is_named(tmp_path: Path) -> None:
    sav_folder(tmp_path)
    folder = tmp_path / "sav_000"
    (folder / "sav_000001.mp4").rename(folder / "sav_000001.MKV")
    shutil.copy(folder / "sav_000001_manual.json", folder / "sav_000002_auto.json")
    reader = open_layout(config("sav", tmp_path))
    assert reader.names() == [SAV]
    assert len(good(reader, SAV)) == 11
    assert reader.unused() == ["sav_000/sav_000002 has annotations and no video"]
    shutil.copy(folder / "sav_000001.MKV", folder / "sav_000001.webm")
    with pytest.raises(ValueError, match=r"sav_000001\.MKV and sav_000001\.webm have one name|webm and sav_000001.MKV"):
        open_layout(config("sav", tmp_path)).names()


def test_sav_val_keeps_overlapping_objects_of_every_fourth_frame(tmp_path: Path) -> None:
    frames, _ = toy_clip(0, 9, SIZE, 1)
    for t, frame in enumerate(frames):
        save_frame(tmp_path / "JPEGImages_24fps" / "sav_1" / f"{t:05d}.jpg", frame)
    for name, rows in (("000", slice(2, 12)), ("001", slice(8, 20))):
        for t in (0, 4, 8):
            mask = np.zeros(SIZE, np.uint8)
            mask[rows, 3:9] = 1
            save_labels(tmp_path / "Annotations_6fps" / "sav_1" / name / f"{t:05d}.png", mask)
    found = good(open_layout(config("sav", tmp_path)), "sav_1")
    assert [frame.number for frame in found] == [0, 4, 8]
    one, two = found[0].masks["000"], found[0].masks["001"]
    assert isinstance(one, np.ndarray)
    assert isinstance(two, np.ndarray)
    assert (one & two).sum() == 4 * 6


def sa1b_image(root: Path, name: str, masks: list[NDArray[np.bool_]], *, uncompressed: bool = False) -> dict[str, object]:
    frame = toy_clip(0, 1, SIZE, 1)[0][0]
    save_frame(root / f"{name}.jpg", frame)
    segmentations = [{"size": list(SIZE), "counts": rle.encode(mask)} for mask in masks]
    if uncompressed:
        segmentations = [{"size": list(SIZE), "counts": rle.parse(s["counts"], SIZE).tolist()} for s in segmentations]
    raw: dict[str, object] = {
        "image": {"image_id": 1, "width": SIZE[1], "height": SIZE[0], "file_name": f"{name}.jpg"},
        "annotations": [{"id": i, "segmentation": s, "area": 1, "predicted_iou": 0.9} for i, s in enumerate(segmentations)],
    }
    (root / f"{name}.json").write_text(json.dumps(raw))
    return raw


def half(share: float) -> NDArray[np.bool_]:
    mask = np.zeros(SIZE, bool)
    mask[:, : int(share * SIZE[1])] = True
    return mask


@pytest.mark.parametrize("uncompressed", [False, True])
def test_sa1b_drops_empty_masks_and_those_above_ninety_percent(tmp_path: Path, uncompressed: bool) -> None:
    (tmp_path / "sa_000000").mkdir()
    shares = [half(0.5), half(0.0), half(1.0), half(0.25)]
    sa1b_image(tmp_path / "sa_000000", "sa_7", shares, uncompressed=uncompressed)
    (frame,) = good(open_layout(config("sa1b", tmp_path)), "sa_000000/sa_7")
    assert set(frame.masks) == {"0", "3"}
    assert {mask.size for mask in frame.masks.values() if isinstance(mask, rle.Rle)} == {SIZE}


def test_sa1b_a_broken_mask_costs_the_mask_and_a_broken_file_the_image(tmp_path: Path) -> None:
    raw = sa1b_image(tmp_path, "sa_7", [half(0.5), half(0.5), half(0.5)])
    annotations = raw["annotations"]
    assert isinstance(annotations, list)
    annotations[1]["segmentation"]["counts"] = "~~"
    annotations[2]["segmentation"]["size"] = [SIZE[1], SIZE[0]]
    (tmp_path / "sa_7.json").write_text(json.dumps(raw))
    reader = open_layout(config("sa1b", tmp_path))
    assert causes(reader, "sa_7") == [Cause.MASK, Cause.MASK_SIZE]
    assert [set(f.masks) for f in found_in(reader, "sa_7") if isinstance(f, AnnotatedFrame)] == [{"0"}]
    (tmp_path / "sa_7.json").write_text("{}")
    assert causes(reader, "sa_7") == [Cause.ANNOTATION]


def test_sa1b_what_is_alone_is_named(tmp_path: Path) -> None:
    sa1b_image(tmp_path / "images", "b", [half(0.5)])
    for name in ("a", "c"):
        sa1b_image(tmp_path, name, [half(0.5)])
    (tmp_path / "a.jpg").unlink()
    (tmp_path / "c.json").unlink()
    reader = open_layout(config("sa1b", tmp_path))
    assert reader.names() == ["images/b"]
    assert reader.incomplete() == {"a": "a.json has no image", "c": "the image c has no json"}


def test_own_images_with_masks_of_the_same_name(tmp_path: Path) -> None:
    frame = toy_clip(0, 1, SIZE, 1)[0][0]
    for name in ("a", "b"):
        save_frame(tmp_path / "images" / f"{name}.png", frame)
    with pytest.raises(ValueError, match="has no folder masks"):
        open_layout(config("images", tmp_path))
    (tmp_path / "masks").mkdir()
    with pytest.raises(ValueError, match=r"no image in .* with a mask of the same name"):
        open_layout(config("images", tmp_path)).names()
    save_labels(tmp_path / "masks" / "b.png", 3 * half(0.5).astype(np.uint8))
    reader = open_layout(config("images", tmp_path))
    assert reader.names() == ["b"]
    save_frame(tmp_path / "images" / "c.gif", frame)
    assert reader.unused() == [f"a has no masks in {tmp_path / 'masks'}", "c.gif is no picture of a known kind"]
    assert set(good(reader, "b")[0].masks) == {"3"}


def test_own_videos_take_the_frames_that_have_a_mask(tmp_path: Path) -> None:
    save_video(tmp_path / "videos" / "me.mp4", [counted(number, (48, 64)) for number in range(12)])
    (tmp_path / "masks").mkdir()
    with pytest.raises(ValueError, match=r"no video in .* \(1 there\) with a folder of masks"):
        open_layout(config("videos", tmp_path)).names()
    mask = np.zeros((48, 64), np.uint8)
    mask[3:20, 3:20] = 1
    for number in (0, 3, 7, 30):
        save_labels(tmp_path / "masks" / "me" / f"{number:05d}.png", mask)
    reader = open_layout(config("videos", tmp_path))
    found = [frame for frame in found_in(reader, "me") if isinstance(frame, AnnotatedFrame)]
    assert [frame.number for frame in found] == [0, 3, 7]
    for frame in found:
        assert isinstance(frame.image, np.ndarray)
        assert abs(float(frame.image.mean()) - (40 + frame.number)) < 1.5
    assert causes(reader, "me") == [Cause.VIDEO]  # number 30 is beyond the end


def test_own_videos_that_are_not_used_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = [counted(number, (48, 64)) for number in range(3)]
    for name in ("me.avi", "other.mov", "old.rm"):
        save_video(tmp_path / "videos" / "x.mp4", frames)
        (tmp_path / "videos" / "x.mp4").rename(tmp_path / "videos" / name)
    for name in ("me", "old"):
        save_labels(tmp_path / "masks" / name / "00000.png", half(0.5).astype(np.uint8).repeat(2, 0).repeat(2, 1))
    assert run(config("videos", tmp_path, out=str(tmp_path / "out"), processes=1)) == 0
    said = capsys.readouterr().out
    assert (
        f"2 of {tmp_path} not used: other.mov has no folder {tmp_path / 'masks' / 'other'}, old.rm is no video of a" in said
    )
    assert "old has masks and no video in" in said  # the first of its cause
    assert "left out: undecodable video (1)" in said


def test_a_folder_without_masks_is_one_sentence(tmp_path: Path) -> None:
    palette_folder(tmp_path, {"bear": [0, 1]})
    shutil.rmtree(tmp_path / "Annotations" / "bear")
    assert causes(open_layout(config("davis", tmp_path)), "bear") == [Cause.NO_MASK]
    shutil.rmtree(tmp_path / "Annotations")
    with pytest.raises(ValueError, match="has no folder Annotations"):
        open_layout(config("davis", tmp_path))


def test_a_frame_without_its_mask_is_counted(tmp_path: Path) -> None:
    palette_folder(tmp_path, {"bear": [0, 1, 2]})
    (tmp_path / "Annotations" / "bear" / "00001.png").unlink()
    reader = open_layout(config("davis", tmp_path))
    assert causes(reader, "bear") == [Cause.NO_MASK]
    assert len([f for f in found_in(reader, "bear") if isinstance(f, AnnotatedFrame)]) == 2


def test_label_files_black_and_white_colour_and_torn(tmp_path: Path) -> None:
    mask = half(0.5)
    Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "grey.png")
    Image.fromarray(mask).save(tmp_path / "bits.png")
    for name in ("grey", "bits"):
        found = LabelMaps({0: tmp_path / f"{name}.png"}).read(0)
        assert set(found) == {"1"}
        assert np.array_equal(np.asarray(found["1"]), mask)
    cv2.imwrite(str(tmp_path / "colour.png"), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(BadSampleError, match="colour image"):
        LabelMaps({0: tmp_path / "colour.png"}).read(0)
    (tmp_path / "torn.png").write_bytes((tmp_path / "grey.png").read_bytes()[:40])
    with pytest.raises(BadSampleError, match="no readable PNG"):
        LabelMaps({0: tmp_path / "torn.png"}).read(0)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("davis", "has no folder JPEGImages"),
        ("mose", "has neither"),
        ("sav", "There is no video in"),
        ("sa1b", "There is no image in"),
    ],
)
def test_the_wrong_folder_says_what_was_expected(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_layout(config(source, tmp_path)).names()


def test_no_root_an_unknown_source_and_an_unknown_split_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs root=FOLDER"):
        open_layout(ShardsConfig(source="davis"))
    with pytest.raises(ValueError, match="is not a folder"):
        open_layout(config("davis", tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"source=kinetics is unknown; use one of .*davis, .*mose"):
        open_layout(config("kinetics", tmp_path))
    palette_folder(tmp_path, {"bear": [0]})
    with pytest.raises(ValueError, match="split=vall names no list"):
        open_layout(config("davis", tmp_path, split="vall")).names()
