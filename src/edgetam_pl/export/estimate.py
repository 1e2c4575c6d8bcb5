"""What a phone has to do for a frame, counted without a phone: multiply-adds, operations, bytes and tokens per part.

Counts are exact (torch's FLOP counter over the flat adapters); speed is not predicted. Beside them stand the paper's own
measurements on an iPhone 15 Pro Max, so that a sweep can be judged in relation to them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from edgetam_pl.export.coreml import example_of
from edgetam_pl.export.extras import MissingExtra
from edgetam_pl.export.manifest import RuntimeSpec, bytes_of
from edgetam_pl.export.mil_interpreter import load_program
from edgetam_pl.export.parts import Part, Saved

PAPER = {
    "device": "iPhone 15 Pro Max, CPU and Neural Engine",
    "edgetam_video_fps": 15.7,
    "edgetam_image_fps": 40.4,
    "without_perceiver_fps": 2.5,
    "one_memory_block_fps": 22.2,
    "four_memory_blocks_fps": 10.0,
    "sam2_base_plus_video_fps": 0.7,
    "source": "EdgeTAM, Tables 1, 2, 3a and 3c; measured by its authors, not here",
}

BYTES = {"fp16": 2, "fp32": 4}


@dataclass(frozen=True)
class PartCost:
    """One run of one part."""

    part: str
    gmacs: float
    """Multiply-adds in convolutions, linear layers and attention, in billions."""
    operations: int
    """Operations of the saved program, without constants; 0 where the format does not tell."""
    max_rank: int
    """Largest number of dimensions of any tensor in the program; phones like at most 4."""
    megabytes: float
    """Of the saved package; one that holds several functions counts in full for each."""
    io_megabytes: float
    """Inputs and outputs of one run."""
    kinds: tuple[str, ...]
    """Types of operation."""


def estimate(
    parts: Sequence[Part], saved: Sequence[Saved], loop: RuntimeSpec, *, precision: str, blocks: int
) -> dict[str, Any]:
    """Costs per part and per frame, the bank's size, and memory attention with and without compression."""
    costs = [_cost(part, each, precision) for part, each in zip(parts, saved, strict=True)]
    by_role = {part.role: cost for part, cost in zip(parts, costs, strict=True)}
    width = BYTES[precision]
    bank = (loop.num_memories * loop.tokens * loop.memory_dim + loop.num_pointers * loop.dim) * width
    return {
        "parts": [dataclasses.asdict(cost) for cost in costs],
        "frame_gmacs": {
            "image_encoder": by_role["image_encoder"].gmacs,
            "each_object": by_role["track_step"].gmacs,
            "one_object": round(by_role["image_encoder"].gmacs + by_role["track_step"].gmacs, 3),
        },
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


def lines(found: Mapping[str, Any]) -> list[str]:
    """For people."""
    rows = [f"{'part':<24} {'GMAC':>8} {'ops':>5} {'rank':>4} {'MB':>7} {'I/O MB':>7}"]
    rows += [
        f"{cost['part']:<24} {cost['gmacs']:>8.2f} {cost['operations']:>5} {cost['max_rank']:>4} "
        f"{cost['megabytes']:>7.2f} {cost['io_megabytes']:>7.2f}"
        for cost in found["parts"]
    ]
    memory, paper = found["memory"], found["paper"]
    rows.append(
        f"a frame with one object: {found['frame_gmacs']['one_object']:.1f} GMAC; each further object "
        f"{found['frame_gmacs']['each_object']:.1f}; bank {found['bank_kilobytes_per_object']:.0f} kB per object"
    )
    rows.append(
        f"memory: {memory['tokens_per_memory']} tokens a frame, {memory['keys']} keys in all, "
        f"{memory['keys_without_compression']} without compression: {memory['ratio_without_to_with']} times the work"
    )
    rows.append(
        f"the paper, {paper['device']}: {paper['edgetam_video_fps']} FPS video, "
        f"{paper['edgetam_image_fps']} FPS images, {paper['without_perceiver_fps']} without perceiver (not measured here)"
    )
    return rows


def _cost(part: Part, saved: Saved, precision: str) -> PartCost:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        part.module(*(example_of(feature) for feature in part.inputs))
    kinds, operations, rank = _program_facts(saved)
    io = sum(_bytes(feature.shape, feature.dtype(precision)) for feature in (*part.inputs, *part.outputs))
    return PartCost(
        part=part.name,
        gmacs=round(counter.get_total_flops() / 2e9, 3),
        operations=operations,
        max_rank=rank,
        megabytes=round(bytes_of(saved.path) / 1e6, 2),
        io_megabytes=round(io / 1e6, 2),
        kinds=kinds,
    )


def _program_facts(saved: Saved) -> tuple[tuple[str, ...], int, int]:
    """Types, count and largest rank of the saved program's operations."""
    if saved.path.suffix == ".onnx":
        return _onnx_facts(saved.path)
    try:
        functions = load_program(saved.path).functions
    except MissingExtra:
        return (), 0, 0
    function = functions[saved.function] if saved.function else next(iter(functions.values()))
    found = [op for op in function.operations if op.op_type != "const" and not op.op_type.startswith("constexpr_")]
    rank = max(len(var.shape) for operation in found for var in operation.outputs)
    return tuple(sorted({operation.op_type for operation in found})), len(found), rank


def _onnx_facts(path: Path) -> tuple[tuple[str, ...], int, int]:
    from edgetam_pl.export.extras import require

    onnx = require("onnx")
    graph = onnx.shape_inference.infer_shapes(onnx.load(str(path))).graph
    ranks = [len(value.type.tensor_type.shape.dim) for value in graph.value_info]
    return tuple(sorted({node.op_type for node in graph.node})), len(graph.node), max(ranks, default=0)


def _bytes(shape: Sequence[int], kind: str) -> int:
    count = 1
    for side in shape:
        count *= side
    return count * {"fp16": 2, "fp32": 4, "int32": 4, "image": 1}[kind]
