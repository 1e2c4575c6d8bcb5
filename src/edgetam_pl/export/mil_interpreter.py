"""Runs a saved `.mlpackage` over torch: the Core ML program as numbers, on a machine that has no Core ML.

The program is read back from disk (structure and weights), so what runs is what ships. Two arithmetics:
`exact` keeps every float in fp32 (weights as stored): it proves the graph. `rounded` rounds every result to the type that
the program declares for it: it shows what half precision does. Largest magnitudes are kept per operation, before rounding,
so a value that fp16 cannot hold is seen even where the next operation hides it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgetam_pl.export.extras import require

FP16_MAX = 65504.0
"""Largest finite half-precision number."""

WEIGHTS_FOLDER = "Data/com.apple.CoreML/weights"


class UnknownOperation(NotImplementedError):
    """The program holds an operation that this interpreter has not learnt."""


@dataclass(frozen=True)
class Peak:
    """The largest magnitude that an operation has produced."""

    operation: str
    """Type, e.g. `linear`."""
    value: float
    fp16: bool
    """Does the program declare its result as fp16?"""


@dataclass
class _Step:
    """One operation, ready to run: where its operands come from and where its result goes."""

    kind: str
    run: Callable[[_Operands], Tensor | Sequence[Tensor]]
    operands: _Operands
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    fp16: tuple[bool, ...]
    frees: list[str] = field(default_factory=list)


@dataclass
class _Operands:
    """The operands of one operation: tensors computed before it, and constants of the program."""

    kind: str
    operation: str
    sources: dict[str, str | tuple[str, ...]]
    constants: dict[str, Any]
    values: dict[str, Tensor]
    shape: tuple[int, ...]
    """Declared shape of the (first) result."""

    def __contains__(self, name: str) -> bool:
        return name in self.sources

    def tensor(self, name: str) -> Tensor:
        """The operand as a tensor."""
        source = self.sources[name]
        assert isinstance(source, str), f"{self.operation}: operand {name} is a list"
        return self._value(source)

    def optional(self, name: str) -> Tensor | None:
        return self.tensor(name) if name in self else None

    def tensors(self, name: str) -> list[Tensor]:
        """An operand that is a list of tensors (concat, stack)."""
        source = self.sources[name]
        return [self._value(each) for each in ((source,) if isinstance(source, str) else source)]

    def constant(self, name: str, default: Any = None) -> Any:
        """The operand as a plain Python value; MIL's documented default where the program leaves it out."""
        if name not in self.sources:
            return default
        value = self.constants[self.sources[name]]  # type: ignore[index]
        return value.tolist() if isinstance(value, np.ndarray | np.generic) else value

    def _value(self, name: str) -> Tensor:
        if name in self.values:
            return self.values[name]
        self.values[name] = tensor = _as_tensor(self.constants[name])  # once; constants stay
        return tensor


def _as_tensor(value: Any) -> Tensor:
    """Constant to tensor: floats become fp32, integers int32, booleans stay."""
    array = np.asarray(value)
    if array.dtype.kind == "f":
        return torch.from_numpy(np.array(array, dtype=np.float32))
    if array.dtype.kind in "iu":
        return torch.from_numpy(np.array(array, dtype=np.int32))
    return torch.from_numpy(np.array(array))


