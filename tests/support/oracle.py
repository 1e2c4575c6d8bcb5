"""A tracker that knows the truth of given clips and does with it what it is told: scores are then known in advance.

It has the four verbs and nothing else. `encode` recognises a frame by its pixels; memories carry the number of the object,
so that an object is only ever known from a prompt or from memory, as with a real tracker.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from edgetam_pl.evaluation.clips import Clip
from edgetam_pl.tracking.clicks import centre_click, tight_box
from edgetam_pl.tracking.frame_tracker import resized_frame
from edgetam_pl.types import BOX_TOP_LEFT, Decoded, ImageFeatures, Memory, Prompts, Recall

NOBODY = -1.0


class Scene(NamedTuple):
    """What the oracle is asked about."""

    clip: Clip
    t: int
    object: int
    truth: Tensor
    """(H, W) bool."""
    memories: int
    """Prompted frames that are remembered."""
    said: Prompts | None
    """Of this object alone, or None when it is only tracked."""

    @property
    def clicks(self) -> int:
        return 0 if self.said is None else self.said.num_points


@dataclass
class Call:
    """One call of `decode`."""

    clip: str
    t: int
    objects: tuple[int, ...]
    said: Prompts | None


def tell_the_truth(scene: Scene) -> Tensor:
    return scene.truth


@dataclass(eq=False)
class Oracle:
    """Answers with `answer(scene)`: a mask (H, W) bool, or logits (H, W)."""

    clips: Iterable[Clip]
    answer: Callable[[Scene], Tensor] = tell_the_truth
    image_size: int = 32
    calls: list[Call] = field(default_factory=list)
    memorized: list[Decoded] = field(default_factory=list)
    encoded: int = 0

    def __post_init__(self) -> None:
        self.clips = list(self.clips)
        self._known: dict[str, tuple[int, int]] = {}
        self._centres: dict[tuple[str, int], Tensor] = {}
        for number, clip in enumerate(self.clips):
            for t in range(clip.num_frames):
                self._known[_look_of(resized_frame(clip.frames.read(t), self.image_size))] = (number, t)

    def normalise(self, frames: Tensor) -> Tensor:
        return frames

    def encode(self, images: Tensor) -> ImageFeatures:
        self.encoded += 1
        number, t = self._known[_look_of(images)]
        return ImageFeatures(None, None, torch.tensor([[float(number), float(t)]]))

    def attend(self, f16: Tensor, recall: Recall) -> Tensor:
        """(O, 4): clip, frame, object, prompted memories."""
        if not recall.frames:
            return torch.cat([f16, torch.tensor([[NOBODY, 0.0]])], dim=1)
        objects = recall.frames[0][1].tokens[:, 0]  # (O, 1)
        prompted = torch.full_like(objects, sum(age == 0 for age, _ in recall.frames))
        return torch.cat([f16.expand(len(objects), 2), objects, prompted], dim=1)

    def decode(
        self,
        f_m: Tensor,
        features: ImageFeatures,
        prompts: Prompts | None,
        *,
        gate: bool = True,
        dynamic_multimask: bool = False,
    ) -> Decoded:
        number, t = (int(value) for value in f_m[0, :2])
        clip = self.clips[number]
        truth = torch.from_numpy(clip.truths.read(t))
        count = len(f_m) if prompts is None else len(next(p for p in (prompts.points, prompts.mask) if p is not None))
        answers, objects = [], []
        for row in range(count):
            said = None if prompts is None else Prompts(*(None if part is None else part[row : row + 1] for part in prompts))
            known = int(f_m[row if len(f_m) > 1 else 0, 2])
            index = known if known != NOBODY else self._meant(clip, t, truth, said)
            scene = Scene(clip, t, index, truth[index], int(f_m[min(row, len(f_m) - 1), 3]), said)
            answer = self.answer(scene)
            answers.append(answer.float() * 20 - 10 if answer.dtype == torch.bool else answer)
            objects.append(index)
        self.calls.append(Call(clip.name, t, tuple(objects), prompts))
        who = torch.tensor(objects, dtype=torch.float32)[:, None]
        return Decoded(torch.stack(answers)[:, None], torch.ones(count, 1), torch.ones(count, 1), who, prompts)

    def memorize(self, f16: Tensor, decoded: Decoded, *, binarize: bool = False) -> Memory:
        self.memorized.append(decoded)
        return Memory(decoded.pointer[:, None], torch.zeros(1, 1, 1), decoded.pointer, (0, 0))

    def _meant(self, clip: Clip, t: int, truth: Tensor, said: Prompts | None) -> int:
        """The object that a prompt is about: the one that would have been prompted just so."""
        assert said is not None, f"{clip.name}: tracked without a memory and without a prompt"
        if said.mask is not None:
            small = F.interpolate(truth[:, None].float(), said.mask.shape[-2:], mode="bilinear", antialias=True) >= 0.5
            shared, either = small & said.mask, small | said.mask
            return int((shared.flatten(1).sum(1) / either.flatten(1).sum(1).clamp(min=1)).argmax())
        assert said.points is not None
        assert said.labels is not None
        scale = torch.tensor([self.image_size / clip.size[1], self.image_size / clip.size[0]])
        if said.labels[0, 0] == BOX_TOP_LEFT:
            corners = tight_box(truth).points * scale  # (O, 2, 2)
            return int((corners - said.points).abs().sum(dim=(1, 2)).argmin())
        if (clip.name, t) not in self._centres:
            self._centres[clip.name, t] = centre_click(truth, torch.zeros_like(truth)).points[:, 0] * scale  # (O, 2)
        return int((self._centres[clip.name, t] - said.points[0, 0]).abs().sum(dim=1).argmin())


def _look_of(image: Tensor) -> str:
    return hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest()
