"""Line charts as SVG images that are part of a page: no script, no network, and sharp when printed."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from edgetam_pl.io.overlay import COLOURS

if TYPE_CHECKING:  # matplotlib takes half a second, which commands spend where they draw
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GRID = "#7b8794", "#7b879455"
"""Greys that can be read on white and on black."""
LANE = 13
"""Height of a lane in CSS pixels."""


class Line(NamedTuple):
    """One line of a chart. A gap where y is NaN."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str = COLOURS[1]


class Lane(NamedTuple):
    """Where something is there, under a chart: a grey bar in truth, a coloured one in the answer, over x = 0, 1, 2, ..."""

    colour: str
    shown: Sequence[bool]
    answered: Sequence[bool]


class Chart(NamedTuple):
    """A drawn chart, for the macro `chart` of the templates."""

    title: str
    source: str
    """The SVG as a data URI."""
    width: int
    """In CSS pixels."""
    lines: Sequence[Line]
    """For the legend, which the page writes."""


def chart(
    lines: Sequence[Line],
    *,
    x_title: str,
    y_title: str,
    width: int = 460,
    height: int = 200,
    y_range: tuple[float, float] | None = None,
    markers: bool = False,
    logarithmic: bool = False,
    least_room: float = 2,
    lanes: Sequence[Lane] = (),
) -> Chart | None:
    """Lines over x; None where there is no point. With `markers`, points carry their values; `logarithmic` leaves out what
    is not above 0. There is room for a difference of twice `least_room` at least; `lanes` make the chart higher."""
    known = [(x, y) for line in lines for x, y in zip(line.x, line.y) if not np.isnan(y) and (y > 0 or not logarithmic)]
    if not known:
        return None
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    below = LANE * len(lanes)
    figure = Figure(figsize=(width / 72, (height + below) / 72), layout="constrained")
    if lanes:
        axes, presence = figure.subplots(2, sharex=True, height_ratios=(height, below))
        _draw_lanes(presence, lanes)
    else:
        axes = presence = figure.add_subplot()
    for line in lines:
        isolated = markers or np.count_nonzero(~np.isnan(line.y)) == 1
        axes.plot(line.x, line.y, color=line.colour, linewidth=1.8, marker="o" if isolated else "", markersize=5)
        if markers:
            for x, y in zip(line.x, line.y):
                axes.annotate(f"{y:.1f}", (x, y), (0, 5), textcoords="offset points", ha="center", fontsize=9, color=INK)
    low, high = min(y for _, y in known), max(y for _, y in known)
    room = max(0.12 * (high - low), min((4 - (high - low)) / 2, least_room))  # a difference of a hundredth is no cliff
    room = room or 0.1 * abs(high) or 1  # a constant has no difference at all
    if logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        if 10 * low <= high < 100 * low:  # one or two whole powers of ten are too few to read a value by
            axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axes.yaxis.set_minor_formatter("{x:.2g}" if high < 100 * low else NullFormatter())
    else:
        axes.set_ylim(*(y_range or (low - room, high + room)))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=all(float(x).is_integer() for x, _ in known)))
    presence.set_xlabel(x_title)
    plain(axes)
    return Chart(y_title, svg(figure), width, lines)


def _draw_lanes(axes: Axes, lanes: Sequence[Lane]) -> None:
    """A lane an object, the first on top; they share x with the chart above."""
    plain(axes)
    for row, lane in enumerate(lanes):
        axes.broken_barh(_runs(lane.shown), (row + 0.12, 0.22), color=INK)
        axes.broken_barh(_runs(lane.answered), (row + 0.42, 0.4), color=lane.colour)
    axes.set_ylim(len(lanes), 0)
    axes.set_yticks([])


def _runs(there: Sequence[bool]) -> list[tuple[float, float]]:
    """(start, length) of each stretch, a place being as wide as 1 around its number.

    >>> _runs([True, True, False, True])
    [(-0.5, 2.0), (2.5, 1.0)]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(there, np.int8), [0]])))
    return [(float(start) - 0.5, float(end - start)) for start, end in edges.reshape(-1, 2)]


def plain(axes: Axes) -> None:
    """The look of every chart: a grid, no box, grey words."""
    for side in axes.spines.values():
        side.set_visible(False)
    axes.grid(color=GRID, linewidth=0.8)
    axes.tick_params(which="both", length=0, colors=INK, labelsize=10)
    for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
        text.set_color(INK)
        text.set_fontsize(11)


def svg(figure: Figure) -> str:
    """The figure as a data URI for the `src` of an image: words stay words, the ground is transparent, equal figures give
    equal bytes."""
    from matplotlib import rc_context

    content = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "edgetam", "font.family": ["sans-serif"]}):
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(content.getvalue()).decode()}"
