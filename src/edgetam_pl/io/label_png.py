"""Label maps, PNGs of object numbers: the one reader for shards, evaluation, scores and prompts.

Label maps are almost always 8-bit and unfiltered, and then decoding is inflating: 20 times faster with zlib-ng than the
way through an image library. Everything else that is a legal mask goes through OpenCV, as grey values.
"""

from __future__ import annotations

import struct
import zlib
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from zlib_ng import zlib_ng

from edgetam_pl.io.errors import BadSampleError, Cause
from edgetam_pl.io.files import read_file
from edgetam_pl.io.pictures import read_picture
from edgetam_pl.io.rle import MAX_PIXELS

Labels = NDArray[np.uint8] | NDArray[np.uint16]
"""(H, W), 0 the background; 16 bits where a number is above 255."""

VOID = 255
"""The label of pixels nobody is asked about: never an object, background for truth and prediction alike (DAVIS toolkit)."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _PALETTE = 0, 3
_WITH_ALPHA = (4, 6)
_COLOUR_NAMES = {2: "RGB", 4: "grey with alpha", 6: "RGB with alpha"}
_CURE = (
    "Write the object numbers themselves, for instance cv2.imwrite(FILE, labels) with labels (H, W) uint8; converting a "
    "coloured picture to a palette (PIL's mode P) invents numbers."
)


def read_labels(path: Path) -> Labels:
    """Labels (H, W) of a palette PNG, or the values of a grey one of 1 to 16 bits (0 and 1 of a one-bit file).

    Raises:
        BadSampleError: unreadable, not a PNG, or in colour; the file is named.
    """
    content = read_file(path, Cause.MASK)
    if content[:2] == b"\xff\xd8":
        raise BadSampleError(
            Cause.ANNOTATION, f"{path} is a JPEG, whose compression changes object numbers; label maps are PNGs. {_CURE}"
        )
    if content[:8] != _SIGNATURE or content[12:16] != b"IHDR" or len(content) < 33:
        raise BadSampleError(
            Cause.MASK, f"{path} is not a PNG, or no readable PNG; masks are PNGs with a palette, one value an object."
        )
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", content[16:29])
    if not 0 < height * width <= MAX_PIXELS:
        raise BadSampleError(Cause.MASK_SIZE, f"{path} claims {height} x {width} pixels.")
    if colour in _COLOUR_NAMES:
        raise BadSampleError(
            Cause.ANNOTATION,
            f"{path} is {_COLOUR_NAMES[colour]}; masks are PNGs with a palette (or grey), one value an object, and this is "
            f"a colour image. {_CURE}",
        )
    labels = _inflated(path, content, height, width) if depth == 8 and not interlaced else None
    labels = _decoded(path, content, depth) if labels is None else labels
    if colour == _PALETTE:
        _refuse_indexed_colours(labels, content, path)
    return labels


def objects_in(labels: Labels, path: Path) -> tuple[int, ...]:
    """The numbers of the objects of a label map, void left out; (VOID,) where it shows nothing but void.

    Raises:
        BadSampleError: neighbouring pixels change their number all the time: a dithered picture, no label map; or numbers in
            between stand along edges: a map that was interpolated.
    """
    found = tuple(label for label in labels_in(labels) if label not in (0, VOID))
    if len(found) > 1:
        left, right = labels[:, :-1], labels[:, 1:]
        mixed = np.count_nonzero((left != right) & (left != 0) & (right != 0))
        if mixed > max(16, np.count_nonzero(labels) // 4):
            raise BadSampleError(
                Cause.ANNOTATION,
                f"{path} has objects {', '.join(map(str, found[:8]))} mixed pixel by pixel, as a dithered colour picture "
                f"has. {_CURE}",
            )
    if len(found) > 3 and len(lines := _lines(labels, found)) > 2:
        raise BadSampleError(
            Cause.ANNOTATION,
            f"{path} has objects {', '.join(map(str, lines[:8]))} that are nothing but lines along others, as a label map "
            "has that was resized like a photograph. Resize label maps with cv2.INTER_NEAREST.",
        )
    return found or ((VOID,) if labels.any() else ())


def _lines(labels: Labels, found: tuple[int, ...]) -> list[int]:
    """Objects of a few pixels, none of which has its own kind on all four sides, and almost all of which touch another
    object: the numbers between two that interpolation invents. True objects that are so thin lie in the background."""
    areas = np.bincount(labels.reshape(-1), minlength=found[-1] + 1)
    small = [label for label in found if areas[label] < labels.size // 100]
    if len(small) < 3:
        return []
    middle, sides = labels[1:-1, 1:-1], (labels[:-2, 1:-1], labels[2:, 1:-1], labels[1:-1, :-2], labels[1:-1, 2:])
    inner = np.logical_and.reduce([side == middle for side in sides])
    touching = np.logical_or.reduce([(side != middle) & (side != 0) & (side != VOID) for side in sides])
    lines = []
    for label in small:
        one = middle == label
        if not (inner & one).any() and np.count_nonzero(one & touching) > 0.9 * np.count_nonzero(one):
            lines.append(label)
    return lines


def read_label_map(path: Path) -> Labels:
    """Object numbers of a mask that a person gives: a label PNG, or a black and white picture of any kind (1 where white).

    Raises:
        BadSampleError: unreadable, or a picture that is neither.
    """
    header = path.read_bytes()[:26] if path.is_file() else b""
    if header[:8] == _SIGNATURE and header[25] in (_GREY, _PALETTE):
        labels = read_labels(path)
        values, counts = np.unique(labels[labels > 0], return_counts=True)
        white = int(values[counts.argmax()]) if len(values) else 0
        others = values[values != white]
        soft = len(others) > 7 or (len(others) > 0 and others.max() > 31)  # numbers of objects are few and small
        if header[25] == _GREY and white in (VOID, 0xFFFF) and soft:  # white with soft edges
            return (labels > white // 2).astype(np.uint8)
        return labels if set(values.tolist()) != {VOID} else (labels > 0).astype(np.uint8)
    picture = read_picture(path)
    if header[:8] == _SIGNATURE and header[25] in _WITH_ALPHA:
        with Image.open(path) as image:
            low, high = image.getchannel("A").getextrema()
        if low != high:
            raise BadSampleError(
                Cause.ANNOTATION, f"{path} is transparent in parts, and whether these are the object is not said. {_CURE}"
            )
    grey = picture.max(axis=2)
    in_colour = np.count_nonzero(grey - picture.min(axis=2) > 31)
    between = np.count_nonzero((grey > 63) & (grey < 192)) + (np.count_nonzero(grey > 15) if grey.max() < 128 else 0)
    if max(in_colour, between) > grey.size // 1000 + np.count_nonzero(grey > 127) // 4:
        raise BadSampleError(
            Cause.ANNOTATION, f"{path} is neither a PNG of object numbers nor a picture in black and white. {_CURE}"
        )
    return (grey > 127).astype(np.uint8)


def write_labels(path: Path, labels: Labels) -> None:
    """Labels (H, W) as a palette PNG in DAVIS's colours, or as grey 16 bits where a number is above 255; whole or not at
    all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = labels.shape
    deep = labels.dtype.itemsize > 1 and int(labels.max(initial=0)) > 255
    size = 2 if deep else 1
    rows = np.zeros((height, size * width + 1), dtype=np.uint8)  # a filter byte, 0 for none, before each row
    rows[:, 1:] = labels.astype(">u2" if deep else np.uint8).view(np.uint8).reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8 * size, _GREY if deep else _PALETTE, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib_ng.compress(rows.tobytes(), 6)), (b"IEND", b"")]
    if not deep:
        chunks.insert(1, (b"PLTE", davis_palette()))
    # not io.atomic: a label map is one of thousands in a folder, and waiting for the disk at each would cost more than it
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(_SIGNATURE + b"".join(_chunk(name, body) for name, body in chunks))
    partial.replace(path)


