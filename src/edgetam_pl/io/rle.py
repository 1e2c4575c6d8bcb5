"""COCO run-length masks: checked before use, decoded only as far and as large as needed.

A mask is a string of runs in column-major order that starts with background. `pycocotools` writes it; reading it back is
done here, because its C reader trusts its input, and because runs can be resampled without making the full mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from edgetam_pl.io.errors import BadSampleError, Cause

Runs = NDArray[np.int64]
"""Lengths of alternating runs, background first, summing to H * W."""


class Rle(NamedTuple):
    """A mask as its compressed counts."""

    counts: str
    size: tuple[int, int]
    """(H, W)."""

    @property
    def area(self) -> int:
        """Foreground pixels. Raises BadSampleError as `parse` does."""
        return area(parse(self.counts, self.size))


MAX_PIXELS = 1 << 27
"""Larger frames (more than 11585 x 11585) are taken for a mistake."""


def encode(mask: NDArray[np.bool_]) -> str:
    """The compressed counts of a mask (H, W).

    >>> import numpy as np
    >>> mask = np.zeros((4, 5), bool)
    >>> mask[1:3, 2:4] = True
    >>> bool((decode(encode(mask), (4, 5)) == mask).all())
    True
    """
    counts: Any = coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    return counts.decode("ascii")


def decode(counts: str, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask (H, W) of compressed counts. Raises BadSampleError as `parse` does."""
    height, width = size
    return _fill(parse(counts, size)).reshape(width, height).T.view(bool)


def parse(counts: str, size: tuple[int, int]) -> Runs:
    """The runs of compressed counts.

    Raises:
        BadSampleError: a character that COCO's alphabet does not have, an unfinished or negative number, or runs that do
            not add up to H * W pixels.
    """
    height, width = size
    if not 0 < height * width <= MAX_PIXELS or height < 0:
        raise BadSampleError(Cause.MASK_SIZE, f"a mask of {height} x {width} pixels")
    try:
        code = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - 48
    except (UnicodeEncodeError, AttributeError):
        raise BadSampleError(Cause.MASK, f"mask counts are not text in COCO's alphabet: {counts!r:.40}") from None
    if not len(code) or code.min() < 0 or code.max() > 63 or code[-1] & 0x20:
        raise BadSampleError(Cause.MASK, f"mask counts are empty, cut off, or not in COCO's alphabet: {counts!r:.40}")
    # where numbers begin and end in the string, and how many digits each has
    last = np.flatnonzero((code & 0x20) == 0)  # each number ends with a digit without the continuation bit
    first = np.concatenate([[0], last[:-1] + 1])
    digits = last - first + 1
    if digits.max() > 7:  # 35 bits: more than any frame has pixels
        raise BadSampleError(Cause.MASK, "mask counts hold a number that no frame can hold")
    # digits of 5 bits to numbers, lowest digit first
    place = np.arange(len(code)) - np.repeat(first, digits)
    runs = np.add.reduceat((code & 0x1F) << (5 * place), first)
    runs -= ((code[last] & 0x10) != 0).astype(np.int64) << (5 * digits)  # two's complement
    # differences to runs
    runs[1::2] = np.cumsum(runs[1::2])  # from the third on, numbers are differences to the one before last
    runs[2::2] = np.cumsum(runs[2::2])
    if runs.min() < 0 or runs.sum() != height * width:
        raise BadSampleError(
            Cause.MASK if runs.min() < 0 else Cause.MASK_SIZE,
            f"mask runs cover {runs.sum()} pixels; the frame is {height} x {width} = {height * width}",
        )
    return runs


def of_coco(raw: Any, where: str) -> Rle:
    """A COCO run-length dictionary, compressed or not, with its runs checked.

    Raises:
        BadSampleError: MASK or MASK_SIZE, with `where`.
    """
    try:
        size = (int(raw["size"][0]), int(raw["size"][1]))
        counts = raw["counts"]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise BadSampleError(Cause.MASK, f"{where}: a mask is no COCO RLE ({error!r:.60})") from error
    if isinstance(counts, list):  # COCO's uncompressed form
        if not all(isinstance(n, int) and n >= 0 for n in counts) or not counts:
            raise BadSampleError(Cause.MASK, f"{where}: uncompressed counts that are not natural numbers")
        counts = to_counts(np.array(counts, np.int64))
    try:
        parse(counts, size)
    except BadSampleError as error:
        raise BadSampleError(error.cause, f"{where}: {error.message}") from error
    return Rle(counts, size)


