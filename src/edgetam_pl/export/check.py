"""The gate: converted = original, part by part and over rollouts through the same `rollout` that trained the model.

Two comparisons of parts: the flat adapters against the model's own verbs, and each saved program against its adapter. Then
rollouts: the programs track a clip by their own bank and their own answers; torch tracks the same clip by its own. Masks
are compared before one is chosen. Where two candidates are as good as equal, or presence is near zero, rounding may decide
otherwise than torch: then torch follows the program, once, and both go on from the same answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from edgetam_pl.config import GateConfig, Tolerance
from edgetam_pl.export.adapters import DecodePrompts, StepOnce
from edgetam_pl.export.client import PackagedTracker, RingBank, fit, pack
from edgetam_pl.export.clip import CheckClip, Scenario, draw, scenarios
from edgetam_pl.export.manifest import Loop
from edgetam_pl.export.mil_interpreter import Interpreter
from edgetam_pl.export.parts import Part, Program
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.tracking.bank import MemoryBank, RecallPolicy
from edgetam_pl.tracking.prompters import Script
from edgetam_pl.tracking.step import rollout
from edgetam_pl.types import ABSENT_LOGIT, BACKGROUND, FOREGROUND, Decoded, ImageFeatures, Memory, Prompts, Recall

SCORES = frozenset({"iou_scores", "iou_score", "obj_score"})
"""Outputs that are single numbers of order one: their errors are absolute below one."""

VERB_FRAMES = 5
"""Frames of the rollouts that compare the adapters with the model's verbs: in fp32 errors need no time to grow."""

LEAST_CONTRAST = 1e-4
"""A change smaller than this share of the output drowns in the arithmetic itself."""

NOISE = 3.0
"""Spread of the tokens in a bank of noise: as large as real ones are."""

FILLER = 7.0
"""What unused bank slots hold during the part by part check: if it mattered, it would show."""


@dataclass(frozen=True)
class Measure:
    """One number of the gate, and its bound."""

    part: str
    where: str
    """Which inputs, or which rollout and frame."""
    what: str
    value: float
    bound: float
    at_least: bool = False
    """Is the bound a minimum (PSNR, IoU)? Otherwise a maximum."""

    @property
    def ok(self) -> bool:
        if math.isnan(self.value):
            return False
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def __str__(self) -> str:
        side = "at least" if self.at_least else "at most"
        return f"{self.part}, {self.where}: {self.what} is {self.value:.4g}, must be {side} {self.bound:.4g}"


@dataclass
class Verdict:
    """All numbers of a gate."""

    measures: list[Measure] = field(default_factory=list)

    def __iadd__(self, measures: Sequence[Measure]) -> Verdict:
        self.measures += measures
        return self

    @property
    def failures(self) -> list[Measure]:
        return [measure for measure in self.measures if not measure.ok]

    @property
    def ok(self) -> bool:
        return not self.failures

    def worst(self) -> dict[str, Measure]:
        """Of each part and quantity, the number nearest to its bound, or farthest beyond it."""
        found: dict[str, Measure] = {}
        for measure in self.measures:
            key = f"{measure.part} {measure.what}"
            known = found.get(key)
            if known is None or _badness(measure) > _badness(known):
                found[key] = measure
        return found


def _badness(measure: Measure) -> float:
    if math.isnan(measure.value):
        return math.inf
    return -measure.value if measure.at_least else measure.value


def relative_error(value: Tensor, truth: Tensor, *, least: float = 1e-12) -> float:
    """Largest difference as a share of the largest magnitude of the truth; infinite where the value is not finite.

    Args:
        least: the truth counts as at least this large. A single logit may be near zero, and then rounding is no error.
    """
    if not torch.isfinite(value).all():
        return math.inf
    return ((value - truth).abs().max() / truth.abs().max().clamp(min=least)).item()


