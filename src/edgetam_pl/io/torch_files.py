"""Is a file that torch.save wrote whole? Its checksums say so, which torch itself does not compare."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

FOLDER = 0x10
"""Bit of a zip member's attributes."""

UNREADABLE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError, KeyError, IndexError)


def damage_in(path: Path) -> str:
    """What is wrong with the archive, in words; empty: nothing. Nothing in it is unpickled.

    Files that were written without checksums (torch.serialization.set_crc32_options(False)) have wrong ones throughout; they
    count as whole.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            for member in members:
                # torch reads nothing, and says nothing, of a member that is marked as a folder
                if member.compress_type != zipfile.ZIP_STORED or member.external_attr & FOLDER:
                    return f"damaged ({member.filename} is compressed or a folder, as torch.save writes none)"
            tensors = [member for member in members if "/data/" in member.filename and member.file_size]
            wrong = [member for member in members if not _matches(archive, member)]
    except UNREADABLE as error:
        why = next(iter(str(error).splitlines()), "") or type(error).__name__
        return f"incomplete or no checkpoint ({path.stat().st_size} bytes; {why})"
    without_checksums = len(tensors) > 2 and all(member in wrong for member in tensors)
    return "" if not wrong or without_checksums else f"damaged ({wrong[0].filename} differs from its checksum)"


def _matches(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bool:
    try:
        with archive.open(member) as stream:
            while stream.read(1 << 20):
                pass
    except zipfile.BadZipFile as error:
        if "CRC" not in str(error):
            raise
        return False
    return True
