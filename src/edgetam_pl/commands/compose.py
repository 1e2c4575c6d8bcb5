"""Hydra composes, the schema checks: from command-line words to the dataclasses of `config`.

An experiment is a flat YAML of overrides in `experiments/`; `experiment=NAME` puts them before the words that follow, and
`scale=NAME` makes them fit a machine. Files of the working directory win over those of the package (io/resources.py).
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from edgetam_pl.commands.own_data import is_place, refuse_toys, settings
from edgetam_pl.config import ModelConfig, ShowConfig
from edgetam_pl.config.choices import check_choices, did_you_mean
from edgetam_pl.io import released, resources, shipped

CONFIGS = resources.shipped(resources.CONFIGS)
EXPERIMENTS = resources.shipped(resources.EXPERIMENTS)

_OPEN = ("trainer.", "model.trunk_args.", "teacher.trunk_args.", "second_teacher.trunk_args.")
"""Arguments of other libraries have no schema here, so any of them may be added."""

RENAMED = {
    "weights_for": "load_parts",
    "model.locality": "model.cross_attention_bias_init",
    "teacher.locality": "teacher.cross_attention_bias_init",
}
"""Keys of earlier versions, and what they are called now."""

MACROS = ("experiment", "scale", "recipe", "latents")
"""Words that stand for several others; see `expand`."""

NAMED_WEIGHTS = {"weights": "model", "teacher_weights": "model@teacher", "second_teacher_weights": "model@second_teacher"}
"""Keys that take `shipped` or the name of a release, and the group that then names its model unless somebody did."""

Schema = TypeVar("Schema")


class OwnConfigs(SearchPathPlugin):
    """Hydra looks into a user's own configs/ below the working directory before ours."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for path in resources.folders(resources.CONFIGS)[:-1]:
            search_path.prepend("own files", f"file://{path}")


Plugins.instance().register(OwnConfigs)


def composed(schema: type[Schema], *, command: str, overrides: list[str]) -> tuple[Schema, DictConfig]:
    """The checked configuration of one command, as dataclasses and as the composed YAML.

    Raises:
        ValueError: an unknown key, value or option; the message names it, what is allowed, and what is nearest.
    """
    if command == "evaluate":
        for word in overrides:
            if word.startswith("data="):
                raise ValueError(f"The key of a data set to evaluate is dataset: write dataset={word[len('data=') :]}.")
    words = expand(overrides)
    if command == "train":
        refuse_toys(words)
    words = [*_recorded_model(words, schema), *words]
    for word in words:
        _check_word(word, schema, command)
    ConfigStore.instance().repo[f"{command}_schema.yaml"] = _stored(f"{command}_schema", schema)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(config_dir=str(CONFIGS), version_base="1.3"):
            cfg = compose(config_name=command, overrides=[literal(word, schema) for word in words])
        OmegaConf.resolve(cfg)
        result = cast(Schema, OmegaConf.to_object(cfg))
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(_one_sentence(error)) from error
    check_choices(result)
    return result, cfg


@cache  # making it takes a sixth of a composition; Hydra hands out copies of it
def _stored(name: str, schema: type) -> Any:
    """What Hydra makes of a schema. It keeps one by a name, so composing puts it there each time: the name may have been
    another schema's since."""
    store = ConfigStore.instance()
    store.store(name=name, node=schema)
    return store.repo[f"{name}.yaml"]


def model_config(name: str, *overrides: str) -> ModelConfig:
    """A model of the zoo: configs/model/NAME.yaml, with settings on top of it (`model.dim=128`).

    Raises:
        ValueError: no such model, or a setting that it does not have.
    """
    return composed(ShowConfig, command="show", overrides=[f"model={name}", *overrides])[0].model


