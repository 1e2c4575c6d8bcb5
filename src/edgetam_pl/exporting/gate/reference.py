"""What torch answers to what the programs were asked, under the manifest's rules.

Where two candidates are as good as equal, or presence is near zero, rounding may decide otherwise than torch. Then torch
follows the program's decision, so that what comes after can still be compared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from edgetam_pl.config import GateConfig
from edgetam_pl.exporting.client import fit
from edgetam_pl.exporting.clip import CheckClip
from edgetam_pl.exporting.manifest import RuntimeSpec
from edgetam_pl.model.mask_decoder import Candidates
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.tracking.frame_tracker import FrameTracker, TrackingOptions
from edgetam_pl.types import ABSENT_LOGIT, Decoded, ImageFeatures, Prompts, Recall

Encoded = TypeVar("Encoded")


class Reply(NamedTuple):
    """What the programs answered when they were asked to decode, or torch to the same."""

    frame: int
    decoded: Decoded
    """torch's: with the programs' decision in place of its own, where that is within a tie."""
    masks: Tensor | None
    """(O, 4, S/4, S/4) raw candidates; None where a mask was given."""
    given_up: float = 0.0
    """Predicted IoU that the programs have given up by choosing another candidate."""
    misjudged: float = 0.0
    """Presence logit, without its sign, of an object that the programs have judged otherwise."""
    decision: tuple[list[int], list[bool]] | None = None
    """The programs' choice and verdict for each object, where torch has followed them."""

    @property
    def followed(self) -> bool:
        return self.decision is not None

    @property
    def candidates(self) -> Tensor:
        """The raw masks among which the answer was chosen; a given mask is its own only candidate."""
        if self.masks is None:
            return self.decoded.logits
        several = self.decoded.prompts is None or self.decoded.prompts.num_points <= 1
        return self.masks[:, 1:] if several else self.masks[:, :1]


class Pass(NamedTuple):
    """One pass of torch's decoder: its answer, and all four candidates of each object, before one was chosen."""

    own: Decoded
    masks: Tensor
    scores: Tensor
    tokens: Tensor


class Reference:
    """The model's verbs, in eval mode and fp32, in front of the clip: `FrameTracker`, but for ties and stored positions.

    Args:
        model: the model as it is, not prepared for export.
    """

    def __init__(self, model: TrackAnything, loop: RuntimeSpec, gate: GateConfig, clip: CheckClip) -> None:
        self.model, self.loop, self.gate, self.clip = model, loop, gate, clip
        options = TrackingOptions(cached_frames=1)  # several trackers ask for the last frame's features
        frames = FrameTracker(
            model, lambda t: clip.frame(t)[0].permute(1, 2, 0).numpy(), (loop.size, loop.size), options=options
        )
        self.memorize = frames.memorize
        self.features = once_for_shared_frames(frames.features, gate)

    def attend(self, f16: Tensor, recall: Recall) -> Tensor:
        """F_M. Memories of the programs carry no positions; torch's own are put in their place."""
        kept = fit(recall, memories=self.loop.num_memories, pointers=self.loop.num_pointers)
        frames = tuple((age, memory._replace(pos=self.model.compressor.pos)) for age, memory in kept.frames)
        return self.model.attend(f16, kept._replace(frames=frames))

    def decode(self, f_m: Tensor, features: ImageFeatures, prompts: Prompts | None, answer: Reply) -> Reply:
        """torch's answer to what the programs have answered."""
        return self.reply(self.pass_of(f_m, features, prompts), answer)

    def pass_of(self, f_m: Tensor, features: ImageFeatures, prompts: Prompts | None) -> Pass:
        """What torch decodes, whatever the programs have answered."""
        passes: list[Candidates] = []

        def note(decoder: nn.Module, given: tuple[Tensor, ...], found: Candidates) -> None:
            passes.append(found)

        watch = self.model.mask_decoder.register_forward_hook(note)
        try:
            own = self.model.decode(f_m, features, prompts)
        finally:
            watch.remove()
        return Pass(own, passes[-1].logits, passes[-1].iou, passes[-1].tokens)

    def reply(self, found: Pass, answer: Reply) -> Reply:
        """What torch has decoded, under the programs' decision where that is within a tie."""
        own, masks, scores, tokens = found
        if answer.masks is None:
            return Reply(answer.frame, own, None)
        first = 1 if own.logits.shape[1] > 1 else 0  # candidates are masks 1 ... 3, or only mask 0
        # what the programs' choice and their verdict on presence cost by torch's own scores
        chosen, rows = _chosen(answer, own, first), torch.arange(len(masks))
        visible = answer.decoded.visible
        offered = scores[:, first:] if first else scores[:, :1]
        given_up = ((offered.amax(dim=1) - scores[rows, chosen]) * own.visible.float()).max().item()
        misjudged = ((visible != own.visible).float() * own.presence[:, 0].abs()).max().item()
        tied = given_up <= self.gate.tie and misjudged <= self.gate.presence_tie
        if not tied or not (given_up > 0 or misjudged > 0):
            return Reply(answer.frame, own, masks, given_up, misjudged)
        # within a tie: torch's numbers under the programs' decision
        logits = torch.where(visible[:, None, None, None], masks[rows, chosen][:, None], ABSENT_LOGIT)
        presence = torch.where((visible == own.visible)[:, None], own.presence, answer.decoded.presence)
        pointer = self.model.mask_decoder.point(tokens[rows, chosen], visible)
        decoded = Decoded(logits, scores[rows, chosen][:, None], presence, pointer, own.prompts)
        return Reply(answer.frame, decoded, masks, given_up, misjudged, (chosen.tolist(), visible.tolist()))


def once_for_shared_frames(compute: Callable[[int], Encoded], gate: GateConfig) -> Callable[[int], Encoded]:
    """`compute` of a frame, which the frames that all scenarios begin with are put through only once."""
    kept: dict[int, Encoded] = {}

    def of(t: int) -> Encoded:
        if t >= gate.short_frames:
            return compute(t)
        if t not in kept:
            kept[t] = compute(t)
        return kept[t]

    return of


def _chosen(answer: Reply, own: Decoded, first: int) -> Tensor:
    """Which of the four candidates the programs have chosen, (O,)."""
    if first == 0:
        return torch.zeros(len(own.presence), dtype=torch.int64)
    if answer.decoded.logits.shape[1] > 1:
        return answer.decoded.choice + 1
    assert answer.masks is not None  # TrackStep has chosen: it is the candidate that its mask resembles
    away = (answer.decoded.logits - answer.masks[:, 1:]).abs().flatten(2).mean(2)
    return torch.where(answer.decoded.visible, away.argmin(dim=1), own.choice) + 1
