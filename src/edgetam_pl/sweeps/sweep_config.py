"""A sweep file in W&B's format, read without W&B: what is varied, how, and the command of one trial.

The same file serves `wandb sweep` and `edgetam sweep`, so everything that only this project knows is in its command:
[edgetam, trial, trial.format=1, WORDS ..., "${args_no_hyphens}"]. Docs: docs/sweeps.md.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from yaml import YAMLError

FORMAT = 1
"""Version of sweep files that this code reads: trial.format=1."""

ARGUMENTS = "${args_no_hyphens}"
"""W&B's macro for the parameters of a trial as key=value words."""

METHODS = ("grid", "random", "bayes")
_KEYS = {
    "name", "description", "project", "entity", "program", "method", "metric", "parameters", "command", "early_terminate",
    "run_cap",
}  # fmt: skip
_FORMS = ({"value"}, {"values"}, {"min", "max"})
_DISTRIBUTIONS = ("int_uniform", "uniform", "log_uniform_values")


@dataclass(frozen=True)
class Parameter:
    """One key that is varied: over listed values, or over a range."""

    key: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    distribution: str = ""
    """Of a range: int_uniform | uniform | log_uniform_values; empty where values are listed."""

    @classmethod
    def read(cls, key: str, said: object) -> Parameter:
        if not isinstance(said, dict) or (said.keys() - {"distribution"}) not in _FORMS:
            raise ValueError(f"parameters.{key} is {said!r}; give value, or values, or min and max.")
        if "value" in said or "values" in said:
            values = (said["value"],) if "value" in said else said["values"]
            if not isinstance(values, list | tuple) or not values or None in values:
                raise ValueError(
                    f"parameters.{key}.values is {values!r}; give a list of values (for none, the text 'null')."
                )
            return cls(key, tuple(values))
        low, high = said["min"], said["max"]
        if not all(isinstance(end, int | float) for end in (low, high)) or not low < high:
            raise ValueError(f"parameters.{key} runs from {low!r} to {high!r}; min must be a number below max.")
        whole = isinstance(low, int) and isinstance(high, int)
        kind = said.get("distribution", "int_uniform" if whole else "uniform")
        if kind not in _DISTRIBUTIONS:
            raise ValueError(f"parameters.{key}.distribution is {kind!r}; use one of {', '.join(_DISTRIBUTIONS)}.")
        return cls(key, (), low, high, kind)

    @property
    def telling(self) -> tuple[Any, ...]:
        """Values that show whether all are legal: every listed one, or both ends of a range."""
        ends = (int(self.low), int(self.high)) if self.distribution == "int_uniform" else (self.low, self.high)
        return self.values or ends

    def draw(self, rng: random.Random) -> Any:
        """A value at random."""
        if self.values:
            return rng.choice(self.values)
        if self.distribution == "int_uniform":
            return rng.randint(int(self.low), int(self.high))
        if self.distribution == "uniform":
            return rng.uniform(self.low, self.high)
        return math.exp(rng.uniform(math.log(self.low), math.log(self.high)))


@dataclass(frozen=True)
class StopRule:
    """W&B's hyperband: at each band only the best 1/eta of all trials that came so far go on."""

    bands: tuple[int, ...]
    """Numbers of validations."""
    eta: float

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> StopRule:
        unknown = said.keys() - {"type", "min_iter", "max_iter", "s", "eta"}
        if said.get("type") != "hyperband" or unknown:
            raise ValueError(
                f"early_terminate is {dict(said)}; use type: hyperband with min_iter, or with max_iter and s; eta."
            )
        eta = said.get("eta", 3)
        if "min_iter" in said:
            bands = [said["min_iter"] * eta**power for power in range(20)]
        elif "max_iter" in said and "s" in said:
            bands = [said["max_iter"] / eta**power for power in range(said["s"], 0, -1)]
        else:
            raise ValueError("early_terminate needs min_iter, or max_iter and s: numbers of validations.")
        return cls(tuple(sorted({max(int(band), 1) for band in bands})), eta)


@dataclass(frozen=True)
class Point:
    """One place in the space, and the words of its trial."""

    values: Mapping[str, Any]
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        """A folder's name that people can read, and that no other words share."""
        said = "_".join(f"{key.rpartition('.')[2]}-{value}" for key, value in self.values.items())
        readable = re.sub(r"[^\w.\-]+", "-", said)[:80].strip("-")
        return f"{readable}-{hashlib.sha1(repr(self.words).encode()).hexdigest()[:6]}"


