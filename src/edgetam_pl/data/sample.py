"""What one shard sample holds: a window of a video, or one image, with the masks of its objects. Format version 1.

A sample is a group of tar members that share a key (WebDataset's convention):

    KEY.json        the header below, UTF-8 JSON
    KEY.000.jpg     the first frame's JPEG bytes, KEY.001.jpg the second's, ...

docs/shards.md describes every field. `decode(encode(sample))` is the sample.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from edgetam_pl.io import rle
from edgetam_pl.io.errors import BadSampleError, Cause

VERSION = 1
MAX_FRAMES = 1000
"""Frames have three digits in member names."""
MAX_SCANS = 64
"""Of a JPEG; progressive ones have about 10."""


@dataclass(frozen=True)
class Header:
    """All that is known of a sample but its pixels."""

    key: str
    source: str  # data set
    video: str  # name in the data set; of an image, the image's
    kind: str  # video | image
    frames: tuple[int, ...]  # frame numbers in the original video
    size: tuple[int, int]  # (H, W) of the stored frames, pixels
    original_size: tuple[int, int]  # (H, W) before any shrinking
    objects: tuple[str, ...]  # names in the data set
    masks: tuple[tuple[str | None, ...], ...]  # [object][frame]: COCO RLE counts at `size`; None: not in this frame

    @property
    def num_frames(self) -> int:
        return len(self.frames)

    def visible(self, frame: int) -> list[int]:
        """Objects with a mask on this frame (a position, not a frame number)."""
        return [o for o, track in enumerate(self.masks) if track[frame] is not None]

    @property
    def hidden(self) -> tuple[int, ...]:
        """Frames on which no object is seen."""
        return tuple(t for t in range(self.num_frames) if not self.visible(t))


@dataclass(frozen=True)
class Sample:
    """A header and its frames."""

    header: Header
    images: tuple[bytes, ...]  # JPEG, one a frame
    position: int | None = field(default=None, compare=False)
    """Of the first frame among those of its video that are stored; kept in the index, not in the sample. None: not known."""


def image_suffix(frame: int) -> str:
    """Member suffix of a frame's JPEG: 7 -> 007.jpg."""
    return f"{frame:03d}.jpg"


def encode(sample: Sample) -> dict[str, bytes]:
    """The tar members of a sample, by suffix.

    Raises:
        BadSampleError: the sample contradicts itself (see `check`), so that no broken shard is ever written.
    """
    check(sample.header)
    if len(sample.images) != sample.header.num_frames:
        raise BadSampleError(
            Cause.MEMBER_MISSING,
            f"{sample.header.key} has {sample.header.num_frames} frames and {len(sample.images)} images",
        )
    members = {image_suffix(i): image for i, image in enumerate(sample.images)}
    text = json.dumps({"version": VERSION, **asdict(sample.header)}, ensure_ascii=False, separators=(",", ":"))
    return {"json": text.encode(), **members}


def decode(members: Mapping[str, bytes]) -> Sample:
    """The sample of these tar members, every mask and image size checked.

    Raises:
        BadSampleError: something is missing, broken or of another version.
    """
    if "json" not in members:
        raise BadSampleError(Cause.MEMBER_MISSING, "a sample has no header (.json)")
    header = decode_header(members["json"])
    images = []
    for i in range(header.num_frames):
        image = members.get(image_suffix(i))
        if image is None:
            raise BadSampleError(Cause.MEMBER_MISSING, f"{header.key} has no frame {image_suffix(i)}")
        check_image(image, header, i)
        images.append(image)
    for track in header.masks:
        for counts in track:
            if counts is not None:
                rle.parse(counts, header.size)
    return Sample(header, tuple(images))


def decode_header(data: bytes) -> Header:
    """The header of a sample. Masks are not decoded: the loader decodes those it chooses.

    Raises:
        BadSampleError: not JSON, a key is missing or of a wrong type, or the version is newer than this program.
    """
    if not data:
        raise BadSampleError(Cause.MEMBER_EMPTY, "the header is empty")
    try:
        raw: dict[str, Any] = json.loads(data)
        if raw["version"] != VERSION:
            raise BadSampleError(
                Cause.HEADER, f"the sample is of format version {raw['version']}; this program reads version {VERSION}"
            )
        header = Header(
            key=str(raw["key"]),
            source=str(raw["source"]),
            video=str(raw["video"]),
            kind=str(raw["kind"]),
            frames=tuple(int(frame) for frame in raw["frames"]),
            size=_pair(raw["size"]),
            original_size=_pair(raw["original_size"]),
            objects=tuple(str(name) for name in raw["objects"]),
            masks=tuple(tuple(track) for track in raw["masks"]),
        )
    except BadSampleError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise BadSampleError(Cause.HEADER, f"the header is not what version {VERSION} describes ({error!r:.80})") from error
    check(header)
    return header


