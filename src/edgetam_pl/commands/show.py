"""What `edgetam show` prints: the parts and their parameters, the verbs with their shapes and arithmetic."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from edgetam_pl.build import build_model
from edgetam_pl.config import ShowConfig
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.types import VERBS, Decoded, ImageFeatures, Memory, Recall

T = TypeVar("T")

FULL_FRAMES, FULL_POINTERS = 7, 16
"""A full bank: one prompted and six recent memories, sixteen pointers (SAM 2 release)."""


class Verb(NamedTuple):
    """One verb on one frame with one object."""

    name: str
    gives: str  # shapes of what it returns
    flops: int  # two per multiply-add


def run(cfg: ShowConfig) -> None:
    """Print the configured model; its parameters take no memory."""
    with torch.device("meta"):
        model = build_model(cfg.model)
    print(describe(model))


def describe(model: TrackAnything) -> str:
    """The model as text: its parts, then its verbs. Nothing is computed but shapes."""
    lines = [f"TrackAnything  {model.image_size} x {model.image_size}  {_count(model):,} parameters"]
    for name, part in model.named_children():
        lines.append(f"|- {name:<20} {_count(part):>12,}  {type(part).__name__}")
        lines += [f"|  |- {n:<17} {_count(child):>12,}  {type(child).__name__}" for n, child in _large_children(part)]
    lines.append("")
    lines.append(f"one frame, one object, {FULL_FRAMES} memories, {FULL_POINTERS} pointers")
    measured = verbs(model)
    lines += [f"|- {verb.name:<10} {verb.flops / 1e9:>10.3f} GFLOPs  {verb.gives}" for verb in measured]
    lines.append(f"'- {'total':<10} {sum(verb.flops for verb in measured) / 1e9:>10.3f} GFLOPs")
    return "\n".join(lines)


def verbs(model: TrackAnything, *, memories: int = FULL_FRAMES, pointers: int = FULL_POINTERS) -> list[Verb]:
    """Shapes and FLOPs of the four verbs while tracking, without computing anything; a full bank unless told otherwise."""
    shadow = copy.deepcopy(model).eval().requires_grad_(False).to("meta")
    images = torch.empty(1, 3, model.image_size, model.image_size, device="meta")
    with torch.inference_mode():
        (features, f_m, decoded, written), flops = walk(shadow, images, _measured, memories=memories, pointers=pointers)
    gives = (_of_features(features), f"f_m {_shape(f_m)}", _of_answer(decoded), _of_memory(written))
    return [Verb(*row) for row in zip(VERBS, gives, flops, strict=True)]


def walk(
    model: TrackAnything,
    images: Tensor,
    measured: Callable[[Callable[[], Any]], tuple[Any, int]],
    *,
    memories: int = FULL_FRAMES,
    pointers: int = FULL_POINTERS,
) -> tuple[tuple[ImageFeatures, Tensor, Decoded, Memory], tuple[int, ...]]:
    """Each verb once, with a full bank unless told otherwise: what they return, and what `measured` finds of each."""
    features, encode = measured(lambda: model.encode(images))
    memory = model.memorize(features.f16, model.decode(features.f16, features, None))
    recall = Recall(
        tuple((age, memory) for age in range(memories)),
        tuple((age, memory.pointer) for age in range(1, pointers + 1)),
    )
    f_m, attend = measured(lambda: model.attend(features.f16, recall))
    decoded, decode = measured(lambda: model.decode(f_m, features, None))
    written, memorize = measured(lambda: model.memorize(features.f16, decoded))
    return (features, f_m, decoded, written), (encode, attend, decode, memorize)


def _measured(run: Callable[[], T]) -> tuple[T, int]:
    with FlopCounterMode(display=False) as counter:
        result = run()
    return result, counter.get_total_flops()


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _large_children(part: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, child) for name, child in part.named_children() if _count(child) * 20 >= _count(part) > 0]


def _shape(tensor: Tensor) -> str:
    return "x".join(str(length) for length in tensor.shape)


def _of_features(features: ImageFeatures) -> str:
    named = zip(features._fields, features, strict=True)
    return ", ".join(f"{name} {_shape(level)}" for name, level in named if level is not None)


def _of_answer(answer: Decoded) -> str:
    return f"logits {_shape(answer.logits)}, pointer {_shape(answer.pointer)}"


def _of_memory(memory: Memory) -> str:
    height, width = memory.grid
    return f"tokens {_shape(memory.tokens)}, the last {height * width} on a {height} x {width} grid"
