"""What every test may ask for: the shared real data, a generator, one thread."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import edgetam_pl  # noqa: F401  (declares what torchvision needs before anything imports it)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Two cores are shared by the test workers; more threads only fight."""
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for commands that tests start: two workers share two cores


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
