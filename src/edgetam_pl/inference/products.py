"""Which library multiplies float32 matrices faster on this processor: PyTorch's BLAS or oneDNN. Measured once, remembered.

The vendor does not tell: on an AMD with AVX-512 oneDNN takes half of the BLAS's time, on an Intel it takes somewhat more.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from edgetam_pl.config.choices import check_choice
from edgetam_pl.io.atomic import write_text
from edgetam_pl.io.environment import cache_folder, processor_flags

CHOICE = "EDGETAM_PRODUCTS"
"""Environment variable: auto | blas | onednn."""

LIBRARIES = ("blas", "onednn")

SHAPES = ((512, 256, 2048), (1024, 2048, 256), (16384, 96, 192))
"""Rows, summed length and columns of the products that are timed: attention's scores, a feed-forward, an encoder's layer."""

ROUNDS = 7
MARGIN = 0.9
"""oneDNN is taken when it needs at most this share of the BLAS's time, so that noise does not decide."""


def faster_library() -> str:
    """blas | onednn: what EDGETAM_PRODUCTS says, or else what is faster here with as many threads as PyTorch has now.

    Raises:
        ValueError: EDGETAM_PRODUCTS is something else.
    """
    return _library(os.environ.get(CHOICE, "auto"), torch.get_num_threads())


def prefer(name: object) -> None:
    """Take this library from here on, unless EDGETAM_PRODUCTS says otherwise: the two round differently, so a run that is
    continued multiplies as it began. Anything but a library's name is ignored."""
    if name in LIBRARIES:
        os.environ.setdefault(CHOICE, str(name))


def onednn_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (N, C) times weight (K, C), transposed -> (N, K); any strides. A product is a 1x1 convolution of one row of pixels,
    and `torch.mkldnn_convolution` is oneDNN's, whatever PyTorch's own choice would be."""
    pixels, kernel = x[None, None].permute(0, 3, 1, 2), weight[:, :, None, None]
    return torch.mkldnn_convolution(pixels, kernel, bias, (0, 0), (1, 1), (1, 1), 1)[0, :, 0].T.contiguous()


@lru_cache
def _library(choice: str, threads: int) -> str:
    check_choice(CHOICE, choice, ("auto", *LIBRARIES))
    if not torch.backends.mkldnn.is_available() or not hasattr(torch, "mkldnn_convolution"):
        return "blas"
    if choice != "auto":
        return choice
    kept = cache_folder() / f"products-{_processor(threads)}.json"
    try:
        if (found := json.loads(kept.read_text())["library"]) in LIBRARIES:
            return found
    except (OSError, ValueError, KeyError, TypeError):  # not measured yet, or not readable
        pass
    found = measured()
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_text(kept, json.dumps(found) + "\n")
    except OSError:  # a home that cannot be written: measured again by the next process
        pass
    return str(found["library"])


def measured() -> dict[str, str | float]:
    """The faster library, and the milliseconds of both: the least of several rounds, in turn. About half a second."""
    spent = {"blas": 0.0, "onednn": 0.0}
    ways: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"blas": lambda x, w: x @ w.T, "onednn": onednn_product}
    with torch.inference_mode():
        for rows, length, columns in SHAPES:
            x, weight = torch.ones(rows, length), torch.ones(columns, length)
            for name, way in ways.items():
                way(x, weight)
                spent[name] += 1000 * min(_seconds(way, x, weight) for _ in range(ROUNDS))
    chosen = "onednn" if spent["onednn"] < MARGIN * spent["blas"] else "blas"
    return {"library": chosen, **{f"{name}_ms": round(value, 3) for name, value in spent.items()}}


def _seconds(way: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor) -> float:
    begin = time.perf_counter()
    way(x, weight)
    return time.perf_counter() - begin


def _processor(threads: int) -> str:
    """Another processor, another PyTorch, other limits to instructions or another number of threads: another measurement."""
    limits = [f"{name}={os.environ.get(name)}" for name in ("ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")]
    told = (torch.__version__, torch.backends.cpu.get_cpu_capability(), *limits, str(threads), *processor_flags())
    return hashlib.sha256(" ".join(told).encode()).hexdigest()[:16]
