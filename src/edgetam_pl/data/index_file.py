"""The index of a whole data set in one binary file, mapped into memory and so shared by all processes of a machine.

    INDEX_FILE   a header of 64 bytes, a line of 64 bytes for each shard of the manifest (`_SHARD`), then for each shard its
                 samples (`_SAMPLE`, 12 bytes each) and their members (`_MEMBER`, 12 bytes each: the frames, then the header)

Numbers are little-endian. 11 million images of one frame take 400 MB. The JSON index of each shard stays beside its tar: it
says that the shard is finished, and a data set whose binary index is absent or does not fit is read with it, as before.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgetam_pl.data import sample as schema
from edgetam_pl.data.index import Entry, Index, Manifest, Member, ShardRecord
from edgetam_pl.io.atomic import atomic_path
from edgetam_pl.io.errors import BadSampleError, Cause

INDEX_FILE = "index.bin"
VERSION = 1
HEAD = 64
"""Bytes of the header."""
_MAGIC = b"EDGETAM-"
_HEAD = struct.Struct("<8sIIQ40x")  # magic, version, shards, bytes of the file
_BLOCK = 512
_HIDDEN = 1 << 31
"""Added to the size of a frame on which no object is seen."""
_SHARD = np.dtype(
    [
        ("sha256", "V32"),
        ("bytes", "<u8"),
        ("at", "<u8"),
        ("samples", "<u4"),
        ("members", "<u4"),
        ("crc32", "<u4"),
        ("", "V4"),
    ]
)
_SAMPLE = np.dtype([("member", "<u4"), ("frames", "<u2"), ("objects", "<u2"), ("position", "<i4")])
_MEMBER = np.dtype([("block", "<u4"), ("size", "<u4"), ("crc32", "<u4")])


class UnfitIndexError(ValueError):
    """A binary index that cannot be used. The message says why."""


def pack(index: Index) -> bytes:
    """Samples and members of a shard as they lie in the file.

    Raises:
        UnfitIndexError: the index does not know all that the file says, or a number does not fit in.
    """
    samples, members = np.zeros(len(index.entries), _SAMPLE), []
    for number, entry in enumerate(index.entries):
        if entry.hidden is None:
            raise UnfitIndexError(f"{index.shard}: frames without an object are not known")
        known = {member.suffix: member for member in entry.members}
        position = -1 if entry.position is None else entry.position
        samples[number] = (len(members), entry.frames, min(entry.objects, 0xFFFF), position)
        for t in range(entry.frames + 1):
            member = known.get(schema.image_suffix(t) if t < entry.frames else "json")
            if member is None or member.crc32 is None or member.offset % _BLOCK or member.offset // _BLOCK > 0xFFFFFFFF:
                raise UnfitIndexError(f"{index.shard}: {entry.key} has a member that a binary index cannot hold")
            hidden = _HIDDEN if t in entry.hidden else 0
            members.append((member.offset // _BLOCK, member.size | hidden, member.crc32))
    return samples.tobytes() + np.array(members, _MEMBER).tobytes()


class IndexWriter:
    """Writes the index of `shards` shards, which are added in the manifest's order."""

    def __init__(self, file: BinaryIO, shards: int) -> None:
        self.file, self.table, self.count = file, np.zeros(shards, _SHARD), 0
        self.at = HEAD + self.table.nbytes
        file.seek(self.at)

    def add(self, record: ShardRecord, block: bytes) -> None:
        """The next shard, and what `pack` made of it."""
        members = (len(block) - record.samples * _SAMPLE.itemsize) // _MEMBER.itemsize
        sha256 = np.void(bytes.fromhex(record.sha256))
        line = (sha256, record.bytes, self.at, record.samples, members, zlib.crc32(block), np.void(bytes(4)))
        self.table[self.count] = line
        self.file.write(block)
        self.at += len(block)
        self.count += 1

    def finish(self) -> None:
        """Write what comes before the shards' parts."""
        self.file.seek(0)
        self.file.write(_HEAD.pack(_MAGIC, VERSION, len(self.table), self.at) + self.table.tobytes())


@contextmanager
def index_writer(path: Path, *, shards: int) -> Iterator[IndexWriter]:
    """An index to add shards to; the file appears when the block ends well."""
    with atomic_path(path) as draft, draft.open("wb") as file:
        writer = IndexWriter(file, shards)
        yield writer
        writer.finish()


