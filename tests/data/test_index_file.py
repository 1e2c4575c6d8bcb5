"""The index of a whole data set: the same as the shards' own, refused where it does not fit, made again from the tars."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from shard_sets import build, loader

from edgetam_pl.data import shards
from edgetam_pl.data.index import Entry, Manifest
from edgetam_pl.data.index_file import HEAD, INDEX_FILE, IndexFile, UnfitIndexError, pack
from edgetam_pl.data.reindex import main, reindex
from edgetam_pl.data.shards import ShardSet, load_index, read_manifest
from edgetam_pl.data.verify import verify


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of 9 frames in windows of 4, three apart: several windows a video, two shards."""
    return build(tmp_path_factory.mktemp("good"), clips=6, frames=9, window=4, stride=3, group=3)


@pytest.fixture
def copy(good: Path, tmp_path: Path) -> Path:
    shutil.copytree(good, tmp_path / "set")
    load_index.cache_clear()
    return tmp_path / "set"


def entries(place: Path) -> list[Entry]:
    made = ShardSet(str(place), name="x")
    assert made.index is not None
    return [made.entry(shard, n) for shard, count in enumerate(made.counts) for n in range(count)]


def test_it_says_of_each_sample_what_the_shards_own_index_says(good: Path) -> None:
    own = [entry for path in sorted(good.glob("*.tar")) for entry in load_index(str(path)).entries]
    found = entries(good)
    assert len(found) == len(own) > 12
    names = {entry.key for entry in found}
    assert [dataclasses.replace(one, key=two.key) for one, two in zip(found, own, strict=True)] == own
    assert names == {f"sample {n}" for n in range(len(own) // 2)}


def test_batches_are_the_same_with_it_and_without(good: Path, copy: Path) -> None:
    with_it = [batch.keys for batch in loader([str(good)], steps=12)]
    (copy / INDEX_FILE).unlink()
    assert ShardSet(str(copy), name="x").index is None
    assert [batch.keys for batch in loader([str(copy)], steps=12)] == with_it


def test_indices_of_an_earlier_version_which_do_not_know_hidden_frames_read_as_before(good: Path, copy: Path) -> None:
    with_it = [batch.keys for batch in loader([str(good)], steps=12)]
    (copy / INDEX_FILE).unlink()
    for path in copy.glob("*.index.json"):
        raw = json.loads(path.read_text())
        for entry in raw["entries"]:
            del entry["hidden"]
        path.write_text(json.dumps(raw))
    assert [batch.keys for batch in loader([str(copy)], steps=12)] == with_it
    assert not [fault for verdict in verify(str(copy)) for fault in verdict.faults]
    with pytest.raises(UnfitIndexError, match="frames without an object are not known"):
        pack(load_index(str(copy / "shard-000000.tar")))


@pytest.mark.parametrize("with_json", [True, False])
def test_one_command_makes_it_again_byte_for_byte(good: Path, copy: Path, with_json: bool) -> None:
    """From the tars alone, too: where windows lie in their video follows from their frame numbers."""
    for path in [copy / INDEX_FILE, *([] if with_json else copy.glob("*.index.json"))]:
        path.unlink()
    assert main([str(copy), "--processes", "1"]) == 0
    assert (copy / INDEX_FILE).read_bytes() == (good / INDEX_FILE).read_bytes()


def test_it_is_not_made_of_tars_that_are_not_the_manifests(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tar = copy / "shard-000001.tar"
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.write_bytes(data)
    before = (copy / INDEX_FILE).read_bytes()
    assert main([str(copy), "--processes", "1"]) == 1
    assert "shard-000001.tar: sha256 is not the manifest's. No index was written" in capsys.readouterr().err
    assert (copy / INDEX_FILE).read_bytes() == before


def test_on_a_server_it_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="run this where the tars are"):
        reindex("s3://bucket/set")


Change = Callable[[bytearray], object]
WRONG: dict[str, tuple[Change, str]] = {
    "cut off": (lambda data: data.__delitem__(slice(-100, None)), "is cut off"),
    "empty": (lambda data: data.clear(), "is empty"),
    "something else": (lambda data: data.__setitem__(slice(0, 4), b"<htm"), "is no index of shards"),
    "another version": (lambda data: data.__setitem__(8, 7), "is of version 7; expected 1"),
    "of other shards": (lambda data: data.__setitem__(HEAD, data[HEAD] ^ 1), r"is of another shard-000000\.tar"),
    "of fewer shards": (lambda data: data.__setitem__(12, 1), "is of 1 shards; the manifest has 2"),
    "a part beyond the end": (lambda data: data.__setitem__(HEAD + 40 + 6, 9), "a shard's part ends after the file"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_one_that_does_not_fit_is_named_and_the_shards_are_read_without_it(
    good: Path, copy: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    change, words = WRONG[kind]
    data = bytearray((copy / INDEX_FILE).read_bytes())
    change(data)
    (copy / INDEX_FILE).write_bytes(data)
    with pytest.raises(UnfitIndexError, match=words):
        IndexFile(copy / INDEX_FILE, read_manifest(str(copy)))
    caplog.clear()
    seen = [batch.keys for batch in loader([str(copy)], steps=6)]
    assert seen == [batch.keys for batch in loader([str(good)], steps=6)]
    (line,) = caplog.messages
    assert f"make it anew with: edgetam shards index {copy}" in line
    (fault,) = [fault for verdict in verify(str(copy)) for fault in verdict.faults]
    assert INDEX_FILE in fault[1]


def test_one_older_than_its_shards_is_named(good: Path, copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The folder was built again with other settings, and the old index copied back."""
    other = build(copy.parent / "other", clips=6, frames=9, window=4, stride=3, group=3, seed=1)
    shutil.copy(copy / INDEX_FILE, other / INDEX_FILE)
    assert ShardSet(str(other), name="x").index is None
    assert "one of the two is older" in caplog.messages[0]


def test_damage_to_any_byte_is_found_by_verify_and_never_crashes_a_reader(copy: Path) -> None:
    whole = (copy / INDEX_FILE).read_bytes()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        data = bytearray(whole)
        data[int(rng.integers(HEAD + 2 * 64, len(data)))] ^= 1 << int(rng.integers(8))
        (copy / INDEX_FILE).write_bytes(data)
        made = loader([str(copy)], steps=6, max_skips=1.0)
        try:
            list(made)
        except shards.BadSampleError as error:
            pytest.fail(f"seed {seed}: {error}")
        faults = [message for verdict in verify(str(copy)) for _, message in verdict.faults]
        assert any("is not what was written" in message for message in faults), seed


def test_a_data_set_of_many_terabytes_has_a_manifest(good: Path) -> None:
    """SA-1B has 11; each shard is small."""
    manifest = read_manifest(str(good))
    line = dataclasses.replace(manifest.shards[0], bytes=10**9)
    lines = tuple(dataclasses.replace(line, name=f"shard-{n:06d}.tar") for n in range(11_000))
    large = dataclasses.replace(manifest, shards=lines, bytes=11 * 10**12, samples=11_000 * line.samples)
    assert Manifest.from_json(large.to_json().encode(), where="x") == large
