"""The faster library of matrix products: measured once, remembered by processor, never in the way."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from edgetam_pl.inference import products
from edgetam_pl.inference.products import CHOICE, faster_library, measured, onednn_product

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("EDGETAM_CACHE", str(tmp_path))
    monkeypatch.delenv(CHOICE, raising=False)
    monkeypatch.setattr(products, "SHAPES", ((8, 4, 8),))
    products._library.cache_clear()
    yield
    products._library.cache_clear()


@needs_onednn
def test_the_product_is_that_of_the_blas() -> None:
    x, weight, bias = torch.randn(40, 24), torch.randn(16, 24), torch.randn(16)
    torch.testing.assert_close(onednn_product(x, weight, bias), x @ weight.T + bias, rtol=1e-5, atol=1e-5)


@needs_onednn
@pytest.mark.parametrize("name", ["blas", "onednn"])
def test_what_was_measured_is_remembered(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(products, "measured", lambda: {"library": name})
    assert faster_library() == name
    (kept,) = tmp_path.glob("products-*.json")
    assert json.loads(kept.read_text()) == {"library": name}
    products._library.cache_clear()
    monkeypatch.setattr(products, "measured", lambda: pytest.fail("it was measured again"))
    assert faster_library() == name


@needs_onednn
def test_another_limit_to_instructions_is_measured_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    faster_library()
    products._library.cache_clear()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    faster_library()
    assert len(list(tmp_path.glob("products-*.json"))) == 2


@needs_onednn
@pytest.mark.parametrize("content", ["", "[]", "{}", "null", '{"library": "mkl"}'])
def test_a_damaged_file_is_measured_anew_and_repaired(content: str, tmp_path: Path) -> None:
    faster_library()
    (kept,) = tmp_path.glob("products-*.json")
    kept.write_text(content)
    products._library.cache_clear()
    assert faster_library() in ("blas", "onednn")
    assert json.loads(kept.read_text())["library"] == faster_library()


@needs_onednn
def test_a_folder_that_cannot_be_written_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGETAM_CACHE", str(tmp_path / "file" / "below"))
    assert faster_library() in ("blas", "onednn")


@needs_onednn
def test_the_measurement_names_the_faster_one_and_both_times() -> None:
    found = measured()
    assert set(found) == {"library", "blas_ms", "onednn_ms"}
    assert found["library"] in ("blas", "onednn")


def test_the_user_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHOICE, "blas")
    assert faster_library() == "blas"
    monkeypatch.setenv(CHOICE, "onednm")
    with pytest.raises(
        ValueError, match=r"EDGETAM_PRODUCTS is onednm; use one of auto, blas, onednn\. Did you mean onednn\?"
    ):
        faster_library()


def test_a_run_that_is_continued_keeps_its_library_unless_the_user_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHOICE, "onednn")
    products.prefer("blas")
    assert os.environ[CHOICE] == "onednn"
    monkeypatch.delenv(CHOICE)
    for damaged in (None, "mkl", ["blas"], 3):
        products.prefer(damaged)
        assert CHOICE not in os.environ
    products.prefer("blas")
    assert faster_library() == "blas"


def test_without_onednn_there_is_the_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setenv(CHOICE, "onednn")
    assert faster_library() == "blas"
