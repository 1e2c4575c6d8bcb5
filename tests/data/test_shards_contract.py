"""The loader among processes: ranks and workers, two gloo ranks in step, kill -9 and resume, flat memory, bad networks."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import fsspec
import numpy as np
import pytest
import torch
from shard_sets import build, loader, save_frame, save_labels, spoil_masks, train

from edgetam_pl.config import ShardsConfig
from edgetam_pl.data import shards, storage
from edgetam_pl.data.build import run
from edgetam_pl.data.collate import PackedBatch
from edgetam_pl.data.loader import BrokenDataError, ShardLoader, WorkerDiedError
from edgetam_pl.data.verify import check_shard
from edgetam_pl.types import VideoBatch


@pytest.fixture(scope="module")
def twenty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("twenty"))


@pytest.fixture(scope="module")
def thirteen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("thirteen"), clips=13, frames=1, group=6)


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_f2_ranks_by_workers_see_the_same_steps_nothing_twice_and_all(twenty: Path, world: int) -> None:
    """F2: ranks 1 to 4, workers 0 to 3, real tars, real worker processes."""
    steps = -(-20 // world)
    by_workers = []
    for workers in range(4):
        keys = [
            [b.keys[0] for b in loader([str(twenty)], rank=r, world=world, workers=workers, steps=steps)]
            for r in range(world)
        ]
        assert {len(mine) for mine in keys} == {steps}
        by_workers.append(keys)
    assert all(keys == by_workers[0] for keys in by_workers)  # the number of workers changes nothing
    drawn = [by_workers[0][r][k].split("@")[0] for k in range(steps) for r in range(world)]
    assert len(set(drawn[:20])) == 20


def test_a_slot_is_never_overwritten_while_its_batch_is_in_use(
    twenty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers run ahead of a slow consumer, meet clips that fail and are made again, and two loaders are read in turn."""
    spoiled = spoil_masks(twenty, tmp_path / "spoiled.tar")
    makers = [partial(loader, [str(spoiled)], steps=12, batch=2, max_skips=1.0), partial(loader, [str(twenty)], steps=12)]
    expected = [list(make()) for make in makers]
    unpack = PackedBatch.unpack

    def slowly(self: PackedBatch) -> VideoBatch:
        assert self.in_slot
        time.sleep(0.03)  # long enough for the worker to write as far ahead as it is let
        return unpack(self)

    monkeypatch.setattr(PackedBatch, "unpack", slowly)
    found = list(zip(*(make(workers=workers) for make, workers in zip(makers, (1, 2)))))
    for number, batches in enumerate(zip(*expected)):
        for one, two in zip(batches, found[number]):
            assert one.keys == two.keys
            assert torch.equal(one.frames, two.frames)
            assert torch.equal(one.masks, two.masks)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_pinned_batches_are_the_same_batches(twenty: Path) -> None:
    for one, two in zip(loader([str(twenty)], workers=2), loader([str(twenty)])):
        assert one.frames.is_pinned()
        assert torch.equal(one.frames, two.frames)
        assert torch.equal(one.masks, two.masks)


def test_a_worker_that_is_killed_ends_the_run_with_a_word_and_without_a_hang(twenty: Path) -> None:
    made = iter(loader([str(twenty)], workers=2, steps=10_000))
    next(made)
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    os.kill(workers[0].pid or 0, signal.SIGKILL)
    with pytest.raises(WorkerDiedError, match=r"use fewer workers \(data\.workers, now 2\)"):
        for _ in made:
            pass


RANK = """
    import sys
    sys.path.insert(0, {here!r})

    def main():
        import torch
        import torch.distributed as dist
        from shard_sets import loader

        rank = int(sys.argv[1])
        dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
        made = loader([{twenty!r}, {thirteen!r}], rank=rank, world=2, workers=1, steps=3 * 20)
        steps = 0
        for batch in made:
            consumed = made.steps.consumed(made.batches)
            epochs = [consumed[0] // 20, consumed[1] // 13]
            mine = torch.tensor([made.batches, int(batch.source == "s1"), batch.num_frames, *epochs])
            theirs = [torch.empty_like(mine) for _ in range(2)]
            dist.all_gather(theirs, mine)
            assert torch.equal(*theirs), theirs
            steps += 1
        count = torch.tensor([steps])
        dist.all_reduce(count)
        assert count.item() == 2 * 60, count
        assert min(epochs) >= 1 and max(epochs) >= 2, epochs
        print("in step")

    if __name__ == "__main__":
        main()
"""


