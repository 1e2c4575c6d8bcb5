"""Do these tensors belong to this model? What is said where they do not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from torch import Tensor


def require_fit(
    state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], *, path: Path, cure: Callable[[], str]
) -> None:
    """Refuse a state dict that lacks names, has others, or has them in other shapes."""
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    reshaped = [
        f"{name} {tuple(tensor.shape)} instead of {expected[name]}"
        for name, tensor in state.items()
        if name in expected and tuple(tensor.shape) != expected[name]
    ]
    if not (missing or unexpected or reshaped):
        broken = [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
        if broken:
            raise ValueError(
                f"{path} holds numbers that are not finite in {len(broken)} tensors: {first_of(broken)}. What wrote it had "
                "gone wrong before; take weights of an earlier step."
            )
        return
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
    lists = "; ".join(f"{len(names)} {kind}: {first_of(names)}" for kind, names in kinds if names)
    raise ValueError(f"{path} does not fit this model: {lists}. {cure()}")


def first_of(names: Iterable[str], count: int = 5) -> str:
    listed = list(names)
    return ", ".join(listed[:count]) + (", ..." if len(listed) > count else "")
