"""What a model costs, without training it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgetam_pl.commands.compose import composed
from edgetam_pl.config import TrainConfig
from edgetam_pl.sweeps.cost import arithmetic, package_bytes


def test_the_size_of_packages_is_that_of_all_their_files(tmp_path: Path) -> None:
    assert package_bytes(tmp_path) is None
    (tmp_path / "packages" / "A.mlpackage" / "Data").mkdir(parents=True)
    (tmp_path / "packages" / "A.mlpackage" / "Data" / "weights.bin").write_bytes(b"12345")
    (tmp_path / "packages" / "B.onnx").write_bytes(b"123")
    (tmp_path / "packages" / "README.md").write_text("not a package")
    assert package_bytes(tmp_path) == 8


@pytest.mark.parametrize(("name", "tokens"), [("toy", 32), ("toy_teacher", 64)])
def test_arithmetic_counts_what_memory_attention_reads(name: str, tokens: int) -> None:
    said = arithmetic(composed(TrainConfig, command="train", overrides=[f"model={name}"])[0].model)
    assert said["memory_tokens"] == tokens
    assert said["bank_tokens"] == 7 * tokens
    assert said["gflops"]["total"] == pytest.approx(sum(v for k, v in said["gflops"].items() if k != "total"))