def model_for(name: str | None, weights: str | Path | None) -> ModelConfig:
    """The model of that name; without one, the model that the weights record, else the released EdgeTAM.

    Raises:
        ValueError: no such model, or a file that is no checkpoint.
    """
    from edgetam_pl.weights import recorded_config  # torch, which --help does without

    recorded = recorded_config(weights) if name is None and weights and Path(weights).exists() else None
    return recorded or model_config(name or "edgetam")


def _recorded_model(words: list[str], schema: type) -> list[str]:
    """Where weights are given and no model: the model that their file records, as words that all others win over. So for
    teachers, where the file records one."""
    given = {key: value for key, _, value in (word.partition("=") for word in words)}
    return [*_recorded_student(given, schema), *_recorded_teachers(given)]


def _recorded_teachers(given: Mapping[str, str]) -> list[str]:
    words: list[str] = []
    for group in ("teacher", "second_teacher"):
        path = Path(given.get(f"{group}_weights", "")).expanduser()
        if f"{group}_weights" in given and f"model@{group}" not in given and path.exists():
            from edgetam_pl.weights import recorded_config  # torch, which other words do without

            cfg = recorded_config(path)
            if cfg is not None:
                own = words_of({group: asdict(cfg)})
                words += [f"model@{group}=edgetam", *("++" + word if word.startswith(_OPEN) else word for word in own)]
    return words


def _recorded_student(given: Mapping[str, str], schema: type) -> list[str]:
    path = Path(given.get("weights", "")).expanduser()
    parts = given.get("load_parts", "all") != "all"  # of another model, and which one is for the caller to say
    if "model" in given or parts or not path.is_file() or _type_at(schema, "model")[1] is not ModelConfig:
        return []
    cfg = model_for(None, path)
    return ["++" + word if word.startswith(_OPEN) else word for word in words_of({"model": asdict(cfg)})]


# ---------------------------------------------------------------------- words that stand for several


def expand(overrides: list[str]) -> list[str]:
    """Replace the words that stand for several: experiment=NAME and scale=NAME by those in their files, latents=... by keys.

    A scale's own words come first, so that all others win; its replacements change words of experiments and of people alike.
    weights=shipped is the tracker that comes with the package, weights=edgetam an official release (`io/released.py`).

    Raises:
        ValueError: no such experiment or scale; latents that are no whole number at this scale; no shipped weights.
    """
    words: list[str] = []
    scale = Scale()
    for word in overrides:
        key, _, value = word.partition("=")
        if key == "experiment" and value:
            words += _words_of(_mapping(resources.EXPERIMENTS, value, kind=key))
        elif key == "recipe" and value:
            words[:0] = _words_of(_mapping(resources.RECIPES, value, kind=key)["settings"])  # first, so that others win
            words.append(word)
        elif key == "scale" and value:
            scale = Scale.read(value)
        elif key == "data" and is_place(value):
            data, validation = settings(value)
            words[:0] = words_of({"validation": validation})  # first, so that others win
            words += ["data=own", *words_of({"data": data})]
        elif key in ("teacher", "second_teacher") and value:
            words.append(f"model@{key}={value}")
        elif key in NAMED_WEIGHTS and (value == shipped.WORD or released.is_name(value)):
            name = shipped.NAME if value == shipped.WORD else value
            group = NAMED_WEIGHTS[key]
            if not any(other.startswith(f"{group}=") for other in overrides):
                words.append(f"{group}={name}")
            words.append(f"{key}={shipped.weights() if value == shipped.WORD else released.fetched(name)}")
        else:
            words.append(word)
    for word in words:
        scale.check(word)
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
    name: str = "full"

    def check(self, word: str) -> None:
        """Refuse a model that has no counterpart at this size, since it would keep its own.

        Raises:
            ValueError: naming the models that have one.
        """
        known = [key.removeprefix("model=") for key in self.replace if key.startswith("model=")]
        own = [one for others in self.replace.values() for one in others]
        value = word.removeprefix("model=")
        if known and word.startswith("model=") and word not in (*self.replace, *own) and not value.startswith(self.name):
            raise ValueError(
                f"scale={self.name} has no counterpart of model={value}, which would keep its full size. It has those of "
                f"{', '.join(known)}; or leave scale out."
            )

    @classmethod
    def read(cls, name: str) -> Scale:
        entries = _mapping(resources.EXPERIMENTS, name, kind="scale", below="scales")
        unknown = entries.keys() - {"latents", "replace", "words"}
        if unknown:
            raise ValueError(
                f"experiments/scales/{name}.yaml has {', '.join(sorted(unknown))}; known: latents, replace, words."
            )
        replace = {word: tuple(others) for word, others in entries.get("replace", {}).items()}
        return cls(entries.get("latents", 256), replace, tuple(_words_of(entries.get("words", {}))), name)


