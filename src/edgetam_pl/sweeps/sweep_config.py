"""A sweep file in W&B's format, read without W&B: what is varied, how, and the command of one trial.

The same file serves `wandb sweep` and `edgetam sweep`, so everything that only this project knows is in its command:
[edgetam, trial, trial.format=1, WORDS ..., "${args_no_hyphens}"].
Documentation: docs/sweeps.md.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from yaml import YAMLError

from edgetam_pl.io import resources
from edgetam_pl.sweeps.trial import FORMAT

ARGUMENTS = "${args_no_hyphens}"
"""W&B's macro for the parameters of a trial as key=value words."""

METHODS = ("grid", "random", "bayes")
_KEYS = {
    "name", "description", "project", "entity", "program", "method", "metric", "parameters", "command", "early_terminate",
    "run_cap",
}  # fmt: skip
_FORMS = ({"value"}, {"values"}, {"min", "max"})


class Choice(NamedTuple):
    """Values of a parameter that are listed."""

    values: tuple[Any, ...]


class Range(NamedTuple):
    """Numbers of a parameter between two ends, both included."""

    low: float
    high: float
    whole: bool
    log: bool

    @property
    def values(self) -> tuple[Any, ...]:
        """The ends, which show whether all in between are legal."""
        return self.low, self.high


Space = Choice | Range
"""The values of one parameter."""


def distribution(key: str, given: object) -> Space:
    """One entry of `parameters`: value or values become a choice, min and max a range.

    Raises:
        ValueError: none of these, no values, an empty range, or a distribution that is not supported.
    """
    if not isinstance(given, dict) or (given.keys() - {"distribution"}) not in _FORMS:
        raise ValueError(f"parameters.{key} is {given!r}; give value, or values, or min and max.")
    if "min" not in given:
        values = [given["value"]] if "value" in given else given["values"]
        if not isinstance(values, list | tuple) or not values or None in values:
            raise ValueError(f"parameters.{key}.values is {values!r}; give a list of values (for none, the text 'null').")
        # lists and mappings become the text that the command line would hold anyway
        return Choice(tuple(v if isinstance(v, bool | int | float | str) else str(v) for v in values))
    low, high = given["min"], given["max"]
    if not all(isinstance(end, int | float) for end in (low, high)) or not low < high:
        raise ValueError(f"parameters.{key} runs from {low!r} to {high!r}; min must be a number below max.")
    whole = isinstance(low, int) and isinstance(high, int)
    kind = given.get("distribution", "int_uniform" if whole else "uniform")
    if kind not in ("int_uniform", "uniform", "log_uniform_values"):
        raise ValueError(f"parameters.{key}.distribution is {kind!r}; use int_uniform, uniform or log_uniform_values.")
    return Range(low, high, whole=kind == "int_uniform", log=kind == "log_uniform_values")


@dataclass(frozen=True)
class StopRule:
    """W&B's hyperband: at each band only the best 1/eta of all trials that came so far go on."""

    bands: tuple[int, ...]
    """Numbers of validations."""
    eta: float

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> StopRule:
        unknown = given.keys() - {"type", "min_iter", "max_iter", "s", "eta"}
        if given.get("type") != "hyperband" or unknown:
            raise ValueError(
                f"early_terminate is {dict(given)}; use type: hyperband with min_iter, or with max_iter and s; eta."
            )
        eta = given.get("eta", 3)
        if "min_iter" in given:
            bands = [given["min_iter"] * eta**power for power in range(20)]
        elif "max_iter" in given and "s" in given:
            bands = [given["max_iter"] / eta**power for power in range(given["s"], 0, -1)]
        else:
            raise ValueError("early_terminate needs min_iter, or max_iter and s: numbers of validations.")
        return cls(tuple(sorted({max(int(band), 1) for band in bands})), eta)


@dataclass(frozen=True)
class Point:
    """One place in the space, and the words of its trial."""

    values: Mapping[str, Any] = field(hash=False)
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        """A folder's name that people can read, and that no other words share."""
        text = "_".join(f"{key.rpartition('.')[2]}-{value}" for key, value in self.values.items())
        readable = re.sub(r"[^\w.\-]+", "-", text)[:80].strip("-")
        return f"{readable}-{hashlib.sha1(repr(self.words).encode()).hexdigest()[:6]}"


