"""Latency by verb on a full memory bank (the paper's Fig. 2): a card for people, JSON on the last line.

Verbs are timed one by one, then the whole step: a new frame in, masks and memories out.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgetam_pl.build import RANDOM, load_model
from edgetam_pl.config import BenchConfig
from edgetam_pl.config.choices import check_choices
from edgetam_pl.inference.optimised import FastTracker
from edgetam_pl.inference.products import faster_library
from edgetam_pl.io.atomic import write_text
from edgetam_pl.io.environment import device_name, peak_memory_bytes, processor_flags, warn_of_slow_bf16
from edgetam_pl.io.templates import render
from edgetam_pl.tracking.bank import MemoryBank, RecallPolicy
from edgetam_pl.tracking.frame_tracker import FrameTracker, TrackingOptions
from edgetam_pl.tracking.prompters import no_prompt
from edgetam_pl.tracking.step import observe, remember
from edgetam_pl.types import EMPTY_RECALL, VERBS, ImageFeatures, Prompts

MEASURED = (*VERBS, "step")
SETTINGS = ("dtype", "fuse", "channels_last", "compile", "cuda_graphs", "batch_objects", "warmup", "repeats")
"""Keys of the configuration that the result names."""


def run(cfg: BenchConfig) -> dict[str, Any]:
    """Measure, print the card, and return what the last line says.

    Raises:
        ValueError: a device, type or number that cannot be measured.
    """
    _check(cfg)
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    device = torch.device(cfg.device)
    if cfg.dtype == "bfloat16":
        warn_of_slow_bf16(cfg.device, instead="dtype=float32")
    tracker = _tracker(cfg, device)
    image = _picture(cfg, device)
    result: dict[str, Any] = {
        "model": cfg.model.name,
        "image_size": cfg.model.image_size,
        "weights": cfg.weights or "random",
        "settings": {name: getattr(cfg, name) for name in SETTINGS},
        "machine": machine(device),
        "unit": "ms",
        "objects": {},
    }
    for count in cfg.objects:
        result["objects"][str(count)] = measure(tracker, image, count=count, cfg=cfg)
    result["peak_mb"] = _peak_mb(device)
    print(card(result))
    line = json.dumps(result)
    if cfg.out is not None:
        write_text(cfg.out, line + "\n")
    print(line)
    return result


def measure(tracker: FrameTracker, image: Tensor, *, count: int, cfg: BenchConfig) -> dict[str, dict[str, float]]:
    """Latency of each verb in milliseconds with `count` objects whose banks are full.

    Args:
        image: (1, 3, S, S) normalised, on the device.
    """
    rows, calls = (count, 1) if cfg.batch_objects else (1, count)

    def times(function: Callable[[], object]) -> Callable[[], object]:
        return lambda: [function() for _ in range(calls)]

    with torch.inference_mode():
        features = tracker.encode(image)
        bank, t = _full_bank(tracker, features, rows=rows)
        recall = bank.recall(t)
        f_m = tracker.attend(features.f16, recall)
        decoded = tracker.decode(f_m, features, None)

        def step() -> None:
            new = tracker.encode(image)
            for _ in range(calls):
                output = observe(tracker, bank, new, t, no_prompt)
                remember(tracker, bank, new, t, output)

        work: dict[str, Callable[[], object]] = {
            "encode": lambda: tracker.encode(image),
            "attend": times(lambda: tracker.attend(features.f16, recall)),
            "decode": times(lambda: tracker.decode(f_m, features, None)),
            "memorize": times(lambda: tracker.memorize(features.f16, decoded)),
            "step": step,
        }
        return {verb: _timed(work[verb], image.device, warmup=cfg.warmup, repeats=cfg.repeats) for verb in MEASURED}


def summary(milliseconds: list[float], processor: list[float] | None = None) -> dict[str, float]:
    """Median, 95th percentile and largest of the measured times; of the processor's time the median."""
    found = {
        "p50": np.median(milliseconds),
        "p95": np.percentile(milliseconds, 95, method="nearest"),
        "max": max(milliseconds),
    }
    if processor is not None:
        found["processor"] = np.median(processor)
    return {name: round(float(value), 3) for name, value in found.items()}


