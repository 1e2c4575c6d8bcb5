"""Memory for time: model verbs whose intermediate values are computed again in the backward pass instead of being kept.

What pays differs from verb to verb. The encoder's values are most of a short clip's memory and its backward comes last, when
everything else is gone; decoding keeps much and costs little; memory attention costs most to do twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from edgetam_pl.config import TrainConfig
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.types import VERBS, Decoded, ImageFeatures, Memory, Prompts, Recall

T = TypeVar("T")

THRIFTY = ("encode",)
"""What costs least time for the memory it saves (`benchmarks/train_step.py`)."""


@dataclass(frozen=True)
class MemoryOptions:
    """How memory is saved; values do not depend on it. See the keys of the same names in `config.TrainConfig`."""

    recompute: tuple[str, ...] = ()
    object_chunk: int = 0
    encoder_chunk: int = 8
    channels_last: bool = True

    @classmethod
    def of(cls, cfg: TrainConfig) -> MemoryOptions:
        verbs = tuple(cfg.recompute) if cfg.activation_checkpointing else ()
        return cls(verbs, cfg.object_chunk, cfg.encoder_chunk, cfg.channels_last)


@dataclass(frozen=True)
class CheckpointedTracker:
    """The student's verbs, some of them recomputed in the backward pass. Values and gradients do not change, nor do
    BatchNorm statistics: the second pass does not count."""

    model: TrackAnything
    verbs: tuple[str, ...] = VERBS
    gate: bool = True
    """Masks of objects judged absent become ABSENT_LOGIT, which has no gradient."""

    def __post_init__(self) -> None:
        unknown = [verb for verb in self.verbs if verb not in VERBS]
        if unknown:
            raise ValueError(f"There is nothing called {', '.join(unknown)} to recompute; choose from {', '.join(VERBS)}.")

    def encode(self, images: Tensor) -> ImageFeatures:
        return self._run("encode", self.model.encode, images)

    def attend(self, f16: Tensor, recall: Recall) -> Tensor:
        return self._run("attend", self.model.attend, f16, recall)

    def decode(self, f_m: Tensor, features: ImageFeatures, prompts: Prompts | None) -> Decoded:
        return self._run("decode", partial(self.model.decode, gate=self.gate), f_m, features, prompts)

    def memorize(self, f16: Tensor, decoded: Decoded) -> Memory:
        return self._run("memorize", self.model.memorize, f16, decoded)

    def _run(self, name: str, verb: Callable[..., T], *arguments: Any) -> T:
        if name not in self.verbs:
            return verb(*arguments)
        return checkpoint(verb, *arguments, use_reentrant=False, context_fn=self._contexts)  # type: ignore[return-value]

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Around the first pass, and around the second."""
        return nullcontext(), statistics_kept(self.model)


@contextmanager
def statistics_kept(model: nn.Module) -> Iterator[None]:
    """BatchNorm in training normalises by the batch as ever, but its running statistics do not move.

    Momentum 0 does it: turning `track_running_stats` off would save other tensors than the first pass did, which
    checkpointing refuses.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
