"""The app's server on a free port with a toy model, and what a browser would ask of it."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgetam_pl.commands.track import load_tracker
from edgetam_pl.interactive.server import AppServer
from edgetam_pl.io.video import VideoWriter


class Reply(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def values(self) -> Any:
        return json.loads(self.content)


class Browser:
    """Asks a server, each time over a connection of its own."""

    def __init__(self, server: AppServer) -> None:
        self.server = server
        self.visit = ""

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.server.server_address[1], timeout=60)

    def get(self, path: str) -> Reply:
        return self._asked("GET", path, None, {})

    def post(self, path: str, body: bytes | dict[str, Any] = b"", headers: dict[str, str] | None = None) -> Reply:
        sent = json.dumps(body).encode() if isinstance(body, dict) else body
        return self._asked("POST", path, sent, headers or {})

    def open(self, path: Path) -> Any:
        """The state of a new visit."""
        answer = self.post(f"/open?name={path.name}", path.read_bytes()).values
        self.visit = answer["visit"]
        return answer["state"]

    def do(self, what: str, **values: Any) -> Reply:
        """Something on the open video."""
        return self.post(f"/visit/{self.visit}/{what}", values)

    def see(self, what: str) -> Reply:
        return self.get(f"/visit/{self.visit}/{what}")

    def _asked(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Reply:
        connection = self.connection()
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return Reply(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()


@contextmanager
def serving(kind: type[AppServer] = AppServer, **settings: Any) -> Iterator[AppServer]:
    """A server with a toy model, in a thread of this process."""
    with kind(("127.0.0.1", 0), load_tracker("toy", "random"), **settings) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def write_clip(path: Path, frames: int = 5) -> Path:
    """A dark noisy video, 96 x 64."""
    with VideoWriter(path, size=(64, 96)) as writer:
        for frame in np.random.default_rng(0).integers(0, 60, (frames, 64, 96, 3), dtype=np.uint8):
            writer.write(frame)
    return path
