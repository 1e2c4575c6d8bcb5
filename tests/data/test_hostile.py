"""Files that lie: indices, manifests, pictures, things that are no files. Refused at once, by loader and verify alike."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from shard_sets import build, contents, loader, write_tar

from edgetam_pl.data import sample as schema
from edgetam_pl.data import shards
from edgetam_pl.data.verify import check_shard, verify
from edgetam_pl.io.errors import BadSampleError, Cause
from edgetam_pl.io.label_png import davis_palette, read_labels


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("good"), clips=6, group=3)


@pytest.fixture
def copy(good: Path, tmp_path: Path) -> Path:
    """Without the data set's own index, so that the index of each shard is read."""
    shutil.copytree(good, tmp_path / "set", ignore=shutil.ignore_patterns("index.bin"))
    shards.load_index.cache_clear()
    return tmp_path / "set"


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    """A read that never ends fails the test and does not hold the suite."""

    def late(*_: object) -> None:
        raise TimeoutError("still reading after 60 s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)


def faults(place: Path) -> dict[Cause, str]:
    return {cause: message for verdict in verify(str(place)) for cause, message in verdict.faults}


def skipped(place: Path) -> set[str]:
    """What the loader counts on its way through an epoch; a shard of two is whole."""
    made = loader([str(place)], steps=6, max_skips=1.0)
    list(made)
    return set(made.skips)


# ---------------------------------------------------------------------- numbers in json

Change = Callable[[dict[str, Any]], object]


def member(raw: dict[str, Any], number: int = 0) -> dict[str, Any]:
    return raw["entries"][0]["members"][number]


WRONG: dict[str, Change] = {
    "offset 1e15": lambda raw: member(raw).update(offset=1e15),
    "offset 10^15": lambda raw: member(raw).update(offset=10**15),
    "offset negative": lambda raw: member(raw).update(offset=-512),
    "offset NaN": lambda raw: member(raw).update(offset=float("nan")),
    "offset true": lambda raw: member(raw).update(offset=True),
    "size 10^15": lambda raw: member(raw).update(size=10**15),
    "bytes 10^15": lambda raw: raw.update(bytes=10**15),
    "frames 10^15": lambda raw: raw["entries"][0].update(frames=10**15),
    "objects negative": lambda raw: raw["entries"][0].update(objects=-1),
    "crc too large": lambda raw: member(raw).update(crc32=1 << 33),
    "beyond the end": lambda raw: raw["entries"][-1]["members"][-1].update(size=raw["bytes"]),
    "overlap": lambda raw: member(raw, 1).update(offset=member(raw)["offset"] + 1),
    "wrong order": lambda raw: raw["entries"].reverse(),
    "twice": lambda raw: raw["entries"].append(raw["entries"][-1]),
    "a list for a name": lambda raw: raw["entries"][0].update(members=3),
}


@pytest.mark.parametrize("kind", WRONG)
def test_an_index_with_impossible_numbers_is_refused_by_loader_and_verify(copy: Path, kind: str) -> None:
    path = copy / "shard-000000.index.json"
    raw = json.loads(path.read_text())
    WRONG[kind](raw)
    path.write_text(json.dumps(raw))
    with pytest.raises(BadSampleError, match=r"index of .*shard-000000\.tar cannot be read") as caught:
        shards.load_index(str(copy / "shard-000000.tar"))
    assert caught.value.cause is Cause.TAR
    assert "cannot be read" in faults(copy)[Cause.TAR]
    assert skipped(copy) == {str(Cause.TAR)}


def test_json_that_is_nested_deeply_is_refused(copy: Path) -> None:
    deep = "[" * 200_000
    (copy / "shard-000000.index.json").write_text(deep)
    assert skipped(copy) == {str(Cause.TAR)}
    assert Cause.TAR in faults(copy)
    (copy / "manifest.json").write_text('{"version": 1, "shards": ' + deep)
    with pytest.raises(ValueError, match="is not a manifest of version 1"):
        verify(str(copy))


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw["shards"][0].update(samples=1e15),
        lambda raw: raw["shards"][0].update(samples=float("nan")),
        lambda raw: raw["shards"][0].update(lengths=[[4, 10**15]]),
        lambda raw: (raw["shards"][0].update(lengths=[[4, 10**15]], samples=10**15), raw.update(samples=10**15)),
        lambda raw: raw["shards"][0].update(lengths=[[10**15, 6]]),
        lambda raw: raw["shards"][0].update(lengths=[[4, -6]]),
        lambda raw: raw["shards"][0].update(bytes=-1),
        lambda raw: raw["shards"][0].update(name="../other.tar"),
        lambda raw: raw["shards"].append(raw["shards"][0]),
        lambda raw: raw.update(samples=7),
        lambda raw: raw.update(kind="film"),
        lambda raw: raw.update(shards=3),
    ],
)
def test_a_manifest_with_impossible_numbers_is_refused(copy: Path, change: Change) -> None:
    path = copy / "manifest.json"
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))
    for read in (lambda: verify(str(copy)), lambda: shards.ShardSet(str(copy), name="x")):
        with pytest.raises(ValueError, match=r"manifest\.json is not a manifest of version 1"):
            read()


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: member(raw).update(crc32=5),
        lambda raw: member(raw).update(suffix="007.jpg"),
        lambda raw: member(raw).update(offset=member(raw)["offset"] + 1),
        lambda raw: raw["entries"][0].update(key="other"),
        lambda raw: raw["entries"][0].update(objects=7),
        lambda raw: raw["entries"].pop(),
    ],
)
@pytest.mark.parametrize("with_manifest", [True, False])
def test_an_index_that_is_not_of_its_tar_is_named_by_verify(copy: Path, change: Change, with_manifest: bool) -> None:
    path = copy / "shard-000000.index.json"
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))
    place = copy if with_manifest else copy / "shard-000000.tar"
    assert Cause.TAR in faults(place)


