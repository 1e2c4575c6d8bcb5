"""Shards on disk: WebDataset tars, an index beside each, one manifest for all; written whole or not at all.

    OUT/manifest.json              counts, bytes and sha256 of every shard, and how they were made
    OUT/shard-000000.tar           samples (`sample.py`)
    OUT/shard-000000.index.json    where each member lies in the tar, and its CRC-32

With the index a loader reads the frames that it chose and nothing else, from a disk or by ranges from a server.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

import braceexpand
import numpy as np
from numpy.typing import NDArray
from webdataset.writer import TarWriter

from edgetam_pl.data import sample as schema
from edgetam_pl.data import storage
from edgetam_pl.data.faults import BadSampleError, Cause
from edgetam_pl.data.sample import Sample

MANIFEST = "manifest.json"
VERSION = 1
_BLOCK = 512
"""A tar is made of blocks of this many bytes."""


@dataclass(frozen=True)
class Member:
    """One file in a tar."""

    suffix: str
    offset: int  # of its first byte in the tar
    size: int
    crc32: int | None  # None: a tar of unknown origin that was indexed by reading its structure


@dataclass(frozen=True)
class Entry:
    """One sample in a shard."""

    key: str
    frames: int
    objects: int
    members: tuple[Member, ...]


@dataclass(frozen=True)
class Index:
    """All samples of a shard, in the order in which they lie in the tar."""

    shard: str
    bytes: int
    sha256: str
    settings: str  # fingerprint of what it was built from
    entries: tuple[Entry, ...]
    videos: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # one line for each kind of skip, the first one met

    def to_json(self) -> str:
        return json.dumps({"version": VERSION, **asdict(self)}, separators=(",", ":"))

    @staticmethod
    def from_json(data: bytes, *, name: str) -> Index:
        try:
            raw = json.loads(data)
            if raw["version"] != VERSION:
                raise BadSampleError(Cause.HEADER, f"index of {name} is of version {raw['version']}; expected {VERSION}")
            entries = tuple(
                Entry(e["key"], int(e["frames"]), int(e["objects"]), tuple(Member(**member) for member in e["members"]))
                for e in raw["entries"]
            )
            fields = {key: raw[key] for key in ("shard", "bytes", "sha256", "settings", "videos", "skipped")}
            return Index(entries=entries, notes=tuple(raw["notes"]), **fields)
        except BadSampleError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadSampleError(Cause.TAR, f"index of {name} cannot be read ({error!r:.80})") from error


@dataclass(frozen=True)
class ShardRecord:
    """What the manifest says of a shard."""

    name: str
    samples: int
    bytes: int
    sha256: str
    lengths: tuple[tuple[int, int], ...]  # (frames, how many samples in a row have that many), in tar order


@dataclass(frozen=True)
class Manifest:
    """What a folder of shards holds."""

    name: str
    kind: str
    shards: tuple[ShardRecord, ...]
    samples: int
    videos: int
    frames: int
    objects: int
    bytes: int
    skipped: dict[str, int]
    settings: dict[str, Any]
    written_by: str

    def to_json(self) -> str:
        return json.dumps({"version": VERSION, **asdict(self)}, indent=1)

    @staticmethod
    def from_json(data: bytes, *, where: str) -> Manifest:
        """Raises ValueError where the file is no manifest of this version."""
        try:
            raw = json.loads(data)
            if raw.pop("version") != VERSION:
                raise ValueError(f"another version than {VERSION}")
            shards = tuple(
                ShardRecord(**{**record, "lengths": tuple((int(n), int(times)) for n, times in record["lengths"])})
                for record in raw.pop("shards")
            )
            return Manifest(shards=shards, **raw)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{where} is not a manifest of version {VERSION} ({error!r:.80}); build the shards again."
            ) from error


def record_of(index: Index) -> ShardRecord:
    """The manifest's line for a shard."""
    lengths: list[tuple[int, int]] = []
    for entry in index.entries:
        if lengths and lengths[-1][0] == entry.frames:
            lengths[-1] = (entry.frames, lengths[-1][1] + 1)
        else:
            lengths.append((entry.frames, 1))
    return ShardRecord(index.shard, len(index.entries), index.bytes, index.sha256, tuple(lengths))


def index_name(shard: str) -> str:
    """shard-000000.tar -> shard-000000.index.json"""
    return shard.removesuffix(".tar") + ".index.json"


