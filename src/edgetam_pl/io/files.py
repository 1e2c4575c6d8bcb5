"""Bytes of a file, and of nothing that only looks like one."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

from edgetam_pl.io.errors import BadSampleError, Cause


def regular(path: str | Path) -> Path:
    """The path of a file. Raises OSError for a pipe, device or socket, which may never begin or never end."""
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise OSError(errno.EINVAL, "it is no file")
    return Path(path)


def read_file(path: Path, cause: Cause) -> bytes:
    """A whole file. Raises BadSampleError of this cause where it cannot be read."""
    try:
        return regular(path).read_bytes()
    except OSError as error:
        raise BadSampleError(cause, f"{path} cannot be read ({error.strerror}).") from error
