"""The gate, over rollouts through the same `rollout` that trained the model: occlusion, exit, re-entry, every prompt.

The programs track a clip by their own bank and their own answers, and are judged twice. Step by step: torch reads the bank
that the programs have written, so that what differs is the doing of one step; bounds are tight. And left to themselves:
torch tracks the clip by a bank of its own; errors may feed on themselves, and bounds are wider. A model may amplify any
rounding at all. Then the programs may be as far away as torch goes from itself, times `amplification`, when nothing but its
weights is rounded.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from edgetam_pl.config import GateConfig, Tolerance
from edgetam_pl.export.client import PackagedTracker, RingBank
from edgetam_pl.export.clip import CheckClip, Scenario, draw, scenarios
from edgetam_pl.export.manifest import Loop
from edgetam_pl.export.measures import Measure, iou, psnr, relative_error
from edgetam_pl.export.parts import Part, Program
from edgetam_pl.export.reference import Answer, Reference
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.tracking.bank import MemoryBank, RecallPolicy
from edgetam_pl.tracking.prompters import Script
from edgetam_pl.tracking.step import rollout
from edgetam_pl.types import Decoded, ImageFeatures, Memory, Prompts, Recall

VERB_FRAMES = 5
"""Frames of the rollouts that compare the adapters with the model's verbs: in fp32 errors need no time to grow."""

LEAST_OVERLAP = 0.5
"""However much a model amplifies rounding, below this IoU it is another mask."""

ALONE = "left to itself"
"""In the report: torch with a bank of its own."""

Note = Callable[[str], None]


class Expected(NamedTuple):
    """torch's answer, with a bank of its own, and what the programs may make of it: a golden file keeps this."""

    rollout: str
    frame: int
    logits: Tensor  # (1, 1, S/4, S/4) float16
    iou: float
    presence: float
    least_iou: float


@dataclass(frozen=True)
class FrameRow:
    """One answer of a rollout, for the report. Errors are shares of torch's largest value."""

    rollout: str
    frame: int
    features: float
    """F16. This and the next five: one step, from the programs' bank."""
    f_m: float
    candidates: float
    """Masks, before one is chosen."""
    psnr: float
    """Of the candidates, in dB."""
    pointer: float
    iou: float
    """IoU of the answered mask with torch's."""
    presence: float
    """torch's presence logit."""
    pixels: int
    """Pixels of torch's mask, at S/4."""
    followed: bool
    """Did torch follow the programs' decision in a tie?"""
    free_candidates: float = 0.0
    """This and the next two: torch with a bank of its own."""
    free_psnr: float = 0.0
    free_iou: float = 0.0


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
        given = prompts is not None and prompts.mask is not None
        masks = None if given else self.tracker.candidates(f_m, features, prompts)["low_res_masks"]
        self.answers.append(Answer(self.frame, decoded, masks))
        return decoded

    def memorize(self, f16: Tensor, decoded: Decoded) -> Memory:
        return self.tracker.memorize(f16, decoded)


class Beside(Recorder):
    """The same with torch at its side: at every verb torch does it too, with the programs' bank and what they were told."""

    def __init__(self, tracker: PackagedTracker, reference: Reference, names: Mapping[str, str], rollout_name: str,
                 tolerance: Tolerance) -> None:  # fmt: skip
        super().__init__(tracker)
        self.reference, self.names, self.name, self.tolerance = reference, names, rollout_name, tolerance
        self.measures: list[Measure] = []
        self.rows: list[FrameRow] = []
        self.recalled = False

    def see(self, t: int, frame: Tensor) -> ImageFeatures:
        features = super().see(t, frame)
        self.features = self.reference.encode(frame)
        self.error_f16 = self._differ("image_encoder", "F16", features.f16, self.features.f16)
        return features

    def attend(self, f16: Tensor, recall: Recall) -> Tensor:
        f_m = super().attend(f16, recall)
        self.f_m = self.reference.attend(self.features.f16, recall)
        self.error_f_m = self._differ("track_step" if recall.frames else "image_encoder", "F_M", f_m, self.f_m)
        return f_m

    def decode(self, f_m: Tensor, features: ImageFeatures, prompts: Prompts | None) -> Decoded:
        decoded = super().decode(f_m, features, prompts)
        answer, t = self.answers[-1], self.tolerance
        truth = self.truth = self.reference.decode(self.f_m, self.features, prompts, answer)
        role, gate = "track_step" if prompts is None else "prompt_decoder", self.reference.gate
        self._note(role, "predicted IoU given up by choosing another candidate", truth.given_up, gate.tie)
        self._note(role, "presence logit of an object judged otherwise", truth.misjudged, gate.presence_tie)
        masks, true_masks = offered(answer.masks, decoded), offered(truth.masks, truth.decoded)
        error, decibel = self._differ(role, "the candidates", masks, true_masks), psnr(masks, true_masks)
        self._differ(role, "the answer", decoded.best, truth.decoded.best)
        pointer = self._differ(role, "the pointer", decoded.pointer, truth.decoded.pointer)
        overlap = iou(decoded.best > 0, truth.decoded.best > 0, pixels=gate.pixels)
        self._note(role, "PSNR of the candidates in dB", decibel, t.step_psnr, at_least=True)
        self._note(role, "mask IoU with torch", overlap, t.step_iou, at_least=True)
        presence, pixels = truth.decoded.presence.min().item(), int((truth.decoded.best > 0).sum())
        self.rows.append(
            FrameRow(self.name, self.frame, self.error_f16, self.error_f_m, error, decibel, pointer, overlap, presence,
                     pixels, truth.followed)
        )  # fmt: skip
        return decoded

    def memorize(self, f16: Tensor, decoded: Decoded) -> Memory:
        memory = super().memorize(f16, decoded)
        truth = self.reference.memorize(self.features.f16, self.truth.decoded)
        role = "track_step" if decoded.prompts is None else "memory_encoder"
        self._differ(role, "the memory", memory.tokens, truth.tokens)
        return memory

    def _differ(self, role: str, what: str, value: Tensor, truth: Tensor) -> float:
        error = relative_error(value, truth)
        self._note(role, f"relative error of {what}", error, self.tolerance.step)
        return error

    def _note(self, role: str, what: str, value: float, bound: float, *, at_least: bool = False) -> None:
        where = f"rollout {self.name}, frame {self.frame}"
        self.measures.append(Measure(self.names[role], where, what, value, bound, at_least))


