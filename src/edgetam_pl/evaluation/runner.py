"""`edgetam evaluate`: a protocol over a data set, sequence by sequence, on any number of processes.

A finished sequence is kept, by the hash of everything that could change its numbers: weights, model, protocol, precision,
frames, masks, and this code. So an interrupted evaluation continues, and a repeated one costs nothing.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import edgetam_pl
from edgetam_pl.build import load_model
from edgetam_pl.config import EvaluateConfig
from edgetam_pl.config.choices import check_choices
from edgetam_pl.evaluation.clips import Clip
from edgetam_pl.evaluation.datasets import DataSet, as_images, open_data
from edgetam_pl.evaluation.export import predictions_of
from edgetam_pl.evaluation.promptable import Interaction
from edgetam_pl.evaluation.protocols import clip_tracker
from edgetam_pl.evaluation.recipe import Recipe
from edgetam_pl.evaluation.reporting.page import write_report
from edgetam_pl.evaluation.reporting.report import FORMAT, Report, Sequence
from edgetam_pl.evaluation.scoring import ObjectScore
from edgetam_pl.evaluation.vos import collect, evaluate_clip
from edgetam_pl.io.atomic import write_text
from edgetam_pl.io.environment import VERSION, device_name, warn_of_slow_bf16
from edgetam_pl.io.hashing import sha256_of, sha256_of_lines
from edgetam_pl.io.processes import pool
from edgetam_pl.tracking.frame_tracker import FrameTracker, evaluating
from edgetam_pl.tracking.step import VideoModel

Result = tuple[Sequence, tuple[ObjectScore, ...]]


def run(cfg: EvaluateConfig) -> Report | None:
    """The command. None on ranks of torchrun that leave the report to the first.

    Raises:
        ValueError: a protocol, data set or checkpoint that does not fit; named, with the cure.
    """
    data = open_data(
        cfg.dataset, cfg.root, sequences=cfg.sequences, split=cfg.split, limit=cfg.limit, unseen=cfg.unseen,
        categories=cfg.categories, strict=cfg.strict, toy_size=cfg.model.image_size,
    )  # fmt: skip
    if cfg.protocol == "sa" and data.layout.kind != "image":
        data = as_images(data, every=cfg.every)
    recipe = Recipe.of(
        cfg.protocol, data.rule, prompt=cfg.prompt,
        how=Interaction(cfg.clicks, cfg.rounds, cfg.threshold, cfg.corrected_are_prompted),
        skip_first_and_last=cfg.skip_first_and_last, non_overlap=cfg.non_overlap,
    )  # fmt: skip
    _check(cfg, recipe)
    devices = _devices(cfg.device)
    if cfg.precision == "bf16":
        warn_of_slow_bf16(devices[0], instead="precision=fp32")
    build = partial(load_model, cfg.model, cfg.weights, seed=cfg.seed) if recipe.needs_model else None
    job = Job(
        recipe=recipe,
        data=data,
        cache=Path(cfg.cache),
        build=build,
        weights_hash="none" if build is None else hash_of_weights(build()),
        model=asdict(cfg.model) if recipe.needs_model else {},
        bf16=cfg.precision == "bf16" or (cfg.precision == "auto" and devices[0].startswith("cuda")),
        pictures=cfg.pictures,
        fresh=cfg.fresh,
        threads=cfg.threads,
    )
    model = cfg.model.name if recipe.needs_model else "repeat"
    checkpoint = "/".join(Path(cfg.weights).parts[-2:])  # with its folder, since most are called alike
    prompt = f"-{cfg.prompt}" if cfg.protocol == "first_frame" else ""
    title = f"{model} ({checkpoint})" if recipe.needs_model else model
    place = Path("runs/evaluate") / f"{model}-{job.weights_hash[:8]}" / f"{cfg.dataset}-{cfg.protocol}{prompt}"
    out = Path(cfg.out) if cfg.out else place
    if cfg.export:
        job = replace(job, export=out / "predictions")
    title = f"{title} on {cfg.dataset}, {cfg.protocol}{prompt.replace('-', ' ', 1)}"
    report = evaluate(job, devices=devices, workers=cfg.workers, title=title)
    if report is None:
        return None
    who = {"model": model, "weights": checkpoint} if recipe.needs_model else {"model": "none"}
    where = {"set": Path(cfg.root).name, "label": cfg.label}
    report = replace(report, conditions={**who, **report.conditions, **where})
    page = write_report(report, out)
    print(report.table(limit=20))
    print(f"{report.title}: " + ", ".join(f"{name} {value:.1f}" for name, value in report.headline().items()))
    print(f"report: {page}")
    return report


def _check(cfg: EvaluateConfig, recipe: Recipe) -> None:
    """Settings that contradict each other.

    Raises:
        ValueError: the two, and what to do.
    """
    check_choices(cfg)
    if cfg.prompt != "mask" and cfg.protocol != "first_frame":
        raise ValueError(
            f"prompt={cfg.prompt} goes with protocol=first_frame; protocol={cfg.protocol} has prompts of its own."
        )
    if recipe.needs_model and not cfg.weights:
        raise ValueError("weights is empty; give a checkpoint, or weights=random for a model that has learned nothing.")
    if cfg.export and cfg.protocol not in ("vos", "first_frame", "repeat"):
        raise ValueError(f"export writes one prediction a frame; protocol={cfg.protocol} has many. Use vos or first_frame.")


@dataclass(frozen=True)
class Job:
    """All that a process needs to evaluate a sequence; can be sent to one."""

    recipe: Recipe
    data: DataSet
    cache: Path
    build: Callable[[], VideoModel] | None = None
    """Makes the model; None where the protocol needs none."""
    weights_hash: str = "none"
    model: Mapping[str, Any] = field(default_factory=dict)
    """The model's configuration: weights alone do not say how they are used."""
    bf16: bool = False
    pictures: bool = True
    fresh: bool = False
    export: Path | None = None
    """Folder of predictions, or None."""
    threads: int = 0

    def key(self, clip: Clip) -> str:
        """Hash of everything that could change this sequence's numbers."""
        parts = [
            FORMAT, self.weights_hash, self.model, asdict(self.recipe), self.bf16, clip.fingerprint(), hash_of_code()
        ]  # fmt: skip
        return sha256_of_lines([json.dumps(parts, sort_keys=True)])


