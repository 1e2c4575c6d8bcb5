"""What a run is: the settings that decide what it learns. They stay the same from its first start to its last.

Every key of the configuration counts, a new one too, unless it is listed here as one that may change: where a run is
computed, what it logs, how it saves memory. Files count by their contents, so data and weights may move.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from edgetam_pl.config import DataSource, TrainConfig
from edgetam_pl.data.shards import ShardSet
from edgetam_pl.io.hashing import sha256_of
from edgetam_pl.training.check import accumulation, ranks

MAY_CHANGE = (
    "out", "dry_run", "accept_changes", "export_on_end", "logger", "launcher", "validation", "checkpoint_every",
    "keep_checkpoints", "activation_checkpointing", "recompute", "object_chunk", "encoder_chunk", "data.workers",
    "data.max_skips", "data.read_timeout", "data.read_ahead", "data.cache", "data.cache_gb", "teacher_cache_only",
)  # fmt: skip
"""Keys, and groups of keys, that change no value of a training."""

TRAINER_MAY_CHANGE = (
    "accelerator", "devices", "num_nodes", "strategy", "benchmark", "deterministic", "default_root_dir", "logger",
    "profiler", "log_every_n_steps", "enable_progress_bar", "enable_model_summary", "enable_checkpointing",
    "use_distributed_sampler", "max_time",
)  # fmt: skip
"""Arguments of lightning.Trainer that say where it runs and what it shows. Ranks count through total_batch."""

BEGINNING = ("weights", "load_parts", "trunk_weights")
"""Where a run began: nothing that could still be changed."""

MODEL_MAY_CHANGE = ("model.name", "model.dropout", "model.drop_path")
"""Of a model that is being trained, on demand; everything else makes another model."""

NOTES = {
    "teacher_weights": "what the run is taught by",
    "second_teacher_weights": "what the run is taught by, too",
    "total_batch": "clips of an optimiser step: batch x ranks x accumulate",
}
"""Said beside a key, or beside keys that end like this."""

PRECISIONS = {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed", "64": "64-true"}
"""Lightning's short names."""

CONTENTS = "sha256:"


@dataclass(frozen=True)
class Change:
    """A setting that is not what it was; None: there is none."""

    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        note = NOTES.get(self.key) or NOTES.get(self.key.rpartition(".")[2])
        return f"{self.key}{f' ({note})' if note else ''}: {_shown(self.before)} there, {_shown(self.now)} now"


@dataclass(frozen=True)
class Identity:
    """The settings of a run that must not change, by dotted key; plain values, so that JSON and checkpoints hold them."""

    settings: Mapping[str, Any]

    @classmethod
    def of(cls, cfg: TrainConfig) -> Identity:
        """Of a configuration that `check` has passed. Files and manifests of shards are read.

        Raises:
            ValueError: shards that cannot be read.
            OSError: weights that cannot be read.
        """
        raw = asdict(cfg)
        raw["trainer"] = {key: value for key, value in raw["trainer"].items() if key not in TRAINER_MAY_CHANGE}
        precision = str(raw["trainer"].get("precision") or "32-true")
        raw["trainer"]["precision"] = PRECISIONS.get(precision, precision)
        for number, phase in enumerate(raw["stage"]["phases"]):
            del phase["accumulate"]
            phase["total_batch"] = phase["batch"] * ranks(cfg) * accumulation(cfg, number)
        for source, kept in zip(cfg.data.sources, raw["data"]["sources"], strict=True):
            kept["shards"] = shards_digest(source)
        for key in ("weights", "trunk_weights", "teacher_weights", "second_teacher_weights"):
            raw[key] = None if raw[key] is None else CONTENTS + sha256_of(Path(raw[key]))
        rounds = raw.pop("teacher_cache_precision") == "fp16"
        raw["teacher_cache"] = bool(raw["teacher_cache"]) and rounds  # wherever it is
        raw["teacher"] = raw["teacher"] or {"name": None}
        raw["second_teacher"] = raw["second_teacher"] or {"name": None}
        return cls({key: value for key, value in _flat(_plain(raw)) if not _may_change(key)})

    def changes_since(self, before: Identity) -> list[Change]:
        """What is not as it was, in the order of the configuration. A key that was unknown then and has its default now is
        one that a later version of the code has added: no change."""
        groups = {key.rpartition(".")[0] for key in before.settings}
        found = []
        for key in dict.fromkeys([*self.settings, *before.settings]):
            then, now = before.settings.get(key), self.settings.get(key)
            if key not in before.settings and key.rpartition(".")[0] in groups:
                then = _defaults().get(re.sub(r"\[\d+\]", "[0]", key))
            if then != now or key not in self.settings:
                found.append(Change(key, then, now))
        return found


def in_words(changes: Iterable[Change]) -> str:
    """A line each. Another model, or another teacher, is one line and not one of each of its sizes."""
    listed = list(changes)
    named = {change.key for change in listed}
    others = [f"{part}." for part in ("model", "teacher", "second_teacher") if f"{part}.name" in named]
    return "\n".join(
        f"  {change}" for change in listed if change.key.endswith(".name") or not change.key.startswith(tuple(others))
    )


def shards_digest(source: DataSource) -> str:
    """Of the contents of a source's shards, wherever they lie: names, numbers of samples, sizes and hashes.

    Raises:
        ValueError: no shards, or none that can be read.
    """
    records = ShardSet(source.shards, name=source.name).records
    lines = [[Path(record.name).name, record.samples, record.bytes, record.sha256] for record in records]
    return CONTENTS + hashlib.sha256(json.dumps(lines).encode()).hexdigest()


def _may_change(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in MAY_CHANGE)


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values; lists of mappings are counted through, other lists are values."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        for number, inner in enumerate(value):
            yield from _flat(inner, f"{key}[{number}]")
    else:
        yield key, value


def _plain(value: Any) -> Any:
    """As JSON gives it back, so that what was kept compares equal."""
    return json.loads(json.dumps(value, default=str))


@cache
def _defaults() -> Mapping[str, Any]:
    raw = dict(_flat(_plain(asdict(TrainConfig()))))
    models = [(key, value) for key, value in raw.items() if key.startswith("model.")]
    named = {key.replace("model.", f"{one}.", 1): value for one in ("teacher", "second_teacher") for key, value in models}
    return raw | named | {"second_teacher.name": None}


def _shown(value: Any) -> str:
    if isinstance(value, str) and value.startswith(CONTENTS):
        return f"contents {value.removeprefix(CONTENTS)[:12]}"
    return "none" if value is None else str(value)