class Apart(NamedTuple):
    """How far the programs' answer is from that of torch with a bank of its own."""

    frame: int
    error: float
    psnr: float
    iou: float
    truth: Decoded


class Alone:
    """torch with a bank of its own, beside what the programs have answered."""

    def __init__(self, reference: Reference, answers: Sequence[Answer]) -> None:
        self.reference = reference
        self.attend, self.memorize = reference.attend, reference.memorize
        self.answers = iter(answers)
        self.found: list[Apart] = []
        self.frame = -1

    def see(self, t: int, frame: Tensor) -> ImageFeatures:
        self.frame = t
        return self.reference.encode(frame)

    def decode(self, f_m: Tensor, features: ImageFeatures, prompts: Prompts | None) -> Decoded:
        answer = next(self.answers)
        assert answer.frame == self.frame, f"the programs answered frame {answer.frame}, torch is at {self.frame}"
        truth = self.reference.decode(f_m, features, prompts, answer)
        masks, true_masks = offered(answer.masks, answer.decoded), offered(truth.masks, truth.decoded)
        overlap = iou(answer.decoded.best > 0, truth.decoded.best > 0, pixels=self.reference.gate.pixels)
        apart = relative_error(masks, true_masks), psnr(masks, true_masks), overlap
        self.found.append(Apart(self.frame, *apart, truth.decoded))
        return truth.decoded


def offered(masks: Tensor | None, decoded: Decoded) -> Tensor:
    """The candidates among which an answer was chosen, raw; a given mask is its own only candidate."""
    if masks is None:
        return decoded.logits
    several = decoded.prompts is None or decoded.prompts.num_points <= 1
    return masks[:, 1:] if several else masks[:, :1]


class Leash(NamedTuple):
    """How far the programs may go, left to themselves, on one answer."""

    error: float
    iou: float
    why: str


