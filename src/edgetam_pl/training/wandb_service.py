"""W&B's service out of reach of the signals that a cluster sends to every process of a job.

The service (`wandb-core`) is a process of its own, which ends on SIGTERM and SIGINT with what it has not written yet,
whatever its parent does. It puts its handlers in force itself, so neither a mask nor an ignored signal that it inherits
keeps it; `io.deaf` does.
"""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgetam_pl.io import deaf


@contextmanager
def out_of_reach() -> Iterator[None]:
    """A service that W&B starts inside the block hears no signals. Where that cannot be done, it starts as ever."""
    from wandb.sdk.lib.service import service_process

    found = getattr(service_process, "get_core_path", None)  # W&B has no setting for its place
    if found is None:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "wandb-core")
        words = [sys.executable, "-I", "-S", deaf.__file__, found()]
        script.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        script.chmod(0o755)
        if os.access(script, os.X_OK):  # no programs may lie in some folders for temporary files
            service_process.get_core_path = lambda: str(script)
        try:
            yield
        finally:
            service_process.get_core_path = found
