"""A folder is held by one process at a time, and by none that has ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgetam_pl.io.locks import folder_lock

HOLD = """
import sys
from pathlib import Path
from edgetam_pl.io.locks import folder_lock
with folder_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_held_folder_is_refused_with_its_holder_and_free_after_kill_9(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with holder(folder) as process:
        named = rf"is being run by another process \(number {process.pid} on"
        with pytest.raises(ValueError, match=named), folder_lock(folder, wait=False):
            pytest.fail("both hold it")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with folder_lock(folder, wait=False):
        assert f"number {os.getpid()} on" in (folder / ".lock").read_text()
    assert not list(folder.iterdir())


def test_who_waits_gets_a_lock_of_its_own_when_the_holder_leaves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with holder(tmp_path) as process:
        assert process.stdin is not None
        process.stdin.write("\n")  # it leaves now or in a moment
        process.stdin.flush()
        with folder_lock(tmp_path), pytest.raises(ValueError, match="is being run by"), folder_lock(tmp_path, wait=False):
            pytest.fail("both hold it")
    assert not list(tmp_path.iterdir())


def test_locks_of_other_names_and_a_file_in_place_of_a_folder(tmp_path: Path) -> None:
    with folder_lock(tmp_path), folder_lock(tmp_path, name="run.lock", wait=False):
        assert {path.name for path in tmp_path.iterdir()} == {".lock", "run.lock"}
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"), folder_lock(tmp_path / "file"):
        pytest.fail("a file was held")
