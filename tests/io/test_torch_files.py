"""Damage in a file of torch.save is found by its checksums."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

from edgetam_pl.io.torch_files import damage_in


def written(path: Path) -> Path:
    torch.save({"model": {f"w{n}": torch.arange(100.0) + n for n in range(4)}}, path)
    return path


def test_a_whole_file_has_no_damage(tmp_path: Path) -> None:
    assert damage_in(written(tmp_path / "a.pt")) == ""


def test_a_changed_bit_of_a_tensor_is_found_although_torch_reads_it(tmp_path: Path) -> None:
    path = written(tmp_path / "a.pt")
    data = bytearray(path.read_bytes())
    data[data.index(torch.arange(100.0).numpy().tobytes()) + 40] ^= 1
    path.write_bytes(data)
    torch.load(path, weights_only=True)
    assert "differs from its checksum" in damage_in(path)


def test_a_file_that_was_written_without_checksums_is_whole(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = written(tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is not None
    assert damage_in(path) == ""


@pytest.mark.parametrize("keep", [0, 1, 100, 900])
def test_a_file_that_ends_early_is_incomplete(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(written(tmp_path / "whole.pt").read_bytes()[:keep])
    assert damage_in(path).startswith(f"incomplete or no checkpoint ({keep} bytes")
