"""A runner whose trials are stubs: `python sweep_runner.py FILE OUT JOBS`. For tests that kill it."""

from __future__ import annotations

import sys
from pathlib import Path

from edgetam_pl.io.stop import TRY_AGAIN
from edgetam_pl.sweeps.jobs import Local
from edgetam_pl.sweeps.local import Runner
from edgetam_pl.sweeps.sweep_config import read_sweep

STUB = (sys.executable, str(Path(__file__).with_name("sweep_stub.py")))


def main() -> int:
    file, out, jobs = sys.argv[1:4]
    try:
        Runner(read_sweep(Path(file)), Path(out), Local(STUB), jobs=int(jobs), poll=0.05).run()
    except KeyboardInterrupt:
        return TRY_AGAIN
    return 0


if __name__ == "__main__":
    sys.exit(main())
