"""Conversions of the small model, each made once a session: they take longer than all that is tested of them."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from once import once
from torch import nn
from torch.onnx._internal.exporter._registration import ONNXRegistry
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_leaves

from edgetam_pl.config import ExportConfig
from edgetam_pl.exporting.coreml import CoreML
from edgetam_pl.exporting.parts import Part, Saved


@contextmanager
def converted_once() -> Iterator[None]:
    """Inside, a part that computes the same with the same settings is not converted again, whoever converted it."""
    to_onnx, to_coreml, from_torchlib = torch.onnx.export, CoreML.convert, ONNXRegistry.from_torchlib

    def onnx_once(module: nn.Module, example: tuple[torch.Tensor, ...], **settings: Any) -> Any:
        import onnx

        def make(folder: Path) -> None:
            exported = to_onnx(module, example, **settings)
            assert exported is not None
            onnx.save(exported.model_proto, str(folder / "model.onnx"))

        folder = once(_name("onnx", module, example, settings), make)
        return SimpleNamespace(model_proto=onnx.load(str(folder / "model.onnx")))

    def coreml_once(self: CoreML, parts: Sequence[Part], folder: Path, config: ExportConfig) -> tuple[Saved, ...]:
        if config.multifunction or config.compression != "none":
            return to_coreml(self, parts, folder, config)
        saved = []
        for part in parts:
            contract = (part.name, part.role, part.purpose, part.compute_units, part.inputs, part.outputs)
            name = _name("coreml", part.module, part.example(), self.precision(config), config.system, contract)
            kept = once(name, lambda draft, part=part: to_coreml(self, [part], draft, config))  # type: ignore[misc]
            shutil.copytree(kept, folder, dirs_exist_ok=True)
            saved.append(Saved(part, folder / f"{part.name}{self.suffix}"))
        return tuple(saved)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", onnx_once)
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(from_torchlib)))  # a second, for every part the same
        patch.setattr(CoreML, "convert", coreml_once)
        yield


def _name(kind: str, module: nn.Module, example: Sequence[torch.Tensor], *settings: object) -> str:
    """A name for what this module becomes: what it computes with these inputs, and the settings."""
    told = _Told([(x.shape, x.dtype) for x in example], type(module).__qualname__, settings)
    told.number(example)
    with torch.no_grad(), told:
        module(*example)
    return f"{kind}-{told.digest.hexdigest()[:24]}"


class _Told(TorchFunctionMode):
    """A digest of all operations inside: their names, numbers, and tensors, known by which operation made them or, those
    that none made, by their values. Weights that a part of a model does not use make no difference."""

    def __init__(self, *first: object) -> None:
        super().__init__()
        self.digest = hashlib.sha256(repr(first).encode())
        self.known: dict[int, tuple[int, torch.Tensor]] = {}  # kept, or another tensor could be at the same place

    def number(self, values: Any) -> None:
        for value in tree_leaves(values):
            if isinstance(value, torch.Tensor):
                self.known[id(value)] = (len(self.known), value)
                self.digest.update(repr((value.shape, value.dtype)).encode())

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.digest.update(str(resolve_name(function)).encode())
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, torch.Tensor) and id(value) not in self.known:
                self.number(value)
                self.digest.update(value.detach().contiguous().numpy().tobytes())
            elif isinstance(value, torch.Tensor):
                self.digest.update(repr(self.known[id(value)][0]).encode())
            else:
                self.digest.update(repr(value).encode())
        result = function(*args, **(kwargs or {}))
        self.number(result)
        return result
