"""Masks in json files, COCO's and Labelme's: every kind of mask, what is no object, and what does not fit."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgetam_pl.config import ShardsConfig
from edgetam_pl.data.build import run
from edgetam_pl.data.shards import read_manifest
from edgetam_pl.datasets.layout import AnnotatedClip, Layout, open_layout
from edgetam_pl.datasets.masks import dense
from edgetam_pl.evaluation.datasets import open_data
from edgetam_pl.io import rle
from edgetam_pl.io.errors import BadSampleError, Cause
from edgetam_pl.io.label_png import read_labels

SIZE = (24, 32)
"""(H, W)"""


def box(y0: int, y1: int, x0: int, x1: int) -> NDArray[np.bool_]:
    mask = np.zeros(SIZE, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def polygon(y0: float, y1: float, x0: float, x1: float) -> list[float]:
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def save_picture(path: Path, size: tuple[int, int] = SIZE, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1], (90, 60, 30)).save(path, **options)  # type: ignore[arg-type]


def opened(source: str, root: Path, **changes: object) -> Layout:
    return open_layout(ShardsConfig(source=source, root=str(root), **changes))  # type: ignore[arg-type]


def masks_of(clip: AnnotatedClip) -> dict[str, NDArray[np.bool_]]:
    return {name: dense(mask) for name, mask in clip.masks.read(0).items()}


def causes(clip: AnnotatedClip) -> list[Cause]:
    return [fault.cause for fault in clip.faults]


# ---------------------------------------------------------------------- COCO

RUNS = rle.encode(box(2, 6, 2, 6))


def coco(
    root: Path, annotations: list[dict[str, Any]], *, file: str = "instances.json", names: tuple[str, ...] = ("a",)
) -> None:
    raw = {
        "images": [{"id": i, "file_name": f"{n}.jpg", "height": 24, "width": 32} for i, n in enumerate(names)],
        "annotations": [{"id": 10 + i, "image_id": 0, "category_id": 1} | one for i, one in enumerate(annotations)],
        "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}],
    }
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(raw))


def test_coco_polygons_and_both_kinds_of_run_lengths_are_one_mask(tmp_path: Path) -> None:
    save_picture(tmp_path / "images" / "a.jpg")
    both = [polygon(2, 6, 2, 4), polygon(2, 6, 4, 6), [1, 1, 2, 2]]  # the last has no area
    uncompressed = {"size": list(SIZE), "counts": rle.parse(RUNS, SIZE).tolist()}
    kinds = [both, {"size": list(SIZE), "counts": RUNS}, uncompressed]
    coco(tmp_path, [{"segmentation": kind} for kind in kinds])
    clip = opened("coco", tmp_path).clip("a")
    found = masks_of(clip)
    assert list(found) == ["10", "11", "12"]
    for mask in found.values():
        assert np.array_equal(mask, box(2, 6, 2, 6))
    assert not clip.faults


def test_coco_what_is_no_object_or_broken_is_counted_and_the_rest_is_kept(tmp_path: Path) -> None:
    save_picture(tmp_path / "images" / "a.jpg")
    good = {"segmentation": [polygon(2, 6, 2, 6)]}
    crowd = {"iscrowd": 1, "segmentation": {"size": list(SIZE), "counts": RUNS}}
    other_size = {"segmentation": {"size": [32, 24], "counts": RUNS}}
    boxed, cut = {"bbox": [1, 2, 3, 4]}, {"segmentation": [[1, 2, 3, 4, 5]]}
    strange = [
        {"segmentation": [[1e9, 2, 3, 4, 5, 6]]},
        {"segmentation": [["x"] * 6]},
        {"segmentation": [[float("nan")] * 6]},
    ]
    coco(tmp_path, [good, crowd, boxed, other_size, cut, *strange, good | {"id": 10}])
    clip = opened("coco", tmp_path).clip("a")
    assert list(masks_of(clip)) == ["10"]
    assert causes(clip) == [Cause.VOID, Cause.NO_MASK, Cause.MASK_SIZE, *[Cause.MASK] * 4, Cause.ANNOTATION]
    assert "annotation 11 of a.jpg is a crowd" in clip.faults[0].message


def test_coco_is_built_and_evaluated_with_what_is_missing_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b", "empty"):
        save_picture(tmp_path / "in" / "train2017" / f"{name}.jpg")
    crowd = {"iscrowd": 1, "segmentation": {"size": list(SIZE), "counts": RUNS}}
    dog = {"category_id": 2, "image_id": 1, "segmentation": [polygon(2, 9, 3, 9)]}
    stranger = {"image_id": 77, "segmentation": [polygon(2, 9, 3, 9)]}
    coco(
        tmp_path / "in",
        [{"segmentation": [polygon(2, 6, 2, 6)]}, crowd, dog, stranger],
        file="annotations/instances_train2017.json",
        names=("a", "b", "empty", "gone"),
    )
    coco(tmp_path / "in", [], file="annotations/instances_val2017.json")
    cfg = ShardsConfig(source="coco", root=str(tmp_path / "in"), split="train2017", out=str(tmp_path / "out"), processes=1)
    assert run(cfg) == 0
    manifest = read_manifest(str(tmp_path / "out"))
    assert (manifest.kind, manifest.samples, manifest.objects) == ("image", 2, 2)
    assert manifest.skipped == {"void region": 1, "no object visible": 1, "undecodable image": 1}
    said = capsys.readouterr().out
    for words in ("annotation 11 of a.jpg is a crowd", "gone.jpg of", "empty.jpg has no mask"):  # the first of each cause
        assert words in said
    with pytest.raises(ValueError, match=r"gone\.jpg of .* is in none of"):
        open_data("coco", tmp_path / "in", split="train2017")
    data = open_data("coco", tmp_path / "in", split="train2017", strict=False)
    assert data.names == ("a", "b", "empty")
    assert [len(clip.objects) for clip in data] == [1, 1, 0]
    (dogs,) = [
        clip
        for clip in open_data("coco", tmp_path / "in", split="train2017", categories="dog", strict=False)
        if clip.objects
    ]
    assert dogs.name == "b"
    assert np.array_equal(dogs.truths.read(0)[0], box(2, 9, 3, 9))


def test_coco_several_files_an_unknown_category_and_another_json_are_refused(tmp_path: Path) -> None:
    save_picture(tmp_path / "images" / "a.jpg")
    for part in ("train", "val"):
        coco(tmp_path, [], file=f"annotations/instances_{part}.json")
    with pytest.raises(
        ValueError, match=r"found: annotations/instances_train\.json, annotations/instances_val\.json.*split=NAME"
    ):
        opened("coco", tmp_path)
    with pytest.raises(ValueError, match="categories=person,cat: there is no cat; there are dog, person"):
        opened("coco", tmp_path, split="val", categories="person,cat").names()
    (tmp_path / "annotations" / "instances_val.json").write_text('{"images": 3}')
    with pytest.raises(ValueError, match="is not a COCO json"):
        opened("coco", tmp_path, split="val").names()


def test_coco_as_roboflow_lays_it_out(tmp_path: Path) -> None:
    for part in ("train", "valid"):
        save_picture(tmp_path / part / f"{part}.jpg")
        polygons = [{"segmentation": [polygon(2, 6, 2, 6)]}]
        coco(tmp_path, polygons, file=f"{part}/_annotations.coco.json", names=(part,))
    for layout in (opened("coco", tmp_path, split="valid"), opened("coco", tmp_path / "valid")):
        assert layout.names() == ["valid"]
        assert np.array_equal(masks_of(layout.clip("valid"))["10"], box(2, 6, 2, 6))


def test_coco_two_images_of_one_name_are_an_error_that_names_both(tmp_path: Path) -> None:
    coco(tmp_path, [], names=("a", "a"))
    with pytest.raises(BadSampleError, match=r"a\.jpg and a\.jpg have one name"):
        opened("coco", tmp_path).names()


def test_coco_masks_belong_to_the_picture_as_exif_turns_it(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    save_picture(tmp_path / "images" / "a.jpg", (32, 24), exif=exif)  # 24 x 32 when it is upright
    coco(tmp_path, [{"segmentation": [polygon(2, 6, 2, 6)]}])
    clip = open_data("coco", tmp_path).clip("a")
    assert clip.size == clip.frames.read(0).shape[:2] == SIZE
    save_picture(tmp_path / "images" / "a.jpg", (32, 24))
    with pytest.raises(ValueError, match=r"must have one size"):
        open_data("coco", tmp_path).clip("a")


def test_coco_of_real_images_agrees_with_their_label_maps(shared: Path) -> None:
    root = shared / "data" / "coco_dev"
    if not root.is_dir():
        pytest.skip(f"no COCO images at {root}")
    layout = opened("coco", root, max_area=np.inf)
    assert len(layout.names()) == 100
    assert not layout.incomplete()
    agreed = []
    assert sum(causes(layout.clip(name)).count(Cause.VOID) for name in layout.names()) == 12
    for name in layout.names()[:8]:
        clip = layout.clip(name)
        labels = read_labels(root / "masks" / f"{name}.png")
        drawn = [labels == label for label in np.unique(labels[(labels > 0) & (labels < 255)])]
        for mask in masks_of(clip).values():  # in a label map, objects that lie above cut others
            if drawn:
                agreed.append(max(np.count_nonzero(mask & one) / np.count_nonzero(mask | one) for one in drawn))
    assert np.median(agreed) > 0.97


@pytest.mark.parametrize("written", ["C:\\work\\a", "/data/a", "../elsewhere/a"])
def test_coco_with_places_of_another_machine_finds_the_file_by_its_name(tmp_path: Path, written: str) -> None:
    save_picture(tmp_path / "images" / "a.jpg")
    coco(tmp_path, [{"segmentation": [polygon(2, 6, 2, 6)]}], names=(written,))
    layout = opened("coco", tmp_path)
    assert not layout.incomplete()
    assert len(masks_of(layout.clip(layout.names()[0]))) == 1


def test_coco_an_image_that_is_not_at_its_place_is_not_taken_from_another(tmp_path: Path) -> None:
    save_picture(tmp_path / "images" / "a.jpg")
    coco(tmp_path, [], names=("sub/a",))
    assert list(opened("coco", tmp_path).incomplete()) == ["sub/a"]


# ---------------------------------------------------------------------- Labelme


def shape(label: str, points: list[list[float]], kind: str = "polygon", **others: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}} | others


def corners(y0: float, y1: float, x0: float, x1: float) -> list[list[float]]:
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


def labelme(path: Path, shapes: list[dict[str, Any]], *, image: str, data: str | None = None) -> None:
    raw = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": image, "imageData": data}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(raw | {"imageHeight": SIZE[0], "imageWidth": SIZE[1]}))


def png(pixels: NDArray[np.uint8]) -> str:
    return base64.b64encode(cv2.imencode(".png", pixels)[1].tobytes()).decode()


def test_labelme_every_kind_of_shape(tmp_path: Path) -> None:
    save_picture(tmp_path / "images" / "a.jpg")
    painted = np.zeros((4, 5), np.uint8)
    painted[1:, 2:] = 255
    shapes = [
        shape("cat", corners(2, 6, 2, 6)),
        shape("cat", [[20, 9], [10, 3]], "rectangle"),
        shape("ball", [[16, 12], [16, 20]], "circle"),
        shape("leaf", [[7, 10], [11, 13]], "mask", mask=png(painted)),
        {key: value for key, value in shape("old", corners(0, 1, 0, 3)).items() if key != "shape_type"},
    ]
    labelme(tmp_path / "json" / "a.json", shapes, image="..\\images\\a.jpg")
    layout = opened("labelme", tmp_path)
    assert layout.names() == ["json/a"]
    clip = layout.clip("json/a")
    found = masks_of(clip)
    assert not clip.faults
    assert list(found) == ["1", "2", "3", "4", "5"]
    assert np.array_equal(found["1"], box(2, 6, 2, 6))
    assert np.array_equal(found["2"], box(3, 9, 10, 20))
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    assert np.count_nonzero(found["3"] != (np.hypot(y - 12, x - 16) < 8)) < 12  # of 201 pixels
    assert np.array_equal(found["4"], box(11, 14, 9, 12))
    assert np.array_equal(found["5"], box(0, 1, 0, 3))
    assert clip.frames.size == SIZE


def test_labelme_shapes_of_one_group_are_one_object(tmp_path: Path) -> None:
    save_picture(tmp_path / "a.jpg")
    parts = [(0, 4, 0, 4), (10, 14, 0, 4), (0, 4, 20, 24)]
    shapes = [shape("cat", corners(*part), group_id=group) for part, group in zip(parts, (1, 2, 1))]
    labelme(tmp_path / "a.json", [*shapes, shape("dog", corners(15, 20, 20, 30), group_id=1)], image="a.jpg")
    found = masks_of(opened("labelme", tmp_path).clip("a"))
    assert list(found) == ["1", "2", "3"]
    assert np.array_equal(found["1"], box(0, 4, 0, 4) | box(0, 4, 20, 24))
    assert np.array_equal(found["3"], box(15, 20, 20, 30))


def test_labelme_what_is_no_object_is_counted(tmp_path: Path) -> None:
    save_picture(tmp_path / "a.jpg")
    shapes = [
        shape("cat", corners(2, 6, 2, 6)),
        shape("cat", [[1, 1], [9, 9]], "line"),
        shape("__ignore__", corners(9, 12, 9, 12)),
        shape("leaf", [[30, 22], [40, 30]], "mask", mask=png(np.ones((9, 11), np.uint8))),
        shape("cat", [[1, 1], [9, 9]]),
    ]
    labelme(tmp_path / "a.json", shapes, image="a.jpg")
    clip = opened("labelme", tmp_path).clip("a")
    assert list(masks_of(clip)) == ["1"]
    assert sorted(causes(clip)) == sorted([Cause.NO_MASK, Cause.VOID, Cause.MASK, Cause.MASK])
    assert "shape 1 (cat) is a line, which has no area" in clip.faults[0].message


def test_labelme_a_picture_in_the_json_is_used_where_there_is_no_file(tmp_path: Path) -> None:
    grey = np.full((*SIZE, 3), 77, np.uint8)
    labelme(tmp_path / "a.json", [shape("cat", corners(2, 6, 2, 6))], image="gone.jpg", data=png(grey))
    labelme(tmp_path / "b.json", [shape("cat", corners(2, 6, 2, 6))], image="gone.jpg")
    (tmp_path / "c.json").write_text('{"shapes": 3}')
    layout = opened("labelme", tmp_path)
    assert np.array_equal(layout.clip("a").frames.read(0), grey)
    assert list(layout.incomplete()) == ["b"]
    with pytest.raises(BadSampleError, match=r"there is no gone\.jpg, and imageData is empty"):
        layout.clip("b")
    with pytest.raises(BadSampleError, match="is not a json of Labelme"):
        layout.clip("c")
    cfg = ShardsConfig(source="labelme", root=str(tmp_path), out=str(tmp_path / "out"), processes=1)
    assert run(cfg) == 0
    assert read_manifest(str(tmp_path / "out")).skipped == {"undecodable image": 1, "broken annotation": 1}


def test_labelme_only_some_categories(tmp_path: Path) -> None:
    save_picture(tmp_path / "a.jpg")
    labelme(tmp_path / "a.json", [shape("cat", corners(2, 6, 2, 6)), shape("dog", corners(9, 12, 3, 9))], image="a.jpg")
    (clip,) = open_data("labelme", tmp_path, categories="dog")
    assert np.array_equal(clip.truths.read(0), box(9, 12, 3, 9)[None])
    with pytest.raises(ValueError, match="there is no cow; there are cat, dog"):
        opened("labelme", tmp_path, categories="dog,cow").names()


# ---------------------------------------------------------------------- the wrong source


def test_categories_of_a_source_that_has_none_are_refused(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    with pytest.raises(ValueError, match="categories=dog: source=images knows no categories"):
        opened("images", tmp_path, categories="dog")


@pytest.mark.parametrize("place", ["instances.json", "annotations/instances_train.json", "masks/a.json"])
def test_images_with_a_json_of_coco_name_the_source_that_reads_it(tmp_path: Path, place: str) -> None:
    save_picture(tmp_path / "images" / "a.jpg")
    coco(tmp_path, [], file=place)
    with pytest.raises(ValueError, match="looks like one that source=coco reads"):
        opened("images", tmp_path).clip("a")


@pytest.mark.parametrize("place", ["images/a.json", "masks/a.json"])
def test_images_with_jsons_of_labelme_name_the_source_that_reads_them(tmp_path: Path, place: str) -> None:
    save_picture(tmp_path / "images" / "a.jpg")
    labelme(tmp_path / place, [shape("cat", corners(2, 6, 2, 6))], image="a.jpg")
    with pytest.raises(ValueError, match="looks like one that source=labelme reads"):
        opened("images", tmp_path).clip("a")