def psnr(value: Tensor, truth: Tensor, *, least: float = 1e-12) -> float:
    """Peak signal to noise ratio in dB; the peak is the largest magnitude of the truth. 200 where nothing differs."""
    if not torch.isfinite(value).all():
        return -math.inf
    noise = (value - truth).double().pow(2).mean().sqrt().item()
    peak = max(truth.abs().max().item(), least)
    return 200.0 if noise == 0 else min(20 * math.log10(peak / noise), 200.0)


def iou(value: Tensor, truth: Tensor, *, pixels: int = 0) -> float:
    """IoU of two bool masks; 1 where they differ in at most `pixels` pixels."""
    if (value ^ truth).sum().item() <= pixels:
        return 1.0
    return (value & truth).sum().item() / (value | truth).sum().item()


# --- part by part ---------------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """Inputs of one part, and a name for people."""

    name: str
    inputs: dict[str, Tensor]


def cases(parts: Mapping[str, Part], loop: Loop, clip: CheckClip) -> Iterator[tuple[str, Case]]:
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
    loop: Loop,
    clip: CheckClip,
    gate: GateConfig,
    *,
    label: str,
    error: float,
    decibel: float | None = None,
) -> Iterator[Measure]:
    """Every program against its adapter in torch, on inputs of every kind.

    Args:
        label: how the programs compute, for the report.
        error: bound of the relative error.
        decibel: bound of the PSNR; null: not measured.
    """
    for role, case in cases(parts, loop, clip):
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


def contrasts(parts: Mapping[str, Part], loop: Loop, clip: CheckClip) -> Iterator[tuple[str, Contrast]]:
    """One thing changed at a time: what a wrong graph would miss although its outputs are nearly right."""
    found = list(cases(parts, loop, clip))
    banks = {case.name: case.inputs for role, case in found if role == "track_step"}
    full = banks["full bank of noise"]  # memories of one clip resemble one another, and then ages hardly matter
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
    parts: Mapping[str, Part], programs: Mapping[str, Program], loop: Loop, clip: CheckClip, tolerance: Tolerance
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


def compare_verbs(model: TrackAnything, parts: Mapping[str, Part], loop: Loop, gate: GateConfig) -> Iterator[Measure]:
    """The flat adapters in torch, fp32, against the model's own verbs over a short rollout: is the rewriting exact?"""
    frames = min(gate.short_frames, VERB_FRAMES)
    clip = draw(frames, loop.size, seed=gate.seed)
    tracker = PackagedTracker({role: part.run for role, part in parts.items()}, loop)
    for scenario in scenarios(clip, short_frames=frames):
        recorder = Recorder(tracker)
        _roll(recorder, RingBank(loop), scenario, lambda t, recorder=recorder: recorder.see(t, clip.frame(t)))
        reference = Reference(model, parts, loop, recorder.answers, scenario.name, gate)
        _roll(reference, _bank(loop), scenario, lambda t, reference=reference: reference.see(t, clip.frame(t)))
        bound = gate.adapters
        for measure in reference.measures:
            if measure.at_least:
                continue
            yield Measure("adapters", f"{measure.where}, {measure.part}", measure.what, measure.value, bound)


def largest_activations(parts: Mapping[str, Part], programs: Mapping[str, Program], *, bound: float) -> Iterator[Measure]:
    """The largest magnitude in each part that fp16 has to hold, over everything the programs have run so far."""
    for role, program in programs.items():
        if not isinstance(program, Interpreter):
            continue
        peaks = [(peak.value, name, peak.operation) for name, peak in program.peaks.items() if peak.fp16]
        if peaks:  # in program order: where values first grow too large is the cause, what follows is not
            value, name, operation = next((peak for peak in peaks if not peak[0] <= bound), max(peaks))
            yield Measure(parts[role].name, f"{operation} {name}", "largest fp16 activation", value, bound)


def _prompt_cases(parts: Mapping[str, Part], loop: Loop, clip: CheckClip, look: Mapping[str, Tensor]) -> Iterator[Case]:
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


