"""The sample format: encode then decode is the sample; everything that is wrong is named."""

from __future__ import annotations

import dataclasses
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import webdataset
from made_clips import encode_many

from edgetam_pl.data import sample as schema
from edgetam_pl.data.sample import Header, Sample
from edgetam_pl.data.shards import load_index
from edgetam_pl.data.tars import read_members, split_name
from edgetam_pl.data.writer import shard_writer
from edgetam_pl.datasets.toy_clips import toy_clip
from edgetam_pl.io import rle
from edgetam_pl.io.errors import BadSampleError, Cause


def make(num_frames: int = 3, num_objects: int = 2, size: tuple[int, int] = (24, 32), key: str = "clip-000000") -> Sample:
    """A sample whose masks overlap and whose second object is hidden on the first frame."""
    frames, masks = toy_clip(0, num_frames, size, num_objects)
    masks[:, 0, 5:10, 5:10] = True
    if num_objects > 1:
        masks[:, 1, 7:12, 7:12] = True
        masks[0, 1] = False
    header = Header(
        key=key,
        source="toy",
        video="clip",
        kind="video",
        frames=tuple(range(0, 4 * num_frames, 4)),
        size=size,
        original_size=(2 * size[0], 2 * size[1]),
        objects=tuple(str(o) for o in range(num_objects)),
        masks=tuple(encode_many(masks[:, o]) for o in range(num_objects)),
    )
    return Sample(header, tuple(simplejpeg.encode_jpeg(frame) for frame in frames))


def changed(sample: Sample, **changes: object) -> Sample:
    return Sample(dataclasses.replace(sample.header, **changes), sample.images)  # type: ignore[arg-type]


def test_decode_undoes_encode_and_overlaps_are_kept() -> None:
    sample = make()
    assert schema.decode(schema.encode(sample)) == sample
    both = [rle.decode(track[1] or "", sample.header.size) for track in sample.header.masks]
    assert (both[0] & both[1]).any()


def test_a_name_in_any_script_survives() -> None:
    sample = changed(make(), video="Vögel über 東京", objects=("жук", "2"))
    assert schema.decode(schema.encode(sample)) == sample


def test_an_image_is_a_clip_of_one_frame() -> None:
    sample = changed(make(1), kind="image")
    assert schema.decode(schema.encode(sample)).header.num_frames == 1
    with pytest.raises(BadSampleError, match="an image of several frames"):
        schema.encode(changed(make(2), kind="image"))


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"size": (24, 33)}, Cause.IMAGE_SIZE),
        ({"size": (10**6, 10**6)}, Cause.IMAGE_SIZE),
        ({"size": (0, 32)}, Cause.IMAGE_SIZE),
        ({"frames": (0, 4)}, Cause.HEADER),
        ({"frames": (4, 0, 8)}, Cause.HEADER),
        ({"objects": ("0",)}, Cause.HEADER),
        ({"kind": "film"}, Cause.HEADER),
        ({"masks": ((None, None, None), (None, "zz", None))}, Cause.MASK),
        ({"masks": ((None, None, None), (None, "1", None))}, Cause.MASK_SIZE),
        ({"masks": ((None, None, None), (None, 3, None))}, Cause.HEADER),
    ],
)
def test_a_contradiction_is_named(changes: dict[str, object], cause: Cause) -> None:
    sample = make()
    members = schema.encode(sample)
    raw = json.loads(members["json"]) | changes
    with pytest.raises(BadSampleError) as caught:
        schema.decode(members | {"json": json.dumps(raw).encode()})
    assert caught.value.cause is cause


@pytest.mark.parametrize(
    ("members", "cause"),
    [
        ({"json": b""}, Cause.MEMBER_EMPTY),
        ({"json": b"{"}, Cause.HEADER),
        ({"json": b"[]"}, Cause.HEADER),
        ({"json": b"\xff\xfe"}, Cause.HEADER),
        ({"json": b'{"version": 2}'}, Cause.HEADER),
        ({"json": b"[" * 100_000}, Cause.HEADER),
        ({"001.jpg": b""}, Cause.MEMBER_EMPTY),
        ({"001.jpg": b"\x89PNG\r\n"}, Cause.IMAGE),
    ],
)
def test_a_broken_member_is_named(members: dict[str, bytes], cause: Cause) -> None:
    with pytest.raises(BadSampleError) as caught:
        schema.decode(schema.encode(make()) | members)
    assert caught.value.cause is cause


