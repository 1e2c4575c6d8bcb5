"""`edgetam shards stats DIR`: what is in these shards, as a table and a picture."""

from __future__ import annotations

import math
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from tqdm import tqdm

from edgetam_pl.config.choices import Flags
from edgetam_pl.data import sample as schema
from edgetam_pl.data.shards import ShardSet
from edgetam_pl.io import rle
from edgetam_pl.io.atomic import atomic_path
from edgetam_pl.io.errors import BadSampleError

_BLUE = "#4269d0"


@dataclass(frozen=True)
class Stats:
    """Counts of all samples; what needs headers comes from `read` of them, evenly spread."""

    samples: int
    read: int
    broken: int
    frames: NDArray[np.int64]  # frames of each sample that was read
    objects: NDArray[np.int64]  # objects of each
    visible: NDArray[np.float64]  # share of frames on which each object is seen
    areas: NDArray[np.float64]  # share of the frame of each mask
    sizes: Counter[tuple[int, int]]  # (H, W)

    def rows(self) -> list[tuple[str, str]]:
        """Names and values of the table."""
        most = ", ".join(f"{w} x {h} ({count})" for (h, w), count in self.sizes.most_common(3))
        return [
            ("samples", f"{self.samples}" + (f" ({self.read} read)" if self.read < self.samples else "")),
            ("frames a sample", _spread(self.frames)),
            ("objects a sample", _spread(self.objects)),
            ("frames on which an object is seen", _spread(100 * self.visible, "%")),
            ("mask area, share of the frame", _spread(100 * self.areas, "%")),
            ("sizes, W x H", f"{most}{', ...' if len(self.sizes) > 3 else ''}"),
            ("broken headers", str(self.broken)),
        ]


def main(argv: list[str]) -> int:
    """Print the table and write the picture."""
    parser = Flags(
        prog="edgetam shards stats", description="Clips, frames, objects per clip, mask areas and sizes: a table and a PNG."
    )
    parser.add_argument("place", metavar="DIR", help="folder or URL with a manifest.json, or a brace pattern of .tar")
    parser.add_argument("--out", type=Path, default=None, help="picture (default: DIR/stats.png, or ./stats.png for a URL)")
    parser.add_argument("--read", type=int, default=2000, help="headers to read at most, evenly spread (default: 2000)")
    args = parser.parse_args(argv)
    stats = measure(args.place, read=args.read)
    width = max(len(name) for name, _ in stats.rows())
    for name, value in stats.rows():
        print(f"{name:{width}}  {value}")
    out = args.out or (Path(args.place) / "stats.png" if Path(args.place).is_dir() else Path("stats.png"))
    draw(stats, out, title=args.place)
    print(f"picture: {out}")
    return 0


def measure(place: str, *, read: int = 2000) -> Stats:
    """Read headers and sum up.

    Raises:
        ValueError: no shards there, or `read` below 1.
    """
    if read < 1:
        raise ValueError(f"--read {read}: at least one header has to be read.")
    shards = ShardSet(place, name=place)
    ends = np.cumsum(shards.counts)
    chosen = np.unique(np.linspace(0, len(shards) - 1, min(read, len(shards))).astype(int))
    frames, objects, visible, areas = [], [], [], []
    sizes: Counter[tuple[int, int]] = Counter()
    broken = 0
    for number in tqdm(chosen, unit=" samples", desc="stats", file=sys.stderr, disable=len(chosen) < 200):
        shard = int(np.searchsorted(ends, number, side="right"))
        try:
            entry = shards.entry(shard, int(number - (ends[shard - 1] if shard else 0)))
            header = schema.decode_header(shards.read(shard, entry, ["json"])["json"])
            masks = [counts for track in header.masks for counts in track if counts is not None]
            covered = [rle.area(rle.parse(counts, header.size)) / math.prod(header.size) for counts in masks]
        except BadSampleError:
            broken += 1
            continue
        frames.append(header.num_frames)
        objects.append(len(header.objects))
        visible += [sum(counts is not None for counts in track) / len(track) for track in header.masks]
        areas += covered
        sizes[header.size] += 1
    arrays = np.array(frames, np.int64), np.array(objects, np.int64), np.array(visible, float), np.array(areas, float)
    return Stats(len(shards), len(chosen), broken, *arrays, sizes)


def draw(stats: Stats, path: Path, *, title: str) -> None:
    """Histograms, the most common sizes and the table as a PNG, written whole."""
    figure = Figure(figsize=(13, 6.5), layout="constrained")
    axes = figure.subplots(2, 3)
    histograms = [
        (axes[0, 0], stats.frames, "frames a sample", None),
        (axes[0, 1], stats.objects, "objects a sample", None),
        (axes[1, 0], 100 * stats.visible, "frames on which an object is seen, %", np.linspace(0, 100, 21)),
        (axes[1, 1], 100 * stats.areas, "mask area, % of the frame", np.geomspace(0.01, 100, 33)),
    ]
    for axis, values, label, bins in histograms:
        if bins is None:
            top = int(values.max(initial=1))
            bins = np.arange(0.5, top + 1.5) if top <= 70 else np.linspace(0, top, 40)
            axis.set_xlim(0, top + 1)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.hist(values, bins=bins, color=_BLUE)
        axis.set_xlabel(label)
        axis.set_ylabel("count")
    axes[1, 1].set_xscale("log")
    common = stats.sizes.most_common(8)[::-1]
    axes[0, 2].barh([f"{w} x {h}" for (h, w), _ in common], [count for _, count in common], color=_BLUE)
    axes[0, 2].set_xlabel(f"samples of a size, W x H ({len(stats.sizes)} sizes in all)")
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    axes[1, 2].axis("off")
    lines = (f"{name}\n   {value}" for name, value in stats.rows())
    axes[1, 2].text(0, 1, "\n".join(lines), va="top", fontsize=8.5, wrap=True)
    figure.suptitle(title)
    with atomic_path(path) as draft:
        figure.savefig(draft, dpi=110)


def _spread(values: NDArray[np.int64] | NDArray[np.float64], unit: str = "") -> str:
    """Median and range."""
    if not values.size:
        return "none"
    low, middle, high = (f"{value:.3g}" for value in np.percentile(values, [5, 50, 95]))
    return f"median {middle}{unit}, 5 to 95 % of them {low} to {high}{unit}, largest {values.max():.3g}{unit}"
