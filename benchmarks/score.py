"""How fast `edgetam score` is: the same folder, scored by it and by a plain reading of the definition of J and F.

The plain scorer takes one frame and object at a time, as the DAVIS toolkit does: PNGs read with PIL, boundary maps of the
full frame, dilation by a disk with OpenCV. Rounds alternate, and times are those of the processor, so that other work on
the machine disturbs both alike. The last line is JSON.

    python benchmarks/score.py PRED GT [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgetam_pl.datasets.folders import annotations_folder
from edgetam_pl.evaluation.score import score_folders

Result = TypeVar("Result")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prediction", type=Path)
    parser.add_argument("truth", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--copies", type=int, default=10, help="the folder so many times over, to see scaling with processes"
    )
    args = parser.parse_args()
    cv2.setNumThreads(1)
    plain_seconds, our_seconds = [], []
    frames, worst = 0, 0.0
    for _ in range(args.rounds):
        plain, seconds = timed(lambda: score_plainly(args.prediction, args.truth))
        plain_seconds.append(seconds)
        ours, seconds = timed(lambda: score_folders(args.prediction, args.truth, workers=1))
        our_seconds.append(seconds)
        frames = sum(item.num_frames for item in ours.sequences)
        for item in ours.sequences:
            assert item.everywhere is not None
            worst = max(worst, *(abs(a - b) for a, b in zip(item.everywhere, plain[item.name])))
    scaling = scaled(args.prediction, args.truth, copies=args.copies)
    plain_ms, our_ms = (1e3 * statistics.median(seconds) / frames for seconds in (plain_seconds, our_seconds))
    ratios = sorted(p / o for p, o in zip(plain_seconds, our_seconds))
    print(f"{frames} frames, {args.rounds} rounds, one process each, processor time, median")
    print(f"  plain definition  {plain_ms:6.2f} ms a frame")
    print(f"  edgetam score     {our_ms:6.2f} ms a frame, {plain_ms / our_ms:.1f} x ({ratios[0]:.1f} to {ratios[-1]:.1f})")
    print(f"  largest difference of a sequence's J or F: {worst:.1e}")
    for workers, (rate, cost) in scaling.items():
        print(f"  {workers} processes: {rate:.0f} frames a second by the clock, {cost:.2f} ms of processor time a frame")
    figures = {
        "plain_ms": plain_ms,
        "edgetam_ms": our_ms,
        "ratio": plain_ms / our_ms,
        "ratio_range": [ratios[0], ratios[-1]],
    }
    rates = {workers: rate for workers, (rate, _) in scaling.items()}
    rest = {"difference": worst, "frames_per_second": rates, "machine": platform.machine(), "cores": os.cpu_count()}
    print(json.dumps({**figures, **rest}))


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """What `work` gives, and its processor time in seconds."""
    started = time.process_time()
    result = work()
    return result, time.process_time() - started


def scaled(prediction: Path, truth: Path, *, copies: int) -> dict[int, tuple[float, float]]:
    """Of one process, and of as many as there are cores: frames a second by the clock, which other work on the machine
    slows down, and processor time a frame in ms, of all processes together, which shows what dividing the work costs."""
    with tempfile.TemporaryDirectory() as folder:
        many = Path(folder)
        for role, source in (("prediction", annotations_folder(prediction)), ("truth", annotations_folder(truth))):
            (many / role).mkdir()
            for path in source.iterdir():
                for copy in range(copies if path.is_dir() else 0):
                    (many / role / f"{path.name}-{copy}").symlink_to(path.resolve())
        rates = {}
        for workers in sorted({1, os.cpu_count() or 1}):
            started, spent = time.perf_counter(), _spent()
            result = score_folders(many / "prediction", many / "truth", workers=workers)
            frames = sum(item.num_frames for item in result.sequences)
            rates[workers] = frames / (time.perf_counter() - started), 1e3 * (_spent() - spent) / frames
        return rates


def _spent() -> float:
    """Processor seconds of this process and of those it has waited for."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(item.ru_utime + item.ru_stime for item in used)


def score_plainly(prediction: Path, truth: Path) -> dict[str, tuple[float, float]]:
    """J and F of each sequence over all its frames: DAVIS 2016, where any label is the object."""
    scores = {}
    for sequence in sorted(path for path in annotations_folder(truth).iterdir() if path.is_dir()):
        pairs = []
        for path in sorted(sequence.glob("*.png")):
            wanted = np.array(Image.open(path)) > 0
            found = np.array(Image.open(prediction / sequence.name / path.name)) > 0
            pairs.append((plain_region(found, wanted), plain_boundary(found, wanted)))
        j, f = np.mean(pairs, axis=0)
        scores[sequence.name] = (float(j), float(f))
    return scores


def plain_region(found: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> float:
    union = np.sum(found | wanted)
    return float(np.sum(found & wanted) / union) if union else 1.0


def plain_boundary(found: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> float:
    radius = math.ceil(0.008 * np.linalg.norm(found.shape))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = (x * x + y * y <= radius * radius).astype(np.uint8)
    found_boundary, wanted_boundary = plain_map(found), plain_map(wanted)
    found_near = cv2.dilate(found_boundary.astype(np.uint8), disk)
    wanted_near = cv2.dilate(wanted_boundary.astype(np.uint8), disk)
    num_found, num_wanted = np.sum(found_boundary), np.sum(wanted_boundary)
    if num_found == 0 or num_wanted == 0:
        return float(num_found == num_wanted)
    precision = np.sum(found_boundary * wanted_near) / num_found
    recall = np.sum(wanted_boundary * found_near) / num_wanted
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def plain_map(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    right, below, diagonal = (np.zeros_like(mask) for _ in range(3))
    right[:, :-1] = mask[:, 1:]
    below[:-1] = mask[1:]
    diagonal[:-1, :-1] = mask[1:, 1:]
    boundary = (mask ^ right) | (mask ^ below) | (mask ^ diagonal)
    boundary[-1] = mask[-1] ^ right[-1]
    boundary[:, -1] = mask[:, -1] ^ below[:, -1]
    boundary[-1, -1] = False
    return boundary


if __name__ == "__main__":
    main()