@cache
def davis_palette() -> bytes:
    """256 RGB triples: the bits of a label spread over the high bits of red, green and blue (PASCAL VOC, DAVIS)."""
    labels = np.arange(256, dtype=np.uint8)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for octet in range(3):
        for channel in range(3):
            bit = labels >> (3 * octet + channel) & 1 if 3 * octet + channel < 8 else np.zeros_like(labels)
            colours[:, channel] |= bit << (7 - octet)
    return colours.tobytes()


def labels_in(labels: Labels) -> tuple[int, ...]:
    """The labels that occur, in order, the background among them. Looks only where the value changes along a row."""
    flat = labels.reshape(-1)
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return tuple(sorted({int(flat[0]), *np.unique(flat[changes + 1]).tolist()}))


def _inflated(path: Path, content: bytes, height: int, width: int) -> NDArray[np.uint8] | None:
    """The fast way; None when rows are filtered."""
    try:
        raw = zlib_ng.decompress(b"".join(_idat(content)), bufsize=height * (width + 1))
    except (zlib_ng.error, struct.error) as error:  # pyright: ignore[reportGeneralTypeIssues] (its stub names an instance)
        raise BadSampleError(Cause.MASK, f"{path} is no readable PNG ({error}); write it again.") from error
    if len(raw) != height * (width + 1):
        raise BadSampleError(
            Cause.MASK, f"{path} is damaged: {len(raw)} bytes of pixels, expected {height * (width + 1)}. Write it again."
        )
    rows = np.frombuffer(raw, dtype=np.uint8).reshape(height, width + 1)
    return None if rows[:, 0].any() else np.ascontiguousarray(rows[:, 1:])


