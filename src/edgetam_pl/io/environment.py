"""What a result was made with: versions of the packages that matter, the machine, and how much memory was used."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import sys
import warnings
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PACKAGE = "edgetam-pl"
VERSION = metadata.version(PACKAGE)
"""Of this project, as installed."""

RECORDED = ("torch", "lightning", "timm", "numpy", "coremltools", "onnxruntime")

BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")
"""Flags of processors that multiply bfloat16 numbers: Intel and AMD, Intel's tiles, ARM."""


def versions(names: tuple[str, ...] = RECORDED) -> dict[str, str]:
    """Versions of this project, Python, and those of the named packages that are installed."""
    found = {"edgetam_pl": VERSION, "python": platform.python_version(), "machine": platform.machine()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def device_name(device: torch.device) -> str:
    """The accelerator, or the processor as the system calls it, and how many there are."""
    if device.type == "cuda":
        import torch  # the version of the package is known without it

        return torch.cuda.get_device_name(device)
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.is_file() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{name or platform.processor() or platform.machine()} ({os.cpu_count()} CPUs)"


def processor_flags() -> tuple[str, ...]:
    """What the first processor can do, as Linux lists it (avx2, avx512f ...), sorted; elsewhere its name alone."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.is_file() else []
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return tuple(sorted(flags)) or (platform.processor() or platform.machine(),)


def warn_of_slow_bf16(device: str, *, instead: str) -> None:
    """Warn when bfloat16 is asked of a processor that has no instructions for it: it is emulated, and slower than float32.

    Args:
        device: cpu | cuda ...; only a CPU whose flags Linux lists is judged.
        instead: what to give for float32, for the sentence.
    """
    flags = processor_flags()
    if device.partition(":")[0] != "cpu" or len(flags) < 2 or set(flags) & set(BF16_FLAGS):
        return
    warnings.warn(
        f"bfloat16 was asked for on a processor without instructions for it (none of {', '.join(BF16_FLAGS)}); PyTorch "
        f"emulates it, several times slower than float32. It is used all the same; for float32 give {instead}.",
        stacklevel=3,
    )


def cache_folder() -> Path:
    """Where a user's programs keep what they can make again: EDGETAM_CACHE, or edgetam-pl in the system's cache folder."""
    if "EDGETAM_CACHE" in os.environ:
        return Path(os.environ["EDGETAM_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / PACKAGE


def peak_memory_bytes() -> int:
    """The largest resident size of this process so far. Linux counts KiB, macOS bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def keep_freed_pages() -> bool:
    """Let the C library keep what is freed instead of giving it back to the system and asking again, page by page, which is
    a tenth of a training step on a CPU. For the whole process; False where the library is not glibc, or the user has set it
    otherwise."""
    if not sys.platform.startswith("linux") or any(
        name in os.environ for name in ("MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
    ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    trim, by_mmap, most = -1, -3, 2**25  # mallopt(3): M_TRIM_THRESHOLD, M_MMAP_THRESHOLD and its greatest value
    return mallopt is not None and bool(mallopt(trim, 2**31 - 1)) and bool(mallopt(by_mmap, most))
