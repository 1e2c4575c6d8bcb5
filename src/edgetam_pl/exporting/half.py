"""Half precision for converters that have none: a torch.export program in fp16, but for angles and norms."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from edgetam_pl.exporting.parts import Part

_ANGLES = frozenset({"sin", "cos"})
_COORDINATE_OPS = frozenset(
    {"add", "sub", "mul", "div", "matmul", "mm", "addmm", "linear", "cat", "view", "reshape", "unsqueeze", "_to_copy"}
)
"""Operations between a coordinate and its sine."""

_PRECISE = frozenset({"layer_norm", "native_layer_norm", "softmax", "_softmax"})
"""Sums of squares and of exponentials, which half precision rounds too coarsely."""


def halved(program: ExportedProgram, part: Part) -> ExportedProgram:
    """The program with fp16 weights and arithmetic. From a coordinate to its sine it stays in fp32, since half precision
    steps by half a pixel above 512; so do layer norms and softmaxes.

    Inputs and outputs are of the types that the part's features declare for fp16.
    """
    example = tuple(
        tensor.half() if feature.dtype("fp16") == "fp16" else tensor
        for feature, tensor in zip((*part.inputs, *part.states), part.example(), strict=True)
    )
    with torch.no_grad():
        return torch.export.export(_Half(program, part), example, strict=False)


class _Half(nn.Module):
    """Runs the program's graph, casting what each operation reads."""

    def __init__(self, program: ExportedProgram, part: Part) -> None:
        super().__init__()
        self.part = part
        graph = _without_checks(program)
        self.kept = {node.name for node in graph.nodes if _name(node) in _PRECISE or _makes_angles(node)}
        source, tensors = program.module(), dict[str, Tensor]()
        for node in graph.nodes:
            if node.op == "get_attr":
                value = attrgetter(path := str(node.target))(source).detach()
                # what only fp16 operations read is stored in fp16
                half = value.is_floating_point() and not any(reader.name in self.kept for reader in node.users)
                tensors[path] = value.half() if half else value
        self.program = fx.GraphModule(tensors, graph)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        results = _Casting(self.program, self.kept).run(*inputs)
        results = (results,) if isinstance(results, Tensor) else tuple(results)
        return tuple(
            result.to(_TYPES[feature.dtype("fp16")]) for feature, result in zip(self.part.outputs, results, strict=True)
        )


_TYPES = {"fp16": torch.float16, "fp32": torch.float32, "int32": torch.int32}


def _without_checks(program: ExportedProgram) -> fx.Graph:
    """The graph of a program, which reads its weights by name, without the checks of its inputs' types."""
    module, graph = program.module(), fx.Graph()
    assert isinstance(module, fx.GraphModule)
    graph.output(graph.graph_copy(module.graph, {}))
    for node in list(graph.nodes):
        if node.op == "call_module":
            graph.erase_node(node)
    return graph


class _Casting(fx.Interpreter):
    """Every operation reads fp16 where it would read fp32, but for those in `kept`."""

    def __init__(self, graph: fx.GraphModule, kept: set[str]) -> None:
        super().__init__(graph)
        self.kept = kept

    def run_node(self, n: fx.Node) -> Any:
        if n.op != "call_function":
            return super().run_node(n)
        with self._set_current_node(n):
            dtype = torch.float32 if n.name in self.kept else torch.float16
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            args, kwargs = (_cast(each, dtype) for each in (args, kwargs))
            return self.call_function(n.target, args, kwargs)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """All floating-point tensors in an operation's arguments, and the type that it is asked to make."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {name: _cast(each, dtype) for name, each in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_cast(each, dtype) for each in value)
    return dtype if value is torch.float32 else value


def _makes_angles(node: fx.Node) -> bool:
    name = _name(node)
    if name in _ANGLES:
        return True
    return name in _COORDINATE_OPS and any(_makes_angles(reader) for reader in node.users)


def _name(node: fx.Node) -> str:
    """Of the operation, without its overload."""
    return getattr(node.target, "__name__", str(node.target)).split(".")[0]
