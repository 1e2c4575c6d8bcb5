"""A thousand corruptions: no crash, no hang, each one counted under its cause, by the loader and by verify (F7)."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from shard_sets import Members, contents, write_tar

from edgetam_pl.config import DataConfig, DataSource, ShardsConfig
from edgetam_pl.data import sample as schema
from edgetam_pl.data import shards
from edgetam_pl.data.build import run
from edgetam_pl.data.index import Index
from edgetam_pl.data.loader import BrokenDataError, build_loader
from edgetam_pl.data.verify import check_shard
from edgetam_pl.io.errors import Cause

CLIPS, FRAMES, SIDE = 6, 5, 32


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("good")
    run(ShardsConfig(source="toy", out=str(out), clips=CLIPS, frames=FRAMES, size=SIDE, objects=2, processes=1))
    return out


def met(place: str) -> Counter[str]:
    """What the loader counts on the way through an epoch. A run that stops says the causes in its message."""
    cfg = DataConfig([DataSource(name="x", shards=place)], workers=0, max_skips=1.0)
    shards.load_index.cache_clear()
    try:
        loader = build_loader(
            cfg,
            image_size=SIDE,
            num_frames=FRAMES,
            batch=1,
            max_objects=2,
            steps=CLIPS,
            seed=0,
            rank=0,
            world_size=1,
            train=True,
        )
    except ValueError as error:
        return Counter({str(cause): 1 for cause in Cause if str(cause) in str(error)})
    try:
        for batch in loader:
            assert batch.masks[0].any()
    except BrokenDataError as error:
        return Counter({str(cause): 1 for cause in Cause if str(cause) in str(error)})
    return loader.skips


# ------------------------------------------------------------------------------------- damage to a file that was right


def truncated(data: bytearray, index: Index, rng: np.random.Generator) -> tuple[bytearray, set[Cause]]:
    return data[: int(rng.integers(0, index.entries[-1].members[-1].offset))], {Cause.SHARD_TRUNCATED}


def flipped(data: bytearray, index: Index, rng: np.random.Generator) -> tuple[bytearray, set[Cause]]:
    entry = index.entries[rng.integers(len(index.entries))]
    member = entry.members[rng.integers(len(entry.members))]
    data[member.offset + int(rng.integers(member.size))] ^= 1 << int(rng.integers(8))
    return data, {Cause.CHECKSUM}


def zeroed(data: bytearray, index: Index, rng: np.random.Generator) -> tuple[bytearray, set[Cause]]:
    start = int(rng.integers(0, len(data) - 30_000))
    data[start : start + 4096] = bytes(4096)
    return data, {Cause.CHECKSUM}


@pytest.mark.parametrize("damage", [truncated, flipped, zeroed])
def test_damage_to_a_shard_is_counted_and_training_goes_on(
    good: Path, tmp_path: Path, damage: Callable[..., tuple[bytearray, set[Cause]]]
) -> None:
    (tar,) = good.glob("*.tar")
    original = tar.read_bytes()
    index = shards.load_index(str(tar))
    record = shards.read_manifest(str(good)).shards[0]
    shutil.copytree(good, tmp_path / "set")
    for seed in range(120):
        data, causes = damage(bytearray(original), index, np.random.default_rng(seed))
        (tmp_path / "set" / tar.name).write_bytes(bytes(data))
        assert set(met(str(tmp_path / "set"))) <= {str(cause) for cause in causes}
        verdict = check_shard(str(tmp_path / "set" / tar.name), record)
        assert verdict.faults
        assert causes & {cause for cause, _ in verdict.faults}
    assert damage is zeroed or set(met(str(tmp_path / "set"))) == {str(cause) for cause in causes}


# --------------------------------------------------------------------------------- tars that were wrong from the start


def header(members: Members, **changes: object) -> Members:
    return members | {"json": json.dumps(json.loads(members["json"]) | changes).encode()}


def masks(members: Members, counts: str) -> Members:
    raw = json.loads(members["json"])
    raw["masks"] = [[counts] * FRAMES for _ in raw["masks"]]
    return members | {"json": json.dumps(raw).encode()}


def bad_rle(members: Members, rng: np.random.Generator) -> tuple[Members, set[Cause]]:
    letters = rng.integers(32, 127, rng.integers(1, 30)).astype(np.uint8).tobytes().decode()
    return masks(members, letters), {Cause.MASK, Cause.MASK_SIZE}


def other_mask_size(members: Members, rng: np.random.Generator) -> tuple[Members, set[Cause]]:
    from edgetam_pl.io import rle

    side = int(rng.integers(2, 31))
    return masks(members, rle.encode(np.ones((side, SIDE), bool))), {Cause.MASK_SIZE}


def other_image_size(members: Members, rng: np.random.Generator) -> tuple[Members, set[Cause]]:
    import simplejpeg

    height, width = (int(n) for n in rng.integers(8, 64, 2))
    if (height, width) == (SIDE, SIDE):
        height += 1
    image = simplejpeg.encode_jpeg(np.zeros((height, width, 3), np.uint8))
    return members | {schema.image_suffix(t): image for t in range(FRAMES)}, {Cause.IMAGE_SIZE}


def absurd_size(members: Members, rng: np.random.Generator) -> tuple[Members, set[Cause]]:
    huge = int(rng.choice([10**5, 10**9, 10**18, 0, -5]))
    return header(members, size=[huge, huge]), {Cause.IMAGE_SIZE}


def absurd_image(members: Members, rng: np.random.Generator) -> tuple[Members, set[Cause]]:
    """The JPEG itself claims 65000 x 65000 pixels: 12 GB if anyone believed it."""
    image = bytearray(members["000.jpg"])
    place = image.index(b"\xff\xc0") + 5
    image[place : place + 4] = (65_000).to_bytes(2, "big") * 2
    return members | {schema.image_suffix(t): bytes(image) for t in range(FRAMES)}, {Cause.IMAGE_SIZE}


def empty_member(members: Members, rng: np.random.Generator) -> tuple[Members, set[Cause]]:
    gone = sorted(members)[rng.integers(len(members))]
    if gone != "json":  # every frame, so that the clip that is drawn has one
        return members | {schema.image_suffix(t): b"" for t in range(FRAMES)}, {Cause.MEMBER_EMPTY}
    return members | {gone: b""}, {Cause.MEMBER_EMPTY}


def missing_member(members: Members, rng: np.random.Generator) -> tuple[Members, set[Cause]]:
    gone = sorted(members)[rng.integers(len(members))]
    return {suffix: data for suffix, data in members.items() if suffix != gone}, {Cause.MEMBER_MISSING}


def no_header(members: Members, rng: np.random.Generator) -> tuple[Members, set[Cause]]:
    text = members["json"][: int(rng.integers(1, len(members["json"])))]
    return members | {"json": text}, {Cause.HEADER}


def no_picture(members: Members, rng: np.random.Generator) -> tuple[Members, set[Cause]]:
    noise = rng.integers(0, 256, 500).astype(np.uint8).tobytes()
    return members | {schema.image_suffix(t): noise for t in range(FRAMES)}, {Cause.IMAGE}


def future_version(members: Members, rng: np.random.Generator) -> tuple[Members, set[Cause]]:
    return header(members, version=int(rng.integers(2, 99))), {Cause.HEADER}


def wrong_types(members: Members, rng: np.random.Generator) -> tuple[Members, set[Cause]]:
    key = ("frames", "objects", "masks", "size", "kind")[rng.integers(5)]
    value = [None, 3, "x", [], {"a": 1}, [[None]], float("inf")][rng.integers(7)]
    if (key, value) == ("objects", {"a": 1}):  # a mapping of one name is as good as a list of one
        value = None
    return header(members, **{key: value}), {Cause.HEADER}


KINDS = [
    *(bad_rle, other_mask_size, other_image_size, absurd_size, absurd_image, empty_member, missing_member, no_header),
    *(no_picture, future_version, wrong_types),
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_sample_is_counted_under_its_cause(
    good: Path, tmp_path: Path, kind: Callable[..., tuple[Members, set[Cause]]]
) -> None:
    (tar,) = good.glob("*.tar")
    whole = contents(tar)
    path = tmp_path / "foreign.tar"
    for seed in range(50):
        rng = np.random.default_rng(seed)
        victim = list(whole)[rng.integers(len(whole))]
        members, causes = kind(whole[victim], rng)
        write_tar(path, whole | {victim: members})
        expected = {str(cause) for cause in causes}
        skips = met(str(path))
        assert skips, f"seed {seed}: nothing counted"
        assert set(skips) <= expected, f"seed {seed}: {skips}"
        verdict = check_shard(str(path), None)
        assert verdict.samples == CLIPS - 1
        assert {str(cause) for cause, _ in verdict.faults} <= expected


def test_member_names_that_reach_outside_are_counted_and_nothing_is_written(good: Path, tmp_path: Path) -> None:
    (tar,) = good.glob("*.tar")
    whole = contents(tar)
    inside = tmp_path / "deep" / "folder"
    inside.mkdir(parents=True)
    names = ["../evil", "/tmp/evil", "a/../../evil", "..\\evil", "x\\y"]
    for seed in range(100):
        rng = np.random.default_rng(seed)
        name = names[seed % len(names)]
        victim = list(whole)[rng.integers(len(whole))]
        write_tar(inside / "t.tar", {k: m for k, m in whole.items() if k != victim} | {name: whole[victim]})
        skips = met(str(inside / "t.tar"))
        assert set(skips) == {str(Cause.MEMBER_NAME)}
        verdict = check_shard(str(inside / "t.tar"), None)
        assert {cause for cause, _ in verdict.faults} == {Cause.MEMBER_NAME}
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["t.tar"]


def test_a_manifest_that_promises_what_an_index_does_not_hold(good: Path, tmp_path: Path) -> None:
    shutil.copytree(good, tmp_path / "set")
    manifest = shards.read_manifest(str(good))
    record = dataclasses.replace(manifest.shards[0], samples=CLIPS + 3, lengths=((FRAMES, CLIPS + 3),))
    promising = dataclasses.replace(manifest, shards=(record,), samples=CLIPS + 3)
    (tmp_path / "set" / "manifest.json").write_text(promising.to_json())
    assert set(met(str(tmp_path / "set"))) <= {str(Cause.TAR)}
    index = tmp_path / "set" / "shard-000000.index.json"
    for seed in range(40):
        text = bytearray((good / index.name).read_bytes())
        rng = np.random.default_rng(seed)
        text[int(rng.integers(len(text)))] ^= 1 << int(rng.integers(7))
        index.write_bytes(bytes(text))
        met(str(tmp_path / "set"))  # whatever it says now: no crash, no hang