def latents(given: str, *, of_256: int = 256) -> tuple[str, ...]:
    """`latents=` in keys: GLOBAL/SPATIAL (numbers of the paper, which a scale converts), none (dense), poolN (windows).

    Raises:
        ValueError: it is none of these, or gives no whole number at this scale.
    """
    if given == "none":
        return ("model.compressor.kind=none",)
    if match := re.fullmatch(r"pool(\d+)", given):
        return ("model.compressor.kind=pooling", f"model.compressor.pool={match[1]}")
    match = re.fullmatch(r"(\d+)/(\d+)", given)
    if match is None:
        raise ValueError(f"latents={given} is not understood; use GLOBAL/SPATIAL (256/256), none, or poolN (pool4).")
    scaled = [int(number) * of_256 / 256 for number in match.groups()]
    if not all(number.is_integer() for number in scaled):
        raise ValueError(
            f"latents={given} would be {scaled[0]:g}/{scaled[1]:g} at this scale, where 256 of the paper are {of_256}; use "
            f"multiples of {256 // of_256}."
        )
    if not any(scaled):
        raise ValueError(f"latents={given} leaves no memory; use latents=none for all its tokens, or pool4 for their means.")
    keys = ("global_latents", "spatial_latents")
    return ("model.compressor.kind=perceiver", *(f"model.compressor.{k}={int(n)}" for k, n in zip(keys, scaled)))


def _mapping(folder: str, name: str, *, kind: str, below: str = "") -> dict[str, Any]:
    path = resources.find(folder, str(Path(below, f"{name}.yaml")))
    if path is None:
        known = resources.names(folder, below)
        raise ValueError(
            f"There is no {kind} named {name}; known ones: {', '.join(known) or 'none'}.{did_you_mean(name, known)}"
        )
    entries = OmegaConf.to_container(OmegaConf.load(path))
    if not isinstance(entries, dict):
        raise ValueError(f"{path.name} should be a mapping, one entry a line.")
    return {str(key): value for key, value in entries.items()}


# ---------------------------------------------------------------------- words, and values in Hydra's grammar


def words_of(given: Mapping[str, Any]) -> list[str]:
    """Settings of a Python call as command-line words; a mapping inside becomes dotted keys.

    >>> words_of({"model": "toy", "trainer": {"max_epochs": 3}, "weights": None})
    ['model=toy', 'trainer.max_epochs=3', 'weights=null']
    """
    flat: dict[str, Any] = {}
    for key, value in given.items():
        flat.update({f"{key}.{inner}": v for inner, v in value.items()} if isinstance(value, Mapping) else {key: value})
    deeper = any(isinstance(value, Mapping) for value in flat.values())
    return words_of(flat) if deeper else _words_of(flat)


def _words_of(entries: Mapping[str, Any]) -> list[str]:
    return [f"{key}={_value(value)}" for key, value in entries.items()]


