"""Bytes from far away: tried again, given up with a reason, and one sentence where a package is missing."""

from __future__ import annotations

import socket
from typing import Any

import fsspec.core
import pytest

from edgetam_pl.data import storage
from edgetam_pl.io.errors import BadSampleError, Cause


class Line:
    """A file system whose line fails so many times, then works."""

    def __init__(self, failures: int, error: Exception) -> None:
        self.failures, self.error, self.calls = failures, error, 0

    def cat_file(self, path: str, start: int = 0, end: int | None = None) -> bytes:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error
        return b"0123456789"[start:end]


def over(monkeypatch: pytest.MonkeyPatch, line: Line) -> list[float]:
    """Reads go over this line; the waits in between are noted."""
    waits: list[float] = []
    monkeypatch.setattr(storage, "_given_up", set())
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda address: (line, address))
    monkeypatch.setattr(storage.time, "sleep", waits.append)
    return waits


@pytest.mark.parametrize("address", ["s3://bucket/shard.tar", "gs://bucket/shard.tar", "https://host/shard.tar"])
def test_a_read_that_fails_is_repeated_with_growing_pauses(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    line = Line(3, OSError("connection reset"))
    waits = over(monkeypatch, line)
    assert storage.read_range(address, 2, 5) == b"23456"
    assert line.calls == storage.ATTEMPTS
    assert [longest / 2 <= wait <= longest for wait, longest in zip(waits, [0.5, 1.0, 2.0], strict=True)] == [True] * 3


def test_a_line_that_never_works_makes_the_shard_unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    over(monkeypatch, Line(99, TimeoutError("too slow")))
    with pytest.raises(BadSampleError, match=r"s3://b/x\.tar: TimeoutError too slow in 4 attempts") as caught:
        storage.read("s3://b/x.tar")
    assert caught.value.cause is Cause.SHARD_UNREADABLE


def test_a_silent_server_costs_seconds_is_named_and_is_asked_once_from_then_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It accepts connections and answers none. Each attempt is a line in the log."""
    monkeypatch.setattr(storage, "_given_up", set())
    monkeypatch.setattr(storage, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(storage._Limits, "seconds", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(BadSampleError, match=r"a\.tar: TimeoutError no answer within 0\.2 s .* in 4 attempts") as caught:
            storage.read_range(f"{place}/a.tar", 0, 5)
        assert caught.value.cause is Cause.SHARD_UNREADABLE
        assert [f"a.tar: attempt {n} of 4 failed" in line for n, line in enumerate(caplog.messages, 1)] == [True] * 3
        with pytest.raises(BadSampleError, match=r"b\.tar: .* in 1 attempts"):
            storage.read_range(f"{place}/b.tar", 0, 5)
    assert len(caplog.messages) == 3


@pytest.mark.parametrize("error", [FileNotFoundError("no such key"), PermissionError("forbidden")])
def test_what_no_patience_mends_is_not_repeated(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    line = Line(99, error)
    assert over(monkeypatch, line) == []
    with pytest.raises(BadSampleError) as caught:
        storage.read("gs://b/x.tar")
    assert (caught.value.cause, line.calls) == (Cause.SHARD_UNREADABLE, 1)


def test_a_missing_package_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(address: str) -> Any:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", without)
    with pytest.raises(ValueError, match=r"s3://b/x\.tar needs another package: Install s3fs"):
        storage.read("s3://b/x.tar")


def test_a_range_beyond_the_end_is_a_truncated_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    over(monkeypatch, Line(0, OSError()))
    with pytest.raises(BadSampleError) as caught:
        storage.read_range("s3://b/x.tar", 8, 5)
    assert caught.value.cause is Cause.SHARD_TRUNCATED
