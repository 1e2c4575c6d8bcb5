"""`edgetam shards index DIR`: the binary index of a data set, made again from its tars."""

from __future__ import annotations

import argparse
import os
import sys
import zlib
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from edgetam_pl.data import sample as schema
from edgetam_pl.data import storage
from edgetam_pl.data.index import Entry, Index, ShardRecord, index_name, record_of
from edgetam_pl.data.index_file import INDEX_FILE, index_writer, pack
from edgetam_pl.data.sample import Header
from edgetam_pl.data.shards import read_index, read_manifest
from edgetam_pl.data.tars import samples_in
from edgetam_pl.data.verify import opened, read_from, unlike
from edgetam_pl.io.errors import BadSampleError, Cause
from edgetam_pl.io.processes import fresh, pool


def main(argv: list[str]) -> int:
    """0: the index is written; 1: a shard is not what the manifest says, and nothing is."""
    parser = argparse.ArgumentParser(
        prog="edgetam shards index",
        description=f"Write {INDEX_FILE} anew: read every tar of a folder, compare it with the manifest, list its samples.",
    )
    parser.add_argument("place", metavar="DIR", help="folder with a manifest.json")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    args = parser.parse_args(argv)
    try:
        path = reindex(args.place, processes=args.processes)
    except BadSampleError as error:
        print(f"{error}. No index was written; edgetam shards verify {args.place} says what is broken.", file=sys.stderr)
        return 1
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    return 0


def reindex(place: str, *, processes: int = 1) -> Path:
    """Write the index of all shards of a folder; returns its path.

    Raises:
        ValueError: the place is no folder of shards on this machine.
        BadSampleError: a shard is not what the manifest says.
    """
    if storage.is_remote(place):
        raise ValueError(f"{place} is on a server; run this where the tars are, then copy {INDEX_FILE} to them.")
    records = read_manifest(place).shards
    addresses = [storage.join(place, record.name) for record in records]
    path = Path(place) / INDEX_FILE
    progress = {"total": len(records), "unit": " shards", "desc": "index", "file": sys.stderr, "disable": len(records) < 2}
    with (
        index_writer(path, shards=len(records)) as writer,
        pool(max(min(processes, len(records)), 1), fresh(__name__)) as found,
    ):
        for record, block in zip(records, tqdm(found.map(_packed, addresses, records), **progress), strict=True):
            writer.add(record, block)
    return path


def _packed(address: str, record: ShardRecord) -> bytes:
    return pack(reread(address, record))


def completed(address: str, index: Index) -> Index:
    """An index that knows on which frames nothing is seen: the tar of one that an earlier version wrote is read."""
    return index if all(entry.hidden is not None for entry in index.entries) else reread(address, record_of(index))


def reread(address: str, record: ShardRecord) -> Index:
    """The index of a shard by its bytes, which are compared with the manifest's line.

    Raises:
        BadSampleError: they are not what the line says.
    """
    errors: list[BadSampleError] = []
    entries, headers = [], []
    with opened(address, expected=record.bytes) as (file, size):
        errors += unlike(record, file, size)
        for key, members, _ in [] if errors else samples_in(file, size, address, errors):
            data = {member.suffix: read_from(file, member) for member in members}
            if "json" not in data:
                raise BadSampleError(Cause.MEMBER_MISSING, f"{key} in {address} has no header")
            header = schema.decode_header(data["json"])
            read = tuple(replace(member, crc32=zlib.crc32(data[member.suffix])) for member in members)
            entries.append(Entry(key, header.num_frames, len(header.objects), read, hidden=header.hidden))
            headers.append(header)
    if errors:
        raise BadSampleError(errors[0].cause, f"{address}: {errors[0].message}")
    if record.videos:
        positions = _known_positions(address, entries) or _positions(headers)
        entries = [replace(entry, position=at) for entry, at in zip(entries, positions, strict=True)]
    index = Index(record.name, record.bytes, record.sha256, "", tuple(entries))
    if record_of(index) != record:
        raise BadSampleError(Cause.TAR, f"{address}: its samples are not those of the manifest")
    return index


def _known_positions(address: str, entries: list[Entry]) -> list[int | None]:
    """Where each window begins, by the shard's JSON index; empty where it is absent or of other samples."""
    if storage.is_remote(address) or not Path(index_name(address)).exists():
        return []
    try:
        known = read_index(address).entries
    except BadSampleError:
        return []
    same = [entry.key for entry in known] == [entry.key for entry in entries]
    return [entry.position for entry in known] if same else []


def _positions(headers: list[Header]) -> list[int]:
    """Where each window begins among the frames of its video, whose windows follow one another.

    Between the windows of a video frames may be missing, on which nothing was seen. Frame numbers are evenly spaced, so
    that the least distance within a window tells how many.
    """
    positions, first = [], 0
    for number, header in enumerate(headers):
        if number == 0 or header.video != headers[number - 1].video:
            first = header.frames[0]
        apart = min((b - a for a, b in zip(header.frames, header.frames[1:])), default=1)
        positions.append((header.frames[0] - first) // apart)
    return positions
