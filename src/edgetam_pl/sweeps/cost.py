"""What a model costs: parameters, arithmetic by verb, memory tokens, latency by verb, size of its packages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from edgetam_pl.build import build_model
from edgetam_pl.commands import bench
from edgetam_pl.commands.show import FULL_FRAMES, verbs
from edgetam_pl.config import BenchConfig, ExportConfig, ModelConfig
from edgetam_pl.exporting import ExportRefused
from edgetam_pl.exporting.backends import BACKENDS
from edgetam_pl.io.hashing import bytes_of


def arithmetic(cfg: ModelConfig) -> dict[str, Any]:
    """Parameters, 10^9 floating-point operations by verb, memory tokens: what needs no machine and no memory to know."""
    with torch.device("meta"):
        model = build_model(cfg)
    flops = {verb.name: verb.flops / 1e9 for verb in verbs(model)}
    height, width = model.compressor.grid
    tokens = model.compressor.non_spatial + height * width
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "gflops": {**flops, "total": sum(flops.values())},
        "memory_tokens": tokens,
        "bank_tokens": FULL_FRAMES * tokens,
    }


def latency(cfg: BenchConfig, *, model: ModelConfig, weights: Path) -> dict[str, Any]:
    """Median milliseconds of each verb for one object, by the clock and (on a CPU) by the processor; and where."""
    found = bench.run(replace(cfg, model=model, weights=str(weights), objects=[1]))
    measured = found["objects"]["1"]
    times = {"latency_ms": {verb: values["p50"] for verb, values in measured.items()}, "machine": found["machine"]}
    if all("processor" in values for values in measured.values()):
        times["processor_ms"] = {verb: values["processor"] for verb, values in measured.items()}
    return times


def package_bytes(out: Path) -> int | None:
    """Bytes of all exported packages in a run directory, of whatever format; None where there are none."""
    sizes = [bytes_of(path) for backend in BACKENDS.values() for path in out.rglob(f"*{backend.suffix}")]
    return sum(sizes) if sizes else None


def export(cfg: ExportConfig, *, model: ModelConfig, weights: Path, out: Path) -> str:
    """Export packages into `out`; returns why not where the gate refuses, or an empty text."""
    from edgetam_pl.exporting.run import run

    try:
        run(replace(cfg, model=model, weights=str(weights), out=str(out)))
    except ExportRefused as refusal:
        return str(refusal)
    return ""