def of_segmentation(raw: Any, size: tuple[int, int], where: str) -> Rle:
    """COCO's segmentation of an object in an image of `size` (H, W): run lengths, compressed or not, or a list of polygons
    [x0, y0, x1, y1, ...] in pixels, which are filled as COCO fills them and joined.

    Raises:
        BadSampleError: MASK or MASK_SIZE, with `where`.
    """
    if not isinstance(raw, list):
        mask = of_coco(raw, where)
        if mask.size != size:
            wrong = f"mask {mask.size[0]} x {mask.size[1]}, image {size[0]} x {size[1]}"
            raise BadSampleError(Cause.MASK_SIZE, f"{where}: {wrong}")
        return mask
    if not 0 < size[0] * size[1] <= MAX_PIXELS or size[0] < 0:
        raise BadSampleError(Cause.MASK_SIZE, f"{where}: an image of {size[0]} x {size[1]} pixels")
    try:
        rings = [ring for ring in (np.array(polygon, np.float64) for polygon in raw) if ring.size >= 6]  # fewer: no area
    except (ValueError, TypeError, OverflowError) as error:
        raise BadSampleError(Cause.MASK, f"{where}: a polygon that is no list of numbers ({error!r:.60})") from error
    far = 4 * max(size)  # COCO's filling walks along every edge, however long
    if not rings or not all(ring.ndim == 1 and ring.size % 2 == 0 and (np.abs(ring) < far).all() for ring in rings):
        raise BadSampleError(
            Cause.MASK, f"{where}: no polygon of three points or more [x0, y0, x1, y1, ...] in or near the image"
        )
    found: Any = coco.merge(coco.frPyObjects([ring.tolist() for ring in rings], *size))
    return Rle(found["counts"].decode("ascii"), size)


def union(masks: Sequence[Rle]) -> Rle:
    """The pixels of any of these masks, all of one size."""
    if len(masks) == 1:
        return masks[0]
    found: Any = coco.merge([{"size": list(mask.size), "counts": mask.counts} for mask in masks])
    return Rle(found["counts"].decode("ascii"), masks[0].size)


def area(runs: Runs) -> int:
    """Foreground pixels."""
    return int(runs[1::2].sum())


def resample(runs: Runs, size: tuple[int, int], target: tuple[int, int]) -> Runs:
    """The runs of the mask sampled at the pixel centres of a `target` grid (h, w): nearest neighbour, without decoding.

    Target pixel i takes source pixel floor((i + 1/2) * H / h). A run boundary before source position p becomes the number
    of target pixels whose source position is before p.
    """
    (height, width), (h, w) = size, target
    # target rows and columns before each source row and column
    rows = np.searchsorted(_sampled(height, h), np.arange(height + 1))  # (H + 1,) target rows whose source row is before
    columns = np.searchsorted(_sampled(width, w), np.arange(width + 1))
    # source column and row of each boundary between runs
    ends = np.cumsum(runs)
    column, row = np.divmod(ends, height)
    inside = np.minimum(column, width - 1)
    # a source column drawn k times repeats its rows k times; only the first copy can be cut by a boundary inside it
    copies = columns[inside + 1] - columns[inside]
    if copies.max() > 1:
        return encode_runs(_fill(runs).reshape(width, height)[np.ix_(_sampled(width, w), _sampled(height, h))])
    places = np.where(column >= width, w * h, columns[inside] * h + copies * rows[row])
    return np.diff(places, prepend=0)


def encode_runs(columns: NDArray[np.uint8]) -> Runs:
    """The runs of a column-major mask (W, H)."""
    flat = columns.reshape(-1)
    edges = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff(np.concatenate([[0], edges, [flat.size]]))
    return np.concatenate([[0], lengths]) if flat[0] else lengths


def to_counts(runs: Runs) -> str:
    """Compressed counts of runs."""
    # from the fourth number on, differences to the one before last
    numbers = runs.astype(np.int64).copy()
    numbers[3:] -= runs[1:-2]
    text = []
    for number in numbers.tolist():
        more = True
        while more:  # digits of 5 bits, lowest first, with a continuation bit
            digit = number & 0x1F
            number >>= 5
            more = number != -1 if digit & 0x10 else number != 0
            text.append(chr((digit | (0x20 if more else 0)) + 48))
    return "".join(text)


def paint(runs: Runs, value: int, canvas: NDArray[np.uint8]) -> None:
    """OR `value` into a column-major canvas (W, H), C-contiguous, wherever the mask is."""
    body = runs[1:] if len(runs) % 2 == 0 else runs[1:-1]  # from the first foreground pixel to the last
    start = int(runs[0])
    pattern = np.zeros(len(body), np.uint8)
    pattern[::2] = value
    part = canvas.reshape(-1)[start : start + int(body.sum())]
    np.bitwise_or(part, np.repeat(pattern, body), out=part)


def _fill(runs: Runs, value: int = 1) -> NDArray[np.uint8]:
    """Column-major pixels (W * H,) of 0 and `value`."""
    pattern = np.zeros(len(runs), np.uint8)
    pattern[1::2] = value
    return np.repeat(pattern, runs)


def _sampled(source: int, target: int) -> NDArray[np.int64]:
    """The source index of each target index: pixel centres, never out of range."""
    return np.minimum(((np.arange(target) + 0.5) * source / target).astype(np.int64), source - 1)