# ---------------------------------------------------------------------------------------------------------- writing


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
            written.append(Member(suffix, offset + _BLOCK, len(data), zlib.crc32(data)))
            offset += _BLOCK + -(-len(data) // _BLOCK) * _BLOCK
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
            error.errno,
            f"The disk of {self.folder} is full ({self.hashing.size / 1e6:.0f} MB into {self.name}). Finished shards are "
            f"whole and stay; free some space, or use a smaller short_side, and run the same command again: it continues.",
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


# ---------------------------------------------------------------------------------------------------------- reading


class ShardSet:
    """Shards to read from, wherever they are. Samples are numbered through, in the order of the manifest.

    `place` is a folder or URL with a manifest, one tar, or a brace pattern of tars (paths or URLs). Tars without an index
    (made by other tools, local only) are indexed by reading their structure.
    """

    def __init__(self, place: str, *, name: str) -> None:
        if not place:
            raise ValueError(
                f"The data source {name!r} names no shards. Build some (for generated clips: edgetam shards source=toy "
                f"out=runs/toy), then set data.sources.N.shards to that folder."
            )
        self.place, self.name = place, name
        self.skipped: Counter[str] = Counter()  # what is left out before the first sample is drawn
        self.notes: list[str] = []
        if place.endswith(".tar"):
            self.addresses, records = [], []
            for address in braceexpand.braceexpand(place):
                try:
                    index = load_index(address)
                except BadSampleError as error:
                    self.skipped[str(error.cause)] += 1
                    self.notes.append(str(error))
                    continue
                self.addresses.append(address)
                records.append(record_of(index))
                if not index.settings:  # not built here: what its structure shows is news
                    self.skipped.update(index.skipped)
                    self.notes.extend(index.notes)
            self.kind: str | None = None
        else:
            manifest = read_manifest(place)
            records = list(manifest.shards)
            self.addresses = [storage.join(place, record.name) for record in records]
            self.kind = manifest.kind
        self.records = records
        self.counts = np.array([record.samples for record in records], np.int64)
        if not self.counts.sum():
            raise ValueError(f"The shards of {name!r} at {place} hold no sample. {' '.join(self.notes[:3])}".rstrip())

    def __len__(self) -> int:
        return int(self.counts.sum())

    def lengths(self) -> NDArray[np.int32]:
        """Frames of every sample, in order (N,)."""
        pairs = [pair for record in self.records for pair in record.lengths]
        return np.repeat(np.array([n for n, _ in pairs], np.int32), [times for _, times in pairs])

    def entry(self, shard: int, number: int) -> Entry:
        """What the index says of a sample. Raises BadSampleError when the index cannot be read."""
        entries = load_index(self.addresses[shard]).entries
        if number >= len(entries):
            raise BadSampleError(
                Cause.TAR, f"{self.addresses[shard]} has {len(entries)} samples; the manifest promises {self.counts[shard]}"
            )
        return entries[number]

    def read(self, shard: int, entry: Entry, suffixes: Sequence[str]) -> dict[str, bytes]:
        """These members of a sample, each compared with its checksum."""
        return read_members(self.addresses[shard], entry, suffixes)


def read_members(address: str, entry: Entry, suffixes: Sequence[str]) -> dict[str, bytes]:
    """Chosen members of a sample: neighbours in the tar are read at once.

    Raises:
        BadSampleError: not in the tar, the file ends too early, or the checksum differs.
    """
    known = {member.suffix: member for member in entry.members}
    missing = [suffix for suffix in suffixes if suffix not in known]
    if missing:
        raise BadSampleError(Cause.MEMBER_MISSING, f"{entry.key} in {address} has no {missing[0]}")
    members = sorted((known[suffix] for suffix in suffixes), key=lambda member: member.offset)
    found: dict[str, bytes] = {}
    for run in _neighbours(members):
        start = run[0].offset
        block = storage.read_range(address, start, run[-1].offset + run[-1].size - start)
        for member in run:
            data = block[member.offset - start : member.offset - start + member.size]
            if not data:
                raise BadSampleError(Cause.MEMBER_EMPTY, f"{entry.key}.{member.suffix} in {address} is empty")
            if member.crc32 is not None and zlib.crc32(data) != member.crc32:
                raise BadSampleError(Cause.CHECKSUM, f"{entry.key}.{member.suffix} in {address} is not what was written")
            found[member.suffix] = data
    return found


def _neighbours(members: Iterable[Member]) -> list[list[Member]]:
    """Split into runs without other members in between (a tar header and padding are at most 1.5 kB apart)."""
    runs: list[list[Member]] = []
    for member in members:
        if runs and member.offset - (runs[-1][-1].offset + runs[-1][-1].size) <= 2048:
            runs[-1].append(member)
        else:
            runs.append([member])
    return runs


def read_manifest(place: str) -> Manifest:
    """The manifest of a folder or URL.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    address = storage.join(place, MANIFEST)
    try:
        data = storage.read(address)
    except BadSampleError as error:
        raise ValueError(
            f"{place} is no folder of shards: {error.message}. Name a folder that edgetam shards has written, a .tar, or a "
            f"brace pattern such as shard-{{000000..000007}}.tar."
        ) from error
    return Manifest.from_json(data, where=address)


@lru_cache(maxsize=96)
def load_index(address: str) -> Index:
    """The index of a shard, from the file beside it; of a local tar without one, from its structure."""
    beside = index_name(address)
    if not storage.is_remote(address) and not Path(beside).is_file():
        if not Path(address).is_file():
            raise BadSampleError(Cause.SHARD_UNREADABLE, f"{address} does not exist")
        return scan(Path(address))
    return Index.from_json(storage.read(beside), name=address)


def scan(path: Path) -> Index:
    """Index a tar by its structure. Headers are read, since only they know how many frames a sample has.

    What is broken is left out and counted in the index: members with unsafe names, samples without header or with missing
    frames, and everything behind a torn place.
    """
    groups: dict[str, list[Member]] = {}
    errors: list[BadSampleError] = []
    torn = ""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            for info in walk(file, size, name=str(path)):
                if info.isreg():
                    try:
                        key, suffix = split_name(info.name)
                    except BadSampleError as error:
                        errors.append(error)
                        continue
                    groups.setdefault(key, []).append(Member(suffix, info.offset_data, info.size, None))
        except BadSampleError as error:
            errors.append(error)
            torn = next(reversed(groups), "")  # its last members may be behind the torn place
    entries = []
    for key, members in groups.items():
        entry = Entry(key, 0, 0, tuple(members))
        try:
            header = schema.decode_header(read_members(str(path), entry, ["json"])["json"])
            missing = {schema.image_suffix(t) for t in range(header.num_frames)} - {member.suffix for member in members}
            if missing:
                raise BadSampleError(Cause.MEMBER_MISSING, f"{key} in {path} has no {min(missing)}")
            entries.append(Entry(key, header.num_frames, len(header.objects), tuple(members)))
        except BadSampleError as error:
            if error.cause is not Cause.MEMBER_MISSING or key != torn:
                errors.append(error)
    skipped = Counter(str(error.cause) for error in errors)
    notes = {error.cause: str(error) for error in reversed(errors)}
    return Index(path.name, size, "", "", tuple(entries), skipped=dict(skipped), notes=tuple(notes.values()))


def walk(file: BinaryIO, size: int, *, name: str) -> Iterable[tarfile.TarInfo]:
    """The member headers of an uncompressed tar of `size` bytes, checked one by one: Python's own reader takes a broken
    header in the middle for the end.

    Raises:
        BadSampleError: TAR or SHARD_TRUNCATED.
    """
    offset = 0
    while True:
        block = file.read(_BLOCK)
        if len(block) < _BLOCK:
            raise BadSampleError(Cause.SHARD_TRUNCATED, f"{name} ends at byte {offset} without an end mark")
        if not block.strip(b"\0"):
            return
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise BadSampleError(Cause.TAR, f"{name} has a broken member header at byte {offset} ({error})") from error
        info.offset, info.offset_data = offset, offset + _BLOCK
        if info.size < 0 or info.offset_data + info.size > size:
            raise BadSampleError(Cause.SHARD_TRUNCATED, f"{name} ends inside {info.name!r:.60}")
        yield info
        offset = info.offset_data + -(-info.size // _BLOCK) * _BLOCK
        file.seek(offset)


def split_name(name: str) -> tuple[str, str]:
    """Key and suffix of a member, split at the first dot of its base name (WebDataset's rule).

    Raises:
        BadSampleError: an absolute name, one with .., or one without key or suffix. Nothing is ever unpacked, but a tar
            that tries has not been made by this program.
    """
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
        raise BadSampleError(Cause.MEMBER_NAME, f"a member is called {name!r:.80}")
    stem, dot, suffix = parts[-1].partition(".")
    if not stem or not dot or not suffix:
        raise BadSampleError(Cause.MEMBER_NAME, f"a member is called {name!r:.80}; KEY.SUFFIX expected")
    return "/".join([*parts[:-1], stem]), suffix
