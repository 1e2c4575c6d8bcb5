"""`python deaf.py PROGRAM ARGUMENTS`: become PROGRAM, which SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 do not reach.

For a program that ends on them although others still need it, when a cluster sends its signals to every process of a job.
The signals are ignored from its beginning. A program may change that, and Linux is told not to let it (seccomp): its own
handlers are never put in force. On other systems, and where the kernel takes no filter, the program is what it always was.

Standard library only, and run as a file, so that nothing else is imported.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
import sys

MACHINES = {"x86_64": (0xC000003E, 13), "aarch64": (0xC00000B7, 134)}
"""By the name of a processor: its number in seccomp, and the number of the system call rt_sigaction."""
NUMBERS = [
    number for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2") if (number := getattr(signal, name, None)) is not None
]

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
CALL, MACHINE, FIRST_ARGUMENT = 0, 4, 16
"""Offsets in what the filter sees."""
ALLOW, DO_NOTHING = 0x7FFF0000, 0x00050000
"""Let the call be made; or return success without making it (SECCOMP_RET_ERRNO with 0)."""


class Program(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]


def keep_ignored() -> bool:
    """From here on this process, and what it becomes, sets no handler for NUMBERS. False: the kernel takes no filter."""
    if sys.platform != "linux" or platform.machine() not in MACHINES:
        return False
    machine, rt_sigaction = MACHINES[platform.machine()]
    left = len(NUMBERS)
    code = [  # (operation, steps forward if equal, steps forward if not, operand); the last two lines are the answers
        (LOAD, 0, 0, MACHINE),
        (JUMP_IF_EQUAL, 0, left + 3, machine),
        (LOAD, 0, 0, CALL),
        (JUMP_IF_EQUAL, 0, left + 1, rt_sigaction),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        *((JUMP_IF_EQUAL, left - k, 0, int(number)) for k, number in enumerate(NUMBERS)),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, DO_NOTHING),
    ]
    packed = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in code))
    program = Program(len(code), ctypes.cast(packed, ctypes.c_void_p))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return False
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) == 0


if __name__ == "__main__":
    for one in NUMBERS:
        signal.signal(one, signal.SIG_IGN)
    keep_ignored()
    os.execv(sys.argv[1], sys.argv[1:])
