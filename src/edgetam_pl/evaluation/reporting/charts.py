"""Line charts as inline SVG: they need no script, no network, and stay sharp when printed."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

COLOURS = ("#d83a3a", "#2b8fd6", "#3fa34d", "#d98e04", "#9a4fd0", "#0e9e95", "#d6539f", "#85752c")
"""The colours of objects, as in the pictures."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 38, 12, 12, 34


@dataclass(frozen=True)
class Line:
    """One line of a chart. A gap where y is NaN."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str = COLOURS[1]


def chart(
    lines: Sequence[Line],
    *,
    x_title: str,
    y_title: str,
    width: int = 460,
    height: int = 200,
    y_range: tuple[float, float] | None = None,
    markers: bool = False,
) -> str:
    """An SVG of lines over x. With several lines, a legend below says which is which."""
    points = [(x, y) for line in lines for x, y in zip(line.x, line.y) if not math.isnan(y)]
    if not points:
        return ""
    x0, x1 = min(x for x, _ in points), max(x for x, _ in points)
    y0, y1 = y_range or _padded(min(y for _, y in points), max(y for _, y in points))
    x1 = x1 if x1 > x0 else x0 + 1
    inner_width, inner_height = width - _LEFT - _RIGHT, height - _TOP - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return _LEFT + (x - x0) / (x1 - x0) * inner_width, _TOP + (y1 - y) / (y1 - y0) * inner_height

    label = html.escape(f"{y_title}, over {x_title}")
    parts = [f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">']
    for value in _ticks(y0, y1):
        _, y = place(x0, value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{value:g}</text>')
    for value in _ticks(x0, x1, whole=all(float(x).is_integer() for x, _ in points)):
        x, _ = place(value, y0)
        parts.append(f'<text class="tick" x="{x:.1f}" y="{height - _BOTTOM + 14}" text-anchor="middle">{value:g}</text>')
    middle = _LEFT + inner_width / 2
    parts.append(f'<text class="axis" x="{middle:.0f}" y="{height - 4}" text-anchor="middle">{html.escape(x_title)}</text>')
    for line in lines:
        for segment in _segments(line):
            placed = [place(x, min(max(y, y0), y1)) for x, y in segment]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{line.colour}" stroke-width="1.8"/>')
            if markers or len(segment) == 1:
                for (px, py), (x, y) in zip(placed, segment):
                    said = f"<title>{html.escape(line.name)} {x:g}: {y:.1f}</title>"
                    parts.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="2.8" fill="{line.colour}">{said}</circle>')
    parts.append("</svg>")
    if len(lines) > 1:
        keys = "".join(f'<span><i style="background:{line.colour}"></i>{html.escape(line.name)}</span>' for line in lines)
        parts.append(f'<div class="legend">{keys}</div>')
    caption = f"<figcaption>{html.escape(y_title)}</figcaption>"
    return f'<figure class="chartbox" style="width:{width}px">{caption}{"".join(parts)}</figure>'


def _segments(line: Line) -> list[list[tuple[float, float]]]:
    """Runs of points without a gap."""
    segments: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(line.x, line.y):
        if math.isnan(y):
            segments.append([])
        else:
            segments[-1].append((x, y))
    return [segment for segment in segments if segment]


def _ticks(low: float, high: float, *, whole: bool = False, about: int = 5) -> list[float]:
    """Round values within low ... high."""
    raw = (high - low) / about
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    if whole:
        step = max(step, 1)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


def _padded(low: float, high: float) -> tuple[float, float]:
    room = max((high - low) * 0.08, (4 - (high - low)) / 2)  # a difference of a hundredth is no cliff
    return low - room, high + room
