"""Hydra composes, the schema checks: from command-line words to the dataclasses of `config.py`.

An experiment is a flat YAML of overrides in `experiments/`; `experiment=NAME` puts them before the words that follow, and
`scale=NAME` makes them fit a machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = ROOT / "configs"
EXPERIMENTS = ROOT / "experiments"
RECIPES = ROOT / "shards" / "recipes"

_OPEN = ("trainer.", "model.trunk_args.", "teacher.trunk_args.")
"""Arguments of other libraries have no schema here, so any of them may be added."""

Schema = TypeVar("Schema")


def composed(schema: type[Schema], *, command: str, overrides: list[str]) -> tuple[Schema, DictConfig]:
    """The checked configuration of one command, as dataclasses and as the composed YAML.

    Raises:
        ValueError: an unknown key, value or option; the message names it and what is allowed.
    """
    if command == "evaluate":
        for word in overrides:
            if word.startswith("data="):
                raise ValueError(f"The key of a data set to evaluate is dataset: write dataset={word[len('data=') :]}.")
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
    """Replace the words that stand for several: experiment=NAME and scale=NAME by those in their files, latents=... by keys.

    A scale's own words come first, so that all others win; its replacements change words of experiments and of people alike.

    Raises:
        ValueError: no such experiment or scale; latents that are no whole number at this scale.
    """
    words: list[str] = []
    scale = Scale()
    for word in overrides:
        key, _, value = word.partition("=")
        if key == "experiment" and value:
            words += _words_of(_mapping(EXPERIMENTS / f"{value}.yaml", kind=key))
        elif key == "recipe" and value:
            words[:0] = _words_of(_mapping(RECIPES / f"{value}.yaml", kind=key)["settings"])  # first, so that others win
            words.append(word)
        elif key == "scale" and value:
            scale = Scale.read(value)
        else:
            words.append(word)
    words = [*scale.words, *(other for word in words for other in scale.replace.get(word, (word,)))]
    words = [
        other
        for word in words
        for other in (latents(word.partition("=")[2], of_256=scale.latents) if word.startswith("latents=") else (word,))
    ]
    return ["++" + word if word.startswith(_OPEN) else word for word in words]


@dataclass(frozen=True)
class Scale:
    """A size at which every experiment can run: experiments/scales/NAME.yaml. The default is the paper's."""

    latents: int = 256
    """What 256 latents of the paper become."""
    replace: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Word -> words: a model, stage or data set by its counterpart at this size."""
    words: tuple[str, ...] = ()
    """Words that hold unless others are given."""

    @classmethod
    def read(cls, name: str) -> Scale:
        entries = _mapping(EXPERIMENTS / "scales" / f"{name}.yaml", kind="scale")
        unknown = entries.keys() - {"latents", "replace", "words"}
        if unknown:
            raise ValueError(
                f"experiments/scales/{name}.yaml has {', '.join(sorted(unknown))}; known: latents, replace, words."
            )
        replace = {word: tuple(others) for word, others in entries.get("replace", {}).items()}
        return cls(entries.get("latents", 256), replace, tuple(_words_of(entries.get("words", {}))))


def latents(said: str, *, of_256: int = 256) -> tuple[str, ...]:
    """`latents=` in keys: GLOBAL/SPATIAL (numbers of the paper, which a scale converts), none (dense), poolN (windows).

    Raises:
        ValueError: it is none of these, or gives no whole number at this scale.
    """
    if said == "none":
        return ("model.compressor.kind=none",)
    if match := re.fullmatch(r"pool(\d+)", said):
        return ("model.compressor.kind=pooling", f"model.compressor.pool={match[1]}")
    match = re.fullmatch(r"(\d+)/(\d+)", said)
    if match is None:
        raise ValueError(f"latents={said} is not understood; use GLOBAL/SPATIAL (256/256), none, or poolN (pool4).")
    scaled = [int(number) * of_256 / 256 for number in match.groups()]
    if not all(number.is_integer() for number in scaled):
        raise ValueError(
            f"latents={said} would be {scaled[0]:g}/{scaled[1]:g} at this scale, where 256 of the paper are {of_256}; use "
            f"multiples of {256 // of_256}."
        )
    if not any(scaled):
        raise ValueError(f"latents={said} leaves no memory; use latents=none for all its tokens, or pool4 for their means.")
    keys = ("global_latents", "spatial_latents")
    return ("model.compressor.kind=perceiver", *(f"model.compressor.{k}={int(n)}" for k, n in zip(keys, scaled)))


def _mapping(path: Path, *, kind: str) -> dict[str, Any]:
    if not path.is_file():
        known = sorted(p.stem for p in path.parent.glob("*.yaml"))
        raise ValueError(f"There is no {kind} named {path.stem}; known ones: {', '.join(known) or 'none'}.")
    entries = OmegaConf.to_container(OmegaConf.load(path))
    if not isinstance(entries, dict):
        raise ValueError(f"{path.name} should be a mapping, one entry a line.")
    return {str(key): value for key, value in entries.items()}


def _words_of(entries: Mapping[str, Any]) -> list[str]:
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
