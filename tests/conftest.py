"""What every test may ask for: the shared real data, a generator, one thread."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterator
from multiprocessing.context import BaseContext
from pathlib import Path

import cv2
import pytest
import torch
from once import share_session
from started import sitecustomize  # noqa: F401  (before what it changes is imported)

import edgetam_pl  # noqa: F401  (declares what torchvision needs before anything imports it)

HERE = Path(__file__).parent
pytest_plugins = ["processor_times"]
LONGEST = (
    "training/test_kills.py", "exporting/test_targets.py", "system/test_meta_device.py", "exporting/gate/test_mutations.py",
    "system/test_real_input.py", "training/test_fit.py", "commands/test_demo.py", "commands/test_compose.py",
    "exporting/test_run.py", "parity/test_fixtures.py", "training/test_torchrun.py", "model/test_zoo.py",
    "data/test_shards_contract.py", "training/test_distributed.py", "exporting/test_plug_in.py", "commands/test_plan.py",
    "test_install.py", "test_own_videos.py", "exporting/test_third_backend.py", "evaluation/test_runner.py",
    "exporting/gate/test_witnesses.py", "exporting/test_onnx.py", "data/test_shards_fuzz.py", "parity/test_live.py",
    "sweeps/test_trial.py", "training/test_best.py", "training/test_run_folder.py", "training/test_parts.py",
    "training/test_wandb_runs.py", "training/test_validation.py", "sweeps/test_local.py", "io/test_processes.py",
    "test_examples.py",
)  # fmt: skip
"""Files that take 20 s or more of a core (`--processor-times`), about the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long files: `make test` gives a file to one worker, and where a long one is left to the end the other
    workers have nothing to do."""
    rank = {HERE / name: number for number, name in enumerate(LONGEST)}
    assert all(path.is_file() for path in rank), "LONGEST names a file that is not there"
    items.sort(key=lambda item: rank.get(item.path, len(rank)))  # keeps the order within files


def pytest_collection_finish() -> None:
    """What is imported by now stays; whoever looks for cycles need not look there."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Two cores are shared by the test workers; more threads only fight."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)  # also, ranks are forked from here (support/ranks.py), and threads are not
    os.environ.setdefault("EDGETAM_PRODUCTS", "onednn")  # nothing is measured, nothing written to the user's cache folder
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for commands that tests start: two workers share two cores


@pytest.fixture(scope="session", autouse=True)
def _one_session(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Name the folder of what is made once for all workers (`once`), and let processes that tests start begin sooner."""
    share_session(tmp_path_factory)
    paths = [str(HERE / "support" / "started"), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)


@pytest.fixture(scope="session", autouse=True)
def _one_fork_server() -> Iterator[None]:
    """A process has one fork server, and it has loaded what its first user asked for. Who needs more loads that in every
    process anew; tests come in any order, so here it has loaded what takes longest from the beginning."""
    known = BaseContext.set_forkserver_preload
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            BaseContext, "set_forkserver_preload", lambda self, names: known(self, [*names, "edgetam_pl.data.loader"])
        )
        yield


@pytest.fixture
def caplog(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Without what W&B's threads of an earlier test have to say meanwhile: that its service has ended."""

    def of_this_test(record: logging.LogRecord) -> bool:
        return not record.name.startswith("wandb")

    caplog.handler.addFilter(of_this_test)
    yield caplog
    caplog.handler.removeFilter(of_this_test)


@pytest.fixture(autouse=True)
def _quiet_wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test ever talks to a server, whatever the developer's environment says."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real video, images and reference outputs; tests that need it are skipped where it is absent."""
    root = Path(os.environ.get("EDGETAM_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (root / "data").is_dir():
        pytest.skip(f"no shared data at {root}; set EDGETAM_SHARED to the folder that holds data/ and reference/")
    return root


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
