"""The gate, part by part: every saved program against its adapter in torch, on inputs of every kind.

Three comparisons: what a program returns in its own arithmetic; what it returns when only its weights are rounded, which
judges the graph; and what a change of one input changes, which finds what the first two would take for rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from edgetam_pl.config import GateConfig, Tolerance
from edgetam_pl.exporting.adapters import StepOnce
from edgetam_pl.exporting.backend import Backend
from edgetam_pl.exporting.client import PackagedTracker, features_of, high_res, pack
from edgetam_pl.exporting.clip import CheckClip, scenarios
from edgetam_pl.exporting.gate.measures import Measure, psnr, relative_error
from edgetam_pl.exporting.manifest import RuntimeSpec
from edgetam_pl.exporting.parts import Part, Program
from edgetam_pl.exporting.validate_on_mac import SCORES
from edgetam_pl.types import ABSENT_LOGIT, BACKGROUND, FOREGROUND, Memory, Prompts, Recall

LEAST_CONTRAST = 1e-4
"""A change smaller than this share of the output drowns in the arithmetic itself."""

NOISE_BANK = "full bank of noise"
NOISE = 3.0
"""Spread of the tokens in a bank of noise: as large as real ones are."""

FILLER = 7.0
"""What unused bank slots hold during the part by part check: if it mattered, it would show."""


class Case(NamedTuple):
    """Inputs of one part, and what torch makes of them."""

    role: str
    name: str
    inputs: dict[str, Tensor]
    truths: list[dict[str, Tensor]]
    """torch's outputs; where rounding may decide a tie otherwise, also those after each other decision."""


class Bounds(NamedTuple):
    """What one kind of arithmetic has to keep."""

    label: str
    """How the programs compute, for the report."""
    error: float
    """Of the relative error."""
    decibel: float | None = None
    """Of the PSNR, but for a bank of noise; None: not measured."""
    noise: bool = True
    """Also on a bank of noise, which no clip fills: it is for graphs, not for rounding."""


