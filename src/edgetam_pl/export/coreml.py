"""Core ML: parts to `.mlpackage` folders, on any system, through torch.export; the traps are in docs/export.md."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgetam_pl.config import ExportConfig
from edgetam_pl.export.extras import coremltools, hush, require
from edgetam_pl.export.mil_interpreter import Interpreter
from edgetam_pl.export.parts import PRECISIONS, Feature, Part, Saved, one_of
from edgetam_pl.io.environment import VERSION

SYSTEMS = ("ios17", "ios18")
COMPRESSIONS = ("none", "int8", "palette8", "palette6", "palette4")

_COORDINATE_OPS = frozenset({"add", "sub", "mul", "real_div", "matmul", "linear", "cast", "concat", "reshape"})
"""Operations between a coordinate and its sine."""


class CoreML:
    """The backend `coreml`."""

    name = "coreml"
    suffix = ".mlpackage"
    needs: tuple[str, ...] = ("coremltools",)

    def precision(self, config: ExportConfig) -> str:
        if config.system not in SYSTEMS:
            raise ValueError(f"system={config.system} is not a Core ML target here; use one of {', '.join(SYSTEMS)}.")
        one_of("attention", config.attention, ("decomposed", "fused"))
        one_of("precision", config.precision, PRECISIONS)
        if config.attention == "fused" and config.system == "ios17":
            raise ValueError("attention=fused needs system=ios18: Core ML has no fused attention before it.")
        if config.multifunction and config.system == "ios17":
            raise ValueError("multifunction=true needs system=ios18: earlier systems load packages of one function only.")
        one_of("compression", config.compression, COMPRESSIONS)
        if config.compression == "palette4" and config.system == "ios17":
            raise ValueError("compression=palette4 needs system=ios18: grouped palettes came with it.")
        return "fp16" if config.precision == "auto" else config.precision

    def wire(self, feature: Feature, precision: str) -> str:
        return feature.dtype(precision)

    def convert(self, parts: Sequence[Part], folder: Path, config: ExportConfig) -> tuple[Saved, ...]:
        precision = self.precision(config)
        saved = []
        for part in parts:
            model = compress(convert_part(part, precision=precision, system=config.system), config.compression)
            describe(model, part)
            path = folder / f"{part.name}{self.suffix}"
            with hush():
                model.save(str(path))
            saved.append(Saved(part, path))
        return merge(saved, folder, config.name) if config.multifunction else tuple(saved)

    def load(self, saved: Saved, *, rounded: bool) -> Interpreter:
        return Interpreter.load(saved.path, function=saved.function, rounded=rounded)


def convert_part(part: Part, *, precision: str, system: str) -> Any:
    """The part as a coremltools model, not yet saved."""
    ct = coremltools()
    example = tuple(example_of(feature) for feature in part.inputs)
    with hush(), warnings.catch_warnings(), torch.no_grad():
        program = torch.export.export(part.module, example, strict=False).run_decompositions({})
        return ct.convert(
            program,
            inputs=[_input(ct, feature, precision) for feature in part.inputs],
            outputs=[_output(ct, feature, precision) for feature in part.outputs],
            minimum_deployment_target={"ios17": ct.target.iOS17, "ios18": ct.target.iOS18}[system],
            compute_precision=_compute_precision(ct, precision),
            skip_model_load=True,
        )


def example_of(feature: Feature) -> torch.Tensor:
    """An input of the right shape and type; the graph does not depend on its values."""
    if feature.kind == "int32":
        return torch.zeros(feature.shape, dtype=torch.int32)
    return torch.zeros(feature.shape)


def describe(model: Any, part: Part) -> None:
    """Write the contract into the package itself: purpose, version, and what each feature means."""
    model.short_description = part.purpose
    model.author = "EdgeTAM-PL"
    model.license = "Apache-2.0"
    model.version = VERSION
    for feature in part.inputs:
        model.input_description[feature.name] = feature.meaning
    for feature in part.outputs:
        model.output_description[feature.name] = feature.meaning
    model.user_defined_metadata["edgetam_pl.role"] = part.role
    model.user_defined_metadata["edgetam_pl.compute_units"] = part.compute_units


def compress(model: Any, kind: str) -> Any:
    """Weights of convolutions and linear layers at 8, 6 or 4 bits. Position tables stay: they are no weights."""
    if kind == "none":
        return model
    cto = require("coremltools.optimize.coreml")

    if kind == "int8":
        how = cto.OpLinearQuantizerConfig(mode="linear_symmetric", dtype="int8", granularity="per_channel")
        work = cto.linear_quantize_weights
    else:
        bits = int(kind.removeprefix("palette"))
        if bits == 4:
            how = cto.OpPalettizerConfig(mode="kmeans", nbits=4, granularity="per_grouped_channel", group_size=16)
        else:
            how = cto.OpPalettizerConfig(mode="kmeans", nbits=bits)
        work = cto.palettize_weights
    by_type: Any = {"conv": how, "linear": how}  # coremltools declares one configuration here, and means a mapping
    with hush():
        return work(model, cto.OptimizationConfig(op_type_configs=by_type))


def merge(saved: Sequence[Saved], folder: Path, name: str) -> tuple[Saved, ...]:
    """One package with a function per part; weights that parts share are stored once (iOS 18)."""
    import shutil

    ct = coremltools()
    together = folder / f"{name}.mlpackage"
    descriptor = ct.utils.MultiFunctionDescriptor()
    for each in saved:
        descriptor.add_function(str(each.path), src_function_name="main", target_function_name=each.part.role)
    descriptor.default_function_name = saved[0].part.role
    with hush():
        ct.utils.save_multifunction(descriptor, str(together))
    for each in saved:
        shutil.rmtree(each.path)
    return tuple(Saved(each.part, together, each.part.role) for each in saved)


def _input(ct: Any, feature: Feature, precision: str) -> Any:
    if feature.kind == "image":  # normalisation is inside the module, per channel: ImageType has one scale for all three
        return ct.ImageType(name=feature.name, shape=feature.shape, color_layout=ct.colorlayout.RGB)
    return ct.TensorType(name=feature.name, shape=feature.shape, dtype=_NUMPY[feature.dtype(precision)])


def _output(ct: Any, feature: Feature, precision: str) -> Any:
    return ct.TensorType(name=feature.name, dtype=_NUMPY[feature.dtype(precision)])


_NUMPY = {"fp16": np.float16, "fp32": np.float32, "int32": np.int32}


def _compute_precision(ct: Any, precision: str) -> Any:
    if precision == "fp32":
        return ct.precision.FLOAT32
    return ct.transform.FP16ComputePrecision(op_selector=lambda operation: not _makes_angles(operation))


def _makes_angles(operation: Any) -> bool:
    """Is this on the way from a coordinate to its sine? Half precision steps by half a pixel above 512."""
    if operation.op_type in {"sin", "cos"}:
        return True
    if operation.op_type not in _COORDINATE_OPS:
        return False
    return any(_makes_angles(child) for output in operation.outputs for child in output.child_ops)
