"""The JSON files of a folder of shards: an index of each tar, and the manifest of all. Format version 1."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

from edgetam_pl.data.sample import MAX_FRAMES
from edgetam_pl.io.errors import BadSampleError, Cause

MANIFEST = "manifest.json"
VERSION = 1
MAX_BYTES = 1 << 42
"""Of a tar: 4 TiB."""
MAX_MEMBER = 1 << 28
"""Bytes of a file in a tar, and of what is read at once."""


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
    hidden: tuple[int, ...] | None = None
    """Frames on which no object is seen: a clip is chosen without reading the header. None: only the header knows."""


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
        """Raises BadSampleError where the file is no index of this version, or its numbers cannot be those of a tar."""
        try:
            raw = json.loads(data)
            if raw["version"] != VERSION:
                raise BadSampleError(Cause.HEADER, f"index of {name} is of version {raw['version']}; expected {VERSION}")
            total, at = _whole(raw["bytes"], MAX_BYTES), 0
            entries: dict[str, Entry] = {}
            for e in raw["entries"]:
                members = []
                for m in e["members"]:
                    crc32 = None if m["crc32"] is None else _whole(m["crc32"], (1 << 32) - 1)
                    members.append(
                        Member(str(m["suffix"]), _whole(m["offset"], total), _whole(m["size"], MAX_MEMBER), crc32)
                    )
                    if members[-1].offset < at:
                        raise ValueError(f"{e['key']}.{m['suffix']} overlaps what is before it")
                    at = members[-1].offset + members[-1].size
                key, frames = str(e["key"]), _whole(e["frames"], MAX_FRAMES)
                if at > total or key in entries or len({member.suffix for member in members}) < len(members):
                    raise ValueError(f"{key} ends after the tar's {total} bytes, or is there twice")
                position = None if e.get("position") is None else _whole(e["position"])
                hidden = None if e.get("hidden") is None else tuple(_whole(t, frames - 1) for t in e["hidden"])
                entries[key] = Entry(key, frames, _whole(e["objects"]), tuple(members), position, hidden)
            fields = {key: raw[key] for key in ("shard", "sha256", "settings")}
            skipped = {str(cause): _whole(count) for cause, count in raw["skipped"].items()}
            notes = tuple(str(note) for note in raw["notes"])
            return Index(
                bytes=total,
                entries=tuple(entries.values()),
                videos=_whole(raw["videos"]),
                skipped=skipped,
                notes=notes,
                **fields,
            )
        except BadSampleError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BadSampleError(Cause.TAR, f"index of {name} cannot be read ({error!r:.120})") from error


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
        """Raises ValueError where the file is no manifest of this version, or its numbers contradict one another."""
        try:
            raw = json.loads(data)
            if raw.pop("version") != VERSION:
                raise ValueError(f"another version than {VERSION}")
            shards = {record["name"]: _record(record) for record in raw["shards"]}
            totals = {key: _whole(raw[key]) for key in ("samples", "videos", "frames", "objects")}
            totals["bytes"] = _whole(raw["bytes"], MAX_BYTES * max(len(shards), 1))
            sums = {key: sum(getattr(record, key) for record in shards.values()) for key in ("samples", "bytes")}
            if raw["kind"] not in {"video", "image"} or len(shards) < len(raw["shards"]) or sums.items() - totals.items():
                raise ValueError(f"kind {raw['kind']!r:.20}, {len(raw['shards'])} shards, {totals}; they add up to {sums}")
            return Manifest(**{**raw, **totals, "shards": tuple(shards.values())})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{where} is not a manifest of version {VERSION} ({error!r:.200}); build the shards again."
            ) from error


def _record(raw: dict[str, Any]) -> ShardRecord:
    """A line of the manifest. Raises ValueError, KeyError or TypeError where it cannot be one."""
    lengths = tuple((_whole(n, MAX_FRAMES), _whole(times)) for n, times in raw["lengths"])
    name, samples, total = raw["name"], _whole(raw["samples"]), _whole(raw["bytes"], MAX_BYTES)
    if not re.fullmatch(r"[^/\\]+\.tar", name):
        raise ValueError(f"a shard is called {name!r:.60}")
    if sum(times for _, times in lengths) != samples or samples * 1024 > total:  # a sample is a header and a member at least
        raise ValueError(f"{name} has {samples} samples in {total} bytes, of lengths {lengths[:4]}")
    videos = tuple((_whole(n), _whole(w), _whole(times)) for n, w, times in raw.get("videos", ()))
    return ShardRecord(name, samples, total, str(raw["sha256"]), lengths, videos)


def _whole(value: Any, most: int = 1 << 40) -> int:
    """A whole number from 0. Raises ValueError for anything else: 1e15, NaN, text, true."""
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{value!r:.40} is no whole number from 0 to {most}")
    return value


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
