"""Features that are kept on disk: an entry that is not what was written is named and made again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from edgetam_pl.training.teacher_cache import TeacherFeatureCache


def encoder(frames: Tensor) -> Callable[[list[int]], Tensor]:
    """Of the images of these numbers, features (N, 2, S/16, S/16)."""
    return lambda missing: frames.flatten(0, 1)[missing, :2, ::16, ::16].float() / 3


def spoil_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_byte,
        lambda path: os.truncate(path, 50),
        lambda path: os.truncate(path, 0),
        lambda path: path.write_bytes(b"no array at all"),
        lambda path: path.write_bytes(bytes(4)),
    ],
    ids=["a byte", "cut off", "empty", "text", "zeros"],
)
def test_a_damaged_entry_is_named_and_made_again(
    spoil: Callable[[Path], object], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache, frames = (
        TeacherFeatureCache(tmp_path, teacher="ab" * 32),
        torch.randint(256, (2, 1, 3, 32, 32), dtype=torch.uint8),
    )
    encode = encoder(frames)
    first = cache.of(frames, encode)
    paths = sorted(tmp_path.rglob("*.npy"))
    assert len(paths) == 2
    asked: list[int] = []
    spoil(paths[0])

    def counted(missing: list[int]) -> Tensor:
        asked.append(len(missing))
        return encode(missing)

    assert torch.equal(cache.of(frames, counted), first)
    assert f"{paths[0]} is damaged" in caplog.text
    assert torch.equal(cache.of(frames, counted), first)
    assert asked == [1]
