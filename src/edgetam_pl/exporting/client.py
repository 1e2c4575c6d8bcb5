"""A client of the exported programs: a Tracker that plays the manifest, and the ring buffer that an app keeps per object.

This is what an app does, written once in Python: it owns the bank, pads it to the programs' fixed shapes and calls the
parts. `observe` and `remember` run it like any other tracker: the packages are judged by the steps that trained the model.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from edgetam_pl.exporting.manifest import RuntimeSpec
from edgetam_pl.exporting.parts import PADDING_LABEL, UNUSED_LABEL, Program
from edgetam_pl.exporting.validate_on_mac import place_of
from edgetam_pl.tracking.bank import RecallPolicy
from edgetam_pl.types import Decoded, ImageFeatures, Memory, Prompts, Recall

EMPTY_AGE = -1
"""memory_age of a slot that holds nothing."""

KEPT_FRAMES = 4
"""Frames whose image_embedding the tracker keeps; a loop encodes one at a time."""


def fit(recall: Recall, *, memories: int, pointers: int) -> Recall:
    """What of a recall has a slot: prompted frames first, then the nearest others; the same for pointers."""
    prompted = [entry for entry in recall.frames if entry[0] == 0][:memories]
    recent = sorted((entry for entry in recall.frames if entry[0] > 0), key=lambda entry: entry[0])
    recent = recent[: memories - len(prompted)]
    return recall._replace(frames=(*prompted, *reversed(recent)), pointers=recall.pointers[:pointers])


def pack(recall: Recall, row: int, loop: RuntimeSpec, *, filler: float = 0.0) -> dict[str, Tensor]:
    """Object `row` of a recall as inputs of TrackStep: R memory slots of N tokens, P pointer slots.

    Returns:
        memory (1, R, N, D), memory_age (1, R) int32, obj_ptrs (1, P, C), obj_ptr_valid (1, P), and, where the model wants
        it, obj_ptr_age (1, P) in signed frames. Unused slots hold `filler`.
    """
    recall = fit(recall, memories=loop.num_memories, pointers=loop.num_pointers)
    memory = torch.full((1, loop.num_memories, loop.tokens, loop.memory_dim), filler)
    age = torch.full((1, loop.num_memories), EMPTY_AGE, dtype=torch.int32)
    for slot, (frames_ago, each) in enumerate(recall.frames):
        memory[0, slot], age[0, slot] = each.tokens[row], frames_ago
    obj_ptrs = torch.full((1, loop.num_pointers, loop.dim), filler)
    valid, pointer_age = torch.zeros(1, loop.num_pointers), torch.zeros(1, loop.num_pointers)
    for slot, (distance, pointer) in enumerate(recall.pointers):
        obj_ptrs[0, slot], valid[0, slot], pointer_age[0, slot] = pointer[row], 1.0, distance
    slots = {"memory": memory, "memory_age": age, "obj_ptrs": obj_ptrs, "obj_ptr_valid": valid}
    return slots | {"obj_ptr_age": pointer_age} if loop.pointer_ages else slots


def features_of(outputs: Mapping[str, Tensor]) -> ImageFeatures:
    """What ImageEncoder returned; a model with one level has no finer features."""
    return ImageFeatures(outputs.get("feats_s0"), outputs.get("feats_s1"), outputs["vision_features"])


Slot = tuple[int, bool, Memory] | None
"""(frame, prompted, memory), or None where nothing is stored."""


@dataclass(frozen=True)
class RingBank:
    """The bank of the manifest's rules: fixed slots, written in place, order of no meaning. Same verbs as `MemoryBank`."""

    loop: RuntimeSpec
    policy: RecallPolicy = field(default_factory=lambda: RecallPolicy(past_pointers_only=True))
    memories: tuple[Slot, ...] = ()
    pointers: tuple[Slot, ...] = ()

    def write(self, t: int, memory: Memory, *, prompted: bool) -> RingBank:
        """The bank with frame t stored."""
        entry = (t, prompted, memory)
        return replace(
            self,
            memories=_store(self.memories or (None,) * self.loop.num_memories, entry),
            pointers=_store(self.pointers or (None,) * self.loop.num_pointers, entry),
        )

    def recall(self, t: int) -> Recall:
        """What frame t reads, in slot order."""
        frames, pointers = [], []
        for i, prompted, memory in filter(None, self.memories):
            age = 0 if prompted else self._distance(t, i)
            if prompted or 1 <= age <= self.loop.recent_memories:
                frames.append((age, memory))
        for i, prompted, memory in filter(None, self.pointers):
            distance = self._distance(t, i)
            seen = distance >= 0 or not self.policy.past_pointers_only
            if seen if prompted else 1 <= distance <= self.loop.recent_pointers:
                pointers.append((distance, memory.pointer))
        return Recall(tuple(frames), tuple(pointers), max(self.policy.pointer_reach - 1, 1))

    def _distance(self, t: int, i: int) -> int:
        return i - t if self.policy.backwards else t - i


