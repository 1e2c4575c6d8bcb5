"""Core AI, the successor of Core ML: parts to `.aimodel` assets, executed here by Apple's runtime for the CPU on Linux."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgetam_pl.config import ExportConfig
from edgetam_pl.exporting.backend import Backend, ProgramFacts
from edgetam_pl.exporting.coreai_state import KeepingProgram, Slots, keeping
from edgetam_pl.exporting.documents import render
from edgetam_pl.exporting.extras import require, silenced
from edgetam_pl.exporting.half import halved
from edgetam_pl.exporting.manifest import Manifest
from edgetam_pl.exporting.parts import Part, Program, Saved
from edgetam_pl.io.environment import VERSION


class CoreAI(Backend):
    """The backend `coreai`."""

    name = "coreai"
    title = "Core AI"
    suffix = ".aimodel"
    extra = "coreai"
    needs = ("coreai_torch",)
    tested = {"coreai_torch": ((0, 4), (0, 4)), "torch": ((2, 8), (2, 13))}  # noqa: RUF012
    default_precision = "fp16"
    optional = {"coreai_opt": "8 bits and palettes (compression=int8, palette8, palette6, palette4)"}  # noqa: RUF012
    choices = {  # noqa: RUF012
        **Backend.choices,
        "multifunction": (False, True),
        "compression": ("none", "int8", "palette8", "palette6", "palette4"),
    }
    options = {"bank": ("inputs", "state")}  # noqa: RUF012
    volatile = ("metadata.json",)  # the time of the save
    runner = "Core AI's CPU runtime on Linux"
    device = "Core AI on an Apple device"

    def __init__(self) -> None:
        self.slots: Slots | None = None
        """The state that the loaded programs share, where they have one."""

    def precision(self, config: ExportConfig) -> str:
        precision = super().precision(config)
        if precision == "fp16" and self.option(config, "bank") == "state":
            raise ValueError("options.bank=state was tried in fp32 alone; give precision=fp32 with it.")
        return precision

    def system(self, config: ExportConfig) -> str:
        return "ios27"

    def convert(self, parts: Sequence[Part], folder: Path, config: ExportConfig) -> tuple[Saved, ...]:
        tools = require("coreai_torch", self.extra)
        half = self.precision(config) == "fp16"
        if self.option(config, "bank") == "state":
            parts = [keeping(part, config.num_memories) for part in parts]
        groups = [parts] if config.multifunction else [[part] for part in parts]
        saved = []
        for group in groups:
            path = folder / f"{config.name if config.multifunction else group[0].name}{self.suffix}"
            with silenced(), torch.no_grad():
                converter = tools.TorchConverter(mode=tools.TorchConverter.Mode.RELEASE)
                for part in group:
                    program = torch.export.export(part.module, part.example(), strict=False)
                    if half:
                        program = halved(program, part)
                    converter.add_exported_program(
                        program.run_decompositions(tools.get_decomp_table()),
                        input_names=[feature.name for feature in part.inputs],
                        output_names=[feature.name for feature in part.outputs],
                        state_names=[feature.name for feature in part.states],
                        entrypoint_name=part.role,
                    )
                compress(converter.to_coreai(), config.compression).save_asset(path, self._metadata(group))
            saved += [Saved(part, path, part.role) for part in group]
        return tuple(saved)

    def load(self, saved: Saved, *, rounded: bool) -> Program:
        assert saved.function is not None
        program = CoreAIProgram(saved.path, saved.function)
        if not program.states:
            return program
        if self.slots is None:
            self.slots = program.new_slots()
        return KeepingProgram(saved.part, program.call, self.slots)

    def facts(self, saved: Saved) -> ProgramFacts:
        function = CoreAIProgram(saved.path, saved.function or "").function
        shapes = [function.desc.input_descriptor(name).shape for name in function.desc.input_names]
        return ProgramFacts(max_rank=max(len(shape) for shape in shapes))

    def usage(self, manifest: Manifest) -> str:
        return render("usage_coreai.md.jinja", manifest=manifest, spec=manifest.loop)

    def _metadata(self, parts: Sequence[Part]) -> Any:
        metadata = require("coreai.runtime", self.extra).AIModelAssetMetadata()
        metadata.author, metadata.license = f"EdgeTAM-PL {VERSION}", "Apache-2.0"
        metadata.model_description = "\n".join(f"{part.role}: {part.purpose}" for part in parts)
        return metadata


def compress(program: Any, kind: str) -> Any:
    """Weights at 8, 6 or 4 bits, as `exporting/coreml.py` does it: scales by output channel, palettes of a tensor, or of 16
    channels for 4 bits. With 4 bits a weight whose channels are no multiple of 16 stays as it is.

    Args:
        program: a `coreai` AIProgram.

    Raises:
        ValueError: a weight that coreai-opt could not compress; it goes on then, and says so in a log.
    """
    if kind == "none":
        return program
    tools = require("coreai_opt.coreai_utils", CoreAI.extra)
    with _warnings("coreai_opt") as warnings:
        if kind == "int8":
            program = tools.quantize_weights(program, dtype=tools.DType.INT8)
        else:
            bits, sort = int(kind.removeprefix("palette")), tools.CompressionGranularity
            program = tools.palettize_weights(
                program,
                None,
                n_bits=bits,
                granularity=sort.PER_GROUPED_CHANNEL if bits == 4 else sort.PER_TENSOR,
                group_size=16,
                num_kmeans_workers=1,
                enable_fast_kmeans_mode=False,  # it rounds weights to 1e-4, in half precision: those above 6.5 overflow
            )
    if failed := [text for text in warnings if text.startswith("Failed")]:
        raise ValueError(f"compression={kind}: coreai-opt could not compress {len(failed)} weights: {failed[0]}")
    return program


@contextlib.contextmanager
def _warnings(logger: str) -> Iterator[list[str]]:
    """What a library logs as a warning inside."""
    found: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger(logger).addHandler(handler)
    try:
        yield found
    finally:
        logging.getLogger(logger).removeHandler(handler)


class CoreAIProgram:
    """One function of a saved asset under Core AI's runtime."""

    def __init__(self, path: Path, function: str) -> None:
        self._runtime = require("coreai.runtime", CoreAI.extra)
        self.model, self._open = _opened(path, (path / "main.hash").read_bytes())
        self.name, self.function = function, self.model.load_function(function)
        self.types = {name: self.function.desc.input_descriptor(name).dtype for name in self.function.desc.input_names}
        self.states = list(self.function.desc.state_names)

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.call(inputs, {})

    def call(self, inputs: Mapping[str, Tensor], states: Mapping[str, Any]) -> dict[str, Tensor]:
        """Run once; the program writes into the arrays of `states`."""
        if set(inputs) != set(self.types):
            raise ValueError(f"the program takes {sorted(self.types)}; given {sorted(inputs)}.")
        given = {
            name: self._runtime.NDArray(np.ascontiguousarray(value.numpy().astype(self.types[name])))
            for name, value in inputs.items()
        }
        results = _loop().run(self._call(given, states))
        return {name: torch.from_numpy(np.array(value.numpy(), dtype=np.float32)) for name, value in results.items()}

    def new_slots(self) -> Slots:
        """The program's state, all zero."""
        (name,) = self.states
        form = self.function.desc.state_descriptor(name)
        return Slots(self._runtime.NDArray, [int(side) for side in form.shape], form.dtype)

    async def _call(self, given: Mapping[str, Any], states: Mapping[str, Any]) -> dict[str, Any]:
        return await self.function(inputs=given, state=states)


@cache
def _loop() -> asyncio.Runner:
    """The event loop that the runtime's coroutines run in, for the life of the process."""
    return asyncio.Runner()


@cache
def _opened(path: Path, digest: bytes) -> tuple[Any, contextlib.AsyncExitStack]:
    """The asset, compiled for this machine, and what keeps it loaded; functions of one asset share it.

    Args:
        digest: of the program, so that another program saved under the same name is not taken for it.
    """
    asset = require("coreai.authoring", CoreAI.extra).AIModelAsset.load(path)

    async def enter() -> tuple[Any, contextlib.AsyncExitStack]:
        stack = contextlib.AsyncExitStack()
        return await stack.enter_async_context(asset.executable()), stack

    with silenced():
        return _loop().run(enter())
