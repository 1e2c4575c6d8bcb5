"""Runs a saved `.mlpackage` over torch: the Core ML program as numbers, on a machine that has no Core ML.

The program is read back from disk (structure and weights), so what runs is what ships. Two arithmetics:
`exact` keeps every float in fp32 (weights as stored): it proves the graph. `rounded` rounds every result to the type that
the program declares for it: it shows what half precision does. Largest magnitudes are kept per operation, before rounding,
so a value that fp16 cannot hold is seen even where the next operation hides it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgetam_pl.exporting.extras import require, silenced

PIECE = 1 << 15
"""Numbers that are rounded at a time: 128 kB."""

WEIGHTS_FOLDER = "Data/com.apple.CoreML/weights"


class UnknownOperation(NotImplementedError):
    """The program holds an operation that this interpreter does not know."""


@dataclass(frozen=True)
class Peak:
    """The largest magnitude that an operation has produced."""

    operation: str
    """Type, e.g. `linear`."""
    value: float
    fp16: bool
    """Does the program declare its result as fp16?"""


@dataclass
class Operation:
    """One operation, ready to run: where its operands come from and where its results go."""

    kind: str
    name: str
    sources: dict[str, str | tuple[str, ...]]
    """Operand to the name(s) of the value(s) it reads."""
    results: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    """Declared shapes of the results."""
    fp16: tuple[bool, ...]
    """Are the results declared as fp16?"""
    constants: dict[str, Any]
    """Of the whole program."""
    values: dict[str, Tensor]
    """Of the whole program: what was computed so far, and constants as tensors."""
    frees: list[str] = field(default_factory=list)
    """Values that nothing reads afterwards."""

    def tensor(self, name: str) -> Tensor:
        """The operand as a tensor."""
        source = self.sources[name]
        assert isinstance(source, str), f"{self.name}: operand {name} is a list"
        return self._value(source)

    def optional(self, name: str) -> Tensor | None:
        return self.tensor(name) if name in self.sources else None

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

    def check(self, name: str, value: Any, *known: Any) -> None:
        """Raise UnknownOperation for an operand with a value whose arithmetic is not written here."""
        if value not in known:
            raise UnknownOperation(f"{self.kind} ({self.name}) with {name} {value!r} is not known; known: {known}.")

    def _value(self, name: str) -> Tensor:
        if name not in self.values:
            self.values[name] = _as_tensor(self.constants[name])  # once; constants stay
        return self.values[name]


def _as_tensor(value: Any) -> Tensor:
    """Constant to tensor: floats become fp32, integers int32, booleans stay."""
    array = np.asarray(value)
    kind = {"f": np.float32, "i": np.int32, "u": np.int32}.get(array.dtype.kind, array.dtype)
    return torch.from_numpy(np.array(array, dtype=kind))


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
        self._operations = self._plan(function)

    @classmethod
    def load(cls, path: str | Path, *, function: str | None = None, rounded: bool, record: bool = True) -> Interpreter:
        """Read `path` (a .mlpackage folder) back from disk.

        Raises:
            ValueError: the folder is no package, or has no function of that name.
        """
        functions = load_program(path).functions
        if function is None and len(functions) > 1:
            raise ValueError(f"{path} holds the functions {sorted(functions)}; name the one to run.")
        name = next(iter(functions)) if function is None else function
        if name not in functions:
            raise ValueError(f"{path} has no function {name!r}; it holds {sorted(functions)}.")
        return cls(functions[name], rounded=rounded, record=record)

    @torch.no_grad()
    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run once. Missing, unknown or misshapen inputs are a ValueError naming them."""
        if set(inputs) != set(self.inputs):
            raise ValueError(f"the program takes {sorted(self.inputs)}; given {sorted(inputs)}.")
        # inputs, rounded as they would be on their way into the program
        computed: list[str] = []
        for name, value in inputs.items():
            shape, fp16 = self.inputs[name]
            if tuple(value.shape) != shape:
                raise ValueError(f"input {name} has shape {tuple(value.shape)}; the program takes {shape}.")
            value = value.float() if value.is_floating_point() else value.to(torch.int32)
            self._values[name] = value.half().float() if fp16 and self.rounded else value
            computed.append(name)
        for operation in self._operations:
            result = OPERATIONS[operation.kind](operation)
            results = (result,) if isinstance(result, Tensor) else tuple(result)
            for name, shape, fp16, value in zip(operation.results, operation.shapes, operation.fp16, results, strict=True):
                if tuple(value.shape) != shape:
                    raise ValueError(
                        f"{operation.kind} {name}: computed {tuple(value.shape)}, the program declares {shape}."
                    )
                if value.is_floating_point() and operation.kind not in MOVES:
                    self._round(operation.kind, name, value, fp16)
                self._values[name] = value
                computed.append(name)
            for name in operation.frees:
                del self._values[name]
        # keep the constants, forget the rest: the next run starts afresh
        outputs = {name: self._values[name] for name in self.outputs}
        for name in computed:
            self._values.pop(name, None)
        return outputs

    def _round(self, kind: str, name: str, value: Tensor, fp16: bool) -> None:
        """Note the largest magnitude, then round in place, as the interpreter was asked to. Piece by piece, because a piece
        that stays in the processor's cache is read and written many times faster than the whole."""
        rounds, records = fp16 and self.rounded, self.record and kind not in BOUNDED
        if not (rounds or records) or not value.numel():
            return
        bounds = []
        for piece in _flat(value).split(PIECE):
            if records:
                bounds += [bound.item() for bound in piece.aminmax()]  # before rounding makes it infinite
            if rounds:
                piece.copy_(piece.half())
        if not records or not np.isfinite(bounds).all():
            return  # what follows an overflow; the overflow itself was a finite number, before it was rounded
        largest = max(-min(bounds), max(bounds))
        if name not in self.peaks or largest > self.peaks[name].value:
            self.peaks[name] = Peak(kind, largest, fp16)

    def _plan(self, function: Any) -> list[Operation]:
        """The operations in order, constants put aside, and after each the values that nothing reads any more."""
        operations: list[Operation] = []
        last_use: dict[str, int] = {}
        for found in function.operations:
            kind, outputs = found.op_type, found.outputs
            if kind == "const" or kind.startswith("constexpr_"):  # a constexpr holds compressed weights
                value = outputs[0].val if kind == "const" else found.materialized_val_inference()
                self._constants[outputs[0].name] = value
                continue
            if kind not in OPERATIONS:
                raise UnknownOperation(
                    f"operation {kind!r} ({found.name}) is not one of the {len(OPERATIONS)} that the interpreter knows; "
                    "add it to OPERATIONS in exporting/mil_interpreter.py together with a test against torch."
                )
            sources = {
                name: tuple(var.name for var in given) if isinstance(given, list | tuple) else given.name
                for name, given in found.inputs.items()
            }
            operation = Operation(
                kind,
                found.name,
                sources,
                results=tuple(var.name for var in outputs),
                shapes=tuple(tuple(int(n) for n in var.shape) for var in outputs),
                fp16=tuple(_is_fp16(var) for var in outputs),
                constants=self._constants,
                values=self._values,
            )
            for source in sources.values():
                last_use.update(dict.fromkeys((source,) if isinstance(source, str) else source, len(operations)))
            operations.append(operation)
        computed = {name for operation in operations for name in operation.results} | set(self.inputs)
        for name, index in last_use.items():
            if name in computed and name not in self.outputs:
                operations[index].frees.append(name)
        return operations