@dataclass(frozen=True)
class Sweep:
    """A sweep file, understood."""

    name: str
    method: str
    metric: str
    maximize: bool
    space: Mapping[str, Space]
    """What is varied, by key."""
    words: tuple[str, ...]
    """Of the command, behind `trial`; the macro for parameters among them."""
    stop: StopRule | None
    cap: int | None
    """Trials at most."""
    raw: Mapping[str, Any]
    """As the file has it, for W&B."""

    @property
    def size(self) -> int:
        """Points of the space; 0 where a range makes them countless."""
        return math.prod(len(space.values) if isinstance(space, Choice) else 0 for space in self.space.values())

    def point(self, values: Mapping[str, Any]) -> Point:
        """The words of a trial, as W&B's agent would make them."""
        given = tuple(f"{key}={value}" for key, value in values.items())
        return Point(values, tuple(out for word in self.words for out in (given if word == ARGUMENTS else (word,))))

    def grid(self) -> Iterator[Point]:
        """Every point, the last parameter varying fastest; of a range, its ends alone."""
        for values in itertools.product(*(space.values for space in self.space.values())):
            yield self.point(dict(zip(self.space, values)))

    def validation_points(self, limit: int = 256) -> Iterator[Point]:
        """Points that show whether the whole space is legal: all, or each value with the first of all others."""
        choices = {key: space.values for key, space in self.space.items()}
        if math.prod(map(len, choices.values())) <= limit:
            yield from self.grid()
            return
        first = {key: values[0] for key, values in choices.items()}
        for key, values in choices.items():
            yield from (self.point(first | {key: value}) for value in values)


def read_sweep(path: Path, extra: list[str] | None = None) -> Sweep:
    """The sweep in a file, with more words for every trial.

    Raises:
        ValueError: no such file, unknown keys, or a command that is not that of a trial of this version.
    """
    path = _found(path)
    given = _mapping(path)
    unknown = sorted(given.keys() - _KEYS)
    if unknown:
        raise ValueError(f"{path} has unknown keys: {', '.join(unknown)}; W&B knows {', '.join(sorted(_KEYS))}.")
    method = given.get("method")
    if method not in METHODS:
        raise ValueError(f"{path}: method is {method!r}; use one of {', '.join(METHODS)}.")
    space = {str(key): distribution(str(key), value) for key, value in (given.get("parameters") or {}).items()}
    if not space:
        raise ValueError(f"{path} varies nothing; list parameters.")
    if method == "grid" and not all(isinstance(values, Choice) for values in space.values()):
        raise ValueError(f"{path}: a grid needs listed values; use method: random or bayes for ranges.")
    cap = given.get("run_cap")
    if method != "grid" and not (isinstance(cap, int) and cap > 0):
        raise ValueError(f"{path}: method {method} needs run_cap, the number of trials after which to stop.")
    metric = given.get("metric") or {}
    if not metric.get("name") or metric.get("goal", "maximize") not in ("maximize", "minimize"):
        raise ValueError(f"{path}: metric is {metric}; give name (trial/jf) and goal (maximize or minimize).")
    words = _words(path, given.get("command"))
    at = words.index(ARGUMENTS)
    words = [*words[:at], *(extra or []), *words[at:]]
    head = given["command"][: given["command"].index("trial") + 1]
    return Sweep(
        name=str(given.get("name") or path.stem),
        method=method,
        metric=metric["name"],
        maximize=metric.get("goal", "maximize") == "maximize",
        space=space,
        words=tuple(words),
        stop=StopRule.read(given["early_terminate"]) if given.get("early_terminate") else None,
        cap=cap,
        raw=given | {"command": [*head, *words]},
    )


def _words(path: Path, command: object) -> list[str]:
    cure = f"Use command: [edgetam, trial, trial.format={FORMAT}, WORDS ..., '{ARGUMENTS}']."
    if not isinstance(command, list) or "trial" not in command or command.count(ARGUMENTS) != 1:
        raise ValueError(f"{path}: command is {command!r}, not that of a trial. {cure}")
    words = [str(word) for word in command[command.index("trial") + 1 :]]
    versions = [word.partition("=")[2] for word in words if word.startswith("trial.format=")]
    if versions != [str(FORMAT)]:
        given = f"is for version {versions[0]}" if versions else "does not say for which version it is"
        raise ValueError(f"{path} {given}; this is version {FORMAT} of sweep files. {cure}")
    return words


def _found(path: Path) -> Path:
    """The file, or, where there is none and its path is one of ours, the one that comes with the package."""
    below = Path(*path.parts[1:]) if path.parts[:1] == (resources.EXPERIMENTS,) else path
    packaged = resources.find(resources.EXPERIMENTS, str(below)) if not path.is_absolute() else None
    return path if path.is_file() or packaged is None else packaged


def _mapping(path: Path) -> dict[str, Any]:
    if not path.is_file():
        known = sorted(str(found) for found in path.parent.glob("*.yaml"))
        raise ValueError(f"There is no sweep file {path}; files there: {', '.join(known) or 'none'}.")
    try:
        given = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (YAMLError, OSError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(given, dict):
        raise ValueError(f"{path} should be a mapping, as W&B describes sweeps.")
    return {str(key): value for key, value in given.items()}
