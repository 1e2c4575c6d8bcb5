"""`edgetam shards verify DIR`: are these shards what was written? Sizes, checksums, structure, every image and mask."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from braceexpand import braceexpand
from tqdm import tqdm

from edgetam_pl.config.choices import Flags
from edgetam_pl.data import sample as schema
from edgetam_pl.data import storage
from edgetam_pl.data.index import MAX_MEMBER, Entry, Manifest, Member, ShardRecord, index_name, record_of
from edgetam_pl.data.index_file import INDEX_FILE, IndexFile, UnfitIndexError
from edgetam_pl.data.shards import load_index_file, read_index, read_manifest
from edgetam_pl.data.tars import samples_in
from edgetam_pl.io.errors import BadSampleError, Cause
from edgetam_pl.io.files import regular
from edgetam_pl.io.folders import some_of
from edgetam_pl.io.processes import fresh, pool


@dataclass(frozen=True)
class Verdict:
    """What is wrong with one shard, or with the index of all."""

    shard: str
    samples: int
    faults: tuple[tuple[Cause, str], ...]


def main(argv: list[str]) -> int:
    """0: all is well; 1: something is broken; the report says what, by cause."""
    parser = Flags(
        prog="edgetam shards verify",
        description="Check shards against their manifest: sizes, sha256, tar structure, and decode every image and mask.",
    )
    parser.add_argument("place", metavar="DIR", help="folder or URL with a manifest.json, or .tar files, with braces or not")
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
    shards = sum(not verdict.shard.endswith(INDEX_FILE) for verdict in verdicts)
    print(f"{args.place}: {shards} shards, {samples} samples decoded, {len(faults)} faults")
    for cause, count in Counter(cause for cause, _ in faults).most_common():
        print(f"  {count:6d}  {cause}")
    if any(verdict.shard.endswith(INDEX_FILE) for verdict in verdicts):
        print(f"The shards are read without {INDEX_FILE}; make it anew with: edgetam shards index {args.place}")
    verdicts = [verdict for verdict in verdicts if not verdict.shard.endswith(INDEX_FILE)]
    broken = [verdict.shard for verdict in verdicts if verdict.faults]
    if broken:
        print(
            f"Broken shards: {', '.join(broken[:10])}{' ...' if len(broken) > 10 else ''}. Remove each with its .index.json "
            f"and manifest.json, then run the command that built them again: only these are made anew."
        )
    return 1 if faults else 0


def verify(place: str, *, processes: int = 1) -> list[Verdict]:
    """A verdict on every shard, and one on the data set's index where that is wrong.

    Raises:
        ValueError: the place is no folder of shards.
    """
    index, faulty = None, []
    if place.endswith(".tar"):
        jobs = [(address, None, None) for address in braceexpand(place)]
    else:
        manifest = read_manifest(place)
        index, faulty = _index_of_all(place, manifest)
        jobs = [
            (storage.join(place, record.name), record, None if index is None else (index, number))
            for number, record in enumerate(manifest.shards)
        ]
    progress = {"total": len(jobs), "unit": " shards", "desc": "verify", "file": sys.stderr, "disable": len(jobs) < 2}
    if processes <= 1 or len(jobs) < 2:
        return [*(check_shard(*job) for job in tqdm(jobs, **progress)), *faulty]
    with pool(min(processes, len(jobs)), fresh(__name__)) as executor:
        return [*tqdm(executor.map(check_shard, *zip(*jobs)), **progress), *faulty]


def _index_of_all(place: str, manifest: Manifest) -> tuple[IndexFile | None, list[Verdict]]:
    """The binary index of a folder, where it has one that fits; and what is wrong with it."""
    address = storage.join(place, INDEX_FILE)
    try:
        index = load_index_file(place, manifest)
        damaged = [] if index is None else [manifest.shards[number].name for number in index.damaged()]
        wrong = f"the part of {some_of(damaged)} is not what was written" if damaged else ""
    except UnfitIndexError as error:
        index, wrong = None, str(error)
    return index, [Verdict(address, 0, ((Cause.TAR, f"{address}: {Cause.TAR}: {wrong}"),))] if wrong else []


def check_shard(address: str, record: ShardRecord | None, of_all: tuple[IndexFile, int] | None = None) -> Verdict:
    """Check one shard: its bytes against the manifest's line, its samples one by one, its index and its part (`of_all`: the
    file, and the shard's number in it) of the data set's against what is there."""
    faults: list[BadSampleError] = []
    try:
        with opened(address, expected=record.bytes if record else 1 << 30) as (file, size):
            if record is not None:
                faults += unlike(record, file, size)
            good, found = _check_samples(file, size, address, faults)
    except (BadSampleError, OSError) as error:
        wrong = error.message if isinstance(error, BadSampleError) else error.strerror
        return Verdict(address, 0, ((Cause.SHARD_UNREADABLE, f"{address}: {Cause.SHARD_UNREADABLE}: {wrong}"),))
    if record is not None and len(found) != record.samples:
        wrong = f"{len(found)} samples; the manifest says {record.samples}"
        faults.append(BadSampleError(Cause.MEMBER_MISSING, wrong))
    if record is not None or storage.is_remote(address) or Path(index_name(address)).exists():
        try:
            index = read_index(address)
            if record is not None and record_of(index) != record:
                faults.append(BadSampleError(Cause.TAR, "index and manifest disagree"))
            faults += _unlike_tar(index.entries, found)
        except BadSampleError as error:
            faults.append(error)
    if of_all is not None and record is not None:
        index_file, number = of_all
        try:
            faults += _unlike_tar([index_file.entry(number, n) for n in range(record.samples)], found, names=False)
        except BadSampleError as error:
            faults.append(error)
    return Verdict(address, good, tuple((fault.cause, f"{address}: {fault}") for fault in faults))


@contextmanager
def opened(address: str, *, expected: int) -> Iterator[tuple[io.BytesIO | io.BufferedReader, int]]:
    """A shard to read from, and its size in bytes. A remote one is waited for as long as `expected` bytes may take."""
    if storage.is_remote(address):
        data = storage.read(address, size=expected)
        yield io.BytesIO(data), len(data)
        return
    with regular(address).open("rb") as file:
        yield file, os.fstat(file.fileno()).st_size


def unlike(record: ShardRecord, file: io.BytesIO | io.BufferedReader, size: int) -> list[BadSampleError]:
    """What a file as a whole has that the manifest's line has not."""
    if size != record.bytes:
        cause = Cause.SHARD_TRUNCATED if size < record.bytes else Cause.TAR
        return [BadSampleError(cause, f"{size} bytes; the manifest says {record.bytes}")]
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    file.seek(0)
    return [] if digest == record.sha256 else [BadSampleError(Cause.CHECKSUM, "sha256 is not the manifest's")]