def test_a_missing_frame_and_a_missing_header_are_named() -> None:
    members = schema.encode(make())
    for gone in ("json", "002.jpg"):
        with pytest.raises(BadSampleError, match=r"no frame|no header") as caught:
            schema.decode({suffix: data for suffix, data in members.items() if suffix != gone})
        assert caught.value.cause is Cause.MEMBER_MISSING


def test_an_error_survives_the_way_between_processes() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(BadSampleError(Cause.MASK, "what")))
    assert (error.cause, error.message, str(error)) == (Cause.MASK, "what", "invalid mask: what")


def test_a_shard_is_an_ordinary_webdataset(tmp_path: Path) -> None:
    samples = [make(key=f"clip-{number:06d}") for number in range(3)]
    with shard_writer(tmp_path, "shard-000000.tar", settings="x") as writer:
        for sample in samples:
            writer.add(sample)
    stream = webdataset.WebDataset(str(tmp_path / "shard-000000.tar"), shardshuffle=False)
    read = [schema.decode({k: v for k, v in raw.items() if not k.startswith("__")}) for raw in stream]
    assert read == samples
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shard-000000.index.json", "shard-000000.tar"]


def test_the_index_finds_every_member_and_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    sample = make()
    with shard_writer(tmp_path, "shard-000000.tar", settings="x") as writer:
        writer.add(sample)
    address = str(tmp_path / "shard-000000.tar")
    (entry,) = load_index(address).entries
    assert read_members(address, entry, ["001.jpg", "json"]) == {
        suffix: data for suffix, data in schema.encode(sample).items() if suffix in ("001.jpg", "json")
    }
    with tarfile.open(address) as tar:
        assert [(m.name, m.offset_data, m.size) for m in tar] == [
            (f"{entry.key}.{m.suffix}", m.offset, m.size) for m in entry.members
        ]
    data = bytearray(Path(address).read_bytes())
    data[entry.members[1].offset] ^= 1
    Path(address).write_bytes(bytes(data))
    with pytest.raises(BadSampleError, match="not what was written"):
        read_members(address, entry, [entry.members[1].suffix])


