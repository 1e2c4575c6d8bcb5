"""Real data sets become shards and come back as batches: DAVIS, PUMaVOS, COCO as SA-1B, and the SA-V example."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgetam_pl.config import AugmentConfig, DataConfig, DataSource, ShardsConfig
from edgetam_pl.data import sample as schema
from edgetam_pl.data import stats
from edgetam_pl.data.build import run
from edgetam_pl.data.loader import build_loader
from edgetam_pl.data.sample import Header, Sample
from edgetam_pl.data.shards import ShardSet, load_index, read_manifest
from edgetam_pl.data.tars import read_members
from edgetam_pl.data.verify import verify
from edgetam_pl.datasets.layout import open_layout
from edgetam_pl.io import rle
from edgetam_pl.types import VideoBatch

STILL = AugmentConfig(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


def samples(out: Path) -> Iterator[Sample]:
    for address in ShardSet(str(out), name="x").addresses:
        for entry in load_index(address).entries:
            yield schema.decode(read_members(address, entry, [member.suffix for member in entry.members]))


def batches(
    out: Path, *, kind: str, frames: int, steps: int, objects: int = 3, augment: AugmentConfig | None = None
) -> list[VideoBatch]:
    cfg = DataConfig(
        [DataSource(name="real", shards=str(out), kind=kind)], augment or AugmentConfig(), workers=0, max_skips=0.0
    )
    made = build_loader(
        cfg,
        image_size=256,
        num_frames=frames,
        batch=1,
        max_objects=objects,
        steps=steps,
        seed=0,
        rank=0,
        world_size=1,
        train=True,
    )
    return list(made)


def build(source: str, root: Path, out: Path, **changes: object) -> Path:
    run(ShardsConfig(source=source, root=str(root), out=str(out), processes=1, **changes))  # type: ignore[arg-type]
    return out


@pytest.fixture(scope="module")
def sav_root(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The SA-V example with a generated mp4 of its 483 frames of 480 x 848; a frame's grey bars spell its number."""
    root = tmp_path_factory.mktemp("sav")
    for path in (shared / "data" / "sav_example").glob("*.json"):
        (root / path.name).write_bytes(path.read_bytes())
    with av.open(str(root / "sav_000001.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 480, 848, "yuv420p", 3_000_000
        for number in range(483):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(spelled(number), format="rgb24")))
        container.mux(stream.encode())
    return root


def spelled(number: int) -> NDArray[np.uint8]:
    """Nine bars, black or white: the bits of a frame's number."""
    frame = np.zeros((848, 480, 3), np.uint8)
    for bit in range(9):
        frame[bit * 94 : bit * 94 + 94] = 255 * (number >> bit & 1)
    return frame


def read(image: NDArray[np.uint8]) -> int:
    return sum(int(image[bit * 94 + 20 : bit * 94 + 74].mean() > 127) << bit for bit in range(9))