def _flat(value: Tensor) -> Tensor:
    """A dense tensor as a view of one dimension, in the order in which its numbers lie in memory."""
    return value.permute(sorted(range(value.ndim), key=lambda dim: -value.stride(dim))).view(-1)


def load_program(path: str | Path) -> Any:
    """The program of a saved package, structure and weights, as coremltools' own objects. Not to be changed: while the
    package stays as it is, the next reader is given the same.

    Raises:
        ValueError: `path` is not a readable .mlpackage.
    """
    path = Path(path)
    if not (path / "Manifest.json").is_file():
        raise ValueError(f"{path} is not a Core ML package: it has no Manifest.json.")
    files = [found.stat() for found in sorted((path / "Data").rglob("*.*"))]  # coremltools writes Manifest.json anew
    return _program(path.resolve(), tuple((found.st_ino, found.st_mtime_ns, found.st_size) for found in files))


@lru_cache(maxsize=4)  # an export reads each of its packages three times, and one of four functions twelve times
def _program(path: Path, state: tuple[tuple[int, int, int], ...]) -> Any:
    ct = require("coremltools")
    from coremltools.converters.mil.frontend.milproto.load import load

    with silenced():
        spec = ct.utils.load_spec(str(path))
        return load(spec, spec.specificationVersion, file_weights_dir=str(path / WEIGHTS_FOLDER))


def _is_fp16(var: Any) -> bool:
    from coremltools.converters.mil.mil import types

    return var.dtype == types.fp16 or (types.is_tensor(var.sym_type) and var.sym_type.get_primitive() == types.fp16)


# --- the operations -------------------------------------------------------------------------------------------------------
# Reference: coremltools' documentation of MIL operations, iOS 15 to 18.

Arithmetic = Callable[[Operation], Tensor | Sequence[Tensor]]


def _of(function: Callable[..., Tensor], *operands: str) -> Arithmetic:
    """An operation that is a function of its operands and of nothing else."""
    return lambda a: function(*(a.tensor(name) for name in operands))


