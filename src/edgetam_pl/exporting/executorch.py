"""ExecuTorch: parts to `.pte` programs, by XNNPACK, the CPU path of Android and iOS, or by Core ML's delegate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from edgetam_pl.config import ExportConfig
from edgetam_pl.exporting.backend import Backend
from edgetam_pl.exporting.documents import render
from edgetam_pl.exporting.executorch_coreml import EXECUTED, DelegatedProgram, is_delegated, partitioner
from edgetam_pl.exporting.extras import require, silenced
from edgetam_pl.exporting.manifest import Manifest
from edgetam_pl.exporting.parts import Part, Program, Saved


class ExecuTorch(Backend):
    """The backend `executorch`."""

    name = "executorch"
    title = "ExecuTorch runtime"
    suffix = ".pte"
    extra = "executorch"
    needs = ("executorch",)
    optional = {  # noqa: RUF012
        "torchao": "8 bits (compression=int8)",
        "coremltools": "Core ML's delegate (+options.delegate=coreml)",
    }
    tested = {"executorch": ((1, 5), (1, 5))}  # noqa: RUF012
    choices = {**Backend.choices, "precision": ("auto", "fp32"), "compression": ("none", "int8")}  # noqa: RUF012
    options = {"delegate": ("xnnpack", "coreml")}  # noqa: RUF012
    runner = "ExecuTorch's runtime with XNNPACK"
    device = "a phone"

    def precision(self, config: ExportConfig) -> str:
        precision = super().precision(config)
        if self._by_core_ml(config) and config.compression != "none":
            raise ValueError(
                "compression=int8 is of XNNPACK's programs; with +options.delegate=coreml give compression=none, or take "
                "backend=coreml, which has 8 bits and palettes."
            )
        return precision

    def system(self, config: ExportConfig) -> str:
        return config.system if self._by_core_ml(config) else ""

    def executed(self, config: ExportConfig) -> str:
        return EXECUTED if self._by_core_ml(config) else self.runner

    def convert(self, parts: Sequence[Part], folder: Path, config: ExportConfig) -> tuple[Saved, ...]:
        exir, eight_bits = require("executorch.exir", self.extra), config.compression == "int8"
        saved = []
        for part in parts:
            path = folder / f"{part.name}{self.suffix}"
            with silenced(), torch.no_grad():
                program = torch.export.export(part.module, part.example(), strict=False)
                if eight_bits:
                    program = quantized(program, part)
                try:
                    lowered = exir.to_edge_transform_and_lower(program, partitioner=self._partitioners(config))
                except NotImplementedError as error:  # what XNNPACK lacks is left to ExecuTorch's own kernels
                    raise ValueError(
                        f"{part.name} has an operation that Core ML's delegate lacks ({str(error).splitlines()[0]}); give "
                        "+options.delegate=xnnpack."
                    ) from error
                path.write_bytes(lowered.to_executorch().buffer)
            saved.append(Saved(part, path))
        return tuple(saved)

    def load(self, saved: Saved, *, rounded: bool) -> Program:
        if is_delegated(saved.path):
            return DelegatedProgram(saved.path, saved.part, self.extra)
        return ExecuTorchProgram(saved.path, saved.part)

    def usage(self, manifest: Manifest) -> str:
        return render("usage_executorch.md.jinja", manifest=manifest, spec=manifest.loop)

    def _by_core_ml(self, config: ExportConfig) -> bool:
        return self.option(config, "delegate") == "coreml"

    def _partitioners(self, config: ExportConfig) -> list[Any]:
        """Who takes what of a program, in this order."""
        if self._by_core_ml(config):
            return [partitioner(config, self.extra)]
        xnnpack = require("executorch.backends.xnnpack.partition.xnnpack_partitioner", self.extra)
        # what is quantized on the fly must be lowered as a whole, before the rest is looked at
        first = [xnnpack.XnnpackDynamicallyQuantizedPartitioner()] if config.compression == "int8" else []
        return [*first, xnnpack.XnnpackPartitioner()]


def quantized(program: ExportedProgram, part: Part) -> ExportedProgram:
    """The program with 8-bit linear layers: weights by channel, activations by their range in each call (dynamic)."""
    tools = require("torchao.quantization.pt2e.quantize_pt2e", ExecuTorch.extra)
    xnnpack = require("executorch.backends.xnnpack.quantizer.xnnpack_quantizer", ExecuTorch.extra)
    require("executorch.kernels.quantized", ExecuTorch.extra)  # registers what XNNPACK leaves to others
    kind = xnnpack.get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True)
    quantizer = xnnpack.XNNPACKQuantizer().set_operator_type(torch.ops.aten.linear.default, kind)
    observed = tools.prepare_pt2e(program.module(), quantizer)
    observed(*part.example())
    return torch.export.export(tools.convert_pt2e(observed), part.example(), strict=False)


class ExecuTorchProgram:
    """A saved part under ExecuTorch's runtime."""

    def __init__(self, path: Path, part: Part) -> None:
        with silenced():
            self._program = require("executorch.runtime", ExecuTorch.extra).Runtime.get().load_program(path)
            self._method: Any = self._program.load_method("forward")
        self.part = part

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        names = [feature.name for feature in self.part.inputs]
        if set(inputs) != set(names):
            raise ValueError(f"the program takes {sorted(names)}; given {sorted(inputs)}.")
        results = self._method.execute([inputs[name].contiguous() for name in names])
        return self.part.named(tuple(result.clone() for result in results))