class Interpreter:
    """One function of one saved package, callable on torch tensors.

    >>> run = Interpreter.load("EdgeTAMMemoryEncoder.mlpackage", rounded=True)  # doctest: +SKIP
    >>> run({"vision_features": f16, "mask_logits": logits, "binarize": flag})["memory"].shape  # doctest: +SKIP
    torch.Size([1, 512, 64])
    """

    def __init__(self, function: Any, *, rounded: bool, record: bool = True) -> None:
        """Args:
            function: a function of a pymil program (`Program.functions[name]`).
            rounded: round each result to the type the program declares.
            record: keep the largest magnitude of every operation in `peaks`.

        Raises:
            UnknownOperation: the program holds an operation that is not in the table.
        """
        self.rounded = rounded
        self.record = record
        self.peaks: dict[str, Peak] = {}
        self.inputs = {name: (tuple(int(n) for n in var.shape), _is_fp16(var)) for name, var in function.inputs.items()}
        self.outputs = tuple(var.name for var in function.outputs)
        self._constants: dict[str, Any] = {}
        self._values: dict[str, Tensor] = {}
        self._steps = self._plan(function)

    @classmethod
    def load(cls, path: str | Path, *, function: str | None = None, rounded: bool, record: bool = True) -> Interpreter:
        """Read `path` (a .mlpackage folder) back from disk.

        Raises:
            ValueError: the folder is no package, or has no function of that name.
        """
        functions = load_program(path).functions
        if function is None and len(functions) > 1:
            raise ValueError(f"{path} holds the functions {sorted(functions)}; say which one to run.")
        name = next(iter(functions)) if function is None else function
        if name not in functions:
            raise ValueError(f"{path} has no function {name!r}; it holds {sorted(functions)}.")
        return cls(functions[name], rounded=rounded, record=record)

    @torch.no_grad()
    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run once. Missing, unknown or misshapen inputs are a ValueError naming them."""
        if set(inputs) != set(self.inputs):
            raise ValueError(f"the program takes {sorted(self.inputs)}; given {sorted(inputs)}.")
        transient: list[str] = []
        for name, value in inputs.items():
            shape, fp16 = self.inputs[name]
            if tuple(value.shape) != shape:
                raise ValueError(f"input {name} has shape {tuple(value.shape)}; the program takes {shape}.")
            value = value.float() if value.is_floating_point() else value.to(torch.int32)
            self._values[name] = value.half().float() if fp16 and self.rounded else value
            transient.append(name)
        for step in self._steps:
            result = step.run(step.operands)
            results = (result,) if isinstance(result, Tensor) else tuple(result)
            for name, shape, fp16, value in zip(step.names, step.shapes, step.fp16, results, strict=True):
                if tuple(value.shape) != shape:
                    raise ValueError(f"{step.kind} {name}: computed {tuple(value.shape)}, the program declares {shape}.")
                if value.is_floating_point():
                    if self.record:
                        self._note(step.kind, name, value, fp16)
                    if fp16 and self.rounded:
                        value = value.half().float()
                self._values[name] = value
                transient.append(name)
            for name in step.frees:
                del self._values[name]
        results = {name: self._values[name] for name in self.outputs}
        for name in transient:
            self._values.pop(name, None)
        return results

    def _note(self, kind: str, name: str, value: Tensor, fp16: bool) -> None:
        low, high = (bound.item() for bound in value.aminmax()) if value.numel() else (0.0, 0.0)
        if not np.isfinite([low, high]).all():
            return  # what follows an overflow; the overflow itself was a finite number, before it was rounded
        largest = max(-low, high)
        known = self.peaks.get(name)
        if known is None or largest > known.value:
            self.peaks[name] = Peak(kind, largest, fp16)

    def _plan(self, function: Any) -> list[_Step]:
        steps: list[_Step] = []
        last_use: dict[str, int] = {}
        for operation in function.operations:
            kind = operation.op_type
            if kind == "const":
                self._constants[operation.outputs[0].name] = operation.outputs[0].val
                continue
            if kind.startswith("constexpr_"):
                self._constants[operation.outputs[0].name] = operation.materialized_val_inference()
                continue
            if kind not in OPERATIONS:
                raise UnknownOperation(
                    f"operation {kind!r} ({operation.name}) is not one of the {len(OPERATIONS)} that the interpreter knows; "
                    "add it to OPERATIONS in export/mil_interpreter.py together with a test against torch."
                )
            sources = {
                name: tuple(var.name for var in given) if isinstance(given, list | tuple) else given.name
                for name, given in operation.inputs.items()
            }
            outputs = operation.outputs
            shapes = tuple(tuple(int(n) for n in var.shape) for var in outputs)
            operands = _Operands(kind, operation.name, sources, self._constants, self._values, shapes[0])
            names = tuple(var.name for var in outputs)
            steps.append(_Step(kind, OPERATIONS[kind], operands, names, shapes, tuple(_is_fp16(var) for var in outputs)))
            for source in sources.values():
                for name in (source,) if isinstance(source, str) else source:
                    last_use[name] = len(steps) - 1
        produced = {name for step in steps for name in step.names} | set(self.inputs)
        for name, index in last_use.items():
            if name in produced and name not in self.outputs:
                steps[index].frees.append(name)
        return steps


def load_program(path: str | Path) -> Any:
    """The program of a saved package, structure and weights, as coremltools' own objects.

    Raises:
        ValueError: `path` is not a readable .mlpackage.
    """
    path = Path(path)
    if not (path / "Manifest.json").is_file():
        raise ValueError(f"{path} is not a Core ML package: it has no Manifest.json.")
    ct = require("coremltools")
    from coremltools.converters.mil.frontend.milproto.load import load

    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        spec = ct.utils.load_spec(str(path))
        return load(spec, spec.specificationVersion, file_weights_dir=str(path / WEIGHTS_FOLDER))
    finally:
        logger.setLevel(level)


def _is_fp16(var: Any) -> bool:
    from coremltools.converters.mil.mil import types

    return var.dtype == types.fp16 or (types.is_tensor(var.sym_type) and var.sym_type.get_primitive() == types.fp16)


OPERATIONS: dict[str, Callable[[_Operands], Tensor | Sequence[Tensor]]] = {}
"""Operation type to its arithmetic. MIL reference: coremltools' op documentation, iOS 15 to 18."""