def test_the_sav_example_becomes_shards_in_which_frame_4i_carries_entry_i(sav_root: Path, tmp_path: Path) -> None:
    out = build("sav", sav_root, tmp_path / "out")
    masklet = json.loads((sav_root / "sav_000001_manual.json").read_text())["masklet"]
    manifest = read_manifest(str(out))
    assert manifest.skipped == {}
    windows = list(samples(out))
    assert [(w.header.frames[0], w.header.frames[-1]) for w in windows] == [
        (0, 124),
        (64, 188),
        (128, 252),
        (192, 316),
        (256, 380),
        (320, 444),
        (356, 480),
    ]
    seen = set()
    for window in windows:
        header = window.header
        assert header.size == (848, 480)
        for t, number in enumerate(header.frames):
            assert read(schema.decode_jpeg(window.images[t])) == number  # the picture is video frame 4 i
            entry = masklet[number // 4]
            for name, track in zip(header.objects, header.masks):
                theirs = rle.parse(entry[int(name)]["counts"], (848, 480))
                assert (track[t] is None) == (rle.area(theirs) == 0)
                assert track[t] is None or track[t] == entry[int(name)]["counts"]
            seen.add(number)
    assert seen == set(range(0, 484, 4))
    assert all(verdict.faults == () for verdict in verify(str(out)))


def test_the_sav_example_refuses_a_frame_that_is_not_annotated(sav_root: Path) -> None:
    clip = open_layout(ShardsConfig(source="sav", root=str(sav_root))).clip("sav_000001")
    assert set(clip.masks.read(4)) <= {"0", "1", "2", "3", "4"}
    for frame in (2, 5, 482, 484):
        with pytest.raises(ValueError, match=r"Frame \d+ is not annotated; frames 0, 4, 8"):
            clip.masks.read(frame)


def test_the_sav_example_gives_training_clips_of_every_phase(sav_root: Path, tmp_path: Path) -> None:
    out = build("sav", sav_root, tmp_path / "out", annotations="auto", short_side=256)
    for frames in (8, 16, 32):
        for batch in batches(out, kind="video", frames=frames, steps=3):
            assert batch.frames.shape == (1, frames, 3, 256, 256)
            assert 1 <= batch.num_objects <= 3


def palette(path: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(path))


def test_davis_survives_the_way_through_shards(shared: Path, tmp_path: Path) -> None:
    root = shared / "data" / "davis16_train"
    out = build("davis", root, tmp_path / "out", limit=6)
    for sample in samples(out):
        header = sample.header
        for t, number in enumerate(header.frames):
            assert sample.images[t] == (root / "JPEGImages" / header.video / f"{number:05d}.jpg").read_bytes()
            labels = palette(root / "Annotations" / header.video / f"{number:05d}.png")
            for name, track in zip(header.objects, header.masks):
                expected = labels == int(name)
                counts = track[t]
                assert (counts is None) == (not expected.any())
                assert counts is None or np.array_equal(rle.decode(counts, header.size), expected)
    made = batches(out, kind="video", frames=8, steps=6)
    assert all(batch.masks[0].any() for batch in made)


def test_several_objects_and_another_resolution_come_through(shared: Path, tmp_path: Path) -> None:
    out = build("davis", shared / "data" / "davis17_multi_dev", tmp_path / "many")
    assert max(len(sample.header.objects) for sample in samples(out)) == 7
    assert max(batch.num_objects for batch in batches(out, kind="video", frames=4, steps=6, objects=7)) > 3
    chair = build("davis", shared / "data" / "pumavos_chair", tmp_path / "chair")
    assert batches(chair, kind="video", frames=8, steps=2)[0].frames.shape == (1, 8, 3, 256, 256)


def test_sa1b_files_become_images_with_all_their_masks(shared: Path, tmp_path: Path) -> None:
    root = shared / "data" / "coco_dev"
    out = build("sa1b", root, tmp_path / "out", limit=30)
    for sample in samples(out):
        raw = json.loads((root / f"{sample.header.video}.json").read_text())
        height, width = sample.header.size
        kept = {str(a["id"]) for a in raw["annotations"] if 0 < a["area"] < 0.9 * height * width}
        assert set(sample.header.objects) == kept
        for name, (counts,) in zip(sample.header.objects, sample.header.masks):
            area = next(a["area"] for a in raw["annotations"] if str(a["id"]) == name)
            assert counts is not None
            assert rle.area(rle.parse(counts, (height, width))) == area
    batch = batches(out, kind="image", frames=8, steps=1, objects=64, augment=STILL)[0]
    assert batch.num_frames == 1
    assert batch.num_objects > 3


def test_own_images_with_label_files_are_read_too(shared: Path, tmp_path: Path) -> None:
    out = build("images", shared / "data" / "coco_dev", tmp_path / "out", limit=12)
    assert read_manifest(str(out)).kind == "image"
    assert all(isinstance(sample.header, Header) and sample.header.objects for sample in samples(out))


def test_own_videos_are_decoded_where_they_have_masks(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "in" / "videos").mkdir(parents=True)
    film = shared / "data" / "videos" / "01_dog.mp4"
    (tmp_path / "in" / "videos" / film.name).symlink_to(film)
    with av.open(str(film)) as container:
        size = (container.streams.video[0].height, container.streams.video[0].width)
    labels = np.zeros(size, np.uint8)
    labels[size[0] // 4 : size[0] // 2, size[1] // 4 : size[1] // 2] = 1
    folder = tmp_path / "in" / "masks" / "01_dog"
    folder.mkdir(parents=True)
    for number in range(0, 12, 2):
        Image.fromarray(labels).save(folder / f"{number:05d}.png")
    out = build("videos", tmp_path / "in", tmp_path / "out")
    (sample,) = samples(out)
    assert sample.header.frames == (0, 2, 4, 6, 8, 10)
    assert sample.header.size == size


def test_stats_are_a_table_and_a_picture(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = build("davis", shared / "data" / "davis17_multi_dev", tmp_path / "out")
    assert stats.main([str(out)]) == 0
    text = capsys.readouterr().out
    for row in ("samples", "frames a sample", "objects a sample", "mask area", "432 x 240"):
        assert row in text
    with Image.open(out / "stats.png") as picture:
        assert min(picture.size) > 400