def evaluate(job: Job, *, devices: list[str], workers: int = 1, title: str = "evaluation") -> Report | None:
    """Evaluate every sequence that is not finished yet, and put the report together.

    Under torchrun each rank takes its share, and the first one waits for the others and returns the report; others return
    None.

    Raises:
        ValueError: a sequence that cannot be evaluated. Those finished before are kept.
    """
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1 and devices == ["cuda"]:
        devices = [f"cuda:{os.environ.get('LOCAL_RANK', '0')}"]
    names = job.data.names[rank::world]
    results: dict[str, Result] = {}
    fingerprints: dict[str, str] = {}
    with tqdm(total=len(names), desc=title, unit="sequence", disable=rank > 0 or None) as progress:
        for name, result, fingerprint in _finished(job, names, devices, workers):
            results[name], fingerprints[name] = result, fingerprint
            progress.update()
    if rank > 0:
        return None
    for name in job.data.names:
        if name not in results:
            results[name], fingerprints[name] = _awaited(job, name)
    done = [results[name] for name in job.data.names]
    report = collect(title, done)
    conditions = _conditions(job, report, [fingerprints[name] for name in job.data.names], devices[0])
    report = replace(report, conditions=conditions)
    if not report.rows and job.export is None:
        raise ValueError(
            f"Nothing of {job.data.kind} can be scored: the truth of its frames is hidden, or there are too few. "
            f"export=true writes predictions for the server that has it."
        )
    return report


