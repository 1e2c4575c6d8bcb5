"""`make tables`: results become the tables of experiments/README.md, with the paper's numbers beside ours.

A result is `experiments/results/<slug>/result.json`, as `edgetam evaluate out=experiments/results/<slug>` writes it. A
number of the paper stands beside ours only where both are about the same sequences; otherwise the row says what it is.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgetam_pl.evaluation.reporting.report import write_whole

BEGIN, END = "<!-- tables:begin -->", "<!-- tables:end -->"
INTRODUCTION = """# Experiments

What was measured, with the conditions under which it holds, and what did not work. The tables below are made by
`make tables` from `results/*/result.json`; change the results, not the tables.

"""
_BASE_PLUS, _BASE_PLUS_21 = "sam2_hiera_base_plus", "sam2.1_hiera_base_plus"


@dataclass(frozen=True)
class Published:
    """A number of the paper, and what it is about."""

    table: str
    model: str
    """Our name of the model, or the label of a result."""
    protocol: str
    data: str
    """Kind of data set; empty for the average over `sets` of them."""
    value: float
    metric: str = "J&F"
    num_sequences: int = 0
    """Of the official list; 0 where it is an average over sets."""
    prompt: str = ""
    sets: int = 1
    note: str = ""

    @property
    def what(self) -> str:
        """In words, for a reader of the table."""
        data = self.data if not self.num_sequences else f"{self.data}, {self.num_sequences} sequences"
        return f"mean of {self.sets} sets" if self.sets > 1 else data


def _vos(table: str, model: str, values: Mapping[tuple[str, int], float], *, note: str = "") -> list[Published]:
    """Semi-supervised VOS: values by data set and number of its sequences."""
    return [
        Published(table, model, "vos", data, value, "G" if data == "ytvos19" else "J&F", count, note=note)
        for (data, count), value in values.items()
    ]


MOSE, DAVIS17, SAV_VAL, SAV_TEST, YTVOS = ("mose", 311), ("davis17", 30), ("sav", 155), ("sav", 150), ("ytvos19", 507)
"""Validation sets (and SA-V's test set) with the number of their sequences."""
_THIRD = "one third of the schedule"


def _table1() -> list[Published]:
    numbers = {"sam": (58.1, 81.3), _BASE_PLUS: (61.4, 83.7), _BASE_PLUS_21: (61.9, 83.5), "edgetam": (55.5, 81.7)}
    return [
        Published("Table 1: Segment Anything", model, "sa", "", value, f"mIoU@{clicks}", sets=23, note="SA-23, all")
        for model, pair in numbers.items()
        for clicks, value in zip((1, 5), pair)
    ]


def _table2() -> list[Published]:
    sets = (MOSE, DAVIS17, SAV_VAL, SAV_TEST, YTVOS)
    numbers = {
        _BASE_PLUS: (75.8, 90.9, 73.6, 74.1, 88.4),
        _BASE_PLUS_21: (76.6, 90.2, 76.8, 77.0, 88.6),
        "edgetam": (70.0, 87.7, 72.3, 71.7, 86.2),
    }
    table = "Table 2: semi-supervised VOS"
    return [entry for model, values in numbers.items() for entry in _vos(table, model, dict(zip(sets, values)))]


def _table3() -> list[Published]:
    both = {
        "tab3a_dense": (63.5, 62.1),
        "tab3a_pooled": (61.8, 59.8),
        "tab3a_perceiver": (64.4, 62.5),
        "tab3a_distilled": (65.7, 65.8),
        "tab3b_global": (62.0, 60.6),
        "tab3b_spatial": (63.1, 62.4),
        "tab3d_no_self_attention": (62.6, 62.7),
    }
    table = "Table 3: ablations"
    entries = [
        entry
        for model, (val, test) in both.items()
        for entry in _vos(table, model, {SAV_VAL: val, SAV_TEST: test}, note=_THIRD)
    ]
    for model, value in {"tab3c_1block": 64.3, "tab3c_2blocks": 65.7, "tab3c_4blocks": 65.0}.items():
        entries += _vos(table, model, {SAV_VAL: value}, note=_THIRD)
    return entries


def _table4() -> list[Published]:
    prompts = ("1-click", "3-click", "5-click", "box", "mask")
    numbers = {
        _BASE_PLUS: (64.3, 73.2, 75.4, 72.9, 77.6),
        _BASE_PLUS_21: (64.7, 75.3, 77.6, 74.4, 79.3),
        "edgetam": (54.4, 72.7, 75.5, 71.3, 77.0),
    }
    return [
        Published("Table 4: first-frame prompts", model, "first_frame", "", value, prompt=prompt, sets=17)
        for model, values in numbers.items()
        for prompt, value in zip(prompts, values)
    ]


PUBLISHED: tuple[Published, ...] = (*_table1(), *_table2(), *_table3(), *_table4())


@dataclass(frozen=True)
class Result:
    """One evaluation, as it is kept."""

    slug: str
    scores: Mapping[str, float]
    conditions: Mapping[str, Any]
    curve: Mapping[str, float]

    @property
    def name(self) -> str:
        """The row it belongs to: its label, or else its model."""
        return self.conditions.get("label") or self.conditions.get("model", "unknown")

    @property
    def data(self) -> str:
        said = self.conditions.get("set") or ""
        kind = self.conditions.get("data", "")
        return f"{kind} ({said})" if said and said != kind else kind

    def is_about(self, entry: Published) -> bool:
        """The same model, protocol, prompt and metric; and for a single set, the same sequences."""
        said = self.conditions
        if (self.name, said.get("protocol")) != (entry.model, entry.protocol) or entry.metric not in self.scores:
            return False
        if entry.prompt and said.get("prompt") != entry.prompt:
            return False
        return entry.sets > 1 or (said.get("data"), said.get("num_sequences")) == (entry.data, entry.num_sequences)


def main(argv: list[str] | None = None) -> int:
    """Rebuild the tables."""
    parser = argparse.ArgumentParser(prog="python -m edgetam_pl.commands.tables", description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("experiments/results"))
    parser.add_argument("--readme", type=Path, default=Path("experiments/README.md"))
    args = parser.parse_args(argv)
    results, sweeps = read_results(args.results), read_sweeps(args.results)
    text = args.readme.read_text() if args.readme.is_file() else f"{INTRODUCTION}{BEGIN}\n{END}\n"
    write_whole(args.readme, with_tables(text, tables(results) + studies(sweeps)).encode())
    print(f"{args.readme}: {len(results)} results, {len(sweeps)} sweeps, {len(PUBLISHED)} published numbers")
    return 0


def read_results(folder: Path) -> list[Result]:
    """All results below a folder, by slug.

    Raises:
        ValueError: a result that is none; the file is named.
    """
    results = []
    for path in sorted(folder.glob("*/result.json")):
        try:
            said = json.loads(path.read_text())
            if "conditions" not in said:
                continue  # of something else, for example a benchmark
            scores = {name: value for name, value in said["scores"].items() if value is not None}
            results.append(Result(path.parent.name, scores, said["conditions"], said.get("curve", {})))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not a result of `edgetam evaluate` ({error!r}).") from error
    return results


def read_sweeps(folder: Path) -> dict[str, dict[str, Any]]:
    """Kept sweeps (`edgetam sweep-report DIR --keep FOLDER`) by slug."""
    found = {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob("*/result.json"))}
    return {slug: said for slug, said in found.items() if "sweep" in said}