def test_what_is_right_has_no_fault(good: Path) -> None:
    assert not faults(good)
    assert not faults(good / "shard-000000.tar")
    assert not faults(good / "shard-{000000..000001}.tar")
    assert "shard-000002.tar: shard unreadable" in faults(good / "shard-{000001..000002}.tar")[Cause.SHARD_UNREADABLE]


# ---------------------------------------------------------------------- pictures


def claiming(jpeg: bytes, height: int, width: int) -> bytes:
    place = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:place] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + jpeg[place + 4 :]


@pytest.mark.parametrize("side", [16_000, 65_000])
def test_a_jpeg_of_absurd_size_is_refused_from_its_header(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int
) -> None:
    key, members = next(iter(contents(good / "shard-000000.tar").items()))
    raw = json.loads(members["json"])
    raw |= {"size": [side, side], "masks": [[None] * len(raw["frames"]) for _ in raw["masks"]]}
    images = {suffix: claiming(data, side, side) for suffix, data in members.items() if suffix != "json"}
    write_tar(tmp_path / "t.tar", {key: images | {"json": json.dumps(raw).encode()}})
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *_, **__: pytest.fail("decoded"))
    assert {*check_shard(str(tmp_path / "t.tar"), None).faults} == {
        (Cause.IMAGE_SIZE, f"{tmp_path / 't.tar'}: image size differs: {key}: {key} claims frames of {side} x {side} pixels")
    }


def test_a_jpeg_of_very_many_scans_is_refused(good: Path) -> None:
    members = next(iter(contents(good / "shard-000000.tar").values()))
    with pytest.raises(BadSampleError, match="more than 64 scans"):
        schema.decode(members | {"001.jpg": members["001.jpg"] + 65 * b"\xff\xda\x00"})


def test_a_label_map_of_absurd_size_is_refused_from_its_header(tmp_path: Path) -> None:
    from PIL import Image

    picture = Image.fromarray(np.ones((4, 4), np.uint8), mode="P")
    picture.putpalette(davis_palette())
    picture.save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[16:24] = (2_000_000_000).to_bytes(4, "big") * 2
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(BadSampleError, match=r"claims 2000000000 x 2000000000 pixels"):
        read_labels(tmp_path / "a.png")


# ---------------------------------------------------------------------- what is no file


@pytest.mark.parametrize("kind", ["pipe", "device", "socket", "folder"])
@pytest.mark.parametrize("name", ["shard-000000.tar", "shard-000000.index.json", "manifest.json"])
def test_what_is_no_file_is_refused_at_once(copy: Path, kind: str, name: str) -> None:
    path = copy / name
    path.unlink()
    opened = socket.socket(socket.AF_UNIX)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        here = Path.cwd()
        os.chdir(copy)  # the address of a socket is short
        opened.bind(name)
        os.chdir(here)
    try:
        if name == "manifest.json":
            with pytest.raises(ValueError, match=r"is no folder of shards: .*manifest\.json"):
                verify(str(copy))
            with pytest.raises(ValueError, match=r"is no folder of shards: .*manifest\.json"):
                skipped(copy)
        else:
            assert Cause.SHARD_UNREADABLE in faults(copy)
            assert skipped(copy) == {str(Cause.SHARD_UNREADABLE)}
    finally:
        opened.close()
