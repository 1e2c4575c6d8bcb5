"""Signals: noted at once, acted upon where that is safe, from the first line of a command on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgetam_pl.io import stop


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("number", stop.SIGNALS)
def test_a_signal_ends_the_block_at_once_with_75_and_handlers_come_back(number: signal.Signals) -> None:
    before = {one: signal.getsignal(one) for one in stop.SIGNALS}
    with pytest.raises(stop.Stopped, match=f"stopped by {number.name}") as end, stop.listening():
        os.kill(os.getpid(), number)
    assert end.value.code == stop.TRY_AGAIN
    assert {one: signal.getsignal(one) for one in stop.SIGNALS} == before
    assert not stop.told()


def test_a_deferred_signal_is_noted_and_raised_where_the_work_can_be_left() -> None:
    with stop.listening():
        stop.defer()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.told()
        with pytest.raises(stop.Stopped, match="before the export"):
            stop.at_once("before the export")


def test_ranks_that_wait_for_one_another_do_not_leave_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with stop.listening(together=True):
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.told()
    with pytest.raises(stop.Stopped), stop.listening():
        os.kill(os.getpid(), signal.SIGUSR1)


def test_a_second_ctrl_c_waits_for_nothing() -> None:
    with stop.listening():
        stop.defer()
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


EARLY = """
import builtins, os, signal, sys
importing = builtins.__import__
def signalled(name, *rest):
    if name == "omegaconf":
        builtins.__import__ = importing
        os.kill(os.getpid(), signal.SIGTERM)
    return importing(name, *rest)
builtins.__import__ = signalled
sys.argv = ["edgetam", *sys.argv[1:]]
from edgetam_pl.commands.main import main
sys.exit(main())
"""


@pytest.mark.parametrize(("command", "status"), [("train", stop.TRY_AGAIN), ("doctor", -signal.SIGTERM)])
def test_a_command_that_can_go_on_hears_signals_before_its_slow_imports(command: str, status: int, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("WORLD_SIZE", "SLURM_NTASKS")}
    done = subprocess.run([sys.executable, "-c", EARLY, command], cwd=tmp_path, env=environment, check=False)
    assert done.returncode == status
    assert not list(tmp_path.iterdir())
