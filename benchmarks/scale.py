"""What reading costs at 8, 64 and 512 ranks: a simulation of SA-1B and of the five-source mixture, and a race over HTTP.

    python benchmarks/scale.py                     # the simulation; minutes, 1 GB of disk, no torch
    python benchmarks/scale.py --http              # 20 ms away: ours, webdataset, mosaicml-streaming (where it is installed)

The simulation writes manifests and binary indices of the sizes that the data sets have (no pictures), opens them with the
reader's own code, and follows workers through the order of samples: which index is read, which ranges are asked for. Beside
it stands the layout before: a JSON index of each shard, the last 96 kept by each worker, 64 shards mixed at a time.

    index hit      samples whose index entry was at hand
    GETs           requests a sample: index, header, frames
    bytes          read over needed (the chosen frames and the header)
    index MB       memory of indices on a machine of 8 ranks x 8 workers
    start          seconds until a process can read its first sample (index on the local disk)
    shards met     in 10,000 draws of all ranks, over what as many uniform draws meet
    again          samples of a machine's second epoch that it had in its first
    r              correlation of a sample's place in two epochs (0: uniform)
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
import time
import tracemalloc
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from edgetam_pl.data import index_file
from edgetam_pl.data.clips import Video
from edgetam_pl.data.index import Entry, Index, Manifest, ShardRecord, stretches
from edgetam_pl.data.index_file import INDEX_FILE, index_writer
from edgetam_pl.data.sample import Header, image_suffix
from edgetam_pl.data.sampling import Order, Schedule, SpreadOrder
from edgetam_pl.data.shards import ShardSet
from edgetam_pl.data.tars import READ_THROUGH, _neighbours

RANKS, WORKERS, FRAMES = 8, 8, 8
LANES, MANY = 512, 2048  # as in data/sources.py, which needs torch
KEPT = 96


@dataclass(frozen=True)
class Kind:
    """A data set by its sizes."""

    name: str
    videos: int
    group: int
    frames: int  # of a video; 1: images
    frame_bytes: float
    header_bytes: float
    weight: float = 1.0


SA1B = Kind("sa1b", 11_000_000, 984, 1, 450e3, 150e3)
MIXTURE = [
    Kind("sav", 50_583, 16, 84, 130e3, 60e3, 58.3),
    Kind("sa1b_tenth", 1_100_000, 984, 1, 450e3, 150e3, 18.3),
    Kind("mose", 1_507, 16, 60, 300e3, 60e3, 11.1),
    Kind("ytvos19", 3_471, 16, 27, 150e3, 40e3, 10.8),
    Kind("davis17", 60, 16, 70, 70e3, 60e3, 1.5),
]


# ------------------------------------------------------------------------------------------------- data sets of that size


def write_set(kind: Kind, folder: Path) -> None:
    """A manifest and a binary index, as `edgetam shards` would write them."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    begins = [0] if kind.frames <= 32 else [*range(0, kind.frames - 32, 16), kind.frames - 32]
    length = min(kind.frames, 32)
    records = []
    shards = -(-kind.videos // kind.group)
    with index_writer(folder / INDEX_FILE, shards=shards) as writer:
        for number in range(shards):
            videos = min(kind.group, kind.videos - number * kind.group)
            samples = np.zeros(videos * len(begins), index_file._SAMPLE)
            samples["frames"], samples["objects"] = length, 3
            samples["member"] = np.arange(len(samples)) * (length + 1)
            samples["position"] = np.tile(begins, videos)
            sizes = rng.lognormal(np.log(kind.frame_bytes), 0.3, (len(samples), length + 1))
            sizes[:, -1] *= kind.header_bytes / kind.frame_bytes
            members = np.zeros(sizes.size, index_file._MEMBER)
            members["size"] = sizes.astype(np.uint32).reshape(-1)
            blocks = 1 + -(-members["size"].astype(np.int64) // 512)
            members["block"] = np.cumsum(blocks) - blocks + 1
            name, total = f"shard-{number:06d}.tar", int(blocks.sum()) * 512 + 10240
            sha256 = hashlib.sha256(name.encode()).hexdigest()
            one = (kind.frames, len(begins), videos)
            record = ShardRecord(name, len(samples), total, sha256, ((length, len(samples)),), (one,))
            writer.add(record, samples.tobytes() + members.tobytes())
            records.append(record)
    sums = {key: sum(getattr(record, key) for record in records) for key in ("samples", "bytes")}
    form = "image" if kind.frames == 1 else "video"
    manifest = Manifest(
        *(kind.name, form, tuple(records), sums["samples"], kind.videos, sums["samples"] * length, 0, sums["bytes"]),
        *({}, {}, "benchmarks/scale.py"),
    )
    (folder / "manifest.json").write_text(manifest.to_json())


class Source:
    """A data set as the loader opens it, and as it did before."""

    def __init__(self, kind: Kind, folder: Path) -> None:
        self.kind = kind
        begin = time.perf_counter()
        self.shards = ShardSet(str(folder), name=kind.name)
        self.index = self.shards.index
        assert self.index is not None
        self.windows, self.counts = None, self.shards.counts
        if not self.shards.all_single(1 if kind.frames == 1 else FRAMES):
            _, windows, self.counts = self.shards.videos()
            firsts = np.cumsum(windows) - windows
            firsts -= np.repeat(np.cumsum(self.shards.counts) - self.shards.counts, self.counts)
            self.windows = np.stack([firsts, windows], axis=1).astype(np.int32)
        self.before = np.cumsum(self.counts) - self.counts
        many = len(self.counts) >= MANY
        self.order = {
            "now": SpreadOrder(self.counts, seed=(1,), lanes=LANES) if many else Order(self.counts, seed=(1,), window=64),
            "before": Order(self.counts, seed=(1,), window=64),
        }
        for order in self.order.values():
            order.at(0)
        self.seconds = time.perf_counter() - begin

    def entries(self, shard: int, number: int) -> list[Entry]:
        if self.windows is None:
            return [self.index.entry(shard, number)]
        first, count = self.windows[int(self.before[shard]) + number].tolist()
        return [self.index.entry(shard, first + i) for i in range(count)]

    @cached_property
    def json_index(self) -> tuple[float, float]:
        """Bytes of a shard's JSON index, and of memory that it takes when it is parsed."""
        count = int(self.shards.counts[0])
        entries = tuple(self.index.entry(0, n) for n in range(count))
        text = Index("shard-000000.tar", 1 << 40, "", "", entries).to_json().encode()
        tracemalloc.start()
        kept = Index.from_json(text.replace(b'"sample ', b'"sa_00000000'), name="x")
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        del kept
        return len(text), size


# ------------------------------------------------------------------------------------------------------------ a worker


class Tally(Counter[str]):
    """Sums over samples: samples, hits, gets, read, needed."""


def draw(source: Source, layout: str, position: int, kept: OrderedDict[tuple[str, int], None], tally: Tally) -> None:
    """What a worker asks for to make the sample at this position."""
    _, shard, number = source.order[layout].at(position)
    entries = source.entries(shard, number)
    tally["samples"] += 1
    if layout == "now" or (source.kind.name, shard) in kept:
        tally["hits"] += 1
    else:
        tally["gets"] += 1
        tally["read"] += source.json_index[0]
    if layout == "before":
        kept[source.kind.name, shard] = None
        kept.move_to_end((source.kind.name, shard))
        while len(kept) > KEPT:
            kept.popitem(last=False)
    # a start, each as likely as any other, and the windows that hold its frames
    frames = min(FRAMES, source.kind.frames)
    windows = [(entry.position or 0, entry.frames) for entry in entries]
    starts = [s for begin, end in stretches(windows) for s in range(begin, end - frames + 1)]
    start = starts[np.random.default_rng(position).integers(len(starts))]
    places = Video("v", windows, no_header).places(start, frames)
    for window in dict.fromkeys(window for window, _ in places):
        known = {member.suffix: member for member in entries[window].members}
        images = [known[image_suffix(t)] for w, t in places if w == window]
        header = known["json"]
        tally["needed"] += sum(member.size for member in [*images, header])
        wanted = [[*images, header]] if layout == "now" else [[header], images]
        for run in (run for some in wanted for run in _neighbours(some, apart=READ_THROUGH if layout == "now" else 2048)):
            tally["gets"] += 1
            tally["read"] += run[-1].offset + run[-1].size - run[0].offset


def no_header(window: int) -> Header:
    raise AssertionError("no header is read")


def follow(sources: list[Source], layout: str, world: int, samples: int) -> Tally:
    """Some workers of a machine, spread over it, one clip a batch."""
    schedule = Schedule([source.kind.weight for source in sources], seed=0, steps=samples * WORKERS)
    tally = Tally()
    for rank, worker in ((0, 0), (3, 5), (RANKS - 1, WORKERS - 1)):
        kept: OrderedDict[tuple[str, int], None] = OrderedDict()
        for step in range(worker, samples * WORKERS, WORKERS):
            which = int(schedule.sources[step])
            draw(sources[which], layout, int(schedule.before[which, step]) * world + rank, kept, tally)
    return tally


# ------------------------------------------------------------------------------------------------------- the whole world


def shards_met(source: Source, layout: str, draws: int = 10_000) -> float:
    met = {source.order[layout].at(position)[1] for position in range(draws)}
    total = source.counts.sum()
    by_chance = np.random.default_rng(0).choice(total, min(draws, int(total)), replace=False)
    return len(met) / len(set(np.searchsorted(np.cumsum(source.counts), by_chance, side="right").tolist()))


def met_again(source: Source, layout: str, world: int, samples: int = 2000) -> float:
    """Share of a machine's second epoch that it had in its first, from `samples` of the second."""
    order, total = source.order[layout], int(source.counts.sum())
    rng = np.random.default_rng(0)
    steps = rng.integers(-(-total // world), 2 * total // world, samples)
    second = {order.at(int(step) * world + int(rng.integers(RANKS)))[1:] for step in steps}
    mine = {order.at(position)[1:] for position in machine_positions(world, total)}
    return len(second & mine) / len(second)


def machine_positions(world: int, total: int) -> Iterator[int]:
    """Positions of the first epoch that the first machine draws."""
    for begin in range(0, total, world):
        yield from range(begin, min(begin + RANKS, total))


def correlation(source: Source, layout: str, samples: int = 4000) -> float:
    """Of the places of shards in two epochs: the mean place of each, by samples of both."""
    order, total = source.order[layout], int(source.counts.sum())
    rng = np.random.default_rng(1)
    places = []
    for epoch in (0, 1):
        sums, counts = np.zeros(len(source.counts)), np.zeros(len(source.counts))
        for place in rng.integers(0, total, samples):
            shard = order.at(epoch * total + int(place))[1]
            sums[shard] += place
            counts[shard] += 1
        places.append(np.where(counts > 0, sums / np.maximum(counts, 1), np.nan))
    both = ~np.isnan(places[0]) & ~np.isnan(places[1])
    return float(np.corrcoef(places[0][both], places[1][both])[0, 1])


def private_bytes(folders: list[Path]) -> int:
    """Of what a worker process holds of these sets: addresses, counts, order; the mapped index is shared."""
    import pickle

    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    kept = []
    for folder in folders:
        shards = pickle.loads(pickle.dumps(ShardSet(str(folder), name="x")))
        kept.append((shards, SpreadOrder(shards.counts, seed=(1,), lanes=LANES)))
    size = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return size


def simulate(samples: int) -> list[dict[str, object]]:
    work = Path(tempfile.mkdtemp(prefix="scale-"))
    rows: list[dict[str, object]] = []
    try:
        for name, kinds in (("SA-1B", [SA1B]), ("mixture", MIXTURE)):
            folders = [work / name / kind.name for kind in kinds]
            for kind, folder in zip(kinds, folders):
                write_set(kind, folder)
            sources = [Source(kind, folder) for kind, folder in zip(kinds, folders)]
            largest = sources[0]
            mapped = sum((folder / INDEX_FILE).stat().st_size for folder in folders)
            private = private_bytes(folders)
            for world in (8, 64, 512):
                for layout in ("before", "now"):
                    tally = follow(sources, layout, world, samples)
                    n = tally["samples"]
                    if layout == "now":
                        memory = (mapped + RANKS * WORKERS * private) / 1e6
                    else:
                        memory = RANKS * WORKERS * KEPT * np.mean([s.json_index[1] for s in sources]) / 1e6
                    rows.append(
                        {
                            "set": name,
                            "ranks": world,
                            "layout": layout,
                            "index hit %": 100 * tally["hits"] / n,
                            "GETs": tally["gets"] / n,
                            "bytes": tally["read"] / tally["needed"],
                            "index MB": memory,
                            "start": sum(source.seconds for source in sources) if layout == "now" else float("nan"),
                            "shards met": shards_met(largest, layout),
                            "again %": 100 * met_again(largest, layout, world) if world > RANKS else 100.0,
                            "r": correlation(largest, layout),
                        }
                    )
                    show(rows[-1], head=len(rows) == 1)
    finally:
        shutil.rmtree(work)
    return rows


def show(row: dict[str, object], *, head: bool) -> None:
    if head:
        print("  ".join(f"{key:>11}" for key in row))
    print("  ".join(f"{value:11.2f}" if isinstance(value, float) else f"{value:>11}" for value in row.values()), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--http", action="store_true", help="the race over HTTP instead of the simulation")
    parser.add_argument("--samples", type=int, default=1500, help="samples of each worker that is followed")
    parser.add_argument("--pictures", type=int, default=400, help="of the race")
    parser.add_argument("--rounds", type=int, default=5, help="of the race")
    parser.add_argument("--out", type=Path, default=None, help="write the figures as JSON")
    args = parser.parse_args()
    if args.http:
        from scale_http import race

        found: object = race(args.pictures, args.rounds)
    else:
        found = simulate(args.samples)
    if args.out:
        args.out.write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
