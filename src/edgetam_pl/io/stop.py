"""Stopping on a signal, of a person or of a cluster. A signal is noted at once and acted upon where that is safe.

Standard library only: `edgetam` puts this in force before it imports anything slow (`commands.begin`), so that a job that
is pre-empted while it starts ends with TRY_AGAIN, not with 128 + the signal's number, which schedulers take for a failure.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

TRY_AGAIN = 75
"""Exit status of a command that was stopped and whose work is safe: give the same command again (EX_TEMPFAIL of
sysexits.h)."""

SIGNALS = tuple(one for one in signal.Signals if one.name in ("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGINT"))
"""Ends of allocations (SLURM, torchrun, Kubernetes), warnings before them (SLURM --signal=USR1@..., submitit: USR2), and
Ctrl-C; those of them that the system knows."""


class Stopped(SystemExit):
    """A signal asked for the end. Its exit status is TRY_AGAIN."""

    def __init__(self, message: str) -> None:
        super().__init__(TRY_AGAIN)
        self.message = message

    def __str__(self) -> str:
        return self.message


class _State:
    """Of this process."""

    number = 0  # the signal that came, or 0
    at_once = False  # may a signal end what is being done right now?
    before: dict[signal.Signals, Any] | None = None  # handlers that ours replaced; None: ours are not in force


def told() -> bool:
    """Has a signal asked this process to stop?"""
    return bool(_State.number)


def among_ranks() -> bool:
    """Is this one of several processes that wait for one another (torchrun, srun, Lightning's own)? Then it must not leave
    alone: the others would wait for it until their time is up."""
    return int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_NTASKS") or 1) > 1


def install(*, together: bool = False) -> None:
    """Put the handlers in force, for good. A signal ends what is being done, at once; among ranks that leave `together` it
    is only noted."""
    if _State.before is None and threading.current_thread() is threading.main_thread():
        _State.number, _State.at_once = 0, not (together and among_ranks())
        _State.before = {number: signal.signal(number, _on_signal) for number in SIGNALS}


@contextmanager
def listening(*, together: bool = False) -> Iterator[None]:
    """The handlers are in force inside the block, or function. Where they were already, they and what they do stay."""
    outermost, at_once = _State.before is None, _State.at_once
    install(together=together)
    try:
        yield
    finally:
        _State.at_once = at_once
        if outermost:
            for number, handler in (_State.before or {}).items():
                signal.signal(number, handler)
            _State.number, _State.before = 0, None


@contextmanager
def handled(handle: Callable[[int], object]) -> Iterator[None]:
    """Inside the block, `handle(number)` is called for every one of SIGNALS, and nothing else happens: for a process that
    waits for others and passes signals on."""
    before = {number: signal.signal(number, lambda got, _: handle(got)) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def defer() -> None:
    """From here on a signal is only noted: whoever is in charge asks `told` where the work can be left."""
    _State.at_once = False


def at_once(doing: str) -> None:
    """From here on a signal raises Stopped, and one that came before does so now."""
    if _State.number:
        raise _stopped(doing)
    _State.at_once = _State.before is not None


def _on_signal(number: int, frame: FrameType | None) -> None:
    again, _State.number = _State.number, number
    if again and number == signal.SIGINT:
        raise KeyboardInterrupt  # a second Ctrl-C waits for nothing
    if _State.at_once and not again:  # a second signal does not disturb the clearing up after the first
        raise _stopped()


def _stopped(doing: str = "") -> Stopped:
    name = signal.Signals(_State.number).name
    return Stopped(f"stopped by {name}{f' {doing}' if doing else ''}; the same command goes on from what is finished.")
