"""The JSON files of a folder of shards: an index of each tar, and the manifest of all. Format version 1."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

from edgetam_pl.io.errors import BadSampleError, Cause

MANIFEST = "manifest.json"
VERSION = 1


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
    position: int | None = None
    """Of its first frame among the stored ones of its video, whose windows follow one another: 0 begins the next video. None
    (a tar of unknown origin, or of an earlier version): a video by itself."""


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
                Entry(
                    e["key"],
                    int(e["frames"]),
                    int(e["objects"]),
                    tuple(Member(**member) for member in e["members"]),
                    e.get("position"),
                )
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
    videos: tuple[tuple[int, int, int], ...] = ()
    """(frames of the longest stretch without a gap, windows, how many videos in a row have so many), in tar order. Empty in
    shards of earlier versions: each window is then a video by itself."""


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
                ShardRecord(
                    **{
                        **record,
                        "lengths": tuple((int(n), int(times)) for n, times in record["lengths"]),
                        "videos": tuple((int(n), int(w), int(times)) for n, w, times in record.get("videos", ())),
                    }
                )
                for record in raw.pop("shards")
            )
            return Manifest(shards=shards, **raw)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{where} is not a manifest of version {VERSION} ({error!r:.80}); build the shards again."
            ) from error


def record_of(index: Index) -> ShardRecord:
    """The manifest's line for a shard."""
    lengths = tuple((frames, len(list(run))) for frames, run in groupby(entry.frames for entry in index.entries))
    videos: tuple[tuple[int, int, int], ...] = ()
    if any(entry.position is not None for entry in index.entries):
        shapes = [(max(end - begin for begin, end in stretches(v)), len(v)) for v in _windows_by_video(index.entries)]
        videos = tuple((*shape, len(list(run))) for shape, run in groupby(shapes))
    return ShardRecord(index.shard, len(index.entries), index.bytes, index.sha256, lengths, videos)


def _windows_by_video(entries: Sequence[Entry]) -> list[list[tuple[int, int]]]:
    """(position, frames) of every window, video by video."""
    videos: list[list[tuple[int, int]]] = []
    for entry in entries:
        if not entry.position or not videos:  # 0 or None
            videos.append([])
        videos[-1].append((entry.position or 0, entry.frames))
    return videos


def stretches(windows: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Positions [begin, end) that windows (position, frames), in rising order, cover without a gap.

    >>> stretches([(0, 32), (16, 32), (60, 10)])
    [(0, 48), (60, 70)]
    """
    found: list[tuple[int, int]] = []
    for position, frames in windows:
        if found and position <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], position + frames))
        else:
            found.append((position, position + frames))
    return found


def index_name(shard: str) -> str:
    """shard-000000.tar -> shard-000000.index.json"""
    return shard.removesuffix(".tar") + ".index.json"
