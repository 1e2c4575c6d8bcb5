"""Trackers that judge: the programs with torch doing every step as well, and torch with a bank of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from edgetam_pl.config import Tolerance
from edgetam_pl.exporting.client import PackagedTracker
from edgetam_pl.exporting.gate.measures import Measure, iou, psnr, relative_error
from edgetam_pl.exporting.gate.reference import Pass, Reference, Reply
from edgetam_pl.exporting.manifest import RuntimeSpec
from edgetam_pl.exporting.parts import Program
from edgetam_pl.types import Decoded, ImageFeatures, Memory, Prompts, Recall

Encode = Callable[[int], Mapping[str, Tensor]]
"""What ImageEncoder returns for frame t."""


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


class Drift(NamedTuple):
    """How far the programs' answer is from torch's."""

    frame: int
    error: float
    """Relative error of the candidate masks."""
    psnr: float
    """Of the same, in dB."""
    iou: float
    """Of the answered mask with torch's."""
    truth: Decoded


def drift_of(answer: Reply, truth: Reply, *, pixels: int) -> Drift:
    """Compare all candidates, and the masks that were chosen; masks that differ in at most `pixels` pixels are equal."""
    masks, true_masks = answer.candidates, truth.candidates
    overlap = iou(answer.decoded.best > 0, truth.decoded.best > 0, pixels=pixels)
    return Drift(answer.frame, relative_error(masks, true_masks), psnr(masks, true_masks), overlap, truth.decoded)


class RecordingTracker(PackagedTracker):
    """A packaged tracker that writes down what it answers.

    Args:
        encode: what the programs' ImageEncoder returns for frame t.
    """

    def __init__(self, programs: Mapping[str, Program], loop: RuntimeSpec, encode: Encode) -> None:
        super().__init__(programs, loop)
        self.answers: list[Reply] = []
        self.frame, self._encode = -1, encode

    def see(self, t: int) -> ImageFeatures:
        """Features of frame t."""
        self.frame = t
        return self.encoded(self._encode(t))

    def decode(self, f_m: Tensor, features: ImageFeatures, prompts: Prompts | None) -> Decoded:
        decoded = super().decode(f_m, features, prompts)
        given = prompts is not None and prompts.mask is not None
        masks = None if given else self.candidates(f_m, features, prompts)["low_res_masks"]
        self.answers.append(Reply(self.frame, decoded, masks))
        return decoded