def _reduction(function: Callable[..., Tensor]) -> Arithmetic:
    def reduce(a: Operation) -> Tensor:
        x = a.tensor("x")
        return function(x, dim=a.constant("axes", list(range(x.ndim))), keepdim=a.constant("keep_dims", False))

    return reduce


def _pooling(function: Callable[..., Tensor]) -> Arithmetic:
    def pool(a: Operation) -> Tensor:
        sides = a.constant("kernel_sizes")
        a.check("dimensions", len(sides), 2)
        a.check("ceil_mode", a.constant("ceil_mode", False), False)
        a.check("pad", any(a.constant("pad", [0])), False)
        a.check("pad_type", a.constant("pad_type"), "valid", "custom")
        return function(a.tensor("x"), sides, a.constant("strides", sides))

    return pool


def _reshape(a: Operation) -> Tensor:
    return a.tensor("x").reshape(a.shapes[0])


def _gelu(a: Operation) -> Tensor:
    a.check("mode", a.constant("mode", "EXACT"), "EXACT")
    return F.gelu(a.tensor("x"))


def _cast(a: Operation) -> Tensor:
    x, dtype = a.tensor("x"), a.constant("dtype")
    if dtype.startswith("fp"):
        return x.to(torch.float32, copy=True)  # rounding to fp16 is the caller's, by declared type, and in place
    return x.bool() if dtype == "bool" else x.to(torch.int32)  # truncates towards zero, as MIL does


def _concat(a: Operation) -> Tensor:
    a.check("interleave", a.constant("interleave", False), False)
    return torch.cat(a.tensors("values"), dim=a.constant("axis"))


def _split(a: Operation) -> Sequence[Tensor]:
    x, axis, sizes = a.tensor("x"), a.constant("axis"), a.constant("split_sizes")
    return x.split(sizes, dim=axis) if sizes is not None else x.chunk(a.constant("num_splits"), dim=axis)


def _slice_by_index(a: Operation) -> Tensor:
    x, begin, end = a.tensor("x"), a.constant("begin"), a.constant("end")
    rank = x.ndim
    stride = a.constant("stride", [1] * rank)
    from_start, to_end, squeeze = (a.constant(f"{name}_mask", [False] * rank) for name in ("begin", "end", "squeeze"))
    a.check("a negative stride", min(stride) < 1, False)
    for dim in range(rank):
        if squeeze[dim]:
            first = begin[dim] % x.shape[dim]
            bounds = slice(first, first + 1)
        else:
            bounds = slice(None if from_start[dim] else begin[dim], None if to_end[dim] else end[dim], stride[dim])
        chosen = range(x.shape[dim])[bounds]  # negative bounds count from the end
        x = x[(slice(None),) * dim + (slice(chosen.start, chosen.stop, chosen.step),)]
    return x.reshape(a.shapes[0])


def _torch_padding(amounts: Sequence[int]) -> list[int]:
    """MIL lists (before, after) from the first padded dimension to the last, torch from the last to the first."""
    pairs = [amounts[i : i + 2] for i in range(0, len(amounts), 2)]
    return [n for pair in reversed(pairs) for n in pair]


def _pad(a: Operation) -> Tensor:
    a.check("mode", a.constant("mode", "constant"), "constant")
    return F.pad(a.tensor("x"), _torch_padding(a.constant("pad")), value=a.constant("constant_val", 0.0))


