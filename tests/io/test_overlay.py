"""One painter for all pictures: objects and their edges change, nothing else does; and the tables that stand beside them."""

from __future__ import annotations

import doctest

import cv2
import numpy as np

from edgetam_pl.io import tables
from edgetam_pl.io.label_png import davis_palette
from edgetam_pl.io.overlay import COLOURS, colour_of, paint, paint_labels


def test_label_pngs_have_daviss_palette() -> None:
    palette = np.frombuffer(davis_palette(), dtype=np.uint8).reshape(256, 3)
    assert palette[:5].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]]
    assert palette[255].tolist() == [224, 224, 192]


def test_an_overlay_changes_objects_and_their_edges_alone() -> None:
    frame = np.full((20, 20, 3), 100, np.uint8)
    labels = np.zeros((20, 20), np.uint8)
    labels[5:12, 5:12] = 1
    drawn = paint_labels(frame, labels)
    assert drawn[8, 8].tolist() == [158, 79, 79]  # half of 100, half of #d83a3a
    assert drawn[5, 8].tolist() == [216, 58, 58]  # the outline
    untouched = cv2.dilate(labels, np.ones((3, 3), np.uint8)) == 0
    assert np.array_equal(drawn[untouched], frame[untouched])
    assert (frame == 100).all()


def test_masks_and_label_maps_are_painted_alike() -> None:
    frame = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    labels = np.zeros((24, 32), np.uint8)
    labels[2:9, 2:9], labels[10:20, 12:30] = 1, 3
    masks = np.stack([labels == 1, labels == 2, labels == 3])
    assert np.array_equal(paint(frame, masks), paint_labels(frame, labels))
    assert np.array_equal(paint(frame, []), frame)


def test_colours_come_again_after_the_last() -> None:
    assert colour_of(len(COLOURS)) == colour_of(0) == "#d83a3a"
    labels = np.full((8, 8), 255, np.uint8)
    assert paint_labels(np.zeros((8, 8, 3), np.uint8), labels)[4, 4].any()


def test_tables_are_as_their_docstrings_show() -> None:
    assert doctest.testmod(tables).failed == 0