def _operation(*kinds: str) -> Callable[[Callable[[_Operands], Any]], Callable[[_Operands], Any]]:
    def register(function: Callable[[_Operands], Any]) -> Callable[[_Operands], Any]:
        for kind in kinds:
            OPERATIONS[kind] = function
        return function

    return register


_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "real_div": torch.div,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "equal": torch.eq,
    "not_equal": torch.ne,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
}

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "cos": torch.cos,
    "sin": torch.sin,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "abs": torch.abs,
    "sqrt": torch.sqrt,
    "logical_not": torch.logical_not,
}


@_operation(*_BINARY)
def _binary(a: _Operands) -> Tensor:
    return _BINARY[a.kind](a.tensor("x"), a.tensor("y"))


@_operation(*_UNARY)
def _unary(a: _Operands) -> Tensor:
    return _UNARY[a.kind](a.tensor("x"))


@_operation("gelu")
def _gelu(a: _Operands) -> Tensor:
    mode = a.constant("mode", "EXACT")
    if mode != "EXACT":
        raise UnknownOperation(f"gelu ({a.operation}) with mode {mode!r} is not known; known: EXACT.")
    return F.gelu(a.tensor("x"))


@_operation("clip")
def _clip(a: _Operands) -> Tensor:
    return a.tensor("x").clamp(a.constant("alpha"), a.constant("beta"))


@_operation("select")
def _select(a: _Operands) -> Tensor:
    return torch.where(a.tensor("cond"), a.tensor("a"), a.tensor("b"))


@_operation("cast")
def _cast(a: _Operands) -> Tensor:
    x, dtype = a.tensor("x"), a.constant("dtype")
    if dtype.startswith("fp"):
        return x.float()  # rounding to fp16 is the caller's, by declared type
    return x.bool() if dtype == "bool" else x.to(torch.int32)  # truncates towards zero, as MIL does


@_operation("concat")
def _concat(a: _Operands) -> Tensor:
    if a.constant("interleave", False):
        raise UnknownOperation(f"concat ({a.operation}) with interleave is not known.")
    return torch.cat(a.tensors("values"), dim=a.constant("axis"))


@_operation("stack")
def _stack(a: _Operands) -> Tensor:
    return torch.stack(a.tensors("values"), dim=a.constant("axis"))


@_operation("split")
def _split(a: _Operands) -> Sequence[Tensor]:
    x, axis = a.tensor("x"), a.constant("axis")
    sizes = a.constant("split_sizes")
    return x.split(sizes, dim=axis) if sizes is not None else x.chunk(a.constant("num_splits"), dim=axis)


@_operation("reshape")
def _reshape(a: _Operands) -> Tensor:
    return a.tensor("x").reshape(a.shape)


