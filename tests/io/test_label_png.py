"""Label maps survive writing and reading, agree with PIL, and wrong files are named."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from awkward_inputs import labels_of
from PIL import Image

from edgetam_pl.io.label_png import (
    davis_palette,
    labels_in,
    objects_in,
    read_label_map,
    read_labels,
    write_labels,
)

LABELS = np.random.default_rng(0).integers(0, 5, (21, 33), dtype=np.uint8)


def test_what_is_written_is_read_by_us_and_by_pil(tmp_path: Path) -> None:
    write_labels(tmp_path / "a.png", LABELS)
    assert np.array_equal(read_labels(tmp_path / "a.png"), LABELS)
    image = Image.open(tmp_path / "a.png")
    assert image.mode == "P"
    assert np.array_equal(np.array(image), LABELS)
    assert image.getpalette()[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_the_palette_is_that_of_davis() -> None:
    colours = np.frombuffer(davis_palette(), dtype=np.uint8).reshape(256, 3)
    assert colours[8].tolist() == [64, 0, 0]
    assert colours[255].tolist() == [224, 224, 192]


@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize("colours", [2, 4, 16, 256])
def test_palettes_of_any_depth_are_read(tmp_path: Path, colours: int, optimize: bool) -> None:
    labels = np.minimum(LABELS, colours - 1).astype(np.uint8)
    image = Image.fromarray(labels, mode="P")
    image.putpalette(davis_palette()[: 3 * colours])
    image.save(tmp_path / "a.png", optimize=optimize, bits=max(colours - 1, 1).bit_length())
    assert np.array_equal(read_labels(tmp_path / "a.png"), labels)


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_and_one_bit_masks_are_read(tmp_path: Path, mode: str) -> None:
    Image.fromarray((LABELS > 2).astype(np.uint8) * 255).convert(mode).save(tmp_path / "a.png")
    expected = (LABELS > 2) * (255 if mode == "L" else 1)
    assert np.array_equal(read_labels(tmp_path / "a.png"), expected)


FILTERS = {
    "none": cv2.IMWRITE_PNG_FILTER_NONE,
    "sub": cv2.IMWRITE_PNG_FILTER_SUB,
    "up": cv2.IMWRITE_PNG_FILTER_UP,
    "average": cv2.IMWRITE_PNG_FILTER_AVG,
    "paeth": cv2.IMWRITE_PNG_FILTER_PAETH,
    "all": cv2.IMWRITE_PNG_ALL_FILTERS,
}


@pytest.mark.parametrize("kind", FILTERS)
def test_filtered_rows_are_read(tmp_path: Path, kind: str) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), LABELS, [cv2.IMWRITE_PNG_FILTER, FILTERS[kind]])
    assert np.array_equal(read_labels(tmp_path / "a.png"), LABELS)


def test_real_masks_read_as_pil_reads_them(shared: Path) -> None:
    paths = sorted((shared / "data" / "davis17_multi_dev").rglob("*.png"))[::7]
    for path in paths:
        assert np.array_equal(read_labels(path), np.array(Image.open(path)))
    assert len(paths) > 5


@pytest.mark.parametrize(("mode", "word"), [("RGB", "RGB"), ("RGBA", "alpha"), ("LA", "alpha")])
def test_masks_in_colour_are_refused_by_name(tmp_path: Path, mode: str, word: str) -> None:
    Image.new(mode, (4, 4)).save(tmp_path / "wrong.png")
    with pytest.raises(ValueError, match=rf"wrong\.png.*{word}"):
        read_labels(tmp_path / "wrong.png")


WHITE = 255 * (LABELS == 2).astype(np.uint8)
FEW = cv2.GaussianBlur(np.kron(WHITE[:8, :8], np.ones((9, 9), np.uint8)), (3, 3), 0)
SOFT = np.asarray(cv2.circle(np.zeros((60, 70), np.uint8), (35, 30), 20, 255, -1, cv2.LINE_AA))


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (WHITE, WHITE > 0),
        (cv2.merge([WHITE] * 3), WHITE > 0),
        (cv2.merge([WHITE, WHITE, WHITE, np.full_like(WHITE, 255)]), WHITE > 0),
        (WHITE.astype(np.uint16) * 257, WHITE > 0),
        (SOFT, SOFT > 127),
        (FEW, FEW > 127),
        (SOFT.astype(np.uint16) * 257, SOFT > 127),
    ],
    ids=["grey", "RGB", "RGBA", "16 bits", "soft edges", "edges of few values", "soft edges in 16 bits"],
)
def test_a_black_and_white_prompt_is_one_object(tmp_path: Path, pixels: np.ndarray, expected: np.ndarray) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    assert np.array_equal(read_label_map(tmp_path / "a.png") > 0, expected)
    assert len(objects_in(read_label_map(tmp_path / "a.png"), tmp_path / "a.png")) == 1


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_prompt_that_is_transparent_in_parts_is_refused(tmp_path: Path, mode: str) -> None:
    image = Image.new("L", (33, 21), 255).convert(mode)
    image.putalpha(Image.fromarray(WHITE))
    image.save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png is transparent in parts"):
        read_label_map(tmp_path / "a.png")


def test_numbers_above_255_are_written_and_read_in_16_bits(tmp_path: Path) -> None:
    labels = LABELS.astype(np.uint16) * 300
    write_labels(tmp_path / "deep.png", labels)
    assert np.array_equal(read_labels(tmp_path / "deep.png"), labels)
    assert np.array_equal(np.array(Image.open(tmp_path / "deep.png")), labels)


@pytest.mark.parametrize("keep", [0, 20, 60, 200, -20])
def test_truncated_files_are_named(tmp_path: Path, keep: int) -> None:
    write_labels(tmp_path / "whole.png", LABELS)
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"cut\.png"):
        read_labels(tmp_path / "cut.png")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.png cannot be read"):
        read_labels(tmp_path / "none.png")


def test_labels_that_occur() -> None:
    assert labels_in(np.array([[0, 3, 3], [3, 7, 0]], dtype=np.uint8)) == (0, 3, 7)
    assert labels_in(np.full((2, 2), 9, dtype=np.uint8)) == (9,)


def test_a_coloured_mask_that_a_program_has_indexed_is_refused(tmp_path: Path) -> None:
    """Its palette begins with the colour of an object; black, the background, has another number."""
    coloured = np.zeros((96, 128, 3), np.uint8)
    coloured[labels_of(0) == 1], coloured[labels_of(0) == 2] = (128, 0, 0), (0, 128, 0)
    path = tmp_path / "a.png"
    Image.fromarray(coloured).convert("P", palette=Image.Palette.ADAPTIVE, colors=3).save(path)
    for read in (read_labels, read_label_map):
        with pytest.raises(ValueError, match="number 0 in colour: its palette is in an order of its own"):
            read(path)
    white = Image.fromarray(np.minimum(labels_of(0), 1), mode="P")
    white.putpalette([255, 255, 255, 0, 0, 0])  # an object in black on white
    white.save(path)
    assert labels_in(read_labels(path)) == (0, 1)


def test_a_label_map_that_was_interpolated_is_refused_and_small_objects_are_not(tmp_path: Path) -> None:
    labels = np.array([0, 1, 200], np.uint8)[labels_of(0)]
    smooth = cv2.resize(cv2.resize(labels, (64, 48)), (128, 96))
    with pytest.raises(ValueError, match="nothing but lines along others, as a label map has that was resized like a photo"):
        objects_in(smooth, tmp_path / "a.png")
    assert objects_in(cv2.resize(labels, (77, 55), interpolation=cv2.INTER_NEAREST), tmp_path / "a.png") == (1, 200)
    tiny = np.zeros((96, 128), np.uint8)
    for number in range(1, 9):
        tiny[10 * number, 5 : 5 + number] = number  # lines in the background
    tiny[40:60, 60:90], tiny[60:80, 60:90] = 9, 10
    tiny[39, 60:62] = 11  # one thin object on the edge of another
    assert objects_in(tiny, tmp_path / "a.png") == tuple(range(1, 12))