def hash_of_weights(model: object) -> str:
    """Of names, types and values, whatever file they came from."""
    digest = hashlib.sha256()
    if isinstance(model, torch.nn.Module):
        for name, value in sorted(model.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    else:
        digest.update(repr(model).encode())
    return digest.hexdigest()[:16]


@cache
def hash_of_code() -> str:
    """Of the modules that make the numbers: after a change to them nothing old is taken for new."""
    package = Path(edgetam_pl.__file__).parent
    parts = ["types.py", *(f"{name}/*.py" for name in ("model", "tracking", "metrics", "evaluation", "datasets", "io"))]
    files = sorted(path for part in parts for path in package.glob(part))
    return sha256_of_lines(f"{path.name} {sha256_of(path)}" for path in files)[:16]


# ---------------------------------------------------------------------- one sequence


@dataclass
class _Worker:
    """A process with its model."""

    job: Job
    device: torch.device
    model: VideoModel | None = None

    def evaluate(self, name: str) -> tuple[str, Result, str]:
        """One sequence, from what is kept or anew: name, result, fingerprint of the data."""
        with evaluating(self.model):
            return self._evaluated(name)

    def _evaluated(self, name: str) -> tuple[str, Result, str]:
        job, clip = self.job, self.job.data.clip(name)
        key = job.key(clip)
        exported = job.export is None or _exported(job.export, name) == key
        kept = None if job.fresh else _kept(job, key)
        if kept is not None and exported:
            return name, *kept
        writing = nullcontext()
        if job.export is not None:
            writing = predictions_of(clip, job.export, per_object=job.recipe.per_object)
        with writing as export:
            result = evaluate_clip(
                clip, job.recipe.answers(self._tracker(clip), clip), job.recipe.score, pictures=job.pictures,
                export=export, person_seconds=job.recipe.person_seconds, baseline=job.recipe.from_masks,
            )  # fmt: skip
        fingerprint = clip.fingerprint()
        _keep(job, key, result, fingerprint)
        if job.export is not None:
            write_text(_mark(job.export, name), key)
        return name, result, fingerprint

    def _tracker(self, clip: Clip) -> FrameTracker | None:
        if self.job.build is None:
            return None
        if self.model is None:
            self.model = self.job.build()
            if isinstance(self.model, torch.nn.Module):
                self.model.to(self.device)
        return clip_tracker(self.model, clip, device=self.device, autocast=torch.bfloat16 if self.job.bf16 else None)


def _keep(job: Job, key: str, result: Result, fingerprint: str) -> None:
    collect(result[0].name, [result], conditions={"fingerprint": fingerprint}).write(job.cache / key)


def _kept(job: Job, key: str) -> tuple[Result, str] | None:
    if not (job.cache / key / "report.json").is_file():
        return None
    kept = Report.read(job.cache / key)
    (item,) = kept.sequences
    if job.pictures and kept.rows and item.picture is None:
        return None
    return (item if job.pictures else replace(item, picture=None, film=None), kept.rows), kept.conditions["fingerprint"]


def _mark(export: Path, name: str) -> Path:
    """Beside the predictions, not among them: servers take the folder as it is."""
    return export.with_name("predictions-done") / f"{name.replace('/', '_')}.key"


def _exported(export: Path, name: str) -> str | None:
    mark = _mark(export, name)
    return mark.read_text() if mark.is_file() and (export / name).is_dir() else None


# ---------------------------------------------------------------------- many sequences

_worker: _Worker | None = None


def _finished(job: Job, names: tuple[str, ...], devices: list[str], workers: int) -> Iterator[tuple[str, Result, str]]:
    """Results as they come, in order."""
    workers = max(workers, len(devices))
    if workers == 1 or len(names) <= 1:
        if job.threads:
            torch.set_num_threads(job.threads)
        worker = _Worker(job, torch.device(devices[0]))
        yield from map(worker.evaluate, names)
        return
    context = multiprocessing.get_context("spawn")
    free: Queue[str] = context.Queue()
    for number in range(workers):
        free.put(devices[number % len(devices)])
    threads = job.threads or max((os.cpu_count() or 1) // workers, 1)
    with pool(workers, context, initializer=_begin, initargs=(job, free, threads)) as executor:
        yield from executor.map(_evaluate, names)


def _begin(job: Job, free: Queue[str], threads: int) -> None:
    """A new process: take a device."""
    global _worker
    torch.set_num_threads(threads)
    _worker = _Worker(job, torch.device(free.get()))


def _evaluate(name: str) -> tuple[str, Result, str]:
    assert _worker is not None, "the process has begun"
    return _worker.evaluate(name)


def _awaited(job: Job, name: str) -> tuple[Result, str]:
    """The result of a sequence that another rank evaluates. If that rank dies, torchrun ends this one too."""
    key = job.key(job.data.clip(name))
    while (kept := _kept(job, key)) is None:
        time.sleep(0.2)
    return kept


# ---------------------------------------------------------------------- words for the report


def _conditions(job: Job, report: Report, fingerprints: list[str], device: str) -> dict[str, Any]:
    """What a reader needs to get the same numbers."""
    return {
        "protocol": job.recipe.protocol,
        "prompt": job.recipe.prompt if job.recipe.protocol == "first_frame" else "",
        "prompts": job.recipe.words,
        "frame_rule": job.recipe.score.words,
        "non_overlap": job.recipe.non_overlap,
        "resolution": job.model.get("image_size", "native"),
        "data": job.data.kind,
        "note": job.data.rule.note,
        "num_sequences": len(report.sequences),
        "num_objects": len({(row.sequence, row.object) for row in report.rows}),
        "num_scored_frames": len({(row.sequence, stem) for row in report.rows for stem in row.stems}),
        "list_hash": job.data.list_hash,
        "data_hash": sha256_of_lines(fingerprints)[:12],
        "weights_hash": job.weights_hash,
        "precision": "bf16" if job.bf16 else "fp32",
        "device": device_name(torch.device(device)),
        "version": VERSION,
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
    }


def _devices(words: str) -> list[str]:
    if words == "auto":
        return ["cuda" if torch.cuda.is_available() else "cpu"]
    devices = [word.strip() for word in words.split(",") if word.strip()]
    for device in devices:
        kind = device.partition(":")[0]
        if kind not in ("cpu", "cuda", "mps"):
            raise ValueError(f"device is {words!r}; use auto, cpu, mps, cuda, or a list such as cuda:0,cuda:1.")
        if kind == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"device is {words!r} and this machine has no CUDA device that torch can use; use cpu.")
    return devices
