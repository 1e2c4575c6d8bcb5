"""Writes shards so that nobody ever sees half of one, and says what to do when the disk is full."""

from __future__ import annotations

import errno
import hashlib
import os
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from webdataset.writer import TarWriter

from edgetam_pl.data import sample as schema
from edgetam_pl.data.errors import BadSampleError, Cause
from edgetam_pl.data.index import Entry, Index, Member, index_name
from edgetam_pl.data.sample import Sample
from edgetam_pl.data.tars import BLOCK


class _Hashing:
    """A file that is only written to, and the sha256 of what went through."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest, self.size = file, hashlib.sha256(), 0
        self.given_up = False

    def write(self, data: bytes) -> int:
        if self.given_up:  # tarfile writes its end mark even when it is only thrown away
            return len(data)
        self.digest.update(data)
        self.size += len(data)
        return self.file.write(data)


class DiskFullError(OSError):
    """The disk filled up; finished shards are whole."""


class ShardWriter:
    """Writes one shard: a tar and its index appear under their names when the block ends well, and not at all otherwise.

    >>> with ShardWriter(folder, "shard-000000.tar", settings="") as writer:  # doctest: +SKIP
    ...     writer.add(sample)
    """

    def __init__(self, folder: Path, name: str, *, settings: str) -> None:
        self.folder, self.name, self.settings = folder, name, settings
        self.partial = folder / f".{name}.{os.getpid()}.partial"
        self.entries: list[Entry] = []
        self.keys: set[str] = set()
        self.videos = 0
        self.skipped: dict[str, int] = {}
        self.notes: dict[str, str] = {}

    def __enter__(self) -> ShardWriter:
        self.file = self.partial.open("wb")
        self.hashing = _Hashing(self.file)
        self.tar = TarWriter(cast(Any, self.hashing), user="edgetam", group="edgetam", encoder=False, mtime=0)
        return self

    def add(self, sample: Sample) -> None:
        """Append a sample. Raises BadSampleError, with nothing written, where it contradicts itself."""
        members = schema.encode(sample)
        key = sample.header.key
        if key in self.keys:
            raise BadSampleError(Cause.HEADER, f"two samples of {self.name} are called {key}")
        self.keys.add(key)
        offset = self.tar.tarstream.offset
        try:
            self.tar.write({"__key__": key, **members})
        except OSError as error:
            raise self._told(error) from error
        written = []
        for suffix in sorted(members):  # TarWriter's order; a header block, then the bytes, padded to blocks
            data = members[suffix]
            written.append(Member(suffix, offset + BLOCK, len(data), zlib.crc32(data)))
            offset += BLOCK + -(-len(data) // BLOCK) * BLOCK
        assert offset == self.tar.tarstream.offset, "the tar does not lie as its index says"
        self.entries.append(Entry(key, sample.header.num_frames, len(sample.header.objects), tuple(written)))

    def skip(self, error: BadSampleError) -> None:
        """Count something that was left out."""
        self.skipped[error.cause] = self.skipped.get(error.cause, 0) + 1
        self.notes.setdefault(error.cause, str(error))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            if kind is None:
                self._finish()
        except OSError as problem:
            raise self._told(problem) from problem
        finally:
            self.hashing.given_up = True
            with suppress(OSError):  # all was flushed, or the disk is full and what is buffered is thrown away
                self.file.close()
            self.partial.unlink(missing_ok=True)

    def _finish(self) -> None:
        self.tar.close()
        self.file.flush()
        os.fsync(self.file.fileno())
        self.index = Index(
            shard=self.name,
            bytes=self.hashing.size,
            sha256=self.hashing.digest.hexdigest(),
            settings=self.settings,
            entries=tuple(self.entries),
            videos=self.videos,
            skipped=self.skipped,
            notes=tuple(self.notes.values()),
        )
        self.partial.rename(self.folder / self.name)
        # last: a shard is finished when its index is there
        write_whole(self.folder / index_name(self.name), self.index.to_json().encode())

    def _told(self, error: OSError) -> OSError:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return error
        return DiskFullError(
            errno.ENOSPC,
            f"The disk of {self.folder} is full ({self.hashing.size / 1e6:.0f} MB into {self.name}). Finished shards are "
            f"whole and stay; free some space and run the same command again: it continues. Smaller shards need a folder of "
            f"their own (short_side=720 out=...).",
        )


def write_whole(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, then rename it: nobody ever sees half of it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