def _value(value: object) -> str:
    """A value in Hydra's override grammar."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ",".join(_inner(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_inner(item)}" for key, item in value.items()) + "}"
    return str(value)


def _inner(value: object) -> str:
    """A value inside another: text is quoted, for a path may have any character."""
    return _quoted(value) if isinstance(value, str) else _value(value)


def literal(word: str, schema: type) -> str:
    """A word whose value Hydra takes as it stands, if its key holds text: paths may have any character, and ~ is home.

    >>> from edgetam_pl.config import TrainConfig
    >>> literal("out=runs/a, b (1)", TrainConfig)
    "out='runs/a, b (1)'"
    """
    key, equals, value = word.partition("=")
    optional, kind = _type_at(schema, key.lstrip("+"))
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    if kind is not str or not equals or quoted or (optional and value == "null"):
        return word
    return f"{key}={_quoted(str(Path(value).expanduser()) if value.startswith('~') else value)}"


def _quoted(text: str) -> str:
    """Text between quotes, as Hydra reads it: a quote, and backslashes before it or at the end, are escaped."""
    return "'" + re.sub(r"(\\*)(')|(\\+)$", lambda m: (m[1] * 2 + "\\'") if m[2] else m[3] * 2, text) + "'"


def _type_at(schema: type, key: str) -> tuple[bool, Any]:
    """(may it be null, type) of the field at a dotted key; (False, None) where the schema has none."""
    optional, kind = False, cast(Any, schema)
    for name in key.split("."):
        if not is_dataclass(kind):
            return False, None
        kind = _hints(kind).get(name)
        inner = [one for one in get_args(kind) if one is not type(None)]
        optional = get_origin(kind) in (Union, types.UnionType) and len(inner) < len(get_args(kind))
        kind = inner[0] if optional else kind
    return optional, kind


_hints = cache(get_type_hints)


# ---------------------------------------------------------------------- mistakes


def _check_word(word: str, schema: type, command: str) -> None:
    """Refuse what Hydra would answer in its own words: flags, old keys, unknown keys, unknown choices of a group.

    Raises:
        ValueError: naming the word and the nearest right one.
    """
    key, equals, value = word.partition("=")
    if word.startswith("-") or not equals:
        known = [one.name for one in fields(cast(Any, schema))]
        near = did_you_mean(key.lstrip("-").replace("-", "_"), known)
        raise ValueError(f"{word!r} is no setting; `edgetam {command}` takes key=value words.{near}")
    if key in RENAMED:
        raise ValueError(f"{key} is called {RENAMED[key]} now; use {RENAMED[key]}={value}.")
    if key.startswith(("+", "~")):
        return
    group = key.partition("@")[0]
    options = resources.names(resources.CONFIGS, group)
    if options and "." not in group:
        if value not in (*options, "null"):
            near = did_you_mean(value, options)
            raise ValueError(f"There is no {group} named {value}; known ones: {', '.join(options)}.{near}")
    elif (unknown := _unknown_key(schema, key)) is not None:
        at, known = unknown
        raise ValueError(f"There is no key {key}; {at or command} has {', '.join(known)}.{did_you_mean(_last(key), known)}")


def _unknown_key(schema: type, key: str) -> tuple[str, list[str]] | None:
    """(where the key leaves the schema, what there is instead), or None for a key that may exist."""
    names = key.split(".")
    for count, name in enumerate(names):
        _, kind = _type_at(schema, ".".join(names[:count])) if count else (False, schema)
        if not is_dataclass(kind):
            return None
        known = [one.name for one in fields(kind)]
        if name not in known:
            return ".".join(names[:count]), known if count else [*known, *MACROS]
    return None


def _last(key: str) -> str:
    return key.rpartition(".")[2]


_NOISE = ("full_key", "object_type", "reference_type", "To append", "Config search path", "provider=", "In '", "See https")
"""Beginnings of lines of Hydra's messages that name its own machinery rather than the mistake."""


def _one_sentence(error: Exception) -> str:
    causes: Iterable[BaseException | None] = (error, error.__cause__)
    lines = [line.strip() for cause in causes if cause is not None for line in str(cause).splitlines()]
    return " ".join(dict.fromkeys(line.removesuffix(".") + "." for line in lines if line and not line.startswith(_NOISE)))