def _bank_cases(loop: Loop, looks: Mapping[int, Mapping[str, Tensor]], memories: Sequence[Tensor]) -> Iterator[Case]:
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
        ("full bank of noise", noise, full, loop.num_pointers),
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


# --- rollouts -------------------------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """What the programs did for one call of `decode`, and on what."""

    frame: int
    f16: Tensor
    f_m: Tensor
    decoded: Decoded
    masks: Tensor | None
    """(O, 4, S/4, S/4) raw candidates; None where a mask was given."""
    iou: Tensor | None


class Expected(NamedTuple):
    """torch's answer for one call of `decode`: what a golden file keeps."""

    rollout: str
    frame: int
    logits: Tensor  # (1, 1, S/4, S/4) float16
    iou: float
    presence: float


@dataclass(frozen=True)
class FrameRow:
    """One answer of a rollout, for the report."""

    rollout: str
    frame: int
    features: float
    """Relative error of F16."""
    f_m: float
    candidates: float
    """Relative error of the candidate masks, before one is chosen."""
    psnr: float
    iou: float
    """IoU of the answered mask with torch's."""
    presence: float
    """torch's presence logit."""
    pixels: int
    """Pixels of torch's mask, at S/4."""
    followed: bool
    """Did torch follow the program's choice in a tie?"""


class Recorder:
    """A packaged tracker that writes down what it answers."""

    def __init__(self, tracker: PackagedTracker) -> None:
        self.tracker = tracker
        self.answers: list[Answer] = []
        self.frame = -1

    def see(self, t: int, frame: Tensor) -> ImageFeatures:
        self.frame = t
        return self.tracker.encode(frame)

    def attend(self, f16: Tensor, recall: Recall) -> Tensor:
        return self.tracker.attend(f16, recall)

    def decode(self, f_m: Tensor, features: ImageFeatures, prompts: Prompts | None) -> Decoded:
        decoded = self.tracker.decode(f_m, features, prompts)
        masks = scores = None
        if prompts is None or prompts.mask is None:
            found = self.tracker.candidates(f_m, features, prompts)
            masks, scores = found["low_res_masks"], found["iou_scores"]
        self.answers.append(Answer(self.frame, features.f16, f_m, decoded, masks, scores))
        return decoded

    def memorize(self, f16: Tensor, decoded: Decoded) -> Memory:
        return self.tracker.memorize(f16, decoded)