def check(header: Header) -> None:
    """Raises BadSampleError where a header contradicts itself."""
    height, width = header.size
    if not (height > 0 and width > 0 and height * width <= rle.MAX_PIXELS):
        raise BadSampleError(Cause.IMAGE_SIZE, f"{header.key} claims frames of {height} x {width} pixels")
    problems = {
        "no frame": not header.frames,
        f"more than {MAX_FRAMES} frames": header.num_frames > MAX_FRAMES,
        "frame numbers out of order": any(b <= a for a, b in zip(header.frames, header.frames[1:])),
        f"kind {header.kind!r}": header.kind not in {"video", "image"},
        "an image of several frames": header.kind == "image" and header.num_frames != 1,
        "as many object names as tracks expected": len(header.objects) != len(header.masks),
        "a track that does not cover the frames": any(len(track) != header.num_frames for track in header.masks),
        "counts that are not text": any(not isinstance(c, str) for track in header.masks for c in track if c is not None),
    }
    for problem, found in problems.items():
        if found:
            raise BadSampleError(Cause.HEADER, f"the header of {header.key} has {problem}")


def check_image(image: bytes, header: Header, frame: int) -> None:
    """Raises BadSampleError unless the JPEG's own header agrees with the sample's. Nothing is decoded."""
    if not image:
        raise BadSampleError(Cause.MEMBER_EMPTY, f"frame {frame} of {header.key} is empty")
    try:
        height, width, _ = jpeg_header(image)
    except BadSampleError as error:
        raise BadSampleError(Cause.IMAGE, f"frame {frame} of {header.key}: {error.message}") from error
    if (height, width) != header.size:
        raise BadSampleError(
            Cause.IMAGE_SIZE, f"frame {frame} of {header.key} is {height} x {width}; its header says {header.size}"
        )


def jpeg_header(data: bytes) -> tuple[int, int, str]:
    """(height, width, colour space) of a JPEG. Raises BadSampleError(IMAGE)."""
    if _scans(data) > MAX_SCANS:  # of a few bytes each, every one costs a pass over all pixels
        raise BadSampleError(Cause.IMAGE, f"a JPEG of more than {MAX_SCANS} scans")
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except (ValueError, KeyError) as error:  # KeyError: the decoder's name for a colour space it never heard of
        raise BadSampleError(Cause.IMAGE, f"no JPEG header ({error})") from error
    return int(height), int(width), str(colours)


def _scans(data: bytes) -> int:
    """How often a scan begins (bytes FF DA, at an even or an odd place): bytes.count takes seven times as long."""
    pairs = (np.frombuffer(data, "<u2", (len(data) - first) // 2, first) for first in (0, 1) if len(data) > 2)
    return sum(int(np.count_nonzero(words == 0xDAFF)) for words in pairs)


def decode_jpeg(
    data: bytes, *, least: int = 0, buffer: NDArray[np.uint8] | None = None, strict: bool = False
) -> NDArray[np.uint8]:
    """RGB pixels (H, W, 3): scaled down while decoding as far as both sides stay at least `least`.

    Raises:
        BadSampleError: IMAGE. With `strict` also where libjpeg would only warn.
    """
    try:
        return simplejpeg.decode_jpeg(data, min_height=least, min_width=least, buffer=buffer, strict=strict)
    except (ValueError, KeyError) as error:
        raise BadSampleError(Cause.IMAGE, f"the JPEG cannot be decoded ({error})") from error


def safe_key(name: str, first_frame: int) -> str:
    """A sample key from a video's name: letters, digits, - and _ only, at most 80 characters, distinct for distinct names.

    >>> safe_key("bear", 32)
    'bear-000032'
    >>> safe_key("a/b.c", 0)
    'a_b_c_0ece3008-000000'
    """
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    if plain != name or len(plain) > 60:
        plain = f"{plain[:60]}_{zlib.crc32(name.encode()):08x}"
    return f"{plain}-{first_frame:06d}"


def _pair(value: Any) -> tuple[int, int]:
    height, width = value
    return int(height), int(width)