def test_equal_samples_make_equal_shards(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        with shard_writer(tmp_path / name, "shard-000000.tar", settings="x") as writer:
            writer.add(make())
    assert len({(tmp_path / name / "shard-000000.tar").read_bytes() for name in ("a", "b")}) == 1


def test_nothing_is_left_of_a_shard_that_failed(tmp_path: Path) -> None:
    def half() -> None:
        with shard_writer(tmp_path, "shard-000000.tar", settings="x") as writer:
            writer.add(make())
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        half()
    assert not list(tmp_path.iterdir())


def test_a_contradictory_sample_is_refused_and_the_shard_goes_on(tmp_path: Path) -> None:
    with shard_writer(tmp_path, "shard-000000.tar", settings="x") as writer:
        writer.add(make())
        with pytest.raises(BadSampleError, match="two samples"):
            writer.add(make())
        with pytest.raises(BadSampleError, match="3 frames and 0 images"):
            writer.add(Sample(make(key="other-000000").header, ()))
    assert len(load_index(str(tmp_path / "shard-000000.tar")).entries) == 1


@pytest.mark.parametrize("name", ["/etc/passwd.json", "../up.json", "a/../../up.json", "noextension", ".json", "a\\b.json"])
def test_member_names_that_reach_outside_are_refused(name: str) -> None:
    with pytest.raises(BadSampleError) as caught:
        split_name(name)
    assert caught.value.cause is Cause.MEMBER_NAME


def test_keys_are_safe_and_distinct() -> None:
    names = ["bear", "a.b", "a_b", "a/b", "x" * 200, "x" * 201, "東京"]
    keys = [schema.safe_key(name, 7) for name in names]
    assert len(set(keys)) == len(names)
    for key in keys:
        assert len(key) < 90
        assert split_name(f"{key}.json") == (key, "json")


# ---------------------------------------------------------------------------------------------------------------- RLE


def masks(seed: int, count: int = 60) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    made = [np.zeros((7, 9), bool), np.ones((7, 9), bool), np.ones((1, 1), bool)]
    for _ in range(count):
        height, width = rng.integers(1, 50, 2)
        mask = rng.random((height, width)) < rng.random()
        if rng.random() < 0.5:
            mask[:] = False
            top, left = rng.integers(0, height), rng.integers(0, width)
            mask[top : rng.integers(top, height) + 1, left : rng.integers(left, width) + 1] = True
        made.append(mask)
    return made


def test_runs_say_the_same_as_pixels() -> None:
    for mask in masks(0):
        counts, size = rle.encode(mask), (mask.shape[0], mask.shape[1])
        runs = rle.parse(counts, size)
        assert (rle.decode(counts, size) == mask).all()
        assert rle.area(runs) == mask.sum()
        assert rle.to_counts(runs) == counts


def test_resampling_runs_is_resampling_pixels() -> None:
    rng = np.random.default_rng(1)
    for mask in masks(1):
        size = (mask.shape[0], mask.shape[1])
        target = tuple(int(n) for n in rng.integers(1, 70, 2))
        runs = rle.resample(rle.parse(rle.encode(mask), size), size, target)
        rows, columns = (
            np.minimum(((np.arange(n) + 0.5) * m / n).astype(int), m - 1) for n, m in zip(target, size, strict=True)
        )
        canvas = np.zeros(target[::-1], np.uint8)
        rle.paint(runs, 4, canvas)
        assert ((canvas.T == 4) == mask[np.ix_(rows, columns)]).all()


def test_painting_adds_a_plane_and_leaves_the_others() -> None:
    one, two = np.zeros((6, 8), bool), np.zeros((6, 8), bool)
    one[1:4, 1:5], two[2:6, 3:8] = True, True
    canvas = np.zeros((8, 6), np.uint8)
    rle.paint(rle.parse(rle.encode(one), (6, 8)), 1, canvas)
    rle.paint(rle.parse(rle.encode(two), (6, 8)), 2, canvas)
    assert np.array_equal(canvas.T, one + 2 * two)


@pytest.mark.parametrize("counts", ["", "é", " ", "~", "oooooooooooooo1", "P", "o", 5, None, "1O", "0"])
def test_broken_counts_are_refused_before_anything_reads_them(counts: object) -> None:
    with pytest.raises(BadSampleError) as caught:
        rle.parse(counts, (6, 8))  # type: ignore[arg-type]
    assert caught.value.cause in (Cause.MASK, Cause.MASK_SIZE)


def test_a_mask_of_another_size_is_refused() -> None:
    counts = rle.encode(np.ones((6, 8), bool))
    with pytest.raises(BadSampleError) as caught:
        rle.parse(counts, (6, 9))
    assert caught.value.cause is Cause.MASK_SIZE


def test_a_tar_is_read_by_its_structure_and_a_broken_header_in_the_middle_is_no_end(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number in range(2):
            for suffix, data in schema.encode(make(key=f"clip-{number:06d}")).items():
                info = tarfile.TarInfo(f"clip-{number:06d}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    path = tmp_path / "foreign.tar"
    path.write_bytes(buffer.getvalue())
    index = load_index(str(path))
    assert [(entry.key, entry.frames, entry.objects) for entry in index.entries] == [
        ("clip-000000", 3, 2),
        ("clip-000001", 3, 2),
    ]
    data = bytearray(buffer.getvalue())
    data[index.entries[1].members[0].offset - 400] ^= 0x55
    broken = tmp_path / "broken.tar"
    broken.write_bytes(bytes(data))
    left = load_index(str(broken))
    assert [entry.key for entry in left.entries] == ["clip-000000"]
    assert left.skipped == {"broken tar structure": 1}


def test_scans_are_counted_wherever_they_begin() -> None:
    rng = np.random.default_rng(0)
    for size in range(200):
        data = rng.choice(np.array([0x00, 0xDA, 0xFF], np.uint8), size).tobytes()
        assert schema._scans(data) == data.count(b"\xff\xda")