class Reference:
    """The model itself as a Tracker under the manifest's rules, measuring the recorded answers as it goes."""

    def __init__(
        self,
        model: TrackAnything,
        parts: Mapping[str, Part],
        loop: Loop,
        answers: Sequence[Answer],
        rollout_name: str,
        gate: GateConfig,
        tolerance: Tolerance | None = None,
    ) -> None:
        self.model, self.parts, self.loop, self.gate = model, parts, loop, gate
        self.name = rollout_name
        self.tolerance = tolerance or Tolerance()
        self.answers = iter(answers)
        self.client = PackagedTracker({role: part.run for role, part in parts.items()}, loop)
        self.measures: list[Measure] = []
        self.rows: list[FrameRow] = []
        self.expected: list[Expected] = []
        self.frame = -1

    def see(self, t: int, frame: Tensor) -> ImageFeatures:
        self.frame = t
        with torch.no_grad():
            return self.model.encode(self.model.normalise(frame))

    @torch.no_grad()
    def attend(self, f16: Tensor, recall: Recall) -> Tensor:
        return self.model.attend(f16, fit(recall, memories=self.loop.num_memories, pointers=self.loop.num_pointers))

    @torch.no_grad()
    def decode(self, f_m: Tensor, features: ImageFeatures, prompts: Prompts | None) -> Decoded:
        answer = next(self.answers)
        assert answer.frame == self.frame, f"the programs answered frame {answer.frame}, torch is at {self.frame}"
        own = self.model.decode(f_m, features, prompts)
        if answer.masks is None:
            self._measure(answer, features, f_m, own, answer.decoded.logits, own.logits, followed=False)
            return own
        truth = self._candidates(f_m, features, prompts)
        followed = self._follow(answer, own, truth, prompts)
        offered = slice(1, None) if own.logits.shape[1] > 1 else slice(0, 1)
        self._measure(
            answer,
            features,
            f_m,
            own if followed is None else followed,
            answer.masks[:, offered],
            truth["masks"][:, offered],
            followed=followed is not None,
        )
        return own if followed is None else followed

    @torch.no_grad()
    def memorize(self, f16: Tensor, decoded: Decoded) -> Memory:
        """From the answer's low-resolution logits, also where a mask was given: like SAM 2's video predictor and the app."""
        return self.model.memorize(f16, decoded._replace(prompts=None))

    def _candidates(self, f_m: Tensor, features: ImageFeatures, prompts: Prompts | None) -> dict[str, Tensor]:
        """All that the decoder says, raw, in torch: masks, IoUs, presence, and the tokens that make pointers."""
        module = self.parts["prompt_decoder"].module
        assert isinstance(module, DecodePrompts)
        names = [feature.name for feature in self.parts["prompt_decoder"].inputs]
        rows = [
            module.look_at([inputs[name] for name in names]) for inputs in self.client.prompt_inputs(f_m, features, prompts)
        ]
        return {
            "masks": torch.cat([row.logits for row in rows]),
            "iou": torch.cat([row.iou for row in rows]),
            "presence": torch.cat([row.presence for row in rows]),
            "tokens": torch.cat([row.tokens for row in rows]),
        }

    def _follow(self, answer: Answer, own: Decoded, truth: Mapping[str, Tensor], prompts: Prompts | None) -> Decoded | None:
        """torch's answer with the program's choice, where the two differ within a tie; None where torch's own stands."""
        assert answer.masks is not None
        visible = answer.decoded.visible
        first = 1 if own.logits.shape[1] > 1 else 0
        if first == 0:
            chosen = torch.zeros(len(visible), dtype=torch.int64)
        elif answer.decoded.logits.shape[1] > 1:
            chosen = answer.decoded.choice + 1
        else:  # TrackStep has chosen: it is the candidate that its mask resembles
            away = (answer.decoded.logits - answer.masks[:, 1:]).abs().flatten(2).mean(2)
            chosen = torch.where(visible, away.argmin(dim=1), own.choice) + 1
        rows = torch.arange(len(chosen))
        if first:
            best, taken = truth["iou"][:, 1:].amax(dim=1), truth["iou"][rows, chosen]
            lost = (best - taken) * own.visible.float()
        else:
            lost = torch.zeros(len(chosen))
        wrong_sign = (visible != own.visible).float() * own.presence[:, 0].abs()
        role = "track_step" if prompts is None else "prompt_decoder"
        self._note(role, "predicted IoU given up by choosing another candidate", lost.max().item(), self.gate.tie)
        self._note(role, "presence logit of an object judged otherwise", wrong_sign.max().item(), self.gate.presence_tie)
        differs = bool((lost > 0).any() or (wrong_sign > 0).any())
        if not differs or lost.max() > self.gate.tie or wrong_sign.max() > self.gate.presence_tie:
            return None
        masks = truth["masks"][rows, chosen][:, None]
        masks = torch.where(visible[:, None, None, None], masks, ABSENT_LOGIT)
        pointer = self.model.mask_decoder.point(truth["tokens"][rows, chosen], visible)
        presence = torch.where((visible == own.visible)[:, None], own.presence, answer.decoded.presence)
        return Decoded(masks, truth["iou"][rows, chosen][:, None], presence, pointer, prompts)

    def _measure(
        self,
        answer: Answer,
        features: ImageFeatures,
        f_m: Tensor,
        truth: Decoded,
        masks: Tensor,
        true_masks: Tensor,
        *,
        followed: bool,
    ) -> None:
        t = self.tolerance
        error_f16, error_f_m = relative_error(answer.f16, features.f16), relative_error(answer.f_m, f_m)
        error, decibel = relative_error(masks, true_masks), psnr(masks, true_masks)
        overlap = iou(answer.decoded.best > 0, truth.best > 0, pixels=self.gate.pixels)
        tracked = truth.prompts is None
        self._note("image_encoder", "relative error of F16", error_f16, t.rollout)
        self._note(
            "track_step" if self._remembers(f_m, features) else "image_encoder",
            "relative error of F_M",
            error_f_m,
            t.rollout,
        )
        decoder = "track_step" if tracked else "prompt_decoder"
        self._note(decoder, "relative error of the candidates", error, t.rollout)
        self._note(decoder, "PSNR of the candidates in dB", decibel, t.rollout_psnr, at_least=True)
        self._note(decoder, "mask IoU with torch", overlap, t.iou, at_least=True)
        presence, pixels = truth.presence.min().item(), int((truth.best > 0).sum())
        row = FrameRow(self.name, self.frame, error_f16, error_f_m, error, decibel, overlap, presence, pixels, followed)
        self.rows.append(row)
        best = truth.iou.max().item()
        self.expected.append(Expected(self.name, self.frame, truth.best.half(), best, presence))

    def _remembers(self, f_m: Tensor, features: ImageFeatures) -> bool:
        fresh = features.f16 + self.model.memory_attention.no_memory.view(1, -1, 1, 1)
        return not torch.equal(f_m, fresh)

    def _note(self, role: str, what: str, value: float, bound: float, *, at_least: bool = False) -> None:
        name = self.parts[role].name
        self.measures.append(Measure(name, f"rollout {self.name}, frame {self.frame}", what, value, bound, at_least))


