"""What a phone has to do for a frame, counted without a phone: multiply-adds, operations, bytes and tokens per part.

Counts are exact (torch's FLOP counter over the flat adapters); speed is not predicted. With them stand the paper's own
measurements on an iPhone 15 Pro Max, so that a sweep can be judged in relation to them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from edgetam_pl.exporting.backend import Backend
from edgetam_pl.exporting.manifest import RuntimeSpec, read_yaml
from edgetam_pl.exporting.parts import BYTES, Saved
from edgetam_pl.io.hashing import bytes_of

PAPER: dict[str, Any] = read_yaml("paper")


@dataclass(frozen=True)
class PartCost:
    """One run of one part."""

    part: str
    gmacs: float
    """Multiply-adds in convolutions, linear layers and attention, in billions."""
    operations: int
    """Operations of the saved program, without constants; 0 where the format does not say."""
    max_rank: int
    """Largest number of dimensions of any tensor in the program; the Neural Engine takes at most 4 without extra copies."""
    megabytes: float
    """Of the saved package; one that holds several functions counts in full for each."""
    io_megabytes: float
    """Inputs and outputs of one run."""
    kinds: tuple[str, ...]
    """Types of operation."""


def estimate(saved: Sequence[Saved], loop: RuntimeSpec, backend: Backend, *, precision: str, blocks: int) -> dict[str, Any]:
    """Costs per part and per frame, the bank's size, and memory attention with and without compression.

    Args:
        blocks: of memory attention.
    """
    costs = {each.part.role: _cost(each, backend, precision) for each in saved}
    encoder, step = costs["image_encoder"].gmacs, costs["track_step"].gmacs
    bank = (loop.num_memories * loop.tokens * loop.memory_dim + loop.num_pointers * loop.dim) * BYTES[precision]
    return {
        "parts": [dataclasses.asdict(cost) for cost in costs.values()],
        "frame_gmacs": {"image_encoder": encoder, "each_object": step, "one_object": round(encoder + step, 3)},
        "memory": memory_attention_cost(loop, blocks=blocks),
        "bank_kilobytes_per_object": round(bank / 1000, 1),
        "paper": PAPER,
        "note": "Counts, not times. The paper's frame rates are its authors', on their hardware.",
    }


def memory_attention_cost(loop: RuntimeSpec, *, blocks: int) -> dict[str, Any]:
    """Keys and multiply-adds of cross-attention (logits and values) on a full bank: as built, and with dense memories."""
    queries, pointers = loop.feature**2, loop.num_pointers * loop.dim // loop.memory_dim
    keys = loop.num_memories * loop.tokens + pointers
    dense = loop.num_memories * queries + pointers
    per_key = 2 * queries * loop.dim * blocks  # q k^T and weights times v
    return {
        "tokens_per_memory": loop.tokens,
        "keys": keys,
        "keys_without_compression": dense,
        "cross_attention_gmacs": round(keys * per_key / 1e9, 3),
        "cross_attention_gmacs_without_compression": round(dense * per_key / 1e9, 3),
        "ratio_without_to_with": round(dense / keys, 2),
    }


def _cost(saved: Saved, backend: Backend, precision: str) -> PartCost:
    part, facts = saved.part, backend.facts(saved)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        part.module(*part.example())
    return PartCost(
        part=part.name,
        gmacs=round(counter.get_total_flops() / 2e9, 3),
        operations=facts.operations,
        max_rank=facts.max_rank,
        megabytes=round(bytes_of(saved.path) / 1e6, 2),
        io_megabytes=round(sum(feature.bytes(precision) for feature in (*part.inputs, *part.outputs)) / 1e6, 2),
        kinds=facts.kinds,
    )
