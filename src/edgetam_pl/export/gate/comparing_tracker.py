"""Trackers that judge: the programs with torch at their side, and torch alone beside what the programs have answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from edgetam_pl.config import Tolerance
from edgetam_pl.export.client import PackagedTracker
from edgetam_pl.export.gate.measures import Measure, iou, psnr, relative_error
from edgetam_pl.export.gate.reference import Answer, Reference
from edgetam_pl.types import Decoded, ImageFeatures, Memory, Prompts, Recall


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
        answer = self.answers[-1]
        truth = self.truth = self.reference.decode(self.f_m, self.features, prompts, answer)
        role, gate = "track_step" if prompts is None else "prompt_decoder", self.reference.gate
        self._note(role, "predicted IoU given up by choosing another candidate", truth.given_up, gate.tie)
        self._note(role, "presence logit of an object judged otherwise", truth.misjudged, gate.presence_tie)
        masks, true_masks = offered(answer.masks, decoded), offered(truth.masks, truth.decoded)
        error, decibel = self._differ(role, "the candidates", masks, true_masks), psnr(masks, true_masks)
        self._differ(role, "the answer", decoded.best, truth.decoded.best)
        pointer = self._differ(role, "the pointer", decoded.pointer, truth.decoded.pointer)
        overlap = iou(decoded.best > 0, truth.decoded.best > 0, pixels=gate.pixels)
        self._note(role, "mask IoU with torch", overlap, self.tolerance.step_iou, at_least=True)
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
        error, t = relative_error(value, truth), self.tolerance
        self._note(role, f"relative error of {what}", error, t.step)
        self._note(role, f"PSNR of {what} in dB", psnr(value, truth), t.step_psnr, at_least=True)
        return error

    def _note(self, role: str, what: str, value: float, bound: float, *, at_least: bool = False) -> None:
        where = f"rollout {self.name}, frame {self.frame}"
        self.measures.append(Measure(self.names[role], where, what, value, bound, at_least))


class Drift(NamedTuple):
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
        self.found: list[Drift] = []
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
        self.found.append(Drift(self.frame, *apart, truth.decoded))
        return truth.decoded


def offered(masks: Tensor | None, decoded: Decoded) -> Tensor:
    """The candidates among which an answer was chosen, raw; a given mask is its own only candidate."""
    if masks is None:
        return decoded.logits
    several = decoded.prompts is None or decoded.prompts.num_points <= 1
    return masks[:, 1:] if several else masks[:, :1]