def cases(parts: Mapping[str, Part], loop: RuntimeSpec, clip: CheckClip, gate: GateConfig) -> list[Case]:
    """Inputs for every part, made by the parts themselves from the clip's frames, so they are what will be met."""

    def case(role: str, name: str, inputs: dict[str, Tensor]) -> Case:
        return Case(role, name, inputs, _truths(parts[role], inputs, gate))

    frames = sorted({0, clip.num_frames // 3, clip.num_frames - 1})
    found = [case("image_encoder", f"frame {t}", {"image": clip.frame(t).float()}) for t in frames]
    encoded = {t: each.truths[0] for t, each in zip(frames, found, strict=True)}
    tracker = PackagedTracker({role: part.run for role, part in parts.items()}, loop)
    for name, prompts in _prompts(loop, clip):
        (inputs,) = tracker.prompt_inputs(encoded[0]["image_embedding"], features_of(encoded[0]), prompts)
        found.append(case("prompt_decoder", name, inputs))
    memories = []
    for t in frames:
        mask = torch.nn.functional.avg_pool2d(clip.mask(t, 0).float()[None, None], 4) * 20 - 10
        for kind, logits, presence in (("mask", mask, 5.0), ("absent", torch.full_like(mask, ABSENT_LOGIT), -5.0)):
            for binarize in (0.0, 1.0) if t == 0 else (0.0,):
                inputs = {"vision_features": encoded[t]["vision_features"], "mask_logits": logits}
                inputs["binarize"] = torch.tensor([binarize])
                if loop.memory_needs_presence:
                    inputs["obj_score"] = torch.tensor([[presence]])
                name = f"frame {t}, {kind}{', binarized' if binarize else ''}"
                found.append(case("memory_encoder", name, inputs))
                memories.append(found[-1].truths[0]["memory"])
    last = encoded[frames[-1]]
    for name, slots in _banks(loop, memories):
        inputs = {"vision_features": last["vision_features"], **high_res(features_of(last)), **slots}
        found.append(case("track_step", name, inputs))
    return found


def _truths(part: Part, inputs: Mapping[str, Tensor], gate: GateConfig) -> list[dict[str, Tensor]]:
    if not isinstance(part.module, StepOnce):
        return [part.run(inputs)]
    tensors = [inputs[feature.name] for feature in part.inputs]
    options = part.module.alternatives(tensors, tie=gate.tie, presence_tie=gate.presence_tie)
    return [part.named(option) for option in options]


def _prompts(loop: RuntimeSpec, clip: CheckClip) -> list[tuple[str, Prompts | None]]:
    """No prompt; the scenarios' click and box; every slot in use; a previous mask."""
    firsts = [(each.name, each.entries[0][0]) for each in scenarios(clip, short_frames=min(10, clip.num_frames))]
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(1, loop.prompt_slots, 2, generator=generator) * loop.size
    previous = 8 * torch.randn(1, 1, loop.low, loop.low, generator=generator)
    return [
        ("no prompt", None),
        *((name, first) for name, first in firsts if first is not None and first.mask is None),
        ("all slots", Prompts(points, torch.arange(loop.prompt_slots)[None] % 2)),
        ("click and previous mask", Prompts(points[:, :2], torch.tensor([[1, 0]]), previous=previous)),
    ]


def _banks(loop: RuntimeSpec, memories: Sequence[Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Banks with one memory, with three, full ones, and one of noise, in TrackStep's shapes."""
    generator = torch.Generator().manual_seed(1)
    stored = [
        Memory(memories[i % len(memories)], torch.zeros(1), torch.randn(1, loop.dim, generator=generator), loop.memory_grid)
        for i in range(max(loop.num_pointers, loop.num_memories))
    ]
    noise = [each._replace(tokens=NOISE * torch.randn(each.tokens.shape, generator=generator)) for each in stored]
    full = (0, *range(loop.num_memories - 1, 0, -1))
    for name, bank, ages, pointers in (
        ("one memory", stored, (0,), 1),
        ("three memories", stored, (0, 2, 1), 3),
        ("full bank", stored, full, loop.num_pointers),
        (NOISE_BANK, noise, full, loop.num_pointers),
    ):
        known = [age for age in ages if age <= loop.recent_memories][: loop.num_memories]  # older ones have no code
        frames = tuple((age, bank[i]) for i, age in enumerate(known))
        recall = Recall(frames, tuple((i, bank[i].pointer) for i in range(min(pointers, loop.num_pointers))))
        yield name, pack(recall, 0, loop, filler=FILLER)


Answers = dict[int, dict[str, Tensor]]
"""What programs made of inputs, by the identity of the inputs."""


def compare_parts(
    parts: Mapping[str, Part],
    programs: Mapping[str, Program],
    found: Sequence[Case],
    bounds: Bounds,
    answers: Answers | None = None,
) -> Iterator[Measure]:
    """Every program against its adapter in torch, on inputs of every kind.

    Args:
        answers: filled with what the programs answer.
    """
    for case in found:
        noise = case.name == NOISE_BANK
        if noise and not bounds.noise:
            continue
        values = programs[case.role](case.inputs)
        if answers is not None:
            answers[id(case.inputs)] = values
        # where rounding may have decided a tie otherwise: torch's outputs after that decision
        truths = case.truths[0]
        if len(case.truths) > 1:
            mask = values["low_res_mask"]
            truths = min(case.truths, key=lambda each: (mask - each["low_res_mask"]).abs().mean().nan_to_num(math.inf))
        for name, truth in truths.items():
            part, where = parts[case.role].name, f"{case.name}, output {name}"
            least = 1.0 if name in SCORES else 1e-12
            error, decibel = relative_error(values[name], truth, least=least), psnr(values[name], truth, least=least)
            yield Measure(part, where, f"relative error ({bounds.label})", error, bounds.error)
            if bounds.decibel is not None and not noise:
                yield Measure(part, where, f"PSNR in dB ({bounds.label})", decibel, bounds.decibel, at_least=True)


class Contrast(NamedTuple):
    """A part's inputs, what of them is changed, and the output in which the change shows."""

    role: str
    output: str
    before: dict[str, Tensor]
    name: str
    changes: dict[str, Tensor]


def contrasts(loop: RuntimeSpec, found: Sequence[Case]) -> list[Contrast]:
    """One thing changed at a time: what a wrong graph would miss although its outputs are nearly right."""
    inputs = {(case.role, case.name): case.inputs for case in found}
    full = inputs["track_step", NOISE_BANK]  # memories of one clip resemble one another, and then ages hardly matter
    click, corrected = inputs["prompt_decoder", "click"], inputs["prompt_decoder", "click and previous mask"]
    stored = inputs["memory_encoder", "frame 0, mask"]
    step = partial(Contrast, "track_step", "image_embedding", full)
    decode = partial(Contrast, "prompt_decoder", "low_res_masks", click)
    encode = partial(Contrast, "memory_encoder", "memory", stored)
    listed = [
        decode("background instead of foreground", {"labels": _with_column(click["labels"], 0, BACKGROUND)}),
        decode("click moved", {"points": click["points"] + loop.size / 16}),
        decode("second slot used", {"labels": _with_column(click["labels"], 1, FOREGROUND)}),
        decode("previous mask withheld", {"has_mask": torch.zeros(1)})._replace(before=corrected),
        encode("binarized", {"binarize": torch.ones(1)}),
        encode("mask moved", {"mask_logits": stored["mask_logits"].roll(loop.low // 8, 3)}),
    ]
    if loop.num_memories > 1:
        listed.append(step("ages exchanged", {"memory_age": full["memory_age"].roll(1, 1)}))
        listed.append(step("a memory taken away", {"memory_age": _with_column(full["memory_age"], -1, -1)}))
    if loop.tokens > 1:
        listed.append(step("order of the latents changed", {"memory": full["memory"].roll(loop.tokens // 2, 2)}))
    if loop.num_pointers > 1:
        listed.append(step("a pointer taken away", {"obj_ptr_valid": _with_column(full["obj_ptr_valid"], -1, 0)}))
    if loop.pointer_ages:
        listed.append(step("older pointers", {"obj_ptr_age": full["obj_ptr_age"] + 3}))
    return listed


def _with_column(x: Tensor, column: int, value: int) -> Tensor:
    x = x.clone()
    x[:, column] = value
    return x


def compare_contrasts(
    parts: Mapping[str, Part],
    programs: Mapping[str, Program],
    loop: RuntimeSpec,
    found: Sequence[Case],
    answers: Answers,
    tolerance: Tolerance,
) -> Iterator[Measure]:
    """What each change does, in the programs and in torch; one that does next to nothing is left out.

    Args:
        answers: of the programs before a change, from `compare_parts`.
    """
    torchs = {id(case.inputs): case.truths[0] for case in found}
    for role, output, inputs, name, changes in contrasts(loop, found):
        before, after = torchs[id(inputs)][output], inputs | changes
        truth = parts[role].run(after)[output] - before
        if truth.abs().max() < LEAST_CONTRAST * before.abs().max():
            continue
        error = relative_error(programs[role](after)[output] - answers[id(inputs)][output], truth)
        yield Measure(parts[role].name, name, "relative error of a change", error, tolerance.contrast)


def largest_activations(
    parts: Mapping[str, Part], programs: Mapping[str, Program], backend: Backend, *, bound: float
) -> Iterator[Measure]:
    """The largest magnitude in each part that fp16 has to hold, over everything the programs have run so far."""
    for role, program in programs.items():
        peaks = backend.activation_peaks(program)
        if peaks:  # in program order: where values first grow too large is the cause, what follows is not
            peak = next((name for name, value in peaks.items() if not value <= bound), max(peaks, key=peaks.__getitem__))
            yield Measure(parts[role].name, peak, "largest fp16 activation", peaks[peak], bound)
