"""The gate, part by part: every saved program against its adapter in torch, on inputs of every kind.

Three comparisons: what a program returns in its own arithmetic; what it returns when only its weights are rounded, which
judges the graph; and what a change of one input changes, which finds what the first two would take for rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from edgetam_pl.config import GateConfig, Tolerance
from edgetam_pl.export.adapters import StepOnce
from edgetam_pl.export.client import PackagedTracker, pack
from edgetam_pl.export.clip import CheckClip, scenarios
from edgetam_pl.export.gate.measures import Measure, psnr, relative_error
from edgetam_pl.export.manifest import RuntimeSpec
from edgetam_pl.export.mil_interpreter import Interpreter
from edgetam_pl.export.parts import Part, Program
from edgetam_pl.types import ABSENT_LOGIT, BACKGROUND, FOREGROUND, ImageFeatures, Memory, Prompts, Recall

SCORES = frozenset({"iou_scores", "iou_score", "obj_score"})
"""Outputs that are single numbers of order one: their errors are absolute below one."""

LEAST_CONTRAST = 1e-4
"""A change smaller than this share of the output drowns in the arithmetic itself."""

NOISE_BANK = "full bank of noise"
NOISE = 3.0
"""Spread of the tokens in a bank of noise: as large as real ones are."""

FILLER = 7.0
"""What unused bank slots hold during the part by part check: if it mattered, it would show."""


class Case(NamedTuple):
    """Inputs of one part, and a name for people."""

    name: str
    inputs: dict[str, Tensor]


def cases(parts: Mapping[str, Part], loop: RuntimeSpec, clip: CheckClip) -> Iterator[tuple[str, Case]]:
    """Inputs for every part, by role: made by the parts themselves from the clip's frames, so they are what will be met."""
    frames = sorted({0, clip.num_frames // 3, clip.num_frames - 1})
    looks = {t: parts["image_encoder"].run({"image": clip.frame(t).float()}) for t in frames}
    for t in frames:
        yield "image_encoder", Case(f"frame {t}", {"image": clip.frame(t).float()})
    yield from (("prompt_decoder", case) for case in _prompt_cases(parts, loop, clip, looks[0]))
    memories = []
    for t in frames:
        for kind, logits in _mask_inputs(clip, t).items():
            for binarize in (0.0, 1.0) if t == 0 else (0.0,):
                inputs = {
                    "vision_features": looks[t]["vision_features"],
                    "mask_logits": logits,
                    "binarize": torch.tensor([binarize]),
                }
                if loop.memory_needs_presence:
                    inputs["obj_score"] = torch.tensor([[5.0 if kind == "mask" else -5.0]])
                yield "memory_encoder", Case(f"frame {t}, {kind}{', binarized' if binarize else ''}", inputs)
                memories.append(parts["memory_encoder"].run(inputs)["memory"])
    yield from (("track_step", case) for case in _bank_cases(loop, looks, memories))


def compare_parts(
    parts: Mapping[str, Part],
    programs: Mapping[str, Program],
    loop: RuntimeSpec,
    clip: CheckClip,
    gate: GateConfig,
    *,
    label: str,
    error: float,
    decibel: float | None = None,
    noise: bool = True,
) -> Iterator[Measure]:
    """Every program against its adapter in torch, on inputs of every kind.

    Args:
        label: how the programs compute, for the report.
        error: bound of the relative error.
        decibel: bound of the PSNR; null: not measured.
        noise: also on a bank of noise, which no clip fills: it is for graphs, not for rounding.
    """
    for role, case in cases(parts, loop, clip):
        if case.name == NOISE_BANK and not noise:
            continue
        part = parts[role]
        values = programs[role](case.inputs)
        truths = _truth(part, case.inputs, values, gate)
        for name, truth in truths.items():
            where, least = f"{case.name}, output {name}", 1.0 if name in SCORES else 1e-12
            difference = relative_error(values[name], truth, least=least)
            yield Measure(part.name, where, f"relative error ({label})", difference, error)
            if decibel is not None:
                ratio = psnr(values[name], truth, least=least)
                yield Measure(part.name, where, f"PSNR in dB ({label})", ratio, decibel, at_least=True)


def _truth(part: Part, inputs: Mapping[str, Tensor], values: Mapping[str, Tensor], gate: GateConfig) -> dict[str, Tensor]:
    """What torch says; where rounding may have decided a tie otherwise, what torch says after that decision."""
    if not isinstance(part.module, StepOnce):
        return part.run(inputs)
    tensors = [inputs[feature.name] for feature in part.inputs]
    options = part.module.alternatives(tensors, tie=gate.tie, presence_tie=gate.presence_tie)
    named = [{feature.name: value for feature, value in zip(part.outputs, option, strict=True)} for option in options]
    return min(named, key=lambda truth: (values["low_res_mask"] - truth["low_res_mask"]).abs().mean().nan_to_num(math.inf))


class Contrast(NamedTuple):
    """Two inputs of a part that differ in one thing, and the output in which it shows."""

    name: str
    output: str
    before: dict[str, Tensor]
    after: dict[str, Tensor]


def contrasts(parts: Mapping[str, Part], loop: RuntimeSpec, clip: CheckClip) -> Iterator[tuple[str, Contrast]]:
    """One thing changed at a time: what a wrong graph would miss although its outputs are nearly right."""
    found = list(cases(parts, loop, clip))
    banks = {case.name: case.inputs for role, case in found if role == "track_step"}
    full = banks[NOISE_BANK]  # memories of one clip resemble one another, and then ages hardly matter
    age, memory = full["memory_age"], full["memory"]
    if loop.num_memories > 1:
        yield "track_step", Contrast("ages exchanged", "image_embedding", full, full | {"memory_age": age.roll(1, 1)})
        emptied = full | {"memory_age": torch.cat((age[:, :-1], torch.full_like(age[:, -1:], -1)), dim=1)}
        yield "track_step", Contrast("a memory taken away", "image_embedding", full, emptied)
    if loop.tokens > 1:
        turned = full | {"memory": memory.roll(loop.tokens // 2, 2)}
        yield "track_step", Contrast("order of the latents changed", "image_embedding", full, turned)
    if loop.num_pointers > 1:
        valid = full["obj_ptr_valid"].clone()
        valid[:, -1] = 0
        yield "track_step", Contrast("a pointer taken away", "image_embedding", full, full | {"obj_ptr_valid": valid})
    if loop.pointer_ages:
        older = full | {"obj_ptr_age": full["obj_ptr_age"] + 3}
        yield "track_step", Contrast("older pointers", "image_embedding", full, older)
    said = {case.name: case.inputs for role, case in found if role == "prompt_decoder"}
    click = said["click"]
    labels = click["labels"].clone()
    labels[:, 0] = BACKGROUND
    yield "prompt_decoder", Contrast("background instead of foreground", "low_res_masks", click, click | {"labels": labels})
    moved = click | {"points": click["points"] + loop.size / 16}
    yield "prompt_decoder", Contrast("click moved", "low_res_masks", click, moved)
    second = click["labels"].clone()
    second[:, 1] = FOREGROUND
    yield "prompt_decoder", Contrast("second slot used", "low_res_masks", click, click | {"labels": second})
    corrected = said["click and previous mask"]
    forgotten = corrected | {"has_mask": torch.zeros(1)}
    yield "prompt_decoder", Contrast("previous mask withheld", "low_res_masks", corrected, forgotten)
    stored = [case.inputs for role, case in found if role == "memory_encoder"]
    yield "memory_encoder", Contrast("binarized", "memory", stored[0], stored[0] | {"binarize": torch.ones(1)})
    mask = stored[0]["mask_logits"].roll(loop.low // 8, 3)
    yield "memory_encoder", Contrast("mask moved", "memory", stored[0], stored[0] | {"mask_logits": mask})


def compare_contrasts(
    parts: Mapping[str, Part], programs: Mapping[str, Program], loop: RuntimeSpec, clip: CheckClip, tolerance: Tolerance
) -> Iterator[Measure]:
    """What each change does, in the programs (fp32 arithmetic) and in torch; one that does next to nothing is left out."""
    for role, contrast in contrasts(parts, loop, clip):
        part, name = parts[role], contrast.output
        before = part.run(contrast.before)[name]
        truth = part.run(contrast.after)[name] - before
        if truth.abs().max() < LEAST_CONTRAST * before.abs().max():
            continue
        value = programs[role](contrast.after)[name] - programs[role](contrast.before)[name]
        yield Measure(
            part.name, contrast.name, "relative error of a change", relative_error(value, truth), tolerance.contrast
        )


def largest_activations(parts: Mapping[str, Part], programs: Mapping[str, Program], *, bound: float) -> Iterator[Measure]:
    """The largest magnitude in each part that fp16 has to hold, over everything the programs have run so far."""
    for role, program in programs.items():
        if not isinstance(program, Interpreter):
            continue
        peaks = [(peak.value, name, peak.operation) for name, peak in program.peaks.items() if peak.fp16]
        if peaks:  # in program order: where values first grow too large is the cause, what follows is not
            value, name, operation = next((peak for peak in peaks if not peak[0] <= bound), max(peaks))
            yield Measure(parts[role].name, f"{operation} {name}", "largest fp16 activation", value, bound)


def _prompt_cases(
    parts: Mapping[str, Part], loop: RuntimeSpec, clip: CheckClip, look: Mapping[str, Tensor]
) -> Iterator[Case]:
    tracker = PackagedTracker({role: part.run for role, part in parts.items()}, loop)
    features = ImageFeatures(look.get("feats_s0"), look.get("feats_s1"), look["vision_features"])
    told: list[tuple[str, Prompts | None]] = [("no prompt", None)]
    for scenario in scenarios(clip, short_frames=min(10, clip.num_frames)):
        first = scenario.entries[0][0]
        if first is not None and first.mask is None:
            told.append((scenario.name, first))
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(1, loop.prompt_slots, 2, generator=generator) * loop.size
    told.append(("all slots", Prompts(points, torch.arange(loop.prompt_slots)[None] % 2)))
    previous = 8 * torch.randn(1, 1, loop.low, loop.low, generator=generator)
    told.append(("click and previous mask", Prompts(points[:, :2], torch.tensor([[1, 0]]), previous=previous)))
    for name, prompts in told:
        (inputs,) = tracker.prompt_inputs(look["image_embedding"], features, prompts)
        yield Case(name, inputs)


def _mask_inputs(clip: CheckClip, t: int) -> dict[str, Tensor]:
    mask = clip.mask(t, 0).float()[None, None]
    logits = torch.nn.functional.avg_pool2d(mask, 4) * 20 - 10
    return {"mask": logits, "absent": torch.full_like(logits, ABSENT_LOGIT)}


def _bank_cases(loop: RuntimeSpec, looks: Mapping[int, Mapping[str, Tensor]], memories: Sequence[Tensor]) -> Iterator[Case]:
    generator = torch.Generator().manual_seed(1)
    look = looks[max(looks)]
    kept = [
        Memory(memories[i % len(memories)], torch.zeros(1), torch.randn(1, loop.dim, generator=generator), loop.memory_grid)
        for i in range(max(loop.num_pointers, loop.num_memories))
    ]
    noise = [m._replace(tokens=NOISE * torch.randn(m.tokens.shape, generator=generator)) for m in kept]
    full = (0, *range(loop.num_memories - 1, 0, -1))
    for name, stored, ages, pointers in (
        ("one memory", kept, (0,), 1),
        ("three memories", kept, (0, 2, 1), 3),
        ("full bank", kept, full, loop.num_pointers),
        (NOISE_BANK, noise, full, loop.num_pointers),
    ):
        ages = tuple(age for age in ages if age <= loop.recent_memories)[: loop.num_memories]
        recall = Recall(
            tuple((age, stored[i]) for i, age in enumerate(ages)),
            tuple((i, stored[i].pointer) for i in range(min(pointers, loop.num_pointers))),
        )
        slots = pack(recall, 0, loop, filler=FILLER)
        inputs = {"vision_features": look["vision_features"]}
        inputs |= {name: look[name] for name in ("feats_s0", "feats_s1") if name in look}
        inputs |= {"memory": slots.memory, "memory_age": slots.memory_age}
        inputs |= {"obj_ptrs": slots.obj_ptrs, "obj_ptr_valid": slots.obj_ptr_valid}
        if loop.pointer_ages:
            inputs["obj_ptr_age"] = slots.obj_ptr_age
        yield Case(name, inputs)