def test_f1_two_gloo_ranks_stay_in_step_over_three_epochs_of_uneven_shards(
    twenty: Path, thirteen: Path, tmp_path: Path
) -> None:
    """F1: 20 clips in shards of 7, 7, 6 and 13 images in 6, 6, 1, on two ranks: the same step, source and epoch always."""
    script = tmp_path / "rank.py"
    text = textwrap.dedent(RANK).format(
        here=str(Path(__file__).parents[1] / "support"), twenty=str(twenty), thirteen=str(thirteen)
    )
    script.write_text(text)
    meeting = tmp_path / "meeting"
    ranks = [
        subprocess.Popen([sys.executable, str(script), str(r), str(meeting)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for r in range(2)
    ]
    for process in ranks:
        out, err = process.communicate(timeout=600)
        assert process.returncode == 0, err.decode()[-2000:]
        assert b"in step" in out


def start(call: str) -> subprocess.Popen[bytes]:
    """Python in a group of processes of its own, with `shard_sets` at hand."""
    program = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1] / 'support')!r}); import shard_sets; {call}"
    return subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def kill_when(process: subprocess.Popen[bytes], is_time: Callable[[], bool]) -> None:
    """Kill -9, workers and all."""
    try:
        while not is_time():
            assert process.poll() is None, "ended before it was killed"
            time.sleep(0.002)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_f10_kill_minus_nine_at_any_step_then_resume_sees_the_same_samples_and_losses(
    twenty: Path, thirteen: Path, tmp_path: Path
) -> None:
    """Killed with one worker, resumed without, compared with a run that was never interrupted."""
    places = [str(twenty), str(thirteen)]

    def records(log: Path) -> dict[int, list[object]]:
        return {line[0]: line for line in map(json.loads, log.read_text().splitlines())} if log.exists() else {}

    whole, log, state = (tmp_path / name for name in ("whole.jsonl", "killed.jsonl", "killed.pt"))
    train(places, whole, tmp_path / "whole.pt", workers=0)
    least = int(np.random.default_rng().integers(2, 22))
    call = f"shard_sets.train({places}, shard_sets.Path({str(log)!r}), shard_sets.Path({str(state)!r}), workers=1)"
    kill_when(start(call), lambda: len(records(log)) >= least)
    before = len(records(log))
    assert least <= before <= 30
    train(places, log, state, workers=0)
    uninterrupted, resumed = records(whole), records(log)
    assert len(resumed) == 80
    following = [k for k in sorted(resumed) if k > before][:50]
    assert len(following) == 50
    assert all(resumed[k] == uninterrupted[k] for k in following), f"killed after {before}"  # keys and losses, exactly