def _decoded(path: Path, content: bytes, depth: int) -> Labels:
    """Any palette or grey PNG through OpenCV: told to be grey, it gives palette indices as they are."""
    header = content[16:25] + bytes([_GREY]) + content[26:29]
    try:
        grey = _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", b"".join(_idat(content))) + _chunk(b"IEND", b"")
    except struct.error as error:
        raise BadSampleError(Cause.MASK, f"{path} is no readable PNG: it ends early. Write it again.") from error
    labels = cv2.imdecode(np.frombuffer(grey, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if labels is None or labels.ndim != 2:
        raise BadSampleError(Cause.MASK, f"{path} is no readable PNG; write it again.")
    if depth == 16 and labels.max(initial=0) > 255:
        return labels.astype(np.uint16)
    spread = 255 // (2**depth - 1) if depth < 8 else 1  # fewer bits come spread over 0 ... 255
    return (labels // spread).astype(np.uint8)


def _refuse_indexed_colours(labels: Labels, content: bytes, path: Path) -> None:
    """Refuse a picture whose palette a program has put in an order of its own: black, the background, then has any number,
    and an object may have 0.

    Raises:
        BadSampleError: naming the file and the cure.
    """
    at = content.find(b"PLTE", 29, 1 << 16)
    if at < 0 or content[at + 4 : at + 7] == b"\0\0\0":
        return
    (size,) = struct.unpack(">I", content[at - 4 : at])
    colours = [content[at + 4 + i : at + 7 + i] for i in range(0, size, 3)]
    black = [label for label in labels_in(labels) if label and label < len(colours) and colours[label] == b"\0\0\0"]
    if black and np.count_nonzero(labels == black[0]) > np.count_nonzero(labels == 0):
        raise BadSampleError(
            Cause.ANNOTATION,
            f"{path} shows most of the picture in black, as number {black[0]}, and number 0 in colour: its palette is in an "
            f"order of its own, and its numbers are not those of objects. {_CURE}",
        )


def _idat(content: bytes) -> list[bytes]:
    """Compressed pixels. Raises struct.error where the file ends before it should."""
    parts, at = [], len(_SIGNATURE)
    while True:
        (size,) = struct.unpack_from(">I", content, at)
        name = content[at + 4 : at + 8]
        if name == b"IEND":
            return parts
        if name == b"IDAT":
            parts.append(content[at + 8 : at + 8 + size])
        at += 12 + size


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