@dataclass(frozen=True)
class Sweep:
    """A sweep file, understood."""

    name: str
    method: str
    metric: str
    maximize: bool
    parameters: tuple[Parameter, ...]
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
        return math.prod(len(parameter.values) for parameter in self.parameters)

    def point(self, values: Mapping[str, Any]) -> Point:
        """The words of a trial, as W&B's agent would make them."""
        given = tuple(f"{key}={value}" for key, value in values.items())
        return Point(values, tuple(out for word in self.words for out in (given if word == ARGUMENTS else (word,))))

    def grid(self) -> Iterator[Point]:
        """Every point, the last parameter varying fastest."""
        keys = [parameter.key for parameter in self.parameters]
        for values in itertools.product(*(parameter.values for parameter in self.parameters)):
            yield self.point(dict(zip(keys, values)))

    def draws(self, seed: int = 0) -> Iterator[Point]:
        """Points at random without end; the same ones for the same seed."""
        rng = random.Random(seed)
        while True:
            yield self.point({parameter.key: parameter.draw(rng) for parameter in self.parameters})

    def validation_points(self, limit: int = 256) -> Iterator[Point]:
        """Points that show whether the whole space is legal: all, or each value beside the first of all others."""
        choices = {parameter.key: parameter.telling for parameter in self.parameters}
        if math.prod(map(len, choices.values())) <= limit:
            for values in itertools.product(*choices.values()):
                yield self.point(dict(zip(choices, values)))
            return
        first = {key: values[0] for key, values in choices.items()}
        for key, values in choices.items():
            for value in values:
                yield self.point(first | {key: value})


def read_sweep(path: Path, extra: list[str] | None = None) -> Sweep:
    """The sweep in a file, with more words for every trial.

    Raises:
        ValueError: no such file, unknown keys, or a command that is not that of a trial of this version.
    """
    said = _mapping(path)
    unknown = sorted(said.keys() - _KEYS)
    if unknown:
        raise ValueError(f"{path} has unknown keys: {', '.join(unknown)}; W&B knows {', '.join(sorted(_KEYS))}.")
    method = said.get("method")
    if method not in METHODS:
        raise ValueError(f"{path}: method is {method!r}; use one of {', '.join(METHODS)}.")
    parameters = tuple(Parameter.read(str(key), value) for key, value in (said.get("parameters") or {}).items())
    if not parameters:
        raise ValueError(f"{path} varies nothing; list parameters.")
    if method == "grid" and not all(parameter.values for parameter in parameters):
        raise ValueError(f"{path}: a grid needs listed values; use method: random or bayes for ranges.")
    cap = said.get("run_cap")
    if method != "grid" and not (isinstance(cap, int) and cap > 0):
        raise ValueError(f"{path}: method {method} needs run_cap, the number of trials after which to stop.")
    metric = said.get("metric") or {}
    if not metric.get("name") or metric.get("goal", "maximize") not in ("maximize", "minimize"):
        raise ValueError(f"{path}: metric is {metric}; give name (trial/jf) and goal (maximize or minimize).")
    words = _words(path, said.get("command"))
    at = words.index(ARGUMENTS)
    words = [*words[:at], *(extra or []), *words[at:]]
    head = said["command"][: said["command"].index("trial") + 1]
    return Sweep(
        name=str(said.get("name") or path.stem),
        method=method,
        metric=metric["name"],
        maximize=metric.get("goal", "maximize") == "maximize",
        parameters=parameters,
        words=tuple(words),
        stop=StopRule.read(said["early_terminate"]) if said.get("early_terminate") else None,
        cap=cap,
        raw=said | {"command": [*head, *words]},
    )


def _words(path: Path, command: object) -> list[str]:
    cure = f"Use command: [edgetam, trial, trial.format={FORMAT}, WORDS ..., '{ARGUMENTS}']."
    if not isinstance(command, list) or "trial" not in command or command.count(ARGUMENTS) != 1:
        raise ValueError(f"{path}: command is {command!r}, not that of a trial. {cure}")
    words = [str(word) for word in command[command.index("trial") + 1 :]]
    versions = [word.partition("=")[2] for word in words if word.startswith("trial.format=")]
    if versions != [str(FORMAT)]:
        said = f"is for version {versions[0]}" if versions else "does not say for which version it is"
        raise ValueError(f"{path} {said}; this is version {FORMAT} of sweep files. {cure}")
    return words


def _mapping(path: Path) -> dict[str, Any]:
    if not path.is_file():
        known = sorted(str(found) for found in path.parent.glob("*.yaml"))
        raise ValueError(f"There is no sweep file {path}; beside it: {', '.join(known) or 'none'}.")
    try:
        said = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (YAMLError, OSError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(said, dict):
        raise ValueError(f"{path} should be a mapping, as W&B describes sweeps.")
    return {str(key): value for key, value in said.items()}
