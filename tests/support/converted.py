"""Conversions of the small model, each made once a session: they take longer than all that is tested of them."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from once import once
from torch import nn

from edgetam_pl.config import ExportConfig
from edgetam_pl.exporting.coreml import CoreML
from edgetam_pl.exporting.parts import Part, Saved

SIMPLE = (bool, int, float, str, tuple, type(None))


@contextmanager
def converted_once() -> Iterator[None]:
    """Inside, a part of equal code, settings and weights is not converted again, whichever export or worker did it."""
    to_onnx, to_coreml = torch.onnx.export, CoreML.convert

    def onnx_once(module: nn.Module, example: tuple[torch.Tensor, ...], **settings: Any) -> Any:
        import onnx

        def make(folder: Path) -> None:
            exported = to_onnx(module, example, **settings)
            assert exported is not None
            onnx.save(exported.model_proto, str(folder / "model.onnx"))

        folder = once(_name("onnx", module, *((x.shape, x.dtype) for x in example), settings), make)
        return SimpleNamespace(model_proto=onnx.load(str(folder / "model.onnx")))

    def coreml_once(self: CoreML, parts: Sequence[Part], folder: Path, config: ExportConfig) -> tuple[Saved, ...]:
        if config.multifunction or config.compression != "none":
            return to_coreml(self, parts, folder, config)
        saved = []
        for part in parts:
            contract = (part.name, part.role, part.purpose, part.compute_units, part.inputs, part.outputs)
            name = _name("coreml", part.module, self.precision(config), config.system, contract)
            kept = once(name, lambda draft, part=part: to_coreml(self, [part], draft, config))  # type: ignore[misc]
            shutil.copytree(kept, folder, dirs_exist_ok=True)
            saved.append(Saved(part, folder / f"{part.name}{self.suffix}"))
        return tuple(saved)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", onnx_once)
        patch.setattr(CoreML, "convert", coreml_once)
        yield


def _name(kind: str, module: nn.Module, *settings: object) -> str:
    """A name for what this module becomes: its structure, plain attributes, weights and the settings decide."""
    digest = hashlib.sha256(repr(settings).encode())
    for name, child in module.named_modules():
        plain = {key: value for key, value in sorted(vars(child).items()) if isinstance(value, SIMPLE)}
        digest.update(repr((name, type(child).__qualname__, plain)).encode())
        for own, tensor in (*child.named_parameters(recurse=False), *child.named_buffers(recurse=False)):
            digest.update(repr((own, tensor.shape, tensor.dtype)).encode())
            digest.update(tensor.detach().contiguous().numpy().tobytes())
    return f"{kind}-{digest.hexdigest()[:24]}"