def _check_samples(file: BinaryIO, size: int, address: str, faults: list[BadSampleError]) -> tuple[int, list[Entry]]:
    """Decode all samples of a tar: how many are good, and what an index should say of each; frames and objects are 0 where
    a sample is broken."""
    good, found = 0, []
    for key, members, whole in samples_in(file, size, address, faults):
        data = {member.suffix: read_from(file, member) for member in members}
        frames, objects, hidden = 0, 0, ()
        try:
            sample = schema.decode(data)
            frames, objects, hidden = sample.header.num_frames, len(sample.header.objects), sample.header.hidden
            for t, image in enumerate(sample.images):
                try:
                    schema.decode_jpeg(image)
                except BadSampleError as error:
                    raise BadSampleError(error.cause, f"frame {t}: {error.message}") from error
            good += 1
        except BadSampleError as error:
            if not whole and error.cause is Cause.MEMBER_MISSING:  # the damage has been told
                continue
            faults.append(BadSampleError(error.cause, f"{key}: {error.message}"))
        read = tuple(replace(member, crc32=zlib.crc32(data[member.suffix])) for member in members)
        found.append(Entry(key, frames, objects, read, hidden=hidden))
    return good, found


def read_from(file: BinaryIO, member: Member) -> bytes:
    if member.size > MAX_MEMBER:
        return b""
    file.seek(member.offset)
    return file.read(member.size)


def _unlike_tar(entries: Sequence[Entry], found: Sequence[Entry], *, names: bool = True) -> list[BadSampleError]:
    """The first entry of an index that is not what the tar holds. `names`: does the index have the samples' names?"""
    if len(entries) != len(found):
        return [BadSampleError(Cause.TAR, f"the index has {len(entries)} samples, the tar {len(found)}")]
    for said, there in zip(entries, found):
        said = said if names else replace(said, key=there.key)
        known = replace(there, position=said.position)  # a tar does not say which stored frames came before
        known = known if there.frames else replace(known, frames=said.frames, objects=said.objects, hidden=said.hidden)
        if said != (known if said.hidden is not None else replace(known, hidden=None)):
            return [BadSampleError(Cause.TAR, f"the index says of {said.key} what is not in the tar (at {there.key})")]
    return []
