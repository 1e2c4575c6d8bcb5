"""Core ML: parts to `.mlpackage` folders, on any system, through torch.export; the traps are in docs/export.md."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgetam_pl.config import ExportConfig
from edgetam_pl.exporting.backend import Backend, ProgramFacts
from edgetam_pl.exporting.documents import render
from edgetam_pl.exporting.extras import Finding, numbers, require, silenced
from edgetam_pl.exporting.manifest import Manifest
from edgetam_pl.exporting.mil_interpreter import Interpreter, load_program
from edgetam_pl.exporting.parts import Feature, Part, Program, Saved
from edgetam_pl.io.environment import VERSION

_COORDINATE_OPS = frozenset({"add", "sub", "mul", "real_div", "matmul", "linear", "cast", "concat", "reshape"})
"""Operations between a coordinate and its sine."""

_NUMPY = {"fp16": np.float16, "fp32": np.float32, "int32": np.int32}

WEIGHTED = ("conv", "linear")
"""Operations whose weights are compressed."""


class CoreML(Backend):
    """The backend `coreml`."""

    name = "coreml"
    title = "Core ML"
    suffix = ".mlpackage"
    needs = ("coremltools",)
    optional = {"scikit-learn": "palettes (compression=palette8, palette6, palette4)"}  # noqa: RUF012
    tested = {"coremltools": ((9, 0), (9, 0))}  # noqa: RUF012
    default_precision = "fp16"
    choices = {  # noqa: RUF012
        "system": ("ios17", "ios18"),
        "attention": ("decomposed", "fused"),
        "multifunction": (False, True),
        "compression": ("none", "int8", "palette8", "palette6", "palette4"),
    }
    volatile = ("Manifest.json",)  # random names with every save
    runner = "our interpreter of its programs, over torch"
    device = "Core ML itself"

    def precision(self, config: ExportConfig) -> str:
        precision = super().precision(config)
        if config.system == "ios17":
            for key, value, why in (
                ("attention", "fused", "Core ML has no fused attention before it"),
                ("multifunction", True, "earlier systems load packages of one function only"),
                ("compression", "palette4", "grouped palettes came with it"),
            ):
                if getattr(config, key) == value:
                    raise ValueError(f"{key}={str(value).lower()} needs system=ios18: {why}.")
        return precision

    def system(self, config: ExportConfig) -> str:
        return config.system

    def wire(self, feature: Feature, precision: str) -> str:
        return feature.dtype(precision)

    def convert(self, parts: Sequence[Part], folder: Path, config: ExportConfig) -> tuple[Saved, ...]:
        precision = self.precision(config)
        saved = []
        for part in parts:
            model = compress(convert_part(part, precision=precision, system=config.system), config.compression)
            describe(model, part)
            path = folder / f"{part.name}{self.suffix}"
            with silenced():
                model.save(str(path))
            saved.append(Saved(part, path))
        done = merge(saved, folder / f"{config.name}{self.suffix}") if config.multifunction else tuple(saved)
        for path in {each.path for each in done}:
            order_entries(path)
        return done

    def load(self, saved: Saved, *, rounded: bool) -> Interpreter:
        return Interpreter.load(saved.path, function=saved.function, rounded=rounded, record=rounded)

    def rounds(self, precision: str) -> bool:
        return precision == "fp16"

    def facts(self, saved: Saved) -> ProgramFacts:
        functions = load_program(saved.path).functions
        function = functions[saved.function] if saved.function else next(iter(functions.values()))
        found = [op for op in function.operations if op.op_type != "const" and not op.op_type.startswith("constexpr_")]
        rank = max(len(var.shape) for operation in found for var in operation.outputs)
        return ProgramFacts(tuple(sorted({operation.op_type for operation in found})), len(found), rank)

    def activation_peaks(self, program: Program) -> Mapping[str, float]:
        peaks = program.peaks if isinstance(program, Interpreter) else {}
        return {f"{peak.operation} {name}": peak.value for name, peak in peaks.items() if peak.fp16}

    def usage(self, manifest: Manifest) -> str:
        return render("usage_coreml.md.jinja", manifest=manifest, spec=manifest.loop)

    def findings(self, installed: Callable[[str], str | None]) -> list[Finding]:
        found = super().findings(installed)
        tools, numpy = installed("coremltools"), installed("numpy")
        # numpy 2.4 breaks the older front end of coremltools 9.0; ours goes through torch.export, which works with both
        if tools and numpy and numbers(tools) <= (9, 0) and numbers(numpy) >= (2, 4):
            message = f"{numpy}: coremltools {tools} fails with it where it traces; pip install 'numpy<2.4' to be safe"
            found.append(Finding("numpy", "note", message))
        if sys.platform == "darwin":
            return [*found, Finding("Apple", "ok", "macOS: validate_on_mac.py can run Core ML itself")]
        message = "not a Mac: programs are checked numerically here, validate_on_mac.py does the rest there"
        return [*found, Finding("Apple", "missing", message, ("running Core ML itself",))]


def convert_part(part: Part, *, precision: str, system: str) -> Any:
    """The part as a coremltools model, not yet saved."""
    ct = require("coremltools")
    with silenced(), torch.no_grad():
        program = torch.export.export(part.module, part.example(), strict=False).run_decompositions({})
        return ct.convert(
            program,
            inputs=[_input(ct, feature, precision) for feature in part.inputs],
            outputs=[ct.TensorType(name=f.name, dtype=_NUMPY[f.dtype(precision)]) for f in part.outputs],
            minimum_deployment_target={"ios17": ct.target.iOS17, "ios18": ct.target.iOS18}[system],
            compute_precision=_compute_precision(ct, precision),
            skip_model_load=True,
        )


def describe(model: Any, part: Part) -> None:
    """Write the contract into the package itself: purpose, version, and what each feature means."""
    model.short_description = part.purpose
    model.author, model.license, model.version = "EdgeTAM-PL", "Apache-2.0", VERSION
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
        method, work = (
            cto.OpLinearQuantizerConfig(mode="linear_symmetric", granularity="per_channel"),
            cto.linear_quantize_weights,
        )
    else:
        bits = int(kind.removeprefix("palette"))
        groups = {"granularity": "per_grouped_channel", "group_size": 16} if bits == 4 else {}
        method, work = cto.OpPalettizerConfig(mode="kmeans", nbits=bits, **groups), cto.palettize_weights
    by_type = dict.fromkeys(WEIGHTED, method)
    stays = dict.fromkeys(_shared(model))
    with silenced():
        return work(model, cto.OptimizationConfig(op_type_configs=by_type, op_name_configs=stays))


def _shared(model: Any) -> set[str]:
    """Constants that weighted operations share with others, such as equal biases, which conversion stores once. coremltools
    refuses a constant of which it is told two things."""
    found = set()
    for function in model._mil_program.functions.values():
        for op in function.operations:
            users = {user.op_type in WEIGHTED for out in op.outputs for user in out.child_ops}
            if op.op_type == "const" and users == {True, False}:
                found.add(op.name)
    return found


def order_entries(package: Path) -> None:
    """Write the program of a package once more with its tables in order: protobuf leaves that to chance, and equal weights
    should give equal files."""
    ct = require("coremltools")
    (path,) = package.glob("Data/*/model.mlmodel")
    program = ct.proto.Model_pb2.Model()
    program.ParseFromString(path.read_bytes())
    path.write_bytes(program.SerializeToString(deterministic=True))


def merge(saved: Sequence[Saved], path: Path) -> tuple[Saved, ...]:
    """One package with a function per part; weights that parts share are stored once (iOS 18)."""
    ct = require("coremltools")
    descriptor = ct.utils.MultiFunctionDescriptor()
    for each in saved:
        descriptor.add_function(str(each.path), src_function_name="main", target_function_name=each.part.role)
    descriptor.default_function_name = saved[0].part.role
    with silenced():
        ct.utils.save_multifunction(descriptor, str(path))
    for each in saved:
        shutil.rmtree(each.path)
    return tuple(Saved(each.part, path, each.part.role) for each in saved)


def _input(ct: Any, feature: Feature, precision: str) -> Any:
    if feature.kind == "image":  # normalisation is inside the module, per channel: ImageType has one scale for all three
        return ct.ImageType(name=feature.name, shape=feature.shape, color_layout=ct.colorlayout.RGB)
    return ct.TensorType(name=feature.name, shape=feature.shape, dtype=_NUMPY[feature.dtype(precision)])


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
