"""Hydra composes, the schema checks: from command-line words to the dataclasses of `config.py`.

An experiment is a flat YAML of overrides in `experiments/`; `experiment=NAME` puts them before the words that follow.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar, cast

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
EXPERIMENTS = ROOT / "experiments"

_OPEN = ("trainer.", "model.trunk_args.", "teacher.trunk_args.")
"""Arguments of other libraries have no schema here, so any of them may be added."""

Schema = TypeVar("Schema")


def composed(schema: type[Schema], *, command: str, overrides: list[str]) -> tuple[Schema, DictConfig]:
    """The checked configuration of one command, as dataclasses and as the composed YAML.

    Raises:
        ValueError: an unknown key, value or option; the message names it and what is allowed.
    """
    if command == "evaluate":  # `data` is a group of mixtures for training; a set to evaluate on is a plain name
        overrides = ["dataset=" + word.removeprefix("data=") if word.startswith("data=") else word for word in overrides]
    ConfigStore.instance().store(name=f"{command}_schema", node=schema)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(config_dir=str(CONFIGS), version_base="1.3"):
            cfg = compose(config_name=command, overrides=expand(overrides))
        OmegaConf.resolve(cfg)
        return cast(Schema, OmegaConf.to_object(cfg)), cfg
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(_one_sentence(error)) from error


def expand(overrides: list[str]) -> list[str]:
    """Replace `experiment=NAME` and `scale=NAME` by the overrides in their files, in place."""
    words: list[str] = []
    for word in overrides:
        key, _, value = word.partition("=")
        if key in {"experiment", "scale"} and value:
            folder = EXPERIMENTS if key == "experiment" else EXPERIMENTS / "scales"
            words += _overrides_of(folder / f"{value}.yaml", kind=key)
        else:
            words.append(word)
    # the arguments of other libraries have no schema here, so any of them may be added
    return [
        "++" + word if word.startswith(("trainer.", "model.trunk_args.", "teacher.trunk_args.")) else word for word in words
    ]


def _overrides_of(path: Path, *, kind: str) -> list[str]:
    if not path.is_file():
        known = sorted(p.stem for p in path.parent.glob("*.yaml"))
        raise ValueError(f"There is no {kind} named {path.stem}; known ones: {', '.join(known) or 'none'}.")
    entries = OmegaConf.to_container(OmegaConf.load(path))
    if not isinstance(entries, dict):
        raise ValueError(f"{path.name} should be a flat mapping of override to value, one a line.")
    return [f"{key}={_literal(value)}" for key, value in entries.items()]


def _literal(value: object) -> str:
    """A value in Hydra's override grammar."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ",".join(_literal(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_literal(item)}" for key, item in value.items()) + "}"
    return str(value)


_NOISE = ("full_key", "object_type", "reference_type", "To append", "Config search path", "provider=", "In '", "See https")
"""Beginnings of lines of Hydra's messages that name its own machinery rather than the mistake."""


def _one_sentence(error: Exception) -> str:
    lines = [line.strip() for cause in (error, error.__cause__) if cause is not None for line in str(cause).splitlines()]
    return " ".join(dict.fromkeys(line.removesuffix(".") + "." for line in lines if line and not line.startswith(_NOISE)))
