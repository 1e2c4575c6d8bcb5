"""Region similarity J, boundary accuracy F, and their mean J&F (DAVIS-2017 toolkit; SA-V evaluator).

The functions are pure and take binary masks (..., H, W) of any leading shape. They are exact, and fast for two reasons:
only the box around both masks is looked at, and 64 pixels travel in one machine word, so that the dilation by a disk is
a handful of shifts. Words are little-endian along a row: bit i of word w is pixel x = 64 w + i.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

BOUNDARY_TOLERANCE = 0.008
"""Tolerance of F as a fraction of the image diagonal (DAVIS-2017 toolkit, bound_th)."""

Masks = NDArray[np.bool_]
Words = NDArray[np.uint64]
Scores = NDArray[np.float64]


class RegionBoundary(NamedTuple):
    """J and F of each pair of masks, in 0 ... 1, shaped like the leading axes of the masks."""

    j: Scores
    f: Scores


def region_similarity(prediction: NDArray, truth: NDArray) -> Scores:
    """J: intersection over union of masks (..., H, W), one value a pair; two empty masks score 1.

    Raises:
        ValueError: the shapes differ, or there are fewer than two axes.
    """
    scores = [_region(_crop(pair)) for pair in _pairs(prediction, truth)]
    return np.array(scores, dtype=np.float64).reshape(prediction.shape[:-2])


def region_and_boundary(prediction: NDArray, truth: NDArray, *, tolerance: float = BOUNDARY_TOLERANCE) -> RegionBoundary:
    """J and F of masks (..., H, W) in one pass, one value a pair.

    F is the harmonic mean of the precision and recall of boundaries: a boundary pixel counts as found when one of the other
    boundary lies within `tolerance_radius` pixels of it. Two empty masks score 1; one empty mask scores 0.

    Raises:
        ValueError: the shapes differ, or there are fewer than two axes.
    """
    scores: list[tuple[float, float]] = []
    for pair in _pairs(prediction, truth):
        cropped, (height, width) = _crop(pair), prediction.shape[-2:]
        scores.append((_region(cropped), _boundary(cropped, width, tolerance_radius(height, width, tolerance=tolerance))))
    j, f = np.array(scores, dtype=np.float64).reshape(-1, 2).T
    return RegionBoundary(j.reshape(prediction.shape[:-2]), f.reshape(prediction.shape[:-2]))


def tolerance_radius(height: int, width: int, *, tolerance: float = BOUNDARY_TOLERANCE) -> int:
    """Radius in pixels at which two boundary pixels match: ceil(0.008 diagonal).

    >>> tolerance_radius(480, 854), tolerance_radius(1080, 1920), tolerance_radius(60, 80)
    (8, 18, 1)
    """
    return math.ceil(tolerance * math.hypot(height, width))


class JF(Metric):
    """J, F and J&F over objects: the mean over frames of each object, then over all objects of all videos alike.

    States are sums of numbers, so that ranks with different numbers of videos, or none, reduce correctly.

    >>> metric = JF()
    >>> square = torch.zeros(3, 1, 60, 80, dtype=torch.bool)
    >>> square[:, :, 10:40, 10:50] = True
    >>> metric.update_masks(square, square)
    >>> {name: value.item() for name, value in metric.compute().items()}
    {'j': 100.0, 'f': 100.0, 'jf': 100.0}
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False

    sum_j: Tensor
    sum_f: Tensor
    num_objects: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("sum_j", "sum_f", "num_objects"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, j: Scores | Sequence[float], f: Scores | Sequence[float]) -> None:
        """Add objects by their means over frames in 0 ... 1: (O,) each; none where a rank has no video left."""
        self.sum_j += float(np.sum(j))
        self.sum_f += float(np.sum(f))
        self.num_objects += len(j)

    def update_masks(self, prediction: Tensor, truth: Tensor) -> None:
        """Add the objects of one video: masks (T, O, H, W) bool, the T frames that are scored.

        Raises:
            ValueError: the shapes differ, or no frame is scored.
        """
        if prediction.ndim != 4 or prediction.shape != truth.shape:
            raise ValueError(
                f"Masks of {tuple(prediction.shape)} and {tuple(truth.shape)}; expected (T, O, H, W) twice the same."
            )
        if prediction.shape[0] == 0:
            raise ValueError("No frame to score: T is 0. Leave the video out, or score more of its frames.")
        scores = region_and_boundary(prediction.cpu().numpy().astype(bool), truth.cpu().numpy().astype(bool))
        self.update(scores.j.mean(axis=0), scores.f.mean(axis=0))

    def compute(self) -> dict[str, Tensor]:
        """`j`, `f` and `jf` in 0 ... 100; NaN when no rank has seen an object."""
        j, f = 100 * self.sum_j / self.num_objects, 100 * self.sum_f / self.num_objects
        return {"j": j, "f": f, "jf": (j + f) / 2}


