"""What is known of the machine: flags of the processor, and bfloat16 where it is emulated."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from edgetam_pl.io import environment
from edgetam_pl.io.environment import cache_folder, processor_flags, warn_of_slow_bf16


def test_flags_are_sorted_and_there_is_at_least_one() -> None:
    flags = processor_flags()
    assert flags
    assert list(flags) == sorted(flags)


def test_bfloat16_on_a_processor_without_it_is_warned_of_with_what_to_give_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "processor_flags", lambda: ("avx2", "fma"))
    with pytest.warns(UserWarning, match=r"none of avx512_bf16, amx_bf16, bf16.*used all the same.*give precision=fp32"):
        warn_of_slow_bf16("cpu", instead="precision=fp32")


@pytest.mark.parametrize(
    ("device", "flags"),
    [("cuda:0", ("avx2", "fma")), ("cpu", ("avx512_bf16", "avx512f")), ("cpu", ("asimd", "bf16")), ("cpu", ("arm",))],
)
def test_no_warning_where_it_is_fast_or_where_nothing_is_known(
    device: str, flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "processor_flags", lambda: flags)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_slow_bf16(device, instead="fp32")


def test_the_cache_folder_can_be_moved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("EDGETAM_CACHE", raising=False)
    assert cache_folder() == tmp_path / "edgetam-pl"
    monkeypatch.setenv("EDGETAM_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
