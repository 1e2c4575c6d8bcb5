"""A file or folder is there whole or not at all, and what a killed writer leaves is never taken for one."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from edgetam_pl import weights
from edgetam_pl.io import atomic
from edgetam_pl.io.atomic import atomic_path, write_json, write_text
from edgetam_pl.io.errors import DiskFullError

KILLED = """
import os, signal, sys
from edgetam_pl.io.atomic import atomic_path
with atomic_path(sys.argv[1]) as draft:
    draft.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def _as_a_new_process() -> None:
    atomic._remove_leftovers.cache_clear()


def test_a_file_appears_at_the_end_and_not_at_all_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "below" / "a.ckpt"
    with atomic_path(path) as draft:
        draft.write_text("whole")
        assert draft.suffix == ".ckpt"
        assert not path.exists()
    assert path.read_text() == "whole"
    with pytest.raises(TypeError):
        write_json(path, {"half": object()})
    with pytest.raises(FileNotFoundError), atomic_path(path):
        pass  # nothing was written
    assert path.read_text() == "whole"
    assert [one.name for one in path.parent.iterdir()] == ["a.ckpt"]


def test_what_a_killed_writer_leaves_is_not_found_by_its_suffix_and_is_removed_later(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a.ckpt")], check=False)
    assert not list(tmp_path.glob("*.ckpt"))
    assert len(list(tmp_path.iterdir())) == 1
    write_text(tmp_path / "b.txt", "b")
    assert [one.name for one in tmp_path.iterdir()] == ["b.txt"]


def test_drafts_of_the_living_and_of_other_machines_stay(tmp_path: Path) -> None:
    others = tmp_path / ".partial.another-machine.1.x"
    others.mkdir()
    with atomic_path(tmp_path / "a") as draft:
        draft.write_text("a")
        atomic._remove_leftovers.cache_clear()
        write_text(tmp_path / "b", "b")
        assert draft.exists()
    assert {one.name for one in tmp_path.iterdir()} == {"a", "b", others.name}


def test_a_folder_takes_the_place_of_another(tmp_path: Path) -> None:
    for content in ("first", "second"):
        with atomic_path(tmp_path / "masks") as draft:
            draft.mkdir()
            (draft / content).write_text(content)
    assert [one.name for one in (tmp_path / "masks").iterdir()] == ["second"]


def test_a_folder_that_cannot_be_replaced_keeps_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "first").touch()
    replace = os.replace

    def fail(source: Path, target: Path) -> None:
        if Path(source).name == Path(target).name == "masks":
            raise OSError("no")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no"), atomic_path(tmp_path / "masks") as draft:
        draft.mkdir()
    assert [one.name for one in (tmp_path / "masks").iterdir()] == ["first"]


def test_a_folder_moved_aside_by_a_writer_that_died_gets_its_place_back(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    aside = tmp_path / f"{atomic._OURS}{gone.pid}.x" / "masks.replaced"
    aside.mkdir(parents=True)
    (aside / "first").touch()
    write_json(tmp_path / "other.json", {})
    assert (tmp_path / "masks" / "first").exists()
    assert {one.name for one in tmp_path.iterdir()} == {"masks", "other.json"}


def test_drafts_of_another_machine_are_removed_after_a_day(tmp_path: Path) -> None:
    old, new = (tmp_path / f".partial.elsewhere.{number}.x" for number in (1, 2))
    for room in (old, new):
        room.mkdir()
    os.utime(old, (0, 0))
    write_text(tmp_path / "a.txt", "whole")
    assert {one.name for one in tmp_path.iterdir()} == {new.name, "a.txt"}


def test_a_full_disk_is_named_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.ckpt"
    weights.write({"epoch": 1}, path)
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 3_000_000))
    said = r"No space left on .*: a\.ckpt needs 4 MB, 3 MB are free"
    with pytest.raises(DiskFullError, match=said) as caught:
        weights.write({"state": {"w": torch.zeros(1_000_000)}, "epoch": [2]}, path)
    assert caught.value.errno == errno.ENOSPC
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert [one.name for one in tmp_path.iterdir()] == ["a.ckpt"]


LIMITED = """
import resource, signal, sys, torch
from edgetam_pl import weights
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
weights.write({"w": torch.zeros(1_000_000)}, Path(sys.argv[1]))
"""


def test_a_disk_that_fills_up_while_a_checkpoint_is_written_is_named_too(tmp_path: Path) -> None:
    """A quota, or another program's files: torch says "unexpected pos" or "file write failed"."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "a.ckpt")], capture_output=True, text=True, check=False
    )
    assert "DiskFullError" in done.stderr.splitlines()[-1]
    assert "or in its quota: a.ckpt needs 4 MB" in done.stderr
    assert not list(tmp_path.iterdir())