def size_of(head: bytes, *, name: str) -> int:
    """Bytes of a file that begins with this header. Raises UnfitIndexError where it is none."""
    if len(head) < HEAD or not head.startswith(_MAGIC):
        raise UnfitIndexError(f"{name} is no index of shards")
    _, version, _, total = _HEAD.unpack(head[:HEAD])
    if version != VERSION:
        raise UnfitIndexError(f"{name} is of version {version}; expected {VERSION}")
    return total


class IndexFile:
    """The entries of all samples, read from the mapped file as they are asked for.

    Raises:
        UnfitIndexError: the file is damaged, or older or newer than the manifest's shards.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = str(path)
        self.changed = os.stat(path).st_mtime_ns
        mapped = self._mapped
        if size_of(mapped[:HEAD].tobytes(), name=self.path) != mapped.size:
            raise UnfitIndexError(f"{path} is cut off: it has {mapped.size} bytes")
        _, _, shards, _ = _HEAD.unpack(mapped[:HEAD].tobytes())
        if shards != len(manifest.shards) or HEAD + shards * _SHARD.itemsize > mapped.size:
            raise UnfitIndexError(f"{path} is of {shards} shards; the manifest has {len(manifest.shards)}")
        lines = self._lines
        said = zip(lines["sha256"].tolist(), lines["bytes"].tolist(), lines["samples"].tolist(), strict=True)
        for (sha256, size, samples), record in zip(said, manifest.shards, strict=True):
            if (sha256.hex(), size, samples) != (record.sha256, record.bytes, record.samples):
                raise UnfitIndexError(f"{path} is of another {record.name}: one of the two is older")
        sizes = lines["samples"].astype(np.uint64) * _SAMPLE.itemsize + lines["members"].astype(np.uint64) * _MEMBER.itemsize
        if (lines["at"] + sizes > mapped.size).any():
            raise UnfitIndexError(f"{path} is damaged: a shard's part ends after the file")

    @property
    def _mapped(self) -> NDArray[np.uint8]:
        return _mapped(self.path, self.changed)

    @property
    def _lines(self) -> NDArray[np.void]:
        """The line of each shard."""
        mapped = self._mapped
        _, _, shards, _ = _HEAD.unpack(mapped[:HEAD].tobytes())
        return mapped[HEAD : HEAD + shards * _SHARD.itemsize].view(_SHARD)

    def entry(self, shard: int, number: int) -> Entry:
        """What is known of a sample. Its key is not: it has its number for a name.

        Raises:
            BadSampleError: the index contradicts itself.
        """
        mapped = self._mapped
        _, _, at, samples, count, _, _ = mapped[HEAD + shard * _SHARD.itemsize :][: _SHARD.itemsize].view(_SHARD)[0].item()
        first, frames, objects, position = (
            mapped[at + number * _SAMPLE.itemsize :][: _SAMPLE.itemsize].view(_SAMPLE)[0].item()
        )
        if first + frames >= count:
            raise BadSampleError(Cause.TAR, f"{self.path} is damaged at sample {number} of shard {shard}")
        at += samples * _SAMPLE.itemsize + first * _MEMBER.itemsize
        rows = mapped[at : at + (frames + 1) * _MEMBER.itemsize].view(_MEMBER).tolist()
        suffixes = [*map(schema.image_suffix, range(frames)), "json"]
        members = tuple(
            Member(suffix, block * _BLOCK, size & (_HIDDEN - 1), crc32)
            for suffix, (block, size, crc32) in zip(suffixes, rows, strict=True)
        )
        hidden = tuple(t for t, (_, size, _) in enumerate(rows) if size & _HIDDEN)
        return Entry(f"sample {number}", frames, objects, members, None if position < 0 else position, hidden)

    def damaged(self) -> list[int]:
        """Shards whose part of the file is not what was written."""
        found = []
        for number, line in enumerate(self._lines):
            at = int(line["at"])
            end = at + int(line["samples"]) * _SAMPLE.itemsize + int(line["members"]) * _MEMBER.itemsize
            if zlib.crc32(self._mapped[at:end].tobytes()) != int(line["crc32"]):
                found.append(number)
        return found


@lru_cache(maxsize=16)
def _mapped(path: str, changed: int) -> NDArray[np.uint8]:
    """The file's bytes, mapped once a process. `changed`: when, so that a file in its place is mapped anew."""
    try:
        return np.memmap(path, np.uint8, mode="r").view(np.ndarray)
    except ValueError as error:  # an empty file
        raise UnfitIndexError(f"{path} is empty") from error
