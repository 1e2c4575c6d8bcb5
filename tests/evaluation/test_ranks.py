"""Metrics that several ranks reduce."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.multiprocessing

from edgetam_pl.metrics.jf import JF

SQUARE = torch.zeros(2, 1, 20, 30, dtype=torch.bool)
SQUARE[:, :, 5:15, 5:15] = True


def test_two_ranks_of_which_one_has_no_video_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """Sums of numbers reduce whatever a rank has seen; lists of different lengths would not."""
    context = torch.multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    ranks = [context.Process(target=_rank, args=(rank, str(tmp_path / "meet"), results)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=240)
        assert process.exitcode == 0
    assert [results.get() for _ in ranks] == [[50.0, 50.0], [50.0, 50.0]]


def _rank(rank: int, place: str, results: torch.multiprocessing.SimpleQueue) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
    metric = JF()
    if rank == 0:
        metric.update_masks(SQUARE, SQUARE)
        metric.update_masks(torch.zeros_like(SQUARE), SQUARE)
    else:
        metric.update([], [])  # an epoch without a video is no forgotten call
    found = metric.compute()
    results.put([found["jf"].item(), found["j"].item()])
    torch.distributed.destroy_process_group()
