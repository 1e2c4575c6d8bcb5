"""Reads tars: chosen members by byte range, each checked; and the structure of tars that came without an index."""

from __future__ import annotations

import logging
import os
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from edgetam_pl.data import node_cache, storage
from edgetam_pl.data import sample as schema
from edgetam_pl.data.index import MAX_MEMBER, Entry, Index, Member
from edgetam_pl.io.errors import BadSampleError, Cause

_LOG = logging.getLogger(__name__)

BLOCK = 512
"""A tar is made of blocks of this many bytes."""
READ_THROUGH = 8 << 20
"""So many bytes that nobody asked for are read from a server rather than asking twice."""
_NEAR = 2048
"""On a disk: no other member in between."""


def read_members(address: str, entry: Entry, suffixes: Sequence[str]) -> dict[str, bytes]:
    """Chosen members of a sample: neighbours in the tar are read at once, and what a server has between them is read too
    and costs less than another request. What the cache of this machine holds is not read again.

    Raises:
        BadSampleError: not in the tar, the file ends too early, or the checksum differs.
    """
    known = {member.suffix: member for member in entry.members}
    missing = [suffix for suffix in suffixes if suffix not in known]
    if missing:
        raise BadSampleError(Cause.MEMBER_MISSING, f"{entry.key} in {address} has no {missing[0]}")
    members = sorted((known[suffix] for suffix in suffixes), key=lambda member: member.offset)
    remote = storage.is_remote(address)
    found = _kept(address, members) if remote else {}
    for run in _neighbours([m for m in members if m.suffix not in found], apart=READ_THROUGH if remote else _NEAR):
        if remote:  # with what lies between them
            run = [m for m in entry.members if run[0].offset <= m.offset <= run[-1].offset]
        try:
            read = _read_run(address, entry.key, run, wanted=suffixes)
        except BadSampleError as error:
            if not remote or error.cause is not Cause.CHECKSUM:
                raise
            _LOG.warning("%s; a server that answers with other bytes is asked once more", error.message)
            read = _read_run(address, entry.key, run, wanted=suffixes)
        found |= read
        if remote:
            for member in run:
                if member.suffix in read and member.crc32 is not None:
                    node_cache.put(_cache_key(address, member), read[member.suffix])
    return {member.suffix: found[member.suffix] for member in members}


def _read_run(address: str, key: str, run: Sequence[Member], *, wanted: Sequence[str]) -> dict[str, bytes]:
    """Members that lie one after the other, each checked. Raises BadSampleError where one that is wanted is wrong."""
    start, found = run[0].offset, {}
    block = storage.read_range(address, start, run[-1].offset + run[-1].size - start)
    for member in run:
        data = block[member.offset - start : member.offset - start + member.size]
        right = bool(data) and (member.crc32 is None or zlib.crc32(data) == member.crc32)
        if member.suffix not in wanted:
            if right:
                found[member.suffix] = data
        elif not data:
            raise BadSampleError(Cause.MEMBER_EMPTY, f"{key}.{member.suffix} in {address} is empty")
        elif not right:
            raise BadSampleError(Cause.CHECKSUM, f"{key}.{member.suffix} in {address} is not what was written")
        else:
            found[member.suffix] = data
    return found


def _kept(address: str, members: Iterable[Member]) -> dict[str, bytes]:
    """Members that this machine's cache holds whole."""
    found = {}
    for member in members:
        if member.crc32 is None or (data := node_cache.get(_cache_key(address, member))) is None:
            continue
        if zlib.crc32(data) == member.crc32:
            found[member.suffix] = data
        else:
            node_cache.drop(_cache_key(address, member))
    return found


def _cache_key(address: str, member: Member) -> str:
    """Other bytes at the same place have another name."""
    return f"{address}:{member.offset}:{member.size}:{member.crc32}"


