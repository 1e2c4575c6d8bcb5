"""Ranges from web servers: one connection for many, and whatever is no plain answer is left to fsspec or refused."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from edgetam_pl.data import http

FILE = bytes(range(256)) * 4


class Server:
    """Answers each request on each connection by `answer(start, end)`; None: it closes the connection without a word."""

    def __init__(self, answer: Callable[[int, int], bytes | None]) -> None:
        self.answer = answer
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.socket.getsockname()[1]}/a%20b c.tar"
        self.connections = 0
        self.asked: list[bytes] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                line, _ = self.socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(line,), daemon=True).start()

    def _serve(self, line: socket.socket) -> None:
        held = b""
        with line:
            while piece := line.recv(4096):
                held += piece
                if b"\r\n\r\n" not in held:
                    continue
                self.asked.append(held)
                start, _, last = held.partition(b"bytes=")[2].partition(b"\r\n")[0].partition(b"-")
                held, answer = b"", self.answer(int(start), int(last) + 1)
                if answer is None:
                    return
                line.sendall(answer)


def part(start: int, end: int, *, extra: str = "") -> bytes:
    """What an honest server says."""
    data = FILE[start:end]
    head = f"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {start}-{start + len(data) - 1}/{len(FILE)}\r\n"
    return f"{head}{extra}Content-Length: {len(data)}\r\n\r\n".encode() + data


@pytest.fixture
def served() -> Iterator[Callable[[Callable[[int, int], bytes | None]], Server]]:
    servers: list[Server] = []

    def start(answer: Callable[[int, int], bytes | None]) -> Server:
        servers.append(Server(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.socket.close()


def get(server: Server, start: int, end: int, whole: Callable[[], None] = lambda: None) -> bytes | None:
    return http.get_range(server.address, start, end, seconds=20, whole=whole)


Serve = Callable[[Callable[[int, int], bytes | None]], Server]


def test_many_ranges_come_over_one_connection(served: Serve) -> None:
    server = served(part)
    assert [get(server, n, n + 50) for n in range(5)] == [FILE[n : n + 50] for n in range(5)]
    assert server.connections == 1
    assert server.asked[0].startswith(b"GET /a%20b%20c.tar HTTP/1.1\r\nHost: 127.0.0.1:")


def test_a_connection_that_the_server_closes_is_replaced(served: Serve) -> None:
    """Said in the answer, or not said: closed when the next request comes."""
    server = served(lambda start, end: part(start, end, extra="Connection: close\r\n"))
    assert [get(server, n, n + 5) for n in range(3)] == [FILE[n : n + 5] for n in range(3)]
    assert server.connections == 3
    server = served(lambda start, end: part(start, end).replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert [get(server, n, n + 5) for n in range(3)] == [FILE[n : n + 5] for n in range(3)]
    assert server.connections == 3
    turns = iter([True, False, True])
    server = served(lambda start, end: part(start, end) if next(turns) else None)
    assert [get(server, n, n + 5) for n in range(2)] == [FILE[n : n + 5] for n in range(2)]
    assert server.connections == 2


def test_a_range_beyond_the_end_is_short(served: Serve) -> None:
    assert get(served(part), len(FILE) - 4, len(FILE) + 6) == FILE[-4:]


def test_a_whole_file_is_told_of_and_read_no_further_than_needed(served: Serve) -> None:
    told: list[bool] = []
    server = served(lambda start, end: b"HTTP/1.1 200 OK\r\ncontent-length: 999999\r\n\r\n" + FILE)
    assert [get(server, 10, 20, lambda: told.append(True)) for _ in range(2)] == [FILE[10:20]] * 2
    assert (told, server.connections) == ([True, True], 2)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 206 Partial Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 206 Partial Content\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\n12345",
        b"HTTP/1.1 206 Partial Content\r\n\r\n12345",
        b"HTTP/1.1 206 Partial Content\r\nContent-Length: -5\r\n\r\n12345",
        b"SSH-2.0 hello\r\n\r\n",
    ],
)
def test_what_is_no_plain_answer_is_left_to_others(served: Serve, answer: bytes) -> None:
    assert get(served(lambda start, end: answer), 0, 5) is None


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (part(3, 8), "bytes 0-4 were asked for, and bytes 3-7/1024 sent"),
        (part(0, 9), "bytes 0-4 were asked for, and bytes 0-8/1024 sent"),
        (b"HTTP/1.1 206 Partial Content\r\nContent-Length: 999999999\r\n\r\n12345", r"sent \(999999999 bytes\)"),
        (b"x" * (1 << 17), "none of HTTP"),
    ],
)
def test_another_range_than_was_asked_for_is_refused(served: Serve, answer: bytes, message: str) -> None:
    with pytest.raises(OSError, match=message):
        get(served(lambda start, end: answer), 0, 5)


def test_an_answer_that_breaks_off_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            line, _ = server.accept()
            with line:
                line.recv(4096)
                line.sendall(part(0, 50)[:-20])

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(OSError, match="breaks off after 30 of 50 bytes"):
            http.get_range(f"http://127.0.0.1:{server.getsockname()[1]}/x", 0, 50, seconds=20, whole=lambda: None)


def test_a_server_that_drips_is_silent_when_its_time_is_up() -> None:
    """Each byte comes in time, the whole does not."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            line, _ = server.accept()
            with line:
                for byte in part(0, 50):
                    if ended.wait(0.05):
                        return
                    line.sendall(bytes([byte]))

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(TimeoutError, match=r"no answer within 0\.3 s"):
            http.get_range(f"http://127.0.0.1:{server.getsockname()[1]}/x", 0, 50, seconds=0.3, whole=lambda: None)
        ended.set()


def test_addresses_with_a_password_are_left_to_others() -> None:
    assert http.get_range("http://me:secret@127.0.0.1:1/x", 0, 5, seconds=1, whole=lambda: None) is None


def test_settings_of_fsspec_and_proxies_leave_it_to_fsspec(monkeypatch: pytest.MonkeyPatch) -> None:
    named = type("HTTPFileSystem", (SimpleNamespace,), {})
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    http._proxies.cache_clear()
    assert http.plain(named(kwargs={}, encoded=False))
    assert not http.plain(named(kwargs={"headers": {}}, encoded=False))
    assert not http.plain(SimpleNamespace(kwargs={}))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    http._proxies.cache_clear()
    assert not http.plain(named(kwargs={}, encoded=False))
    monkeypatch.undo()
    http._proxies.cache_clear()
