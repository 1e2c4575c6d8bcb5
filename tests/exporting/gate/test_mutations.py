"""What makes the gate refuse, done to the programs of every format: each refusal names the part, and a frame."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from exported import Exported, export, tiny
from torch import Tensor

from edgetam_pl.config import ExportConfig, GateConfig, Tolerance
from edgetam_pl.exporting.backends import BACKENDS, backend_of
from edgetam_pl.exporting.gate.measures import Verdict
from edgetam_pl.exporting.parts import PADDING_LABEL, UNUSED_LABEL, Program

Tensors = dict[str, Tensor]


FORMATS = [
    *((name, "fp16" if name == "coreml" else "fp32") for name in BACKENDS),
    ("onnx", "fp16"),
    ("coreai", "fp32", "bank=state"),
    ("executorch", "fp32", "delegate=coreml"),
]
"""Formats, precisions and options of a format; not Core AI in fp16, which the gate refuses as it is."""


@pytest.fixture(scope="module", params=FORMATS, ids=" ".join)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """One export of a small model."""
    backend, precision, *words = request.param
    for module in (*BACKENDS[backend].needs, *(["coremltools"] if "delegate=coreml" in words else [])):
        pytest.importorskip(module)
    gate, options = GateConfig(frames=5, short_frames=4), dict(word.split("=") for word in words)
    cfg = ExportConfig(model=tiny(), backend=backend, precision=precision, options=options, golden=False, gate=gate)
    return export(cfg, tmp_path_factory.mktemp("export") / "packages")


class Mutation(NamedTuple):
    """A program that reads its inputs in a wrong way."""

    role: str
    part: str
    change: Callable[[Tensors], Tensors]
    seen: str
    """Where the refusals must say so, among others."""


def _drop_ages(inputs: Tensors) -> Tensors:
    age = inputs["memory_age"]
    return inputs | {"memory_age": torch.where(age > 0, torch.ones_like(age), age)}


def _swap_latents(inputs: Tensors) -> Tensors:
    """Global latents come first; a program that reads them last turns the wrong half."""
    return inputs | {"memory": inputs["memory"].roll(16, 2)}


def _read_empty_slots(inputs: Tensors) -> Tensors:
    age = inputs["memory_age"]
    return inputs | {"memory_age": torch.where(age < 0, torch.full_like(age, 6), age)}


def _read_unused_prompts(inputs: Tensors) -> Tensors:
    """An unused slot is not SAM's padding point, of which there is exactly one."""
    labels = inputs["labels"]
    return inputs | {"labels": torch.where(labels == UNUSED_LABEL, torch.full_like(labels, PADDING_LABEL), labels)}


def _ignore_boxes(inputs: Tensors) -> Tensors:
    """The ports that were seen took boxes and did nothing with them."""
    labels = inputs["labels"]
    return inputs | {"labels": torch.where(labels >= 2, torch.full_like(labels, UNUSED_LABEL), labels)}


