"""`edgetam shards`: a data set becomes shards. Parallel, resumable, the same result for the same settings.

The videos are put in an order that follows from the seed and cut into groups; each group is one shard, made by one
process with one frame in hand at a time. A shard that is there is never made again. Several machines work through
SLURM job arrays (submitit): shards are independent of one another, so an array needs no head node, no daemon and no
scheduler of ours, and a job that is killed or requeued continues by itself.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from edgetam_pl.config import ShardsConfig
from edgetam_pl.data import sample as schema
from edgetam_pl.data.destination import Destination
from edgetam_pl.data.index import MANIFEST, Manifest, index_name, record_of
from edgetam_pl.data.index_file import INDEX_FILE, IndexWriter, index_writer, pack
from edgetam_pl.data.recipes import Recipe
from edgetam_pl.data.reindex import completed
from edgetam_pl.data.shards import read_manifest
from edgetam_pl.data.windows import samples
from edgetam_pl.data.writer import shard_writer
from edgetam_pl.datasets.layout import SOURCES, open_layout
from edgetam_pl.io.environment import VERSION
from edgetam_pl.io.errors import BadSampleError
from edgetam_pl.io.folders import some_of
from edgetam_pl.io.processes import fresh, pool

NAMES = "names.txt"
"""All videos or images that the data set had when its build began, one a line."""
GROUP = {"video": 16, "image": 1000}
"""Videos or images of one shard: a few hundred megabytes."""
_CONTENT = (
    *("source", "root", "name", "split", "annotations", "every", "window", "stride", "group", "short_side", "quality"),
    *("chroma", "max_area", "limit", "seed"),
)
_MADE = ("clips", "frames", "size", "objects")
"""Settings that decide what is in the shards. The others only say how they are made."""


def run(cfg: ShardsConfig) -> int:
    """Build the shards of `cfg.source` in `cfg.out`; 0 when at least one sample was written.

    Raises:
        ValueError: the folder is not what the source expects, a setting makes no sense, or `out` holds other shards.
        DiskFullError: with what to do.
    """
    _check(cfg)
    cfg = dataclasses.replace(cfg, out=cfg.out or f"runs/shards/{cfg.recipe or cfg.name or cfg.source}")
    out = Destination(cfg.out)
    recipe = Recipe.read(cfg.recipe) if cfg.recipe else None
    if recipe is not None:
        print(recipe.heading())
    layout = open_layout(cfg)
    names = layout.names()
    if missing := layout.not_found():
        print(f"split={cfg.split}: {len(missing)} of its names are not in {cfg.root}: {some_of(missing)}.")
    elif not cfg.split and (unused := layout.unused()):
        print(f"{len(unused)} of {cfg.root} not used: {some_of(unused)}.")
    if recipe is not None:
        print(recipe.compared(len(names), split=cfg.split))
    plan = Plan.of(cfg, layout.kind, names)
    there = out.names()
    if MANIFEST in there:
        old = read_manifest(out.place)
        if old.settings != plan.settings:
            raise ValueError(_other_settings(out, old.settings, plan.settings))
        print(f"{out.place}: finished before: {_summary(old)}")
        if changed := _changed(out, names):
            print(f"{out.place}: the data set has changed since: {changed}. To include that, build into another folder.")
        return 0
    _record_settings(out, plan, names)
    jobs = [plan.job(number) for number in range(len(plan.groups))]
    if cfg.engine == "slurm":
        _on_slurm(cfg, jobs)
    else:
        _on_this_machine(cfg, jobs)
    with out.room() as folder, index_writer(folder / INDEX_FILE, shards=len(plan.groups)) as writer:
        manifest, notes = _collect(out, plan, writer)
    print(f"{out.place}: {_summary(manifest)}")
    if not manifest.samples:
        raise ValueError(
            f"Not one sample could be made of {cfg.root or cfg.source}: {_skips(manifest.skipped)}. "
            f"{' '.join(notes)} Nothing to train on was written; correct the folder and build into a new one."
        )
    out.write(MANIFEST, manifest.to_json())
    for note in notes:  # the first of each cause
        print(f"  {note}")
    return 0


@dataclass(frozen=True)
class Job:
    """One shard to build. A process is given this and not the plan, which may name millions of images."""

    shard: str
    kind: str
    fingerprint: str
    items: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """Which videos make which shard, and the settings this depends on."""

    kind: str
    groups: tuple[tuple[str, ...], ...]
    settings: dict[str, Any]

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:16]

    @staticmethod
    def of(cfg: ShardsConfig, kind: str, names: list[str]) -> Plan:
        order = np.random.default_rng(cfg.seed).permutation(len(names))
        chosen = [names[i] for i in order][: cfg.limit or None]
        size = cfg.group or GROUP[kind]
        groups = tuple(tuple(chosen[first : first + size]) for first in range(0, len(chosen), size))
        values = dataclasses.asdict(cfg)
        kept = _CONTENT + (_MADE if cfg.source in {"toy", "pasted"} else ()) + (("categories",) if cfg.categories else ())
        if cfg.growth != ShardsConfig.growth:  # shards from before the key hold clips of its default
            kept += ("growth",)
        return Plan(kind, groups, {key: values[key] for key in kept})

    def job(self, number: int) -> Job:
        return Job(f"shard-{number:06d}.tar", self.kind, self.fingerprint, self.groups[number])


def _check(cfg: ShardsConfig) -> None:
    if not cfg.source:
        raise ValueError(
            f"Shards of what? Give source={'|'.join(SOURCES)} and root=FOLDER, or recipe=NAME and root=FOLDER; for instance "
            f"edgetam shards source=videos root=MINE out=runs/shards/mine, or source=toy for generated clips."
        )
    wrong = {
        f"out={cfg.out}: nothing can be written there; give a folder, or s3://BUCKET/FOLDER, gs://BUCKET/FOLDER, where "
        f"training reads it": cfg.out.startswith(("http://", "https://")) or "::" in cfg.out,
        f"window={cfg.window}: a window has 1 to {schema.MAX_FRAMES} frames": not 1 <= cfg.window <= schema.MAX_FRAMES,
        f"stride={cfg.stride}: windows start 1 to window={cfg.window} frames apart": not 1 <= cfg.stride <= cfg.window,
        f"quality={cfg.quality}: JPEG quality is 1 to 100": not 1 <= cfg.quality <= 100,
        f"chroma={cfg.chroma}: use 420, 422 or 444": cfg.chroma not in {"420", "422", "444"},
        f"engine={cfg.engine}: use local or slurm": cfg.engine not in {"local", "slurm"},
        f"every={cfg.every}: use 1 or more": cfg.every < 1,
        f"max_area={cfg.max_area}: a share between 0 and 1": not 0 < cfg.max_area <= 1,
    }
    for message, found in wrong.items():
        if found:
            raise ValueError(message + ".")


def _record_settings(out: Destination, plan: Plan, names: Sequence[str]) -> None:
    """Leave the settings and all names in the folder before the first shard, so that other ones are refused at once."""
    settings = out.read("settings.json")
    if settings is not None:
        old = json.loads(settings)
        if old != plan.settings:
            raise ValueError(_other_settings(out, old, plan.settings))
    else:
        out.write("settings.json", json.dumps(plan.settings, indent=1))
    if changed := _changed(out, names):
        raise ValueError(
            f"The data set has changed since {out.place} was begun: {changed}. Which video is in which shard depends on all "
            f"of them; build into another folder, or remove that one and begin again."
        )
    out.write(NAMES, "".join(f"{name}\n" for name in names))


def _changed(out: Destination, names: Sequence[str]) -> str:
    """Which names came and went since the folder was begun, in words; empty where none did, or nothing is known."""
    known = out.read(NAMES)
    if known is None:
        return ""
    before, now = set(known.decode().splitlines()), set(names)
    words = [
        f"{len(found)} {verb} ({some_of(sorted(found))})"
        for found, verb in ((now - before, "new"), (before - now, "gone"))
        if found
    ]
    return ", ".join(words)


def _other_settings(out: Destination, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    keys = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
    differences = ", ".join(f"{key} {old.get(key)!r} there, {new.get(key)!r} now" for key in keys)
    return f"{out.place} holds shards of other settings ({differences}). Build into another folder, or remove that one."


def _unfinished(out: Destination, jobs: Sequence[Job]) -> list[Job]:
    there = out.names()
    return [
        job for job in jobs if index_name(job.shard) not in there or out.index(job.shard, settings=job.fingerprint) is None
    ]


def _on_this_machine(cfg: ShardsConfig, jobs: Sequence[Job]) -> None:
    """Build these shards, where they are not there yet, with the processes of this machine."""
    todo = _unfinished(Destination(cfg.out), jobs)
    total, left = (sum(len(job.items) for job in some) for some in (jobs, todo))
    processes = min(cfg.processes or os.cpu_count() or 1, max(len(todo), 1))
    unit = " images" if any(job.kind == "image" for job in jobs) else " videos"
    with tqdm(total=total, initial=total - left, unit=unit, desc=Path(cfg.out).name, file=sys.stderr) as bar:
        if processes == 1:
            for job in todo:
                for _ in build_shard(cfg, job):
                    bar.update()
            return
        with pool(processes, fresh(__name__), initializer=cv2.setNumThreads, initargs=(1,)) as executor:
            waiting = deque(todo)
            running: set[Future[int]] = set()
            while waiting or running:
                while waiting and len(running) < 2 * processes:  # bounded: a million shards are no million futures
                    running.add(executor.submit(_build_whole_shard, cfg, waiting.popleft()))
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    bar.update(future.result())


def _build_whole_shard(cfg: ShardsConfig, job: Job) -> int:
    """Build one shard in a process of the pool; how many videos it took."""
    return sum(1 for _ in build_shard(cfg, job))


def build_shard(cfg: ShardsConfig, job: Job) -> Iterator[str]:
    """Build one shard; yields the name of each video when it is in."""
    layout = open_layout(cfg)
    with Destination(cfg.out).room() as folder, shard_writer(folder, job.shard, settings=job.fingerprint) as writer:
        for item in job.items:
            before = len(writer.entries)
            try:
                frames = layout.clip(item).annotated_frames()
                for sample in samples(cfg, item, layout.kind, frames, writer.skip):
                    writer.add(sample)
            except BadSampleError as error:
                writer.skip(error)
            writer.videos += len(writer.entries) > before
            yield item


def _collect(out: Destination, plan: Plan, writer: IndexWriter) -> tuple[Manifest, list[str]]:
    """The manifest of all shards, which must all be there, and the first skip of each cause in words. Writes their index.

    Indices are read one at a time: together they would fill the memory.
    """
    records, missing = [], []
    totals, skipped = Counter[str](), Counter[str]()
    notes: dict[str, str] = {}
    for job in map(plan.job, range(len(plan.groups))):
        index = out.index(job.shard, settings=job.fingerprint)
        if index is None:
            missing.append(job.shard)
            continue
        records.append(record_of(index))
        writer.add(records[-1], pack(completed(out.address(job.shard), index)))
        skipped.update(index.skipped)
        for note in index.notes:
            notes.setdefault(note.split(":")[0], note + ".")
        frames, objects = (sum(getattr(entry, key) for entry in index.entries) for key in ("frames", "objects"))
        totals.update(samples=len(index.entries), videos=index.videos, frames=frames, objects=objects, bytes=index.bytes)
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(plan.groups)} shards of {out.place} are not finished, the first is {missing[0]}. "
            f"Run the same command again; it continues."
        )
    name, by = plan.settings["name"] or plan.settings["source"], f"edgetam-pl {VERSION}"
    counts = {key: totals[key] for key in ("samples", "videos", "frames", "objects", "bytes")}
    how = {"skipped": dict(skipped), "settings": plan.settings, "written_by": by}
    return Manifest(name, plan.kind, tuple(records), **counts, **how), list(notes.values())


def _summary(manifest: Manifest) -> str:
    things = "images" if manifest.kind == "image" else f"windows of {manifest.videos} videos"
    return (
        f"{manifest.samples} {things}, {manifest.frames} frames, {manifest.objects} object tracks, "
        f"{manifest.bytes / 1e6:.1f} MB in {len(manifest.shards)} shards; {_skips(manifest.skipped)}"
    )


def _skips(skipped: Mapping[str, int]) -> str:
    if not skipped:
        return "nothing left out"
    return "left out: " + ", ".join(f"{cause} ({count})" for cause, count in sorted(skipped.items()))


def _on_slurm(cfg: ShardsConfig, jobs: Sequence[Job]) -> None:
    """Build through a SLURM job array, each member every n-th shard. Waits until all have ended; again: the rest."""
    try:
        import submitit
    except ModuleNotFoundError as error:
        raise ValueError("engine=slurm needs submitit; install it with: pip install 'edgetam-pl[cluster]'.") from error
    out = Destination(cfg.out)
    todo = _unfinished(out, jobs)
    folder = Path("runs/shards") / Path(cfg.out).name if out.remote else Path(cfg.out)
    members = max(min(cfg.jobs, len(todo)), 1)
    arguments = dict(cfg.slurm)
    executor = submitit.AutoExecutor(folder=folder / "jobs", cluster=arguments.pop("cluster", None))
    executor.update_parameters(name=f"shards-{folder.name}", **{"timeout_min": 24 * 60, **arguments})
    array = executor.map_array(_array_member, [cfg] * members, [todo[first::members] for first in range(members)])
    with tqdm(total=members, unit=" jobs", desc=folder.name, file=sys.stderr) as bar:
        for job in array:
            job.result()
            bar.update()


def _array_member(cfg: ShardsConfig, jobs: Sequence[Job]) -> None:
    """Build these shards with as many processes as the job was given cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    _on_this_machine(dataclasses.replace(cfg, processes=cfg.processes or cores), jobs)
