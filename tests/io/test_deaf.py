"""A program that no signal reaches, whatever it does about that itself."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from edgetam_pl.io import deaf

PROGRAM = """
import os, signal, sys, time
for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2"):
    signal.signal(getattr(signal, name), lambda *_: os._exit(3))
    os.kill(os.getpid(), getattr(signal, name))
time.sleep(0.2)
signal.signal(signal.SIGHUP, lambda *_: os._exit(5))
print(*sys.argv[1:], flush=True)
os.kill(os.getpid(), signal.SIGHUP)
time.sleep(60)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in deaf.MACHINES, reason="no filter is known for this system"
)
def test_a_program_that_sets_its_own_handlers_is_not_reached_and_others_are() -> None:
    words = [sys.executable, "-c", PROGRAM, "a b", "c"]
    done = subprocess.run([sys.executable, deaf.__file__, *words], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (5, "a b c\n"), done.stderr
    assert subprocess.run(words, capture_output=True, timeout=60, check=False).returncode == 3