STEP, DECODER = ("track_step", "EdgeTAMTrackStep"), ("prompt_decoder", "EdgeTAMPromptDecoder")
MUTATIONS = {
    "dropped ages": Mutation(*STEP, _drop_ages, "ages exchanged"),
    "swapped latents": Mutation(*STEP, _swap_latents, "full bank"),
    "f28 padding of the bank that counts": Mutation(*STEP, _read_empty_slots, "one memory"),
    "f30 padding of the prompt slots that counts": Mutation(*DECODER, _read_unused_prompts, "rollout click, frame 0"),
    "f30 ignored boxes": Mutation(*DECODER, _ignore_boxes, "rollout box, frame 0"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_program_that_reads_its_inputs_wrongly_is_refused(exported: Exported, name: str) -> None:
    role, part, change, seen = MUTATIONS[name]
    verdict = exported.judge({role: lambda program: lambda inputs: program(change(dict(inputs)))})
    _refused(verdict, part)
    assert any(seen in str(measure) for measure in verdict.failures)


def test_what_was_accepted_is_accepted_again(exported: Exported) -> None:
    assert [str(failure) for failure in exported.judge({}).failures] == []


def test_a_flipped_weight_is_refused(exported: Exported, tmp_path: Path) -> None:
    """Flipped in the saved file, or where a format packs its weights, before a conversion."""
    part, name = exported.parts["track_step"], "model.memory_attention.blocks.0.ffn_out.weight"
    honest = next(each for each in exported.saved if each.part.role == "track_step")
    flipped = dataclasses.replace(honest, path=_copied(honest.path, tmp_path))
    if _flip(flipped.path, part.module.get_parameter(name).detach().numpy()) != 1:
        module = copy.deepcopy(part.module)
        with torch.no_grad():
            module.get_parameter(name).neg_()
        (tmp_path / "again").mkdir()
        backend = backend_of(exported.cfg.backend)
        (flipped,) = backend.convert([dataclasses.replace(part, module=module)], tmp_path / "again", exported.cfg)
    saved = [flipped if each.part.role == "track_step" else each for each in exported.saved]
    _refused(exported.judge({}, saved=saved), "EdgeTAMTrackStep")


def test_numbers_that_are_no_numbers_are_refused(exported: Exported) -> None:
    def broken(program: Program) -> Program:
        return lambda inputs: {name: value * float("nan") for name, value in program(inputs).items()}

    _refused(exported.judge({"memory_encoder": broken}), "EdgeTAMMemoryEncoder")


def test_f29_an_error_that_grows_over_frames_is_refused_on_a_frame(exported: Exported) -> None:
    """The gate judges the loop as well: all that a single step does is forgiven here, and the object is lost nonetheless."""

    def forgetful(program: Program) -> Program:
        def run_it(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            results = program(inputs)
            return results | {"memory_out": -results["memory_out"]}

        return run_it

    bounds = GateConfig(frames=8, short_frames=4)
    for name in ("half", "exact"):
        kept: Tolerance = getattr(bounds, name)
        forgiving = Tolerance(part=9, psnr=-99, stored=9, contrast=9, step=9, step_psnr=-99, step_iou=0)
        setattr(bounds, name, dataclasses.replace(forgiving, free=kept.free, iou=kept.iou))
    failures = exported.judge({"track_step": forgetful}, bounds=bounds).failures
    assert failures
    assert all("left to itself" in measure.what for measure in failures)
    frames = {int(measure.where.split("frame ")[1]) for measure in failures if "rollout click" in measure.where}
    assert min(frames) >= 2  # frame 1 reads only what MemoryEncoder has written


def _copied(path: Path, folder: Path) -> Path:
    """A copy of a saved part, which may be a folder."""
    duplicate = shutil.copytree if path.is_dir() else shutil.copyfile
    return duplicate(path, folder / path.name)


def _flip(path: Path, weight: np.ndarray[Any, Any]) -> int:
    """Turn the sign of a weight in the files of a saved part, in whatever precision and order it lies there: how often."""
    found = 0
    for file in [each for each in (path, *path.rglob("*")) if each.is_file()]:
        data = file.read_bytes()
        for kind, matrix in itertools.product((np.float32, np.float16), (weight, weight.T)):
            needle = matrix.astype(kind)
            if count := data.count(needle.tobytes()):
                found += count
                data = data.replace(needle.tobytes(), (-needle).tobytes())
        file.write_bytes(data)
    return found


def _refused(verdict: Verdict, part: str) -> None:
    """The gate must name the part in its part by part check, and a frame of a rollout."""
    texts = [str(measure) for measure in verdict.failures]
    assert texts, "the gate let it pass"
    assert any(text.startswith(part) and "rollout" not in text for text in texts), texts
    assert any("frame" in text and "rollout" in text for text in texts), texts
