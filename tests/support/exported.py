"""A small model with weights that matter, and what it becomes when exported; shared by the export tests."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from converted import converted_once
from torch import Tensor, nn

from edgetam_pl.build import build_model
from edgetam_pl.config import CompressorConfig, ExportConfig, GateConfig, ModelConfig
from edgetam_pl.exporting.backend import Backend
from edgetam_pl.exporting.backends import backend_of
from edgetam_pl.exporting.gate.judge import judge
from edgetam_pl.exporting.gate.measures import Verdict
from edgetam_pl.exporting.gate.truth import Truth
from edgetam_pl.exporting.manifest import RuntimeSpec, read
from edgetam_pl.exporting.parts import Feature, Part, Program, Saved
from edgetam_pl.exporting.report import ExportReport
from edgetam_pl.exporting.run import export_packages
from edgetam_pl.model.track_anything import TrackAnything


def tiny(**overrides: object) -> ModelConfig:
    """Every part of EdgeTAM, once: conversion time goes with the number of operations, not with their size."""
    settings: dict[str, object] = {
        "name": "tiny",
        "image_size": 128,
        "trunk_args": {"embed_dim": [8, 16, 32, 64], "depth": [1, 1, 1, 1]},
        "dim": 32,
        "memory_dim": 16,
        "memory_blocks": 1,
        "memory_ffn": 64,
        "decoder_heads": 4,
        "decoder_mlp": 64,
        "compressor": CompressorConfig(global_latents=16, spatial_latents=16, depth=1),
    }
    return ModelConfig(**(settings | overrides))  # type: ignore[arg-type]


def filled_model(cfg: ModelConfig, seed: int = 0) -> TrackAnything:
    """The model, filled so that nothing is inert: no zero gains, BatchNorm statistics and ages that matter."""
    model = build_model(cfg).eval()
    draw = torch.Generator().manual_seed(seed)

    def filled(name: str, like: Tensor) -> Tensor:
        if not like.is_floating_point():
            return like
        z = torch.randn(like.shape, generator=draw)
        if name.endswith("running_var"):
            return 1 + 0.5 * z.abs()
        if name.endswith(".bn.weight"):
            return 0.3 + 0.1 * z
        if name.endswith(("memory_attention.age", "latents")):
            return z
        if like.ndim >= 2:
            return z / max(like[0].numel(), 1) ** 0.5
        return (1.0 if name.endswith(("weight", "gamma")) else 0.0) + 0.2 * z

    model.load_state_dict({name: filled(name, tensor) for name, tensor in model.state_dict().items()})
    with torch.no_grad():
        last = model.mask_decoder.presence_head.layers[-1]
        assert isinstance(last, nn.Linear)
        last.bias.fill_(20.0)
    return model


@dataclass(frozen=True)
class Exported:
    """An export that passed, with all that is needed to judge it again."""

    model: TrackAnything
    cfg: ExportConfig
    out: Path
    report: ExportReport
    parts: dict[str, Part]
    loop: RuntimeSpec

    @property
    def saved(self) -> list[Saved]:
        manifest = read(self.out)
        return [Saved(self.parts[entry.role], self.out / entry.file, entry.function) for entry in manifest.parts]

    def judge(
        self,
        change: Mapping[str, Callable[[Program], Program]],
        *,
        saved: list[Saved] | None = None,
        bounds: GateConfig | None = None,
    ) -> Verdict:
        """The gate again, quickly, with some programs changed after loading."""
        verdict, bounds = Verdict(), GateConfig(frames=5, short_frames=4) if bounds is None else bounds
        cfg = dataclasses.replace(self.cfg, precision=self.report.precision, gate=bounds)
        changed = Changed(self.cfg.backend, change)
        packages = self.saved if saved is None else saved
        truth = Truth(self.model, self.parts, self.loop, bounds)
        judge(truth, changed, packages, cfg, verdict, lambda text: None)
        return verdict


class Changed(Backend):
    """A backend whose programs are tampered with on the way from the disk."""

    def __init__(self, name: str, change: Mapping[str, Callable[[Program], Program]]) -> None:
        self.name, self.change, self.backend = name, change, backend_of(name)
        self.precision, self.rounds = self.backend.precision, self.backend.rounds
        self.activation_peaks = self.backend.activation_peaks

    def convert(self, parts: object, folder: Path, config: ExportConfig) -> tuple[Saved, ...]:
        raise AssertionError("these packages are saved already")

    def load(self, saved: Saved, *, rounded: bool) -> Program:
        if saved.part.role in self.change:
            return self.change[saved.part.role](self.backend.load(saved, rounded=rounded))
        return _loaded(self.name, saved, rounded)


@functools.cache
def _loaded(backend: str, saved: Saved, rounded: bool) -> Program:
    """A program that nobody tampers with: reading it takes longer than judging it."""
    return backend_of(backend).load(saved, rounded=rounded)


def forgetful(program: Program) -> Program:
    """TrackStep without what the object's pointers say."""

    def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return program({**inputs, "obj_ptr_valid": inputs["obj_ptr_valid"] * 0})

    return run


def export(cfg: ExportConfig, out: Path, model: TrackAnything | None = None) -> Exported:
    """Export a filled model of `cfg.model` into `out`. Its parts are converted once a session."""
    model = filled_model(cfg.model) if model is None else model
    truth = Truth.of(model, cfg)
    with converted_once():
        report = export_packages(model, out, cfg, checkpoint="filled", truth=truth)
    return Exported(truth.model, cfg, out, report, dict(truth.parts), truth.loop)


def part_of(module: nn.Module, *inputs: tuple[str, tuple[int, ...]]) -> Part:
    """A part around a module of float tensors, for conversions of single layers."""
    features = tuple(Feature(name, shape, "float", "") for name, shape in inputs)
    with torch.no_grad():
        result = module(*(torch.zeros(shape) for _, shape in inputs))
    return Part("Layer", "layer", module.eval(), features, (Feature("y", tuple(result.shape), "float", ""),), "test")
