"""Small awkward inputs as people have them, made anew: `make_awkward_inputs(FOLDER)`.

Every picture is a gradient with a white corner at the top left, 128 x 96, and two squares that move: object 1 is red and
object 2 green. `tests/datasets/test_awkward.py` says what is right of each input.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

HEIGHT, WIDTH, SIDE = 96, 128, 20
COLOURS = {1: (250, 30, 30), 2: (30, 250, 30)}
TURN = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1)}
"""The corner of an mp4's display matrix, as phones write it."""

Labels = NDArray[np.uint8]


def make_awkward_inputs(root: Path) -> Path:
    """All of them, in folders below `root`."""
    _videos(root / "videos")
    _own_videos(root / "own_videos", root / "videos")
    _images(root)
    _folders(root)
    _label_maps(root / "masks")
    return root


def labels_of(t: int) -> Labels:
    """Labels (H, W) of frame t: 1 and 2 where the squares are."""
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for number in (1, 2):
        x, y = 10 + 15 * number + 2 * t, 20 * number + t
        labels[y : y + SIDE, x : x + SIDE] = number
    return labels


def picture(t: int) -> NDArray[np.uint8]:
    """Frame t, (H, W, 3) RGB."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    pixels = np.stack([2 * columns, 2 * rows, np.full_like(rows, 60)], axis=2).astype(np.uint8)
    labels = labels_of(t)
    for number, colour in COLOURS.items():
        pixels[labels == number] = colour
    pixels[:12, :12] = 255
    return pixels


def _save(path: Path, pixels: NDArray[np.uint8] | NDArray[np.uint16], **options: object) -> None:
    """A picture or a grey map, in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)  # type: ignore[arg-type]


def _save_palette(path: Path, labels: Labels) -> None:
    image = Image.fromarray(labels, mode="P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, *([64] * 3 * 252), 224, 224, 192])
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


# ---------------------------------------------------------------------- videos


def _videos(folder: Path) -> None:
    folder.mkdir(parents=True)
    plain = _encoded(folder / "plain.mp4", "mp4", Fraction(1, 25), range(8))
    for degrees in TURN:
        (folder / f"rot{degrees}.mp4").write_bytes(_turned(plain, degrees))
    _encoded(folder / "ts.ts", "mpegts", Fraction(1, 25), range(8))
    _encoded(folder / "raw.h264", "h264", Fraction(1, 25), range(8))
    _encoded(folder / "vfr.mp4", "mp4", Fraction(1, 1000), (0, 40, 45, 300, 310, 900, 901, 2000))
    _encoded(folder / "dup.mkv", "matroska", Fraction(1, 1000), (0, 0, 1, 40, 80, 80, 120, 160))
    first, *rest = [Image.fromarray(picture(t)) for t in range(8)]
    first.save(folder / "g.gif", save_all=True, append_images=rest, duration=40)


def _encoded(path: Path, kind: str, unit: Fraction, times: Sequence[int]) -> bytes:
    """Eight frames as H.264 without reordering, shown at `times` (in `unit`), two of which may be equal."""
    with av.open(str(path), "w", format=kind) as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "18", "preset": "veryfast", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.time_base = stream.codec_context.time_base = unit
        packets = []
        for t in range(len(times)):
            frame = av.VideoFrame.from_ndarray(picture(t), format="rgb24")
            frame.pts, frame.time_base = t, unit  # an encoder wants them to grow; what is written is set below
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for packet, time in zip(packets, times, strict=True):
            packet.pts = packet.dts = time
            packet.time_base = unit
            container.mux(packet)
    return path.read_bytes()


def _turned(mp4: bytes, degrees: int) -> bytes:
    """The same file with a display matrix that says: show it turned. A track's matrix ends 8 bytes before its header."""
    end = mp4.index(b"tkhd") - 4 + struct.unpack(">I", mp4[(at := mp4.index(b"tkhd") - 4) : at + 4])[0]
    a, b, c, d = (value << 16 for value in TURN[degrees])
    x, y = (HEIGHT << 16, 0) if degrees == 90 else (WIDTH << 16, HEIGHT << 16)
    matrix = struct.pack(">9i", a, b, 0, c, d, 0, x, y, 1 << 30)
    return mp4[: end - 8 - len(matrix)] + matrix + mp4[end - 8 :]


def _own_videos(root: Path, videos: Path) -> None:
    """Videos with label maps, as source=videos has them, each with a habit of somebody."""

    def one(
        name: str, video: str, stem: str, called: Callable[[int], str], shown: Callable[[Labels], Labels] = lambda m: m
    ) -> Path:
        (root / name / "videos").mkdir(parents=True)
        (root / name / "videos" / f"{stem}.mp4").write_bytes((videos / video).read_bytes())
        for t in range(8):
            _save_palette(root / name / "masks" / stem / called(t), np.ascontiguousarray(shown(labels_of(t))))
        return root / name

    one("rot180", "rot180.mp4", "clip", "{:05d}.png".format, lambda labels: labels[::-1, ::-1])
    one("suffix", "plain.mp4", "a", "{:05d}_obj1.png".format)
    one("one_based", "plain.mp4", "a", lambda t: f"{t + 1:05d}.png")
    mac = one("mac", "plain.mp4", "a", "{:05d}.png".format)
    _litter(mac / "masks" / "a")
    _litter(mac / "videos")


# ---------------------------------------------------------------------- pictures with masks


def _images(root: Path) -> None:
    """Folders of source=images."""
    turned: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
        3: lambda pixels: pixels[::-1, ::-1],
        6: np.rot90,  # stored turned to the left; to be shown turned to the right
    }
    for orientation, turn in turned.items():
        place, exif = root / {3: "im_exif180", 6: "im_exif90"}[orientation], Image.Exif()
        exif[0x0112] = orientation
        _save(place / "images" / "a.jpg", np.ascontiguousarray(turn(picture(0))), quality=95, exif=exif)
        _save_palette(place / "masks" / "a.png", labels_of(0))
    _save(root / "im_16" / "images" / "a.png", picture(0)[..., 0].astype(np.uint16) * 256 + 5)
    _save_palette(root / "im_16" / "masks" / "a.png", labels_of(0))
    for name in ("a.JPG", "b.jpg"):
        _save(root / "im_upper" / "images" / name, picture(0), format="JPEG", quality=95)
        _save_palette(root / "im_upper" / "masks" / f"{name[0]}.png", labels_of(0))


