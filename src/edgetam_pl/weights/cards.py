"""The card in our checkpoints: the model's configuration, and how it was trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from edgetam_pl.config import CompressorConfig, ModelConfig

CARD = "edgetam_pl"
"""Key of the card in our files, beside "model" or "state_dict". Readers of official files do not look at it."""


_USED_IN_TRAINING = ("name", "dropout", "drop_path", "cross_attention_bias_init")
"""Settings of a model that change nothing of what trained weights compute."""


def recorded_model(recorded: Mapping[str, Any]) -> ModelConfig:
    """A configuration as a card holds it. Raises ValueError where it has settings that this version does not know."""
    try:
        result = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ModelConfig), dict(recorded)))
    except OmegaConfBaseException as error:
        raise ValueError(
            f"The checkpoint records a model that this version does not know ({str(error).splitlines()[0]}). Load it with "
            "the version that wrote it, and save it from there in the official layout."
        ) from error
    assert isinstance(result, ModelConfig)
    return result


def compare_cards(given: ModelConfig, card: Mapping[str, Any] | None, path: Path) -> None:
    """Refuse to use weights in another way than they were trained for.

    Raises:
        ValueError: a setting that matters is not the one that the file records; both are named.
    """
    if card is None or card.get("model") is None:
        return
    recorded = recorded_model(card["model"])
    ours, theirs = _flat(given), _flat(recorded)
    different = [key for key in theirs if key in ours and ours[key] != theirs[key] and key not in _USED_IN_TRAINING]
    if different:
        listed = ", ".join(f"model.{key} is {ours[key]}, recorded is {theirs[key]}" for key in different[:5])
        raise ValueError(
            f"{path} was trained as another model than the one given ({recorded.name}): {listed}. Leave model out, and the "
            "recorded one is used. To start a training of another model from it on purpose: load_parts=equal_shapes."
        )


def _flat(cfg: Any, prefix: str = "") -> dict[str, Any]:
    """Settings by dotted key; of the compressor only those that its kind reads."""
    found: dict[str, Any] = {}
    read = {"none": ("kind",), "pooling": ("kind", "pool")}.get(cfg.kind) if isinstance(cfg, CompressorConfig) else None
    for one in fields(cfg):
        if read is not None and one.name not in read:
            continue
        value = getattr(cfg, one.name)
        found |= _flat(value, f"{prefix}{one.name}.") if is_dataclass(value) else {prefix + one.name: plain(value)}
    return found


def plain(value: Any) -> Any:
    """Dataclasses, tuples and paths as the plain values that a card may hold."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(one) for one in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