@_operation("expand_dims")
def _expand_dims(a: _Operands) -> Tensor:
    return a.tensor("x").reshape(a.shape)


@_operation("squeeze")
def _squeeze(a: _Operands) -> Tensor:
    return a.tensor("x").reshape(a.shape)


@_operation("transpose")
def _transpose(a: _Operands) -> Tensor:
    return a.tensor("x").permute(a.constant("perm"))


@_operation("tile")
def _tile(a: _Operands) -> Tensor:
    return a.tensor("x").tile(a.constant("reps"))


@_operation("slice_by_index")
def _slice_by_index(a: _Operands) -> Tensor:
    x = a.tensor("x")
    begin, end = a.constant("begin"), a.constant("end")
    rank = x.ndim
    stride = a.constant("stride", [1] * rank)
    from_start = a.constant("begin_mask", [False] * rank)
    to_end = a.constant("end_mask", [False] * rank)
    squeeze = a.constant("squeeze_mask", [False] * rank)
    if min(stride) < 1:
        raise UnknownOperation(f"slice_by_index ({a.operation}) with strides {stride}; known: positive ones.")
    for dim in range(rank):
        if squeeze[dim]:
            chosen = [begin[dim] % x.shape[dim]]
        else:
            bounds = slice(None if from_start[dim] else begin[dim], None if to_end[dim] else end[dim], stride[dim])
            chosen = list(range(x.shape[dim])[bounds])
        if len(chosen) != x.shape[dim]:
            x = x.index_select(dim, torch.tensor(chosen))
    return x.reshape(a.shape)


@_operation("pad")
def _pad(a: _Operands) -> Tensor:
    """Pads are listed from the first padded dimension to the last: the reverse of torch's order."""
    amounts, mode = a.constant("pad"), a.constant("mode", "constant")
    if mode != "constant":
        raise UnknownOperation(f"pad ({a.operation}) with mode {mode!r}; known: constant.")
    pairs = [amounts[i : i + 2] for i in range(0, len(amounts), 2)]
    return F.pad(a.tensor("x"), [n for pair in reversed(pairs) for n in pair], value=a.constant("constant_val", 0.0))


@_operation("conv")
def _conv(a: _Operands) -> Tensor:
    x, weight = a.tensor("x"), a.tensor("weight")
    x = F.pad(x, _conv_padding(a, x, weight))
    convolve = F.conv2d if weight.ndim == 4 else F.conv1d
    ones = [1] * (weight.ndim - 2)
    return convolve(
        x,
        weight,
        a.optional("bias"),
        stride=a.constant("strides", ones),
        dilation=a.constant("dilations", ones),
        groups=a.constant("groups", 1),
    )