def _conv(a: Operation) -> Tensor:
    x, weight = a.tensor("x"), a.tensor("weight")
    spatial = weight.ndim - 2
    strides, dilations = (a.constant(name, [1] * spatial) for name in ("strides", "dilations"))
    kind = a.constant("pad_type", "valid")
    a.check("pad_type", kind, "valid", "same", "custom")
    amounts = a.constant("pad") if kind == "custom" else [0] * (2 * spatial)
    if kind == "same":  # as much as keeps ceil(size / stride), the odd one after
        amounts = []
        for size, side, stride, dilation in zip(x.shape[2:], weight.shape[2:], strides, dilations, strict=True):
            total = max((-(-size // stride) - 1) * stride + (side - 1) * dilation + 1 - size, 0)
            amounts += [total // 2, total - total // 2]
    convolve = F.conv2d if spatial == 2 else F.conv1d
    around = amounts[::2]
    if around != amounts[1::2]:  # torch pads both sides alike
        x, around = F.pad(x, _torch_padding(amounts)), [0] * spatial
    groups, bias = a.constant("groups", 1), a.optional("bias")
    return convolve(x, weight, bias, stride=strides, padding=around, dilation=dilations, groups=groups)


def _conv_transpose(a: Operation) -> Tensor:
    weight = a.tensor("weight")
    a.check("dimensions", weight.ndim, 4)
    a.check("pad_type", a.constant("pad_type", "valid"), "valid", "custom")
    a.check("pad", any(a.constant("pad", [0])), False)
    strides, dilations = (a.constant(name, [1, 1]) for name in ("strides", "dilations"))
    groups = a.constant("groups", 1)
    return F.conv_transpose2d(a.tensor("x"), weight, a.optional("bias"), stride=strides, dilation=dilations, groups=groups)


def _batch_norm(a: Operation) -> Tensor:
    x, mean, variance = (a.tensor(name) for name in ("x", "mean", "variance"))
    return F.batch_norm(x, mean, variance, a.optional("gamma"), a.optional("beta"), eps=a.constant("epsilon", 1e-5))


def _layer_norm(a: Operation) -> Tensor:
    x = a.tensor("x")
    axes = sorted(axis % x.ndim for axis in a.constant("axes"))
    a.check("axes", axes, list(range(x.ndim - len(axes), x.ndim)))
    sides = [x.shape[axis] for axis in axes]
    return F.layer_norm(x, sides, a.optional("gamma"), a.optional("beta"), eps=a.constant("epsilon", 1e-5))


def _matmul(a: Operation) -> Tensor:
    x, y = (a.tensor(name).mT if a.constant(f"transpose_{name}", False) else a.tensor(name) for name in ("x", "y"))
    return x @ y


def _attention(a: Operation) -> Tensor:
    query, key, value = (a.tensor(name) for name in ("query", "key", "value"))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=a.optional("attn_mask"))


def _argmax(a: Operation) -> Tensor:
    return a.tensor("x").argmax(dim=a.constant("axis", -1), keepdim=a.constant("keep_dims", False)).to(torch.int32)


def _upsample_bilinear(a: Operation) -> Tensor:
    corners = a.constant("align_corners", True)
    a.check("half_pixel_centers", corners or a.constant("half_pixel_centers", True), True)
    return F.interpolate(a.tensor("x"), size=a.shapes[0][-2:], mode="bilinear", align_corners=corners)


# operations that torch has under the same name
_UNARY = ("abs", "cos", "logical_not", "relu", "sigmoid", "sin", "sqrt")
_BINARY = ("add", "sub", "mul", "maximum", "minimum", "not_equal", "greater", "greater_equal", "less", "less_equal",
           "logical_and", "logical_or")  # fmt: skip

OPERATIONS: dict[str, Arithmetic] = {
    # element by element
    **{name: _of(getattr(torch, name), "x") for name in _UNARY},
    **{name: _of(getattr(torch, name), "x", "y") for name in _BINARY},
    "equal": _of(torch.eq, "x", "y"),
    "real_div": _of(torch.div, "x", "y"),
    "select": _of(torch.where, "cond", "a", "b"),
    "gelu": _gelu,
    "clip": lambda a: a.tensor("x").clamp(a.constant("alpha"), a.constant("beta")),
    "cast": _cast,
    # shapes
    "reshape": _reshape,
    "expand_dims": _reshape,
    "squeeze": _reshape,
    "transpose": lambda a: a.tensor("x").permute(a.constant("perm")),
    "tile": lambda a: a.tensor("x").tile(a.constant("reps")),
    "concat": _concat,
    "stack": lambda a: torch.stack(a.tensors("values"), dim=a.constant("axis")),
    "split": _split,
    "slice_by_index": _slice_by_index,
    "pad": _pad,
    # layers
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "max_pool": _pooling(F.max_pool2d),
    "avg_pool": _pooling(F.avg_pool2d),
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "linear": lambda a: F.linear(a.tensor("x"), a.tensor("weight"), a.optional("bias")),
    "matmul": _matmul,
    "scaled_dot_product_attention": _attention,
    "upsample_bilinear": _upsample_bilinear,
    "upsample_nearest_neighbor": lambda a: F.interpolate(a.tensor("x"), size=a.shapes[0][-2:], mode="nearest"),
    # over axes
    "softmax": lambda a: a.tensor("x").softmax(dim=a.constant("axis", -1)),
    "reduce_mean": _reduction(torch.mean),
    "reduce_sum": _reduction(torch.sum),
    "reduce_max": _reduction(torch.amax),
    "reduce_min": _reduction(torch.amin),
    "reduce_argmax": _argmax,
}
"""Operation type to its arithmetic. All but those in `MOVES` return tensors of their own, which may be written over."""

MOVES = frozenset({"reshape", "expand_dims", "squeeze", "transpose", "tile", "concat", "stack", "split", "slice_by_index",
                   "relu", "max_pool", "upsample_nearest_neighbor"})  # fmt: skip
"""Operations that compute nothing: their results are numbers that were rounded, and judged, where they were made."""

BOUNDED = frozenset({"softmax", "sigmoid", "gelu", "sin", "cos"})
"""Operations whose results are no larger than 1 or than what they are given: nothing overflows in them first."""
