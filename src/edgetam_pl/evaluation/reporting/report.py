"""The report of an evaluation: rows, what they mean, and the conditions under which they hold. `page` writes it down."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torchmetrics import Metric

from edgetam_pl.evaluation.scoring import ObjectScore
from edgetam_pl.io.atomic import atomic_path, write_json
from edgetam_pl.io.tables import text_table
from edgetam_pl.metrics.clicks import ClickIoU
from edgetam_pl.metrics.groups import SeenUnseen
from edgetam_pl.metrics.jf import JF

FORMAT = 1
"""Of the JSON."""

COLUMNS = ("sequence", "object", "round", "J&F", "J", "F", "frames")
"""Of the table for people; the round is left out where there is one."""


def _jf(row: ObjectScore) -> tuple[float, ...]:
    return row.mean_j / 100, row.mean_f / 100


METRICS: list[tuple[Callable[[], Metric], Callable[[ObjectScore], tuple[Any, ...] | None]]] = [
    (JF, _jf),
    (SeenUnseen, lambda row: (*_jf(row), row.group == "seen") if row.group else None),
]
"""What a report tells of its rows: a metric whose `compute` gives numbers by name, and what its `update` takes of each row,
column by column; None of a row that the metric does not count. The numbers join the headline under their names."""


def _alone() -> bool:
    """All rows of a report are here. Other ranks may not compute it, and would be waited for."""
    return False


_SHOWN_OTHERWISE = {"j", "f", "jf", "g", "j_seen", "j_unseen", "f_seen", "f_unseen"}


@dataclass(frozen=True)
class Sequence:
    """What is known of a sequence beside its rows."""

    name: str
    num_frames: int
    num_objects: int
    seconds: float
    """Wall time of the protocol: reading, tracking, scoring."""
    picture: bytes | None = None
    """JPEG: frame, truth, prediction, error."""
    film: bytes | None = None
    """JPEG: frames over the whole sequence with the prediction drawn in."""


@dataclass(frozen=True)
class Report:
    """Scores of one model under one protocol on one data set. All percentages are 0 ... 100."""

    title: str
    rows: tuple[ObjectScore, ...]
    sequences: tuple[Sequence, ...] = ()
    conditions: Mapping[str, Any] = field(default_factory=dict)
    """What a reader must know to reproduce the numbers; plain values."""

    @cached_property
    def values(self) -> dict[str, float]:
        """What the metrics make of the rows, by the names that they give; nothing of a metric that takes no row."""
        found: dict[str, float] = {}
        for kind, taken in METRICS:
            if columns := list(zip(*(of_row for row in self.rows if (of_row := taken(row)) is not None))):
                metric = kind()
                metric.distributed_available_fn = _alone
                metric.update(*columns)
                found |= {name: float(value) for name, value in metric.compute().items()}
        return found

    @property
    def j(self) -> float:
        """Mean over objects of the mean over frames (and over rounds, where there are several)."""
        return self.values.get("j", math.nan)

    @property
    def f(self) -> float:
        """As `j`; NaN where boundaries are not measured."""
        return self.values.get("f", math.nan)

    @property
    def jf(self) -> float:
        """The mean of both."""
        return self.values.get("jf", math.nan)

    @property
    def score(self) -> float:
        """The number by which models are ranked: G, J&F, or J where boundaries are not measured."""
        if self.g is not None:
            return self.g
        return self.j if math.isnan(self.f) else self.jf

    @property
    def groups(self) -> dict[str, tuple[float, float]]:
        """(J, F) of the seen and the unseen objects, where the data set distinguishes them."""
        names = sorted({row.group for row in self.rows} - {""})
        return {name: (self.values[f"j_{name}"], self.values[f"f_{name}"]) for name in names}

    @property
    def g(self) -> float | None:
        """YouTube-VOS: the mean of J and F of seen and unseen objects; None unless both are there."""
        return self.values["g"] if len(self.groups) == 2 else None

    @property
    def rounds(self) -> tuple[int, ...]:
        return tuple(sorted({row.round for row in self.rows}))

    def of_round(self, number: int) -> Report:
        """The rows of one round alone."""
        return Report(self.title, tuple(r for r in self.rows if r.round == number), self.sequences, self.conditions)

    @cached_property
    def repeated(self) -> Report | None:
        """The same objects with the first mask repeated on every frame, a mean an object; None where it was not measured."""
        rows = [row for row in self.rows if row.repeated is not None]
        if not rows or len(rows) < len(self.rows):
            return None
        means = [(row, *(value / 100 for value in row.repeated or ())) for row in rows]
        held = (replace(row, stems=("",), j=(j,), f=() if math.isnan(f) else (f,)) for row, j, f in means)
        return Report("first mask repeated", tuple(held), conditions=self.conditions)

    @property
    def unanswered(self) -> tuple[int, int]:
        """On how many frames that show an object the last round's answer is empty, and how many these are."""
        counts = [row.unanswered for row in self.rows if row.round == max(self.rounds)]
        return sum(none for none, _ in counts), sum(frames for _, frames in counts)

    @property
    def frames_per_second(self) -> float:
        seconds = sum(item.seconds for item in self.sequences)
        return sum(item.num_frames for item in self.sequences) / seconds if seconds else float("nan")

    def by_object(self) -> dict[tuple[str, str], dict[int, float]]:
        """By sequence and object, the score in each round."""
        found: dict[tuple[str, str], dict[int, float]] = {}
        for row in self.rows:
            found.setdefault((row.sequence, row.object), {})[row.round] = row.score
        return found

    def worst_first(self) -> list[ObjectScore]:
        return sorted(self.rows, key=lambda row: (row.score, row.sequence, row.object, row.round))

    def headline(self) -> dict[str, float]:
        """The numbers of a table's row, by the names people know them by."""
        if self.conditions.get("protocol") == "sa":
            metric = ClickIoU(clicks=len(self.rounds))
            metric.add(np.array([[row.mean_j / 100 for row in self.rows if row.round == k] for k in self.rounds]))
            return {f"mIoU@{k}": float(value) for k, value in zip(self.rounds, metric.compute())}
        more = {name: value for name, value in self.values.items() if name not in _SHOWN_OTHERWISE}
        if self.g is not None:
            pairs = {f"{m}_{name}": pair[i] for i, m in enumerate("JF") for name, pair in self.groups.items()}
            return {"G": self.g, **pairs, **more}
        if math.isnan(self.f):
            return {"J": self.j, **more}
        return {"J&F": self.jf, "J": self.j, "F": self.f, **more}

    def table(self, *, limit: int | None = None) -> str:
        """Rows for people, worst first, then the means."""
        several = len(self.rounds) > 1
        lines = [
            [r.sequence, r.object, str(r.round), _number(r.score), _number(r.mean_j), _number(r.mean_f), str(len(r.j))]
            for r in self.worst_first()[:limit]
        ]
        lines.append(["mean", f"{len(self.rows)} rows", "", _number(self.score), _number(self.j), _number(self.f), ""])
        columns = [line if several else [*line[:2], *line[3:]] for line in [list(COLUMNS), *lines]]
        return text_table(columns[0], columns[1:], words=2 + several)

    def as_json(self) -> dict[str, Any]:
        """Plain values; pictures are left out."""
        return {
            "version": FORMAT,
            "title": self.title,
            "scores": {name: _finite(value) for name, value in self.headline().items()},
            "curve": {str(k): _finite(self.of_round(k).score) for k in self.rounds} if len(self.rounds) > 1 else {},
            "frames_per_second": _finite(self.frames_per_second),
            "conditions": dict(self.conditions),
            "sequences": [
                {k: v for k, v in asdict(item).items() if k not in ("picture", "film")} for item in self.sequences
            ],
            "rows": [_plain(row) for row in self.rows],
        }

    def summary(self) -> dict[str, Any]:
        """The JSON without frames and sequences: what a table needs, small enough to be kept for ever."""
        whole = self.as_json()
        objects = [
            {"sequence": r.sequence, "object": r.object, "round": r.round, "score": round(r.score, 4)} for r in self.rows
        ]
        return {**{k: v for k, v in whole.items() if k not in ("rows", "sequences")}, "objects": objects}

    def write(self, folder: Path) -> None:
        """report.json and pictures, as `read` finds them; files appear whole or not at all, pictures first."""
        for item in self.sequences:
            for kind, content in (("pictures", item.picture), ("films", item.film)):
                if content is not None:
                    with atomic_path(folder / kind / f"{item.name}.jpg") as draft:
                        draft.write_bytes(content)
        write_json(folder / "report.json", self.as_json(), indent=1)

    @classmethod
    def of_json(cls, values: Mapping[str, Any], *, folder: Path | None = None) -> Report:
        """The inverse of `as_json`; pictures are read from the report's `folder` where it has them.

        Raises:
            ValueError: another version, or not a report.
        """
        if values.get("version") != FORMAT or "rows" not in values:
            raise ValueError(f"Not a report of version {FORMAT}: found version {values.get('version')!r}. Evaluate again.")
        return cls(
            title=values["title"],
            rows=tuple(_row(row) for row in values["rows"]),
            sequences=tuple(
                Sequence(**item, picture=_jpeg(folder, "pictures", item["name"]), film=_jpeg(folder, "films", item["name"]))
                for item in values["sequences"]
            ),
            conditions=values["conditions"],
        )

    @classmethod
    def read(cls, path: Path) -> Report:
        """The report in a folder, or in a JSON file.

        Raises:
            ValueError: nothing there, or not a report.
        """
        file = path / "report.json" if path.is_dir() else path
        if not file.is_file():
            raise ValueError(
                f"There is no report at {path}; give a folder that `edgetam evaluate` wrote, or its report.json."
            )
        try:
            values = json.loads(file.read_text())
        except ValueError as error:
            raise ValueError(f"{file} is not JSON ({error}); evaluate again.") from error
        return cls.of_json(values, folder=file.parent)


def _plain(row: ObjectScore) -> dict[str, Any]:
    """A row for JSON: presence as a text of 0 and 1, a digit a frame."""
    bits = {name: "".join("01"[value] for value in getattr(row, name)) for name in ("shown", "answered")}
    repeated = None if row.repeated is None else [_finite(value) for value in row.repeated]
    return asdict(row) | bits | {"repeated": repeated}


def _row(values: Mapping[str, Any]) -> ObjectScore:
    """The inverse of `_plain`; what earlier versions did not write is empty."""
    lists = {name: tuple(values[name]) for name in ("stems", "j", "f")}
    bits = {name: tuple(digit == "1" for digit in values.get(name, "")) for name in ("shown", "answered")}
    j, f = values.get("repeated") or (None, None)
    repeated = None if j is None else (j, math.nan if f is None else f)
    return ObjectScore(**{**values, **lists, **bits, "repeated": repeated})


def _jpeg(folder: Path | None, kind: str, name: str) -> bytes | None:
    path = None if folder is None else folder / kind / f"{name}.jpg"
    return path.read_bytes() if path is not None and path.is_file() else None


def _finite(value: float) -> float | None:
    """JSON knows no NaN."""
    return None if math.isnan(value) else value


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f}"