def _neighbours(members: Iterable[Member], *, apart: int) -> list[list[Member]]:
    """Split into runs whose members are at most `apart` bytes apart (a tar header and padding are at most 1.5 kB)."""
    runs: list[list[Member]] = []
    for member in members:
        near = runs and member.offset - (runs[-1][-1].offset + runs[-1][-1].size) <= apart
        if near and member.offset + member.size - runs[-1][0].offset <= MAX_MEMBER:
            runs[-1].append(member)
        else:
            runs.append([member])
    return runs


def scan(path: Path) -> Index:
    """Index a tar by its structure. Headers are read, since only they know how many frames a sample has.

    What is broken is left out and counted in the index: members with unsafe names, samples without header or with missing
    frames, and everything after damage.
    """
    errors: list[BadSampleError] = []
    entries = []
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        for key, members, whole in samples_in(file, size, str(path), errors):
            try:
                header = schema.decode_header(read_members(str(path), Entry(key, 0, 0, members), ["json"])["json"])
                missing = {schema.image_suffix(t) for t in range(header.num_frames)} - {member.suffix for member in members}
                if missing:
                    raise BadSampleError(Cause.MEMBER_MISSING, f"{key} in {path} has no {min(missing)}")
                entries.append(Entry(key, header.num_frames, len(header.objects), members, hidden=header.hidden))
            except BadSampleError as error:
                if whole or error.cause is not Cause.MEMBER_MISSING:
                    errors.append(error)
    skipped = Counter(str(error.cause) for error in errors)
    notes = {error.cause: str(error) for error in reversed(errors)}
    return Index(path.name, size, "", "", tuple(entries), skipped=dict(skipped), notes=tuple(notes.values()))


def samples_in(
    file: BinaryIO, size: int, name: str, errors: list[BadSampleError]
) -> Iterator[tuple[str, tuple[Member, ...], bool]]:
    """Key and members of each sample of a tar: neighbours that share a key, as WebDataset has it; False for the sample
    before damage, some of whose members may lie after it. What is broken joins `errors`: names that
    reach outside, a key or member that comes twice, damage."""
    seen: set[str] = set()
    key, members = "", dict[str, Member]()
    try:
        for info in walk(file, size, name=name):
            if not info.isreg():
                continue
            try:
                found, suffix = split_name(info.name)
                if found != key:
                    if members:
                        yield key, tuple(members.values()), True
                    key, members = found, {}
                    if key in seen:
                        raise BadSampleError(Cause.TAR, f"two samples of {name} are called {key}")
                    seen.add(key)
                if suffix in members:
                    raise BadSampleError(Cause.TAR, f"{info.name} comes twice in {name}")
                members[suffix] = Member(suffix, info.offset_data, info.size, None)
            except BadSampleError as error:
                errors.append(error)
        whole = True
    except BadSampleError as error:
        errors.append(error)
        whole = False
    if members:
        yield key, tuple(members.values()), whole


def walk(file: BinaryIO, size: int, *, name: str) -> Iterable[tarfile.TarInfo]:
    """The member headers of an uncompressed tar of `size` bytes, checked one by one: Python's own reader takes a broken
    header in the middle for the end.

    Raises:
        BadSampleError: TAR or SHARD_TRUNCATED.
    """
    offset = 0
    while True:
        block = file.read(BLOCK)
        if len(block) < BLOCK:
            raise BadSampleError(Cause.SHARD_TRUNCATED, f"{name} ends at byte {offset} without an end mark")
        if not block.strip(b"\0"):
            return
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise BadSampleError(Cause.TAR, f"{name} has a broken member header at byte {offset} ({error})") from error
        info.offset, info.offset_data = offset, offset + BLOCK
        if info.size < 0 or info.offset_data + info.size > size:
            raise BadSampleError(Cause.SHARD_TRUNCATED, f"{name} ends inside {info.name!r:.60}")
        yield info
        offset = info.offset_data + -(-info.size // BLOCK) * BLOCK
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
