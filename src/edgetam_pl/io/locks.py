"""One process at a time in a folder. The lock is the system's: it ends with its process, however that ends."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path


@contextmanager
def folder_lock(folder: Path, *, name: str = ".lock", wait: bool = True) -> Iterator[None]:
    """Hold a folder, which is made; the file `name` in it says who does, and is removed at the end.

    Where the file system knows no locks, that is printed and nothing is held.

    Raises:
        ValueError: another process holds it, and `wait` is False; or `folder` is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give the path of a folder.")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    file = _locked(path, wait=wait)
    try:
        yield
    finally:
        if file is not None:
            path.unlink(missing_ok=True)  # while it is held: who waits for it sees that it is gone, and makes another
            os.close(file)


def _locked(path: Path, *, wait: bool) -> int | None:
    """Descriptor of the file, locked; None where there are no locks."""
    told = False
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = f"another process ({os.read(file, 200).decode(errors='replace').strip() or 'it has just begun'})"
            if not wait:
                os.close(file)
                raise ValueError(
                    f"{path.parent} is being run by {holder}; wait for its end or stop it, or give another folder."
                ) from error
            if not told:
                print(f"{path.parent} is being run by {holder}; waiting for it.", flush=True)
                told = True
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            os.close(file)
            print(
                f"{path.parent} is on a file system without locks: see to it that one process at a time uses it.", flush=True
            )
            return None
        if _is_still(path, file):
            break
        os.close(file)  # its holder removed it
    os.ftruncate(file, 0)
    os.write(file, f"number {os.getpid()} on {socket.gethostname()} since {datetime.now():%Y-%m-%d %H:%M:%S}\n".encode())
    return file


def _is_still(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except FileNotFoundError:
        return False