def _conv_padding(a: _Operands, x: Tensor, weight: Tensor) -> list[int]:
    """torch's padding list: last dimension first, before and after."""
    spatial = weight.ndim - 2
    kind = a.constant("pad_type", "valid")
    if kind == "valid":
        return [0] * (2 * spatial)
    if kind == "custom":
        amounts = a.constant("pad")
        pairs = [amounts[i : i + 2] for i in range(0, 2 * spatial, 2)]
    elif kind == "same":
        strides, dilations = (a.constant(name, [1] * spatial) for name in ("strides", "dilations"))
        pairs = []
        for size, side, stride, dilation in zip(x.shape[2:], weight.shape[2:], strides, dilations, strict=True):
            total = max((-(-size // stride) - 1) * stride + (side - 1) * dilation + 1 - size, 0)
            pairs.append([total // 2, total - total // 2])
    else:
        raise UnknownOperation(f"conv ({a.operation}) with pad_type {kind!r}; known: valid, same, custom.")
    return [n for pair in reversed(pairs) for n in pair]


@_operation("conv_transpose")
def _conv_transpose(a: _Operands) -> Tensor:
    weight = a.tensor("weight")
    kind = a.constant("pad_type", "valid")
    amounts = a.constant("pad", [0] * 4)
    if weight.ndim != 4 or kind not in ("valid", "custom") or any(amounts):
        raise UnknownOperation(f"conv_transpose ({a.operation}) with padding {kind} {amounts}; known: 2-D, without padding.")
    y = F.conv_transpose2d(
        a.tensor("x"),
        weight,
        a.optional("bias"),
        stride=a.constant("strides", [1, 1]),
        dilation=a.constant("dilations", [1, 1]),
        groups=a.constant("groups", 1),
    )
    return y


@_operation("max_pool", "avg_pool")
def _pool(a: _Operands) -> Tensor:
    sides = a.constant("kernel_sizes")
    amounts = a.constant("pad", [0] * 4)
    if (
        a.constant("ceil_mode", False)
        or len(sides) != 2
        or any(amounts)
        or a.constant("pad_type") not in ("valid", "custom")
    ):
        raise UnknownOperation(f"{a.kind} ({a.operation}) with padding or ceil_mode; known: 2-D, neither.")
    pool = F.max_pool2d if a.kind == "max_pool" else F.avg_pool2d
    return pool(a.tensor("x"), sides, a.constant("strides", sides))


@_operation("batch_norm")
def _batch_norm(a: _Operands) -> Tensor:
    return F.batch_norm(
        a.tensor("x"),
        a.tensor("mean"),
        a.tensor("variance"),
        a.optional("gamma"),
        a.optional("beta"),
        training=False,
        eps=a.constant("epsilon", 1e-5),
    )


@_operation("layer_norm")
def _layer_norm(a: _Operands) -> Tensor:
    x = a.tensor("x")
    axes = sorted(axis % x.ndim for axis in a.constant("axes"))
    if axes != list(range(x.ndim - len(axes), x.ndim)):
        raise UnknownOperation(f"layer_norm ({a.operation}) over axes {axes} of {x.ndim}; known: the last ones.")
    sides = [x.shape[axis] for axis in axes]
    return F.layer_norm(x, sides, a.optional("gamma"), a.optional("beta"), eps=a.constant("epsilon", 1e-5))


@_operation("linear")
def _linear(a: _Operands) -> Tensor:
    return F.linear(a.tensor("x"), a.tensor("weight"), a.optional("bias"))


@_operation("matmul")
def _matmul(a: _Operands) -> Tensor:
    x, y = a.tensor("x"), a.tensor("y")
    x = x.transpose(-1, -2) if a.constant("transpose_x", False) else x
    y = y.transpose(-1, -2) if a.constant("transpose_y", False) else y
    return torch.matmul(x, y)


@_operation("scaled_dot_product_attention")
def _attention(a: _Operands) -> Tensor:
    return F.scaled_dot_product_attention(
        a.tensor("query"), a.tensor("key"), a.tensor("value"), attn_mask=a.optional("attn_mask")
    )


@_operation("softmax")
def _softmax(a: _Operands) -> Tensor:
    return a.tensor("x").softmax(dim=a.constant("axis", -1))


_REDUCE: dict[str, Callable[..., Tensor]] = {
    "reduce_mean": torch.mean,
    "reduce_sum": torch.sum,
    "reduce_max": torch.amax,
    "reduce_min": torch.amin,
}


@_operation(*_REDUCE)
def _reduce(a: _Operands) -> Tensor:
    x = a.tensor("x")
    axes = a.constant("axes", list(range(x.ndim)))
    return _REDUCE[a.kind](x, dim=axes, keepdim=a.constant("keep_dims", False))


@_operation("reduce_argmax")
def _reduce_argmax(a: _Operands) -> Tensor:
    return a.tensor("x").argmax(dim=a.constant("axis", -1), keepdim=a.constant("keep_dims", False)).to(torch.int32)


@_operation("upsample_bilinear")
def _upsample_bilinear(a: _Operands) -> Tensor:
    corners = a.constant("align_corners", True)
    if not corners and a.constant("half_pixel_centers", True) is False:
        raise UnknownOperation(f"upsample_bilinear ({a.operation}) without half-pixel centres is not known.")
    return F.interpolate(a.tensor("x"), size=a.shape[-2:], mode="bilinear", align_corners=corners)


@_operation("upsample_nearest_neighbor")
def _upsample_nearest(a: _Operands) -> Tensor:
    return F.interpolate(a.tensor("x"), size=a.shape[-2:], mode="nearest")