def card(result: dict[str, Any]) -> str:
    """What a person reads."""
    return render("edgetam_pl.commands", "bench.txt.jinja", verbs=MEASURED, **result)


def machine(device: torch.device) -> dict[str, Any]:
    """Where and when the figures were taken. `flags` are the processor's that matter here; `limit` is the instructions that
    PyTorch was held to, with ATEN_CPU_CAPABILITY=avx2 for example."""
    telling = ("avx2", "fma", "avx512", "amx", "bf16", "asimd", "sve")
    return {
        "device": device_name(device),
        "flags": [flag for flag in processor_flags() if flag.startswith(telling)],
        "limit": torch.backends.cpu.get_cpu_capability(),
        "products": faster_library() if device.type == "cpu" else None,
        "system": platform.system(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "date": datetime.now(UTC).date().isoformat(),
    }


def _timed(function: Callable[[], object], device: torch.device, *, warmup: int, repeats: int) -> dict[str, float]:
    """Milliseconds of a call, the device's work included; on a CPU also the processor's time, which other programs do not
    lengthen as they do the clock's."""
    for _ in range(warmup):
        function()
    milliseconds, processor = [], []
    for _ in range(repeats):
        _wait(device)
        begin, spent = time.perf_counter(), time.process_time()
        function()
        _wait(device)
        milliseconds.append(1000 * (time.perf_counter() - begin))
        processor.append(1000 * (time.process_time() - spent))
    return summary(milliseconds, processor if device.type == "cpu" else None)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _full_bank(tracker: FrameTracker, features: ImageFeatures, *, rows: int) -> tuple[MemoryBank, int]:
    """A bank in which nothing is missing, and the frame that reads it: 7 memories, 16 pointers."""
    policy = RecallPolicy.inference()
    device = features.f16.device
    click = Prompts(torch.full((rows, 1, 2), 8.0, device=device), torch.ones(rows, 1, dtype=torch.int64, device=device))
    first = tracker.decode(tracker.attend(features.f16, EMPTY_RECALL), features, click)
    memory = tracker.memorize(features.f16, first)
    bank = MemoryBank(policy=policy)
    for t in range(policy.num_pointers):
        bank = bank.write(t, memory, prompted=t == 0)
    return bank, policy.num_pointers


def _tracker(cfg: BenchConfig, device: torch.device) -> FrameTracker:
    fast = FastTracker(
        load_model(cfg.model, cfg.weights or RANDOM, seed=cfg.seed).to(device),
        fused=cfg.fuse,
        channels_last=cfg.channels_last,
        compiled=cfg.compile,
        cuda_graphs=cfg.cuda_graphs,
    )
    frame = np.zeros((fast.image_size, fast.image_size, 3), np.uint8)  # never read: features are timed from the picture
    options = TrackingOptions(
        autocast=None if cfg.dtype == "float32" else getattr(torch, cfg.dtype), channels_last=cfg.channels_last
    )
    return FrameTracker(fast, lambda t: frame, frame.shape[:2], device=device, options=options)


def _picture(cfg: BenchConfig, device: torch.device) -> Tensor:
    side = cfg.model.image_size
    image = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(cfg.seed))
    return image.to(device, memory_format=torch.channels_last if cfg.channels_last else torch.contiguous_format)


def _check(cfg: BenchConfig) -> None:
    check_choices(cfg)
    if not cfg.objects or min(cfg.objects) < 1:
        raise ValueError(f"objects is {cfg.objects}; give numbers of objects, each at least 1, for example [1,2,4].")
    if cfg.repeats < 1 or cfg.warmup < 0 or cfg.threads < 0:
        raise ValueError(
            f"repeats is {cfg.repeats}, warmup {cfg.warmup}, threads {cfg.threads}; at least 1, 0 and 0 are needed."
        )
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present.get(cfg.device.partition(":")[0], False):
        here = ", ".join(name for name, there in present.items() if there)
        raise ValueError(f"device is {cfg.device}, which this machine or this PyTorch does not have; here: {here}.")


def _peak_mb(device: torch.device) -> float:
    """Peak of the GPU's memory, or of the process on a CPU, in MB of a million bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return peak_memory_bytes() / 1e6
