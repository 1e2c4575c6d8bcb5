"""LiteRT, formerly TensorFlow Lite: parts to `.tflite` files, executed here by its own runtime with XNNPACK."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgetam_pl.config import ExportConfig
from edgetam_pl.exporting.backend import Backend, ProgramFacts
from edgetam_pl.exporting.documents import render
from edgetam_pl.exporting.extras import require, silenced
from edgetam_pl.exporting.manifest import Manifest
from edgetam_pl.exporting.parts import Part, Saved

EIGHT_BITS = {"dynamic": "add_dynamic_config", "weights": "add_weight_only_config"}
"""options.int8, and the quantizer's way: activations are rounded to 8 bits while the program runs, or weights alone are."""

_WEIGHTED = ("CONV_2D", "CONV_2D_TRANSPOSE", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
"""Operations whose weights become 8 bits wide. Not BATCH_MATMUL: products of constant tokens came back as NaN."""

_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}
"""Variables without which the converter's C++ reports what it does on the terminal."""

_UNKNOWN = "Lowering not found: "
"""How the converter begins to say that it lacks an operation."""


class LiteRT(Backend):
    """The backend `litert`."""

    name = "litert"
    title = "LiteRT runtime"
    suffix = ".tflite"
    extra = "litert"
    needs = ("litert_torch", "ai_edge_litert", "ai_edge_quantizer")
    tested = {"litert_torch": ((0, 10), (0, 10)), "ai_edge_litert": ((2, 3), (2, 3))}  # noqa: RUF012
    choices = {**Backend.choices, "precision": ("auto", "fp32"), "compression": ("none", "int8")}  # noqa: RUF012
    options = {"int8": tuple(EIGHT_BITS)}  # noqa: RUF012
    device = "a phone"
    runner = "LiteRT's runtime with XNNPACK on Linux"

    def __init__(self) -> None:
        for name, value in _QUIET.items():  # before the first import
            os.environ.setdefault(name, value)

    def convert(self, parts: Sequence[Part], folder: Path, config: ExportConfig) -> tuple[Saved, ...]:
        tools = require("litert_torch", self.extra)
        saved = []
        for part in parts:
            path = folder / f"{part.name}{self.suffix}"
            example = {feature.name: tensor for feature, tensor in zip(part.inputs, part.example())}
            try:
                with silenced(), torch.no_grad():
                    tools.convert(_Named(part), sample_kwargs=example).export(str(path))
            except RuntimeError as error:
                _, unknown, rest = str(error).partition(_UNKNOWN)
                if not unknown:
                    raise
                raise ValueError(
                    f"{part.name} uses {rest.split()[0]}, which LiteRT's converter does not have; write it with other "
                    "operations in the model, or export to another format (backend=onnx)."
                ) from error
            if config.compression != "none":
                self.quantize(path, EIGHT_BITS[self.option(config, "int8")])
            saved.append(Saved(part, path))
        return tuple(saved)

    def load(self, saved: Saved, *, rounded: bool) -> LiteRTProgram:
        return LiteRTProgram(saved.path)

    def facts(self, saved: Saved) -> ProgramFacts:
        schema = require("ai_edge_litert.schema_py_generated", self.extra)
        model = schema.ModelT.InitFromPackedBuf(saved.path.read_bytes(), 0)
        graph = model.subgraphs[0]
        names = {number: name for name, number in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
        codes = [names[model.operatorCodes[operator.opcodeIndex].builtinCode] for operator in graph.operators]
        ranks = [len(tensor.shape) for tensor in graph.tensors if tensor.shape is not None]
        return ProgramFacts(tuple(sorted(set(codes))), len(codes), max(ranks))

    def usage(self, manifest: Manifest) -> str:
        return render("usage_litert.md.jinja", manifest=manifest, spec=manifest.loop)

    def quantize(self, path: Path, way: str) -> None:
        """Replace a program by one with 8-bit weights."""
        operations = require("ai_edge_quantizer.qtyping", self.extra).TFLOperationName
        quantizer = require("ai_edge_quantizer.quantizer", self.extra).Quantizer(str(path))
        with silenced():
            for name in _WEIGHTED:
                getattr(quantizer, way)(regex=".*", operation_name=operations[name], num_bits=8)
            quantizer.quantize().export_model(str(path), overwrite=True)


class _Named(nn.Module):
    """A part whose inputs and outputs have names, which the converter then writes into the file."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.part, self.module = part, part.module
        self.eval()

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        return self.part.named(self.module(*(inputs[feature.name] for feature in self.part.inputs)))


class LiteRTProgram:
    """A saved part under LiteRT's runtime."""

    def __init__(self, path: Path) -> None:
        kind = require("ai_edge_litert.interpreter", LiteRT.extra).Interpreter
        self._interpreter = kind(model_path=str(path), num_threads=torch.get_num_threads())
        self._run: Any = self._interpreter.get_signature_runner()
        self.types = {name: detail["dtype"] for name, detail in self._run.get_input_details().items()}

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if set(inputs) != set(self.types):
            raise ValueError(f"the program takes {sorted(self.types)}; given {sorted(inputs)}.")
        results = self._run(**{name: value.numpy().astype(self.types[name]) for name, value in inputs.items()})
        return {name: torch.from_numpy(value) for name, value in results.items()}
