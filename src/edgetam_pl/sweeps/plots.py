"""Plots of a sweep, as PNG: score against cost (Fig. 1), latency by verb (Fig. 2), score by allocation (Table 3b), seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edgetam_pl.io.atomic import atomic_path
from edgetam_pl.io.overlay import COLOURS
from edgetam_pl.sweeps.outcomes import COSTS, Configuration, front_cost, pareto
from edgetam_pl.types import VERBS


def draw_all(out: Path, configurations: Sequence[Configuration], *, metric: str, maximize: bool) -> list[str]:
    """Draw what the trials can show; names of the files in `out`."""
    figures = {
        "scores.png": scores(configurations, metric=metric),
        "pareto.png": front(configurations, metric=metric, maximize=maximize),
        "latency.png": latency(configurations),
        "allocation.png": allocation(configurations, metric=metric),
    }
    drawn = {name: figure for name, figure in figures.items() if figure is not None}
    for name, figure in drawn.items():
        with atomic_path(out / name) as draft:
            figure.savefig(draft, dpi=130, bbox_inches="tight")
    return list(drawn)


def scores(configurations: Sequence[Configuration], *, metric: str) -> Figure:
    """Every trial as a dot, the mean of each configuration as a line."""
    figure, axes = _rows(configurations)
    for row, c in enumerate(configurations):
        colour = COLOURS[row % len(COLOURS)]
        axes.plot(c.scores, [row] * len(c.scores), "o", color=colour, alpha=0.65, markersize=7)
        axes.plot([c.mean, c.mean], [row - 0.3, row + 0.3], color=colour, linewidth=2.5)
    axes.set_xlabel(f"{_title(metric)}; dots: seeds, lines: means")
    return figure


def front(configurations: Sequence[Configuration], *, metric: str, maximize: bool) -> Figure | None:
    """Score against cost, with the configurations that no other beats joined by a line (Fig. 1)."""
    name = front_cost(configurations)
    if name is None:
        return None
    figure, axes = _canvas(6.6, 4.4)
    best = pareto(configurations, name, maximize=maximize)
    places = [(c.cost(name) or 0.0, c.mean) for c in best]
    axes.step(*zip(*places), where="post", color="0.6", linewidth=1.4, zorder=1, label="Pareto front")
    for number, c in enumerate(configurations):
        colour = COLOURS[number % len(COLOURS)]
        axes.errorbar(
            c.cost(name) or 0.0, c.mean, yerr=c.spread or None, fmt="o" if c in best else "s", color=colour, capsize=3,
            markerfacecolor=colour if c in best else "white", markersize=7, label=c.label,
        )  # fmt: skip
    axes.set_xlabel(f"{COSTS[name]} (one object, full bank)" if "ms" in name else COSTS[name])
    axes.set_ylabel(_title(metric))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
    return figure


def latency(configurations: Sequence[Configuration]) -> Figure | None:
    """Milliseconds by verb, stacked (Fig. 2); by the processor's clock where that is known."""
    kind = "processor_ms" if all(c.by_verb("processor_ms") for c in configurations) else "latency_ms"
    times = [c.by_verb(kind) for c in configurations]
    if not all(times):
        return None
    figure, axes = _rows(configurations)
    left = np.zeros(len(times))
    for verb, colour in zip(VERBS, COLOURS):
        widths = np.array([found[verb] for found in times])
        axes.barh(range(len(times)), widths, left=left, color=colour, label=verb, height=0.62)
        left += widths
    axes.set_xlabel("processor ms a frame" if kind == "processor_ms" else "ms a frame")
    axes.legend(ncols=4, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    return figure


def allocation(configurations: Sequence[Configuration], *, metric: str) -> Figure | None:
    """A table of scores by global and 2D latents (Table 3b); memories without latents below it."""
    latents = [c for c in configurations if c.model["kind"] == "perceiver"]
    places = {(c.model["global_latents"], c.model["spatial_latents"]) for c in latents}
    if len(places) < 2 or len(places) != len(latents):
        return None  # nothing to compare, or something else varies as well
    rows, columns = sorted({g for g, _ in places}), sorted({s for _, s in places})
    grid = np.full((len(rows), len(columns)), np.nan)
    for c in latents:
        grid[rows.index(c.model["global_latents"]), columns.index(c.model["spatial_latents"])] = c.mean
    figure, axes = _canvas(1.8 + 1.4 * len(columns), 1.6 + 0.9 * len(rows))
    low, high = np.nanmin(grid), np.nanmax(grid)
    axes.imshow(grid, cmap="YlGn", vmin=low - 0.3 * (high - low + 1), vmax=high + 0.9 * (high - low + 1), aspect="auto")
    for c in latents:
        place = columns.index(c.model["spatial_latents"]), rows.index(c.model["global_latents"])
        axes.text(*place, c.summary, ha="center", va="center")
    axes.set_xticks(range(len(columns)), [str(n) for n in columns])
    axes.set_yticks(range(len(rows)), [str(n) for n in rows])
    axes.set_ylabel("global latents")
    others = [f"{_without(c)}: {c.summary}" for c in configurations if c not in latents]
    axes.set_xlabel("\n".join(["2D latents", *others]))
    axes.set_title(_title(metric), fontsize=10)
    return figure


def _without(c: Configuration) -> str:
    return "all memory tokens" if c.model["kind"] == "none" else f"means of {c.model['pool']} x {c.model['pool']} tokens"


def _rows(configurations: Sequence[Configuration]) -> tuple[Figure, Axes]:
    """A row for each configuration, the first one on top."""
    figure, axes = _canvas(7.0, 1.3 + 0.42 * len(configurations))
    axes.set_yticks(range(len(configurations)), [c.label for c in configurations])
    axes.set_ylim(len(configurations) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)
    return figure, axes


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height))
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _title(metric: str) -> str:
    return {"trial/jf": "J&F", "trial/j": "J", "trial/f": "F", "val/jf": "J&F of the last validation"}.get(metric, metric)
