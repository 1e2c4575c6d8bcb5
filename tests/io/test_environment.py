"""What is known of the machine: flags of the processor, and bfloat16 where it is emulated."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from edgetam_pl.io import environment
from edgetam_pl.io.environment import cache_folder, keep_freed_pages, processor_flags, warn_of_slow_bf16


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


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_what_the_user_says_of_freed_memory_wins(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "65536")
    assert not keep_freed_pages()


def test_freed_memory_is_kept_by_the_process() -> None:
    """What is freed at the end of the heap is there for the next one that asks."""
    script = (
        "import ctypes, resource\n"
        "from edgetam_pl.io.environment import keep_freed_pages\n"
        "print(keep_freed_pages())\n"
        "libc = ctypes.CDLL(None); libc.malloc.restype = ctypes.c_void_p\n"
        "for _ in range(9):\n"
        "    libc.memset(at := ctypes.c_void_p(libc.malloc(2**24)), 1, 2**24); libc.free(at)\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    kept, *faults = done.stdout.split()
    if kept == "False":
        pytest.skip("this C library keeps or returns memory as it likes")
    assert int(faults[-1]) - int(faults[1]) < 2**24 // 4096  # not even once all of its pages