def test_f8_memory_is_flat_over_two_thousand_samples(twenty: Path) -> None:
    program = textwrap.dedent(
        f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parents[1] / "support")!r})
        from shard_sets import loader

        def resident():
            return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6

        marks = []
        for number, batch in enumerate(loader([{str(twenty)!r}], steps=2000), start=1):
            if number in (400, 2000):
                marks.append(resident())
        print(marks[1] - marks[0])
        """
    )
    grown = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=600).stdout
    assert float(grown) < 8, f"{grown} MB more after 2000 samples than after 400"


# ------------------------------------------------------------------------------------------------------------ networks


class Flaky(SimpleHTTPRequestHandler):
    """A server of files with ranges, which can forget ranges, fail now and then, or fail for good."""

    ranges: ClassVar[bool] = True
    failures: ClassVar[dict[str, int]] = {}
    cut: ClassVar[str] = ""
    served: ClassVar[int] = 0

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        name = self.path.rsplit("/", 1)[-1]
        if self.failures.get(name, 0) > 0:
            self.failures[name] -= 1
            self.send_error(503)
            return
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        wanted = self.headers.get("Range")
        if wanted and self.ranges:
            first, last = (int(n) for n in wanted.removeprefix("bytes=").split("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            data = data[first : last + 1]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if name == self.cut:  # the connection breaks in the middle of the shard
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.connection.close()
            return
        Flaky.served += len(data)
        self.wfile.write(data)


@pytest.fixture
def server(twenty: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(storage, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(Flaky, "ranges", True)
    monkeypatch.setattr(Flaky, "failures", {})
    monkeypatch.setattr(Flaky, "cut", "")
    monkeypatch.setattr(Flaky, "served", 0)
    shards.load_index.cache_clear()
    made = ThreadingHTTPServer(("127.0.0.1", 0), partial(Flaky, directory=str(twenty)))
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()


def keys(made: ShardLoader) -> list[str]:
    return [batch.keys[0] for batch in made]


def test_shards_on_a_web_server_are_the_same_shards_and_only_the_chosen_frames_travel(twenty: Path, server: str) -> None:
    local = keys(loader([str(twenty)]))
    assert keys(loader([server])) == local
    total = sum(path.stat().st_size for path in twenty.glob("*.tar"))
    indices = sum(path.stat().st_size for path in twenty.glob("*.json"))
    assert Flaky.served < total + indices  # three of four frames of each clip, no padding


def test_a_server_without_ranges_works_too(twenty: Path, server: str) -> None:
    Flaky.ranges = False
    assert keys(loader([server], steps=4)) == keys(loader([str(twenty)], steps=4))


def test_f9_a_read_that_fails_is_tried_again(twenty: Path, server: str) -> None:
    Flaky.failures = {"shard-000000.tar": 3, "shard-000001.index.json": 2, "manifest.json": 1}
    made = loader([server])
    assert keys(made) == keys(loader([str(twenty)]))
    assert not made.skips


@pytest.mark.parametrize("cut", [True, False])
def test_f9_a_shard_that_keeps_failing_is_skipped_and_counted_and_training_goes_on(
    server: str, cut: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """F9: the stream breaks in the middle of a shard, or the server answers 503, for good."""
    if cut:
        Flaky.cut = "shard-000001.tar"
    else:
        Flaky.failures = {"shard-000001.tar": 10**9}
    made = loader([server], max_skips=0.9)
    with caplog.at_level(logging.WARNING):
        seen = keys(made)
    assert len(seen) == 20
    assert set(made.skips) == {"shard unreadable"}
    assert caplog.messages[-1].startswith("Shards that could not be read, and were left out: ")
    assert "shard-000001.tar" in caplog.messages[-1]
    with pytest.raises(BrokenDataError, match=r"shard-000001\.tar"):
        keys(loader([server], max_skips=0.01))


def test_any_fsspec_address_will_do(twenty: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(twenty), "/bucket/shards", recursive=True)
    local = keys(loader([str(twenty)]))
    assert keys(loader(["memory://bucket/shards"])) == local
    assert len(keys(loader(["memory://bucket/shards/shard-{000000..000002}.tar"]))) == 20


# ----------------------------------------------------------------------------------------------------------- building


def test_a_build_killed_with_minus_nine_continues_and_gives_the_same_shards(tmp_path: Path) -> None:
    """Killed with two processes at work, continued by one, compared with a build that was never interrupted."""
    settings = {"clips": 40, "frames": 6, "size": 96, "group": 4}
    whole, killed = build(tmp_path / "whole", **settings), tmp_path / "killed"
    call = f"shard_sets.build(shard_sets.Path({str(killed)!r}), processes=2, **{settings})"
    kill_when(start(call), lambda: len(list(killed.glob("*.index.json"))) >= 3)
    assert not (killed / "manifest.json").exists()
    finished = {path: path.stat().st_mtime_ns for path in killed.glob("*.index.json")}
    assert 3 <= len(finished) < 10
    build(killed, **settings)
    assert all(path.stat().st_mtime_ns == before for path, before in finished.items())
    names = sorted(path.name for path in whole.iterdir())
    assert sorted(path.name for path in killed.iterdir() if not path.name.startswith(".")) == names
    for name in names:
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), name


def test_a_disk_that_fills_up_leaves_finished_shards_valid_and_says_what_to_do(tmp_path: Path) -> None:
    """Two processes; the system lets no file grow beyond 60 kB, and the image that comes last is larger."""
    rng, out = np.random.default_rng(0), tmp_path / "out"
    largest = rng.permutation(6)[-1]  # the builder's order for seed 0
    for number in range(6):
        side = 400 if number == largest else 40
        save_frame(tmp_path / "images" / f"{number}.jpg", rng.integers(0, 255, (side, side, 3)).astype(np.uint8))
        save_labels(tmp_path / "masks" / f"{number}.png", np.tri(side, dtype=np.uint8))
    words = ["shards", "source=images", f"root={tmp_path}", f"out={out}", "group=1", "processes=2"]
    full = subprocess.run(
        [sys.executable, "-m", "edgetam_pl.commands.main", *words],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert full.returncode == 2
    assert "Traceback" not in full.stderr
    assert "is full" in full.stderr
    assert "free some space and run the same command again" in full.stderr
    # the other process is ended at once, perhaps between a shard and its index, which says that it is finished
    whole = [path for path in out.glob("*.tar") if path.with_suffix(".index.json").is_file()]
    finished = {path: path.stat().st_mtime_ns for path in whole}
    assert len(finished) >= 4
    assert all(check_shard(str(path), None).faults == () for path in finished)
    run(ShardsConfig(source="images", root=str(tmp_path), out=str(out), group=1, processes=1))
    assert len(list(out.glob("*.tar"))) == 6
    assert all(path.stat().st_mtime_ns == before for path, before in finished.items())
    assert not [path for path in out.iterdir() if "partial" in path.name]


def test_slurm_arrays_through_submitit_build_the_same_shards(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    one = build(tmp_path / "one")
    many = build(tmp_path / "many", engine="slurm", jobs=2, slurm={"cluster": "local", "timeout_min": 5})
    for path in one.glob("shard-*"):
        assert path.read_bytes() == (many / path.name).read_bytes()
