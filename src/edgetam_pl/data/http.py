"""Ranges of files on web servers, over connections that stay open: what a sample costs is one request and little more.

fsspec reads them as well, at 2 ms of processor time a request; it stays the way for everything that is not a plain answer.
"""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import getproxies

_KEPT = 16
"""Idle connections to a server."""
_idle: dict[tuple[int, str, str], list[HTTPConnection]] = defaultdict(list)
_lock = threading.Lock()


def plain(fs: Any) -> bool:
    """Is this fsspec's file system of the web, with nothing set that a plain request would leave out?"""
    return (
        type(fs).__name__ == "HTTPFileSystem"
        and not getattr(fs, "kwargs", None)
        and not getattr(fs, "encoded", False)
        and not getproxies()
    )


def get_range(address: str, start: int, end: int, *, seconds: float, whole: Callable[[], None]) -> bytes | None:
    """Bytes [start, end) of a file. None where the answer is none that is understood here (a redirect, an error): ask
    otherwise. `whole` is called where the server sends the file from its beginning; it is then read no further than `end`.

    Raises:
        OSError: no connection, an answer that breaks off, or one of another range than was asked for.
    """
    parts = urlsplit(address)
    key = (os.getpid(), parts.scheme, parts.netloc)
    path = quote(parts.path or "/", safe="/%:=&?~#+!$,;'@()*[]") + (f"?{parts.query}" if parts.query else "")
    with _lock:
        connection = _idle[key].pop() if _idle[key] else None
    reused = connection is not None
    while True:
        if connection is None:
            kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
            connection = kind(parts.netloc, timeout=seconds)
        try:
            connection.request("GET", path, headers={"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"})
            answer = connection.getresponse()
            break
        except (HTTPException, OSError):
            connection.close()
            connection = None
            if not reused:
                raise
            reused = False  # the server had closed it meanwhile
    try:
        if answer.status == 200:
            whole()
            data = answer.read(end)[start:]
        elif answer.status == 206:
            said = answer.getheader("Content-Range", "")
            if said and not said.startswith(f"bytes {start}-"):
                raise OSError(f"bytes {start}-{end - 1} were asked for, and {said} sent")
            data = answer.read()
        else:
            return None
    except HTTPException as error:
        connection.close()
        raise OSError(f"the answer breaks off ({error!r:.80})") from error
    finally:
        if answer.isclosed() and not answer.will_close:
            with _lock:
                if len(_idle[key]) < _KEPT:
                    _idle[key].append(connection)
        else:
            connection.close()
    return data
