"""Processes end with the one that they work for, however it ends, and are deaf to what a group is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from edgetam_pl.io.processes import LAUNCHER
from edgetam_pl.io.stop import SIGNALS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


def members(group: int) -> list[int]:
    """Living processes of a group."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            _, _, rest = (folder / "stat").read_text().rpartition(")")
        except OSError:
            continue
        state, _, pgrp = rest.split()[:3]
        if int(pgrp) == group and state not in "ZX":
            found.append(int(folder.name))
    return found


def gone(group: int) -> bool:
    """Do all processes of a group end by themselves within ten seconds?"""
    end = time.monotonic() + 10
    while members(group) and time.monotonic() < end:
        time.sleep(0.05)
    return not members(group)


def started(script: str, *arguments: str) -> subprocess.Popen[str]:
    """A program in a group of its own, that says a line when it is ready. It hears Ctrl-C also where these tests run in the
    background of a shell, which has its jobs ignore it."""
    command = [sys.executable, "-c", script, *arguments]
    hears = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=hears)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


WORKERS = """
import time
from edgetam_pl.io.processes import fresh, pool
def main():
    with pool(2, fresh("json")) as executor:
        busy = [executor.submit(time.sleep, 600) for _ in range(2)]
        while not all(one.running() for one in busy):
            time.sleep(0.01)
        executor.submit(time.sleep, 0)
        time.sleep(0.5)
        print("ready", flush=True)
        try:
            time.sleep(600)
        except KeyboardInterrupt:
            pass
        raise SystemExit(3)
main()
"""


def test_workers_fork_server_and_tracker_end_after_kill_minus_nine_of_the_parent() -> None:
    process = started(WORKERS)
    assert len(members(process.pid)) >= 5  # with two workers, the fork server and the tracker
    process.kill()
    process.wait()
    assert gone(process.pid)


def test_workers_are_deaf_to_signals_and_not_waited_for() -> None:
    process = started(WORKERS)
    others = [pid for pid in members(process.pid) if pid != process.pid]
    for pid in others:
        for number in SIGNALS:
            os.kill(pid, number)
    assert sorted(pid for pid in members(process.pid) if pid != process.pid) == sorted(others)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 3
    assert gone(process.pid)


CHILD = """
import time
from edgetam_pl.io.processes import follow_launcher
follow_launcher()
print("ready", flush=True)
time.sleep(600)
"""
PARENT = """
import os, subprocess, sys
from edgetam_pl.io.processes import LAUNCHER
os.environ[LAUNCHER] = str(os.getpid())
subprocess.run([sys.executable, "-c", sys.argv[1]])
"""


def test_what_a_launcher_started_ends_with_it() -> None:
    process = started(PARENT, CHILD)
    assert len(members(process.pid)) == 2
    process.kill()
    process.wait()
    assert gone(process.pid)


def test_a_launcher_of_somebody_else_is_not_followed() -> None:
    """The variable is inherited further than it is meant."""
    script = "from edgetam_pl.io.processes import follow_launcher; follow_launcher(); print('alive')"
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, LAUNCHER: "1"}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "alive\n")


def test_shards_that_are_told_to_stop_end_within_seconds_and_can_be_continued(tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["source=toy", f"out={out}", "clips=24", "frames=8", "size=64", "group=1", "processes=2"]
    command = [sys.executable, "-m", "edgetam_pl.commands.main", "shards", *words]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    while len(list(out.glob("*.index.json"))) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)  # the whole group, as a cluster does it
    assert process.wait(timeout=30) == 75
    assert gone(process.pid)
    whole = [path for path in out.glob("shard-*.tar") if path.with_suffix(".index.json").is_file()]  # the index comes last
    finished = {path: path.stat().st_mtime_ns for path in whole}
    assert 2 <= len(finished) < 24
    again = subprocess.run(command, start_new_session=True, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr[-2000:]
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert len(list(out.glob("shard-*.tar"))) == 24
    assert not list(out.glob(".partial.*"))
