"""Half precision for formats whose converter has none: a torch.export program whose arithmetic is fp16, angles excepted."""

from __future__ import annotations

from collections.abc import Mapping
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


def halved(program: ExportedProgram, part: Part) -> ExportedProgram:
    """The program with fp16 weights and arithmetic; from a coordinate to its sine it stays in fp32, since half precision
    steps by half a pixel above 512.

    Inputs and outputs are of the types that the part's features declare for fp16.
    """
    example = tuple(
        tensor.half() if feature.dtype("fp16") == "fp16" else tensor
        for feature, tensor in zip(part.inputs, part.example(), strict=True)
    )
    with torch.no_grad():
        return torch.export.export(_Half(program, part).eval(), example, strict=False)


class _Half(nn.Module):
    """Runs the program's graph, casting what each operation reads."""

    def __init__(self, program: ExportedProgram, part: Part) -> None:
        super().__init__()
        graph = program.module()
        assert isinstance(graph, fx.GraphModule)
        self.graph, self.part = graph, part
        self.kept = {node.name for node in graph.graph.nodes if _makes_angles(node)}
        with torch.no_grad():  # weights that only fp16 operations read are stored in fp16
            for node in graph.graph.nodes:
                if node.op != "get_attr" or any(reader.name in self.kept for reader in node.users):
                    continue
                *path, name = str(node.target).split(".")
                owner = graph.get_submodule(".".join(path))
                value = getattr(owner, name)
                if isinstance(value, nn.Parameter) and value.is_floating_point():
                    setattr(owner, name, nn.Parameter(value.half(), requires_grad=False))
                elif isinstance(value, Tensor) and value.is_floating_point():
                    setattr(owner, name, value.half())

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        results = _Casting(self.graph, self.kept).run(*inputs)
        results = (results,) if isinstance(results, Tensor) else tuple(results)
        return tuple(
            result.to(_TYPES[feature.dtype("fp16")]) for feature, result in zip(self.part.outputs, results, strict=True)
        )


_TYPES = {"fp16": torch.float16, "fp32": torch.float32, "int32": torch.int32}


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
    name = getattr(node.target, "__name__", str(node.target)).split(".")[0]
    if name in _ANGLES:
        return True
    return name in _COORDINATE_OPS and any(_makes_angles(reader) for reader in node.users)