class Rollouts(NamedTuple):
    """What the rollouts gave: numbers with their bounds, a row per answer, and torch's answers."""

    measures: list[Measure]
    rows: list[FrameRow]
    expected: list[Expected]


def compare_rollouts(
    model: TrackAnything,
    parts: Mapping[str, Part],
    programs: Mapping[str, Program],
    loop: Loop,
    gate: GateConfig,
    tolerance: Tolerance,
    *,
    note: Callable[[str], None] = lambda text: None,
) -> Rollouts:
    """All scenarios: the programs with their ring buffer, then torch with its memory bank."""
    clip = draw(gate.frames, loop.size, seed=gate.seed)
    measures: list[Measure] = []
    rows: list[FrameRow] = []
    expected: list[Expected] = []
    for scenario in scenarios(clip, short_frames=gate.short_frames):
        recorder = Recorder(PackagedTracker(programs, loop))

        def see(t: int, recorder: Recorder = recorder, name: str = scenario.name) -> ImageFeatures:
            note(f"rollout {name}, programs, frame {t}")
            return recorder.see(t, clip.frame(t))

        _roll(recorder, RingBank(loop), scenario, see)
        reference = Reference(model, parts, loop, recorder.answers, scenario.name, gate, tolerance)

        def see_too(t: int, reference: Reference = reference, name: str = scenario.name) -> ImageFeatures:
            note(f"rollout {name}, torch, frame {t}")
            return reference.see(t, clip.frame(t))

        _roll(reference, _bank(loop), scenario, see_too)
        measures += reference.measures
        rows += reference.rows
        expected += reference.expected
    seen = sum(row.pixels > 0 for row in rows)
    name = parts["track_step"].name
    measures.append(
        Measure(name, "all rollouts", "share of answers with a mask at all", seen / len(rows), 0.0, at_least=True)
    )
    return Rollouts(measures, rows, expected)


def _bank(loop: Loop) -> MemoryBank:
    return MemoryBank(policy=RecallPolicy(num_pointers=loop.num_pointers, past_pointers_only=True))


def _roll(
    tracker: Recorder | Reference, bank: RingBank | MemoryBank, scenario: Scenario, see: Callable[[int], ImageFeatures]
) -> None:
    rollout(tracker, see, Script(scenario.entries), num_frames=scenario.num_frames, bank=bank)  # type: ignore[arg-type]
