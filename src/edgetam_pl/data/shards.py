"""Shards on disk or far away: WebDataset tars, an index of each, one manifest for all.

    OUT/manifest.json              counts, bytes and sha256 of every shard, and how they were made
    OUT/shard-000000.tar           samples (`sample.py`)
    OUT/shard-000000.index.json    where each member lies in the tar, and its CRC-32
    OUT/index.bin                  the same of all shards, for reading (`index_file.py`)

With the index a loader reads the frames that it chose and nothing else, from a disk or by ranges from a server.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, overload

import braceexpand
import numpy as np
from numpy.typing import NDArray

from edgetam_pl.data import node_cache, storage
from edgetam_pl.data.index import MANIFEST, Entry, Index, Manifest, index_name, record_of
from edgetam_pl.data.index_file import INDEX_FILE, IndexFile, UnfitIndexError
from edgetam_pl.data.tars import read_members, scan
from edgetam_pl.io.errors import BadSampleError, Cause

_LOG = logging.getLogger(__name__)


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
        self._manifest: Manifest | None = None
        self.skipped: Counter[str] = Counter()  # what is left out before the first sample is drawn
        self.notes: list[str] = []
        if place.endswith(".tar"):
            addresses, records = [], []
            for address in braceexpand.braceexpand(place):
                try:
                    index = load_index(address)
                except BadSampleError as error:
                    self.skipped[str(error.cause)] += 1
                    self.notes.append(str(error))
                    continue
                addresses.append(address)
                records.append(record_of(index))
                if not index.settings:  # not built here, so nobody has reported what is broken in it
                    self.skipped.update(index.skipped)
                    self.notes.extend(index.notes)
            self.kind: str | None = None
            self.addresses: Sequence[str] = addresses
        else:
            manifest = read_manifest(place)
            records = list(manifest.shards)
            self.addresses = _Addresses(place, [record.name for record in records])
            self.kind = manifest.kind
            self._manifest = manifest
        self.records = records
        self.counts = np.array([record.samples for record in records], np.int64)
        if not self.counts.sum():
            raise ValueError(f"The shards of {name!r} at {place} hold no sample. {' '.join(self.notes[:3])}".rstrip())

    def __len__(self) -> int:
        return int(self.counts.sum())

    def __getstate__(self) -> dict[str, Any]:
        """A worker process reads by addresses and the index; what the manifest says of each shard stays behind."""
        self.index  # noqa: B018  (opened before it is handed on)
        return {**self.__dict__, "records": [], "_manifest": None}

    @cached_property
    def index(self) -> IndexFile | None:
        """The index of all shards, opened once and handed to worker processes; None: each shard has its own."""
        return None if self._manifest is None else open_index(self.place, self._manifest)

    def all_single(self, num_frames: int) -> bool:
        """Is each video one window of so many frames at least? Of millions of images that is known without listing them."""
        rows = (record.videos or [(frames, 1, times) for frames, times in record.lengths] for record in self.records)
        return all(frames >= num_frames and windows == 1 for row in rows for frames, windows, _ in row)

    def videos(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]:
        """(frames of the longest stretch without a gap, windows) of every video or image, in order (V,) each, and how many
        there are in each shard (shards,). Windows of earlier versions' shards count as videos."""
        rows = [record.videos or [(frames, 1, times) for frames, times in record.lengths] for record in self.records]
        counts = np.array([sum(times for _, _, times in row) for row in rows], np.int64)
        flat = np.array([row for of_shard in rows for row in of_shard], np.int64).reshape(-1, 3)
        frames, windows = (np.repeat(flat[:, column].astype(np.int32), flat[:, 2]) for column in (0, 1))
        return frames, windows, counts

    def entry(self, shard: int, number: int) -> Entry:
        """What the index says of a sample. Raises BadSampleError when the index cannot be read."""
        if self.index is not None:
            return self.index.entry(shard, number)
        entries = load_index(self.addresses[shard]).entries
        if number >= len(entries):
            raise BadSampleError(
                Cause.TAR, f"{self.addresses[shard]} has {len(entries)} samples; the manifest promises {self.counts[shard]}"
            )
        return entries[number]

    def read(self, shard: int, entry: Entry, suffixes: Sequence[str]) -> dict[str, bytes]:
        """These members of a sample, each compared with its checksum."""
        return read_members(self.addresses[shard], entry, suffixes)


class _Addresses(Sequence[str]):
    """Of the shards of a folder, put together when they are asked for: each of many worker processes holds them."""

    def __init__(self, place: str, names: Sequence[str]) -> None:
        self.before, self.names = storage.join(place, "-")[:-1], np.array([name.encode() for name in names])

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, number: int) -> str: ...
    @overload
    def __getitem__(self, number: slice) -> list[str]: ...
    def __getitem__(self, number: int | slice) -> str | list[str]:
        if isinstance(number, slice):
            return [self[n] for n in range(len(self))[number]]
        return self.before + self.names[number].decode()


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


def open_index(place: str, manifest: Manifest) -> IndexFile | None:
    """The index of a data set, or None where it has none, or one that cannot be used, which is told: the JSON index of each
    shard is then read with its first sample."""
    address = storage.join(place, INDEX_FILE)
    try:
        return load_index_file(place, manifest)
    except (BadSampleError, UnfitIndexError, OSError) as error:
        _LOG.warning(
            "%s is not used: %s. The index of each shard is read instead, which is slow on many ranks; make it anew with: "
            "edgetam shards index %s",
            *(address, error, place),
        )
    return None


def load_index_file(place: str, manifest: Manifest) -> IndexFile | None:
    """The index of a data set; of a server's, a copy on this machine. None where it has none.

    Raises:
        UnfitIndexError: it does not fit the manifest's shards.
        BadSampleError: it cannot be read from the server.
        OSError: it cannot be read, or there is no room for a copy.
    """
    address = storage.join(place, INDEX_FILE)
    if not storage.is_remote(address):
        return IndexFile(Path(address), manifest) if Path(address).exists() else None
    version = hashlib.sha256("".join(record.sha256 for record in manifest.shards).encode()).hexdigest()[:32]
    try:
        return IndexFile(node_cache.local_index(address, version=version), manifest)
    except BadSampleError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise


def read_index(address: str) -> Index:
    """The index of a shard, from its JSON file; of a local tar without one, from its structure."""
    index = index_name(address)
    if not storage.is_remote(address) and not Path(index).exists():
        if not Path(address).is_file():
            raise BadSampleError(Cause.SHARD_UNREADABLE, f"{address} does not exist, or is no file")
        return scan(Path(address))
    return Index.from_json(storage.read(index), name=address)


load_index = lru_cache(maxsize=96)(read_index)
"""The same, kept for the shards that were read last."""
