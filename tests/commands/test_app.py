"""`edgetam app`: what it refuses before it serves. The page is tested in tests/interactive."""

from __future__ import annotations

import socket

import pytest

from edgetam_pl.commands.main import main

TOY = ["app", "--weights", "random", "--model", "toy"]


def test_a_port_that_is_taken_is_named_with_the_cure(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main([*TOY, "--port", str(port)]) == 2
    told = capsys.readouterr().err
    assert f"127.0.0.1:{port} cannot be served on" in told
    assert "give another --port" in told


def test_an_upload_limit_of_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TOY, "--upload-limit", "0"]) == 2
    assert "--upload-limit is 0" in capsys.readouterr().err
