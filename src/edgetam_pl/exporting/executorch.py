"""ExecuTorch: parts to `.pte` programs by XNNPACK, the CPU path of Android and iOS, executed here by its own runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgetam_pl.config import ExportConfig
from edgetam_pl.exporting.backend import Backend
from edgetam_pl.exporting.documents import render
from edgetam_pl.exporting.extras import require, silenced
from edgetam_pl.exporting.manifest import Manifest
from edgetam_pl.exporting.parts import Part, Saved


class ExecuTorch(Backend):
    """The backend `executorch`."""

    name = "executorch"
    title = "ExecuTorch runtime"
    suffix = ".pte"
    extra = "executorch"
    needs = ("executorch",)
    tested = {"executorch": ((1, 5), (1, 5))}  # noqa: RUF012
    choices = {**Backend.choices, "precision": ("auto", "fp32")}  # noqa: RUF012
    runner = "ExecuTorch's runtime with XNNPACK"
    device = "a phone; executed by ExecuTorch's runtime with XNNPACK on Linux"

    def convert(self, parts: Sequence[Part], folder: Path, config: ExportConfig) -> tuple[Saved, ...]:
        exir = require("executorch.exir", self.extra)
        partitioner = require("executorch.backends.xnnpack.partition.xnnpack_partitioner", self.extra).XnnpackPartitioner
        saved = []
        for part in parts:
            path = folder / f"{part.name}{self.suffix}"
            with silenced(), torch.no_grad():
                program = torch.export.export(part.module, part.example(), strict=False)
                lowered = exir.to_edge_transform_and_lower(program, partitioner=[partitioner()])
                path.write_bytes(lowered.to_executorch().buffer)
            saved.append(Saved(part, path))
        return tuple(saved)

    def load(self, saved: Saved, *, rounded: bool) -> ExecuTorchProgram:
        return ExecuTorchProgram(saved.path, saved.part)

    def usage(self, manifest: Manifest) -> str:
        return render("usage_executorch.md.jinja", manifest=manifest, spec=manifest.loop)


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