def pack(mask: NDArray) -> Words:
    """A mask (H, W) as words (H, ceil(W / 64)); what is not zero is set, pixels beyond W are not."""
    height, width = mask.shape
    octets = np.zeros((height, -(-width // 64) * 8), dtype=np.uint8)
    octets[:, : -(-width // 8)] = np.packbits(mask, axis=-1, bitorder="little")
    return octets.view("<u8")


class _Cropped(NamedTuple):
    """The box around both masks, one pixel larger where the image goes on."""

    words: Words  # (2, h, w): prediction, truth
    first_word: int  # where the box begins in the image's rows


def _pairs(prediction: NDArray, truth: NDArray) -> Iterator[tuple[Words, Words]]:
    """Packed pairs of two (..., H, W)."""
    if prediction.shape != truth.shape or prediction.ndim < 2:
        raise ValueError(
            f"A prediction of {prediction.shape} against a truth of {truth.shape}; expected (..., H, W), twice the same."
        )
    both = [
        (masks if masks.dtype in (np.bool_, np.uint8) else masks != 0).reshape(-1, *masks.shape[-2:])
        for masks in (prediction, truth)
    ]
    return ((pack(one), pack(other)) for one, other in zip(*both))


def _crop(pair: tuple[Words, Words]) -> _Cropped:
    """The part of two (H, W/64) words in which anything is set."""
    either = pair[0] | pair[1]
    rows = np.flatnonzero(either.any(axis=1))
    if not rows.size:
        return _Cropped(np.zeros((2, 0, 0), dtype=np.uint64), 0)
    columns = np.flatnonzero(np.bitwise_or.reduce(either[rows[0] : rows[-1] + 1], axis=0))
    top, bottom = max(int(rows[0]) - 1, 0), min(int(rows[-1]) + 2, len(either))
    # The boundary may lie one pixel to the left of the mask, hence perhaps in the word before.
    left, right = max(int(columns[0]) - 1, 0), int(columns[-1]) + 1
    return _Cropped(np.stack([words[top:bottom, left:right] for words in pair]), left)


def _region(box: _Cropped) -> float:
    prediction, truth = box.words
    union = _count(prediction | truth)
    return _count(prediction & truth) / union if union else 1.0


def _boundary(box: _Cropped, width: int, radius: int) -> float:
    if not box.words.size:
        return 1.0
    boundaries = _boundary_words(box.words, width, box.first_word)
    num_prediction, num_truth = _count(boundaries[0]), _count(boundaries[1])
    if not num_prediction or not num_truth:
        return float(num_prediction == num_truth)
    near = _dilate(boundaries, radius)
    precision = _count(boundaries[0] & near[1]) / num_prediction
    recall = _count(boundaries[1] & near[0]) / num_truth
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _count(words: Words) -> int:
    return int(np.bitwise_count(words).sum(dtype=np.int64))


def _boundary_words(words: Words, width: int, first_word: int) -> Words:
    """Boundary maps of (N, h, w) words that begin at word `first_word` of rows of `width` pixels: what differs from its
    right, lower or lower-right neighbour. The last row is either the image's, and then only looks to the right, or empty;
    the last column only looks down, the last pixel nowhere. So the boundary lies partly on the background, above and to the
    left of the object (DAVIS-2017 toolkit, _seg2bmap).
    """
    right = words >> np.uint64(1)  # every pixel takes the value of its right neighbour
    right[..., :-1] |= words[..., 1:] << np.uint64(63)
    sideways = words ^ right
    diagonal = words[:, :-1] ^ right[:, 1:]
    last = width - 1 - 64 * first_word  # the image's last column, which has nothing to its right
    if last < 64 * words.shape[2]:
        keep = ~np.uint64(1 << last % 64)
        sideways[..., last // 64] &= keep
        diagonal[..., last // 64] &= keep
    diagonal |= words[:, :-1] ^ words[:, 1:]
    sideways[:, :-1] |= diagonal
    return sideways


def _dilate(words: Words, radius: int) -> Words:
    """(N, h, w) words dilated by the disk dx^2 + dy^2 <= radius^2.

    The disk is a stack of horizontal spans, the narrowest at the top and bottom. One span grows from row to row, and is
    put down `dy` rows above and below. Rows are laid out one after the other in one line, with a gap as wide as the disk
    reaches, so that a shift is a few passes over memory and nothing runs from one row into the next.
    """
    number, height, width = words.shape
    stride = width + -(-radius // 64)
    span = np.zeros((number, height, stride), dtype=np.uint64)
    span[..., :width] = words
    span = span.reshape(number, height * stride)
    near, other, spare = np.zeros_like(span), np.empty_like(span), np.empty_like(span)
    half_width = 0
    for dy in range(radius, -1, -1):
        target = math.isqrt(radius * radius - dy * dy)
        while half_width < target:
            grow = min(target - half_width, 2 * half_width + 1, 63)  # without a gap in the span, within a word
            _widen(span.reshape(-1), grow, out=other.reshape(-1), spare=spare.reshape(-1))
            span, other, half_width = other, span, half_width + grow
        if dy < height:
            move = dy * stride
            near[:, move:] |= span[:, : span.shape[1] - move]
            if dy:
                near[:, :-move] |= span[:, move:]
    return near.reshape(number, height, stride)[..., :width]


def _widen(line: Words, by: int, *, out: Words, spare: Words) -> None:
    """`out` = `line`, or `line` moved by 1 <= `by` < 64 pixels to either side. `spare` is for intermediate values."""
    bits, rest = np.uint64(by), np.uint64(64 - by)
    np.left_shift(line, bits, out=out)
    np.right_shift(line, bits, out=spare)
    out |= spare
    out |= line
    np.right_shift(line[:-1], rest, out=spare[1:])
    out[1:] |= spare[1:]
    np.left_shift(line[1:], rest, out=spare[:-1])
    out[:-1] |= spare[:-1]
