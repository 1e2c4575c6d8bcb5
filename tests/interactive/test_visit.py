"""A visit to the app: what a visitor sees after each step, and what can be saved."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from app_pages import write_clip
from numpy.typing import NDArray

from edgetam_pl.commands.track import load_tracker
from edgetam_pl.interactive.options import SessionOptions
from edgetam_pl.interactive.user_prompts import UserPrompts
from edgetam_pl.interactive.visit import Visit
from edgetam_pl.io import rle
from edgetam_pl.io.label_png import read_labels
from edgetam_pl.io.overlay import colour_of
from edgetam_pl.io.video import open_video

ON = UserPrompts(((40.0, 30.0),), (1,))
OFF = UserPrompts(((10.0, 10.0),), (0,))
BOX = UserPrompts(box=(20.0, 10.0, 70.0, 50.0))


@pytest.fixture
def visit(tmp_path: Path) -> Visit:
    options = SessionOptions(keep_all=True, gate=False)
    return Visit(load_tracker("toy", "random"), write_clip(tmp_path / "my cow.mp4"), options=options)


def shown(visit: Visit, t: int) -> NDArray[np.int64]:
    """Frame t as it is shown, in colours that can be subtracted."""
    picture = cv2.imdecode(np.frombuffer(visit.picture(t), np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB).astype(np.int64)


def near(pixel: NDArray[np.int64], colour: str) -> bool:
    return bool(np.abs(pixel - np.array(tuple(bytes.fromhex(colour[1:])))).max() < 40)  # it is a JPEG


def test_a_visitor_prompts_tracks_corrects_and_goes_back(visit: Visit) -> None:
    untouched = visit.picture(0)
    visit.prompt(1, 0, ON)
    assert near(shown(visit, 0)[30, 40], colour_of(0))
    assert list(visit.track()) == [0, 1, 2, 3, 4]
    visit.prompt(1, 2, OFF)
    visit.undo()
    visit.undo()
    visit.undo()
    assert visit.picture(0) == untouched
    visit.prompt(1, 0, ON)
    visit.reset()
    assert visit.picture(0) == untouched


def test_a_point_off_the_object_has_another_shape_and_a_box_is_drawn(visit: Visit) -> None:
    visit.prompt(1, 0, UserPrompts(((30.0, 32.0), (60.0, 32.0)), (1, 0)))
    drawn = shown(visit, 0)
    disc, cross = drawn[28:37, 26:35], drawn[28:37, 56:65]
    assert near(disc[4, 4], colour_of(0))
    assert near(disc[4, 2], colour_of(0)), "a disc is filled beside its middle"
    assert not near(cross[4, 1], colour_of(0)), "a cross is not"
    visit.prompt(2, 0, BOX)
    assert near(shown(visit, 0)[10, 45], colour_of(1))


def test_each_object_is_deleted_alone(visit: Visit) -> None:
    visit.prompt(1, 0, ON)
    visit.prompt(3, 0, BOX)
    colours = [one["colour"] for one in visit.state()["objects"]]
    assert colours == [colour_of(0), colour_of(2)]
    visit.remove(1)
    assert [one["number"] for one in visit.state()["objects"]] == [3]
    with pytest.raises(ValueError, match="no object 1"):
        visit.remove(1)


def test_tracking_is_stopped_and_nothing_else_is_done_meanwhile(visit: Visit) -> None:
    visit.prompt(1, 0, ON)
    frames = visit.track()
    assert next(frames) == 0
    assert visit.state()["tracking"]
    with pytest.raises(ValueError, match="press Stop first"):
        visit.undo()
    visit.stop()
    assert list(frames) == []
    assert not visit.state()["tracking"]
    assert visit.session.answered == [0]
    assert list(visit.track()) == [0, 1, 2, 3, 4], "it can be started again"


def test_what_is_saved_bears_the_name_of_the_video(visit: Visit, tmp_path: Path) -> None:
    visit.prompt(1, 0, ON)
    visit.prompt(2, 1, BOX)
    assert list(visit.track()) == [0, 1, 2, 3, 4]
    film = visit.film(tmp_path)
    assert film.name == "my cow_tracked.mp4"
    assert (open_video(film).size, open_video(film).count) == ((64, 96), 5)
    path = visit.masks(tmp_path)
    assert path.name == "my cow_masks.zip"
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        archive.extract("00004.png", tmp_path)
    assert names == [f"{t:05d}.png" for t in range(5)]
    assert np.array_equal(read_labels(tmp_path / "00004.png"), visit.session.masks(4).label_map().numpy())


def test_coco_holds_every_mask_that_is_not_empty(visit: Visit) -> None:
    visit.prompt(1, 0, ON)
    visit.prompt(2, 0, BOX)
    assert list(visit.track())
    coco = visit.coco()
    assert [image["frame"] for image in coco["images"]] == [0, 1, 2, 3, 4]
    assert [one["id"] for one in coco["categories"]] == [1, 2]
    found = 0
    for t in range(5):
        answer = visit.session.masks(t)
        for number, mask in zip(answer.objects, answer.masks.numpy()):
            mine = [a for a in coco["annotations"] if (a["image_id"], a["track_id"]) == (t + 1, number)]
            assert len(mine) == mask.any()
            for one in mine:
                assert np.array_equal(rle.decode(one["segmentation"]["counts"], (64, 96)), mask)
                x, y, width, height = one["bbox"]
                assert mask[y : y + height, x : x + width].sum() == mask.sum() == one["area"]
                found += 1
    assert found


def test_without_masks_there_is_nothing_to_save(visit: Visit, tmp_path: Path) -> None:
    for take in (lambda: visit.masks(tmp_path), visit.coco):
        with pytest.raises(ValueError, match="no masks yet"):
            take()


def test_one_picture_is_a_video_of_one_frame(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    assert cv2.imwrite(str(path), np.zeros((64, 96, 3), np.uint8))
    visit = Visit(load_tracker("toy", "random"), path)
    assert (visit.name, visit.count) == ("cat", 1)
    visit.prompt(1, 0, BOX)
    assert list(visit.track()) == [0]
    assert io.BytesIO(visit.picture(0)).read(2) == b"\xff\xd8"
