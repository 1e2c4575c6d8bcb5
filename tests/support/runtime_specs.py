"""A runtime specification of small sizes."""

from __future__ import annotations

from edgetam_pl.exporting.manifest import RuntimeSpec


def loop(**changes: object) -> RuntimeSpec:
    settings: dict[str, object] = {
        "size": 64, "dim": 4, "memory_dim": 2, "tokens": 3, "memory_grid": (1, 2), "num_memories": 7, "num_pointers": 16,
        "recent_memories": 6, "recent_pointers": 15, "prompt_slots": 4, "high_res": True, "pointer_ages": False,
        "memory_needs_presence": False, "mask_kernel": ((0.0,) * 4,) * 4, "mask_bias": 0.0, "absent_pointer": (0.0,) * 4,
        "absent_logit": -1024.0, "given_logit": 10.0,
    }  # fmt: skip
    return RuntimeSpec(**(settings | changes))  # type: ignore[arg-type]