def _store(slots: tuple[Slot, ...], entry: tuple[int, bool, Memory]) -> tuple[Slot, ...]:
    place = place_of(slots, entry)
    return slots if place is None else (*slots[:place], entry, *slots[place + 1 :])


class _Tracked(NamedTuple):
    """What TrackStep answered for all objects of a frame, kept until it is asked for."""

    f_m: Tensor
    decoded: Decoded
    memory: Memory


class PackagedTracker:
    """The exported programs as a Tracker. Programs have batch 1: objects are looped over, frames are encoded once.

    The programs are stateless. What is kept here is only the last answer of TrackStep, because one call of it answers
    three verbs, and the image embeddings of the last frames; neither changes any result.

    Args:
        programs: by role.
        loop: the manifest's numbers.
        fused: let TrackStep decode and memorize tracked frames, as an app does. Otherwise only its image_embedding is
            used, and PromptDecoder and MemoryEncoder do the rest: equal results, from which all candidates are seen.
    """

    def __init__(self, programs: Mapping[str, Program], loop: RuntimeSpec, *, fused: bool = True) -> None:
        self.programs = dict(programs)
        self.loop = loop
        self.fused = fused
        self._frames: deque[tuple[ImageFeatures, Tensor]] = deque(maxlen=KEPT_FRAMES)
        self._tracked: _Tracked | None = None

    def encode(self, frames: Tensor) -> ImageFeatures:
        """Features of frames (B, 3, S, S) uint8 RGB: raw pixels, the program normalises."""
        size = self.loop.size
        if tuple(frames.shape[1:]) != (3, size, size):
            raise ValueError(
                f"frames are {tuple(frames.shape)}; these programs take (B, 3, {size}, {size}): stretch them first."
            )
        return self.encoded(_joined([self.programs["image_encoder"]({"image": frame[None].float()}) for frame in frames]))

    def encoded(self, outputs: Mapping[str, Tensor]) -> ImageFeatures:
        """The features among what ImageEncoder has returned for frames; `attend` knows them from now on."""
        features = features_of(outputs)
        self._frames.append((features, outputs["image_embedding"]))
        return features

    def attend(self, f16: Tensor, recall: Recall) -> Tensor:
        """F_M of every object: image_embedding of TrackStep, or of ImageEncoder where nothing is recalled."""
        features, image_embedding = self._frame_of(f16)
        if not recall.frames:
            return image_embedding
        answers = []
        for row in range(recall.frames[0][1].tokens.shape[0]):
            inputs = {"vision_features": _row(f16, row), **high_res(features, row), **pack(recall, row, self.loop)}
            answers.append(self.programs["track_step"](inputs))
        found = _joined(answers)
        f_m, pointer = found["image_embedding"], found["obj_ptr"]
        if self.fused:  # decode and memorize will hand on what this call has answered already
            decoded = Decoded(found["low_res_mask"], found["iou_score"], found["obj_score"], pointer, None)
            self._tracked = _Tracked(f_m, decoded, self._memory(found["memory_out"], pointer))
        return f_m

    def decode(self, f_m: Tensor, features: ImageFeatures, prompts: Prompts | None) -> Decoded:
        """The answer to prompts; for a tracked frame, what TrackStep has answered already."""
        if prompts is None:
            if self._tracked is not None and f_m is self._tracked.f_m:
                return self._tracked.decoded
            return self._choose(self.candidates(f_m, features, None), None)
        if prompts.mask is not None:
            return self._answer_with_mask(features, prompts)
        return self._choose(self.candidates(f_m, features, prompts), prompts)

    def memorize(self, f16: Tensor, decoded: Decoded) -> Memory:
        """The memory of a frame: memory_out of TrackStep, or MemoryEncoder's where there were prompts."""
        if self._tracked is not None and decoded.logits is self._tracked.decoded.logits:
            return self._tracked.memory
        best = decoded.best
        tokens = []
        for row in range(best.shape[0]):
            inputs = {"vision_features": _row(f16, row), "mask_logits": best[row : row + 1], "binarize": torch.zeros(1)}
            if self.loop.memory_needs_presence:
                inputs["obj_score"] = decoded.presence[row : row + 1]
            tokens.append(self.programs["memory_encoder"](inputs)["memory"])
        return self._memory(torch.cat(tokens), decoded.pointer)

    def candidates(self, f_m: Tensor, features: ImageFeatures, prompts: Prompts | None) -> Mapping[str, Tensor]:
        """Everything that PromptDecoder returns, before any choice: 4 masks, IoUs and pointers of every object."""
        return _joined([self.programs["prompt_decoder"](inputs) for inputs in self.prompt_inputs(f_m, features, prompts)])

    def prompt_inputs(self, f_m: Tensor, features: ImageFeatures, prompts: Prompts | None) -> list[dict[str, Tensor]]:
        """What PromptDecoder is given, object by object."""
        num_objects = f_m.shape[0] if prompts is None or prompts.points is None else prompts.points.shape[0]
        all_inputs = []
        for row in range(num_objects):
            points, labels = self._slots_of(prompts, row)
            inputs = {"image_embedding": _row(f_m, row), **high_res(features, row), "points": points, "labels": labels}
            if prompts is None or prompts.previous is None:
                inputs |= {"mask_input": torch.zeros(1, 1, self.loop.low, self.loop.low), "has_mask": torch.zeros(1)}
            else:
                inputs |= {"mask_input": prompts.previous[row : row + 1], "has_mask": torch.ones(1)}
            all_inputs.append(inputs)
        return all_inputs

    def _choose(self, found: Mapping[str, Tensor], prompts: Prompts | None) -> Decoded:
        """The manifest's rule `choice`, and absence."""
        several = prompts is None or prompts.num_points <= 1
        offered = slice(1, None) if several else slice(0, 1)  # one click may mean three things; more clicks mean mask 0
        masks, iou, pointers = (found[name][:, offered] for name in ("low_res_masks", "iou_scores", "obj_ptrs"))
        presence = found["obj_score"]
        masks = masks.masked_fill((presence <= 0)[:, :, None, None], self.loop.absent_logit)
        chosen = pointers[torch.arange(len(pointers)), iou.argmax(dim=1)]
        return Decoded(masks, iou, presence, chosen, prompts)

    def _answer_with_mask(self, features: ImageFeatures, prompts: Prompts) -> Decoded:
        """The manifest's rule `mask_prompt`: the mask is the answer, the decoder gives its pointer."""
        assert prompts.mask is not None
        mask = prompts.mask.float()  # (O, 1, S, S)
        low = self.loop.low
        logits = F.interpolate(
            self.loop.given_logit * (2 * mask - 1), (low, low), mode="bilinear", align_corners=False, antialias=True
        )
        shown = mask.flatten(1).amax(dim=1, keepdim=True)  # (O, 1)
        kernel = torch.tensor(self.loop.mask_kernel)[None, None]
        shrunk = F.conv2d(mask, kernel, torch.tensor([self.loop.mask_bias]), stride=4)
        found = self.candidates(features.f16, features, Prompts(points=mask.new_zeros(len(mask), 0, 2), previous=shrunk))
        pointer = shown * found["obj_ptrs"][:, 0] + (1 - shown) * torch.tensor(self.loop.absent_pointer)
        given = self.loop.given_logit
        return Decoded(logits, torch.ones_like(shown), given * (2 * shown - 1), pointer, prompts)

    def _slots_of(self, prompts: Prompts | None, row: int) -> tuple[Tensor, Tensor]:
        """Points and labels of one object in the program's fixed slots; the unused ones are switched off."""
        slots = self.loop.prompt_slots
        points = torch.zeros(1, slots, 2)
        labels = torch.full((1, slots), UNUSED_LABEL, dtype=torch.int32)
        if prompts is None or prompts.points is None or prompts.num_points == 0:
            labels[0, 0] = PADDING_LABEL  # no points: SAM passes one not-a-point token, and appends one
            return points, labels
        used = prompts.num_points
        if used > slots:
            raise ValueError(f"{used} points and box corners were given; these programs have {slots} slots (prompt_slots).")
        assert prompts.labels is not None
        points[0, :used], labels[0, :used] = prompts.points[row], prompts.labels[row].to(torch.int32)
        return points, labels

    def _memory(self, tokens: Tensor, pointer: Tensor) -> Memory:
        return Memory(tokens, torch.zeros(1, *tokens.shape[1:]), pointer, self.loop.memory_grid)

    def _frame_of(self, f16: Tensor) -> tuple[ImageFeatures, Tensor]:
        for features, image_embedding in self._frames:
            if features.f16 is f16:
                return features, image_embedding
        raise ValueError(
            "attend was given features that this tracker's encode has not just returned; hand them on unchanged."
        )


def _joined(answers: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Answers about several objects or frames, one batch for each name."""
    return {name: torch.cat([answer[name] for answer in answers]) for name in answers[0]}


def high_res(features: ImageFeatures, row: int = 0) -> dict[str, Tensor]:
    """The finer features of an object as inputs."""
    if features.f4 is None or features.f8 is None:
        return {}
    return {"feats_s0": _row(features.f4, row), "feats_s1": _row(features.f8, row)}


def _row(x: Tensor, row: int) -> Tensor:
    """One object's row; features of one video are shared by all its objects."""
    return x[row : row + 1] if x.shape[0] > 1 else x