def studies(sweeps: Mapping[str, Mapping[str, Any]]) -> str:
    """A table for each kept sweep: mean and spread over seeds by configuration."""
    parts = []
    for slug, said in sweeps.items():
        parts.append(
            f"\n## Sweep: {said['sweep']}\n\nConditions, plots and what it means: [{slug}](results/{slug}/notes.md).\n"
        )
        parts.append(_markdown(said["head"], said["rows"]))
    return "\n".join(parts)


def with_tables(text: str, made: str) -> str:
    """The README with its tables replaced.

    Raises:
        ValueError: the marks between which tables stand are missing.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(END) < text.index(BEGIN):
        raise ValueError(f"The README must hold {BEGIN} and {END}, once each and in this order; tables stand between them.")
    head, tail = text[: text.index(BEGIN)], text[text.index(END) :]
    return f"{head}{BEGIN}\n\n{made}\n{tail}"


def tables(results: list[Result]) -> str:
    """All tables, as Markdown."""
    parts = []
    for title in dict.fromkeys(entry.table for entry in PUBLISHED):
        parts.append(f"## {title}\n")
        rows = [_published_row(entry, results) for entry in PUBLISHED if entry.table == title]
        parts.append(_markdown(("model", "metric", "on", "paper", "ours", "conditions of ours"), rows))
    curves = [result for result in results if result.curve and str(result.conditions.get("protocol", "")).startswith("pvs")]
    if curves:
        parts.append("## Figure 5: promptable video segmentation\n")
        parts.append("J&F after so many prompted frames. The paper gives curves, no numbers.\n")
        rounds = sorted({int(number) for result in curves for number in result.curve})
        rows = [
            (
                r.name,
                str(r.conditions["protocol"]),
                r.data,
                *(_figure(r.curve.get(str(n))) for n in rounds),
                _figure(r.scores.get("J&F")),
                _said(r),
            )
            for r in curves
        ]
        parts.append(_markdown(("model", "protocol", "on", *map(str, rounds), "mean", "conditions"), rows))
    parts.append("## All results\n")
    if results:
        rows = [(_linked(r), r.name, str(r.conditions.get("protocol", "")), r.data, _scores(r), _said(r)) for r in results]
        parts.append(_markdown(("result", "model", "protocol", "on", "scores", "conditions"), rows))
    else:
        parts.append("None yet.\n")
    return "\n".join(parts)


def _published_row(entry: Published, results: list[Result]) -> tuple[str, ...]:
    mine = [result for result in results if result.is_about(entry)]
    sets = {result.data: result for result in mine}
    paper = f"{entry.value:.1f}" + (f" ({entry.note})" if entry.note else "")
    metric = f"{entry.metric}, {entry.prompt}" if entry.prompt else entry.metric
    if not sets:
        return entry.model, metric, entry.what, paper, "not run", ""
    ours = sum(result.scores[entry.metric] for result in sets.values()) / len(sets)
    if entry.sets > 1 and len(sets) != entry.sets:
        return (
            entry.model,
            metric,
            entry.what,
            paper,
            f"{ours:.1f}, mean of {len(sets)} sets, not comparable",
            _said(mine[0]),
        )
    return entry.model, metric, entry.what, paper, f"**{ours:.1f}** ({ours - entry.value:+.1f})", _said(mine[-1])


def _said(result: Result) -> str:
    """The conditions without which the number says nothing."""
    said = result.conditions
    parts = [
        f"{said.get('resolution')} px",
        str(said.get("prompts")),
        str(said.get("frame_rule")),
        f"{said.get('num_sequences')} sequences, {said.get('num_objects')} objects",
        f"list {said.get('list_hash')}",
        f"data {said.get('data_hash')}",
        f"weights {said.get('weights_hash')}",
        str(said.get("precision")),
        str(said.get("date")),
    ]
    return "; ".join(part for part in parts if part not in ("None", ""))


def _scores(result: Result) -> str:
    return ", ".join(f"{name} {value:.1f}" for name, value in result.scores.items())


def _linked(result: Result) -> str:
    return f"[{result.slug}](results/{result.slug})"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    names = list(head)
    lines = [names, ["---"] * len(names), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    raise SystemExit(main())