# ---------------------------------------------------------------------- frames and label maps in folders


def _folders(root: Path) -> None:
    """Folders of source=davis, each with a habit of somebody."""

    def one(
        name: str,
        *videos: str,
        called: Callable[[int], str] = "{:05d}".format,
        suffix: str = ".jpg",
        save: Callable[[Path, Labels], None] = _save_palette,
        labels: Callable[[Labels], Labels | NDArray[np.uint16]] = lambda labels: labels,
    ) -> Path:
        for video in videos or ("vid",):
            for t in range(6):
                frame = root / name / "JPEGImages" / video / (called(t) + suffix)
                _save(frame, picture(t), format="JPEG", quality=95, subsampling=0)
                save(root / name / "Annotations" / video / (called(t) + ".png"), labels(labels_of(t)))  # type: ignore[arg-type]
        return root / name

    one("roboflow", called=lambda t: f"frame_{t:04d}_jpg.rf.{hashlib.md5(str(t).encode()).hexdigest()}")
    one("jpeg", suffix=".jpeg")
    one("void", labels=with_void)
    one("id255", labels=lambda labels: np.array([0, 1, 255], np.uint8)[labels])
    one("u16", save=_save, labels=lambda labels: np.array([0, 300, 1000], np.uint16)[labels])
    one("modeP", save=_save_dithered)
    one("grow", "va", "vb", "vc", "vd", "ve", "vf", "vg", "vh")
    bom = one("bom", "va", "vb", "vc", "vd", "ve", "vf")
    (bom / "bom.txt").write_bytes(b"\xef\xbb\xbfva\r\nvb\r\nvc\r\n")
    (bom / "slash.txt").write_text("va/\nvb/\n")
    mac = one("macos")
    for place in (mac / "JPEGImages", mac / "Annotations"):
        (place / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
        _litter(place / "vid")
    (mac / "JPEGImages" / "._vid").write_bytes(RESOURCE_FORK)


RESOURCE_FORK = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        ".ljust(120, b"\0")


def _litter(folder: Path) -> None:
    """A resource fork beside every file, as macOS writes them to foreign disks."""
    for path in [*folder.iterdir()]:
        path.with_name(f"._{path.name}").write_bytes(RESOURCE_FORK)


def with_void(labels: Labels) -> Labels:
    """A border of void around each object, inside and outside."""
    marked = labels.copy()
    for number in (1, 2):
        one, around = (labels == number).astype(np.uint8), np.ones((5, 5), np.uint8)
        inside, near = cv2.erode(one, around), cv2.dilate(one, around)
        marked[((one == 1) & (inside == 0)) | ((near == 1) & (labels == 0))] = 255
    return marked


def _save_dithered(path: Path, labels: Labels) -> None:
    """What PIL makes of a coloured mask that is converted to a palette."""
    palette = Image.new("P", (1, 1))
    steps = [step for r in range(4) for g in range(4) for b in range(2) for step in (r * 85, g * 85, b * 255)]
    palette.putpalette(steps * 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    coloured = np.zeros((*labels.shape, 3), np.uint8)
    coloured[labels == 1], coloured[labels == 2] = (128, 0, 0), (0, 128, 0)
    Image.fromarray(coloured).quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(path)


def _label_maps(folder: Path) -> None:
    """Single masks of two objects, or one, in every fashion."""
    labels, only = labels_of(0), np.where(labels_of(0) == 1, 1, 0).astype(np.uint8)
    folder.mkdir(parents=True)
    _save(folder / "ids_gray.png", np.array([0, 130, 7], np.uint8)[labels])
    _save(folder / "void_gray.png", with_void(labels))
    _save_palette(folder / "void_pal.png", with_void(labels))
    _save_palette(folder / "one_void_pal.png", with_void(only))
    _save(folder / "bin01_gray.png", np.minimum(labels, 1))
    _save(folder / "bw.jpg", np.minimum(labels, 1) * 255, quality=95)
    for name, value in (("rgb", 128), ("rgb255", 255)):
        coloured = np.zeros((*labels.shape, 3), np.uint8)
        coloured[labels == 1, 0], coloured[labels == 2, 1] = value, value
        _save(folder / f"{name}.png", coloured)