def leashes(apart: Sequence[Apart], tolerance: Tolerance, own: Sequence[Apart] | None, amplification: float) -> list[Leash]:
    """The bounds of every answer: the tolerance's, or wider where torch's own drift, up to that answer, is so large.

    Args:
        apart: the programs' answers.
        own: torch against itself with rounded weights; null: there is no excuse.
    """
    found, error, gap = [], 0.0, 0.0
    for i in range(len(apart)):
        if own is not None:
            error, gap = max(error, own[i].error), max(gap, 1 - own[i].iou)
        wide = Leash(
            max(tolerance.free, amplification * error),
            min(tolerance.iou, max(1 - amplification * gap, LEAST_OVERLAP)),
            f"{ALONE} (bound: {amplification:g} x torch's own drift with rounded weights)",
        )
        widened = wide[:2] != (tolerance.free, tolerance.iou)
        found.append(wide if widened else Leash(tolerance.free, tolerance.iou, ALONE))
    return found


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
    excusable: bool,
    note: Note = lambda text: None,
) -> Rollouts:
    """All scenarios: the programs with their ring buffer and torch beside them, then torch with its memory bank.

    Args:
        excusable: may the programs drift if torch does, with its weights rounded to half precision?
    """
    clip, names = draw(gate.frames, loop.size, seed=gate.seed), {role: part.name for role, part in parts.items()}
    reference, told = Reference(model, parts, loop, gate), Rollouts([], [], [])
    for scenario in scenarios(clip, short_frames=gate.short_frames):
        beside = Beside(PackagedTracker(programs, loop), reference, names, scenario.name, tolerance)
        _roll(beside, RingBank(loop), scenario, clip, note=lambda text: note(f"{text}, programs"))
        apart = _alone(reference, beside.answers, scenario, clip, note)
        tight = leashes(apart, tolerance, None, 0.0)
        far = any(not _near(each, leash) for each, leash in zip(apart, tight, strict=True))
        own = _own_drift(reference, parts, scenario, clip, note) if far and excusable and gate.amplification > 0 else None
        bounds = leashes(apart, tolerance, own, gate.amplification)
        told.measures.extend(beside.measures)
        for answer, each, leash, row in zip(beside.answers, apart, bounds, beside.rows, strict=True):
            part = names["track_step" if answer.decoded.prompts is None else "prompt_decoder"]
            where = f"rollout {scenario.name}, frame {each.frame}"
            told.measures.append(
                Measure(part, where, f"relative error of the candidates, {leash.why}", each.error, leash.error)
            )
            told.measures.append(Measure(part, where, f"mask IoU with torch, {leash.why}", each.iou, leash.iou, True))
            told.rows.append(dataclasses.replace(row, free_candidates=each.error, free_psnr=each.psnr, free_iou=each.iou))
            told.expected.append(
                Expected(scenario.name, each.frame, each.truth.best.half(), each.truth.iou.max().item(),
                         each.truth.presence.min().item(), leash.iou)
            )  # fmt: skip
    seen = sum(row.pixels > 0 for row in told.rows) / len(told.rows)
    what = "share of answers with a mask at all"
    told.measures.append(Measure(names["track_step"], "all rollouts", what, seen, 0.0, at_least=True))
    return told


def compare_verbs(model: TrackAnything, parts: Mapping[str, Part], loop: Loop, gate: GateConfig) -> Iterator[Measure]:
    """The flat adapters in torch, fp32, against the model's own verbs over short rollouts: is the rewriting exact?"""
    frames = min(gate.short_frames, VERB_FRAMES)
    clip, names = draw(frames, loop.size, seed=gate.seed), {role: part.name for role, part in parts.items()}
    reference, programs = Reference(model, parts, loop, gate), {role: part.run for role, part in parts.items()}
    for scenario in scenarios(clip, short_frames=frames):
        beside = Beside(PackagedTracker(programs, loop), reference, names, scenario.name, Tolerance(step=gate.adapters))
        _roll(beside, RingBank(loop), scenario, clip)
        for measure in beside.measures:
            if not measure.at_least:
                yield dataclasses.replace(measure, part="adapters", where=f"{measure.where}, {measure.part}")


def _near(each: Apart, leash: Leash) -> bool:
    return each.error <= leash.error and each.iou >= leash.iou


def _alone(reference: Reference, answers: Sequence[Answer], scenario: Scenario, clip: CheckClip, note: Note) -> list[Apart]:
    alone = Alone(reference, answers)
    policy = RecallPolicy(num_pointers=reference.loop.num_pointers, past_pointers_only=True)
    _roll(alone, MemoryBank(policy=policy), scenario, clip, note=lambda text: note(f"{text}, torch"))
    return alone.found


def _own_drift(
    reference: Reference, parts: Mapping[str, Part], scenario: Scenario, clip: CheckClip, note: Note
) -> list[Apart]:
    """How far torch goes from itself when its weights are rounded to half precision, and nothing else."""
    programs = {role: _rounded(part).run for role, part in parts.items()}
    recorder = Recorder(PackagedTracker(programs, reference.loop))
    _roll(recorder, RingBank(reference.loop), scenario, clip, note=lambda text: note(f"{text}, torch with rounded weights"))
    return _alone(reference, recorder.answers, scenario, clip, note)


def _rounded(part: Part) -> Part:
    module = copy.deepcopy(part.module)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(weight.half().float())
    return dataclasses.replace(part, module=module)


def _roll(
    tracker: Recorder | Alone,
    bank: RingBank | MemoryBank,
    scenario: Scenario,
    clip: CheckClip,
    *,
    note: Note = lambda text: None,
) -> None:
    def see(t: int) -> ImageFeatures:
        note(f"rollout {scenario.name}, frame {t}")
        return tracker.see(t, clip.frame(t))

    rollout(tracker, see, Script(scenario.entries), num_frames=scenario.num_frames, bank=bank)  # type: ignore[arg-type]
