"""What a machine keeps of a server's shards: read once, shared, bounded, and no reason to stop when it cannot be kept."""

from __future__ import annotations

import gc
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from shard_sets import build, loader

from edgetam_pl.data import node_cache, storage, tars
from edgetam_pl.data.index_file import INDEX_FILE
from edgetam_pl.data.loader import ShardLoader
from edgetam_pl.data.shards import load_index
from edgetam_pl.io.errors import BadSampleError, Cause

PLACE = "memory://node-cache/set"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("good"), clips=6, frames=4, group=3)


@pytest.fixture
def reads(good: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[tuple[str, int, int]]]:
    """Ranges that a server was asked for. Its copy of the index is kept in a folder of this test."""
    fsspec.filesystem("memory").put(str(good), "/node-cache/set", recursive=True)
    made: list[tuple[str, int, int]] = []
    read = storage.read_range

    def noted(address: str, offset: int, size: int) -> bytes:
        made.append((address, offset, size))
        return read(address, offset, size)

    monkeypatch.setattr(storage, "read_range", noted)
    monkeypatch.setattr(node_cache.tempfile, "gettempdir", lambda: str(tmp_path))
    load_index.cache_clear()
    yield made
    node_cache.set_cache("", 0)
    fsspec.filesystem("memory").rm("/node-cache", recursive=True)


def remote(folder: Path | None = None, gigabytes: float = 1.0, *, steps: int = 6) -> ShardLoader:
    made = loader([PLACE], steps=steps)
    if folder is not None:
        pytest.importorskip("diskcache", reason="pip install 'edgetam-pl[cache]'")
        node_cache.set_cache(str(folder), gigabytes)
    return made


def keys(made: ShardLoader) -> list[str]:
    return [batch.keys[0] for batch in made]


def test_a_sample_is_one_read_and_the_index_is_fetched_once(good: Path, reads: list[tuple[str, int, int]]) -> None:
    assert keys(remote()) == keys(loader([str(good)], steps=6))
    of_index = [read for read in reads if read[0].endswith(INDEX_FILE)]
    assert len(of_index) == 2  # its header and the rest
    assert len([read for read in reads if read[0].startswith(PLACE) and read[0].endswith(".tar")]) == 6
    reads.clear()
    keys(remote())
    assert not [read for read in reads if read[0].endswith(INDEX_FILE)]  # the machine has it


def test_what_was_read_is_not_read_again_by_this_or_another_process(
    good: Path, reads: list[tuple[str, int, int]], tmp_path: Path
) -> None:
    first = keys(remote(tmp_path / "kept"))
    reads.clear()
    node_cache._members.cache_clear()  # as in another process
    assert keys(remote(tmp_path / "kept")) == first
    assert not [read for read in reads if read[0].endswith(".tar")]


def test_a_kept_member_that_was_damaged_is_read_again(reads: list[tuple[str, int, int]], tmp_path: Path) -> None:
    first = keys(remote(tmp_path / "kept"))
    (cache,) = [node_cache._members(str(tmp_path / "kept"), 1.0)]
    for key in list(cache):
        cache.set(key, b"damaged")
    reads.clear()
    assert keys(remote(tmp_path / "kept")) == first
    assert len([read for read in reads if read[0].endswith(".tar")]) == 6


def test_the_cache_keeps_to_its_limit(reads: list[tuple[str, int, int]], tmp_path: Path) -> None:
    made = remote(tmp_path / "kept", 1e-3)
    for number in range(3000):
        node_cache.put(f"member {number}", os.urandom(2000))
    assert list(made)
    held = node_cache._members(str(tmp_path / "kept"), 1e-3)
    assert held.volume() < 3e6  # each of 16 databases has some pages of its own
    assert len(held) < 1500


@pytest.mark.parametrize("kind", ["file in its place", "read-only", "full"])
def test_a_folder_that_cannot_be_used_is_told_of_once_and_worked_around(
    kind: str,
    reads: list[tuple[str, int, int]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "kept"
    if kind == "file in its place":
        folder.write_text("")
    made = remote(folder)
    if kind != "file in its place":
        cache = node_cache._members(str(folder), 1.0)
        full = OSError(28, "No space left on device")
        error = sqlite3.OperationalError("attempt to write a readonly database") if kind == "read-only" else full

        def refuse(*_: object) -> None:
            raise error

        monkeypatch.setattr(type(cache), "set", refuse)
    seen = keys(made)
    assert len(seen) == 6
    (line,) = caplog.messages
    assert f"The cache in {folder} (data.cache) cannot be used" in line
    node_cache._members.cache_clear()


@pytest.mark.parametrize("options", ["size=16m,ro", "size=300k", "size=5m,nr_inodes=8"])
def test_a_disk_that_is_full_or_read_only_is_told_of_and_worked_around(
    options: str, reads: list[tuple[str, int, int]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A real one, in memory: read-only, without room for the databases, without room for files. The index goes elsewhere."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("only root can mount a disk here")
    try:
        expected = keys(remote())
        assert keys(remote(disk)) == expected
        assert node_cache.local_index(f"{PLACE}/{INDEX_FILE}", version="x").is_relative_to(
            tmp_path / f"edgetam-{os.getuid()}"
        )
        told = [line for line in caplog.messages if "cannot be used" in line]
        assert len(told) == 1
        assert f"The cache in {disk} (data.cache) cannot be used" in told[0]
    finally:
        node_cache._members.cache_clear()
        gc.collect()
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_limit_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.cache_gb is 0"):
        node_cache.set_cache(str(tmp_path), 0)


# ------------------------------------------------------------------------------------ a server that lies about ranges


def test_a_server_that_sends_whole_files_is_named_once(
    reads: list[tuple[str, int, int]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    expected = keys(remote())
    whole = MemoryFileSystem.cat_file
    monkeypatch.setattr(MemoryFileSystem, "cat_file", lambda self, path, start=None, end=None: whole(self, path))
    monkeypatch.setattr(storage, "_no_ranges", set())
    assert keys(remote()) == expected
    (line,) = caplog.messages
    assert "ignores ranges: it sent memory://" in line


def test_other_bytes_than_were_asked_for_are_asked_for_again_and_then_refused(
    reads: list[tuple[str, int, int]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = keys(remote())
    honest, lies = storage.read_range, [1]

    def shifted(address: str, offset: int, size: int) -> bytes:
        if address.endswith(".tar") and lies[0] > 0:
            lies[0] -= 1
            return honest(address, 0, size)
        return honest(address, offset, size)

    monkeypatch.setattr(storage, "read_range", shifted)
    assert keys(remote()) == expected
    assert "a server that answers with other bytes is asked once more" in caplog.messages[0]
    lies[0] = 10**6
    address = f"{PLACE}/shard-000000.tar"
    with pytest.raises(BadSampleError) as caught:
        tars.read_members(address, load_index(address).entries[1], ["json"])
    assert caught.value.cause is Cause.CHECKSUM
