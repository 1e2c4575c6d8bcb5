"""PNGs of object labels: read fast, judged strictly, written with the DAVIS palette.

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
from zlib_ng import zlib_ng

Labels = NDArray[np.uint8]
"""(H, W), 0 the background."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _PALETTE = 0, 3
_COLOUR_NAMES = {2: "RGB", 4: "grey with alpha", 6: "RGB with alpha"}


def read_labels(path: Path) -> Labels:
    """Labels (H, W) of a palette PNG, or the values of a grey one (0 and 1 of a one-bit file).

    Raises:
        ValueError: unreadable, not a PNG, in colour, or with 16 bits a value; the file is named.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}).") from error
    if content[:8] != _SIGNATURE or content[12:16] != b"IHDR" or len(content) < 33:
        raise ValueError(f"{path} is not a PNG; masks are PNGs with a palette, one value an object.")
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", content[16:29])
    if colour in _COLOUR_NAMES:
        raise ValueError(
            f"{path} is {_COLOUR_NAMES[colour]}; masks are PNGs with a palette (or grey), one value an object. "
            f"Save it with PIL's mode 'P'."
        )
    if colour not in (_GREY, _PALETTE) or depth not in (1, 2, 4, 8):
        raise ValueError(f"{path} has {depth} bits a value and colour type {colour}; masks have 8 bits and a palette.")
    if depth == 8 and not interlaced:
        labels = _inflated(path, content, height, width)
        if labels is not None:
            return labels
    return _decoded(path, content, colour, depth)


def write_labels(path: Path, labels: Labels) -> None:
    """Labels (H, W) as a palette PNG in DAVIS's colours; written whole or not at all."""
    height, width = labels.shape
    rows = np.zeros((height, width + 1), dtype=np.uint8)  # a filter byte, 0 for none, before each row
    rows[:, 1:] = labels
    header = struct.pack(">IIBBBBB", width, height, 8, _PALETTE, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"PLTE", davis_palette()), (b"IDAT", zlib_ng.compress(rows.tobytes(), 6)), (b"IEND", b""))
    path.parent.mkdir(parents=True, exist_ok=True)
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


def _inflated(path: Path, content: bytes, height: int, width: int) -> Labels | None:
    """The fast way; None when rows are filtered."""
    try:
        raw = zlib_ng.decompress(b"".join(_idat(content)), bufsize=height * (width + 1))
    except (zlib_ng.error, struct.error) as error:  # pyright: ignore[reportGeneralTypeIssues] (its stub names an instance)
        raise ValueError(f"{path} is damaged ({error}); write it again.") from error
    if len(raw) != height * (width + 1):
        raise ValueError(f"{path} is damaged: {len(raw)} bytes of pixels, expected {height * (width + 1)}. Write it again.")
    rows = np.frombuffer(raw, dtype=np.uint8).reshape(height, width + 1)
    return None if rows[:, 0].any() else np.ascontiguousarray(rows[:, 1:])


def _decoded(path: Path, content: bytes, colour: int, depth: int) -> Labels:
    """Any palette or grey PNG through OpenCV: told to be grey, it gives palette indices as they are."""
    header = content[16:25] + bytes([_GREY]) + content[26:29]
    try:
        grey = _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", b"".join(_idat(content))) + _chunk(b"IEND", b"")
    except struct.error as error:
        raise ValueError(f"{path} is damaged: it ends early. Write it again.") from error
    labels = cv2.imdecode(np.frombuffer(grey, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if labels is None or labels.ndim != 2:
        raise ValueError(f"{path} is damaged; write it again.")
    return labels // (255 // (2**depth - 1))  # fewer bits come spread over 0 ... 255


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