class ComparingTracker(RecordingTracker):
    """The same, with torch doing every step as well, from the programs' bank and with the same prompts."""

    def __init__(self, programs: Mapping[str, Program], encode: Encode, reference: Reference, names: Mapping[str, str],
                 rollout_name: str, tolerance: Tolerance) -> None:  # fmt: skip
        super().__init__(programs, reference.loop, encode)
        self.reference, self.names, self.name, self.tolerance = reference, names, rollout_name, tolerance
        self.measures: list[Measure] = []
        self.rows: list[FrameRow] = []

    def see(self, t: int) -> ImageFeatures:
        features = super().see(t)
        self.features = self.reference.features(t)
        self.error_f16 = self._compare("image_encoder", "F16", features.f16, self.features.f16)
        return features

    def attend(self, f16: Tensor, recall: Recall) -> Tensor:
        f_m = super().attend(f16, recall)
        self.f_m = self.reference.attend(self.features.f16, recall)
        self.error_f_m = self._compare("track_step" if recall.frames else "image_encoder", "F_M", f_m, self.f_m)
        return f_m

    def decode(self, f_m: Tensor, features: ImageFeatures, prompts: Prompts | None) -> Decoded:
        decoded = super().decode(f_m, features, prompts)
        role, gate, answer = "track_step" if prompts is None else "prompt_decoder", self.reference.gate, self.answers[-1]
        truth = self.truth = self.reference.decode(self.f_m, self.features, prompts, answer)
        # decisions that rounding may take otherwise, where it matters little
        self._measure(role, "predicted IoU given up by choosing another candidate", truth.given_up, gate.tie)
        self._measure(role, "presence logit of an object judged otherwise", truth.misjudged, gate.presence_tie)
        # the candidates before one is chosen, the chosen one, and its pointer
        drift = drift_of(answer, truth, pixels=gate.pixels)
        self._measure_error(role, "the candidates", drift.error, drift.psnr)
        self._compare(role, "the answer", decoded.best, truth.decoded.best)
        pointer = self._compare(role, "the pointer", decoded.pointer, truth.decoded.pointer)
        self._measure(role, "mask IoU with torch", drift.iou, self.tolerance.step_iou, at_least=True)
        presence, pixels = truth.decoded.presence.min().item(), int((truth.decoded.best > 0).sum())
        self.rows.append(
            FrameRow(self.name, self.frame, self.error_f16, self.error_f_m, drift.error, drift.psnr, pointer, drift.iou,
                     presence, pixels, truth.followed)
        )  # fmt: skip
        return decoded

    def memorize(self, f16: Tensor, decoded: Decoded) -> Memory:
        memory = super().memorize(f16, decoded)
        truth = self.reference.memorize(self.features.f16, self.truth.decoded)
        role = "track_step" if decoded.prompts is None else "memory_encoder"
        self._compare(role, "the memory", memory.tokens, truth.tokens)
        return memory

    def _compare(self, role: str, what: str, value: Tensor, truth: Tensor) -> float:
        error = relative_error(value, truth)
        self._measure_error(role, what, error, psnr(value, truth))
        return error

    def _measure_error(self, role: str, what: str, error: float, decibel: float) -> None:
        self._measure(role, f"relative error of {what}", error, self.tolerance.step)
        self._measure(role, f"PSNR of {what} in dB", decibel, self.tolerance.step_psnr, at_least=True)

    def _measure(self, role: str, what: str, value: float, bound: float, *, at_least: bool = False) -> None:
        where = f"rollout {self.name}, frame {self.frame}"
        self.measures.append(Measure(self.names[role], where, what, value, bound, at_least))


class FreeAnswers:
    """What torch answers with a bank of its own. It depends on the programs only where torch has followed them in a tie, so
    it is kept: the next format that is judged by the same rollouts need not wait for it again."""

    def __init__(self) -> None:
        self.passes: dict[tuple[str | int, ...], Pass] = {}
        self.memories: dict[tuple[str | int, ...], Memory] = {}


class FreeReference:
    """torch with a bank of its own, compared with what the programs have answered on the same frame just before.

    Args:
        answers: of the programs, a list that grows while this is read.
        name: of the rollout.
        known: what torch has answered to other programs, and will to these.
    """

    def __init__(self, reference: Reference, answers: Sequence[Reply], name: str, known: FreeAnswers) -> None:
        self.reference, self.known = reference, known
        self.answers = iter(answers)
        self.drifts: list[Drift] = []
        self.frame = -1
        self.history: tuple[str | int, ...] = (name,)  # decisions of the programs that torch has followed
        self.waiting: tuple[Tensor, Recall] | Tensor

    def see(self, t: int) -> ImageFeatures:
        self.frame = t
        return self.reference.features(t)

    def attend(self, f16: Tensor, recall: Recall) -> Tensor:
        """Nothing yet: `decode` attends, if its answer isn't known."""
        self.waiting = f16, recall
        return f16

    def decode(self, f_m: Tensor, features: ImageFeatures, prompts: Prompts | None) -> Decoded:
        answer = next(self.answers)
        assert answer.frame == self.frame, f"the programs answered frame {answer.frame}, torch is at {self.frame}"
        key = (*self.history, len(self.drifts))
        if key not in self.known.passes:
            if isinstance(self.waiting, tuple):
                self.waiting = self.reference.attend(*self.waiting)
            self.known.passes[key] = self.reference.pass_of(self.waiting, features, prompts)
        truth = self.reference.reply(self.known.passes[key], answer)
        if truth.followed:
            self.history = (*self.history, len(self.drifts), str(truth.decision))
        self.drifts.append(drift_of(answer, truth, pixels=self.reference.gate.pixels))
        return truth.decoded

    def memorize(self, f16: Tensor, decoded: Decoded) -> Memory:
        key = (*self.history, len(self.drifts))
        if key not in self.known.memories:
            self.known.memories[key] = self.reference.memorize(f16, decoded)
        return self.known.memories[key]
