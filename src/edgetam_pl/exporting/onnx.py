"""ONNX: the same four parts for Android, the web and servers, executed here by onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgetam_pl.config import ExportConfig
from edgetam_pl.exporting.backend import Backend, ProgramFacts
from edgetam_pl.exporting.extras import require, silenced
from edgetam_pl.exporting.parts import Part, Saved
from edgetam_pl.io.environment import VERSION

OPSET = 20

_COORDINATE_OPS = frozenset({"Add", "Sub", "Mul", "Div", "MatMul", "Gemm", "Concat", "Reshape", "Sin", "Cos"})
"""Operations between a coordinate and its sine."""


class OnnxProgram:
    """A saved part under onnxruntime."""

    def __init__(self, path: Path) -> None:
        runtime = require("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors; the rest is about devices that are not here
        self.session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.inputs = {given.name: given.type for given in self.session.get_inputs()}
        self.outputs = [made.name for made in self.session.get_outputs()]

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if set(inputs) != set(self.inputs):
            raise ValueError(f"the program takes {sorted(self.inputs)}; given {sorted(inputs)}.")
        feed = {name: value.numpy().astype(_NUMPY[self.inputs[name]]) for name, value in inputs.items()}
        results = self.session.run(self.outputs, feed)
        return {name: torch.from_numpy(np.asarray(value, dtype=np.float32)) for name, value in zip(self.outputs, results)}


class Onnx(Backend):
    """The backend `onnx`."""

    name = "onnx"
    title = "ONNX runtime"
    suffix = ".onnx"
    needs = ("onnx", "onnxscript", "onnxruntime")

    def convert(self, parts: Sequence[Part], folder: Path, config: ExportConfig) -> tuple[Saved, ...]:
        onnx, _ = require("onnx"), require("onnxscript")
        saved = []
        for part in parts:
            path = folder / f"{part.name}{self.suffix}"
            with silenced(), torch.no_grad():
                exported = torch.onnx.export(
                    part.module,
                    part.example(),
                    dynamo=True,
                    opset_version=OPSET,
                    input_names=[feature.name for feature in part.inputs],
                    output_names=[feature.name for feature in part.outputs],
                    verbose=False,
                )
            assert exported is not None
            model = exported.model_proto
            if self.precision(config) == "fp16":
                model = self._halved(model, part)
            self._describe(model, part)
            onnx.checker.check_model(model)
            onnx.save(model, str(path))
            saved.append(Saved(part, path))
        return tuple(saved)

    def load(self, saved: Saved, *, rounded: bool) -> OnnxProgram:
        return OnnxProgram(saved.path)

    def facts(self, saved: Saved) -> ProgramFacts:
        onnx = require("onnx")
        graph = onnx.shape_inference.infer_shapes(onnx.load(str(saved.path))).graph
        ranks = [len(value.type.tensor_type.shape.dim) for value in graph.value_info]
        return ProgramFacts(tuple(sorted({node.op_type for node in graph.node})), len(graph.node), max(ranks, default=0))

    def _halved(self, model: Any, part: Part) -> Any:
        tool = require("onnxruntime.transformers.float16")
        names = [feature.name for feature in (*part.inputs, *part.outputs) if feature.kind != "float"]
        with silenced():
            halved = tool.convert_float_to_float16(
                model, keep_io_types=names, node_block_list=_angle_nodes(model.graph), disable_shape_infer=True
            )
            graph = require("onnxruntime.transformers.onnx_model").OnnxModel(halved)
            graph.topological_sort()  # the casts at inputs come last otherwise
            _drop_repeated_casts(graph.model.graph)
            del graph.model.graph.value_info[:]  # types from before
            return graph.model

    def _describe(self, model: Any, part: Part) -> None:
        model.producer_name, model.producer_version = "EdgeTAM-PL", VERSION
        model.doc_string = part.purpose
        model.metadata_props.add(key="edgetam_pl.role", value=part.role)
        meanings = {feature.name: feature.meaning for feature in (*part.inputs, *part.outputs)}
        for value in (*model.graph.input, *model.graph.output):
            value.doc_string = meanings[value.name]


_NUMPY = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int32)": np.int32}


def _drop_repeated_casts(graph: Any) -> None:
    """Drop casts that the tool has written twice, which it does where two nodes that stay in fp32 read the same value."""
    made: set[str] = set()
    for node in list(graph.node):
        if node.op_type == "Cast" and node.output[0] in made:
            graph.node.remove(node)
        made.update(node.output)


def _angle_nodes(graph: Any) -> list[str]:
    """Names of the nodes on the way from a coordinate to its sine: half precision steps by half a pixel above 512."""
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def makes_angles(node: Any) -> bool:
        if node.op_type in {"Sin", "Cos"}:
            return True
        if node.op_type not in _COORDINATE_OPS:
            return False
        return any(makes_angles(reader) for name in node.output for reader in readers.get(name, ()))

    return [node.name for node in graph.node if makes_angles(node)]
