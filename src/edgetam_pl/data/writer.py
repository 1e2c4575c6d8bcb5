"""Writes shards so that nobody ever sees half of one, and says what to do when the disk is full."""

from __future__ import annotations

import errno
import hashlib
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from webdataset.writer import TarWriter

from edgetam_pl.data import sample as schema
from edgetam_pl.data.index import Entry, Index, Member, index_name
from edgetam_pl.data.sample import Sample
from edgetam_pl.data.tars import BLOCK
from edgetam_pl.io.atomic import NO_SPACE, atomic_path, write_text
from edgetam_pl.io.errors import BadSampleError, Cause, DiskFullError


@contextmanager
def shard_writer(folder: Path, name: str, *, settings: str) -> Iterator[ShardWriter]:
    """A shard to add samples to: its tar and its index appear when the block ends well, and not at all otherwise.

    >>> with shard_writer(folder, "shard-000000.tar", settings="") as writer:  # doctest: +SKIP
    ...     writer.add(sample)

    Raises:
        DiskFullError: with what to do.
    """
    hashing = None
    try:
        with atomic_path(folder / name) as draft, draft.open("wb") as file:
            hashing = _Hashing(file)
            writer = ShardWriter(name, hashing, settings=settings)
            try:
                yield writer
                writer.tar.close()
            finally:
                hashing.discard = True
        # last: a shard is finished when its index is there
        write_text(folder / index_name(name), writer.index().to_json())
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        written = hashing.size if hashing else 0
        raise DiskFullError(
            errno.ENOSPC,
            f"The disk of {folder} is full ({written / 1e6:.0f} MB into {name}). Finished shards are whole and stay; "
            f"free some space and run the same command again: it continues. Smaller shards need a folder of their own "
            f"(short_side=720 out=...).",
        ) from error


class _Hashing:
    """A file that is only written to, and the sha256 of what went through."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest, self.size = file, hashlib.sha256(), 0
        self.discard = False

    def write(self, data: bytes) -> int:
        if self.discard:  # tarfile writes its end mark even when it is only thrown away
            return len(data)
        self.digest.update(data)
        self.size += len(data)
        return self.file.write(data)


class ShardWriter:
    """Appends samples to a tar and keeps what its index will say."""

    def __init__(self, name: str, hashing: _Hashing, *, settings: str) -> None:
        self.name, self.hashing, self.settings = name, hashing, settings
        self.tar = TarWriter(cast(Any, hashing), user="edgetam", group="edgetam", encoder=False, mtime=0)
        self.entries: list[Entry] = []
        self.keys: set[str] = set()
        self.videos = 0
        self.skipped: dict[str, int] = {}
        self.notes: dict[str, str] = {}

    def add(self, sample: Sample) -> None:
        """Append a sample. Raises BadSampleError, with nothing written, where it contradicts itself."""
        members = schema.encode(sample)
        key = sample.header.key
        if key in self.keys:
            raise BadSampleError(Cause.HEADER, f"two samples of {self.name} are called {key}")
        self.keys.add(key)
        offset = self.tar.tarstream.offset
        self.tar.write({"__key__": key, **members})
        written = []
        for suffix in sorted(members):  # TarWriter's order; a header block, then the bytes, padded to blocks
            data = members[suffix]
            written.append(Member(suffix, offset + BLOCK, len(data), zlib.crc32(data)))
            offset += BLOCK + -(-len(data) // BLOCK) * BLOCK
        assert offset == self.tar.tarstream.offset, "the tar does not lie as its index says"
        header = sample.header
        objects = len(header.objects)
        self.entries.append(Entry(key, header.num_frames, objects, tuple(written), sample.position, header.hidden))

    def skip(self, error: BadSampleError) -> None:
        """Count something that was left out."""
        self.skipped[error.cause] = self.skipped.get(error.cause, 0) + 1
        self.notes.setdefault(error.cause, str(error))

    def index(self) -> Index:
        """What was written, once the tar is closed."""
        return Index(
            shard=self.name,
            bytes=self.hashing.size,
            sha256=self.hashing.digest.hexdigest(),
            settings=self.settings,
            entries=tuple(self.entries),
            videos=self.videos,
            skipped=self.skipped,
            notes=tuple(self.notes.values()),
        )
