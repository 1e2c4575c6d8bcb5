"""The same model, run faster: fused, channels innermost, compiled, replayed as CUDA graphs. Answers agree up to rounding."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map_only

from edgetam_pl.config.choices import check_choice
from edgetam_pl.inference.fuse import fuse
from edgetam_pl.inference.lean_layers import use_lean_layers
from edgetam_pl.inference.memory_block import use_lean_blocks
from edgetam_pl.inference.onednn import use_onednn
from edgetam_pl.model.attention import Attention, Keys
from edgetam_pl.model.position import Rotation
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.types import Decoded, ImageFeatures, Memory, Prompts, Recall

HIDDEN = -1e4
"""Added to the logits of keys that fill empty places of a bank of fixed size."""

CAPACITY = (7, 16)
"""Memories and pointers that a bank of fixed size has room for."""

P = ParamSpec("P")
R = TypeVar("R")


class FastTracker:
    """A `VideoModel` like the one it is made of, with faster methods.

    On a CPU, what is not compiled uses oneDNN where it was measured to be faster (see `products`), and leaner blocks of
    memory attention (see `memory_block`) and attention of the decoder (see `few_tokens`).

    Args:
        model: in evaluation mode; it is not changed.
        fused: merge RepViT's branches and BatchNorms and the neck's projections (see `fuse`).
        channels_last: weights laid out for channels innermost; give images so too.
        compiled: none | attention (only `blend`, for any number of memories at once) | all (the encoder, the decoder on
            frames that are only tracked, and the memory encoder as well).
        cuda_graphs: record each part once and replay it, so that a GPU never waits for Python. The bank is padded to
            CAPACITY, with keys that stay hidden until they are needed; a longer recall goes through unrecorded.

    Raises:
        ValueError: an unknown choice, or CUDA graphs without CUDA.
    """

    def __init__(
        self,
        model: TrackAnything,
        *,
        fused: bool = True,
        channels_last: bool = True,
        compiled: str = "none",
        cuda_graphs: bool = False,
    ) -> None:
        check_choice("compile", compiled, ("none", "attention", "all"))
        if cuda_graphs and next(model.parameters()).device.type != "cuda":
            raise ValueError("CUDA graphs need a model on a CUDA device; give device=cuda, or turn cuda_graphs off.")
        self.model = fuse(model) if fused else copy.deepcopy(model).eval().requires_grad_(False)
        if channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if compiled == "none" and next(model.parameters()).device.type == "cpu":
            use_lean_blocks(self.model)
            use_lean_layers(self.model, Attention)
            use_onednn(self.model)
        self.image_size = model.image_size
        self._padded = cuda_graphs
        self._encode: Callable[[Tensor], ImageFeatures] = self.model.encode
        self._blend: Callable[[Tensor, Keys, Tensor | None], Tensor] = self.model.memory_attention.blend
        self._decode: Callable[[Tensor, ImageFeatures], Decoded] = self._decode_unprompted
        self._memorize: Callable[[Tensor, Decoded], Memory] = self.model.memorize
        if cuda_graphs:
            self._encode, self._blend = _recorded(self._encode), _recorded(self._blend)
            self._decode, self._memorize = _recorded(self._decode), _recorded(self._memorize)
        elif compiled != "none":
            # dynamic from the first call on: a bank that fills changes the number of keys on every frame
            self._blend = torch.compile(self._blend, dynamic=True)
            if compiled == "all":
                self._encode = torch.compile(self._encode, dynamic=False)
                self._decode = torch.compile(self._decode, dynamic=False)
                self._memorize = torch.compile(self._memorize, dynamic=False)

    def normalise(self, frames: Tensor) -> Tensor:
        return self.model.normalise(frames)

    def encode(self, images: Tensor) -> ImageFeatures:
        return self._encode(images)

    def attend(self, f16: Tensor, recall: Recall) -> Tensor:
        if not recall.frames:
            return self.model.attend(f16, recall)
        keys = self.model.memory_attention.gather(recall)
        if not self._padded:
            return self._blend(f16, keys, None)
        if len(recall.frames) > CAPACITY[0] or len(recall.pointers) > CAPACITY[1]:
            return self.model.memory_attention.blend(f16, keys)
        tokens = recall.frames[0][1].tokens.shape[1]
        return self._blend(f16, *padded(keys, tokens=tokens, capacity=CAPACITY))

    def decode(
        self,
        f_m: Tensor,
        features: ImageFeatures,
        prompts: Prompts | None,
        *,
        gate: bool = True,
        dynamic_multimask: bool = False,
    ) -> Decoded:
        if prompts is None and gate:
            return self._decode(f_m, features)
        return self.model.decode(f_m, features, prompts, gate=gate, dynamic_multimask=dynamic_multimask)

    def memorize(self, f16: Tensor, decoded: Decoded, *, binarize: bool = False) -> Memory:
        if decoded.prompts is None and not binarize:
            return self._memorize(f16, decoded)
        return self.model.memorize(f16, decoded, binarize=binarize)

    def _decode_unprompted(self, f_m: Tensor, features: ImageFeatures) -> Decoded:
        return self.model.decode(f_m, features, None)


def padded(keys: Keys, *, tokens: int, capacity: tuple[int, int]) -> tuple[Keys, Tensor]:
    """Keys of a bank that always has room for `capacity` memories and pointers, and the bias that hides the empty places.

    Args:
        keys: K of them, `tokens` for each memory, pointer tokens last.
        capacity: memories and pointers.

    Returns:
        Keys, K' of them whatever K was, and (1, K') with HIDDEN at empty places.
    """
    used = keys.num_frames * tokens
    per_pointer = 2 * keys.rotation.cos.shape[1] // keys.tokens.shape[2]  # a pointer of C is cut into C / D tokens
    empty_memories = (capacity[0] - keys.num_frames) * tokens
    empty_pointers = capacity[1] * per_pointer - (keys.tokens.shape[1] - used)

    def spread(x: Tensor, *, dim: int, value: float) -> Tensor:
        memories, pointers = x.narrow(dim, 0, used), x.narrow(dim, used, x.shape[dim] - used)
        within = (0, 0) * (x.dim() - 1 - dim)  # F.pad names the last axis first
        parts = ((memories, empty_memories), (pointers, empty_pointers))
        return torch.cat([F.pad(part, (*within, 0, empty), value=value) for part, empty in parts], dim=dim)

    rotation = Rotation(spread(keys.rotation.cos, dim=0, value=1.0), spread(keys.rotation.sin, dim=0, value=0.0))
    bias = spread(keys.tokens.new_zeros(1, keys.tokens.shape[1]), dim=1, value=HIDDEN)
    moved = Keys(spread(keys.tokens, dim=1, value=0.0), spread(keys.pos, dim=1, value=0.0), rotation, capacity[0])
    return moved, bias


def _recorded(function: Callable[P, R]) -> Callable[P, R]:
    """Compiled and recorded as a CUDA graph for each shape; results are copies, for the next replay overwrites its own."""
    compiled = torch.compile(function, mode="reduce-overhead", dynamic=False)

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        torch.compiler.cudagraph_mark_step_begin()
        return tree_map_only(Tensor, torch.clone, compiled(*args, **kwargs))

    return call
