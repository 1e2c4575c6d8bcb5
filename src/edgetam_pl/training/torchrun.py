"""`python -m edgetam_pl.training.torchrun ARGS`: torchrun, with the exit status that a scheduler needs.

torchrun itself ends with 1 and a long traceback whatever became of its ranks. Here ranks that were stopped and have saved
give TRY_AGAIN, USR1 and USR2 are passed on as SIGTERM is, and ranks end with this process even when it is killed.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from edgetam_pl.io import stop
from edgetam_pl.io.processes import LAUNCHER, follow_launcher

REFUSED = 2
"""Status of a command that refuses what it was given."""


def main(argv: list[str]) -> int:
    """0, TRY_AGAIN, or 1 when a rank failed."""
    follow_launcher()
    try:
        with stop.listening():
            return _run(argv)
    except stop.Stopped as told:
        print(f"torchrun: {told}", file=sys.stderr)
        return stop.TRY_AGAIN


def _run(argv: list[str]) -> int:
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    os.environ[LAUNCHER] = str(os.getpid())
    # a store for each attempt: in the launcher's own, ranks that are started again find addresses of those that were killed,
    # and gloo waits for them (torch 2.13)
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    _restart_only_what_may_help()
    try:
        torchrun.run(torchrun.parse_args(argv))
    except SignalException as told:  # it has passed the signal on and waited
        print(f"torchrun: {told}; the same command continues.", file=sys.stderr)
        return stop.TRY_AGAIN
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        # torchrun ends the other ranks when the first has ended; one that was about to end itself may still fall to that
        codes = {each.exitcode for each in error.failures.values()}
        if failure.exitcode == stop.TRY_AGAIN and codes <= {stop.TRY_AGAIN, -signal.SIGTERM, -signal.SIGKILL}:
            return stop.TRY_AGAIN
        how = f"killed by {failure.signal_name()}" if failure.exitcode < 0 else f"status {failure.exitcode}"
        print(f"torchrun: rank {rank} ended first ({how}); what it said is above.", file=sys.stderr)
        return 1
    return 0


def _restart_only_what_may_help() -> None:
    """--max-restarts is for ranks that were killed or lost a peer: one that was told to stop has saved, and one that refused
    its command would refuse it again."""
    from torch.distributed.elastic.agent.server import WorkerState
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent

    agent: Any = LocalElasticAgent
    monitor = agent._monitor_workers

    def monitored(self: Any, group: Any) -> Any:
        result = monitor(self, group)
        codes = {failure.exitcode for failure in result.failures.values()}
        if result.state is WorkerState.FAILED and codes & {REFUSED, stop.TRY_AGAIN}:
            self._remaining_restarts = 0
        return result

    agent._monitor_workers = monitored


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
