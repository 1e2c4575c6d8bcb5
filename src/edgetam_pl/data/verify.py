"""`edgetam shards verify DIR`: are these shards what was written? Sizes, checksums, structure, every image and mask."""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from edgetam_pl.data import sample as schema
from edgetam_pl.data import storage
from edgetam_pl.data.index import ShardRecord, record_of
from edgetam_pl.data.shards import load_index, read_manifest
from edgetam_pl.data.tars import split_name, walk
from edgetam_pl.io.errors import BadSampleError, Cause
from edgetam_pl.io.processes import fresh, pool


@dataclass(frozen=True)
class Verdict:
    """What is wrong with one shard."""

    shard: str
    samples: int
    faults: tuple[tuple[Cause, str], ...]


def main(argv: list[str]) -> int:
    """0: all is well; 1: something is broken; the report says what, by cause."""
    parser = argparse.ArgumentParser(
        prog="edgetam shards verify",
        description="Check shards against their manifest: sizes, sha256, tar structure, and decode every image and mask.",
    )
    parser.add_argument("place", metavar="DIR", help="folder or URL with a manifest.json, or a .tar")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    parser.add_argument("--show", type=int, default=20, help="faults that are printed in full (default: 20)")
    args = parser.parse_args(argv)
    verdicts = verify(args.place, processes=args.processes)
    faults = [fault for verdict in verdicts for fault in verdict.faults]
    samples = sum(verdict.samples for verdict in verdicts)
    for _, message in faults[: args.show]:
        print(message)
    if len(faults) > args.show:
        print(f"... and {len(faults) - args.show} more (--show {len(faults)})")
    print(f"{args.place}: {len(verdicts)} shards, {samples} samples decoded, {len(faults)} faults")
    for cause, count in Counter(cause for cause, _ in faults).most_common():
        print(f"  {count:6d}  {cause}")
    broken = [verdict.shard for verdict in verdicts if verdict.faults]
    if broken:
        print(
            f"Broken shards: {', '.join(broken[:10])}{' ...' if len(broken) > 10 else ''}. Remove each with its .index.json "
            f"and manifest.json, then run the command that built them again: only these are made anew."
        )
    return 1 if faults else 0


def verify(place: str, *, processes: int = 1) -> list[Verdict]:
    """A verdict on every shard.

    Raises:
        ValueError: the place is no folder of shards.
    """
    if place.endswith(".tar"):
        jobs = [(place, None)]
    else:
        jobs = [(storage.join(place, record.name), record) for record in read_manifest(place).shards]
    progress = {"total": len(jobs), "unit": " shards", "desc": "verify", "file": sys.stderr, "disable": len(jobs) < 2}
    if processes <= 1 or len(jobs) < 2:
        return [check_shard(address, record) for address, record in tqdm(jobs, **progress)]
    with pool(min(processes, len(jobs)), fresh(__name__)) as executor:
        return list(tqdm(executor.map(check_shard, *zip(*jobs)), **progress))


def check_shard(address: str, record: ShardRecord | None) -> Verdict:
    """Check one shard: its bytes against the manifest's line, its members against one another."""
    faults: list[tuple[Cause, str]] = []
    samples = 0
    try:
        if storage.is_remote(address):
            data = storage.read(address, size=record.bytes if record else 1 << 30)
            samples = _check_stream(io.BytesIO(data), len(data), address, record, faults)
        else:
            with Path(address).open("rb") as file:
                samples = _check_stream(file, os.fstat(file.fileno()).st_size, address, record, faults)
    except BadSampleError as error:
        faults.append((error.cause, f"{address}: {error}"))
    except OSError as error:
        faults.append((Cause.SHARD_UNREADABLE, f"{address}: {error.strerror}"))
    if record is not None:
        try:
            if record_of(load_index(address)) != record:
                faults.append((Cause.TAR, f"{address}: index and manifest disagree"))
        except BadSampleError as error:
            faults.append((error.cause, f"{address}: {error}"))
    return Verdict(address, samples, tuple(faults))


def _check_stream(
    file: BinaryIO, size: int, address: str, record: ShardRecord | None, faults: list[tuple[Cause, str]]
) -> int:
    """Decode all samples of a tar; how many are good."""
    # the file as a whole
    if record is not None:
        if size != record.bytes:
            cause = Cause.SHARD_TRUNCATED if size < record.bytes else Cause.TAR
            faults.append((cause, f"{address}: {size} bytes; the manifest says {record.bytes}"))
        elif _sha256(file) != record.sha256:
            faults.append((Cause.CHECKSUM, f"{address}: sha256 is not the manifest's"))
        file.seek(0)
    # every sample in it: header, masks, images
    good = found = 0
    for key, members in _samples(file, size, address, faults):
        found += 1
        try:
            for t, image in enumerate(schema.decode(members).images):
                try:
                    schema.decode_jpeg(image)
                except BadSampleError as error:
                    raise BadSampleError(error.cause, f"frame {t}: {error.message}") from error
            good += 1
        except BadSampleError as error:
            faults.append((error.cause, f"{address}: {key}: {error}"))
    if record is not None and found != record.samples:
        faults.append((Cause.MEMBER_MISSING, f"{address}: {found} samples; the manifest says {record.samples}"))
    return good


def _samples(
    file: BinaryIO, size: int, address: str, faults: list[tuple[Cause, str]]
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Key and members of each sample of a tar. Members with names that are none go to `faults`."""
    current, members = "", {}
    for info in walk(file, size, name=address):
        if not info.isreg():
            continue
        try:
            key, suffix = split_name(info.name)
        except BadSampleError as error:
            faults.append((error.cause, f"{address}: {error}"))
            continue
        if key != current and members:
            yield current, members
            members = {}
        current = key
        file.seek(info.offset_data)
        members[suffix] = file.read(info.size)
    if members:
        yield current, members


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
